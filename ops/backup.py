"""`payouts ledger backup|restore`: everything that is needed to go on elsewhere, and putting it back in its order.

Read in the order offsets, ledger, topics; put back in the order ledger, topics, offsets; then adopted. Each of these is
checked: offsets ahead of the ledger would leave requests unread, topics from before it would lack what it published,
and a copy that pays before it was adopted would pay twice (rule L11).
"""

import json
from asyncio import to_thread
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from confluent_kafka import KafkaException
from ulid import ULID

from ledger import restoring
from ledger.migrate import revision_status
from ledger.offset_actions import Step, offset_actions
from ledger.operator_notes import BACKUP_BEGUN, note
from ops.application import ending
from ops.asynchronous import run
from ops.backup_files import (
    DUMP,
    OFFSETS,
    TOPICS,
    Manifest,
    Part,
    checked,
    prepared_directory,
    seal_directory,
)
from ops.backup_programs import program, run_program
from ops.backup_topics import (
    Offsets,
    OffsetStep,
    commit_offsets,
    ends_of,
    export_topics,
    import_topics,
    offsets_of,
    plan_offsets,
    read_offsets,
    refuse_active_group,
    topic_ids,
)
from ops.environment import DATABASE, KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused, usage_error
from ops.kafka import connect_admin, our_topics
from ops.money_text import amount_text
from ops.offset_apply import OFFSETS_NOTED_MAX, locked
from ops.operator_actions import (
    DryRunOption,
    OperatorOption,
    OptionalReasonOption,
    ReasonOption,
    YesOption,
    answers,
    confirmed,
    said,
    who,
    who_or_what,
    why_if_given,
)
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message, to_json
from ops.private_files import write_private
from schemas.topics import READ_BY_WORKERS
from streams.settings import Settings

