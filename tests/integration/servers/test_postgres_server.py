"""PostgreSQL of our own: what is committed survives a kill, and nothing is left behind."""

from __future__ import annotations

import shutil

import asyncpg
import psutil  # type: ignore[import-untyped, unused-ignore]  # whether or not the stubs are installed
import pytest

from sandbox.servers.postgres import PostgresServer, enterable_temporary_directory, execute_sql
from sandbox.servers.processes import is_listening

pytestmark = pytest.mark.servers


async def _value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_what_is_committed_survives_a_kill_and_nothing_else(
    postgres_server: PostgresServer, database_url: str
) -> None:
    """Fault model of the promise (P1): the database may crash and recover; L4: a commit is durable."""
    connection = await asyncpg.connect(database_url, timeout=10)
    await connection.execute("CREATE TABLE kept (n int PRIMARY KEY)")
    await connection.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO kept VALUES (1001)")
    first_process = postgres_server.process_id

    postgres_server.kill()
    connection.terminate()
    assert not psutil.pid_exists(first_process)
    assert not is_listening(postgres_server.port)

    postgres_server.restart()
    assert await _value(database_url, "SELECT max(n) FROM kept") == 1000
    assert await _value(database_url, "SELECT count(*) FROM kept") == 1000


async def test_durability_is_not_traded_for_speed(database_url: str) -> None:
    """A crash test on a server that does not sync would prove nothing."""
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await _value(database_url, f"SELECT current_setting('{setting}')") == "on"
    assert await _value(database_url, "SELECT current_setting('max_connections')") == "200"
    assert await _value(database_url, "SELECT current_setting('log_parameter_max_length')") == "0"


async def test_every_test_gets_an_empty_database(database_url: str) -> None:
    query = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
    assert await _value(database_url, query) == 0


async def test_a_connection_without_the_password_is_refused(postgres_server: PostgresServer) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_server.url, password="not it", timeout=10)


def test_stop_leaves_no_process_no_port_and_no_files() -> None:
    server = PostgresServer()
    server.start()
    port, process_id = server.port, server.process_id
    directory = server.directory
    assert directory is not None
    assert directory.exists()
    server.stop()
    assert not psutil.pid_exists(process_id)
    assert not is_listening(port)
    assert not directory.exists()


async def test_a_named_directory_keeps_the_data_across_runs() -> None:
    """The promise of `payouts dev up --state-dir`."""
    directory = enterable_temporary_directory("payouts-test-")
    try:
        first = PostgresServer(directory / "postgres")
        try:
            first.start()
            execute_sql(first.url, "CREATE TABLE kept (n int)")
        finally:
            first.stop()
        second = PostgresServer(directory / "postgres")
        try:
            second.start()
            assert await _value(second.url, "SELECT count(*) FROM kept") == 0
        finally:
            second.stop()
    finally:
        shutil.rmtree(directory)
