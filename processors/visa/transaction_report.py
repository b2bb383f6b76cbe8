"""What VisaNet says it has processed: the question, and the rows of its answer or of a downloaded file. Pure.

    transaction_report   GET   one page of the transactions of at most five days
    rows_of_reply              the rows of a decoded answer
    rows_of_csv                the rows of a file in the older form, which people download

Only what moved money is listed [inference: no decline is in any published example]. A row without a state, a retrieval
reference number, an acquiring BIN or a day proves nothing, so it makes the whole report unreadable: what a person
compares must be all there is. A line may be repeated, as in Visa's own example; all of them are given here.

The masked account number is never looked at, kept or quoted. An error names place and field, never a value.

Sources: Visa's sample clients of the Reports API (2018), with the texts of its fields, and a published example of the
file. Visa says there that the report covers transactions in the US only. Not published, hence inferred: whether the
rows come bare or in an object; that the five days count both ends (Visa's own sample asks for five such); how a pull's
chargeback is spelled in the file; that an amount has no sign.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from processors.money import AmountNotExpressible, UnknownCurrency, alphabetic_currency, amount_minor_from_decimal
from processors.visa.fields import RequestInvalid
from processors.visa.identity import Operation
from processors.visa.outcome import as_text
from processors.visa.requests import CheckedPaths, VisaRequest
from schemas.card_numbers import mask_card_numbers

__all__ = [
    "REPORT_DAYS_BACK_MAX", "REPORT_DAYS_MAX", "REPORT_PAGE_ROWS", "REPORT_PATHS", "Movement", "ReportPaths",
    "ReportRow", "ReportUnreadable", "rows_of_csv", "rows_of_reply", "transaction_report",
]  # fmt: skip

REPORT_DAYS_MAX: Final = 5
"""Visa: so many days in one question, both ends counted."""
REPORT_DAYS_BACK_MAX: Final = 120
"""Visa: nothing older is found. Whoever asks knows the day it is; here nobody looks at a clock."""
REPORT_PAGE_ROWS: Final = 100
"""Visa's default, and asked for by name: a page with fewer rows is the last. A larger one is not documented."""
REPORT_FIELDS: Final = "amountInTransactionCurrency,transactionStateCode,reasonCodeValue"
"""Given beside the usual ones. Without the first, a row has its amount in US dollars only."""
LINE_CHARACTERS_MAX: Final = 4_096
"""A line has 18 columns and some 250 characters; one of another kind of file must not be taken apart."""
TEXT_CHARACTERS_MAX: Final = 60
"""The longest published state or reason has half of it."""
_DAY: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[:T ][0-9:.]{1,15}Z?)?")
_DIGITS: Final = re.compile(r"[0-9]+")
_REFERENCE: Final = re.compile(r"[0-9A-Za-z]{1,12}")
# As long as an account number, some of whose digits may be masked.
_LONG_NUMBER: Final = re.compile(r"[0-9Xx*]{13,}")
_LARGEST_EXPONENT: Final = 12
TIME_DIGITS_MAX: Final = 9
"""Hours to milliseconds."""
_NO_REASON: Final = "NOT APPLICABLE"
_USD: Final = "USD"


class ReportUnreadable(Exception):
    """A report that does not say what it must. Quotes nothing of it.

    `number` is the line of a file or the row of an answer, from 1, and 0 for the answer as a whole; `field` is Visa's
    name of the column or member.
    """

    def __init__(self, number: int, field: str, why: str) -> None:
        place = f"line or row {number}, " if number else ""
        super().__init__(f"{place}{field}: {why}")
        self.number = number
        self.field = field
        self.why = why


class Movement(StrEnum):
    """What a row says that money did, as its BASE II transaction code: 05, 06, 15, 16, 25, 26."""

    PUSH = "PUSH"
    PUSH_REVERSED = "PUSH_REVERSED"
    PUSH_CHARGED_BACK = "PUSH_CHARGED_BACK"
    PULL = "PULL"
    PULL_REVERSED = "PULL_REVERSED"
    """Also, as it seems, what an adjustment of a pull becomes."""
    PULL_CHARGED_BACK = "PULL_CHARGED_BACK"
    OTHER = "OTHER"
    """A state that is not published, or whose text and code contradict each other: for a person to look at."""


