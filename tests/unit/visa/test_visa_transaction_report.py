"""P6, S1: Visa's transaction report: what is asked, what its rows and files say, and what nobody repeats."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.money import decimal_string, exponent
from processors.visa.fields import RequestInvalid
from processors.visa.identity import Operation
from processors.visa.reply_body import read_body
from processors.visa.transaction_report import (
    LINE_CHARACTERS_MAX,
    REPORT_DAYS_BACK_MAX,
    REPORT_DAYS_MAX,
    REPORT_PAGE_ROWS,
    REPORT_PATHS,
    TEXT_CHARACTERS_MAX,
    Movement,
    ReportPaths,
    ReportRow,
    ReportUnreadable,
    rows_of_csv,
    rows_of_reply,
    transaction_report,
)

CARD = "4957030420210462"
MASKED = "429393XXXXXX7715"
HEADING = (
    "Processing Date,Acquirer Bin,Visa Transaction ID,Transaction State,Reason Code,Card Acceptor ID,"
    "Card Acceptor Name,System Trace Audit Number,Account Number Masked,Transaction Date,Transaction Time,"
    "Transaction Amount,Transaction Currency,Auth Code,RRN,FeeProgramIndicator Code,"
    "FeeProgramIndicator Desc,Settlement Datetime"
)
NAMES = HEADING.split(",")
CELLS = dict(
    zip(
        NAMES,
        [
            "2026-03-02", "408999", "381228649430014", "CRED VOUCHER", "NOT APPLICABLE", "PAYOUTS01", "PAYOUTS INC",
            "451017", MASKED, "2026-03-01", "120000", "25.50", "840", "20304B", "606011451018", "", "ORIGINAL CREDIT",
            "2026-03-02:120000",
        ],
        strict=True,
    )
)  # fmt: skip
MEMBERS: dict[str, Any] = {
    "settlementDateTime": "2026-03-02:120000", "approvalCode": "20304B", "cardAcceptorIdCode": "PAYOUTS01",
    "feeProgramDesc": "ORIGINAL CREDIT", "cardAcceptorName": "PAYOUTS INC", "transactionCurrencyCode": "840",
    "transactionIdentifier": "381228649430014", "amount": Decimal("25.50"), "acquiringBin": 408999,
    "retrievalReferenceNumber": "606011451018", "systemsTraceAuditNumber": 451017, "processingDate": "2026-03-02",
    "accountNumberMasked": MASKED, "reasonCode": "NOT APPLICABLE", "transactionDateTime": "2026-03-01:120000",
    "transactionState": "CRED VOUCHER", "amountInTransactionCurrency": Decimal("25.50"), "transactionStateCode": "06",
}  # fmt: skip
ROW = ReportRow(
    movement=Movement.PUSH,
    state="CRED VOUCHER",
    transaction_id="381228649430014",
    systems_trace_audit_number=451017,
    retrieval_reference_number="606011451018",
    acquiring_bin="408999",
    card_acceptor_id="PAYOUTS01",
    amount_minor=2550,
    currency="USD",
    transaction_date=date(2026, 3, 1),
    processing_date=date(2026, 3, 2),
    reason=None,
    transaction_time="120000",
    approval_code="20304B",
)
FIRST = date(2026, 3, 1)


def from_json(**changes: Any) -> ReportRow:
    (row,) = rows_of_reply([MEMBERS | changes])
    return row


def line(**changes: str) -> str:
    """One line of a file; an underscore in a name is a blank."""
    cells = CELLS | {name.replace("_", " "): value for name, value in changes.items()}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells.values())
    return text.getvalue()


def from_csv(**changes: str) -> ReportRow:
    (row,) = rows_of_csv([HEADING + "\n", line(**changes)])
    return row


def refusal(lines: Iterable[str]) -> ReportUnreadable:
    with pytest.raises(ReportUnreadable) as caught:
        list(rows_of_csv(lines))
    return caught.value


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_a_page_is_asked_for_in_visas_words() -> None:
    """Days begin with the day; the amount in its own currency is asked for by name."""
    asked = transaction_report(date(2016, 3, 31), date(2016, 4, 3), page=2)
    assert (asked.operation, asked.method, asked.body) == (Operation.TRANSACTION_REPORT, "GET", None)
    assert asked.path == REPORT_PATHS.transaction_data == "/visadirect/reports/v1/transactiondata"
    assert asked.query == (
        ("fromDate", "31032016"),
        ("toDate", "03042016"),
        ("fields", "amountInTransactionCurrency,transactionStateCode,reasonCodeValue"),
        ("offset", "2"),
        ("limit", str(REPORT_PAGE_ROWS)),
    )
    assert (asked.client_transaction_id, asked.correlation_id) == (None, None)
    elsewhere = transaction_report(FIRST, FIRST, page=1, paths=ReportPaths(transaction_data="/reports"))
    assert elsewhere.path == "/reports"
    assert (REPORT_DAYS_MAX, REPORT_DAYS_BACK_MAX, REPORT_PAGE_ROWS) == (5, 120, 100)


@pytest.mark.parametrize(
    ("days", "page", "field"), [(5, 1, "toDate"), (-1, 1, "toDate"), (0, 0, "offset"), (0, -1, "offset")]
)
def test_what_visa_would_refuse_is_not_asked(days: int, page: int, field: str) -> None:
    """Five days are both ends counted: from the first to the fourth after it."""
    assert transaction_report(FIRST, FIRST + timedelta(days=4), page=1).query[1] == ("toDate", "05032026")
    with pytest.raises(RequestInvalid) as caught:
        transaction_report(FIRST, FIRST + timedelta(days=days), page=page)
    assert caught.value.field == field


# --- what a row says --------------------------------------------------------------------------------------------------


def test_a_row_says_the_same_in_both_forms() -> None:
    """And what it says of the card is nowhere in it (P6)."""
    assert from_json() == from_csv() == ROW
    assert MASKED not in repr(ROW)
    assert "7715" not in repr(ROW)


@pytest.mark.parametrize(
    ("text", "code", "movement"),
    [
        ("CRED VOUCHER", None, Movement.PUSH),
        ("CRED REVERSAL", None, Movement.PUSH_REVERSED),
        ("CRED CHGBK", None, Movement.PUSH_CHARGED_BACK),
        ("SALES DRAFT", None, Movement.PULL),
        ("SALES REVERSAL", None, Movement.PULL_REVERSED),
        ("SALES CHGBK", None, Movement.PULL_CHARGED_BACK),
        ("Original Credit  Voucher", None, Movement.PUSH),
        ("original_sales_draft", None, Movement.PULL),
        ("Sales Draft Chargeback", None, Movement.PULL_CHARGED_BACK),
        ("credit voucher reversal", None, Movement.PUSH_REVERSED),
        (None, "05", Movement.PULL),
        (None, 6, Movement.PUSH),
        (None, "15", Movement.PULL_CHARGED_BACK),
        (None, "16", Movement.PUSH_CHARGED_BACK),
        (None, "25", Movement.PULL_REVERSED),
        (None, "26", Movement.PUSH_REVERSED),
        ("words of tomorrow", "26", Movement.PUSH_REVERSED),
        ("words of tomorrow", None, Movement.OTHER),
        ("CRED VOUCHER", "07", Movement.OTHER),
        ("CRED VOUCHER", "26", Movement.OTHER),
    ],
)
def test_what_money_did_is_in_the_text_or_the_code(text: str | None, code: Any, movement: Movement) -> None:
    """A row that contradicts itself is nobody's guess."""
    row = from_json(transactionState=text, transactionStateCode=code)
    assert row.movement is movement
    assert row.state == str(code if text is None else " ".join(text.split("\n")))


