"""Looks for card numbers where none may be: in files, topics and tables (promise P6).

Two rules. One of the run's own numbers is found wherever it stands, in every encoding listed at `_encodings`. Any
other number is suspicious in text only: 13 to 19 digits that stand alone, with an issuer's prefix, a length that the
issuer uses, a right check digit (`schemas.card_numbers`), and written in one piece or in the groups that cards have.
Not suspicious are the fraction of a decimal, hexadecimal ids whose digits happen to be decimal (W3C trace ids, Visa's
status identifiers), and transaction identifiers: Visa's have 15 digits and may begin with 34 or 37 as a card number
of American Express does, so a 15-digit number is left out if it is known to be one or stands in a field of that name.

Memory is bounded: an artefact is searched in pieces that overlap by more than any number can span.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from sandbox.auditor.evidence import Leak
from schemas.card_numbers import find_card_numbers

PIECE_BYTES: Final = 1 << 20
"""How much of an artefact is in memory at a time."""
OVERLAP_BYTES: Final = 2_048
"""A 19-digit number spans at most 152 bytes in the widest encoding; the rest is what stands around it."""
CONTEXT_CHARACTERS: Final = 128
"""What decides whether a number stands alone, and under which name, is nearer than this."""
LEAKS_TOLD_PER_ARTEFACT: Final = 5
"""An artefact counts once; this many places help to find the cause."""
SNIFFED_BYTES: Final = 8_192
"""A file is text if there is no zero byte this far: enough for every binary format in use here."""

_GROUPS: Final = {15: (4, 6, 5), 14: (4, 6, 4)}
# Between the groups of a number: as people type it, as a no-break space, and as a URL has it.
_SEPARATORS: Final = {" ": "spaces", "-": "hyphens", ".": "dots", "_": "underscores", "+": "plus signs", "%20": "URL"}
_NO_BREAK_SPACE: Final = "\u00a0"

# Where a number may begin, for each family of encodings: a cheap filter before the exact comparison.
_SEPARATOR: Final = rb"(?:[ ._+-]|%20|\xc2\xa0)"
_IN_TEXT: Final = rb"[0-9](?=[0-9]{11}|[0-9]{3}" + _SEPARATOR + rb"[0-9]{4})"
_IN_UTF16: Final = rb"[0-9](?=\x00[0-9]\x00[0-9]\x00[0-9]\x00)"
_IN_HEX: Final = rb"3(?=[0-9]3[0-9]3[0-9]3[0-9][23][0-9a-dA-D])"
_IN_ESCAPES: Final = rb"[%\\&](?=[0-9uxX#]{1,3}[0-9])"
# A byte 0x30 to 0x39 leaves few letters at each of base64's four places, whatever stands before it.
_IN_BASE64: Final = (
    rb"[MNO](?=[DTjz][AEIMQUYcgk][w-z0-5][MNO])",
    rb"[AEIMQUYcgk](?=[w-z0-5][MNO][DTjz])",
    rb"[w-z0-5](?=[MNO][DTjz][AEIMQUYcgk][w-z0-5])",
)

_TRANSACTION_IDENTIFIER_DIGITS: Final = 15
_TRANSACTION_FIELD: Final = re.compile(r"transaction[-_]?identifier\\*[\"']?\s*[:=]\s*\\*[\"']?$", re.IGNORECASE)
_HEX_IDS: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}|[0-9]{10}_[0-9]{1,5}_[0-9A-Za-z_]+)"
)
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


@dataclass(frozen=True, slots=True)
class _Family:
    """Encodings that begin alike: a filter, then exact comparison with every number in every one of them."""

    candidate: re.Pattern[bytes]
    patterns: dict[bytes, tuple[str, str]] = field(default_factory=dict, repr=False)
    """Encoded number: name of the encoding, last four digits."""

    def hits(self, data: bytes) -> Iterator[Hit]:
        lengths = sorted({len(pattern) for pattern in self.patterns})
        for candidate in self.candidate.finditer(data):
            start = candidate.start()
            for length in lengths:
                found = self.patterns.get(data[start : start + length])
                if found is not None:
                    yield Hit(start, *found)
                    break


class CardNumberSearch:
    """Searches bytes and text for the run's own card numbers, and text for whatever looks like one.

    `card_numbers` are digits only. ValueError: one is not; the message does not quote it.
    """

    def __init__(self, card_numbers: Iterable[str], *, transaction_identifiers: Collection[str] = ()) -> None:
        self._transaction_identifiers = frozenset(transaction_identifiers)
        self._own = frozenset(card_numbers)
        self._families = _families(self._own)

    def own(self, data: bytes) -> Iterator[Hit]:
        """Every place where one of the run's own numbers begins."""
        for family in self._families:
            yield from family.hits(data)

    def unknown(self, text: str) -> Iterator[Hit]:
        """Every place where another number begins that may be a card's; `start` counts characters."""
        masked = _HEX_IDS.sub(lambda match: "x" * len(match.group()), text)
        for start, end in find_card_numbers(masked):
            if self._is_suspicious(masked, start, end):
                yield Hit(start, "plain digits, unknown to the run", None)

    def _is_suspicious(self, text: str, start: int, end: int) -> bool:
        number, before = text[start:end], text[max(0, start - CONTEXT_CHARACTERS) : start]
        if _FRACTION.search(before) or not _CARD_GROUPS.fullmatch(number):
            return False
        if _NOT_DIGITS.sub("", number) in self._own:
            return False
        if len(number) != _TRANSACTION_IDENTIFIER_DIGITS:
            return True
        return number not in self._transaction_identifiers and not _TRANSACTION_FIELD.search(before)


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
            yield from self._search.unknown(data.decode("utf-8", "replace"))

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
            text = data.decode("utf-8", "replace")
            lower = 0 if is_first else CONTEXT_CHARACTERS
            upper = len(text) if is_last else len(text) - CONTEXT_CHARACTERS
            for hit in search.unknown(text):
                if lower <= hit.start < upper:
                    artefact.found(f"about byte {offset + hit.start}", hit)
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


