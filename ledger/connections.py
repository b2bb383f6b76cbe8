"""Connections to PostgreSQL, and the one way in which a write is sent (rule L4).

A write runs in a task of its own that no caller can cancel. When its time is over the socket is aborted, and what the
server made of it is unknown. Every failure is sorted by whether a commit can have happened:

    before the statement was sent, or answered by the server with an error  → nothing happened
    sent, and no answer (time-out, lost connection, the backend ended)      → CommitUnknown
    answered, but with a warning (a standby did not confirm)                → CommitUnknown
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from ledger.interface import CommitUnknown, LedgerError, LedgerUnavailable, RowRejected

# A deadlock victim or a row locked for long is tried again in the same call; then somebody else may decide.
BUSY_TRIES: Final = 3
BUSY_PAUSE_SECONDS: Final = 0.05
# After the socket is aborted the driver needs only a turn of the event loop.
ABORT_SECONDS: Final = 5.0
# Giving a connection back may need a ROLLBACK.
RELEASE_SECONDS: Final = 5.0
# Writes that wait for a connection; beyond this the caller is told instead of queued.
WAITING_WRITES_MAX: Final = 5_000
STATEMENT_CACHE_SIZE: Final = 100
# A worker frozen inside a transaction holds a row and the mode lock: the server ends it before others give up.
IDLE_IN_TRANSACTION_SECONDS: Final = 5.0
# A host that vanished without closing its connections is noticed by the server, so that its locks go.
KEEPALIVE_SECONDS: Final = 10

DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's own confusion when a connection dies under it
    OSError,
    TimeoutError,
)
"""Everything by which the driver says that something went wrong."""

SAFE_SYNCHRONOUS_COMMIT: Final = frozenset({"on", "remote_apply"})

Result = TypeVar("Result")
Connection = Any
"""An asyncpg connection out of the pool, whose types differ between a pool's proxy and the connection itself."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bounds of one use of the database, in seconds; each must end before the one that contains it."""

    connect_seconds: float = 5.0
    acquire_seconds: float = 5.0
    lock_seconds: float = 3.0
    statement_seconds: float = 8.0
    write_seconds: float = 20.0

    def __post_init__(self) -> None:
        """Raises ValueError when a bound could never act."""
        bounds = (self.connect_seconds, self.acquire_seconds, self.lock_seconds, self.statement_seconds)
        if min(bounds) <= 0:
            raise ValueError("every time-out of the ledger must be above 0 seconds")
        if not self.lock_seconds < self.statement_seconds < self.write_seconds:
            raise ValueError("time-outs of the ledger must grow: lock < statement < write")


class Progress:
    """How far one attempt at a write has come."""

    __slots__ = ("sent", "warned")

    def __init__(self) -> None:
        self.sent = False
        self.warned = False

    def sending(self, connection: Connection) -> None:
        """Call right before what can commit. Raises LedgerUnavailable if the connection is gone already."""
        if connection.is_closed():
            raise LedgerUnavailable("the connection to PostgreSQL was lost before the write was sent")
        self.sent = True

    def noticed(self, _connection: Connection, _message: object) -> None:
        """The server said something besides the answer (only warnings are let through)."""
        self.warned = True


Work = Callable[[Connection, Progress], Awaitable[Result]]


@asynccontextmanager
async def transaction(connection: Connection, opening: str) -> AsyncIterator[None]:
    """Send `opening`, which begins a transaction; end it if an error comes out. The body itself ends it otherwise."""
    try:
        await connection.execute(opening)
        yield
    except asyncpg.PostgresError:
        with suppress(*DRIVER_ERRORS):
            if not connection.is_closed() and connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        raise


class Busy(Exception):
    """Deadlock, serialization failure or lock time-out: nothing happened, the same again may work. Stays in here."""

    def __init__(self, state: str, *, of_a_row: bool = True) -> None:
        super().__init__(state)
        self.of_a_row = of_a_row
        """Some row of the statement is in the way, and not what all its rows need."""


