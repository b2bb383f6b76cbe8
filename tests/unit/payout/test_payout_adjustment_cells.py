"""A card pull older than 24 h is adjusted: under numbers of its own, once, and never sent again when ambiguous (C3)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from processors.payout.events import Answered, CallKind, NewIdentity, Unbuildable
from processors.payout.intents import IntentNotAllowed
from processors.payout.outcome import OutcomeKind, Refusal
from processors.payout.row import CompensationAction, CompensationState, Executor, PayoutRow, PayoutState
from processors.payout.schedule import Schedule, resend_not_before
from processors.payout.state_machine import apply, begin_call, plan
from processors.payout.step import MakeCall, Nothing, Step

MakeRow = Callable[..., PayoutRow]
Answer = Callable[..., Answered]
HOUR = timedelta(hours=1)


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


def _owed(make_row: MakeRow, now: datetime, **changes: Any) -> PayoutRow:
    """A decline whose card pull was 25 h ago; the end itself decided for the adjustment."""
    facts = {
        "funding_captured": True,
        "receipt_owned": True,
        "funding_captured_at": now - 25 * HOUR,
        "compensation": CompensationState.REQUIRED,
        "compensation_action": CompensationAction.ADJUSTMENT,
        "compensation_executor": Executor.PROCESSOR,
        "compensation_version": 5,
    }
    return make_row(PayoutState.DECLINED, **(facts | changes))


def _aged(make_row: MakeRow, now: datetime, **changes: Any) -> PayoutRow:
    """The end decided for a reversal, which had no intent before 24 h had passed."""
    return _owed(make_row, now, **({"compensation_action": CompensationAction.REVERSE_FUNDS} | changes))


def _first(now: datetime) -> dict[str, Any]:
    return {"identity": NewIdentity(8, 100_008, "606012000000", now), "sealed_body": b"adjustment"}


def _running(make_row: MakeRow, now: datetime, schedule: Schedule) -> PayoutRow:
    return begin_call(_owed(make_row, now), CallKind.ADJUST, now, schedule, **_first(now)).row


def _unknown(make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule) -> PayoutRow:
    row = _running(make_row, now, schedule)
    return _step(apply(row, answer(row, CallKind.ADJUST, OutcomeKind.UNKNOWN), now, schedule)).row


# ---- what calls for it


def test_an_unpaid_end_with_an_old_card_pull_calls_for_an_adjustment_by_us(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """C2: and it is driven."""
    pulled = {"funding_captured": True, "receipt_owned": True, "funding_captured_at": now - 25 * HOUR}
    row = make_row(PayoutState.SUBMITTING, **pulled)
    after = _step(apply(row, answer(row, CallKind.PUSH, OutcomeKind.DECLINED), now, schedule)).row
    assert (after.compensation, after.compensation_action) == (
        CompensationState.REQUIRED,
        CompensationAction.ADJUSTMENT,
    )
    assert (after.compensation_executor, after.due_at is not None) == (Executor.PROCESSOR, True)
    assert plan(after, now, schedule) == MakeCall(CallKind.ADJUST, needs_identity=True)


@pytest.mark.parametrize(
    ("age", "call"), [(24 * HOUR - timedelta(seconds=1), CallKind.REVERSE), (24 * HOUR, CallKind.ADJUST)]
)
def test_a_reversal_that_aged_before_its_first_intent_becomes_an_adjustment(
    make_row: MakeRow, now: datetime, schedule: Schedule, age: timedelta, call: CallKind
) -> None:
    """C3: the kind is fixed with the first intent, not before."""
    row = _aged(make_row, now, funding_captured_at=now - age)
    assert plan(row, now, schedule) == MakeCall(call, needs_identity=call is CallKind.ADJUST)
    other = CallKind.REVERSE if call is CallKind.ADJUST else CallKind.ADJUST
    with pytest.raises(IntentNotAllowed):
        begin_call(row, other, now, schedule, sealed_body=b"body")


def test_a_reversal_that_had_an_intent_never_becomes_an_adjustment(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """C3: refused until the window had passed, it is a person's, with a reason that is announced."""
    at = now - 2 * HOUR
    begun = {"compensation_attempts": 1, "compensation_first_intent_at": at, "compensation_sealed_body": b"reversal"}
    row = _aged(make_row, now, **begun)
    with pytest.raises(IntentNotAllowed):
        begin_call(row, CallKind.ADJUST, now, schedule, **_first(now))
    after = _step(plan(row, now, schedule)).row
    assert (after.compensation, after.compensation_reason_code) == (CompensationState.MANUAL, "REVERSAL_WINDOW_PASSED")
    assert after.announce_version == after.version


