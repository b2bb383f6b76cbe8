"""What an answer from Visa, or the lack of one, does to a row (rules S4, S5, S6, L2, C3, C4)."""

from datetime import datetime, timedelta
from typing import Any

from processors.payout.events import Answered, CallKind
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.row import COMPENSATION_ENDS, UNPAID_ENDS, CompensationState, PayoutRow, PayoutState
from processors.payout.schedule import Schedule, asked_for, inquiry_delay, resend_not_before, retry_delay
from processors.payout.step import Nothing, Step, compensation_moved, ended_unpaid, kept, moved, paid

APPROVED_AFTER_UNPAID_END = "APPROVED_AFTER_UNPAID_END"
"""Why a row is frozen: Visa approved what the ledger had ended unpaid. A page, always (rule L2)."""
MAY_BE_PAID_AFTER_UNPAID_END = "MAY_BE_PAID_AFTER_UNPAID_END"
"""Why a row is frozen: what Visa says about an unpaid end can only be read by a person."""
FROZEN_FOR = frozenset({APPROVED_AFTER_UNPAID_END, MAY_BE_PAID_AFTER_UNPAID_END})


def apply_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Record what a call has proven. Needs no lease: evidence is always welcome (L2)."""
    if event.call in (CallKind.REVERSE, CallKind.REVERSAL_QUERY):
        return _apply_reversal_answer(row, event, now, schedule)
    if event.outcome.kind is OutcomeKind.PAID:
        return _approved(row, event, now)
    if event.outcome.kind is OutcomeKind.OPERATOR:
        return _for_a_person(row, event, now)
    if row.is_terminal:
        return Nothing("the payout has ended; a late answer without an approval changes nothing")
    if event.attempt != row.attempts:
        return Nothing("an answer to an earlier attempt proves nothing about the latest (S4)")
    match event.call:
        case CallKind.PUSH:
            return _apply_push_answer(row, event, now, schedule)
        case CallKind.STATUS:
            return _apply_status_answer(row, event, now, schedule)
        case _:
            return _apply_query_answer(row, event, now, schedule)


def _approved(row: PayoutRow, event: Answered, now: datetime) -> Step | Nothing:
    """An approval is the last word from whichever attempt it comes; after an unpaid end it freezes the row (L2)."""
    if row.state is PayoutState.PAID:
        return Nothing("already paid")
    if row.state in UNPAID_ENDS:
        return _frozen(row, event, now, APPROVED_AFTER_UNPAID_END)
    facts = _facts(row, event.outcome)
    return Step(paid(row, now, reason_code=event.outcome.reason_code, **facts), "paid", _evidence(event))


def _for_a_person(row: PayoutRow, event: Answered, now: datetime) -> Step | Nothing:
    """S5: a partial approval or a contradiction may be money that moved; it reaches a person, however late it comes."""
    if row.state in UNPAID_ENDS:
        return _frozen(row, event, now, MAY_BE_PAID_AFTER_UNPAID_END)
    if row.is_terminal:
        return Nothing("the payout is paid; a contradiction is for the reconciliation")
    facts = _operator(row, event.outcome)
    answers_latest = row.state is PayoutState.SUBMITTING and event.attempt == row.attempts
    if answers_latest or row.state is PayoutState.CLEARED:
        return Step(
            moved(row, PayoutState.UNKNOWN, now, announce=False, **facts), "held_for_operator", _evidence(event)
        )
    return Step(kept(row, **facts), "held_for_operator", _evidence(event))


def _frozen(row: PayoutRow, event: Answered, now: datetime, reason: str) -> Step | Nothing:
    """L2: paid after all, or perhaps. Nothing of its compensation may go on by itself, not even after a release."""
    known = {row.compensation_reason_code, row.hold_reason}
    # An approval outweighs a doubt: only an approval already recorded makes it old news.
    if APPROVED_AFTER_UNPAID_END in known or (reason == MAY_BE_PAID_AFTER_UNPAID_END and known & FROZEN_FOR):
        return Nothing("already frozen")
    hold: dict[str, Any] = {"held": True, "hold_reason": reason, "due_at": None}
    transition = reason.lower()
    if row.compensation in COMPENSATION_ENDS:
        return Step(kept(row, **hold), transition, _evidence(event))
    hold["compensation_reason_code"] = reason
    if row.compensation is not CompensationState.REQUIRED:
        return Step(kept(row, **hold), transition, _evidence(event))
    manual = compensation_moved(row, CompensationState.MANUAL, now, announce=True, **hold)
    return Step(manual, transition, _evidence(event))


def _apply_push_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    outcome = event.outcome
    if row.state is not PayoutState.SUBMITTING:
        return _late_push_answer(row, event, now, schedule)
    match outcome.kind:
        case OutcomeKind.DECLINED:
            return _declined(row, event, now, schedule)
        case OutcomeKind.REFUSED:
            return _refused(row, event, now, schedule)
        case OutcomeKind.PENDING:
            return Step(_pending(row, outcome, now, schedule), "pending", _evidence(event))
        case _:
            return Step(_unknown(row, outcome, now, schedule), "unknown", _evidence(event))


def _late_push_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """The lease ran out before the answer came: the row is UNKNOWN already and only an identity's answer ends it."""
    if row.state not in (PayoutState.UNKNOWN, PayoutState.PENDING):
        return Nothing(f"a late answer says nothing about a {row.state} row")
    if event.outcome.kind is OutcomeKind.DECLINED:
        return _declined(row, event, now, schedule)
    if event.outcome.kind is OutcomeKind.PENDING and row.state is PayoutState.UNKNOWN:
        return Step(_pending(row, event.outcome, now, schedule), "pending", _evidence(event))
    return Nothing("a late refusal proves nothing more about an unknown payout (S6)")


