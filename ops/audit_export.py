"""Files of the sealed history and their manifest: written, and checked again without anything of ours (rule L10).

    audit-000000001-000004711.csv     every record in order, its own hash and that of the one before in it
    manifest.json                     SHA-256, size and records of each file, first and last sequence, head hash

In a CSV file nothing is an empty cell, and a cell that a spreadsheet would compute begins with an apostrophe. What
looks like a card number or personal data is masked and its record named in the manifest; its links hold all the same.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final

from ledger.audit_check import Chain, Found
from ledger.seal_chain import FIRST_PREVIOUS_HASH, Head
from ops.backup_files import sha256_of
from ops.output import iso_time, parse_time
from processors.pii.hits import Kind
from processors.pii.redaction import redact_text

MANIFEST: Final = "manifest.json"
MANIFEST_VERSION: Final = 1
MANIFEST_BYTES_MAX: Final = 16 * 1024 * 1024
LINE_CHARACTERS_MAX: Final = 4 * 1024 * 1024
"""Longer than any record: a file with a longer line is none of ours."""
FIELDS: Final = (
    "sequence", "previous_hash", "hash", "at", "actor", "action", "subject", "payout_id", "version", "from_state",
    "to_state", "reason", "detail", "system_identifier", "timeline",
)  # fmt: skip
"""Those of an AuditRecord, in this order."""
_NUMBERS: Final = frozenset({"sequence", "version", "timeline"})
_TEXTS: Final = ("actor", "reason", "detail")
"""What people wrote, or others: the rest are codes and numbers of ours."""
_KINDS: Final = frozenset({Kind.CARD, Kind.CARD_MASKED, Kind.ACCOUNT, Kind.SSN, Kind.CVV, Kind.PIN, Kind.EMAIL})
_COMPUTED: Final = ("=", "+", "-", "@", "\t", "\r", "'")

csv.field_size_limit(LINE_CHARACTERS_MAX)


class Format(StrEnum):
    """How the records are written."""

    CSV = "csv"
    JSON = "json"
    """One object a line."""


class NotAnExport(Exception):
    """The manifest or a file of it cannot be read as what it should be; the text says why."""


@dataclass(slots=True)
class Exported:
    """What was written so far."""

    records: int = 0
    first_sequence: int | None = None
    previous_hash: str = FIRST_PREVIOUS_HASH
    """Of the record before the first."""
    last_sequence: int | None = None
    head_hash: str | None = None
    masked: list[int] = field(default_factory=list)
    """Records in which something was masked: their content no longer gives their hash."""


class ExportWriter:
    """Writes records into one open file, and counts."""

    def __init__(self, file: IO[str], form: Format) -> None:
        self.done = Exported()
        self._file = file
        self._form = form
        # All in quotes: by itself the library leaves a lone carriage return bare, and reads it as an end of line.
        self._writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        if form is Format.CSV:
            self._writer.writerow(FIELDS)

    def write(self, record: Mapping[str, Any]) -> None:
        """One record, masked."""
        shown = masked(record)
        sequence = int(record["sequence"])
        done = self.done
        if done.first_sequence is None:
            done.first_sequence, done.previous_hash = sequence, str(record["previous_hash"])
        if any(shown[name] != record[name] for name in _TEXTS):
            done.masked.append(sequence)
        done.records += 1
        done.last_sequence, done.head_hash = sequence, str(record["hash"])
        if self._form is Format.CSV:
            self._writer.writerow([_cell(shown[name]) for name in FIELDS])
        else:
            self._file.write(json.dumps({name: _plain(shown[name]) for name in FIELDS}, ensure_ascii=True) + "\n")


def masked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without what looks like personal data or a card number."""
    texts = {
        name: redact_text(value, _KINDS, longest_characters=None)
        for name in _TEXTS
        if isinstance(value := record[name], str)
    }
    return {**record, **texts}


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell of any type
    return iso_time(value) if isinstance(value, datetime) else value


def _cell(value: Any) -> str:  # noqa: ANN401
    text = "" if value is None else str(_plain(value))
    return f"'{text}" if text.startswith(_COMPUTED) else text


def file_name(first: int, last: int, form: Format) -> str:
    """`audit-000000001-000004711.csv`."""
    return f"audit-{first:09}-{last:09}.{'csv' if form is Format.CSV else 'jsonl'}"


