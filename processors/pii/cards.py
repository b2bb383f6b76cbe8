"""Card numbers as they are written, typed, wrapped and glued to words.

`schemas.card_numbers` decides about requests and asks for a number that stands alone. Here a text was written by
anybody: a number may touch letters (`pan4111…`), have dots or a line break in it, or be grouped in the ways of cards.
A hit has an issuer's prefix, a length the issuer uses and a right check digit; groups must be those of cards, so that
two identifiers side by side are no hit.

Not hits: the fraction of a decimal, and digits inside of a hexadecimal id of a usual length (trace ids, hashes).
Visa's transaction identifiers have 15 digits and in some years begin as American Express does: under their own name
(`transactionIdentifier`) they are none either.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from schemas.card_numbers import DIGITS_MAX, DIGITS_MIN, has_issuer_prefix, passes_luhn, without_uuids

# Spaces of every width, hyphens and dashes, and what stands for them in files: dot, underscore, plus, middle dot, and
# the sign for a byte that is not UTF-8 (a no-break space of Latin-1).
_SEPARATOR: Final = "[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\\-\u2010-\u2015\u2212._+\u00b7\ufffd]"
_BREAK: Final = r"[ \t]?\r?\n[ \t>]{0,4}"
_GAP: Final = f"(?: [-\u2013\u2014] |{_BREAK}|{_SEPARATOR})"
_RUN: Final = re.compile(f"[0-9](?<![0-9][0-9])(?:{_GAP}?[0-9]){{12,}}")
# An issuer's first digit at the beginning of a group, and twelve more digits: without this there is no card number.
_CANDIDATE: Final = re.compile(f"[2-6](?<![0-9][0-9])(?:{_GAP}?[0-9]){{12}}")
_GROUP: Final = re.compile("[0-9]+")

# How many digits stand together on cards and forms; single digits are boxes of a form.
_GROUPINGS: Final = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 4, 4, 1), (4, 4, 5), (4, 6, 5), (4, 6, 4), (4, 5, 4), (8, 8), (6, 13)}
    | {(4, 4, 4, last) for last in (2, 3)}
    | {(4, 4, 4, 4, last) for last in (1, 2)}
    | {(1,) * count for count in range(DIGITS_MIN, DIGITS_MAX + 1)}
    | {(count,) for count in range(DIGITS_MIN, DIGITS_MAX + 1)}
)
_END: Final = 0


class _Groups(dict[int, "_Groups"]):
    """The groupings as a tree: digits of the next group lead on, `_END` says that a number may end here."""


def _grouped() -> _Groups:
    top = _Groups()
    for grouping in _GROUPINGS:
        node = top
        for size in (*grouping, _END):
            node = node.setdefault(size, _Groups())
    return top


_GROUPS: Final = _grouped()
_FIRST_DIGITS: Final = frozenset("23456")
_WRAPPED_DIGITS_MIN: Final = 4
"""Fewer digits at the end or the beginning of a line are a count or a list, not half a number."""

# 12 bytes, UUIDs without hyphens, SHA-1, SHA-224, SHA-256, SHA-384, SHA-512. Ids of 8 bytes are hardly ever 13 digits
# in a row, and a letter before a card number is no rarity (track 1).
_HEX_ID_CHARACTERS: Final = frozenset({24, 32, 40, 56, 64, 96, 128})
_HEX_ID_LONGEST: Final = max(_HEX_ID_CHARACTERS)
_LETTERS_OR_DIGITS: Final = re.compile(f"[0-9A-Za-z]{{0,{_HEX_ID_LONGEST}}}")
_HEX: Final = re.compile("[0-9a-f]+|[0-9A-F]+")

_TRANSACTION_IDENTIFIER_DIGITS: Final = 15
_TRANSACTION_FIELD: Final = re.compile(r"transaction[-_ ]?identifier[\\\"'\s:=>]{1,8}\Z", re.IGNORECASE)
_NAME_CHARACTERS: Final = 40

Span = tuple[int, int]


def may_hold_cards(text: str) -> bool:
    """Whether either detector could find a card number: quick, and true for few texts."""
    return _CANDIDATE.search(text) is not None


def find_cards(text: str) -> Iterator[Span]:
    """Where card numbers stand, as (start, end), in order and apart. Linear in the text's length."""
    text = without_uuids(text)
    for run in _RUN.finditer(text):
        yield from _in_run(text, run.start(), run.end())


def _in_run(text: str, start: int, end: int) -> Iterator[Span]:
    groups = [match.span() for match in _GROUP.finditer(text, start, end)]
    gaps = [text[one[1] : other[0]] for one, other in pairwise(groups)]
    breaks = [index for index, gap in enumerate(gaps) if "\n" in gap]
    if len(breaks) == 1 and _is_wrapped_number(text, groups, breaks[0]):
        yield groups[0][0], groups[-1][1]
        return
    first = 0
    for last in (*breaks, len(groups) - 1):
        yield from _in_line(text, groups[first : last + 1])
        first = last + 1


def _is_wrapped_number(text: str, groups: Sequence[Span], before_break: int) -> bool:
    """Whether the whole run is one number with one line break in it. A column of numbers has more than one."""
    sizes = [end - start for start, end in groups]
    head, tail = sum(sizes[: before_break + 1]), sum(sizes[before_break + 1 :])
    if min(head, tail) < _WRAPPED_DIGITS_MIN or head + tail > DIGITS_MAX:
        return False
    joined = (*sizes[:before_break], sizes[before_break] + sizes[before_break + 1], *sizes[before_break + 2 :])
    return (tuple(sizes) in _GROUPINGS or joined in _GROUPINGS) and _is_number(
        "".join(text[start:end] for start, end in groups)
    )


def _in_line(text: str, groups: Sequence[Span]) -> Iterator[Span]:
    first = 0
    while first < len(groups):
        last = _last_group(text, groups, first)
        if last is None:
            first += 1
        else:
            yield groups[first][0], groups[last][1]
            first = last + 1


def _last_group(text: str, groups: Sequence[Span], first: int) -> int | None:
    """The group with which a number that begins at group `first` ends, the longest one; None when there is none."""
    if text[groups[first][0]] not in _FIRST_DIGITS:
        return None
    found, digits, known = None, "", _GROUPS
    for last in range(first, len(groups)):
        start, end = groups[last]
        if (more := known.get(end - start)) is None:
            break
        digits, known = digits + text[start:end], more
        if _END in known and _is_number(digits) and not (first == last and _is_something_else(text, start, end)):
            found = last
    return found


def _is_number(digits: str) -> bool:
    return has_issuer_prefix(digits) and passes_luhn(digits)


def _is_something_else(text: str, start: int, end: int) -> bool:
    """Whether digits in one piece are a fraction, a part of a hexadecimal id, or a transaction identifier by name."""
    if text[start - 1 : start] == "." and text[max(0, start - 2) : start - 1].isdigit():
        return True
    head = _LETTERS_OR_DIGITS.match(text[max(0, start - _HEX_ID_LONGEST) : start][::-1])
    tail = _LETTERS_OR_DIGITS.match(text, end)
    token = text[start - (head.end() if head else 0) : tail.end() if tail else end]
    if len(token) in _HEX_ID_CHARACTERS and len(token) > end - start and _HEX.fullmatch(token):
        return True
    if end - start != _TRANSACTION_IDENTIFIER_DIGITS:
        return False
    return _TRANSACTION_FIELD.search(text[max(0, start - _NAME_CHARACTERS) : start]) is not None
