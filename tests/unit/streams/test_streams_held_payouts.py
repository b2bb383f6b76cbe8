"""Held payouts: what a person is paged for, how what was held during its call is ended, and what it costs memory."""

import logging

import pytest

from ledger.interface import Change
from processors.payout.events import Answered, CallKind, Event, Held, ResolutionProposed, Resolved
from processors.payout.outcome import Outcome, OutcomeKind
from processors.payout.state_machine import apply
from processors.payout.step import Nothing, Step
from processors.visa.identity import Operation
from tests.unit.streams.streams_world import Killed, World, approved


async def act(world: World, event: Event, payout_id: str = "payout-0001") -> Step | Nothing:
    """What an operator's command does."""
    row = await world.row(payout_id)
    step = apply(row, event, world.now, world.schedule)
    if isinstance(step, Step):
        assert await world.model.commit(Change(row, step.row, step.transition, "maria", step.detail)) is not None
    return step


def pages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why a person was called, as the log says it."""
    return [str(getattr(record, "why", "")) for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_payout_held_during_its_call_is_resolvable_after_its_worker_died(world: World) -> None:
    """P1, S6, L12: held (wrong recipient?) while its call ran, then SIGKILL: two people can end it, nothing is sent.

    Its only other way out is the release, in whose first drive the query finds nothing and the money is sent again.
    """
    world.boundary.fail_once("visa.push_funds:before", Killed("visa.push_funds:before"))
    await world.ask("payout-0001")
    with pytest.raises(Killed):
        await world.deliver_all()
    world.worker = world.start_worker()
    assert isinstance(await act(world, Held("OPERATOR: wrong recipient?")), Step)
    too_early = await act(world, ResolutionProposed(False, "Visa case 4711: nothing was credited", "maria"))
    assert isinstance(too_early, Nothing)
    assert "under way" in too_early.reason
    world.advance(3600)
    await world.settle(seconds=30)
    proposed = await act(world, ResolutionProposed(False, "Visa case 4711: nothing was credited", "maria"))
    assert isinstance(proposed, Step), f"nobody can end it: {proposed}"
    agreed = Resolved(False, "Visa case 4711: nothing was credited", "maria", "jan", proposed.row.version)
    assert isinstance(await act(world, agreed), Step)
    await world.settle(seconds=30)
    row = await world.row("payout-0001")
    assert (row.state, row.held) == ("FAILED", False)
    assert world.visa.calls(Operation.PUSH_FUNDS) == []
    assert [event["status"] for event in await world.events("payout_results", "payout-0001")] == ["FAILED"]


async def test_an_approval_after_an_unpaid_end_pages_also_when_an_operator_holds_the_row(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """L2: it freezes and it pages; that somebody holds the payout for another reason must not silence the page."""
    world.visa.script[Operation.PUSH_FUNDS].append(lambda _: approved("05"))
    await world.ask("payout-0001")
    await world.settle()
    assert isinstance(await act(world, Held("OPERATOR: INC-1")), Step)
    late = Answered(CallKind.PUSH, 1, Outcome(OutcomeKind.PAID, "ACTION_CODE_00", action_code="00"), world.now)
    with caplog.at_level(logging.ERROR):
        row = await world.worker.driver.apply(await world.row("payout-0001"), late)
        assert row.hold_reason == "APPROVED_AFTER_UNPAID_END"
        assert pages(caplog) == ["APPROVED_AFTER_UNPAID_END"], "nobody is paged"
        await world.worker.driver.apply(row, late)
    assert pages(caplog) == ["APPROVED_AFTER_UNPAID_END"], "L2: the same news twice pages once"


async def test_what_is_never_announced_here_costs_no_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """L4, issue "Pay once": memory is bounded; a commit that was forgotten costs a commit more, never an event."""
    monkeypatch.setattr("streams.driver.OWN_COMMITS_MAX", 3)
    for number in range(8):
        await world.ask(f"payout-{number:04d}")
    await world.settle()
    driver = world.worker.driver
    for row in sorted(world.rows(), key=lambda row: row.payout_id):
        held = await driver.apply(row, Held("PROCESSING_FAILED:KeyError"))  # as after a bug: nothing is announced
        assert held.held
    assert list(driver._own_commits) == ["payout-0005", "payout-0006", "payout-0007"]
    settled: list[bool] = []
    settle = driver.ledger.settle

    async def counted() -> None:
        settled.append(True)
        await settle()

    monkeypatch.setattr(driver.ledger, "settle", counted)
    for payout_id, wanted in (("payout-0007", 0), ("payout-0000", 1)):
        row = await world.row(payout_id)
        await world.put_row(row, announced_version=0)
        await driver.announce(await world.row(payout_id))
        assert len(settled) == wanted, f"L4: {payout_id}"
