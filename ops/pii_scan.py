"""`payouts pii-scan`: is there personal data in clear in files or topics? (requirements S0-41, S1-10; promise P6)

It prints where and of which kind, never what. Files are searched to their end (`ops/pii_files.py`), topics from their
first record to what is their end when it begins (`ops/pii_topics.py`), without a group, committed records only.
"""

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from ops.application import ending
from ops.environment import KAFKA, codec_for, settings_for
from ops.events import SinceOption, parse_since
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, unreachable, usage_error
from ops.kafka import Reading, connect_admin, offset_of, our_topics, reader, spans
from ops.options import OutputOption
from ops.output import Column, Output, emit_rows, message, progress
from ops.pii_files import NotSearched, Place, files_under, scan_file, scan_stream
from ops.pii_topics import scan_record
from ops.results import checked_words
from processors.pii.find import find
from processors.pii.hits import ALL_KINDS, Kind
from processors.pii.redaction import redact_text
from schemas.topics import TOPICS

TOLD_MAX: Final = 1_000
"""More than anybody reads; all of them are counted."""
TOPICS_SECONDS: Final = 3_600.0
STANDARD_INPUT: Final = "-"

COLUMNS: Final = (Column("kind", "KIND"), Column("place", "PLACE"))


@dataclass(slots=True)
class Findings:
    """What was found so far, and what was not looked at."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, Any]] = field(default_factory=list)
    unsearched: list[str] = field(default_factory=list)

    def add(self, kind: Kind, place: str) -> None:
        """One hit. The place may have a name that somebody chose, and is masked like everything."""
        self.counts[kind.value] += 1
        if len(self.rows) < TOLD_MAX:
            self.rows.append({"kind": kind.value, "place": _shown(place)})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "pii-scan",
        epilog=ending(
            "payouts pii-scan /var/log/payouts",
            "payouts pii-scan --topics --since 24h",
            "payouts pii-scan --topic payout_results --kind card --output json",
            "journalctl -u payouts | payouts pii-scan -",
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
        ),
    )(pii_scan)


def pii_scan(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]...", help="Files and folders; - is standard input.")
    ] = None,
    topics: Annotated[bool, typer.Option("--topics", help="Every topic of ours on the cluster.")] = False,
    topic: Annotated[list[str] | None, typer.Option(help="Only this topic, by its name without prefix.")] = None,
    since: SinceOption = None,
    kind: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(Kind)}.")] = None,
    timeout: Annotated[
        float, typer.Option(min=1.0, max=86_400.0, help="Stop reading topics after so many seconds.")
    ] = TOPICS_SECONDS,
    textfile: Annotated[
        Path | None, typer.Option(help="Write the counts here too, as metrics for a text file collector.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Search files and topics for card numbers, masked or not, accounts, SSN, CVV, PIN, expiry, e-mail and phone.

    Prints the kind and the place (file:line:column, topic[partition]@offset field), never the value. Ends with 1 if
    something was found; else with 6 if a file could not be searched, with 5 if a topic was not read to its end.
    """
    kinds = frozenset(Kind(word) for word in checked_words(kind, tuple(Kind), "--kind")) or ALL_KINDS
    names = _topics_asked_for(topics=topics, topic=topic or [])
    if not names and not paths:
        raise usage_error("nothing to search", next_step="name files or folders, or give --topics")
    findings = Findings()
    for path in paths or []:
        _search_path(path, kinds, findings)
    is_complete = not names or _search_topics(names, since, kinds, timeout, findings)
    if textfile is not None:
        _write_metrics(textfile, findings)
    emit_rows(findings.rows, COLUMNS, output)
    _conclude(findings, is_complete=is_complete)


def _topics_asked_for(*, topics: bool, topic: list[str]) -> list[str]:
    unknown = [name for name in topic if name not in TOPICS]
    if unknown:
        raise usage_error("no such topic", next_step=f"choose among {', '.join(TOPICS)}")
    return topic or (list(TOPICS) if topics else [])


