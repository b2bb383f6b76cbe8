"""The ledger on PostgreSQL 15 or newer: one row a payout, changed only by compare-and-set (rules L1 to L9)."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from ledger import statements
from ledger.connections import (
    IDLE_IN_TRANSACTION_SECONDS,
    SAFE_SYNCHRONOUS_COMMIT,
    Connection,
    GuardedPool,
    Progress,
    Timeouts,
    open_pool,
    transaction,
)
from ledger.interface import (
    Change,
    DueRow,
    Existing,
    HistoryEntry,
    Inserted,
    IntakeRecord,
    LeasesStillLive,
    Mode,
    ModeRecord,
    NotBegun,
    RowRejected,
)
from ledger.values import (
    ROWS_PER_STATEMENT_MAX,
    checked_lease_seconds,
    checked_limit,
    checked_seconds,
    column_values,
    encoded_detail,
    row_from_values,
)
from processors.payout.row import MUTABLE_COLUMNS, PayoutRow, PayoutState

POOL_MIN: Final = 2
# A worker's stages together; PostgreSQL gains nothing from more writers than cores and disks can serve.
POOL_MAX: Final = 10
# Leases end by a commit or by time: seldom enough that asking four times a second is cheap.
LEASE_POLL_SECONDS: Final = 0.25
# The mode lock is free as soon as the last `begin` ended, and the server ends a frozen one after its idle time.
MODE_LOCK_SECONDS: Final = 2 * IDLE_IN_TRANSACTION_SECONDS


@dataclass(frozen=True, slots=True)
class Durability:
    """The settings on which "committed" rests, as our own sessions see them."""

    synchronous_commit: str
    fsync: str
    full_page_writes: str

    @property
    def is_safe(self) -> bool:
        """A confirmed commit survives a crash of the server."""
        on = self.fsync == "on" and self.full_page_writes == "on"
        return on and self.synchronous_commit in SAFE_SYNCHRONOUS_COMMIT


@dataclass(frozen=True, slots=True)
class _InsertRequest:
    row: PayoutRow
    actor: str

    def parameters(self) -> list[Any]:
        return [self.actor, *column_values(self.row, statements.INSERT_COLUMNS)]


@dataclass(frozen=True, slots=True)
class _CommitRequest:
    change: Change
    owner: str | None

    def parameters(self) -> list[Any]:
        return _change_parameters(self.change, (self.owner,))


@dataclass(frozen=True, slots=True)
class _BeginRequest:
    change: Change
    owner: str
    lease_seconds: float

    def parameters(self) -> list[Any]:
        return _change_parameters(self.change, (self.owner, checked_lease_seconds(self.lease_seconds)))


def _change_parameters(change: Change, extras: Sequence[Any]) -> list[Any]:
    before = change.before
    head = [before.payout_id, before.state.value, before.version, change.actor, change.transition]
    return [*head, encoded_detail(change.detail), *extras, *column_values(change.after, MUTABLE_COLUMNS)]


class _Writer:
    """Runs the hot requests, today one statement each.

    Where batching goes: collect requests of one kind for a few milliseconds, bind their `parameters()` column by column
    as arrays, let `statements._request` read them by `unnest`, and hand every caller the row with its payout_id
    (none: the request lost). A RowRejected splits the batch down to the row (rule L5). Callers await the same methods
    and see no difference.
    """

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool

    async def insert(self, request: _InsertRequest) -> PayoutRow | None:
        """The row as inserted, or None when some unique value of it is taken."""
        return await self._one_statement(statements.INSERT, request.parameters())

    async def commit(self, request: _CommitRequest) -> PayoutRow | None:
        """The row as changed, or None when the compare-and-set was lost."""
        return await self._one_statement(statements.COMMIT, request.parameters())

    async def begin(self, request: _BeginRequest) -> PayoutRow | NotBegun:
        """The row as leased, or why it is not."""
        parameters = request.parameters()
        before = request.change.before

        async def work(connection: Connection, progress: Progress) -> PayoutRow | NotBegun:
            async with transaction(connection, statements.OPEN_UNDER_SHARED_MODE_LOCK):
                record = await connection.fetchrow(statements.BEGIN, *parameters)
                if record is None:
                    why = (before.payout_id, before.state.value, before.version)
                    reason = _not_begun(await connection.fetchrow(statements.WHY_NOT_BEGUN, *why))
                    await connection.execute("ROLLBACK")
                    return reason
                progress.sending(connection)
                await connection.execute("COMMIT")
            return row_from_values(record)

        return await self._pool.write(work)

    async def _one_statement(self, statement: str, parameters: Sequence[Any]) -> PayoutRow | None:
        async def work(connection: Connection, progress: Progress) -> PayoutRow | None:
            progress.sending(connection)
            record = await connection.fetchrow(statement, *parameters)
            return None if record is None else row_from_values(record)

        return await self._pool.write(work)


def _not_begun(found: Mapping[str, Any] | None) -> NotBegun:
    if found is None or not found["current"]:
        return NotBegun.LOST
    if found["held"]:
        return NotBegun.HELD
    if found["leased"]:
        return NotBegun.LEASED
    if found["forbidden"]:
        return NotBegun.MODE
    return NotBegun.LOST  # what refused it has ended meanwhile: read again, decide again


class PostgresLedger:
    """`ledger.interface.Ledger` on PostgreSQL. Make one with `connect`, end it with `close`."""

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool
        self._writer = _Writer(pool)

    @classmethod
    async def connect(
        cls,
        database_url: str,
        *,
        pool_min: int = POOL_MIN,
        pool_max: int = POOL_MAX,
        timeouts: Timeouts | None = None,
        application_name: str = "payouts",
    ) -> Self:
        """Open a bounded pool. `database_url` is `postgresql://…`, TLS and search_path by its query.

        Raises LedgerUnavailable, ValueError for sizes or time-outs that make no sense.
        """
        pool = await open_pool(
            database_url,
            pool_min=pool_min,
            pool_max=pool_max,
            timeouts=timeouts or Timeouts(),
            application_name=application_name,
        )
        return cls(pool)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let writes in flight finish, then give back the connections."""
        await self._pool.close()

    async def insert(self, row: PayoutRow, actor: str) -> Inserted | Existing:
        """See `Ledger.insert`."""
        inserted = await self._writer.insert(_InsertRequest(row, actor))
        if inserted is not None:
            return Inserted(inserted)
        # A statement of its own: the one that lost the conflict cannot see the row it lost to (rule L5).
        existing = await self.read(row.payout_id)
        if existing is None:
            raise RowRejected("another payout has this sender_reference or identity already (a unique constraint)")
        return Existing(existing)

    async def read(self, payout_id: str) -> PayoutRow | None:
        """See `Ledger.read`."""
        record = await self._pool.read(lambda connection: connection.fetchrow(statements.READ, payout_id))
        return None if record is None else row_from_values(record)

    async def commit(self, change: Change, owner: str | None = None) -> PayoutRow | None:
        """See `Ledger.commit`."""
        return await self._writer.commit(_CommitRequest(change, owner))

    async def begin(self, change: Change, owner: str, lease_seconds: float) -> PayoutRow | NotBegun:
        """See `Ledger.begin`. Any live lease refuses, the same owner's too: two tasks of a worker are two callers."""
        return await self._writer.begin(_BeginRequest(change, owner, lease_seconds))

    async def issue_identity_number(self) -> int:
        """See `Ledger.issue_identity_number`. A number that was issued and not used is never given back."""
        records = await self._write_rows(statements.NEXT_IDENTITY_NUMBER, ())
        number: int = records[0]["nextval"]
        return number

    async def due(self, limit: int, redrive_seconds: float) -> Sequence[DueRow]:
        """See `Ledger.due`."""
        parameters = (checked_limit(limit), checked_seconds("redrive_seconds", redrive_seconds))
        records = await self._write_rows(statements.DUE, parameters)
        return [DueRow(**{**record, "state": PayoutState(record["state"])}) for record in records]

    async def unannounced(self, limit: int, older_than_seconds: float) -> Sequence[PayoutRow]:
        """See `Ledger.unannounced`."""
        parameters = (checked_limit(limit), checked_seconds("older_than_seconds", older_than_seconds))
        records = await self._pool.read(lambda connection: connection.fetch(statements.UNANNOUNCED, *parameters))
        return [row_from_values(record) for record in records]

    async def mark_announced(self, announced: Sequence[tuple[str, int]]) -> None:
        """See `Ledger.mark_announced`. A version above the row's announce_version is not believed."""
        for start in range(0, len(announced), ROWS_PER_STATEMENT_MAX):
            part = announced[start : start + ROWS_PER_STATEMENT_MAX]
            columns = ([payout_id for payout_id, _ in part], [version for _, version in part])
            await self._write_rows(statements.MARK_ANNOUNCED, columns)

    async def record_intake(self, record: IntakeRecord) -> None:
        """See `Ledger.record_intake`. The first record of an offset stays."""
        place = (record.topic, record.partition, record.offset)
        fate = (record.disposition.value, record.payout_id, record.reason_code)
        await self._write_rows(statements.RECORD_INTAKE, (*place, *fate))

    async def settle(self) -> None:
        """See `Ledger.settle`."""
        await self._write_rows(statements.SETTLE, ())

    async def history(self, payout_id: str) -> Sequence[HistoryEntry]:
        """See `Ledger.history`."""
        records = await self._pool.read(lambda connection: connection.fetch(statements.HISTORY, payout_id))
        return [HistoryEntry(**{**record, "detail": json.loads(record["detail"])}) for record in records]

    async def mode(self) -> ModeRecord:
        """See `Ledger.mode`."""
        return _mode_record(await self._pool.read(lambda connection: connection.fetchrow(statements.MODE)))

    async def set_mode(self, mode: Mode, operator: str, reason: str, wait_seconds: float) -> ModeRecord:
        """See `Ledger.set_mode`. A LedgerUnavailable means that the mode was not set."""
        deadline = time.monotonic() + checked_seconds("wait_seconds", wait_seconds)
        record, earlier = await self._write_mode(mode, operator, reason)
        while live := await self._still_live(earlier):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise LeasesStillLive(
                    f"mode {mode.value} is set, but {live} leases begun before it are still live after "
                    f"{wait_seconds:g} s: their calls may be under way; run the same command again to wait longer"
                )
            await asyncio.sleep(min(LEASE_POLL_SECONDS, remaining))
        return record

    async def counts(self) -> Mapping[str, int]:
        """See `Ledger.counts`. Reads the whole table: for people and slow gauges, not for a hot path."""
        records = await self._pool.read(lambda connection: connection.fetch(statements.COUNTS))
        return dict.fromkeys(statements.COUNT_NAMES, 0) | {record["name"]: record["rows"] for record in records}

    async def durability(self) -> Durability:
        """What the server promises a confirmed commit; for preflight, which refuses what is not `is_safe`."""
        return Durability(**await self._pool.read(lambda connection: connection.fetchrow(statements.DURABILITY)))

    async def _write_mode(self, mode: Mode, operator: str, reason: str) -> tuple[ModeRecord, Mapping[str, str]]:
        """Set the mode under its lock; also the leases (payout_id to owner) that were live at that moment."""
        opening = statements.OPEN_UNDER_MODE_LOCK.format(milliseconds=round(MODE_LOCK_SECONDS * 1000))

        async def work(connection: Connection, progress: Progress) -> tuple[ModeRecord, Mapping[str, str]]:
            async with transaction(connection, opening):
                record = _mode_record(await connection.fetchrow(statements.SET_MODE, mode.value, operator, reason))
                # Under the exclusive lock no `begin` is half-way: this is every lease begun earlier.
                leases = await connection.fetch(statements.LIVE_LEASES)
                progress.sending(connection)
                await connection.execute("COMMIT")
            return record, {lease["payout_id"]: lease["lease_owner"] for lease in leases}

        return await self._pool.write(work, self._pool.timeouts.write_seconds + MODE_LOCK_SECONDS)

    async def _still_live(self, earlier: Mapping[str, str]) -> int:
        if not earlier:
            return 0
        columns = (list(earlier), list(earlier.values()))
        count: int = await self._pool.read(lambda connection: connection.fetchval(statements.STILL_LIVE, *columns))
        return count

    async def _write_rows(self, statement: str, parameters: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        async def work(connection: Connection, progress: Progress) -> Sequence[Mapping[str, Any]]:
            progress.sending(connection)
            records: Sequence[Mapping[str, Any]] = await connection.fetch(statement, *parameters)
            return records

        return await self._pool.write(work)


def _mode_record(record: Mapping[str, Any]) -> ModeRecord:
    return ModeRecord(Mode(record["mode"]), record["set_at"], record["operator"], record["reason"])
