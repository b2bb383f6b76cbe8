"""Where inputs are kept: a small corpus, and every input that ever showed a fault."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from schemas.card_numbers import find_card_numbers
from tests.fuzz.harness import Target
from tests.fuzz.values import CARDS

CORPUS: Final = Path(__file__).with_name("corpus")
FINDINGS: Final = Path(__file__).with_name("findings")
KEPT_BYTES_MAX: Final = 48 * 1024
"""Of one target: all of them together stay below a megabyte, and are replayed in seconds."""
KEPT_FILES_MAX: Final = 200


def kept(target: Target) -> list[Path]:
    """The target's kept inputs, those that showed a fault first."""
    return [*_files(FINDINGS / target.name), *_files(CORPUS / target.name)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def name_of(data: bytes) -> str:
    """The file name of an input, as libFuzzer gives it."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def fill(folder: Path, target: Target) -> None:
    """Write what a run begins with: seeds made anew, and whatever was kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in (*target.seeds(), *(path.read_bytes() for path in kept(target))):
        (folder / name_of(data)).write_bytes(data)


def keep(minimised: Path, target: Target) -> tuple[int, int]:
    """Replace the target's corpus by these files, the smallest first, as far as they fit: (files, bytes)."""
    chosen: list[bytes] = []
    size = 0
    for data in sorted((path.read_bytes() for path in _files(minimised)), key=len):
        if foreign_card_numbers(data):
            continue
        if size + len(data) > KEPT_BYTES_MAX or len(chosen) == KEPT_FILES_MAX:
            break
        chosen.append(data)
        size += len(data)
    folder = CORPUS / target.name
    folder.mkdir(parents=True, exist_ok=True)
    for path in _files(folder):
        path.unlink()
    for data in chosen:
        (folder / name_of(data)).write_bytes(data)
    return len(chosen), size


def foreign_card_numbers(data: bytes) -> Sequence[str]:
    """What looks like a card number in an input and is no published test number: a mutation may make a real one."""
    return [number for number in _numbers(data) if number not in CARDS]


def _numbers(data: bytes) -> Iterator[str]:
    for text in {data.decode("latin-1"), data.decode("utf-8", "replace")}:
        for start, end in find_card_numbers(text):
            yield "".join(character for character in text[start:end] if character in "0123456789")
