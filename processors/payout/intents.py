"""What beginning a call writes: the intent that is durable before bytes leave (rule S2). Pure.

Money moves after a PUSH, an ACCOUNT_SEND, a REVERSE or an ADJUST; their first intent fixes identity and body for ever
(S1, S3, C3). Of these only a PUSH has a duplicate key: nothing else begins again while an attempt is ambiguous.
"""

from datetime import datetime, timedelta

from processors.compensation.determine import is_past_reversal
from processors.payout.events import SUBMISSIONS, CallKind, NewIdentity
from processors.payout.frozen import is_frozen
from processors.payout.rail import may_come_back
from processors.payout.row import (
    CompensationAction,
    CompensationState,
    Executor,
    FundingKind,
    PayoutRow,
    PayoutState,
    with_changes,
)
from processors.payout.schedule import Schedule
from processors.payout.step import Step, after, compensation_moved, kept, moved


class IntentNotAllowed(ValueError):
    """The row forbids this call now: the last pure gate before money moves does not trust its caller."""


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
    body, or a later one brings another: both are fixed for ever by the first (rules S1, S3). A reversal has no
    identity of its own: it repeats the numbers of its pull (C4).
    """
    _check_allowed(row, call, now, schedule)
    due_at = after(schedule.lease_seconds + schedule.clock_skew_seconds, now)
    match call:
        case CallKind.PUSH | CallKind.ACCOUNT_SEND:
            return _begin_submission(row, now, due_at, identity, sealed_body)
        case CallKind.REVERSE:
            return _begin_reversal(row, now, due_at, sealed_body)
        case CallKind.ADJUST:
            return _begin_adjustment(row, now, due_at, identity, sealed_body)
        case CallKind.REVERSAL_QUERY | CallKind.ADJUSTMENT_QUERY:
            begun = kept(row, compensation_inquiries=row.compensation_inquiries + 1, due_at=due_at)
            return Step(begun, f"{call.lower()}_begun", {"inquiry": begun.compensation_inquiries})
        case CallKind.STATUS | CallKind.QUERY | CallKind.ACCOUNT_QUERY:
            begun = kept(row, inquiries=row.inquiries + 1, due_at=due_at)
            return Step(begun, f"{call.lower()}_begun", {"inquiry": begun.inquiries})


def is_adjusting(row: PayoutRow) -> bool:
    """Whether the compensation's first intent fixed it as an adjustment (rule C3)."""
    return row.compensation_identity_number is not None


def _check_allowed(row: PayoutRow, call: CallKind, now: datetime, schedule: Schedule) -> None:
    """A worker may sleep for hours between its decision and its intent, and nobody else need have moved the row."""
    if row.held:
        raise IntentNotAllowed("nothing calls out for a held row (L12)")
    allowed = {
        CallKind.PUSH: not row.is_account_payout and row.state in (PayoutState.CLEARED, PayoutState.UNKNOWN),
        CallKind.STATUS: not row.is_account_payout and row.state is PayoutState.PENDING,
        CallKind.QUERY: not row.is_account_payout and row.state is PayoutState.UNKNOWN,
        CallKind.ACCOUNT_SEND: row.is_account_payout and row.state is PayoutState.CLEARED and not row.ambiguous,
        CallKind.ACCOUNT_QUERY: row.is_account_payout and _is_asked_about(row),
        CallKind.REVERSE: _may_compensate(row) and row.compensation_action is CompensationAction.REVERSE_FUNDS,
        CallKind.REVERSAL_QUERY: row.compensation is CompensationState.UNKNOWN and not is_adjusting(row),
        CallKind.ADJUST: _may_compensate(row) and _is_adjustable(row),
        CallKind.ADJUSTMENT_QUERY: row.compensation is CompensationState.UNKNOWN and is_adjusting(row),
    }
    if not allowed[call]:
        raise IntentNotAllowed(f"no {call} for a row that is {row.state}, compensation {row.compensation}")
    if call in SUBMISSIONS and row.state is PayoutState.CLEARED and is_expired(row, now):
        raise IntentNotAllowed("expires_at has passed, and no attempt can have taken effect: it ends EXPIRED")
    limit = timedelta(seconds=schedule.resend_limit_seconds)
    if call in SUBMISSIONS and row.first_intent_at is not None and now - row.first_intent_at >= limit:
        raise IntentNotAllowed("nothing is sent again after 23 hours (P3, S3)")
    if call in (CallKind.REVERSE, CallKind.ADJUST) and _is_past_reversal(row, now) is not (call is CallKind.ADJUST):
        raise IntentNotAllowed("Visa reverses a pull within 24 hours and adjusts it afterwards (C3)")


