"""`payouts show PAYOUT_ID`: one payout's whole life, from the ledger, the topics and the calls to Visa."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated, Any, Final

import typer
from aiokafka.partitioner import murmur2

from ledger.interface import HistoryEntry, LedgerUnavailable
from ops.application import ending
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, KAFKA, codec_for, settings_for
from ops.events import Event, decoded_event
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, not_found, usage_error
from ops.kafka import Reading, Span, connect_admin, offset_of, our_topics, reader, spans_of
from ops.ledger_queries import intake_of
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from ops.redaction import redacted
from ops.timeline import compensation_facts, error_facts, payout_facts, timeline, visa_facts
from processors.payout.row import CompensationState, PayoutRow
from processors.visa.correlation import RequestIds
from schemas.codec import RegistryUnavailable, Undecodable
from schemas.payout_id import payout_id_problem
from schemas.topics import TOPICS
from streams.settings import Settings

SCAN_MAX: Final = 100_000
SCAN: Final = 20_000
TIMEOUT_SECONDS: Final = 30.0
# Broker, database and worker clocks agree within seconds; a request may have waited before it was taken.
BEFORE_RECEIPT: Final = timedelta(minutes=5)

KEYED_TOPICS: Final = tuple(name for name, topic in TOPICS.items() if topic.key == "payout_id")
COLUMNS: Final = (
    Column("at", "WHEN"),
    Column("source", "SOURCE"),
    Column("what", "WHAT"),
    Column("version", "VERSION", right=True),
    Column("state", "STATE"),
    Column("detail", "DETAIL"),
)


@dataclass(slots=True)
class Remembered:
    """What the ledger knows of a payout."""

    row: PayoutRow | None
    history: Sequence[HistoryEntry]
    intake: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Found:
    """What the topics hold of a payout; `problem` says why that is not everything."""

    events: list[Event] = field(default_factory=list)
    problem: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "show",
        epilog=ending(
            "payouts show order-2026-000017",
            "payouts show order-2026-000017 --output json",
            "payouts show order-2026-000017 --no-topics",
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
        ),
    )(show)


def show(
    payout_id: Annotated[str, typer.Argument(help="The payout's id, as its originator chose it.")],
    topics: Annotated[bool, typer.Option("--topics/--no-topics", help="Also read the topics.")] = True,
    scan: Annotated[
        int,
        typer.Option(
            min=1,
            max=SCAN_MAX,
            help="Read at most so many records of each partition: from the receipt on, or the newest if there is none.",
        ),
    ] = SCAN,
    timeout: Annotated[
        float, typer.Option(min=1.0, max=600.0, help="Read the topics for so many seconds.")
    ] = TIMEOUT_SECONDS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a payout's whole life in order, with times: every step of the ledger, every event, every call to Visa.

    Never shows names, addresses or card numbers. Events are looked for in the partitions that the usual clients
    choose for the id, since the payout arrived; what could not be read is said.
    """
    problem = payout_id_problem(payout_id)
    if problem is not None:
        raise usage_error(problem)
    settings = settings_for(DATABASE, KAFKA) if topics else settings_for(DATABASE)
    known = run(_remembered(settings, payout_id))
    found = _topics(settings, payout_id, known.row, scan, timeout) if topics else Found()
    if known.row is None and not found.events and not known.intake:
        raise _unknown(payout_id, found, topics=topics)
    _print(payout_id, known, found, output, settings.request_ids)
    if found.problem:
        raise CommandFailed(ExitCode.PARTIAL, "the topics were not read completely", why=found.problem)


async def _remembered(settings: Settings, payout_id: str) -> Remembered:
    async with connected_ledger(settings) as ledger:
        row = await ledger.read(payout_id)
        history = await ledger.history(payout_id)
    try:
        intake = await intake_of(settings.database_url.get_secret_value(), payout_id)
    except LedgerUnavailable as error:
        message(f"Repeats and refusals were not looked up: {error}")
        intake = []
    return Remembered(row, history, intake)


def _topics(settings: Settings, payout_id: str, row: PayoutRow | None, scan: int, timeout_seconds: float) -> Found:
    """The payout's events; whatever stops the reading is the problem of what was found until then."""
    found = Found()
    try:
        _read_topics(settings, payout_id, row, scan, timeout_seconds, found)
    except RegistryUnavailable as error:
        found.problem = str(error)
    except CommandFailed as failure:
        found.problem = f"{failure.what}: {failure.why}"
    return found


