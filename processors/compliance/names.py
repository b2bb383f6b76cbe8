"""Names in the form in which they are compared: "GARCÍA, José" and "Jose Garcia" are the same text."""

import re
import unicodedata
from typing import Final

# The published schema allows 200 characters; the matcher's time grows with the square of the length.
LONGEST_NAME_CHARACTERS: Final = 200

# Letters that Unicode does not decompose into a base letter and a mark.
_FOLDED: Final = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ł": "l", "ħ": "h", "ı": "i", "ŋ": "n", "þ": "th", "æ": "ae", "œ": "oe", "ŧ": "t"}
)
# Apostrophes stand inside one name, and some people leave them out.
_APOSTROPHES: Final = dict.fromkeys(map(ord, "'’‘ʼʻ`´"))
_SEPARATORS: Final = re.compile(r"[\W_]+")
# Forms of address say nothing about who it is and would only lower the score.
_HONORIFICS: Final = frozenset({"mr", "mrs", "ms", "miss", "mx", "dr", "prof", "sir", "dame"})
_FEWEST_TOKENS_LEFT: Final = 2


def normalise_name(name: str) -> str:
    """Lower case without accents, punctuation and forms of address, tokens sorted; empty when no letter is left."""
    decomposed = unicodedata.normalize("NFKD", name.translate(_APOSTROPHES).casefold())
    kept = "".join(
        character for character in decomposed if unicodedata.category(character) not in {"Mn", "Mc", "Me", "Cf"}
    )
    tokens = _SEPARATORS.sub(" ", kept.translate(_FOLDED)).split()
    significant = [token for token in tokens if token not in _HONORIFICS]
    return " ".join(sorted(significant if len(significant) >= _FEWEST_TOKENS_LEFT else tokens))


def is_latin(normal_name: str) -> bool:
    """Whether every letter is Latin: a list in Latin letters says nothing about a name in another script."""
    return normal_name.isascii() or all(
        unicodedata.name(character, "").startswith("LATIN ") for character in normal_name if character.isalpha()
    )
