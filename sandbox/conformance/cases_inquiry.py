"""Questions before a payout: account attributes (FTAI v5), card validation (PAV), alias, exchange rates."""

import re
from itertools import product
from typing import Final

from sandbox.conformance.client import APPROVED_CARD, Answer, Body, Client, changed, holds, same
from sandbox.conformance.suite import case

ATTRIBUTES: Final = "/paai/fundstransferattinq/v5/cardattributes/fundstransferinquiry"
VALIDATION: Final = "/pav/v1/cardvalidation"
ALIAS: Final = "/visaaliasdirectory/v1/resolve"
RATES: Final = "/forexrates/v2/foreignexchangerates"

VISA_CARD: Final = "4060320000000127"
OTHER_CARD: Final = "5123280115058611"
INVALID_CARD: Final = "1111111111111111"
FLAGS: Final = {
    "".join(parts)
    for parts in product(
        ("moneyTransfer", "nonMoneyTransfer", "onlineGambling"), ("PushFunds", "FastFunds"), ("Domestic", "CrossBorder")
    )
}
OLD_FIELDS: Final = ("fastFundsIndicator", "pushFundsBlockIndicator")
# "No reason to decline" is how a verification passes; some networks say approved.
PASSED: Final = ("85", "00")


def attributes_body(visa: Client, card: str = VISA_CARD) -> Body:
    stan, rrn = visa.numbers()
    return {"primaryAccountNumber": card, "systemsTraceAuditNumber": str(stan), "retrievalReferenceNumber": rrn}


def validation_body(visa: Client, **changes: object) -> Body:
    """Visa's sample of a validation that passes."""
    stan, rrn = visa.numbers()
    body: Body = {
        "systemsTraceAuditNumber": str(stan),
        "retrievalReferenceNumber": rrn,
        "acquiringBin": visa.target.acquiring_bin,
        "acquirerCountryCode": visa.target.acquirer_country,
        "primaryAccountNumber": APPROVED_CARD,
        "cardExpiryDate": "2040-10",
        "cardCvv2Value": "022",
        "addressVerificationResults": {"street": "801 Metro Center Blv", "postalCode": "94404"},
        "cardAcceptor": {
            "name": "ABC Corp",
            "idCode": "111111",
            "terminalId": "12345678",
            "address": {"country": "US", "zipCode": "94404", "city": "Foster City", "state": "CA"},
        },
    }
    return changed(body, changes)


def card_rate(visa: Client, **changes: object) -> Body:
    body: Body = {
        "acquirerDetails": {"bin": visa.target.acquiring_bin, "settlement": {"currencyCode": "840"}},
        "rateProductCode": "A",
        "markupRate": "0.07",
        "sourceCurrencyCode": "840",
        "destinationCurrencyCode": "826",
        "sourceAmount": "100.55",
    }
    return changed(body, changes)


def bank_rate(visa: Client, **changes: object) -> Body:
    body: Body = {
        "initiatingPartyId": int(visa.target.initiating_party_id),
        "rateProductCode": "BANK",
        "sourceCurrencyCode": "USD",
        "destinationCurrencyCode": "GBP",
        "sourceAmount": 100,
    }
    return changed(body, changes)


def error_of(answer: Answer) -> Body:
    """``errorResponse`` of an error. Raises Mismatch if it is not there."""
    inner: Body = answer["errorResponse"]
    return inner


@case("F-095")
async def what_an_inquiry_needs(visa: Client) -> None:
    same("status", (await visa.post(ATTRIBUTES, attributes_body(visa))).status, 200)
    for name in ("primaryAccountNumber", "systemsTraceAuditNumber", "retrievalReferenceNumber"):
        answer = await visa.post(ATTRIBUTES, changed(attributes_body(visa), {name: None}))
        same(f"status without {name}", answer.status, 400)


