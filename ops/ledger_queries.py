"""Questions to the database that no worker asks and the ledger's interface therefore does not have. They only read."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from ledger.connections import failure_of, session_settings
from ledger.interface import LedgerError, LedgerUnavailable

CONNECT_SECONDS: Final = 5.0
LOCK_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 15.0
ROWS_MAX: Final = 10_000

PEOPLES_TRANSITIONS: Final = (
    "held",
    "released",
    "cancelled",
    "requeued",
    "resolution_proposed",
    "resolved_paid",
    "resolved_not_paid",
    "resolution_undone",
    "hand_back_proposed",
    "hand_back_agreed",
    "review_approved_once",
    "review_approved",
    "review_rejected",
)
"""Steps of payouts that people decide, in a form that SQL reads as a list, too."""

Connection = Any
"""An asyncpg connection."""

OPEN_CASES: Final = """
SELECT review_case_id AS case_id, payout_id, originator_id, amount_minor, currency, source_country, target_country,
    target_currency, state_at AS opened_at, reason_code, score_basis_points, matched_party, matched_entry_id,
    list_version, policy_version, held, reviewer AS approved_by,
    greatest(0, extract(epoch FROM clock_timestamp() - state_at))::bigint AS age_seconds
FROM payouts WHERE state = 'IN_REVIEW'
ORDER BY state_at, payout_id
LIMIT $1
"""

# What a call to Visa is next for, or under way: held ones wait for people.
WAITING_FOR_VISA: Final = """
SELECT currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor FROM payouts
WHERE NOT held AND (state IN ('CLEARED', 'SUBMITTING', 'PENDING', 'UNKNOWN')
    OR compensation IN ('REQUIRED', 'RUNNING', 'UNKNOWN') AND compensation_executor = 'PROCESSOR')
GROUP BY currency ORDER BY currency
"""

INTAKE: Final = """
SELECT topic, partition_number AS partition, record_offset AS "offset", disposition, reason_code, recorded_at
FROM intake WHERE payout_id = $1
ORDER BY topic, partition_number, record_offset
LIMIT $2
"""


@asynccontextmanager
async def reading(database_url: str, *, statement_seconds: float = STATEMENT_SECONDS) -> AsyncIterator[Connection]:
    """A read-only connection. Raises LedgerUnavailable, without the address, which holds a password."""
    failure: LedgerError | None = None
    connection: Connection = None
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_SECONDS,
            command_timeout=statement_seconds,
            # A session that is read-only by our own wish would fail the address's `read-write` on every host.
            target_session_attrs=SessionAttribute.primary,
            server_settings=session_settings(
                "payouts command",
                lock_seconds=LOCK_SECONDS,
                statement_seconds=statement_seconds,
                idle_in_transaction_seconds=statement_seconds,
            )
            | {"default_transaction_read_only": "on"},
        )
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        found = failure_of(error, sent=False)
        failure = found if isinstance(found, LedgerError) else LedgerUnavailable(f"PostgreSQL is busy ({found})")
    finally:
        if connection is not None:
            connection.terminate() if failure else await connection.close(timeout=CONNECT_SECONDS)
    if failure is not None:
        raise failure


async def server_version(database_url: str) -> str:
    """PostgreSQL's version, for example 18.1."""
    async with reading(database_url) as connection:
        version: str = await connection.fetchval("SELECT current_setting('server_version')")
    return version


async def open_cases(database_url: str, limit: int) -> Sequence[Mapping[str, Any]]:
    """Payouts that wait for a reviewer, oldest first; at most `limit` of them."""
    async with reading(database_url) as connection:
        return [dict(record) for record in await connection.fetch(OPEN_CASES, limit)]


async def waiting_for_visa(database_url: str) -> list[dict[str, Any]]:
    """Payouts and money for each currency that wait for a call to Visa, or for its answer."""
    async with reading(database_url) as connection:
        return [dict(record) for record in await connection.fetch(WAITING_FOR_VISA)]


async def intake_of(database_url: str, payout_id: str) -> Sequence[Mapping[str, Any]]:
    """What became of the inbound records of a payout that are not its first: repeats and refusals, by offset."""
    async with reading(database_url) as connection:
        return [dict(record) for record in await connection.fetch(INTAKE, payout_id, ROWS_MAX)]
