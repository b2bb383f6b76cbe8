"""The outcome tree: what one exchange with Visa has proven. Pure; nothing else decides (rules S4, S5, S8, S9, C4).

A push, or a status GET of one

    no answer
    ├── no byte left ......................................... REFUSED  NOT_CONNECTED, systemic
    └── bytes left ........................................... UNKNOWN  (a refused client certificate: systemic too)
    an answer
    ├── 200
    │   ├── actionCode 00, 11 ................................ PAID
    │   ├── actionCode 10 .................................... OPERATOR
    │   ├── actionCode 94 .................................... as its originalActionCode, without one UNKNOWN
    │   ├── actionCode allowed in action_codes.yaml .......... DECLINED
    │   ├── any other actionCode ............................. UNKNOWN
    │   └── no readable actionCode, or it contradicts itself   UNKNOWN
    ├── 202, 303 with a status identifier .................... PENDING  (a GET stays PENDING without one)
    │            without one ................................. UNKNOWN
    ├── 400 .................................................. REFUSED  REQUEST_INVALID, a credential code CREDENTIALS
    │       to a GET ......................................... UNKNOWN  (so that the query decides)
    ├── 401, 403 ............................................. REFUSED  CREDENTIALS, systemic
    ├── 404, 405, 415 ........................................ REFUSED  WRONG_ENDPOINT, systemic
    │   404 to a GET ......................................... UNKNOWN  (identifier unknown: the query decides)
    ├── 429 .................................................. REFUSED  RATE_LIMITED, systemic, Retry-After
    └── anything else ........................................ UNKNOWN

A query of a push: 200 with an array, judged row by row, the first line that fits

    no row ................................................... NOT_FOUND
    a row of another type, identity, amount or currency ...... OPERATOR
    a row CANCELLED, contradicting itself, or of code 10;
    approvals under two transaction identifiers .............. OPERATOR
    a row COMPLETED with 00 or 11 (94: originalActionCode) ... PAID
    a row IN_PROGRESS or PENDING ............................. PENDING
    a row FAILED ............................................. OPERATOR
    a row that cannot be read, or more rows than were given .. UNKNOWN
    else all rows COMPLETED with other codes ................. DECLINED

    404 with a readable not-found ............................ NOT_FOUND
    401, 403, 404, 405, 415, 429, no byte left ............... REFUSED  the query was; it says nothing about the payout
    anything else ............................................ UNKNOWN

A reversal is judged like a push and a query, but 94 proves nothing: it shares STAN, RRN and transaction identifier
with the card pull it undoes, so a duplicate may be the pull's (rule C4). Its query looks at SALES REVERSAL rows; a
query that shows only the pull, SALES DRAFT, is NOT_FOUND. PAID then means that the reversal took effect.

An adjustment is judged like a reversal, but it has numbers of its own: every row under them is its own, and no row
of the pull belongs there. It has no status URL, so 202 and 303 are UNKNOWN: only its query can tell more.

REFUSED is definite for its own attempt only; whether an earlier one is ambiguous the row knows (rule S6).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import iso4217

from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.visa.action_codes import APPROVED, DUPLICATE, PARTIALLY_APPROVED, declines, is_action_code
from processors.visa.exchange import Answered, Exchange, Failed, FailureCause
from processors.visa.fields import is_status_identifier
from schemas.card_numbers import looks_like_card_number

__all__ = [
    "About",
    "as_text",
    "decimal_of",
    "is_not_found",
    "no_answer",
    "outcome_of_adjustment",
    "outcome_of_adjustment_query",
    "outcome_of_push",
    "outcome_of_query",
    "outcome_of_reversal",
    "outcome_of_reversal_query",
    "outcome_of_reversal_status",
    "outcome_of_status",
    "refusal_of",
    "same_currency",
]  # fmt: skip

# A server that asks for more than an hour is asked again after one: funds are waiting.
LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
# Identifiers have 15 digits; beyond 19 no 64-bit number is meant.
LARGEST_NUMBER_READ: Final = 10**19
TRANSACTION_IDENTIFIER_DIGITS: Final = 15
# Transaction types in Visa's query: what an OCT is in clearing, and the two halves of a reversed card pull.
PUSH_TYPE: Final = "CRED VOUCHER"
PULL_TYPE: Final = "SALES DRAFT"
REVERSAL_TYPE: Final = "SALES REVERSAL"
# Visa documents none for an adjustment. It calls one a reversal of the pull without the 24 hours, and it is a credit.
ADJUSTMENT_TYPES: Final = frozenset({REVERSAL_TYPE, "CRED VOUCHER"})
# Gateway codes that speak of credentials, not of the request (Visa's error pages and measurements of 9125).
CREDENTIAL_CODES: Final = frozenset({"9123", "9124", "9125", "9209"})

_REFUSALS: Final[Mapping[int, Refusal]] = {
    400: Refusal.REQUEST_INVALID,
    401: Refusal.CREDENTIALS,
    403: Refusal.CREDENTIALS,
    404: Refusal.WRONG_ENDPOINT,
    405: Refusal.WRONG_ENDPOINT,
    415: Refusal.WRONG_ENDPOINT,
    429: Refusal.RATE_LIMITED,
}
_LINK: Final = re.compile(r"\s*<([^<>]*)>")
_GATEWAY_CODE: Final = re.compile(r"[0-9A-Za-z]{1,8}")
_TRANSACTION_IDENTIFIER: Final = re.compile(r"[0-9]{1,19}")
_APPROVAL_CODE: Final = re.compile(r"[0-9A-Za-z]{1,6}")
_CURRENCY_NUMBERS: Final[dict[str, int]] = {
    currency.code: int(currency.number) for currency in iso4217.Currency if currency.number is not None
}


class _Traced(Protocol):
    @property
    def systems_trace_audit_number(self) -> int: ...
    @property
    def retrieval_reference_number(self) -> str: ...


class _Contradiction(Exception):
    """Two members of one answer cannot both be true."""


EffectiveCode = Callable[[Mapping[str, Any]], str | None]


def outcome_of_push(exchange: Exchange) -> Outcome:
    """What the answer to a push of funds, or the lack of one, has proven."""
    return _of_submission(exchange, _push_code)


def outcome_of_status(exchange: Exchange, status_identifier: str | None = None) -> Outcome:
    """What a status GET has proven. A payout still pending keeps `status_identifier`, the one that was asked for."""
    return _of_status(exchange, _push_code, status_identifier)


def outcome_of_query(
    exchange: Exchange, expected_amount: str, expected_currency: str, *, transaction: _Traced | None = None
) -> Outcome:
    """What a transaction query about a push has proven.

    `expected_amount` is the decimal text that was sent, `expected_currency` its ISO 4217 alphabetic code;
    `transaction` is the identity asked for, if rows that carry another are to be noticed.
    """
    rows = _rows(exchange)
    if isinstance(rows, Outcome):
        return rows
    about = About(exchange)
    expected = _Expected(Decimal(expected_amount), expected_currency, transaction)
    if any(_type_of(row) not in (None, PUSH_TYPE) for row in rows):
        return about.outcome(OutcomeKind.OPERATOR, "QUERY_TYPE_MISMATCH")
    return _of_rows(about, rows, expected, _push_code)


def outcome_of_reversal(exchange: Exchange) -> Outcome:
    """What the answer to a reversal of funds, or the lack of one, has proven; PAID: the reversal took effect."""
    return _of_submission(exchange, _reversal_code)


def outcome_of_reversal_status(exchange: Exchange, status_identifier: str | None = None) -> Outcome:
    """What a status GET about a reversal has proven."""
    return _of_status(exchange, _reversal_code, status_identifier)


def outcome_of_reversal_query(
    exchange: Exchange, expected_amount: str, expected_currency: str, *, transaction: _Traced | None = None
) -> Outcome:
    """What a query under the numbers of a card pull says about the reversal of that pull (rule C4)."""
    rows = _rows(exchange)
    if isinstance(rows, Outcome):
        return rows
    about = About(exchange)
    if any(_type_of(row) not in (None, PULL_TYPE, REVERSAL_TYPE) for row in rows):
        return about.outcome(OutcomeKind.OPERATOR, "QUERY_TYPE_MISMATCH")
    reversals = [row for row in rows if _type_of(row) != PULL_TYPE]
    if not reversals:
        if about.more_rows:
            return about.outcome(OutcomeKind.UNKNOWN, "QUERY_INCOMPLETE")
        return about.outcome(OutcomeKind.NOT_FOUND, "QUERY_SHOWS_ONLY_THE_PULL")
    expected = _Expected(Decimal(expected_amount), expected_currency, transaction)
    return _of_rows(about, reversals, expected, _reversal_code)


def outcome_of_adjustment(exchange: Exchange) -> Outcome:
    """What the answer to an adjustment, or the lack of one, has proven; PAID: the adjustment took effect.

    A duplicate proves nothing, as for a reversal: Visa documents no duplicate key for adjustments (rules S3, C4).
    """
    if isinstance(exchange, Answered) and exchange.status in (202, 303):
        return About(exchange).http(OutcomeKind.UNKNOWN)
    return _of_submission(exchange, _reversal_code)


def outcome_of_adjustment_query(
    exchange: Exchange, expected_amount: str, expected_currency: str, *, transaction: _Traced | None = None
) -> Outcome:
    """What a query under an adjustment's own numbers says about it (rules S3, C4)."""
    rows = _rows(exchange)
    if isinstance(rows, Outcome):
        return rows
    about = About(exchange)
    if any(_type_of(row) is not None and _type_of(row) not in ADJUSTMENT_TYPES for row in rows):
        return about.outcome(OutcomeKind.OPERATOR, "QUERY_TYPE_MISMATCH")
    return _of_rows(about, rows, _Expected(Decimal(expected_amount), expected_currency, transaction), _reversal_code)