class StayedBusy(LedgerUnavailable):
    """A row stayed locked, or its statement was a deadlock's victim, until there were no tries left."""


def failure_of(error: BaseException, *, sent: bool) -> LedgerError | Busy:
    """What an exception of the driver means for the caller. Keeps no reference to it: its text may hold values."""
    if isinstance(error, LedgerError | Busy):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return _failure_of_state(error, sent=sent)
    if isinstance(error, asyncpg.exceptions._base.DataError | asyncpg.DataError | OverflowError | UnicodeError):
        return RowRejected("a value does not fit the type of its column (PostgreSQL's driver refused to send it)")
    if sent:
        return CommitUnknown(
            f"a write was sent to PostgreSQL and not confirmed ({type(error).__name__}); read the row again"
        )
    return LedgerUnavailable(f"PostgreSQL cannot be reached or does not answer ({type(error).__name__})")


def _failure_of_state(error: asyncpg.PostgresError, *, sent: bool) -> LedgerError | Busy:
    state: str = getattr(error, "sqlstate", None) or "XX000"
    if _ends_connection(error, state):
        if sent:
            return CommitUnknown(
                f"the connection ended before PostgreSQL confirmed a write ({state}); read the row again"
            )
        return LedgerUnavailable(f"PostgreSQL ended the connection or is not ready ({state})")
    if state in {"40001", "40P01", "55P03"}:
        return Busy(state)
    if state == "40003":
        return CommitUnknown("PostgreSQL does not know the outcome of the statement (40003); read the row again")
    if state[:2] in {"22", "23", "54"} and state != "2200H":
        place = getattr(error, "constraint_name", None) or getattr(error, "column_name", None)
        return RowRejected(
            f"PostgreSQL refused the row's data: {type(error).__name__} ({state})"
            + (f", constraint {place}" if place else "")
        )
    if state in {"42P01", "42703", "42883"}:
        return LedgerUnavailable(
            f"the database has not the tables of this program ({state}): run `payouts ledger migrate`"
        )
    return LedgerUnavailable(f"PostgreSQL refuses to serve ({type(error).__name__}, {state}); nothing was written")


def _ends_connection(error: asyncpg.PostgresError, state: str) -> bool:
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    return state[:2] == "08" or state[:3] == "57P" or severity in {"FATAL", "PANIC"}


