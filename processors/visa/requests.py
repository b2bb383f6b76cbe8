"""Pure builders of the calls to Visa Direct: the same arguments give the same bytes.

    push_funds          POST  an OCT, the payout itself
    status              GET   what became of a POST that was answered with 202 or 303
    transaction_query   GET   what Visa knows under a STAN and an RRN
    reverse_funds       POST  an AFTR, which gives back the card pull that funded a payout
    adjust_funds        POST  an adjustment, which gives it back once it is too old for an AFTR

A body is canonical JSON in clear. It is persisted (encrypted) with the intent and resent byte for byte through
`push_funds_again`; the transport wraps it in a fresh JWE for each attempt (rule S3).
"""

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

from processors.secrets import CardNumber, Secret
from processors.visa.fields import (
    JsonValue,
    RequestInvalid,
    alphanumeric,
    amount_literal,
    country_alpha3,
    digits,
    header_value,
    is_status_identifier,
    json_text,
    number,
    required,
    text,
    transaction_identifier,
)
from processors.visa.identity import Identity, Operation, client_transaction_id

__all__ = [
    "VISA_PATHS", "CardAcceptor", "CheckedPaths", "FundingTransaction", "Party", "Paths", "Recipient", "RequestInvalid",
    "SubmissionProfile", "TokenReference", "TracedTransaction", "VisaRequest", "adjust_funds", "adjust_funds_again",
    "check_expiry", "post", "push_funds", "push_funds_again", "reverse_funds", "reverse_funds_again", "status",
    "transaction_query",
]  # fmt: skip

# businessApplicationId values that move a person's money; Visa asks more of them (published code tables).
MONEY_TRANSFERS: Final = frozenset({"AA", "BB", "BI", "FT", "MI", "PP", "WT"})
DISBURSEMENTS: Final = frozenset({"FD", "GD", "GP", "LO", "MD", "OG", "PD"})
# Visa's OpenAPI on purposeOfPayment: these recipient countries want it for every application but the exempt ones,
# Chile for disbursements, Colombia for AA and PP.
PURPOSE_COUNTRIES: Final = frozenset({"ARG", "BGD", "EGY", "IND"})
# Visa's OpenAPI on sourceOfFundsCode: a card bill is not paid from credit or mobile money; and on legalBusinessName:
# the issuers' countries whose cards need it when they are paid from abroad.
CARD_BILL_PAYMENT: Final = "CP"
CREDIT_OR_MOBILE_MONEY: Final = frozenset({"01", "06"})
LEGAL_NAME_ISSUERS: Final = frozenset({"AUS", "CAN"})
PURPOSE_EXEMPT: Final = frozenset({"CI", "CO", "MP"})
NORTH_AMERICA: Final = frozenset({"USA", "CAN"})
# Visa's OpenAPI on adjustments: 2140 is an AFT's, 22 credits; and its samples' way of a card that is not present.
ADJUSTS_A_PULL: Final = 2140
ADJUSTMENT_CREDIT: Final = 22
NOT_PRESENT: Final[dict[str, JsonValue]] = {"panEntryMode": "01", "posConditionCode": "00"}
# The query answers with few fields unless asked; amount and originalActionCode decide between paid and unpaid.
QUERY_FIELDS: Final = (
    "statusCode,acquiringBin,actionCode,originalActionCode,approvalCode,responseCode,transactionIdentifier,"
    "transactionType,retrievalReferenceNumber,systemsTraceAuditNumber,transactionDate,transactionTime,amount"
)


def _check_path(name: str, path: str) -> None:
    """Raises ValueError for text that is no path below a host."""
    if not path.startswith("/") or path.endswith("/") or not path.isascii() or set(path) & set(" ?#%"):
        raise ValueError(f"path {name} must begin with /, not end with /, and hold no query")


