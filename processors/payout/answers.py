"""What an answer from Visa, or the lack of one, does to a row of a card payout (rules S4, S5, S6, S7, L2).

UNKNOWN is left by an approval from any attempt, a decline of the latest, or two people (`operator_actions`).
Until then it is asked about, with back-off:

Visa does not know it    the same push again, after the in-flight horizon, within 23 h, within the budget; else held
still pending            asked again; held once it is 23 h old
no answer                asked again; held once it is 47 h old, so that an outage alone holds nothing for a day
"""

from datetime import datetime, timedelta
from typing import Any

from processors.payout.compensation_answers import apply_compensation_answer
from processors.payout.events import COMPENSATION_CALLS, Answered, CallKind
from processors.payout.evidence import evidence, facts
from processors.payout.frozen import APPROVED_AFTER_UNPAID_END, FROZEN_FOR, MAY_BE_PAID_AFTER_UNPAID_END, freeze
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.row import UNPAID_ENDS, PayoutRow, PayoutState
from processors.payout.schedule import (
    Schedule,
    asked_for,
    inquiry_delay,
    own_retry_delay,
    resend_not_before,
    retry_delay,
)
from processors.payout.step import RESOLVED_PAID, Nothing, Step, ended_unpaid, kept, moved, paid

__all__ = [
    "FROZEN_FOR", "apply_answer", "cost_of", "declined", "first_intent_at", "for_a_person", "next_inquiry", "noted",
    "pending", "refused", "speaks_for_every_attempt", "still_unknown", "unknown",
]  # fmt: skip


def apply_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Record what a call has proven. Needs no lease: evidence is always welcome (L2).

    An answer that changes nothing is written down all the same while the row is leased: only a commit of the call's
    owner gives the lease back, and until it ends it would block the next call and `modes set` (L3, L9).
    """
    return noted(row, event, _decide(row, event, now, schedule))


def noted(row: PayoutRow, event: Answered, decision: Step | Nothing) -> Step | Nothing:
    """The decision, or the line that says why there is none, where only a commit gives the lease back (L3, L9)."""
    if isinstance(decision, Nothing) and row.lease_owner is not None:
        return Step(kept(row), "noted", evidence(event) | {"because": decision.reason})
    return decision


def _decide(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    if event.call in COMPENSATION_CALLS:
        return apply_compensation_answer(row, event, now, schedule)
    if event.outcome.kind is OutcomeKind.PAID:
        return _approved(row, event, now)
    if event.outcome.kind is OutcomeKind.OPERATOR:
        return for_a_person(row, event, now)
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
        if row.reason_code == RESOLVED_PAID:
            return Step(kept(row), "resolution_confirmed", evidence(event))
        return Nothing("already paid")
    if row.state in UNPAID_ENDS:
        return freeze(row, event, now, APPROVED_AFTER_UNPAID_END)
    told = facts(row, event.outcome)
    return Step(paid(row, now, reason_code=event.outcome.reason_code, **told), "paid", evidence(event))


def for_a_person(row: PayoutRow, event: Answered, now: datetime) -> Step | Nothing:
    """S5: a partial approval or a contradiction may be money that moved; it reaches a person, however late it comes."""
    if row.state in UNPAID_ENDS:
        return freeze(row, event, now, MAY_BE_PAID_AFTER_UNPAID_END)
    if row.is_terminal:
        return Nothing("the payout is paid; a contradiction is for the reconciliation")
    held = _operator(row, event.outcome)
    answers_latest = row.state is PayoutState.SUBMITTING and event.attempt == row.attempts
    if answers_latest or row.state is PayoutState.CLEARED:
        unknown = moved(row, PayoutState.UNKNOWN, now, announce=False, **held)
        return Step(unknown, "held_for_operator", evidence(event))
    return Step(kept(row, **held), "held_for_operator", evidence(event))


def _apply_push_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    outcome = event.outcome
    if row.state is not PayoutState.SUBMITTING:
        return _late_push_answer(row, event, now, schedule)
    match outcome.kind:
        case OutcomeKind.DECLINED:
            return declined(row, event, now, schedule)
        case OutcomeKind.REFUSED:
            return refused(row, event, now, schedule)
        case OutcomeKind.PENDING:
            return Step(pending(row, outcome, now, schedule), "pending", evidence(event))
        case _:
            return Step(unknown(row, outcome, now, schedule), "unknown", evidence(event))


def _late_push_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    """The lease ran out before the answer came: the row is UNKNOWN already and only an identity's answer ends it."""
    if row.state not in (PayoutState.UNKNOWN, PayoutState.PENDING):
        return Nothing(f"a late answer says nothing about a {row.state} row")
    if event.outcome.kind is OutcomeKind.DECLINED:
        return declined(row, event, now, schedule)
    if event.outcome.kind is OutcomeKind.PENDING and row.state is PayoutState.UNKNOWN:
        return Step(pending(row, event.outcome, now, schedule), "pending", evidence(event))
    return Nothing("a late refusal proves nothing more about an unknown payout (S6)")


