"""S1-04, S9: `payouts show` names what went wrong and says what to do; it knows nothing that the row does not say."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.interface import HistoryEntry
from ops.timeline import error_facts, visa_facts
from processors.payout.row import PayoutState
from processors.visa.correlation import RequestIdFormat, RequestIds
from tests.contract.ledger.ledger_harness import sample_row

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def entry(transition: str, **detail: Any) -> HistoryEntry:
    return HistoryEntry("payout-00000001", 2, AT, "worker-1", transition, "SUBMITTING", "UNKNOWN", detail)


def facts(state: PayoutState, reason_code: str | None, *history: HistoryEntry) -> dict[str, Any]:
    found = error_facts(sample_row(state=state, reason_code=reason_code), history)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("state", "reason_code", "name"),
    [
        (PayoutState.DECLINED, "ACTION_CODE_51", "TransactionDeclined"),
        (PayoutState.DECLINED, "ACTION_CODE_91", "TransactionDeclined"),
        (PayoutState.FAILED, "HTTP_400_3001", "BadRequest"),
        (PayoutState.REJECTED, "RECEIPT_REUSED", "ReceiptReused"),
        (PayoutState.DENIED, "WATCH_LIST_MATCH", "SanctionsMatch"),
        (PayoutState.EXPIRED, "EXPIRED", "TransactionExpired"),
    ],
)
def test_an_end_is_named_after_its_reason(state: PayoutState, reason_code: str, name: str) -> None:
    """S1-04: with its category and advice."""
    found = facts(state, reason_code)
    assert (found["name"], found["reason_code"]) == (name, reason_code)
    assert len(found["advice"]) > 20


def test_a_payout_without_an_end_is_named_after_the_last_answer_to_a_call() -> None:
    """S1-04: not after an operator's step in between."""
    history = (
        entry("refused", call="PUSH", reason_code="HTTP_429"),
        entry("unknown", call="PUSH", reason_code="READ_TIMEOUT"),
        entry("held", reason_code="OPERATOR"),
    )
    found = facts(PayoutState.UNKNOWN, None, *history)
    assert (found["name"], found["category"]) == ("NetworkTimeout", "network")


def test_a_rejection_that_the_table_does_not_name_is_still_explained() -> None:
    """P7: the advice of the reason code."""
    found = facts(PayoutState.REJECTED, "CARD_NUMBER_IN_CLEAR")
    assert "name" not in found
    assert "incident" in found["advice"]


@pytest.mark.parametrize(
    ("state", "reason_code"),
    [
        (PayoutState.PAID, "ACTION_CODE_00"),
        (PayoutState.CLEARED, None),
        (PayoutState.CANCELLED, "CANCELLED_BY_OPERATOR"),
    ],
)
def test_what_is_no_error_is_not_called_one(state: PayoutState, reason_code: str | None) -> None:
    """S9."""
    history = [entry("refused", call="PUSH", reason_code="HTTP_429")] if state is PayoutState.PAID else []
    assert error_facts(sample_row(state=state, reason_code=reason_code), history) is None


def test_the_request_id_is_what_visa_got() -> None:
    """S1-03: the id to quote to Visa's support."""
    ids = RequestIds(RequestIdFormat.ULID)
    row = sample_row()
    assert visa_facts(row, ids)["request_id"] == ids.of(row)