@pytest.mark.parametrize("missing", [{"funding_reversible": False}, {"funding_captured_at": None}])
def test_an_adjustment_needs_every_fact_of_the_pull(
    make_row: MakeRow, now: datetime, schedule: Schedule, missing: dict[str, Any]
) -> None:
    """C2: a person's, never guessed."""
    row = _aged(make_row, now, **missing)
    assert _step(plan(row, now, schedule)).row.compensation is CompensationState.MANUAL
    with pytest.raises(IntentNotAllowed):
        begin_call(row, CallKind.ADJUST, now, schedule, **_first(now))


# ---- its intents


@pytest.mark.parametrize("given", [{}, {"identity": True}, {"sealed_body": b"adjustment"}])
def test_a_first_adjustment_without_identity_or_body_is_none(
    make_row: MakeRow, now: datetime, schedule: Schedule, given: dict[str, Any]
) -> None:
    """S1, S2."""
    if "identity" in given:
        given = {"identity": _first(now)["identity"]}
    with pytest.raises(ValueError, match="identity and its body"):
        begin_call(_owed(make_row, now), CallKind.ADJUST, now, schedule, **given)


@pytest.mark.parametrize("build", [_owed, _aged])
def test_the_first_intent_fixes_kind_identity_and_body(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, build: Callable[..., PayoutRow]
) -> None:
    """S1, C3: refused before any effect, the same is sent again."""
    row = build(make_row, now)
    begun = begin_call(row, CallKind.ADJUST, now, schedule, **_first(now)).row
    assert (begun.compensation, begun.compensation_action) == (
        CompensationState.RUNNING,
        CompensationAction.ADJUSTMENT,
    )
    numbers = (begun.compensation_systems_trace_audit_number, begun.compensation_retrieval_reference_number)
    assert (begun.compensation_identity_number, numbers) == (8, (100_008, "606012000000"))
    assert (begun.identity_number, begun.state) == (row.identity_number, row.state), "the push keeps its own"
    busy = answer(begun, CallKind.ADJUST, OutcomeKind.REFUSED, refusal=Refusal.RATE_LIMITED, systemic=True)
    again = _step(apply(begun, busy, now, schedule)).row
    assert (again.compensation, again.compensation_ambiguous) == (CompensationState.REQUIRED, False)
    assert plan(again, now, schedule) == MakeCall(CallKind.ADJUST)
    with pytest.raises(ValueError, match="fixed"):
        begin_call(again, CallKind.ADJUST, now, schedule, **_first(now))
    resent = begin_call(again, CallKind.ADJUST, now, schedule).row
    assert (resent.compensation_sealed_body, resent.compensation_identity_number) == (b"adjustment", 8)
    with pytest.raises(IntentNotAllowed):
        begin_call(again, CallKind.REVERSE, now, schedule)


@pytest.mark.parametrize("compensation", sorted(set(CompensationState) - {CompensationState.REQUIRED}))
def test_no_adjustment_begins_unless_it_is_required(
    make_row: MakeRow, now: datetime, schedule: Schedule, compensation: CompensationState
) -> None:
    """C1: the last pure gate before money moves does not trust its caller."""
    with pytest.raises(IntentNotAllowed):
        begin_call(_owed(make_row, now, compensation=compensation), CallKind.ADJUST, now, schedule, **_first(now))


@pytest.mark.parametrize(
    "changes",
    [
        {"held": True, "hold_reason": "INCIDENT"},
        {"compensation_ambiguous": True},
        {"compensation_executor": Executor.ORIGINATOR},
        {"compensation_reason_code": "APPROVED_AFTER_UNPAID_END"},
    ],
)
@pytest.mark.parametrize("call", [CallKind.ADJUST, CallKind.REVERSE])
def test_nothing_is_handed_back_for_a_held_ambiguous_foreign_or_frozen_row(
    make_row: MakeRow, now: datetime, schedule: Schedule, changes: dict[str, Any], call: CallKind
) -> None:
    """L12, C3, C2, L2."""
    adjusts = call is CallKind.ADJUST
    row = _owed(make_row, now, **changes) if adjusts else _aged(make_row, now, funding_captured_at=now, **changes)
    given = _first(now) if adjusts else {"sealed_body": b"reversal"}
    with pytest.raises(IntentNotAllowed):
        begin_call(row, call, now, schedule, **given)


# ---- what its answers prove


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
def test_what_an_adjustments_own_reply_proves(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    kind: OutcomeKind,
    refusal: Refusal | None,
    expected: CompensationState,
) -> None:
    """S4, C1: MANUAL always says why, and is announced."""
    row = _running(make_row, now, schedule)
    after = _step(apply(row, answer(row, CallKind.ADJUST, kind, refusal=refusal), now, schedule)).row
    assert after.compensation is expected
    assert after.compensation_ambiguous is (expected is CompensationState.UNKNOWN)
    assert (after.compensation_reason_code is not None) is (expected is CompensationState.MANUAL)
    ended = expected in (CompensationState.MANUAL, CompensationState.COMPENSATED)
    assert (after.announce_version == after.version) is ended
    assert (after.due_at is None) is ended


