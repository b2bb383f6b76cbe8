"""Backup and restore of the ledger on real PostgreSQL: what comes back, and everything that is refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from ledger.adoption import IDENTITY_MARGIN
from ledger.guard import Published, Verdict
from ledger.interface import NotBegun
from ledger.migrate import migrate
from ledger.postgres import PostgresLedger
from ledger.seal_chain import Head, first_flaw, identity_position
from ops import backup as commands
from ops.backup_files import MANIFEST, MANIFEST_HASH, Manifest
from ops.exit_codes import ExitCode
from ops.main import app
from processors.payout.row import LEDGER_RESTORED, FundingKind, PayoutState
from sandbox.servers.postgres import PostgresServer
from tests.contract.ledger.ledger_harness import begun, committed, identity, inserted, sealed, step

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

REASON = ("--reason", "INC-1: the server is lost", "--operator", "maria")


@pytest.fixture(autouse=True)
def no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka has its own tests; here nobody waits for it."""
    monkeypatch.setattr(commands, "_refuse_workers", lambda _settings, **_: None)


@pytest.fixture(scope="module")
def other_server() -> Iterator[PostgresServer]:
    """Another cluster, with another system identifier."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def source(postgres_server: PostgresServer) -> Iterator[str]:
    """A ledger with payouts in several states, some of its history sealed and published."""
    name = f"payouts_source_{uuid.uuid4().hex[:8]}"
    url = postgres_server.create_database(name)
    asyncio.run(migrate(url))
    asyncio.run(filled(url))
    yield url
    postgres_server.drop_database(name)


@pytest.fixture
def empty(other_server: PostgresServer) -> Iterator[str]:
    """An empty database on the other server."""
    name = f"payouts_empty_{uuid.uuid4().hex[:8]}"
    yield other_server.create_database(name)
    other_server.drop_database(name)


# A server that has worked for years counts transactions that an empty one has not seen: so does this one.
WORN = """
CREATE TEMPORARY TABLE t (i integer);
DO $$ BEGIN
    FOR i IN 1..20000 LOOP BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP;
