"""W3C Trace Context, version 00: what a `traceparent` header says, and ids that derive from names.

    00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
       trace id                          span id          flags (of which only "sampled" is looked at)

A header is whatever somebody wrote: what is not exactly this form, names no trace, or spells a card number (P6) counts
as no header at all. Nothing is decided by what it says.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from schemas.card_numbers import DIGITS_MIN, looks_like_card_number

TRACEPARENT_HEADER: Final = "traceparent"
TRACEPARENT_CHARACTERS: Final = 55
SAMPLED: Final = 1
_FORM: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LONG_RUN: Final = re.compile(f"[0-9]{{{DIGITS_MIN},}}")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_RATIO_STEPS: Final = 2**64
# Fixed for ever: a payout must stay in its trace when the program is updated.
_NAMES: Final = b"payout-streams trace context 1/"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace. Ids are lower-case hexadecimal, of 32 and 16 digits, and not all zero."""

    trace_id: str
    span_id: str
    sampled: bool = False

    @property
    def traceparent(self) -> str:
        """As a header."""
        return f"00-{self.trace_id}-{self.span_id}-{SAMPLED if self.sampled else 0:02x}"


def parse_traceparent(text: str | None) -> TraceContext | None:
    """The place that a header names; None for everything that is not exactly one."""
    found = None if text is None or len(text) != TRACEPARENT_CHARACTERS else _FORM.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN or spells_card_number(trace_id) or spells_card_number(span_id):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & SAMPLED))


def header_context(headers: Iterable[tuple[str, bytes | str | None]] | None) -> TraceContext | None:
    """The place that a record's headers name; None when none does, or when more than one says something."""
    given = [value for name, value in headers or () if name == TRACEPARENT_HEADER and value is not None]
    if len(given) != 1 or len(given[0]) != TRACEPARENT_CHARACTERS:
        return None
    value = given[0]
    return parse_traceparent(value if isinstance(value, str) else bytes(value).decode("latin-1"))


def spells_card_number(hexadecimal: str) -> bool:
    """Whether an id is, or has between its letters or after zeros, a card number in clear."""
    runs = _LONG_RUN.findall(hexadecimal)
    return any(looks_like_card_number(form) for run in runs for form in (run, run.lstrip("0")))


def derived_trace_id(name: str) -> str:
    """A trace id that is the same for the same name, for ever."""
    return _derived(f"trace/{name}", digits=32)


def derived_span_id(name: str) -> str:
    """A span id that is the same for the same name, for ever."""
    return _derived(f"span/{name}", digits=16)


def _derived(name: str, *, digits: int) -> str:
    """By chance an id may be no id, or look like a card number (P6); the next one in line is taken then, always."""
    names = itertools.chain([name], (f"{name}\n{again}" for again in itertools.count(1)))
    ids = (hashlib.sha256(_NAMES + each.encode("utf-8", "replace")).hexdigest()[:digits] for each in names)
    return next(each for each in ids if each.strip("0") and not spells_card_number(each))


def is_sampled(trace_id: str, ratio: float) -> bool:
    """Whether a trace is among the `ratio` (0 to 1) that is recorded: as OpenTelemetry's TraceIdRatioBased decides."""
    return int(trace_id[16:], 16) < round(ratio * _RATIO_STEPS)
