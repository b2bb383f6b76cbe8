"""The thin shell around every agent: bounded tasks, acknowledgements in offset order, no exception leaves (rule K1).

Faust gives the events; `AckWindow` decides what may be acknowledged and committed; a handler does the work. An event is
acknowledged only when its handler has returned, and a handler returns only when the event is advanced, scheduled,
held, sent to review, refused or dead-lettered, committed in the ledger and confirmed by the broker.

A hole in the offsets is looked into by `judge` (rule K8). Until it is known to hold no record, nothing after it is
acknowledged; a record in it was lost on its way to us, and `on_loss` ends the process, so that it is read again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from streams.ack_window import AckWindow, OffsetOutOfOrder
from streams.gate import Gate, pauses
from streams.holes import Judge, Slot
from streams.metrics import Metrics
from streams.tracing import NO_TRACING, Tracing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record as the handlers see it: raw bytes and where they came from."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def source(self) -> str:
        """`topic-partition-offset`: names a record without quoting it."""
        return f"{self.topic}-{self.partition}-{self.offset}"


class Handler(Protocol):
    """The work for one record. Raises only what `away` names; everything else is the record's own end."""

    async def __call__(self, record: Record) -> None: ...


class Admission(Protocol):
    """Whether the mode lets this agent take records (rule L9)."""

    @property
    def is_open(self) -> bool:
        """It does."""

    async def passed(self) -> None:
        """Return when it does."""


class _Always:
    is_open = True

    async def passed(self) -> None:
        """At once."""


class _Source:
    """The events of a stream, one after the other; while the agent stands, those that come are kept in order.

    An agent that stands must go on taking them: Faust hands the events of all its topics out in one loop, which would
    wait for room in this one's buffer, and starve the topics whose agents go on. They are few, because the transport
    is told for each to fetch no more of its partition.
    """

    def __init__(self, events: AsyncIterator[Any], note: Callable[[], int]) -> None:
        """`note` is kept beside each event: how often partitions had been lost when it came."""
        self._events = aiter(events)
        self._note = note
        self._kept: deque[tuple[int, Any]] = deque()
        self._under_way: asyncio.Future[Any] | None = None

    async def next(self) -> tuple[int, Any]:
        """The next event. Raises StopAsyncIteration at the end of the stream."""
        if self._kept:
            return self._kept.popleft()
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
            self._keep()
            return self._kept.popleft()
        event = await anext(self._events)
        return self._note(), event

    async def keep_until(self, over: Awaitable[None], stand: Callable[[Slot], None]) -> None:
        """Keep what comes until `over` ends. Raises StopAsyncIteration at the end of the stream."""
        ended = asyncio.ensure_future(over)
        try:
            while not ended.done():
                if self._under_way is None:
                    self._under_way = asyncio.ensure_future(anext(self._events))
                await asyncio.wait([ended, self._under_way], return_when=asyncio.FIRST_COMPLETED)
                if self._under_way.done():
                    message = self._keep().message
                    stand((message.topic, message.partition))
            ended.result()
        finally:
            ended.cancel()

    def end(self) -> None:
        """Nobody takes events any more."""
        if self._under_way is not None:
            self._under_way.cancel()

    def _keep(self) -> Any:
        if self._under_way is None:
            raise AssertionError("no event is under way")
        future, self._under_way = self._under_way, None
        event = future.result()
        self._kept.append((self._note(), event))
        return event