def refused(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    """Definite for this attempt only (S4): back to CLEARED if no attempt is ambiguous, else UNKNOWN (S6)."""
    outcome = event.outcome
    if row.ambiguous:
        return Step(unknown(row, outcome, now, schedule), "refused_while_unknown", evidence(event))
    if outcome.refusal is Refusal.REQUEST_INVALID:
        reason = "Visa rejected the request as invalid; it was not paid."
        return Step(_failed(row, outcome, now, schedule, outcome.reason_code, reason), "failed", evidence(event))
    counts = cost_of(row, outcome)
    if counts["own_failures"] >= schedule.retry_budget and outcome.is_own_failure:
        reason = "Every attempt of the retry budget was refused; it was not paid."
        failed = _failed(row, outcome, now, schedule, "RETRY_BUDGET_SPENT", reason, **counts)
        return Step(failed, "budget_spent", evidence(event))
    if outcome.is_own_failure:
        delay = own_retry_delay(schedule, row.payout_id, counts["own_failures"], outcome.retry_after_seconds)
    else:
        delay = retry_delay(schedule, row.payout_id, counts["systemic_refusals"], outcome.retry_after_seconds)
    told = facts(row, outcome)
    cleared = moved(row, PayoutState.CLEARED, now, announce=False, due_at=now + delay, **counts, **told)
    return Step(cleared, "refused", evidence(event))


def cost_of(row: PayoutRow, outcome: Outcome) -> dict[str, int]:
    """S7: what the failed attempt costs. What is not the payout's own fault costs nothing."""
    systemic = outcome.kind is OutcomeKind.REFUSED and not outcome.is_own_failure
    return {
        "own_failures": row.own_failures + outcome.is_own_failure,
        "systemic_refusals": row.systemic_refusals + systemic,
    }


def _failed(
    row: PayoutRow,
    outcome: Outcome,
    now: datetime,
    schedule: Schedule,
    reason_code: str,
    reason: str,
    **changes: Any,
) -> PayoutRow:
    told = facts(row, outcome)
    return ended_unpaid(
        row, PayoutState.FAILED, now, schedule, reason_code=reason_code, reason=reason, **changes, **told
    )


def _apply_status_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    outcome = event.outcome
    if row.state is not PayoutState.PENDING:
        return Nothing(f"a status answer says nothing about a {row.state} row")
    match outcome.kind:
        case OutcomeKind.DECLINED:
            return declined(row, event, now, schedule)
        case OutcomeKind.PENDING | OutcomeKind.REFUSED:
            due_at = next_inquiry(row, outcome, now, schedule)
            return Step(kept(row, due_at=due_at, **facts(row, outcome)), "still_pending", evidence(event))
        case _:
            return Step(unknown(row, outcome, now, schedule), "unknown", evidence(event))


def _apply_query_answer(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step | Nothing:
    outcome = event.outcome
    if row.state is not PayoutState.UNKNOWN:
        return Nothing(f"a query's answer says nothing about a {row.state} row")
    match outcome.kind:
        case OutcomeKind.DECLINED if speaks_for_every_attempt(row, event, schedule):
            return declined(row, event, now, schedule)
        case OutcomeKind.NOT_FOUND:
            return _not_found(row, event, now, schedule)
        case _:
            return still_unknown(row, event, now, schedule)


def still_unknown(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    """P1: asked again with back-off; past the limit a person is shown the row, and a release asks once more."""
    told = facts(row, event.outcome)
    answered = event.outcome.kind is OutcomeKind.PENDING
    limit_seconds = schedule.resend_limit_seconds if answered else schedule.unanswered_limit_seconds
    if not row.held and now - first_intent_at(row) >= timedelta(seconds=limit_seconds):
        late = kept(row, held=True, hold_reason="UNKNOWN_PAST_RESEND_LIMIT", due_at=None, **told)
        return Step(late, "held_for_operator", evidence(event))
    due_at = next_inquiry(row, event.outcome, now, schedule)
    return Step(kept(row, due_at=due_at, **told), "still_unknown", evidence(event))


def first_intent_at(row: PayoutRow) -> datetime:
    """When it was first submitted; a row that may have been has it."""
    if row.first_intent_at is None:
        raise AssertionError("an UNKNOWN row has an intent (S2)")
    return row.first_intent_at


def speaks_for_every_attempt(row: PayoutRow, event: Answered, schedule: Schedule) -> bool:
    """A query that shows a decline while a resend may still be under way shows the earlier attempt's (S4)."""
    if row.attempts <= 1 or row.last_intent_at is None:
        return True
    return event.asked_at >= resend_not_before(schedule, row.last_intent_at)


def _not_found(row: PayoutRow, event: Answered, now: datetime, schedule: Schedule) -> Step:
    """Visa does not know the identity: send the same again, but not too early, not too late, not for ever (S3, P3)."""
    if row.held:
        return Step(kept(row, due_at=None), "not_found_while_held", evidence(event))
    if now - first_intent_at(row) >= timedelta(seconds=schedule.resend_limit_seconds):
        late = kept(row, held=True, hold_reason="UNKNOWN_PAST_RESEND_LIMIT", due_at=None)
        return Step(late, "held_for_operator", evidence(event))
    not_before = _resend_not_before(row, schedule)
    if event.asked_at < not_before:
        waiting = kept(row, due_at=max(not_before, now + inquiry_delay(schedule, row.payout_id, row.inquiries)))
        return Step(waiting, "not_found_yet", evidence(event))
    if row.own_failures >= schedule.retry_budget:
        spent = kept(row, held=True, hold_reason="RESENDS_SPENT", due_at=None)
        return Step(spent, "budget_spent", evidence(event))
    found_nothing = kept(row, due_at=now + inquiry_delay(schedule, row.payout_id, row.inquiries))
    return Step(found_nothing, "not_found", evidence(event), follow_up=CallKind.PUSH)


def _resend_not_before(row: PayoutRow, schedule: Schedule) -> datetime:
    """S3, S7: nothing of the last attempt is under way, and the back-off after failures of its own has passed."""
    last_intent_at = row.last_intent_at or first_intent_at(row)
    settled = resend_not_before(schedule, last_intent_at)
    if row.own_failures == 0:
        return settled
    return max(settled, last_intent_at + own_retry_delay(schedule, row.payout_id, row.own_failures, None))


def declined(
    row: PayoutRow,
    event: Answered,
    now: datetime,
    schedule: Schedule,
    reason: str = "The recipient's issuer or the network declined the payout.",
) -> Step:
    """An answer for the identity: it was not paid, and nothing of it is ambiguous any more."""
    ended = ended_unpaid(
        row,
        PayoutState.DECLINED,
        now,
        schedule,
        reason_code=event.outcome.reason_code,
        reason=reason,
        ambiguous=False,
        **facts(row, event.outcome),
    )
    return Step(ended, "declined", evidence(event))


def pending(row: PayoutRow, outcome: Outcome, now: datetime, schedule: Schedule) -> PayoutRow:
    """Visa has it and has not said how it ends: ambiguous until it has."""
    due_at = next_inquiry(row, outcome, now, schedule)
    return moved(row, PayoutState.PENDING, now, announce=False, ambiguous=True, due_at=due_at, **facts(row, outcome))


def unknown(row: PayoutRow, outcome: Outcome, now: datetime, schedule: Schedule) -> PayoutRow:
    """After a push: ambiguous from now on, and what the failed attempt cost is written down."""
    due_at = next_inquiry(row, outcome, now, schedule)
    changes = facts(row, outcome) | (cost_of(row, outcome) if row.state is PayoutState.SUBMITTING else {})
    return moved(row, PayoutState.UNKNOWN, now, announce=False, ambiguous=True, due_at=due_at, **changes)


def next_inquiry(row: PayoutRow, outcome: Outcome, now: datetime, schedule: Schedule) -> datetime:
    """When it is asked about again, not before a Retry-After."""
    delay = inquiry_delay(schedule, row.payout_id, row.inquiries)
    return now + max(delay, asked_for(schedule, outcome.retry_after_seconds))


def _operator(row: PayoutRow, outcome: Outcome) -> dict[str, Any]:
    """S5: what cannot be decided by rule waits for a person, held, with the evidence in the row."""
    return {"held": True, "hold_reason": outcome.reason_code, "ambiguous": True, "due_at": None, **facts(row, outcome)}
