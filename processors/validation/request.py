"""The payout request as typed, immutable values, made from the decoded Avro record.

Parsing checks shape only (it holds by construction for what the Avro codec decoded); whether the values make sense is
for `processors.validation.validate`. Nothing here prints what a request holds: any field may carry a card number
that does not belong there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar

from processors.money import Money
from processors.payout.row import DestinationKind, FundingKind
from processors.personal_data import FieldNamesOnly

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RequestMalformed(Exception):
    """The record has not the shape of a PayoutRequest. Names the field, never its value."""


class AftStatus(StrEnum):
    """What became of the card pull."""

    UNSPECIFIED = "UNSPECIFIED"
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"


class PisStatus(StrEnum):
    """What became of the open-banking pull."""

    UNSPECIFIED = "UNSPECIFIED"
    EXECUTED = "EXECUTED"
    FAILED = "FAILED"


class AliasType(StrEnum):
    """What an alias is."""

    UNSPECIFIED = "UNSPECIFIED"
    EMAIL = "EMAIL"
    MOBILE = "MOBILE"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class InternalFunding(FieldNamesOnly):
    """Money that the originator holds and has debited."""

    debit_confirmed: bool
    confirmation_ref: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AftFunding(FieldNamesOnly):
    """Money pulled from the sender's card, with what a reversal of the pull needs."""

    receipt_id: str
    status: AftStatus
    transaction_identifier: str | None = None
    systems_trace_audit_number: int | None = None
    retrieval_reference_number: str | None = None
    approval_code: str | None = None
    acquiring_bin: str | None = None
    captured_at: datetime | None = None
    amount: Money | None = None
    encrypted_card: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PisFunding(FieldNamesOnly):
    """Money pulled from the sender's account by open banking."""

    payment_id: str
    status: PisStatus


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Funding(FieldNamesOnly):
    """A kind and the one record that belongs to it."""

    kind: FundingKind
    internal: InternalFunding | None = None
    aft: AftFunding | None = None
    pis: PisFunding | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CardDestination(FieldNamesOnly):
    """A card, by token reference or by encrypted number."""

    token_reference: str | None = None
    encrypted_card: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AccountDestination(FieldNamesOnly):
    """A bank account, encrypted."""

    encrypted_account: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WalletDestination(FieldNamesOnly):
    """A wallet, encrypted."""

    encrypted_wallet: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AliasDestination(FieldNamesOnly):
    """An alias that a directory resolves to a card, encrypted."""

    alias_type: AliasType
    encrypted_alias: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Destination(FieldNamesOnly):
    """A kind and the one record that belongs to it."""

    kind: DestinationKind
    card: CardDestination | None = None
    account: AccountDestination | None = None
    wallet: WalletDestination | None = None
    alias: AliasDestination | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Corridor(FieldNamesOnly):
    """From where to where: ISO 3166-1 alpha-2 countries, ISO 4217 currencies."""

    source_country: str
    target_country: str
    source_currency: str
    target_currency: str

    @property
    def is_cross_border(self) -> bool:
        """Source and target countries differ; currencies do not matter."""
        return self.source_country != self.target_country


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FxQuote(FieldNamesOnly):
    """A locked rate: `rate` is decimal text, target units for one source unit."""

    quote_id: str
    rate: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PayoutRequest(FieldNamesOnly):
    """One request to pay out. Times are timezone-aware UTC; `amount` is in minor units of the corridor's source."""

    payout_id: str
    originator_id: str
    funding: Funding
    destination: Destination
    amount: Money
    corridor: Corridor
    fx_quote: FxQuote | None
    personal_data: str | None
    business_application_id: str | None
    purpose: str | None
    requested_at: datetime
    expires_at: datetime | None
    correlation_id: str
    metadata: Mapping[str, str]


def parse_request(record: Mapping[str, Any]) -> PayoutRequest:
    """The typed request of a decoded Avro record (timestamps as datetime or microseconds since 1970).

    Unknown enum symbols become UNSPECIFIED, absent nullable fields None. Raises RequestMalformed.
    """
    reader = _Reader(record, "")
    return PayoutRequest(
        payout_id=reader.text("payout_id"),
        originator_id=reader.text("originator_id"),
        funding=_funding(reader.record("funding")),
        destination=_destination(reader.record("destination")),
        amount=_money(reader.record("amount")),
        corridor=_corridor(reader.record("corridor")),
        fx_quote=_fx_quote(reader.optional_record("fx_quote")),
        personal_data=reader.optional_text("personal_data"),
        business_application_id=reader.optional_text("business_application_id"),
        purpose=reader.optional_text("purpose"),
        requested_at=reader.time("requested_at"),
        expires_at=reader.optional_time("expires_at"),
        correlation_id=reader.text("correlation_id"),
        metadata=reader.text_map("metadata"),
    )


Symbol = TypeVar("Symbol", bound=StrEnum)


