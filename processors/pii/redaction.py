"""What may be shown: the one function through which logs, errors and spans go (requirements S1-11, S1-12; promise P6).

    shown = redact_fields(record.__dict__, LOGGED_NAMES)      names by allow-list, values masked
    text = redact_text(str(error))                            masked

A name that nobody allowed is dropped with its value, whatever it holds: a pattern finds what looks like personal data,
and a name or a street looks like nothing. Values that are shown are masked by pattern all the same. Masking errs on
the side of masking: what either detector of card numbers takes for one goes.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from processors.pii.find import find
from processors.pii.hits import ALL_KINDS, Kind
from schemas.card_numbers import DIGITS_MIN

MASKS: Final = {
    Kind.CARD: "[card number]",
    Kind.CARD_MASKED: "[masked card number]",
    Kind.ACCOUNT: "[account]",
    Kind.SSN: "[social security number]",
    Kind.CVV: "[card verification value]",
    Kind.PIN: "[PIN]",
    Kind.EXPIRY: "[expiry]",
    Kind.EMAIL: "[e-mail address]",
    Kind.PHONE: "[phone number]",
}
"""What stands in the place of a hit."""
CARDS_ONLY: Final = frozenset({Kind.CARD})
"""For texts in which people name themselves: an operator's address in his own command's answer is no leak."""
NAME_NOT_ALLOWED: Final = "NAME"
"""Counts a field that was dropped, beside the kinds."""
TEXT_CHARACTERS_MAX: Final = 2_000
"""Of one value: a log line is evidence, not an archive."""
SEARCHED_CHARACTERS_MAX: Final = 16 * TEXT_CHARACTERS_MAX
"""Searched of what is cut; what lies behind is never shown."""
_SMALL: Final = 10 ** (DIGITS_MIN - 1)
"""No card number is below."""
_BETWEEN_VALUES: Final = " \x1f "
_LONGEST_HIT_CHARACTERS: Final = 400
"""So much before the end of what is searched is not shown either: a hit may be cut there and not be seen."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """What may be shown, and how often something was withheld, by kind."""

    fields: dict[str, object]
    withheld: Counter[str]


def redact_fields(
    fields: Mapping[str, object], allowed: Collection[str], *, longest_characters: int = TEXT_CHARACTERS_MAX
) -> Redacted:
    """The fields whose names are allowed and that have a value, masked. Texts, booleans and numbers keep their type.

    A number that looks like a card number becomes its mask; every other value becomes its text.
    """
    withheld: Counter[str] = Counter()
    shown: dict[str, object] = {}
    texts: dict[str, str] = {}
    for name, value in fields.items():
        if name not in allowed:
            withheld[NAME_NOT_ALLOWED] += value is not None
        elif isinstance(value, str):
            shown[name] = texts[name] = value
        elif value is not None:
            shown[name] = value
            if not _is_harmless_number(value):
                texts[name] = str(value)
    # Nearly always there is nothing, and one look at all of them says so. No hit spans the sign between two values.
    together = _BETWEEN_VALUES.join(texts.values())
    if len(together) > longest_characters or find(together, eager=True):
        for name, text in texts.items():
            texts[name], kinds = mask(text, ALL_KINDS, longest_characters)
            withheld.update(kinds)
            if kinds:
                shown[name] = texts[name]
    for name, text in texts.items():
        if not isinstance(shown[name], (int, float)):
            shown[name] = text
    return Redacted(shown, +withheld)


def redact_text(
    text: str, kinds: Collection[Kind] = ALL_KINDS, *, longest_characters: int | None = TEXT_CHARACTERS_MAX
) -> str:
    """The text with every hit replaced by its kind, and then cut: what a cut has shortened is not recognised.

    With a length of None it is searched and given to its end.
    """
    return mask(text, kinds, longest_characters)[0]


def _is_harmless_number(value: object) -> bool:
    return isinstance(value, (int, float)) and -_SMALL < value < _SMALL


def mask(text: str, kinds: Collection[Kind], longest_characters: int | None) -> tuple[str, list[str]]:
    """As `redact_text`, and the kind of every hit, for who counts them."""
    searched = text if longest_characters is None else text[:SEARCHED_CHARACTERS_MAX]
    hits = find(searched, kinds, eager=True)
    if not hits:
        return text[:longest_characters], []
    end = len(text) if searched == text else SEARCHED_CHARACTERS_MAX - _LONGEST_HIT_CHARACTERS
    parts: list[str] = []
    told: list[str] = []
    place = 0
    for hit in hits:
        if hit.start >= end:
            break
        parts += (text[place : hit.start], MASKS[hit.kind])
        told.append(hit.kind.value)
        place = hit.end
    parts.append(text[place : max(place, end)])
    return "".join(parts)[:longest_characters], told
