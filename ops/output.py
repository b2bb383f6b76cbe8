"""stdout is data, stderr is messages.

emit_rows(rows, COLUMNS, output)      a table, or one JSON array
emit_object(values, output)           names and values, or one JSON object
JsonLines / LineTable                 one line a record, while following
message("…")                          a sentence on stderr
"""

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ops.redaction import printable, without_card_numbers

WIDTH_WITHOUT_TERMINAL_CHARACTERS: Final = 220
"""A table that is piped must not be cut to 80 columns."""
NOTHING: Final = "-"
"""Stands in tables for what there is none of."""


class Output(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: the key of the row, the heading, and the width in line mode."""

    key: str
    heading: str
    width: int = 12
    right: bool = False


def message(text: str) -> None:
    """One sentence for people, on stderr; it may quote the text of an error, which may quote what others wrote."""
    print(printable(without_card_numbers(text)), file=sys.stderr, flush=True)


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON text in ASCII, so that nothing in it moves a terminal; times are ISO 8601 in UTC."""
    return json.dumps(value, default=_plain, indent=indent)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return iso_time(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def iso_time(at: datetime) -> str:
    """ISO 8601 in UTC with microseconds, ending in Z."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """A time from ISO 8601 with a zone (`2026-11-22T17:00:00Z`). Raises ValueError without quoting the text."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is no ISO 8601 time, for example 2026-11-22T17:00:00Z") from None
    if at.utcoffset() is None:
        raise ValueError("has no time zone; end it with Z for UTC")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return printable(str(value))


def emit_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], output: Output) -> None:
    """Rows as a table with these columns, or as one JSON array with everything that is in them."""
    if output is Output.JSON:
        print(to_json(list(rows), indent=1))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row.get(column.key))) for column in columns))
    _print_table(table)


def emit_object(values: Mapping[str, Any], output: Output) -> None:
    """Names and values, or one JSON object."""
    if output is Output.JSON:
        print(to_json(dict(values), indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name.replace("_", " ")), Text(cell(value)))
    _print_table(table)


def _print_table(table: Table) -> None:
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(table)
        return
    console = Console(file=io.StringIO(), width=WIDTH_WITHOUT_TERMINAL_CHARACTERS, color_system=None)
    with console.capture() as captured:
        console.print(table)
    # Padding at the ends of lines only hinders whoever reads them from a pipe.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


class LineWriter(Protocol):
    """Prints records one by one, as they come."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Print one record and flush."""


class JsonLines:
    """One JSON object a line."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Print one record and flush."""
        print(to_json(dict(row)), flush=True)


class LineTable:
    """One line a record under a heading; columns have fixed widths, since what follows is not known yet."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._headed = False

    def write(self, row: Mapping[str, Any]) -> None:
        """Print one record and flush."""
        if not self._headed:
            self._line([column.heading for column in self._columns])
            self._headed = True
        self._line([cell(row.get(column.key)) for column in self._columns])

    def _line(self, cells: Sequence[str]) -> None:
        padded = [
            text.rjust(column.width) if column.right else text.ljust(column.width)
            for text, column in zip(cells, self._columns, strict=True)
        ]
        print("  ".join(padded).rstrip(), flush=True)


class Step(Protocol):
    """Tells the progress that one more is done."""

    def __call__(self) -> None:
        """One more is done."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Step]:
    """A progress bar on stderr, only where a person looks at it."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
