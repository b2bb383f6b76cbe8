"""S3, P6: request bodies are exact, repeatable and complete; a refusal names the field and never its value."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.secrets import CardNumber, Secret
from processors.visa.identity import Operation, client_transaction_id, identity_from_sequence
from processors.visa.requests import (
    CardAcceptor,
    FundingTransaction,
    Party,
    Paths,
    Recipient,
    RequestInvalid,
    SubmissionProfile,
    TokenReference,
    VisaRequest,
    adjust_funds,
    adjust_funds_again,
    push_funds,
    push_funds_again,
    reverse_funds,
    status,
    transaction_query,
)

CARD = "4957030420210462"
INTENT = datetime(2026, 11, 22, 17, 30, 5, tzinfo=UTC)
IDENTITY = identity_from_sequence(1_234_567, INTENT)
ACCEPTOR = CardAcceptor(
    name="Payouts Inc", id_code="PAYOUTS01", terminal_id="PAYOUT01", country="US", city="Foster City", state="CA",
    county="San Mateo", zip_code="94404", legal_business_name="Payouts Incorporated",
)  # fmt: skip
PROFILE = SubmissionProfile(
    acquiring_bin="408999", acquirer_country_code="840", card_acceptor=ACCEPTOR, merchant_category_code="6012"
)
SENDER = Party(
    name="Payouts Inc", address_line="1 Market St", city="Foster City", state_code="CA", postal_code="94404",
    country_code="US",
)  # fmt: skip
RECIPIENT = Recipient(
    party=Party(name="Maria Example", city="Austin", state_code="TX", country_code="USA"),
    card=CardNumber(CARD),
    card_expiry="2030-12",
)
FUNDING = FundingTransaction(
    systems_trace_audit_number=451018, retrieval_reference_number="632616451018",
    transaction_identifier="381228649430011", approval_code="98765X", acquiring_bin="408999", captured_at=INTENT,
)  # fmt: skip


def push(**changes: Any) -> VisaRequest:
    arguments: dict[str, Any] = {
        "payout_id": "payout-0001", "amount": "124.05", "currency": "USD", "sender": SENDER, "recipient": RECIPIENT,
        "sender_reference": "PS00ABCDEF012345", "correlation_id": "corr-1",
    }  # fmt: skip
    profile = changes.pop("profile", PROFILE)
    return push_funds(profile, IDENTITY, **{**arguments, **changes})


def body(request: VisaRequest) -> dict[str, Any]:
    assert request.body is not None
    document: dict[str, Any] = json.loads(request.body, parse_float=Decimal)
    return document


def test_a_push_carries_what_visa_requires() -> None:
    """S1, S3, B4: every required field of Visa's OpenAPI, the five of the duplicate key among them."""
    request = push()
    document = body(request)
    assert (request.method, request.path) == ("POST", "/visadirect/fundstransfer/v1/pushfundstransactions")
    assert request.client_transaction_id == client_transaction_id("payout-0001", Operation.PUSH_FUNDS)
    key = ("acquiringBin", "systemsTraceAuditNumber", "retrievalReferenceNumber")
    assert [document[name] for name in key] == [408999, 434567, "632617000001"]
    assert (document["cardAcceptor"]["idCode"], document["cardAcceptor"]["terminalId"]) == ("PAYOUTS01", "PAYOUT01")
    assert document["recipientPrimaryAccountNumber"] == CARD
    assert document["localTransactionDateTime"] == "2026-11-22T17:30:05"
    assert document["transactionCurrencyCode"] == "USD"
    assert document["senderReference"] == "PS00ABCDEF012345"
    assert document["acquirerCountryCode"] == 840
    assert document["recipientCountryCode"] == "USA"
    assert "recipientPaymentCredentialReference" not in document


def test_the_body_is_the_same_bytes_each_time_and_again_from_the_row() -> None:
    """S3: what is sent again is the same, under the same X-Client-Transaction-ID."""
    first = push()
    assert push() == first
    assert first.body is not None
    assert push_funds_again(first.body, payout_id="payout-0001", correlation_id="corr-1") == first


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        ("124.05", "USD"),
        ("0.10", "USD"),
        ("999999999.99", "USD"),
        ("5000", "JPY"),
        ("1.240", "KWD"),
        ("0.010", "KWD"),
        ("7", "USD"),
    ],
)
def test_the_amount_is_an_exact_number_literal(amount: str, currency: str) -> None:
    """No amount passes through binary floating point: the literal in the body is the text that was given."""
    text = (push(amount=amount, currency=currency).body or b"").decode()
    assert f'"amount":{amount},' in text


