"""The state machine's table: what every event does to a row of every state that matters."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from processors.payout.events import (
    Answered,
    CallKind,
    NewIdentity,
    Rejected,
    Reviewed,
    Screened,
    ScreeningVerdict,
    Unbuildable,
    Validated,
)
from processors.payout.intents import IntentNotAllowed
from processors.payout.outcome import OutcomeKind, Refusal
from processors.payout.row import TERMINAL_STATES, UNPAID_ENDS, CompensationState, PayoutRow, PayoutState
from processors.payout.schedule import Schedule, resend_not_before
from processors.payout.state_machine import apply, begin_call, plan
from processors.payout.step import MakeCall, Nothing, RunStage, Stage, Step

MakeRow = Callable[..., PayoutRow]
Answer = Callable[..., Answered]

BEFORE_SUBMISSION = [PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.IN_REVIEW, PayoutState.CLEARED]
LATER_THAN_RECEIVED = [state for state in PayoutState if state is not PayoutState.RECEIVED]
SYSTEMIC = [Refusal.RATE_LIMITED, Refusal.NOT_CONNECTED, Refusal.CREDENTIALS, Refusal.WRONG_ENDPOINT]
HOUR = timedelta(hours=1)


def _screened(verdict: ScreeningVerdict) -> Screened:
    return Screened(verdict, "WATCH_LIST", "A name is listed.", "corridors-1", "list-1", 7_600, "entry-1", "RECIPIENT")


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


def _changes_nothing(row: PayoutRow, decision: Step | Nothing) -> bool:
    """Nothing, or a line in the history that gives the call's lease back (L3, L9)."""
    return isinstance(decision, Nothing) or decision.row == replace(row, version=row.version + 1)


def _begins(row: PayoutRow, call: CallKind, now: datetime, schedule: Schedule, **given: Any) -> bool:
    try:
        return isinstance(begin_call(row, call, now, schedule, **given), Step)
    except ValueError:
        return False


# ---- plan


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (PayoutState.RECEIVED, RunStage(Stage.VALIDATE)),
        (PayoutState.VALIDATED, RunStage(Stage.COMPLY)),
        (PayoutState.CLEARED, MakeCall(CallKind.PUSH, needs_identity=True)),
        (PayoutState.PENDING, MakeCall(CallKind.STATUS)),
        (PayoutState.UNKNOWN, MakeCall(CallKind.QUERY)),
    ],
)
def test_what_a_driven_row_needs(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, expected: object
) -> None:
    """K1: the same answer whoever asks; S3: unknown is asked about before anything is sent."""
    assert plan(make_row(state), now, schedule) == expected


