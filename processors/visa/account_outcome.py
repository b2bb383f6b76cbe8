"""The outcome tree of account and wallet payouts: what one exchange has proven. Pure (rules S3, S4, S5, S8).

A send

    no answer
    ├── no byte left ......................................... REFUSED  NOT_CONNECTED, systemic
    └── bytes left ........................................... UNKNOWN
    an answer
    ├── 200
    │   ├── another reference, amount or currency than ours .. OPERATOR
    │   ├── a status of account_statuses.yaml ................ PENDING, PAID, DECLINED or RETURNED, as it says
    │   └── another status, none, or two that differ ......... UNKNOWN  (the query decides)
    ├── 202 .................................................. PENDING  (still being processed, Visa's pages)
    ├── 400, 401, 403, 404, 405, 415, 429 .................... REFUSED  as for a push
    └── anything else ........................................ UNKNOWN

A query by our reference

    200 without a payout ..................................... NOT_FOUND
    two payouts under one reference .......................... OPERATOR
    another reference, amount or currency than ours .......... OPERATOR
    a status of account_statuses.yaml ........................ PENDING, PAID, DECLINED or RETURNED, as it says
    another status, or two that differ ....................... OPERATOR
    no status, or a body that cannot be read ................. UNKNOWN
    202 ...................................................... PENDING
    404 with a readable not-found ............................ NOT_FOUND
    401, 403, 404, 405, 415, 429, no byte left ............... REFUSED  the query was; it says nothing about the payout
    anything else ............................................ UNKNOWN

`fundingStatus` never decides: what is NOT_FUNDED waits for money, and its status says how it ends.

Where the members stand (top level, or in `transactionDetail` as in the request) is known from clients only, so both
places are read, and they must agree. REFUSED is definite for its own attempt only (rule S6).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.visa.account_statuses import account_statuses
from processors.visa.exchange import Answered, Exchange, Failed
from processors.visa.outcome import About, as_text, decimal_of, is_not_found, no_answer, refusal_of, same_currency
from schemas.card_numbers import looks_like_card_number

__all__ = ["outcome_of_payout", "outcome_of_payout_query"]

NOT_FUNDED: Final = "NOT_FUNDED"
# Visa's pages show identifiers of letters, digits and hyphens; longer or other text is not copied into the row.
_PAYOUT_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The codes of Visa's "InvalidPayoutRequest": 4003, 4100, ...
_DETAIL_CODE: Final = re.compile(r"[0-9]{4}")
_NESTED: Final = "transactionDetail"


class _Contradiction(Exception):
    """One payout says two things about itself."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What was sent: an answer that speaks of anything else is not about it."""

    amount: Decimal
    currency: str
    reference: str


def outcome_of_payout(exchange: Exchange, amount: str, currency: str, reference: str) -> Outcome:
    """What the answer to a send, or the lack of one, has proven.

    `amount` is the decimal text that was sent, `currency` its ISO 4217 alphabetic code, `reference` our
    clientReferenceId.
    """
    if isinstance(exchange, Failed):
        return no_answer(exchange)
    about = About(exchange)
    match exchange.status:
        case 200:
            return _of_reply(about, exchange, _Sent(Decimal(amount), currency, reference))
        case 202:
            return _of_accepted(about, exchange.body)
        case _:
            refusal = refusal_of(exchange)
            kind = OutcomeKind.UNKNOWN if refusal is None else OutcomeKind.REFUSED
            return about.http(kind, refusal, _detail_code(exchange.body))


def outcome_of_payout_query(exchange: Exchange, amount: str, currency: str, reference: str) -> Outcome:
    """What a query by our clientReferenceId has proven; the same arguments as `outcome_of_payout`."""
    if isinstance(exchange, Failed):
        return no_answer(exchange)
    about = About(exchange)
    match exchange.status:
        case 200:
            return _of_found(about, exchange, _Sent(Decimal(amount), currency, reference))
        case 202:
            return about.outcome(OutcomeKind.PENDING, "QUERY_HTTP_202")
        case 404 if _says_not_found(exchange):
            return about.outcome(OutcomeKind.NOT_FOUND, "QUERY_NOT_FOUND")
    refusal = refusal_of(exchange)
    if refusal in (None, Refusal.REQUEST_INVALID):
        # A query refused as invalid must never be taken for an invalid payout.
        return about.http(OutcomeKind.UNKNOWN, code=_detail_code(exchange.body))
    return about.http(OutcomeKind.REFUSED, refusal)


def _of_accepted(about: About, body: object) -> Outcome:
    try:
        return about.outcome(OutcomeKind.PENDING, "HTTP_202", transaction_identifier=_identifier_of(body))
    except _Contradiction:  # of names only: that it was accepted says the status
        return about.outcome(OutcomeKind.PENDING, "HTTP_202")


