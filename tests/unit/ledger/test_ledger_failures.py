"""Every driver failure has one of three meanings; a write that may have happened is never called undone (L4)."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from ledger.connections import Busy, GuardedPool, Progress, Timeouts, failure_of, open_pool
from ledger.interface import CommitUnknown, LedgerUnavailable, RowRejected

NEEDLE = "4000001234567899"


def server_error(state: str, severity: str = "ERROR", **more: str) -> asyncpg.PostgresError:
    """What asyncpg raises for an ErrorResponse with these fields."""
    fields = {"S": severity, "V": severity, "C": state, "M": f"about {NEEDLE}", "D": f"Key (x)=({NEEDLE})", **more}
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return error


@pytest.mark.parametrize(
    "error",
    [
        server_error("57P01", "FATAL"),
        server_error("57P02", "FATAL"),
        server_error("08006"),
        server_error("XX000", "PANIC"),
        server_error("53100", "FATAL"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        ConnectionResetError(),
        TimeoutError(),
        asyncpg.InterfaceError("another operation is in progress"),
        KeyError("a bug of ours after the commit"),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
def test_l4_a_lost_answer_is_unknown_once_sent_and_harmless_before(error: Exception) -> None:
    assert isinstance(failure_of(error, sent=True), CommitUnknown)
    assert isinstance(failure_of(error, sent=False), LedgerUnavailable)


def test_l4_the_server_itself_can_say_that_it_does_not_know() -> None:
    assert isinstance(failure_of(server_error("40003"), sent=True), CommitUnknown)


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
def test_l5_a_busy_row_is_tried_again_not_reported_as_an_outage(state: str) -> None:
    assert isinstance(failure_of(server_error(state), sent=True), Busy)


@pytest.mark.parametrize("state", ["53100", "57014", "25006", "42P01", "42601", "28P01", "XX000", "2200H", "58030"])
def test_l4_an_error_answered_by_the_server_wrote_nothing(state: str) -> None:
    assert isinstance(failure_of(server_error(state), sent=True), LedgerUnavailable)


def test_a_database_without_tables_says_what_to_do() -> None:
    assert "payouts ledger migrate" in str(failure_of(server_error("42P01"), sent=False))


@pytest.mark.parametrize("state", ["22021", "22P05", "22003", "23505", "23514", "23502", "54000"])
def test_l5_p6_a_data_error_names_its_constraint_and_never_the_value(state: str) -> None:
    failure = failure_of(server_error(state, n="payouts_identity_number_key"), sent=True)
    assert isinstance(failure, RowRejected)
    assert "payouts_identity_number_key" in str(failure)
    assert NEEDLE not in f"{failure!r}{failure.__cause__!r}{failure.__context__!r}"


@pytest.mark.parametrize(
    "bounds",
    [{"lock_seconds": 9.0}, {"statement_seconds": 20.0}, {"acquire_seconds": 0.0}, {"write_seconds": 1.0}],
)
def test_k5_timeouts_that_could_never_act_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="time-out"):
        Timeouts(**bounds)


class FakeConnection:
    """As much of asyncpg's connection as a write touches."""

    def __init__(self, message: bool = False) -> None:
        self.closed = False
        self.aborted = asyncio.Event()
        self.listeners: list[Any] = []
        self.warns = message

    def is_closed(self) -> bool:
        self.refuse_if_terminated()
        return self.closed

    def refuse_if_terminated(self) -> None:
        """A pool takes a terminated connection back at once, and its handle refuses every call."""
        if self.aborted.is_set():
            raise asyncpg.InterfaceError("connection has been released back to the pool")

    def add_log_listener(self, listener: Any) -> None:
        self.listeners.append(listener)

    def remove_log_listener(self, listener: Any) -> None:
        self.listeners.remove(listener)

    def terminate(self) -> None:
        self.refuse_if_terminated()
        self.closed = True
        self.aborted.set()

    async def statement(self) -> str:
        if self.warns:
            for listener in self.listeners:
                listener(self, "warning")
        return "done"

    async def silence(self) -> str:
        await self.aborted.wait()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