@pytest.mark.parametrize("state", [PayoutState.IN_REVIEW, *sorted(TERMINAL_STATES)])
def test_a_row_that_waits_for_a_person_or_has_ended_needs_nothing(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """R1; terminal states never change."""
    assert isinstance(plan(make_row(state), now, schedule), Nothing)


@pytest.mark.parametrize("state", list(PayoutState))
def test_nothing_is_done_for_a_held_row(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """L12."""
    assert isinstance(plan(make_row(state, held=True, hold_reason="INCIDENT"), now, schedule), Nothing)


def test_a_live_lease_means_that_a_call_may_be_under_way(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """L3: also in the seconds by which clocks may differ."""
    row = make_row(PayoutState.SUBMITTING, lease_until=now)
    assert isinstance(plan(row, now + timedelta(seconds=schedule.clock_skew_seconds - 0.001), schedule), Nothing)


def test_a_submission_whose_owner_has_gone_is_unknown_and_asked_about(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """S2, P3: never taken as not sent."""
    row = make_row(PayoutState.SUBMITTING, lease_until=now - timedelta(minutes=1))
    step = _step(plan(row, now, schedule))
    assert (step.row.state, step.row.ambiguous, step.follow_up) == (PayoutState.UNKNOWN, True, CallKind.QUERY)


@pytest.mark.parametrize("changes", [{"status_identifier": None}, {"last_intent_at": None, "state_at": None}])
def test_a_pending_payout_is_queried_when_its_status_is_no_longer_kept(
    make_row: MakeRow, now: datetime, schedule: Schedule, changes: dict[str, Any]
) -> None:
    """S4, S6: Visa keeps a status identifier for 24 h; then the query is the only witness."""
    changes = {key: (now - 23 * HOUR if key == "state_at" else value) for key, value in changes.items()}
    step = _step(plan(make_row(PayoutState.PENDING, **changes), now, schedule))
    assert (step.row.state, step.row.ambiguous, step.follow_up) == (PayoutState.UNKNOWN, True, CallKind.QUERY)


@pytest.mark.parametrize("attempts", [0, 2])
def test_a_cleared_payout_past_its_expiry_ends_expired(
    make_row: MakeRow, now: datetime, schedule: Schedule, attempts: int
) -> None:
    """S6: no attempt is ambiguous, so nothing can have been paid."""
    facts = {"first_intent_at": now - HOUR, "last_intent_at": now - HOUR} if attempts else {}
    row = make_row(PayoutState.CLEARED, expires_at=now, attempts=attempts, **facts)
    assert _step(plan(row, now, schedule)).row.state is PayoutState.EXPIRED


@pytest.mark.parametrize("attempts", [0, 2])
def test_no_intent_is_written_that_expired_after_it_was_decided_on(
    make_row: MakeRow, now: datetime, schedule: Schedule, attempts: int
) -> None:
    """S2, S6: a worker slept between its decision and its intent; the next drive ends the payout EXPIRED."""
    facts = {"first_intent_at": now - HOUR, "last_intent_at": now - HOUR} if attempts else {}
    row = make_row(PayoutState.CLEARED, expires_at=now + timedelta(seconds=1), attempts=attempts, **facts)
    first: dict[str, Any] = (
        {} if attempts else {"identity": NewIdentity(1, 100_001, "606012000000", now), "sealed_body": b"body"}
    )
    assert begin_call(row, CallKind.PUSH, now, schedule, **first).row.state is PayoutState.SUBMITTING
    with pytest.raises(IntentNotAllowed, match="expires_at"):
        begin_call(row, CallKind.PUSH, now + timedelta(seconds=1), schedule, **first)


def test_what_may_have_been_paid_is_resent_after_its_expiry(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """S3, S6: only a payout that is known not paid can expire; an unknown one is settled by the same push again."""
    row = make_row(PayoutState.UNKNOWN, expires_at=now - HOUR)
    assert begin_call(row, CallKind.PUSH, now, schedule).row.state is PayoutState.SUBMITTING


@pytest.mark.parametrize(
    ("age", "expected"), [(23 * HOUR - timedelta(seconds=1), None), (23 * HOUR, PayoutState.FAILED)]
)
def test_an_identity_is_not_used_after_23_hours(
    make_row: MakeRow, now: datetime, schedule: Schedule, age: timedelta, expected: PayoutState | None
) -> None:
    """P3, S3: every attempt was refused, so it ends known not paid."""
    row = make_row(PayoutState.CLEARED, attempts=3, first_intent_at=now - age, last_intent_at=now - HOUR)
    decision = plan(row, now, schedule)
    if expected is None:
        assert decision == MakeCall(CallKind.PUSH)
    else:
        assert _step(decision).row.state is expected


# ---- intents


def test_the_first_intent_fixes_identity_and_body(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """S1, S2."""
    identity = NewIdentity(9, 100_009, "606012000000", now)
    row = make_row(PayoutState.CLEARED)
    begun = begin_call(row, CallKind.PUSH, now, schedule, identity=identity, sealed_body=b"body").row
    assert (begun.state, begun.attempts, begun.sealed_body) == (PayoutState.SUBMITTING, 1, b"body")
    assert (begun.systems_trace_audit_number, begun.retrieval_reference_number) == (100_009, "606012000000")
    assert begun.first_intent_at == begun.last_intent_at == now
    assert begun.due_at is not None
    assert begun.due_at >= now + timedelta(seconds=schedule.lease_seconds)


@pytest.mark.parametrize("given", [{}, {"identity": True}, {"sealed_body": b"body"}])
def test_a_first_intent_without_identity_or_body_is_no_intent(
    make_row: MakeRow, now: datetime, schedule: Schedule, given: dict[str, Any]
) -> None:
    """S2."""
    if "identity" in given:
        given = {"identity": NewIdentity(9, 100_009, "606012000000", now)}
    with pytest.raises(ValueError, match="first intent"):
        begin_call(make_row(PayoutState.CLEARED), CallKind.PUSH, now, schedule, **given)


def test_a_resend_repeats_identity_and_body(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """S1, S3: never a new identity."""
    row = make_row(PayoutState.UNKNOWN)
    begun = begin_call(row, CallKind.PUSH, now + HOUR, schedule).row
    assert (begun.identity_number, begun.sealed_body) == (row.identity_number, row.sealed_body)
    assert (begun.first_intent_at, begun.last_intent_at) == (row.first_intent_at, now + HOUR)
    assert begun.ambiguous
    with pytest.raises(ValueError, match="fixed"):
        begin_call(row, CallKind.PUSH, now, schedule, identity=NewIdentity(1, 100_001, "606012000000", now))
    with pytest.raises(ValueError, match="fixed"):
        begin_call(row, CallKind.PUSH, now, schedule, sealed_body=b"another")


@pytest.mark.parametrize("state", sorted(set(PayoutState) - {PayoutState.CLEARED, PayoutState.UNKNOWN}))
def test_no_push_begins_from_a_state_that_allows_none(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """P2, S3: the last pure gate before money moves does not trust its caller."""
    row = make_row(state, first_intent_at=now - HOUR, last_intent_at=now - HOUR)
    assert not _begins(row, CallKind.PUSH, now, schedule)


@pytest.mark.parametrize("state", [PayoutState.CLEARED, PayoutState.UNKNOWN])
def test_a_worker_frozen_between_its_decision_and_its_intent_does_not_resend_after_23_hours(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """P3, S3: the only worker may sleep for hours; nobody else then raises the version that would stop it."""
    row = make_row(state, attempts=1, first_intent_at=now - 23 * HOUR, last_intent_at=now - 23 * HOUR)
    assert not _begins(row, CallKind.PUSH, now, schedule)


@pytest.mark.parametrize("call", [CallKind.PUSH, CallKind.REVERSE])
def test_no_money_moving_call_begins_for_a_held_row(
    make_row: MakeRow, now: datetime, schedule: Schedule, call: CallKind
) -> None:
    """L12."""
    row = make_row(
        PayoutState.UNKNOWN if call is CallKind.PUSH else PayoutState.DECLINED,
        held=True,
        hold_reason="INCIDENT",
        compensation=CompensationState.REQUIRED if call is CallKind.REVERSE else CompensationState.NONE,
    )
    assert not _begins(row, call, now, schedule, sealed_body=b"body" if call is CallKind.REVERSE else None)


# ---- our own stages and people


def test_validation_and_screening_lead_to_cleared(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """K2, P7: announced, driven again if nobody does, with what decided it."""
    validated = _step(apply(make_row(), Validated("corridors-1"), now, schedule)).row
    assert (validated.state, validated.policy_version) == (PayoutState.VALIDATED, "corridors-1")
    cleared = _step(apply(validated, _screened(ScreeningVerdict.CLEARED), now, schedule)).row
    assert (cleared.state, cleared.version, cleared.announce_version) == (PayoutState.CLEARED, 3, 3)
    assert (cleared.list_version, cleared.score_basis_points) == ("list-1", 7_600)
    assert cleared.due_at is not None


@pytest.mark.parametrize(
    ("state", "event", "end"),
    [
        (PayoutState.RECEIVED, Rejected("EXPIRED_ON_ARRIVAL", "Too late.", None), PayoutState.REJECTED),
        (PayoutState.VALIDATED, _screened(ScreeningVerdict.DENIED), PayoutState.DENIED),
    ],
)
def test_a_failed_check_ends_the_payout_with_its_reason(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, event: Rejected, end: PayoutState
) -> None:
    """K7."""
    ended = _step(apply(make_row(state), event, now, schedule)).row
    assert (ended.state, ended.reason_code, ended.due_at) == (end, event.reason_code, None)
    assert ended.announce_version == ended.version


@pytest.mark.parametrize("state", LATER_THAN_RECEIVED)
@pytest.mark.parametrize("event", [Validated("corridors-2"), Rejected("LATE", "Late.", None)])
def test_a_repeated_validation_does_nothing(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, event: Validated | Rejected
) -> None:
    """K1: a redelivered event finds its state already advanced."""
    assert isinstance(apply(make_row(state), event, now, schedule), Nothing)


@pytest.mark.parametrize("state", sorted(set(PayoutState) - {PayoutState.VALIDATED}))
@pytest.mark.parametrize("verdict", list(ScreeningVerdict))
def test_a_repeated_screening_does_nothing(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, verdict: ScreeningVerdict
) -> None:
    """K1."""
    assert isinstance(apply(make_row(state), _screened(verdict), now, schedule), Nothing)


def test_a_review_case_is_named_by_payout_and_version_and_decided_once(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """R1."""
    row = make_row(PayoutState.VALIDATED)
    opened = _step(apply(row, _screened(ScreeningVerdict.NEEDS_REVIEW), now, schedule)).row
    assert opened.review_case_id == f"{row.payout_id}.{opened.version}"
    assert opened.due_at is None
    approval = Reviewed(str(opened.review_case_id), True, "reviewer-1", "FALSE_POSITIVE")
    cleared = _step(apply(opened, approval, now, schedule)).row
    assert (cleared.state, cleared.reviewer) == (PayoutState.CLEARED, "reviewer-1")
    assert isinstance(apply(cleared, approval, now, schedule), Nothing)
    assert isinstance(apply(cleared, replace(approval, approved=False), now, schedule), Nothing)


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("case_id", ["payout-0001.2", "payout-0002.3", "", "None"])
def test_a_decision_for_another_case_does_nothing(
    make_row: MakeRow, now: datetime, schedule: Schedule, approved: bool, case_id: str
) -> None:
    """R1."""
    decision = Reviewed(case_id, approved, "reviewer-1", "SEEN")
    assert isinstance(apply(make_row(PayoutState.IN_REVIEW), decision, now, schedule), Nothing)


def test_a_reviewers_refusal_ends_denied(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """R1."""
    row = make_row(PayoutState.IN_REVIEW)
    denied = _step(apply(row, Reviewed(str(row.review_case_id), False, "reviewer-1", "HIT"), now, schedule)).row
    assert (denied.state, denied.reviewer, denied.reason_code) == (PayoutState.DENIED, "reviewer-1", "REVIEW_REJECTED")


# ---- what Visa answers to a push


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (OutcomeKind.PAID, PayoutState.PAID),
        (OutcomeKind.DECLINED, PayoutState.DECLINED),
        (OutcomeKind.PENDING, PayoutState.PENDING),
        (OutcomeKind.UNKNOWN, PayoutState.UNKNOWN),
        (OutcomeKind.NOT_FOUND, PayoutState.UNKNOWN),
        (OutcomeKind.OPERATOR, PayoutState.UNKNOWN),
    ],
)
def test_an_answer_to_the_attempt_under_way(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind, state: PayoutState
) -> None:
    """S4, S5: only an approval pays, only a decline declines, everything else stays ambiguous."""
    row = make_row(PayoutState.SUBMITTING)
    after = _step(apply(row, answer(row, CallKind.PUSH, kind), now, schedule)).row
    assert after.state is state
    assert after.ambiguous is (state not in TERMINAL_STATES)
    assert after.held is (kind is OutcomeKind.OPERATOR)
    assert (after.due_at is None) is (after.is_terminal or after.held)
    assert after.lease_until == row.lease_until, "L3: leases are the ledger's"


@pytest.mark.parametrize("refusal", SYSTEMIC)
def test_a_systemic_refusal_returns_to_cleared_and_spends_nothing(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, refusal: Refusal
) -> None:
    """S4, S6, S7."""
    row = make_row(PayoutState.SUBMITTING)
    refused = answer(row, CallKind.PUSH, OutcomeKind.REFUSED, refusal=refusal, systemic=True, retry_after_seconds=120.0)
    after = _step(apply(row, refused, now, schedule)).row
    assert (after.state, after.ambiguous, after.systemic_refusals) == (PayoutState.CLEARED, False, 1)
    assert after.attempts - after.systemic_refusals == 0
    assert after.due_at is not None
    assert after.due_at >= now + timedelta(seconds=120)
    assert plan(after, now, schedule) == MakeCall(CallKind.PUSH), "the identity is kept (S1)"


def test_a_request_that_visa_calls_invalid_fails(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S4: 400 ends FAILED when no attempt is ambiguous."""
    row = make_row(PayoutState.SUBMITTING)
    invalid = answer(row, CallKind.PUSH, OutcomeKind.REFUSED, refusal=Refusal.REQUEST_INVALID)
    assert _step(apply(row, invalid, now, schedule)).row.state is PayoutState.FAILED


@pytest.mark.parametrize("refusal", list(Refusal))
def test_no_refusal_clears_an_earlier_ambiguous_attempt(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, refusal: Refusal
) -> None:
    """S4, S6: definite for that attempt only."""
    row = make_row(PayoutState.SUBMITTING, attempts=2, ambiguous=True, funding_captured=True, receipt_owned=True)
    after = _step(apply(row, answer(row, CallKind.PUSH, OutcomeKind.REFUSED, refusal=refusal), now, schedule)).row
    assert (after.state, after.ambiguous) == (PayoutState.UNKNOWN, True)


@pytest.mark.parametrize("state", [PayoutState.SUBMITTING, PayoutState.UNKNOWN, PayoutState.PENDING])
@pytest.mark.parametrize("call", [CallKind.PUSH, CallKind.STATUS, CallKind.QUERY])
@pytest.mark.parametrize("kind", sorted(set(OutcomeKind) - {OutcomeKind.PAID, OutcomeKind.OPERATOR}))
def test_an_answer_to_an_earlier_attempt_proves_nothing_about_the_latest(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    state: PayoutState,
    call: CallKind,
    kind: OutcomeKind,
) -> None:
    """S4."""
    row = make_row(state, attempts=2)
    assert _changes_nothing(row, apply(row, answer(row, call, kind, attempt=1), now, schedule))


@pytest.mark.parametrize(
    "state", [PayoutState.CLEARED, PayoutState.SUBMITTING, PayoutState.UNKNOWN, PayoutState.PENDING]
)
@pytest.mark.parametrize("call", [CallKind.PUSH, CallKind.STATUS, CallKind.QUERY])
@pytest.mark.parametrize("held", [True, False])
def test_an_approval_pays_from_whichever_attempt_it_comes(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    state: PayoutState,
    call: CallKind,
    held: bool,
) -> None:
    """S5: any approval wins; L2: evidence needs no lease, and a hold does not hide it."""
    row = make_row(state, attempts=3, held=held, hold_reason="INCIDENT" if held else None)
    after = _step(apply(row, answer(row, call, OutcomeKind.PAID, attempt=1), now, schedule)).row
    assert (after.state, after.ambiguous, after.due_at) == (PayoutState.PAID, False, None)
    assert after.held is held, "L12: only an operator releases"


@pytest.mark.parametrize("refusal", list(Refusal))
@pytest.mark.parametrize("state", [PayoutState.UNKNOWN, PayoutState.PENDING])
def test_a_late_refusal_of_the_latest_attempt_leaves_the_payout_unknown(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState, refusal: Refusal
) -> None:
    """S6: UNKNOWN ends by a definite answer, by nothing else."""
    row = make_row(state)
    late = answer(row, CallKind.PUSH, OutcomeKind.REFUSED, refusal=refusal)
    assert isinstance(apply(row, late, now, schedule), Nothing)


@pytest.mark.parametrize("state", [PayoutState.UNKNOWN, PayoutState.PENDING])
@pytest.mark.parametrize("attempt", [1, 2])
def test_a_late_answer_that_only_a_person_can_read_is_shown_to_one(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState, attempt: int
) -> None:
    """S5: a partial approval is money that moved; it goes to an operator, however late."""
    row = make_row(state, attempts=2)
    late = answer(row, CallKind.PUSH, OutcomeKind.OPERATOR, attempt=attempt, action_code="10")
    after = _step(apply(row, late, now, schedule)).row
    assert (after.held, after.ambiguous, after.is_terminal) == (True, True, False)


# ---- what status and query tell


def test_a_query_that_knows_nothing_allows_the_same_push_again(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S3."""
    row = make_row(PayoutState.UNKNOWN)
    asked_at = resend_not_before(schedule, row.last_intent_at or now)
    step = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND, asked_at=asked_at), asked_at, schedule))
    assert (step.follow_up, step.row.state, step.row.ambiguous) == (CallKind.PUSH, PayoutState.UNKNOWN, True)


def test_a_query_asked_within_the_horizon_allows_nothing_however_late_it_answers(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S3: absence is proven as of the asking."""
    row = make_row(PayoutState.UNKNOWN)
    not_before = resend_not_before(schedule, row.last_intent_at or now)
    asked_at = not_before - timedelta(milliseconds=1)
    step = _step(
        apply(row, answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND, asked_at=asked_at), now + HOUR, schedule)
    )
    assert step.follow_up is None
    assert step.row.due_at is not None
    assert step.row.due_at >= not_before


def test_nothing_follows_for_a_row_that_was_held_while_the_query_was_out(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """L12."""
    row = make_row(PayoutState.UNKNOWN, held=True, hold_reason="INCIDENT")
    found_nothing = answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND, asked_at=now + HOUR)
    step = apply(row, found_nothing, now + HOUR, schedule)
    assert isinstance(step, Nothing) or step.follow_up is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"first_intent_at": timedelta(hours=23)}, "UNKNOWN_PAST_RESEND_LIMIT"),
        ({"attempts": 5, "own_failures": 5}, "RESENDS_SPENT"),
    ],
)
def test_what_may_not_be_sent_again_waits_for_a_person(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, changes: dict[str, Any], reason: str
) -> None:
    """S3, P3: still unknown, held, never failed."""
    changes = {key: now - value if isinstance(value, timedelta) else value for key, value in changes.items()}
    row = make_row(PayoutState.UNKNOWN, **{"last_intent_at": now - HOUR} | changes)
    step = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND), now, schedule))
    assert (step.row.state, step.row.held, step.row.hold_reason) == (PayoutState.UNKNOWN, True, reason)
    assert (step.follow_up, step.row.ambiguous) == (None, True)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (OutcomeKind.DECLINED, PayoutState.DECLINED),
        (OutcomeKind.PENDING, PayoutState.UNKNOWN),
        (OutcomeKind.UNKNOWN, PayoutState.UNKNOWN),
        (OutcomeKind.REFUSED, PayoutState.UNKNOWN),
        (OutcomeKind.OPERATOR, PayoutState.UNKNOWN),
    ],
)
def test_a_querys_answer_about_an_unknown_payout(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind, state: PayoutState
) -> None:
    """S5, S6."""
    row = make_row(PayoutState.UNKNOWN)
    after = _step(apply(row, answer(row, CallKind.QUERY, kind), now, schedule)).row
    assert (after.state, after.ambiguous) == (state, state is PayoutState.UNKNOWN)
    assert after.held is (kind is OutcomeKind.OPERATOR)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (OutcomeKind.DECLINED, PayoutState.DECLINED),
        (OutcomeKind.PENDING, PayoutState.PENDING),
        (OutcomeKind.REFUSED, PayoutState.PENDING),
        (OutcomeKind.UNKNOWN, PayoutState.UNKNOWN),
        (OutcomeKind.NOT_FOUND, PayoutState.UNKNOWN),
        (OutcomeKind.OPERATOR, PayoutState.PENDING),
    ],
)
def test_a_status_answer_about_a_pending_payout(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind, state: PayoutState
) -> None:
    """S4, S6: what Visa no longer knows by its status is asked about, never taken as refused."""
    row = make_row(PayoutState.PENDING)
    status = answer(row, CallKind.STATUS, kind, refusal=Refusal.RATE_LIMITED if kind is OutcomeKind.REFUSED else None)
    after = _step(apply(row, status, now, schedule)).row
    assert (after.state, after.ambiguous) == (state, state is not PayoutState.DECLINED)


@pytest.mark.parametrize("retry_after", [120.0, 1e9, float("nan"), float("inf"), -1e300])
def test_a_busy_visa_is_asked_again_when_it_says_and_no_number_breaks_the_decision(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, retry_after: float
) -> None:
    """S7, P8."""
    row = make_row(PayoutState.UNKNOWN)
    busy = answer(
        row, CallKind.QUERY, OutcomeKind.REFUSED, refusal=Refusal.RATE_LIMITED, retry_after_seconds=retry_after
    )
    due_at = _step(apply(row, busy, now, schedule)).row.due_at
    assert due_at is not None
    assert now < due_at <= now + timedelta(seconds=schedule.retry_after_max_seconds)
    if retry_after == 120.0:
        assert due_at == now + timedelta(seconds=120)


# ---- ends


@pytest.mark.parametrize("state", sorted(TERMINAL_STATES))
@pytest.mark.parametrize("call", [CallKind.PUSH, CallKind.STATUS, CallKind.QUERY])
@pytest.mark.parametrize("kind", sorted(set(OutcomeKind) - {OutcomeKind.PAID, OutcomeKind.OPERATOR}))
def test_a_terminal_state_never_changes(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    state: PayoutState,
    call: CallKind,
    kind: OutcomeKind,
) -> None:
    """P1: exactly one terminal state."""
    row = make_row(state)
    assert isinstance(apply(row, answer(row, call, kind), now, schedule), Nothing)


@pytest.mark.parametrize("state", sorted(UNPAID_ENDS))
def test_an_approval_after_an_unpaid_end_freezes_the_row_once(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """L2: the state stands, the compensation stops, a person is called."""
    row = make_row(state, attempts=1)
    approval = answer(row, CallKind.QUERY, OutcomeKind.PAID)
    frozen = _step(apply(row, approval, now, schedule)).row
    assert (frozen.state, frozen.held, frozen.due_at) == (state, True, None)
    assert frozen.hold_reason == "APPROVED_AFTER_UNPAID_END"
    assert isinstance(apply(frozen, approval, now, schedule), Nothing)


def test_a_repeated_approval_does_nothing(make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule) -> None:
    """K1."""
    row = make_row(PayoutState.PAID)
    assert isinstance(apply(row, answer(row, CallKind.PUSH, OutcomeKind.PAID), now, schedule), Nothing)


@pytest.mark.parametrize("call", [CallKind.STATUS, CallKind.QUERY])
@pytest.mark.parametrize("state", list(PayoutState))
def test_a_question_that_cannot_be_asked_is_a_persons(
    make_row: MakeRow, now: datetime, schedule: Schedule, call: CallKind, state: PayoutState
) -> None:
    """P1, P3: it would be tried for ever, and nobody would see it."""
    row = make_row(state)
    decision = apply(row, Unbuildable("REQUEST_NOT_BUILDABLE", "A field is damaged.", call), now, schedule)
    if state not in (PayoutState.UNKNOWN, PayoutState.PENDING):
        assert isinstance(decision, Nothing)
        return
    after = _step(decision).row
    assert (after.state, after.held, after.hold_reason) == (state, True, "REQUEST_NOT_BUILDABLE")