CODES: Final = (ExitCode.FOUND, ExitCode.REFUSED, ExitCode.GROUP_ACTIVE, ExitCode.UNREACHABLE)
MONEY_COLUMNS: Final = (
    Column("state", "STATE"),
    Column("payouts", "PAYOUTS", right=True),
    Column("money", "MONEY", right=True),
)
OFFSET_COLUMNS: Final = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", right=True),
    Column("now", "NOW", right=True),
    Column("then", "THEN", right=True),
    Column("read_again", "READ AGAIN", right=True),
    Column("why", "WHY NOT"),
)

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where the backup is.")]
ProgramsOption = Annotated[
    Path | None, typer.Option("--programs", help="Where pg_dump and pg_restore are; else the PATH.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "backup",
        epilog=ending(
            "payouts ledger backup backups/2026-11-28",
            'payouts ledger backup backups/2026-11-28 --include-offsets --include-topics --reason "OPS-31: to 18.2"',
            codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(backup)
    app.command(
        "restore",
        epilog=ending(
            'payouts ledger restore backups/2026-11-28 --reason "INC-124: the server is lost" --dry-run',
            'payouts ledger restore backups/2026-11-28 --reason "INC-124: the server is lost" --operator maria --yes',
            'payouts ledger restore backups/2026-11-28 --part offsets --reason "INC-124" --yes',
            codes=CODES,
        ),
    )(restore)


def backup(
    directory: DirectoryArgument,
    include_offsets: Annotated[
        bool,
        typer.Option("--include-offsets", help="Also what the consumer group has committed, and the topics' list."),
    ] = False,
    include_topics: Annotated[
        bool, typer.Option("--include-topics", help="Also every record of our topics. Small clusters only.")
    ] = False,
    programs: ProgramsOption = None,
    reason: OptionalReasonOption = None,
    operator: OperatorOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write a backup of the running system into a new directory; workers go on meanwhile.

    A dump of the ledger's database with a manifest: SHA-256 of every file, revision, system identifier, sealed head,
    position of the identity numbers, payouts and money, time. It is not encrypted as a whole (requests and card data in
    it are): keep it as you keep the database. Our keys are not in it: back them up apart. Nothing is changed and there
    is nothing to undo, but the history has a line of it, because data leave: who, when, which backup, why.
    """
    name, why = who_or_what(operator), why_if_given(reason)
    with_kafka = include_offsets or include_topics
    settings = settings_for(DATABASE, KAFKA) if with_kafka else settings_for(DATABASE)
    partial = prepared_directory(directory)
    try:
        manifest = _written(settings, partial, name, why, programs, offsets=include_offsets, topics=include_topics)
        partial.rename(directory)
    except BaseException:
        _remove(partial)
        raise
    emit_object(_told(manifest), output)
    message(f"{directory} is whole. Try it: put it back into an empty database (`payouts ledger restore --dry-run`).")


def _written(
    settings: Settings,
    directory: Path,
    name: str,
    why: Mapping[str, str],
    programs: Path | None,
    *,
    offsets: bool,
    topics: bool,
) -> Manifest:
    url = settings.database_url.get_secret_value()
    target = run(_target(url))
    pg_dump, _ = program("pg_dump", programs, major_min=target.major)
    backup_id, offsets_at, topics_at = str(ULID()), None, None
    run(note(url, name, BACKUP_BEGUN, {"backup": backup_id, "offsets": offsets, "topics": topics, **why}))
    if offsets:
        # Before the ledger: whatever was committed by now, the ledger knows.
        offsets_at = run(_clock(url))
        write_private(directory / OFFSETS, to_json(read_offsets(settings).document(), indent=1) + "\n")
    facts = run(_dumped(url, pg_dump, directory / DUMP))
    if topics:
        # After the ledger: whatever it has published by then, the topics hold.
        topics_at = run(_clock(url))
        (directory / TOPICS).mkdir(mode=0o700)
        export_topics(settings, directory / TOPICS)
    return seal_directory(directory, _manifest(facts, backup_id, name, offsets_at, topics_at))


def _manifest(
    facts: Mapping[str, Any], backup_id: str, name: str, offsets_at: datetime | None, topics_at: datetime | None
) -> Manifest:
    return Manifest(
        backup_id=backup_id,
        created_by=name,
        program=_program_version(),
        postgresql=facts["postgresql"],
        major=facts["major"],
        revision=facts["revision"],
        system_identifier=facts["system_identifier"],
        timeline=int(facts["timeline"], 16),
        sequence=facts["sequence"],
        hash=facts["hash"],
        published_sequence=facts["published_sequence"],
        identity_position=facts["identity_position"],
        history_lines=facts["history_lines"],
        snapshot_at=facts["snapshot_at"],
        offsets_at=offsets_at,
        topics_at=topics_at,
        money=facts["money"],
    )


def _program_version() -> str:
    try:
        return version("payout-streams")
    except PackageNotFoundError:
        return "not installed"


async def _target(url: str) -> restoring.Target:
    async with restoring.opened(url, application_name="payouts ledger backup") as connection:
        return await restoring.look_at_target(connection)


async def _clock(url: str) -> datetime:
    async with restoring.opened(url, application_name="payouts ledger backup") as connection:
        at: datetime = await connection.fetchval(restoring.CLOCK)
        return at


async def _dumped(url: str, pg_dump: Path, file: Path) -> dict[str, Any]:
    """The dump, and what was in the database at the very snapshot of it."""
    async with restoring.opened(url, application_name="payouts ledger backup") as connection:
        if not await connection.fetchval(restoring.HAS_RESTORES):
            raise refused(
                "this database is of an older revision", next_step="run `payouts ledger migrate`, then the backup"
            )
        async with restoring.snapshot(connection) as (name, facts):
            write_private(file, "")
            options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={name}", f"--file={file}"]
            await to_thread(run_program, pg_dump, options, url)
            return dict(facts)


def _remove(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


# Putting it back.


def restore(
    directory: DirectoryArgument,
    reason: ReasonOption,
    part: Annotated[
        list[Part] | None, typer.Option("--part", help="Only this part of it; everything it holds when not given.")
    ] = None,
    programs: ProgramsOption = None,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put a backup into an empty database (and empty topics), in the safe order: ledger, topics, offsets.

    Refused: a changed byte, another major version, a database with anything in it, workers that run, offsets that are
    ahead of the ledger. Afterwards no call leaves until `payouts ledger adopt`: the copy does not know what was paid
    after it was made. To undo it drop the database, and delete the topics that it filled; offsets only went back.
    """
    why, name = said(reason, "--reason"), who(operator)
    answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    manifest = checked(directory)
    parts = _parts(manifest, part)
    if revision_status(manifest.revision).ahead:
        raise refused(
            f"the backup is of a newer program (revision {manifest.revision})",
            next_step="use the release that wrote it",
        )
    problem = manifest.order_problem()
    if problem is not None:
        raise refused("the parts of this backup do not belong together", why=problem, next_step="take another backup")
    needs_kafka = Part.TOPICS in parts or Part.OFFSETS in parts
    settings = settings_for(DATABASE, KAFKA) if needs_kafka else settings_for(DATABASE)
    _refuse_workers(settings, must_answer=needs_kafka)
    if output is Output.TABLE:
        emit_rows([_money(row) for row in manifest.money], MONEY_COLUMNS, output)
    _announce(manifest, parts)
    done: dict[str, Any] = {"dry_run": dry_run, "backup_id": manifest.backup_id, "snapshot_at": manifest.snapshot_at}
    if Part.LEDGER in parts:
        pg_restore, _ = program("pg_restore", programs, major_min=manifest.major)
        run(_check_target(settings, manifest))
    if Part.OFFSETS in parts and not dry_run and not yes:
        _offsets(settings, manifest, directory, output, parts, name, why, dry_run=True)  # seen before it is agreed to
    if not dry_run:
        confirmed("Put it back", name, yes=yes)
    if Part.LEDGER in parts:
        if not dry_run:
            run(_restored(settings, manifest, directory / DUMP, pg_restore, name, why))
        done["ledger"] = {"payouts": sum(row["payouts"] for row in manifest.money), "history": manifest.history_lines}
    if Part.TOPICS in parts:
        _ledger_first(settings, manifest, skipped=dry_run and Part.LEDGER in parts)
        done["topics"] = import_topics(settings, directory / TOPICS, dry_run=True)
        if not dry_run:
            run(_topics_noted(settings, manifest, name, why))
            done["topics"] = import_topics(settings, directory / TOPICS, dry_run=False)
    if Part.OFFSETS in parts:
        done["offsets"] = _offsets(settings, manifest, directory, output, parts, name, why, dry_run=dry_run)
    if output is Output.JSON:
        emit_object({"money": [_money(row) for row in manifest.money], **done}, output)
    if dry_run:
        message("Nothing was changed (--dry-run).")
    elif Part.LEDGER in parts:
        if revision_status(manifest.revision).pending:
            message("Revisions are pending: run `payouts ledger migrate` now.")
        message("The ledger is a copy: no call leaves before `payouts ledger adopt`. Then start the workers.")


def _parts(manifest: Manifest, wanted: Sequence[Part] | None) -> list[Part]:
    missing = [one.value for one in wanted or () if one not in manifest.parts]
    if missing:
        raise usage_error(
            f"the backup holds no {', '.join(missing)}",
            why=f"it holds {', '.join(manifest.parts)}",
            next_step="a backup has them with --include-offsets and --include-topics",
        )
    return [one for one in manifest.parts if not wanted or one in wanted]


def _refuse_workers(settings: Settings, *, must_answer: bool) -> None:
    try:
        refuse_active_group(settings)
    except (CommandFailed, KafkaException) as error:
        active = isinstance(error, CommandFailed) and error.code is ExitCode.GROUP_ACTIVE
        if active or must_answer:
            raise
        message("Kafka was not asked whether workers are in the group: it does not answer. Make sure that none runs.")


async def _check_target(settings: Settings, manifest: Manifest) -> None:
    url = settings.database_url.get_secret_value()
    async with restoring.opened(url, application_name="payouts ledger restore") as connection:
        _refuse_target(await restoring.look_at_target(connection), manifest)


def _refuse_target(target: restoring.Target, manifest: Manifest) -> None:
    if target.standby:
        raise refused("this server is a standby", next_step="name the primary in DATABASE_URL")
    if target.major != manifest.major:
        raise refused(
            f"the backup is of PostgreSQL {manifest.major}, and this server is {target.major}",
            why="what was proven of a restore was proven within one major version",
            next_step=f"restore into PostgreSQL {manifest.major}; upgrade afterwards, as a change of its own",
        )
    if target.relations:
        raise refused(
            f"the database is not empty: it has {target.relations} tables, indexes or sequences",
            why="a backup never replaces or mixes with what is there",
            next_step="name an empty database in DATABASE_URL (createdb)",
        )
    if target.sessions:
        raise refused(
            f"others are connected to the database: {', '.join(target.sessions)}",
            why="a worker that runs would begin to work on half a ledger",
            next_step="stop every worker and close the other sessions",
        )


async def _restored(settings: Settings, manifest: Manifest, dump: Path, pg_restore: Path, name: str, why: str) -> None:
    url = settings.database_url.get_secret_value()
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    async with restoring.opened(url, application_name="payouts ledger restore") as connection:
        if not await restoring.take_for_restore(connection):
            raise refused("another restore or migration is at work on this database", next_step="wait for it, and look")
        _refuse_target(await restoring.look_at_target(connection), manifest)
        message("tables …")
        await to_thread(run_program, pg_restore, [*options, "--section=pre-data", str(dump)], url)
        # From here on, whoever looks finds a copy; there is no mode and no seal yet either, so that nothing can begin.
        await restoring.first_line(connection, manifest.backup_id, manifest.snapshot_at, manifest.sequence, name, why)
        message("rows …")
        await to_thread(run_program, pg_restore, [*options, "--section=data", str(dump)], url)
        await restoring.put_in_order(connection)
        message("indexes, constraints and triggers …")
        await to_thread(run_program, pg_restore, [*options, "--section=post-data", str(dump)], url)
        await connection.execute("ANALYZE")
        found = await restoring.restored_facts(connection)
        differences = _differences(manifest, found)
        if differences:
            raise refused(
                "what was put back is not what the backup says it holds",
                why="; ".join(differences),
                next_step="drop this database; take another backup",
            )
        detail = {"reason": why, "backup": manifest.backup_id, "snapshot_at": manifest.snapshot_at}
        await connection.execute(restoring.NOTE, name, to_json(detail))


def _differences(manifest: Manifest, found: Mapping[str, Any]) -> list[str]:
    expected = {
        "revision": manifest.revision,
        "sequence": manifest.sequence,
        "hash": manifest.hash,
        "history_lines": manifest.history_lines,
        "money": list(manifest.money),
    }
    different = [f"{key} differs" for key, value in expected.items() if found[key] != value]
    # The numbers belong to no snapshot: those that were issued while it was dumped are in it.
    if found["identity_position"] < manifest.identity_position:
        different.append("identity_position is behind")
    return different


def _ledger_first(settings: Settings, manifest: Manifest, *, skipped: bool) -> None:
    if skipped or run(_restored_at(settings, manifest)) is not None:
        return
    raise refused(
        "the ledger of this backup was not put into this database",
        why="topics and offsets belong to it: with another ledger requests would be lost or paid twice",
        next_step="put the ledger back first: `payouts ledger restore DIRECTORY --part ledger`",
    )


async def _restored_at(settings: Settings, manifest: Manifest) -> datetime | None:
    url = settings.database_url.get_secret_value()
    async with restoring.opened(url, application_name="payouts ledger restore") as connection:
        return await restoring.restored_at(connection, manifest.backup_id)


def _offsets(
    settings: Settings,
    manifest: Manifest,
    directory: Path,
    output: Output,
    parts: Sequence[Part],
    name: str,
    why: str,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    saved = _saved_offsets(directory)
    if dry_run and Part.LEDGER in parts:
        return {"partitions": len(saved.committed), "planned": "after the ledger, which says what it knows"}
    _ledger_first(settings, manifest, skipped=False)
    known, filled = run(_known(settings, manifest))
    topics_are_back = bool(filled) and filled == _ids_now(settings)
    steps = plan_offsets(
        settings,
        saved,
        known,
        with_records=Part.TOPICS in parts or topics_are_back,
        topics_of_backup=Part.TOPICS in manifest.parts,
        to_be_filled=ends_of(directory / TOPICS) if dry_run and Part.TOPICS in parts else None,
    )
    rows = [_offset_row(step) for step in steps]
    if output is Output.TABLE:
        emit_rows(rows, OFFSET_COLUMNS, output)
    done = 0 if dry_run else run(_committed(settings, steps, manifest.backup_id, name, why))
    return {"committed_partitions": done, "partitions": rows}


async def _committed(settings: Settings, steps: Sequence[OffsetStep], backup_id: str, name: str, why: str) -> int:
    """Move the group, with a line of the history before it and one after it (P9)."""
    moved = {f"{one.topic}-{one.partition}": [one.now, one.then] for one in steps if one.then is not None}
    facts: dict[str, Any] = {
        "plan": backup_id,
        "kind": "ledger restore",
        "reason": why,
        "partitions": len(moved),
        "offsets": dict(list(moved.items())[:OFFSETS_NOTED_MAX]),
    }
    async with offset_actions(settings.database_url.get_secret_value()) as actions:
        await locked(actions)
        if not moved:
            return 0
        await actions.note(Step.BEGUN, name, facts)
        done = await to_thread(commit_offsets, settings, steps)
        await actions.note(Step.APPLIED, name, facts | {"partitions_moved": done})
        return done


def _saved_offsets(directory: Path) -> Offsets:
    try:
        return offsets_of(json.loads((directory / OFFSETS).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError):
        raise refused("the offsets of this backup cannot be read", next_step="use the release that wrote it") from None


async def _known(settings: Settings, manifest: Manifest) -> tuple[dict[tuple[str, int], int], dict[str, str]]:
    """What the ledger knows of each inbound partition, and the ids of the topics that this backup was put back into."""
    url = settings.database_url.get_secret_value()
    async with restoring.opened(url, application_name="payouts ledger restore") as connection:
        known = await restoring.known_offsets(connection)
        return known, json.loads(await connection.fetchval(restoring.TOPICS_FROM, manifest.backup_id) or "{}")


def _ids_now(settings: Settings) -> dict[str, str]:
    return topic_ids(settings, list(our_topics(connect_admin(settings), settings, READ_BY_WORKERS)))


async def _topics_noted(settings: Settings, manifest: Manifest, name: str, why: str) -> None:
    """Before the first record: adopting must know that the topics are a copy, too, and the offsets whose places they

    are. Half of them is noted as well: offsets that are not there yet are refused.
    """
    url = settings.database_url.get_secret_value()
    detail = {
        "reason": why,
        "backup": manifest.backup_id,
        "topics_at": manifest.topics_at,
        "topic_ids": await to_thread(_ids_now, settings),
    }
    async with restoring.opened(url, application_name="payouts ledger restore") as connection:
        await connection.execute(restoring.TOPICS_NOTE, name, to_json(detail))


def _offset_row(step: OffsetStep) -> dict[str, Any]:
    return {
        "topic": step.topic,
        "partition": step.partition,
        "now": step.now,
        "then": step.then,
        "read_again": step.read_again,
        "why": step.why,
    }


# Telling.


def _money(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "money": amount_text(row["amount_minor"], row["currency"])}


def _told(manifest: Manifest) -> dict[str, Any]:
    size = sum(file["bytes"] for file in manifest.files.values())
    shown = replace(manifest, files={})
    return {
        "backup_id": shown.backup_id,
        "parts": [one.value for one in manifest.parts],
        "snapshot_at": shown.snapshot_at,
        "revision": shown.revision,
        "postgresql": shown.postgresql,
        "system_identifier": shown.system_identifier,
        "sealed": shown.sequence,
        "identity_position": shown.identity_position,
        "payouts": sum(row["payouts"] for row in manifest.money),
        "money": [_money(row) for row in manifest.money],
        "files": len(manifest.files),
        "bytes": size,
    }


def _announce(manifest: Manifest, parts: Sequence[Part]) -> None:
    payouts = sum(row["payouts"] for row in manifest.money)
    message(
        f"{', '.join(parts)} of {manifest.snapshot_at.isoformat(timespec='seconds')}: {payouts} payouts. What was paid "
        "after that moment this copy does not know."
    )