UNACKNOWLEDGED_MAX = 1000
"""Events started and not yet acknowledged per agent: one slow head must not pile a backlog up behind it in memory."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Pump:
    """One agent's flow: takes events, runs the handler in bounded tasks, acknowledges in order."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        *,
        in_flight_max: int,
        gate: Gate,
        away: Callable[[Exception], str | None],
        on_bug: Callable[[Record, Exception], Awaitable[None]],
        metrics: Metrics,
        generation: Callable[[], int | None],
        first_offset: Callable[[Slot], int | None],
        went_back: Callable[[Slot], None],
        judge: Judge,
        on_loss: Callable[[str], None],
        admission: Admission | None = None,
        stand: Callable[[Slot], None] = lambda _: None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        """`stand` hears of a partition that gave an event while `admission` let none be taken (rule L9).

        `first_offset` is where reading a partition began, or went back to: its committed offset (rule K8).

        `went_back` hears of an event before that: the log was cut off, and what is committed follows it, from 0 on.
        """
        self.name = name
        self._handler = handler
        self._gate = gate
        self._away = away
        self._on_bug = on_bug
        self._metrics = metrics
        self._generation = generation
        self._first_offset = first_offset
        self._went_back = went_back
        self._judge = judge
        self._on_loss = on_loss
        self._admission = admission or _Always()
        self._stand = stand
        self._tracing = tracing
        self._judgements: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(in_flight_max)
        self._windows: dict[Slot, tuple[int | None, AckWindow[Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._losses = 0
        self._room = asyncio.Event()

    @property
    def in_work(self) -> int:
        """Events started and not finished."""
        return len(self._tasks)

    @property
    def waiting(self) -> dict[Slot, int]:
        """Events and holes in each partition's window that are not acknowledged or passed yet."""
        return {slot: len(window) for slot, (_, window) in self._windows.items()}

    def committable(self, slot: Slot) -> int | None:
        """The offset that may be committed for a partition; None while there is nothing to commit."""
        known = self._windows.get(slot)
        return known[1].committable if known is not None and known[0] == self._generation() else None

    async def handle_again(self, record: Record) -> None:
        """Handle a record that did not come through the stream; raises nothing for the record itself (rule K9)."""
        await self._admission.passed()
        await self._gate.retry_while_away(lambda: self._handle(record), self._away)

    async def run(self, events: AsyncIterator[Any]) -> None:
        """Take events for ever; never raises for a record."""
        source = _Source(events, lambda: self._losses)
        try:
            while True:
                losses, event = await source.next()
                while not await self._may_start():
                    self._stand((event.message.topic, event.message.partition))
                    await source.keep_until(self._admission.passed(), self._stand)
                # An event in hand while the partitions were lost belongs to whoever reads them next.
                if self._stopping or losses != self._losses or not self._start(event):
                    self._slots.release()
        except StopAsyncIteration:
            return
        finally:
            source.end()

    async def _may_start(self) -> bool:
        """A slot, an open gate and room in the windows, all at the same moment; False while the agent stands (L9)."""
        while True:
            await self._gate.passed()
            if not self._admission.is_open:
                return False
            await self._slots.acquire()
            self._room.clear()
            full = sum(len(window) for _, window in self._windows.values()) >= UNACKNOWLEDGED_MAX
            if not self._gate.reasons and not full and self._admission.is_open:
                return True
            self._slots.release()
            if full:
                await self._room.wait()

    def forget(self, slots: Iterable[Slot] | None = None) -> None:
        """Partitions are lost: nothing of theirs is acknowledged any more. Their tasks end, fenced by the ledger."""
        self._room.set()
        if slots is None:
            self._losses += 1
            self._windows.clear()
            return
        for slot in slots:
            self._windows.pop(slot, None)

    async def drain(self, timeout_seconds: float) -> bool:
        """Start nothing more and wait for what is in work; False when some of it was still going at the end."""
        self._stopping = True
        if not self._tasks:
            return True
        _, left = await asyncio.wait(self._tasks, timeout=timeout_seconds)
        return not left

    def _start(self, event: Any) -> bool:
        message = event.message
        slot = (message.topic, message.partition)
        generation = message.generation_id
        if generation != self._generation():
            return False  # fetched before a rebalance: whoever owns the partition now reads it again
        known = self._windows.get(slot)
        if known is not None and known[0] == generation:
            window = known[1]
        else:
            opened = self._open_window(slot, generation, message.offset)
            if opened is None:
                return False
            window = opened
        try:
            hole = window.start(message.offset, event)
        except OffsetOutOfOrder:
            log.warning("reader went backwards", extra={"agent": self.name, "offset": message.offset})
            if window.oldest is not None and message.offset >= window.oldest:
                return False  # delivered twice; the first delivery is in the window and will end it
            opened = self._open_window(slot, generation, message.offset)
            if opened is None:
                return False
            window = opened
            hole = window.start(message.offset, event)
        if hole:
            self._look_into(slot, window, hole)
        self._metrics.received.labels(message.topic).inc()
        task = asyncio.create_task(self._work(event, window), name=f"{self.name}-{message.offset}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return True

    def _open_window(self, slot: Slot, generation: int | None, offset: int) -> AckWindow[Any] | None:
        """K8: the first event must stand at the committed offset; without knowing that one nothing is started."""
        first = self._first_offset(slot)
        if first is None:
            self._on_loss(f"{slot[0]}-{slot[1]}-{offset}: an event came before its partition's committed offset")
            return None
        if offset < first:
            # The log was cut off (a topic made anew ends the worker by itself), and what it holds now was not read.
            # Without this nothing would be committed until it is as long again.
            log.critical("reading before the committed offset", extra={"agent": self.name, "from": offset, "at": first})
            self._went_back(slot)
            first = 0
        window: AckWindow[Any] = AckWindow(first)
        self._windows[slot] = (generation, window)
        return window

    def _look_into(self, slot: Slot, window: AckWindow[Any], hole: range) -> None:
        self._metrics.offset_holes.labels(slot[0]).inc(len(hole))
        log.warning("hole in the offsets", extra={"agent": self.name, "from": hole.start, "to": hole.stop})
        task = asyncio.create_task(self._judge_hole(slot, window, hole), name=f"{self.name}-hole-{hole.start}")
        self._judgements.add(task)
        task.add_done_callback(self._judged)

    def _judged(self, task: asyncio.Task[None]) -> None:
        self._judgements.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical("a hole was not judged", extra={"agent": self.name}, exc_info=task.exception())

    async def _judge_hole(self, slot: Slot, window: AckWindow[Any], hole: range) -> None:
        """Nothing after the hole is acknowledged before this ends; it is tried until the broker answers (rule K5)."""
        found: list[int | None] = []

        async def look() -> None:
            found.append(await self._judge(slot, hole))

        await self._gate.retry_while_away(look, self._away)
        if not self._is_current(slot, window):
            return  # whoever has the partition now reads it from its committed offset, which is before the hole
        lost = found[-1]
        if lost is not None:
            self._metrics.records_lost.labels(slot[0]).inc()
            self._on_loss(f"{slot[0]}-{slot[1]}-{lost}: the record was never delivered to us")
            return
        for done in window.pass_hole(hole):
            self._acknowledge(done, window)
        self._room.set()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            log.critical("a pump task raised", extra={"agent": self.name}, exc_info=task.exception())

    async def _work(self, event: Any, window: AckWindow[Any]) -> None:
        message = event.message
        record = Record(
            message.topic,
            message.partition,
            message.offset,
            _time(message.timestamp),
            message.key,
            message.value,
            _headers(message.headers),
        )
        with self._metrics.handled(message.topic, record.timestamp):
            await self._gate.retry_while_away(lambda: self._handle(record), self._away)
        # Behind a slow head up to UNACKNOWLEDGED_MAX events wait: they need their offsets, not their content.
        message.value = event.value = None
        for done in window.finish(message.offset):
            self._acknowledge(done, window)
        self._room.set()

    async def _handle(self, record: Record) -> None:
        """One try, with its span: what is away ends the try, and the span, badly."""
        with self._tracing.hop(record):
            await self._try(record)

    async def _try(self, record: Record) -> None:
        try:
            await self._handler(record)
        except Exception as error:
            if self._away(error) is not None:
                raise
            log.exception("handler failed", extra={"agent": self.name, "source": record.source})
            self._metrics.handler_bugs.labels(self.name).inc()
            await self._set_aside(record, error)

    async def _set_aside(self, record: Record, error: Exception) -> None:
        """Until it is done: a record without an end would freeze its partition's offsets, silently."""
        for pause_seconds in pauses():
            try:
                await self._on_bug(record, error)
            except Exception as failure:
                if self._away(failure) is not None:
                    raise
                log.critical("record not set aside", extra={"source": record.source, "error": type(failure).__name__})
                await asyncio.sleep(pause_seconds)
            else:
                return

    def _acknowledge(self, event: Any, window: AckWindow[Any]) -> None:
        """Only for the generation that this worker still is in; a stale window acknowledges nothing."""
        if self._is_current((event.message.topic, event.message.partition), window):
            event.ack()

    def _is_current(self, slot: Slot, window: AckWindow[Any]) -> bool:
        known = self._windows.get(slot)
        return known is not None and known[1] is window and known[0] == self._generation()


def _time(seconds: Any) -> datetime:
    """The record's own time, which its producer may have made up; the epoch where it is no time at all."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return EPOCH


def _headers(headers: Any) -> tuple[tuple[str, bytes], ...]:
    pairs = headers.items() if hasattr(headers, "items") else headers or ()
    return tuple((str(name), bytes(value)) for name, value in pairs if value is not None)
