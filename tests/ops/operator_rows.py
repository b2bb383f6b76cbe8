"""Payouts in every situation in which an operator may find them, for the tests of his commands."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ledger.interface import Change, Inserted, Ledger
from processors.payout.row import FundingKind, PayoutRow, PayoutState
from schemas.sender_reference import sender_reference

NEVER_SUBMITTED: Final = frozenset(
    {PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.IN_REVIEW, PayoutState.CLEARED}
)
SUBMITTED: Final = (PayoutState.SUBMITTING, PayoutState.PENDING, PayoutState.UNKNOWN)

_numbers = itertools.count(1)


def new_row(payout_id: str, **changes: Any) -> PayoutRow:
    """12.34 USD to Great Britain, captured INTERNAL funding, as intake writes it."""
    now = datetime.now(UTC)
    digest = hashlib.sha256(payout_id.encode()).digest()
    row = PayoutRow(
        payout_id=payout_id,
        originator_id="shop-1",
        amount_minor=1234,
        currency="USD",
        source_country="US",
        target_country="GB",
        target_currency="GBP",
        funding_kind=FundingKind.INTERNAL,
        funding_reference=f"receipt-{payout_id}",
        funding_captured=True,
        funding_captured_at=now - timedelta(minutes=2),
        funding_reversible=False,
        requested_at=now - timedelta(minutes=2),
        expires_at=None,
        received_at=now - timedelta(minutes=1),
        source_topic="elsewhere",
        source_partition=0,
        source_offset=0,
        correlation_id="c-1",
        sender_reference=sender_reference(payout_id),
        content_key_version="k1",
        bytes_hmac=digest,
        content_hmac=digest,
        sealed_request=b"sealed",
        state_at=now,
    )
    return replace(row, **changes)


def facts_of(state: PayoutState) -> dict[str, Any]:
    """What a row of this state has by the way it came there."""
    now = datetime.now(UTC)
    facts: dict[str, Any] = {"state": state, "state_version": 2, "state_at": now}
    if state is not PayoutState.RECEIVED:
        facts |= {"policy_version": "p1"}
    if state not in NEVER_SUBMITTED:
        number = next(_numbers)
        facts |= {
            "attempts": 1,
            "identity_number": number,
            "systems_trace_audit_number": 100_000 + number,
            "retrieval_reference_number": "606012000000",
            "sealed_body": b"body",
            "first_intent_at": now - timedelta(seconds=30),
            "last_intent_at": now - timedelta(seconds=30),
        }
    if state in (PayoutState.UNKNOWN, PayoutState.PENDING):
        facts |= {"ambiguous": True, "due_at": now + timedelta(minutes=5)}
    return facts


async def stored(ledger: Ledger, state: PayoutState = PayoutState.RECEIVED, **changes: Any) -> PayoutRow:
    """A payout of its own in the ledger, at version 1 if RECEIVED, else at version 2."""
    fixed = {name: changes.pop(name) for name in ("amount_minor", "currency", "funding_kind", "funding_captured",
             "funding_reversible", "funding_reference") if name in changes}  # fmt: skip
    inserted = await ledger.insert(new_row(f"payout-{uuid.uuid4().hex[:12]}", **fixed), "intake")
    assert isinstance(inserted, Inserted)
    if state is PayoutState.RECEIVED and not changes:
        return inserted.row
    after = replace(inserted.row, **(facts_of(state) | changes))
    committed = await ledger.commit(Change(inserted.row, after, f"became_{state.value.lower()}", "worker-1"))
    assert committed is not None
    return committed
