"""`payouts ledger migrate|status|roles|backup|restore|adopt`: the database that remembers every payout."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ledger.interface import LedgerUnavailable
from ledger.postgres import PostgresLedger
from ops import adopt, backup, ledger_roles
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.database_status import Bounds, bytes_text, database_facts, findings
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.findings import Finding, Status
from ops.ledger_queries import reading, server_version
from ops.operator_actions import DryRunOption, OperatorOption, OptionalReasonOption, who_or_what, why_if_given
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from ops.stuck import age_text
from streams.settings import Settings

if TYPE_CHECKING:
    from ledger.migrate import MigrationStatus

OLDEST_MAJOR_VERSION: Final = 15

TABLE_COLUMNS: Final = (
    Column("table", "TABLE"),
    Column("total", "SIZE", right=True),
    Column("indexes", "INDEXES", right=True),
    Column("live_rows", "ROWS", right=True),
    Column("dead_rows", "DEAD", right=True),
    Column("bloat_share", "EMPTY", right=True),
    Column("vacuumed_at", "VACUUMED"),
    Column("analyzed_at", "ANALYZED"),
)
SESSION_COLUMNS: Final = (
    Column("pid", "SESSION", right=True),
    Column("login", "LOGIN"),
    Column("application", "PROGRAM"),
    Column("state", "STATE"),
    Column("statement", "STATEMENT"),
    Column("transaction_seconds", "OPEN FOR s", right=True),
    Column("waits_for", "WAITS FOR"),
    Column("blocked_by", "BLOCKED BY"),
)
SLOW_COLUMNS: Final = (
    Column("query_id", "STATEMENT", right=True),
    Column("calls", "CALLS", right=True),
    Column("mean", "MEAN ms", right=True),
    Column("max", "MAX ms", right=True),
)
STANDBY_COLUMNS: Final = (
    Column("name", "STANDBY"),
    Column("state", "STATE"),
    Column("sync_state", "SYNCHRONOUS"),
    Column("behind", "BEHIND", right=True),
    Column("replay_lag_seconds", "LAG s", right=True),
)
GIBIBYTE: Final = 1024**3
OWN_TABLES: Final = (
    *("tables", "indexes", "sessions", "standbys", "slots", "findings"),
    *("slow_statements", "slow_statements_not_counted"),
)
"""What the table shows apart, or not at all (JSON has it)."""

app = new_app("The ledger: its schema, what is in it, and whether it is the one that we know.")
ledger_roles.register(app)
backup.register(app)
adopt.register(app)


@app.command(
    "migrate",
    epilog=ending(
        "payouts ledger migrate",
        "payouts ledger migrate --dry-run",
        'payouts ledger migrate --operator release-1.4 --reason "OPS-31: before the workers of 1.4" --output json',
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def migrate_(
    reason: OptionalReasonOption = None,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring the schema forward, on a live system. Does nothing when nothing is pending; safe to run at any time.

    It moves no money, and workers go on meanwhile. Who applied which revisions is in the ledger's history. There is no
    undo: a release runs on the tables of the next one, so the old image is the way back.
    """
    from ledger.migrate import migrate, migration_status

    name, why = who_or_what(operator), why_if_given(reason)
    url = settings_for(DATABASE).database_url.get_secret_value()
    if dry_run:
        now = run(migration_status(url))
        emit_object({"before": now.current, "after": now.current, "applied": [], "pending": list(now.pending)}, output)
        message(f"{len(now.pending)} revision(s) would be applied. Nothing was changed (--dry-run).")
        return
    result = run(migrate(url, operator=name, detail=why))
    emit_object({"before": result.before, "after": result.after, "applied": list(result.applied)}, output)
    message("Nothing was pending." if not result.applied else f"{len(result.applied)} revision(s) applied, by {name}.")


