"""Records that are skipped are taken in, and their payouts held: over the model ledger (rules R2, L12, K9)."""

import pytest

from ledger.interface import InboundPosition, LedgerUnavailable
from processors.payout.events import Released
from processors.visa.identity import Operation
from streams.handlers import StageHandlers
from streams.holding import SkippedRecords, holding_handlers
from streams.pump import Record
from tests.unit.streams.streams_world import REQUESTS, World

WHY = "OPERATOR: skipped by offset plan 0123456789abcdef: INC-9"
PAYOUT = "payout-0001"


def skipping(world: World) -> SkippedRecords:
    """Handlers that hold, on this world's ledger and broker."""
    return holding_handlers(
        world.worker.driver.ledger,
        world.codec,
        world.keys,
        world.worker.publisher,
        reason=WHY,
        operator="maria",
        schedule=world.schedule,
        clock=world.clock,
        metrics=world.worker.metrics,
        prefix="",
    )


async def skip(world: World, *records: Record) -> SkippedRecords:
    """Skip these; the workers do not see them."""
    skipped = skipping(world)
    for record in records:
        await skipped(record)
        world.next_offset[record.topic] = max(world.next_offset[record.topic], record.offset + 1)
    return skipped


async def accounted(world: World, record: Record) -> bool:
    """Whether K9 finds it."""
    payout_id = None if record.key is None else record.key.decode()
    position = InboundPosition(record.topic, record.partition, record.offset, payout_id)
    return not await world.model.unaccounted([position])


async def release(world: World) -> None:
    """As the undo does."""
    await world.worker.driver.apply(await world.row(PAYOUT), Released("maria", "INC-9"))


async def test_r2_a_request_that_nobody_has_seen_is_a_row_held_from_its_first_moment(world: World) -> None:
    """R2, L12: nothing is called, screened or published for it; released and read again it is paid once."""
    record = await world.ask(PAYOUT)
    done = await skip(world, record)
    assert (done.counts.records, done.counts.held) == (1, 1)
    row = await world.row(PAYOUT)
    assert (row.held, row.hold_reason, row.state, row.version) == (True, WHY, "RECEIVED", 2)
    history = await world.model.history(PAYOUT)
    assert [(entry.transition, entry.actor) for entry in history] == [("received", "maria"), ("held", "maria")]
    assert await accounted(world, record)
    await world.settle()
    world.advance(3600)
    await world.settle()
    assert await world.row(PAYOUT) == row
    assert world.visa.requests == []

    await release(world)
    world.next_offset[REQUESTS] = 0
    await world.settle()
    assert (await world.row(PAYOUT)).state == "PAID"
    assert len(world.visa.calls(Operation.PUSH_FUNDS)) == 1


async def test_r2_a_second_run_after_one_that_broke_off_changes_nothing_more(world: World) -> None:
    """R2: the same plan may be applied again, whatever was done of it."""
    record = await world.ask(PAYOUT)
    world.boundary.fail_once("ledger.commit:before", LedgerUnavailable("away"))
    with pytest.raises(LedgerUnavailable):
        await skip(world, record)
    assert (await world.row(PAYOUT)).held, "held by the very insert"
    await skip(world, record)
    before = await world.row(PAYOUT)
    done = await skip(world, record)
    assert done.counts.held == 0
    assert await world.row(PAYOUT) == before
    assert await world.life(PAYOUT) == ["received", "held"]


async def test_r2_the_payout_behind_a_stage_event_is_held_and_its_event_does_nothing(world: World) -> None:
    """R2: a skipped event must not be made good by the sweeper: the payout waits for a person."""
    await world.deliver(await world.ask(PAYOUT))
    await world.worker.announcer.mark_now()
    (validated,) = world.broker.topics["payout_validated"]
    done = await skip(world, validated)
    assert done.counts.held == 1
    world.advance(3600)
    await world.settle()
    row = await world.row(PAYOUT)
    assert (row.state, row.held) == ("VALIDATED", True)
    await release(world)
    await world.settle()
    assert (await world.row(PAYOUT)).state == "PAID"


