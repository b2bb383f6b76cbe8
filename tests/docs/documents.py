"""Reading the repository's documents: their commands, links, anchors and tables."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "RUNBOOK.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/rules.md",
    "docs/failures.md",
    "docs/requirements.md",
    "docs/metrics.md",
    "docs/telemetry.md",
    "bench/README.md",
    "helm/payout-streams/README.md",
)

_FENCE = re.compile(r"^```(\w*)\s*$")
_NOTE = re.compile(r"^<!-- (not executed here|exits): (.+) -->$")
_TEST = re.compile(r"`(tests/[\w./-]+\.py)::(\w+)`")


@dataclass(frozen=True)
class Command:
    """One command of a console block, continuation lines joined."""

    document: str
    line: int
    text: str
    exits: tuple[int, ...] = (0,)
    not_executed: str | None = None
    """Why it is not executed here; None when it is."""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def read(document: str) -> str:
    """The document's text."""
    return (ROOT / document).read_text(encoding="utf-8")


def commands(document: str) -> list[Command]:
    """Every `$ …` line of its console blocks, in order."""
    found: list[Command] = []
    block: str | None = None
    notes: dict[str, str] = {}
    lines = iter(enumerate(read(document).splitlines(), start=1))
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence:
            block = fence[1] if block is None else None
            notes = {} if block is None else notes
        elif block == "console" and line.startswith("$ "):
            found.append(_command(document, number, _whole(line[2:], lines), notes))
        elif block is None and (note := _NOTE.match(line)):
            notes = {note[1]: note[2]}
        elif block is None and line.strip():
            notes = {}
    return found


def _whole(text: str, lines: Iterator[tuple[int, str]]) -> str:
    while text.endswith("\\"):
        text = text[:-1] + next(lines)[1].strip()
    return text


def _command(document: str, line: int, text: str, notes: dict[str, str]) -> Command:
    exits = tuple(int(code) for code in notes.get("exits", "0").split(","))
    return Command(document, line, text, exits, notes.get("not executed here"))


@cache
def anchors(document: str) -> frozenset[str]:
    """What `#…` may follow the document's name in a link: its headings, as GitHub names them."""
    headings = re.findall(r"^#{1,6} +(.+)$", without_code(read(document)), re.MULTILINE)
    plain = [re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain)


def links(document: str) -> list[str]:
    """The targets of its links, those in code left out."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(read(document))))


def without_code(text: str) -> str:
    """The text without fenced blocks."""
    return re.sub(r"^```.*?^```\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


def named_tests(text: str) -> list[tuple[str, str]]:
    """(path, function) of every test that the text names."""
    return _TEST.findall(text)


@cache
def functions(path: str) -> frozenset[str]:
    """The functions and methods that a test file defines; none if there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def table_rows(text: str) -> list[list[str]]:
    """The cells of every table row but the headings' rulers."""
    rows = [line for line in text.splitlines() if line.startswith("|") and not re.match(r"^\|[\s:|-]+\|$", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))] for row in rows]


def section(document: str, heading: str) -> str:
    """The text under a heading of second level, up to the next one."""
    parts = re.split(r"^## +(.+)$", read(document), flags=re.MULTILINE)
    named = dict(zip(parts[1::2], parts[2::2], strict=True))
    return named[heading]
