"""The ledger on PostgreSQL 15 or newer: one row a payout, changed only by compare-and-set (rules L1 to L9)."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self

import asyncpg

from ledger import statements
from ledger.adoption import Adoption
from ledger.batcher import BATCHES_MAX, ROWS_MAX, UNANSWERED, Batcher, Limits, Unanswered
from ledger.connections import (
    BUSY_TRIES,
    IDLE_IN_TRANSACTION_SECONDS,
    SAFE_SYNCHRONOUS_COMMIT,
    Busy,
    Connection,
    GuardedPool,
    Progress,
    Timeouts,
    open_pool,
    transaction,
)
from ledger.figures import Figures
from ledger.interface import (
    Change,
    CommitUnknown,
    DueRow,
    Existing,
    HistoryEntry,
    InboundPosition,
    Inserted,
    IntakeRecord,
    LeasesStillLive,
    LedgerUnavailable,
    LedgerUnverified,
    ModeMoved,
    ModeNotKnown,
    ModeRecord,
    NotBegun,
    RowRejected,
)
from ledger.letter_actions import LetterActions
from ledger.seals import Seals
from ledger.values import (
    ROWS_PER_STATEMENT_MAX,
    checked_lease_seconds,
    checked_limit,
    checked_seconds,
    column_values,
    encoded_detail,
    is_storable_text,
    row_from_values,
)
from ledger.visa_orders import VisaOrders
from processors.payout.modes import Activity, Mode
from processors.payout.row import MUTABLE_COLUMNS, PayoutRow, PayoutState

POOL_MIN: Final = 2
# A worker's stages together; PostgreSQL gains nothing from more writers than cores and disks can serve.
POOL_MAX: Final = 10
# A row may hold a request of 256 KiB: what one answer may weigh stays bounded.
READ_ROWS_MAX: Final = 100
# Leases end by a commit or by time: seldom enough that asking four times a second is cheap.
LEASE_POLL_SECONDS: Final = 0.25
# The mode lock is free as soon as the last `begin` ended, and the server ends a frozen one after its idle time.
MODE_LOCK_SECONDS: Final = 2 * IDLE_IN_TRANSACTION_SECONDS


ACTIVITY_PLACE: Final = [name for name, _ in statements.BEGIN_EXTRAS].index("activity")
"""Among the parameters of a begin."""

_NOTHING_READ: Final[tuple[GuardedPool | None, int]] = (None, 0)
_READ_FROM: Final = ContextVar("_READ_FROM", default=_NOTHING_READ)
"""Of each task: the pool it reads from, and how often another server had taken over when it did."""


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
class _Request:
    """One row's part of a hot statement; `parameters` in the order in which the statement binds them."""

    payout_id: str
    parameters: Sequence[Any]

    @property
    def size_bytes(self) -> int:
        """Of what can be large."""
        return sum(len(value) for value in self.parameters if isinstance(value, bytes))


@dataclass(frozen=True, slots=True)
class _InsertRequest(_Request):
    actor: str


def _change_parameters(change: Change, extras: Sequence[Any]) -> list[Any]:
    before = change.before
    head = [before.payout_id, before.state.value, before.version, change.actor, change.transition]
    return [*head, encoded_detail(change.detail), *extras, *column_values(change.after, MUTABLE_COLUMNS)]


def _columns(requests: Sequence[_Request]) -> Sequence[Sequence[Any]]:
    """The parameters of many, as one array a column."""
    return [list(column) for column in zip(*(request.parameters for request in requests), strict=True)]


