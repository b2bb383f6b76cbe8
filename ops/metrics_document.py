"""Writes docs/metrics.md from the instruments themselves: `python -m ops.metrics_document > docs/metrics.md`."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

from ledger.figures import figures_of
from ledger.reconciliation_figures import ReconciliationFigures
from ops.canonical_metrics import CANONICAL, GUARDS
from ops.group_members import GroupState
from ops.lag_export import LagMetrics
from ops.lag_look import GroupLag, PartitionLag
from ops.pii_scan import Findings, scan_metrics
from streams.ledger_figures import SHOWN_SECONDS, FiguresShown
from streams.metric_labels import COMBINATIONS_MAX, CORRIDORS_MAX, ORIGINATORS_MAX
from streams.metrics import Metrics

HEAD: Final = f"""# Metrics

Made by `python -m ops.metrics_document > docs/metrics.md`; `tests/unit/ops/test_ops_metrics_document.py` compares.

A worker serves them on `/metrics` of its health port, `payouts lag export` on its own. Counters begin with the process;
label sets that are known before are shown as 0 from its first moment, others from their first event. No label is a
payout, a card, a name or free text. What outsiders choose is bounded: {CORRIDORS_MAX} corridors of the policy,
{ORIGINATORS_MAX} originators (`PAYOUTS_METRICS_ORIGINATORS`, then who comes first), and together with rail and status
{COMBINATIONS_MAX:,} combinations; all else is counted as `other`.

Figures of the ledger are counted by every worker for itself: use `max`, never `sum`. They are gone, not stale, when
nobody could count for {SHOWN_SECONDS:g} s. What people end by a command (cancel, resolve) moves figures and no counter.

`visa_direct_payouts_total{{status}}`: `success` PAID · `failed` FAILED or EXPIRED, a technical failure (F-02) ·
`declined` by the issuer · `refused` by a question before the first attempt · `rejected` by validation · `denied` by
screening or a reviewer · `cancelled`. Only `failed` is an error; a ratio of errors is
`sum(rate(payout_failure_total[5m])) / sum(rate(payout_total[5m]))`.
"""


class Described(NamedTuple):
    """One metric as it is scraped."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()


def worker_metrics() -> list[Described]:
    """All of a worker, figures of the ledger included."""
    metrics = Metrics()
    metrics.breaker_open.add("jwks")
    shown = FiguresShown()
    reconciled = ReconciliationFigures(visa_minus_ledger={"USD": 0})
    shown.took(figures_of([], 0, {"lines": 0, "seconds": None}, reconciled), 0.0)
    metrics.registry.register(shown)
    return described(metrics.registry)


def exporter_metrics() -> list[Described]:
    """All of the lag exporter, with one partition."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    lag = LagMetrics("cluster", 60.0)
    partition = PartitionLag("topic", 0, 0, 1, 1, 0.0, False, False, None, None)
    lag.took(GroupLag(datetime.now(UTC), "group", GroupState.EMPTY, (), (partition,)), 0.0, 0.0)
    registry.register(lag)
    return described(registry)


def scan_file_metrics() -> list[Described]:
    """What a scan leaves in a text file."""
    return described(scan_metrics(Findings()))


def described(registry: CollectorRegistry) -> list[Described]:
    """Every metric of a registry. Instruments of the library know their labels before anything has happened."""
    found = []
    for collector in dict.fromkeys(registry._collector_to_names):
        names = collector._labelnames if isinstance(collector, MetricWrapperBase) else None
        bounds = tuple(bound for bound in getattr(collector, "_upper_bounds", ()) if bound != float("inf"))
        for family in collector.collect():
            labels = (
                names if names is not None else sorted({name for sample in family.samples for name in sample.labels})
            )
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.append(Described(name, family.type, tuple(labels), family.documentation, bounds))
    return sorted(found)


def document() -> str:
    """The whole file."""
    parts = [HEAD, "## A worker\n", *_table(worker_metrics())]
    parts += ["\n## `payouts lag export`\n", *_table(exporter_metrics())]
    parts += ["\n## The text file of `payouts pii-scan --textfile`\n", *_table(scan_file_metrics())]
    parts += ["\n## Names that were asked for\n", "| asked for | here | note |", "|---|---|---|"]
    for one in CANONICAL:
        here = ", ".join(f"`{name.strip()}`" for name in one.here.split(",")) if one.here else "not built"
        parts.append(f"| `{one.name}` | {here} | {one.note} |")
    parts += ["\n## Guards: `guard_failure_total{type}`\n", "| asked for | type here |", "|---|---|"]
    parts += [f"| {asked} | `{code}` |" for asked, code in GUARDS]
    return "\n".join(parts) + "\n"


def _table(metrics: Iterable[Described]) -> Iterator[str]:
    yield "| name | type | labels | meaning |"
    yield "|---|---|---|---|"
    for one in metrics:
        labels = ", ".join(one.labels) or "–"
        buckets = f" Buckets: {', '.join(f'{bound:g}' for bound in one.buckets)}." if one.buckets else ""
        yield f"| `{one.name}` | {one.type} | {labels} | {one.text}{buckets} |"


if __name__ == "__main__":
    print(document(), end="")