@app.command(
    "status",
    epilog=ending(
        "payouts ledger status",
        "payouts ledger status --output json",
        "payouts ledger status --statement-seconds 10 --database-gib-max 200",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def status(
    statement_seconds: Annotated[
        float, typer.Option(min=0.0, help="A statement that runs longer is a finding.")
    ] = Bounds.statement_seconds,
    transaction_seconds: Annotated[
        float, typer.Option(min=0.0, help="A transaction that is open longer is a finding.")
    ] = Bounds.transaction_seconds,
    lag_seconds: Annotated[
        float, typer.Option(min=0.0, help="A standby that is further behind is a finding.")
    ] = Bounds.replay_lag_seconds,
    bloat_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="A large table that is emptier than this is a finding.")
    ] = Bounds.bloat_share,
    database_gib_max: Annotated[
        float | None, typer.Option(min=0.0, help="A larger database is a finding; set it to what its disk can hold.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the schema's revision, the mode, durability, the sealed history, counts, and how the database itself is.

    Sessions, locks waited for, sizes, bloat, vacuum, standbys, numbers issued, the slowest statements of the past by
    their ids (pg_stat_statements). What is out of bounds is a finding: exit code 1. Whether the database is the one
    that published the audit is asked of Kafka, if that can be reached.
    """
    bounds = Bounds(
        statement_seconds=statement_seconds,
        transaction_seconds=transaction_seconds,
        replay_lag_seconds=lag_seconds,
        bloat_share=bloat_share,
        database_bytes=None if database_gib_max is None else round(database_gib_max * GIBIBYTE),
    )
    settings = settings_for(DATABASE)
    values, problems = run(ledger_status(settings, bounds))
    if output is Output.JSON:
        emit_object(values, output)
    else:
        _show(values)
    for problem in problems:
        message(problem)
    if problems:
        raise typer.Exit(ExitCode.FOUND)


def _show(values: dict[str, Any]) -> None:
    database = dict(values.pop("database", {}))
    emit_object(values, Output.TABLE)
    if not database:
        return
    print()
    shown = {name: value for name, value in database.items() if name not in OWN_TABLES}
    shown["database_bytes"] = bytes_text(database["database_bytes"])
    shown["up_seconds"] = age_text(round(database["up_seconds"]))
    named = {name.removesuffix("_bytes").removesuffix("_seconds"): value for name, value in shown.items()}
    emit_object(named, Output.TABLE)
    print()
    tables = [
        table | {"total": bytes_text(table["total_bytes"]), "indexes": bytes_text(table["index_bytes"])}
        for table in database["tables"]
    ]
    emit_rows(tables, TABLE_COLUMNS, Output.TABLE)
    if database["sessions"]:
        print()
        rows = [one | {"transaction_seconds": _seconds(one["transaction_seconds"])} for one in database["sessions"]]
        emit_rows(rows, SESSION_COLUMNS, Output.TABLE)
    if database["standbys"]:
        print()
        rows = [
            one
            | {
                "behind": bytes_text(one["behind_bytes"] or 0),
                "replay_lag_seconds": _seconds(one["replay_lag_seconds"]),
            }
            for one in database["standbys"]
        ]
        emit_rows(rows, STANDBY_COLUMNS, Output.TABLE)
    _show_slow(database)
    for found in database["findings"]:
        if found["status"] == Status.WARN.value:
            message(f"note: {found['detail']}: {found['advice']}")


def _show_slow(database: dict[str, Any]) -> None:
    if database["slow_statements"]:
        print()
        rows = [
            one | {"mean": f"{one['mean_ms']:.1f}", "max": f"{one['max_ms']:.1f}"}
            for one in database["slow_statements"]
        ]
        emit_rows(rows, SLOW_COLUMNS, Output.TABLE)
    elif (why := database["slow_statements_not_counted"]) is not None:
        message(f"note: slow statements of the past are not counted (pg_stat_statements): {why}")


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f}"


async def ledger_status(settings: Settings, bounds: Bounds | None = None) -> tuple[dict[str, Any], list[str]]:
    """What `payouts ledger status` shows, and what is wrong with it. Raises LedgerUnavailable."""
    from ledger.migrate import migration_status

    url = settings.database_url.get_secret_value()
    migrations = await migration_status(url)
    values: dict[str, Any] = {
        "postgresql": await server_version(url),
        "revision": migrations.current,
        "head": migrations.head,
        "pending": list(migrations.pending),
    }
    problems = _migration_problems(migrations)
    if migrations.current is None or migrations.pending:
        return values, problems
    async with connected_ledger(settings) as ledger:
        durability = await ledger.durability()
        mode = await ledger.mode()
        values |= {
            "mode": mode.mode.value,
            "mode_set_at": mode.set_at,
            "mode_operator": mode.operator,
            "mode_reason": mode.reason,
            "synchronous_commit": durability.synchronous_commit,
            "fsync": durability.fsync,
            "full_page_writes": durability.full_page_writes,
            **await _seal_status(settings, ledger, problems),
            "counts": {name: count for name, count in (await _counts(ledger)).items() if count},
        }
    if not durability.is_safe:
        problems.append(
            "Commits are confirmed before they are durable: set synchronous_commit, fsync, full_page_writes."
        )
    values["database"], found = await database_status(url, bounds or Bounds())
    problems += [f"{one.detail}: {one.advice}." for one in found if one.status is Status.FAIL]
    return values, problems


async def database_status(url: str, bounds: Bounds) -> tuple[dict[str, Any], list[Finding]]:
    """How the database itself is, and what is out of bounds. Raises LedgerUnavailable."""
    async with reading(url) as connection:
        facts = await database_facts(connection)
    found = list(findings(facts, bounds))
    return facts | {"findings": [asdict(one) for one in found]}, found


async def _seal_status(settings: Settings, ledger: PostgresLedger, problems: list[str]) -> dict[str, Any]:
    """How far the history is sealed and published, and what the guard of a worker would say (rules L10, L11)."""
    from ledger.guard import Verdict
    from ops.adopt import published_now

    published, why_not = await published_now(settings)
    verdict, standing = await ledger.seals.examine(published)
    if why_not is not None:
        verdict = Verdict.NOT_LOOKED_AT
        message(f"The audit was not read, so whether this is the database that we know was not asked: {why_not}")
    elif verdict is not Verdict.KNOWN:
        problems.append(
            f"This database is not the one that published the audit ({verdict.value}): no call leaves. "
            "Runbook, `Database restored from a copy`."
        )
    return {
        "system_identifier": standing.system_identifier,
        "timeline": standing.timeline,
        "sealed": standing.head.sequence,
        "sealed_hash": standing.head.hash,
        "published": standing.published_sequence,
        "guard": verdict.value,
    }


async def _counts(ledger: PostgresLedger) -> dict[str, int]:
    try:
        return dict(await ledger.counts())
    except LedgerUnavailable as error:
        message(f"The payouts were not counted: {error}")
        return {}


def _migration_problems(migrations: "MigrationStatus") -> list[str]:
    if migrations.ahead:
        return ["A newer program has migrated this database: upgrade this one."]
    if migrations.pending:
        return [f"{len(migrations.pending)} revision(s) pending: run `payouts ledger migrate`."]
    return []
