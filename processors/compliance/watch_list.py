"""The watch list: invented persons in a CSV file, versioned by the hash of its bytes.

Columns: entry_id, name, aliases (separated by semicolons), country, programme. The shipped list is synthetic, so that
no test and no demonstration depends on a real person.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from processors.compliance.names import LONGEST_NAME_CHARACTERS, normalise_name
from processors.policy_files import read_policy_file
from schemas.card_numbers import excerpt

# The largest public lists have some 25,000 names; a file beyond this is a mistake.
LARGEST_LIST_BYTES: Final = 64 * 1024 * 1024
MOST_LIST_NAMES: Final = 1_000_000
SHIPPED_LIST: Final = "watch_list.csv"
COLUMNS: Final = ("entry_id", "name", "aliases", "country", "programme")
_ENTRY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")
_STAMPED_HASH_DIGITS: Final = 16


class WatchListInvalid(Exception):
    """The list cannot be used; the message names file, line and remedy. An empty list is not a list."""

    def __init__(self, message: str) -> None:
        # An entry's id is quoted, and it may be anything that somebody pasted there.
        super().__init__(excerpt(message))


@dataclass(frozen=True, slots=True)
class WatchListEntry:
    """One person on the list."""

    entry_id: str
    name: str
    aliases: tuple[str, ...]
    country: str
    programme: str


@dataclass(frozen=True, slots=True, repr=False)
class WatchList:
    """Entries and, for the matcher, every name in normal form beside the entry that it belongs to.

    `names` is ordered by entry id, then name, without duplicates: the first of equally good matches is always the same.
    """

    version: str
    sha256: str
    entries: Mapping[str, WatchListEntry]
    names: tuple[str, ...]
    entry_ids: tuple[str, ...]

    def __repr__(self) -> str:
        return f"WatchList(version={self.version!r}, entries={len(self.entries)}, names={len(self.names)})"


def load_watch_list(path: Path | None = None) -> WatchList:
    """The list in `path`, or the synthetic one that ships with the processor. Raises WatchListInvalid."""
    return parse_watch_list(*read_policy_file(path, SHIPPED_LIST, what="watch list", invalid=WatchListInvalid))


def parse_watch_list(content: bytes, file_name: str) -> WatchList:
    """The list in these bytes; `file_name` is for messages. Raises WatchListInvalid."""
    if len(content) > LARGEST_LIST_BYTES:
        raise WatchListInvalid(f"{file_name}: the watch list is larger than {LARGEST_LIST_BYTES} bytes")
    entries: dict[str, WatchListEntry] = {}
    for line, entry in _entries(content, file_name):
        if entry.entry_id in entries:
            raise WatchListInvalid(f"{file_name}, line {line}: the entry id {entry.entry_id!r} stands there twice")
        entries[entry.entry_id] = entry
    if not entries:
        raise WatchListInvalid(f"{file_name}: the watch list is empty; nothing could be screened against it")
    names = sorted({(entry.entry_id, name) for entry in entries.values() for name in _normal_names(entry)})
    if len(names) > MOST_LIST_NAMES:
        raise WatchListInvalid(f"{file_name}: the watch list has more than {MOST_LIST_NAMES} names")
    sha256 = hashlib.sha256(content).hexdigest()
    return WatchList(
        version=f"sha256.{sha256[:_STAMPED_HASH_DIGITS]}",
        sha256=sha256,
        entries=entries,
        names=tuple(name for _, name in names),
        entry_ids=tuple(entry_id for entry_id, _ in names),
    )


def _entries(content: bytes, file_name: str) -> Iterator[tuple[int, WatchListEntry]]:
    try:
        text = content.decode("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise WatchListInvalid(f"{file_name}, line 1: the columns must be {','.join(COLUMNS)}")
        for row in reader:
            yield reader.line_num, _entry(row, f"{file_name}, line {reader.line_num}")
    except UnicodeDecodeError:
        raise WatchListInvalid(f"{file_name}: the watch list must be UTF-8") from None
    except csv.Error as error:
        raise WatchListInvalid(f"{file_name}: not acceptable CSV: {error}") from None


def _entry(row: Mapping[str | None, str | list[str] | None], place: str) -> WatchListEntry:
    values = {column: value for column in COLUMNS if isinstance(value := row.get(column), str)}
    if len(values) != len(COLUMNS) or None in row:
        raise WatchListInvalid(f"{place}: a row must have the {len(COLUMNS)} columns {','.join(COLUMNS)}")
    if not _ENTRY_ID.fullmatch(values["entry_id"]):
        raise WatchListInvalid(f"{place}: entry_id must be 1 to 32 letters, digits, dots, hyphens or underscores")
    aliases = tuple(alias.strip() for alias in values["aliases"].split(";") if alias.strip())
    for name in (values["name"], *aliases):
        if len(name) > LONGEST_NAME_CHARACTERS or not normalise_name(name):
            raise WatchListInvalid(f"{place}: a name has no letters or more than {LONGEST_NAME_CHARACTERS} characters")
    return WatchListEntry(values["entry_id"], values["name"], aliases, values["country"], values["programme"])


def _normal_names(entry: WatchListEntry) -> Iterator[str]:
    return (normalise_name(name) for name in (entry.name, *entry.aliases))
