"""K9: what others produced and the ledger does not know is driven in again; a ledger that forgot is not trusted."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.interface import Disposition, IntakeRecord, LedgerUnavailable
from ledger.memory import MemoryLedger
from schemas.codec import Codec, PinnedResolver
from streams.clock import utc_now
from streams.completeness import BATCH_RECORDS_MAX, Follower, KafkaRecords
from streams.gate import Gate
from streams.holes import Slot, Span, Unreadable
from streams.metrics import Metrics
from streams.pump import Record
from tests.unit.streams.streams_world import until

SLOT: Slot = ("payout_requests", 0)
PATIENCE_SECONDS = 60.0


def message(offset: int, key: bytes | None = b"payout-1", value: bytes | None = b"value") -> Any:
    """A record as confluent-kafka gives it."""
    facts: dict[str, Any] = {
        "topic": SLOT[0],
        "partition": SLOT[1],
        "offset": offset,
        "key": key,
        "value": value,
        "timestamp": (1, 1_772_366_400_000),
        "headers": [("ce_id", b"one")],
    }
    return SimpleNamespace(**{name: (lambda fact=fact: fact) for name, fact in facts.items()})


@dataclass
class World:
    """A partition, its committed offset and mark, the model of the ledger, and a clock that the test moves."""

    log: list[Any]
    committed: dict[Slot, int]
    ledger: MemoryLedger = field(default_factory=lambda: MemoryLedger(utc_now))
    marks: dict[int, int] = field(default_factory=dict)
    reads: list[tuple[int, int]] = field(default_factory=list)
    driven: list[Record] = field(default_factory=list)
    handles: bool = True
    away: Exception | None = None
    now: float = 1000.0
    batch: int = BATCH_RECORDS_MAX
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.gate = Gate()
        self.follower = self.new_follower()

    def new_follower(self) -> Follower:
        return Follower(
            self.ledger,
            Codec(PinnedResolver()),
            self,
            prefix="",
            committed=lambda: self.committed,
            drive=self.drive,
            gate=self.gate,
            away=lambda error: "broker" if isinstance(error, Unreadable | LedgerUnavailable) else None,
            patience_seconds=PATIENCE_SECONDS,
            every_seconds=0.0,
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    async def read(self, slot: Slot, first: int, end: int) -> Span:
        assert slot == SLOT
        self.reads.append((first, end))
        if self.away is not None:
            raise self.away
        taken = [record for record in self.log if first <= record.offset() < end][: self.batch]
        is_whole = len(taken) < self.batch
        return Span(end if is_whole else taken[-1].offset() + 1, taken)

    async def marked(self, topic: str, partitions: Sequence[int]) -> Mapping[int, int]:
        assert topic == SLOT[0]
        return {number: self.marks[number] for number in partitions if number in self.marks}

    async def mark(self, slot: Slot, offset: int) -> None:
        verified = await self.ledger.verified_offsets(slot[0])
        assert verified[slot[1]] >= offset, "the ledger is written before the mark, so it is behind only when it forgot"
        self.marks[slot[1]] = offset

    async def drive(self, record: Record) -> None:
        self.driven.append(record)
        if self.handles:
            await self.account(record.offset)

    async def account(self, *offsets: int) -> None:
        for offset in offsets:
            await self.ledger.record_intake(IntakeRecord(*SLOT, offset, Disposition.REPEAT, "payout-1", "SAME_CONTENT"))

    async def verified(self) -> int:
        return (await self.ledger.verified_offsets(SLOT[0])).get(SLOT[1], 0)

    def counted(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"topic": SLOT[0]})


def world(count: int, committed: int, **more: Any) -> World:
    return World([message(offset) for offset in range(count)], {SLOT: committed}, **more)


async def test_what_is_accounted_for_is_verified_up_to_the_commit_and_no_further() -> None:
    """K9: behind the committed offsets; nothing is driven, and nothing is looked up twice."""
    one = world(10, 6)
    await one.account(*range(6))
    assert not await one.follower.follow_once()
    assert (await one.verified(), one.marks, one.driven, one.reads) == (6, {0: 6}, [], [(0, 6)])
    await one.follower.follow_once()
    assert one.reads == [(0, 6)]
    assert one.counted("payouts_intake_verified_total") == 6
    assert one.counted("payouts_intake_unverified") == 0


async def test_what_is_missing_is_driven_in_again_after_its_time_and_not_before() -> None:
    """K9: 60 s, counted; what came in the meantime by itself is left alone; then the bookmark moves."""
    one = world(6, 6)
    await one.account(0, 1, 4)
    await one.follower.follow_once()
    one.now += PATIENCE_SECONDS - 1
    await one.account(5)
    await one.follower.follow_once()
    assert (one.driven, await one.verified(), one.marks) == ([], 0, {})
    assert one.counted("payouts_intake_unverified") == 2
    one.now += 1
    await one.follower.follow_once()
    assert [record.offset for record in one.driven] == [2, 3]
    assert one.counted("payouts_intake_missing_total") == 2
    await one.follower.follow_once()
    assert (await one.verified(), one.marks, len(one.driven)) == (6, {0: 6}, 2)


async def test_the_record_is_driven_in_as_it_lies_in_the_topic() -> None:
    """K9: the same handler sees the same bytes, place, time and headers."""
    one = world(1, 1)
    await one.follower.follow_once()
    one.now += PATIENCE_SECONDS
    await one.follower.follow_once()
    (record,) = one.driven
    assert (record.source, record.key, record.value) == ("payout_requests-0-0", b"payout-1", b"value")
    assert (record.timestamp.isoformat(), record.headers) == ("2026-03-01T12:00:00+00:00", (("ce_id", b"one"),))


async def test_what_a_handler_does_not_account_for_is_never_passed() -> None:
    """K9: it is driven in again and again, at the pace of its patience, and the bookmark stays before it."""
    one = world(2, 2, handles=False)
    await one.follower.follow_once()
    for _ in range(3):
        one.now += PATIENCE_SECONDS
        await one.follower.follow_once()
        await one.follower.follow_once()
    assert (len(one.driven), await one.verified()) == (6, 0)


async def test_a_restart_goes_on_where_the_ledger_says() -> None:
    """K9: nothing is left out over restarts, and nothing is begun anew."""
    one = world(10, 10, marks={0: 4})
    await one.account(*range(10))
    await one.ledger.verified_up_to(*SLOT, 4)
    await one.new_follower().follow_once()
    assert one.reads == [(4, 10)]


async def test_a_mark_left_behind_is_made_good_without_a_new_record() -> None:
    """L11: a worker killed between the ledger and the mark; else an older copy of the ledger would pass for whole."""
    one = world(10, 10, marks={0: 4})
    await one.ledger.verified_up_to(*SLOT, 10)
    await one.account(*range(10))
    assert not await one.follower.follow_once()
    assert (one.marks, one.reads, one.driven) == ({0: 10}, [(4, 10)], [])


async def test_without_a_mark_everything_is_looked_up_again() -> None:
    """K9: brokers delete the mark with its topic; what the ledger says of a topic that is gone counts for nothing."""
    one = world(10, 10)
    await one.ledger.verified_up_to(*SLOT, 300)
    await one.account(*range(3, 10))
    await one.follower.follow_once()
    one.now += PATIENCE_SECONDS
    await one.follower.follow_once()
    await one.follower.follow_once()
    assert ([record.offset for record in one.driven], one.marks) == ([0, 1, 2], {0: 10})
    await one.new_follower().follow_once()
    assert one.reads[0] == (0, 10)
    assert (10, 10) not in one.reads


async def test_the_follower_goes_back_with_what_is_committed() -> None:
    """K9: a log that was cut off gives its offsets anew; a group that lost its own reads everything anew."""
    one = world(10, 10)
    await one.account(*range(10))
    await one.follower.follow_once()
    one.committed[SLOT] = 2
    await one.follower.follow_once()
    one.committed[SLOT] = 6
    await one.follower.follow_once()
    assert (one.reads, one.marks) == ([(0, 10), (2, 6)], {0: 6})


async def test_a_bookmark_moved_back_is_followed() -> None:
    """K9: `payouts intake verify --drive` has the workers look again."""
    one = world(10, 10)
    await one.account(*range(10))
    await one.follower.follow_once()
    one.ledger = MemoryLedger(utc_now)
    await one.account(*range(10))
    await one.ledger.verified_up_to(*SLOT, 4)
    one.marks[0] = 4
    one.follower._ledger = one.ledger
    await one.follower.follow_once()
    assert one.reads == [(0, 10), (4, 10)]


async def test_a_ledger_that_knows_less_than_its_mark_gets_nothing_driven_in() -> None:
    """L11: a restored copy misses what may have been paid; a person decides. All the same it is counted."""
    one = world(10, 10, marks={0: 8})
    await one.account(*range(5))
    await one.ledger.verified_up_to(*SLOT, 5)
    for _ in range(4):
        await one.follower.follow_once()
        one.now += PATIENCE_SECONDS
    assert one.driven == []
    assert (await one.verified(), one.marks) == (5, {0: 8})
    assert (one.counted("payouts_intake_missing_total") or 0) > 0
    await one.account(*range(5, 10))  # as `payouts ledger adopt` would
    await one.follower.follow_once()
    await one.follower.follow_once()
    assert (await one.verified(), one.marks) == (10, {0: 8})
    one.committed[SLOT] = 11
    one.log.append(message(10))
    for _ in range(3):
        await one.follower.follow_once()
        one.now += PATIENCE_SECONDS
    assert [record.offset for record in one.driven] == [10], "the ledger caught up: it is trusted again"


async def test_a_large_backlog_is_looked_up_in_batches() -> None:
    """Limits: one batch at a time, and the caller is told that there is more."""
    one = world(10, 10, batch=4)
    await one.account(*range(10))
    assert [await one.follower.follow_once() for _ in range(3)] == [True, True, False]
    assert one.reads == [(0, 10), (4, 10), (8, 10)]
    assert await one.verified() == 10


@pytest.mark.parametrize(
    ("key", "value"), [(None, b"garbage"), (None, None), (b"\xff\xfe", b"x"), (b"a\0b", b"x"), (b"k" * 2000, b"x")]
)
async def test_a_record_without_a_usable_name_is_found_by_its_place(key: bytes | None, value: bytes | None) -> None:
    """K6, K9: a dead letter is accounted for by topic, partition and offset alone."""
    one = World([message(0, key, value)], {SLOT: 1})
    await one.account(0)
    await one.follower.follow_once()
    assert await one.verified() == 1


async def test_a_lost_partition_is_forgotten_and_other_topics_are_none_of_ours() -> None:
    """K9: one follower a partition, for what others produce to."""
    one = world(4, 4)
    one.committed[("payout_validated", 0)] = 9
    await one.follower.follow_once()
    assert one.follower._places.keys() == {SLOT}
    del one.committed[SLOT]
    await one.follower.follow_once()
    assert one.follower._places == {}


class Marks:
    """The consumer that keeps marks, as confluent-kafka's."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], TopicPartition] = {}

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        assert timeout > 0
        return [self.kept.get((place.topic, place.partition), place) for place in places]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert not asynchronous
        self.kept |= {(place.topic, place.partition): place for place in offsets}


