"""What a row announces: a pure function of the row, so that a lost publish can be made good from the row alone (K2).

The same row version always gives the same events with the same identity (K3): everything in them is taken from the
row, nothing from the clock. An UNKNOWN row announces nothing, also when the operators' resolution of it was undone:
what it announced before is superseded by its next end, under a higher version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from processors.compensation.determine import determine
from processors.payout.row import (
    TERMINAL_STATES,
    CompensationAction,
    CompensationState,
    PayoutRow,
    PayoutState,
)
from processors.payout.state_machine import compensation_id
from processors.payout.step import OUR_ACTIONS


@dataclass(frozen=True, slots=True)
class Publication:
    """One event to publish under the payout's key."""

    topic: str
    schema: str
    version: int
    """The row version that the event reports; its `ce_id` derives from (schema, payout_id, version)."""
    at: datetime
    record: Mapping[str, Any]
    event: str | None = None
    """Its own name where one record tells two kinds of event; its `ce_type` and `ce_id` then derive from this name."""


RETURNED_EVENT: Final = "PayoutReturned"
"""A paid payout came back (rule S8): told by a PayoutResult of its own, beside the one that said PAID."""


def publications(row: PayoutRow) -> tuple[Publication, ...]:
    """Everything the row announces now, in the order in which it is published."""
    match row.state:
        case PayoutState.VALIDATED:
            return (_stage_event(row, "payout_validated", "ValidatedPayout"),)
        case PayoutState.CLEARED if row.attempts == 0:
            return (_stage_event(row, "payout_cleared", "ClearedPayout"),)
        case PayoutState.IN_REVIEW:
            return (_review_case(row),)
        case state if state in TERMINAL_STATES:
            return _end_events(row)
        case _:
            return ()


def _end_events(row: PayoutRow) -> tuple[Publication, ...]:
    events = [_result(row)]
    if row.returned_at is not None:
        events.append(_return_after_paid(row, row.returned_at))
    if row.compensation is not CompensationState.NONE:
        events.append(_compensation_required(row))
    if row.compensation in (CompensationState.COMPENSATED, CompensationState.MANUAL):
        events.append(_compensation_result(row))
    return tuple(events)


def _money(row: PayoutRow) -> dict[str, Any]:
    return {"amount_minor": row.amount_minor, "currency": row.currency}


def _corridor(row: PayoutRow) -> dict[str, Any]:
    return {
        "source_country": row.source_country,
        "target_country": row.target_country,
        "source_currency": row.currency,
        "target_currency": row.target_currency,
    }


def _stage_event(row: PayoutRow, topic: str, schema: str) -> Publication:
    record = {
        "payout_id": row.payout_id,
        "version": row.state_version,
        "originator_id": row.originator_id,
        "amount": _money(row),
        "corridor": _corridor(row),
        "correlation_id": row.correlation_id,
        "decided_at": row.state_at,
    }
    return Publication(topic, schema, row.state_version, row.state_at, record)


def _review_case(row: PayoutRow) -> Publication:
    record = {
        "case_id": row.review_case_id,
        "payout_id": row.payout_id,
        "originator_id": row.originator_id,
        "version": row.state_version,
        "reason_code": row.reason_code,
        "score_basis_points": row.score_basis_points or 0,
        "list_version": row.list_version or "none",
        "policy_version": row.policy_version or "none",
        "matched_entry_id": row.matched_entry_id or "none",
        "matched_party": row.matched_party or "UNSPECIFIED",
        "amount": _money(row),
        "corridor": _corridor(row),
        "opened_at": row.state_at,
        "correlation_id": row.correlation_id,
    }
    return Publication("payout_reviews", "ReviewCase", row.state_version, row.state_at, record)


