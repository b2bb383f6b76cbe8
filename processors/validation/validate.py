"""Whether a payout request may go on: one pure function over an ordered table of small checks.

The first check that fails decides, so the same request always ends with the same reason (promise P7). A request that
fails is a payout that ends REJECTED, whose captured funding may need compensation (rule K7). No reason quotes a value
that the originator chose: any field may hold a card number that does not belong there (promise P6).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

from processors.money import AmountNotExpressible, UnknownCurrency, decimal_string, exponent
from processors.payout.row import ACCOUNT_DESTINATIONS, DestinationKind
from processors.personal_data import Alias, BankAccount, Party, PersonalData, Wallet, is_plain_text
from processors.validation.clear_text import TextField, holds_card_number, text_fields
from processors.validation.funding import captured, check_funding
from processors.validation.opened import OpenedRequest, Unreadable
from processors.validation.policy import CorridorPolicy, CorridorRules
from processors.validation.reason_codes import Finding, ReasonCode
from processors.validation.request import Destination, PayoutRequest
from schemas.card_numbers import looks_like_card_number

PAYOUT_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
_BUSINESS_APPLICATION_ID: Final = re.compile(r"[A-Z0-9]{2}")
_RATE: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
_IDENTIFIERS: Final = frozenset({"originator_id", "correlation_id"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationLimits:
    """The bounds that differ between profiles or deployments."""

    clock_skew_tolerated: timedelta = timedelta(seconds=5)
    """How far in the future requested_at may lie (production 5 s, test profile 1 s)."""
    oldest_request: timedelta = timedelta(days=30)
    """The retention of the request topic: nothing older can still be on its way."""
    longest_identifier_characters: int = 128
    """Longest originator_id and correlation_id: both are copied into the row and into every event."""
    longest_text_characters: int = 512
    """Longest other text outside encrypted fields."""
    most_metadata_entries: int = 64
    accounts_offered: bool = False
    """Whether this enrolment pays to accounts and wallets: without an initiating party id Visa takes none."""


@dataclass(frozen=True, slots=True)
class Valid:
    """Every check passed, under this version of the policy."""

    rules: CorridorRules
    policy_version: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """The first check that failed, under this version of the policy."""

    reason_code: ReasonCode
    reason: str
    policy_version: str


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything that a check may look at."""

    request: PayoutRequest
    opened: OpenedRequest
    receipt_owned: bool
    policy: CorridorPolicy
    now: datetime
    limits: ValidationLimits


def validate(
    request: PayoutRequest,
    opened: OpenedRequest,
    *,
    receipt_owned: bool,
    policy: CorridorPolicy,
    now: datetime,
    profile: ValidationLimits,
) -> Valid | Invalid:
    """Valid, or the first reason why not. `now` is timezone-aware; `receipt_owned` is the ledger's word (rule L7).

    Pure: no clock, no network, no key. Raises nothing for what an originator can send.
    """
    case = _Case(request, opened, receipt_owned, policy, now, profile)
    for check in CHECKS:
        finding = check(case)
        if finding is not None:
            return Invalid(finding.reason_code, finding.reason, policy.stamp)
    rules = policy.rules_for(request.corridor)
    if rules is None:
        return Invalid(ReasonCode.CORRIDOR_UNKNOWN, "no policy serves this corridor", policy.stamp)
    return Valid(rules, policy.stamp)


def is_payout_id(text: str) -> bool:
    """Whether the text may key a row and a record: 8 to 64 of A-Z a-z 0-9 _ -, and unlike a card number."""
    return PAYOUT_ID.fullmatch(text) is not None and not looks_like_card_number(text)


def _check_payout_id(case: _Case) -> Finding | None:
    if is_payout_id(case.request.payout_id):
        return None
    return Finding(
        ReasonCode.PAYOUT_ID_INVALID,
        "payout_id must be 8 to 64 of A-Z, a-z, 0-9, hyphen and underscore, and must not look like a card number",
    )


def _check_card_numbers(case: _Case) -> Finding | None:
    for field in text_fields(case.request):
        if holds_card_number(field):
            return Finding(
                ReasonCode.CARD_NUMBER_IN_CLEAR,
                f"{field.path} looks like a card number in clear; send cards only in encrypted_card",
            )
    return None


