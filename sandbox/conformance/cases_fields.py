"""The fields of a push: required, formats and lengths, and what is needed only for some."""

from typing import Any, Final

from sandbox.conformance.cases_push import approved, refused
from sandbox.conformance.client import APPROVED_CARD, Body, Client, changed, same
from sandbox.conformance.suite import case

Change = dict[str, Any]

REQUIRED: Final = (
    "acquirerCountryCode",
    "acquiringBin",
    "amount",
    "businessApplicationId",
    "cardAcceptor",
    "cardAcceptor.name",
    "cardAcceptor.idCode",
    "cardAcceptor.terminalId",
    "cardAcceptor.address",
    "cardAcceptor.address.country",
    "localTransactionDateTime",
    "retrievalReferenceNumber",
    "systemsTraceAuditNumber",
    "transactionCurrencyCode",
)
# A money transfer has what a disbursement does not need.
TRANSFER: Final[Change] = {"businessApplicationId": "PP", "cardAcceptor.legalBusinessName": "Conformance Inc"}
ABROAD: Final[Change] = {
    "cardAcceptor.address": {"country": "GBR", "city": "London"},
    "senderCountryCode": "GBR",
    "senderCity": "London",
    "senderStateCode": None,
}


def but(*changes: Change) -> Change:
    """Several changes as one, the later ones win."""
    merged: Change = {}
    for change in changes:
        merged |= change
    return merged


async def _taken(visa: Client, *changes: Change, recipient: str = APPROVED_CARD) -> None:
    await approved(visa, visa.push_body(recipient, **but(*changes)))


async def _not_taken(visa: Client, *changes: Change, recipient: str = APPROVED_CARD) -> None:
    await refused(visa, f"another {', '.join(sorted(but(*changes)))}", visa.push_body(recipient, **but(*changes)))


async def _length(visa: Client, name: str, shortest: int, longest: int) -> None:
    """Both ends are taken, one more or fewer is not. Zero: may be absent, so nothing is too short."""
    await _taken(visa, {name: "A" * longest})
    await _not_taken(visa, {name: "A" * (longest + 1)})
    if shortest > 1:
        await _taken(visa, {name: "A" * shortest})
        await _not_taken(visa, {name: "A" * (shortest - 1)})


@case("F-003", "money")
async def required_fields(visa: Client) -> None:
    await _taken(visa)
    for name in REQUIRED:
        await _not_taken(visa, {name: None})


@case("F-004", "money")
async def one_recipient(visa: Client) -> None:
    await _taken(visa)
    reference = {"type": "PCI_TOKEN_REFID", "value": "tok_approve_1"}
    await _not_taken(visa, {"recipientPrimaryAccountNumber": None})
    await _not_taken(visa, {"recipientPaymentCredentialReference": reference})


@case("F-006", "money")
async def numbers_as_strings(visa: Client) -> None:
    stan, _ = visa.numbers()
    as_text = {"systemsTraceAuditNumber": str(stan), "amount": "124.05", "merchantCategoryCode": "6012"}
    await _taken(visa, as_text, {"acquiringBin": visa.target.acquiring_bin, "acquirerCountryCode": "840"})
    as_numbers = {"amount": 124.05, "merchantCategoryCode": 6012, "acquirerCountryCode": 840}
    await _taken(visa, as_numbers, {"acquiringBin": int(visa.target.acquiring_bin)})


@case("F-007", "money")
async def what_samples_leave_out(visa: Client) -> None:
    point = {"panEntryMode": "90", "posConditionCode": "0", "motoECIIndicator": 0}
    await _taken(visa, {"cardAcceptor.address.city": None, "pointOfServiceData": point})


@case("F-008", "money")
async def the_check_digit_is_not_looked_at(visa: Client) -> None:
    await _taken(visa, recipient="4060320000000127")


@case("F-009", "money")
async def the_transaction_identifier(visa: Client) -> None:
    body = visa.push_body()
    identifier = (await approved(visa, body))["transactionIdentifier"]
    same("type and digits in the answer", (type(identifier), len(str(identifier))), (int, 15))
    row = (await visa.query(body)).body[0]
    same("in the query", row["transactionIdentifier"], str(identifier))


@case("F-010", "money")
async def the_range_of_an_amount(visa: Client) -> None:
    await _taken(visa, {"amount": "999999999.99"})
    for amount in ("1000000000", "-1.00", "1.0001", "1e2", "ten"):
        await _not_taken(visa, {"amount": amount})