async def test_r2_what_has_ended_is_not_held_and_a_repeat_is_remembered(world: World) -> None:
    """R2, P5, K9: the outcome stands; a repeat that is skipped is accounted for, and not answered."""
    first = await world.ask(PAYOUT)
    await world.settle()
    paid, told = await world.row(PAYOUT), len(world.broker.topics["payout_results"])
    repeat = world.broker.put(REQUESTS, PAYOUT.encode(), first.value)
    done = await skip(world, first, repeat)
    assert done.counts.held == 0
    assert await world.row(PAYOUT) == paid
    assert await accounted(world, repeat)
    assert len(world.broker.topics["payout_results"]) == told


async def test_r2_k6_what_nobody_can_read_is_a_dead_letter_and_another_content_a_refusal(world: World) -> None:
    """R2, K6, K7: nothing is skipped in silence; a refused request never touches the payout's row."""
    await world.ask(PAYOUT)
    await world.settle()
    paid = await world.row(PAYOUT)
    unreadable = world.broker.put(REQUESTS, b"who-knows", b"no record at all")
    money = {"amount_minor": 999, "currency": "USD"}
    other = await world.ask(PAYOUT, amount=money)
    await skip(world, unreadable, other)
    assert len(world.broker.topics["payout_dead_letters"]) == 1
    assert len(await world.events("payout_refusals", PAYOUT)) == 1
    assert await accounted(world, unreadable)
    assert await accounted(world, other)
    assert await world.row(PAYOUT) == paid


async def test_r2_a_word_from_outside_that_is_skipped_does_nothing_and_leaves_a_trace(world: World) -> None:
    """R2, K9, C2: a confirmation that is passed compensates nothing, and nobody drives it in again."""
    await world.ask(PAYOUT, amount={"amount_minor": -5, "currency": "USD"})
    await world.settle()
    row = await world.row(PAYOUT)
    assert row.compensation == "REQUIRED"
    word = {
        "compensation_id": f"{PAYOUT}.compensation",
        "payout_id": PAYOUT,
        "originator_id": "acme",
        "confirmed_at": world.now,
        "confirmation_reference": "release-1",
        "outcome": "COMPLETED",
        "note": None,
    }
    record = await world.produce("payout_compensation_confirmations", "CompensationConfirmation", word)
    await skip(world, record)
    held = await world.row(PAYOUT)
    assert (held.compensation, held.held, held.hold_reason) == ("REQUIRED", True, WHY)
    assert await accounted(world, record)
    await release(world)
    await world.deliver(record)
    assert (await world.row(PAYOUT)).compensation == "COMPENSATED", "read again after the undo, it counts"


async def test_p8_a_fault_of_ours_holds_the_payout_and_sets_the_record_aside(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: as in a worker; the plan goes on with the other records."""
    record = await world.ask(PAYOUT)
    skipped = skipping(world)

    async def broken(_: Record) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setitem(skipped._handlers, REQUESTS, broken)
    await skipped(record)
    assert len(world.broker.topics["payout_dead_letters"]) == 1
    assert await accounted(world, record)


async def test_p8_a_skipped_record_whose_handling_fails_is_held_for_the_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8, L12: undoing the skip, which looks for its own reason, must not release what a person has to see."""

    async def fails(*_: object) -> None:
        raise KeyError("a fault of ours")

    await world.deliver(await world.ask(PAYOUT))
    await world.worker.announcer.mark_now()
    (validated,) = world.broker.topics["payout_validated"]
    monkeypatch.setattr(StageHandlers, "comply", fails)
    await skip(world, validated)
    row = await world.row(PAYOUT)
    assert (row.held, row.hold_reason) == (True, "PROCESSING_FAILED:KeyError")
