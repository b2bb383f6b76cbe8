"""The transaction query: what it takes, which rows it shows and in which words (Visa's OpenAPI)."""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.visa_direct.effects import Draft
from sandbox.visa_direct.refusal import VALIDATION_ERROR, Refusal
from sandbox.visa_direct.settings import QUERY_ROWS_MAX
from sandbox.visa_direct.store import Row

# Visa calls an adjustment a reversal of an AFT without the 24 hours; which type its query shows is not documented.
TRANSACTION_TYPES: Final = {
    "push": "CRED VOUCHER",
    "funding": "SALES DRAFT",
    "reverse": "SALES REVERSAL",
    "adjustment": "SALES REVERSAL",
}

# Visa's OpenAPI: a number of up to four digits, its values are not public.
REJECT_REASON: Final = "9999"

_BIN: Final = re.compile(r"[0-9]{6,11}")
_STAN: Final = re.compile(r"[0-9]{6}")
_RRN: Final = re.compile(r"[0-9A-Za-z]{12}")
_IDENTIFIER: Final = re.compile(r"[0-9]{15}")
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_TIME: Final = "%d-%m-%Y:%H:%M:%S"


@dataclass(frozen=True, slots=True)
class TransactionQuery:
    """The parameters, checked. Either both of ``stan`` and ``rrn`` are set, or ``transaction_identifier``."""

    acquiring_bin: str
    stan: str | None
    rrn: str | None
    transaction_identifier: str | None
    card_acceptor_id: str | None
    from_ms: int | None
    until_ms: int | None
    fields: frozenset[str]
    limit: int
    offset: int

    def covers(self, row: Row) -> bool:
        """Whether a row that has the numbers also fits the optional parameters."""
        return (
            self.card_acceptor_id in (None, row["id_code"])
            and (self.from_ms is None or row["at_ms"] >= self.from_ms)
            and (self.until_ms is None or row["at_ms"] < self.until_ms + 1000)
        )


def parse_query(parameters: Mapping[str, str]) -> TransactionQuery:
    """The query of a request's parameters. Raises Refusal (400, 3001) that names the parameter."""
    stan = _optional(parameters, "stan", _STAN)
    rrn = _optional(parameters, "rrn", _RRN)
    identifier = _optional(parameters, "transactionIdentifier", _IDENTIFIER)
    acquiring_bin = _optional(parameters, "acquiringBIN", _BIN)
    if acquiring_bin is None:
        raise _invalid("acquiringBIN", "is needed")
    if identifier is None and (stan is None or rrn is None):
        raise _invalid("transactionIdentifier", "or both stan and rrn are needed")
    limit = int(_optional(parameters, "limit", _COUNT) or QUERY_ROWS_MAX)
    return TransactionQuery(
        acquiring_bin=acquiring_bin,
        stan=stan,
        rrn=rrn,
        transaction_identifier=identifier,
        card_acceptor_id=parameters.get("caid") or None,
        from_ms=_time_ms(parameters, "transactionStartDate"),
        until_ms=_time_ms(parameters, "transactionEndDate"),
        fields=frozenset(filter(None, parameters.get("fields", "").split(","))),
        limit=min(limit, QUERY_ROWS_MAX),
        offset=int(_optional(parameters, "offset", _COUNT) or 0),
    )


def in_flight_row(draft: Draft, accepted_at_ms: int, *, answered_202: bool) -> Row:
    """A row for work that has no entry yet: in progress, or pending once it was answered with 202."""
    return {
        "at_ms": accepted_at_ms,
        "operation": draft.operation,
        "acquiring_bin": draft.acquiring_bin,
        "stan": draft.stan,
        "rrn": draft.rrn,
        "id_code": draft.id_code,
        "transaction_identifier": draft.transaction_identifier,
        "action_code": None,
        "original_action_code": None,
        "approval_code": None,
        "response_code": None,
        "amount": draft.amount,
        "query_status": "PENDING" if answered_202 else "IN_PROGRESS",
    }


def query_answer(
    query: TransactionQuery, rows: list[Row], now_ms: int, amount_after_seconds: float
) -> list[dict[str, object]]:
    """The page of rows asked for. ``amount`` is there once a row is old enough (Visa: up to two hours)."""
    page = rows[query.offset : query.offset + query.limit]
    amounts_until_ms = now_ms - int(amount_after_seconds * 1000)
    return [_shown(row, query.fields, with_amount=int(row["at_ms"]) <= amounts_until_ms) for row in page]


def _shown(row: Row, fields: frozenset[str], *, with_amount: bool) -> dict[str, object]:
    at = datetime.datetime.fromtimestamp(int(row["at_ms"]) / 1000, datetime.UTC)
    values = {
        "statusCode": row["query_status"],
        "acquiringBin": row["acquiring_bin"],
        "actionCode": row["action_code"],
        "originalActionCode": row["original_action_code"],
        "approvalCode": row["approval_code"],
        "responseCode": row["response_code"],
        "transactionIdentifier": row["transaction_identifier"],
        "transactionType": TRANSACTION_TYPES[row["operation"]],
        "retrievalReferenceNumber": row["rrn"],
        "systemsTraceAuditNumber": row["stan"],
        "transactionDate": f"{at:%d-%m-%Y}",
        "transactionTime": f"{at:%H:%M:%S}",
        "amount": float(row["amount"]) if with_amount else None,
    }
    if fields:
        values = {name: value for name, value in (values | _further(row, at)).items() if name in fields}
    return {name: value for name, value in values.items() if value is not None}


def _further(row: Row, at: datetime.datetime) -> dict[str, object]:
    """What a row has beyond the default fields, shown only to whoever asks for it by name."""
    is_failed = row["query_status"] == "FAILED"
    moved = bool(row.get("money_moved"))
    return {
        "rejectReasonCode": REJECT_REASON if is_failed else None,
        "rejectReasonText": "Rejected by the network" if is_failed else None,
        "settlementDate": f"{at:%d-%m-%Y}" if moved else None,
        "settlementTime": f"{at:%H:%M:%S}" if moved else None,
        "amountInTransactionCurrency": float(row["amount"]),
        "accountNumberMasked": f"XXXXXXXXXXXX{row['last4']}" if row.get("last4") else None,
    }


def _optional(parameters: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str | None:
    text = parameters.get(name)
    if text is None or text == "":
        return None
    if pattern.fullmatch(text) is None:
        raise _invalid(name, "is malformed")
    return text


def _time_ms(parameters: Mapping[str, str], name: str) -> int | None:
    text = parameters.get(name)
    if not text:
        return None
    try:
        at = datetime.datetime.strptime(text, _TIME).replace(tzinfo=datetime.UTC)
    except ValueError as error:
        raise _invalid(name, "must be DD-MM-YYYY:HH:MM:SS") from error
    return int(at.timestamp() * 1000)


def _invalid(name: str, why: str) -> Refusal:
    return Refusal(400, VALIDATION_ERROR, f"Invalid input found: {name} {why}")