@case("F-096")
async def a_card_on_visas_network(visa: Client) -> None:
    answer = await visa.post(ATTRIBUTES, attributes_body(visa))
    info = answer["visaNetworkInfo"][0]
    holds("twelve flags are Y or N", all(info[name] in ("Y", "N") for name in FLAGS))
    holds("the issuer is named", isinstance(info["issuerName"], str) and int(info["issuerCountryCode"]) > 0)
    holds("the billing currency is numeric", int(info["billingCurrency"]) > 0)
    holds("its decimals are a digit", re.fullmatch(r"[0-4]", str(info["billingCurrencyCodeMinorDigits"])) is not None)
    ready = info.get("pushFundsCrossBorderAuthApprovalInd", "READY")
    holds("cross-border readiness is a known word", ready in ("READY", "OPTIMIZED", "NON-OPTIMIZED"))


@case("F-097")
async def a_card_on_another_network(visa: Client) -> None:
    answer = await visa.post(ATTRIBUTES, attributes_body(visa, OTHER_CARD))
    same("status", answer.status, 200)
    info = answer["ppgsNetworkInfo"][0]
    holds("the network has a number", isinstance(info["networkId"], int))
    holds(
        "it says who takes pushes", info["octDomParticipant"] in ("Y", "N") and info["octXbParticipant"] in ("Y", "N")
    )
    holds("fast funds is Y, D or N", info.get("octFastFunds", "N") in ("Y", "D", "N"))


@case("F-098")
async def old_fields_are_gone(visa: Client) -> None:
    answer = await visa.post(ATTRIBUTES, attributes_body(visa))
    text = str(answer["visaNetworkInfo"])
    holds("no field of versions 1 and 2", not any(name in text for name in OLD_FIELDS))


@case("F-099")
async def errors_of_an_inquiry(visa: Client) -> None:
    same("status of a card that is known", (await visa.post(ATTRIBUTES, attributes_body(visa))).status, 200)
    malformed = await visa.post(ATTRIBUTES, attributes_body(visa, "12345"))
    same("status and code of a malformed number", (malformed.status, malformed.code), (400, "3001"))
    unknown = await visa.post(ATTRIBUTES, attributes_body(visa, INVALID_CARD))
    same(
        "status and reason of an unknown one", (unknown.status, error_of(unknown)["reason"]), (400, "invalidParameter")
    )


@case("F-100")
async def test_numbers_of_an_inquiry(visa: Client) -> None:
    found = [(await visa.post(ATTRIBUTES, attributes_body(visa, card))) for card in (VISA_CARD, OTHER_CARD)]
    holds("...0127 is Visa's", bool(found[0]["visaNetworkInfo"]))
    holds("5123... is of another network", bool(found[1]["ppgsNetworkInfo"]))
    same("1111...", (await visa.post(ATTRIBUTES, attributes_body(visa, INVALID_CARD))).status, 400)


@case("F-101")
async def what_a_validation_needs(visa: Client) -> None:
    same("status", (await visa.post(VALIDATION, validation_body(visa))).status, 200)
    for name in ("acquiringBin", "acquirerCountryCode", "primaryAccountNumber"):
        same(f"status without {name}", (await visa.post(VALIDATION, validation_body(visa, **{name: None}))).status, 400)
    bad: list[Body] = [{"cardExpiryDate": "10/40"}, {"addressVerificationResults": {"street": "1"}}]
    for change in bad:
        answer = await visa.post(VALIDATION, validation_body(visa, **change))
        same(f"status with another {next(iter(change))}", answer.status, 400)


@case("F-102")
async def what_a_validation_answers(visa: Client) -> None:
    answer = await visa.post(VALIDATION, validation_body(visa))
    holds(
        "transactionIdentifier is text of 15", re.fullmatch(r"[0-9]{15}", answer["transactionIdentifier"]) is not None
    )
    same("length of actionCode", len(answer["actionCode"]), 2)
    same("length of responseCode", len(answer["responseCode"]), 1)
    holds("there is a CVV2 result", answer["cvv2ResultCode"] in ("M", "N", "P", "S", "U"))
    holds("there is an address result", bool(answer["addressVerificationResults"]))


