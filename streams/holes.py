"""Reads partitions a second time, outside the group, to see what the first reader may have missed (rules K8, K9).

    judge = HoleJudge(confluent_config(settings), metrics)
    lost = await judge(("payout_requests", 3), range(17, 19))    None, or the offset of a record that is there

Nothing here joins a group or commits an offset. Only what a committed reader sees counts: transaction markers, aborted
transactions, compacted and expired records are nothing.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.metrics import Metrics

log = logging.getLogger(__name__)

Slot = tuple[str, int]
"""A partition: the topic's name on the cluster, and its number."""
Judge = Callable[[Slot, range], Awaitable[int | None]]
"""Whether a hole holds a record: its offset, or None. Raises Unreadable while that cannot be said."""

READ_SECONDS = 10.0
"""The longest single look: a leader election is over sooner; after it the caller pauses and looks again."""
POLL_SECONDS = 0.2
RECORDS_A_TURN = 500
"""Records taken over from the library at once."""
QUEUED_KIBIBYTES_MAX = 4096
"""What the library may read ahead: enough for a batch, little beside a worker."""
FETCH_BYTES_MAX = 262_144
"""A request's share; a longer record still comes, alone."""
LAST_BYTES_MAX = 16_777_216
"""Of the last records of a partition held at once: 500 of the largest that the audit has are half of it."""
GROUP_NAME = "payouts-reads-without-a-group"
"""Demanded by the library; never joined, and nothing is committed under it."""
PASSING = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE})
"""What the library reports of single connections, and gets over by itself."""


class Unreadable(Exception):
    """The brokers did not let a partition be read to where it must be: nothing is known, try again."""


@dataclass(slots=True)
class Span:
    """What was read of one partition: records from `next_offset`'s former value on, up to `next_offset`."""

    next_offset: int
    records: list[Message] = field(default_factory=list)
    size_bytes: int = 0


class PartitionReader:
    """A consumer that is assigned its partitions; one look at a time. Close it, or use `with`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = {
            **config,
            "group.id": GROUP_NAME,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "check.crcs": True,
            "queued.max.messages.kbytes": QUEUED_KIBIBYTES_MAX,
            "fetch.message.max.bytes": FETCH_BYTES_MAX,
            "fetch.wait.max.ms": 50,
            "fetch.error.backoff.ms": 100,
            "error_cb": _ignore,
            "log_level": 0,
        }
        self._consumer: Consumer | None = None
        self._one_look = threading.Lock()

    def first_records(self, starts: Mapping[Slot, int]) -> dict[Slot, int | None]:
        """The offset of the first record at or after each start; None where the partition ends without one.

        Raises Unreadable.
        """
        found: dict[Slot, int | None] = {}
        with self._assigned(starts) as messages:
            for message in messages if starts else ():
                slot, offset = _place(message)
                if slot in starts and slot not in found and (_is_end(message) or offset >= starts[slot]):
                    found[slot] = None if _is_end(message) else offset
                    self._open().pause([TopicPartition(*slot)])
                if len(found) == len(starts):
                    break
        return found

    def read(self, slot: Slot, first: int, end: int, *, records_max: int, bytes_max: int) -> Span:
        """Records from `first` up to, not including, `end`: all of them, or as many as the bounds allow.

        Raises Unreadable.
        """
        span = Span(first)
        with self._assigned({slot: first}) as messages:
            for message in messages if first < end else ():
                place, offset = _place(message)
                if place != slot:
                    continue
                if _is_end(message):
                    if offset < end:
                        raise Unreadable(f"{slot[0]}-{slot[1]} ends at {offset}, before {end}: was it cut off?")
                    span.next_offset = end
                    break
                if offset < first:
                    continue
                if offset >= end:
                    span.next_offset = end
                    break
                span.records.append(message)
                span.size_bytes += len(message.value() or b"")
                span.next_offset = offset + 1
                if span.next_offset == end or len(span.records) >= records_max or span.size_bytes >= bytes_max:
                    break
        return span

    def last_records(self, slot: Slot, count: int) -> list[Message]:
        """The last records of a partition, at most so many; empty when it holds none. Raises Unreadable."""
        earliest, end = self._watermarks(slot)
        return self.between(slot, max(earliest, end - count), end)

    def between(self, slot: Slot, first: int, end: int) -> list[Message]:
        """Every record from `first` up to, not including, `end`: for a few hundred. Raises Unreadable."""
        found: list[Message] = []
        while first < end:
            span = self.read(slot, first, end, records_max=end - first, bytes_max=LAST_BYTES_MAX)
            found += span.records
            first = span.next_offset
        return found

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0 when there is no such topic. Raises Unreadable."""
        try:
            found = self._open().list_topics(topic, timeout=READ_SECONDS).topics.get(topic)
        except KafkaException as error:
            raise Unreadable(f"no answer for {topic}: {_name(error)}") from None
        return 0 if found is None or found.error is not None else len(found.partitions)

    def earliest(self, slot: Slot) -> int:
        """The first offset that the brokers still keep. Raises Unreadable."""
        return self._watermarks(slot)[0]

    def end(self, slot: Slot) -> int:
        """The offset behind the last record. Raises Unreadable."""
        return self._watermarks(slot)[1]

    def _watermarks(self, slot: Slot) -> tuple[int, int]:
        try:
            watermarks = self._open().get_watermark_offsets(TopicPartition(*slot), timeout=READ_SECONDS)
        except KafkaException as error:
            raise Unreadable(f"no answer for {slot[0]}-{slot[1]}: {_name(error)}") from None
        if watermarks is None:
            raise Unreadable(f"no answer for {slot[0]}-{slot[1]}")
        return int(watermarks[0]), int(watermarks[1])

    def close(self) -> None:
        """Close the connections."""
        with self._one_look:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
        return self._consumer

    @contextmanager
    def _assigned(self, starts: Mapping[Slot, int]) -> Iterator[Iterator[Message]]:
        """Messages of these partitions, ends of partitions among them, for at most READ_SECONDS."""
        with self._one_look:
            try:
                consumer = self._open()
                places = [TopicPartition(topic, number, first) for (topic, number), first in starts.items()]
                consumer.assign(places)
                try:
                    yield _messages(consumer, time.monotonic() + READ_SECONDS)
                finally:
                    consumer.resume(places)  # a pause would outlive the assignment
                    consumer.unassign()  # nothing is read ahead while nobody asks
            except KafkaException as error:
                raise Unreadable(_name(error)) from None


