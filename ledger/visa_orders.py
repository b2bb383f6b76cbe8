"""What operators order of every worker's connection to Visa, and what each worker answers.

    number = await orders.give(Action.RELOAD, "maria", "INC-7: new client certificate")
    await orders.since(last_number)                 what a worker has not done yet, in order
    await orders.report("worker-1", number, ...)    what it did, and what it has in use
    await orders.workers(45.0)                      those that reported lately

An order is one line of the audited history as well, in the same transaction. The database carries it to the workers, as
it carries the mode: nobody has to reach each of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from ledger.connections import Connection, GuardedPool, Progress, transaction
from ledger.statements import LOCK_SPACE, ORDERS_LOCK

FORGOTTEN_AFTER: Final = "7 days"
"""A worker that has not reported for so long is not missed: names hold process ids and come only once."""

OPEN: Final = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({LOCK_SPACE}, {ORDERS_LOCK})"
"""One order after the other, so that a lower number never becomes visible after a higher one."""

GIVE: Final = """
WITH given AS (
    INSERT INTO visa_orders (operator, reason, action) VALUES ($1, $2, $3) RETURNING number, operator, reason, action
), noted AS (
    INSERT INTO history (actor, transition, from_state, to_state, detail)
    SELECT operator, 'visa_' || action, NULL, 'ORDERED', jsonb_build_object('reason', reason, 'order', number)
    FROM given
)
SELECT number FROM given
"""

FORGET: Final = f"DELETE FROM visa_workers WHERE seen_at < clock_timestamp() - interval '{FORGOTTEN_AFTER}'"  # noqa: S608

NEWEST: Final = "SELECT coalesce(max(number), 0) FROM visa_orders"

SINCE: Final = "SELECT number, action, operator, reason FROM visa_orders WHERE number > $1 ORDER BY number"

REPORT: Final = """
INSERT INTO visa_workers (worker, order_number, result, why, facts) VALUES ($1, $2, $3, $4, $5::jsonb)
ON CONFLICT (worker) DO UPDATE SET seen_at = clock_timestamp(), order_number = excluded.order_number,
    result = excluded.result, why = excluded.why, facts = excluded.facts
"""

LEAVE: Final = "DELETE FROM visa_workers WHERE worker = $1"

WORKERS: Final = """
SELECT worker, seen_at, order_number, result, why, facts FROM visa_workers
WHERE seen_at > clock_timestamp() - make_interval(secs => $1) ORDER BY worker
"""


class Action(StrEnum):
    """What can be ordered of every worker."""

    RELOAD = "reload"
    """Read settings file, certificates and keys again, and use them if they work."""
    ROLLBACK = "rollback"
    """Use what was used before."""
    BREAKER_RESET = "breaker_reset"
    """Close the breaker of the keys' address and ask again at once."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order, as workers read it."""

    number: int
    action: str
    """An `Action`; another word is of a later release."""
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker said last: the order that it has done last, how that ended, and what it has in use."""

    worker: str
    seen_at: datetime
    order_number: int
    result: str | None
    why: str | None
    facts: Mapping[str, Any]


class Orders(Protocol):
    """A worker's side of it."""

    async def newest(self) -> int:
        """The number of the last order; 0 before the first. Raises LedgerUnavailable."""

    async def since(self, number: int) -> Sequence[Order]:
        """Orders with a higher number, in order. Raises LedgerUnavailable."""

    async def report(
        self, worker: str, number: int, result: str | None, why: str | None, facts: Mapping[str, Any]
    ) -> None:
        """What was done last and is in use now; replaces what the worker said before.

        `facts` is JSON-able and holds no secret. Raises CommitUnknown, LedgerUnavailable.
        """

    async def leave(self, worker: str) -> None:
        """The worker stops: nobody waits for it. Raises CommitUnknown, LedgerUnavailable."""


class VisaOrders:
    """`Orders` on PostgreSQL, and the operators' side."""

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool

    async def give(self, action: Action, operator: str, reason: str) -> int:
        """Order it of every worker, and note it in the history; its number. Raises CommitUnknown, LedgerUnavailable."""

        async def work(connection: Connection, progress: Progress) -> int:
            async with transaction(connection, OPEN):
                number: int = await connection.fetchval(GIVE, operator, reason, action.value)
                await connection.execute(FORGET)
                progress.sending(connection)
                await connection.execute("COMMIT")
            return number

        return await self._pool.write(work)

    async def workers(self, seen_within_seconds: float) -> Sequence[WorkerReport]:
        """Those that reported lately. Raises LedgerUnavailable."""
        rows = await self._pool.read(lambda connection: connection.fetch(WORKERS, seen_within_seconds))
        return [WorkerReport(**{**row, "facts": json.loads(row["facts"])}) for row in rows]

    async def newest(self) -> int:
        """See `Orders.newest`."""
        number: int = await self._pool.read(lambda connection: connection.fetchval(NEWEST))
        return number

    async def since(self, number: int) -> Sequence[Order]:
        """See `Orders.since`."""
        rows = await self._pool.read(lambda connection: connection.fetch(SINCE, number))
        return [Order(**row) for row in rows]

    async def report(
        self, worker: str, number: int, result: str | None, why: str | None, facts: Mapping[str, Any]
    ) -> None:
        """See `Orders.report`."""
        await self._write(REPORT, worker, number, result, why, json.dumps(dict(facts)))

    async def leave(self, worker: str) -> None:
        """See `Orders.leave`."""
        await self._write(LEAVE, worker)

    async def _write(self, statement: str, *parameters: object) -> None:
        async def work(connection: Connection, progress: Progress) -> None:
            progress.sending(connection)
            await connection.execute(statement, *parameters)

        await self._pool.write(work)