END $$
"""


async def filled(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(WORN)
    await connection.close()
    async with await PostgresLedger.connect(url) as ledger:
        for number in range(1, 4):
            row = await inserted(ledger, number)
            number_taken = await ledger.issue_identity_number()
            row = await begun(ledger, row, f"owner-{number}", **identity(number_taken), attempts=1)
            await committed(ledger, step(row, state=PayoutState.PAID))
        await inserted(ledger, 4)
        await inserted(ledger, 5, currency="JPY", amount_minor=1000)
        await sealed(ledger, 11)
        await ledger.seals.published_up_to(8)
        await inserted(ledger, 6)  # not sealed


def environment_of(url: str) -> dict[str, str]:
    return {
        "PAYOUTS_PROFILE": "test",
        "DATABASE_URL": url,
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "PAYOUTS_OPERATOR": "tester",
    }


def payouts(url: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["ledger", *words], env=environment_of(url))


def made(source: str, directory: Path) -> dict[str, Any]:
    result = payouts(source, "backup", str(directory), "--output", "json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def restored(url: str, directory: Path, *more: str) -> Result:
    return payouts(url, "restore", str(directory), *REASON, "--yes", "--output", "json", *more)


def fetch(url: str, statement: str) -> list[tuple[Any, ...]]:
    async def work() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(work())


def with_ledger(url: str, work: Callable[[PostgresLedger], Awaitable[Any]], *, guarded: bool = False) -> Any:
    async def inner() -> Any:
        async with await PostgresLedger.connect(url, guarded=guarded) as ledger:
            return await work(ledger)

    return asyncio.run(inner())


EVERYTHING = {
    "payouts": "SELECT * FROM payouts ORDER BY payout_id",
    "receipts": "SELECT * FROM receipts ORDER BY payout_id",
    "card_pulls": "SELECT * FROM card_pulls ORDER BY pull",
    "history": "SELECT id, payout_id, version, at, actor, transition, from_state, to_state, detail FROM history "
    "WHERE transition <> 'ledger_restored' ORDER BY id",
    "seals": "SELECT * FROM seals ORDER BY sequence",
    "modes": "SELECT * FROM modes",
    "intake": "SELECT * FROM intake",
    "visa_orders": "SELECT * FROM visa_orders",
    "triggers": "SELECT tgname::text, tgrelid::regclass::text, tgenabled FROM pg_trigger "
    "WHERE NOT tgisinternal ORDER BY 1",
    "constraints": "SELECT conname::text, translate(pg_get_constraintdef(oid), '()', '') FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace ORDER BY 1",
    "indexes": "SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "defaults": "SELECT table_name::text, column_name::text, column_default::text, is_identity::text "
    "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
    "number": "SELECT last_value, is_called FROM payout_identity_numbers",
}


def test_everything_comes_back_and_nothing_leaves_before_it_was_adopted(
    source: str, empty: str, tmp_path: Path
) -> None:
    """L11, L10, S1, L12: the copy is unverified whatever the audit says, adopting makes it ours, the chain goes on."""
    told = made(source, tmp_path / "backup")
    assert (told["payouts"], told["parts"], told["sealed"]) == (6, ["ledger"], 11)
    assert {(row["state"], row["currency"]): row["payouts"] for row in told["money"]} == {
        ("PAID", "USD"): 3, ("RECEIVED", "USD"): 2, ("RECEIVED", "JPY"): 1,
    }  # fmt: skip
    before = {name: fetch(source, statement) for name, statement in EVERYTHING.items()}
    published = with_ledger(source, lambda ledger: _audit(ledger))
    ((written_by,),) = fetch(source, "SELECT max(written_by)::text::bigint FROM history")
    ((unseen,),) = fetch(empty, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    assert written_by > unseen, "the history is of transactions that are still to come over there"

    done = restored(empty, tmp_path / "backup")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["ledger"] == {"payouts": 6, "history": 13}
    taken = "SELECT actor, detail ->> 'backup' FROM history WHERE transition = 'ledger_backup_begun'"
    assert fetch(source, taken) == fetch(empty, taken) == [("tester", told["backup_id"])], (
        "data left: it is written down"
    )
    for name, statement in EVERYTHING.items():
        assert fetch(empty, statement) == before[name], name
    assert fetch(empty, "SELECT actor FROM history WHERE transition = 'ledger_restored'") == [("maria",)]

    async def nothing_leaves(ledger: PostgresLedger) -> None:
        for seen in (None, published[0], published[1]):
            verdict, _ = await ledger.seals.examine(seen)
            assert verdict in (Verdict.RESTORED, Verdict.TOPIC_LOST), verdict
            row = await ledger.read("payout-00000004")
            assert row is not None
            change = step(row, state=PayoutState.SUBMITTING, **identity(900))
            assert await ledger.begin(change, "owner", 60.0) is NotBegun.UNVERIFIED
        assert await ledger.seals.seal(500) == 0, "and nothing is sealed"

    with_ledger(empty, nothing_leaves, guarded=True)
    records = with_ledger(empty, lambda ledger: _adopt(ledger, published[1]))
    assert first_flaw(records) is None, "one chain, from the first line over the restore to the adoption"
    assert [record["action"] for record in records].count("ledger_adopted") == 1
    assert {"ledger_restored", "received"} <= {record["action"] for record in records}
    lines = fetch(empty, "SELECT count(*) FROM history")[0][0]
    assert len({record["sequence"] for record in records}) == lines, "no line is left out, none twice"


async def _audit(ledger: PostgresLedger) -> tuple[Published, Published]:
    """What the topic may end with: as far as it was marked, and as far as it was sealed."""
    rows = [record for record, _ in await ledger.seals.sealed_after(0, 500)]
    return _published(rows[7]), _published(rows[-1])


def _published(record: dict[str, Any]) -> Published:
    head = Head(record["sequence"], record["hash"])
    return Published(head, record["system_identifier"], record["timeline"], identity_position(record))


async def _adopt(ledger: PostgresLedger, published: Published) -> list[dict[str, Any]]:
    before = await ledger.issue_identity_number()
    plan = await ledger.adoption.plan(published)
    assert plan.verdict is Verdict.RESTORED
    assert plan.is_physical, "its history has an order again"
    done = await ledger.adoption.adopt(plan, operator="maria", reason="INC-1", clock_skew_seconds=1.0)
    assert done.held == 3
    held = await ledger.read("payout-00000006")
    assert held is not None
    assert held.hold_reason == LEDGER_RESTORED
    assert await ledger.issue_identity_number() >= before + IDENTITY_MARGIN
    assert (await ledger.seals.examine(published))[0] is Verdict.KNOWN
    while await ledger.seals.seal(3):
        pass
    return [record for record, sealed in await ledger.seals.sealed_after(0, 500) if record["hash"] == sealed]


def test_a_copy_in_the_same_server_that_lost_nothing_is_a_copy_all_the_same(
    postgres_server: PostgresServer, source: str, tmp_path: Path
) -> None:
    """L11: same system, same timeline, same head: nothing but the restore's own line tells it apart."""
    with_ledger(source, lambda ledger: ledger.seals.seal(500))
    published = with_ledger(source, lambda ledger: _audit(ledger))
    made(source, tmp_path / "backup")
    name = f"payouts_same_{uuid.uuid4().hex[:8]}"
    same = postgres_server.create_database(name)
    try:
        assert restored(same, tmp_path / "backup").exit_code == 0
        verdict, _ = with_ledger(same, lambda ledger: ledger.seals.examine(published[1]))
        assert verdict is Verdict.RESTORED
    finally:
        postgres_server.drop_database(name)