SESSION_FACTS: Final = """
SELECT current_setting('synchronous_commit') AS synchronous_commit,
    (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline,
    pg_postmaster_start_time() AS incarnation
"""
MISSING_WITNESSES: Final = """
SELECT count(*) FROM unnest($1::text[], $2::bigint[]) AS witness (payout_id, version)
WHERE NOT EXISTS (
    SELECT FROM history AS h WHERE h.payout_id = witness.payout_id AND h.version = witness.version
)
"""
# More than transactions that can be under way at once, so that the newest of all commits is always among them.
WITNESSES_MAX: Final = 32
NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""No server was started then: what is compared with it is refused."""


@dataclass(slots=True)
class Primary:
    """Which server takes our writes: the cluster's number and its timeline, which grows with every promotion."""

    system_identifier: int = 0
    timeline: str = ""
    generation: int = 0
    """Grows when another server takes over."""
    replace_connections: Callable[[], Awaitable[None]] | None = None
    guarded: bool = False
    """Calls may begin only on a server that `trust` names (rule L11): a worker's pool, not a command's."""
    incarnation: datetime = NEVER
    """When the server that we met last was started: whoever puts another database there has to start it."""
    trusted: datetime | None = None
    trusted_adoption: int = 0
    witnesses: "deque[tuple[str, int]]" = field(default_factory=lambda: deque(maxlen=WITNESSES_MAX))
    """Of the last transactions that began calls, one row and version each: what a copy from before does not have."""

    @property
    def required_incarnation(self) -> datetime | None:
        """What a statement that begins calls compares with the server that runs it; None: any will do."""
        return (self.trusted or NEVER) if self.guarded else None

    def trust(self, incarnation: datetime, adoption: int, *, forget_witnesses: bool) -> None:
        """It was looked at and is the database that we know; `adoption` is the newest that it has."""
        self.trusted, self.trusted_adoption = incarnation, adoption
        if forget_witnesses:
            self.witnesses.clear()

    def distrust(self) -> None:
        """Nothing begins until somebody has looked."""
        self.trusted = None

    async def prepare_session(self, connection: Connection) -> None:
        """Look whom we are connected to, and refuse asynchronous commit, whatever the server's default is.

        Raises LedgerUnavailable for a primary that another has followed already.
        """
        facts = await connection.fetchrow(SESSION_FACTS)
        if facts["synchronous_commit"] not in SAFE_SYNCHRONOUS_COMMIT:
            await connection.execute("SET synchronous_commit = on")
        await self.meet(facts["system_identifier"], facts["timeline"])
        self.incarnation = facts["incarnation"]
        if self.trusted != self.incarnation:
            self.trusted = None
        elif self.witnesses:
            # A machine that was put back with its memory has the same server in it, and not what we have seen since.
            names, versions = zip(*self.witnesses, strict=True)
            if await connection.fetchval(MISSING_WITNESSES, list(names), list(versions)):
                self.distrust()

    async def meet(self, system_identifier: int, timeline: str) -> None:
        """Another server than before: whatever is open leads to the old one. Timelines are eight hexadecimal digits."""
        if system_identifier == self.system_identifier and timeline < self.timeline:
            raise LedgerUnavailable(
                "this PostgreSQL was a primary once and another has taken over: it must not take writes any more; "
                "stop it, or rebuild it as a standby"
            )
        if (system_identifier, timeline) == (self.system_identifier, self.timeline):
            return
        is_first = not self.timeline
        self.system_identifier, self.timeline = system_identifier, timeline
        if not is_first:
            self.generation += 1
            if self.replace_connections is not None:
                await self.replace_connections()