class _Reader:
    """Typed access to one record; every failure is a RequestMalformed that names the field."""

    __slots__ = ("_path", "_record")

    def __init__(self, record: object, path: str) -> None:
        if not isinstance(record, Mapping):
            raise RequestMalformed(f"{path or 'the request'} is not a record")
        self._record: Mapping[str, Any] = record
        self._path = path

    def _malformed(self, name: str, expected: str) -> RequestMalformed:
        return RequestMalformed(f"{self._path}{name} is missing or is not {expected}")

    def text(self, name: str) -> str:
        value = self._record.get(name)
        if not isinstance(value, str):
            raise self._malformed(name, "a string")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._record.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        value = self._record.get(name)
        if not isinstance(value, bool):
            raise self._malformed(name, "a boolean")
        return value

    def integer(self, name: str) -> int:
        value = self._record.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._malformed(name, "an integer")
        return value

    def optional_integer(self, name: str) -> int | None:
        return None if self._record.get(name) is None else self.integer(name)

    def time(self, name: str) -> datetime:
        value = self._record.get(name)
        try:
            if isinstance(value, datetime) and value.tzinfo is not None:
                return value.astimezone(UTC)
            if isinstance(value, int) and not isinstance(value, bool):
                return _EPOCH + timedelta(microseconds=value)
        except OverflowError:
            pass
        raise self._malformed(name, "a UTC timestamp between the years 1 and 9999")

    def optional_time(self, name: str) -> datetime | None:
        return None if self._record.get(name) is None else self.time(name)

    def symbol(self, name: str, kind: type[Symbol]) -> Symbol:
        value = self.text(name)
        return kind(value) if value in kind.__members__ else kind("UNSPECIFIED")

    def text_map(self, name: str) -> Mapping[str, str]:
        value = self._record.get(name, {})
        if not isinstance(value, Mapping) or not all(
            isinstance(key, str) and isinstance(item, str) for key, item in value.items()
        ):
            raise self._malformed(name, "a map of strings")
        return dict(value)

    def record(self, name: str) -> "_Reader":
        return _Reader(self._record.get(name), f"{self._path}{name}.")

    def optional_record(self, name: str) -> "_Reader | None":
        return None if self._record.get(name) is None else self.record(name)


def _money(reader: _Reader) -> Money:
    return Money(reader.integer("amount_minor"), reader.text("currency"))


def _corridor(reader: _Reader) -> Corridor:
    return Corridor(
        source_country=reader.text("source_country"),
        target_country=reader.text("target_country"),
        source_currency=reader.text("source_currency"),
        target_currency=reader.text("target_currency"),
    )


def _fx_quote(reader: _Reader | None) -> FxQuote | None:
    if reader is None:
        return None
    return FxQuote(quote_id=reader.text("quote_id"), rate=reader.text("rate"), expires_at=reader.time("expires_at"))


def _funding(reader: _Reader) -> Funding:
    internal = reader.optional_record("internal")
    aft = reader.optional_record("aft")
    pis = reader.optional_record("pis")
    return Funding(
        kind=reader.symbol("kind", FundingKind),
        internal=None
        if internal is None
        else InternalFunding(
            debit_confirmed=internal.flag("debit_confirmed"), confirmation_ref=internal.text("confirmation_ref")
        ),
        aft=None if aft is None else _aft(aft),
        pis=None
        if pis is None
        else PisFunding(payment_id=pis.text("payment_id"), status=pis.symbol("status", PisStatus)),
    )


def _aft(reader: _Reader) -> AftFunding:
    amount = reader.optional_record("amount")
    return AftFunding(
        receipt_id=reader.text("receipt_id"),
        status=reader.symbol("status", AftStatus),
        transaction_identifier=reader.optional_text("transaction_identifier"),
        systems_trace_audit_number=reader.optional_integer("systems_trace_audit_number"),
        retrieval_reference_number=reader.optional_text("retrieval_reference_number"),
        approval_code=reader.optional_text("approval_code"),
        acquiring_bin=reader.optional_text("acquiring_bin"),
        captured_at=reader.optional_time("captured_at"),
        amount=None if amount is None else _money(amount),
        encrypted_card=reader.optional_text("encrypted_card"),
    )


def _destination(reader: _Reader) -> Destination:
    card = reader.optional_record("card")
    account = reader.optional_record("account")
    wallet = reader.optional_record("wallet")
    alias = reader.optional_record("alias")
    return Destination(
        kind=reader.symbol("kind", DestinationKind),
        card=None
        if card is None
        else CardDestination(
            token_reference=card.optional_text("token_reference"),
            encrypted_card=card.optional_text("encrypted_card"),
        ),
        account=None if account is None else AccountDestination(encrypted_account=account.text("encrypted_account")),
        wallet=None if wallet is None else WalletDestination(encrypted_wallet=wallet.text("encrypted_wallet")),
        alias=None
        if alias is None
        else AliasDestination(
            alias_type=alias.symbol("alias_type", AliasType), encrypted_alias=alias.text("encrypted_alias")
        ),
    )