# --- one answer ---------------------------------------------------------------------------------------------------


class About:
    """An answer, and the facts of it that every outcome carries: the way from an HTTP answer to an `Outcome`."""

    __slots__ = ("answer",)

    def __init__(self, exchange: Exchange) -> None:
        if not isinstance(exchange, Answered):
            raise TypeError("an outcome about an answer needs an answer")
        self.answer = exchange

    @property
    def more_rows(self) -> bool:
        """Visa says that there is another page."""
        return self.answer.headers.get("x-pagination", "").strip().lower() == "true"

    def outcome(
        self,
        kind: OutcomeKind,
        reason_code: str,
        facts: Mapping[str, Any] | None = None,
        *,
        action_code: str | None = None,
        status_identifier: str | None = None,
        transaction_identifier: str | None = None,
        refusal: Refusal | None = None,
    ) -> Outcome:
        """This kind, with what the answer tells; `facts` are the members of its body that are copied."""
        facts = facts or {}
        return Outcome(
            kind=kind,
            reason_code=reason_code,
            refusal=refusal,
            http_status=self.answer.status,
            action_code=action_code,
            transaction_identifier=transaction_identifier or _shown_identifier(facts.get("transactionIdentifier")),
            approval_code=_text_of(facts.get("approvalCode"), _APPROVAL_CODE),
            status_identifier=status_identifier,
            visa_correlation_id=self.answer.visa_correlation_id,
            retry_after_seconds=_retry_after_seconds(self.answer.headers),
            systemic=refusal not in (None, Refusal.REQUEST_INVALID),
        )

    def http(self, kind: OutcomeKind, refusal: Refusal | None = None, code: str | None = None) -> Outcome:
        """What the HTTP status says, with the code of the error body."""
        code = code or _gateway_code(self.answer.body)
        reason_code = f"HTTP_{self.answer.status}" + (f"_{code.upper()}" if code else "")
        return self.outcome(kind, reason_code, refusal=refusal)


