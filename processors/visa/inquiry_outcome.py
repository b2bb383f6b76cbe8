"""What a question before a payout has proven. Pure; an answer that nobody understands lets nothing pass (fail closed).

    no answer, 4xx but those below, 5xx, 2xx that cannot be read ............... LATER    nothing happens, asked again

    card attributes (FTAI v5)
    ├── 200, a network with "Y" for this kind of push on this route ............ PASSED
    ├── 200, every network says "N" ............................................ REFUSED  CARD_NOT_ELIGIBLE
    ├── 200, neither (no network, no such member, another value) ............... LATER
    └── 400 that says, in Visa's published words, that nobody knows the card ... REFUSED  CARD_NOT_FOUND
    card validation (PAV)
    ├── 200, action code 85, 00 or 11 .......................................... PASSED
    ├── 200, a code that action_codes.yaml allows to decline ................... REFUSED  CARD_NOT_VALID
    └── 200, any other code, or none ........................................... LATER
    alias
    ├── 200 with a card number ................................................. PASSED   and the card
    ├── 200 without ............................................................ LATER
    └── 404 of the directory itself, not of the gateway before it .............. REFUSED  ALIAS_NOT_FOUND
    account or wallet (validate payout)
    ├── 200, VALID ............................................................. PASSED
    ├── 200, INVALID; 400 that names the recipient's account ................... REFUSED  ACCOUNT_NOT_VALID
    ├── 400 that names the quote ............................................... REFUSED  QUOTE_EXPIRED
    └── 200, neither ........................................................... LATER
    exchange rate
    ├── 200, a rate within the bound of the locked one ......................... PASSED
    ├── 200, a rate beyond it .................................................. REFUSED  SLIPPAGE_EXCEEDED
    ├── 200 without a rate, or with a quote that is over ....................... LATER
    └── 400 that names a currency .............................................. LATER    FX_RATE_NOT_FOUND

LATER carries the outcome that the lane, the schedule and the budget go by, as after a push (rule S7): a 400 that names
nothing of the recipient's may be our own fault, so it ends no payout before the budget is spent. An answer that cannot
be decrypted is everybody's trouble and spends nothing.

Sources: members and texts of FTAI, PAV and rates are Visa's OpenAPI and error pages; 85 for "no reason to decline" is
what processors publish; those of aliases and of validate payout are inferred from clients. That `conversionRate` is
units of the target for one of the source is how Visa's samples read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Context, Decimal, localcontext
from typing import Any, Final

from processors.payout.events import InquiryVerdict
from processors.payout.outcome import Outcome, OutcomeKind
from processors.secrets import CardNumber
from processors.visa.action_codes import APPROVED, declines, is_action_code
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed
from processors.visa.outcome import About, as_text, decimal_of, no_answer, refusal_of
from processors.visa.requests import MONEY_TRANSFERS

__all__ = [
    "Judged", "outcome_of_account_validation", "outcome_of_alias", "outcome_of_card_attributes",
    "outcome_of_card_validation", "outcome_of_rate", "slippage_exceeded",
]  # fmt: skip

NO_REASON_TO_DECLINE: Final = "85"
GAMBLING: Final = "OG"
# Visa's error page of FTAI: what it says, under code 3001 as any other mistake, when the card is the reason.
_UNKNOWN_CARD_TEXTS: Final = (
    "invalid account", "invalid pan or token", "token expired or deactivated",
    "unable to find any participating network information",
)  # fmt: skip
_RECIPIENT_PLACE: Final = "recipientdetail."
_QUOTE_PLACE: Final = "transactiondetail.quoteid"
_CARD_NUMBER: Final = re.compile(r"[0-9]{13,19}")
_BASIS_POINTS: Final = 10_000
# Twice the digits of the longest rates that are taken (validation: 12 before and 12 behind the point), and to spare.
_EXACT: Final = Context(prec=80)
_LONGEST_RATE: Final = 48


@dataclass(frozen=True, slots=True)
class Judged:
    """What one question has proven. `outcome` is there for LATER, `card` for an alias that was resolved."""

    verdict: InquiryVerdict
    reason_code: str
    outcome: Outcome | None = None
    card: CardNumber | None = field(default=None, repr=False)
    valid_until: datetime | None = None
    """An answer with an end of its own is not used beyond it."""
    http_status: int | None = None
    action_code: str | None = None
    visa_correlation_id: str | None = None


def outcome_of_card_attributes(
    exchange: Exchange, *, application: str, acquirer_country: str, crosses_border: bool
) -> Judged:
    """Whether the card takes a push of this business application.

    `acquirer_country` is numeric ISO 3166-1; where the answer does not say where the issuer is, `crosses_border` is
    what the request says of the route.
    """
    if isinstance(exchange, Answered) and exchange.status == 400 and _says_unknown_card(exchange):
        return _refused(exchange, "CARD_NOT_FOUND")
    body = _body_of_200(exchange)
    if body is None:
        return _later(exchange)
    flags = [_flag(network, application, acquirer_country, crosses_border) for network in _networks(body)]
    if "Y" in flags:
        return _passed(exchange, "CARD_ELIGIBLE")
    if flags and all(flag == "N" for flag in flags):
        return _refused(exchange, "CARD_NOT_ELIGIBLE")
    return _later(exchange, "CARD_ATTRIBUTES_NOT_UNDERSTOOD")


def outcome_of_card_validation(exchange: Exchange) -> Judged:
    """Whether the issuer has a reason to decline the card."""
    body = _body_of_200(exchange)
    if body is None:
        return _later(exchange)
    code = body.get("actionCode")
    if not is_action_code(code):
        return _later(exchange, "REPLY_WITHOUT_ACTION_CODE")
    if code == NO_REASON_TO_DECLINE or code in APPROVED:
        return replace(_passed(exchange, "CARD_VALID"), action_code=str(code))
    if declines(str(code)):
        return replace(_refused(exchange, "CARD_NOT_VALID"), action_code=str(code))
    return _later(exchange, f"ACTION_CODE_{code}", str(code))


def outcome_of_alias(exchange: Exchange) -> Judged:
    """Whose card the alias stands for."""
    if isinstance(exchange, Answered) and exchange.status == 404 and _is_the_products_own(exchange):
        return _refused(exchange, "ALIAS_NOT_FOUND")
    body = _body_of_200(exchange)
    if body is None:
        return _later(exchange)
    number = as_text(body.get("recipientPrimaryAccountNumber"))
    if number is None or _CARD_NUMBER.fullmatch(number) is None:
        return _later(exchange, "ALIAS_ANSWER_WITHOUT_CARD")
    return replace(_passed(exchange, "ALIAS_RESOLVED"), card=CardNumber(number))


def outcome_of_account_validation(exchange: Exchange) -> Judged:
    """Whether a payout to the account or wallet could be sent."""
    if isinstance(exchange, Answered) and exchange.status == 400 and refusal_of(exchange) is not None:
        places = list(_error_places(exchange))
        if any(place.startswith(_RECIPIENT_PLACE) for place in places):
            return _refused(exchange, "ACCOUNT_NOT_VALID")
        if _QUOTE_PLACE in places:
            return _refused(exchange, "QUOTE_EXPIRED")
    body = _body_of_200(exchange)
    if body is None:
        return _later(exchange)
    match body.get("status"), body.get("valid"):
        case ("VALID", None | True) | (None, True):
            return _passed(exchange, "ACCOUNT_VALID")
        case ("INVALID", None | False) | (None, False):
            return _refused(exchange, "ACCOUNT_NOT_VALID")
        case _:
            return _later(exchange, "VALIDATION_NOT_UNDERSTOOD")


def outcome_of_rate(exchange: Exchange, *, locked_rate: str, slippage_bps_max: int, now: datetime) -> Judged:
    """Whether the rate now is close enough to the one that the originator locked, both target units for one source.

    `locked_rate` is positive decimal text, `now` timezone-aware.
    """
    if isinstance(exchange, Answered) and exchange.status == 400 and _names_a_currency(exchange):
        return _later(exchange, "FX_RATE_NOT_FOUND")
    body = _body_of_200(exchange)
    if body is None:
        return _later(exchange)
    fresh, until = _rate_of(body), _expiry_of(body)
    if fresh is None or until == _NOT_A_TIME:
        return _later(exchange, "FX_RATE_NOT_UNDERSTOOD")
    if until is not None and until <= now:
        return _later(exchange, "FX_RATE_EXPIRED_ON_ARRIVAL")
    if slippage_exceeded(Decimal(locked_rate), fresh, slippage_bps_max):
        return _refused(exchange, "SLIPPAGE_EXCEEDED")
    return replace(_passed(exchange, "FX_RATE_WITHIN_BOUND"), valid_until=until)


def slippage_exceeded(locked: Decimal, fresh: Decimal, bps_max: int) -> bool:
    """Whether |locked − fresh| / fresh is more than `bps_max` hundredths of a percent. Exact: nothing is divided."""
    with localcontext(_EXACT):
        return abs(locked - fresh) * _BASIS_POINTS > fresh * bps_max


# --- one answer -----------------------------------------------------------------------------------------------------


def _body_of_200(exchange: Exchange) -> Mapping[str, Any] | None:
    if isinstance(exchange, Failed) or exchange.status != 200 or exchange.body_problem is not None:
        return None
    return exchange.body if isinstance(exchange.body, Mapping) else None


def _passed(exchange: Exchange, reason_code: str) -> Judged:
    return _judged(InquiryVerdict.PASSED, reason_code, exchange)


def _refused(exchange: Exchange, reason_code: str) -> Judged:
    return _judged(InquiryVerdict.REFUSED, reason_code, exchange)


def _later(exchange: Exchange, reason_code: str | None = None, action_code: str | None = None) -> Judged:
    """Nothing is proven: the outcome as it would be after a push, for all but the payout."""
    outcome = replace(_outcome(exchange, reason_code), action_code=action_code)
    judged = _judged(InquiryVerdict.LATER, outcome.reason_code, exchange)
    return replace(judged, outcome=outcome, action_code=action_code)


def _judged(verdict: InquiryVerdict, reason_code: str, exchange: Exchange) -> Judged:
    if isinstance(exchange, Failed):
        return Judged(verdict, reason_code)
    return Judged(verdict, reason_code, http_status=exchange.status, visa_correlation_id=exchange.visa_correlation_id)


def _outcome(exchange: Exchange, reason_code: str | None) -> Outcome:
    if isinstance(exchange, Failed):
        return no_answer(exchange)
    about = About(exchange)
    if exchange.status == 200:
        problem = exchange.body_problem or BodyProblem.NOT_JSON
        return about.outcome(OutcomeKind.UNKNOWN, reason_code or f"REPLY_{problem}")
    refusal = refusal_of(exchange)
    outcome = about.http(OutcomeKind.UNKNOWN if refusal is None else OutcomeKind.REFUSED, refusal)
    return outcome if reason_code is None else replace(outcome, reason_code=reason_code)


# --- card attributes ------------------------------------------------------------------------------------------------


def _networks(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Visa's and other networks' entries, as they come; an entry of another form is one that says nothing."""
    for member in ("visaNetworkInfo", "ppgsNetworkInfo"):
        entries = body.get(member) or []
        if isinstance(entries, Sequence) and not isinstance(entries, str):
            yield from (entry if isinstance(entry, Mapping) else {} for entry in entries)
        else:
            yield {}