@given(st.integers(1, 99_999_999_999))
def test_every_amount_in_cents_arrives_exactly(cents: int) -> None:
    """Property: the decoded body holds the very amount, to the cent."""
    amount = f"{cents // 100}.{cents % 100:02d}"
    assert body(push(amount=amount))["amount"] == Decimal(cents) / 100


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        ("0", "USD"), ("0.00", "USD"), ("-1", "USD"), ("1e3", "USD"), ("1.005", "USD"), ("1.001", "KWD"),
        ("1.5", "JPY"), ("1000000000", "USD"), ("01.00", "USD"), ("1.", "USD"), (".5", "USD"), ("NaN", "USD"),
        ("1,00", "USD"), ("", "USD"), ("１", "USD"),
    ],
)  # fmt: skip
def test_an_amount_visa_cannot_take_is_refused(amount: str, currency: str) -> None:
    """Visa's OpenAPI: 0..999999999.999, the currency's digits, a third digit of 0."""
    with pytest.raises(RequestInvalid) as caught:
        push(amount=amount, currency=currency)
    assert caught.value.field == "amount"


def without(party: Party, *names: str) -> Party:
    nothing: dict[str, Any] = dict.fromkeys(names)
    return replace(party, **nothing)


ABROAD = replace(RECIPIENT, party=replace(RECIPIENT.party, country_code="DE", state_code=None))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("senderAddress", {"sender": without(SENDER, "address_line")}),
        ("senderCity", {"sender": without(SENDER, "city")}),
        ("senderCountryCode", {"sender": without(SENDER, "country_code")}),
        ("senderCountryCode", {"sender": without(SENDER, "country_code"), "recipient": ABROAD}),
        ("senderStateCode", {"sender": without(SENDER, "state_code")}),
        ("senderPostalCode", {"sender": without(SENDER, "postal_code")}),
        ("senderName", {"sender": replace(SENDER, name="N" * 31)}),
        ("senderName", {"sender": replace(SENDER, name="Line\nbreak")}),
        ("recipientName", {"recipient": replace(RECIPIENT, party=replace(RECIPIENT.party, name=""))}),
        ("senderReference", {"sender_reference": "S" * 17}),
        ("senderReference", {"sender_reference": ""}),
        ("purposeOfPayment", {"recipient": replace(ABROAD, party=replace(ABROAD.party, country_code="IN"))}),
        ("recipientState", {"recipient": replace(ABROAD, party=replace(ABROAD.party, country_code="CA"))}),
        ("recipientCountryCode", {"recipient": replace(ABROAD, party=replace(ABROAD.party, country_code="XX"))}),
        ("recipientCardExpiryDate", {"recipient": replace(RECIPIENT, card_expiry="2030-13")}),
        ("recipientCardExpiryDate", {"recipient": replace(RECIPIENT, card_expiry=None, card_issuer_country_code="US")}),
        ("transactionIdentifier", {"funding_transaction_identifier": "12345"}),
        ("currency", {"currency": "usd"}),
        ("cardAcceptor.legalBusinessName", {
            "business_application_id": "AA",
            "profile": replace(PROFILE, card_acceptor=replace(ACCEPTOR, legal_business_name=None)),
        }),
        ("cardAcceptor.legalBusinessName", {
            "recipient": replace(ABROAD, card_issuer_country_code="AU"),
            "profile": replace(PROFILE, card_acceptor=replace(ACCEPTOR, legal_business_name=None)),
        }),
        ("sourceOfFundsCode", {"business_application_id": "CP", "source_of_funds_code": "06"}),
        ("correlation_id", {"correlation_id": "a\r\nX-Injected: 1"}),
    ],
)  # fmt: skip
def test_a_missing_or_wrong_field_is_named_and_its_value_is_not(field: str, changes: dict[str, Any]) -> None:
    """P6: the errors of the conditional fields say which field, never what was in it."""
    with pytest.raises(RequestInvalid) as caught:
        push(**changes)
    assert caught.value.field == field
    for private in (CARD, "Maria", "Market St", "2030-13", "NNNN", "Injected"):
        assert private not in str(caught.value)


COLOMBIAN = replace(
    PROFILE, acquirer_country_code="170", card_acceptor=replace(ACCEPTOR, country="CO", state=None, county=None)
)
IN_COLOMBIA: dict[str, Any] = {
    "profile": COLOMBIAN,
    "sender": replace(SENDER, country_code="CO", city="Bogota", state_code=None, postal_code="110111-AB-CD-123"),
    "recipient": replace(RECIPIENT, party=replace(RECIPIENT.party, country_code="CO", state_code=None)),
}


def test_within_colombia_the_place_counts_and_the_name_is_left_out() -> None:
    """B4: Visa's OpenAPI on domestic payments in Colombia: city, a longer postal code, country, and no senderName."""
    document = body(push(**IN_COLOMBIA))
    assert "senderName" not in document
    assert (document["senderCity"], document["senderPostalCode"]) == ("Bogota", "110111-AB-CD-123")
    assert document["recipientCountryCode"] == "COL"