def _of_submission(exchange: Exchange, effective_code: EffectiveCode) -> Outcome:
    if isinstance(exchange, Failed):
        return no_answer(exchange)
    about = About(exchange)
    match exchange.status:
        case 200:
            return _of_result(about, effective_code)
        case 202 | 303:
            identifier = _status_identifier(exchange)
            if identifier is None:
                return about.outcome(OutcomeKind.UNKNOWN, f"HTTP_{exchange.status}_WITHOUT_IDENTIFIER")
            return about.outcome(OutcomeKind.PENDING, f"HTTP_{exchange.status}", status_identifier=identifier)
        case _:
            refusal = refusal_of(exchange)
            return about.http(OutcomeKind.UNKNOWN if refusal is None else OutcomeKind.REFUSED, refusal)


def _of_status(exchange: Exchange, effective_code: EffectiveCode, asked_for: str | None) -> Outcome:
    if isinstance(exchange, Failed):
        return no_answer(exchange)
    about = About(exchange)
    if exchange.status in (202, 303):
        identifier = _status_identifier(exchange) or asked_for
        return about.outcome(OutcomeKind.PENDING, f"HTTP_{exchange.status}", status_identifier=identifier)
    if exchange.status == 404 or refusal_of(exchange) is Refusal.REQUEST_INVALID:
        return about.outcome(OutcomeKind.UNKNOWN, "STATUS_IDENTIFIER_UNKNOWN")
    return _of_submission(exchange, effective_code)


