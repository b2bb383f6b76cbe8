"""Four eyes: who may end a payout that nobody else can decide, and when his word counts (S6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.adoption import HELD_AFTER_RESTORE
from ledger.interface import Change, HistoryEntry
from ledger.memory import MemoryLedger
from ops.action_plans import Action, Ended, Result, carry_out, look
from ops.hold import not_overruled, rules_that_hold
from ops.resolve import approval, open_proposal
from processors.payout.events import Cancelled, Event, ResolutionProposed, ResolutionUndone, Resolved
from processors.payout.row import LEDGER_RESTORED, CompensationState, FundingKind, PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.step import Nothing
from streams.clock import utc_now
from tests.ops.operator_rows import SUBMITTED, new_row, stored

SCHEDULE = Schedule.test()
LONG_AGO = {"last_intent_at": datetime.now(UTC) - timedelta(hours=2)}


@pytest.fixture
def ledger() -> MemoryLedger:
    """An empty model."""
    return MemoryLedger(utc_now)


async def act(ledger: MemoryLedger, row: PayoutRow, operator: str, event: Any) -> Result:
    """Plan and do in one go; `event` is one, or makes one of row and history."""

    def made(current: PayoutRow, history: Sequence[HistoryEntry]) -> Event | Nothing:
        decided: Event | Nothing = event(current, history) if callable(event) else event
        return decided

    action = Action(name="act", operator=operator, event=made)
    plan = await look(ledger, action, row.payout_id, utc_now, SCHEDULE)
    return await carry_out(ledger, action, plan, utc_now, SCHEDULE)


async def proposed(ledger: MemoryLedger, row: PayoutRow, *, paid: bool = True, by: str = "maria") -> PayoutRow:
    """The row after somebody has proposed how it ended."""
    result = await act(ledger, row, by, ResolutionProposed(paid, "Visa case 4711", by))
    assert result.ended is Ended.DONE, result.why
    assert result.row is not None
    return result.row


async def approved(ledger: MemoryLedger, row: PayoutRow, version: int, *, paid: bool = True, by: str = "jan") -> Result:
    """What becomes of it when somebody agrees."""
    return await act(ledger, row, by, lambda current, history: approval(current, history, version, paid, by))


async def test_s6_one_person_proposes_and_nothing_is_resolved(ledger: MemoryLedger) -> None:
    """S6, L12: the payout stays UNKNOWN and is held; the history has what was found, and by whom."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row)
    assert (waiting.state, waiting.held, waiting.ambiguous) == (PayoutState.UNKNOWN, True, True)
    proposal = open_proposal(waiting, await ledger.history(row.payout_id))
    assert proposal is not None
    assert (proposal.paid, proposal.evidence, proposal.proposer) == (True, "Visa case 4711", "maria")


@pytest.mark.parametrize(("paid", "state"), [(True, PayoutState.PAID), (False, PayoutState.FAILED)])
async def test_s6_two_people_end_an_unknown_payout(ledger: MemoryLedger, paid: bool, state: PayoutState) -> None:
    """S6, C1: PAID, or FAILED with its compensation; both names and the evidence are in the history."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row, paid=paid)
    result = await approved(ledger, row, waiting.version, paid=paid)
    assert result.ended is Ended.DONE, result.why
    assert result.row is not None
    assert (result.row.state, result.row.held) == (state, False)
    wanted = CompensationState.NONE if paid else CompensationState.REQUIRED
    assert result.row.compensation is wanted
    entry = (await ledger.history(row.payout_id))[-1]
    assert (entry.actor, entry.detail["by"], entry.detail["approved_by"]) == ("jan", "maria", "jan")
    assert entry.detail["evidence"] == "Visa case 4711"


async def test_p9_the_plan_of_not_paid_names_the_hand_back(ledger: MemoryLedger) -> None:
    """P9: what will be asked of whom, in money, before anybody agrees."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row, paid=False)
    action = Action(
        name="act", operator="jan", event=lambda now, history: approval(now, history, waiting.version, False, "jan")
    )
    plan = await look(ledger, action, row.payout_id, utc_now, SCHEDULE)
    assert "compensation RELEASE_HOLD of 12.34 USD will be asked of originator shop-1" in plan.effects
    assert any("FAILED on payout_results" in text for text in plan.effects)


@pytest.mark.parametrize("same", ["maria", " Maria ", "MARIA"])
async def test_s6_nobody_agrees_with_himself(ledger: MemoryLedger, same: str) -> None:
    """S6: another spelling makes nobody a second person."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row)
    result = await approved(ledger, row, waiting.version, by=same)
    assert result.ended is Ended.REFUSED
    assert "another person" in result.why
    assert await ledger.read(row.payout_id) == waiting


async def test_s6_what_happened_since_the_proposal_makes_it_void(ledger: MemoryLedger) -> None:
    """S6, L2: evidence that came in between is told, and the proposal must be made again."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row)
    await ledger.commit(Change(waiting, replace(waiting, action_code="91"), "still_unknown", "worker-1"))
    result = await approved(ledger, row, waiting.version)
    assert result.ended is Ended.REFUSED
    assert f"still_unknown by worker-1 (version {waiting.version + 1})" in result.why