def test_the_amount_is_that_of_the_transaction_or_none() -> None:
    """Visa's `amount` is in US dollars, whatever the currency: it counts for dollars only."""
    pounds = {"transactionCurrencyCode": 826, "amount": Decimal("31.20")}
    assert (from_json(**pounds).amount_minor, from_json(**pounds).currency) == (2550, "GBP")
    unasked = from_json(**pounds, amountInTransactionCurrency=None)
    assert (unasked.amount_minor, unasked.currency) == (None, "GBP")
    assert from_json(amountInTransactionCurrency=None, amount=7).amount_minor == 700
    assert from_json(amountInTransactionCurrency="", amount="7.1").amount_minor == 710
    assert from_json(amount=1).amount_minor == 2550
    nowhere = from_json(transactionCurrencyCode=None)
    assert (nowhere.amount_minor, nowhere.currency) == (None, None)
    assert from_csv(Transaction_Currency="392", Transaction_Amount="2550").amount_minor == 2550
    assert from_csv(Transaction_Currency="36").currency == "AUD"
    assert from_csv(Transaction_Amount="").amount_minor is None


def test_numbers_come_as_text_or_as_numbers_without_their_zeros() -> None:
    """S1: RRN and BIN are compared as text."""
    row = from_json(
        retrievalReferenceNumber=6011451018, acquiringBin=8999, systemsTraceAuditNumber="000017",
        transactionIdentifier=381228649430014, reasonCode=None, reasonCodeValue="CREDIT NOT PROCESSED",
        transactionDateTime="2026-03-01T12:00:00Z", processingDate=None, cardAcceptorIdCode=" ",
    )  # fmt: skip
    assert (row.retrieval_reference_number, row.acquiring_bin) == ("006011451018", "008999")
    assert (row.systems_trace_audit_number, row.transaction_id) == (17, "381228649430014")
    assert (row.reason, row.processing_date, row.card_acceptor_id) == ("CREDIT NOT PROCESSED", None, None)
    bare = from_json(transactionIdentifier=None, systemsTraceAuditNumber=None)
    assert (bare.transaction_id, bare.systems_trace_audit_number) == (None, None)
    assert from_csv(Reason_Code="TRANSACTION NOT COMPLETED/TIMEOUT").reason == "TRANSACTION NOT COMPLETED/TIMEOUT"