def _flag(network: Mapping[str, Any], application: str, acquirer_country: str, crosses_border: bool) -> object:
    if "networkId" in network:
        abroad = _is_abroad(network.get("cardIssuerCountryCode"), acquirer_country, crosses_border)
        return network.get("octXbParticipant" if abroad else "octDomParticipant")
    abroad = _is_abroad(network.get("issuerCountryCode"), acquirer_country, crosses_border)
    return network.get(f"{_kind_of(application)}PushFunds{'CrossBorder' if abroad else 'Domestic'}")


def _kind_of(application: str) -> str:
    if application == GAMBLING:
        return "onlineGambling"
    return "moneyTransfer" if application in MONEY_TRANSFERS else "nonMoneyTransfer"


def _is_abroad(issuer_country: object, acquirer_country: str, crosses_border: bool) -> bool:
    number = decimal_of(issuer_country)
    return crosses_border if number is None else number != int(acquirer_country)


def _says_unknown_card(answer: Answered) -> bool:
    said = _message(answer).lower()
    return any(said.startswith(text) for text in _UNKNOWN_CARD_TEXTS)


# --- errors of the newer products -----------------------------------------------------------------------------------


def _envelope(answer: Answered) -> Mapping[str, Any]:
    """The error object: in one of Visa's two envelopes, or the body itself."""
    body = answer.body if isinstance(answer.body, Mapping) else {}
    for name in ("errorResponse", "responseStatus"):
        inner = body.get(name)
        if isinstance(inner, Mapping):
            return inner
    return body