def _result(row: PayoutRow) -> Publication:
    record = {
        "payout_id": row.payout_id,
        "originator_id": row.originator_id,
        "version": row.state_version,
        "status": row.state.value,
        "reason_code": row.reason_code,
        "reason": row.reason,
        "amount": _money(row),
        "corridor": _corridor(row),
        "rail": _rail(row) if row.attempts else None,
        "transaction_identifier": row.transaction_identifier,
        "approval_code": row.approval_code,
        "action_code": row.action_code,
        "systems_trace_audit_number": None if row.is_account_payout else row.systems_trace_audit_number,
        "retrieval_reference_number": None if row.is_account_payout else row.retrieval_reference_number,
        "attempts": row.attempts,
        "policy_version": row.policy_version or "none",
        "list_version": row.list_version,
        "score": row.score_basis_points,
        "compensation_required": row.compensation is not CompensationState.NONE,
        "sender_reference": row.sender_reference,
        "decided_at": row.state_at,
        "requested_at": row.requested_at,
        "correlation_id": row.correlation_id,
        "returned": None,
    }
    return Publication("payout_results", "PayoutResult", row.state_version, row.state_at, record)


def _rail(row: PayoutRow) -> str:
    return row.destination_kind.value if row.is_account_payout else "OCT"


def _return_after_paid(row: PayoutRow, returned_at: datetime) -> Publication:
    """S8: under the version that recorded it, above that of PAID: consumers keep the highest (K3)."""
    code = row.returned_reason_code or "none"
    record = dict(_result(row).record) | {
        "version": row.returned_version,
        "status": "RETURNED",
        "reason_code": code,
        "reason": "The payout was reported paid and came back afterwards; nothing is handed back by itself.",
        "decided_at": returned_at,
        "returned": {"returned_at": returned_at, "reason_code": code, "paid_version": row.state_version},
    }
    return Publication(
        "payout_results", "PayoutResult", row.returned_version, returned_at, record, event=RETURNED_EVENT
    )


def _compensation_required(row: PayoutRow) -> Publication:
    """Announced under the version of the unpaid end: that is when the compensation was decided, once (C1)."""
    action = _action_at_the_end(row)
    record = {
        "payout_id": row.payout_id,
        "originator_id": row.originator_id,
        "saga_id": row.payout_id,
        "compensation_id": compensation_id(row.payout_id),
        "version": row.state_version,
        "type": "COMPENSATION_REQUIRED",
        "funding_kind": row.funding_kind.value,
        "funding_reference": row.funding_reference or "none",
        "executor": row.compensation_executor.value if row.compensation_executor else "UNSPECIFIED",
        "action": action.value,
        "priority": "CRITICAL" if action is CompensationAction.MANUAL else "HIGH",
        "amount": _money(row),
        "reason_code": row.reason_code or "none",
        "reason": row.reason or "none",
        "stage": row.state.value,
        "attempts": row.attempts,
        "failed_at": row.state_at,
        "correlation_id": row.correlation_id,
    }
    topic, schema = "payout_failed_requires_compensation", "PayoutFailedRequiresCompensation"
    return Publication(topic, schema, row.state_version, row.state_at, record)


def _action_at_the_end(row: PayoutRow) -> CompensationAction:
    """What was decided with the unpaid end. A reversal that aged before its first intent was adjusted instead (C3);

    its demand still says what it said (K3), the result says what was done.
    """
    action = row.compensation_action or CompensationAction.MANUAL
    if action is not CompensationAction.ADJUSTMENT:
        return action
    return determine(
        row.funding_kind,
        captured_at=row.funding_captured_at,
        reversible=row.funding_reversible,
        now=row.state_at,
    ).action


def _compensation_result(row: PayoutRow) -> Publication:
    at = row.compensation_at or row.state_at
    by_us = row.compensation_action in OUR_ACTIONS
    action = row.compensation_action or CompensationAction.MANUAL
    record = {
        "compensation_id": compensation_id(row.payout_id),
        "payout_id": row.payout_id,
        "originator_id": row.originator_id,
        "version": row.compensation_version,
        "status": row.compensation.value,
        "action": action.value,
        "executor": row.compensation_executor.value if row.compensation_executor else "UNSPECIFIED",
        "amount": _money(row),
        "transaction_identifier": row.compensation_reference if by_us else None,
        "confirmation_reference": None if by_us else row.compensation_reference,
        "reason_code": None if row.compensation is CompensationState.COMPENSATED else row.compensation_reason_code,
        "decided_at": at,
        "correlation_id": row.correlation_id,
    }
    return Publication("payout_compensation_results", "CompensationResult", row.compensation_version, at, record)
