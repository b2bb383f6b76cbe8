"""A world whose spans are kept in memory by OpenTelemetry itself, and the trees that they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from streams.metrics import Metrics
from streams.opentelemetry_spans import SpanRecorder
from streams.tracing import Tracing
from tests.unit.streams.streams_world import World

Tree = dict[str, Any]
"""A span's name and what hangs on it, oldest first: {"send payout_cleared": [{"process payout_cleared": []}]}."""


class Spans:
    """What was recorded."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.metrics = Metrics()
        self.recorder = SpanRecorder(
            self.exporter, self.metrics, worker="worker-1", environment="test", queue_max=100_000
        )
        self.tracing = Tracing(self.recorder, ratio=ratio, group="payouts")

    def all(self) -> list[ReadableSpan]:
        """Every span, in the order in which they began."""
        self.recorder.flush()
        assert self.metrics.tracing_failures.labels("span")._value.get() == 0
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def tree(self, parent: str | None = None) -> Tree:
        """All spans as one tree; fails if they are in two traces, hang on nothing, or begin in two places.

        `parent`: the span of somebody else that the whole hangs on. A span that was recorded twice counts once.
        """
        spans = {span_id(span): span for span in self.all()}
        assert len({trace_id(span) for span in spans.values()}) == 1, "one trace"
        children: dict[str | None, list[str]] = defaultdict(list)
        for own, span in spans.items():
            above = None if span.parent is None else f"{span.parent.span_id:016x}"
            assert above in spans or above == parent, f"{span.name} hangs on a span that nobody recorded"
            children[above].append(own)
        assert len(children[parent]) == 1, f"one root, not {[spans[own].name for own in children[parent]]}"

        def grown(own: str) -> Tree:
            return {spans[own].name: [grown(child) for child in children[own]]}

        return grown(children[parent][0])


def record_spans(world: World, ratio: float = 1.0) -> Spans:
    """Turn tracing on in a world, as a worker that starts with it."""
    spans = Spans(ratio)
    world.tracing = spans.tracing
    world.worker = world.start_worker()
    return spans


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def links(span: ReadableSpan) -> list[str]:
    """The ids of the spans that it points to."""
    return [f"{link.context.span_id:016x}" for link in span.links]


def events(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, dict(event.attributes or {})) for event in span.events]


def transitions(spans: Sequence[ReadableSpan]) -> list[str]:
    """What the spans' events say of the payout's moves, in the order of its versions."""
    moved = [said for span in spans for name, said in events(span) if name == "payout moved"]
    return [said["payout.transition"] for said in sorted(moved, key=lambda said: said["payout.version"])]