def no_answer(failure: Failed) -> Outcome:
    """S4: before the first byte definite for this attempt, after it ambiguous whatever the cause."""
    if not failure.bytes_sent:
        return Outcome(OutcomeKind.REFUSED, failure.cause, refusal=Refusal.NOT_CONNECTED, systemic=True)
    systemic = failure.cause == FailureCause.CLIENT_CERTIFICATE_REFUSED
    return Outcome(OutcomeKind.UNKNOWN, failure.cause, systemic=systemic)


def refusal_of(answer: Answered) -> Refusal | None:
    """S4: why this answer means that the attempt had no effect; None for every answer that does not."""
    if answer.status == 400 and _gateway_code(answer.body) in CREDENTIAL_CODES:
        return Refusal.CREDENTIALS
    return _REFUSALS.get(answer.status)


def _of_result(about: About, effective_code: EffectiveCode) -> Outcome:
    body = about.answer.body
    if about.answer.body_problem is not None:
        return about.outcome(OutcomeKind.UNKNOWN, f"REPLY_{about.answer.body_problem}")
    if not isinstance(body, Mapping) or not is_action_code(body.get("actionCode")):
        return about.outcome(OutcomeKind.UNKNOWN, "REPLY_WITHOUT_ACTION_CODE")
    try:
        code = effective_code(body)
    except _Contradiction:
        return about.outcome(OutcomeKind.UNKNOWN, "REPLY_CONTRADICTS_ITSELF", body)
    if code is None:
        return about.outcome(OutcomeKind.UNKNOWN, "DUPLICATE_WITHOUT_PROOF", body, action_code=DUPLICATE)
    if code in APPROVED:
        kind = OutcomeKind.PAID
    elif code == PARTIALLY_APPROVED:
        kind = OutcomeKind.OPERATOR
    else:
        kind = OutcomeKind.DECLINED if declines(code) else OutcomeKind.UNKNOWN
    return about.outcome(kind, f"ACTION_CODE_{code}", body, action_code=code)


def _push_code(facts: Mapping[str, Any]) -> str | None:
    """The code that counts: behind a 94 the original one. None when there is none."""
    code, original = facts.get("actionCode"), facts.get("originalActionCode")
    if not is_action_code(code):
        return None
    if code != DUPLICATE:
        # Only a duplicate has an original; one that differs says that this answer is not what it seems.
        if original not in (None, "", code):
            raise _Contradiction
        return str(code)
    return str(original) if is_action_code(original) and original != DUPLICATE else None


def _reversal_code(facts: Mapping[str, Any]) -> str | None:
    """C4: behind a 94 may stand the card pull, which has the same numbers; so it has no code that counts."""
    return None if facts.get("actionCode") == DUPLICATE else _push_code(facts)


def _status_identifier(answer: Answered) -> str | None:
    """Visa has sent it as a member of a JSON object, as the whole body, and as a link (its OpenAPI and samples)."""
    body = answer.body
    candidates: list[object] = [body.get("statusIdentifier")] if isinstance(body, Mapping) else [body]
    candidates.append(_last_segment(answer.headers.get("location")))
    link = _LINK.match(answer.headers.get("link", ""))
    candidates.append(_last_segment(link[1]) if link else None)
    for candidate in candidates:
        text = as_text(candidate)
        # One that looks like a card number would stand in the row, in the log and in a URL (P6): the query decides.
        if text is not None and is_status_identifier(text.strip()) and not looks_like_card_number(text):
            return text.strip()
    return None


def _last_segment(url: str | None) -> str | None:
    if not url:
        return None
    try:
        path = urlsplit(url.strip()).path
    except ValueError:
        return None
    return path.rpartition("/")[2] or None


