"""`payouts intake verify`: is every record that others produced accounted for in the ledger? (rule K9)

Workers ask this all the time, behind their committed offsets; here a person asks it again, after an incident.
Nothing is ever produced again: a second record would be a repeat of a request that perhaps nobody knows. `--drive` only
moves the workers' own bookmark back, and they handle what is missing as they handle everything, with their keys, their
leases and their idempotent handlers. Looking twice at a record is harmless at any time. What is driven in may be paid,
so the command shows the payouts and the money first, asks, and writes who did it and why into the history (P9).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import asyncpg
import typer
from confluent_kafka import Message
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from ledger.connections import failure_of, session_settings
from ledger.interface import InboundPosition, Ledger, LedgerError, LedgerUnavailable
from ledger.offset_actions import offset_actions
from ledger.operator_notes import INTAKE_DRIVE_BEGUN, INTAKE_DRIVEN, note
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, KAFKA, registry_of, settings_for
from ops.exit_codes import ExitCode
from ops.failures import refused, unreachable, usage_error
from ops.kafka import Span as Range
from ops.kafka import committed_offsets, connect_admin, offsets, our_topics, record_time, spans_of
from ops.offset_apply import locked
from ops.offset_effects import Reader, Tally, effect_text, known_of
from ops.offset_plans import Effect
from ops.operator_actions import DryRunOption, OperatorOption, YesOption, answers, confirmed, said, who
from ops.options import OutputOption
from ops.output import Column, Output, emit_rows, message, parse_time, progress
from schemas.card_numbers import looks_like_card_number
from schemas.codec import Codec, PinnedResolver, RegistryResolver
from streams.completeness import INBOUND_TOPICS, KafkaRecords, missing_of
from streams.holes import Slot, Unreadable
from streams.holes import Span as RecordSpan
from streams.kafka_connection import confluent_config
from streams.settings import Settings

MISSING_MAX: Final = 10_000
"""More rows than anybody reads; with so many missing, the cause is looked for first."""
DRIVE_SECONDS: Final = 180.0
"""Workers wait a minute before they drive a record in; then it takes a moment each."""
ASK_AGAIN_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 5.0
NOTED_PARTITIONS_MAX: Final = 50
WITHHELD: Final = "[withheld]"

LOOK_AGAIN: Final = """
UPDATE verified_offsets SET next_offset = $3, verified_at = clock_timestamp()
WHERE topic = $1 AND partition_number = $2 AND next_offset > $3
"""

COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", right=True),
    Column("offset", "OFFSET", right=True),
    Column("payout_id", "PAYOUT"),
    Column("at", "AT"),
    Column("fate", "FATE"),
)

app = new_app("The records that others produce: is every one of them accounted for?")


@app.callback()
def _noun() -> None:
    """The records that others produce: is every one of them accounted for?"""


@dataclass(frozen=True, slots=True)
class Drive:
    """Who lets the missing records be driven in, and why."""

    operator: str
    reason: str
    dry_run: bool
    yes: bool


Missing = Sequence[tuple[InboundPosition, datetime | None]]
"""Records that the ledger does not know, and when they were produced."""
Count = Callable[[Sequence[Message]], Awaitable[None]]


@app.command(
    "verify",
    epilog=ending(
        "payouts intake verify",
        "payouts intake verify --from-time 2026-11-22T17:00:00Z --output json",
        "payouts intake verify --topic payout_requests --partition 3 --from 120000",
        'payouts intake verify --drive --reason "INC-126: passed unseen" --dry-run',
        'payouts intake verify --drive --reason "INC-126: passed unseen" --operator maria --yes',
        codes=(ExitCode.FOUND, ExitCode.USAGE, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def verify(
    from_offset: Annotated[
        int | None, typer.Option("--from", min=0, help="Begin at this offset; with --topic and --partition.")
    ] = None,
    from_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin at records as young as this (ISO 8601 with zone).")
    ] = None,
    topic: Annotated[str | None, typer.Option(help=f"Only this topic: {', '.join(INBOUND_TOPICS)}.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition, of every topic asked for.")] = None,
    drive: Annotated[bool, typer.Option("--drive", help="Let the workers handle what is missing, and wait.")] = False,
    reason: Annotated[str, typer.Option(help="Why; needed with --drive, stays in the ledger's history.")] = "",
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look up every inbound record below the committed offsets in the ledger, and show those it does not know.

    Without --drive nothing is changed. Ends with 1 if something is missing (with --drive: still missing). --drive
    cannot be undone, and looking twice is harmless: what was driven in is a payout like any other, to be held or
    cancelled before it is sent.
    """
    since = _checked(from_offset, from_time, topic, partition)
    wanted = _drive_wanted(reason, operator, output, drive=drive, dry_run=dry_run, yes=yes)
    settings = settings_for(KAFKA, DATABASE)
    ranges = _ranges(settings, topic, partition, from_offset, since)
    missing = run(_verify(settings, ranges, wanted))
    emit_rows(missing, COLUMNS, output)
    left = [row for row in missing if row["fate"] != "driven in"]
    if dry_run:
        message("Nothing was changed (--dry-run).")
    if left:
        message(f"{len(left)} record(s) are not accounted for." + ("" if drive else " See --drive."))
        raise typer.Exit(ExitCode.FOUND)


