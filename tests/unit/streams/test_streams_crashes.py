"""Fault model: a worker killed, or refused an answer, at any point where it touches the outside; the end is the same.

Every boundary of a whole life is tried, one run each: before and after every ledger call, publish and call to Visa.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.interface import CommitUnknown, LedgerUnavailable
from processors.visa.exchange import Exchange
from processors.visa.identity import Operation
from processors.visa.requests import VisaRequest
from streams.keys import Keys
from streams.publisher import PublishUnconfirmed
from tests.unit.streams.streams_world import Killed, World, approved

BOUNDARIES_MAX = 400
"""A whole life has some sixty; one that reached this would be a loop."""

NewWorld = Callable[[], World]


@pytest.fixture
def new_world(keys: Keys, keys_directory: Path, world: World) -> NewWorld:
    """A fresh world for every run of one test."""
    del world
    return lambda: World(keys, keys_directory)


async def live(world: World, payout_id: str = "payout-0001", *, declined: bool = False) -> World:
    """A payout to its end: paid, or declined and reversed."""
    if declined:

        def decline(_: VisaRequest) -> Exchange:
            return approved("05")

        # Whatever is sent, and however often: this card is declined, and the query knows of no approval.
        world.visa.push = decline  # type: ignore[method-assign]
        await world.ask(payout_id, funding=world.card_pull(payout_id))
    else:
        await world.ask(payout_id)
    await world.settle(seconds=600.0)
    return world


async def check_paid_once(world: World, where: str) -> None:
    row = await world.row("payout-0001")
    assert (row.state, row.held) == ("PAID", False), where
    assert len(world.visa.pushes) == 1, where
    bodies = {(request.body, request.client_transaction_id) for request in world.visa.calls(Operation.PUSH_FUNDS)}
    assert len(bodies) == 1, f"one identity, byte-identical plaintext: {where}"
    assert {event["status"] for event in await world.events("payout_results")} == {"PAID"}, where
    assert len(set(world.event_ids("payout_results"))) == 1, where
    assert not world.broker.topics["payout_failed_requires_compensation"], where
    assert not world.broker.topics["payout_dead_letters"], where
    assert row.announced_version == row.announce_version, where


async def test_a_worker_killed_at_any_boundary_pays_once(new_world: NewWorld) -> None:
    """P1, P2, K1, S2: SIGKILL at every boundary of a life; another worker goes on from the acknowledged offsets."""
    for number in range(BOUNDARIES_MAX):
        world = new_world()
        world.boundary.kill_at = number
        await live(world)
        if len(world.boundary.passed) <= number:
            assert number > 30
            return
        await check_paid_once(world, f"killed at {number}: {world.boundary.passed[number]}")
    pytest.fail("a life has no end")


async def test_a_worker_killed_at_any_boundary_reverses_at_most_once(new_world: NewWorld) -> None:
    """P4, C1, C3, C4: a declined card-funded payout; the pull is given back once, or a person decides."""
    for number in range(BOUNDARIES_MAX):
        world = new_world()
        world.boundary.kill_at = number
        await live(world, declined=True)
        if len(world.boundary.passed) <= number:
            assert number > 40
            return
        where = f"killed at {number}: {world.boundary.passed[number]}"
        row = await world.row("payout-0001")
        if row.state == "UNKNOWN":
            assert row.held, f"the decline's answer was lost and Visa has no row of it: a person decides: {where}"
            assert (row.compensation, world.visa.reversals) == ("NONE", []), where
            continue
        assert row.state == "DECLINED", where
        assert len(world.visa.calls(Operation.REVERSE_FUNDS)) <= 1, where
        if world.visa.reversals:
            assert row.compensation == "COMPENSATED", where
        else:
            assert row.compensation == "MANUAL", where
        assert len(set(world.event_ids("payout_failed_requires_compensation"))) == 1, where
        assert len(set(world.event_ids("payout_compensation_results"))) == 1, where
    pytest.fail("a life has no end")


@pytest.mark.parametrize("error", [LedgerUnavailable, CommitUnknown])
@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_ledger_that_fails_at_any_write_changes_nothing_in_the_end(
    new_world: NewWorld, error: type[Exception], side: str
) -> None:
    """L4, K1, K5: not written, or written and not confirmed: read again, decide again, the same end."""
    if error is LedgerUnavailable and side == "after":
        error = CommitUnknown  # "unavailable" promises that nothing was written
    for number in range(BOUNDARIES_MAX):
        world = new_world()
        seen = [0]

        def fail(name: str, number: int = number, seen: list[int] = seen) -> BaseException | None:
            if not name.startswith("ledger.") or not name.endswith(side) or name.startswith("ledger.read"):
                return None
            seen[0] += 1
            return error("injected") if seen[0] == number + 1 else None

        world.boundary.fail = fail
        await live(world)
        if seen[0] <= number:
            assert number > 8
            return
        await check_paid_once(world, f"{error.__name__} {side} write {number}")
    pytest.fail("a life has no end")


@pytest.mark.parametrize("error", [ConnectionError("refused"), PublishUnconfirmed("late"), TimeoutError()])
@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_publish_that_fails_in_any_state_is_made_good(new_world: NewWorld, error: Exception, side: str) -> None:
    """K1, K2: the commit stands, the publish is lost or its confirmation is; the payout still ends."""
    for number in range(BOUNDARIES_MAX):
        world = new_world()
        seen = [0]

        def fail(name: str, number: int = number, seen: list[int] = seen) -> BaseException | None:
            if not name.startswith("publish.") or not name.endswith(side):
                return None
            seen[0] += 1
            return error if seen[0] == number + 1 else None

        world.boundary.fail = fail
        await live(world)
        if seen[0] <= number:
            assert number >= 3
            return
        await check_paid_once(world, f"{type(error).__name__} {side} publish {number}")
        assert bool(world.unconfirmed) is isinstance(error, TimeoutError), (
            "K5: only an unconfirmed one ends the process"
        )
    pytest.fail("a life has no end")


async def test_a_kill_at_any_two_boundaries_of_a_submission_pays_once(new_world: NewWorld) -> None:
    """P2: the second worker is killed too, at every boundary after the first effect."""
    reference = await live(new_world())
    first = reference.boundary.passed.index("visa.push_funds:after")
    for second in range(first + 1, BOUNDARIES_MAX):
        world = new_world()
        world.boundary.kill_at = first
        world.boundary.fail = _kill_again_at(world, second)
        await live(world)
        if len(world.boundary.passed) <= second:
            assert second > first + 20
            return
        await check_paid_once(world, f"killed at {first} and {second}: {world.boundary.passed[second]}")
    pytest.fail("a life has no end")


def _kill_again_at(world: World, number: int) -> Callable[[str], BaseException | None]:
    return lambda name: Killed(name) if len(world.boundary.passed) - 1 == number else None
