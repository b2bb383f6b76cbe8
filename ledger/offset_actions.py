"""What the ledger keeps of operators who move offsets (rule R2): who, why, which plan, and which payouts it holds.

    async with offset_actions(database_url) as actions:
        await actions.lock()                                 one operator at a time
        await actions.standing(plan_digest)                  begun, applied, undone before?
        await actions.note(Step.BEGUN, "maria", {...})       a line of the audited history
        await actions.held_for("OPERATOR: skipped …")        the payouts that a plan holds, a page at a time

A connection of its own: the lock is the session's, and ends with it. There is no table for it: the history is the
record, as of every other operator action (rule L10).
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import asyncpg

from ledger.connections import Connection, failure_of, session_settings
from ledger.interface import LedgerError, LedgerUnavailable
from ledger.statements import LOCK_SPACE

OFFSETS_LOCK: Final = 10
"""The advisory lock of whoever moves offsets; the space is the ledger's."""
CONNECT_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 30.0
"""For the look over all held rows; everything else takes milliseconds."""
PAGE_ROWS: Final = 1_000

LOCK: Final = "SELECT pg_try_advisory_lock($1, $2)"
STANDING: Final = """
SELECT transition FROM history
WHERE payout_id IS NULL AND transition = ANY ($2::text[]) AND detail ->> 'plan' = $1
"""
NOTE: Final = """
INSERT INTO history (actor, transition, from_state, to_state, detail) VALUES ($1, $2, NULL, $3, $4::jsonb)
"""
HELD_FOR: Final = """
SELECT payout_id FROM payouts WHERE held AND starts_with(hold_reason, $1) AND payout_id > $2
ORDER BY payout_id LIMIT $3
"""
HELD_MONEY: Final = """
SELECT currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor FROM payouts
WHERE held AND starts_with(hold_reason, $1) GROUP BY currency ORDER BY currency
"""
STANDINGS_OF: Final = """
SELECT payout_id, state, compensation, held, hold_reason, currency, amount_minor FROM payouts
WHERE payout_id = ANY ($1::text[])
"""
WERE_HELD: Final = """
SELECT DISTINCT payout_id FROM history
WHERE payout_id = ANY ($1::text[]) AND transition IN ('held', 'released')
    AND (starts_with(detail ->> 'reason', $2) OR starts_with(detail ->> 'was_held_for', $2))
"""


class Step(StrEnum):
    """Lines of the history about one plan, by its digest."""

    BEGUN = "offsets_begun"
    APPLIED = "offsets_applied"
    PARTLY = "offsets_partly_applied"
    UNDO_BEGUN = "offsets_undo_begun"
    UNDONE = "offsets_undone"
    PARTLY_UNDONE = "offsets_partly_undone"


@dataclass(frozen=True, slots=True)
class Payout:
    """As much of a row as a plan needs."""

    payout_id: str
    state: str
    compensation: str
    held: bool
    hold_reason: str | None
    currency: str
    amount_minor: int


class OffsetActions:
    """Questions and lines about plans, on one connection. Make one with `offset_actions`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lock(self) -> bool:
        """Whether nobody else moves offsets; kept until the connection ends."""
        with _named():
            return bool(await self._connection.fetchval(LOCK, LOCK_SPACE, OFFSETS_LOCK))

    async def standing(self, plan: str) -> frozenset[Step]:
        """What was done with a plan before."""
        rows = await self._fetch(STANDING, plan, [step.value for step in Step])
        return frozenset(Step(row["transition"]) for row in rows)

    async def note(self, step: Step, operator: str, detail: Mapping[str, Any]) -> None:
        """Write a line of the history: `detail` has the plan's digest, the reason, and counts."""
        with _named():
            await self._connection.execute(NOTE, operator, step.value, step.name, json.dumps(dict(detail)))

    async def held_for(self, reason: str, after: str = "") -> Sequence[str]:
        """Payouts held for a reason that begins like this, in the order of their ids, behind `after`."""
        return [row["payout_id"] for row in await self._fetch(HELD_FOR, reason, after, PAGE_ROWS)]

    async def held_money(self, reason: str) -> Mapping[str, tuple[int, int]]:
        """The same in payouts and minor units, for each currency."""
        rows = await self._fetch(HELD_MONEY, reason)
        return {row["currency"]: (row["payouts"], row["amount_minor"]) for row in rows}

    async def payouts(self, payout_ids: Sequence[str]) -> Mapping[str, Payout]:
        """Those of these payouts that have a row."""
        rows = await self._fetch(STANDINGS_OF, list(payout_ids))
        return {row["payout_id"]: Payout(**dict(row)) for row in rows}

    async def were_held(self, payout_ids: Sequence[str], reason: str) -> frozenset[str]:
        """Those whose history has a hold for a reason that begins like this."""
        rows = await self._fetch(WERE_HELD, list(payout_ids), reason)
        return frozenset(row["payout_id"] for row in rows)

    async def _fetch(self, statement: str, *parameters: Any) -> Sequence[Mapping[str, Any]]:
        with _named():
            found: Sequence[Mapping[str, Any]] = await self._connection.fetch(statement, *parameters)
            return found


@contextmanager
def _named() -> Iterator[None]:
    """What the driver raises, by the ledger's names: LedgerUnavailable, CommitUnknown, RowRejected."""
    failure: LedgerError | None = None
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        found = failure_of(error, sent=True)
        failure = found if isinstance(found, LedgerError) else LedgerUnavailable(f"PostgreSQL is busy ({found})")
    if failure is not None:
        raise failure


@asynccontextmanager
async def offset_actions(database_url: str) -> AsyncIterator[OffsetActions]:
    """A connection for one command. Raises LedgerUnavailable, without the address, which holds a password."""
    with _named():
        connection: Connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            server_settings=session_settings(
                "payouts command", lock_seconds=CONNECT_SECONDS, statement_seconds=STATEMENT_SECONDS
            ),
        )
    try:
        yield OffsetActions(connection)
    finally:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            await connection.close(timeout=CONNECT_SECONDS)
