"""The schema on real PostgreSQL: migrations, types, and what the tables themselves refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from ledger import migrate as migration
from ledger.interface import LedgerUnavailable
from ledger.migrate import VERSION_TABLE, migrate, migration_status
from ledger.postgres import PostgresLedger
from ledger.statements import LOCK_SPACE, MIGRATION_LOCK
from ledger.values import COLUMNS, column_values, sql_type
from processors.payout.modes import Mode
from processors.payout.row import DestinationKind, PayoutState
from tests.contract.ledger.ledger_harness import PostgresHarness, committed, identity, inserted, sample_row, step

pytestmark = pytest.mark.servers

NEW_IN_0004 = ("destination_kind", "returned_at", "returned_version", "returned_reason_code")
NEW_IN_0011 = ("traceparent",)
TYPE_NAMES = {"timestamp with time zone": "timestamptz"}


@pytest.fixture
async def harness(shared_ledger_url: str) -> AsyncIterator[PostgresHarness]:
    """A ledger in an emptied database, and a plain connection to it."""
    opened = await PostgresHarness.open(shared_ledger_url)
    yield opened
    await opened.close()


async def test_migrating_from_empty_twice_is_a_no_op_the_second_time(database_url: str) -> None:
    empty = await migration_status(database_url)
    assert (empty.current, empty.is_current) == (None, False)
    first = await migrate(database_url)
    assert (first.before, first.after, first.applied) == (None, empty.head, empty.pending)
    before = await shape(database_url)
    second = await migrate(database_url)
    assert (second.before, second.after, second.applied) == (empty.head, empty.head, ())
    assert await shape(database_url) == before
    assert (await migration_status(database_url)).is_current


async def shape(database_url: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(database_url)
    try:
        columns = await connection.fetch(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = 'public' ORDER BY 1, 2"
        )
        modes = await connection.fetch("SELECT * FROM modes")
        return [tuple(row) for row in (*columns, *modes)]
    finally:
        await connection.close()


async def test_many_migrators_at_once_apply_each_revision_once(database_url: str) -> None:
    pending = (await migration_status(database_url)).pending
    results = await asyncio.gather(*(migrate(database_url) for _ in range(4)))
    assert sorted(revision for result in results for revision in result.applied) == sorted(pending)
    assert {result.after for result in results} == {(await migration_status(database_url)).head}


async def test_a_second_migrator_waits_a_bounded_time(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "MIGRATOR_WAIT_SECONDS", 1)
    rival = await asyncpg.connect(database_url)
    await rival.execute(f"SELECT pg_advisory_lock({LOCK_SPACE}, {MIGRATION_LOCK})")
    with pytest.raises(LedgerUnavailable, match="run it again"):
        await migrate(database_url)
    await rival.close()
    assert (await migration_status(database_url)).current is None
    assert (await migrate(database_url)).applied


async def test_a_migration_that_fails_half_way_leaves_nothing(database_url: str) -> None:
    rival = await asyncpg.connect(database_url)
    await rival.execute("CREATE TABLE intake (somebody_elses integer)")
    with pytest.raises(LedgerUnavailable):
        await migrate(database_url)
    assert await rival.fetchval("SELECT to_regclass('payouts')") is None
    await rival.execute("DROP TABLE intake")
    await rival.close()
    assert (await migrate(database_url)).applied


async def test_a_database_of_a_newer_program_is_left_alone(ledger_url: str) -> None:
    connection = await asyncpg.connect(ledger_url)
    await connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    await connection.close()
    assert (await migration_status(ledger_url)).ahead
    assert (await migrate(ledger_url)).applied == ()


async def test_s3_rows_from_before_the_account_rail_go_to_a_card_and_came_back_never(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revision 0004 on a database with rows: nothing of them is asked about, or refused, by the other rail's rules."""
    pending = (await migration_status(database_url)).pending
    everything = migration._statements

    def until_0003(current: str | None) -> list[str]:
        statements = list(everything(current))
        last = next(number for number, text in enumerate(statements) if "SET version_num='0003'" in text)
        return [*statements[: last + 1], "COMMIT"]

    monkeypatch.setattr(migration, "_statements", until_0003)
    await migrate(database_url)
    monkeypatch.undo()
    connection = await asyncpg.connect(database_url)
    old = [name for name in COLUMNS if name not in (*NEW_IN_0004, *NEW_IN_0011)]
    values = ", ".join(f"${number}" for number in range(1, len(old) + 1))
    row = column_values(sample_row(1, state=PayoutState.UNKNOWN, attempts=1, ambiguous=True, **identity(1)), old)
    await connection.execute(f"INSERT INTO payouts ({', '.join(old)}) VALUES ({values})", *row)
    assert (await migrate(database_url)).applied == pending[pending.index("0004") :]
    await connection.close()
    async with await PostgresLedger.connect(database_url) as ledger:
        kept = await ledger.read("payout-00000001")
        assert kept is not None
        assert (kept.destination_kind, kept.is_account_payout) == (DestinationKind.CARD, False)
        assert (kept.returned_at, kept.returned_version, kept.returned_reason_code) == (None, 0, None)
        assert (await committed(ledger, step(kept, "resend", attempts=2))).attempts == 2


async def test_an_absent_database_is_reported_without_its_password() -> None:
    with pytest.raises(LedgerUnavailable) as caught:
        await migrate("postgresql://payouts:needle-password@127.0.0.1:1/payouts")
    assert "needle" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


