"""Handing captured funding back: at most once, only what was captured, never for what may have been paid (P4)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from processors.payout.events import Answered, CallKind, Confirmed, Released, Unbuildable
from processors.payout.outcome import OutcomeKind, Refusal
from processors.payout.row import (
    UNPAID_ENDS,
    CompensationAction,
    CompensationState,
    Executor,
    FundingKind,
    PayoutRow,
    PayoutState,
)
from processors.payout.schedule import Schedule, resend_not_before
from processors.payout.state_machine import apply, begin_call, compensation_id, plan
from processors.payout.step import MakeCall, Nothing, Step

MakeRow = Callable[..., PayoutRow]
Answer = Callable[..., Answered]
HOUR = timedelta(hours=1)
REVERSAL = {
    "funding_captured": True,
    "receipt_owned": True,
    "compensation_action": CompensationAction.REVERSE_FUNDS,
    "compensation_executor": Executor.PROCESSOR,
}


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


def _reversing(make_row: MakeRow, compensation: CompensationState, **changes: Any) -> PayoutRow:
    begun = compensation is not CompensationState.REQUIRED
    facts: dict[str, Any] = {"compensation": compensation, "compensation_version": 5, **REVERSAL}
    if begun:
        facts |= {"compensation_attempts": 1, "compensation_sealed_body": b"reversal"}
    facts |= {"compensation_ambiguous": compensation is CompensationState.UNKNOWN}
    row: PayoutRow = make_row(PayoutState.DECLINED, **(facts | changes))
    at = row.state_at
    return make_row(
        PayoutState.DECLINED,
        **(
            facts
            | {"compensation_at": at}
            | ({"compensation_first_intent_at": at, "compensation_last_intent_at": at} if begun else {})
            | changes
        ),
    )


# ---- what calls for it


@pytest.mark.parametrize(
    ("captured", "owned", "expected"),
    [
        (True, True, CompensationState.REQUIRED),
        (True, False, CompensationState.NONE),
        (False, True, CompensationState.NONE),
        (False, False, CompensationState.NONE),
    ],
)
def test_only_captured_funding_with_a_receipt_of_its_own_is_handed_back(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    captured: bool,
    owned: bool,
    expected: CompensationState,
) -> None:
    """C1, L7."""
    row = make_row(PayoutState.SUBMITTING, funding_captured=captured, receipt_owned=owned)
    after = _step(apply(row, answer(row, CallKind.PUSH, OutcomeKind.DECLINED), now, schedule)).row
    assert (after.state, after.compensation) == (PayoutState.DECLINED, expected)
    assert (after.due_at is not None) is (expected is CompensationState.REQUIRED)


@pytest.mark.parametrize(
    ("kind", "action", "executor", "compensation"),
    [
        (FundingKind.AFT, CompensationAction.REVERSE_FUNDS, Executor.PROCESSOR, CompensationState.REQUIRED),
        (FundingKind.INTERNAL, CompensationAction.RELEASE_HOLD, Executor.ORIGINATOR, CompensationState.REQUIRED),
        (FundingKind.PIS, CompensationAction.REFUND_PIS, Executor.ORIGINATOR, CompensationState.REQUIRED),
        (FundingKind.UNSPECIFIED, CompensationAction.MANUAL, Executor.PROCESSOR, CompensationState.MANUAL),
    ],
)
def test_who_hands_what_back(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    kind: FundingKind,
    action: CompensationAction,
    executor: Executor,
    compensation: CompensationState,
) -> None:
    """C2: and we drive only what is ours."""
    row = make_row(PayoutState.SUBMITTING, funding_captured=True, receipt_owned=True, funding_kind=kind)
    after = _step(apply(row, answer(row, CallKind.PUSH, OutcomeKind.DECLINED), now, schedule)).row
    assert (after.compensation_action, after.compensation_executor) == (action, executor)
    assert after.compensation is compensation
    ours = plan(after, now, schedule) == MakeCall(CallKind.REVERSE)
    assert ours is (action is CompensationAction.REVERSE_FUNDS)
    assert (after.due_at is not None) is ours


@pytest.mark.parametrize("kind", [OutcomeKind.PAID, OutcomeKind.PENDING, OutcomeKind.UNKNOWN, OutcomeKind.OPERATOR])
def test_nothing_is_handed_back_for_what_was_or_may_have_been_paid(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind
) -> None:
    """P3, P4."""
    row = make_row(PayoutState.SUBMITTING, funding_captured=True, receipt_owned=True)
    after = _step(apply(row, answer(row, CallKind.PUSH, kind), now, schedule)).row
    assert after.compensation is CompensationState.NONE


# ---- the reversal's call


def test_the_first_reversal_intent_fixes_its_body_and_a_later_one_repeats_it(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """C1, C3."""
    row = _reversing(make_row, CompensationState.REQUIRED)
    with pytest.raises(ValueError, match="body"):
        begin_call(row, CallKind.REVERSE, now, schedule)
    begun = begin_call(row, CallKind.REVERSE, now, schedule, sealed_body=b"reversal").row
    assert (begun.compensation, begun.compensation_attempts) == (CompensationState.RUNNING, 1)
    assert begun.state is PayoutState.DECLINED
    busy = answer(begun, CallKind.REVERSE, OutcomeKind.REFUSED, refusal=Refusal.RATE_LIMITED, systemic=True)
    again = _step(apply(begun, busy, now, schedule)).row
    assert (again.compensation, again.compensation_ambiguous) == (CompensationState.REQUIRED, False)
    with pytest.raises(ValueError, match="body"):
        begin_call(again, CallKind.REVERSE, now, schedule, sealed_body=b"another")
    assert begin_call(again, CallKind.REVERSE, now, schedule).row.compensation_sealed_body == b"reversal"


@pytest.mark.parametrize("compensation", sorted(set(CompensationState) - {CompensationState.REQUIRED}))
def test_no_reversal_begins_unless_it_is_required(
    make_row: MakeRow, now: datetime, schedule: Schedule, compensation: CompensationState
) -> None:
    """C1, C4: the last pure gate before money moves does not trust its caller."""
    row = _reversing(make_row, compensation)
    begun = compensation is not CompensationState.NONE
    try:
        intent = begin_call(row, CallKind.REVERSE, now, schedule, sealed_body=None if begun else b"reversal")
    except ValueError:
        return
    assert isinstance(intent, Nothing)


def test_a_reversal_whose_owner_has_gone_is_unknown_and_asked_about(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """C1: unknowns like a payout's."""
    live = _reversing(make_row, CompensationState.RUNNING, lease_owner="worker-a", lease_until=now + HOUR)
    assert isinstance(plan(live, now, schedule), Nothing)
    step = _step(plan(live, now + 2 * HOUR, schedule))
    assert (step.row.compensation, step.row.compensation_ambiguous) == (CompensationState.UNKNOWN, True)
    assert step.follow_up is CallKind.REVERSAL_QUERY