def _of_reply(about: About, answer: Answered, sent: _Sent) -> Outcome:
    if answer.body_problem is not None:
        return about.outcome(OutcomeKind.UNKNOWN, f"REPLY_{answer.body_problem}")
    if not isinstance(answer.body, Mapping):
        return about.outcome(OutcomeKind.UNKNOWN, "REPLY_WITHOUT_STATUS")
    try:
        return _of_payout(about, answer.body, sent) or about.outcome(OutcomeKind.UNKNOWN, "REPLY_WITHOUT_STATUS")
    except _Contradiction:
        return about.outcome(OutcomeKind.UNKNOWN, "REPLY_CONTRADICTS_ITSELF")


def _of_found(about: About, answer: Answered, sent: _Sent) -> Outcome:
    body = answer.body
    found = [body] if isinstance(body, Mapping) else body
    if answer.body_problem is not None or not isinstance(found, Sequence) or isinstance(found, str):
        return about.outcome(OutcomeKind.UNKNOWN, "QUERY_UNREADABLE")
    if len(found) > 1 or about.more_rows:
        return about.outcome(OutcomeKind.OPERATOR, "TWO_PAYOUTS_UNDER_ONE_REFERENCE")
    if not found:
        return about.outcome(OutcomeKind.NOT_FOUND, "QUERY_NOT_FOUND")
    payout = found[0]
    if not isinstance(payout, Mapping):
        return about.outcome(OutcomeKind.UNKNOWN, "QUERY_UNREADABLE")
    try:
        judged = _of_payout(about, payout, sent)
    except _Contradiction:
        return about.outcome(OutcomeKind.OPERATOR, "PAYOUT_CONTRADICTS_ITSELF")
    if judged is not None:
        return judged
    if _member(payout, "status") is None:
        return about.outcome(OutcomeKind.UNKNOWN, "QUERY_UNREADABLE")
    return about.outcome(OutcomeKind.OPERATOR, "PAYOUT_STATUS_NOT_LISTED")


def _of_payout(about: About, payout: Mapping[str, Any], sent: _Sent) -> Outcome | None:
    """What one payout's members say; None for a status that the table does not list. Raises _Contradiction."""
    identifier = _identifier_of(payout)
    mismatch = _mismatch(payout, sent)
    if mismatch is not None:
        return about.outcome(OutcomeKind.OPERATOR, mismatch, transaction_identifier=identifier)
    entry = account_statuses().get(str(_member(payout, "status")))
    if entry is None:
        return None
    waits_for_money = entry.outcome is OutcomeKind.PENDING and _member(payout, "fundingStatus") == NOT_FUNDED
    reason_code = f"{entry.status}_{NOT_FUNDED}" if waits_for_money else entry.status
    return about.outcome(entry.outcome, reason_code, transaction_identifier=identifier)


def _mismatch(payout: Mapping[str, Any], sent: _Sent) -> str | None:
    """S5: an answer that speaks of another payout or other money than ours. Absent members say nothing."""
    reference = _member(payout, "clientReferenceId")
    if reference is not None and as_text(reference) != sent.reference:
        return "PAYOUT_REFERENCE_MISMATCH"
    amount = _member(payout, "transactionAmount")
    if amount is not None and decimal_of(amount) != sent.amount:
        return "PAYOUT_AMOUNT_MISMATCH"
    currency = _member(payout, "transactionCurrencyCode")
    if currency is not None and not same_currency(currency, sent.currency):
        return "PAYOUT_CURRENCY_MISMATCH"
    return None


def _member(payout: Mapping[str, Any], name: str) -> object:
    """A member at the top level or in the detail. Raises _Contradiction when both are there and differ."""
    nested = payout.get(_NESTED)
    places = (payout, nested) if isinstance(nested, Mapping) else (payout,)
    values = [place[name] for place in places if place.get(name) is not None]
    if len(values) == 2 and values[0] != values[1]:
        raise _Contradiction
    return values[0] if values else None


def _identifier_of(payout: object) -> str | None:
    """Visa's own name of the payout, where it is fit for the row (P6)."""
    text = as_text(_member(payout, "payoutId")) if isinstance(payout, Mapping) else None
    if text is None or _PAYOUT_IDENTIFIER.fullmatch(text) is None or looks_like_card_number(text):
        return None
    return text


def _says_not_found(answer: Answered) -> bool:
    """A 404 of the API itself; a proxy's page or an empty body is a wrong URL. It never leads to another send."""
    if is_not_found(answer):
        return True
    return answer.body_problem is None and isinstance(answer.body, Mapping) and str(answer.body.get("status")) == "404"


def _detail_code(body: object) -> str | None:
    """The first code of an "InvalidPayoutRequest", at the top level or in Visa's envelope."""
    inner = body.get("errorResponse", body) if isinstance(body, Mapping) else None
    details = inner.get("details") if isinstance(inner, Mapping) else None
    first = details[0] if isinstance(details, Sequence) and not isinstance(details, str) and details else None
    code = as_text(first.get("code")) if isinstance(first, Mapping) else None
    return code if code is not None and _DETAIL_CODE.fullmatch(code) else None