_BY_CODE: Final[Mapping[str, Movement]] = {
    "05": Movement.PULL,
    "06": Movement.PUSH,
    "15": Movement.PULL_CHARGED_BACK,
    "16": Movement.PUSH_CHARGED_BACK,
    "25": Movement.PULL_REVERSED,
    "26": Movement.PUSH_REVERSED,
}
# Short in files, as a sentence in the description of the answer's field.
_BY_TEXT: Final[Mapping[str, Movement]] = {
    "CRED VOUCHER": Movement.PUSH,
    "CRED REVERSAL": Movement.PUSH_REVERSED,
    "CRED CHGBK": Movement.PUSH_CHARGED_BACK,
    "SALES DRAFT": Movement.PULL,
    "SALES REVERSAL": Movement.PULL_REVERSED,
    "SALES CHGBK": Movement.PULL_CHARGED_BACK,
    "ORIGINAL CREDIT VOUCHER": Movement.PUSH,
    "CREDIT VOUCHER": Movement.PUSH,
    "CREDIT VOUCHER REVERSAL": Movement.PUSH_REVERSED,
    "CREDIT VOUCHER CHARGEBACK": Movement.PUSH_CHARGED_BACK,
    "ORIGINAL SALES DRAFT": Movement.PULL,
    "SALES DRAFT REVERSAL": Movement.PULL_REVERSED,
    "SALES DRAFT CHARGEBACK": Movement.PULL_CHARGED_BACK,
}


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One movement of money as VisaNet logged it; `amount_minor` is in minor units of `currency` (ISO alphabetic).

    `amount_minor` is None where the row has none in the transaction's own currency, `reason` where Visa names none.
    `state` is as Visa wrote it. Both dates are Visa's; which time zone it counts days in is not published.
    """

    movement: Movement
    state: str
    transaction_id: str | None
    systems_trace_audit_number: int | None
    retrieval_reference_number: str
    acquiring_bin: str
    card_acceptor_id: str | None
    amount_minor: int | None
    currency: str | None
    transaction_date: date
    processing_date: date | None
    reason: str | None
    transaction_time: str | None = None
    """Digits, as Visa wrote them."""
    approval_code: str | None = None
    """With time and identifier what tells two transactions under the same numbers from one that is listed twice."""


@dataclass(frozen=True, slots=True)
class ReportPaths(CheckedPaths):
    """Where the report lives below the host."""

    transaction_data: str = "/visadirect/reports/v1/transactiondata"


REPORT_PATHS: Final = ReportPaths()


def transaction_report(first: date, last: date, *, page: int, paths: ReportPaths = REPORT_PATHS) -> VisaRequest:
    """One page, counted from 1, of what was transacted from `first` to `last`, both included. Raises RequestInvalid."""
    if last < first:
        raise RequestInvalid("toDate", "is before fromDate")
    if last - first >= timedelta(days=REPORT_DAYS_MAX):
        raise RequestInvalid("toDate", f"is out of reach: Visa reports at most {REPORT_DAYS_MAX} days at once")
    if page < 1:
        raise RequestInvalid("offset", "is the number of a page, from 1")
    query = (
        ("fromDate", _day_first(first)),
        ("toDate", _day_first(last)),
        ("fields", REPORT_FIELDS),
        ("offset", str(page)),
        ("limit", str(REPORT_PAGE_ROWS)),
    )
    return VisaRequest(Operation.TRANSACTION_REPORT, "GET", paths.transaction_data, query=query)


def _day_first(day: date) -> str:
    return f"{day.day:02d}{day.month:02d}{day.year:04d}"


def rows_of_reply(document: object) -> tuple[ReportRow, ...]:
    """The rows of a decoded answer (decimals as `Decimal`): an array, or an object with one array among its members.

    Raises ReportUnreadable.
    """
    return tuple(_row(_Given(number, row, _MEMBERS)) for number, row in enumerate(_rows(document), start=1))


def _rows(document: object) -> Iterator[Mapping[str, object]]:
    found = _array(document)
    if found is None:
        raise ReportUnreadable(0, "report", "is neither an array nor an object with exactly one")
    for number, row in enumerate(found, start=1):
        if not isinstance(row, Mapping):
            raise ReportUnreadable(number, "report", "holds a row that is no object")
        yield row


def _array(document: object) -> Sequence[object] | None:
    if isinstance(document, Mapping):
        arrays = [value for value in document.values() if isinstance(value, list | tuple)]
        return arrays[0] if len(arrays) == 1 else None
    return document if isinstance(document, list | tuple) else None


def rows_of_csv(lines: Iterable[str]) -> Iterator[ReportRow]:
    """The rows of a file, line by line: the first that is not blank has the names of the columns.

    Columns that nobody needs are passed over; a byte order mark, blanks around a value and blank lines do no harm. No
    value may have a line break within. Raises ReportUnreadable, also for a file that is not text.
    """
    columns: tuple[str, ...] | None = None
    for number, cells in _records(lines):
        if columns is None:
            columns = _columns(number, cells)
        else:
            yield _row(_Given(number, _by_column(number, columns, cells), _COLUMNS))
    if columns is None:
        raise ReportUnreadable(1, "heading", "is missing: the file is empty")


def _records(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Lines that hold something, with their numbers, as trimmed cells."""
    for number, line in _numbered(lines):
        if len(line) > LINE_CHARACTERS_MAX:
            raise ReportUnreadable(number, "line", f"is longer than {LINE_CHARACTERS_MAX} characters")
        text = line.removeprefix("\ufeff") if number == 1 else line
        cells = [cell.strip() for cell in _cells(number, text)]
        if any(cells):
            yield number, cells


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for line in lines:
            number += 1
            yield number, line
    except UnicodeDecodeError:  # it holds the bytes, so it goes no further
        raise ReportUnreadable(number + 1, "line", "is not text in the file's encoding (UTF-8)") from None


