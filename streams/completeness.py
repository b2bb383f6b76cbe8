"""Checks that every inbound record is accounted for in the ledger, and drives in again what is not (rule K9).

    follower = Follower(ledger, records, committed=..., drive=..., ...)
    await follower.follow_forever()

One follower a worker, for the inbound partitions that are its own. It reads behind the committed offsets, outside the
group, and asks the ledger in batches. `verified_offsets` in the ledger say how far that went, so that nothing is left
out over restarts; a mark in Kafka beside them says the same. A ledger that knows less than the mark has lost what it
knew (a restored copy, rule L11): then what is missing may have been paid, nothing is driven in, and a person decides.

A mark that says less than the ledger is where looking up begins. Brokers delete the mark with its topic, and it names
the topic that it is for: so a topic that was made anew is looked up from its first record on, whatever the ledger says
of the old one. The same happens when the mark is lost, and costs look-ups only. When the committed offsets go back, so
does the follower.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaException, Message, TopicPartition

from ledger.interface import InboundPosition, Ledger
from schemas.codec import Codec, Undecodable
from schemas.topics import TOPICS, topic_name, topic_of
from streams.gate import Gate, pauses
from streams.holes import READ_SECONDS, PartitionReader, Slot, Span, Unreadable
from streams.metrics import Metrics
from streams.pump import EPOCH, Record
from streams.topic_ids import is_of, note_of

log = logging.getLogger(__name__)

INBOUND_TOPICS = tuple(name for name, topic in TOPICS.items() if topic.inbound)
"""The topics that others produce to."""
BATCH_RECORDS_MAX = 500
"""Looked up at once: one statement of a few milliseconds. It is also what is remembered of a partition at most."""
BATCH_BYTES_MAX = 4_194_304
"""Held in memory at once, whatever the records' size."""
BETWEEN_BATCHES_SECONDS = 0.1
"""Bounds the look-up to 5,000 records a second and worker: above what one takes in, little beside its work."""
PAYOUT_ID_BYTES_MAX = 256
"""A longer key is no payout_id; the record is a dead letter, found by its offset."""
MARK_GROUP_SUFFIX = "-verified"
"""The group under which the mark beside the ledger's verified offsets is kept. Nobody ever joins it."""


class Records(Protocol):
    """Reads inbound partitions, and keeps the mark. Raises Unreadable."""

    async def read(self, slot: Slot, first: int, end: int) -> Span:
        """A batch of records from `first` up to, not including, `end`."""

    async def marked(self, topic: str, partitions: Sequence[int]) -> Mapping[int, int]:
        """The mark of each partition that has one."""

    async def mark(self, slot: Slot, offset: int) -> None:
        """Everything below `offset` is verified."""


class KafkaRecords:
    """`Records` from the cluster."""

    def __init__(self, config: Mapping[str, Any], group: str, topic_id: Callable[[str], str] = lambda _: "") -> None:
        """`topic_id` names the topic that marks are for; without it every mark is believed."""
        self._reader = PartitionReader(config)
        self._topic_id = topic_id
        self._config = {
            **config,
            "group.id": mark_group(group),
            "enable.auto.commit": False,
            "error_cb": lambda _: None,
            "log_level": 0,
        }
        self._marks: Consumer | None = None

    async def read(self, slot: Slot, first: int, end: int) -> Span:
        """A batch of records."""
        return await asyncio.to_thread(
            self._reader.read, slot, first, end, records_max=BATCH_RECORDS_MAX, bytes_max=BATCH_BYTES_MAX
        )

    async def marked(self, topic: str, partitions: Sequence[int]) -> Mapping[int, int]:
        """The marks."""
        places = [TopicPartition(topic, number) for number in partitions]
        found = await self._ask(lambda marks: marks.committed(places, timeout=READ_SECONDS))
        topic_id = self._topic_id(topic)
        return {
            place.partition: place.offset for place in found if place.offset >= 0 and is_of(place.metadata, topic_id)
        }

    async def mark(self, slot: Slot, offset: int) -> None:
        """Move the mark."""
        place = TopicPartition(*slot, offset, note_of(self._topic_id(slot[0])))
        await self._ask(lambda marks: marks.commit(offsets=[place], asynchronous=False))

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._reader.close)
        if self._marks is not None:
            await asyncio.to_thread(self._marks.close)

    async def _ask(self, question: Callable[[Consumer], Any]) -> Any:
        if self._marks is None:
            self._marks = Consumer(self._config)
        try:
            return await asyncio.to_thread(question, self._marks)
        except KafkaException as error:
            raise Unreadable(f"the mark of the verified offsets: {error.args[0]}") from None


