"""A backup's directory: its manifest, and whether every byte of it is as it was written. Knows no server.

backup/
  manifest.json           what it is, when, of which database; SHA-256 and size of every other file
  manifest.sha256         of the manifest itself
  ledger.dump             pg_dump's custom format
  offsets.json            with --include-offsets
  topics/NAME.jsonl.gz    with --include-topics
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ops.failures import CommandFailed, refused, usage_error
from ops.output import iso_time, parse_time, to_json
from ops.private_files import write_private

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MANIFEST_HASH: Final = "manifest.sha256"
DUMP: Final = "ledger.dump"
OFFSETS: Final = "offsets.json"
TOPICS: Final = "topics"
MANIFEST_BYTES_MAX: Final = 16 * 1024 * 1024
CHUNK_BYTES: Final = 1024 * 1024


class Part(StrEnum):
    """The parts, in the order in which they are put back."""

    LEDGER = "ledger"
    TOPICS = "topics"
    OFFSETS = "offsets"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself."""

    backup_id: str
    created_by: str
    program: str
    postgresql: str
    major: int
    revision: str
    system_identifier: str
    timeline: int
    sequence: int
    """Of the sealed head at the snapshot; `hash` is its hash."""
    hash: str
    published_sequence: int
    identity_position: int
    history_lines: int
    snapshot_at: datetime
    """By the database's clock, as the two others."""
    offsets_at: datetime | None
    """When the offsets were read: before the snapshot, so that they are never ahead of the ledger."""
    topics_at: datetime | None
    """When the topics' records were read: after the snapshot, so that they hold all that the ledger has published."""
    money: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """What it holds, in the order of putting back."""
        found = [Part.LEDGER]
        if any(name.startswith(f"{TOPICS}/") for name in self.files):
            found.append(Part.TOPICS)
        if OFFSETS in self.files:
            found.append(Part.OFFSETS)
        return found

    def order_problem(self) -> str | None:
        """Why its parts do not belong together: offsets of later, or topics of before."""
        if self.offsets_at is not None and self.offsets_at > self.snapshot_at:
            return (
                f"its offsets ({iso_time(self.offsets_at)}) were read after its ledger ({iso_time(self.snapshot_at)}): "
                "requests between the two would be read by nobody"
            )
        if self.topics_at is not None and self.topics_at < self.snapshot_at:
            return (
                f"its topics ({iso_time(self.topics_at)}) were read before its ledger ({iso_time(self.snapshot_at)}): "
                "results that the ledger has published would be missing"
            )
        return None


def sha256_of(path: Path) -> tuple[str, int]:
    """Hash and size, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def seal_directory(directory: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with the hashes of all that is there; everything is on the disk when this returns."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, MANIFEST_HASH):
            _to_disk(path)
            digest, size = sha256_of(path)
            files[str(path.relative_to(directory))] = {"sha256": digest, "bytes": size}
    whole = Manifest(**{**_fields(manifest), "files": files})
    text = to_json({"format": FORMAT, **asdict(whole)}, indent=1) + "\n"
    write_private(directory / MANIFEST, text)
    write_private(directory / MANIFEST_HASH, _hash_line(directory / MANIFEST))
    return whole


def _hash_line(path: Path) -> str:
    """As `sha256sum` writes and checks it."""
    return f"{sha256_of(path)[0]}  {path.name}\n"


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checked(directory: Path) -> Manifest:
    """The manifest of a backup that is whole. Raises CommandFailed: usage (no backup), refused (a changed byte)."""
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise usage_error(f"{path} is no manifest", why="it is too large for one")
        said = (directory / MANIFEST_HASH).read_text(encoding="ascii")
        if said != _hash_line(path):
            raise changed(MANIFEST)
        document = json.loads(path.read_text(encoding="utf-8"))
        manifest = _manifest(document)
    except OSError as error:
        raise usage_error(
            f"{directory} is no backup",
            why=f"{Path(error.filename or MANIFEST).name}: {error.strerror or type(error).__name__}",
            next_step="give the directory that `payouts ledger backup` wrote",
        ) from None
    except (ValueError, TypeError, KeyError):
        raise refused(
            f"the manifest of {directory} cannot be read",
            why="it is not of this program, or of a newer one",
            next_step="use the release that wrote it",
        ) from None
    for name, expected in manifest.files.items():
        _check_file(directory, name, expected)
    return manifest


def _check_file(directory: Path, name: str, expected: Mapping[str, Any]) -> None:
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise refused("the manifest names a file outside of the backup", next_step="take another backup")
    try:
        found = sha256_of(path)
    except OSError:
        raise refused(
            f"{name} is missing from the backup", next_step="copy the whole directory again, or take another backup"
        ) from None
    if found != (expected["sha256"], expected["bytes"]):
        raise changed(name)


def changed(name: str) -> CommandFailed:
    """A file is not what was written."""
    return refused(
        f"{name} is not as it was written",
        why="its SHA-256 is another one: a byte was changed, or the copy is not complete",
        next_step="copy the whole directory again, or take another backup",
    )


def _manifest(document: Mapping[str, Any]) -> Manifest:
    if document["format"] != FORMAT:
        raise ValueError("another format")
    values = {name: document[name] for name in Manifest.__dataclass_fields__}
    for name in ("snapshot_at", "offsets_at", "topics_at"):
        values[name] = None if values[name] is None else parse_time(values[name])
    return Manifest(**values)


def prepared_directory(target: Path) -> Path:
    """An empty directory beside `target`, which becomes it when all is written. Raises CommandFailed (usage)."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise usage_error(f"{target} is there already", next_step="name a new directory: backups are never overwritten")
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise usage_error(
            f"{partial} is there already",
            why="another backup is being written, or one was interrupted",
            next_step="remove it if no backup runs",
        ) from None
    except OSError as error:
        raise usage_error(f"{partial} cannot be made", why=error.strerror or "") from None
    return partial