def _search_path(given: str, kinds: Collection[Kind], findings: Findings) -> None:
    if given == STANDARD_INPUT:
        _search("(stdin)", scan_stream(sys.stdin.buffer, kinds), findings)
        return
    path = Path(given)
    if not (path.is_file() or path.is_dir()):
        raise usage_error(f"{_shown(given)} is no file and no folder")
    for file in files_under(path):
        if isinstance(file, NotSearched):
            findings.unsearched.append(_shown(str(file)))
            continue
        # A file's name is part of what it tells.
        for hit in find(file.name, kinds):
            findings.add(hit.kind, f"{file}: its name")
        _search(str(file), scan_file(file, kinds), findings)


def _search(name: str, places: Iterator[Place], findings: Findings) -> None:
    try:
        for place in places:
            findings.add(place.kind, f"{name}:{place.line}:{place.column}")
    except NotSearched as reason:
        findings.unsearched.append(_shown(f"{name}: {reason}"))


def _search_topics(
    names: list[str], since: str | None, kinds: Collection[Kind], timeout_seconds: float, findings: Findings
) -> bool:
    """Whether every topic was read to its end. Raises CommandFailed, RegistryUnavailable."""
    start = None if since is None else parse_since(since, datetime.now(UTC))
    settings = settings_for(KAFKA)
    admin = connect_admin(settings)
    to_read = spans(admin, our_topics(admin, settings, names), since=start)
    total = sum(max(0, span.end - span.first) for span in to_read)
    with reader(settings) as consumer, codec_for(settings) as codec, progress("records", total) as step:
        reading = Reading(consumer, to_read, follow=False, timeout_seconds=timeout_seconds)
        for record in reading.records():
            for part, kind in scan_record(record, codec, kinds):
                findings.add(kind, f"{record.topic()}[{record.partition()}]@{offset_of(record)} {part}")
            step()
    return reading.complete


def scan_metrics(findings: Findings) -> CollectorRegistry:
    """What a scan found. Whoever alerts looks at the time too: a scan that does not run finds nothing."""
    registry = CollectorRegistry()
    results = Gauge("pii_scan_results", "Personal data found in clear, by kind.", ["kind"], registry=registry)
    for kind in Kind:
        results.labels(kind.value).set(findings.counts[kind.value])
    unsearched = Gauge("pii_scan_unsearched_files", "Files that could not be searched.", registry=registry)
    unsearched.set(len(findings.unsearched))
    finished = Gauge("pii_scan_finished_timestamp_seconds", "When the scan ended.", registry=registry)
    finished.set_to_current_time()
    return registry


def _write_metrics(path: Path, findings: Findings) -> None:
    """Raises CommandFailed."""
    try:
        write_to_textfile(str(path), scan_metrics(findings))
    except OSError as error:
        raise unreachable("the metrics cannot be written", why=error.strerror or type(error).__name__) from None


def _conclude(findings: Findings, *, is_complete: bool) -> None:
    """Say what the table does not, and end. Raises CommandFailed, typer.Exit."""
    for place in findings.unsearched:
        message(f"Not searched: {place}")
    found = findings.counts.total()
    if found > len(findings.rows):
        message(f"The first {len(findings.rows)} places of {found}: " + ", ".join(_each(findings.counts)))
    if not is_complete:
        message("A topic was not read to its end in time: give a longer --timeout.")
    if found:
        message("Personal data in clear. What to do: `Card number where none may be` of the runbook.")
        raise typer.Exit(ExitCode.FOUND)
    if findings.unsearched:
        raise unreachable(
            f"{len(findings.unsearched)} file(s) could not be searched",
            why="what was not looked at may hold anything",
            next_step="make them readable, unpack archives, and search them again",
        )
    if not is_complete:
        raise CommandFailed(ExitCode.PARTIAL, "not every topic was read to its end")


def _each(counts: Counter[str]) -> Iterator[str]:
    return (f"{kind} {count}" for kind, count in counts.most_common())


def _shown(place: str) -> str:
    return redact_text(place, longest_characters=None)
