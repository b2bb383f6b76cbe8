"""A text without its escapes, and where each character of it came from.

`\\u0034`, `\\x34`, `\\n`, `%34`, `&#52;`, digits of other scripts, invisible characters and terminal colours all hide a
number from whoever compares characters. One layer is taken off; what was escaped twice is not claimed, nor base64.
"""

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

_ESCAPE: Final = re.compile(
    r"""
    \\u(?P<json>[0-9A-Fa-f]{4})
    | \\x(?P<python>[0-9A-Fa-f]{2})
    | \\(?P<letter>[nrt])
    | (?P<url>%[0-7][0-9A-Fa-f] | %[CDcd][0-9A-Fa-f]%[89ABab][0-9A-Fa-f] | %[Ee][0-9A-Fa-f](?:%[89ABab][0-9A-Fa-f]){2})
    | &\#x(?P<hexadecimal>[0-9A-Fa-f]{1,5});
    | &\#(?P<decimal>[0-9]{1,6});
    | (?P<space>&nbsp;)
    | (?P<nothing>[\u00ad\u200b-\u200d\u2060\ufeff] | \x1b\[[0-9;]{0,16}m | =\r?\n)
    | (?P<digit>(?![0-9])\d)
    """,
    re.VERBOSE,
)
_LETTERS: Final = {"n": "\n", "r": "\r", "t": "\t"}
_LARGEST_CODE_POINT: Final = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Unescaped:
    """The text that was meant. `source(place)` says where a place of it is in the text that was given."""

    text: str
    _ours: list[int]
    _theirs: list[int]

    def source(self, place: int) -> int:
        """The place in the given text."""
        index = bisect_right(self._ours, place) - 1
        return self._theirs[index] + place - self._ours[index]


def may_hold_escapes(text: str) -> bool:
    """Whether there could be any: quick, and written out because it is asked of every log line."""
    if not text.isascii() or "\\" in text or "%" in text or "&" in text:
        return True
    return "\x1b" in text or "=\n" in text or "=\r" in text


def unescaped(text: str) -> Unescaped | None:
    """The text with one layer of escapes taken off; None when there is none. Linear in the text's length."""
    if not may_hold_escapes(text):
        return None
    parts: list[str] = []
    ours, theirs = [0], [0]
    end = length = 0
    for match in _ESCAPE.finditer(text):
        meant = _meant(match)
        before = text[end : match.start()]
        end = match.end()
        length += len(before) + len(meant)
        parts += (before, meant)
        ours.append(length)
        theirs.append(end)
    if not parts:
        return None
    parts.append(text[end:])
    return Unescaped("".join(parts), ours, theirs)


def _meant(match: re.Match[str]) -> str:
    name, written = match.lastgroup, match[match.lastgroup or 0]
    match name:
        case "json" | "python" | "hexadecimal":
            return _character(int(written, 16))
        case "decimal":
            return _character(int(written))
        case "letter":
            return _LETTERS[written]
        case "url":
            return bytes.fromhex(written.replace("%", "")).decode("utf-8", "replace")[:1]
        case "space":
            return "\u00a0"
        case "digit":
            return str(unicodedata.decimal(written))
        case _:
            return ""


def _character(code_point: int) -> str:
    return chr(code_point) if code_point <= _LARGEST_CODE_POINT else "\ufffd"