@pytest.mark.parametrize(("version", "paid"), [(1, True), (99, True), (3, False)])
async def test_s6_agreement_is_with_exactly_what_was_proposed(ledger: MemoryLedger, version: int, paid: bool) -> None:
    """S6: another version or the opposite outcome is no agreement."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row)
    assert waiting.version == 3
    assert (await approved(ledger, row, version, paid=paid)).ended is Ended.REFUSED
    assert await ledger.read(row.payout_id) == waiting


async def test_s6_an_agreement_given_twice_counts_once(ledger: MemoryLedger) -> None:
    """S6: the second time it finds the payout ended."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row)
    assert (await approved(ledger, row, waiting.version)).ended is Ended.DONE
    again = await approved(ledger, row, waiting.version)
    assert again.ended is Ended.REFUSED
    assert "resolved_paid by jan" in again.why


async def test_s6_an_approval_that_arrives_first_wins_over_the_proposal(ledger: MemoryLedger) -> None:
    """L2, S6: Visa's word came between proposal and agreement; "not paid" is refused and nothing handed back."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row, paid=False)
    paid = replace(waiting, state=PayoutState.PAID, ambiguous=False, held=False)
    await ledger.commit(Change(waiting, paid, "paid", "worker-1"))
    result = await approved(ledger, row, waiting.version, paid=False)
    assert result.ended is Ended.REFUSED
    now = await ledger.read(row.payout_id)
    assert now is not None
    assert (now.state, now.compensation) == (PayoutState.PAID, CompensationState.NONE)


async def test_p9_a_resolution_is_taken_back_while_nothing_followed(ledger: MemoryLedger) -> None:
    """P9: UNKNOWN and held again; whoever has read the result must be told, and the plan says so."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row)
    await approved(ledger, row, waiting.version)
    undo = lambda current, _: ResolutionUndone("jan", "another payout's case", current.state_version)  # noqa: E731
    action = Action(name="undo", operator="jan", event=undo)
    plan = await look(ledger, action, row.payout_id, utc_now, SCHEDULE)
    assert any("tell originator shop-1" in text for text in plan.effects)
    result = await carry_out(ledger, action, plan, utc_now, SCHEDULE)
    assert result.ended is Ended.DONE
    assert result.row is not None
    assert (result.row.state, result.row.held, result.row.ambiguous) == (PayoutState.UNKNOWN, True, True)


async def test_c2_a_resolution_whose_hand_back_was_asked_for_is_not_taken_back(ledger: MemoryLedger) -> None:
    """C2: the originator may have acted already."""
    row = await stored(ledger, PayoutState.UNKNOWN, **LONG_AGO)
    waiting = await proposed(ledger, row, paid=False)
    await approved(ledger, row, waiting.version, paid=False)
    result = await act(
        ledger, row, "jan", lambda current, _: ResolutionUndone("jan", "oh", current.state_version)
    )  # fmt: skip
    assert result.ended is Ended.REFUSED
    assert "originator" in result.why


async def test_l12_withdrawing_a_proposal_does_not_lift_the_hold_that_it_hides(ledger: MemoryLedger) -> None:
    """L12: a contradiction that held the payout before the proposal must be named too."""
    row = await stored(ledger, PayoutState.UNKNOWN, held=True, hold_reason="QUERY_CONTRADICTION", **LONG_AGO)
    waiting = await proposed(ledger, await proposed(ledger, row), by="ann")
    history = await ledger.history(row.payout_id)
    assert rules_that_hold(waiting, history) == ["RESOLUTION_PROPOSED", "QUERY_CONTRADICTION"]
    one, both = frozenset({"RESOLUTION_PROPOSED"}), frozenset({"RESOLUTION_PROPOSED", "QUERY_CONTRADICTION"})
    assert not_overruled(waiting, history, one) is not None
    assert not_overruled(waiting, history, both) is None


async def test_l11_l12_a_hold_of_the_restore_hides_no_earlier_one(ledger: MemoryLedger) -> None:
    """L11, L12: whoever releases it names what held it before, and so does who withdraws a proposal behind it."""
    held = await stored(ledger, PayoutState.CLEARED, held=True, hold_reason=LEDGER_RESTORED)
    detail = {"reason": LEDGER_RESTORED, "was_held_for": "QUERY_CONTRADICTION"}
    row = await ledger.commit(Change(held, held, HELD_AFTER_RESTORE, "maria", detail))
    assert row is not None
    history = await ledger.history(row.payout_id)
    assert rules_that_hold(row, history) == [LEDGER_RESTORED, "QUERY_CONTRADICTION"]
    waiting = await proposed(ledger, row, paid=True)
    history = await ledger.history(row.payout_id)
    assert rules_that_hold(waiting, history) == ["RESOLUTION_PROPOSED", LEDGER_RESTORED, "QUERY_CONTRADICTION"]