def _gateway_code(body: object) -> str | None:
    """The code of an error body, in either of Visa's two envelopes."""
    for envelope, member in (("responseStatus", "code"), ("errorResponse", "reason")):
        inner = body.get(envelope) if isinstance(body, Mapping) else None
        code = as_text(inner.get(member)) if isinstance(inner, Mapping) else None
        if code is not None and _GATEWAY_CODE.fullmatch(code):
            return code
    return None


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Retry-After as seconds from now, 0 to an hour; None when absent or unreadable (RFC 9110: seconds or a date)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        # Digits beyond ten are more than an hour in any case, and the parser of numbers has its limits.
        return LONGEST_RETRY_AFTER_SECONDS if len(value) > 10 else min(float(value), LONGEST_RETRY_AFTER_SECONDS)
    until = _http_date(value)
    if until is None:
        return None
    # By the server's own clock where it tells the time.
    now = _http_date(headers.get("date", "")) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _text_of(value: object, form: re.Pattern[str]) -> str | None:
    text = as_text(value)
    return text if text is not None and form.fullmatch(text) else None


def _shown_identifier(value: object) -> str | None:
    """A transaction identifier fit for the row (P6): VisaNet's have 15 digits, and look like anything by chance."""
    text = _text_of(value, _TRANSACTION_IDENTIFIER)
    if text is None or len(text) == TRANSACTION_IDENTIFIER_DIGITS:
        return text
    return None if looks_like_card_number(text) else text


def as_text(value: object) -> str | None:
    """Text as it is, a whole number of plausible size as its digits: Visa sends identifiers as either."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return str(value) if 0 <= value < LARGEST_NUMBER_READ else None


# --- rows of a query ----------------------------------------------------------------------------------------------


class _Verdict(Enum):
    APPROVED = auto()
    DECLINED = auto()
    OPERATOR = auto()
    WAITING = auto()
    FAILED = auto()
    UNREADABLE = auto()


@dataclass(frozen=True, slots=True)
class _Expected:
    amount: Decimal
    currency: str
    transaction: _Traced | None


@dataclass(frozen=True, slots=True)
class _Judged:
    verdict: _Verdict
    reason_code: str
    code: str | None
    row: Mapping[str, Any]


def _rows(exchange: Exchange) -> list[Mapping[str, Any]] | Outcome:
    """The rows of a query's answer, or what can be said without any."""
    if isinstance(exchange, Failed):
        return no_answer(exchange)
    about = About(exchange)
    if exchange.status == 200:
        body = exchange.body
        if exchange.body_problem is not None or not isinstance(body, Sequence) or isinstance(body, str):
            return about.outcome(OutcomeKind.UNKNOWN, "QUERY_UNREADABLE")
        if not body and not about.more_rows:
            return about.outcome(OutcomeKind.NOT_FOUND, "QUERY_NOT_FOUND")
        return [row if isinstance(row, Mapping) else {} for row in body]
    if exchange.status == 404 and is_not_found(exchange):
        return about.outcome(OutcomeKind.NOT_FOUND, "QUERY_NOT_FOUND")
    refusal = refusal_of(exchange)
    if refusal in (None, Refusal.REQUEST_INVALID):
        # A query refused as invalid must never be taken for an invalid push.
        return about.http(OutcomeKind.UNKNOWN)
    return about.http(OutcomeKind.REFUSED, refusal)


def is_not_found(answer: Answered) -> bool:
    """A 404 of the API itself, which says so in Visa's envelope; a proxy's page or an empty body is a wrong URL."""
    if answer.body_problem is not None or not isinstance(answer.body, Mapping):
        return False
    envelopes = (answer.body.get("responseStatus"), answer.body.get("errorResponse"))
    return any(isinstance(inner, Mapping) and str(inner.get("status")) == "404" for inner in envelopes)