def _refused(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    """Definite for this attempt only (S4): back to CLEARED if no attempt is ambiguous, else UNKNOWN (S6)."""
    outcome = event.outcome
    if row.ambiguous:
        unknown = _unknown(row, outcome, now, schedule, count_refusal=outcome.systemic)
        return Step(unknown, "refused_while_unknown", _evidence(event))
    if outcome.refusal is Refusal.REQUEST_INVALID:
        reason = "Visa rejected the request as invalid; it was not paid."
        ended = ended_unpaid(
            row,
            PayoutState.FAILED,
            now,
            schedule,
            reason_code=outcome.reason_code,
            reason=reason,
            **_facts(row, outcome),
        )
        return Step(ended, "failed", _evidence(event))
    refusals = row.systemic_refusals + 1
    due_at = now + retry_delay(schedule, row.payout_id, refusals, outcome.retry_after_seconds)
    cleared = moved(
        row,
        PayoutState.CLEARED,
        now,
        announce=False,
        systemic_refusals=refusals,
        due_at=due_at,
        **_facts(row, outcome),
    )
    return Step(cleared, "refused", _evidence(event))


def _apply_status_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    outcome = event.outcome
    if row.state is not PayoutState.PENDING:
        return Nothing(f"a status answer says nothing about a {row.state} row")
    match outcome.kind:
        case OutcomeKind.DECLINED:
            return _declined(row, event, now, schedule)
        case OutcomeKind.PENDING | OutcomeKind.REFUSED:
            due_at = _next_inquiry(row, outcome, now, schedule)
            return Step(kept(row, due_at=due_at, **_facts(row, outcome)), "still_pending", _evidence(event))
        case _:
            return Step(_unknown(row, outcome, now, schedule), "unknown", _evidence(event))


def _apply_query_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    outcome = event.outcome
    if row.state is not PayoutState.UNKNOWN:
        return Nothing(f"a query's answer says nothing about a {row.state} row")
    match outcome.kind:
        case OutcomeKind.DECLINED if _speaks_for_every_attempt(row, event, schedule):
            return _declined(row, event, now, schedule)
        case OutcomeKind.NOT_FOUND:
            return _not_found(row, event, now, schedule)
        case _:
            due_at = _next_inquiry(row, outcome, now, schedule)
            return Step(kept(row, due_at=due_at, **_facts(row, outcome)), "still_unknown", _evidence(event))


def _speaks_for_every_attempt(row: PayoutRow, event: Answered, schedule: Schedule) -> bool:
    """A query that shows a decline while a resend may still be under way shows the earlier attempt's (S4)."""
    if row.attempts <= 1 or row.last_intent_at is None:
        return True
    return event.asked_at >= resend_not_before(schedule, row.last_intent_at)


def _not_found(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    """Visa does not know the identity: send the same again, but not too early, not too late, not for ever (S3, P3)."""
    if row.first_intent_at is None or row.last_intent_at is None:
        raise AssertionError("an UNKNOWN row has an intent (S2)")
    if row.held:
        return Step(kept(row, due_at=None), "not_found_while_held", _evidence(event))
    if now - row.first_intent_at >= timedelta(seconds=schedule.resend_limit_seconds):
        late = kept(row, held=True, hold_reason="UNKNOWN_PAST_RESEND_LIMIT", due_at=None)
        return Step(late, "held_for_operator", _evidence(event))
    not_before = resend_not_before(schedule, row.last_intent_at)
    if event.asked_at < not_before:
        waiting = kept(row, due_at=max(not_before, now + inquiry_delay(schedule, row.payout_id, row.inquiries)))
        return Step(waiting, "not_found_yet", _evidence(event))
    if row.attempts - row.systemic_refusals >= schedule.push_attempts_max:
        spent = kept(row, held=True, hold_reason="RESENDS_SPENT", due_at=None)
        return Step(spent, "held_for_operator", _evidence(event))
    found_nothing = kept(row, due_at=now + inquiry_delay(schedule, row.payout_id, row.inquiries))
    return Step(found_nothing, "not_found", _evidence(event), follow_up=CallKind.PUSH)


def _declined(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    reason = "The recipient's issuer or the network declined the payout."
    ended = ended_unpaid(
        row,
        PayoutState.DECLINED,
        now,
        schedule,
        reason_code=event.outcome.reason_code,
        reason=reason,
        ambiguous=False,
        **_facts(row, event.outcome),
    )
    return Step(ended, "declined", _evidence(event))


def _pending(row: PayoutRow, outcome: Outcome, now: datetime, schedule: Schedule) -> PayoutRow:
    due_at = _next_inquiry(row, outcome, now, schedule)
    return moved(row, PayoutState.PENDING, now, announce=False, ambiguous=True, due_at=due_at, **_facts(row, outcome))


def _unknown(
    row: PayoutRow, outcome: Outcome, now: datetime, schedule: Schedule, *, count_refusal: bool = False
) -> PayoutRow:
    changes = _facts(row, outcome)
    if count_refusal:
        changes["systemic_refusals"] = row.systemic_refusals + 1
    due_at = _next_inquiry(row, outcome, now, schedule)
    return moved(row, PayoutState.UNKNOWN, now, announce=False, ambiguous=True, due_at=due_at, **changes)


def _apply_reversal_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    if row.compensation in (CompensationState.COMPENSATED, CompensationState.NONE):
        return Nothing("nothing is being compensated")
    outcome = event.outcome
    if outcome.kind is OutcomeKind.PAID:
        reference = outcome.transaction_identifier
        done = compensation_moved(
            row,
            CompensationState.COMPENSATED,
            now,
            announce=True,
            compensation_ambiguous=False,
            compensation_reference=reference,
            compensation_reason_code=None,
            due_at=None,
        )
        return Step(done, "compensated", _evidence(event))
    if row.compensation is CompensationState.MANUAL or event.attempt != row.compensation_attempts:
        return Nothing("a person decides already, or the answer is to an earlier attempt")
    if event.call is CallKind.REVERSAL_QUERY:
        return _apply_reversal_query(row, event, now, schedule)
    if row.compensation is not CompensationState.RUNNING:
        return Nothing("the reversal is unknown already; only a reversal row or a person ends it (C4)")
    match outcome.kind:
        case OutcomeKind.REFUSED if _may_reverse_again(row, outcome):
            due_at = now + retry_delay(schedule, row.payout_id, row.compensation_attempts, outcome.retry_after_seconds)
            again = compensation_moved(row, CompensationState.REQUIRED, now, announce=False, due_at=due_at)
            return Step(again, "reversal_refused", _evidence(event))
        case OutcomeKind.DECLINED | OutcomeKind.REFUSED if not row.compensation_ambiguous:
            return _manual(row, event, now)
        case OutcomeKind.OPERATOR:
            return _manual(row, event, now)
        case _:
            due_at = now + inquiry_delay(schedule, row.payout_id, row.compensation_inquiries)
            unknown = compensation_moved(
                row, CompensationState.UNKNOWN, now, announce=False, compensation_ambiguous=True, due_at=due_at
            )
            return Step(unknown, "reversal_unknown", _evidence(event))


def _may_reverse_again(row: PayoutRow, outcome: Outcome) -> bool:
    """Refused before any effect, for a reason that passes, and nobody has learnt since that the payout was paid."""
    frozen = row.compensation_reason_code in FROZEN_FOR
    return not row.compensation_ambiguous and outcome.refusal is not Refusal.REQUEST_INVALID and not frozen


def _apply_reversal_query(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """A reversal has no duplicate key of its own: asked about, then a person decides; never sent again (S3, C4)."""
    if row.compensation is not CompensationState.UNKNOWN:
        return Nothing("the reversal is not unknown")
    answered = event.outcome.kind not in (OutcomeKind.REFUSED, OutcomeKind.UNKNOWN)
    asked_enough = row.compensation_inquiries >= schedule.reversal_inquiries_max
    last_intent_at = row.compensation_last_intent_at or row.state_at
    settled = event.asked_at >= resend_not_before(schedule, last_intent_at)  # nothing of it is under way any more
    if event.outcome.kind is OutcomeKind.OPERATOR or (answered and asked_enough and settled):
        return _manual(row, event, now)
    due_at = now + inquiry_delay(schedule, row.payout_id, row.compensation_inquiries)
    return Step(kept(row, due_at=due_at), "reversal_still_unknown", _evidence(event))


def _manual(row: PayoutRow, event: Answered, now: datetime) -> Step:
    manual = compensation_moved(
        row,
        CompensationState.MANUAL,
        now,
        announce=True,
        compensation_reason_code=event.outcome.reason_code,
        due_at=None,
    )
    return Step(manual, "compensation_manual", _evidence(event))


def _next_inquiry(row: PayoutRow, outcome: Outcome, now: datetime, schedule: Schedule) -> datetime:
    delay = inquiry_delay(schedule, row.payout_id, row.inquiries)
    return now + max(delay, asked_for(schedule, outcome.retry_after_seconds))


def _operator(row: PayoutRow, outcome: Outcome) -> dict[str, Any]:
    """S5: what cannot be decided by rule waits for a person, held, with the evidence in the row."""
    return {"held": True, "hold_reason": outcome.reason_code, "ambiguous": True, "due_at": None, **_facts(row, outcome)}


def _facts(row: PayoutRow, outcome: Outcome) -> dict[str, Any]:
    """What the answer told, kept over what was known; silence never erases an earlier fact."""
    return {
        "action_code": outcome.action_code or row.action_code,
        "transaction_identifier": outcome.transaction_identifier or row.transaction_identifier,
        "approval_code": outcome.approval_code or row.approval_code,
        "status_identifier": outcome.status_identifier or row.status_identifier,
        "visa_correlation_id": outcome.visa_correlation_id or row.visa_correlation_id,
    }


def _evidence(event: Answered) -> dict[str, Any]:
    outcome = event.outcome
    evidence: dict[str, Any] = {
        "call": event.call.value,
        "attempt": event.attempt,
        "outcome": outcome.kind.value,
        "reason_code": outcome.reason_code,
    }
    optional = {
        "refusal": outcome.refusal.value if outcome.refusal else None,
        "http_status": outcome.http_status,
        "action_code": outcome.action_code,
        "visa_correlation_id": outcome.visa_correlation_id,
        "retry_after_seconds": outcome.retry_after_seconds,
    }
    return evidence | {name: value for name, value in optional.items() if value is not None}
