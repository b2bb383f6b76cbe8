"""S1-10, S0-41: 120,000 forms of card numbers are all found; of 200,000 ids less than 0.1 % are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from ops.pii_files import find_in_pieces
from processors.pii.find import find
from processors.pii.hits import Kind
from processors.pii.redaction import redact_text
from tests.unit.pii.pii_samples import IDENTIFIERS, TWELVE_FORMATS, card_number, identifiers

NUMBERS, NUMBERS_A_PIECE = 10_000, 1_000
IDS = 200_000
FORMATS = tuple(TWELVE_FORMATS)
# A wrapped number takes a second line.
LINES_A_NUMBER = len(FORMATS) + 1

pytestmark = pytest.mark.timeout(600)


def _lines(number: str) -> str:
    """The number in every format, a line each; nothing else in a line can be half a number."""
    return "".join(f"{name}: {TWELVE_FORMATS[name](number)};\n" for name in FORMATS)


def _pieces(random: Random) -> Iterator[str]:
    for _ in range(0, NUMBERS, NUMBERS_A_PIECE):
        yield "".join(_lines(card_number(random)) for _ in range(NUMBERS_A_PIECE))


def test_every_number_is_found_in_each_of_twelve_formats() -> None:
    """S0-41, S1-10: 100 % of 120,000, seeded, of every issuer and length, through what reads files."""
    wrapped = FORMATS.index("wrapped")
    counts = Counter[str]()
    for place in find_in_pieces(_pieces(Random(6)), frozenset({Kind.CARD})):
        line = (place.line - 1) % LINES_A_NUMBER
        counts[FORMATS[line - (line > wrapped)]] += 1
    assert counts == dict.fromkeys(FORMATS, NUMBERS)


def test_less_than_one_in_a_thousand_ids_is_found_or_masked() -> None:
    """S1-10: UUID, ULID, RRN, STAN, times, hashes and our own names; of all, and of each kind."""
    found, masked = Counter[str](), Counter[str]()
    for name, text in identifiers(Random(7), IDS):
        found[name] += bool(find(text))
        masked[name] += redact_text(text) != text
    # Masking asks no name and no point before the digits: these two stay numbers where they are logged as numbers.
    del masked["transaction identifier by name"], masked["ratio"]
    for counts in (found, masked):
        assert counts.total() < IDS / 1_000
        assert {name: hits for name, hits in counts.items() if hits >= IDS / len(IDENTIFIERS) / 1_000} == {}