def test_free_text_is_short_and_shows_no_card() -> None:
    """P6: whoever put it there."""
    row = from_json(transactionState=f"VOID {CARD}", reasonCode=f"by {MASKED}\n", cardAcceptorIdCode=CARD)
    assert row.state == "VOID [card number]"
    assert row.reason == "by [number]"
    assert CARD not in repr(row)
    assert MASKED not in repr(row)
    assert len(from_json(transactionState="y" * 500).state) == TEXT_CHARACTERS_MAX
    assert from_json(transactionState="a\x00\ud800b", transactionStateCode=None).state == "a  b"


MINORS = st.integers(1, 999_999_999_99)


@given(MINORS, st.sampled_from(["JPY", "USD", "KWD"]))
def test_every_amount_comes_back_exactly(minor: int, currency: str) -> None:
    """Through real JSON and through a file, as text, as a number, and with zeros behind it."""
    step = 10 if exponent(currency) == 3 else 1
    minor = minor // 1000 * step + step
    text = decimal_string(minor, currency)
    reply = [{**MEMBERS, "transactionCurrencyCode": currency, "amount": 1, "amountInTransactionCurrency": None}]
    content = json.dumps(reply, default=str).replace("null", text).encode()
    document, problem = read_body(content, None)
    assert problem is None
    found = [*rows_of_reply(document), from_json(transactionCurrencyCode=currency, amountInTransactionCurrency=text)]
    found.append(from_csv(Transaction_Currency=currency, Transaction_Amount=text))
    assert [(row.amount_minor, row.currency) for row in found] == [(minor, currency)] * 3


WORDS = st.text(st.characters(categories=["L", "P", "Zs"], max_codepoint=0x2FF), min_size=1, max_size=40)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["CRED VOUCHER", "CRED CHGBK", "SALES DRAFT", "SALES REVERSAL"]),
            st.integers(1, 999_999),
            st.integers(0, 999_999_999_999),
            st.dates(date(2016, 1, 1), date(2036, 1, 1)),
            WORDS,
        ),
        max_size=8,
    )
)
def test_what_was_written_to_a_file_is_read_from_it(records: list[tuple[str, int, int, date, str]]) -> None:
    """Commas, quotation marks and columns of others included; twice the same line is two rows."""
    lines = [HEADING + "\n"]
    for state, trace_number, reference, day, words in records:
        lines.append(
            line(
                Transaction_State=state, System_Trace_Audit_Number=str(trace_number), RRN=f"{reference:012d}",
                Transaction_Date=str(day), Card_Acceptor_Name=words,
            )
        )  # fmt: skip
    rows = list(rows_of_csv([*lines, *lines[1:]]))
    found = [
        (row.state, row.systems_trace_audit_number, int(row.retrieval_reference_number), row.transaction_date)
        for row in rows
    ]
    assert found == [record[:4] for record in records] * 2


# --- what is not read -------------------------------------------------------------------------------------------------


def test_rows_come_bare_or_in_an_object() -> None:
    """Which of the two is not published."""
    assert rows_of_reply([]) == ()
    assert rows_of_reply({"rows": [MEMBERS, MEMBERS], "total": 2}) == (ROW, ROW)