@dataclass(slots=True)
class GuardedPool:
    """A bounded pool whose writes cannot be cancelled half-way and whose failures have one of three names."""

    pool: Any
    timeouts: Timeouts
    primary: Primary = field(default_factory=Primary)
    closing: bool = False
    on_wait: Callable[[float, bool], None] = lambda _seconds, _connected: None
    """Hears how long a wait for a connection took, and whether it ended with one."""
    writes: set["asyncio.Task[Any]"] = field(default_factory=set)

    async def read(
        self, work: Callable[[Connection], Awaitable[Result]], timeout_seconds: float | None = None
    ) -> Result:
        """Run a query. Raises LedgerUnavailable, RowRejected (a parameter that is no text at all)."""
        seconds = self.timeouts.statement_seconds if timeout_seconds is None else timeout_seconds
        try:
            async with asyncio.timeout(seconds + self.timeouts.acquire_seconds):
                async with self._waited(self.pool.acquire(timeout=self.timeouts.acquire_seconds)) as connection:
                    return await work(connection)
        except DRIVER_ERRORS as error:
            failure = failure_of(error, sent=False)
        if isinstance(failure, Busy):
            failure = LedgerUnavailable(f"PostgreSQL is busy ({failure})")
        raise failure

    async def write(
        self, work: Work[Result], timeout_seconds: float | None = None, *, busy_tries: int = BUSY_TRIES
    ) -> Result:
        """Run something that commits. The caller may be cancelled; the write may not.

        Raises RowRejected, CommitUnknown, LedgerUnavailable.
        """
        if self.closing:
            raise LedgerUnavailable("the ledger is being closed; nothing was written")
        if len(self.writes) >= WAITING_WRITES_MAX:
            raise LedgerUnavailable(f"{WAITING_WRITES_MAX} writes wait already; nothing was written, slow down")
        seconds = self.timeouts.write_seconds if timeout_seconds is None else timeout_seconds
        task = asyncio.create_task(self._write(work, seconds, busy_tries), name="ledger-write")
        self.writes.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self.writes.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled never asks: without this the loop would complain

    async def _write(self, work: Work[Result], timeout_seconds: float, busy_tries: int) -> Result:
        for remaining in reversed(range(busy_tries)):
            outcome = await self._attempt(work, timeout_seconds)
            if not isinstance(outcome, Busy):
                break
            if remaining:
                await asyncio.sleep(random.uniform(0, BUSY_PAUSE_SECONDS))  # noqa: S311 - spreads rivals
        if isinstance(outcome, Busy):
            kind = StayedBusy if outcome.of_a_row else LedgerUnavailable
            raise kind(f"the row or the mode stayed locked, or deadlocked ({outcome}); nothing was written")
        if isinstance(outcome, LedgerError):
            raise outcome
        return outcome

    async def _attempt(self, work: Work[Result], timeout_seconds: float) -> Result | LedgerError | Busy:
        connection = await self._acquired()
        if isinstance(connection, LedgerError):
            return connection
        progress = Progress()
        listener = progress.noticed
        try:
            connection.add_log_listener(listener)
            statement = asyncio.ensure_future(work(connection, progress))
            return await self._outcome(connection, statement, progress, timeout_seconds)
        except (
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ) as error:  # died before listening: nothing was sent
            return _as_error(failure_of(error, sent=False))
        finally:
            await self._give_back(connection, listener)

    async def _acquired(self) -> Connection:
        """A connection, or the LedgerUnavailable that stands for it."""
        begun = time.monotonic()
        try:
            connection = await self.pool.acquire(timeout=self.timeouts.acquire_seconds)
        except DRIVER_ERRORS as error:
            self.on_wait(time.monotonic() - begun, False)
            return _as_error(failure_of(error, sent=False))
        self.on_wait(time.monotonic() - begun, True)
        return connection

    @asynccontextmanager
    async def _waited(self, acquired: AbstractAsyncContextManager[Connection]) -> AsyncIterator[Connection]:
        """The pool's own context, with the wait for it told."""
        begun = time.monotonic()
        try:
            connection = await acquired.__aenter__()
        except BaseException:
            self.on_wait(time.monotonic() - begun, False)
            raise
        self.on_wait(time.monotonic() - begun, True)
        try:
            yield connection
        finally:
            await acquired.__aexit__(None, None, None)

    @property
    def connections(self) -> dict[str, int]:
        """How many there are, idle and in use, and the most there may be."""
        size, idle = self.pool.get_size(), self.pool.get_idle_size()
        return {"size": size, "idle": idle, "in_use": size - idle, "max": self.pool.get_max_size()}

    async def _outcome(
        self, connection: Connection, statement: "asyncio.Future[Result]", progress: Progress, timeout_seconds: float
    ) -> Result | LedgerError | Busy:
        try:
            await asyncio.wait({statement}, timeout=timeout_seconds)
            if not statement.done():
                connection.terminate()
                await asyncio.wait({statement}, timeout=ABORT_SECONDS)
                if statement.done():
                    statement.exception()  # that of the aborted socket says nothing new
                return _unanswered(progress, timeout_seconds)
        except asyncio.CancelledError:  # only when the whole event loop ends
            connection.terminate()
            raise
        finally:
            if not statement.done():
                statement.cancel()
        error = statement.exception()
        if error is not None:
            return failure_of(error, sent=progress.sent)
        if progress.warned and progress.sent:
            return CommitUnknown("PostgreSQL warned while it committed: a standby may not have the write; read again")
        return statement.result()

    async def _give_back(self, connection: Connection, listener: Callable[..., None]) -> None:
        try:
            if connection.is_closed():
                connection.terminate()  # which gives its place in the pool back, and forgets the listener
                return
            connection.remove_log_listener(listener)
            await self.pool.release(connection, timeout=RELEASE_SECONDS)
        except DRIVER_ERRORS:
            # The outcome is known already, and a connection that was aborted is the pool's again already.
            with suppress(asyncpg.InterfaceError):
                connection.terminate()

    async def close(self) -> None:
        """Wait for the writes in flight (each is bounded), then close the connections."""
        self.closing = True
        if self.writes:
            await asyncio.wait(set(self.writes))
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self.pool.close()
        except DRIVER_ERRORS:
            self.pool.terminate()