def _cells(number: int, line: str) -> list[str]:
    # One line at a time: an open quotation mark must not swallow the rest of the file, and numbers stay those of lines.
    try:
        return next(csv.reader([line.rstrip()], strict=True), [])
    except csv.Error:
        raise ReportUnreadable(number, "line", "is not one record of comma-separated values") from None


def _columns(number: int, cells: Sequence[str]) -> tuple[str, ...]:
    """Our names of the columns; "" of one that nobody needs."""
    known = {name.upper(): name for name in _COLUMNS.values()}
    columns = tuple(known.get(" ".join(cell.upper().split()), "") for cell in cells)
    for what, name in _COLUMNS.items():
        if columns.count(name) > 1:
            raise ReportUnreadable(number, name, "is the name of more than one column")
        if name not in columns and what in _NEEDED:
            raise ReportUnreadable(number, name, "is missing among the columns")
    return columns


def _by_column(number: int, columns: Sequence[str], cells: Sequence[str]) -> Mapping[str, object]:
    # Empty cells at the end are what a spreadsheet adds; one too few, or a value too many, has moved the others.
    if len(cells) < len(columns) or any(cells[len(columns) :]):
        raise ReportUnreadable(number, "line", f"has another number of values than the heading ({len(columns)})")
    return dict(zip(columns, cells, strict=False))


# --- one row --------------------------------------------------------------------------------------------------------


_MEMBERS: Final[Mapping[str, str]] = {
    "state": "transactionState",
    "state_code": "transactionStateCode",
    "transaction_id": "transactionIdentifier",
    "trace_number": "systemsTraceAuditNumber",
    "reference": "retrievalReferenceNumber",
    "bin": "acquiringBin",
    "acceptor": "cardAcceptorIdCode",
    "amount": "amountInTransactionCurrency",
    "usd_amount": "amount",
    "currency": "transactionCurrencyCode",
    "transacted": "transactionDateTime",
    "processed": "processingDate",
    "reason": "reasonCode",
    "reason_value": "reasonCodeValue",
    "approval": "approvalCode",
}
# The amount of a file is in the transaction's currency, and it has no other.
_COLUMNS: Final[Mapping[str, str]] = {
    "state": "Transaction State",
    "transaction_id": "Visa Transaction ID",
    "trace_number": "System Trace Audit Number",
    "reference": "RRN",
    "bin": "Acquirer Bin",
    "acceptor": "Card Acceptor ID",
    "amount": "Transaction Amount",
    "currency": "Transaction Currency",
    "transacted": "Transaction Date",
    "processed": "Processing Date",
    "reason": "Reason Code",
    "time": "Transaction Time",
    "approval": "Auth Code",
}
# Without any of these columns a file cannot be compared with anything, even if some of their cells may be empty.
_NEEDED: Final = frozenset({"state", "trace_number", "reference", "bin", "amount", "currency", "transacted"})


@dataclass(frozen=True, slots=True, repr=False)
class _Given:
    """One row as it came, by Visa's names; what is missing, null or blank is None."""

    number: int
    values: Mapping[str, object]
    names: Mapping[str, str]

    def raw(self, what: str) -> object:
        value = self.values.get(self.names[what]) if what in self.names else None
        return None if isinstance(value, str) and not value.strip() else value

    def text(self, what: str) -> str | None:
        value = self.raw(what)
        if value is None:
            return None
        text = as_text(value)
        if text is None:
            raise self.wrong(what, "is neither text nor a whole number")
        return text.strip()

    def needed(self, what: str) -> str:
        text = self.text(what)
        if text is None:
            raise self.wrong(what, "is missing")
        return text

    def wrong(self, what: str, why: str) -> ReportUnreadable:
        return ReportUnreadable(self.number, self.names[what], why)


def _row(given: _Given) -> ReportRow:
    movement, state = _movement(given)
    amount_minor, currency = _money(given)
    return ReportRow(
        movement=movement,
        state=state,
        transaction_id=_digits(given, "transaction_id", 15),
        systems_trace_audit_number=_trace_number(given),
        retrieval_reference_number=_reference(given),
        acquiring_bin=_acquiring_bin(given),
        card_acceptor_id=_shown(given.text("acceptor")),
        amount_minor=amount_minor,
        currency=currency,
        transaction_date=_needed_day(given, "transacted"),
        processing_date=_day(given, "processed"),
        reason=_reason(given),
        transaction_time=_time(given),
        approval_code=_shown(given.text("approval")),
    )