def test_where_the_topics_are_a_copy_too_no_hand_back_of_ours_goes_by_itself(
    source: str, empty: str, tmp_path: Path
) -> None:
    """L11, C1: nobody knows whether what the copy shows under way ended and was handed back: it waits for people.

    Where Kafka was not lost the audit says so, and the others are only asked about (S3).
    """

    async def under_way(ledger: PostgresLedger) -> None:
        for number, kind in ((101, FundingKind.AFT), (102, FundingKind.INTERNAL)):
            row = await inserted(ledger, number, funding_kind=kind)
            await begun(ledger, row, f"o-{number}", **identity(await ledger.issue_identity_number()), attempts=1)

    with_ledger(source, under_way)
    published = with_ledger(source, lambda ledger: _audit(ledger))[1]
    backup_id = made(source, tmp_path / "backup")["backup_id"]
    assert restored(empty, tmp_path / "backup").exit_code == 0

    async def planned(ledger: PostgresLedger) -> tuple[bool, set[str], int]:
        plan = await ledger.adoption.plan(published)
        kinds = {sum_.what for sum_ in plan.held}
        return plan.kafka_is_a_copy, kinds, sum(sum_.payouts for sum_ in plan.under_way)

    assert with_ledger(empty, planned) == (False, {"not submitted"}, 2)
    fetch(
        empty,
        "INSERT INTO history (actor, transition, to_state, detail) VALUES ('maria', 'topics_restored', 'RESTORED', "
        f"jsonb_build_object('backup', '{backup_id}')) RETURNING id",
    )
    assert with_ledger(empty, planned) == (True, {"not submitted", "may have been handed back"}, 1)

    async def adopted(ledger: PostgresLedger) -> list[bool]:
        plan = await ledger.adoption.plan(published)
        await ledger.adoption.adopt(plan, operator="maria", reason="INC-1", clock_skew_seconds=1.0)
        rows = [await ledger.read(f"payout-{number:08d}") for number in (101, 102)]
        return [row is not None and row.held for row in rows]

    assert with_ledger(empty, adopted) == [True, False]
    assert with_ledger(empty, planned)[0] is False, "what follows is ours, and the topics tell of it"


