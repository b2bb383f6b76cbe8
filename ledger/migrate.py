"""Bring a database's schema forward, on a live system, from wherever it is; the migrations travel with the package.

alembic knows the revisions and writes their statements; asyncpg sends them, one by one, under an advisory lock, with
short lock time-outs so that a migration never queues in front of payouts.
"""

import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from ledger.connections import DRIVER_ERRORS, Busy, Connection, failure_of, session_settings
from ledger.interface import LedgerError, LedgerUnavailable
from ledger.statements import LOCK_SPACE, MIGRATION_LOCK

if TYPE_CHECKING:
    # Loaded where it is used: alembic and sqlalchemy are a quarter of the time that a command needs to start.
    from alembic.config import Config

VERSION_TABLE: Final = "ledger_schema_version"
CONNECT_SECONDS: Final = 10.0
# Another migrator may be at work; it is bounded itself.
MIGRATOR_WAIT_SECONDS: Final = 120
# A statement that waits for a table lock makes every later statement wait behind it: give up early, run it again.
LOCK_SECONDS: Final = 3
STATEMENT_SECONDS: Final = 300

OWNER: Final = f"""
SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass('{VERSION_TABLE}')
"""  # noqa: S608
NOTE: Final = """
INSERT INTO history (actor, transition, from_state, to_state, detail)
VALUES ($1, 'ledger_migrated', $2, $3, $4::jsonb)
"""
MAY_BE_OWNER: Final = f"""
SELECT pg_get_userbyid(relowner) <> current_user AND pg_has_role(current_user, relowner, 'MEMBER')
FROM pg_class WHERE oid = to_regclass('{VERSION_TABLE}')
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What `migrate` did: revisions before and after (None: no schema at all) and those applied, in order."""

    before: str | None
    after: str | None
    applied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Where a database stands against this program."""

    current: str | None
    head: str
    pending: tuple[str, ...]
    ahead: bool
    """A newer program has migrated this database; an older one may run on it, and migrates nothing."""

    @property
    def is_current(self) -> bool:
        """Nothing is left to be applied."""
        return not self.pending


class _StatementList(io.StringIO):
    """alembic's output: it writes one statement at a time, and that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[str] = []

    def write(self, text: str, /) -> int:
        """Keep the statement; the driver cannot send the comment that names the revision."""
        if any(line and not line.startswith("--") for line in text.splitlines()):
            self.statements.append(text)
        return len(text)


async def migrate(
    database_url: str, *, operator: str | None = None, detail: Mapping[str, Any] | None = None
) -> MigrationResult:
    """Apply what is pending; nothing if nothing is, or if the database is ahead. Safe to run at any time, by many.

    With an operator the history gets a line afterwards: who, from which revision to which. One that did not end leaves
    none; the next one's line begins where its own did.
    Raises LedgerUnavailable when the database is away, another migrator does not finish, or a table stays locked: what
    was applied before stays, each revision whole, and the same command goes on from there.
    """
    async with migrator(database_url) as connection:
        await connection.execute(f"SET lock_timeout = '{MIGRATOR_WAIT_SECONDS}s'")
        # Of the session, so that it spans the transactions of all revisions; it ends with this connection.
        await connection.execute(f"SELECT pg_advisory_lock({LOCK_SPACE}, {MIGRATION_LOCK})")
        await connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        before = await _current_revision(connection)
        status = revision_status(before)
        if status.pending:
            for statement in _statements(before):
                await connection.execute(statement)
        after = await _current_revision(connection)
        if status.pending and operator is not None:
            applied = json.dumps({"applied": list(status.pending), **(detail or {})})
            await connection.execute(NOTE, operator, before, after, applied)
        return MigrationResult(before, after, status.pending)


async def migration_status(database_url: str) -> MigrationStatus:
    """Where the database stands; changes nothing. Raises LedgerUnavailable."""
    async with migrator(database_url) as connection:
        return revision_status(await _current_revision(connection))


@asynccontextmanager
async def migrator(database_url: str, *, as_owner: bool = True) -> AsyncIterator[Connection]:
    """A connection of its own, as the tables' owner where we may be that one.

    Its errors come out as the ledger's, without the address in them. Raises LedgerUnavailable.
    """
    failure: LedgerError | Busy | None = None
    connection: Connection = None
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_SECONDS,
            server_settings=session_settings(
                "payouts ledger migrate", lock_seconds=MIGRATOR_WAIT_SECONDS, statement_seconds=STATEMENT_SECONDS
            ),
        )
        # What a login creates would be its own, and out of reach for the next one who migrates.
        if as_owner and await connection.fetchval(MAY_BE_OWNER):
            owner = await connection.fetchval(OWNER)
            await connection.execute(f"SET ROLE {owner}")
        yield connection
    except DRIVER_ERRORS as error:
        failure = failure_of(error, sent=False)
    finally:
        if connection is not None:
            connection.terminate() if failure else await connection.close(timeout=CONNECT_SECONDS)
    if isinstance(failure, Busy):
        raise LedgerUnavailable(
            f"a table, or another migration, stayed locked ({failure}); the schema is at a whole revision: run it again"
        )
    if failure is not None:
        raise failure


async def _current_revision(connection: Connection) -> str | None:
    if await connection.fetchval("SELECT to_regclass($1)", VERSION_TABLE) is None:
        return None
    revision: str | None = await connection.fetchval(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    return revision


def _configuration(statements: _StatementList) -> "Config":
    from alembic.config import Config

    configuration = Config(output_buffer=statements)
    # By package, not by path: the same in a checkout and in an installed wheel.
    configuration.set_main_option("script_location", "ledger:migrations")
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["statements"] = statements
    configuration.attributes["version_table"] = VERSION_TABLE
    return configuration


def revision_status(current: str | None) -> MigrationStatus:
    """Where a database of this revision stands against this program. Raises LedgerError."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_configuration(_StatementList()))
    head = scripts.get_current_head()
    if head is None:
        raise LedgerError("the package holds no migrations: it was not built whole; install it again")
    oldest_first = [script.revision for script in scripts.walk_revisions()][::-1]
    if current is not None and current not in oldest_first:
        return MigrationStatus(current, head, (), ahead=True)
    done = 0 if current is None else oldest_first.index(current) + 1
    return MigrationStatus(current, head, tuple(oldest_first[done:]), ahead=False)


def _statements(current: str | None) -> Sequence[str]:
    from alembic import command

    collected = _StatementList()
    command.upgrade(_configuration(collected), f"{current}:head" if current else "head", sql=True)
    return collected.statements
