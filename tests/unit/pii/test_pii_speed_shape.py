"""S1-10: a search takes time in proportion to the text, whoever wrote it. No clock: what is counted is the work."""

from __future__ import annotations

import re
import sys
from re import _parser  # type: ignore[attr-defined]
from types import FrameType, ModuleType

import pytest

from processors.pii import cards, escapes, patterns
from processors.pii import find as finding
from processors.pii.redaction import redact_text

PATTERN_CHARACTERS_MAX = 800
# A run is taken whole, and what is no run has fewer than 13 digits: what was looked at is not looked at again.
UNBOUNDED = {"cards._RUN", "cards._GROUP", "cards._HEX"}
PIECES = (
    "4 ", "4-", "1", "4", "4111 ", "4.", "41111111-1111-1111-", "1234567890ab", "\\", "\\n", "\\u0034", "%", "%34",
    "&#52;", "４ ", "\u200b4", "\x1b[1m", "@", "a@", "a.", "a@a.", "+1", "+1 ", "(555) ", "123-", "* ", "xx4111 ",
    "GB82 ", "AA00", "pin", "pin 1", "cvv: 1", "account number 1 ", "exp 1", "tax id ", "phone: 1", "4111\n",
    "transactionIdentifier=",
)  # fmt: skip


def _patterns(module: ModuleType) -> dict[str, re.Pattern[str]]:
    name = module.__name__.rpartition(".")[2]
    return {f"{name}.{key}": value for key, value in vars(module).items() if isinstance(value, re.Pattern)}


def test_every_pattern_is_bounded() -> None:
    """From any place a pattern looks at so many characters and no more, so that n places cost n times a constant."""
    every = _patterns(cards) | _patterns(escapes) | _patterns(patterns) | _patterns(finding)
    assert len(every) > 15
    widths = {name: _parser.parse(found.pattern, found.flags).getwidth()[1] for name, found in every.items()}
    assert {name for name, width in widths.items() if width > PATTERN_CHARACTERS_MAX} == UNBOUNDED


def _calls(text: str) -> int:
    count = 0

    def counted(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        redact_text(text, longest_characters=None)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("piece", PIECES)
def test_twice_the_text_is_twice_the_work(piece: str) -> None:
    """Calls of functions, those of the library included; what a single search costs is bounded by the test above."""
    once, twice = (_calls((piece * size)[:size]) for size in (4_000, 8_000))
    assert twice <= 2.05 * once + 50
