"""Spans of a payout's hops, sends and calls, as one tree; nothing where nobody records them. Knows no library.

    with tracing.hop(record):                       what one record sets off (the pump)
        current_span().belongs_to(row)              once its payout is known: now the hop has its place
        with open_span("visa PUSH", ...) as span:   anything inside it
            span.set({"visa.outcome": "PAID"})

Where a span stands follows from its payout's row (`processors.payout.trace`); the span that is open now is kept by a
context variable, so that tasks of other payouts never see it. A finished span goes to `record`, which must not raise
and must not wait. Names, attributes and events are a contract: docs/telemetry.md, held to the code by a test.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Final, Protocol, Self

from processors.payout.row import PayoutRow
from processors.payout.trace import callers_context, event_span_id, root_context
from schemas.headers import header_text
from schemas.trace_context import TraceContext, header_context, is_sampled

Value = str | int | bool
Attributes = Mapping[str, Value | None]

REQUESTS_TOPIC: Final = "payout_requests"
EVENTS_MAX: Final = 64
"""Of one span: a hop has some ten; one that retries without end must not grow."""


class Kind(StrEnum):
    """OpenTelemetry's kinds, as far as they occur here."""

    INTERNAL = "INTERNAL"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class SourceRecord(Protocol):
    """What a hop needs to know of the record that it handles: `streams.pump.Record`."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened at one moment of a span."""

    name: str
    at_nanoseconds: int
    attributes: Attributes


@dataclass(slots=True)
class FinishedSpan:
    """A span as it is handed to whoever records it. Times are nanoseconds since 1970."""

    name: str
    kind: Kind
    context: TraceContext
    parent: TraceContext | None
    begun_nanoseconds: int
    ended_nanoseconds: int
    attributes: dict[str, Value]
    events: list[SpanEvent] = field(default_factory=list)
    links: list[TraceContext] = field(default_factory=list)
    error: str | None = None
    """A stable code or the name of an exception's class; never a message."""


Recorder = Callable[[FinishedSpan], None]


class Span:
    """An open span. This one is nobody's: everything it is told is forgotten."""

    __slots__ = ()

    context: TraceContext | None = None
    """Its place; None while nobody records it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def set(self, attributes: Attributes) -> None:
        """Say more of it; None is left out."""

    def event(self, name: str, attributes: Attributes) -> None:
        """Something happens now."""

    def fail(self, error: str) -> None:
        """It ends badly: a stable code, or the name of an exception's class. The first word stays."""

    def belongs_to(self, row: PayoutRow, *, made_row: bool = False) -> None:
        """The payout of a hop is known; `made_row`: this very record made its row."""


NO_SPAN: Final = Span()
_current: ContextVar[Span] = ContextVar("payouts_current_span", default=NO_SPAN)


def current_span() -> Span:
    """The innermost span that is open in this task."""
    return _current.get()


def open_span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    attributes: Attributes | None = None,
    *,
    span_id: str | None = None,
    links: Sequence[TraceContext] = (),
) -> Span:
    """A span inside the one that is open now, to be entered; `span_id` where others can know it."""
    around = _current.get()
    return around.child(name, kind, attributes or {}, span_id, links) if isinstance(around, _Open) else NO_SPAN


class Tracing:
    """Opens the spans that begin something; the others are opened inside them."""

    def __init__(
        self,
        record: Recorder | None = None,
        *,
        ratio: float = 1.0,
        prefix: str = "",
        group: str = "",
        nanoseconds: Callable[[], int] = time.time_ns,
    ) -> None:
        """Without `record` nothing is recorded. `ratio` of the traces, 0 to 1, is."""
        self.record = record
        self.ratio = ratio
        self.prefix = prefix
        self.group = group
        self.nanoseconds = nanoseconds

    def records(self, context: TraceContext) -> bool:
        """Whether spans of this trace are recorded here: a function of its id, and so the same in every worker."""
        return self.record is not None and is_sampled(context.trace_id, self.ratio)

    def hop(self, record: SourceRecord) -> Span:
        """What one record sets off, to be entered. Where it stands is open until its payout is known."""
        return NO_SPAN if self.record is None else _Hop(self, self.record, record)

    def event_context(self, payout_id: str, root: TraceContext, identifier: str) -> TraceContext:
        """What an event's header says: the span that sends it. A function of the row and of `ratio` (K2, K3)."""
        sampled = root.sampled or self.records(root)
        return TraceContext(root.trace_id, event_span_id(payout_id, identifier), sampled)

    def send(self, topic: str, context: TraceContext, root: TraceContext, attributes: Attributes) -> Span:
        """The sending of one event, to be entered; `topic` without the prefix.

        A hop of the same payout is what it comes from; where there is none (the sweeper) it hangs on the root.
        """
        if self.record is None or not self.records(root):
            return NO_SPAN
        around = _current.get().context
        parent = around if around is not None and around.trace_id == root.trace_id else root
        said: dict[str, Value | None] = {**sending(self.prefix, topic), **attributes}
        return _Open(self, self.record, f"send {topic}", Kind.PRODUCER, context, parent, said, ())

    def random_span_id(self) -> str:
        """An id that nobody has to know. Never digits alone: those can be read as a card number (P6)."""
        while True:
            span_id = f"{random.getrandbits(64):016x}"
            if not span_id.isdecimal():
                return span_id


