"""What is to be done next with a row: the same answer whoever asks. Pure."""

from datetime import datetime, timedelta

from processors.compensation.determine import is_past_reversal
from processors.payout.events import CallKind
from processors.payout.frozen import is_frozen
from processors.payout.intents import IntentNotAllowed, is_adjusting, is_expired
from processors.payout.rail import may_come_back, question_about, submission_of
from processors.payout.row import CompensationAction, CompensationState, Executor, PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.step import (
    OUR_ACTIONS,
    MakeCall,
    Nothing,
    RunStage,
    Stage,
    Step,
    compensation_moved,
    ended_unpaid,
    lease_is_live,
    moved,
)

__all__ = ["IntentNotAllowed", "Plan", "plan"]

Plan = Nothing | RunStage | MakeCall | Step


def plan(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    """Decide what a driven row needs. The same answer whoever asks: stage event, sweeper, redelivery."""
    if row.held:
        return Nothing("held: only an operator releases it (L12)")
    if row.is_terminal:
        return _plan_after_the_end(row, now, schedule)
    match row.state:
        case PayoutState.RECEIVED:
            return RunStage(Stage.VALIDATE)
        case PayoutState.VALIDATED:
            return RunStage(Stage.COMPLY)
        case PayoutState.CLEARED:
            return _plan_first_or_refused(row, now, schedule)
        case PayoutState.SUBMITTING:
            return _plan_unanswered(row, now, schedule)
        case PayoutState.PENDING:
            return _plan_pending(row, now, schedule)
        case PayoutState.UNKNOWN:
            return MakeCall(question_about(row))
        case _:
            return Nothing(f"{row.state} waits for a person")


def _plan_first_or_refused(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    if row.ambiguous:
        raise AssertionError("a CLEARED row has no ambiguous attempt (S6)")
    if is_expired(row, now):
        reason = "The request's expires_at passed before a submission could take effect."
        ended = ended_unpaid(row, PayoutState.EXPIRED, now, schedule, reason_code="EXPIRED", reason=reason)
        return Step(ended, "expired")
    if row.first_intent_at is None:
        return MakeCall(submission_of(row), needs_identity=True)
    if now - row.first_intent_at >= timedelta(seconds=schedule.resend_limit_seconds):
        reason = "Visa refused every attempt for 23 hours; the identity may no longer be used (P3)."
        ended = ended_unpaid(row, PayoutState.FAILED, now, schedule, reason_code="REFUSED_TOO_LONG", reason=reason)
        return Step(ended, "failed")
    return MakeCall(submission_of(row))


def _plan_unanswered(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    """A submission whose owner has gone: its outcome is unknown, whatever happened to it (rule S2)."""
    if lease_is_live(row, now, schedule):
        return Nothing("a call may be under way: its lease is live (L3)")
    lost = moved(row, PayoutState.UNKNOWN, now, announce=False, ambiguous=True, due_at=now)
    return Step(lost, "answer_lost", {"attempt": row.attempts}, follow_up=question_about(row))


def _plan_pending(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    if row.is_account_payout:
        return MakeCall(question_about(row))
    valid = timedelta(seconds=schedule.resend_limit_seconds)
    known_since = row.last_intent_at or row.state_at
    if row.status_identifier is not None and now - known_since < valid:
        return MakeCall(CallKind.STATUS)
    unknown = moved(row, PayoutState.UNKNOWN, now, announce=False, ambiguous=True, due_at=now)
    return Step(unknown, "status_no_longer_kept", follow_up=CallKind.QUERY)


def _plan_after_the_end(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    if row.state is not PayoutState.PAID or not row.is_account_payout:
        return _plan_compensation(row, now, schedule)
    if may_come_back(row):
        return MakeCall(CallKind.ACCOUNT_QUERY)
    return Nothing("paid, and nobody asks any more whether it came back")


def _plan_compensation(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    if row.compensation_executor is not Executor.PROCESSOR:
        return Nothing("nothing of ours to compensate")
    word, query = _words(row)
    match row.compensation:
        case CompensationState.REQUIRED:
            return _plan_hand_back(row, now)
        case CompensationState.RUNNING:
            if lease_is_live(row, now, schedule):
                return Nothing(f"the {word} may be under way: its lease is live (L3)")
            lost = compensation_moved(
                row, CompensationState.UNKNOWN, now, announce=False, compensation_ambiguous=True, due_at=now
            )
            return Step(lost, f"{word}_answer_lost", {"attempt": row.compensation_attempts}, query)
        case CompensationState.UNKNOWN:
            return MakeCall(query)
        case _:
            return Nothing("compensation has ended")


def _words(row: PayoutRow) -> tuple[str, CallKind]:
    if is_adjusting(row):
        return "adjustment", CallKind.ADJUSTMENT_QUERY
    return "reversal", CallKind.REVERSAL_QUERY


def _plan_hand_back(row: PayoutRow, now: datetime) -> Plan:
    """C3: the kind is fixed with the first intent. A reversal that aged before it had one becomes an adjustment."""
    if row.compensation_action not in OUR_ACTIONS or is_frozen(row):
        return Nothing("no action of ours")
    if is_adjusting(row):
        return MakeCall(CallKind.ADJUST)
    if row.compensation_action is CompensationAction.ADJUSTMENT:
        return MakeCall(CallKind.ADJUST, needs_identity=True)
    captured_at = row.funding_captured_at
    if captured_at is not None and not is_past_reversal(captured_at, now):
        return MakeCall(CallKind.REVERSE)
    if captured_at is not None and row.funding_reversible and row.compensation_first_intent_at is None:
        return MakeCall(CallKind.ADJUST, needs_identity=True)
    manual = compensation_moved(
        row,
        CompensationState.MANUAL,
        now,
        announce=True,
        compensation_reason_code="REVERSAL_WINDOW_PASSED",
        due_at=None,
    )
    return Step(manual, "compensation_manual", {"reason_code": "REVERSAL_WINDOW_PASSED"})