@pytest.fixture
def backup_of(source: str, tmp_path: Path) -> Path:
    made(source, tmp_path / "backup")
    return tmp_path / "backup"


def nothing_there(url: str) -> bool:
    return fetch(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_changed_byte_is_refused_and_nothing_is_touched(backup_of: Path, empty: str) -> None:
    """Issue 7: a backup with a byte changed."""
    dump = backup_of / "ledger.dump"
    whole = bytearray(dump.read_bytes())
    whole[len(whole) // 2] ^= 1
    dump.write_bytes(bytes(whole))
    result = restored(empty, backup_of)
    assert result.exit_code == ExitCode.REFUSED
    assert "not as it was written" in result.stderr
    assert nothing_there(empty)


def test_another_major_version_is_refused(backup_of: Path, empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = commands.checked
    monkeypatch.setattr(commands, "checked", lambda directory: replace(whole(directory), major=17))
    result = restored(empty, backup_of)
    assert result.exit_code == ExitCode.REFUSED
    assert "PostgreSQL 17" in result.stderr
    assert nothing_there(empty)


def test_a_database_with_anything_in_it_is_refused(backup_of: Path, source: str, empty: str) -> None:
    before = fetch(source, "SELECT count(*), max(version) FROM payouts")
    result = restored(source, backup_of)
    assert result.exit_code == ExitCode.REFUSED
    assert "not empty" in result.stderr
    assert fetch(source, "SELECT count(*), max(version) FROM payouts") == before
    assert restored(empty, backup_of).exit_code == 0
    again = restored(empty, backup_of)
    assert again.exit_code == ExitCode.REFUSED, "also its own copy, twice"


def test_a_worker_that_is_connected_is_refused(backup_of: Path, empty: str) -> None:
    """K5: it would begin to work on half a ledger."""

    async def work() -> Result:
        rival = await asyncpg.connect(empty, server_settings={"application_name": "payouts"})
        try:
            return await asyncio.to_thread(restored, empty, backup_of)
        finally:
            await rival.close()

    result = asyncio.run(work())
    assert result.exit_code == ExitCode.REFUSED
    assert "(payouts)" in result.stderr
    assert nothing_there(empty)


def test_of_two_restores_at_once_one_wins_and_the_other_is_told(backup_of: Path, empty: str) -> None:
    words = [sys.executable, "-m", "ops", "ledger", "restore", str(backup_of), *REASON, "--yes"]
    both = [subprocess.Popen(words, cwd=ROOT, env={**os.environ, **environment_of(empty)}) for _ in range(2)]
    codes = sorted(one.wait(timeout=60) for one in both)
    assert codes[-1] == ExitCode.REFUSED
    assert codes in ([ExitCode.OK, ExitCode.REFUSED], [ExitCode.REFUSED, ExitCode.REFUSED])
    if codes[0] == ExitCode.OK:
        assert fetch(empty, "SELECT (SELECT count(*) FROM payouts), (SELECT count(*) FROM restores)") == [(6, 1)]
    else:
        assert nothing_there(empty)


def sealed_again(directory: Path, manifest: Manifest) -> None:
    for name in (MANIFEST, MANIFEST_HASH):
        (directory / name).unlink()
    commands.seal_directory(directory, manifest)


def test_topics_or_offsets_before_their_ledger_are_refused(backup_of: Path, empty: str, tmp_path: Path) -> None:
    """S4-32: the wrong order, planted. Also when the backup does not hold the part at all."""
    assert restored(empty, backup_of, "--part", "offsets").exit_code == ExitCode.USAGE
    both = tmp_path / "with offsets"
    shutil.copytree(backup_of, both)
    manifest = commands.checked(both)
    (both / "offsets.json").write_text(json.dumps({"group": "payouts", "committed": [], "topics": {}}))
    sealed_again(both, replace(manifest, offsets_at=manifest.snapshot_at, files={}))
    early = restored(empty, both, "--part", "offsets")
    assert early.exit_code == ExitCode.REFUSED
    assert "--part ledger" in early.stderr
    assert nothing_there(empty)
    later = replace(manifest, offsets_at=manifest.snapshot_at.replace(year=manifest.snapshot_at.year + 1), files={})
    sealed_again(both, later)
    refused = restored(empty, both)
    assert refused.exit_code == ExitCode.REFUSED
    assert "read after its ledger" in refused.stderr
    assert nothing_there(empty)


def test_a_dry_run_shows_the_money_and_changes_nothing(backup_of: Path, empty: str) -> None:
    """P9."""
    result = payouts(empty, "restore", str(backup_of), *REASON, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "1000 JPY" in result.stdout
    assert nothing_there(empty)


def test_a_backup_is_taken_while_the_ledger_is_written(source: str, empty: str, tmp_path: Path) -> None:
    """S4-31: one moment of it, whatever goes on: the manifest and the dump are of the same snapshot."""

    async def work() -> dict[str, Any]:
        async with await PostgresLedger.connect(source) as ledger:
            done = asyncio.Event()

            async def writing() -> None:
                number = 1000
                while not done.is_set():
                    number += 1
                    row = await inserted(ledger, number)
                    await begun(
                        ledger, row, f"w-{number}", **identity(await ledger.issue_identity_number()), attempts=1
                    )
                    await ledger.seals.seal(50)

            writer = asyncio.create_task(writing())
            told = await asyncio.to_thread(made, source, tmp_path / "backup")
            done.set()
            await writer
            return told

    told = asyncio.run(work())
    assert restored(empty, tmp_path / "backup").exit_code == 0, "compared with the manifest"
    assert fetch(empty, "SELECT count(*) FROM payouts") == [(told["payouts"],)]
    highest = (
        "SELECT coalesce(max(identity_number), 0) <= (SELECT last_value FROM payout_identity_numbers) FROM payouts"
    )
    assert fetch(empty, highest) == [(True,)], "no number of the copy is handed out again by it"


def test_without_the_programs_the_command_says_so(source: str, tmp_path: Path) -> None:
    result = payouts(source, "backup", str(tmp_path / "backup"), "--programs", str(tmp_path))
    assert result.exit_code == ExitCode.USAGE
    assert "pg_dump" in result.stderr
    assert not (tmp_path / "backup").exists()
    assert not (tmp_path / "backup.partial").exists()


def test_an_interrupted_restore_leaves_a_copy_that_pays_nobody(
    backup_of: Path, source: str, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L11: between any two steps the database is empty, or a copy, or without a mode: nothing begins in it."""
    _, published = with_ledger(source, lambda ledger: _audit(ledger))
    whole = commands.run_program
    for section in ("pre-data", "data", "post-data"):
        name = f"payouts_cut_{uuid.uuid4().hex[:8]}"

        def cut(path: Path, options: list[str], url: str, last: str = section) -> None:
            if f"--section={last}" in options:
                raise commands.refused("cut off here")
            whole(path, options, url)

        monkeypatch.setattr(commands, "run_program", cut)
        url = _beside(empty, name)
        assert restored(url, backup_of).exit_code == ExitCode.REFUSED
        tables = fetch(url, "SELECT count(*) FROM pg_tables WHERE tablename = 'restores'")[0][0]
        assert tables == (section != "pre-data")
        if tables:
            assert fetch(url, "SELECT count(*) FROM restores") == [(1,)]
        if section == "post-data":
            verdict, _ = with_ledger(url, lambda ledger: ledger.seals.examine(published))
            assert verdict is Verdict.RESTORED
            verdict, _ = with_ledger(url, lambda ledger: ledger.seals.examine(None))
            assert verdict is Verdict.TOPIC_LOST, "it has published, and with an empty topic it is not even known to be"


def _beside(url: str, name: str) -> str:
    async def work() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(work())
    return f"{url.rpartition('/')[0]}/{name}"