def _check_texts(case: _Case) -> Finding | None:
    request = case.request
    if len(request.metadata) > case.limits.most_metadata_entries:
        return Finding(
            ReasonCode.FIELD_INVALID, f"metadata may have at most {case.limits.most_metadata_entries} entries"
        )
    for field in text_fields(request):
        most = _most_characters(field, case.limits)
        if most is not None and len(field.text) > most:
            return Finding(ReasonCode.FIELD_INVALID, f"{field.path} may have at most {most} characters")
        if not is_plain_text(field.text):
            return Finding(ReasonCode.FIELD_INVALID, f"{field.path} holds control or unassigned characters")
    if not request.originator_id.strip():
        return Finding(ReasonCode.FIELD_INVALID, "originator_id must not be empty")
    if not request.correlation_id.strip():
        return Finding(ReasonCode.FIELD_INVALID, "correlation_id must not be empty")
    business = request.business_application_id
    if business is not None and not _BUSINESS_APPLICATION_ID.fullmatch(business):
        return Finding(ReasonCode.FIELD_INVALID, "business_application_id must be two capital letters or digits")
    return None


def _most_characters(field: TextField, limits: ValidationLimits) -> int | None:
    if field.encrypted:
        return None
    return limits.longest_identifier_characters if field.path in _IDENTIFIERS else limits.longest_text_characters


def _check_personal_data(case: _Case) -> Finding | None:
    match case.opened.personal:
        case PersonalData():
            return None
        case Unreadable(why):
            return Finding(ReasonCode.PERSONAL_DATA_UNREADABLE, why)
        case None:
            return Finding(
                ReasonCode.PERSONAL_DATA_MISSING,
                "personal_data is missing; encrypt sender and recipient to the processor's published key",
            )


def _check_funding(case: _Case) -> Finding | None:
    return check_funding(case.request, case.opened)


def _check_receipt(case: _Case) -> Finding | None:
    if case.receipt_owned or not captured(case.request.funding):
        return None
    return Finding(
        ReasonCode.RECEIPT_REUSED,
        "the funding receipt, or the card pull that it names, belongs to an earlier payout; each funds one payout",
    )


def _check_amount(case: _Case) -> Finding | None:
    amount = case.request.amount
    try:
        exponent(amount.currency)
        if amount.amount_minor <= 0:
            return Finding(ReasonCode.AMOUNT_NOT_POSITIVE, "amount.amount_minor must be greater than zero")
        decimal_string(amount.amount_minor, amount.currency)
    except UnknownCurrency as error:
        return Finding(ReasonCode.CURRENCY_UNKNOWN, f"amount.currency: {error}")
    except AmountNotExpressible as error:
        return Finding(ReasonCode.AMOUNT_NOT_EXPRESSIBLE, f"amount: {error}")
    return None


def _check_clock(case: _Case) -> Finding | None:
    age = case.now - case.request.requested_at
    if age < -case.limits.clock_skew_tolerated:
        return Finding(
            ReasonCode.CLOCK_OFF,
            f"requested_at lies more than {case.limits.clock_skew_tolerated.total_seconds():g} seconds in the future",
        )
    if age > case.limits.oldest_request:
        return Finding(
            ReasonCode.CLOCK_OFF, f"requested_at lies more than {case.limits.oldest_request.days} days in the past"
        )
    return None


def _check_expiry(case: _Case) -> Finding | None:
    expires_at = case.request.expires_at
    if expires_at is None or expires_at > case.now:
        return None
    return Finding(ReasonCode.EXPIRED_ON_ARRIVAL, "the request had passed its expires_at when it was validated")


def _check_corridor(case: _Case) -> Finding | None:
    corridor = case.request.corridor
    if case.request.amount.currency != corridor.source_currency:
        return Finding(ReasonCode.CURRENCY_MISMATCH, "amount.currency must be the corridor's source_currency")
    if case.policy.rules_for(corridor) is not None:
        return None
    return Finding(
        ReasonCode.CORRIDOR_UNKNOWN,
        f"policy {case.policy.version} serves no corridor with these countries and currencies",
    )