@pytest.mark.parametrize(
    ("kind", "refusal", "expected"),
    [
        (OutcomeKind.PAID, None, CompensationState.COMPENSATED),
        (OutcomeKind.DECLINED, None, CompensationState.MANUAL),
        (OutcomeKind.OPERATOR, None, CompensationState.MANUAL),
        (OutcomeKind.REFUSED, Refusal.REQUEST_INVALID, CompensationState.MANUAL),
        (OutcomeKind.REFUSED, Refusal.NOT_CONNECTED, CompensationState.REQUIRED),
        (OutcomeKind.UNKNOWN, None, CompensationState.UNKNOWN),
        (OutcomeKind.PENDING, None, CompensationState.UNKNOWN),
        (OutcomeKind.NOT_FOUND, None, CompensationState.UNKNOWN),
    ],
)
def test_what_a_reversals_own_reply_proves(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    kind: OutcomeKind,
    refusal: Refusal | None,
    expected: CompensationState,
) -> None:
    """C4, S4."""
    row = _reversing(make_row, CompensationState.RUNNING)
    after = _step(apply(row, answer(row, CallKind.REVERSE, kind, refusal=refusal), now, schedule)).row
    assert (after.compensation, after.state) == (expected, PayoutState.DECLINED)
    assert after.compensation_ambiguous is (expected is CompensationState.UNKNOWN)
    driven = expected in (CompensationState.REQUIRED, CompensationState.UNKNOWN)
    assert (after.due_at is not None) is driven


@pytest.mark.parametrize("kind", sorted(set(OutcomeKind) - {OutcomeKind.PAID}))
@pytest.mark.parametrize("call", [CallKind.REVERSE, CallKind.REVERSAL_QUERY])
@pytest.mark.parametrize("inquiries", [1, 100])
def test_an_ambiguous_reversal_is_asked_about_then_a_persons_and_never_sent_again(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    kind: OutcomeKind,
    call: CallKind,
    inquiries: int,
) -> None:
    """C4, S3: not found proves nothing, a late refusal clears nothing."""
    row = _reversing(make_row, CompensationState.UNKNOWN, compensation_inquiries=inquiries)
    refusal = Refusal.RATE_LIMITED if kind is OutcomeKind.REFUSED else None
    decision = apply(row, answer(row, call, kind, refusal=refusal), now + HOUR, schedule)
    if isinstance(decision, Step):
        assert decision.row.compensation in (CompensationState.UNKNOWN, CompensationState.MANUAL)
        assert decision.row.compensation_ambiguous
        assert decision.follow_up is None
    assert plan(row, now + HOUR, schedule) == MakeCall(CallKind.REVERSAL_QUERY)


