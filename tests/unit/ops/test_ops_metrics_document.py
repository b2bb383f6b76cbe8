"""docs/metrics.md is the code; every name that was asked for is here or has its reason (E6, F-01)."""

from __future__ import annotations

from collections import Counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from ops.canonical_metrics import CANONICAL, GUARDS
from ops.lag_export import LagMetrics
from ops.metrics_document import document, exporter_metrics, scan_file_metrics, worker_metrics
from processors.validation.reason_codes import ReasonCode
from tests.docs.documents import ROOT
from tests.promtool import NEEDS_PROMTOOL, what_promtool_says
from tests.unit.ops.test_ops_lag_export import ORDINARY, shown

FORBIDDEN_LABELS = {"payout_id", "pan", "token", "alias", "correlation_id", "reference", "case_id", "letter", "key"}


def test_the_document_is_the_code() -> None:
    """`python -m ops.metrics_document > docs/metrics.md` was run after the last change."""
    assert (ROOT / "docs" / "metrics.md").read_text() == document()


def test_f01_every_name_that_was_asked_for_is_here_or_says_why_not() -> None:
    """F-01: a mapping that names what does not exist would be worse than none."""
    known = {one.name for one in (*worker_metrics(), *exporter_metrics(), *scan_file_metrics())}
    for one in CANONICAL:
        for name in filter(None, (part.strip() for part in one.here.split(","))):
            assert name in known, f"{one.name} is said to be {name}"
        assert one.here or len(one.note) > len("likewise") or one.note == "likewise", one.name
    assert [name for name, count in Counter(one.name for one in CANONICAL).items() if count > 1] == []


def test_guards_have_the_codes_that_the_code_has() -> None:
    """E6: `guard_failure_total{type}` is our reason code."""
    ours = set(ReasonCode) | {"COMPLIANCE_DENIED", "DUPLICATE_WITH_OTHER_CONTENT"}
    assert {code for _, code in GUARDS} <= ours


def test_p6_no_label_names_a_payout_or_a_person() -> None:
    """P6: no label is ever a payout, a card, a name or free text."""
    for one in (*worker_metrics(), *exporter_metrics()):
        assert not FORBIDDEN_LABELS & set(one.labels), one.name
        assert one.text.endswith("."), f"{one.name} needs a sentence"


@NEEDS_PROMTOOL
@pytest.mark.parametrize("lag", [shown(ORDINARY), LagMetrics("eu-1", 60.0)], ids=["after a look", "before any"])
def test_promtool_finds_nothing_to_say_of_the_exporter(lag: LagMetrics) -> None:
    """4.2: what `payouts lag export` shows is as Prometheus wants it, also while Kafka is away."""
    registry = CollectorRegistry()
    registry.register(lag)
    assert what_promtool_says(generate_latest(registry)) == ""
