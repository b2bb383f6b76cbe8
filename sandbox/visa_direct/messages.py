"""What a request must look like: Visa's OpenAPI, with the leniencies that Visa's own samples need.

Numbers may come as strings and strings as numbers; ``cardAcceptor.address.city`` may be absent though the
schema requires it; ``motoECIIndicator`` may be 0 though the schema's minimum is 1; a card number need not pass
the check digit. Unknown fields are ignored. What depends on country, business application or card is in
``conditions.py``.
"""

import datetime
import json
import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import pycountry
from iso4217 import Currency
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from sandbox.visa_direct.refusal import VALIDATION_ERROR, Refusal

# An error names at most this many fields, as a person reads them one by one.
PROBLEMS_NAMED_MAX: Final = 10

_YDDD: Final = re.compile(r"[0-9]([0-9]{3})")
# Visa's amount field: up to nine digits, at most three decimals.
_AMOUNT: Final = r"^[0-9]{1,9}(\.[0-9]{1,3})?$"


def _local_time(text: str) -> str:
    try:
        datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007 - Visa's field has no zone
    except ValueError as error:
        raise ValueError("must be YYYY-MM-DDThh:mm:ss without a zone") from error
    return text


def _with_valid_day(text: str) -> str:
    day = _YDDD.match(text)
    if day is None or not 1 <= int(day.group(1)) <= 366:
        raise ValueError("must begin with a valid yddd (last digit of the year, day 001 to 366)")
    return text


def _currencies() -> dict[str, tuple[str, int, str]]:
    """Alphabetic and numeric code -> (alphabetic code, number of decimals, numeric code)."""
    known: dict[str, tuple[str, int, str]] = {}
    for currency in Currency:
        if currency.exponent is not None:
            entry = (str(currency.code), int(currency.exponent), f"{currency.number:03d}")
            known[entry[0]] = known[entry[2]] = entry
    return known


CURRENCIES: Final = _currencies()


def _known_currency(text: str) -> str:
    if text not in CURRENCIES:
        raise ValueError("must be an ISO 4217 code, alphabetic or numeric")
    return text


def _countries() -> dict[str, str]:
    """Alpha-2, alpha-3 or numeric code -> alpha-3."""
    known: dict[str, str] = {}
    for country in pycountry.countries:
        for code in (country.alpha_2, country.alpha_3, country.numeric):
            known[code] = country.alpha_3
    return known


COUNTRIES: Final = _countries()


def numeric(country: str) -> str:
    """The numeric code of a country given by its alpha-3 code."""
    return next(code for code, alpha_3 in COUNTRIES.items() if alpha_3 == country and code.isdigit())


def alpha3(code: str) -> str:
    """The alpha-3 code of a country that was checked before, whichever of its codes was given."""
    return COUNTRIES[code.zfill(3) if code.isdigit() else code]


def known_country(text: str) -> str:
    """The same text. Raises ValueError unless it is a country's code."""
    if (text.zfill(3) if text.isdigit() else text) not in COUNTRIES:
        raise ValueError("must be an ISO 3166-1 code: two letters, three letters or a number")
    return text


Amount = Annotated[str, StringConstraints(pattern=_AMOUNT)]
Bin = Annotated[str, StringConstraints(pattern=r"^[0-9]{6,11}$")]
BusinessApplication = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
CardNumber = Annotated[str, StringConstraints(pattern=r"^[0-9]{13,19}$")]
CountryNumber = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}$"), AfterValidator(known_country)]
CurrencyCode = Annotated[str, AfterValidator(_known_currency)]
LocalTime = Annotated[str, AfterValidator(_local_time)]
RetrievalReference = Annotated[str, StringConstraints(min_length=12, max_length=12), AfterValidator(_with_valid_day)]
Stan = Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]
Expiry = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
TransactionIdentifier = Annotated[str, StringConstraints(pattern=r"^[0-9]{15}$")]

Text1 = Annotated[str, StringConstraints(min_length=1, max_length=1)]
Text2 = Annotated[str, StringConstraints(min_length=2, max_length=2)]
Text3 = Annotated[str, StringConstraints(min_length=3, max_length=3)]
UpTo3 = Annotated[str, StringConstraints(max_length=3)]
UpTo16 = Annotated[str, StringConstraints(max_length=16)]
UpTo25 = Annotated[str, StringConstraints(max_length=25)]
UpTo50 = Annotated[str, StringConstraints(max_length=50)]
UpTo99 = Annotated[str, StringConstraints(max_length=99)]
From1To8 = Annotated[str, StringConstraints(min_length=1, max_length=8)]
From1To9 = Annotated[str, StringConstraints(min_length=1, max_length=9)]
From1To13 = Annotated[str, StringConstraints(min_length=1, max_length=13)]
From1To15 = Annotated[str, StringConstraints(min_length=1, max_length=15)]
From1To17 = Annotated[str, StringConstraints(min_length=1, max_length=17)]
From1To25 = Annotated[str, StringConstraints(min_length=1, max_length=25)]
From1To30 = Annotated[str, StringConstraints(min_length=1, max_length=30)]
From1To35 = Annotated[str, StringConstraints(min_length=1, max_length=35)]
From1To50 = Annotated[str, StringConstraints(min_length=1, max_length=50)]
From1To75 = Annotated[str, StringConstraints(min_length=1, max_length=75)]
From1To99 = Annotated[str, StringConstraints(min_length=1, max_length=99)]
From2To30 = Annotated[str, StringConstraints(min_length=2, max_length=30)]
From2To35 = Annotated[str, StringConstraints(min_length=2, max_length=35)]
From5To16 = Annotated[str, StringConstraints(min_length=5, max_length=16)]