def _of_rows(
    about: About, rows: Sequence[Mapping[str, Any]], expected: _Expected, effective_code: EffectiveCode
) -> Outcome:
    for row in rows:
        mismatch = _mismatch(row, expected)
        if mismatch is not None:
            return about.outcome(OutcomeKind.OPERATOR, mismatch, row)
    judged = [_judge(row, effective_code) for row in rows]
    approvals = [item for item in judged if item.verdict is _Verdict.APPROVED]
    identifiers = {_text_of(item.row.get("transactionIdentifier"), _TRANSACTION_IDENTIFIER) for item in approvals} - {
        None
    }
    if len(identifiers) > 1:
        return about.outcome(OutcomeKind.OPERATOR, "QUERY_SHOWS_TWO_APPROVALS", approvals[0].row)
    precedence = (
        (_Verdict.OPERATOR, OutcomeKind.OPERATOR),
        (_Verdict.APPROVED, OutcomeKind.PAID),
        (_Verdict.WAITING, OutcomeKind.PENDING),
        (_Verdict.FAILED, OutcomeKind.OPERATOR),
        (_Verdict.UNREADABLE, OutcomeKind.UNKNOWN),
    )
    for verdict, kind in precedence:
        for item in judged:
            if item.verdict is verdict:
                return about.outcome(kind, item.reason_code, item.row, action_code=item.code)
    if about.more_rows or not judged:
        return about.outcome(OutcomeKind.UNKNOWN, "QUERY_INCOMPLETE")
    last = judged[-1]
    return about.outcome(OutcomeKind.DECLINED, last.reason_code, last.row, action_code=last.code)


def _judge(row: Mapping[str, Any], effective_code: EffectiveCode) -> _Judged:
    try:
        code = effective_code(row)
    except _Contradiction:
        return _Judged(_Verdict.OPERATOR, "QUERY_CONTRADICTION", None, row)
    status = row.get("statusCode")
    match status:
        case _ if _type_of(row) is None:
            return _Judged(_Verdict.UNREADABLE, "QUERY_UNREADABLE", code, row)
        case "CANCELLED":
            return _Judged(_Verdict.OPERATOR, "QUERY_CANCELLED", code, row)
        case "FAILED" if code in APPROVED:
            return _Judged(_Verdict.OPERATOR, "QUERY_CONTRADICTION", code, row)
        case "FAILED":
            return _Judged(_Verdict.FAILED, "QUERY_FAILED", code, row)
        case "IN_PROGRESS" | "PENDING":
            return _Judged(_Verdict.WAITING, f"QUERY_{status}", code, row)
        case "COMPLETED" if code is not None:
            return _Judged(_completed(code), f"ACTION_CODE_{code}", code, row)
        case _:
            return _Judged(_Verdict.UNREADABLE, "QUERY_UNREADABLE", code, row)


def _completed(code: str) -> _Verdict:
    if code in APPROVED:
        return _Verdict.APPROVED
    return _Verdict.OPERATOR if code == PARTIALLY_APPROVED else _Verdict.DECLINED


def _type_of(row: Mapping[str, Any]) -> str | None:
    """The transaction type; None when the row does not say."""
    value = row.get("transactionType")
    text = " ".join(value.upper().replace("_", " ").split()) if isinstance(value, str) else ""
    return text or None


def _mismatch(row: Mapping[str, Any], expected: _Expected) -> str | None:
    """S5: a row that speaks of other numbers or other money than ours. Absent members say nothing."""
    amount = row.get("amountInTransactionCurrency")
    amount = row.get("amount") if amount is None else amount
    # Visa's OpenAPI: the amount may be absent for up to two hours.
    if amount is not None and decimal_of(amount) != expected.amount:
        return "QUERY_AMOUNT_MISMATCH"
    currency = row.get("transactionCurrencyCode")
    if currency is not None and not same_currency(currency, expected.currency):
        return "QUERY_CURRENCY_MISMATCH"
    if expected.transaction is None:
        return None
    numbers = (
        ("systemsTraceAuditNumber", expected.transaction.systems_trace_audit_number),
        ("retrievalReferenceNumber", int(expected.transaction.retrieval_reference_number)),
    )
    for member, number in numbers:
        # As numbers: Visa sends some as text and some without their leading zeros.
        if row.get(member) is not None and decimal_of(row[member]) != number:
            return "QUERY_IDENTITY_MISMATCH"
    return None


def decimal_of(value: object) -> Decimal | None:
    """A number as Visa sends it, text or JSON number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def same_currency(value: object, expected: str) -> bool:
    """Whether a currency, by letters or by its ISO 4217 number, is the expected alphabetic one."""
    if isinstance(value, str) and not value.isdigit():
        return value.upper() == expected
    return decimal_of(value) == _CURRENCY_NUMBERS.get(expected)