@pytest.mark.parametrize(("field", "name"), [("senderCity", "city"), ("senderPostalCode", "postal_code")])
def test_within_colombia_the_place_is_required(field: str, name: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        push(**{**IN_COLOMBIA, "sender": without(IN_COLOMBIA["sender"], name)})
    assert caught.value.field == field


def test_a_canadian_card_from_abroad_names_the_business() -> None:
    """B4: with the name set, the same push is built."""
    canadian = replace(ABROAD, card_issuer_country_code="CA")
    assert body(push(recipient=canadian))["cardAcceptor"]["legalBusinessName"] == "Payouts Incorporated"


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("cardAcceptor.address.county", {"card_acceptor": replace(ACCEPTOR, county=None)}),
        ("cardAcceptor.address.zipCode", {"card_acceptor": replace(ACCEPTOR, zip_code="")}),
        ("cardAcceptor.address.state", {"card_acceptor": replace(ACCEPTOR, country="CA", state=None)}),
        ("cardAcceptor.idCode", {"card_acceptor": replace(ACCEPTOR, id_code="I" * 16)}),
        ("cardAcceptor.terminalId", {"card_acceptor": replace(ACCEPTOR, terminal_id="T" * 9)}),
        ("acquiringBin", {"acquiring_bin": "40899"}),
        ("acquirerCountryCode", {"acquirer_country_code": "999"}),
    ],
)
def test_a_profile_is_checked_when_it_is_made(field: str, changes: dict[str, Any]) -> None:
    """A wrong enrolment stops the start of a worker, not its first payout."""
    with pytest.raises(RequestInvalid) as caught:
        replace(PROFILE, **changes)
    assert caught.value.field == field


def test_a_token_goes_as_a_credential_reference() -> None:
    """B4: exactly one of account number and reference (Visa's OpenAPI)."""
    document = body(push(recipient=replace(RECIPIENT, card=TokenReference(value=Secret("tok_approve_1")))))
    assert document["recipientPaymentCredentialReference"] == {"type": "PCI_TOKEN_REFID", "value": "tok_approve_1"}
    assert "recipientPrimaryAccountNumber" not in document


def test_a_push_after_a_pull_names_it() -> None:
    """Visa's OpenAPI: the OCT carries the AFT's transaction identifier."""
    assert body(push(funding_transaction_identifier="381228649430011"))["transactionIdentifier"] == 381228649430011


def test_a_query_asks_by_both_numbers_and_for_the_fields_that_decide() -> None:
    """S1, S5: the query knows no more than STAN and RRN; amount and originalActionCode are not given unasked."""
    request = transaction_query(IDENTITY, "408999")
    query = dict(request.query)
    assert (query["acquiringBIN"], query["stan"], query["rrn"]) == ("408999", "434567", "632617000001")
    assert {"originalActionCode", "amount", "transactionType", "statusCode"} <= set(query["fields"].split(","))
    assert request.body is None
    assert dict(transaction_query(FUNDING, "408999").query)["stan"] == "451018"


@pytest.mark.parametrize("identifier", ["", "..", ".", "a/b", "a?b", "a#b", "a%2e", "a b", "é", "x" * 129])
def test_a_status_identifier_cannot_change_the_path(identifier: str) -> None:
    """What Visa sent as an identifier becomes one path segment or is refused."""
    with pytest.raises(RequestInvalid, match="statusIdentifier"):
        status(identifier)


def test_status_asks_where_the_post_went() -> None:
    """B4: GET on the same resource (Visa's error page); the paths are settings of the profile."""
    identifier = "1491819372_186_81_l73c003_VDP_ARM"
    assert status(identifier).path == f"/visadirect/fundstransfer/v1/pushfundstransactions/{identifier}"
    reversal = status(identifier, operation=Operation.REVERSE_FUNDS)
    assert reversal.path.startswith("/visadirect/fundstransfer/v1/reversefundstransactions/")
    assert status(identifier, paths=Paths(push_funds="/sandbox/push")).path == f"/sandbox/push/{identifier}"


def reversal(**changes: Any) -> VisaRequest:
    arguments: dict[str, Any] = {
        "payout_id": "payout-0001", "amount": "124.05", "currency": "USD", "sender_card": CardNumber(CARD),
        "first_intent_at": INTENT + timedelta(hours=1),
    }  # fmt: skip
    profile, funding = changes.pop("profile", PROFILE), changes.pop("funding", FUNDING)
    return reverse_funds(profile, funding, **{**arguments, **changes})


