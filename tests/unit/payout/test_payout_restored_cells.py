"""A row that a restored copy shows before its first attempt, while what was lost may have paid it (L11)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.payout.events import (
    Cancelled,
    Event,
    Held,
    Rejected,
    Released,
    ResolutionProposed,
    ResolutionUndone,
    Resolved,
    Reviewed,
    Screened,
    ScreeningVerdict,
    Unbuildable,
    Validated,
)
from processors.payout.operator_actions import RESOLUTION_PROPOSED, is_in_doubt
from processors.payout.publications import publications
from processors.payout.row import (
    LEDGER_RESTORED,
    CompensationState,
    Executor,
    FundingKind,
    PayoutRow,
    PayoutState,
)
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply, plan
from processors.payout.step import Nothing, Step

MakeRow = Callable[..., PayoutRow]

IN_DOUBT = [PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.IN_REVIEW, PayoutState.CLEARED]
HELD = {"held": True, "hold_reason": LEDGER_RESTORED}
LATER = timedelta(hours=1)
SCREENED = ("CODE", "why", "p1", "l1", 9_000, "entry-1", "RECIPIENT")


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


def _resolved(row: PayoutRow, now: datetime, schedule: Schedule, *, paid: bool) -> PayoutRow:
    proposed = _step(apply(row, ResolutionProposed(paid, "case 7", "ann"), now, schedule)).row
    assert (proposed.state, proposed.hold_reason, is_in_doubt(proposed)) == (row.state, RESOLUTION_PROPOSED, True)
    agreed = Resolved(paid, "case 7", "ann", "bob", proposed.version)
    return _step(apply(proposed, agreed, now, schedule)).row


def _events(row: PayoutRow) -> list[Event]:
    return [
        Validated("p1"),
        Rejected("CODE", "why", "p1"),
        *(Screened(verdict, *SCREENED) for verdict in ScreeningVerdict),
        *(Reviewed(row.review_case_id or "", approved, "jan", "CODE") for approved in (True, False)),
        Unbuildable("CODE", "why"),
        Cancelled("ann", "why"),
    ]


@pytest.mark.parametrize("hold_reason", [LEDGER_RESTORED, RESOLUTION_PROPOSED])
@pytest.mark.parametrize("state", IN_DOUBT)
def test_l11_only_people_end_a_row_in_doubt(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, hold_reason: str
) -> None:
    """L11, P4, P3: no stage, no reviewer, no missing fact and no cancel: each would hand back what may be paid."""
    row = make_row(state, held=True, hold_reason=hold_reason, funding_captured=True, receipt_owned=True)
    assert isinstance(plan(row, now, schedule), Nothing)
    for event in _events(row):
        assert isinstance(apply(row, event, now, schedule), Nothing), event


@pytest.mark.parametrize("state", IN_DOUBT)
def test_l11_two_people_find_it_paid(make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState) -> None:
    """L11, S6: PAID, announced, and nothing is handed back."""
    row = make_row(state, **HELD, funding_captured=True, receipt_owned=True)
    paid = _resolved(row, now + LATER, schedule, paid=True)
    assert (paid.state, paid.reason_code, paid.held) == (PayoutState.PAID, "RESOLVED_PAID", False)
    assert paid.compensation is CompensationState.NONE
    assert [event.schema for event in publications(paid)] == ["PayoutResult"]
    undo = ResolutionUndone("ann", "oh", paid.state_version)
    refusal = apply(paid, undo, now + LATER, schedule)
    assert isinstance(refusal, Nothing), "there is no attempt that Visa could be asked about"


@pytest.mark.parametrize("kind", [FundingKind.AFT, FundingKind.INTERNAL, FundingKind.PIS])
@pytest.mark.parametrize("state", IN_DOUBT)
def test_l11_two_people_find_it_not_paid(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, kind: FundingKind
) -> None:
    """L11, C1: FAILED; a hand-back of ours stays held, because what was lost may have made it under other numbers."""
    row = make_row(state, **HELD, funding_captured=True, receipt_owned=True, funding_kind=kind)
    ended = _resolved(row, now + LATER, schedule, paid=False)
    assert (ended.state, ended.reason_code) == (PayoutState.FAILED, "RESOLVED_NOT_PAID")
    assert ended.compensation is not CompensationState.NONE
    ours = ended.compensation_executor is Executor.PROCESSOR
    assert (ended.held, ended.hold_reason) == ((True, LEDGER_RESTORED) if ours else (False, None))


@pytest.mark.parametrize(("in_doubt", "held"), [(True, True), (False, False)])
@pytest.mark.parametrize("state", [PayoutState.UNKNOWN, PayoutState.PENDING])
def test_l11_c1_a_hand_back_that_may_have_been_made_stays_held(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, in_doubt: bool, held: bool
) -> None:
    """L11, C1: under way in the copy, ended and handed back in what was lost: two people's word makes no second one."""
    row = make_row(
        state, held=True, hold_reason=RESOLUTION_PROPOSED, funding_captured=True, receipt_owned=True,
        funding_kind=FundingKind.AFT,
    )  # fmt: skip
    said = Resolved(False, "case 7", "ann", "jan", row.version, in_doubt)
    ended = _step(apply(row, said, now + LATER, schedule)).row
    assert ended.compensation is CompensationState.REQUIRED
    assert (ended.held, ended.hold_reason) == ((True, LEDGER_RESTORED) if held else (False, None))


@pytest.mark.parametrize("state", IN_DOUBT)
def test_l11_released_it_goes_on_in_its_flow(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """L11, L12, P1: by whoever has asked Visa; an open review is decided as ever."""
    released = _step(apply(make_row(state, **HELD), Released("ann", "not known to Visa"), now, schedule)).row
    assert (released.held, released.hold_reason, released.state) == (False, None, state)
    assert not is_in_doubt(released)
    if state is not PayoutState.IN_REVIEW:
        assert released.due_at == now
        assert not isinstance(plan(released, now, schedule), Nothing)


@pytest.mark.parametrize("state", sorted(set(PayoutState) - set(IN_DOUBT)))
def test_l11_no_other_row_is_in_doubt(make_row: MakeRow, state: PayoutState) -> None:
    """L11, S6: what is under way is asked about, what has ended has ended."""
    assert not is_in_doubt(make_row(state, **HELD))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(state=st.sampled_from(IN_DOUBT), data=st.data())
def test_l11_property_no_way_but_people_leads_out_of_doubt(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, data: st.DataObject
) -> None:
    """L11: whatever happens in whatever order, without a release or two people's word the row stays as it is."""
    row = make_row(state, **HELD, funding_captured=True, receipt_owned=True)
    events: list[Any] = [*_events(row), Held("INC"), ResolutionProposed(True, "case 7", "ann")]
    for event in data.draw(st.lists(st.sampled_from(events), max_size=12)):
        decision = apply(row, event, now + LATER, schedule)
        row = decision.row if isinstance(decision, Step) else row
        assert (row.state, row.held, is_in_doubt(row)) == (state, True, True)
        assert row.compensation is CompensationState.NONE