def is_expired(row: PayoutRow, now: datetime) -> bool:
    """Whether nothing may be submitted for the first time any more."""
    return row.expires_at is not None and row.expires_at <= now


def _is_asked_about(row: PayoutRow) -> bool:
    return row.state in (PayoutState.UNKNOWN, PayoutState.PENDING) or may_come_back(row)


def _may_compensate(row: PayoutRow) -> bool:
    """C1, C2, P4: required, ours, nothing of it ambiguous, and nobody has learnt that the payout was paid."""
    required = row.compensation is CompensationState.REQUIRED and not row.compensation_ambiguous
    return required and row.compensation_executor is Executor.PROCESSOR and not is_frozen(row)


def _is_past_reversal(row: PayoutRow, now: datetime) -> bool:
    return row.funding_captured_at is not None and is_past_reversal(row.funding_captured_at, now)


def _is_adjustable(row: PayoutRow) -> bool:
    """C3: a reversal that had an intent stays a reversal; an adjustment needs every fact of the pull."""
    facts = row.funding_kind is FundingKind.AFT and row.funding_captured_at is not None and row.funding_reversible
    return facts and (row.compensation_first_intent_at is None or is_adjusting(row))


def _begin_submission(
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
        begun = with_changes(
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


def _begin_reversal(row: PayoutRow, now: datetime, due_at: datetime, sealed_body: bytes | None) -> Step:
    first = row.compensation_first_intent_at is None
    if first is (sealed_body is None):
        raise ValueError("the first reversal intent brings the body; a later one repeats it (C3)")
    begun = _compensating(row, now, due_at)
    if first:
        begun = with_changes(begun, compensation_first_intent_at=now, compensation_sealed_body=sealed_body)
    return Step(begun, "reversal_intent", {"attempt": begun.compensation_attempts})


def _begin_adjustment(
    row: PayoutRow, now: datetime, due_at: datetime, identity: NewIdentity | None, sealed_body: bytes | None
) -> Step:
    begun = _compensating(row, now, due_at)
    if row.compensation_first_intent_at is None:
        if identity is None or sealed_body is None:
            raise ValueError("a first adjustment intent needs its identity and its body (S1, C3)")
        begun = with_changes(
            begun,
            compensation_action=CompensationAction.ADJUSTMENT,
            compensation_identity_number=identity.number,
            compensation_systems_trace_audit_number=identity.systems_trace_audit_number,
            compensation_retrieval_reference_number=identity.retrieval_reference_number,
            compensation_first_intent_at=identity.first_intent_at,
            compensation_sealed_body=sealed_body,
        )
    elif identity is not None or sealed_body is not None:
        raise ValueError("identity and body are fixed by the first adjustment intent; a later one repeats them (C3)")
    return Step(begun, "adjustment_intent", {"attempt": begun.compensation_attempts})


def _compensating(row: PayoutRow, now: datetime, due_at: datetime) -> PayoutRow:
    return compensation_moved(
        row,
        CompensationState.RUNNING,
        now,
        announce=False,
        compensation_attempts=row.compensation_attempts + 1,
        compensation_last_intent_at=now,
        due_at=due_at,
    )