async def test_a_mark_counts_only_for_the_topic_that_it_names() -> None:
    """K9: a topic that was made anew has the old one's name, and a late worker may still mark it."""
    ids = {"requests": "old"}
    records = KafkaRecords({}, "payouts", lambda topic: ids.get(topic, ""))
    records._marks = marks = cast("Any", Marks())
    await records.mark(("requests", 0), 300)
    assert await records.marked("requests", [0, 1]) == {0: 300}
    ids["requests"] = "new"
    assert await records.marked("requests", [0, 1]) == {}
    marks.commit([TopicPartition("requests", 1, 7)], asynchronous=False)
    assert await records.marked("requests", [0, 1]) == {1: 7}, "a command's mark names no topic"


async def test_following_pauses_with_the_gate_and_survives_what_is_away() -> None:
    """K5: a look-up that fails harms no payout and is tried again."""
    one = world(4, 4, away=Unreadable("no broker"))
    await one.account(*range(4))

    def time_passes(condition: bool) -> bool:
        one.now += 0.01
        return condition

    one.gate.close("database")
    running = asyncio.create_task(one.follower.follow_forever())
    for _ in range(20):
        await asyncio.sleep(0)
    assert one.reads == []
    one.gate.open("database")
    await until(lambda: time_passes(len(one.reads) >= 1))
    one.away = ZeroDivisionError("a bug of ours")
    tried = len(one.reads)
    await until(lambda: time_passes(len(one.reads) >= tried + 2))
    one.away = None
    await until(lambda: time_passes(bool(one.marks)))
    running.cancel()
    assert one.marks == {0: 4}