def _check_destination(case: _Case) -> Finding | None:
    destination = case.request.destination
    if not _is_well_formed(destination):
        return Finding(
            ReasonCode.DESTINATION_INVALID,
            "exactly the record of destination.kind must be set; a card by token_reference or encrypted_card, not both",
        )
    accounts = case.limits.accounts_offered and destination.kind in ACCOUNT_DESTINATIONS
    rules = case.policy.rules_for(case.request.corridor)
    aliases = destination.kind is DestinationKind.ALIAS and _serves_aliases(case.policy)
    if destination.kind is not DestinationKind.CARD and not accounts and not aliases:
        return Finding(
            ReasonCode.DESTINATION_NOT_AVAILABLE,
            f"payouts to the destination kind {destination.kind} are not offered here; use CARD",
        )
    if rules is None or destination.kind not in rules.allowed_destinations:
        return Finding(
            ReasonCode.DESTINATION_NOT_ALLOWED, f"the corridor does not allow the destination kind {destination.kind}"
        )
    if isinstance(case.opened.destination_card, Unreadable):
        return Finding(ReasonCode.CARD_UNREADABLE, case.opened.destination_card.why)
    if accounts and not isinstance(case.opened.destination_account, BankAccount | Wallet):
        return Finding(ReasonCode.ACCOUNT_UNREADABLE, _why_no_account(case.opened))
    if aliases and not isinstance(case.opened.destination_account, Alias):
        return Finding(ReasonCode.ALIAS_UNREADABLE, _why_no_account(case.opened))
    return None


def _serves_aliases(policy: CorridorPolicy) -> bool:
    """Whether any corridor does: then the enrolment has the directory."""
    return any(DestinationKind.ALIAS in rules.allowed_destinations for rules in policy.corridors.values())


def _why_no_account(opened: OpenedRequest) -> str:
    account = opened.destination_account
    return account.why if isinstance(account, Unreadable) else "the destination has nothing that could be opened"


def _is_well_formed(destination: Destination) -> bool:
    records = {
        DestinationKind.CARD: destination.card,
        DestinationKind.ACCOUNT: destination.account,
        DestinationKind.WALLET: destination.wallet,
        DestinationKind.ALIAS: destination.alias,
    }
    if records.get(destination.kind) is None or sum(record is not None for record in records.values()) != 1:
        return False
    card = destination.card
    return card is None or bool(card.token_reference) != bool(card.encrypted_card)


def _check_limit(case: _Case) -> Finding | None:
    rules = case.policy.rules_for(case.request.corridor)
    if rules is not None and case.request.amount.amount_minor <= rules.max_value_minor:
        return None
    most = rules.max_value_minor if rules is not None else 0
    return Finding(ReasonCode.LIMIT_EXCEEDED, f"the corridor allows at most {most} minor units in one payout")


def _check_quote(case: _Case) -> Finding | None:
    quote = case.request.fx_quote
    rules = case.policy.rules_for(case.request.corridor)
    if quote is None:
        if rules is not None and not rules.lock_required:
            return None
        return Finding(ReasonCode.QUOTE_REQUIRED, "the corridor requires a locked rate; fx_quote is missing")
    if not quote.quote_id.strip() or not _is_positive_rate(quote.rate):
        return Finding(
            ReasonCode.QUOTE_INVALID, "fx_quote needs a quote_id and a positive decimal rate such as 17.0542"
        )
    if quote.expires_at <= case.now:
        return Finding(ReasonCode.QUOTE_EXPIRED, "fx_quote had expired when the request was validated")
    return None


def _is_positive_rate(text: str) -> bool:
    try:
        return _RATE.fullmatch(text) is not None and Decimal(text) > 0
    except InvalidOperation:
        return False


def _check_travel_rule(case: _Case) -> Finding | None:
    personal = case.opened.personal
    if not case.request.corridor.is_cross_border:
        return None
    if not isinstance(personal, PersonalData):
        return Finding(ReasonCode.TRAVEL_RULE_INCOMPLETE, "a cross-border payout must name sender and recipient")
    missing = [*_address_gaps(personal.sender), *(() if personal.recipient.name.strip() else ("recipient.name",))]
    if not missing:
        return None
    return Finding(
        ReasonCode.TRAVEL_RULE_INCOMPLETE, f"a cross-border payout also needs, in personal_data: {', '.join(missing)}"
    )


def _address_gaps(sender: Party) -> list[str]:
    address = sender.address
    present = {
        "sender.name": sender.name,
        "sender.address.line1": address and address.line1,
        "sender.address.city": address and address.city,
        "sender.address.country": address and address.country,
    }
    return [name for name, value in present.items() if not (value and value.strip())]


CHECKS: Final[tuple[Callable[[_Case], Finding | None], ...]] = (
    _check_payout_id,
    _check_card_numbers,
    _check_texts,
    _check_personal_data,
    _check_funding,
    _check_receipt,
    _check_amount,
    _check_clock,
    _check_expiry,
    _check_corridor,
    _check_destination,
    _check_limit,
    _check_quote,
    _check_travel_rule,
)
"""In this order. Card numbers come before anything whose reason could describe a field; the receipt before what merely
forbids this payout, so that a reused receipt is always named as such."""
