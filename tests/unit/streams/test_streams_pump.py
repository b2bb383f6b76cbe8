"""K1, K5, P8: the shell around every agent, with events that behave as Faust's do."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from streams.gate import Gate
from streams.holes import Judge, Slot
from streams.metrics import Metrics
from streams.pump import Pump, Record
from streams.tracing import NO_TRACING, FinishedSpan, Tracing, current_span
from tests.unit.streams.streams_world import until

SLOTS = 4
UNACKNOWLEDGED_MAX = 1000
"""Far above what `SLOTS` tasks need, far below a backlog: a bound of some kind."""


class Away(Exception):
    """Something everybody needs is away."""


async def nothing_is_there(_: Slot, __: range) -> int | None:
    """A broker that knows of no record in any hole."""
    return None


class Switch:
    """The mode as a pump asks for it: open, until the test closes it."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.event.set()

    @property
    def is_open(self) -> bool:
        return self.event.is_set()

    async def passed(self) -> None:
        await self.event.wait()


@dataclass
class Faust:
    """Gives events to a pump and notes what it acknowledges."""

    generation: int = 7
    acknowledged: list[int] = field(default_factory=list)
    set_aside: list[int] = field(default_factory=list)
    queue: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    gate: Gate = field(default_factory=Gate)
    metrics: Metrics = field(default_factory=Metrics)
    on_bug: Callable[[Record, Exception], Awaitable[None]] | None = None
    first: dict[Slot, int] = field(default_factory=dict)
    """The committed offset of each partition: the lowest given, unless a test says otherwise."""
    losses: list[str] = field(default_factory=list)
    went_back: list[Slot] = field(default_factory=list)
    judge: Judge = field(default_factory=lambda: nothing_is_there)
    admission: "Switch | None" = None
    """None: a pump that nothing makes stand."""
    stood: list[Slot] = field(default_factory=list)

    def event(self, offset: int, **changes: Any) -> Any:
        """One event; `ack` notes its offset."""
        facts: dict[str, Any] = {
            "topic": "payout_requests",
            "partition": 0,
            "offset": offset,
            "timestamp": 1_772_366_400.25,
            "key": b"payout-0001",
            "value": b"value",
            "headers": [("ce_id", b"one"), ("empty", None)],
            "generation_id": self.generation,
        }
        message = SimpleNamespace(**(facts | changes))
        slot = (message.topic, message.partition)
        self.first[slot] = min(offset, self.first.get(slot, offset))
        return SimpleNamespace(message=message, value=message.value, ack=lambda: self.acknowledged.append(offset))

    def pump(
        self, handler: Callable[[Record], Awaitable[None]], *, slots: int = SLOTS, tracing: Tracing = NO_TRACING
    ) -> Pump:
        async def bug(record: Record, error: Exception) -> None:
            if self.on_bug is not None:
                await self.on_bug(record, error)
            self.set_aside.append(record.offset)

        return Pump(
            "payout_requests",
            handler,
            in_flight_max=slots,
            gate=self.gate,
            away=lambda error: "database" if isinstance(error, Away) else None,
            on_bug=bug,
            metrics=self.metrics,
            generation=lambda: self.generation,
            first_offset=self.first.get,
            went_back=self.went_back.append,
            judge=lambda slot, hole: self.judge(slot, hole),
            on_loss=self.losses.append,
            admission=self.admission,
            stand=self.stood.append,
            tracing=tracing,
        )

    async def events(self) -> AsyncIterator[Any]:
        """The stream: ends only when the test says so."""
        while (event := await self.queue.get()) is not None:
            yield event

    def give(self, *events: Any) -> None:
        for event in events:
            self.queue.put_nowait(event)