async def test_an_unmigrated_database_says_what_to_do(database_url: str) -> None:
    async with await PostgresLedger.connect(database_url) as ledger:
        with pytest.raises(LedgerUnavailable, match="payouts ledger migrate"):
            await inserted(ledger)
        with pytest.raises(LedgerUnavailable, match="payouts ledger migrate"):
            await ledger.mode()


async def test_l2_the_table_has_the_rows_columns_with_their_types(harness: PostgresHarness) -> None:
    found = await harness.connection.fetch(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'payouts'"
    )
    types = {name: TYPE_NAMES.get(kind, kind) for name, kind in found}
    assert types == {column: sql_type(column) for column in COLUMNS} | {"updated_at": "timestamptz"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET actor = 'forged'",
        "UPDATE history SET actor = actor WHERE false",
        "DELETE FROM history",
        "TRUNCATE history",
        "DELETE FROM payouts",
        "TRUNCATE payouts CASCADE",
        "UPDATE receipts SET payout_id = 'other'",
        "DELETE FROM receipts",
        "TRUNCATE receipts",
        "UPDATE card_pulls SET payout_id = 'other'",
        "DELETE FROM card_pulls",
        "TRUNCATE card_pulls",
        "DELETE FROM modes",
        "TRUNCATE modes",
    ],
)
async def test_l1_l7_l10_what_was_recorded_stays(harness: PostgresHarness, statement: str) -> None:
    ledger = harness.ledger
    row = await inserted(ledger)
    before = await ledger.history(row.payout_id)
    with pytest.raises(asyncpg.RestrictViolationError, match="refused"):
        await harness.connection.execute(statement)
    assert await ledger.history(row.payout_id) == before
    assert await ledger.read(row.payout_id) == row
    assert (await ledger.mode()).mode is Mode.NORMAL


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE payouts SET state = 'LOST'", "payouts_state_word"),
        ("UPDATE payouts SET compensation = 'LOST'", "payouts_compensation_word"),
        ("UPDATE payouts SET funding_kind = 'LOST'", "payouts_funding_kind_word"),
        ("UPDATE payouts SET compensation_action = 'LOST'", "payouts_compensation_action_word"),
        ("UPDATE payouts SET compensation_executor = 'LOST'", "payouts_compensation_executor_word"),
        ("UPDATE payouts SET lease_owner = 'me'", "payouts_lease_whole"),
        ("UPDATE payouts SET version = 0", "payouts_version_counts"),
        ("UPDATE modes SET mode = 'lost'", "modes_mode_word"),
        ("UPDATE modes SET singleton = false", "modes_one_row"),
        ("INSERT INTO modes (mode, operator, reason) VALUES ('normal', 'a', 'b')", "modes_pkey"),
        ("INSERT INTO history (payout_id, actor, transition, to_state) VALUES ('p', 'a', 't', 's')", "history_payout"),
        (
            "INSERT INTO history (payout_id, version, actor, transition, to_state) "
            "SELECT payout_id, version, 'a', 't', 's' FROM payouts",
            "history_payout_id_version_key",
        ),
        ("UPDATE payouts SET identity_number = 2", "payouts_identity_kept"),
        (
            "INSERT INTO receipts (originator_id, kind, reference, payout_id) "
            "SELECT originator_id, funding_kind, 'another', payout_id FROM payouts",
            "receipts_payout_id_key",
        ),
        ("INSERT INTO card_pulls (pull, payout_id) SELECT pull, payout_id FROM card_pulls LIMIT 1", "card_pulls_pkey"),
    ],
)
async def test_the_tables_refuse_what_no_statement_of_ours_writes(
    harness: PostgresHarness, statement: str, constraint: str
) -> None:
    """L2, L7, L9, S1, also against a hand in the database."""
    await committed(harness.ledger, step(await inserted(harness.ledger), **identity(1)))
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
        await harness.connection.execute(statement)
    assert str(caught.value.constraint_name).startswith(constraint)


async def test_l10_an_operators_mode_is_in_the_same_history(harness: PostgresHarness) -> None:
    await harness.ledger.set_mode(Mode.HALTED, "operator-1", "incident 7", 1)
    entry = await harness.connection.fetchrow(
        "SELECT actor, transition, from_state, to_state, detail->>'reason' AS reason FROM history "
        "WHERE payout_id IS NULL"
    )
    assert tuple(entry) == ("operator-1", "mode_set", "normal", "halted", "incident 7")


@pytest.mark.parametrize(
    ("question", "index"),
    [
        (
            "SELECT payout_id FROM payouts WHERE due_at <= statement_timestamp() AND NOT held "
            "ORDER BY due_at, payout_id LIMIT 10",
            "payouts_due",
        ),
        (
            "SELECT payout_id FROM payouts WHERE announced_version < announce_version "
            "AND updated_at <= statement_timestamp() ORDER BY updated_at, payout_id LIMIT 10",
            "payouts_unannounced",
        ),
        (
            "SELECT payout_id FROM payouts AS p WHERE announced_version < announce_version AND (updated_at, payout_id) "
            "> (COALESCE((SELECT l.updated_at FROM payouts AS l WHERE l.payout_id = 'x'), '-infinity'), 'x') "
            "ORDER BY updated_at, payout_id LIMIT 10",
            "payouts_unannounced",
        ),
        ("SELECT payout_id FROM payouts WHERE lease_until > statement_timestamp()", "payouts_leased"),
    ],
)
async def test_k2_k4_l9_what_is_asked_again_and_again_has_its_index(
    harness: PostgresHarness, question: str, index: str
) -> None:
    connection = harness.connection
    await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    plan = await connection.fetch(f"EXPLAIN {question}")
    assert index in "\n".join(line[0] for line in plan)
    assert "Sort" not in "\n".join(line[0] for line in plan)
