"""Between a `PayoutRow` and what a column can hold; shared by both ledgers so that they refuse the same data."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

from ledger.interface import RowRejected
from processors.payout.row import FIXED_COLUMNS, MUTABLE_COLUMNS, PayoutRow

# Evidence is codes and counts; a history line that needs more than this carries something it must not.
DETAIL_BYTES_MAX: Final = 16_384
# What one statement may move: keeps every statement far below its time-out.
ROWS_PER_STATEMENT_MAX: Final = 10_000
# Longer than any call by far, and short enough that a forgotten lease does not outlive an incident.
LEASE_SECONDS_MAX: Final = 3_600.0

LEDGER_COLUMNS: Final = ("version", "announced_version", "lease_owner", "lease_until")
"""Columns of the row that only the ledger writes."""

DERIVED_FIELDS: Final = ("receipt_owned",)
"""Fields of the row that are no column."""

COLUMNS: Final = (*FIXED_COLUMNS, *MUTABLE_COLUMNS, *LEDGER_COLUMNS)

_SQL_TYPES: Final[Mapping[type, str]] = {
    str: "text",
    int: "bigint",
    bool: "boolean",
    bytes: "bytea",
    datetime: "timestamptz",
}
_FIELD_TYPES: Final[Mapping[str, Any]] = get_type_hints(PayoutRow)


def _plain_type(column: str) -> type:
    """The field's type without its `| None`."""
    declared = _FIELD_TYPES[column]
    members = [member for member in get_args(declared) if member is not NoneType]
    plain: type = members[0] if members else declared
    return plain


def sql_type(column: str) -> str:
    """PostgreSQL's name for the type of a column of the row."""
    plain = _plain_type(column)
    return _SQL_TYPES[str if issubclass(plain, StrEnum) else plain]


_WORDS: Final[Mapping[str, Callable[[str], StrEnum]]] = {
    column: _plain_type(column) for column in COLUMNS if issubclass(_plain_type(column), StrEnum)
}


def column_values(row: PayoutRow, columns: Sequence[str]) -> list[Any]:
    """The row's values for these columns, ready to be bound. Raises RowRejected for a time without a zone."""
    return [_bindable(column, getattr(row, column)) for column in columns]


def _bindable(column: str, value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    return in_utc(column, value) if isinstance(value, datetime) else value


def in_utc(column: str, time: datetime) -> datetime:
    """The same moment in UTC. Raises RowRejected for a time without a zone."""
    if time.tzinfo is UTC:
        return time
    if time.tzinfo is None:
        # The driver would silently read it as local time.
        raise RowRejected(f"column {column}: the time has no zone; give an aware UTC datetime")
    return time.astimezone(UTC)


def row_from_values(values: Mapping[str, Any]) -> PayoutRow:
    """The row that a statement returned: every column of `COLUMNS` and `receipt_owned`."""
    arguments = {column: values[column] for column in (*COLUMNS, *DERIVED_FIELDS)}
    for column, word in _WORDS.items():
        if arguments[column] is not None:
            arguments[column] = word(arguments[column])
    return PayoutRow(**arguments)


def encoded_detail(detail: Mapping[str, Any]) -> str:
    """The evidence as JSON text. Raises RowRejected if it is no JSON, or too long; never shows a value."""
    text = _json_or_none(detail)
    if text is None:
        raise RowRejected("history detail: not JSON (codes, counts, text, lists and mappings of these)")
    if len(text.encode("utf-8", errors="surrogatepass")) > DETAIL_BYTES_MAX:
        raise RowRejected(f"history detail: longer than {DETAIL_BYTES_MAX} bytes; keep codes and counts only")
    return text


def _json_or_none(detail: Mapping[str, Any]) -> str | None:
    try:
        return json.dumps(dict(detail), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return None


def is_storable_text(text: str) -> bool:
    """Whether PostgreSQL's `text` holds it: no zero byte, no half of a character."""
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def checked_limit(limit: int) -> int:
    """`limit` if a statement may move that many rows. Raises ValueError."""
    if not 1 <= limit <= ROWS_PER_STATEMENT_MAX:
        raise ValueError(f"limit must be between 1 and {ROWS_PER_STATEMENT_MAX}, not {limit}")
    return limit


def checked_lease_seconds(lease_seconds: float) -> float:
    """`lease_seconds` if a lease may last that long. Raises ValueError."""
    if not 0 < lease_seconds <= LEASE_SECONDS_MAX:
        raise ValueError(f"lease_seconds must be above 0 and at most {LEASE_SECONDS_MAX:.0f}")
    return float(lease_seconds)


def checked_seconds(name: str, seconds: float) -> float:
    """A duration that is neither negative nor absurd. Raises ValueError."""
    if not 0 <= seconds <= 10 * 366 * 86_400:
        raise ValueError(f"{name} must be between 0 and ten years in seconds")
    return float(seconds)


assert set(COLUMNS) | set(DERIVED_FIELDS) == {f.name for f in fields(PayoutRow)}, "a column is missing"  # noqa: S101