class SomeUnreadable:
    """Partitions of which some cannot be read (a leader is away for long, or a topic ends before the commit)."""

    def __init__(self, *unreadable: Slot, marks_away: frozenset[str] = frozenset()) -> None:
        self.unreadable = set(unreadable)
        self.marks_away = marks_away
        self.reads: list[Slot] = []

    async def read(self, slot: Slot, first: int, end: int) -> Span:
        assert first < end
        self.reads.append(slot)
        if slot in self.unreadable:
            raise Unreadable(f"{slot[0]}-{slot[1]} ends at 3, before {end}: was it cut off?")
        return Span(end, [])

    async def marked(self, topic: str, partitions: Sequence[int]) -> Mapping[int, int]:
        assert partitions
        if topic in self.marks_away:
            raise Unreadable("no coordinator")
        return {}

    async def mark(self, slot: Slot, offset: int) -> None:
        assert (slot in self.unreadable, offset) == (False, ENDS[slot])


CONFIRMATIONS: Slot = ("payout_compensation_confirmations", 0)
"""Followed before the requests."""
ENDS = {CONFIRMATIONS: 9, SLOT: 5, (SLOT[0], 1): 5, (SLOT[0], 2): 7}


def following(records: SomeUnreadable, clock: Callable[[], float] = lambda: 0.0) -> tuple[Follower, MemoryLedger]:
    async def drive(_: Record) -> None:
        raise AssertionError("nothing is missing here")

    ledger = MemoryLedger(utc_now)
    follower = Follower(
        ledger,
        Codec(PinnedResolver()),
        records,
        prefix="",
        committed=lambda: ENDS,
        drive=drive,
        gate=Gate(),
        away=lambda _: "broker",
        patience_seconds=PATIENCE_SECONDS,
        every_seconds=0.0,
        metrics=Metrics(),
        clock=clock,
    )
    return follower, ledger


