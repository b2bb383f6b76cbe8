"""The verdict as JSON, for whoever reads it later: every finding, counts, states, and the money of each currency.

    {"line": "verdict accepted=…", "clean": true, "zeros": {"lost": 0, …}, "counts": {…}, "states": {"PAID": 9, …},
     "money_minor": {"USD": {"accepted": 100, "paid": 60, "ended_unpaid": 40, "held": 0}}, "faults": {…},
     "findings": [{"term": "lost", "subject": "payout-1", "sentence": "…"}]}

It holds no card number: a leak is named by its last four digits.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sandbox.auditor.verdict import ZERO_TERMS, Verdict


def report(verdict: Verdict) -> dict[str, Any]:
    """Everything that a verdict says."""
    faults = asdict(verdict.faults)
    stopped_at = verdict.faults.stopped_at
    return {
        "line": verdict.line(),
        "clean": verdict.clean,
        "zeros": {term: verdict.count(term) for term in ZERO_TERMS},
        "counts": dict(verdict.counts),
        "states": dict(verdict.states),
        "money_minor": {currency: dict(parts) for currency, parts in verdict.money.items()},
        "faults": faults | {"stopped_at": None if stopped_at is None else stopped_at.isoformat()},
        "findings_by_term": dict(Counter(finding.term for finding in verdict.findings)),
        "findings": [asdict(finding) for finding in verdict.findings],
    }


def write_report(verdict: Verdict, path: Path) -> None:
    """Raises OSError."""
    path.write_text(json.dumps(report(verdict), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
