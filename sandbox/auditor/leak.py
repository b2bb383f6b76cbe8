"""Looks for card numbers where none may be: in files, topics and tables (promise P6).

Two rules. One of the run's own numbers is found wherever it stands, in every encoding listed at `_encodings`. Any
other number is suspicious in text only: 13 to 19 digits that stand alone, with an issuer's prefix, a length that the
issuer uses, a right check digit (`schemas.card_numbers`), and written in one piece or in the groups that cards have.
Not suspicious are the fraction of a decimal, hexadecimal ids whose digits happen to be decimal (W3C trace ids, Visa's
status identifiers), and transaction identifiers: Visa's have 15 digits and may begin with 34 or 37 as a card number
of American Express does, so a 15-digit number is left out if it is known to be one or stands in a field of that name.

Nothing is sampled: every byte is looked at. To make that quick, bytes are first translated to classes (a digit, a
separator, a zero byte, …), in which the places where a number may begin stand out as short fixed marks that
`bytes.find` finds; only there are numbers compared. 60 to 120 MB/s on one core (`python -m bench.auditor_scale`).

Memory is bounded: an artefact is searched in pieces that overlap by more than any number can span.
Not seen: a number that base64 breaks over two lines, and what is compressed or encrypted inside of a record.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from sandbox.auditor.evidence import Leak
from schemas.card_numbers import (
    DIGITS_MAX,
    find_card_numbers,
    has_issuer_prefix,
    looks_like_card_number,
    passes_luhn,
)

PIECE_BYTES: Final = 1 << 20
"""How much of an artefact is in memory at a time."""
OVERLAP_BYTES: Final = 2_048
"""A 19-digit number spans at most 152 bytes in the widest encoding; the rest is what stands around it."""
CONTEXT_BYTES: Final = 512
"""What decides whether a number stands alone, and under which name, is nearer than this: 128 characters of text."""
LEAKS_TOLD_PER_ARTEFACT: Final = 5
"""An artefact counts once; this many places help to find the cause."""
SNIFFED_BYTES: Final = 8_192
"""A file is text if there is no zero byte this far: enough for every binary format in use here."""

_GROUPS: Final = {15: (4, 6, 5), 14: (4, 6, 4)}
# Between the groups of a number: as people type it, as a no-break space, and as a URL has it.
_SEPARATORS: Final = {" ": "spaces", "-": "hyphens", ".": "dots", "_": "underscores", "+": "plus signs", "%20": "URL"}
_NO_BREAK_SPACE: Final = "\u00a0"

# Classes of bytes. Whatever is not named is a dot; digits are 0; separators of one byte are a hyphen.
_NAMED_BYTES: Final = {
    **dict.fromkeys(b"0123456789", b"0"),
    **dict.fromkeys(b" ._+-", b"-"),
    **{byte: bytes([byte]) for byte in b"%\\&#;xu"},
    0x00: b"z",
    # UTF-8 of the no-break space, and of the thin spaces and dashes that word processors use.
    0xC2: b"n",
    0xA0: b"m",
    0xE2: b"p",
    0x80: b"q",
    **dict.fromkeys((0x89, 0xAF, *range(0x90, 0x96)), b"r"),
}
_CLASSES: Final = b"".join(_NAMED_BYTES.get(byte, b".") for byte in range(256))
# Every form begins with four digits in a row; twelve is the length of the shortest number.
_MARKS_IN_TEXT: Final = (b"0" * 12, b"0000-0000", b"0000%000000", b"0000nm0000")
_MARKS_IN_UTF16: Final = (b"0z0z0z0z",)
_MARKS_IN_ESCAPES: Final = (
    b"%00%00%00%00", b"\\u0000\\u0000\\u0000", b"\\x00\\x00\\x00\\x00", b"&#00;&#00;&#00;", b"&#x00;&#x00;&#x00;",
)  # fmt: skip
# Hexadecimal of four digits: eight decimal digits, of which every other one is a 3.
_MARK_IN_HEX: Final = b"0" * 8
_IN_HEX: Final = re.compile(rb"3(?=[0-9]3[0-9]3[0-9]3[0-9][23][0-9a-dA-D])")
# The first letter of a base64 group of three bytes, if the byte is a digit, a space or a hyphen. In 12 digits or more
# there are four such letters, each four places after the one before, wherever the number begins.
_BASE64_LEADS: Final = bytes(1 if byte in b"MNOIL" else 0 for byte in range(256))
_MARK_IN_BASE64: Final = bytes([1]) * 4
# A number begins up to two letters before the first whole group.
_BEFORE_BASE64_LEAD: Final = (0, 1, 2)
# What may be a number that nobody knows: 13 digits in one piece, or the first two groups of a card.
_MARK_OF_RUN: Final = b"0" * 13
_MARKS_OF_GROUPS: Final = (b"0000-0000", b"0000nm0000", b"0000pqr0000")
_RUN_OF_DIGITS: Final = re.compile(rb"[0-9]+")
_TWO_TO_SIX: Final = frozenset(b"23456")

_NAME_CHARACTERS: Final = 128
_TRANSACTION_IDENTIFIER_DIGITS: Final = 15
_TRANSACTION_FIELD: Final = re.compile(r"transaction[-_]?identifier\\*[\"']?\s*[:=]\s*\\*[\"']?$", re.IGNORECASE)
_HEX_IDS: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}|[0-9]{10}_[0-9]{1,5}_[0-9A-Za-z_]+)"
)
# In JSON and in a database's copy a line break is a letter, next to which a number would not stand alone.
_ESCAPED_SPACE: Final = re.compile(r"\\[ntr]")
_FRACTION: Final = re.compile(r"[0-9]\.$")
# A card number is printed in fours (the last group may be shorter), American Express 4-6-5, Diners Club 4-6-4.
_CARD_GROUPS: Final = re.compile(
    r"[0-9]{13,19}|[0-9]{4}(?:[^0-9][0-9]{4}){2,3}(?:[^0-9][0-9]{1,4})?|[0-9]{4}[^0-9][0-9]{6}[^0-9][0-9]{4,5}"
)
_NOT_DIGITS: Final = re.compile(r"[^0-9]")
_CARD_NUMBER: Final = re.compile(r"[0-9]{12,19}")


class Readable(Protocol):
    """What a file opened in binary mode can do."""

    def read(self, size: int, /) -> bytes: ...


class ScanFailed(RuntimeError):
    """An artefact could not be searched, so nothing can be said about it; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Where in the bytes searched a number begins, and how it is written."""

    start: int
    encoding: str
    ending: str | None


class _Patterns:
    """Numbers as bytes in the encodings of one family; at a mark they are compared exactly."""

    def __init__(self) -> None:
        self._named: dict[bytes, tuple[str, str]] = {}
        self._lengths: list[int] = []

    def add(self, data: bytes, encoding: str, ending: str) -> None:
        self._named.setdefault(data, (encoding, ending))
        if len(data) not in self._lengths:
            self._lengths.append(len(data))

    def at(self, data: bytes, start: int) -> Hit | None:
        """The number that begins exactly there."""
        for length in self._lengths:
            found = self._named.get(data[start : start + length])
            if found is not None:
                return Hit(start, *found)
        return None


class CardNumberSearch:
    """Searches bytes for the run's own card numbers, and text for whatever looks like one.

    `card_numbers` are digits only. ValueError: one is not; the message does not quote it.
    """

    def __init__(self, card_numbers: Iterable[str], *, transaction_identifiers: Collection[str] = ()) -> None:
        # Of a million identifiers hardly one looks like a card number; the others need no exception.
        self.transaction_identifiers = frozenset(filter(looks_like_card_number, transaction_identifiers))
        self.card_numbers = frozenset(card_numbers)
        self._text, self._utf16, self._hex = _Patterns(), _Patterns(), _Patterns()
        self._escapes, self._base64 = _Patterns(), _Patterns()
        for number in self.card_numbers:
            if not (number.isascii() and _CARD_NUMBER.fullmatch(number)):
                raise ValueError("one of the card numbers to search for is not 12 to 19 digits")
            self._add(number)

    def own(self, data: bytes) -> Iterator[Hit]:
        """Every place where one of the run's own numbers begins."""
        classes = data.translate(_CLASSES)
        yield from _at_marks(self._text, data, classes, _MARKS_IN_TEXT)
        yield from _at_marks(self._utf16, data, classes, _MARKS_IN_UTF16)
        yield from _at_marks(self._escapes, data, classes, _MARKS_IN_ESCAPES)
        if _MARK_IN_HEX in classes:
            starts = (candidate.start() for candidate in _IN_HEX.finditer(data))
            yield from filter(None, (self._hex.at(data, start) for start in starts))
        yield from self._in_base64(data)

    def suspicious(self, data: bytes) -> Iterator[Hit]:
        """As `unknown`, in UTF-8 text as bytes, and quick: only the neighbourhood of candidates is read as text."""
        for start in _candidates(data, data.translate(_CLASSES)):
            first = max(0, start - CONTEXT_BYTES)
            before = data[first:start].decode("utf-8", "replace")
            text = before + data[start : start + CONTEXT_BYTES].decode("utf-8", "replace")
            yield from (Hit(start, hit.encoding, None) for hit in self.unknown(text) if hit.start == len(before))

    def unknown(self, text: str) -> Iterator[Hit]:
        """Every place where another number begins that may be a card's; `start` counts characters."""
        masked = _HEX_IDS.sub(lambda match: "x" * len(match.group()), _ESCAPED_SPACE.sub("  ", text))
        for start, end in find_card_numbers(masked):
            if self._is_suspicious(masked, start, end):
                yield Hit(start, "plain digits, unknown to the run", None)

    def _in_base64(self, data: bytes) -> Iterator[Hit]:
        leads = data.translate(_BASE64_LEADS)
        told: set[int] = set()
        for place in range(4):
            lane = leads[place::4]
            found = lane.find(_MARK_IN_BASE64)
            while found >= 0:
                for before in _BEFORE_BASE64_LEAD:
                    start = 4 * found + place - before
                    hit = self._base64.at(data, start) if start >= 0 else None
                    # Other letters of a number may look like first ones too, and lead to the same place.
                    if hit is not None and start not in told:
                        told.add(start)
                        yield hit
                found = lane.find(_MARK_IN_BASE64, found + 1)

    def _add(self, number: str) -> None:
        """Every way in which a number is looked for."""
        ending = number[-4:]
        for form, text in _forms(number):
            self._text.add(text.encode(), form, ending)
        for form, text in _forms(number, separators=(" ", "-")):
            data = text.encode()
            # Without the last zero byte it is found in both byte orders.
            self._utf16.add(text.encode("utf-16-le")[:-1], f"{form}, UTF-16", ending)
            self._hex.add(data.hex().encode(), f"{form}, hexadecimal", ending)
            self._hex.add(data.hex().upper().encode(), f"{form}, hexadecimal", ending)
            for place in range(3):
                self._base64.add(_base64_core(data, place), f"{form}, base64", ending)
            for name, pattern in _ESCAPES:
                self._escapes.add("".join(map(pattern, text)).encode(), f"{form}, {name}", ending)

    def _is_suspicious(self, text: str, start: int, end: int) -> bool:
        number, before = text[start:end], text[max(0, start - _NAME_CHARACTERS) : start]
        if _FRACTION.search(before) or not _CARD_GROUPS.fullmatch(number):
            return False
        if _NOT_DIGITS.sub("", number) in self.card_numbers:
            return False
        if len(number) != _TRANSACTION_IDENTIFIER_DIGITS:
            return True
        return number not in self.transaction_identifiers and not _TRANSACTION_FIELD.search(before)


