"""Questions to Visa before a payout's first intent, as they change its row. Pure (requirement B3; rules L3, L9, S7).

A question moves no money and fixes nothing: until the first intent the payout is known not paid, whatever was asked.
But it is a call, so it takes the row's lease and the mode's lock, and only its own commit gives the lease back.

    PASSED    the row goes on to its next question, or to its first intent
    REFUSED   FAILED, and captured funding is handed back as after any unpaid end
    LATER     CLEARED still, due later: a systemic failure spends nothing, the payout's own spend its retry budget
"""

from datetime import datetime
from typing import Any

from processors.payout.answers import cost_of
from processors.payout.events import Inquired, InquiryVerdict
from processors.payout.intents import IntentNotAllowed, is_expired
from processors.payout.operator_actions import is_in_doubt
from processors.payout.outcome import Outcome
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.schedule import Schedule, own_retry_delay, retry_delay
from processors.payout.step import Nothing, Step, after, ended_unpaid, kept

__all__ = ["apply_inquired", "begin_inquiry"]

REASONS = {
    "CARD_NOT_ELIGIBLE": "The recipient's card takes no payouts of this kind.",
    "CARD_NOT_FOUND": "No card network knows the recipient's card.",
    "CARD_NOT_VALID": "The issuer of the recipient's card would decline a payout to it.",
    "ALIAS_NOT_FOUND": "Nobody is registered under the recipient's alias.",
    "ACCOUNT_NOT_VALID": "No payout can be sent to the recipient's account.",
    "QUOTE_EXPIRED": "The quote's time ran out before the payout could be sent.",
    "SLIPPAGE_EXCEEDED": "The rate moved further from the quote than the corridor's policy allows.",
}


def begin_inquiry(row: PayoutRow, question: str, policy_version: str, now: datetime, schedule: Schedule) -> Step:
    """What is made durable before a question leaves; the lease is the ledger's. Raises IntentNotAllowed.

    `policy_version` is that of the policy which asks for the question (promise P7): it may be newer than the row's.
    """
    if row.held:
        raise IntentNotAllowed("nothing calls out for a held row (L12)")
    if not _is_before_its_first_intent(row):
        raise IntentNotAllowed(f"a {row.state} payout is past its preflight")
    if is_expired(row, now):
        raise IntentNotAllowed("the request's expires_at has passed")
    due_at = after(schedule.lease_seconds + schedule.clock_skew_seconds, now)
    return Step(kept(row, due_at=due_at), "preflight_begun", {"question": question, "policy_version": policy_version})


def apply_inquired(row: PayoutRow, event: Inquired, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Record how a question ended. What changes nothing is written down while the row is leased (rules L3, L9)."""
    decision = _decide(row, event, now, schedule)
    if isinstance(decision, Nothing) and row.lease_owner is not None:
        return Step(kept(row), "noted", _detail(event) | {"because": decision.reason})
    return decision


def _decide(row: PayoutRow, event: Inquired, now: datetime, schedule: Schedule) -> Step | Nothing:
    if is_in_doubt(row):
        return Nothing("held since the database was put back: it may have been paid, a person decides (L11)")
    if not _is_before_its_first_intent(row):
        return Nothing(f"a question before the first intent says nothing about a {row.state} payout")
    if row.lease_owner is None:
        return Nothing("recorded before: only the question's own commit gives its lease back (L4)")
    match event.verdict:
        case InquiryVerdict.PASSED:
            waiting = _waiting(row, after(schedule.stage_patience_seconds, now), systemic_refusals=0)
            return Step(waiting, "preflight_passed", _detail(event))
        case InquiryVerdict.REFUSED:
            reason = REASONS.get(event.reason_code, "A question before the payout was answered with a refusal.")
            return Step(_failed(row, now, schedule, event.reason_code, reason), "failed", _detail(event))
        case InquiryVerdict.LATER:
            return _later(row, event, now, schedule)


def _later(row: PayoutRow, event: Inquired, now: datetime, schedule: Schedule) -> Step:
    outcome = event.outcome
    if outcome is None:
        raise AssertionError("a question without an answer has an outcome")
    counts = _costs(row, outcome)
    if outcome.is_own_failure and counts["own_failures"] >= schedule.retry_budget:
        reason = "Every question of the retry budget failed; it was not paid."
        failed = _failed(row, now, schedule, "RETRY_BUDGET_SPENT", reason, **counts)
        return Step(failed, "budget_spent", _detail(event))
    if outcome.is_own_failure:
        delay = own_retry_delay(schedule, row.payout_id, counts["own_failures"], outcome.retry_after_seconds)
    else:
        delay = retry_delay(schedule, row.payout_id, counts["systemic_refusals"], outcome.retry_after_seconds)
    return Step(_waiting(row, now + delay, **counts), "preflight_deferred", _detail(event))


def _costs(row: PayoutRow, outcome: Outcome) -> dict[str, int]:
    """S7. Silence counts as systemic here: no query will tell more, and the wait must grow all the same."""
    if outcome.is_own_failure:
        return cost_of(row, outcome)
    return {"own_failures": row.own_failures, "systemic_refusals": row.systemic_refusals + 1}


def _is_before_its_first_intent(row: PayoutRow) -> bool:
    return row.state is PayoutState.CLEARED and row.first_intent_at is None and not row.ambiguous


def _waiting(row: PayoutRow, due_at: datetime, **changes: Any) -> PayoutRow:
    """Held meanwhile, it stays as whoever held it left it: a release says when it is due."""
    return kept(row, due_at=row.due_at if row.held else due_at, **changes)


def _failed(
    row: PayoutRow, now: datetime, schedule: Schedule, reason_code: str, reason: str, **changes: Any
) -> PayoutRow:
    return ended_unpaid(row, PayoutState.FAILED, now, schedule, reason_code=reason_code, reason=reason, **changes)


def _detail(event: Inquired) -> dict[str, Any]:
    told = {"question": event.question, "verdict": event.verdict.value, "reason_code": event.reason_code}
    optional = {
        "http_status": event.http_status,
        "action_code": event.action_code,
        "visa_correlation_id": event.visa_correlation_id,
    }
    return told | {name: value for name, value in optional.items() if value is not None}
