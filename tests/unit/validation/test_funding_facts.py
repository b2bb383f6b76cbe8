"""Captured money, its receipt, and whether it could be reversed (L7, C1, B2, G3, G4)."""

from typing import Any

import pytest

from processors.payout.row import FundingKind
from processors.validation.clear_text import WITHHELD, storable
from processors.validation.funding import Receipt, captured, funding_facts, receipt
from processors.validation.request import parse_request


def _funding(requests: Any, funding: dict[str, Any]) -> Any:
    return parse_request(requests.record(funding=funding)).funding


def test_each_captured_kind_has_its_receipt(requests: Any) -> None:
    """L7: kind and reference; the ledger adds the originator."""
    assert receipt(_funding(requests, requests.internal_funding())) == Receipt(FundingKind.INTERNAL, "debit-1")
    assert receipt(_funding(requests, requests.aft_funding())) == Receipt(FundingKind.AFT, "aft-1")
    assert receipt(_funding(requests, requests.pis_funding())) == Receipt(FundingKind.PIS, "p-1")


def test_what_was_not_captured_claims_nothing(requests: Any) -> None:
    """G4: a declined pull does not burn its receipt."""
    for funding in (
        requests.internal_funding(debit_confirmed=False),
        requests.internal_funding(confirmation_ref=""),
        requests.aft_funding(status="DECLINED"),
        requests.aft_funding(status="UNSPECIFIED"),
        requests.pis_funding(status="FAILED"),
        requests.internal_funding() | {"kind": "AFT"},
        requests.internal_funding() | {"kind": "UNSPECIFIED"},
    ):
        parsed = _funding(requests, funding)
        assert not captured(parsed)
        assert receipt(parsed) is None


def test_captured_money_with_incomplete_facts_is_still_captured(requests: Any) -> None:
    """C1, F-09: the request is refused, and the money is owed back, by hand when it cannot be reversed."""
    request, opened = requests.opened(requests.record(funding=requests.aft_funding(approval_code=None)))
    facts = funding_facts(request, opened)
    assert (facts.captured, facts.reference, facts.reversible) == (True, "aft-1", False)


@pytest.mark.parametrize(
    "gap",
    [
        "transaction_identifier",
        "systems_trace_audit_number",
        "retrieval_reference_number",
        "approval_code",
        "acquiring_bin",
        "captured_at",
        "encrypted_card",
    ],
)
def test_reversible_needs_every_fact(requests: Any, gap: str) -> None:
    """Visa's OpenAPI for reverse funds: without one of these no reversal can be sent."""
    request, opened = requests.opened(requests.record(funding=requests.aft_funding()))
    assert funding_facts(request, opened).reversible
    request, opened = requests.opened(requests.record(funding=requests.aft_funding(**{gap: None})))
    assert not funding_facts(request, opened).reversible
    verdict = requests.verdict(requests.record(funding=requests.aft_funding(**{gap: None})))
    assert gap in verdict.reason


@pytest.mark.parametrize("reference", ["4111111111111111", "4111-1111-1111-1111", "a\x00b", "x" * 256])
def test_a_reference_that_must_not_be_written_down_is_no_receipt(requests: Any, reference: str) -> None:
    """P6, L5: a card number or a zero byte never becomes a key of the ledger."""
    request, opened = requests.opened(requests.record(funding=requests.pis_funding(payment_id=reference)))
    facts = funding_facts(request, opened)
    assert facts.captured
    assert facts.reference is None


@pytest.mark.parametrize("text", ["4111111111111111", "order 4111-1111-1111-1111", "a\x00b", "a\ud800b", "x" * 513])
def test_what_must_not_stand_in_clear_is_withheld(text: str) -> None:
    """P6, L5: the clear columns of a rejected payout hold no card number and nothing that the database refuses."""
    assert storable(text) == WITHHELD
    assert storable("order-17 Łódź") == "order-17 Łódź"
