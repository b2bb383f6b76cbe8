"""What an answer about a reversal or an adjustment does to the row (rules C1, C3, C4, S3).

its own reply, or a row of its own, approves it    COMPENSATED, whenever that comes
refused before any effect, for a passing reason    the same again later
refused for good, declined                         MANUAL
ambiguous                                          asked about; then MANUAL. Neither has a duplicate key: never again
"""

from datetime import datetime, timedelta

from processors.payout.events import Answered, CallKind
from processors.payout.evidence import evidence
from processors.payout.frozen import frozen_for, is_frozen
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.row import CompensationState, PayoutRow
from processors.payout.schedule import Schedule, asked_for, inquiry_delay, resend_not_before, retry_delay
from processors.payout.step import Nothing, Step, compensation_moved, kept

WORDS = {
    CallKind.REVERSE: "reversal",
    CallKind.REVERSAL_QUERY: "reversal",
    CallKind.ADJUST: "adjustment",
    CallKind.ADJUSTMENT_QUERY: "adjustment",
}
"""How the history names what was answered."""


def apply_compensation_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Record what a call that hands money back, or a question about one, has proven."""
    if row.compensation in (CompensationState.COMPENSATED, CompensationState.NONE):
        return Nothing("nothing is being compensated")
    if event.outcome.kind is OutcomeKind.PAID:
        return _compensated(row, event, now)
    if row.compensation is CompensationState.MANUAL or event.attempt != row.compensation_attempts:
        return Nothing("a person decides already, or the answer is to an earlier attempt")
    if event.call in (CallKind.REVERSAL_QUERY, CallKind.ADJUSTMENT_QUERY):
        return _asked(row, event, now, schedule)
    if row.compensation is not CompensationState.RUNNING:
        return Nothing("unknown already; only a row of its own or a person ends it (C4)")
    return _attempted(row, event, now, schedule)


def _compensated(row: PayoutRow, event: Answered, now: datetime) -> Step:
    done = compensation_moved(
        row,
        CompensationState.COMPENSATED,
        now,
        announce=True,
        compensation_ambiguous=False,
        compensation_reference=event.outcome.transaction_identifier,
        compensation_reason_code=frozen_for(row),  # that Visa paid as well is never forgotten (L2)
        due_at=None,
    )
    return Step(done, "compensated", evidence(event))


def _attempted(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    word, outcome = WORDS[event.call], event.outcome
    match outcome.kind:
        case OutcomeKind.REFUSED if _may_try_again(row, outcome):
            due_at = now + retry_delay(schedule, row.payout_id, row.compensation_attempts, outcome.retry_after_seconds)
            again = compensation_moved(row, CompensationState.REQUIRED, now, announce=False, due_at=due_at)
            return Step(again, f"{word}_refused", evidence(event))
        case OutcomeKind.DECLINED | OutcomeKind.REFUSED if not row.compensation_ambiguous:
            return _manual(row, event, now)
        case OutcomeKind.OPERATOR:
            return _manual(row, event, now)
        case _:
            due_at = now + inquiry_delay(schedule, row.payout_id, row.compensation_inquiries)
            unknown = compensation_moved(
                row, CompensationState.UNKNOWN, now, announce=False, compensation_ambiguous=True, due_at=due_at
            )
            return Step(unknown, f"{word}_unknown", evidence(event))


def _may_try_again(row: PayoutRow, outcome: Outcome) -> bool:
    """Refused before any effect, for a reason that passes, and nobody has learnt since that the payout was paid."""
    passes = not outcome.is_own_failure and outcome.refusal is not Refusal.REQUEST_INVALID
    return passes and not row.compensation_ambiguous and not is_frozen(row)


def _asked(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Neither has a duplicate key: asked about, then a person decides; never sent again (S3, C4)."""
    if row.compensation is not CompensationState.UNKNOWN:
        return Nothing("what is asked about is not unknown")
    last_intent_at = row.compensation_last_intent_at or row.state_at
    answered = event.outcome.kind not in (OutcomeKind.REFUSED, OutcomeKind.UNKNOWN)
    asked_enough = row.compensation_inquiries >= schedule.compensation_inquiries_max
    settled = event.asked_at >= resend_not_before(schedule, last_intent_at)  # nothing of it is under way any more
    unanswered = now - last_intent_at >= timedelta(seconds=schedule.unanswered_limit_seconds)
    if event.outcome.kind is OutcomeKind.OPERATOR or (settled and ((answered and asked_enough) or unanswered)):
        return _manual(row, event, now)
    delay = inquiry_delay(schedule, row.payout_id, row.compensation_inquiries)
    due_at = now + max(delay, asked_for(schedule, event.outcome.retry_after_seconds))
    return Step(kept(row, due_at=due_at), f"{WORDS[event.call]}_still_unknown", evidence(event))


def _manual(row: PayoutRow, event: Answered, now: datetime) -> Step:
    """C1: a person's, always with a reason, always announced: that is what alerts."""
    manual = compensation_moved(
        row,
        CompensationState.MANUAL,
        now,
        announce=True,
        compensation_reason_code=frozen_for(row) or event.outcome.reason_code,
        due_at=None,
    )
    return Step(manual, "compensation_manual", evidence(event))