class _HotStatements:
    """Reads and writes that every payout needs several times, sent together when they come together (rule L5).

    What a shared statement leaves as it was (a row that somebody else holds, a lost compare-and-set) is asked again
    alone, where a lock is waited for and the reason is found.
    """

    def __init__(self, pool: GuardedPool, rows_max: int) -> None:
        self._pool = pool
        # Where nothing is shared, only the connections bound how many go at once.
        batches_max = BATCHES_MAX if rows_max > 1 else POOL_MAX
        limits = Limits(pool.timeouts.acquire_seconds, rows_max=rows_max, batches_max=batches_max)
        self._inserts = Batcher(together=self._insert_many, alone=self._insert_one, limits=limits)
        self._commits = Batcher(together=self._commit_many, alone=self._commit_one, limits=limits)
        self._begins = Batcher(together=self._begin_many, alone=self._begin_one, limits=limits)
        self._reads = Batcher(
            together=self._read_many,
            limits=replace(limits, rows_max=min(rows_max, READ_ROWS_MAX)),
            unfinished=LedgerUnavailable,
        )
        # One at a time, because the next one cannot come back before it.
        single = replace(limits, batches_max=1)
        self._numbers = Batcher(together=self._issue_many, limits=single)
        self._settlements = Batcher(together=self._settle_many, limits=single)

    async def close(self) -> None:
        """Answer what was asked; take no more."""
        batchers: tuple[Batcher[Any, Any], ...] = (self._inserts, self._commits, self._begins)
        batchers += (self._reads, self._numbers, self._settlements)
        await asyncio.gather(*(batcher.close() for batcher in batchers))

    async def read(self, payout_id: str) -> PayoutRow | None:
        """The row, if there is one."""
        return await self._reads.ask(payout_id)

    async def insert(self, row: PayoutRow, actor: str) -> PayoutRow | None:
        """The row as inserted, or None when some unique value of it is taken."""
        request = _InsertRequest(row.payout_id, column_values(row, statements.INSERT_COLUMNS), actor)
        # One actor a statement: it is noted beside every row that the statement inserts.
        return await self._inserts.ask(request, key=row.payout_id, lane=actor, size_bytes=request.size_bytes)

    async def commit(self, change: Change, owner: str | None) -> PayoutRow | None:
        """The row as changed, or None when the compare-and-set was lost."""
        request = _Request(change.before.payout_id, _change_parameters(change, (owner,)))
        return await self._commits.ask(request, key=request.payout_id, size_bytes=request.size_bytes)

    async def begin(self, change: Change, owner: str, lease_seconds: float, activity: Activity) -> PayoutRow | NotBegun:
        """The row as leased, or why it is not."""
        seconds = checked_lease_seconds(lease_seconds)
        extras = (owner, seconds, self._pool.primary.required_incarnation, activity.value)
        request = _Request(change.before.payout_id, _change_parameters(change, extras))
        return await self._begins.ask(request, key=request.payout_id, size_bytes=request.size_bytes)

    async def issue_identity_number(self) -> int:
        """The next number."""
        return await self._numbers.ask(None)

    async def settle(self) -> None:
        """A commit of our own that was sent after this was called."""
        await self._settlements.ask(None)

    async def _read_many(self, payout_ids: Sequence[str]) -> Sequence[PayoutRow | Unanswered | None]:
        names = list(dict.fromkeys(payout_ids))
        records = await self._pool.read(lambda connection: connection.fetch(statements.READ_MANY, names))
        rows = {row.payout_id: row for row in map(row_from_values, records)}
        return [rows.get(payout_id) for payout_id in payout_ids]

    async def _insert_many(self, requests: Sequence[_InsertRequest]) -> Sequence[PayoutRow | Unanswered | None]:
        parameters = (requests[0].actor, *_columns(requests))
        rows = await self._rows(statements.INSERT_MANY, parameters, busy_tries=1)
        return [rows.get(request.payout_id) for request in requests]

    async def _insert_one(self, request: _InsertRequest) -> PayoutRow | None:
        rows = await self._rows(statements.INSERT, (request.actor, *request.parameters))
        return rows.get(request.payout_id)

    async def _commit_many(self, requests: Sequence[_Request]) -> Sequence[PayoutRow | Unanswered | None]:
        rows = await self._rows(statements.COMMIT_MANY, _columns(requests), busy_tries=1)
        return [rows.get(request.payout_id, UNANSWERED) for request in requests]

    async def _commit_one(self, request: _Request) -> PayoutRow | None:
        rows = await self._rows(statements.COMMIT, request.parameters)
        return rows.get(request.payout_id)

    async def _begin_many(self, requests: Sequence[_Request]) -> Sequence[PayoutRow | NotBegun | Unanswered]:
        columns = _columns(requests)

        async def work(connection: Connection, progress: Progress) -> Mapping[str, PayoutRow]:
            async with _under_shared_mode_lock(connection):
                records = await connection.fetch(statements.BEGIN_MANY, *columns)
                if not records:
                    await connection.execute("ROLLBACK")
                    return {}
                progress.sending(connection)
                await connection.execute("COMMIT")
            return _by_payout(records)

        rows = await self._pool.write(work, busy_tries=1)
        self._witness(rows.values())
        return [rows.get(request.payout_id, UNANSWERED) for request in requests]

    async def _begin_one(self, request: _Request) -> PayoutRow | NotBegun:
        activity = request.parameters[ACTIVITY_PLACE]
        why = (*request.parameters[:3], self._pool.primary.required_incarnation, activity)

        async def work(connection: Connection, progress: Progress) -> PayoutRow | NotBegun:
            async with _under_shared_mode_lock(connection):
                record = await connection.fetchrow(statements.BEGIN, *request.parameters)
                if record is None:
                    reason = _not_begun(await connection.fetchrow(statements.WHY_NOT_BEGUN, *why))
                    await connection.execute("ROLLBACK")
                    return reason
                progress.sending(connection)
                await connection.execute("COMMIT")
            return row_from_values(record)

        begun = await self._pool.write(work)
        if isinstance(begun, PayoutRow):
            self._witness([begun])
        return begun

    def _witness(self, begun: Iterable[PayoutRow]) -> None:
        """L11: one row of each transaction tells a copy that was made before it."""
        for row in itertools.islice(begun, 1):
            self._pool.primary.witnesses.append((row.payout_id, row.version))

    async def _issue_many(self, requests: Sequence[None]) -> Sequence[int | Unanswered]:
        parameters = (len(requests), self._pool.primary.required_incarnation)
        records = await _write(self._pool, statements.NEXT_IDENTITY_NUMBERS, parameters)
        if not records:
            raise LedgerUnverified("nobody has looked yet whether this database is a copy from before: no number (L11)")
        return [record["nextval"] for record in records]

    async def _settle_many(self, requests: Sequence[None]) -> Sequence[Unanswered | None]:
        await _write(self._pool, statements.SETTLE, ())
        return [None for _ in requests]

    async def _rows(
        self, statement: str, parameters: Sequence[Any], *, busy_tries: int = BUSY_TRIES
    ) -> Mapping[str, PayoutRow]:
        async def work(connection: Connection, progress: Progress) -> Mapping[str, PayoutRow]:
            progress.sending(connection)
            return _by_payout(await connection.fetch(statement, *parameters))

        return await self._pool.write(work, busy_tries=busy_tries)


