"""Captured money, its receipt, and whether it could be reversed (L7, C1, B2, G3, G4)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.payout.row import FundingKind
from processors.validation.clear_text import WITHHELD, storable
from processors.validation.funding import PullKeys, Receipt, captured, funding_facts, pull_keys, receipt
from processors.validation.request import AftFunding, AftStatus, Funding, parse_request


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


NAMES_OF_A_PULL = {
    "acquiring_bin": "408999",
    "retrieval_reference_number": "628712451018",
    "systems_trace_audit_number": 451018,
    "transaction_identifier": "381228649430015",
}


def _pull(**names: Any) -> PullKeys:
    aft = AftFunding(receipt_id="aft-1", status=AftStatus.APPROVED, **{**NAMES_OF_A_PULL, **names})
    return pull_keys(Funding(kind=FundingKind.AFT, internal=None, aft=aft, pis=None))


def test_the_keys_of_a_pull_are_what_they_were(requests: Any) -> None:
    """L7: a claim lasts for ever, so the form of a key never changes; a key of another form claims the pull again."""
    keys = _pull()
    assert keys.trace == bytes.fromhex("a6f8c5f6d53cf17dc26f7d43469cd04e631d03bbe5263da5200527fed16e0c50")
    assert keys.transaction == bytes.fromhex("e8de7a56b13929c91b317c3db8f196147a18d02f1fed4cc52b04140dc13a0c2d")
    request, opened = requests.opened(requests.record(funding=requests.aft_funding(**NAMES_OF_A_PULL)))
    assert funding_facts(request, opened).pull == keys


@pytest.mark.parametrize("zeros", ["0", "00", "00000"])
def test_a_pull_is_the_same_with_zeros_before_its_bin(zeros: str) -> None:
    """L7, P4: Visa gets the BIN as a number."""
    assert _pull(acquiring_bin=zeros + "408999") == _pull()


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"acquiring_bin": None}, (False, True)),
        ({"acquiring_bin": "4089"}, (False, True)),
        ({"retrieval_reference_number": "62871245101"}, (False, True)),
        ({"systems_trace_audit_number": 0}, (False, True)),
        ({"systems_trace_audit_number": 1_000_000}, (False, True)),
        ({"transaction_identifier": None}, (True, False)),
        ({"transaction_identifier": "38122864943001"}, (True, False)),
        ({"approval_code": None, "captured_at": None, "encrypted_card": None}, (True, True)),
    ],
)
def test_a_pull_claims_each_of_its_names_that_can_be_read(changes: dict[str, Any], left: tuple[bool, bool]) -> None:
    """L7: also one that could not be reversed for want of other facts; a person hands it back."""
    keys = _pull(**changes)
    assert (keys.trace is not None, keys.transaction is not None) == left


def test_a_pull_that_was_not_approved_and_other_kinds_claim_no_pull(requests: Any) -> None:
    """L7, G4: a declined pull burns nothing."""
    for funding in (
        requests.aft_funding(status="DECLINED"),
        requests.internal_funding(),
        requests.pis_funding(),
        requests.aft_funding() | {"kind": "INTERNAL"},
    ):
        assert pull_keys(_funding(requests, funding)) == PullKeys(None, None)


def _digits(shortest: int, longest: int) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=shortest, max_size=longest)


PULLS = st.fixed_dictionaries(
    {
        "acquiring_bin": _digits(6, 11),
        "retrieval_reference_number": _digits(12, 12),
        "systems_trace_audit_number": st.integers(1, 999_999),
        "transaction_identifier": _digits(15, 15),
    }
)


@given(PULLS, PULLS, st.sets(st.sampled_from(list(NAMES_OF_A_PULL))))
def test_keys_are_equal_exactly_if_visa_means_the_same_pull(
    one: dict[str, Any], other: dict[str, Any], shared: set[str]
) -> None:
    """L7: and no key of one sort is ever one of the other."""
    other = other | {name: one[name] for name in shared}

    def trace(names: dict[str, Any]) -> object:
        return (
            int(names["acquiring_bin"]),
            names["retrieval_reference_number"],
            names["systems_trace_audit_number"],
        )

    first, second = _pull(**one), _pull(**other)
    assert (first.trace == second.trace) == (trace(one) == trace(other))
    same_transaction = one["transaction_identifier"] == other["transaction_identifier"]
    assert (first.transaction == second.transaction) == same_transaction
    assert {first.trace, second.trace}.isdisjoint({first.transaction, second.transaction})


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
