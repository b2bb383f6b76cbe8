"""Takes what must not be shown out of texts that others wrote: passwords, card numbers, control characters (P6)."""

import re
from collections.abc import Iterable
from typing import Final

from processors.pii.redaction import CARDS_ONLY, redact_text

SHORTEST_SECRET_CHARACTERS: Final = 4
"""A shorter secret would blank half of every message, and protects nothing."""
HIDDEN: Final = "***"

# Both take time in proportion to the text, which may be a header of a record that somebody else wrote: parts that
# could begin anywhere are bounded, or begin where their characters do.
_URL_PASSWORD = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]{0,31}://[^\s/:@]{0,256}:)[^\s@]{1,1024}@")
_COMPACT_JWE = re.compile(
    r"(?<![A-Za-z0-9_-])(?=[A-Za-z0-9_-]*?eyJ[A-Za-z0-9_-])[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]*+){4}"
)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets, passwords in addresses, encrypted parts and card numbers."""
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET_CHARACTERS:
            text = text.replace(secret, HIDDEN)
    text = _URL_PASSWORD.sub(rf"\g<head>{HIDDEN}@", text)
    return without_card_numbers(_COMPACT_JWE.sub("[encrypted]", text))


def without_card_numbers(text: str) -> str:
    """The text with card numbers masked, however they are written."""
    return redact_text(text, CARDS_ONLY, longest_characters=None)


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would obey instead of show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
