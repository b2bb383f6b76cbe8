"""Pure builders of the calls of the account and wallet rail: the same arguments give the same bytes.

    send_payout       POST  pays to a bank account or a wallet
    payout_query      GET   what Visa knows under our reference, for 180 days
    cancel_payout     POST  asks Visa to take back what is not delivered yet; a query says what became of it
    validate_payout   POST  asks whether a payout could be sent; moves nothing

The only identity of this rail is our `clientReferenceId`, and nothing documents what a second send under it does: it
counts as a second payment (rule S3). So a body is sent again only if every earlier attempt was refused.

Sources: the send and the query are in Visa's Account & Wallet reference; the members of the body are known from
clients written from its OpenAPI; those of cancel and validate, their paths, and the members of accounts and wallets are
inferred from the send. `AccountPaths` is there to be corrected.
"""

from dataclasses import dataclass
from typing import Final

from processors.personal_data import BankAccount, Wallet
from processors.visa.fields import (
    JsonValue,
    RequestInvalid,
    alphanumeric,
    amount_literal,
    country_alpha3,
    json_text,
    text,
)
from processors.visa.identity import Operation
from processors.visa.requests import CheckedPaths, Party, VisaRequest, post

__all__ = [
    "AccountPaths", "AccountProfile", "cancel_payout", "payout_query", "send_payout", "send_payout_again",
    "validate_payout",
]  # fmt: skip

# Visa's Account & Wallet reference: clientReferenceId has 1 to 35 characters, initiatingPartyId is a 64-bit number.
LONGEST_REFERENCE: Final = 35
LARGEST_PARTY_ID: Final = 2**63 - 1
BY_OUR_REFERENCE: Final = "CLIENT_REFERENCE_ID"
BANK: Final = "B"
WALLET: Final = "W"


@dataclass(frozen=True, slots=True)
class AccountPaths(CheckedPaths):
    """Where each operation lives below the host. Those of cancel and validate are not public."""

    payouts: str = "/visapayouts/v3/payouts"
    cancel: str = "/visapayouts/v3/payouts/cancel"
    validate: str = "/visapayouts/v3/payouts/validate"


VISA_ACCOUNT_PATHS: Final = AccountPaths()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountProfile:
    """What is the same for every account payout of one enrolment. Checked when made: raises RequestInvalid."""

    initiating_party_id: int
    business_application_id: str = "FD"
    source_of_funds_code: str = "05"
    paths: AccountPaths = VISA_ACCOUNT_PATHS

    def __post_init__(self) -> None:
        _party_id(self.initiating_party_id)
        alphanumeric("businessApplicationId", self.business_application_id, 2, 2)
        alphanumeric("senderSourceOfFunds", self.source_of_funds_code, 2, 2)


def send_payout(
    profile: AccountProfile,
    *,
    payout_id: str,
    client_reference_id: str,
    amount: str,
    currency: str,
    sender: Party,
    recipient: Party,
    destination: BankAccount | Wallet,
    correlation_id: str | None = None,
    quote_id: str | None = None,
    business_application_id: str | None = None,
    purpose_of_payment: str | None = None,
) -> VisaRequest:
    """The send that pays one payout. Call it once, at the first intent.

    `amount` is exact decimal text in `currency` (ISO 4217 alphabetic); `client_reference_id` has 1 to 35 letters and
    digits and is the payout's for ever. Raises RequestInvalid, which names the field.
    """
    body = _document(
        profile,
        client_reference_id=client_reference_id,
        amount=amount,
        currency=currency,
        sender=sender,
        recipient=recipient,
        destination=destination,
        quote_id=quote_id,
        business_application_id=business_application_id,
        purpose_of_payment=purpose_of_payment,
    )
    return send_payout_again(body, payout_id=payout_id, correlation_id=correlation_id, paths=profile.paths)


def send_payout_again(
    body: bytes, *, payout_id: str, correlation_id: str | None = None, paths: AccountPaths = VISA_ACCOUNT_PATHS
) -> VisaRequest:
    """The same send from its persisted body, only for an intent whose earlier attempts were all refused (rule S3)."""
    return post(Operation.SEND_PAYOUT, paths.payouts, body, payout_id, correlation_id)


def payout_query(
    client_reference_id: str,
    initiating_party_id: int,
    *,
    correlation_id: str | None = None,
    paths: AccountPaths = VISA_ACCOUNT_PATHS,
) -> VisaRequest:
    """What Visa knows under our reference, also when the send had no answer; for 180 days (Visa's reference)."""
    query = (
        ("id", _reference(client_reference_id)),
        ("idType", BY_OUR_REFERENCE),
        ("initiatingPartyId", str(_party_id(initiating_party_id))),
    )
    return VisaRequest(
        operation=Operation.PAYOUT_QUERY, method="GET", path=paths.payouts, query=query, correlation_id=correlation_id
    )


def cancel_payout(
    client_reference_id: str,
    initiating_party_id: int,
    *,
    payout_id: str,
    correlation_id: str | None = None,
    paths: AccountPaths = VISA_ACCOUNT_PATHS,
) -> VisaRequest:
    """Asks Visa to take back a payout that it has accepted. Its answer proves nothing about money; the query does."""
    document: dict[str, JsonValue] = {
        "id": _reference(client_reference_id),
        "idType": BY_OUR_REFERENCE,
        "initiatingPartyId": _party_id(initiating_party_id),
    }
    body = json_text(document).encode("ascii")
    return post(Operation.CANCEL_PAYOUT, paths.cancel, body, payout_id, correlation_id)