@asynccontextmanager
async def _under_shared_mode_lock(connection: Connection) -> AsyncIterator[None]:
    """A transaction that holds the lock before any later statement takes its snapshot (rule L9)."""
    opened = False
    try:
        async with transaction(connection, statements.OPEN_UNDER_SHARED_MODE_LOCK):
            opened = True
            yield
    except asyncpg.LockNotAvailableError as error:
        if opened:
            raise
        # Every row of a batch needs this lock: to split the batch would only multiply the wait.
        raise Busy(str(error.sqlstate), of_a_row=False) from None


async def _write(pool: GuardedPool, statement: str, parameters: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    async def work(connection: Connection, progress: Progress) -> Sequence[Mapping[str, Any]]:
        progress.sending(connection)
        records: Sequence[Mapping[str, Any]] = await connection.fetch(statement, *parameters)
        return records

    return await pool.write(work)


def _by_payout(records: Sequence[Mapping[str, Any]]) -> Mapping[str, PayoutRow]:
    return {row.payout_id: row for row in map(row_from_values, records)}


def _not_begun(found: Mapping[str, Any] | None) -> NotBegun:
    if found is None or not found["current"]:
        return NotBegun.LOST
    if found["held"]:
        return NotBegun.HELD
    if found["leased"]:
        return NotBegun.LEASED
    if found["forbidden"]:
        return NotBegun.MODE
    if found["unreviewed"]:
        return NotBegun.REVIEW
    if found["unverified"]:
        return NotBegun.UNVERIFIED
    return NotBegun.LOST  # what refused it has ended meanwhile: read again, decide again


class PostgresLedger:
    """`ledger.interface.Ledger` on PostgreSQL. Make one with `connect`, end it with `close`."""

    def __init__(self, pool: GuardedPool, rows_max: int = ROWS_MAX) -> None:
        self._pool = pool
        self._hot = _HotStatements(pool, rows_max)
        self.seals = Seals(pool)
        """The sealed history, and whether this database is the one that we know (rules L10, L11)."""
        self.adoption = Adoption(pool)
        """What makes a restored copy the database that we know (rule L11)."""
        self.visa_orders = VisaOrders(pool)
        """What operators order of every worker's connection to Visa."""
        self.figures = Figures(pool)
        """What the gauges say of it."""
        self.letter_actions = LetterActions(pool)
        """What people did with dead letters."""

    @classmethod
    async def connect(
        cls,
        database_url: str,
        *,
        pool_min: int = POOL_MIN,
        pool_max: int = POOL_MAX,
        timeouts: Timeouts | None = None,
        application_name: str = "payouts",
        rows_max: int = ROWS_MAX,
        guarded: bool = False,
    ) -> Self:
        """Open a bounded pool. `database_url` is `postgresql://…`, TLS and search_path by its query.

        With a standby: `postgresql://user:password@first:5432,second:5432/payouts`; whichever takes writes is used.
        `rows_max` bounds how many requests share a statement (1: none do). `guarded`: calls begin only on a server that
        `seals.examine` has found to be the one we know (rule L11).

        Raises LedgerUnavailable, ValueError for sizes or time-outs that make no sense.
        """
        pool = await open_pool(
            database_url,
            pool_min=pool_min,
            pool_max=pool_max,
            timeouts=timeouts or Timeouts(),
            application_name=application_name,
            guarded=guarded,
        )
        return cls(pool, rows_max)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let writes in flight finish, then give back the connections."""
        await self._hot.close()
        await self._pool.close()

    async def insert(self, row: PayoutRow, actor: str) -> Inserted | Existing:
        """See `Ledger.insert`."""
        inserted = await self._hot.insert(row, actor)
        if inserted is not None:
            return Inserted(inserted)
        # A statement of its own: the one that lost the conflict cannot see the row it lost to (rule L5).
        existing = await self.read(row.payout_id)
        if existing is None:
            raise RowRejected("another payout has this sender_reference or identity already (a unique constraint)")
        return Existing(existing)

    async def read(self, payout_id: str) -> PayoutRow | None:
        """See `Ledger.read`."""
        self._note_read()
        return await self._hot.read(payout_id)

    async def commit(self, change: Change, owner: str | None = None) -> PayoutRow | None:
        """See `Ledger.commit`."""
        return await self._hot.commit(change, owner)

    async def begin(
        self, change: Change, owner: str, lease_seconds: float, activity: Activity = Activity.SUBMIT
    ) -> PayoutRow | NotBegun:
        """See `Ledger.begin`. Any live lease refuses, the same owner's too: two tasks of a worker are two callers."""
        return await self._hot.begin(change, owner, lease_seconds, activity)

    async def issue_identity_number(self) -> int:
        """See `Ledger.issue_identity_number`. A number that was issued and not used is never given back."""
        return await self._hot.issue_identity_number()

    async def due(self, limit: int, redrive_seconds: float) -> Sequence[DueRow]:
        """See `Ledger.due`."""
        parameters = (checked_limit(limit), checked_seconds("redrive_seconds", redrive_seconds))
        records = await _write(self._pool, statements.DUE, parameters)
        return [DueRow(**{**record, "state": PayoutState(record["state"])}) for record in records]

    async def unannounced(self, limit: int, older_than_seconds: float, after: str | None = None) -> Sequence[PayoutRow]:
        """See `Ledger.unannounced`."""
        parameters = (checked_limit(limit), checked_seconds("older_than_seconds", older_than_seconds), after)
        self._note_read()
        records = await self._pool.read(lambda connection: connection.fetch(statements.UNANNOUNCED, *parameters))
        return [row_from_values(record) for record in records]

    async def mark_announced(self, announced: Sequence[tuple[str, int]]) -> None:
        """See `Ledger.mark_announced`. A version above the row's announce_version is not believed."""
        for start in range(0, len(announced), ROWS_PER_STATEMENT_MAX):
            part = announced[start : start + ROWS_PER_STATEMENT_MAX]
            columns = ([payout_id for payout_id, _ in part], [version for _, version in part])
            await _write(self._pool, statements.MARK_ANNOUNCED, columns)

    async def record_intake(self, record: IntakeRecord) -> None:
        """See `Ledger.record_intake`. The first record of an offset stays."""
        place = (record.topic, record.partition, record.offset)
        fate = (record.disposition.value, record.payout_id, record.reason_code)
        await _write(self._pool, statements.RECORD_INTAKE, (*place, *fate))

    async def unaccounted(self, positions: Sequence[InboundPosition]) -> Sequence[InboundPosition]:
        """See `Ledger.unaccounted`."""
        missing: list[InboundPosition] = []
        for start in range(0, len(positions), ROWS_PER_STATEMENT_MAX):
            part = positions[start : start + ROWS_PER_STATEMENT_MAX]
            columns = (
                [position.topic for position in part],
                [position.partition for position in part],
                [position.offset for position in part],
                [_storable_or_none(position.payout_id) for position in part],
            )
            missing += [part[place - 1] for place in await self._unaccounted_places(columns)]
        return missing

    async def _unaccounted_places(self, columns: Sequence[Sequence[Any]]) -> Sequence[int]:
        records = await self._pool.read(lambda connection: connection.fetch(statements.UNACCOUNTED, *columns))
        return [record["place"] for record in records]

    async def verified_offsets(self, topic: str) -> Mapping[int, int]:
        """See `Ledger.verified_offsets`."""
        records = await self._pool.read(lambda connection: connection.fetch(statements.VERIFIED_OFFSETS, topic))
        return {record["partition_number"]: record["next_offset"] for record in records}

    async def verified_up_to(self, topic: str, partition: int, offset: int) -> None:
        """See `Ledger.verified_up_to`."""
        place = (topic, partition, offset)
        parameters = (*place, self._pool.primary.required_incarnation)
        (looked_at,) = await _write(self._pool, statements.VERIFIED_UP_TO, parameters)
        if not looked_at["known"]:
            raise LedgerUnverified("nobody has looked yet whether this database is a copy from before (L11)")

    async def settle(self) -> None:
        """See `Ledger.settle`. CommitUnknown also if another server took over since this task's first unsettled read.

        What was read there may never have reached the new one, and a commit of ours on the new one says nothing of it.
        """
        pool, generation = _READ_FROM.get()
        await self._hot.settle()
        _READ_FROM.set(_NOTHING_READ)
        if pool is self._pool and generation != self._pool.primary.generation:
            raise CommitUnknown("another PostgreSQL took over after this was read; read it again")

    def _note_read(self) -> None:
        """Remember for `settle` which server the task reads from: the oldest, if there were several."""
        if _READ_FROM.get()[0] is not self._pool:
            _READ_FROM.set((self._pool, self._pool.primary.generation))

    async def history(self, payout_id: str) -> Sequence[HistoryEntry]:
        """See `Ledger.history`."""
        records = await self._pool.read(lambda connection: connection.fetch(statements.HISTORY, payout_id))
        return [HistoryEntry(**{**record, "detail": json.loads(record["detail"])}) for record in records]

    async def mode(self) -> ModeRecord:
        """See `Ledger.mode`."""
        return _mode_record(await self._pool.read(lambda connection: connection.fetchrow(statements.MODE)))

    async def set_mode(
        self, mode: Mode, operator: str, reason: str, wait_seconds: float, seen: ModeRecord | None = None
    ) -> ModeRecord:
        """See `Ledger.set_mode`. A LedgerUnavailable means that the mode was not set."""
        deadline = time.monotonic() + checked_seconds("wait_seconds", wait_seconds)
        written = await self._write_mode(mode, operator, reason, None if seen is None else seen.set_at)
        if isinstance(written, ModeMoved):
            raise written
        record, earlier = written
        while live := await self._still_live(earlier):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise LeasesStillLive(
                    f"mode {mode.value} is set, but {live} leases begun before it are still live after "
                    f"{wait_seconds:g} s: their calls may be under way; run the same command again to wait longer"
                )
            await asyncio.sleep(min(LEASE_POLL_SECONDS, remaining))
        return record

    @property
    def connections(self) -> dict[str, int]:
        """Of its pool: size, idle, in_use, max."""
        return self._pool.connections

    def on_wait(self, told: Callable[[float, bool], None]) -> None:
        """Tell of every wait for a connection: its seconds, and whether it ended with one."""
        self._pool.on_wait = told

    async def counts(self) -> Mapping[str, int]:
        """See `Ledger.counts`. Reads the whole table: for people and slow gauges, not for a hot path."""

        async def work(connection: Connection) -> Sequence[Mapping[str, Any]]:
            async with connection.transaction(readonly=True):
                await connection.execute(statements.SCAN_WHOLE_TABLES)
                records: Sequence[Mapping[str, Any]] = await connection.fetch(statements.COUNTS)
                return records

        records = await self._pool.read(work)
        return dict.fromkeys(statements.COUNT_NAMES, 0) | {record["name"]: record["rows"] for record in records}

    async def durability(self) -> Durability:
        """What the server promises a confirmed commit; for preflight, which refuses what is not `is_safe`."""
        return Durability(**await self._pool.read(lambda connection: connection.fetchrow(statements.DURABILITY)))

    async def _write_mode(
        self, mode: Mode, operator: str, reason: str, seen_at: datetime | None
    ) -> tuple[ModeRecord, Mapping[str, str]] | ModeMoved:
        """Set the mode under its lock; also the leases (payout_id to owner) that were live at that moment."""
        opening = statements.OPEN_UNDER_MODE_LOCK.format(milliseconds=round(MODE_LOCK_SECONDS * 1000))

        async def work(connection: Connection, progress: Progress) -> tuple[ModeRecord, Mapping[str, str]] | ModeMoved:
            async with transaction(connection, opening):
                found = await connection.fetchrow(statements.SET_MODE, mode.value, operator, reason, seen_at)
                if found is None:
                    moved = ModeMoved(_mode_record(await connection.fetchrow(statements.MODE)))
                    await connection.execute("ROLLBACK")
                    return moved
                record = _mode_record(found)
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


def _storable_or_none(payout_id: str | None) -> str | None:
    """No row has a name that cannot be stored, and one such name must not spoil the question about the others."""
    return payout_id if payout_id is not None and is_storable_text(payout_id) else None


def _mode_record(record: Mapping[str, Any]) -> ModeRecord:
    try:
        mode = Mode(record["mode"])
    except ValueError:
        raise ModeNotKnown("the mode in force is a word of a newer release: use that release's command") from None
    return ModeRecord(mode, record["set_at"], record["operator"], record["reason"])