class Artefact:
    """One artefact under search; pieces of it are added one after the other and searched in bulk.

    Pieces are records: no number spans two of them. For a stream of bytes see `scan_stream`.
    """

    def __init__(self, name: str, search: CardNumberSearch) -> None:
        self.name = name
        self.leaks: list[Leak] = []
        self._search = search
        self._pieces: dict[bool, list[tuple[str, bytes]]] = {True: [], False: []}
        self._sizes = {True: 0, False: 0}

    def add(self, where: str, data: bytes, *, is_text: bool) -> None:
        """A record of the artefact: `where` says which; text is searched for unknown numbers too."""
        self._pieces[is_text].append((where, data))
        self._sizes[is_text] += len(data)
        if self._sizes[is_text] >= PIECE_BYTES:
            self._search_pieces(is_text)

    def finish(self) -> list[Leak]:
        """Search what is left; the leaks of the artefact, at most LEAKS_TOLD_PER_ARTEFACT of them."""
        for is_text in (True, False):
            self._search_pieces(is_text)
        return self.leaks

    def _search_pieces(self, is_text: bool) -> None:
        pieces, self._pieces[is_text], self._sizes[is_text] = self._pieces[is_text], [], 0
        together = b"\n".join(data for _, data in pieces)
        if not self._has_hit(together, is_text):
            return
        for where, data in pieces:
            for hit in self._hits(data, is_text):
                self.found(where, hit)

    def _has_hit(self, data: bytes, is_text: bool) -> bool:
        return next(iter(self._hits(data, is_text)), None) is not None

    def _hits(self, data: bytes, is_text: bool) -> Iterator[Hit]:
        yield from self._search.own(data)
        if is_text:
            yield from self._search.suspicious(data)

    def found(self, where: str, hit: Hit) -> None:
        """Write down one finding."""
        leak = Leak(self.name, where, hit.encoding, hit.ending)
        if len(self.leaks) < LEAKS_TOLD_PER_ARTEFACT and leak not in self.leaks:
            self.leaks.append(leak)


