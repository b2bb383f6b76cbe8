"""The transaction report: what it takes, which rows it lists and in which words.

Source: Visa's sample clients of the Reports API (2018). Inferred, as nothing says it: only what moved money is listed;
days are those of the transaction, in GMT; a wrong date is a 400 with 3001; the rows come as a bare array, in the order
in which they were written.
"""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.visa_direct.messages import CURRENCIES
from sandbox.visa_direct.query import TRANSACTION_TYPES
from sandbox.visa_direct.refusal import VALIDATION_ERROR, Refusal
from sandbox.visa_direct.settings import REPORT_DAYS_BACK_MAX, REPORT_DAYS_MAX, REPORT_ROWS_MAX
from sandbox.visa_direct.store import Row

# BASE II transaction codes of what this ledger can know.
_STATE_CODES: Final = {"CRED VOUCHER": "06", "SALES DRAFT": "05", "SALES REVERSAL": "25"}
_NO_REASON: Final = "NOT APPLICABLE"
# The amount is "expressed in U.S. Dollars, derived internally": from a rate that this ledger does not have.
_USD: Final = "USD"

_DAY: Final = re.compile(r"[0-9]{8}")
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_MS_A_DAY: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class TransactionReport:
    """The parameters, checked. Times are milliseconds since the epoch, the end excluded; ``page`` counts from 1."""

    from_ms: int
    until_ms: int
    fields: frozenset[str]
    limit: int
    page: int


def parse_report(parameters: Mapping[str, str], now_ms: int) -> TransactionReport:
    """The report that is asked for. Raises Refusal (400, 3001) that names the parameter."""
    first, last = _day(parameters, "fromDate"), _day(parameters, "toDate")
    today = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).date()
    if last < first:
        raise _invalid("toDate", "is before fromDate")
    if (last - first).days >= REPORT_DAYS_MAX:
        raise _invalid("toDate", f"is too late: at most {REPORT_DAYS_MAX} days can be retrieved")
    if (today - first).days > REPORT_DAYS_BACK_MAX:
        raise _invalid("fromDate", f"is too early: only the last {REPORT_DAYS_BACK_MAX} days can be searched")
    return TransactionReport(
        from_ms=_midnight_ms(first),
        until_ms=_midnight_ms(last) + _MS_A_DAY,
        fields=frozenset(filter(None, parameters.get("fields", "").split(","))),
        limit=min(_count(parameters, "limit", REPORT_ROWS_MAX), REPORT_ROWS_MAX),
        page=_count(parameters, "offset", 1),
    )


def report_row(row: Row, fields: frozenset[str]) -> dict[str, object]:
    """One entry that moved money, as the report lists it; ``fields`` are given beside the usual ones."""
    at = datetime.datetime.fromtimestamp(int(row["at_ms"]) / 1000, datetime.UTC)
    state = TRANSACTION_TYPES[row["operation"]]
    more = {
        "amountInTransactionCurrency": float(row["amount"]),
        "transactionStateCode": _STATE_CODES[state],
        "reasonCodeValue": _NO_REASON,
    }
    values: dict[str, object] = {
        "settlementDateTime": f"{at:%Y-%m-%d:%H%M%S}",
        "approvalCode": row["approval_code"],
        "cardAcceptorIdCode": row["id_code"],
        "transactionCurrencyCode": CURRENCIES[row["currency"]][2],
        "transactionIdentifier": row["transaction_identifier"],
        "amount": float(row["amount"]) if row["currency"] == _USD else None,
        "acquiringBin": int(row["acquiring_bin"]),
        "retrievalReferenceNumber": row["rrn"],
        "systemsTraceAuditNumber": int(row["stan"]),
        "processingDate": f"{at:%Y-%m-%d}",
        "accountNumberMasked": f"XXXXXXXXXXXX{row['last4']}" if row["last4"] else None,
        "reasonCode": _NO_REASON,
        "transactionDateTime": f"{at:%Y-%m-%d:%H%M%S}",
        "transactionState": state,
        **{name: value for name, value in more.items() if name in fields},
    }
    return {name: value for name, value in values.items() if value is not None}


def _day(parameters: Mapping[str, str], name: str) -> datetime.date:
    text = parameters.get(name, "")
    if not text:
        raise _invalid(name, "is needed")
    if _DAY.fullmatch(text) is None:
        raise _invalid(name, "must be DDMMYYYY")
    try:
        return datetime.date(int(text[4:]), int(text[2:4]), int(text[:2]))
    except ValueError as error:
        raise _invalid(name, "must be DDMMYYYY") from error


def _midnight_ms(day: datetime.date) -> int:
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp()) * 1000


def _count(parameters: Mapping[str, str], name: str, default: int) -> int:
    text = parameters.get(name) or str(default)
    if _COUNT.fullmatch(text) is None or int(text) < 1:
        raise _invalid(name, "must be a number from 1")
    return int(text)


def _invalid(name: str, why: str) -> Refusal:
    return Refusal(400, VALIDATION_ERROR, f"Invalid input found: {name} {why}")