NO_TRACING: Final = Tracing()


def sending(prefix: str, topic: str) -> dict[str, Value | None]:
    """What every sending says of itself; `topic` without the prefix."""
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": f"{prefix}{topic}",
    }


class _Open(Span):
    """A span that is recorded when it ends."""

    __slots__ = (
        "_around", "_attributes", "_begun", "_error", "_events", "_kind", "_links", "_name", "_parent", "_record",
        "_tracing", "context",
    )  # fmt: skip

    def __init__(
        self,
        tracing: Tracing,
        record: Recorder,
        name: str,
        kind: Kind,
        context: TraceContext | None,
        parent: TraceContext | None,
        attributes: Attributes,
        links: Sequence[TraceContext],
    ) -> None:
        self._tracing = tracing
        self._record = record
        self._name = name
        self._kind = kind
        self.context = context
        self._parent = parent
        self._attributes: dict[str, Value] = {}
        self.set(attributes)
        self._links = list(links)
        self._events: list[SpanEvent] = []
        self._error: str | None = None
        self._around: Span = NO_SPAN
        self._begun = tracing.nanoseconds()

    def __enter__(self) -> Self:
        self._around = _current.get()
        _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.set(self._around)  # a token would do the same, and could raise
        if error is not None:
            self.fail(type(error).__name__)
        self._end()

    def _end(self) -> None:
        if self.context is None:
            return
        finished = FinishedSpan(
            self._name,
            self._kind,
            self.context,
            self._parent,
            self._begun,
            self._tracing.nanoseconds(),
            self._attributes,
            self._events,
            self._links,
            self._error,
        )
        self._record(finished)

    def set(self, attributes: Attributes) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._attributes[name] = value

    def event(self, name: str, attributes: Attributes) -> None:
        if len(self._events) < EVENTS_MAX:
            self._events.append(SpanEvent(name, self._tracing.nanoseconds(), attributes))

    def fail(self, error: str) -> None:
        self._error = self._error or error

    def child(
        self, name: str, kind: Kind, attributes: Attributes, span_id: str | None, links: Sequence[TraceContext]
    ) -> Span:
        around = self.context
        if around is None:
            return NO_SPAN
        place = TraceContext(around.trace_id, span_id or self._tracing.random_span_id(), sampled=True)
        return _Open(self._tracing, self._record, name, kind, place, around, attributes, links)


class _Hop(_Open):
    """What one record sets off: it has a place once the payout is known, or once it is clear that there is none."""

    __slots__ = ("_incoming", "_is_placed", "_topic")

    def __init__(self, tracing: Tracing, record: Recorder, source: SourceRecord) -> None:
        self._topic = source.topic.removeprefix(tracing.prefix)
        self._incoming = header_context(source.headers)
        self._is_placed = False
        attributes: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": source.topic,
            "messaging.destination.partition.id": str(source.partition),
            "messaging.kafka.offset": source.offset,
            "messaging.consumer.group.name": tracing.group or None,
            "messaging.message.id": header_text(source.headers, "ce_id"),
        }
        super().__init__(tracing, record, f"process {self._topic}", Kind.CONSUMER, None, None, attributes, ())

    def belongs_to(self, row: PayoutRow, *, made_row: bool = False) -> None:
        if self._is_placed:
            return
        root = root_context(row)
        self._is_placed = True
        if not self._tracing.records(root):
            return
        if made_row:
            self._place(root.trace_id, root.span_id, callers_context(row.traceparent))
        elif self._incoming is not None and self._comes_from_us(root):
            self._place(root.trace_id, self._tracing.random_span_id(), self._incoming)
        else:
            self._place(root.trace_id, self._tracing.random_span_id(), root)
            if self._incoming is not None:
                self._links.append(self._incoming)
        self.set(
            {
                "payout.id": row.payout_id,
                "payout.correlation_id": row.correlation_id,
                "visa.destination.type": row.destination_kind.value,
                "visa.amount.currency": row.currency,
                "visa.funding.type": row.funding_kind.value,
                "visa.fx.src": row.currency,
                "visa.fx.dst": row.target_currency,
            }
        )

    def _comes_from_us(self, root: TraceContext) -> bool:
        """Whether the record continues the payout's trace. A repeated request names its sender's span, not ours."""
        incoming = self._incoming
        return incoming is not None and incoming.trace_id == root.trace_id and self._topic != REQUESTS_TOPIC

    def child(
        self, name: str, kind: Kind, attributes: Attributes, span_id: str | None, links: Sequence[TraceContext]
    ) -> Span:
        self._be_nobodys()
        return super().child(name, kind, attributes, span_id, links)

    def _end(self) -> None:
        self._be_nobodys()
        super()._end()

    def _be_nobodys(self) -> None:
        """A record that is no payout's: in the trace that its header names, or in one of its own."""
        if self._is_placed:
            return
        self._is_placed = True
        span_id = self._tracing.random_span_id()
        own = f"{self._tracing.random_span_id()}{self._tracing.random_span_id()}"
        trace_id = own if self._incoming is None else self._incoming.trace_id
        if self._tracing.records(TraceContext(trace_id, span_id)):
            self._place(trace_id, span_id, self._incoming)

    def _place(self, trace_id: str, span_id: str, parent: TraceContext | None) -> None:
        self.context = TraceContext(trace_id, span_id, sampled=True)
        self._parent = parent