def _families(card_numbers: Iterable[str]) -> list[_Family]:
    patterns: dict[bytes, dict[bytes, tuple[str, str]]] = {}
    for number in card_numbers:
        if not (number.isascii() and _CARD_NUMBER.fullmatch(number)):
            raise ValueError("one of the card numbers to search for is not 12 to 19 digits")
        for candidate, encoding, data in _encodings(number):
            patterns.setdefault(candidate, {}).setdefault(data, (encoding, number[-4:]))
    return [_Family(re.compile(candidate), found) for candidate, found in patterns.items()]


def _encodings(number: str) -> Iterator[tuple[bytes, str, bytes]]:
    """Every way in which a number is looked for: candidate filter, name, bytes."""
    for form, text in _forms(number):
        yield _IN_TEXT, form, text.encode()
    for form, text in _forms(number, separators=(" ", "-")):
        data = text.encode()
        # Without the last zero byte it is found in both byte orders.
        yield _IN_UTF16, f"{form}, UTF-16", text.encode("utf-16-le")[:-1]
        yield _IN_HEX, f"{form}, hexadecimal", data.hex().encode()
        yield _IN_HEX, f"{form}, hexadecimal", data.hex().upper().encode()
        for place, candidate in enumerate(_IN_BASE64):
            yield candidate, f"{form}, base64", _base64_core(data, place)
        for name, pattern in _ESCAPES:
            yield _IN_ESCAPES, f"{form}, {name}", "".join(map(pattern, text)).encode()


_ESCAPES: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    ("URL-encoded", lambda character: f"%{ord(character):02x}"),
    ("URL-encoded", lambda character: f"%{ord(character):02X}"),
    ("escaped as in JSON", lambda character: f"\\u{ord(character):04x}"),
    ("escaped as in Python", lambda character: f"\\x{ord(character):02x}"),
    ("escaped as in XML", lambda character: f"&#{ord(character)};"),
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
