"""What an account or wallet payout must look like: Visa's Account & Wallet pages, as far as they are public."""

import json
import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from sandbox.visa_direct.messages import (
    PROBLEMS_NAMED_MAX,
    Amount,
    CurrencyCode,
    From1To35,
    Message,
    Text2,
    check_decimals,
    known_country,
)
from sandbox.visa_direct.refusal import ProductRefusal

INVALID: Final = "InvalidPayoutRequest"
# Codes that Visa's pages name, without saying which is which: one for what is missing, one for what is wrong.
MISSING_CODE: Final = "4003"
WRONG_CODE: Final = "4004"
REPEATED_CODE: Final = "4110"
TOO_LATE_CODE: Final = "4111"
QUOTE_CODE: Final = "4102"

PartyId = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,18}$")]
Country = Annotated[str, StringConstraints(min_length=2, max_length=3), AfterValidator(known_country)]
AccountNumber = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 @.+_-]{1,64}$")]
_QUOTE: Final = re.compile(r"Q([0-9]{10,11})-[0-9a-f]{16}")


class TransactionDetail(Message):
    initiating_party_id: PartyId
    business_application_id: Text2
    client_reference_id: From1To35
    transaction_amount: Amount
    transaction_currency_code: CurrencyCode
    end_to_end_id: From1To35 | None = None
    quote_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        check_decimals(self.transaction_amount, self.transaction_currency_code)
        return self


class Destination(Message):
    account_number: AccountNumber = Field(repr=False)
    country_code: Country
    currency_code: CurrencyCode | None = None


class SenderDetail(Message):
    name: Annotated[str, StringConstraints(min_length=1, max_length=140)] = Field(repr=False)


class RecipientDetail(Message):
    bank: Destination | None = None
    wallet: Destination | None = None
    card: dict[str, Any] | None = Field(default=None, repr=False)


class PayoutRequest(Message):
    """The body of a send, as far as it is checked."""

    payout_method: Literal["B", "W", "C"]
    transaction_detail: TransactionDetail
    sender_detail: SenderDetail
    recipient_detail: RecipientDetail

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        given = {"B": self.recipient_detail.bank, "W": self.recipient_detail.wallet}
        if self.payout_method == "C":
            raise ValueError("payoutMethod C is not imitated here")
        if given.pop(self.payout_method) is None or any(other is not None for other in given.values()):
            raise ValueError("recipientDetail must hold bank for payoutMethod B, or wallet for W, and no other")
        return self

    @property
    def destination(self) -> Destination:
        """Who is credited. Never store or log its number."""
        found = self.recipient_detail.bank or self.recipient_detail.wallet
        assert found is not None
        return found


class CancelRequest(Message):
    """The body of a cancellation. Its members are not public: those of the query."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    id_type: Literal["CLIENT_REFERENCE_ID", "PAYOUT_ID"]
    initiating_party_id: PartyId


def parse_payout(plaintext: bytes) -> PayoutRequest:
    """The checked send. Raises ProductRefusal (400, InvalidPayoutRequest) that names fields and repeats no value."""
    try:
        return PayoutRequest.model_validate(_document(plaintext))
    except ValidationError as error:
        raise refused_fields(error) from error


def parse_cancel(plaintext: bytes) -> CancelRequest:
    """The checked cancellation. Raises ProductRefusal as ``parse_payout``."""
    try:
        return CancelRequest.model_validate(_document(plaintext))
    except ValidationError as error:
        raise refused_fields(error) from error


def check_quote(quote_id: str | None, now_seconds: float) -> None:
    """Raises ProductRefusal (400) for a quote that nobody gave, or that has expired."""
    if quote_id is None:
        return
    given = _QUOTE.fullmatch(quote_id)
    if given is None or int(given.group(1)) <= now_seconds:
        raise refused("transactionDetail.quoteId", "is unknown or has expired", QUOTE_CODE)


def refused(location: str, why: str, code: str) -> ProductRefusal:
    """A payout that is refused for one reason."""
    return _refusal([{"location": location, "message": why, "code": code}])


def not_found() -> ProductRefusal:
    """No such payout. What Visa answers then is not public."""
    return ProductRefusal(404, {"status": 404, "reason": "PayoutNotFound", "message": "No payout matches"})


def refused_fields(error: ValidationError) -> ProductRefusal:
    """A payout that is refused for its fields."""
    details: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    return _refusal(
        [
            {
                "location": ".".join(str(step) for step in detail["loc"]) or "body",
                "message": detail["msg"],
                "code": MISSING_CODE if detail["type"] == "missing" else WRONG_CODE,
            }
            for detail in details[:PROBLEMS_NAMED_MAX]
        ]
    )


def _refusal(details: list[dict[str, str]]) -> ProductRefusal:
    document = {"status": 400, "reason": INVALID, "message": "The payout request is not valid", "details": details}
    return ProductRefusal(400, document)


def _document(plaintext: bytes) -> object:
    try:
        # Decimals stay text: a double would change what was sent.
        return json.loads(plaintext, parse_float=str, parse_constant=str)
    except ValueError as error:
        raise refused("body", "is not JSON", WRONG_CODE) from error