def mark_group(group: str) -> str:
    """The consumer group's name under which the marks are kept."""
    return group + MARK_GROUP_SUFFIX


@dataclass(slots=True)
class _Place:
    """How far one partition was looked up, and what was missing in the last batch."""

    next_offset: int
    suspects: list[InboundPosition] = field(default_factory=list)
    since: float = 0.0
    """When the suspects were missing first, or driven in last."""
    blind: "_Blind | None" = None
    """Set while the partition cannot be followed."""


@dataclass(slots=True)
class _Blind:
    """Since when one partition fails, and when it is tried again: it must not keep the others waiting (P8)."""

    told: float
    again: float = 0.0
    pauses: Iterator[float] = field(default_factory=pauses)


class Follower:
    """Follows the inbound partitions that are ours, behind their committed offsets."""

    def __init__(
        self,
        ledger: Ledger,
        codec: Codec,
        records: Records,
        *,
        prefix: str,
        committed: Callable[[], Mapping[Slot, int]],
        drive: Callable[[Record], Awaitable[None]],
        gate: Gate,
        away: Callable[[Exception], str | None],
        patience_seconds: float,
        every_seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        permitted: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`drive` handles a record as if it had come through the stream; handling one twice is harmless.

        `permitted` is awaited before each pass: it ends when the mode lets events out (L9).
        """
        self._ledger = ledger
        self._codec = codec
        self._records = records
        self._topics = frozenset(topic_name(name, prefix) for name in INBOUND_TOPICS)
        self._prefix = prefix
        self._committed = committed
        self._drive = drive
        self._gate = gate
        self._away = away
        self._patience_seconds = patience_seconds
        self._every_seconds = every_seconds
        self._metrics = metrics
        self._clock = clock
        self._places: dict[Slot, _Place] = {}
        self._withheld: set[str] = set()
        self._permitted = permitted

    async def follow_forever(self) -> None:
        """Follow, pausing with everything else; whatever goes wrong here, payouts go on."""
        failures = pauses()
        while True:
            await self._gate.passed()
            if self._permitted is not None:
                await self._permitted()
            try:
                is_behind = await self.follow_once()
                failures = pauses()
                await asyncio.sleep(BETWEEN_BATCHES_SECONDS if is_behind else self._every_seconds)
            except Exception as error:
                away = self._away(error)
                if away is None:
                    log.exception("inbound records are not followed")
                else:
                    log.warning("inbound records are not followed now", extra={"away": away})
                await asyncio.sleep(next(failures))

    async def follow_once(self) -> bool:
        """Look up one batch of each partition; True when there is more to look up at once."""
        ends = {slot: end for slot, end in self._committed().items() if slot[0] in self._topics}
        for lost in self._places.keys() - ends.keys():
            del self._places[lost]
        is_behind = False
        for topic in sorted({slot[0] for slot in ends}):
            is_behind |= await self._follow_topic(topic, {slot: end for slot, end in ends.items() if slot[0] == topic})
        return is_behind

    async def _follow_topic(self, topic: str, ends: Mapping[Slot, int]) -> bool:
        try:
            marked = await self._marks(topic, ends)
        except Unreadable as error:
            # Without the marks nobody can say whether the ledger forgot (L11); the other topics go on (P8).
            log.warning("marks not read, this topic is not followed now", extra={"topic": topic, "why": str(error)})
            verified = await self._ledger.verified_offsets(topic)
            unverified = sum(max(0, end - verified.get(number, 0)) for (_, number), end in ends.items())
            self._metrics.intake_unverified.labels(topic).set(unverified)
            return False
        # Read after the marks, and written before them: a ledger that kept what it knew is never behind one.
        verified = await self._ledger.verified_offsets(topic)
        self._compare(topic, marked, verified)
        is_behind, unverified = False, 0
        for slot, end in ends.items():
            stored = verified.get(slot[1], 0)
            place = self._places.get(slot)
            if place is None:
                place = self._places[slot] = _Place(min(stored, marked.get(slot[1], 0)))
            if not place.suspects:
                # `payouts intake verify --drive` moved it back, or what is committed went back.
                place.next_offset = min(place.next_offset, stored, end)
            is_behind |= await self._try_to_follow(slot, place, end, may_drive=topic not in self._withheld)
            unverified += max(0, end - place.next_offset) + len(place.suspects)
        self._metrics.intake_unverified.labels(topic).set(unverified)
        return is_behind

    async def _marks(self, topic: str, ends: Mapping[Slot, int]) -> Mapping[int, int]:
        """Of partitions that are new to us; of all while driving in is withheld."""
        asked = [number for _, number in ends if topic in self._withheld or (topic, number) not in self._places]
        return await self._records.marked(topic, asked) if asked else {}

    def _compare(self, topic: str, marked: Mapping[int, int], verified: Mapping[int, int]) -> None:
        """L11: a ledger behind its mark is a copy from before; what it misses may have been paid."""
        behind = sorted(number for number, offset in marked.items() if verified.get(number, 0) < offset)
        if behind and topic not in self._withheld:
            self._withheld.add(topic)
            log.critical(
                "the ledger knows less than it did: missing records are not driven in, a person decides",
                extra={"topic": topic, "partitions": ",".join(map(str, behind))},
            )
        elif not behind and topic in self._withheld:
            self._withheld.discard(topic)
            log.warning("missing records are driven in again", extra={"topic": topic})

    async def _try_to_follow(self, slot: Slot, place: _Place, end: int, *, may_drive: bool) -> bool:
        """One partition that fails is left for a while, said and counted as unverified; the others are followed."""
        if place.blind is not None and self._clock() < place.blind.again:
            return False
        try:
            is_behind = await self._follow(slot, place, end, may_drive=may_drive)
        except Exception as error:
            if not self._is_of_one_partition(error):
                raise
            self._tell_blind(slot, place, error)
            return False
        if place.blind is not None:
            log.warning("inbound partition is followed again", extra={"topic": slot[0], "partition": slot[1]})
            place.blind = None
        return is_behind

    def _is_of_one_partition(self, error: Exception) -> bool:
        """Whether others may fare better: a leader that is away, a record that a bug of ours trips over."""
        return isinstance(error, Unreadable) or self._away(error) is None

    def _tell_blind(self, slot: Slot, place: _Place, error: Exception) -> None:
        now = self._clock()
        where: dict[str, object] = {"topic": slot[0], "partition": slot[1]}
        trace = None if isinstance(error, Unreadable) else error
        why = str(error) if isinstance(error, Unreadable) else type(error).__name__
        if place.blind is None:
            place.blind = _Blind(told=now)
            log.warning("inbound partition cannot be followed now", extra=where | {"why": why}, exc_info=trace)
        elif now - place.blind.told >= self._patience_seconds:
            place.blind.told = now
            log.error("inbound partition is still not followed", extra=where | {"why": why}, exc_info=trace)
        place.blind.again = self._clock() + next(place.blind.pauses)

    async def _follow(self, slot: Slot, place: _Place, end: int, *, may_drive: bool) -> bool:
        if place.suspects:
            await self._look_again(slot, place, may_drive=may_drive)
        if place.suspects or place.next_offset >= end:
            return False
        span = await self._records.read(slot, place.next_offset, end)
        missing = await missing_of(self._ledger, self._codec, slot, span, self._prefix)
        place.next_offset = span.next_offset
        self._metrics.intake_verified.labels(slot[0]).inc(len(span.records) - len(missing))
        if missing:
            place.suspects, place.since = missing, self._clock()
            log.warning("inbound records not in the ledger yet", extra=_where(slot, missing))
            return False
        await self._verified(slot, place)
        return place.next_offset < end

    async def _look_again(self, slot: Slot, place: _Place, *, may_drive: bool) -> None:
        place.suspects = list(await self._ledger.unaccounted(place.suspects))
        if not place.suspects:
            await self._verified(slot, place)
        elif self._clock() - place.since >= self._patience_seconds:
            place.since = self._clock()
            log.error(
                "inbound records were never handled" + ("" if may_drive else ": withheld, a person decides"),
                extra=_where(slot, place.suspects),
            )
            self._metrics.intake_missing.labels(slot[0]).inc(len(place.suspects))
            if may_drive:
                await self._drive_in(slot, place.suspects)

    async def _drive_in(self, slot: Slot, suspects: Sequence[InboundPosition]) -> None:
        """Each by itself: one that cannot be read or handled must not keep those behind it out (P8)."""
        failed: Exception | None = None
        for position in suspects:
            try:
                span = await self._records.read(slot, position.offset, position.offset + 1)
                for message in span.records:
                    await self._drive(record_of(message))
            except Exception as error:
                if not self._is_of_one_partition(error):
                    raise
                failed = error
        if failed is not None:
            raise failed

    async def _verified(self, slot: Slot, place: _Place) -> None:
        await self._ledger.verified_up_to(*slot, place.next_offset)
        if slot[0] not in self._withheld:
            await self._records.mark(slot, place.next_offset)


async def missing_of(ledger: Ledger, codec: Codec, slot: Slot, span: Span, prefix: str) -> list[InboundPosition]:
    """Those of a span's records of which the ledger knows nothing, in offset order.

    Raises LedgerUnavailable, RegistryUnavailable.
    """
    positions = [await _position_of(codec, slot, message, prefix) for message in span.records]
    return list(await ledger.unaccounted(positions)) if positions else []


async def _position_of(codec: Codec, slot: Slot, message: Message, prefix: str) -> InboundPosition:
    """Where a record lies, and whose it says it is: by its key, else by its content. No schema rules are applied.

    A key that is not the payout_id is no matter here: such a record is a dead letter, found by its offset.
    Raises RegistryUnavailable.
    """
    offset = message.offset()
    key = message.key()
    if isinstance(key, bytes):
        payout_id = _text(key)
    else:
        payout_id = await _decoded_payout_id(codec, slot[0], message.value(), prefix)
    return InboundPosition(slot[0], slot[1], -1 if offset is None else offset, payout_id)


async def _decoded_payout_id(codec: Codec, topic: str, value: object, prefix: str) -> str | None:
    schema = topic_of(topic, prefix).schema
    if schema is None or not isinstance(value, bytes):
        return None
    try:
        found = (await codec.decode(schema, value)).record.get("payout_id")
    except Undecodable:
        return None
    return _text(str(found).encode())


def _text(key: bytes) -> str | None:
    """A key that the ledger can be asked for."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return None
    return text if len(key) <= PAYOUT_ID_BYTES_MAX and "\0" not in text else None


def record_of(message: Message) -> Record:
    """The record as the handlers know it."""
    key, value, (kind, milliseconds) = message.key(), message.value(), message.timestamp()
    at = EPOCH
    if kind != TIMESTAMP_NOT_AVAILABLE:
        try:
            at = datetime.fromtimestamp(milliseconds / 1000, UTC)
        except (OverflowError, ValueError, OSError):
            at = EPOCH  # its producer made it up
    partition, offset = message.partition(), message.offset()
    headers = cast("Sequence[tuple[str, object]]", message.headers() or ())
    return Record(
        topic=message.topic() or "",
        partition=-1 if partition is None else partition,
        offset=-1 if offset is None else offset,
        timestamp=at,
        key=key if isinstance(key, bytes) else None,
        value=value if isinstance(value, bytes) else None,
        headers=tuple((name, bytes(content)) for name, content in headers if isinstance(content, bytes)),
    )


def _where(slot: Slot, missing: Sequence[InboundPosition]) -> dict[str, object]:
    offsets = [position.offset for position in missing]
    return {"topic": slot[0], "partition": slot[1], "records": len(offsets), "from": min(offsets), "to": max(offsets)}
