"""Lines of JSON or CSV, as people write them, into PayoutRequest records ready to be encoded.

Clear personal data and cards are encrypted to the processor's public key here: nothing else sees them. No message
quotes a value of a line: any cell may hold a card number.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, BinaryIO, Final, NoReturn

from jsonschema import Draft202012Validator
from ulid import ULID

from ops.output import parse_time
from processors.money import AmountNotExpressible, UnknownCurrency, decimal_string
from processors.personal_data import is_plain_text, seal_for_processor
from processors.sealing import compact_header
from processors.validation.clear_text import holds_card_number, text_fields
from processors.validation.request import RequestMalformed, parse_request
from schemas.card_numbers import mask_card_numbers
from schemas.payout_id import payout_id_problem

LINE_BYTES_MAX: Final = 256 * 1024
"""The longest record that the processor takes is 256 KiB; no line needs to be longer."""
NESTING_MAX: Final = 12
"""The deepest member of a request lies four levels down."""

_PRINTABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]{0,39}")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SPOKEN: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TIMES: Final = (("requested_at",), ("expires_at",), ("fx_quote", "expires_at"), ("funding", "aft", "captured_at"))
_FUNDING_PARTS: Final = {"INTERNAL": "internal", "AFT": "aft", "PIS": "pis"}
_DESTINATION_PARTS: Final = {"CARD": "card", "ACCOUNT": "account", "WALLET": "wallet", "ALIAS": "alias"}

Document = dict[str, Any]


class BadLine(Exception):
    """A line is no payout request. Says which field and why; never what stood there."""

    def __init__(self, place: str, problem: str) -> None:
        # A column is named by its heading, which may be a card number that slipped into the first line (P6).
        super().__init__(mask_card_numbers(f"{place}: {problem}" if place else problem))


@dataclass(frozen=True, slots=True)
class Line:
    """One line: the document that it holds, or why it holds none."""

    number: int
    document: Document | None = field(default=None, repr=False)
    problem: str | None = None


def json_lines(stream: BinaryIO) -> Iterator[Line]:
    """A document a line; blank lines are passed over."""
    for number, text, problem in _text_lines(stream):
        if problem is not None:
            yield Line(number, problem=problem)
        elif text.strip():
            try:
                yield Line(number, document=_parsed_json(text))
            except BadLine as bad:
                yield Line(number, problem=str(bad))


def csv_lines(stream: BinaryIO) -> Iterator[Line]:
    """A document a line under a line of headings (`CSV_COLUMNS`, `metadata_…`). A cell cannot span lines.

    Raises BadLine when the headings cannot be understood.
    """
    headings: list[str] | None = None
    for number, text, problem in _text_lines(stream):
        if problem is not None:
            yield Line(number, problem=problem)
        elif text.strip():
            if headings is None:
                headings = _headings(text)
                continue
            try:
                yield Line(number, document=_document_of_cells(headings, _cells(text)))
            except BadLine as bad:
                yield Line(number, problem=str(bad))


def _text_lines(stream: BinaryIO) -> Iterator[tuple[int, str, str | None]]:
    number = 0
    while raw := stream.readline(LINE_BYTES_MAX + 2):
        number += 1
        if len(raw) > LINE_BYTES_MAX and not raw.endswith(b"\n"):
            _pass_over(stream)
            yield number, "", f"the line is longer than {LINE_BYTES_MAX} bytes"
            continue
        if number == 1:
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        try:
            text, problem = raw.decode("utf-8").rstrip("\r\n"), None
        except UnicodeDecodeError:
            text, problem = "", "the line is not UTF-8"
        yield number, text, problem


def _pass_over(stream: BinaryIO) -> None:
    while (raw := stream.readline(LINE_BYTES_MAX)) and not raw.endswith(b"\n"):
        pass


def _parsed_json(text: str) -> Document:
    problem = "is not JSON"
    document: object = None
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        problem = f"is not JSON: {error.msg.lower()} at column {error.colno}"
    except BadLine:
        raise
    except (ValueError, RecursionError):  # numbers of thousands of digits, thousands of brackets
        pass
    else:
        problem = "is not a JSON object"
    if not isinstance(document, dict):
        raise BadLine("the line", problem)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise BadLine("the line", "has a member twice; which of the two counts would be a guess")
    return document


def _no_constant(_: str) -> NoReturn:
    raise BadLine("the line", "holds NaN or Infinity, which are no JSON")


@dataclass(frozen=True, slots=True)
class CsvColumn:
    """Where a cell goes in the document, and what it is."""

    path: tuple[str, ...]
    kind: str = "text"


def _party_columns(who: str) -> dict[str, CsvColumn]:
    own = ("name", "first_name", "last_name", "date_of_birth", "nationality", "account_reference")
    address = ("line1", "city", "state", "postal_code", "country")
    return {f"{who}_{name}": CsvColumn(("personal_data", who, name)) for name in own} | {
        f"{who}_address_{name}": CsvColumn(("personal_data", who, "address", name)) for name in address
    }


CSV_COLUMNS: Final[Mapping[str, CsvColumn]] = {
    "payout_id": CsvColumn(("payout_id",)),
    "originator_id": CsvColumn(("originator_id",)),
    "amount_minor": CsvColumn(("amount", "amount_minor"), "whole number"),
    "currency": CsvColumn(("amount", "currency")),
    "source_country": CsvColumn(("corridor", "source_country")),
    "target_country": CsvColumn(("corridor", "target_country")),
    "source_currency": CsvColumn(("corridor", "source_currency")),
    "target_currency": CsvColumn(("corridor", "target_currency")),
    "funding_kind": CsvColumn(("funding", "kind")),
    "internal_debit_confirmed": CsvColumn(("funding", "internal", "debit_confirmed"), "yes or no"),
    "internal_confirmation_ref": CsvColumn(("funding", "internal", "confirmation_ref")),
    "aft_receipt_id": CsvColumn(("funding", "aft", "receipt_id")),
    "aft_status": CsvColumn(("funding", "aft", "status")),
    "aft_transaction_identifier": CsvColumn(("funding", "aft", "transaction_identifier")),
    "aft_systems_trace_audit_number": CsvColumn(("funding", "aft", "systems_trace_audit_number"), "whole number"),
    "aft_retrieval_reference_number": CsvColumn(("funding", "aft", "retrieval_reference_number")),
    "aft_approval_code": CsvColumn(("funding", "aft", "approval_code")),
    "aft_acquiring_bin": CsvColumn(("funding", "aft", "acquiring_bin")),
    "aft_captured_at": CsvColumn(("funding", "aft", "captured_at")),
    "aft_amount_minor": CsvColumn(("funding", "aft", "amount", "amount_minor"), "whole number"),
    "aft_currency": CsvColumn(("funding", "aft", "amount", "currency")),
    "aft_card_number": CsvColumn(("funding", "aft", "card", "primary_account_number")),
    "aft_card_expiry": CsvColumn(("funding", "aft", "card", "expiry")),
    "aft_encrypted_card": CsvColumn(("funding", "aft", "encrypted_card")),
    "pis_payment_id": CsvColumn(("funding", "pis", "payment_id")),
    "pis_status": CsvColumn(("funding", "pis", "status")),
    "destination_kind": CsvColumn(("destination", "kind")),
    "card_number": CsvColumn(("destination", "card", "card", "primary_account_number")),
    "card_expiry": CsvColumn(("destination", "card", "card", "expiry")),
    "card_token_reference": CsvColumn(("destination", "card", "token_reference")),
    "encrypted_card": CsvColumn(("destination", "card", "encrypted_card")),
    "encrypted_account": CsvColumn(("destination", "account", "encrypted_account")),
    "encrypted_wallet": CsvColumn(("destination", "wallet", "encrypted_wallet")),
    "alias_type": CsvColumn(("destination", "alias", "alias_type")),
    "encrypted_alias": CsvColumn(("destination", "alias", "encrypted_alias")),
    "fx_quote_id": CsvColumn(("fx_quote", "quote_id")),
    "fx_rate": CsvColumn(("fx_quote", "rate")),
    "fx_expires_at": CsvColumn(("fx_quote", "expires_at")),
    "personal_data": CsvColumn(("personal_data",)),
    **_party_columns("sender"),
    **_party_columns("recipient"),
    "business_application_id": CsvColumn(("business_application_id",)),
    "purpose": CsvColumn(("purpose",)),
    "requested_at": CsvColumn(("requested_at",)),
    "expires_at": CsvColumn(("expires_at",)),
    "correlation_id": CsvColumn(("correlation_id",)),
}
"""Headings of a CSV file, in any order; an empty cell is an absent field. `metadata_X` fills metadata's member X."""

