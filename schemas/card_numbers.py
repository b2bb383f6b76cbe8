"""Finds what looks like a card number in a text (P6).

A hit is 13 to 19 digits that stand alone, single spaces or hyphens between them allowed, with an issuer's prefix,
a length that the issuer uses, and a right check digit (ISO/IEC 7812-1, Luhn). Identifiers that are not card
numbers miss at least one of these: timestamps begin with 1, ULIDs and hashes have letters next to their digits,
UUIDs are left out as a whole.
"""

from __future__ import annotations

import functools
import re

DIGITS_MIN, DIGITS_MAX = 13, 19
# Enough to find the place; a message that echoes a file of megabytes helps nobody.
EXCERPT_CHARACTERS_MAX = 500
# The longest prefix in the table below.
_PREFIX_DIGITS = 4

# First digits from and to, and lengths in use. Sources: the card schemes' published ranges. Lengths that a scheme
# allows and no issuer uses (15 digits for Diners Club) are left out: Visa's own transaction identifiers have them.
_RANGES: tuple[tuple[str, str, frozenset[int]], ...] = (
    ("4", "4", frozenset({13, 16, 19})),  # Visa
    ("51", "55", frozenset({16})),  # Mastercard
    ("2221", "2720", frozenset({16})),  # Mastercard
    ("34", "34", frozenset({15})),  # American Express
    ("37", "37", frozenset({15})),  # American Express
    ("300", "305", frozenset({14, 16, 17, 18, 19})),  # Diners Club
    ("3095", "3095", frozenset({14, 16, 17, 18, 19})),  # Diners Club
    ("36", "36", frozenset({14, 16, 17, 18, 19})),  # Diners Club
    ("38", "39", frozenset({14, 16, 17, 18, 19})),  # Diners Club
    ("3528", "3589", frozenset({16, 17, 18, 19})),  # JCB
    ("50", "50", frozenset({13, 14, 15, 16, 17, 18, 19})),  # Maestro
    ("56", "58", frozenset({13, 14, 15, 16, 17, 18, 19})),  # Maestro
    ("60", "69", frozenset({13, 14, 15, 16, 17, 18, 19})),  # Discover, UnionPay, RuPay, Maestro
)

# Space, no-break and thin spaces, hyphen and the dashes that word processors put in its place.
_SEPARATOR = "[ \\-\u00a0\u2009\u202f\u2010-\u2015]"
_RUN = re.compile(f"(?<![0-9A-Za-z])[0-9](?:{_SEPARATOR}?[0-9]){{12,}}(?![0-9A-Za-z])")
_GROUP = re.compile("[0-9]+")
_UUID = re.compile(
    "(?<![0-9A-Za-z])(?=[0-9-]{0,35}[A-Fa-f])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
)
# A doubled digit counts as the sum of its digits (ISO/IEC 7812-1, annex B).
_LUHN_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")
_FIRST_DIGITS = frozenset(low[0] for low, _, _ in _RANGES)


def passes_luhn(digits: str) -> bool:
    """Whether the last of the digits is the right check digit. `digits` is ASCII digits only."""
    plain = digits.encode()
    doubled = plain[-2::-2].translate(_LUHN_DOUBLED)
    return (sum(plain[::-2]) + sum(doubled) - ord("0") * len(plain)) % 10 == 0


def has_issuer_prefix(digits: str) -> bool:
    """Whether the digits begin as a card scheme's numbers do and have a length that it uses."""
    return len(digits) in _lengths(digits[:_PREFIX_DIGITS])


@functools.lru_cache(maxsize=10_000)
def _lengths(prefix: str) -> frozenset[int]:
    """Lengths in use of numbers that begin with four digits."""
    ranges = (lengths for low, high, lengths in _RANGES if low <= prefix[: len(low)] <= high)
    return frozenset[int]().union(*ranges)


def without_uuids(text: str) -> str:
    """The text with every UUID blotted out, places kept; one of digits alone is none, as it may be anything."""
    return _UUID.sub(lambda match: "u" * len(match.group()), text) if "-" in text else text


def find_card_numbers(text: str) -> list[tuple[int, int]]:
    """Where card numbers stand in a text, as (start, end), in order and apart. Linear in the text's length."""
    if len(text) < DIGITS_MIN:
        return []
    masked = without_uuids(text)
    found: list[tuple[int, int]] = []
    for run in _RUN.finditer(masked):
        found.extend(_in_run(masked, run.start(), run.end()))
    return found


def looks_like_card_number(text: str) -> bool:
    """Whether a card number stands anywhere in a text."""
    return bool(find_card_numbers(text))


def mask_card_numbers(text: str, mask: str = "[card number]") -> str:
    """The text with every card number replaced, for messages that may hold foreign text."""
    for start, end in reversed(find_card_numbers(text)):
        text = text[:start] + mask + text[end:]
    return text


def excerpt(text: str, longest: int = EXCERPT_CHARACTERS_MAX) -> str:
    """The beginning of a text that quotes what others wrote, for messages: masked first, so that no number is cut."""
    return mask_card_numbers(text)[:longest]


def _in_run(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Card numbers in one run of digit groups: any neighbouring groups may be one, as an expiry may follow."""
    groups = [match.span() for match in _GROUP.finditer(text, start, end)]
    found: list[tuple[int, int]] = []
    first = 0
    while first < len(groups):
        last = _last_group(text, groups, first)
        if last is None:
            first += 1
        else:
            found.append((groups[first][0], groups[last][1]))
            first = last + 1
    return found


def _last_group(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """The group with which a card number that begins at group `first` ends; None when there is none."""
    if text[groups[first][0]] not in _FIRST_DIGITS:
        return None
    digits = ""
    for index in range(first, min(first + DIGITS_MAX, len(groups))):
        digits += text[slice(*groups[index])]
        if len(digits) > DIGITS_MAX:
            return None
        if len(digits) >= DIGITS_MIN and has_issuer_prefix(digits) and passes_luhn(digits):
            return index
    return None