@case("F-011", "money")
async def the_decimals_of_an_amount(visa: Client) -> None:
    for amount, currency in (("100", "JPY"), ("1.2", "USD"), ("1.25", "USD"), ("1.250", "KWD")):
        await _taken(visa, {"amount": amount, "transactionCurrencyCode": currency})
    for amount, currency in (("100.5", "JPY"), ("1.250", "USD"), ("1.251", "KWD")):
        await _not_taken(visa, {"amount": amount, "transactionCurrencyCode": currency})


@case("F-012", "money")
async def the_bin_is_enrolled(visa: Client) -> None:
    await _taken(visa)
    await _not_taken(visa, {"acquiringBin": "408998"})


@case("F-013", "money")
async def the_country_is_the_bins(visa: Client) -> None:
    await _taken(visa)
    await _not_taken(visa, {"acquirerCountryCode": "124"})


@case("F-014", "money")
async def lengths_of_the_acceptor(visa: Client) -> None:
    await _length(visa, "cardAcceptor.name", 1, 25)
    await _length(visa, "cardAcceptor.idCode", 1, 15)
    await _length(visa, "cardAcceptor.terminalId", 1, 8)


@case("F-015", "money")
async def lengths_of_the_acceptors_address(visa: Client) -> None:
    await _length(visa, "cardAcceptor.address.city", 1, 13)
    await _length(visa, "cardAcceptor.address.county", 1, 50)
    await _length(visa, "cardAcceptor.address.state", 1, 50)
    await _length(visa, "cardAcceptor.address.zipCode", 1, 9)
    await _not_taken(visa, {"cardAcceptor.address.country": "A" * 51})
    await _taken(visa, ABROAD, {"cardAcceptor.address.zipCode": "A" * 8})
    await _not_taken(visa, ABROAD, {"cardAcceptor.address.zipCode": "A" * 9})


@case("F-016", "money")
async def the_acceptors_state_county_and_postal_code(visa: Client) -> None:
    for name in ("state", "county", "zipCode"):
        await _not_taken(visa, {f"cardAcceptor.address.{name}": None})
    canadian = {"cardAcceptor.address": {"country": "CA", "city": "Toronto", "state": "ON", "zipCode": "M5H 2N2"}}
    await _taken(visa, canadian)
    for name in ("state", "zipCode"):
        await _not_taken(
            visa, canadian, {"cardAcceptor.address": changed(canadian["cardAcceptor.address"], {name: None})}
        )
    await _taken(visa, ABROAD)


@case("F-017", "stand_in")
async def the_legal_name_of_the_business(visa: Client) -> None:
    for application in ("AA", "BI", "FT", "PP", "WT"):
        await _not_taken(visa, TRANSFER, {"businessApplicationId": application, "cardAcceptor.legalBusinessName": None})
        await _taken(visa, TRANSFER, {"businessApplicationId": application})
    for country in ("aus", "can"):
        to = {"recipientCountryCode": country.upper(), "recipientState": "ON"}
        await _not_taken(visa, to, recipient=f"tok_issuer_{country}")
        await _taken(visa, to, {"cardAcceptor.legalBusinessName": "Conformance Inc"}, recipient=f"tok_issuer_{country}")
    await _not_taken(visa, TRANSFER, {"cardAcceptor.legalBusinessName": "A" * 26})


@case("F-018", "money")
async def a_local_time_without_zone(visa: Client) -> None:
    await _taken(visa, {"localTransactionDateTime": "2026-01-31T12:00:00"})
    for text in ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+01:00", "2026-02-30T12:00:00", "yesterday"):
        await _not_taken(visa, {"localTransactionDateTime": text})


@case("F-019", "money")
async def the_form_of_an_rrn(visa: Client) -> None:
    _, rrn = visa.numbers()
    await _taken(visa, {"retrievalReferenceNumber": rrn})
    for text in (rrn[:11], f"{rrn}0", f"x{rrn[1:]}"):
        await _not_taken(visa, {"retrievalReferenceNumber": text})


@case("F-020", "money")
async def the_day_of_an_rrn(visa: Client) -> None:
    _, rrn = visa.numbers()
    for day in ("001", "366"):
        await _taken(visa, {"retrievalReferenceNumber": f"4{day}{rrn[4:]}"})
    for day in ("000", "367", "999"):
        await _not_taken(visa, {"retrievalReferenceNumber": f"4{day}{rrn[4:]}"})


@case("F-021", "money")
async def the_form_of_a_stan(visa: Client) -> None:
    """That it is the call's own is what the duplicate key shows."""
    await _taken(visa)
    for stan in ("12345", "1234567", "12345a"):
        await _not_taken(visa, {"systemsTraceAuditNumber": stan})


