"""Builders for rows and answers: a plausible row of every state, so that a test names only what it is about."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from processors.payout.events import COMPENSATION_CALLS, Answered, CallKind
from processors.payout.outcome import Outcome, OutcomeKind
from processors.payout.row import TERMINAL_STATES, FundingKind, PayoutRow, PayoutState
from processors.payout.schedule import Schedule

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NEVER_SUBMITTED = frozenset(
    {PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.IN_REVIEW, PayoutState.CLEARED}
    | {PayoutState.REJECTED, PayoutState.DENIED, PayoutState.EXPIRED, PayoutState.CANCELLED}
)


def _standing(state: PayoutState) -> dict[str, Any]:
    """The facts that a row of this state has by the way it came there."""
    facts: dict[str, Any] = {}
    if state is not PayoutState.RECEIVED:
        facts |= {"policy_version": "corridors-1"}
    if state is PayoutState.IN_REVIEW:
        facts |= {"review_case_id": "payout-0001.3", "reason_code": "WATCH_LIST_REVIEW"}
        facts |= {"list_version": "list-1", "score_basis_points": 7600}
    if state not in NEVER_SUBMITTED:
        intent_at = NOW - timedelta(seconds=1)
        facts |= {"attempts": 1, "identity_number": 7, "systems_trace_audit_number": 100_007}
        facts |= {"retrieval_reference_number": "606012000000", "sealed_body": b"sealed body"}
        facts |= {"first_intent_at": intent_at, "last_intent_at": intent_at}
    if state is PayoutState.SUBMITTING:
        facts |= {"lease_owner": "worker-a", "lease_until": NOW + timedelta(seconds=59)}
    if state in (PayoutState.UNKNOWN, PayoutState.PENDING):
        facts |= {"ambiguous": True}
    if state is PayoutState.PENDING:
        facts |= {"status_identifier": "status-1"}
    if state in TERMINAL_STATES:
        facts |= {"announce_version": 5, "reason_code": "WHY", "reason": "Because."}
    return facts


def build_row(state: PayoutState = PayoutState.RECEIVED, **changes: Any) -> PayoutRow:
    """A row at version 5 (1 when RECEIVED), not captured unless the test says so."""
    version = 1 if state is PayoutState.RECEIVED else 5
    facts: dict[str, Any] = {
        "payout_id": "payout-0001",
        "originator_id": "originator-1",
        "amount_minor": 12_500,
        "currency": "USD",
        "source_country": "US",
        "target_country": "GB",
        "target_currency": "GBP",
        "funding_kind": FundingKind.AFT,
        "funding_reference": "receipt-1",
        "funding_captured": False,
        "funding_captured_at": NOW - timedelta(minutes=5),
        "funding_reversible": True,
        "requested_at": NOW - timedelta(minutes=1),
        "expires_at": None,
        "received_at": NOW - timedelta(seconds=30),
        "source_topic": "payout_requests",
        "source_partition": 3,
        "source_offset": 42,
        "correlation_id": "correlation-1",
        "sender_reference": "SENDERREF0000001",
        "content_key_version": "k1",
        "bytes_hmac": b"b" * 32,
        "content_hmac": b"c" * 32,
        "sealed_request": b"sealed request",
        "version": version,
        "state": state,
        "state_version": version,
        "state_at": NOW - timedelta(seconds=1),
    }
    return PayoutRow(**(facts | _standing(state) | changes))


def build_answer(
    row: PayoutRow,
    call: CallKind,
    kind: OutcomeKind,
    *,
    asked_at: datetime = NOW,
    attempt: int | None = None,
    **more: Any,
) -> Answered:
    """An answer to the row's latest attempt, asked just now unless the test says otherwise."""
    latest = row.compensation_attempts if call in COMPENSATION_CALLS else row.attempts
    outcome = Outcome(kind=kind, reason_code=more.pop("reason_code", f"TEST_{kind}"), **more)
    return Answered(call=call, attempt=latest if attempt is None else attempt, outcome=outcome, asked_at=asked_at)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def schedule() -> Schedule:
    return Schedule.production()


@pytest.fixture
def make_row() -> Callable[..., PayoutRow]:
    return build_row


@pytest.fixture
def answer() -> Callable[..., Answered]:
    return build_answer
