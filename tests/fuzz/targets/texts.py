"""Small parsers of texts that others wrote: card numbers, log lines, headers, times, money, names, ids."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from random import Random
from typing import Final

from ops.events import parse_since
from ops.failures import CommandFailed
from ops.money_text import amount_text
from ops.output import parse_time
from ops.redaction import printable, redacted
from ops.review import parse_case
from processors.compliance.names import normalise_name
from processors.money import MoneyError, amount_minor_from_decimal, decimal_string
from processors.pii.find import find
from processors.pii.redaction import CARDS_ONLY, redact_text
from processors.visa.fields import RequestInvalid, amount_literal
from schemas.card_numbers import find_card_numbers, looks_like_card_number, mask_card_numbers
from schemas.headers import CORRELATION_ID_LIMIT_CHARACTERS, event_headers, header_text
from schemas.payout_id import payout_id_problem
from schemas.sender_reference import SENDER_REFERENCE_CHARACTERS, sender_reference
from streams.logs import JsonFormatter, MaskedConsole
from tests.fuzz.harness import Target, check, check_error
from tests.fuzz.values import CARDS, hostile_text

_NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
_CURRENCIES: Final = ("USD", "JPY", "KWD", "CLF", "XXX")


def _card_numbers(text: str) -> None:
    spans = find_card_numbers(text)
    check(all(start < end for start, end in spans), "an empty card number")
    check(all(one[1] <= other[0] for one, other in pairwise(spans)), "card numbers overlap")
    check(not looks_like_card_number(mask_card_numbers(text)), "a masked text still holds a card number")
    half = len(text) // 2
    planted = f"{text[:half]} ; {CARDS[0]} ; {text[half:]}"
    alone = (half + len(" ; "), half + len(" ; ") + len(CARDS[0]))
    check(alone in find_card_numbers(planted), "a card number that stands alone is not found")


def _log_line(text: str) -> None:
    caught = (ValueError, ValueError(text), None)
    record = logging.LogRecord("name", logging.ERROR, "path", 1, "said %s", (text,), caught)
    record.__dict__["why"] = text
    line = JsonFormatter("fuzz").format(record)
    check("\n" not in line and isinstance(json.loads(line), dict), "a log line is not one JSON object on one line")
    check(not looks_like_card_number(line), "a card number in a JSON log line")
    check(not looks_like_card_number(MaskedConsole().format(record)), "a card number on the console")


def _headers(text: str) -> None:
    headers = event_headers("type", "/fuzz", _NOW, text, text, event_id="id")
    found = dict(headers)
    correlation = found["correlation_id"].decode("utf-8")
    check(len(correlation) <= CORRELATION_ID_LIMIT_CHARACTERS, "a correlation id beyond its limit")
    check(not looks_like_card_number(correlation), "a card number in a header")
    check(found.get("traceparent", b"").isascii(), "a traceparent that is none")
    raw = text.encode("utf-8", "surrogatepass")
    check(header_text([("ce_id", raw)], "ce_id") in (None, text), "a header reads as another text")


def _times(text: str) -> None:
    for parse, refusal in _PARSERS_OF_TIMES:
        try:
            parse(text)
        except refusal as error:
            check_error(error)


_PARSERS_OF_TIMES: Final[tuple[tuple[Callable[[str], object], type[Exception]], ...]] = (
    (parse_time, ValueError),
    (lambda text: parse_since(text, _NOW), CommandFailed),
    (parse_case, CommandFailed),
)


def _redaction(text: str) -> None:
    shown = redacted(text, (text[:8], CARDS[3]))
    check(not looks_like_card_number(shown), "a card number in a redacted text")
    check(printable(text).isprintable(), "a text that a terminal would obey")
    masked = redact_text(text, longest_characters=None)
    check(not looks_like_card_number(masked), "a card number in a masked text")
    check(find(masked, CARDS_ONLY) == [], "a card number in some form in a masked text")
    hits = find(text)
    check(all(0 <= hit.start < hit.end <= len(text) for hit in hits), "a hit outside of the text")
    check(all(one.end <= other.start for one, other in pairwise(hits)), "hits overlap")


def _money(text: str) -> None:
    for currency in _CURRENCIES:
        try:
            minor = amount_minor_from_decimal(text, currency)
        except MoneyError as error:
            check_error(error)
        else:
            _check_money(minor, currency)
        with suppress(RequestInvalid):
            amount_literal("amount", text, currency)
    check(bool(amount_text(len(text), text)), "an amount without a text")


def _check_money(minor: int, currency: str) -> None:
    """What Visa's text says is what we would have written for it, where it can be written."""
    try:
        written = decimal_string(minor, currency)
    except MoneyError:
        return
    check(amount_minor_from_decimal(written, currency) == minor, "an amount changes on its way to Visa and back")


def _names(text: str) -> None:
    normal = normalise_name(text)
    check(normalise_name(normal) == normal, "a normal name has another normal form")


def _ids(text: str) -> None:
    reference = sender_reference(text)
    check(len(reference) == SENDER_REFERENCE_CHARACTERS, "a sender reference of another length")
    check(not looks_like_card_number(reference), "a sender reference that looks like a card number")
    if payout_id_problem(text) is None:
        check(re.fullmatch(r"[A-Za-z0-9_-]{8,64}", text) is not None, "a payout_id that could be none")


_PARSERS: Final[tuple[Callable[[str], None], ...]] = (
    _card_numbers, _log_line, _headers, _times, _redaction, _money, _names, _ids,
)  # fmt: skip


def _text(data: bytes) -> None:
    """The first byte chooses the parser; the rest is its text, half characters included where Python can hold them."""
    if data:
        parser = _PARSERS[data[0] % len(_PARSERS)]
        parser(data[1:].decode("utf-8", "replace"))


def _seeds() -> Iterator[bytes]:
    texts = (
        "", "4957 0304 2021 0462 and 4957-0304-2021-0462", "user:secret@host postgres://u:pass word@h/db",
        "eyJhbGciOiJ.a.b.c.d",
        "2026-03-01T12:00:00Z", "2026-03-01T12:00:00+23:59", "24h", "7d", "payout-0001.3", "124.50",
        "999999999.999", "0.001",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Łukasz Ærø Đorđe ﬁ", "payout-0001",
        "6f3c6f0e-3c55-5b0e-9a39-0e1d3f3f5a71", "a" * 600, "eyJ" * 200, "4" * 600, "4 " * 100, "é" * 300,
    )  # fmt: skip
    for text in texts:
        for index in range(len(_PARSERS)):
            yield bytes([index]) + text.encode()


def _change(data: bytes, random: Random) -> bytes:
    place = random.randrange(1, len(data) + 1) if data else 0
    return data[:place] + hostile_text(random).encode("utf-8", "replace") + data[place:]


TARGETS: Final = (
    Target(
        "texts", "card numbers, log lines, headers, times, money, names, ids", _text, _seeds, _change,
        longest_bytes=2_048,
    ),
)  # fmt: skip