async def test_l11_an_agreement_knows_that_a_restored_copy_knew_no_more(ledger: MemoryLedger) -> None:
    """L11, C1: also where the copy showed it under way, and the proposal hides why it was held."""
    row = await stored(ledger, PayoutState.UNKNOWN, held=True, hold_reason=LEDGER_RESTORED, **LONG_AGO)
    waiting = await proposed(ledger, row, paid=False)
    said = approval(waiting, await ledger.history(row.payout_id), waiting.version, False, "jan")
    assert isinstance(said, Resolved)
    assert said.in_doubt
    other = await stored(ledger, PayoutState.UNKNOWN, payout_id="payout-other", **LONG_AGO)
    waiting = await proposed(ledger, other, paid=False)
    said = approval(waiting, await ledger.history(other.payout_id), waiting.version, False, "jan")
    assert isinstance(said, Resolved)
    assert not said.in_doubt


@pytest.mark.parametrize("state", [PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.CLEARED], ids=str)
async def test_s6_what_was_never_submitted_is_cancelled_with_its_hand_back(
    ledger: MemoryLedger, state: PayoutState
) -> None:
    """S6, C1: CANCELLED and the compensation of captured funding."""
    row = await stored(ledger, state, due_at=None)
    result = await act(ledger, row, "maria", Cancelled("maria", "INC-1"))
    assert result.ended is Ended.DONE
    assert result.row is not None
    assert (result.row.state, result.row.compensation) == (PayoutState.CANCELLED, CompensationState.REQUIRED)


@pytest.mark.parametrize("state", SUBMITTED, ids=str)
async def test_s6_what_may_be_paid_is_not_cancelled(ledger: MemoryLedger, state: PayoutState) -> None:
    """S6: EXPIRED and CANCELLED need the same as CLEARED: no ambiguous attempt."""
    row = await stored(ledger, state, ambiguous=True)
    result = await act(ledger, row, "maria", Cancelled("maria", "INC-1"))
    assert result.ended is Ended.REFUSED
    assert "resolve" in result.why
    assert await ledger.read(row.payout_id) == row


@pytest.mark.parametrize(
    ("kind", "captured", "says"),
    [
        (FundingKind.INTERNAL, True, "compensation RELEASE_HOLD of 12.34 USD will be asked of originator shop-1"),
        (FundingKind.PIS, True, "compensation REFUND_PIS of 12.34 USD will be asked of originator shop-1"),
        (FundingKind.INTERNAL, False, "no compensation: the funding was not captured"),
        (FundingKind.UNSPECIFIED, True, "is MANUAL (FUNDING_KIND_UNKNOWN): a person must hand it back"),
    ],
)
async def test_p9_the_plan_of_a_cancellation_names_the_hand_back(
    ledger: MemoryLedger, kind: FundingKind, captured: bool, says: str
) -> None:
    """P9, C2: who is asked for what, or why nobody is."""
    row = await stored(ledger, PayoutState.CLEARED, funding_kind=kind, funding_captured=captured)
    action = Action(name="cancel", operator="maria", event=lambda _row, _history: Cancelled("maria", "INC-1"))
    plan = await look(ledger, action, row.payout_id, utc_now, SCHEDULE)
    assert any(says in text for text in plan.effects), plan.effects


# Properties of the pure part.

WORDS = st.sampled_from(("resolution_proposed", "still_unknown", "held", "released"))


@given(
    transitions=st.lists(WORDS, min_size=1, max_size=8),
    asked=st.integers(min_value=1, max_value=9),
    paid=st.booleans(),
    proposed_paid=st.booleans(),
)
def test_s6_property_only_the_newest_line_can_be_agreed_with(
    transitions: list[str], asked: int, paid: bool, proposed_paid: bool
) -> None:
    """S6: there is an event exactly if the newest line is a proposal, is the version named, and says the same."""
    detail = {"paid": proposed_paid, "evidence": "case", "by": "maria"}
    history = [
        HistoryEntry("order-2026-0001", version, datetime.now(UTC), "maria", word, "UNKNOWN", "UNKNOWN", detail)
        for version, word in enumerate(transitions, start=1)
    ]
    row = new_row("order-2026-0001", version=len(transitions), state=PayoutState.UNKNOWN, held=True)
    event = approval(row, history, asked, paid, "jan")
    agrees = transitions[-1] == "resolution_proposed" and asked == len(transitions) and paid is proposed_paid
    assert isinstance(event, Resolved) is agrees
    if isinstance(event, Resolved):
        assert event == Resolved(proposed_paid, "case", "maria", "jan", len(transitions))