class FakePool:
    """Hands out one connection for ever."""

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection
        self.released = 0

    async def acquire(self, timeout: float) -> FakeConnection:  # noqa: ASYNC109 - asyncpg's signature
        del timeout
        return self.connection

    async def release(self, connection: FakeConnection, timeout: float) -> None:  # noqa: ASYNC109
        del connection, timeout
        self.released += 1

    async def close(self) -> None:
        self.connection.closed = True


def guarded(connection: FakeConnection, **bounds: float) -> tuple[GuardedPool, FakePool]:
    pool = FakePool(connection)
    return GuardedPool(pool, Timeouts(**bounds)), pool


QUICK = {"lock_seconds": 0.01, "statement_seconds": 0.02, "write_seconds": 0.03}


async def test_l4_a_write_without_an_answer_aborts_the_socket_and_is_unknown() -> None:
    connection = FakeConnection()
    guard, _ = guarded(connection, **QUICK)

    async def work(_: Any, progress: Progress) -> str:
        progress.sending(connection)
        return await connection.silence()

    with pytest.raises(CommitUnknown, match="read the row again"):
        await guard.write(work)
    assert connection.aborted.is_set()


async def test_l4_a_write_that_was_never_sent_is_not_unknown() -> None:
    connection = FakeConnection()
    guard, _ = guarded(connection, **QUICK)

    async def work(_: Any, __: Progress) -> str:
        return await connection.silence()

    with pytest.raises(LedgerUnavailable, match="nothing was written"):
        await guard.write(work)


async def test_l4_a_warning_during_a_commit_is_unknown() -> None:
    connection = FakeConnection(message=True)
    guard, pool = guarded(connection)

    async def work(_: Any, progress: Progress) -> str:
        progress.sending(connection)
        return await connection.statement()

    with pytest.raises(CommitUnknown, match="warned"):
        await guard.write(work)
    assert (connection.listeners, pool.released) == ([], 1)


async def test_l4_a_cancelled_caller_does_not_cancel_the_commit() -> None:
    connection = FakeConnection()
    guard, pool = guarded(connection)
    started, finish = asyncio.Event(), asyncio.Event()
    finished: list[str] = []

    async def work(_: Any, progress: Progress) -> str:
        progress.sending(connection)
        started.set()
        await finish.wait()
        finished.append("committed")
        return "committed"

    caller = asyncio.create_task(guard.write(work))
    await started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not connection.closed
    closing = asyncio.create_task(guard.close())
    await asyncio.sleep(0)
    assert not closing.done(), "close waits for the commit in flight"
    finish.set()
    await closing
    assert (finished, pool.released) == (["committed"], 1)


async def test_l5_a_busy_row_is_tried_a_bounded_number_of_times() -> None:
    connection = FakeConnection()
    guard, _ = guarded(connection)
    tries = 0

    async def work(_: Any, progress: Progress) -> str:
        nonlocal tries
        progress.sending(connection)
        tries += 1
        raise server_error("40P01")

    with pytest.raises(LedgerUnavailable, match="nothing was written"):
        await guard.write(work)
    assert tries == 3


async def test_k5_a_closed_ledger_refuses_writes() -> None:
    guard, _ = guarded(FakeConnection())
    await guard.close()

    async def work(_: Any, __: Progress) -> str:
        return "never"

    with pytest.raises(LedgerUnavailable, match="closed"):
        await guard.write(work)


async def test_a_wrong_address_is_refused_without_showing_its_password() -> None:
    url = f"postgresql://payouts:{NEEDLE}@127.0.0.1:not-a-port/payouts"
    with pytest.raises(LedgerUnavailable) as caught:
        await open_pool(url, pool_min=1, pool_max=1, timeouts=Timeouts(), application_name="test")
    assert NEEDLE not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


async def test_pool_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="pool"):
        await open_pool("postgresql://", pool_min=5, pool_max=2, timeouts=Timeouts(), application_name="test")