class Message(BaseModel):
    """A body of Visa's, or a part of one: camelCase names, unknown members ignored, no value in an error."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        coerce_numbers_to_str=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )


class Address(Message):
    country: Annotated[From1To50, AfterValidator(known_country)]
    city: From1To13 | None = None
    state: UpTo50 | None = None
    county: From1To50 | None = None
    zip_code: From1To9 | None = None
    address_line: From1To99 | None = None


class CardAcceptorName(Message):
    name: From1To25
    id_code: From1To15


class CardAcceptor(CardAcceptorName):
    terminal_id: From1To8
    address: Address
    legal_business_name: From1To25 | None = None


class Identification(Message):
    id_type: Literal[
        "CUID", "NTID", "PASN", "DRLN", "TXIN", "CPNY", "PRXY", "SSNB", "ARNB", "LAWE", "MILI", "TRVL", "EMAL",
        "PHON", "BTHD",
    ]  # fmt: skip
    id_number: From1To35 = Field(repr=False)
    id_owner_type: Literal["B", "I"] | None = None
    id_issue_country: Text3 | None = None


class AdditionalData(Message):
    identification_list: list[Identification] = []


class CredentialReference(Message):
    type: Literal["PCI_TOKEN_REFID", "PAYNAME"]
    value: From1To75 = Field(repr=False)


class PointOfServiceData(Message):
    pan_entry_mode: UpTo3 | None = None
    pos_condition_code: UpTo3 | None = None
    moto_eci_indicator: Annotated[str, StringConstraints(pattern=r"^[0-8]$")] | None = Field(
        default=None, alias="motoECIIndicator"
    )


class _Transaction(Message):
    """What a push and a reversal share."""

    acquirer_country_code: CountryNumber
    acquiring_bin: Bin
    amount: Amount
    business_application_id: BusinessApplication
    card_acceptor: CardAcceptor
    local_transaction_date_time: LocalTime
    retrieval_reference_number: RetrievalReference
    systems_trace_audit_number: Stan
    point_of_service_data: PointOfServiceData | None = None
    sender_reference: UpTo16 | None = None


class PushRequest(_Transaction):
    """The body of ``pushfundstransactions`` (Visa's OpenAPI), as far as it is checked."""

    transaction_currency_code: CurrencyCode
    recipient_primary_account_number: CardNumber | None = Field(default=None, repr=False)
    recipient_payment_credential_reference: CredentialReference | None = None
    sender_account_number: CardNumber | None = Field(default=None, repr=False)
    sender_payment_credential_reference: CredentialReference | None = None
    transaction_identifier: TransactionIdentifier | None = None
    merchant_category_code: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}$")] | None = None
    source_of_funds_code: Text2 | None = None
    sender_name: From2To30 | None = None
    sender_first_name: From2To35 | None = None
    sender_last_name: From2To35 | None = None
    sender_middle_name: From1To35 | None = None
    sender_address: From1To35 | None = None
    sender_city: From1To25 | None = None
    sender_state_code: Text2 | None = None
    sender_postal_code: From5To16 | None = None
    sender_country_code: Annotated[Text3, AfterValidator(known_country)] | None = None
    sender_nationality: Text3 | None = None
    sender_entity_type: Text1 | None = None
    recipient_name: From1To30 | None = None
    recipient_first_name: From1To35 | None = None
    recipient_last_name: From1To35 | None = None
    recipient_middle_name: From1To35 | None = None
    recipient_city: UpTo25 | None = None
    recipient_state: UpTo3 | None = None
    recipient_postal_code: UpTo16 | None = None
    recipient_country_code: Annotated[Text3, AfterValidator(known_country)] | None = None
    recipient_address_line1: UpTo99 | None = None
    recipient_card_expiry_date: Expiry | None = None
    purpose_of_payment: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,12}$")] | None = None
    fee_program_indicator: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{3}$")] | None = None
    message_reason_code: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}$")] | None = None
    sender_additional_data: AdditionalData | None = None
    recipient_additional_data: AdditionalData | None = None
    customer_reference: From1To17 | None = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        card, reference = self.recipient_primary_account_number, self.recipient_payment_credential_reference
        if (card is None) == (reference is None):
            raise ValueError(
                "exactly one of recipientPrimaryAccountNumber and recipientPaymentCredentialReference is needed"
            )
        if self.sender_account_number and self.sender_payment_credential_reference:
            raise ValueError("only one of senderAccountNumber and senderPaymentCredentialReference is taken")
        if not (self.sender_reference or self.sender_account_number or self.sender_payment_credential_reference):
            raise ValueError("senderReference is needed when senderAccountNumber is absent")
        check_decimals(self.amount, self.transaction_currency_code)
        return self

    @property
    def recipient(self) -> str:
        """The card number or the token reference. Never store or log it."""
        reference = self.recipient_payment_credential_reference
        return reference.value if reference is not None else self.recipient_primary_account_number or ""


