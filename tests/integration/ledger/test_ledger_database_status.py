"""The database's own state as `payouts ledger status` sees it, and the time-outs of every connection."""

from __future__ import annotations

import ast
import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner

from ledger.connections import IDLE_IN_TRANSACTION_SECONDS, Timeouts, session_settings
from ledger.migrate import migrator
from ledger.postgres import PostgresLedger
from ops.database_status import Bounds, database_facts, findings
from ops.findings import Status
from ops.ledger import _show_slow
from ops.ledger_queries import reading
from ops.main import app
from sandbox.servers.postgres import PostgresServer, PostgresStandby
from tests.contract.ledger.ledger_harness import inserted, sealed

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[3]
TIMEOUTS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
NEEDLE = "needle-4000001234"
ROWS = 50


async def failures(url: str, bounds: Bounds) -> dict[str, str]:
    async with reading(url) as connection:
        facts = await database_facts(connection)
    json.dumps(facts, default=str)
    return {one.check: one.detail for one in findings(facts, bounds) if one.status is Status.FAIL}


async def test_a_long_statement_a_long_transaction_and_a_lock_are_found_without_their_text(ledger_url: str) -> None:
    """S3-07, S4-29, P6: who, since when and waiting for whom; never what somebody typed."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        await inserted(ledger)
    holder, waiter = await asyncpg.connect(ledger_url), await asyncpg.connect(ledger_url)
    await holder.execute(f"BEGIN; SELECT '{NEEDLE}'; UPDATE payouts SET reason = '{NEEDLE}'")
    waiting = asyncio.create_task(waiter.execute(f"UPDATE payouts SET reason = 'also {NEEDLE}'"))
    tight = Bounds(statement_seconds=0.0, transaction_seconds=0.2, lock_seconds=0.2)

    async def both() -> dict[str, str]:
        while True:
            found = await failures(ledger_url, tight)
            if {"transactions", "locks"} <= set(found):
                return found

    found = await asyncio.wait_for(both(), 20)
    assert f"lock of {holder.get_server_pid()}" in found["locks"]
    async with reading(ledger_url) as connection:
        facts = await database_facts(connection)
    assert NEEDLE not in json.dumps(facts, default=str)
    assert {one["statement"] for one in facts["sessions"]} >= {"BEGIN", "UPDATE"}
    assert await failures(ledger_url, Bounds(lock_seconds=60.0)) == {}
    await holder.execute("ROLLBACK")
    await waiting
    await holder.close()
    await waiter.close()


async def test_sizes_bloat_and_vacuum_are_told_of_every_table(ledger_url: str) -> None:
    """S3-25: updates of every row leave dead ones; after a vacuum they are room, which only a rewrite gives back.

    The measured shares are held to what lies in the table; each is a finding beyond its bound, and only there.
    """
    async with await PostgresLedger.connect(ledger_url) as ledger:
        await asyncio.gather(*(inserted(ledger, number) for number in range(ROWS)))
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("ALTER TABLE payouts SET (autovacuum_enabled = off)")
    for _ in range(3):
        await connection.execute("UPDATE payouts SET reason = repeat('x', 500)")
    await connection.execute("SELECT pg_stat_force_next_flush()")
    tight = Bounds(bloat_rows_min=0, bloat_bytes_min=0)
    assert (await payouts_of(ledger_url))["dead_share"] > tight.dead_share
    assert "% dead rows" in (await failures(ledger_url, tight))["bloat"]

    await connection.execute("UPDATE payouts SET reason = NULL")
    await connection.execute("VACUUM (ANALYZE) payouts")
    payouts = await payouts_of(ledger_url)
    assert payouts["bloat_share"] == pytest.approx(await empty_share(connection), abs=0.2)
    assert payouts["bloat_share"] > 0.5
    sized = Bounds(bloat_bytes_min=0, dead_share=1.0)
    assert f"payouts is about {payouts['bloat_share']:.0%} empty" in (await failures(ledger_url, sized))["bloat"]
    assert "bloat" not in await failures(ledger_url, Bounds(bloat_bytes_min=0, dead_share=1.0, bloat_share=0.95))
    assert "bloat" not in await failures(ledger_url, Bounds()), "too small to be worth anybody's time"
    assert None not in (payouts["vacuumed_at"], payouts["analyzed_at"])
    assert payouts["total_bytes"] >= payouts["heap_bytes"] + payouts["index_bytes"] > 0

    await connection.execute("VACUUM (FULL, ANALYZE) payouts")
    rewritten = await payouts_of(ledger_url)
    assert rewritten["bloat_share"] == pytest.approx(await empty_share(connection), abs=0.2)
    assert rewritten["bloat_share"] < tight.bloat_share
    assert rewritten["heap_bytes"] < payouts["heap_bytes"] / 2
    await connection.close()
    async with reading(ledger_url) as look:
        facts = await database_facts(look)
    assert {table["table"] for table in facts["tables"]} >= {"payouts", "history", "seals", "receipts"}
    assert facts["unsealed"] == ROWS
    assert facts["identity_numbers_issued"] == 0


COUNTED = """
CREATE SCHEMA counted;
CREATE TABLE counted.rows (userid oid, dbid oid, toplevel bool, queryid bigint, query text, calls bigint,
    total_exec_time float8, min_exec_time float8, max_exec_time float8, mean_exec_time float8);
