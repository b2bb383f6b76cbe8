"""Questions before a payout on the stand-in: FTAI, PAV, alias, rates (S1, B3, B8).

The documented facts have their cases in sandbox/conformance; here is what only the stand-in's own ports show.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sandbox.visa_direct.cards import Cards
from tests.contract.visa_direct.visa_direct_client import (
    ALIAS,
    APPROVED_CARD,
    ATTRIBUTES,
    RATES,
    VALIDATION,
    VisaClient,
    push_body,
)

Start = Callable[..., Awaitable[VisaClient]]
NO_PUSHES, SLOW_FUNDS, MEXICAN = "4000000000000101", "4000000000000200", "4000000000000309"


def inquiry(card: str) -> dict[str, Any]:
    return {
        "primaryAccountNumber": card,
        "systemsTraceAuditNumber": "700001",
        "retrievalReferenceNumber": "603112700001",
    }


def validation(card: str = APPROVED_CARD, **changes: Any) -> dict[str, Any]:
    return inquiry(card) | {"acquiringBin": "408999", "acquirerCountryCode": "840"} | changes


def rate(**changes: Any) -> dict[str, Any]:
    return {
        "initiatingPartyId": 1002,
        "rateProductCode": "BANK",
        "sourceCurrencyCode": "USD",
        "destinationCurrencyCode": "GBP",
        "sourceAmount": "100.00",
    } | changes


QUESTIONS = {
    "attributes": (ATTRIBUTES, inquiry(APPROVED_CARD)),
    "validation": (VALIDATION, validation()),
    "alias": (ALIAS, {"alias": "rosalind@example.com", "businessApplicationId": "PP"}),
    "rates": (RATES, rate()),
}


@pytest.mark.parametrize("operation", QUESTIONS)
async def test_a_question_moves_nothing_and_is_logged(visa: VisaClient, operation: str) -> None:
    """S1: nothing in the ledger; the numbers of a question are in the attempt log, so that a repeat of them shows."""
    path, body = QUESTIONS[operation]
    assert (await visa.post(path, body)).status == 200
    assert await visa.entries() == []
    (logged,) = await visa.requests()
    assert (logged["operation"], logged["http_status"]) == (operation, 200)
    if "systemsTraceAuditNumber" in body:
        assert (logged["stan"], logged["rrn"]) == ("700001", "603112700001")
    assert APPROVED_CARD not in str(logged)


@pytest.mark.parametrize("operation", QUESTIONS)
async def test_a_question_can_fail_like_any_call(visa: VisaClient, operation: str) -> None:
    """B13: a preflight that fails must leave the payout unsent, so each can fail in each way."""
    path, body = QUESTIONS[operation]
    for fault in ("429", "500", "503", "403"):
        await visa.faults({"operation": operation, "fault": fault})
        assert (fault, (await visa.post(path, body)).status) == (fault, int(fault))
    await visa.faults({"operation": operation, "fault": "slow", "seconds": 0.1})
    assert (await visa.post(path, body)).status == 200


async def test_what_an_inquiry_says_of_each_card(visa: VisaClient) -> None:
    """B3: no pushes, slow funds, an issuer abroad; a card that is not listed takes everything."""

    async def ask(card: str) -> dict[str, Any]:
        found: dict[str, Any] = (await visa.post(ATTRIBUTES, inquiry(card))).body["visaNetworkInfo"][0]
        return found

    usual = await ask("4111111111111111")
    assert (usual["moneyTransferPushFundsDomestic"], usual["moneyTransferFastFundsDomestic"]) == ("Y", "Y")
    assert (usual["issuerCountryCode"], usual["billingCurrency"]) == (840, 840)
    blocked = await ask(NO_PUSHES)
    assert {value for name, value in blocked.items() if "Funds" in name and len(str(value)) == 1} == {"N"}
    slow = await ask(SLOW_FUNDS)
    assert (slow["moneyTransferPushFundsDomestic"], slow["moneyTransferFastFundsDomestic"]) == ("Y", "N")
    abroad = await ask(MEXICAN)
    assert (abroad["issuerCountryCode"], abroad["billingCurrency"]) == (484, 484)


async def test_a_validation_agrees_with_the_push(visa: VisaClient) -> None:
    """B3: what a validation lets pass is paid, what it does not is declined with the same code."""
    for number, card in enumerate((APPROVED_CARD, "4000000000000507", NO_PUSHES)):
        said = (await visa.post(VALIDATION, validation(card))).body["actionCode"]
        done = (await visa.push(push_body(number, card))).body["actionCode"]
        assert said == ("85" if done == "00" else done)


async def test_cvv2_and_address_have_results_of_their_own(visa: VisaClient) -> None:
    """A result for what was asked, none for what was not."""
    bare = (await visa.post(VALIDATION, validation())).body
    assert not {"cvv2ResultCode", "addressVerificationResults"} & bare.keys()
    wrong = (await visa.post(VALIDATION, validation(cardCvv2Value="000"))).body
    assert wrong["cvv2ResultCode"] == "N"
    other = await visa.post(VALIDATION, validation(acquiringBin="408998"))
    assert (other.status, other.code) == (400, "3001")


async def test_a_rate_can_move(visa: VisaClient) -> None:
    """B8: a bound on slippage needs a market that moves: five per cent, from the rule on."""
    quoted = (await visa.post(RATES, rate())).body["conversionRate"]
    assert (await visa.post(RATES, rate())).body["conversionRate"] == quoted
    await visa.faults({"operation": "rates", "fault": "rate_moved"})
    assert (await visa.post(RATES, rate())).body["conversionRate"] == pytest.approx(quoted * 0.95)


async def test_a_quote_lasts_as_long_as_it_is_set(visa: VisaClient) -> None:
    """B8: quoteIdExpiryDateTime is half an hour away unless turned."""
    asked = rate(quoteIdRequired=True)
    del asked["sourceAmount"]
    await visa.knobs(quote_seconds=60)
    quote = (await visa.post(RATES, asked)).body
    assert 55 <= int(quote["quoteId"][1:].split("-")[0]) - visa.now() <= 60


WRONG_RATES: list[tuple[dict[str, Any], str]] = [
    ({"destinationCurrencyCode": "XOF"}, "destinationCurrencyCode"),
    ({"sourceCurrencyCode": "???"}, "sourceCurrencyCode"),
    ({"rateProductCode": "C"}, "rateProductCode"),
    ({"initiatingPartyId": None}, "body"),
    ({"destinationAmount": "5"}, "body"),
    ({"sourceAmount": "-5"}, "sourceAmount"),
]


async def test_a_rate_that_cannot_be_given_says_why(visa: VisaClient) -> None:
    """400, reason 3001, and the place; no value is repeated."""
    for change, place in WRONG_RATES:
        answer = await visa.post(RATES, rate(**change))
        error = answer.body["errorResponse"]
        assert (change, answer.status, error["reason"]) == (change, 400, "3001")
        assert place in [detail["location"] for detail in error["details"]]


async def test_an_alias_leads_to_a_card_that_can_be_paid(visa: VisaClient) -> None:
    """An alias is resolved, and the card behind it behaves like any other."""
    for number, (alias, code) in enumerate((("16505550100", "00"), ("declined@example.com", "05"))):
        found = (await visa.post(ALIAS, {"alias": alias, "businessApplicationId": "PP"})).body
        push = push_body(number, found["recipientPrimaryAccountNumber"])
        assert (await visa.push(push)).body["actionCode"] == code


def test_every_alias_leads_to_a_listed_card() -> None:
    """The data file: an alias whose card nobody described would be approved by accident."""
    cards = Cards.from_file()
    assert {alias.card_number for alias in cards.aliases.values()} <= set(cards._by_recipient)