def test_an_adjustment_whose_owner_has_gone_is_asked_about(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """S3, C1: its lease over, it is ambiguous."""
    step = _step(plan(_running(make_row, now, schedule), now + HOUR, schedule))
    assert (step.row.compensation, step.row.compensation_ambiguous) == (CompensationState.UNKNOWN, True)
    assert step.follow_up is CallKind.ADJUSTMENT_QUERY


@pytest.mark.parametrize("kind", sorted(set(OutcomeKind) - {OutcomeKind.PAID}))
@pytest.mark.parametrize("call", [CallKind.ADJUST, CallKind.ADJUSTMENT_QUERY])
@pytest.mark.parametrize("inquiries", [1, 100])
def test_an_ambiguous_adjustment_is_asked_about_then_a_persons_and_never_sent_again(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    kind: OutcomeKind,
    call: CallKind,
    inquiries: int,
) -> None:
    """S3: it has no duplicate key, so not even an answer that knows nothing of it allows another."""
    row = _unknown(make_row, answer, now, schedule)
    for _ in range(inquiries):
        row = begin_call(row, CallKind.ADJUSTMENT_QUERY, now, schedule).row
    later = resend_not_before(schedule, now)
    decision = apply(row, answer(row, call, kind, asked_at=later), later, schedule)
    if isinstance(decision, Step):
        assert decision.row.compensation in (CompensationState.UNKNOWN, CompensationState.MANUAL)
        assert decision.follow_up is None
        row = decision.row
    for moves_money in (CallKind.ADJUST, CallKind.REVERSE):
        with pytest.raises(IntentNotAllowed):
            begin_call(row, moves_money, later, schedule)
    if row.compensation is CompensationState.UNKNOWN:
        assert plan(row, later, schedule) == MakeCall(CallKind.ADJUSTMENT_QUERY)
    else:
        assert row.compensation_reason_code


@pytest.mark.parametrize("call", [CallKind.ADJUST, CallKind.ADJUSTMENT_QUERY])
def test_proof_of_the_adjustment_is_accepted_whenever_it_comes(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, call: CallKind
) -> None:
    """L2, C4: its own reply or a row of its own."""
    row = _unknown(make_row, answer, now, schedule)
    after = _step(apply(row, answer(row, call, OutcomeKind.PAID), now + HOUR, schedule)).row
    assert (after.compensation, after.compensation_reason_code) == (CompensationState.COMPENSATED, None)


@pytest.mark.parametrize("kind", [OutcomeKind.UNKNOWN, OutcomeKind.REFUSED])
def test_an_adjustment_that_visa_never_answers_for_comes_to_a_person_at_last(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind
) -> None:
    """P1: but not for an outage of a day."""
    row = _unknown(make_row, answer, now, schedule)
    refusal = Refusal.RATE_LIMITED if kind is OutcomeKind.REFUSED else None
    expected = {46: CompensationState.UNKNOWN, 47: CompensationState.MANUAL}
    for hours, compensation in expected.items():
        at = now + hours * HOUR
        silent = answer(row, CallKind.ADJUSTMENT_QUERY, kind, asked_at=at, refusal=refusal)
        assert _step(apply(row, silent, at, schedule)).row.compensation is compensation


def test_an_unbuildable_adjustment_is_a_persons_while_none_is_under_way(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """C3: known not sent; refused before any effect is known not to have happened, too."""
    unbuildable = Unbuildable("CARD_MISSING", "The request names no card.", CallKind.ADJUST)
    running = _running(make_row, now, schedule)
    refused = answer(running, CallKind.ADJUST, OutcomeKind.REFUSED, refusal=Refusal.RATE_LIMITED)
    again = _step(apply(running, refused, now, schedule)).row
    for row in (_owed(make_row, now), again):
        after = _step(apply(row, unbuildable, now, schedule)).row
        assert (after.compensation, after.compensation_reason_code) == (CompensationState.MANUAL, "CARD_MISSING")
    assert isinstance(apply(running, unbuildable, now, schedule), Nothing)


def test_an_ambiguous_adjustment_that_cannot_be_asked_about_is_held(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """P1, P4: held and not MANUAL: it may still take effect."""
    row = _unknown(make_row, answer, now, schedule)
    unbuildable = Unbuildable("IDENTITY_MISSING", "The row is damaged.", CallKind.ADJUSTMENT_QUERY)
    after = _step(apply(row, unbuildable, now, schedule)).row
    assert (after.held, after.compensation) == (True, CompensationState.UNKNOWN)
