"""K2, P1, P8: the sweeper publishes what was lost, whatever stands before it in the ledger."""

import logging

import pytest

from streams.publisher import BrokerUnavailable
from streams.sweeper import FAILED_REST_SECONDS
from tests.unit.streams.streams_world import World

LOST = "payout-0009"
"""The last written row of every test: its result was lost."""
CANNOT_BE_ANNOUNCED = "row cannot be announced"


async def behind_unannounceable(
    world: World, monkeypatch: pytest.MonkeyPatch, *, count: int = 9, batch: int = 3
) -> int:
    """Rows that no event can express, several batches of them, then a lost result; how often that was published."""
    monkeypatch.setattr("streams.sweeper.BATCH_MAX", batch)
    for number in range(9 - count, 10):
        await world.ask(f"payout-{number:04d}")
    await world.settle()
    for row in world.rows():
        attempts = row.attempts if row.payout_id == LOST else 2**40
        await world.put_row(row, announced_version=0, attempts=attempts)
    world.advance(60)
    return len(await world.events("payout_results", LOST))


@pytest.mark.parametrize("count", [3, 4, 9])
async def test_rows_that_cannot_be_announced_do_not_starve_those_that_can(
    world: World, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """K2, P1, P8: batches full of rows that no event can express; the lost result behind them is still published."""
    published = await behind_unannounceable(world, monkeypatch, count=count)
    for _ in range(count // 3 + 1):
        await world.worker.sweeper.sweep()
    assert len(await world.events("payout_results", LOST)) == published + 1


async def test_more_such_rows_than_are_remembered_do_not_starve_anybody_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K2, P8: it is the place in the ledger that moves on, not the memory of failures."""
    monkeypatch.setattr("streams.sweeper.FAILED_MAX", 1)
    published = await behind_unannounceable(world, monkeypatch)
    for _ in range(4):
        await world.worker.sweeper.sweep()
    assert len(await world.events("payout_results", LOST)) == published + 1


async def test_a_row_that_could_not_be_announced_rests_and_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """K2: no log full of one row, and none given up for ever: once repaired it is announced."""
    await behind_unannounceable(world, monkeypatch, count=1, batch=200)

    def failures() -> int:
        return [record.message for record in caplog.records].count(CANNOT_BE_ANNOUNCED)

    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            await world.worker.sweeper.sweep()
        assert failures() == 1
        world.advance(FAILED_REST_SECONDS)
        await world.worker.sweeper.sweep()
        assert failures() == 2
    broken = await world.row("payout-0008")
    await world.put_row(broken, attempts=1)
    published = len(await world.events("payout_results", broken.payout_id))
    world.advance(FAILED_REST_SECONDS)
    await world.worker.sweeper.sweep()
    assert len(await world.events("payout_results", broken.payout_id)) == published + 1


async def test_a_record_that_the_broker_refuses_does_not_end_every_pass(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: a refusal of one record looks like a broker that is away; the next pass begins with the next row."""
    published = await behind_unannounceable(world, monkeypatch, count=1, batch=200)
    announce = world.worker.announcer.announce

    async def refused(row: object, *, again: bool = False) -> None:
        if getattr(row, "payout_id", None) != LOST:
            raise BrokerUnavailable("the broker did not take a record: MessageSizeTooLargeError")
        await announce(await world.row(LOST), again=again)

    monkeypatch.setattr(world.worker.announcer, "announce", refused)
    with pytest.raises(BrokerUnavailable):
        await world.worker.sweeper.sweep()
    await world.worker.sweeper.sweep()
    assert len(await world.events("payout_results", LOST)) == published + 1
