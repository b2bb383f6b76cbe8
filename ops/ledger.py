"""`payouts ledger migrate|status|adopt`: the database that remembers every payout."""

from typing import TYPE_CHECKING, Any, Final

import typer

from ledger.interface import LedgerUnavailable
from ledger.postgres import PostgresLedger
from ops import adopt
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.ledger_queries import server_version
from ops.options import OutputOption
from ops.output import Output, emit_object, message
from streams.settings import Settings

if TYPE_CHECKING:
    from ledger.migrate import MigrationStatus

OLDEST_MAJOR_VERSION: Final = 15

app = new_app("The ledger: its schema, what is in it, and whether it is the one that we know.")
adopt.register(app)


@app.command(
    "migrate",
    epilog=ending(
        "payouts ledger migrate",
        "payouts ledger migrate --output json",
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def migrate_(output: OutputOption = Output.TABLE) -> None:
    """Bring the schema forward, on a live system. Does nothing when nothing is pending; safe to run at any time."""
    from ledger.migrate import migrate

    settings = settings_for(DATABASE)
    result = run(migrate(settings.database_url.get_secret_value()))
    emit_object({"before": result.before, "after": result.after, "applied": list(result.applied)}, output)
    message("Nothing was pending." if not result.applied else f"{len(result.applied)} revision(s) applied.")


@app.command(
    "status",
    epilog=ending(
        "payouts ledger status",
        "payouts ledger status --output json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def status(output: OutputOption = Output.TABLE) -> None:
    """Show the schema's revision, the mode, durability, the sealed history, and how many payouts are in each state.

    Whether the database is the one that published the audit is asked of Kafka, if that can be reached.
    """
    settings = settings_for(DATABASE)
    values, problems = run(ledger_status(settings))
    emit_object(values, output)
    for problem in problems:
        message(problem)
    if problems:
        raise typer.Exit(ExitCode.FOUND)


async def ledger_status(settings: Settings) -> tuple[dict[str, Any], list[str]]:
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
    return values, problems


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
