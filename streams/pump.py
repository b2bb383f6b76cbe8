"""The thin shell around every agent: bounded tasks, acknowledgements in offset order, no exception leaves (rule K1).

Faust gives the events; `AckWindow` decides what may be acknowledged; a handler does the work. An event is
acknowledged only when its handler has returned, and a handler returns only when the event is advanced, scheduled,
held, sent to review, refused or dead-lettered, committed in the ledger and confirmed by the broker.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from streams.ack_window import AckWindow, OffsetOutOfOrder
from streams.gate import Gate, pauses
from streams.metrics import Metrics

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


Slot = tuple[str, int]

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
    ) -> None:
        self.name = name
        self._handler = handler
        self._gate = gate
        self._away = away
        self._on_bug = on_bug
        self._metrics = metrics
        self._generation = generation
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

    async def run(self, events: AsyncIterator[Any]) -> None:
        """Take events for ever; never raises for a record."""
        async for event in events:
            losses = self._losses
            await self._may_start()
            # An event in hand while the partitions were lost belongs to whoever reads them next.
            if self._stopping or losses != self._losses or not self._start(event):
                self._slots.release()

    async def _may_start(self) -> None:
        """A slot, an open gate and room in the windows, all at the same moment."""
        while True:
            await self._gate.passed()
            await self._slots.acquire()
            self._room.clear()
            full = sum(len(window) for _, window in self._windows.values()) >= UNACKNOWLEDGED_MAX
            if not self._gate.reasons and not full:
                return
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
        if known is None or known[0] != generation:
            known = (generation, AckWindow())
            self._windows[slot] = known
        window = known[1]
        try:
            hole = window.start(message.offset, event)
        except OffsetOutOfOrder:
            log.warning("reader went backwards", extra={"agent": self.name, "offset": message.offset})
            if window.oldest is not None and message.offset >= window.oldest:
                return False  # delivered twice; the first delivery is in the window and will end it
            window = AckWindow()
            self._windows[slot] = (generation, window)
            hole = window.start(message.offset, event)
        if hole:
            self._metrics.offset_holes.labels(message.topic).inc(len(hole))
            log.warning("hole in the offsets", extra={"agent": self.name, "from": hole.start, "to": hole.stop})
        self._metrics.received.labels(message.topic).inc()
        task = asyncio.create_task(self._work(event, window), name=f"{self.name}-{message.offset}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return True

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
        with self._metrics.handled(message.topic):
            await self._gate.retry_while_away(lambda: self._handle(record), self._away)
        for done in window.finish(message.offset):
            self._acknowledge(done, window)
        self._room.set()

    async def _handle(self, record: Record) -> None:
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
        message = event.message
        known = self._windows.get((message.topic, message.partition))
        if known is None or known[1] is not window or known[0] != self._generation():
            return
        event.ack()


def _time(seconds: Any) -> datetime:
    """The record's own time, which its producer may have made up; the epoch where it is no time at all."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return EPOCH


def _headers(headers: Any) -> tuple[tuple[str, bytes], ...]:
    pairs = headers.items() if hasattr(headers, "items") else headers or ()
    return tuple((str(name), bytes(value)) for name, value in pairs if value is not None)
