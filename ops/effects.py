"""What an operator's action does, in money and in sentences, before it is done (P9). Pure.

Says what the pure core says: what the row becomes, what it then announces, and what a worker does next with it.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from ops.money_text import amount_text
from ops.output import iso_time
from ops.redaction import redacted
from processors.payout.events import CallKind
from processors.payout.publications import publications
from processors.payout.row import (
    UNPAID_ENDS,
    CompensationAction,
    CompensationState,
    Executor,
    PayoutRow,
    PayoutState,
)
from processors.payout.schedule import Schedule
from processors.payout.state_machine import plan
from processors.payout.step import MakeCall, Nothing, RunStage, Stage, Step, after, lease_is_live

_STAGES: Final = {Stage.VALIDATE: "validates", Stage.COMPLY: "screens"}


def effects(before: PayoutRow, changed: PayoutRow, now: datetime, schedule: Schedule) -> list[str]:
    """What follows from `before` becoming `changed`, most important first."""
    found: list[str] = []
    if changed.state is not before.state:
        found.append(_new_state(before, changed))
    if _compensation_changed(before, changed):
        found.append(compensation_text(changed))
    if changed.held:
        found.append(
            "nothing calls out for it until an operator releases it; what a call under way brings is still recorded"
        )
    elif before.held or not changed.is_terminal:
        found.append(next_text(changed, now, schedule))
    if changed.announce_version > before.announce_version:
        found.append(announced_text(changed))
    return found


def _new_state(before: PayoutRow, changed: PayoutRow) -> str:
    money = amount_text(changed.amount_minor, changed.currency)
    match changed.state:
        case PayoutState.PAID:
            return f"{money} count as paid to the recipient, for ever: nothing is sent again and nothing handed back"
        case PayoutState.UNKNOWN if before.is_terminal:
            return (
                f"{money} may be paid or not: {before.state.value} becomes UNKNOWN; who has read the result "
                f"{before.state.value} keeps it until the next end: tell originator {redacted(before.originator_id)}"
            )
        case PayoutState.UNKNOWN:
            return f"{money} may be paid or not: {before.state.value} becomes UNKNOWN"
        case _ if changed.is_terminal:
            step = f"{before.state.value} becomes {changed.state.value}"
            return f"{money} will not be paid under this payout_id, ever: {step}"
        case _:
            return f"{before.state.value} becomes {changed.state.value}"


def _compensation_changed(before: PayoutRow, changed: PayoutRow) -> bool:
    """An unpaid end always says what becomes of the funding, also when that is nothing."""
    ended_unpaid = changed.state in UNPAID_ENDS and changed.state is not before.state
    return ended_unpaid or changed.compensation is not before.compensation


def compensation_text(row: PayoutRow) -> str:
    """Who hands what back, or why nobody does."""
    money = amount_text(row.amount_minor, row.currency)
    if row.compensation is CompensationState.NONE:
        if not row.funding_captured:
            return "no compensation: the funding was not captured"
        if not row.receipt_owned:
            return "no compensation: the receipt belongs to another payout (L7)"
        return "no compensation"
    if row.compensation is CompensationState.MANUAL:
        return f"compensation of {money} is MANUAL ({row.compensation_reason_code}): a person must hand it back"
    if row.compensation is CompensationState.COMPENSATED:
        return f"{money} count as handed back, for ever: its originator is told, and nobody hands it back again"
    action = row.compensation_action.value if row.compensation_action else CompensationAction.MANUAL.value
    if row.compensation_executor is Executor.ORIGINATOR:
        return f"compensation {action} of {money} will be asked of originator {redacted(row.originator_id)}"
    return f"compensation {action} of {money} will be made by us through Visa"


def next_text(row: PayoutRow, now: datetime, schedule: Schedule) -> str:
    """What a worker does with the row by itself, as the state machine decides it now."""
    money = amount_text(row.amount_minor, row.currency)
    match plan(row, now, schedule):
        case RunStage(stage=stage):
            return f"next, by itself: a worker {_STAGES[stage]} it"
        case MakeCall(call=CallKind.PUSH | CallKind.ACCOUNT_SEND):
            return f"next, by itself: MONEY MOVES: a worker sends {money} to Visa"
        case MakeCall(call=CallKind.REVERSE | CallKind.ADJUST as call):
            return f"next, by itself: MONEY MOVES: a worker hands {money} back ({call.value})"
        case MakeCall(call=CallKind.QUERY | CallKind.STATUS):
            hours = f"{schedule.resend_limit_seconds / 3600:g} h"
            if row.first_intent_at is not None and now >= after(schedule.resend_limit_seconds, row.first_intent_at):
                return f"next, by itself: a worker asks Visa; nothing is sent again ({hours} have passed)"
            return (
                f"next, by itself: a worker asks Visa; MONEY MAY MOVE: if Visa does not know it, {money} are sent "
                f"again, unchanged, within {hours} of the first attempt"
            )
        case MakeCall(call=CallKind.ACCOUNT_QUERY) if row.state is PayoutState.PAID:
            return "next, by itself: a worker asks Visa whether it came back; nothing is sent again"
        case MakeCall(call=CallKind.ACCOUNT_QUERY):
            return (
                "next, by itself: a worker asks Visa; nothing is sent again: what Visa does not know a person decides"
            )
        case MakeCall(call=call):
            return f"next, by itself: a worker asks Visa ({call.value})"
        case Step(transition=transition, follow_up=CallKind() as question):
            first = transition.replace("_", " ")
            return f"next, by itself: {first}, then a worker asks Visa ({question.value}); nothing is sent before that"
        case Step(transition=transition):
            return f"next, by itself: {transition.replace('_', ' ')}"
        case Nothing(reason=reason):
            return f"next, by itself: nothing ({reason})"


def announced_text(row: PayoutRow) -> str:
    """Which events the row announces from now on."""
    named = ", ".join(f"{event.record.get('status', event.schema)} on {event.topic}" for event in publications(row))
    return f"a worker's sweeper publishes it within seconds: {named}" if named else "nothing is published for it"


def warnings(row: PayoutRow, now: datetime, schedule: Schedule) -> list[str]:
    """What the operator must know about the payout before he says yes."""
    found = []
    if lease_is_live(row, now, schedule) and row.lease_until is not None:
        found.append(
            f"a call to Visa may be under way until {iso_time(row.lease_until)}: this does not stop it, and what it "
            f"brings is recorded"
        )
    if row.ambiguous:
        found.append("an attempt may have paid it: promise nobody money, hand nothing back")
    return found


def money_totals(rows: Iterable[PayoutRow]) -> dict[str, int]:
    """Minor units per currency."""
    totals: dict[str, int] = {}
    for row in rows:
        totals[row.currency] = totals.get(row.currency, 0) + row.amount_minor
    return dict(sorted(totals.items()))


def totals_text(totals: Mapping[str, int]) -> str:
    """`12.34 USD, 500 JPY`; `no money` of nothing."""
    return ", ".join(amount_text(minor, currency) for currency, minor in totals.items()) or "no money"


def money_facts(row: PayoutRow) -> dict[str, Any]:
    """What every plan shows of a payout: the money, where it would go, and what Visa said last."""
    return {
        "payout_id": row.payout_id,
        "amount": amount_text(row.amount_minor, row.currency),
        "recipient_country": row.target_country,
        "originator_id": redacted(row.originator_id),
        "state": row.state.value,
        "version": row.version,
        "since": row.state_at,
        "held": row.held,
        "hold_reason": None if row.hold_reason is None else redacted(row.hold_reason),
        "attempts": row.attempts,
        "inquiries": row.inquiries,
        "ambiguous": row.ambiguous,
        "first_intent_at": row.first_intent_at,
        "last_intent_at": row.last_intent_at,
        "action_code": row.action_code,
        "reason_code": row.reason_code,
        "systems_trace_audit_number": row.systems_trace_audit_number,
        "retrieval_reference_number": row.retrieval_reference_number,
        "transaction_identifier": row.transaction_identifier,
        "lease_until": row.lease_until,
        "funding": row.funding_kind.value,
        "funding_captured": row.funding_captured,
        "compensation": row.compensation.value,
    }