def unverified(follower: Follower, topic: str) -> float | None:
    return follower._metrics.registry.get_sample_value("payouts_intake_unverified", {"topic": topic})


async def test_one_unreadable_partition_does_not_end_the_check_of_all_others(caplog: pytest.LogCaptureFixture) -> None:
    """K9, P8: the others are followed, of its topic too; it is said, and counted as unverified."""
    follower, ledger = following(SomeUnreadable(CONFIRMATIONS, (SLOT[0], 2)))
    await follower.follow_once()
    assert dict(await ledger.verified_offsets(SLOT[0])) == {0: 5, 1: 5}
    assert (unverified(follower, CONFIRMATIONS[0]), unverified(follower, SLOT[0])) == (9, 7)
    said = [vars(record) for record in caplog.records if record.message == "inbound partition cannot be followed now"]
    assert [(one["topic"], one["partition"]) for one in said] == [CONFIRMATIONS, (SLOT[0], 2)]


async def test_an_unreadable_partition_is_tried_ever_less_often_and_followed_when_it_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K9, P8: a look may take seconds, which the others must not wait for every time; for long, it is an error."""
    monkeypatch.setattr("streams.gate.PAUSE_FIRST_SECONDS", 0.2)
    monkeypatch.setattr("streams.gate.PAUSE_MAX_SECONDS", 5.0)
    now = [0.0]
    records = SomeUnreadable(CONFIRMATIONS)
    follower, ledger = following(records, lambda: now[0])
    while now[0] <= PATIENCE_SECONDS + 10:
        await follower.follow_once()
        now[0] += 0.2
    assert records.reads.count(CONFIRMATIONS) < 30
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        "inbound partition is still not followed"
    ]
    records.unreadable.clear()
    for _ in range(30):
        await follower.follow_once()
        now[0] += 0.2
    assert dict(await ledger.verified_offsets(CONFIRMATIONS[0])) == {0: 9}


async def test_a_topic_whose_marks_cannot_be_read_is_not_followed_and_the_others_are() -> None:
    """L11, P8: without its mark nobody knows whether the ledger forgot, so nothing may be driven in there."""
    records = SomeUnreadable(marks_away=frozenset({CONFIRMATIONS[0]}))
    follower, ledger = following(records)
    await follower.follow_once()
    assert CONFIRMATIONS not in records.reads
    assert dict(await ledger.verified_offsets(SLOT[0])) == {0: 5, 1: 5, 2: 7}
    assert unverified(follower, CONFIRMATIONS[0]) == 9


async def test_a_record_that_cannot_be_driven_in_does_not_keep_out_those_behind_it() -> None:
    """K9, P8: the first one's handler fails for ever; the second one is paid all the same."""
    one = world(2, 2)
    handle = one.drive

    async def drive(record: Record) -> None:
        if record.offset == 0:
            raise ZeroDivisionError("a bug of ours")
        await handle(record)

    one.follower._drive = drive
    await one.follower.follow_once()
    one.now += PATIENCE_SECONDS
    await one.follower.follow_once()
    assert [record.offset for record in one.driven] == [1]