@case("F-022", "money")
async def the_currency_in_both_codes(visa: Client) -> None:
    for code in ("USD", "840"):
        await _taken(visa, {"transactionCurrencyCode": code})
    for code in ("XYZ", "US", "000"):
        await _not_taken(visa, {"transactionCurrencyCode": code})


@case("F-023", "money")
async def the_senders_reference(visa: Client) -> None:
    account = {"senderAccountNumber": "4060320000000126"}
    await _not_taken(visa, {"senderReference": "A" * 17})
    await _not_taken(visa, {"senderReference": None})
    await _not_taken(visa, account, {"senderReference": None})
    await _not_taken(visa, TRANSFER, {"senderReference": None})
    await _taken(visa, TRANSFER, account, {"senderReference": None})


@case("F-024", "money")
async def the_senders_name(visa: Client) -> None:
    await _length(visa, "senderName", 2, 30)
    for application in ("FD", "TU"):
        await _not_taken(visa, {"businessApplicationId": application, "senderName": None})
    await _not_taken(visa, TRANSFER, {"senderName": None})
    await _taken(visa, {"businessApplicationId": "LO", "senderName": None})


@case("F-025", "stand_in")
async def the_senders_address(visa: Client) -> None:
    for name in ("senderAddress", "senderCity", "senderCountryCode"):
        for change in ({}, TRANSFER, {"businessApplicationId": "TU"}, {"businessApplicationId": "CP"}):
            await _not_taken(visa, change, {name: None})
        await _not_taken(visa, {name: None}, recipient="tok_issuer_gbr")
        await _taken(visa, {"businessApplicationId": "TU", name: None}, recipient="tok_issuer_gbr")
    await _length(visa, "senderAddress", 1, 35)
    await _length(visa, "senderCity", 1, 25)


@case("F-026", "money")
async def the_senders_state(visa: Client) -> None:
    for country in ("USA", "840", "CAN", "124"):
        await _not_taken(visa, {"senderCountryCode": country, "senderStateCode": None})
    await _taken(visa, {"senderCountryCode": "GBR", "senderStateCode": None})
    for state in ("C", "CAL"):
        await _not_taken(visa, {"senderStateCode": state})


@case("F-027", "money")
async def the_senders_postal_code(visa: Client) -> None:
    await _not_taken(visa, {"senderPostalCode": None})
    await _taken(visa, ABROAD, {"senderPostalCode": None})
    await _length(visa, "senderPostalCode", 5, 10)


@case("F-028", "stand_in")
async def the_recipients_state_and_country(visa: Client) -> None:
    to_canada = {"recipientCountryCode": "CAN", "recipientState": "ON", "cardAcceptor.legalBusinessName": "Conformance"}
    await _taken(visa, to_canada, recipient="tok_issuer_can")
    for name in ("recipientCountryCode", "recipientState"):
        await _not_taken(visa, to_canada, {name: None}, recipient="tok_issuer_can")
    await _not_taken(visa, {"recipientState": "ABCD"})
    await _not_taken(visa, recipient="5123280115058611")
    await _taken(visa, {"recipientState": "CA"}, recipient="5123280115058611")


@case("F-029", "stand_in")
async def the_recipients_name(visa: Client) -> None:
    await _not_taken(visa, TRANSFER, {"recipientName": None}, recipient="tok_issuer_gbr")
    await _taken(visa, TRANSFER, recipient="tok_issuer_gbr")
    await _taken(visa, TRANSFER, {"recipientName": None})
    await _length(visa, "recipientName", 1, 30)


@case("F-030", "stand_in")
async def the_expiry_of_the_recipients_card(visa: Client) -> None:
    """Whether Visa's sandbox knows where its numbers were issued is not public."""
    await _not_taken(visa, {"recipientCardExpiryDate": None}, recipient="tok_issuer_usa")
    await _taken(visa, recipient="tok_issuer_usa")
    await _taken(visa, {"recipientCardExpiryDate": None}, recipient="tok_issuer_gbr")
    for text in ("2040-13", "10/40", "2040"):
        await _not_taken(visa, {"recipientCardExpiryDate": text})