def validate_payout(
    profile: AccountProfile,
    *,
    payout_id: str,
    client_reference_id: str,
    amount: str,
    currency: str,
    sender: Party,
    recipient: Party,
    destination: BankAccount | Wallet,
    correlation_id: str | None = None,
    quote_id: str | None = None,
    business_application_id: str | None = None,
    purpose_of_payment: str | None = None,
) -> VisaRequest:
    """Whether such a payout could be sent. `client_reference_id` must be another than the payout's own (rule S1)."""
    body = _document(
        profile,
        client_reference_id=client_reference_id,
        amount=amount,
        currency=currency,
        sender=sender,
        recipient=recipient,
        destination=destination,
        quote_id=quote_id,
        business_application_id=business_application_id,
        purpose_of_payment=purpose_of_payment,
    )
    return post(Operation.VALIDATE_PAYOUT, profile.paths.validate, body, payout_id, correlation_id)


def _document(
    profile: AccountProfile,
    *,
    client_reference_id: str,
    amount: str,
    currency: str,
    sender: Party,
    recipient: Party,
    destination: BankAccount | Wallet,
    quote_id: str | None = None,
    business_application_id: str | None = None,
    purpose_of_payment: str | None = None,
) -> bytes:
    reference = _reference(client_reference_id)
    application = business_application_id or profile.business_application_id
    detail: dict[str, JsonValue] = {
        "initiatingPartyId": profile.initiating_party_id,
        "businessApplicationId": alphanumeric("businessApplicationId", application, 2, 2),
        "clientReferenceId": reference,
        "endToEndId": reference,
        "transactionAmount": amount_literal("transactionAmount", amount, currency),
        "transactionCurrencyCode": currency,
        "senderSourceOfFunds": profile.source_of_funds_code,
    }
    if quote_id is not None:
        detail["quoteId"] = text("quoteId", quote_id, 1, 64)
    if purpose_of_payment is not None:
        detail["purposeOfPayment"] = alphanumeric("purposeOfPayment", purpose_of_payment, 1, 12)
    method, credited = (
        (BANK, {"bank": _bank(destination)})
        if isinstance(destination, BankAccount)
        else (WALLET, {"wallet": _wallet(destination)})
    )
    document: dict[str, JsonValue] = {
        "payoutMethod": method,
        "transactionDetail": detail,
        "senderDetail": _party("senderDetail", sender),
        "recipientDetail": _party("recipientDetail", recipient) | credited,
    }
    return json_text(document).encode("ascii")


def _bank(account: BankAccount) -> JsonValue:
    place = "recipientDetail.bank"
    return {
        "accountNumber": text(f"{place}.accountNumber", account.account_number.reveal(), 1, 34),
        "accountNumberType": account.account_number_type or "DEFAULT",
        "countryCode": country_alpha3(f"{place}.countryCode", account.country),
        "currencyCode": account.currency,
        **_optional(place, "accountName", account.account_name, 140),
        **_optional(place, "accountType", account.account_type, 16),
        **_optional(place, "bankCode", account.bank_code, 34),
        **_optional(place, "branchCode", account.branch_code, 34),
        **_optional(place, "bankName", account.bank_name, 140),
        **_optional(place, "BIC", account.bic, 11),
    }


def _wallet(wallet: Wallet) -> JsonValue:
    place = "recipientDetail.wallet"
    return {
        "accountNumber": text(f"{place}.accountNumber", wallet.account_number.reveal(), 1, 64),
        "operatorName": text(f"{place}.operatorName", wallet.operator_name, 1, 140),
        "countryCode": country_alpha3(f"{place}.countryCode", wallet.country),
        "currencyCode": wallet.currency,
    }


def _party(place: str, party: Party) -> dict[str, JsonValue]:
    country = None if party.country_code is None else country_alpha3(f"{place}.address.country", party.country_code)
    address = {
        **_optional(f"{place}.address", "addressLine1", party.address_line, 140),
        **_optional(f"{place}.address", "city", party.city, 70),
        **_optional(f"{place}.address", "state", party.state_code, 35),
        **_optional(f"{place}.address", "postalCode", party.postal_code, 16),
        **_optional(f"{place}.address", "country", country, 3),
    }
    return {
        "name": text(f"{place}.name", party.name, 1, 140),
        **_optional(place, "firstName", party.first_name, 70),
        **_optional(place, "lastName", party.last_name, 70),
        **({"address": address} if address else {}),
    }


def _optional(place: str, name: str, value: str | None, longest: int) -> dict[str, str]:
    return {name: text(f"{place}.{name}", value, 1, longest)} if value else {}


def _reference(value: str) -> str:
    return alphanumeric("clientReferenceId", value, 1, LONGEST_REFERENCE)


def _party_id(value: int) -> int:
    if not 0 < value <= LARGEST_PARTY_ID:
        raise RequestInvalid("initiatingPartyId", "is a positive number of at most 63 bits")
    return value