def scan_stream(artefact: Artefact, search: CardNumberSearch, stream: Readable, *, is_text: bool) -> None:
    """Search a stream of bytes of any length; a number across the border of two pieces is seen as well."""
    offset, held, is_first = 0, b"", True
    while True:
        read = stream.read(PIECE_BYTES)
        data, is_last = held + read, not read
        for hit in search.own(data):
            artefact.found(f"byte {offset + hit.start}", hit)
        if is_text:
            lower = 0 if is_first else CONTEXT_BYTES
            upper = len(data) if is_last else len(data) - CONTEXT_BYTES
            for hit in search.suspicious(data):
                if lower <= hit.start < upper:
                    artefact.found(f"byte {offset + hit.start}", hit)
        if is_last or len(artefact.leaks) >= LEAKS_TOLD_PER_ARTEFACT:
            return
        offset += max(0, len(data) - OVERLAP_BYTES)
        held, is_first = data[-OVERLAP_BYTES:], is_first and len(data) <= OVERLAP_BYTES


def scan_paths(search: CardNumberSearch, paths: Sequence[Path], *, excepted: Collection[Path] = ()) -> list[Leak]:
    """Search files and whole directories (symbolic links are not followed). Raises ScanFailed.

    `excepted` are files left out: the run's own input. What is compressed with gzip is searched uncompressed.
    """
    left_out = {path.resolve() for path in excepted}
    leaks: list[Leak] = []
    for path in paths:
        if not path.exists():
            raise ScanFailed(f"{path} is to be searched for card numbers and does not exist: name what the run wrote")
        for file in _files(path):
            if file.resolve() not in left_out:
                leaks.extend(_scan_file(search, file))
    return leaks