@given(
    count=st.integers(1, 12),
    batch=st.integers(1, 5),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_property_the_bookmark_never_passes_what_the_ledger_does_not_know(
    count: int, batch: int, data: st.DataObject
) -> None:
    """K9: whatever is missing, comes late or is compacted away: in the end all that exists is accounted for."""

    async def life() -> None:
        existing = data.draw(st.sets(st.integers(0, count - 1)))
        known = data.draw(st.sets(st.sampled_from(sorted(existing)))) if existing else set()
        one = World([message(offset) for offset in sorted(existing)], {SLOT: 0}, batch=batch)
        await one.account(*known)
        for _ in range(4 * count + 8):
            one.committed[SLOT] = min(count, one.committed[SLOT] + data.draw(st.integers(0, 3)))
            if data.draw(st.booleans()):
                one.follower = one.new_follower()  # a rebalance, or a restart
            await one.follower.follow_once()
            accounted = known | {record.offset for record in one.driven}
            verified = await one.verified()
            assert {offset for offset in existing if offset < verified} <= accounted
            one.now += data.draw(st.sampled_from([1.0, PATIENCE_SECONDS]))
        one.committed[SLOT] = count
        for _ in range(4 * count + 8):
            await one.follower.follow_once()
            one.now += PATIENCE_SECONDS
        assert await one.verified() == count
        assert {record.offset for record in one.driven} == existing - known

    asyncio.run(life())