def test_a_reversal_repeats_the_numbers_of_its_pull() -> None:
    """C4: STAN, RRN and transaction identifier are the AFT's, and so is originalDataElements."""
    request = reversal()
    document = body(request)
    assert document["systemsTraceAuditNumber"] == 451018
    assert document["retrievalReferenceNumber"] == "632616451018"
    assert document["transactionIdentifier"] == 381228649430011
    assert document["originalDataElements"] == {
        "acquiringBin": 408999, "approvalCode": "98765X", "systemsTraceAuditNumber": 451018,
        "transmissionDateTime": "2026-11-22T17:30:05",
    }  # fmt: skip
    assert document["senderPrimaryAccountNumber"] == CARD
    assert request.client_transaction_id == client_transaction_id("payout-0001", Operation.REVERSE_FUNDS)
    assert request.client_transaction_id != push().client_transaction_id


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("merchantCategoryCode", {"profile": replace(PROFILE, merchant_category_code=None)}),
        ("originalDataElements.approvalCode", {"funding": replace(FUNDING, approval_code="123")}),
        ("transactionIdentifier", {"funding": replace(FUNDING, transaction_identifier="x")}),
        ("retrievalReferenceNumber", {"funding": replace(FUNDING, retrieval_reference_number="1")}),
        ("systemsTraceAuditNumber", {"funding": replace(FUNDING, systems_trace_audit_number=0)}),
        ("amount", {"amount": "1.001"}),
    ],
)
def test_an_incomplete_reversal_is_refused(field: str, changes: dict[str, Any]) -> None:
    """A reversal that Visa could not match to its pull is not sent."""
    with pytest.raises(RequestInvalid) as caught:
        reversal(**changes)
    assert caught.value.field == field


def adjustment(**changes: Any) -> VisaRequest:
    arguments: dict[str, Any] = {
        "payout_id": "payout-0001", "amount": "124.05", "currency": "USD", "sender_card": CardNumber(CARD),
        "sender_reference": "PS00ABCDEF012345", "correlation_id": "corr-1",
    }  # fmt: skip
    profile, funding = changes.pop("profile", PROFILE), changes.pop("funding", FUNDING)
    return adjust_funds(profile, IDENTITY, funding, **{**arguments, **changes})


def test_an_adjustment_names_its_pull_and_has_numbers_of_its_own() -> None:
    """C2, S1: Visa's OpenAPI: other STAN and RRN, the pull's transaction identifier, reason 2140, type 22."""
    request = adjustment()
    document = body(request)
    assert (request.method, request.path) == ("POST", "/visadirect/v1/adjustment")
    assert document["systemsTraceAuditNumber"] == IDENTITY.systems_trace_audit_number
    assert document["retrievalReferenceNumber"] == IDENTITY.retrieval_reference_number
    assert document["transactionIdentifier"] == 381228649430011
    assert (document["messageReasonCode"], document["transactionTypeCode"]) == (2140, 22)
    assert document["pointOfServiceData"] == {"panEntryMode": "01", "posConditionCode": "00"}
    assert (document["amount"], document["senderCurrencyCode"]) == (Decimal("124.05"), "USD")
    assert (document["senderPrimaryAccountNumber"], document["senderReference"]) == (CARD, "PS00ABCDEF012345")
    assert document["localTransactionDateTime"] == "2026-11-22T17:30:05"
    assert document.keys() >= {
        "acquirerCountryCode", "acquiringBin", "businessApplicationId", "cardAcceptor", "merchantCategoryCode",
    }  # fmt: skip
    assert request.client_transaction_id == client_transaction_id("payout-0001", Operation.ADJUSTMENT)
    assert request.client_transaction_id not in (push().client_transaction_id, reversal().client_transaction_id)


def test_an_adjustment_again_is_the_same_bytes() -> None:
    """S3: after refusals only, from the persisted body, under the same client transaction id."""
    first = adjustment()
    assert first.body is not None
    assert adjust_funds_again(first.body, payout_id="payout-0001", correlation_id="corr-1") == first
    assert CARD not in repr(first)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("merchantCategoryCode", {"profile": replace(PROFILE, merchant_category_code=None)}),
        ("transactionIdentifier", {"funding": replace(FUNDING, transaction_identifier="x")}),
        (
            "systemsTraceAuditNumber",
            {"funding": replace(FUNDING, systems_trace_audit_number=IDENTITY.systems_trace_audit_number)},
        ),
        (
            "retrievalReferenceNumber",
            {"funding": replace(FUNDING, retrieval_reference_number=IDENTITY.retrieval_reference_number)},
        ),
        ("amount", {"amount": "1.001"}),
        ("senderReference", {"sender_reference": "not one"}),
    ],
)
def test_an_adjustment_that_visa_could_not_take_is_refused(field: str, changes: dict[str, Any]) -> None:
    """C2: what Visa would refuse, or could take for the pull itself, is not sent; the message names the field."""
    with pytest.raises(RequestInvalid) as caught:
        adjustment(**changes)
    assert caught.value.field == field
