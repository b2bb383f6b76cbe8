"""What a push needs by country pair, application and issuer, where the suite's one enrolment cannot go (B13)."""

from typing import Any

import pytest

from sandbox.visa_direct.conditions import check_push
from sandbox.visa_direct.messages import PushRequest
from sandbox.visa_direct.refusal import Refusal

ACQUIRERS = {"408999": "840", "408998": "170", "408997": "124"}


def push(**changes: Any) -> PushRequest:
    """A disbursement within Colombia, complete; a change to None takes the field away."""
    document: dict[str, Any] = {
        "acquirerCountryCode": "170",
        "acquiringBin": "408998",
        "amount": "1000.00",
        "businessApplicationId": "FD",
        "cardAcceptor": {
            "name": "Acme",
            "idCode": "ACME",
            "terminalId": "T1",
            "address": {"country": "COL", "city": "Bogota"},
        },
        "localTransactionDateTime": "2026-01-31T12:00:00",
        "retrievalReferenceNumber": "603112000001",
        "systemsTraceAuditNumber": "100001",
        "transactionCurrencyCode": "COP",
        "recipientPaymentCredentialReference": {"type": "PCI_TOKEN_REFID", "value": "tok"},
        "senderReference": "REF1",
        "senderCity": "Bogota",
        "senderPostalCode": "110111",
        "sourceOfFundsCode": "05",
        "recipientCountryCode": "COL",
    } | changes
    return PushRequest.model_validate({name: value for name, value in document.items() if value is not None})


def refusal(message: PushRequest, issuer: str | None = None) -> str:
    """What it is refused for; empty if it is not."""
    found = ""
    try:
        check_push(message, issuer, ACQUIRERS)
    except Refusal as error:
        found = f"{error.status} {error.code} {error.message}"
    assert found.startswith("400 3001 ") or not found
    return found


def test_within_colombia_a_push_has_a_city_a_postal_code_and_no_senders_name() -> None:
    """The OpenAPI's rule for domestic payments in Colombia; its postal codes may have 16 characters."""
    assert refusal(push()) == ""
    assert refusal(push(senderPostalCode="1" * 16)) == ""
    assert "senderName" in refusal(push(senderName="Acme"))
    for name in ("senderCity", "senderPostalCode", "recipientCountryCode"):
        changed = push(**{name: None})
        # Without the recipient's country only the card says that it is domestic.
        assert name in refusal(changed, "COL")


def test_into_colombia_from_elsewhere_the_usual_rules_hold() -> None:
    """Cross-border: the sender is named and placed, and a postal code has at most 10 characters."""
    abroad = {"acquiringBin": "408999", "acquirerCountryCode": "840"}
    found = refusal(push(**abroad, senderPostalCode="1" * 11))
    for name in ("senderName", "senderAddress", "senderCountryCode", "senderPostalCode"):
        assert name in found


def test_from_canada_the_recipients_country_is_needed_and_its_state_only_in_north_america() -> None:
    """Cross-border from Canada; recipientState when the recipient is in 840 or 124."""
    canada = {
        "acquiringBin": "408997",
        "acquirerCountryCode": "124",
        "senderName": "Acme",
        "senderAddress": "1 King St",
        "senderCountryCode": "COL",
    }
    assert refusal(push(**canada, recipientCountryCode="GBR")) == ""
    assert "recipientState" in refusal(push(**canada, recipientCountryCode="USA"))
    assert "recipientCountryCode" in refusal(push(**canada, recipientCountryCode=None), "GBR")


@pytest.mark.parametrize(("country", "longest"), [("USA", 9), ("CAN", 9), ("PRI", 9), ("COL", 8)])
def test_a_postal_code_of_an_acceptor_has_nine_characters_in_north_america(country: str, longest: int) -> None:
    """US with its territories and Canada 9, elsewhere 8."""
    for length, refused in ((longest, False), (longest + 1, True)):
        address = {"country": country, "state": "S", "county": "C", "zipCode": "1" * length}
        acceptor = {"name": "Acme", "idCode": "ACME", "terminalId": "T1", "address": address}
        if length > 9:
            with pytest.raises(ValueError, match="zipCode"):
                push(cardAcceptor=acceptor)
        else:
            assert ("zipCode" in refusal(push(cardAcceptor=acceptor))) == refused


def test_nothing_of_the_request_is_in_a_refusal() -> None:
    """P6: fields are named, values are not repeated."""
    found = refusal(push(senderName="Rosalind Example", businessApplicationId="ZZ", acquiringBin="123456"))
    assert found
    for value in ("Rosalind", "ZZ", "123456"):
        assert value not in found
