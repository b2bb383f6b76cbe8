"""What there is to scrape, from the code itself: names, labels, and the values that a label has from the start."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import promql_parser
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from typer.testing import CliRunner

from ops.group_members import GroupState
from ops.lag_export import LagMetrics
from ops.lag_look import GroupLag, PartitionLag
from ops.main import app
from streams.metrics import Metrics

OF_THE_SCRAPER = frozenset({"job", "instance", "namespace"})
"""Labels that Prometheus and its operator add to every series."""
PROCESS = (
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
)
"""Of prometheus_client's own collector; where there is no /proc it shows less, and means the same."""


@dataclass
class Family:
    """A name that can be asked for."""

    labels: set[str] = field(default_factory=set)
    values: dict[str, set[str]] = field(default_factory=dict)
    """Of a label, those that are there before anything has happened; empty when it has none yet."""


@cache
def exposed() -> dict[str, Family]:
    """Every name of a worker, of `payouts lag export`, of `payouts pii-scan --textfile`, and `up`."""
    found: dict[str, Family] = {"up": Family(), **{name: Family() for name in PROCESS}}
    metrics = Metrics()
    _add(found, metrics.registry.collect())
    for collector, names in metrics.registry._collector_to_names.items():  # no other way to a label without a series
        _declare(found, collector, names)
    _add(found, _of_the_exporter())
    _add(found, _of_the_scan())
    return found


def _add(found: dict[str, Family], families: Iterable[Metric]) -> None:
    for family in families:
        for sample in family.samples:
            entry = found.setdefault(sample.name, Family())
            entry.labels |= sample.labels.keys()
            for label, value in sample.labels.items():
                entry.values.setdefault(label, set()).add(value)


def _declare(found: dict[str, Family], collector: Collector, names: Iterable[str]) -> None:
    labels = set(getattr(collector, "_labelnames", ()))
    kind = getattr(collector, "_type", "")
    base = getattr(collector, "_name", "")
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}.get(kind, ())
    for name in (f"{base}{suffix}" for suffix in suffixes):
        assert name in names
        found.setdefault(name, Family()).labels |= labels | ({"le"} if name.endswith("_bucket") else set())


def _of_the_exporter() -> Iterator[Metric]:
    metrics = LagMetrics("main", 60.0)
    values = {field.name: 1 for field in dataclasses.fields(PartitionLag)}
    partition = PartitionLag(**{**values, "topic": "payout_requests"})  # type: ignore[arg-type]
    metrics.took(GroupLag(datetime.now(UTC), "payouts", GroupState.STABLE, (), (partition,)), 0.1, 0.0)
    yield from metrics.collect()


def _of_the_scan() -> list[Metric]:
    with TemporaryDirectory() as directory:
        textfile = Path(directory) / "scan.prom"
        answer = CliRunner().invoke(app, ["pii-scan", directory, "--textfile", str(textfile)])
        assert answer.exit_code == 0, answer.output
        return list(text_string_to_metric_families(textfile.read_text()))


def _nodes(node: object) -> Iterator[object]:
    """An expression's parts, itself first."""
    yield node
    parts = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param")]
    for part in (*parts, *(getattr(node, "args", None) or ())):
        if part is not None:
            yield from _nodes(part)


def _selectors(nodes: Iterable[object]) -> list[promql_parser.VectorSelector]:
    return [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]


def names(expression: str) -> set[str]:
    """The metrics that an expression asks for. Raises ValueError when it is no PromQL."""
    return {str(selector.name) for selector in _selectors(_nodes(promql_parser.parse(expression)))}


def grouping(expression: str) -> set[str]:
    """The labels that its aggregations keep."""
    nodes = [node for node in _nodes(promql_parser.parse(expression)) if isinstance(node, promql_parser.AggregateExpr)]
    return {label for node in nodes if node.modifier is not None for label in node.modifier.labels}


def unknown_parts(expression: str, recorded: Iterable[str] = ()) -> list[str]:
    """What an expression asks for and nothing shows: a name, a label, or the value of a label that is known whole."""
    wrong: list[str] = []
    for selector in _selectors(_nodes(promql_parser.parse(expression))):
        name = str(selector.name)
        if name in recorded:
            continue
        family = exposed().get(name)
        if family is None:
            wrong.append(name)
            continue
        for matcher in selector.matchers.matchers:
            wrong += _unknown_matcher(name, family, matcher)
    asked = [exposed()[name] for name in names(expression) if name in exposed()]
    labels = OF_THE_SCRAPER.union(*(family.labels for family in asked))
    if len(asked) == len(names(expression)):  # what a recording rule keeps is checked where it is written
        wrong += [f"by ({label})" for label in sorted(grouping(expression) - labels)]
    return wrong


def _unknown_matcher(name: str, family: Family, matcher: promql_parser.Matcher) -> list[str]:
    if matcher.name in OF_THE_SCRAPER:
        return []
    if matcher.name not in family.labels:
        return [f"{name}{{{matcher.name}}}"]
    known = family.values.get(matcher.name)
    asked = [word for word in matcher.value.split("|") if word and not set(word) & set(".*+$")]
    if not known or matcher.op == promql_parser.MatchOp.NotEqual:
        return []
    return [f'{name}{{{matcher.name}="{word}"}}' for word in asked if word not in known]