def _time(given: _Given) -> str | None:
    """Of a column of its own, or what stands behind the day."""
    text = given.text("time")
    if text is None:
        text = (given.text("transacted") or "")[len("2016-01-01") :]
    digits = "".join(character for character in text if character in "0123456789")
    return digits[:TIME_DIGITS_MAX] or None


def _movement(given: _Given) -> tuple[Movement, str]:
    text, code = given.text("state"), given.text("state_code")
    state = _words(text if text is not None else code)
    if state is None:
        raise given.wrong("state", "is missing")
    by_text = Movement.OTHER if text is None else _by_text(text)
    if code is None:
        return by_text, state
    by_code = _BY_CODE.get(code.zfill(2), Movement.OTHER)
    # The code is the sharper word, but against a text that says something else it is nobody's guess.
    return (by_code if by_text in (by_code, Movement.OTHER) else Movement.OTHER), state


def _by_text(text: str) -> Movement:
    return _BY_TEXT.get(" ".join(text.upper().replace("_", " ").split()), Movement.OTHER)


def _reason(given: _Given) -> str | None:
    text = given.text("reason")
    reason = _words(text if text is not None else given.text("reason_value"))
    return None if reason is None or reason.upper() == _NO_REASON else reason


def _words(text: str | None) -> str | None:
    """Visa's own words, in which no long number has any business (P6)."""
    return None if text is None else _shown(_LONG_NUMBER.sub("[number]", mask_card_numbers(text)))


def _shown(text: str | None) -> str | None:
    """Free text fit to be kept (P6): one short line in which no card number stands."""
    if text is None:
        return None
    printable = "".join(character if character.isprintable() else " " for character in text)
    return mask_card_numbers(printable)[:TEXT_CHARACTERS_MAX].strip() or None


def _digits(given: _Given, what: str, longest: int) -> str | None:
    text = given.text(what)
    if text is not None and (len(text) > longest or _DIGITS.fullmatch(text) is None):
        raise given.wrong(what, f"is not a number of at most {longest} digits")
    return text


def _trace_number(given: _Given) -> int | None:
    digits = _digits(given, "trace_number", 6)
    return None if digits is None else int(digits)


def _reference(given: _Given) -> str:
    text = given.needed("reference")
    if _REFERENCE.fullmatch(text) is None:
        raise given.wrong("reference", "is not at most twelve letters and digits")
    # A JSON number, or a spreadsheet, has lost leading zeros.
    return text.zfill(12) if text.isdigit() else text


def _acquiring_bin(given: _Given) -> str:
    given.needed("bin")
    return (_digits(given, "bin", 11) or "").zfill(6)


def _needed_day(given: _Given, what: str) -> date:
    given.needed(what)
    day = _day(given, what)
    if day is None:
        raise given.wrong(what, "is missing")
    return day


def _day(given: _Given, what: str) -> date | None:
    text = given.text(what)
    if text is None:
        return None
    found = _DAY.fullmatch(text)
    try:
        return date.fromisoformat(found[1] if found is not None else "")
    except ValueError:
        raise given.wrong(what, "does not begin with a day as YYYY-MM-DD") from None


def _money(given: _Given) -> tuple[int | None, str | None]:
    currency = _currency(given)
    if currency is None:
        return None, None
    for what in ("amount", "usd_amount"):
        value = given.raw(what)
        if value is not None and (what == "amount" or currency == _USD):
            return _minor(given, what, value, currency), currency
    return None, currency


def _currency(given: _Given) -> str | None:
    code = given.text("currency")
    if code is None:
        return None
    try:
        return alphabetic_currency(code.upper())
    except UnknownCurrency:
        raise given.wrong("currency", "is no ISO 4217 code of a currency with a minor unit") from None


def _minor(given: _Given, what: str, value: object, currency: str) -> int:
    text = _plain(value)
    if text is None:
        raise given.wrong(what, "is not an exact number")
    try:
        return amount_minor_from_decimal(text, currency)
    except AmountNotExpressible:
        why = "is not an amount in plain digits that has a whole number of minor units of its currency"
        raise given.wrong(what, why) from None


def _plain(value: object) -> str | None:
    """A number's decimal text without an exponent; None for what is none, or beyond all money."""
    if not isinstance(value, Decimal):
        text = as_text(value)
        return None if text is None else text.strip()
    if not value.is_finite() or abs(value.adjusted()) > _LARGEST_EXPONENT:
        return None
    return format(value, "f")