class OriginalData(Message):
    acquiring_bin: Bin
    approval_code: Annotated[str, StringConstraints(min_length=6, max_length=6)]
    systems_trace_audit_number: Stan
    transmission_date_time: From1To25


class ReverseRequest(_Transaction):
    """The body of ``reversefundstransactions``: names its AFT by trace number, reference and identifier."""

    merchant_category_code: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}$")]
    original_data_elements: OriginalData
    sender_currency_code: CurrencyCode
    sender_primary_account_number: CardNumber | None = Field(default=None, repr=False)
    sender_payment_credential_reference: CredentialReference | None = None
    transaction_identifier: TransactionIdentifier

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        card, reference = self.sender_primary_account_number, self.sender_payment_credential_reference
        if (card is None) == (reference is None):
            raise ValueError("exactly one of senderPrimaryAccountNumber and senderPaymentCredentialReference is needed")
        check_decimals(self.amount, self.sender_currency_code)
        return self

    @property
    def sender(self) -> str:
        """The card number or the token reference whose funding is undone. Never store or log it."""
        reference = self.sender_payment_credential_reference
        return reference.value if reference is not None else self.sender_primary_account_number or ""


class AdjustRequest(_Transaction):
    """The body of ``adjustment``, as far as it hands a pull back: reason 2140 (AFT), type 22 (credit)."""

    merchant_category_code: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}$")]
    message_reason_code: Annotated[str, StringConstraints(pattern=r"^2140$")]
    transaction_type_code: Annotated[str, StringConstraints(pattern=r"^22$")]
    sender_currency_code: CurrencyCode
    sender_primary_account_number: CardNumber = Field(repr=False)
    transaction_identifier: TransactionIdentifier

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        point = self.point_of_service_data
        if point is None or point.pan_entry_mode is None or point.pos_condition_code is None:
            raise ValueError("pointOfServiceData with panEntryMode and posConditionCode is needed")
        if self.business_application_id == "FD" and not self.sender_reference:
            raise ValueError("senderReference is needed when the transaction is a funds disbursement")
        check_decimals(self.amount, self.sender_currency_code)
        return self


class Funding(BaseModel):
    """The fixture that stands for a pull (AFT) made by an originator. ``recipient`` is the card it debited."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, coerce_numbers_to_str=True)

    acquiring_bin: Bin = Field(alias="acquiringBin")
    stan: Stan
    rrn: RetrievalReference
    transaction_identifier: TransactionIdentifier = Field(alias="transactionIdentifier")
    approval_code: Annotated[str, StringConstraints(min_length=6, max_length=6)] = Field(alias="approvalCode")
    amount: Amount
    currency: CurrencyCode
    captured_at: datetime.datetime
    recipient: From1To75 = Field(repr=False)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.captured_at.tzinfo is None:
            raise ValueError("captured_at needs a zone, as in 2026-01-31T12:00:00Z")
        return self


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], plaintext: bytes) -> M:
    """The checked message. Raises Refusal (400, 3001) that names fields and never repeats a value."""
    try:
        # Decimals stay text: a double would change what was sent.
        document = json.loads(plaintext, parse_float=str, parse_constant=str)
    except ValueError as error:
        raise Refusal(400, VALIDATION_ERROR, "The body is not JSON") from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise Refusal(400, VALIDATION_ERROR, f"Invalid input found: {problems(error)}") from error


def problems(error: ValidationError) -> str:
    """One line a person can act on: which fields and why, without the values."""
    details: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    named = [
        f"{'.'.join(str(step) for step in detail['loc']) or 'body'}: {detail['msg']}"
        for detail in details[:PROBLEMS_NAMED_MAX]
    ]
    more = len(details) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def check_decimals(amount: str, currency: str) -> None:
    """Visa's OpenAPI: no decimals in yen, two in dollars, three in dinars and then the last one is 0."""
    decimals = -int(Decimal(amount).as_tuple().exponent)
    allowed = CURRENCIES[currency][1]
    if decimals > allowed:
        raise ValueError(f"amount has {decimals} decimals, the currency has {allowed}")
    if decimals == 3 and not amount.endswith("0"):
        raise ValueError("amount with three decimals must end in 0")