def _scan_file(search: CardNumberSearch, path: Path) -> list[Leak]:
    artefact = Artefact(f"file {path}", search)
    # A file's name is part of what it tells.
    artefact.add("its name", path.name.encode("utf-8", "replace"), is_text=True)
    artefact.finish()
    try:
        with path.open("rb") as file:
            head = file.read(SNIFFED_BYTES)
            file.seek(0)
            scan_stream(artefact, search, file, is_text=b"\0" not in head)
            if head.startswith(b"\x1f\x8b"):
                file.seek(0)
                _scan_gzip(artefact, search, file)
    except FileNotFoundError:
        # It was renamed or removed meanwhile: its successor is in the listing, or it is no artefact any more.
        return artefact.leaks
    except OSError as error:
        raise ScanFailed(f"{path} cannot be searched for card numbers ({error.strerror}): make it readable") from error
    return artefact.leaks


def _scan_gzip(artefact: Artefact, search: CardNumberSearch, file: io.BufferedReader) -> None:
    try:
        with gzip.open(file) as unpacked:
            scan_stream(artefact, search, unpacked, is_text=True)
    except (gzip.BadGzipFile, EOFError) as error:
        raise ScanFailed(f"{artefact.name} begins as a gzip file and is none ({type(error).__name__})") from error


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path, onerror=_cannot_list):
        for name in sorted(names):
            file = Path(folder, name)
            if _is_regular(file):
                yield file


