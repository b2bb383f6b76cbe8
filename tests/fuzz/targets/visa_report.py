"""What Visa may answer to a question for its report, and what people may download instead."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, Final

from processors.money import is_currency
from processors.visa.reply_body import read_body
from processors.visa.transaction_report import (
    TEXT_CHARACTERS_MAX,
    ReportRow,
    ReportUnreadable,
    rows_of_csv,
    rows_of_reply,
)
from schemas.card_numbers import looks_like_card_number
from tests.fuzz.harness import Target, check, check_error
from tests.fuzz.values import CARDS, change_json, hostile_text

LONG_NUMBER: Final = re.compile(r"[0-9Xx*]{13,}")
_MASKED: Final = "429393XXXXXX7715"


def _check_row(row: ReportRow) -> None:
    """P6, K7: every value in its form, and no card in any of them."""
    for words in (row.state, row.reason or "-"):
        check(words.isprintable() and 0 < len(words) <= TEXT_CHARACTERS_MAX, "words that cannot be shown")
        check(LONG_NUMBER.search(words) is None, "a long number among words")
        check(not looks_like_card_number(words), "a card number among words")
    check(not looks_like_card_number(row.card_acceptor_id or ""), "a card number as a card acceptor")
    check(re.fullmatch("[0-9]{1,15}", row.transaction_id or "1") is not None, "no transaction identifier")
    check(re.fullmatch("[0-9A-Za-z]{1,12}", row.retrieval_reference_number) is not None, "no reference")
    check(re.fullmatch("[0-9]{6,11}", row.acquiring_bin) is not None, "no acquiring BIN")
    check(0 <= (row.systems_trace_audit_number or 0) <= 999_999, "no trace number")
    check(row.currency is None or is_currency(row.currency), "no currency")
    check(row.amount_minor is None or (row.currency is not None and row.amount_minor >= 0), "no amount")


def _check_rows(rows: Iterable[ReportRow]) -> None:
    try:
        for row in rows:
            _check_row(row)
    except ReportUnreadable as error:
        check_error(error)
        check(re.search("[0-9]{13}", str(error)) is None, "an error quotes a long number")


# --- an answer ----------------------------------------------------------------------------------------------------

_MEMBERS: Final[dict[str, Any]] = {
    "settlementDateTime": "2026-03-02:120000", "approvalCode": "20304B", "cardAcceptorIdCode": "PAYOUTS01",
    "transactionCurrencyCode": "840", "transactionIdentifier": "587010322176105", "amount": 25.5,
    "acquiringBin": 408999, "retrievalReferenceNumber": "606011451018", "systemsTraceAuditNumber": 451017,
    "processingDate": "2026-03-02", "accountNumberMasked": _MASKED, "reasonCode": "NOT APPLICABLE",
    "transactionDateTime": "2026-03-01:120000", "transactionState": "CRED VOUCHER", "transactionStateCode": "06",
    "amountInTransactionCurrency": 25.5,
}  # fmt: skip


def _reply(data: bytes) -> None:
    """The body of a 200, as the client hands it over."""
    value, _ = read_body(data, None)
    _check_rows(_of_reply(value))


def _of_reply(value: object) -> Iterator[ReportRow]:
    yield from rows_of_reply(value)


def _reply_seeds() -> Iterator[bytes]:
    pull = {**_MEMBERS, "transactionState": "SALES DRAFT", "transactionStateCode": 5, "transactionCurrencyCode": 392}
    pounds = {
        **_MEMBERS,
        "transactionCurrencyCode": "GBP",
        "reasonCode": None,
        "reasonCodeValue": "CREDIT NOT PROCESSED",
    }
    bare = {name: value for name, value in _MEMBERS.items() if name != "amountInTransactionCurrency"}
    for document in ([], [_MEMBERS], [pull, pounds], {"transactions": [bare, _MEMBERS], "count": 2}):
        yield json.dumps(document).encode()
    yield json.dumps([{**_MEMBERS, "transactionState": CARDS[0], "retrievalReferenceNumber": CARDS[1]}]).encode()
    yield b'[{"amount": 1e999999999, "amountInTransactionCurrency": 0.1e-999999, "transactionCurrencyCode": 840}]'


def _change_reply(data: bytes, random: Random) -> bytes:
    try:
        return json.dumps(change_json(json.loads(data), random)).encode()
    except (ValueError, RecursionError):
        return data


# --- a file -------------------------------------------------------------------------------------------------------

_CELLS: Final = {
    "Processing Date": "2026-03-02", "Acquirer Bin": "408999", "Visa Transaction ID": "587010322176105",
    "Transaction State": "CRED VOUCHER", "Reason Code": "NOT APPLICABLE", "Card Acceptor ID": "PAYOUTS01",
    "Card Acceptor Name": "PAYOUTS, INC", "System Trace Audit Number": "451017", "Account Number Masked": _MASKED,
    "Transaction Date": "2026-03-01", "Transaction Time": "120000", "Transaction Amount": "25.50",
    "Transaction Currency": "840", "Auth Code": "20304B", "RRN": "606011451018", "FeeProgramIndicator Code": "",
    "FeeProgramIndicator Desc": "ORIGINAL CREDIT", "Settlement Datetime": "2026-03-02:120000",
}  # fmt: skip


def _file(data: bytes) -> None:
    """As a file is opened: UTF-8, line by line, whatever ends them."""
    _check_rows(rows_of_csv(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")))


def _written(*rows: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _file_seeds() -> Iterator[bytes]:
    reversed_ = {
        **_CELLS,
        "Transaction State": "SALES REVERSAL",
        "Transaction Currency": "392",
        "Transaction Amount": "25",
    }
    yield _written(_CELLS, _CELLS.values(), _CELLS.values(), reversed_.values())
    yield b"\xef\xbb\xbf" + _written(_CELLS, [], reversed_.values()).replace(b"\r\n", b" \n")
    yield _written(_CELLS, (_CELLS | {"RRN": CARDS[0], "Transaction State": CARDS[1]}).values())
    yield _written(_CELLS, (_CELLS | {"Transaction State": f"of {CARDS[2]}", "Card Acceptor ID": CARDS[3]}).values())
    yield _written(["RRN", "Transaction State"], ["606011451018", "CRED VOUCHER"])


def _change_file(data: bytes, random: Random) -> bytes:
    """One cell of one line for another."""
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    cells = lines[place].split(b",")
    cells[random.randrange(len(cells))] = hostile_text(random).encode("utf-8", "replace")
    lines[place] = b",".join(cells)
    return b"\n".join(lines)


TARGETS: Final = (
    Target("report_reply", "the rows of Visa's transaction report", _reply, _reply_seeds, _change_reply),
    Target("report_csv", "a downloaded transaction report", _file, _file_seeds, _change_file),
)