@pytest.mark.parametrize("compensation", [CompensationState.UNKNOWN, CompensationState.MANUAL])
@pytest.mark.parametrize("call", [CallKind.REVERSE, CallKind.REVERSAL_QUERY])
def test_proof_of_the_reversal_is_accepted_whenever_it_comes(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    compensation: CompensationState,
    call: CallKind,
) -> None:
    """C4, L2: its own reply or a reversal row."""
    row = _reversing(make_row, compensation)
    after = _step(apply(row, answer(row, call, OutcomeKind.PAID), now, schedule)).row
    assert (after.compensation, after.due_at) == (CompensationState.COMPENSATED, None)
    assert after.announce_version == after.compensation_version == after.version


def test_an_ambiguous_reversal_is_no_persons_while_it_may_still_take_effect(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """P4: whoever takes MANUAL as "do it by hand" within the horizon hands back twice."""
    inquiries = schedule.compensation_inquiries_max
    row = _reversing(make_row, CompensationState.UNKNOWN, compensation_inquiries=inquiries)
    found_nothing = answer(row, CallKind.REVERSAL_QUERY, OutcomeKind.NOT_FOUND)
    after = _step(apply(row, found_nothing, now, schedule)).row
    assert after.compensation is CompensationState.UNKNOWN
    later = resend_not_before(schedule, row.compensation_last_intent_at or now)
    found_nothing = answer(row, CallKind.REVERSAL_QUERY, OutcomeKind.NOT_FOUND, asked_at=later)
    assert _step(apply(row, found_nothing, later, schedule)).row.compensation is CompensationState.MANUAL


# ---- a call that cannot be built


def test_an_unbuildable_push_says_nothing_about_a_compensation_that_began_meanwhile(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """C2: another worker expired the payout while this one prepared its push; the originator is at work already."""
    row = _originators(make_row, state_at=now)
    assert isinstance(apply(row, Unbuildable("CARD_MISSING", "The request names no card."), now, schedule), Nothing)


def test_an_unbuildable_reversal_is_a_persons(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """C3: known not sent, so a person may act at once."""
    row = _reversing(make_row, CompensationState.REQUIRED)
    unbuildable = Unbuildable("CARD_MISSING", "The request names no card.", CallKind.REVERSE)
    after = _step(apply(row, unbuildable, now, schedule)).row
    assert (after.compensation, after.compensation_reason_code) == (CompensationState.MANUAL, "CARD_MISSING")


@pytest.mark.parametrize("compensation", sorted(set(CompensationState) - {CompensationState.REQUIRED}))
def test_an_unbuildable_reversal_is_a_persons_only_before_its_first_intent(
    make_row: MakeRow, now: datetime, schedule: Schedule, compensation: CompensationState
) -> None:
    """C3, C4."""
    unbuildable = Unbuildable("CARD_MISSING", "The request names no card.")
    assert isinstance(apply(_reversing(make_row, compensation), unbuildable, now, schedule), Nothing)


# ---- an approval after all


@pytest.mark.parametrize("state", sorted(UNPAID_ENDS))
def test_an_approval_after_an_unpaid_end_stops_the_compensation_for_good(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """L2, P4: a release, perhaps of a thousand rows at once, is no decision to hand this one back."""
    row = make_row(state, attempts=1, compensation=CompensationState.REQUIRED, compensation_version=5, **REVERSAL)
    frozen = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.PAID), now, schedule)).row
    assert isinstance(plan(frozen, now, schedule), Nothing)
    released = apply(frozen, Released("operator-1"), now, schedule)
    after = released.row if isinstance(released, Step) else frozen
    assert plan(after, now, schedule) != MakeCall(CallKind.REVERSE)


@pytest.mark.parametrize("state", sorted(UNPAID_ENDS))
def test_what_only_a_person_can_read_stops_the_compensation_too(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S5, P4: a late partial approval (action code 10) may have paid."""
    row = make_row(state, attempts=1, compensation=CompensationState.REQUIRED, compensation_version=5, **REVERSAL)
    partial = answer(row, CallKind.PUSH, OutcomeKind.OPERATOR, action_code="10")
    frozen = _step(apply(row, partial, now, schedule)).row
    assert (frozen.state, frozen.held, frozen.due_at) == (state, True, None)


@pytest.mark.parametrize("compensation", [CompensationState.NONE, CompensationState.REQUIRED])
@pytest.mark.parametrize("released", [True, False])
def test_an_approval_is_not_lost_on_a_row_that_was_frozen_for_a_doubt(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    compensation: CompensationState,
    released: bool,
) -> None:
    """L2: whoever judged the doubt to be nothing, and perhaps handed back by hand, has to hear of it."""
    facts = REVERSAL if compensation is CompensationState.REQUIRED else {}
    row = make_row(PayoutState.DECLINED, compensation=compensation, **facts)
    doubt = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.OPERATOR), now, schedule)).row
    if released:
        doubt = _step(apply(doubt, Released("operator-1"), now, schedule)).row
    frozen = _step(apply(doubt, answer(doubt, CallKind.QUERY, OutcomeKind.PAID), now, schedule)).row
    assert (frozen.held, frozen.hold_reason) == (True, "APPROVED_AFTER_UNPAID_END")


def test_a_freeze_does_not_hide_a_reversal_that_is_under_way(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """L9: `modes set` must still see the lease and wait."""
    row = _reversing(make_row, CompensationState.RUNNING, lease_owner="worker-a", lease_until=now + HOUR)
    frozen = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.PAID), now, schedule)).row
    assert (frozen.lease_owner, frozen.lease_until) == (row.lease_owner, row.lease_until)


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_reversal_refused_after_the_freeze_is_not_sent_again(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, refusal: Refusal
) -> None:
    """L2, P4: not even after a release."""
    row = _reversing(make_row, CompensationState.RUNNING)
    frozen = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.PAID), now, schedule)).row
    refused = answer(frozen, CallKind.REVERSE, OutcomeKind.REFUSED, refusal=refusal)
    after = _step(apply(frozen, refused, now, schedule)).row
    assert after.compensation is CompensationState.MANUAL


# ---- the originator's part


def _originators(make_row: MakeRow, **changes: Any) -> PayoutRow:
    action = {
        "compensation_action": CompensationAction.RELEASE_HOLD,
        "compensation_executor": Executor.ORIGINATOR,
        "funding_kind": FundingKind.INTERNAL,
    }
    facts = {"compensation": CompensationState.REQUIRED, "compensation_version": 5}
    return make_row(PayoutState.DECLINED, **(REVERSAL | facts | action | changes))


@pytest.mark.parametrize(
    ("completed", "expected"), [(True, CompensationState.COMPENSATED), (False, CompensationState.MANUAL)]
)
def test_the_originators_confirmation_ends_its_compensation_once(
    make_row: MakeRow, now: datetime, schedule: Schedule, completed: bool, expected: CompensationState
) -> None:
    """C2."""
    row = _originators(make_row)
    confirmed = Confirmed(compensation_id(row.payout_id), completed, "confirmation-1")
    after = _step(apply(row, confirmed, now, schedule)).row
    assert (after.compensation, after.compensation_reference) == (expected, "confirmation-1")
    assert after.announce_version == after.version
    assert isinstance(apply(after, confirmed, now, schedule), Nothing)


@pytest.mark.parametrize("reason_code", ["ORIGINATOR_REFUSED", "APPROVED_AFTER_UNPAID_END"])
@pytest.mark.parametrize("completed", [True, False])
def test_that_the_originator_handed_it_back_counts_after_a_person_was_called(
    make_row: MakeRow, now: datetime, schedule: Schedule, reason_code: str, completed: bool
) -> None:
    """C2, L2: whoever judges a payout that was paid after all must see that its funding went back as well."""
    row = _originators(
        make_row,
        compensation=CompensationState.MANUAL,
        compensation_reason_code=reason_code,
        held=True,
        hold_reason=reason_code,
    )
    decision = apply(row, Confirmed(compensation_id(row.payout_id), completed, "confirmation-1"), now, schedule)
    if not completed:
        assert isinstance(decision, Nothing)
        return
    after = _step(decision).row
    assert (after.compensation, after.compensation_reference) == (CompensationState.COMPENSATED, "confirmation-1")
    assert (after.held, after.announce_version) == (True, after.version)


def test_a_confirmation_counts_only_for_the_compensation_it_names(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """C2: never for one of ours, never before there is one, never for another payout's."""
    name = compensation_id("payout-0001")
    ours = _reversing(make_row, CompensationState.REQUIRED)
    for row, named in [(ours, name), (make_row(PayoutState.PAID), name), (_originators(make_row), "payout-0002.x")]:
        assert isinstance(apply(row, Confirmed(named, True, "confirmation-1"), now, schedule), Nothing)