def manifest_of(
    done: Exported, path: Path, *, form: Format, system_identifier: str, created_at: datetime, retention_days: int
) -> dict[str, Any]:
    """The manifest of one file."""
    sha256, size = sha256_of(path)
    content = {
        "records": done.records,
        "first_sequence": done.first_sequence,
        "last_sequence": done.last_sequence,
    }
    return {
        "manifest_version": MANIFEST_VERSION,
        "created_at": iso_time(created_at),
        "keep_until": f"{created_at.astimezone(UTC) + timedelta(days=retention_days):%Y-%m-%d}",
        "retention_days": retention_days,
        "system_identifier": system_identifier,
        "format": form.value,
        **content,
        "previous_hash": done.previous_hash,
        "head_hash": done.head_hash,
        "masked_sequences": done.masked,
        "files": [{"name": path.name, "sha256": sha256, "bytes": size, **content}],
    }


# Checking.


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises NotAnExport."""
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise NotAnExport("the manifest is too long to be one of ours")
        manifest = json.loads(path.read_bytes())
        files = [(str(file["name"]), str(file["sha256"]), int(file["records"])) for file in manifest["files"]]
        is_known = manifest["manifest_version"] == MANIFEST_VERSION
        _ = (Format(manifest["format"]), int(manifest["records"]), str(manifest["previous_hash"]))
        _ = [int(sequence) for sequence in manifest["masked_sequences"]]
    except OSError as error:
        raise NotAnExport(f"the manifest cannot be read: {error.strerror or type(error).__name__}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NotAnExport("the file is no manifest of an export") from None
    if not is_known or any(Path(name).name != name for name, _, _ in files):
        raise NotAnExport("the manifest is of another version, or names files elsewhere")
    return dict(manifest)


def check_export(path: Path) -> tuple[list[Found], int]:
    """What is wrong with an export, and how many records were looked at. Raises NotAnExport."""
    manifest = read_manifest(path)
    first = manifest["first_sequence"]
    start = Head(int(first) - 1 if first is not None else 0, str(manifest["previous_hash"]))
    masked_sequences = {int(sequence) for sequence in manifest["masked_sequences"]}
    found: list[Found] = []
    records, chain = 0, Chain("export", after=start)
    for file in manifest["files"]:
        name = str(file["name"])
        whole = path.parent / name
        if not whole.is_file():
            found.append(Found(name, None, "", "is missing"))
            continue
        if sha256_of(whole)[0] != file["sha256"]:
            found.append(Found(name, None, "", "has another SHA-256 than the manifest says: it was changed"))
        count, flaws = _check_file(whole, Format(manifest["format"]), chain, masked_sequences)
        found += flaws
        records += count
        if count != file["records"]:
            found.append(Found(name, None, "", f"has {count} records, the manifest says {file['records']}"))
    last = manifest["last_sequence"]
    found += chain.over(None if last is None else int(last))
    if records and chain.head != Head(int(last or 0), str(manifest["head_hash"])):
        found.append(Found(MANIFEST, chain.head.sequence, "", "the last record is not the one that the manifest names"))
    return found, records


def _check_file(path: Path, form: Format, chain: Chain, masked_sequences: set[int]) -> tuple[int, list[Found]]:
    found: list[Found] = []
    count = 0
    for number, record in _records(path, form):
        if record is None:
            found.append(Found(path.name, None, f"line {number}", "is no record"))
            continue
        count += 1
        known = int(record["sequence"]) not in masked_sequences
        found += [
            Found(path.name, flaw.sequence, flaw.place, flaw.what, flaw.payout_id)
            for flaw in chain.take(record, f"line {number}", known_content=known)
        ]
    return count, found


def _records(path: Path, form: Format) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Records with their lines; None for a line that is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if form is Format.JSON:
                for number, line in enumerate(file, start=1):
                    yield number, _of_json(line)
            else:
                reader = csv.reader(file)
                for row in reader:
                    if tuple(row) != FIELDS:
                        yield reader.line_num, _of_cells(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NotAnExport(f"{path.name} cannot be read ({type(error).__name__})") from None


def _of_json(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
        return {name: values[name] for name in FIELDS} | {"at": parse_time(values["at"])} | _numbers(values)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _of_cells(row: list[str]) -> dict[str, Any] | None:
    if len(row) != len(FIELDS):
        return None
    values = {name: text.removeprefix("'") or None for name, text in zip(FIELDS, row, strict=True)}
    try:
        return {**values, "at": parse_time(values["at"] or ""), **_numbers(values)} | _emptied(values)
    except (ValueError, TypeError):
        return None


def _numbers(values: Mapping[str, Any]) -> dict[str, int | None]:
    return {name: None if values[name] is None else int(values[name]) for name in _NUMBERS}


def _emptied(values: Mapping[str, str | None]) -> dict[str, str]:
    """An empty reason is no reason that is missing: the record's own detail says which of the two it was."""
    if values["reason"] is None:
        reason = json.loads(values["detail"] or "{}").get("evidence", {}).get("reason")
        if reason == "":
            return {"reason": ""}
    return {}
