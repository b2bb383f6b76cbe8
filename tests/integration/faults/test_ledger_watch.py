"""What aims the fault suite survives what it aims at: a look that dies with the database is an answer, not an error."""

from __future__ import annotations

import asyncio
import threading

import asyncpg
import pytest

from sandbox.faults.aim import LedgerAway, LedgerWatch
from sandbox.servers.postgres import PostgresServer

pytestmark = pytest.mark.servers

LOOKS_LONG = "SELECT pg_sleep(30)"


def test_a_database_killed_under_a_look_is_away_and_comes_back(own_postgres: PostgresServer) -> None:
    """A nightly run ended without a verdict after 37 minutes, because one look met the remains of another."""
    watch = LedgerWatch(own_postgres.url)
    try:
        for _ in range(3):
            assert watch.fetch("SELECT 1 AS one")[0]["one"] == 1
            kill = threading.Timer(0.3, own_postgres.kill)
            kill.start()
            with pytest.raises(LedgerAway):
                watch.fetch(LOOKS_LONG)
            kill.join()
            own_postgres.restart()
    finally:
        watch.close()


def test_the_drivers_own_confusion_is_away_too(own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncpg says InternalClientError where a connection dies in the middle of its own bookkeeping."""
    watch = LedgerWatch(own_postgres.url)
    try:
        connection = _connection_of(watch)

        async def confused(*_: object, **__: object) -> None:
            raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

        monkeypatch.setattr(type(connection), "fetch", confused)
        with pytest.raises(LedgerAway, match="InternalClientError"):
            watch.fetch("SELECT 1")
        monkeypatch.undo()
        assert connection.is_closed()
        assert watch.fetch("SELECT 1 AS one")[0]["one"] == 1
    finally:
        watch.close()


def _connection_of(watch: LedgerWatch) -> asyncpg.Connection[asyncpg.Record]:
    """The one it has open."""
    watch.fetch("SELECT 1")
    connection = watch._connection
    assert connection is not None
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0), watch._loop).result(5) is None
    return connection
