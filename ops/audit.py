"""`payouts audit tail|verify|export`: what was done, whether anybody changed the record of it, files of it (L10)."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any, Final

import typer
from confluent_kafka import Message

from ledger.audit_check import Adoptions, Chain, Found, compared
from ledger.audit_reading import CHUNK_RECORDS, AuditReading, HeadNow
from ledger.interface import LedgerError
from ledger.operator_notes import AUDIT_EXPORT_BEGUN, note
from ledger.seal_chain import EMPTY, Head
from ops.application import ending, new_app
from ops.asynchronous import run
from ops.audit_export import MANIFEST, Exported, ExportWriter, Format, NotAnExport, check_export, file_name, manifest_of
from ops.environment import DATABASE, KAFKA, codec_for, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, not_found, refused, unreachable, usage_error
from ops.kafka import Reading, Span, connect_admin, offset_of, our_topics, reader, spans
from ops.ledger_queries import ROWS_MAX, reading
from ops.operator_actions import OperatorOption, OptionalReasonOption, who_or_what, why_if_given
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message, parse_time, progress, to_json
from ops.private_files import new_private_file
from ops.redaction import redacted
from schemas.codec import BlockingCodec, Undecodable
from schemas.payout_id import payout_id_problem
from streams.audit_topic import AUDIT_TOPIC, SCHEMA
from streams.settings import Settings

TAIL: Final = 100
FLAWS_MAX: Final = 1_000
"""More lines than anybody reads: the first one says where to look."""
READ_SECONDS: Final = 3600.0
"""Of the topic: ten million records take minutes."""
LAST_SEQUENCE: Final = 2**63 - 1

TAIL_COLUMNS: Final = (
    Column("sequence", "SEALED AS", right=True),
    Column("at", "AT"),
    Column("actor", "WHO"),
    Column("action", "DID"),
    Column("payout_id", "PAYOUT"),
    Column("step", "STATE"),
    Column("detail", "DETAIL"),
)
FLAW_COLUMNS: Final = (
    Column("chain", "WHERE"),
    Column("sequence", "RECORD", right=True),
    Column("place", "PLACE"),
    Column("payout_id", "PAYOUT"),
    Column("what", "WHAT"),
)

app = new_app("The audit: every step of every payout and every operator's action, sealed in one chain.")


@app.command(
    "tail",
    epilog=ending(
        "payouts audit tail",
        "payouts audit tail --limit 20 --people --output json",
        "payouts audit tail --actor maria --action mode_set",
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def tail(
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="So many lines, the newest.")] = TAIL,
    people: Annotated[bool, typer.Option("--people", help="Only what people did, not the workers' own steps.")] = False,
    payout_id: Annotated[str | None, typer.Option(help="Only this payout's.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this operator or worker did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this step, for example held or mode_set.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the newest lines of the history, the newest last. A line without a number is not sealed yet."""
    problem = None if payout_id is None else payout_id_problem(payout_id)
    if problem is not None:
        raise usage_error(problem)
    settings = settings_for(DATABASE)
    rows = run(_latest(settings, limit, payout_id=payout_id, actor=actor, action=action, people=people))
    emit_rows(rows, TAIL_COLUMNS, output)


async def _latest(
    settings: Settings, limit: int, *, payout_id: str | None, actor: str | None, action: str | None, people: bool
) -> list[dict[str, Any]]:
    async with _looking(settings) as audit:
        lines = await audit.latest(limit, payout_id=payout_id, actor=actor, action=action, people_only=people)
    return [_line(line) for line in lines]


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    step = f"{line['from_state']} > {line['to_state']}" if line["from_state"] != line["to_state"] else line["to_state"]
    return {
        "sequence": line["sequence"],
        "history_id": line["history_id"],
        "at": line["at"],
        "actor": redacted(line["actor"]),
        "action": line["transition"],
        "payout_id": line["payout_id"],
        "version": line["version"],
        "step": step.removeprefix("None > "),
        "detail": redacted(line["detail"]),
    }