class CheckedPaths:
    """Where operations live below the host: every field of the dataclass is a path. Raises RequestInvalid."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]  # whoever inherits is a dataclass
            _check_path(item.name, str(getattr(self, item.name)))


@dataclass(frozen=True, slots=True)
class Paths(CheckedPaths):
    """Where each operation lives below the host."""

    push_funds: str = "/visadirect/fundstransfer/v1/pushfundstransactions"
    reverse_funds: str = "/visadirect/fundstransfer/v1/reversefundstransactions"
    transaction_query: str = "/visadirect/v1/transactionquery"
    adjustment: str = "/visadirect/v1/adjustment"


VISA_PATHS: Final = Paths()


@dataclass(frozen=True, slots=True)
class VisaRequest:
    """One call, ready to be sent any number of times. The body is plaintext and never shown."""

    operation: Operation
    method: Literal["GET", "POST"]
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = field(default=None, repr=False)
    client_transaction_id: str | None = None
    correlation_id: str | None = None

    def __post_init__(self) -> None:
        if self.correlation_id is not None:
            header_value("correlation_id", self.correlation_id)
        if self.client_transaction_id is not None:
            header_value("client_transaction_id", self.client_transaction_id)


class TracedTransaction(Protocol):
    """Anything with the two numbers that a query needs: an `Identity` or a `FundingTransaction`."""

    @property
    def systems_trace_audit_number(self) -> int: ...
    @property
    def retrieval_reference_number(self) -> str: ...


class _NamesOnly:
    """A repr that names the fields that are set: their values are personal data."""

    __slots__ = ()

    def __repr__(self) -> str:
        names = [item.name for item in fields(self) if getattr(self, item.name) is not None]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(names)})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Party(_NamesOnly):
    """A sender or a recipient. `country_code` is ISO 3166-1 (alpha-2, alpha-3 or numeric)."""

    name: str
    first_name: str | None = None
    last_name: str | None = None
    address_line: str | None = None
    city: str | None = None
    state_code: str | None = None
    postal_code: str | None = None
    country_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TokenReference(_NamesOnly):
    """A stored card token. `kind` is PCI_TOKEN_REFID or PAYNAME (Visa's OpenAPI)."""

    value: Secret
    kind: Literal["PCI_TOKEN_REFID", "PAYNAME"] = "PCI_TOKEN_REFID"
    merchant_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Recipient(_NamesOnly):
    """Who is credited, and on which card. `card_expiry` is YYYY-MM; U.S. issuers require it."""

    party: Party
    card: CardNumber | TokenReference
    card_expiry: str | None = None
    card_issuer_country_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardAcceptor:
    """The originator as Visa knows it. `id_code` and `terminal_id` belong to Visa's duplicate key: never vary them."""

    name: str
    id_code: str
    terminal_id: str
    country: str
    city: str | None = None
    state: str | None = None
    county: str | None = None
    zip_code: str | None = None
    address_line: str | None = None
    legal_business_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionProfile:
    """What is the same for every payout of one enrolment. Checked when made: raises RequestInvalid.

    `acquirer_country_code` is numeric ISO 3166-1 ("840"); `acquiring_bin` must match the enrolment.
    """

    acquiring_bin: str
    acquirer_country_code: str
    card_acceptor: CardAcceptor
    business_application_id: str = "FD"
    source_of_funds_code: str = "05"
    merchant_category_code: str | None = None
    paths: Paths = VISA_PATHS

    def __post_init__(self) -> None:
        digits("acquiringBin", self.acquiring_bin, 6, 11)
        digits("acquirerCountryCode", self.acquirer_country_code, 3, 3)
        country_alpha3("acquirerCountryCode", self.acquirer_country_code)
        alphanumeric("businessApplicationId", self.business_application_id, 2, 2)
        alphanumeric("sourceOfFundsCode", self.source_of_funds_code, 2, 2)
        if self.merchant_category_code is not None:
            digits("merchantCategoryCode", self.merchant_category_code, 4, 4)
        _card_acceptor(self.card_acceptor, names_business=self.business_application_id in MONEY_TRANSFERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FundingTransaction:
    """The card pull (AFT) that a reversal names. `captured_at` is when Visa transmitted it, with a time zone."""

    systems_trace_audit_number: int
    retrieval_reference_number: str
    transaction_identifier: str
    approval_code: str
    acquiring_bin: str
    captured_at: datetime


def push_funds(
    profile: SubmissionProfile,
    identity: Identity,
    *,
    payout_id: str,
    amount: str,
    currency: str,
    sender: Party,
    recipient: Recipient,
    sender_reference: str,
    correlation_id: str | None = None,
    purpose_of_payment: str | None = None,
    business_application_id: str | None = None,
    source_of_funds_code: str | None = None,
    funding_transaction_identifier: str | None = None,
) -> VisaRequest:
    """The OCT that pays one payout.

    `amount` is exact decimal text in `currency` (ISO 4217 alphabetic); `sender_reference` has 1 to 16 characters;
    `funding_transaction_identifier` is the AFT's VisaNet id, where one funded the payout. Call it once, at the first
    intent: localTransactionDateTime is the identity's. Raises RequestInvalid, which names the field.
    """
    application = business_application_id or profile.business_application_id
    alphanumeric("businessApplicationId", application, 2, 2)
    route = _Route.of(profile, recipient, application)
    document: dict[str, JsonValue] = {
        **_transaction(profile, identity, application, names_business=route.names_business),
        "amount": amount_literal("amount", amount, currency),
        "transactionCurrencyCode": currency,
        "localTransactionDateTime": _local_time(identity.first_intent_at),
        "senderReference": alphanumeric("senderReference", sender_reference, 1, 16),
        "sourceOfFundsCode": _source_of_funds(source_of_funds_code or profile.source_of_funds_code, application),
        **_sender(profile, sender, route),
        **_recipient(recipient, route),
    }
    if purpose_of_payment is not None:
        document["purposeOfPayment"] = alphanumeric("purposeOfPayment", purpose_of_payment, 1, 12)
    elif route.needs_purpose:
        raise RequestInvalid("purposeOfPayment", "is missing; the recipient's country requires it")
    if funding_transaction_identifier is not None:
        document["transactionIdentifier"] = transaction_identifier(
            "transactionIdentifier", funding_transaction_identifier
        )
    return push_funds_again(
        json_text(document).encode("ascii"), payout_id=payout_id, correlation_id=correlation_id, paths=profile.paths
    )


def push_funds_again(
    body: bytes, *, payout_id: str, correlation_id: str | None = None, paths: Paths = VISA_PATHS
) -> VisaRequest:
    """The same OCT from its persisted body: byte-identical, under the same X-Client-Transaction-ID (rule S3)."""
    return post(Operation.PUSH_FUNDS, paths.push_funds, body, payout_id, correlation_id)


def status(
    status_identifier: str,
    *,
    operation: Operation = Operation.PUSH_FUNDS,
    correlation_id: str | None = None,
    paths: Paths = VISA_PATHS,
) -> VisaRequest:
    """What became of the POST that was answered with this identifier; valid 24 h, may be repeated (Visa error page).

    `operation` is the POST's: PUSH_FUNDS or REVERSE_FUNDS. Raises RequestInvalid for text that is no identifier.
    """
    if not is_status_identifier(status_identifier):
        raise RequestInvalid("statusIdentifier", "is not 1 to 128 letters, digits, '_', '-', '.' or '~'")
    asked, path = {
        Operation.PUSH_FUNDS: (Operation.PUSH_FUNDS_STATUS, paths.push_funds),
        Operation.REVERSE_FUNDS: (Operation.REVERSE_FUNDS_STATUS, paths.reverse_funds),
    }[operation]
    return VisaRequest(operation=asked, method="GET", path=f"{path}/{status_identifier}", correlation_id=correlation_id)


def transaction_query(
    transaction: TracedTransaction,
    acquiring_bin: str,
    *,
    correlation_id: str | None = None,
    paths: Paths = VISA_PATHS,
) -> VisaRequest:
    """Everything that Visa knows under the STAN and RRN of an OCT, of an adjustment, or of a reversal's AFT."""
    trace_number = digits("stan", str(transaction.systems_trace_audit_number).zfill(6), 6, 6)
    query = (
        ("acquiringBIN", digits("acquiringBIN", acquiring_bin, 6, 11)),
        ("stan", trace_number),
        ("rrn", digits("rrn", transaction.retrieval_reference_number, 12, 12)),
        ("fields", QUERY_FIELDS),
    )
    return VisaRequest(
        operation=Operation.TRANSACTION_QUERY,
        method="GET",
        path=paths.transaction_query,
        query=query,
        correlation_id=correlation_id,
    )


def reverse_funds(
    profile: SubmissionProfile,
    funding: FundingTransaction,
    *,
    payout_id: str,
    amount: str,
    currency: str,
    sender_card: CardNumber,
    first_intent_at: datetime,
    correlation_id: str | None = None,
) -> VisaRequest:
    """The AFTR that gives a card pull back; it repeats the pull's STAN, RRN and transaction id (Visa's OpenAPI).

    Possible within 24 h of the pull; the caller checks that. Raises RequestInvalid, which names the field.
    """
    category = required("merchantCategoryCode", profile.merchant_category_code, "a reversal must carry it")
    if first_intent_at.utcoffset() is None or funding.captured_at.utcoffset() is None:
        raise RequestInvalid("localTransactionDateTime", "needs times with a time zone")
    document: dict[str, JsonValue] = {
        **_transaction(profile, funding, profile.business_application_id),
        "acquiringBin": number("acquiringBin", funding.acquiring_bin, 6, 11),
        "amount": amount_literal("amount", amount, currency),
        "senderCurrencyCode": currency,
        "localTransactionDateTime": _local_time(first_intent_at),
        "merchantCategoryCode": number("merchantCategoryCode", category, 4, 4),
        "originalDataElements": {
            "acquiringBin": number("acquiringBin", funding.acquiring_bin, 6, 11),
            "approvalCode": alphanumeric("originalDataElements.approvalCode", funding.approval_code, 6, 6),
            "systemsTraceAuditNumber": funding.systems_trace_audit_number,
            "transmissionDateTime": _local_time(funding.captured_at),
        },
        "senderPrimaryAccountNumber": sender_card.reveal(),
        "transactionIdentifier": transaction_identifier("transactionIdentifier", funding.transaction_identifier),
    }
    return reverse_funds_again(
        json_text(document).encode("ascii"), payout_id=payout_id, correlation_id=correlation_id, paths=profile.paths
    )


def reverse_funds_again(
    body: bytes, *, payout_id: str, correlation_id: str | None = None, paths: Paths = VISA_PATHS
) -> VisaRequest:
    """The reversal from its persisted body, for an intent whose earlier attempts were all refused (rules S4, C4)."""
    return post(Operation.REVERSE_FUNDS, paths.reverse_funds, body, payout_id, correlation_id)


def adjust_funds(
    profile: SubmissionProfile,
    identity: Identity,
    funding: FundingTransaction,
    *,
    payout_id: str,
    amount: str,
    currency: str,
    sender_card: CardNumber,
    sender_reference: str,
    correlation_id: str | None = None,
) -> VisaRequest:
    """The adjustment that credits what a card pull took, at any age of the pull.

    Visa's OpenAPI: STAN and RRN must differ from the pull's, the transaction identifier must be the pull's. Nothing
    there names a duplicate key, so an adjustment that may have arrived is never sent again (rule S3). Raises
    RequestInvalid, which names the field.
    """
    category = required("merchantCategoryCode", profile.merchant_category_code, "an adjustment must carry it")
    if identity.retrieval_reference_number == funding.retrieval_reference_number:
        raise RequestInvalid("retrievalReferenceNumber", "must differ from the card pull's")
    if identity.systems_trace_audit_number == funding.systems_trace_audit_number:
        raise RequestInvalid("systemsTraceAuditNumber", "must differ from the card pull's")
    document: dict[str, JsonValue] = {
        **_transaction(profile, identity, profile.business_application_id),
        "acquiringBin": number("acquiringBin", funding.acquiring_bin, 6, 11),
        "amount": amount_literal("amount", amount, currency),
        "senderCurrencyCode": currency,
        "localTransactionDateTime": _local_time(identity.first_intent_at),
        "merchantCategoryCode": number("merchantCategoryCode", category, 4, 4),
        "messageReasonCode": ADJUSTS_A_PULL,
        "transactionTypeCode": ADJUSTMENT_CREDIT,
        "pointOfServiceData": NOT_PRESENT,
        "senderPrimaryAccountNumber": sender_card.reveal(),
        "senderReference": alphanumeric("senderReference", sender_reference, 1, 16),
        "transactionIdentifier": transaction_identifier("transactionIdentifier", funding.transaction_identifier),
    }
    return adjust_funds_again(
        json_text(document).encode("ascii"), payout_id=payout_id, correlation_id=correlation_id, paths=profile.paths
    )


def adjust_funds_again(
    body: bytes, *, payout_id: str, correlation_id: str | None = None, paths: Paths = VISA_PATHS
) -> VisaRequest:
    """The adjustment from its persisted body, only for an intent whose earlier attempts were all refused (rule S3)."""
    return post(Operation.ADJUSTMENT, paths.adjustment, body, payout_id, correlation_id)


@dataclass(frozen=True, slots=True)
class _Route:
    """What the countries and the kind of payout demand."""

    application: str
    acquirer_country: str
    recipient_country: str | None
    issuer_country: str | None

    @classmethod
    def of(cls, profile: SubmissionProfile, recipient: Recipient, application: str) -> "_Route":
        code, issuer = recipient.party.country_code, recipient.card_issuer_country_code
        return cls(
            application=application,
            acquirer_country=country_alpha3("acquirerCountryCode", profile.acquirer_country_code),
            recipient_country=None if code is None else country_alpha3("recipientCountryCode", code),
            issuer_country=None if issuer is None else country_alpha3("cardIssuerCountryCode", issuer),
        )

    @property
    def crosses_border(self) -> bool:
        # A recipient whose country is not known is treated as abroad: that asks for more fields, never for fewer.
        return self.recipient_country != self.acquirer_country

    @property
    def names_sender_address(self) -> bool:
        if self.application in MONEY_TRANSFERS | DISBURSEMENTS:
            return self.crosses_border or self.acquirer_country == "USA"
        return not self.crosses_border and self.acquirer_country == "USA"

    @property
    def is_within_colombia(self) -> bool:
        return self.acquirer_country == self.recipient_country == "COL"

    @property
    def names_business(self) -> bool:
        abroad = self.crosses_border and self.issuer_country in LEGAL_NAME_ISSUERS
        return abroad or self.application in MONEY_TRANSFERS

    @property
    def touches_canada(self) -> bool:
        return self.crosses_border and "CAN" in (self.acquirer_country, self.recipient_country)

    @property
    def needs_purpose(self) -> bool:
        if self.recipient_country == "CHL":
            return self.application == "FD"
        if self.recipient_country == "COL":
            return self.application in ("AA", "PP")
        return self.recipient_country in PURPOSE_COUNTRIES and self.application not in PURPOSE_EXEMPT


def _transaction(
    profile: SubmissionProfile, traced: TracedTransaction, application: str, *, names_business: bool = False
) -> dict[str, JsonValue]:
    document: dict[str, JsonValue] = {
        "acquirerCountryCode": number("acquirerCountryCode", profile.acquirer_country_code, 3, 3),
        "acquiringBin": number("acquiringBin", profile.acquiring_bin, 6, 11),
        "businessApplicationId": application,
        "cardAcceptor": _card_acceptor(
            profile.card_acceptor, names_business=names_business or application in MONEY_TRANSFERS
        ),
        "retrievalReferenceNumber": digits("retrievalReferenceNumber", traced.retrieval_reference_number, 12, 12),
        "systemsTraceAuditNumber": _trace_number(traced.systems_trace_audit_number),
    }
    if profile.merchant_category_code is not None:
        document["merchantCategoryCode"] = number("merchantCategoryCode", profile.merchant_category_code, 4, 4)
    return document


def _trace_number(number: int) -> int:
    if not 0 < number <= 999_999:
        raise RequestInvalid("systemsTraceAuditNumber", "is a number of at most six digits")
    return number


def _source_of_funds(code: str, application: str) -> str:
    if application == CARD_BILL_PAYMENT and code in CREDIT_OR_MOBILE_MONEY:
        raise RequestInvalid("sourceOfFundsCode", "of a card bill payment is neither 01 nor 06")
    return alphanumeric("sourceOfFundsCode", code, 2, 2)


def _card_acceptor(acceptor: CardAcceptor, *, names_business: bool) -> dict[str, JsonValue]:
    country = country_alpha3("cardAcceptor.address.country", acceptor.country)
    if country in NORTH_AMERICA:
        required("cardAcceptor.address.state", acceptor.state, "it is required in the US and Canada")
        required("cardAcceptor.address.zipCode", acceptor.zip_code, "it is required in the US and Canada")
    if country == "USA":
        required("cardAcceptor.address.county", acceptor.county, "it is required in the US")
    if names_business:
        rule = "money transfers, and cards of Canada and Australia from abroad, must carry it"
        required("cardAcceptor.legalBusinessName", acceptor.legal_business_name, rule)
    address = {
        "country": country,
        **_present("cardAcceptor.address", "city", acceptor.city, 1, 13),
        **_present("cardAcceptor.address", "state", acceptor.state, 1, 50),
        **_present("cardAcceptor.address", "county", acceptor.county, 1, 50),
        **_present("cardAcceptor.address", "zipCode", acceptor.zip_code, 1, 9 if country in NORTH_AMERICA else 8),
        **_present("cardAcceptor.address", "addressLine", acceptor.address_line, 1, 99),
    }
    return {
        "name": text("cardAcceptor.name", acceptor.name, 1, 25),
        "idCode": text("cardAcceptor.idCode", acceptor.id_code, 1, 15),
        "terminalId": text("cardAcceptor.terminalId", acceptor.terminal_id, 1, 8),
        "address": address,
        **_present("cardAcceptor", "legalBusinessName", acceptor.legal_business_name, 1, 25),
    }


def _sender(profile: SubmissionProfile, sender: Party, route: _Route) -> dict[str, JsonValue]:
    country = None if sender.country_code is None else country_alpha3("senderCountryCode", sender.country_code)
    if route.names_sender_address:
        rule = "this kind of payout on this route must name the sender's address"
        required("senderAddress", sender.address_line, rule)
        required("senderCity", sender.city, rule)
        required("senderCountryCode", country, rule)
    if route.is_within_colombia:
        rule = "payouts within Colombia must carry it"
        required("senderCity", sender.city, rule)
        required("senderPostalCode", sender.postal_code, rule)
    if country in NORTH_AMERICA:
        required("senderStateCode", sender.state_code, "it is required for senders in the US and Canada")
    if country_alpha3("cardAcceptor.address.country", profile.card_acceptor.country) in NORTH_AMERICA:
        required("senderPostalCode", sender.postal_code, "it is required with a card acceptor in the US or Canada")
    named: dict[str, JsonValue] = {"senderName": text("senderName", sender.name, 2, 30)}
    return {
        **({} if route.is_within_colombia else named),
        **_present("", "senderFirstName", sender.first_name, 2, 35),
        **_present("", "senderLastName", sender.last_name, 2, 35),
        **_present("", "senderAddress", sender.address_line, 1, 35),
        **_present("", "senderCity", sender.city, 1, 25),
        **_present("", "senderStateCode", sender.state_code, 2, 2),
        **_present("", "senderPostalCode", sender.postal_code, 5, 16 if route.is_within_colombia else 10),
        **_present("", "senderCountryCode", country, 3, 3),
    }


def _recipient(recipient: Recipient, route: _Route) -> dict[str, JsonValue]:
    party = recipient.party
    if route.touches_canada:
        rule = "payments between Canada and another country must carry it"
        required("recipientCountryCode", route.recipient_country, rule)
        if route.recipient_country in NORTH_AMERICA:
            required("recipientState", party.state_code, rule)
    return {
        "recipientName": text("recipientName", party.name, 1, 30),
        **_present("", "recipientFirstName", party.first_name, 1, 35),
        **_present("", "recipientLastName", party.last_name, 1, 35),
        **_present("", "recipientAddressLine1", party.address_line, 1, 99),
        **_present("", "recipientCity", party.city, 1, 25),
        **_present("", "recipientState", party.state_code, 1, 3),
        **_present("", "recipientPostalCode", party.postal_code, 1, 16),
        **_present("", "recipientCountryCode", route.recipient_country, 3, 3),
        **_card(recipient),
    }


def _card(recipient: Recipient) -> dict[str, JsonValue]:
    issuer = recipient.card_issuer_country_code
    if recipient.card_expiry is not None:
        expiry: dict[str, JsonValue] = {
            "recipientCardExpiryDate": check_expiry("recipientCardExpiryDate", recipient.card_expiry)
        }
    elif issuer is not None and country_alpha3("cardIssuerCountryCode", issuer) == "USA":
        raise RequestInvalid("recipientCardExpiryDate", "is missing; U.S. issuers require it")
    else:
        expiry = {}
    if isinstance(recipient.card, CardNumber):
        return {"recipientPrimaryAccountNumber": recipient.card.reveal(), **expiry}
    token = recipient.card
    reference: dict[str, JsonValue] = {
        "type": token.kind,
        "value": text("recipientPaymentCredentialReference.value", token.value.reveal(), 1, 75),
        **_present("recipientPaymentCredentialReference", "merchantId", token.merchant_id, 1, 50),
    }
    return {"recipientPaymentCredentialReference": reference, **expiry}


def check_expiry(field_name: str, value: str) -> str:
    """A card's expiry date. Raises RequestInvalid, which names the field, for what is not YYYY-MM."""
    year, dash, month = value.partition("-")
    digits_only = value.isascii() and year.isdigit() and month.isdigit()
    if len(value) != 7 or len(year) != 4 or not dash or not digits_only or not 1 <= int(month) <= 12:
        raise RequestInvalid(field_name, "is not of the form YYYY-MM")
    return value


def _present(parent: str, name: str, value: str | None, shortest: int, longest: int) -> dict[str, str]:
    if value is None or not value:
        return {}
    return {name: text(f"{parent}.{name}" if parent else name, value, shortest, longest)}


def _local_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def post(operation: Operation, path: str, body: bytes, payout_id: str, correlation_id: str | None) -> VisaRequest:
    """A POST that carries the payout's own client transaction id."""
    return VisaRequest(
        operation=operation,
        method="POST",
        path=path,
        body=body,
        client_transaction_id=client_transaction_id(payout_id, operation),
        correlation_id=correlation_id,
    )
