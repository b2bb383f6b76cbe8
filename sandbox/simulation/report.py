"""What many worlds came to, as text: the verdict line, and what is wrong with a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from sandbox.simulation.watch import TERMS
from sandbox.simulation.world import Ended

COUNTED = (
    "accepted", "payouts", "paid", "declined", "rejected", "denied", "expired", "failed", "cancelled", "in_review",
    "held", "unknown", "refused", "dead_letters",
)  # fmt: skip
VIOLATIONS_SHOWN_MAX = 12


@dataclass
class Tally:
    """The sum over seeds."""

    seeds: int = 0
    failed_seeds: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    terms: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    freezes: int = 0
    api_faults: int = 0
    virtual_seconds: float = 0.0

    def add(self, ended: Ended) -> None:
        """One more world."""
        self.seeds += 1
        self.counts.update(ended.counts)
        self.kills += ended.kills
        self.freezes += ended.freezes
        self.api_faults += ended.api_faults
        self.virtual_seconds += ended.seconds
        self.terms.update(violation.term for violation in ended.violations)
        if ended.violations:
            self.failed_seeds.append(ended.seed)

    @property
    def clean(self) -> bool:
        """No promise was broken in any world."""
        return not self.failed_seeds

    def line(self) -> str:
        """The verdict line; `rule` counts what broke a rule without an effect on money (yet)."""
        numbers = [f"{name}={self.counts[name]}" for name in COUNTED]
        numbers += [f"{term}={self.terms[term]}" for term in TERMS]
        numbers += [f"kills={self.kills}", f"freezes={self.freezes}", f"api_faults={self.api_faults}"]
        return f"verdict {' '.join(numbers)} seeds={self.seeds} failed_seeds={len(self.failed_seeds)}"


def problems(ended: Ended) -> Iterable[str]:
    """What is wrong with one world, a line each, and how to see more."""
    for violation in ended.violations[:VIOLATIONS_SHOWN_MAX]:
        yield f"seed {ended.seed}: {violation.term}: {violation.payout_id or '-'}: {violation.what}"
    left = len(ended.violations) - VIOLATIONS_SHOWN_MAX
    if left > 0:
        yield f"seed {ended.seed}: and {left} more"
    if ended.violations:
        yield f"seed {ended.seed}: its history: python -m sandbox.simulation --seed {ended.seed}"
