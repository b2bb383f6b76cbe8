"""Reads files for `payouts pii-scan`, piece by piece: text in UTF-8 or UTF-16, what is compressed, and binary files.

Every file is read to its end or told as not searched. Not looked into: archives (zip, 7z, zstd, lz4 and their kin),
and what is encoded or encrypted inside of a file (base64).
"""

import bz2
import codecs
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from processors.pii.find import find
from processors.pii.hits import Kind

PIECE_BYTES: Final = 1 << 20
"""Read at a time; memory is a few times that, whatever the file."""
CONTEXT_CHARACTERS: Final = 1_024
"""What decides about a hit, its name before it and what follows, is nearer than this; no hit is longer."""
SNIFFED_BYTES: Final = 8_192
UTF16_SHARE: Final = 0.3
"""Of the bytes at every other place; English text in UTF-16 has zeroes at nearly all of them, a binary file spread."""

_UNPACKERS: Final[tuple[tuple[bytes, Callable[[Any], Any]], ...]] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
_ARCHIVES: Final = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"7z\xbc\xaf\x27\x1c",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"Rar!",
)


class Readable(Protocol):
    """Bytes from somewhere."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many; none at the end."""


class NotSearched(Exception):
    """A file, or the rest of it, was not looked at; says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a text something was found, counted from 1; in a binary file there is one line."""

    kind: Kind
    line: int
    column: int


def files_under(path: Path) -> Iterator[Path | NotSearched]:
    """The file itself, or every file of a folder; links in folders are not followed, pipes and sockets hold nothing."""
    if not path.is_dir():
        yield path
        return
    failed: list[OSError] = []
    for folder, names, files in os.walk(path, onerror=failed.append):
        names.sort()
        for name in sorted(files):
            file = Path(folder, name)
            try:
                if stat.S_ISREG(file.lstat().st_mode):
                    yield file
            except OSError:
                continue  # it has gone
    yield from (NotSearched(f"{error.filename}: {error.strerror}") for error in failed)


def scan_file(path: Path, kinds: Collection[Kind]) -> Iterator[Place]:
    """What a file holds. Raises NotSearched."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return  # renamed or removed meanwhile
    except OSError as error:
        raise NotSearched(error.strerror or type(error).__name__) from None
    with file:
        yield from scan_stream(file, kinds)


def scan_stream(stream: Readable, kinds: Collection[Kind]) -> Iterator[Place]:
    """What a stream of bytes holds, unpacked if it is compressed. Raises NotSearched."""
    try:
        yield from _scan(stream, kinds)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise NotSearched(reason or "it is damaged: not searched to its end") from None


def _scan(stream: Readable, kinds: Collection[Kind]) -> Iterator[Place]:
    head = _full(stream, SNIFFED_BYTES)
    source = _Ahead(head, stream)
    for magic, unpacked in _UNPACKERS:
        if head.startswith(magic):
            with unpacked(source) as inner:
                yield from _scan(inner, kinds)
            return
    if head.startswith(_ARCHIVES):
        raise NotSearched("an archive: unpack it")
    yield from find_in_pieces(_texts(source, encoding_of(head)), kinds)


def encoding_of(head: bytes) -> str:
    """How to read a file that begins so. What is no text is read byte by byte."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" not in head:
        return "utf-8"
    even, odd = (head[first::2].count(0) / max(1, len(head[first::2])) for first in (0, 1))
    if odd > UTF16_SHARE > even:
        return "utf-16-le"
    return "utf-16-be" if even > UTF16_SHARE > odd else "latin-1"


def find_in_pieces(pieces: Iterator[str], kinds: Collection[Kind]) -> Iterator[Place]:
    """Every hit once, wherever the pieces of a text are cut."""
    text, told, begins_at = "", 0, (1, 1)
    is_last = False
    while not is_last:
        piece = next(pieces, None)
        is_last = piece is None
        text += piece or ""
        # What is near the end is looked at again when more of it is known; what is before `told` was told.
        until = len(text) if is_last else max(told, len(text) - CONTEXT_CHARACTERS)
        place, (line, column) = 0, begins_at
        for hit in find(text, kinds):
            if told <= hit.start < until:
                line, column = _moved(text, place, hit.start, line, column)
                place = hit.start
                yield Place(hit.kind, line, column)
        cut = max(0, until - CONTEXT_CHARACTERS)
        begins_at = _moved(text, 0, cut, *begins_at)
        text, told = text[cut:], until - cut


def _moved(text: str, start: int, end: int, line: int, column: int) -> tuple[int, int]:
    breaks = text.count("\n", start, end)
    return line + breaks, end - text.rfind("\n", start, end) if breaks else column + end - start


def _texts(source: Readable, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    while data := source.read(PIECE_BYTES):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def _full(stream: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


class _Ahead:
    """A stream of which the beginning was read already."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """What was read already, then the rest."""
        if not self._head:
            return self._stream.read(size)
        end = len(self._head) if size < 0 else size
        taken, self._head = self._head[:end], self._head[end:]
        return taken + self._stream.read(-1) if size < 0 else taken
