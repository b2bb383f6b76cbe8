"""What is to be done next with a row, and what beginning a call writes: both pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from processors.payout.events import CallKind, NewIdentity
from processors.payout.row import (
    CompensationAction,
    CompensationState,
    Executor,
    PayoutRow,
    PayoutState,
)
from processors.payout.schedule import Schedule
from processors.payout.step import (
    MakeCall,
    Nothing,
    RunStage,
    Stage,
    Step,
    after,
    compensation_moved,
    ended_unpaid,
    kept,
    moved,
)

Plan = Nothing | RunStage | MakeCall | Step


class IntentNotAllowed(ValueError):
    """The row forbids this call now: the last pure gate before money moves does not trust its caller."""


def plan(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    """Decide what a driven row needs. The same answer whoever asks: stage event, sweeper, redelivery."""
    if row.held:
        return Nothing("held: only an operator releases it (L12)")
    if row.is_terminal:
        return _plan_compensation(row, now, schedule)
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
            return MakeCall(CallKind.QUERY)
        case _:
            return Nothing(f"{row.state} waits for a person")


def begin_call(
    row: PayoutRow,
    call: CallKind,
    now: datetime,
    schedule: Schedule,
    *,
    identity: NewIdentity | None = None,
    sealed_body: bytes | None = None,
) -> Step:
    """The intent that is made durable before bytes leave (rule S2); the lease itself is the ledger's.

    Raises IntentNotAllowed when the row forbids the call now, and ValueError when a first intent lacks its identity or
    body, or a later one brings another: both are fixed for ever by the first (rules S1, S3).
    """
    _check_allowed(row, call, now, schedule)
    due_at = after(schedule.lease_seconds + schedule.clock_skew_seconds, now)
    match call:
        case CallKind.PUSH:
            return _begin_push(row, now, due_at, identity, sealed_body)
        case CallKind.REVERSE:
            return _begin_reverse(row, now, due_at, sealed_body)
        case CallKind.REVERSAL_QUERY:
            begun = kept(row, compensation_inquiries=row.compensation_inquiries + 1, due_at=due_at)
            return Step(begun, "reversal_query_begun", {"inquiry": begun.compensation_inquiries})
        case CallKind.STATUS | CallKind.QUERY:
            begun = kept(row, inquiries=row.inquiries + 1, due_at=due_at)
            return Step(begun, f"{call.lower()}_begun", {"inquiry": begun.inquiries})


def _check_allowed(row: PayoutRow, call: CallKind, now: datetime, schedule: Schedule) -> None:
    """A worker may sleep for hours between its decision and its intent, and nobody else need have moved the row."""
    if row.held:
        raise IntentNotAllowed("nothing calls out for a held row (L12)")
    allowed = {
        CallKind.PUSH: row.state in (PayoutState.CLEARED, PayoutState.UNKNOWN),
        CallKind.STATUS: row.state is PayoutState.PENDING,
        CallKind.QUERY: row.state is PayoutState.UNKNOWN,
        CallKind.REVERSE: row.compensation is CompensationState.REQUIRED and not row.compensation_ambiguous,
        CallKind.REVERSAL_QUERY: row.compensation is CompensationState.UNKNOWN,
    }
    if not allowed[call]:
        raise IntentNotAllowed(f"no {call} for a row that is {row.state}, compensation {row.compensation}")
    limit = timedelta(seconds=schedule.resend_limit_seconds)
    if call is CallKind.PUSH and row.first_intent_at is not None and now - row.first_intent_at >= limit:
        raise IntentNotAllowed("nothing is sent again after 23 hours (P3, S3)")


def _plan_first_or_refused(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    if row.ambiguous:
        raise AssertionError("a CLEARED row has no ambiguous attempt (S6)")
    if row.expires_at is not None and row.expires_at <= now:
        reason = "The request's expires_at passed before a submission could take effect."
        ended = ended_unpaid(row, PayoutState.EXPIRED, now, schedule, reason_code="EXPIRED", reason=reason)
        return Step(ended, "expired")
    if row.first_intent_at is None:
        return MakeCall(CallKind.PUSH, needs_identity=True)
    if now - row.first_intent_at >= timedelta(seconds=schedule.resend_limit_seconds):
        reason = "Visa refused every attempt for 23 hours; the identity may no longer be used (P3)."
        ended = ended_unpaid(row, PayoutState.FAILED, now, schedule, reason_code="REFUSED_TOO_LONG", reason=reason)
        return Step(ended, "failed")
    return MakeCall(CallKind.PUSH)


def _plan_unanswered(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    """A submission whose owner has gone: its outcome is unknown, whatever happened to it (rule S2)."""
    if row.lease_until is not None and now < row.lease_until + timedelta(seconds=schedule.clock_skew_seconds):
        return Nothing("a call may be under way: its lease is live (L3)")
    lost = moved(row, PayoutState.UNKNOWN, now, announce=False, ambiguous=True, due_at=now)
    return Step(lost, "answer_lost", {"attempt": row.attempts}, follow_up=CallKind.QUERY)


def _plan_pending(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    valid = timedelta(seconds=schedule.resend_limit_seconds)
    known_since = row.last_intent_at or row.state_at
    if row.status_identifier is not None and now - known_since < valid:
        return MakeCall(CallKind.STATUS)
    unknown = moved(row, PayoutState.UNKNOWN, now, announce=False, ambiguous=True, due_at=now)
    return Step(unknown, "status_no_longer_kept", follow_up=CallKind.QUERY)


def _plan_compensation(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    if row.compensation_executor is not Executor.PROCESSOR:
        return Nothing("nothing of ours to compensate")
    match row.compensation:
        case CompensationState.REQUIRED:
            return _plan_reversal(row, now, schedule)
        case CompensationState.RUNNING:
            if row.lease_until is not None and now < row.lease_until + timedelta(seconds=schedule.clock_skew_seconds):
                return Nothing("a reversal may be under way: its lease is live (L3)")
            lost = compensation_moved(
                row, CompensationState.UNKNOWN, now, announce=False, compensation_ambiguous=True, due_at=now
            )
            return Step(lost, "reversal_answer_lost", {"attempt": row.compensation_attempts}, CallKind.REVERSAL_QUERY)
        case CompensationState.UNKNOWN:
            return MakeCall(CallKind.REVERSAL_QUERY)
        case _:
            return Nothing("compensation has ended")


def _plan_reversal(row: PayoutRow, now: datetime, schedule: Schedule) -> Plan:
    """C3: the kind is fixed with the first intent, so a reversal that aged before it becomes a person's."""
    if row.compensation_action is not CompensationAction.REVERSE_FUNDS:
        return Nothing("no action of ours")
    captured_at = row.funding_captured_at
    if captured_at is None or now - captured_at >= timedelta(seconds=schedule.reversal_window_seconds):
        manual = compensation_moved(
            row,
            CompensationState.MANUAL,
            now,
            announce=True,
            compensation_reason_code="REVERSAL_WINDOW_PASSED",
            due_at=None,
        )
        return Step(manual, "compensation_manual")
    return MakeCall(CallKind.REVERSE)