def _drive_wanted(
    reason: str, operator: str | None, output: Output, *, drive: bool, dry_run: bool, yes: bool
) -> Drive | None:
    """What is to be done about missing records; None: nothing. Raises CommandFailed (usage)."""
    if not drive:
        if reason or dry_run or yes:
            raise usage_error("without --drive nothing is changed", next_step="add --drive, or leave the others out")
        return None
    name, why = who(operator), said(reason, "--reason")
    answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    return Drive(name, why, dry_run, yes)


def _checked(
    from_offset: int | None, from_time: str | None, topic: str | None, partition: int | None
) -> datetime | None:
    """The time to begin at. Raises CommandFailed (usage)."""
    if topic is not None and topic not in INBOUND_TOPICS:
        raise usage_error("no such inbound topic", next_step=f"choose among {', '.join(INBOUND_TOPICS)}")
    if from_offset is not None and (topic is None or partition is None):
        raise usage_error("--from is an offset of one partition", next_step="add --topic and --partition")
    if from_offset is not None and from_time is not None:
        raise usage_error("--from and --from-time exclude each other", next_step="give one of them")
    if from_time is None:
        return None
    try:
        return parse_time(from_time)
    except ValueError as error:
        raise usage_error(f"--from-time {error}") from None


def _ranges(
    settings: Settings, topic: str | None, partition: int | None, from_offset: int | None, since: datetime | None
) -> list[Range]:
    """What is to be looked up: up to the committed offsets. Raises CommandFailed."""
    admin = connect_admin(settings)
    found = our_topics(admin, settings, [topic] if topic else INBOUND_TOPICS)
    places = [(name, number) for name, count in found.items() for number in range(count)]
    chosen = [place for place in places if partition in (None, place[1])]
    if not chosen:
        raise usage_error("no topic has this partition", next_step="`payouts topics list` shows them")
    committed = committed_offsets(settings, chosen)
    earliest = offsets(admin, chosen, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    ranges = []
    for kept in spans_of(admin, chosen, since=since):
        place = (kept.topic, kept.partition)
        first = max(kept.first if from_offset is None else from_offset, earliest[place])
        ranges.append(Range(*place, first, min(kept.end, committed.get(place, 0))))
    return [asked for asked in ranges if not asked.is_empty]


async def _verify(settings: Settings, ranges: Sequence[Range], wanted: Drive | None) -> list[dict[str, Any]]:
    url = registry_of(settings)
    codec = Codec(RegistryResolver(url) if url else PinnedResolver(), topic_prefix=settings.payouts_topic_prefix)
    records = KafkaRecords(confluent_config(settings), settings.group)
    try:
        async with connected_ledger(settings) as ledger:
            missing: Missing
            left: Container[InboundPosition]
            if wanted is None:
                missing = await _look(ledger, codec, records, settings, ranges)
                left = {position for position, _ in missing}
            else:
                missing, left = await _driven_in(settings, ledger, codec, records, ranges, wanted)
            return [_row(position, at, "missing" if position in left else "driven in") for position, at in missing]
    except Unreadable as error:
        raise unreachable("Kafka could not be read to the committed offsets", why=str(error)) from None
    finally:
        await records.close()
        await codec.close()


async def _look(
    ledger: Ledger,
    codec: Codec,
    records: KafkaRecords,
    settings: Settings,
    ranges: Sequence[Range],
    count: Count | None = None,
) -> list[tuple[InboundPosition, datetime | None]]:
    """What is missing; `count` gets those records, too. Raises Unreadable, LedgerUnavailable, RegistryUnavailable."""
    missing: list[tuple[InboundPosition, datetime | None]] = []
    looked_up = 0
    async for slot, span in batches_of(records, ranges, "offsets looked up"):
        by_offset = {record.offset(): record for record in span.records}
        found = await missing_of(ledger, codec, slot, span, settings.payouts_topic_prefix)
        missing += [(position, record_time(by_offset[position.offset])) for position in found]
        if count is not None:
            await count([by_offset[position.offset] for position in found])
        looked_up += len(span.records)
        if len(missing) >= MISSING_MAX:
            break
    message(f"{looked_up} record(s) looked up in {len(ranges)} partition(s), {len(missing)} missing.")
    if len(missing) >= MISSING_MAX:
        message(f"Stopped at {MISSING_MAX} missing records: there are more.")
    return missing


async def batches_of(
    records: KafkaRecords, ranges: Sequence[Range], what: str
) -> AsyncIterator[tuple[Slot, RecordSpan]]:
    """Everything that these ranges hold, some hundred records at a time, with a progress bar. Raises Unreadable."""
    with progress(what, sum(asked.end - asked.first for asked in ranges)) as step:
        for asked in ranges:
            slot, first = (asked.topic, asked.partition), asked.first
            while first < asked.end:
                span = await records.read(slot, first, asked.end)
                yield slot, span
                for _ in range(span.next_offset - first):
                    step()
                first = span.next_offset


def _row(position: InboundPosition, at: datetime | None, fate: str) -> dict[str, Any]:
    payout_id = position.payout_id
    if payout_id is not None and looks_like_card_number(payout_id):
        payout_id = WITHHELD
    return {
        "topic": position.topic,
        "partition": position.partition,
        "offset": position.offset,
        "payout_id": payout_id,
        "at": at,
        "fate": fate,
    }


def _first_of_each(missing: Iterable[InboundPosition]) -> dict[Slot, int]:
    first: dict[Slot, int] = {}
    for position in missing:
        slot = (position.topic, position.partition)
        first[slot] = min(position.offset, first.get(slot, position.offset))
    return first


async def _refuse_after_a_restore(ledger: Ledger, records: KafkaRecords, missing: Sequence[InboundPosition]) -> None:
    """L11: what a restored copy misses may have been paid. Raises CommandFailed (refused), Unreadable."""
    numbers: dict[str, set[int]] = {}
    for position in missing:
        numbers.setdefault(position.topic, set()).add(position.partition)
    for topic, asked in numbers.items():
        marked = await records.marked(topic, sorted(asked))
        verified = await ledger.verified_offsets(topic)
        if any(verified.get(number, 0) < offset for number, offset in marked.items()):
            raise refused(
                "the ledger knows less than it once did: is it a restored copy?",
                why="the missing requests may have been paid before; driving them in could pay them twice",
                next_step="work through `Database restored from a copy` of the runbook; no command drives these in",
            )


async def _driven_in(
    settings: Settings, ledger: Ledger, codec: Codec, records: KafkaRecords, ranges: Sequence[Range], wanted: Drive
) -> tuple[Missing, Container[InboundPosition]]:
    """Look, show what follows, ask, write it down, do it; what was missing, and what still is.

    One operator at a time, and none while another moves offsets: each would wait for what the other changes.
    Raises CommandFailed, Unreadable, LedgerError, RegistryUnavailable.
    """
    url = settings.database_url.get_secret_value()
    reader = Reader(settings, codec, records)
    missing: Missing
    async with offset_actions(url) as actions:
        with Tally() as tally:

            async def count(found: Sequence[Message]) -> None:
                named = [await reader.named(one) for one in found]
                tally.add(named, await known_of(actions, named))

            missing = await _look(ledger, codec, records, settings, ranges, count)
            effect = tally.effect()
        positions = [position for position, _ in missing]
        await _refuse_after_a_restore(ledger, records, positions)
        _tell_effect(effect, positions)
        if wanted.dry_run or not positions:
            return missing, set(positions)
        confirmed("Let the workers drive these in", wanted.operator, yes=wanted.yes)
        await locked(actions)
        # While it was shown and asked, somebody else may have driven in the same.
        positions = list(await ledger.unaccounted(positions))
        if not positions:
            message("All of them are accounted for meanwhile: nothing was done.")
            return missing, ()
        facts = {"reason": wanted.reason, "records": len(positions), **_noted(effect, positions, len(missing))}
        await note(url, wanted.operator, INTAKE_DRIVE_BEGUN, facts)
        left = await _drive(settings, ledger, records, positions)
        await note(url, wanted.operator, INTAKE_DRIVEN, {"reason": wanted.reason, "left": len(left)})
    return missing, set(left)


def _tell_effect(effect: Effect, missing: Sequence[InboundPosition]) -> None:
    message(f"Missing: {effect_text(effect)}.")
    message("What is a payout among them is validated, screened and, if nothing forbids it, PAID by the workers.")
    for (topic, partition), first in sorted(_first_of_each(missing).items()):
        message(f"{topic} {partition}: the workers look up again what lies from offset {first} on.")


def _noted(effect: Effect, missing: Sequence[InboundPosition], shown: int) -> dict[str, Any]:
    """What the history keeps of it, short enough for a line; what was shown may be more than what is driven in."""
    first = sorted(_first_of_each(missing).items())
    return {
        "records_shown": shown,
        "payouts_shown": effect.payouts,
        "money_shown": dict(effect.money),
        "from": [f"{topic} {partition} {offset}" for (topic, partition), offset in first[:NOTED_PARTITIONS_MAX]],
        "partitions": len(first),
    }


async def _drive(
    settings: Settings, ledger: Ledger, records: KafkaRecords, missing: Sequence[InboundPosition]
) -> Sequence[InboundPosition]:
    """Move the workers' bookmark back to the first missing record of each partition, and wait; what is left."""
    message("The workers look at these again, and drive them in after a minute. Waiting for them.")
    deadline = time.monotonic() + DRIVE_SECONDS
    left: Sequence[InboundPosition] = missing
    while left and time.monotonic() < deadline:
        await _move_back(settings, ledger, records, _first_of_each(left))
        await asyncio.sleep(ASK_AGAIN_SECONDS)
        left = await ledger.unaccounted(left)
    if left:
        message("Does a worker run, and is it not paused? `payouts lag`, `/health/critical`.")
    return left


async def _move_back(settings: Settings, ledger: Ledger, records: KafkaRecords, first: Mapping[Slot, int]) -> None:
    """First the mark, then the ledger: in between the ledger is ahead of its mark, which means nothing.

    Then the mark once more: a worker may have moved it forward in between, and a ledger behind its mark looks like a
    restored copy (rule L11), for which nothing is driven in.
    """
    for topic in sorted({slot[0] for slot in first}):
        verified = await ledger.verified_offsets(topic)
        ahead = {
            slot: offset for slot, offset in first.items() if slot[0] == topic and verified.get(slot[1], 0) > offset
        }
        for slot, offset in ahead.items():
            await records.mark(slot, offset)
        if ahead:
            async with _writing(settings) as connection:
                await connection.executemany(LOOK_AGAIN, [(*slot, offset) for slot, offset in ahead.items()])
        for slot, offset in ahead.items():
            await records.mark(slot, offset)


@asynccontextmanager
async def _writing(settings: Settings) -> AsyncIterator[Any]:
    """A connection of our own: the ledger's interface only moves bookmarks forward. Raises LedgerUnavailable."""
    connection: Any = None
    failure: LedgerError | None = None
    try:
        connection = await asyncpg.connect(
            settings.database_url.get_secret_value(),
            timeout=CONNECT_SECONDS,
            command_timeout=CONNECT_SECONDS,
            server_settings=session_settings(
                "payouts command", lock_seconds=CONNECT_SECONDS / 2, statement_seconds=CONNECT_SECONDS
            ),
        )
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        found = failure_of(error, sent=True)
        failure = found if isinstance(found, LedgerError) else LedgerUnavailable(f"PostgreSQL is busy ({found})")
    finally:
        if connection is not None:
            connection.terminate() if failure else await connection.close(timeout=CONNECT_SECONDS)
    if failure is not None:
        raise failure
