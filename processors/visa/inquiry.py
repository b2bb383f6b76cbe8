"""Pure builders of the questions before a payout (preflight): the same arguments give the same bytes; none moves money.

    card_attributes    POST  FTAI v5: whether a card takes pushes of this kind from here
    card_validation    POST  PAV: whether the issuer has a reason to decline the card
    alias_resolution   POST  which card an e-mail address or a mobile number stands for
    rate_quote         POST  what the exchange rate is now

That of an account or wallet, `validate_payout`, stands beside its send in `account_payouts`.

Every question has numbers of its own, never those of the payout (rule S1), and no X-Client-Transaction-ID: asking twice
does no harm, and a 303 would say nothing.

Sources: Visa's OpenAPI of FTAI v5, PAV v1 and exchange rates v2. The alias directory's path and members are known from
clients only, and which applications it takes is inferred; `InquiryPaths` is there to be corrected.
"""

from dataclasses import dataclass
from typing import Final, Literal

from processors.secrets import CardNumber, Secret
from processors.visa.fields import JsonValue, RequestInvalid, alphanumeric, amount_literal, json_text, number, text
from processors.visa.identity import Identity, Operation
from processors.visa.requests import CheckedPaths, SubmissionProfile, VisaRequest, check_expiry

__all__ = [
    "INQUIRY_PATHS", "InquiryPaths", "RateProduct", "alias_resolution", "card_attributes", "card_validation",
    "rate_quote",
]  # fmt: skip

RateProduct = Literal["A", "BANK", "WALLET"]
LONGEST_ALIAS: Final = 128
# The applications that clients of the alias directory name; a disbursement asks as a person-to-person payment would.
ALIAS_APPLICATIONS: Final = frozenset({"PP", "MP", "CO", "CI"})
ALIAS_APPLICATION: Final = "PP"


@dataclass(frozen=True, slots=True)
class InquiryPaths(CheckedPaths):
    """Where each question lives below the host."""

    card_attributes: str = "/paai/fundstransferattinq/v5/cardattributes/fundstransferinquiry"
    card_validation: str = "/pav/v1/cardvalidation"
    alias_resolution: str = "/visaaliasdirectory/v1/resolve"
    rates: str = "/forexrates/v2/foreignexchangerates"


INQUIRY_PATHS: Final = InquiryPaths()


def card_attributes(
    profile: SubmissionProfile, identity: Identity, card: CardNumber, *, paths: InquiryPaths = INQUIRY_PATHS
) -> VisaRequest:
    """What the card can take. A token reference cannot be asked about: Visa's OpenAPI wants the number."""
    document = _of_the_card(profile, identity, card)
    return _post(Operation.CARD_ATTRIBUTES, paths.card_attributes, document)


def card_validation(
    profile: SubmissionProfile,
    identity: Identity,
    card: CardNumber,
    *,
    card_expiry: str | None = None,
    paths: InquiryPaths = INQUIRY_PATHS,
) -> VisaRequest:
    """Whether the issuer has a reason to decline. `card_expiry` is YYYY-MM. Raises RequestInvalid."""
    document = _of_the_card(profile, identity, card)
    acceptor = profile.card_acceptor
    document["cardAcceptor"] = {
        "name": text("cardAcceptor.name", acceptor.name, 1, 25),
        "idCode": text("cardAcceptor.idCode", acceptor.id_code, 1, 15),
    }
    if card_expiry is not None:
        document["cardExpiryDate"] = check_expiry("cardExpiryDate", card_expiry)
    return _post(Operation.CARD_VALIDATION, paths.card_validation, document)


def alias_resolution(
    alias: Secret, *, business_application_id: str, paths: InquiryPaths = INQUIRY_PATHS
) -> VisaRequest:
    """Whose card an alias stands for. The directory has no member for numbers of ours. Raises RequestInvalid."""
    application = business_application_id if business_application_id in ALIAS_APPLICATIONS else ALIAS_APPLICATION
    document: dict[str, JsonValue] = {
        "alias": text("alias", alias.reveal(), 1, LONGEST_ALIAS),
        "businessApplicationId": application,
    }
    return _post(Operation.ALIAS_RESOLUTION, paths.alias_resolution, document)


def rate_quote(
    product: RateProduct,
    *,
    amount: str,
    source_currency: str,
    target_currency: str,
    profile: SubmissionProfile,
    initiating_party_id: int | None = None,
    paths: InquiryPaths = INQUIRY_PATHS,
) -> VisaRequest:
    """What `amount` (exact decimal text in the source currency) buys now; currencies are ISO 4217 alphabetic.

    Product A is the card rail's and names the acquirer; BANK and WALLET name the initiating party. Raises
    RequestInvalid, which names the field.
    """
    document: dict[str, JsonValue] = {
        "rateProductCode": product,
        "sourceCurrencyCode": source_currency,
        "destinationCurrencyCode": target_currency,
        "sourceAmount": str(amount_literal("sourceAmount", amount, source_currency)),
    }
    if product == "A":
        document["acquirerDetails"] = {
            "bin": number("acquirerDetails.bin", profile.acquiring_bin, 6, 11),
            "settlement": {"currencyCode": source_currency},
        }
    elif initiating_party_id is None:
        raise RequestInvalid("initiatingPartyId", "is missing; rates of accounts and wallets must name it")
    else:
        document["initiatingPartyId"] = initiating_party_id
    return _post(Operation.RATE_QUOTE, paths.rates, document)


def _of_the_card(profile: SubmissionProfile, identity: Identity, card: CardNumber) -> dict[str, JsonValue]:
    return {
        "primaryAccountNumber": card.reveal(),
        "systemsTraceAuditNumber": identity.systems_trace_audit_number,
        "retrievalReferenceNumber": alphanumeric(
            "retrievalReferenceNumber", identity.retrieval_reference_number, 12, 12
        ),
        "acquiringBin": number("acquiringBin", profile.acquiring_bin, 6, 11),
        "acquirerCountryCode": number("acquirerCountryCode", profile.acquirer_country_code, 3, 3),
    }


def _post(operation: Operation, path: str, document: dict[str, JsonValue]) -> VisaRequest:
    return VisaRequest(operation=operation, method="POST", path=path, body=json_text(document).encode("ascii"))