def _as_error(failure: LedgerError | Busy) -> LedgerError:
    return LedgerUnavailable(f"PostgreSQL is busy ({failure})") if isinstance(failure, Busy) else failure


def _unanswered(progress: Progress, timeout_seconds: float) -> LedgerError:
    if progress.sent:
        return CommitUnknown(f"a write was not confirmed within {timeout_seconds:g} s; read the row again")
    return LedgerUnavailable(f"PostgreSQL did not answer within {timeout_seconds:g} s; nothing was written")


async def _keep_session(_connection: Connection) -> None:
    """Nothing to reset: no statement of the ledger leaves anything in a session, and a round trip is saved."""


async def open_pool(
    database_url: str, *, pool_min: int, pool_max: int, timeouts: Timeouts, application_name: str, guarded: bool = False
) -> GuardedPool:
    """Connect. Raises LedgerUnavailable; the message never holds the address, which contains a password."""
    if not 1 <= pool_min <= pool_max:
        raise ValueError("pool sizes must be 1 <= pool_min <= pool_max")
    primary = Primary(guarded=guarded)
    try:
        pool = await asyncpg.create_pool(
            database_url,
            min_size=pool_min,
            max_size=pool_max,
            timeout=timeouts.connect_seconds,
            command_timeout=None,  # the driver's own time-out would cancel a commit (rule L4)
            statement_cache_size=STATEMENT_CACHE_SIZE,
            max_inactive_connection_lifetime=300.0,
            target_session_attrs=SessionAttribute.read_write,
            init=primary.prepare_session,
            reset=_keep_session,
            server_settings=_pool_settings(timeouts, application_name),
        )
    except (*DRIVER_ERRORS, ValueError) as error:
        failure = _as_error(failure_of(error, sent=False))
    else:
        primary.replace_connections = pool.expire_connections
        if primary.generation:  # it took over while we connected
            await pool.expire_connections()
        return GuardedPool(pool, timeouts, primary)
    raise failure


def session_settings(
    application_name: str,
    *,
    lock_seconds: float,
    statement_seconds: float,
    idle_in_transaction_seconds: float = IDLE_IN_TRANSACTION_SECONDS,
) -> dict[str, str]:
    """What every session of ours tells the server, a worker's, a command's and a migration's alike: how long it may
    wait for a lock, how long a statement may run, and how long it may do nothing with a transaction open."""
    return {
        "application_name": application_name,
        "client_min_messages": "warning",
        "idle_in_transaction_session_timeout": _milliseconds(idle_in_transaction_seconds),
        "lock_timeout": _milliseconds(lock_seconds),
        "statement_timeout": _milliseconds(statement_seconds),
        "tcp_keepalives_idle": str(KEEPALIVE_SECONDS),
        "tcp_keepalives_interval": str(KEEPALIVE_SECONDS),
        "tcp_keepalives_count": "3",
        "timezone": "UTC",
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def _pool_settings(timeouts: Timeouts, application_name: str) -> dict[str, str]:
    return session_settings(
        application_name, lock_seconds=timeouts.lock_seconds, statement_seconds=timeouts.statement_seconds
    ) | {
        # A plan made while the tables were small is kept; it must not read a million rows later. Every statement of
        # the ledger reaches its rows by an index, but for `counts`.
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_seqscan": "off",
        "default_transaction_isolation": "read committed",
    }