@case("F-031", "stand_in")
async def the_purpose_of_the_payment(visa: Client) -> None:
    for country in ("IND", "BGD", "EGY", "ARG"):
        to = {"recipientCountryCode": country}
        await _not_taken(visa, to)
        await _taken(visa, to, {"purposeOfPayment": "ISSLRY01"})
        await _taken(visa, to, {"businessApplicationId": "MP"})
    for country, application, needed in (("CHL", "FD", True), ("COL", "FD", False), ("CHL", "MD", False)):
        to = {"recipientCountryCode": country, "businessApplicationId": application}
        await (_not_taken if needed else _taken)(visa, to)
    await _not_taken(visa, TRANSFER, {"recipientCountryCode": "COL"})
    await _taken(visa, TRANSFER, {"recipientCountryCode": "COL", "purposeOfPayment": "P2P"})
    for text in ("A" * 13, "a b", ""):
        await _not_taken(visa, {"purposeOfPayment": text})


@case("F-032", "money")
async def the_source_of_funds(visa: Client) -> None:
    await _not_taken(visa, {"sourceOfFundsCode": None})
    await _not_taken(visa, TRANSFER, {"sourceOfFundsCode": None})
    await _not_taken(visa, {"sourceOfFundsCode": "5"})
    await _taken(visa, {"businessApplicationId": "TU", "sourceOfFundsCode": None})
    for code in ("01", "06"):
        await _not_taken(visa, {"businessApplicationId": "CP", "sourceOfFundsCode": code})
    await _taken(visa, {"businessApplicationId": "CP", "sourceOfFundsCode": "02"})


@case("F-033", "money")
async def the_business_application(visa: Client) -> None:
    for application in ("FD", "GD", "MD", "PD", "OG", "LO"):
        await _taken(visa, {"businessApplicationId": application})
    for text in ("XX", "F", "FDX", "fd", "1A"):
        await _not_taken(visa, {"businessApplicationId": text})


@case("F-034", "money")
async def the_merchant_category(visa: Client) -> None:
    await _taken(visa, {"merchantCategoryCode": 4829})
    for text in ("601", "60121", "abcd"):
        await _not_taken(visa, {"merchantCategoryCode": text})


@case("F-035", "stand_in")
async def the_pull_before_the_push(visa: Client) -> None:
    aft = await visa.fund()
    await _taken(visa, {"transactionIdentifier": int(aft["transactionIdentifier"])})
    await _taken(visa, {"transactionIdentifier": aft["transactionIdentifier"]})
    for text in ("12345678901234", "1234567890123456", "none"):
        await _not_taken(visa, {"transactionIdentifier": text})


@case("F-036", "money")
async def the_point_of_service(visa: Client) -> None:
    await _taken(visa, {"pointOfServiceData": None})
    await _taken(visa, {"pointOfServiceData": {"panEntryMode": 1, "posConditionCode": 59, "motoECIIndicator": 7}})
    await _not_taken(visa, {"pointOfServiceData": {"motoECIIndicator": 9}})


@case("F-037", "stand_in")
async def a_credential_reference(visa: Client) -> None:
    """The tokens are the stand-in's own."""
    for kind, value in (("PCI_TOKEN_REFID", "t" * 75), ("PAYNAME", "rosalind+payname.example")):
        reference = {"type": kind, "value": value}
        await _taken(visa, {"recipientPaymentCredentialReference": reference}, recipient="tok_approve_1")
    for kind, value in (("OTHER", "t"), ("PCI_TOKEN_REFID", ""), ("PCI_TOKEN_REFID", "t" * 76)):
        reference = {"type": kind, "value": value}
        await _not_taken(visa, {"recipientPaymentCredentialReference": reference}, recipient="tok_approve_1")


@case("F-038", "money")
async def one_sender_account(visa: Client) -> None:
    account = {"senderAccountNumber": "4060320000000126"}
    reference: Body = {"senderPaymentCredentialReference": {"type": "PCI_TOKEN_REFID", "value": "tok_sender"}}
    await _taken(visa, account)
    await _taken(visa, reference)
    await _not_taken(visa, account, reference)
    await _not_taken(visa, {"senderAccountNumber": "4" * 12})


@case("F-039", "money")
async def a_tax_rebate(visa: Client) -> None:
    await _taken(visa, {"messageReasonCode": 5120})
    await _not_taken(visa, {"messageReasonCode": "tax"})


@case("F-040", "money")
async def identifications(visa: Client) -> None:
    known = {"idType": "PASN", "idNumber": "X1234567", "idOwnerType": "I", "idIssueCountry": "USA"}
    for party in ("senderAdditionalData", "recipientAdditionalData"):
        await _taken(visa, {party: {"identificationList": [known]}})
        for change in ({"idType": "CLUB"}, {"idNumber": "A" * 36}, {"idOwnerType": "X"}, {"idIssueCountry": "US"}):
            await _not_taken(visa, {party: {"identificationList": [known | change]}})