async def let_run(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def all_of(pump: Pump, faust: Faust, events: Sequence[Any]) -> None:
    """Run the pump over these events and wait for its tasks, without its drain (which lets it take nothing more)."""
    faust.give(*events, None)
    await pump.run(faust.events())
    await until(lambda: not pump.in_work)


async def slots_are_whole(pump: Pump, faust: Faust, first: int, slots: int = SLOTS) -> None:
    """After whatever happened, the pump still runs exactly `slots` tasks at once: no slot leaked, none was made."""
    release = asyncio.Event()

    async def wait(_: Record) -> None:
        await release.wait()

    pump._handler = wait
    faust.queue = asyncio.Queue()
    faust.give(*(faust.event(first + number) for number in range(slots + 2)), None)
    running = asyncio.create_task(pump.run(faust.events()))
    await let_run()
    assert pump.in_work == slots
    release.set()
    await asyncio.wait_for(running, 1.0)
    await until(lambda: not pump.in_work)


@pytest.mark.parametrize("seed", range(5))
async def test_acknowledgements_are_in_order_and_tasks_are_bounded(seed: int) -> None:
    """K1: random completion, ordered acknowledgements, never more than the slots at once."""
    chance = random.Random(seed)
    faust = Faust()
    at_once = 0

    async def handler(record: Record) -> None:
        nonlocal at_once
        at_once = max(at_once, pump.in_work)
        assert record.offset not in faust.acknowledged
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        assert record.offset not in faust.acknowledged, "acknowledged before its handler returned"

    pump = faust.pump(handler)
    await all_of(pump, faust, [faust.event(offset) for offset in range(100, 160)])
    assert faust.acknowledged == list(range(100, 160))
    assert at_once == SLOTS
    await slots_are_whole(pump, faust, 160)


async def test_the_record_is_what_the_event_carried() -> None:
    """P8: raw bytes in; headers without a value are dropped, the time is aware UTC."""
    faust = Faust()
    seen: list[Record] = []

    async def handler(record: Record) -> None:
        seen.append(record)

    await all_of(faust.pump(handler), faust, [faust.event(3)])
    (record,) = seen
    assert record.source == "payout_requests-0-3"
    assert record.headers == (("ce_id", b"one"),)
    assert record.timestamp.isoformat() == "2026-03-01T12:00:00.250000+00:00"


async def test_nothing_is_acknowledged_past_work_that_is_not_finished() -> None:
    """K1: the head holds back everything behind it, per partition."""
    faust = Faust()
    release = asyncio.Event()

    async def handler(record: Record) -> None:
        if record.offset == 10:
            await release.wait()

    pump = faust.pump(handler)
    faust.give(*(faust.event(offset) for offset in (10, 11, 12)), faust.event(50, partition=1), None)
    await pump.run(faust.events())
    await let_run()
    assert faust.acknowledged == [50]
    release.set()
    await let_run()
    assert faust.acknowledged == [50, 10, 11, 12]


async def test_an_event_of_an_earlier_generation_is_dropped_and_never_acknowledged() -> None:
    """K1: fetched before a rebalance; whoever has the partition now reads it again."""
    faust = Faust()
    handled: list[int] = []

    async def handler(record: Record) -> None:
        handled.append(record.offset)

    pump = faust.pump(handler)
    await all_of(pump, faust, [faust.event(1, generation_id=6), faust.event(2, generation_id=8), faust.event(3)])
    assert (handled, faust.acknowledged) == ([3], [3])
    await slots_are_whole(pump, faust, 4)


async def test_work_of_an_ended_generation_is_not_acknowledged() -> None:
    """K1: an acknowledgement from an old generation could move the commit past the head of the new one."""
    faust = Faust()
    release = asyncio.Event()

    async def handler(_: Record) -> None:
        await release.wait()

    pump = faust.pump(handler)
    faust.give(faust.event(10), None)
    await pump.run(faust.events())
    faust.generation = 8
    release.set()
    await let_run()
    assert faust.acknowledged == []
    await slots_are_whole(pump, faust, 10)


async def test_lost_partitions_are_not_acknowledged_and_their_tasks_may_end() -> None:
    """K1: forgotten before Faust's own revoke handling; what is in work ends, fenced by the ledger."""
    faust = Faust()
    release = asyncio.Event()
    ended: list[int] = []

    async def handler(record: Record) -> None:
        await release.wait()
        ended.append(record.offset)

    pump = faust.pump(handler)
    faust.give(faust.event(10), faust.event(11), faust.event(20, partition=1), None)
    await pump.run(faust.events())
    await let_run()
    pump.forget([("payout_requests", 0)])
    release.set()
    await let_run()
    assert sorted(ended) == [10, 11, 20]
    assert faust.acknowledged == [20]
    pump.forget()
    faust.generation += 1
    await slots_are_whole(pump, faust, 30)


async def test_an_event_that_waited_while_its_partition_was_lost_is_not_acknowledged() -> None:
    """K1: after a revoke the generation is the old one until the group has a new one.

    Scenario: all slots are taken, so the pump holds one more event in its hand. The partitions are revoked (windows
    forgotten, the transport's committed offset cleared), a slot becomes free, the event runs and is acknowledged by a
    window that knows nothing of the unfinished offset before it. The transport keeps that acknowledgement into the next
    generation and commits past the offset before it, which may still be in work there.
    """
    faust = Faust()
    release = asyncio.Event()

    async def handler(record: Record) -> None:
        if record.offset < 10 + SLOTS:
            await release.wait()

    pump = faust.pump(handler)
    faust.give(*(faust.event(10 + number) for number in range(SLOTS + 1)), None)
    running = asyncio.create_task(pump.run(faust.events()))
    await let_run()
    pump.forget()
    release.set()
    await asyncio.wait_for(running, 1.0)
    await let_run()
    assert faust.acknowledged == []


async def test_l9_k1_an_agent_that_stands_takes_nothing_and_goes_on_in_order_where_it_stood() -> None:
    """L9, E5, K1: no record is started while the mode forbids it, none is acknowledged, none is lost, none overtakes.

    Its events are taken out of the stream all the same: else Faust, which hands the events of all topics out in one
    loop, would wait for room in this one's buffer and starve the topics that go on.
    """
    faust = Faust(admission=Switch())
    handled: list[int] = []

    async def handler(record: Record) -> None:
        handled.append(record.offset)

    assert faust.admission is not None
    pump = faust.pump(handler)
    running = asyncio.create_task(pump.run(faust.events()))
    faust.give(faust.event(10))
    await until(lambda: handled == [10])
    faust.admission.event.clear()
    faust.give(*(faust.event(offset) for offset in range(11, 700)))
    await until(faust.queue.empty)
    await let_run()
    assert handled == faust.acknowledged == [10]
    assert (set(faust.stood), pump.in_work) == ({("payout_requests", 0)}, 0)
    faust.admission.event.set()
    faust.give(*(faust.event(offset) for offset in range(700, 710)), None)
    await asyncio.wait_for(running, 5.0)
    await until(lambda: not pump.in_work)
    assert faust.acknowledged == sorted(handled) == list(range(10, 710))
    assert faust.losses == []


async def test_l9_k1_what_an_agent_kept_while_it_stood_is_nobodys_after_its_partitions_were_lost() -> None:
    """L9, K1: whoever has the partition then reads it again; started here it would be acknowledged twice."""
    faust = Faust(admission=Switch())
    handled: list[int] = []

    async def handler(record: Record) -> None:
        handled.append(record.offset)

    assert faust.admission is not None
    pump = faust.pump(handler)
    running = asyncio.create_task(pump.run(faust.events()))
    faust.admission.event.clear()
    faust.give(*(faust.event(offset) for offset in range(10, 20)))
    await until(faust.queue.empty)
    pump.forget()
    faust.generation += 1
    faust.give(faust.event(10), faust.event(11))
    faust.admission.event.set()
    faust.give(None)
    await asyncio.wait_for(running, 5.0)
    await until(lambda: not pump.in_work)
    assert sorted(handled) == faust.acknowledged == [10, 11]


async def test_l9_a_mode_that_changes_back_and_forth_loses_nothing() -> None:
    """L9: the agent stands, goes on, stands again in the middle of what it kept."""
    faust = Faust(admission=Switch())
    dice = random.Random(7)
    assert faust.admission is not None
    switch = faust.admission

    async def handler(_: Record) -> None:
        (switch.event.clear if dice.random() < 0.3 else switch.event.set)()
        await asyncio.sleep(0)

    pump = faust.pump(handler)
    running = asyncio.create_task(pump.run(faust.events()))
    faust.give(*(faust.event(offset) for offset in range(10, 300)), None)
    while not running.done():
        await let_run(3)
        switch.event.set()
    await until(lambda: not pump.in_work)
    assert faust.acknowledged == list(range(10, 300))


async def test_a_reader_that_goes_back_does_not_let_unfinished_work_be_passed() -> None:
    """K1: offset 10 is in work when 11 is delivered a second time; nothing may be acknowledged past 10."""
    faust = Faust()
    release = asyncio.Event()

    async def handler(record: Record) -> None:
        if record.offset == 10:
            await release.wait()

    pump = faust.pump(handler)
    faust.give(faust.event(10), faust.event(11), faust.event(11), faust.event(12), None)
    await pump.run(faust.events())
    await let_run()
    assert faust.acknowledged == []
    release.set()
    await let_run()
    assert sorted(set(faust.acknowledged)) == faust.acknowledged == [10, 11, 12]


async def test_a_reader_that_goes_back_to_the_head_is_followed() -> None:
    """K1: after a seek to the committed offset everything from there is read, and acknowledged, again."""
    faust = Faust()
    handled: list[int] = []

    async def handler(record: Record) -> None:
        handled.append(record.offset)

    pump = faust.pump(handler)
    await all_of(pump, faust, [faust.event(offset) for offset in (10, 11, 10, 11, 12)])
    assert set(handled) == {10, 11, 12}
    assert faust.acknowledged[-1] == 12
    await slots_are_whole(pump, faust, 13)


async def test_a_hole_is_counted() -> None:
    """K8: an offset that was never delivered is at least seen."""
    faust = Faust()

    async def handler(_: Record) -> None:
        return

    await all_of(faust.pump(handler), faust, [faust.event(10), faust.event(14)])
    value = faust.metrics.registry.get_sample_value("payouts_offset_holes_total", {"topic": "payout_requests"})
    assert value == 3.0


async def handle_nothing(_: Record) -> None:
    """A handler that is done at once."""


async def test_nothing_behind_a_hole_is_acknowledged_before_it_is_judged() -> None:
    """K8: work goes on behind the hole, and neither an acknowledgement nor a commit passes it."""
    faust = Faust()
    answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    asked: list[tuple[Slot, range]] = []

    async def judge(slot: Slot, hole: range) -> int | None:
        asked.append((slot, hole))
        return await answer

    faust.judge = judge
    pump = faust.pump(handle_nothing)
    slot = ("payout_requests", 0)
    await all_of(pump, faust, [faust.event(offset) for offset in (10, 14, 15)])
    assert asked == [(slot, range(11, 14))]
    assert (faust.acknowledged, pump.committable(slot)) == ([10], 11)
    answer.set_result(None)
    await let_run()
    assert (faust.acknowledged, pump.committable(slot), faust.losses) == ([10, 14, 15], 16, [])


async def test_a_record_found_in_a_hole_ends_the_process_with_nothing_committed_past_it() -> None:
    """K8: the next start reads it again from there."""
    faust = Faust()

    async def judge(_: Slot, __: range) -> int | None:
        return 12

    faust.judge = judge
    pump = faust.pump(handle_nothing)
    await all_of(pump, faust, [faust.event(offset) for offset in (10, 11, 14)])
    await let_run()
    assert faust.losses == ["payout_requests-0-12: the record was never delivered to us"]
    assert (faust.acknowledged, pump.committable(("payout_requests", 0))) == ([10, 11], 12)
    assert faust.metrics.registry.get_sample_value("payouts_records_lost_total", {"topic": "payout_requests"}) == 1.0


async def test_the_first_event_must_stand_at_the_committed_offset() -> None:
    """K8: what lies between is a hole like any other."""
    faust = Faust(first={("payout_requests", 0): 7})
    asked: list[range] = []

    async def judge(_: Slot, hole: range) -> int | None:
        asked.append(hole)
        return 8

    faust.judge = judge
    pump = faust.pump(handle_nothing)
    await all_of(pump, faust, [faust.event(9)])
    await let_run()
    assert asked == [range(7, 9)]
    assert len(faust.losses) == 1
    assert (faust.acknowledged, pump.committable(("payout_requests", 0))) == ([], None)


async def test_a_log_that_was_cut_off_is_read_and_committed_from_its_beginning() -> None:
    """K8: it gives offsets below the committed one again; what is missing before them is a hole like any other."""
    faust = Faust()
    asked: list[range] = []

    async def judge(_: Slot, hole: range) -> int | None:
        asked.append(hole)
        return None

    faust.judge = judge
    pump = faust.pump(handle_nothing)
    events = [faust.event(offset) for offset in (2, 3)]
    faust.first[("payout_requests", 0)] = 300
    await all_of(pump, faust, events)
    await until(lambda: faust.acknowledged == [2, 3])
    assert (faust.went_back, asked) == ([("payout_requests", 0)], [range(2)])
    assert (faust.losses, pump.committable(("payout_requests", 0))) == ([], 4)


async def test_without_a_known_committed_offset_nothing_is_started() -> None:
    """K8: an event whose beginning nobody knows could hide any number of others."""
    faust = Faust()
    event = faust.event(9)
    faust.first.clear()
    pump = faust.pump(handle_nothing)
    await all_of(pump, faust, [event])
    assert len(faust.losses) == 1
    assert faust.acknowledged == []
    faust.first[("payout_requests", 0)] = 9
    await slots_are_whole(pump, faust, 9)


async def test_a_hole_is_judged_again_until_the_broker_answers() -> None:
    """K5, K8: meanwhile new work waits; no answer is no proof of emptiness."""
    faust = Faust()
    asked = 0

    async def judge(_: Slot, __: range) -> int | None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Away
        assert faust.gate.reasons == ("database",)
        return None

    faust.judge = judge
    pump = faust.pump(handle_nothing)
    await all_of(pump, faust, [faust.event(10), faust.event(12)])
    await until(lambda: faust.acknowledged == [10, 12])
    assert (asked, faust.gate.reasons) == (3, ())


async def test_a_hole_of_a_lost_partition_ends_nobody() -> None:
    """K8: whoever has it now begins at the committed offset, before the hole."""
    faust = Faust()
    answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def judge(_: Slot, __: range) -> int | None:
        return await answer

    faust.judge = judge
    pump = faust.pump(handle_nothing)
    await all_of(pump, faust, [faust.event(10), faust.event(12)])
    pump.forget()
    answer.set_result(11)
    await let_run()
    assert (faust.losses, faust.acknowledged) == ([], [10])


async def test_what_waits_behind_a_slow_head_keeps_no_content() -> None:
    """Limits: a thousand events may wait for one; each may have been a MiB."""
    faust = Faust()
    release = asyncio.Event()

    async def handler(record: Record) -> None:
        assert record.value == b"value"
        if record.offset == 10:
            await release.wait()

    pump = faust.pump(handler)
    events = [faust.event(10), faust.event(11)]
    faust.give(*events, None)
    await pump.run(faust.events())
    await let_run()
    assert [event.message.value for event in events] == [b"value", None]
    release.set()
    await until(lambda: faust.acknowledged == [10, 11])


async def test_a_handlers_bug_is_set_aside_and_acknowledged() -> None:
    """P8: one bad record never stops a partition."""
    faust = Faust()

    async def handler(record: Record) -> None:
        if record.offset == 11:
            raise ZeroDivisionError

    pump = faust.pump(handler)
    await all_of(pump, faust, [faust.event(offset) for offset in (10, 11, 12)])
    assert faust.set_aside == [11]
    assert faust.acknowledged == [10, 11, 12]
    await slots_are_whole(pump, faust, 13)


async def test_setting_a_bug_aside_is_tried_again_while_something_is_away() -> None:
    """P8, K5: a dead letter that could not be written is not acknowledged; it is written when the broker is back."""
    faust = Faust()
    tries = 0

    async def on_bug(_: Record, __: Exception) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            assert faust.acknowledged == []
            raise Away

    async def handler(_: Record) -> None:
        raise ZeroDivisionError

    faust.on_bug = on_bug
    pump = faust.pump(handler)
    await all_of(pump, faust, [faust.event(10)])
    assert (tries, faust.acknowledged) == (3, [10])
    await slots_are_whole(pump, faust, 11)


async def test_a_record_that_could_not_be_set_aside_is_tried_again_not_forgotten() -> None:
    """P8, design 6: no event is left without an end. Today it stays in the window for ever and freezes the commits."""
    faust = Faust()
    tries = 0

    async def on_bug(_: Record, __: Exception) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ValueError("setting it aside failed in a way nobody foresaw")

    async def handler(record: Record) -> None:
        if record.offset == 10:
            raise ZeroDivisionError

    faust.on_bug = on_bug
    pump = faust.pump(handler)
    await all_of(pump, faust, [faust.event(10), faust.event(11)])
    assert faust.acknowledged == [10, 11]
    await slots_are_whole(pump, faust, 12)


@pytest.mark.parametrize("timestamp", [1e15, -1e15, None])
async def test_an_absurd_timestamp_does_not_freeze_the_partition(timestamp: float | None) -> None:
    """P8: topics with CreateTime carry whatever time their producer wrote; a record is never an obstacle for it."""
    faust = Faust()

    async def handler(_: Record) -> None:
        return

    pump = faust.pump(handler)
    await all_of(pump, faust, [faust.event(10, timestamp=timestamp), faust.event(11)])
    assert faust.acknowledged == [10, 11]


async def test_what_is_away_closes_the_gate_and_is_tried_again() -> None:
    """K5: the same record is tried until it ends; new work waits; then it is acknowledged."""
    faust = Faust()
    tries = 0
    closed: list[tuple[str, ...]] = []
    back = asyncio.Event()

    async def handler(record: Record) -> None:
        nonlocal tries
        if record.offset == 10 and not back.is_set():
            tries += 1
            raise Away

    pump = faust.pump(handler)
    faust.give(faust.event(10))
    running = asyncio.create_task(pump.run(faust.events()))
    await until(lambda: tries > 0)
    await let_run(2)
    closed.append(faust.gate.reasons)
    assert faust.acknowledged == []
    back.set()
    faust.give(faust.event(11), None)
    await asyncio.wait_for(running, 1.0)
    await until(lambda: not pump.in_work)
    assert closed == [("database",)]
    assert faust.acknowledged == [10, 11]
    assert faust.gate.reasons == ()
    await slots_are_whole(pump, faust, 12)


async def test_new_work_waits_at_a_closed_gate() -> None:
    """K5, P8: nothing new starts while something is away."""
    faust = Faust()
    handled: list[int] = []

    async def handler(record: Record) -> None:
        handled.append(record.offset)

    pump = faust.pump(handler)
    faust.gate.close("broker")
    faust.give(faust.event(10), None)
    running = asyncio.create_task(pump.run(faust.events()))
    await let_run()
    assert handled == []
    faust.gate.open("broker")
    await asyncio.wait_for(running, 1.0)
    await let_run()
    assert handled == faust.acknowledged == [10]


async def test_a_gate_that_closes_while_a_slot_is_awaited_holds_the_event_back() -> None:
    """K5: the event in the pump's hand is new work as well."""
    faust = Faust()
    release = asyncio.Event()
    handled: list[int] = []

    async def handler(record: Record) -> None:
        handled.append(record.offset)
        await release.wait()

    pump = faust.pump(handler, slots=1)
    faust.give(faust.event(10), faust.event(11), None)
    running = asyncio.create_task(pump.run(faust.events()))
    await let_run()
    faust.gate.close("database")
    release.set()
    await let_run()
    assert handled == [10]
    faust.gate.open("database")
    await asyncio.wait_for(running, 1.0)
    await let_run()
    assert handled == [10, 11]


async def test_what_waits_for_its_acknowledgement_is_bounded() -> None:
    """K1, "limits on every queue": one slow head must not let a whole backlog pile up behind it in memory."""
    faust = Faust()
    release = asyncio.Event()

    async def handler(record: Record) -> None:
        if record.offset == 0:
            await release.wait()

    pump = faust.pump(handler)
    faust.give(*(faust.event(offset) for offset in range(UNACKNOWLEDGED_MAX * 3)), None)
    running = asyncio.create_task(pump.run(faust.events()))
    await let_run(UNACKNOWLEDGED_MAX * 12)
    waiting = sum(len(window) for _, window in pump._windows.values())
    release.set()
    await asyncio.wait_for(running, 10.0)
    await until(lambda: not pump.in_work)
    assert faust.acknowledged == list(range(UNACKNOWLEDGED_MAX * 3))
    assert waiting <= UNACKNOWLEDGED_MAX


async def test_drain_ends_what_is_in_work_and_starts_nothing_more() -> None:
    """Design 6: a bounded end; what was not started is neither handled nor acknowledged."""
    faust = Faust()
    release = asyncio.Event()
    handled: list[int] = []

    async def handler(record: Record) -> None:
        handled.append(record.offset)
        await release.wait()

    pump = faust.pump(handler, slots=2)
    faust.give(*(faust.event(offset) for offset in range(10, 14)), None)
    running = asyncio.create_task(pump.run(faust.events()))
    await let_run()
    draining = asyncio.create_task(pump.drain(5.0))
    await let_run()
    release.set()
    assert await draining
    await asyncio.wait_for(running, 1.0)
    await let_run()
    assert handled == faust.acknowledged == [10, 11]
    assert await pump.drain(0.0), "with nothing in work it is over at once"


async def test_drain_gives_up_at_its_limit() -> None:
    """Design 6: a stop is bounded, whatever a handler does."""
    faust = Faust()

    async def handler(_: Record) -> None:
        await asyncio.Event().wait()

    pump = faust.pump(handler)
    faust.give(faust.event(10), None)
    await pump.run(faust.events())
    assert not await pump.drain(0.01)
    assert faust.acknowledged == []
    for task in list(pump._tasks):
        task.cancel()
    await let_run()


async def test_a_cancelled_task_gives_its_slot_back_and_acknowledges_nothing() -> None:
    """K1: cancelled is not finished."""
    faust = Faust()

    async def handler(_: Record) -> None:
        await asyncio.Event().wait()

    pump = faust.pump(handler)
    faust.give(faust.event(10), None)
    await pump.run(faust.events())
    for task in list(pump._tasks):
        task.cancel()
    await let_run()
    assert (pump.in_work, faust.acknowledged) == (0, [])
    pump.forget()
    faust.generation += 1
    await slots_are_whole(pump, faust, 11)


async def test_s3_37_each_try_of_a_record_is_a_hop_that_says_how_it_ended() -> None:
    """What is away ends a try badly; a bug does not hide behind the record that was set aside."""
    faust, spans = Faust(), list[FinishedSpan]()
    outcomes: list[Exception | None] = [Away(), None, ValueError("4957030420210462")]

    async def handler(_: Record) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    async def on_bug(_: Record, __: Exception) -> None:
        current_span().fail("PROCESSING_FAILED")

    faust.on_bug = on_bug
    pump = faust.pump(handler, tracing=Tracing(spans.append))
    await all_of(pump, faust, [faust.event(0)])
    await all_of(pump, faust, [faust.event(1)])
    assert [(span.name, span.error) for span in spans] == [
        ("process payout_requests", "Away"),
        ("process payout_requests", None),
        ("process payout_requests", "PROCESSING_FAILED"),
    ]
    assert [span.attributes["messaging.kafka.offset"] for span in spans] == [0, 0, 1]
    assert faust.acknowledged == [0, 1]