@asynccontextmanager
async def _looking(settings: Settings) -> AsyncIterator[AuditReading]:
    """The history as it is at one moment. Raises LedgerUnavailable."""
    async with reading(settings.database_url.get_secret_value()) as connection, connection.transaction(
        isolation="repeatable_read", readonly=True
    ):  # fmt: skip
        yield AuditReading(connection)


# Verifying.


@dataclass(slots=True)
class Verified:
    """What was looked at, and what is wrong."""

    flaws: list[Found] = field(default_factory=list)
    table_records: int = 0
    topic_records: int = 0
    topic_repeats: int = 0
    unsealed: int = 0
    head: Head = EMPTY
    is_cut: bool = False
    """More is wrong than is listed."""

    def add(self, found: Iterator[Found] | Sequence[Found]) -> None:
        """Keep the first ones."""
        for flaw in found:
            if len(self.flaws) >= FLAWS_MAX:
                self.is_cut = True
                return
            self.flaws.append(flaw)


@app.command(
    "verify",
    epilog=ending(
        "payouts audit verify",
        "payouts audit verify --no-topic --output json",
        "payouts audit verify --manifest exports/2026-11/manifest.json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def verify(
    topic: Annotated[
        bool, typer.Option("--topic/--no-topic", help="Compare with payout_audit as well, record by record.")
    ] = True,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check the files of an export instead; needs no server.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Walk the chain of the history from its first record, in the ledger and in payout_audit, and find tampering.

    A line that was changed, removed, inserted or put in another order is named with its place, and the exit code is 1.
    Who can write to the database can write a whole new chain there: only the topic, or an export that was kept
    elsewhere, shows that. Nothing is changed.
    """
    if manifest is not None:
        _verify_export(manifest, output)
        return
    verified = _verified(settings_for(DATABASE, KAFKA) if topic else settings_for(DATABASE), with_topic=topic)
    if output is Output.JSON:
        emit_object(_document(verified, with_topic=topic), output)
    elif verified.flaws:
        emit_rows([_flaw(found) for found in verified.flaws], FLAW_COLUMNS, output)
    _tell_verified(verified, with_topic=topic)


def _verify_export(manifest: Path, output: Output) -> None:
    try:
        flaws, records = check_export(manifest)
    except NotAnExport as error:
        raise not_found("the export cannot be checked", why=str(error)) from None
    if output is Output.JSON:
        emit_object({"records": records, "flaws": [_flaw(found) for found in flaws[:FLAWS_MAX]]}, output)
    elif flaws:
        emit_rows([_flaw(found) for found in flaws[:FLAWS_MAX]], FLAW_COLUMNS, output)
    if flaws:
        message(f"{len(flaws)} thing(s) are wrong with the export: it is not evidence.")
        raise typer.Exit(ExitCode.FOUND)
    message(f"{records} record(s): the export is whole, and its chain holds.")


def _document(verified: Verified, *, with_topic: bool) -> dict[str, Any]:
    return {
        "head_sequence": verified.head.sequence,
        "head_hash": verified.head.hash,
        "ledger_records": verified.table_records,
        "topic_records": verified.topic_records if with_topic else None,
        "topic_repeats": verified.topic_repeats if with_topic else None,
        "not_sealed_yet": verified.unsealed,
        "flaws": [_flaw(found) for found in verified.flaws],
        "more_flaws": verified.is_cut,
    }


def _flaw(found: Found) -> dict[str, Any]:
    return {
        "chain": found.chain,
        "sequence": found.sequence,
        "place": found.place or None,
        "payout_id": None if found.payout_id is None else redacted(found.payout_id),
        "what": found.what,
    }


def _tell_verified(verified: Verified, *, with_topic: bool) -> None:
    in_topic = f", {verified.topic_records} in payout_audit ({verified.topic_repeats} repeats)" if with_topic else ""
    message(
        f"{verified.table_records} record(s) in the ledger{in_topic}; {verified.unsealed} line(s) not sealed yet; "
        f"head {verified.head.sequence} {verified.head.hash[:16]}."
    )
    if verified.flaws:
        counted = f"at least {len(verified.flaws)}" if verified.is_cut else f"{len(verified.flaws)}"
        message(f"{counted} thing(s) are wrong: see the runbook, Audit.")
        raise typer.Exit(ExitCode.FOUND)
    message("The chain holds.")


def _verified(settings: Settings, *, with_topic: bool) -> Verified:
    """Everything that is wrong. What was published is asked first, then the topic's end, then the ledger as it is

    from then on: so nothing that workers do meanwhile looks like tampering.
    """
    published = run(_published(settings))
    to_read = _topic_span(settings) if with_topic else None
    verified = Verified()
    if to_read is None:
        run(_verify_table(settings, verified))
        return verified
    with reader(settings) as consumer, codec_for(settings) as codec:
        records = Reading(consumer, [to_read], follow=False, timeout_seconds=READ_SECONDS)
        adoptions = run(_verify_table(settings, verified))
        chain = Chain("topic")
        for chunk in _chunks(records.records()):
            _take_chunk(settings, verified, chain, codec, chunk, adoptions)
        if not records.complete:
            raise CommandFailed(ExitCode.PARTIAL, "payout_audit was not read to its end in time")
    verified.add(chain.over(published))
    verified.topic_records, verified.topic_repeats = chain.records, chain.repeats
    return verified


async def _published(settings: Settings) -> int:
    async with _looking(settings) as audit:
        return (await audit.head()).published_sequence


def _topic_span(settings: Settings) -> Span:
    """What payout_audit holds now. Raises CommandFailed."""
    admin = connect_admin(settings)
    places = spans(admin, our_topics(admin, settings, [AUDIT_TOPIC]), since=None)
    if len(places) != 1:
        raise unreachable(
            f"{AUDIT_TOPIC} has {len(places)} partitions and must have one", next_step="see `payouts topics ensure`"
        )
    return places[0]


async def _verify_table(settings: Settings, verified: Verified) -> Adoptions:
    async with _looking(settings) as audit:
        head = await audit.head()
        chain = Chain("ledger")
        with progress("records of the ledger", head.head.sequence) as step:
            async for line in audit.sealed(0, LAST_SEQUENCE):
                place = f"history {line.history_id}"
                if line.record is None:
                    verified.add(chain.gone(line.sequence, line.hash, place))
                else:
                    verified.add(chain.take(line.record, place))
                step()
        verified.add(chain.over(head.head.sequence))
        verified.add(_at_the_end(chain, head))
        for stray in await audit.strays(head):
            what = "was never sealed, and lies among lines that were: it was inserted"
            verified.add([Found("ledger", None, f"history {stray['id']}", what, stray["payout_id"])])
        verified.unsealed = await audit.unsealed(head)
        verified.table_records, verified.head = chain.records, head.head
        return await audit.adoptions()


def _at_the_end(chain: Chain, head: HeadNow) -> Iterator[Found]:
    if chain.head.sequence > head.head.sequence:
        yield Found("ledger", chain.head.sequence, "", "stands behind the chain's head: it was inserted")
    elif chain.head.sequence == head.head.sequence and chain.head.hash != head.head.hash:
        yield Found("ledger", head.head.sequence, "", "is not the record that the chain's head names: one was changed")


def _chunks(records: Iterator[Message]) -> Iterator[list[Message]]:
    chunk: list[Message] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == CHUNK_RECORDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _take_chunk(
    settings: Settings,
    verified: Verified,
    chain: Chain,
    codec: BlockingCodec,
    chunk: Sequence[Message],
    adoptions: Adoptions,
) -> None:
    taken: list[tuple[Mapping[str, Any], str]] = []
    for message_ in chunk:
        place = f"offset {offset_of(message_)}"
        value = message_.value()
        try:
            record = codec.decode(SCHEMA, value if isinstance(value, bytes) else b"").record
        except Undecodable:
            verified.add([Found("topic", None, place, "is no audit record: it was inserted")])
            continue
        verified.add(chain.take(record, place))
        taken.append((record, place))
    table = run(_hashes(settings, [int(record["sequence"]) for record, _ in taken]))
    verified.add(compared(taken, table, adoptions))


async def _hashes(settings: Settings, sequences: Sequence[int]) -> dict[int, str]:
    async with _looking(settings) as audit:
        return await audit.hashes(sequences)


# Exporting.


@app.command(
    "export",
    epilog=ending(
        "payouts audit export exports/2026-11-28",
        'payouts audit export exports/AUD-7 --reason "AUD-7: yearly audit" --operator maria',
        "payouts audit export exports/2026-11 --from 2026-11-01T00:00:00Z --until 2026-12-01T00:00:00Z --format json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def export(
    directory: Annotated[Path, typer.Argument(help="A new directory for the files.", file_okay=False)],
    from_time: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Records of that time or later (ISO 8601 with zone).")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Records before that time.")] = None,
    form: Annotated[Format, typer.Option("--format", help="csv, or json (one object a line).")] = Format.CSV,
    reason: OptionalReasonOption = None,
    operator: OperatorOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write sealed records to a new directory, with a manifest by which anybody can check them later.

    The manifest has the SHA-256 of the file, counts, first and last record, the hash of the last, and until when it is
    to be kept (AUDIT_RETENTION_DAYS). `payouts audit verify --manifest FILE` checks it, here or elsewhere. Records
    between the first and the last are all there, also those of another time. Nothing is changed and there is nothing to
    undo, but the history has a line of it, because data leave: who, when, which records, why.
    """
    name, why = who_or_what(operator), why_if_given(reason)
    since, end = _time(from_time, "--from"), _time(until, "--until")
    settings = settings_for(DATABASE)
    try:
        directory.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise refused(
            f"{directory} cannot be made", why=error.strerror or type(error).__name__, next_step="name a new directory"
        ) from None
    written = run(_exported(settings, directory, form, (since, end), name, why))
    emit_object(written, output)
    message(f"{written['records']} record(s). Keep them until {written['keep_until']}, apart from the database.")


def _time(text: str | None, option: str) -> datetime | None:
    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise usage_error(f"{option} {error}") from None


async def _exported(
    settings: Settings,
    directory: Path,
    form: Format,
    times: tuple[datetime | None, datetime | None],
    operator: str,
    why: Mapping[str, str],
) -> dict[str, Any]:
    async with _looking(settings) as audit:
        head = await audit.head()
        span = await audit.span(*times)
        if span is None:
            _removed(directory)
            raise not_found("nothing was sealed in that time: no export was written")
        detail = {"first_sequence": span[0], "last_sequence": span[1], **why}
        try:
            await note(settings.database_url.get_secret_value(), operator, AUDIT_EXPORT_BEGUN, detail)
        except LedgerError:
            _removed(directory)
            raise
        path = directory / file_name(*span, form)
        done = await _written(audit, path, form, span)
    manifest = manifest_of(
        done,
        path,
        form=form,
        system_identifier=head.system_identifier,
        created_at=datetime.now(UTC),
        retention_days=settings.audit_retention_days,
    )
    with _new_file(directory / MANIFEST) as file:
        file.write(to_json(manifest, indent=1) + "\n")
    return manifest | {"manifest": str(directory / MANIFEST)}


async def _written(audit: AuditReading, path: Path, form: Format, span: tuple[int, int]) -> Exported:
    """One file. What the history no longer proves is not exported as if it did. Raises CommandFailed."""
    first, last = span
    chain: Chain | None = None
    with _new_file(path) as file:
        writer = ExportWriter(file, form)
        with progress("records", last - first + 1) as step:
            async for line in audit.sealed(first - 1, last):
                if chain is None and line.record is not None:
                    chain = Chain("ledger", Head(line.sequence - 1, str(line.record["previous_hash"])))
                if line.record is None or chain is None or list(chain.take(line.record)):
                    raise not_found(
                        f"the history does not hold at record {line.sequence}: the export ends there",
                        next_step="run `payouts audit verify`, and see the runbook, Audit",
                    )
                writer.write(line.record)
                step()
    return writer.done


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[IO[str]]:
    """A new file that only its owner reads. Raises CommandFailed (unreachable)."""
    try:
        with new_private_file(path) as file:
            yield file
    except OSError as error:
        raise unreachable("the export cannot be written", why=error.strerror or type(error).__name__) from None


def _removed(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()