@pytest.mark.parametrize("document", [None, "text", 7, {}, {"a": [], "b": []}, {"responseStatus": {"status": 400}}])
def test_what_is_no_list_of_rows_is_not_an_empty_one(document: object) -> None:
    """An empty list would say that Visa has paid nothing."""
    with pytest.raises(ReportUnreadable) as caught:
        rows_of_reply(document)
    assert (caught.value.number, caught.value.field) == (0, "report")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("transactionState", ["x"]),
        ("transactionIdentifier", CARD),
        ("systemsTraceAuditNumber", 1_000_000),
        ("systemsTraceAuditNumber", True),
        ("systemsTraceAuditNumber", "٤٥"),
        ("retrievalReferenceNumber", None),
        ("retrievalReferenceNumber", CARD),
        ("acquiringBin", None),
        ("acquiringBin", CARD),
        ("transactionCurrencyCode", "999"),
        ("transactionCurrencyCode", CARD),
        ("amountInTransactionCurrency", Decimal("25.505")),
        ("amountInTransactionCurrency", Decimal("1e999999")),
        ("amountInTransactionCurrency", Decimal("NaN")),
        ("amountInTransactionCurrency", 25.5),
        ("amountInTransactionCurrency", "-1.00"),
        ("amountInTransactionCurrency", CARD),
        ("transactionDateTime", None),
        ("transactionDateTime", "2026-02-30:000000"),
        ("transactionDateTime", "01032026"),
        ("processingDate", CARD),
    ],
)
def test_a_wrong_member_is_named_with_its_row_and_never_quoted(member: str, value: object) -> None:
    """P6: the message holds nothing of the answer."""
    with pytest.raises(ReportUnreadable) as caught:
        rows_of_reply([MEMBERS, MEMBERS | {member: value}])
    assert (caught.value.number, caught.value.field) == (2, member)
    assert CARD not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_an_exponent_beyond_all_money_is_not_written_out() -> None:
    """A short text that stands for gigabytes of digits."""
    with pytest.raises(ReportUnreadable, match="not an exact number"):
        from_json(amountInTransactionCurrency=Decimal("1e13"))
    assert from_json(amountInTransactionCurrency=Decimal("1.2e3")).amount_minor == 120_000


def test_a_state_must_be_there() -> None:
    """A row of which nobody can say whether it paid or took."""
    with pytest.raises(ReportUnreadable, match="transactionState: is missing"):
        from_json(transactionState=" ", transactionStateCode=None)
    with pytest.raises(ReportUnreadable, match="holds a row"):
        rows_of_reply([MEMBERS, "row"])


def test_a_file_may_have_what_spreadsheets_and_editors_add() -> None:
    """A byte order mark, other cases and further columns, blanks and empty cells at the ends."""
    heading = "\ufeff" + HEADING.upper().replace("RRN", " rrn ") + ",New Column \r\n"
    assert list(rows_of_csv([heading, "\r\n", line().rstrip() + ",x\r\n", ",,,\n", line().rstrip() + " ,,, \n"])) == [
        ROW,
        ROW,
    ]
    few = [name for name in NAMES if name not in ("Visa Transaction ID", "Reason Code", "Card Acceptor ID")]
    (row,) = rows_of_csv([",".join(few), ",".join(CELLS[name] for name in few)])
    assert (row.transaction_id, row.card_acceptor_id, row.amount_minor) == (None, None, 2550)


@pytest.mark.parametrize(
    "column",
    [
        "Transaction State", "System Trace Audit Number", "RRN", "Acquirer Bin", "Transaction Amount",
        "Transaction Currency", "Transaction Date",
    ],
)  # fmt: skip
def test_a_heading_lacks_no_needed_column_and_has_none_twice(column: str) -> None:
    """Which of two counts is nobody's guess."""
    for heading in (HEADING.replace(column, "Other"), HEADING + f",{column.lower()}"):
        found = refusal([heading, line()])
        assert (found.number, found.field) == (1, column)


def test_what_is_wrong_in_a_file_is_told_by_its_line() -> None:
    """P6: and nothing of the line is quoted."""
    too_long = line(Card_Acceptor_Name="x" * LINE_CHARACTERS_MAX)
    open_at_the_end = line().replace("2026-03-02:120000", '"2026-03-02:120000')
    moved = line().rstrip() + f",{CARD}\n"
    for bad, field in (
        (too_long, "line"), (open_at_the_end, "line"),
        ("a,b\n", "line"), (moved, "line"), ('"' + line(), "line"), (f'"{CARD}" x,\n', "line"),
        (line(Transaction_Date="14/02/2016"), "Transaction Date"), (line(RRN="5.28706E+11"), "RRN"),
        (line(RRN=""), "RRN"), (line(Transaction_Amount=CARD), "Transaction Amount"),
        (line(Transaction_Amount="1,234.50"), "Transaction Amount"), (line(Transaction_State=""), "Transaction State"),
    ):  # fmt: skip
        found = refusal([HEADING, line(), "\n", bad])
        assert (found.number, found.field) == (4, field)
        assert CARD not in str(found)
        assert found.__suppress_context__ or found.__context__ is None


def test_an_empty_file_is_no_report_and_bytes_are_no_text() -> None:
    """A download that broke off must not look like days without payouts."""
    assert refusal([]).field == refusal(["\ufeff", " \n"]).field == "heading"

    def broken() -> Iterator[str]:
        yield HEADING
        yield b"\xff4957030420210462".decode("utf-8")

    found = refusal(broken())
    assert (found.number, found.field, found.__suppress_context__) == (2, "line", True)