def _read_topics(
    settings: Settings, payout_id: str, row: PayoutRow | None, scan: int, timeout_seconds: float, found: Found
) -> None:
    admin = connect_admin(settings)
    topics = our_topics(admin, settings, KEYED_TOPICS)
    places = [place for topic, count in topics.items() for place in _places(topic, count, payout_id, row)]
    since = None if row is None else row.received_at - BEFORE_RECEIPT
    whole = spans_of(admin, places, since=since)
    to_read = [_bounded(span, scan, newest=row is None) for span in whole]
    key = payout_id.encode()
    with (
        reader(settings) as consumer,
        codec_for(settings) as codec,
    ):
        reading = Reading(consumer, to_read, follow=False, timeout_seconds=timeout_seconds)
        for record in reading.records():
            if record.key() == key:
                try:
                    found.events.append(decoded_event(record, codec))
                except Undecodable as error:
                    place = f"{record.topic()}[{record.partition()}]@{offset_of(record)}"
                    message(redacted(f"skipped {place}: {error.code}: {error}"))
    if not reading.complete:
        found.problem = f"the ends were not reached in {timeout_seconds:g} s; give a longer --timeout"
    elif row is not None and to_read != whole:
        found.problem = (
            f"only the first {scan} records of a partition since its receipt were read; give a larger --scan"
        )


def _bounded(span: Span, scan: int, *, newest: bool) -> Span:
    """At most `scan` records: the newest, or those that follow the receipt, where a payout's events are."""
    if newest:
        return replace(span, first=max(span.first, span.end - scan))
    return replace(span, end=min(span.end, span.first + scan))


def _places(topic: str, count: int, payout_id: str, row: PayoutRow | None) -> list[tuple[str, int]]:
    """Where records with this key can be: producers place keys by murmur2 (Java, ours) or CRC32 (librdkafka)."""
    key = payout_id.encode()
    numbers = {(murmur2(key) & 0x7FFFFFFF) % count, zlib.crc32(key) % count}
    if row is not None and row.source_topic == topic and row.source_partition < count:
        numbers.add(row.source_partition)
    return [(topic, number) for number in sorted(numbers)]


def _unknown(payout_id: str, found: Found, *, topics: bool) -> CommandFailed:
    if not topics:
        return not_found(
            f"the ledger has no payout {payout_id}", next_step="look in the topics too: leave out --no-topics"
        )
    if found.problem:
        return CommandFailed(
            ExitCode.PARTIAL, f"the ledger has no payout {payout_id}, and the topics were not read", why=found.problem
        )
    return not_found(
        f"there is no payout {payout_id}",
        why="neither the ledger nor the newest records of the topics have it",
        next_step="compare the id with the sender's journal, or raise --scan",
    )


def _print(payout_id: str, known: Remembered, found: Found, output: Output, request_ids: RequestIds) -> None:
    row = known.row
    first = None if row is None else (row.source_topic, row.source_partition, row.source_offset)
    moments = timeline(known.history, found.events, known.intake, first)
    if output is Output.JSON:
        emit_object(
            {
                "payout_id": payout_id,
                "payout": None if row is None else payout_facts(row),
                "error": None if row is None else error_facts(row, known.history),
                "visa": None if row is None else visa_facts(row, request_ids),
                "compensation": None if row is None else compensation_facts(row),
                "timeline": [moment.as_json() for moment in moments],
                "complete": not found.problem,
            },
            output,
        )
        return
    if row is None:
        message(f"The ledger does not have {payout_id}: no worker has taken the request yet, or it was refused.")
    else:
        _print_facts(row, known.history, request_ids)
    emit_rows([moment.as_row() for moment in moments], COLUMNS, output)


def _print_facts(row: PayoutRow, history: Sequence[HistoryEntry], request_ids: RequestIds) -> None:
    emit_object(_set(payout_facts(row)), Output.TABLE)
    error = error_facts(row, history)
    if error is not None:
        print("\nError")
        emit_object(error, Output.TABLE)
    if row.first_intent_at is not None:
        print("\nVisa")
        emit_object(_set(visa_facts(row, request_ids)), Output.TABLE)
    if row.compensation is not CompensationState.NONE:
        print("\nCompensation")
        emit_object(_set(compensation_facts(row)), Output.TABLE)
    print()


def _set(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