def _is_regular(path: Path) -> bool:
    """Sockets, pipes and links hold nothing of their own; a file that has just gone holds nothing any more."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _cannot_list(error: OSError) -> None:
    raise ScanFailed(f"{error.filename} cannot be searched for card numbers ({error.strerror}): make it readable")


def _at_marks(patterns: _Patterns, data: bytes, classes: bytes, marks: Iterable[bytes]) -> Iterator[Hit]:
    for mark in marks:
        start = classes.find(mark)
        while start >= 0:
            hit = patterns.at(data, start)
            if hit is not None:
                yield hit
            start = classes.find(mark, start + 1)


def _candidates(data: bytes, classes: bytes) -> Iterator[int]:
    """Where a card number may begin in text: right prefix, length and check digit in one piece, or groups."""
    start = classes.find(_MARK_OF_RUN)
    while start >= 0:
        run = _RUN_OF_DIGITS.match(data, start)
        end = run.end() if run is not None else start + 1
        if data[start] in _TWO_TO_SIX and end - start <= DIGITS_MAX:
            digits = data[start:end].decode()
            if has_issuer_prefix(digits) and passes_luhn(digits):
                yield start
        start = classes.find(_MARK_OF_RUN, end)
    for mark in _MARKS_OF_GROUPS:
        start = classes.find(mark)
        while start >= 0:
            if data[start] in _TWO_TO_SIX and not (start and classes[start - 1] == classes[start]):
                yield start
            start = classes.find(mark, start + 1)


_ESCAPES: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    ("URL-encoded", lambda character: f"%{ord(character):02x}"),
    ("URL-encoded", lambda character: f"%{ord(character):02X}"),
    ("escaped as in JSON", lambda character: f"\\u{ord(character):04x}"),
    ("escaped as in Python", lambda character: f"\\x{ord(character):02x}"),
    ("escaped as in XML", lambda character: f"&#{ord(character)};"),
    ("escaped as in XML", lambda character: f"&#x{ord(character):x};"),
)


def _forms(number: str, separators: Iterable[str] = (*_SEPARATORS, _NO_BREAK_SPACE)) -> Iterator[tuple[str, str]]:
    """How a number may be written: name and text."""
    yield "plain digits", number
    yield "reversed digits", number[::-1]
    fours = [number[place : place + 4] for place in range(0, len(number), 4)]
    for separator in separators:
        name = f"digits with {_SEPARATORS.get(separator, 'no-break spaces')}"
        yield name, separator.join(fours)
        if len(number) in _GROUPS:
            first, second, _ = _GROUPS[len(number)]
            groups = (number[:first], number[first : first + second], number[first + second :])
            yield name, separator.join(groups)


def _base64_core(data: bytes, place: int) -> bytes:
    """The characters of base64 that `data` alone decides if it begins at byte `place` of a group of three.

    Digits, spaces and hyphens never give + or /, so this is base64url as well.
    """
    first = (0, 2, 3)[place]
    end = (place + len(data)) * 8 // 6
    return base64.b64encode(bytes(place) + data + bytes(3))[first:end]