INSERT INTO counted.rows SELECT 10, (SELECT oid FROM pg_database WHERE datname = current_database()), true, 100 + n,
    '{needle}', n, 10.5 * n * n, 0, 20 * n, 10.5 * n FROM generate_series(1, 12) AS n;
INSERT INTO counted.rows VALUES (10, 1, true, 900, 'of another database', 1, 1e9, 1e9, 1e9, 1e9),
    (10, (SELECT oid FROM pg_database WHERE datname = current_database()), true, NULL, '<insufficient privilege>',
     1, 1e9, 1e9, 1e9, 1e9);
CREATE VIEW counted.pg_stat_statements AS SELECT * FROM counted.rows
"""
"""What the extension shows, as far as we read it: the tests' PostgreSQL comes without its contributed modules."""
NOT_LOADED = """
CREATE FUNCTION counted.not_loaded() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'must be loaded via shared_preload_libraries' USING ERRCODE = 'object_not_in_prerequisite_state';
END $$;
CREATE OR REPLACE VIEW counted.pg_stat_statements AS SELECT userid, dbid, toplevel, counted.not_loaded() AS queryid,
    query, calls, total_exec_time, min_exec_time, max_exec_time, mean_exec_time FROM counted.rows
"""


async def test_the_slowest_statements_of_the_past_are_told_by_their_ids(
    ledger_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 7, P6: ten, by mean time, of this database, without their text; else how to switch it on."""

    async def told() -> tuple[list[dict[str, Any]], str | None]:
        async with reading(ledger_url) as look:
            facts = await database_facts(look)
        assert NEEDLE not in json.dumps(facts, default=str)
        return facts["slow_statements"], facts["slow_statements_not_counted"]

    rows, why = await told()
    assert rows == []
    assert "CREATE EXTENSION pg_stat_statements" in str(why)
    assert "shared_preload_libraries" in str(why)

    connection = await asyncpg.connect(ledger_url)
    await connection.execute(COUNTED.format(needle=NEEDLE))
    rows, why = await told()
    assert why is None
    assert [row["query_id"] for row in rows] == [str(100 + number) for number in range(12, 2, -1)]
    assert rows[0] == {"query_id": "112", "calls": 12, "mean_ms": 126.0, "max_ms": 240.0}
    _show_slow({"slow_statements": rows, "slow_statements_not_counted": why})
    shown = capsys.readouterr().out
    assert "MEAN ms" in shown
    assert "126.0" in shown

    await connection.execute(NOT_LOADED)
    await connection.close()
    rows, why = await told()
    assert rows == []
    assert "is not loaded" in str(why)


async def payouts_of(url: str) -> dict[str, Any]:
    """What is told of the table of payouts."""
    async with reading(url) as connection:
        facts = await database_facts(connection)
    return {table["table"]: table for table in facts["tables"]}["payouts"]


async def empty_share(connection: Any) -> float:
    """The truth of it: all but what the rows take, with headers and the room that is left on purpose, of the heap."""
    used, heap = await connection.fetchrow(
        "SELECT sum(pg_column_size(p.*) + 28)::float8 / 0.7, pg_relation_size('payouts') FROM payouts AS p"
    )
    return float(1 - used / heap)


async def test_lines_that_nobody_seals_are_a_finding(ledger_url: str) -> None:
    """L10: the sealer has stopped, and nobody would notice by the payouts."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        await inserted(ledger)
        assert "not sealed" in (await failures(ledger_url, Bounds(seal_seconds=0.0)))["seals"]
        await sealed(ledger, 1)
        assert "not published" in (await failures(ledger_url, Bounds(publish_seconds=0.0)))["seals"]
        await ledger.seals.published_up_to(1)
        assert await failures(ledger_url, Bounds(publish_seconds=0.0, seal_seconds=0.0)) == {}


def test_a_standby_that_is_there_and_one_that_is_gone(own_postgres: PostgresServer) -> None:
    """S4-36, P9: before a failover somebody looks whether there is a synchronous standby to fail over to. Its ledger is

    migrated by the command, whose dry run changes nothing, and which is in the history.
    """
    standby = PostgresStandby(own_postgres)
    try:
        standby.start()
        environment = {"DATABASE_URL": own_postgres.url, "PAYOUTS_PROFILE": "test", "SCHEMA_REGISTRY_URL": ""}
        environment["KAFKA_BOOTSTRAP_SERVERS"] = "127.0.0.1:1"
        runner = CliRunner()
        planned = runner.invoke(app, ["ledger", "migrate", "--dry-run", "--output", "json"], env=environment)
        pending = json.loads(planned.stdout)["pending"]
        assert len(pending) > 5
        migrated = ["ledger", "migrate", "--operator", "release-1.4", "--output", "json"]
        done = runner.invoke(app, migrated, env=environment)
        assert json.loads(done.stdout)["applied"] == pending, "a dry run applies nothing"
        assert json.loads(runner.invoke(app, migrated, env=environment).stdout)["applied"] == []
        tail = ["audit", "tail", "--action", "ledger_migrated", "--output", "json"]
        (line,) = json.loads(runner.invoke(app, tail, env=environment).stdout)
        assert (line["actor"], line["step"]) == ("release-1.4", pending[-1]), "once, by whom, and to which revision"
        well = runner.invoke(app, ["ledger", "status", "--output", "json"], env=environment)
        assert well.exit_code == 0, well.stderr
        (seen,) = json.loads(well.stdout)["database"]["standbys"]
        assert (seen["state"], seen["sync_state"]) == ("streaming", "sync")
        standby.kill()
        gone: Any = None
        while gone is None or gone.exit_code == 0:
            gone = runner.invoke(app, ["ledger", "status"], env=environment)
        assert gone.exit_code == 1
        assert "no synchronous standby" in gone.stderr
    finally:
        standby.detach()
        standby.stop()


async def shown(connection: Any) -> dict[str, str]:
    return {name: await connection.fetchval(f"SHOW {name}") for name in TIMEOUTS}


async def test_every_connection_of_ours_has_its_time_outs(ledger_url: str) -> None:
    """Issue 7, S3-07: a worker's pool, a command that looks, and a migration; none may wait or run for ever."""
    times = Timeouts()
    async with await PostgresLedger.connect(ledger_url, pool_min=1) as ledger:
        pool = await ledger._pool.read(shown)
    assert pool == {
        "lock_timeout": f"{times.lock_seconds:.0f}s",
        "statement_timeout": f"{times.statement_seconds:.0f}s",
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS:.0f}s",
    }
    async with reading(ledger_url) as connection:
        looking = await shown(connection)
    async with migrator(ledger_url) as connection:
        migrating = await shown(connection)
    assert "0" not in {*pool.values(), *looking.values(), *migrating.values()}


def test_nobody_opens_a_connection_without_them() -> None:
    """Every place of the product that connects gives the session its settings, by the one function that makes them."""
    without = []
    places = 0
    for room in ("ledger", "ops", "streams", "processors"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "asyncpg"):
                    continue
                if node.func.attr not in ("connect", "create_pool"):
                    continue
                places += 1
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                settings = given.get("server_settings", "")
                if "session_settings(" not in settings and "_pool_settings(" not in settings:
                    without.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert without == []
    assert places >= 4
    assert set(TIMEOUTS) <= set(session_settings("a test", lock_seconds=1, statement_seconds=1))