@case("F-103")
async def the_test_number_of_a_validation(visa: Client) -> None:
    passes = (await visa.post(VALIDATION, validation_body(visa)))["actionCode"]
    fails = (await visa.post(VALIDATION, validation_body(visa, cardExpiryDate="2020-10")))["actionCode"]
    holds("2040-10 passes", passes in PASSED)
    holds("2020-10 does not", fails not in PASSED)


@case("F-104")
async def a_rate(visa: Client) -> None:
    by_source = await visa.post(RATES, card_rate(visa))
    rate = float(by_source["conversionRate"])
    holds("the rate is above 0", rate > 0)
    holds("the other amount is there", 0 < float(by_source["destinationAmount"]) <= 100.55 * rate)
    by_destination = await visa.post(RATES, card_rate(visa, sourceAmount=None, destinationAmount="75.85"))
    holds("the source amount is there", float(by_destination["sourceAmount"]) > 0)
    for product_code in ("BANK", "WALLET"):
        answer = await visa.post(RATES, bank_rate(visa, rateProductCode=product_code))
        same("product", answer["rateProductCode"], product_code)
        wrong_by = abs(float(answer["destinationAmount"]) - 100 * float(answer["conversionRate"]))
        holds("amount is rate times 100", wrong_by < 0.01)


@case("F-105")
async def a_quote(visa: Client) -> None:
    body = bank_rate(visa, sourceAmount=None, quoteIdRequired=True)
    answer = await visa.post(RATES, body)
    holds("there is a quote", bool(answer["quoteId"]))
    holds(
        "it expires at a time", re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", answer["quoteIdExpiryDateTime"]) is not None
    )
    unasked = await visa.post(RATES, bank_rate(visa))
    same("status without asking", unasked.status, 200)
    holds("nobody gets a quote unasked", "quoteId" not in unasked.body)


@case("F-106", "stand_in")
async def errors_of_a_rate(visa: Client) -> None:
    answer = await visa.post(RATES, card_rate(visa, destinationCurrencyCode=None))
    same("status and reason", (answer.status, error_of(answer)["reason"]), (400, "3001"))
    for fault, reason in (("403", "4001"), ("500", "3004")):
        await visa.faults({"operation": "rates", "fault": fault})
        answer = await visa.post(RATES, card_rate(visa))
        same("status and reason", (answer.status, error_of(answer)["reason"]), (int(fault), reason))


@case("F-074")
async def the_shape_of_a_products_error(visa: Client) -> None:
    answer = await visa.post(RATES, card_rate(visa, destinationCurrencyCode="XXXX"))
    same("status", answer.status, 400)
    inner = error_of(answer)
    holds("reason and message are text", isinstance(inner["reason"], str) and isinstance(inner["message"], str))
    details = inner["details"]
    holds("details name places", "destinationCurrencyCode" in [detail["location"] for detail in details])


@case("F-129", "stand_in")
async def an_alias(visa: Client) -> None:
    """The aliases are the stand-in's own: in Visa's sandbox one must be registered first."""
    answer = await visa.post(ALIAS, {"alias": "rosalind@example.com", "businessApplicationId": "PP"})
    same("status", answer.status, 200)
    holds("a card number", re.fullmatch(r"[0-9]{13,19}", answer["recipientPrimaryAccountNumber"]) is not None)
    holds("name, issuer and country", all(answer[name] for name in ("recipientName", "issuerName", "country")))
    unknown = await visa.post(ALIAS, {"alias": "nobody@example.com", "businessApplicationId": "PP"})
    same("status of an alias that nobody registered", unknown.status, 404)
    incomplete = await visa.post(ALIAS, {"alias": "rosalind@example.com"})
    same("status without businessApplicationId", incomplete.status, 400)