METADATA_HEADING: Final = "metadata_"


def _cells(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error:
        rows = []
    if len(rows) != 1:
        raise BadLine("the line", "is not CSV: a quotation mark is open or misplaced (a cell cannot span lines)")
    return rows[0]


def _headings(text: str) -> list[str]:
    headings = [heading.strip() for heading in _cells(text)]
    for position, heading in enumerate(headings, start=1):
        if heading not in CSV_COLUMNS and not (
            heading.startswith(METADATA_HEADING) and _PRINTABLE_NAME.fullmatch(heading)
        ):
            shown = heading if _PRINTABLE_NAME.fullmatch(heading) else "its name is not printed"
            raise BadLine("the headings", f"column {position} ({shown}) is not known; see `payouts send --help`")
    if len(set(headings)) != len(headings):
        raise BadLine("the headings", "name a column twice")
    return headings


def _document_of_cells(headings: Sequence[str], cells: Sequence[str]) -> Document:
    if len(cells) != len(headings):
        raise BadLine("the line", f"has {len(cells)} cells under {len(headings)} headings")
    document: Document = {}
    for heading, cell in zip(headings, cells, strict=True):
        if cell == "":
            continue
        column = CSV_COLUMNS.get(heading) or CsvColumn(("metadata", heading.removeprefix(METADATA_HEADING)))
        _put(document, column.path, _value_of_cell(heading, column, cell), heading)
    return document


def _value_of_cell(heading: str, column: CsvColumn, cell: str) -> object:
    if column.kind == "whole number":
        if not _WHOLE_NUMBER.fullmatch(cell):
            raise BadLine(heading, "must be a whole number of minor units or digits, without separators")
        return int(cell)
    if column.kind == "yes or no":
        if cell.lower() not in _SPOKEN:
            raise BadLine(heading, "must be true or false")
        return _SPOKEN[cell.lower()]
    return cell


def _put(document: Document, path: tuple[str, ...], value: object, heading: str) -> None:
    for name in path[:-1]:
        document = document.setdefault(name, {})
        if not isinstance(document, dict):
            raise BadLine(heading, "says in clear what another column of the line has encrypted; give one of them")
    if path[-1] in document:
        raise BadLine(heading, "says encrypted what other columns of the line have in clear; give one of them")
    document[path[-1]] = value


PartyKey = Callable[[], Mapping[str, Any] | bytes]
"""Gives the processor's public key; asked only when something is to be encrypted."""


class RequestBuilder:
    """Turns documents into records, encrypting what is in clear. `now` and `new_id` are for what a line leaves out."""

    def __init__(
        self, party_key: PartyKey, now: Callable[[], datetime], new_id: Callable[[], str] = lambda: str(ULID())
    ) -> None:
        self._party_key = party_key
        self._now = now
        self._new_id = new_id

    def build(self, document: Document) -> Document:
        """The record of a document, which is used up. Raises BadLine; shape is left to the codec."""
        if _depth(document) > NESTING_MAX:
            raise BadLine("the line", f"is nested deeper than {NESTING_MAX} levels")
        _check_payout_id(document)
        for path in _TIMES:
            _convert_time(document, path)
        self._encrypt_parties(document)
        self._encrypt_card(document, ("destination", "card"))
        self._encrypt_card(document, ("funding", "aft"))
        document.setdefault("requested_at", self._now())
        document.setdefault("correlation_id", self._new_id())
        _check_part(document, "funding", _FUNDING_PARTS)
        _check_part(document, "destination", _DESTINATION_PARTS)
        _check_amount(document)
        return document

    def _encrypt_parties(self, document: Document) -> None:
        parties = document.get("personal_data")
        if isinstance(parties, Mapping):
            document["personal_data"] = self._sealed(parties, "personal_data.schema.json", "personal_data")

    def _encrypt_card(self, document: Document, path: tuple[str, ...]) -> None:
        part = _inner(document, path)
        if part is None or "card" not in part:
            return
        place = ".".join((*path, "card"))
        if part.get("encrypted_card") is not None:
            raise BadLine(place, "is given in clear and as encrypted_card; give one of them")
        part["encrypted_card"] = self._sealed(part.pop("card"), "card.schema.json", place)

    def _sealed(self, content: object, schema_file: str, place: str) -> str:
        problem = _schema_problem(content, schema_file)
        if problem is not None or not isinstance(content, Mapping):
            raise BadLine(place, problem or "must be an object")
        try:
            return seal_for_processor(self._party_key(), content)
        except ValueError:
            raise BadLine(place, "is too long to be encrypted") from None


def check_nothing_in_clear(record: Mapping[str, Any]) -> None:
    """Refuse a record that the codec accepted and that says in clear what must travel encrypted (P6)."""
    try:
        request = parse_request(record)
    except RequestMalformed as error:
        raise BadLine("", str(error)) from None
    for text in text_fields(request):
        if text.encrypted and compact_header(text.text) is None:
            raise BadLine(text.path, "is not encrypted: it must be a compact JWE to the processor's public key")
        if holds_card_number(text):
            raise BadLine(text.path, "looks like a card number in clear; encrypt it, or take it out")


def _inner(document: Document, path: tuple[str, ...]) -> Document | None:
    inner: object = document
    for name in path:
        inner = inner.get(name) if isinstance(inner, dict) else None
    return inner if isinstance(inner, dict) else None


def _depth(value: object, above: int = 1) -> int:
    if above > NESTING_MAX:
        return above
    if isinstance(value, dict):
        return max((_depth(item, above + 1) for item in value.values()), default=above)
    if isinstance(value, list):
        return max((_depth(item, above + 1) for item in value), default=above)
    return above


def _check_payout_id(document: Document) -> None:
    payout_id = document.get("payout_id")
    if not isinstance(payout_id, str):
        raise BadLine("payout_id", "is missing: the originator chooses it, so that a repeat is known as one")
    problem = payout_id_problem(payout_id)
    if problem is not None:
        raise BadLine("payout_id", problem)


def _convert_time(document: Document, path: tuple[str, ...]) -> None:
    part = _inner(document, path[:-1])
    text = None if part is None else part.get(path[-1])
    if part is None or text is None:
        if part is not None:
            part.pop(path[-1], None)
        return
    place = ".".join(path)
    if not isinstance(text, str):
        raise BadLine(place, "must be a time as ISO 8601 text, for example 2026-11-22T17:00:00Z")
    try:
        part[path[-1]] = parse_time(text)
    except ValueError as error:
        raise BadLine(place, str(error)) from None


def _check_part(document: Document, name: str, parts: Mapping[str, str]) -> None:
    """The kind is known and the record that belongs to it is the only one."""
    whole = document.get(name)
    if not isinstance(whole, dict):
        raise BadLine(name, "is missing or is not an object")
    kind = whole.get("kind")
    part = parts.get(kind) if isinstance(kind, str) else None
    if part is None:
        raise BadLine(f"{name}.kind", f"must be one of {', '.join(parts)}")
    if whole.get(part) is None:
        raise BadLine(f"{name}.{part}", "is missing: the kind needs it")
    for other in parts.values():
        if other != part and whole.get(other) is not None:
            raise BadLine(f"{name}.{other}", f"does not belong to the kind; only {part} does")


def _check_amount(document: Document) -> None:
    amount = document.get("amount")
    if not isinstance(amount, dict):
        raise BadLine("amount", "is missing or is not an object")
    minor, currency = amount.get("amount_minor"), amount.get("currency")
    if not isinstance(minor, int) or isinstance(minor, bool) or minor < 1:
        raise BadLine("amount.amount_minor", "must be a whole number of minor units above 0")
    _check_money("amount", minor, currency)
    pulled = _inner(document, ("funding", "aft", "amount"))
    if pulled is not None and isinstance(pulled.get("amount_minor"), int):
        _check_money("funding.aft.amount", pulled["amount_minor"], pulled.get("currency"))


def _check_money(place: str, minor: int, currency: object) -> None:
    """What Visa cannot express is refused here: a number that long is a card's, in the wrong column (P6)."""
    try:
        decimal_string(minor, currency if isinstance(currency, str) else "")
    except UnknownCurrency:
        raise BadLine(f"{place}.currency", "must be an ISO 4217 currency with a minor unit, for example USD") from None
    except AmountNotExpressible as error:
        raise BadLine(f"{place}.amount_minor", str(error)) from None


@cache
def _validator(file_name: str) -> Draft202012Validator:
    schema = json.loads(resources.files("schemas").joinpath(file_name).read_text(encoding="utf-8"))
    return Draft202012Validator(schema)


def _schema_problem(content: object, file_name: str) -> str | None:
    """Which member fails which rule; the library's own messages quote what stands there."""
    error = next(iter(_validator(file_name).iter_errors(content)), None)
    if error is not None:
        names = [str(part) for part in error.absolute_path if isinstance(part, str) and _PRINTABLE_NAME.fullmatch(part)]
        return f"{'.'.join(names) or 'it'} fails the rule {error.validator!r} of {file_name}"
    if not _is_plain(content):
        return "holds control or unassigned characters"
    return None


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    return not isinstance(value, str) or is_plain_text(value)