def _begin_push(
    row: PayoutRow, now: datetime, due_at: datetime, identity: NewIdentity | None, sealed_body: bytes | None
) -> Step:
    begun = moved(
        row,
        PayoutState.SUBMITTING,
        now,
        announce=False,
        attempts=row.attempts + 1,
        last_intent_at=now,
        due_at=due_at,
    )
    if row.first_intent_at is None:
        if identity is None or sealed_body is None:
            raise ValueError("a first intent needs its identity and its body (S1, S2)")
        begun = replace(
            begun,
            identity_number=identity.number,
            systems_trace_audit_number=identity.systems_trace_audit_number,
            retrieval_reference_number=identity.retrieval_reference_number,
            first_intent_at=identity.first_intent_at,
            sealed_body=sealed_body,
        )
    elif identity is not None or sealed_body is not None:
        raise ValueError("identity and body are fixed by the first intent; a resend is the same (S1, S3)")
    return Step(begun, "intent", {"attempt": begun.attempts, "resend": row.first_intent_at is not None})


def _begin_reverse(row: PayoutRow, now: datetime, due_at: datetime, sealed_body: bytes | None) -> Step:
    first = row.compensation_first_intent_at is None
    if first is (sealed_body is None):
        raise ValueError("the first reversal intent brings the body; a later one repeats it (C3)")
    begun = compensation_moved(
        row,
        CompensationState.RUNNING,
        now,
        announce=False,
        compensation_attempts=row.compensation_attempts + 1,
        compensation_first_intent_at=now if first else row.compensation_first_intent_at,
        compensation_last_intent_at=now,
        compensation_sealed_body=sealed_body if first else row.compensation_sealed_body,
        due_at=due_at,
    )
    return Step(begun, "reversal_intent", {"attempt": begun.compensation_attempts})
