"""The database's side of a backup and of putting it back (rule L11).

    async with snapshot(url) as (name, facts): ...       what pg_dump is to dump, and what will be in it
    target = await look_at_target(connection)            empty? alone? which server?
    await first_line(connection, restore)                before any row: from now on this is a copy
    await put_in_order(connection)                       after the rows, before indexes and triggers

A dump brings the rows and not their transactions: another cluster counts its own. So all lines of the history become
lines from before (transaction 0), in the order of their ids, and the sealer goes on behind what was sealed. Nothing of
what was sealed changes.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from ledger.adoption import TOPICS_RESTORED
from ledger.connections import DRIVER_ERRORS, Busy, Connection, failure_of, session_settings
from ledger.interface import LedgerError, LedgerUnavailable
from ledger.migrate import VERSION_TABLE
from ledger.seals import ORIGIN
from ledger.statements import LOCK_SPACE, MIGRATION_LOCK

CONNECT_SECONDS: Final = 10.0
LOCK_SECONDS: Final = 10.0
# A dump reads everything, a restore writes everything and builds every index: hours, and no more than a night.
WHOLE_SECONDS: Final = 8 * 3600.0

FACTS: Final = f"""
SELECT current_setting('server_version_num')::int / 10000 AS major, current_setting('server_version') AS postgresql,
    (SELECT version_num FROM {VERSION_TABLE}) AS revision, {ORIGIN}, s.sequence, s.hash, s.published_sequence,
    (SELECT count(*) FROM history) AS history_lines, clock_timestamp() AS snapshot_at
FROM seal_head AS s
"""  # noqa: S608 - constants
MONEY: Final = """
SELECT state, currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor FROM payouts
GROUP BY state, currency ORDER BY state, currency
"""
HAS_RESTORES: Final = "SELECT to_regclass('restores') IS NOT NULL"
CLOCK: Final = "SELECT clock_timestamp()"

TARGET: Final = """
SELECT current_setting('server_version_num')::int / 10000 AS major, current_setting('server_version') AS postgresql,
    pg_is_in_recovery() AS standby, (SELECT system_identifier FROM pg_control_system())::text AS system_identifier,
    (SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'
            AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')) AS relations,
    ARRAY(SELECT format('%s (%s)', a.pid, coalesce(nullif(a.application_name, ''), 'no name'))
        FROM pg_stat_activity AS a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
            AND a.backend_type = 'client backend' ORDER BY a.pid) AS sessions
"""
FIRST_LINE: Final = """
INSERT INTO restores (backup_id, snapshot_at, sequence, operator, reason) VALUES ($1, $2, $3, $4, $5)
"""
# One rewrite of the table, without its triggers and without a dead row; the default stays.
IN_ORDER: Final = (
    "ALTER TABLE history ALTER COLUMN written_by TYPE xid8 USING '0'::xid8",
    "UPDATE seal_head SET sealed_written_by = '0', sealed_history_id = 0",
)
NOTE: Final = """
INSERT INTO history (actor, transition, from_state, to_state, detail)
VALUES ($1, 'ledger_restored', NULL, 'RESTORED', $2::jsonb)
"""
TOPICS_NOTE: Final = f"""
INSERT INTO history (actor, transition, from_state, to_state, detail)
VALUES ($1, '{TOPICS_RESTORED}', NULL, 'RESTORED', $2::jsonb)
"""  # noqa: S608 - a constant
TOPICS_FROM: Final = f"""
SELECT detail ->> 'topic_ids' FROM history WHERE transition = '{TOPICS_RESTORED}' AND detail ->> 'backup' = $1
ORDER BY id DESC LIMIT 1
"""  # noqa: S608
RESTORED_FROM: Final = "SELECT max(restored_at) FROM restores WHERE backup_id = $1"
# What the ledger knows of an inbound partition: the place behind the last record that it has an answer for.
KNOWN_OFFSETS: Final = """
SELECT topic, partition_number, max(next_offset) AS next_offset FROM (
    SELECT source_topic AS topic, source_partition AS partition_number, max(source_offset) + 1 AS next_offset
    FROM payouts GROUP BY 1, 2
    UNION ALL
    SELECT topic, partition_number, max(record_offset) + 1 FROM intake GROUP BY 1, 2
    UNION ALL
    SELECT topic, partition_number, next_offset FROM verified_offsets
) AS known GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A database that a backup is to be put into."""

    major: int
    postgresql: str
    standby: bool
    system_identifier: str
    relations: int
    sessions: Sequence[str]


@asynccontextmanager
async def opened(database_url: str, *, application_name: str) -> AsyncIterator[Connection]:
    """A connection on which a statement may take hours. Raises LedgerUnavailable, without the address."""
    failure: LedgerError | Busy | None = None
    connection: Connection = None
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_SECONDS,
            target_session_attrs=SessionAttribute.primary,
            server_settings=session_settings(
                application_name,
                lock_seconds=LOCK_SECONDS,
                statement_seconds=WHOLE_SECONDS,
                idle_in_transaction_seconds=WHOLE_SECONDS,
            ),
        )
        yield connection
    except (*DRIVER_ERRORS, ValueError) as error:
        failure = failure_of(error, sent=False)
    finally:
        if connection is not None:
            connection.terminate() if failure else await connection.close(timeout=CONNECT_SECONDS)
    if failure is not None:
        raise failure if isinstance(failure, LedgerError) else LedgerUnavailable(f"PostgreSQL is busy ({failure})")


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    """The name of a snapshot that pg_dump can use, and what is in it: facts and money, of the same moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        name: str = await connection.fetchval("SELECT pg_export_snapshot()")
        facts = dict(await connection.fetchrow(FACTS))
        facts["money"] = [dict(row) for row in await connection.fetch(MONEY)]
        yield name, facts


async def look_at_target(connection: Connection) -> Target:
    """Which server it is, and whether anything or anybody is in the database."""
    return Target(**await connection.fetchrow(TARGET))


async def take_for_restore(connection: Connection) -> bool:
    """Keep other restores and migrations out until this session ends; whether nobody else has it."""
    taken: bool = await connection.fetchval(f"SELECT pg_try_advisory_lock({LOCK_SPACE}, {MIGRATION_LOCK})")
    return taken


async def first_line(connection: Connection, *restore: object) -> None:
    """Backup, time of its snapshot, its sealed head, operator, reason."""
    await connection.execute(FIRST_LINE, *restore)


async def put_in_order(connection: Connection) -> None:
    """See above; all of it or nothing. For a database whose data are there and whose triggers are not."""
    async with connection.transaction():
        for statement in IN_ORDER:
            await connection.execute(statement)


async def restored_facts(connection: Connection) -> dict[str, Any]:
    """What is there now, to be compared with what the backup said."""
    async with snapshot(connection) as (_, facts):
        return dict(facts)


async def known_offsets(connection: Connection) -> dict[tuple[str, int], int]:
    """Topic and partition, as the cluster names them, to the place behind the last record that the ledger knows."""
    rows = await connection.fetch(KNOWN_OFFSETS)
    return {(row["topic"], row["partition_number"]): row["next_offset"] for row in rows}


async def restored_at(connection: Connection, backup_id: str) -> datetime | None:
    """When this backup was put into this database; None if it was not."""
    if not await connection.fetchval(HAS_RESTORES):
        return None
    at: datetime | None = await connection.fetchval(RESTORED_FROM, backup_id)
    return at
