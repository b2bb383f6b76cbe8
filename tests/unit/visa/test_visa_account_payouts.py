"""B4, S3, P6: the calls of the account rail are exact, repeatable and complete; a refusal names the field only."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.personal_data import BankAccount, Wallet
from processors.secrets import Secret
from processors.visa.account_payouts import (
    AccountPaths,
    AccountProfile,
    cancel_payout,
    payout_query,
    send_payout,
    send_payout_again,
    validate_payout,
)
from processors.visa.fields import RequestInvalid
from processors.visa.identity import Operation, client_transaction_id
from processors.visa.requests import Party, VisaRequest

NUMBER = "GB33BUKB20201555555555"
REFERENCE = "PAAAABBBBCCCC234"
PROFILE = AccountProfile(initiating_party_id=1002)
ACCOUNT = BankAccount(
    account_number=Secret(NUMBER), account_number_type="IBAN", account_name="Tomas Okafor", bic="BUKBGB22",
    country="GB", currency="GBP",
)  # fmt: skip
WALLET = Wallet(account_number=Secret("+254700000001"), operator_name="M-PESA", country="KE", currency="KES")
SENDER = Party(name="Mara Lindqvist", address_line="1 High Street", city="Leeds", country_code="GB")
RECIPIENT = Party(name="Tomas Okafor", first_name="Tomas", last_name="Okafor")


def send(**changes: Any) -> VisaRequest:
    arguments: dict[str, Any] = {
        "payout_id": "payout-0001", "client_reference_id": REFERENCE, "amount": "124.05", "currency": "USD",
        "sender": SENDER, "recipient": RECIPIENT, "destination": ACCOUNT, "correlation_id": "corr-1",
    }  # fmt: skip
    return send_payout(changes.pop("profile", PROFILE), **{**arguments, **changes})


def body(request: VisaRequest) -> dict[str, Any]:
    assert request.body is not None
    document: dict[str, Any] = json.loads(request.body, parse_float=Decimal)
    return document


def test_b4_a_send_to_a_bank_account_says_all_that_is_known() -> None:
    request = send(quote_id="q-1", purpose_of_payment="ISFAML")
    assert (request.method, request.path) == ("POST", "/visapayouts/v3/payouts")
    assert request.operation is Operation.SEND_PAYOUT
    assert request.client_transaction_id == client_transaction_id("payout-0001", Operation.SEND_PAYOUT)
    assert body(request) == {
        "payoutMethod": "B",
        "transactionDetail": {
            "initiatingPartyId": 1002,
            "businessApplicationId": "FD",
            "clientReferenceId": REFERENCE,
            "endToEndId": REFERENCE,
            "transactionAmount": Decimal("124.05"),
            "transactionCurrencyCode": "USD",
            "senderSourceOfFunds": "05",
            "quoteId": "q-1",
            "purposeOfPayment": "ISFAML",
        },
        "senderDetail": {
            "name": "Mara Lindqvist",
            "address": {"addressLine1": "1 High Street", "city": "Leeds", "country": "GBR"},
        },
        "recipientDetail": {
            "name": "Tomas Okafor",
            "firstName": "Tomas",
            "lastName": "Okafor",
            "bank": {
                "accountNumber": NUMBER,
                "accountNumberType": "IBAN",
                "accountName": "Tomas Okafor",
                "BIC": "BUKBGB22",
                "countryCode": "GBR",
                "currencyCode": "GBP",
            },
        },
    }


def test_b4_a_send_to_a_wallet_names_its_operator() -> None:
    document = body(send(destination=WALLET, business_application_id="PP"))
    assert document["payoutMethod"] == "W"
    assert document["transactionDetail"]["businessApplicationId"] == "PP"
    assert document["recipientDetail"]["wallet"] == {
        "accountNumber": "+254700000001",
        "operatorName": "M-PESA",
        "countryCode": "KEN",
        "currencyCode": "KES",
    }


def test_s3_the_same_arguments_give_the_same_bytes_and_the_body_is_repeated_as_it_is() -> None:
    first = send()
    assert first == send()
    assert first.body is not None
    assert send_payout_again(first.body, payout_id="payout-0001", correlation_id="corr-1") == first


def test_the_amount_is_exact() -> None:
    assert b'"transactionAmount":0.10' in (send(amount="0.10").body or b"")
    assert b'"transactionAmount":124' in (send(amount="124", currency="JPY").body or b"")


def test_s3_a_query_asks_by_our_reference_alone() -> None:
    request = payout_query(REFERENCE, 1002, correlation_id="corr-1")
    assert (request.method, request.path, request.body) == ("GET", "/visapayouts/v3/payouts", None)
    assert request.operation is Operation.PAYOUT_QUERY
    asked = {"id": REFERENCE, "idType": "CLIENT_REFERENCE_ID", "initiatingPartyId": "1002"}
    assert dict(request.query) == asked
    assert request.client_transaction_id is None


def test_b4_a_cancellation_names_the_payout() -> None:
    request = cancel_payout(REFERENCE, 1002, payout_id="payout-0001")
    assert (request.method, request.path) == ("POST", "/visapayouts/v3/payouts/cancel")
    assert body(request) == {"id": REFERENCE, "idType": "CLIENT_REFERENCE_ID", "initiatingPartyId": 1002}
    assert request.client_transaction_id != send().client_transaction_id


def test_b4_a_validation_says_what_a_send_would_under_a_reference_of_its_own() -> None:
    arguments: dict[str, Any] = {"sender": SENDER, "recipient": RECIPIENT, "destination": ACCOUNT}
    request = validate_payout(
        PROFILE, payout_id="payout-0001", client_reference_id="VAAAABBBB", amount="124.05", currency="USD", **arguments
    )
    assert request.path == "/visapayouts/v3/payouts/validate"
    expected = body(send())
    expected["transactionDetail"] |= {"clientReferenceId": "VAAAABBBB", "endToEndId": "VAAAABBBB"}
    assert body(request) == expected


def test_other_paths_are_a_setting_of_the_profile() -> None:
    paths = AccountPaths(payouts="/x/payouts", validate="/x/check")
    assert send(profile=replace(PROFILE, paths=paths)).path == "/x/payouts"
    assert payout_query(REFERENCE, 1, paths=paths).path == "/x/payouts"
    for wrong in ("x", "/x/", "/x?y"):
        with pytest.raises(ValueError, match="path"):
            AccountPaths(payouts=wrong)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"client_reference_id": ""}, "clientReferenceId"),
        ({"client_reference_id": "x" * 36}, "clientReferenceId"),
        ({"client_reference_id": "A-1"}, "clientReferenceId"),
        ({"amount": "0"}, "transactionAmount"),
        ({"amount": "1.234"}, "transactionAmount"),
        ({"currency": "XXX"}, "currency"),
        ({"quote_id": ""}, "quoteId"),
        ({"purpose_of_payment": "a b"}, "purposeOfPayment"),
        ({"business_application_id": "PPP"}, "businessApplicationId"),
        ({"sender": replace(SENDER, name="")}, "senderDetail.name"),
        ({"recipient": replace(RECIPIENT, city="a\x00b")}, "recipientDetail.address.city"),
        ({"sender": replace(SENDER, country_code="XX")}, "senderDetail.address.country"),
        ({"destination": replace(ACCOUNT, account_number=Secret("1" * 35))}, "recipientDetail.bank.accountNumber"),
        ({"destination": replace(ACCOUNT, country="XX")}, "recipientDetail.bank.countryCode"),
        ({"destination": replace(WALLET, operator_name="")}, "recipientDetail.wallet.operatorName"),
    ],
)
def test_p6_a_refusal_names_the_field_and_never_its_value(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestInvalid) as refused:
        send(**changes)
    assert refused.value.field == field
    assert "1111" not in str(refused.value)


@pytest.mark.parametrize("party", [0, -1, 2**63])
def test_a_party_id_that_cannot_be_is_refused_at_start(party: int) -> None:
    with pytest.raises(RequestInvalid, match="initiatingPartyId"):
        AccountProfile(initiating_party_id=party)


def test_p6_nothing_of_an_account_is_shown() -> None:
    for value in (ACCOUNT, WALLET, send(), send(destination=WALLET)):
        shown = repr(value) + str(value)
        assert NUMBER not in shown
        assert "254700000001" not in shown
        assert "Okafor" not in shown