class HoleJudge:
    """Looks into one hole: is there a record in it? (rule K8)"""

    def __init__(self, config: Mapping[str, Any], metrics: Metrics) -> None:
        self._reader = PartitionReader(config)
        self._metrics = metrics

    async def __call__(self, slot: Slot, hole: range) -> int | None:
        """The offset of the first record in the hole, or None. Raises Unreadable."""
        lost, earliest = await asyncio.to_thread(self._look, slot, hole)
        where = {"topic": slot[0], "partition": slot[1], "from": hole.start, "to": hole.stop}
        if lost is None:
            log.info("the hole holds no record", extra=where)
        if lost is None and 0 < hole.start < earliest:
            # From 0 on nobody had committed: what retention took then was never asked for.
            expired = min(earliest, hole.stop) - hole.start
            self._metrics.records_expired.labels(slot[0]).inc(expired)
            log.error("retention removed offsets before they were read", extra=where | {"offsets": expired})
        return lost

    def _look(self, slot: Slot, hole: range) -> tuple[int | None, int]:
        found = self._reader.read(slot, hole.start, hole.stop, records_max=1, bytes_max=1).records
        return (_place(found[0])[1] if found else None), self._reader.earliest(slot)

    async def close(self) -> None:
        """Close the reader's connections."""
        await asyncio.to_thread(self._reader.close)


def _messages(consumer: Consumer, deadline: float) -> Iterator[Message]:
    while True:
        left_seconds = deadline - time.monotonic()
        if left_seconds <= 0:
            raise Unreadable(f"not read within {READ_SECONDS:g} s")
        message = consumer.poll(min(POLL_SECONDS, left_seconds))
        # Waiting for a number of records would wait for as long as there are fewer.
        for taken in (message, *consumer.consume(RECORDS_A_TURN, 0)) if message is not None else ():
            error = taken.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                yield taken
            elif error.code() not in PASSING and not error.retriable():
                raise Unreadable(error.name())


def _is_end(message: Message) -> bool:
    return message.error() is not None


def _place(message: Message) -> tuple[Slot, int]:
    partition, offset = message.partition(), message.offset()
    return (message.topic() or "", -1 if partition is None else partition), -1 if offset is None else offset


def _name(error: KafkaException) -> str:
    cause = error.args[0] if error.args else error
    return cause.name() if isinstance(cause, KafkaError) else type(error).__name__


def _ignore(_: KafkaError) -> None:
    """Every look has its own answer or time-out; the library's running commentary adds nothing."""
