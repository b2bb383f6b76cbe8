"""What there is to scrape, from the code itself: names, labels, and the values that a label has from the start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import promql_parser

from ledger.figures import figures_of
from ops.lag_status import PARTITION_STATUSES
from ops.metrics_document import exporter_metrics, scan_file_metrics, worker_metrics
from processors.payout.events import CallKind
from processors.visa.breaker import BreakerState
from streams.ledger_figures import FiguresShown
from streams.metrics import Metrics
from streams.visa_client import ReloadResult
from streams.visa_jwks import BREAKER

OF_THE_SCRAPER = frozenset({"job", "instance", "namespace"})
"""Labels that Prometheus and its operator add to every series."""
NAMED_BY_THE_CODE: Mapping[tuple[str, str], Iterable[str]] = {
    ("visa_request_duration_seconds_bucket", "route"): (kind.lower() for kind in CallKind),
    ("visa_request_duration_seconds_count", "route"): (kind.lower() for kind in CallKind),
    ("circuit_breaker_state", "state"): (state.lower() for state in BreakerState),
    ("circuit_breaker_state", "name"): (BREAKER,),
    ("visa_transport_reload_total", "result"): ReloadResult,
    ("payouts_consumergroup_partition_status", "status"): PARTITION_STATUSES,
}
"""Values of labels that nothing has before it happens, and that the code has a list of."""
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum")}


@dataclass
class Family:
    """A name that can be asked for."""

    labels: set[str] = field(default_factory=set)
    values: dict[str, set[str]] = field(default_factory=dict)
    """Of a label, those that are there before anything has happened; empty when it has none yet."""


@cache
def exposed() -> dict[str, Family]:
    """Every name of a worker, of `payouts lag export`, of `payouts pii-scan --textfile`, and `up`."""
    found = {"up": Family()}
    for one in (*worker_metrics(), *exporter_metrics(), *scan_file_metrics()):
        for suffix in SUFFIXES.get(one.type, ("",)):
            found[one.name + suffix] = Family({*one.labels, *(["le"] if suffix == "_bucket" else [])})
    figures = FiguresShown()
    figures.took(figures_of([], 0, {"lines": 0, "seconds": None}), 0.0)
    for family in (*Metrics().registry.collect(), *figures.collect()):
        for sample in family.samples:
            for label, value in sample.labels.items():
                if sample.name in found:
                    found[sample.name].values.setdefault(label, set()).add(value)
    for (name, label), values in NAMED_BY_THE_CODE.items():
        found[name].values[label] = set(values)
    return found


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