def _is_the_products_own(answer: Answered) -> bool:
    """An error in the newer products' envelope: the gateway's own, about a wrong path too, comes in the older one."""
    inner = answer.body.get("errorResponse") if isinstance(answer.body, Mapping) else None
    return isinstance(inner, Mapping) and str(inner.get("status")) == str(answer.status)


def _message(answer: Answered) -> str:
    message = _envelope(answer).get("message")
    return message.strip() if isinstance(message, str) else ""


def _error_places(answer: Answered) -> Iterator[str]:
    """The request's members that an error names, in lower case."""
    details = _envelope(answer).get("details")
    if isinstance(details, Sequence) and not isinstance(details, str):
        for detail in details:
            place = detail.get("location") if isinstance(detail, Mapping) else None
            if isinstance(place, str):
                yield place.lower()


def _names_a_currency(answer: Answered) -> bool:
    return any(place.endswith("currencycode") for place in _error_places(answer))


# --- exchange rate --------------------------------------------------------------------------------------------------

_NOT_A_TIME: Final = datetime.min.replace(tzinfo=UTC)


def _rate_of(body: Mapping[str, Any]) -> Decimal | None:
    value = body.get("conversionRate")
    if isinstance(value, str) and len(value) > _LONGEST_RATE:
        return None
    rate = decimal_of(value)
    if rate is None or rate <= 0:
        return None
    # A rate is a handful of digits; an exponent in the thousands would make exact arithmetic slow, or inexact.
    return rate if abs(rate.adjusted()) <= 15 and len(rate.as_tuple().digits) <= 30 else None


def _expiry_of(body: Mapping[str, Any]) -> datetime | None:
    """When the quote ends; None without one, `_NOT_A_TIME` for what cannot be read."""
    value = body.get("quoteIdExpiryDateTime")
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else _NOT_A_TIME
    except ValueError:
        return _NOT_A_TIME
    return moment if moment.tzinfo is not None else _NOT_A_TIME
