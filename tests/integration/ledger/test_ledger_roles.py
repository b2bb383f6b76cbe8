"""Least privilege on real PostgreSQL: the whole contract as a worker's login, and what each login is refused."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from ledger import reconciliations, roles
from ledger.interface import LedgerUnavailable, ModeRecord
from ledger.migrate import migrate, migration_status, migrator
from ledger.migrations.versions.r0013_lost_payouts import RIGHTS
from ledger.operator_notes import BACKUP_BEGUN, note
from ledger.postgres import PostgresLedger
from ledger.roles import RoleNames, grant_roles, look, role_statements
from processors.payout.modes import Mode
from processors.payout.row import FIXED_COLUMNS, MUTABLE_COLUMNS
from sandbox.servers.postgres import PostgresServer
from tests.contract.ledger import test_ledger_contract as contract
from tests.contract.ledger.ledger_harness import PostgresHarness, begun, committed, identity, inserted, sealed, step

pytestmark = pytest.mark.servers

DETAIL = json.dumps({"reason": "a test"})
REFUSED = asyncpg.InsufficientPrivilegeError

# The contract's own tests, every one of them, run here again with the fixture below: as a worker's login.
globals().update({name: value for name, value in vars(contract).items() if name.startswith("test_")})


class Logins:
    """One migrated database whose tables belong to a login that is no superuser, and a login for each role."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.run = uuid.uuid4().hex[:8]
        self.names = RoleNames(f"t{self.run}")
        self.database = f"payouts_roles_{self.run}"
        self.admin_url = server.create_database(self.database)

    def url(self, login: str) -> str:
        """The database's address as this login."""
        parts = urlsplit(self.admin_url)
        return urlunsplit(parts._replace(netloc=f"l{self.run}_{login}:secret@{parts.hostname}:{parts.port}"))

    async def make(self) -> None:
        """The owner migrates and, because he may not create roles, somebody who may gives the rights."""
        admin = await asyncpg.connect(self.admin_url)
        for login in ("owner", "worker", "operator", "auditor", "nobody"):
            await admin.execute(f"CREATE ROLE l{self.run}_{login} LOGIN PASSWORD 'secret'")
        await admin.execute(f"ALTER SCHEMA public OWNER TO l{self.run}_owner")
        await admin.execute(f"ALTER DATABASE {self.database} OWNER TO l{self.run}_owner")
        await migrate(self.url("owner"))
        await grant_roles(self.admin_url, self.names, operator="maria", detail=DETAIL)
        for login, role in zip(("worker", "operator", "auditor"), self.names.all, strict=True):
            await admin.execute(f"GRANT {role} TO l{self.run}_{login}")
        await admin.close()

    def drop(self) -> None:
        """Everything, the roles of the whole cluster too."""
        self.server.drop_database(self.database)
        asyncio.run(self._drop_roles())

    async def _drop_roles(self) -> None:
        admin = await asyncpg.connect(self.server.url)
        found = await admin.fetch("SELECT rolname FROM pg_roles WHERE rolname ~ $1", f"^[lt]{self.run}_")
        for role in sorted(record["rolname"] for record in found):
            await admin.execute(f"DROP ROLE {role}")
        await admin.close()


class AsWorker(PostgresHarness):
    """The ledger of a worker's login. An operator's sets modes; the tests look, age rows and adopt as the owner."""

    owners: PostgresLedger
    operators: PostgresLedger

    @classmethod
    async def with_logins(cls, logins: Logins) -> AsWorker:
        """Emptied, and connected as three logins."""
        opened = await cls.open(logins.url("owner"))
        opened.owners = opened.ledger
        opened.operators = await PostgresLedger.connect(logins.url("operator"), pool_min=1, pool_max=2)
        opened.ledger = await PostgresLedger.connect(logins.url("worker"), pool_min=1, pool_max=10)
        opened.ledger.set_mode = opened.operators.set_mode  # type: ignore[method-assign]
        return opened

    async def adopt(self, told_of: Collection[str] = ()) -> datetime:
        workers, self.ledger = self.ledger, self.owners
        try:
            return await super().adopt(told_of)
        finally:
            self.ledger = workers

    async def close(self) -> None:
        await self.operators.close()
        await self.owners.close()
        await super().close()


@pytest.fixture(scope="module")
def logins(postgres_server: PostgresServer) -> Iterator[Logins]:
    """Roles of this file alone."""
    made = Logins(postgres_server)
    try:
        asyncio.run(made.make())
        yield made
    finally:
        made.drop()


@pytest.fixture
async def harness(logins: Logins) -> AsyncIterator[AsWorker]:
    """What the contract's tests are given here."""
    opened = await AsWorker.with_logins(logins)
    yield opened
    await opened.close()


# What no worker may do: the triggers would refuse most of it, too, but an owner could switch them off.
OF_NO_WORKER = (
    "DELETE FROM payouts",
    "TRUNCATE payouts CASCADE",
    "UPDATE payouts SET amount_minor = 1",
    "UPDATE payouts SET funding_captured = false",
    "UPDATE payouts SET payout_id = 'another'",
    "UPDATE payouts SET sealed_request = ''",
    "DELETE FROM receipts",
    "UPDATE receipts SET payout_id = 'another'",
    "DELETE FROM card_pulls",
    "DELETE FROM history",
    "UPDATE history SET actor = 'nobody'",
    "INSERT INTO history (actor, transition, to_state, at) VALUES ('a', 'b', 'c', '2020-01-01')",
    "INSERT INTO history (actor, transition, to_state, written_by) VALUES ('a', 'b', 'c', '1')",
    "DELETE FROM seals",
    "UPDATE seals SET hash = previous_hash",
    "DELETE FROM seal_head",
    "DELETE FROM adoptions",
    "INSERT INTO adoptions (sequence) VALUES (1)",
    "DELETE FROM lost_payouts",
    "INSERT INTO lost_payouts (payout_id, adoption_sequence) VALUES ('pay-00000001', 1)",
    "UPDATE modes SET mode = 'normal'",
    "DELETE FROM modes",
    "DELETE FROM intake",
    "UPDATE intake SET disposition = 'HANDLED'",
    "INSERT INTO visa_orders (operator, reason, action) VALUES ('a', 'b', 'reload')",
    "SELECT setval('payout_identity_numbers', 1)",
    "ALTER SEQUENCE payout_identity_numbers RESTART",
    "ALTER TABLE payouts DISABLE TRIGGER ALL",
    "ALTER TABLE history DISABLE TRIGGER history_append_only",
    "ALTER TABLE payouts DROP CONSTRAINT payouts_lease_whole",
    "ALTER TABLE payouts ADD COLUMN another text",
    "DROP TRIGGER payouts_never_deleted ON payouts",
    "DROP INDEX payouts_sender_reference_key",
    "DROP TABLE history",
    "CREATE TABLE payouts_too (payout_id text)",
    "CREATE TEMPORARY TABLE payouts (payout_id text)",
    "CREATE OR REPLACE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE sql AS 'SELECT 1'",
    "SET session_replication_role = replica",
    "UPDATE ledger_schema_version SET version_num = '0001'",
)
NOT_OF_AN_OPERATOR = (
    *(one for one in OF_NO_WORKER if "modes SET" not in one and "INTO visa_orders" not in one),
    "SELECT nextval('payout_identity_numbers')",
    "INSERT INTO seals (sequence) VALUES (1)",
    "UPDATE seal_head SET published_sequence = 0",
    "INSERT INTO payouts (payout_id) VALUES ('payout-00000001')",
    "UPDATE payouts SET announced_version = 9",
)
NOT_OF_AN_AUDITOR = (
    *(one for one in NOT_OF_AN_OPERATOR),
    "UPDATE payouts SET held = true",
    "UPDATE modes SET mode = 'normal'",
    "INSERT INTO visa_orders (operator, reason, action) VALUES ('a', 'b', 'reload')",
    "DELETE FROM visa_workers",
    "SELECT payout_id FROM payouts FOR UPDATE",
)


async def refused(url: str, statement: str) -> bool:
    """Whether PostgreSQL refuses it for want of a right, before any trigger or constraint is asked."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    except REFUSED:
        return True
    except asyncpg.PostgresError:
        return False
    else:
        return False
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("login", "statement"),
    [
        *(("worker", statement) for statement in OF_NO_WORKER),
        *(("operator", statement) for statement in NOT_OF_AN_OPERATOR),
        *(("auditor", statement) for statement in NOT_OF_AN_AUDITOR),
        ("nobody", "SELECT payout_id FROM payouts"),
        ("nobody", "CREATE TABLE somebody_elses (a text)"),
    ],
)
async def test_l1_l10_what_a_login_is_refused(harness: AsWorker, logins: Logins, login: str, statement: str) -> None:
    """Issue 7, L1, L7, L10, S1: for want of a right, not by luck; and the rows are as they were."""
    row = await inserted(harness.ledger)
    assert await refused(logins.url(login), statement), statement
    assert await harness.ledger.read(row.payout_id) == row


async def test_every_one_of_these_statements_is_the_owners_to_run_or_the_triggers_to_refuse(logins: Logins) -> None:
    """That the refusals above come from missing rights: the owner is not refused a single one for that."""
    # No superuser: `session_replication_role` and another's function in a schema that he owns are beside the point.
    for statement in OF_NO_WORKER:
        if "session_replication_role" in statement or statement.startswith(("ALTER", "DROP", "CREATE", "SELECT set")):
            continue
        connection = await asyncpg.connect(logins.url("owner"))
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError:  # pragma: no cover - the failure
            pytest.fail(statement)
        except asyncpg.PostgresError:
            pass
        finally:
            await transaction.rollback()
            await connection.close()


async def test_an_auditor_reads_every_table_and_the_position_of_the_numbers(logins: Logins) -> None:
    connection = await asyncpg.connect(logins.url("auditor"))
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for record in tables:
        await connection.fetch(f"SELECT * FROM {record['tablename']} LIMIT 1")
    assert await connection.fetchval("SELECT last_value FROM payout_identity_numbers") >= 1
    await connection.close()
    assert len(tables) >= 13
    # Data leave by his hands: he writes down that they did, under the server's own time.
    await note(logins.url("auditor"), "audrey", BACKUP_BEGUN, {"reason": "AUD-7"})


async def test_an_operator_holds_a_payout_and_sets_the_mode(harness: AsWorker) -> None:
    """L2, L9, L12: with the ledger's own statements."""
    row = await inserted(harness.ledger)
    held = await committed(harness.operators, step(row, "held", held=True, hold_reason="OPERATOR: a test"))
    assert (await harness.operators.history(row.payout_id))[-1].transition == "held"
    assert (await harness.ledger.read(row.payout_id)) == held
    record: ModeRecord = await harness.operators.set_mode(Mode.HALTED, "maria", "a test", 0.0)
    assert record.mode is Mode.HALTED
    await harness.operators.set_mode(Mode.NORMAL, "maria", "a test", 0.0)


async def test_a_worker_seals_publishes_and_reports(harness: AsWorker) -> None:
    """L10, and what keeps the connection to Visa: none of it is in the contract."""
    await begun(
        harness.ledger, await inserted(harness.ledger), **identity(await harness.ledger.issue_identity_number())
    )
    await sealed(harness.ledger, 2)
    records = await harness.ledger.seals.unpublished(500)
    await harness.ledger.seals.published_up_to(records[-1]["sequence"])
    assert await harness.ledger.seals.unpublished(500) == []
    orders = harness.ledger.visa_orders
    await orders.report("worker-1", await orders.newest(), None, None, {"a": 1})
    assert [report.worker for report in await orders.workers(60.0)] == ["worker-1"]
    await orders.leave("worker-1")
    assert await orders.workers(60.0) == []


async def test_only_the_owner_migrates_and_adopts(harness: AsWorker, logins: Logins) -> None:
    """L11: a login that pays cannot decide that a copy is the database that we know."""
    for login in ("worker", "operator", "auditor"):
        assert (await migration_status(logins.url(login))).is_current, "looking is allowed"
    plan = await harness.ledger.adoption.plan(None)
    with pytest.raises(LedgerUnavailable, match="InsufficientPrivilege"):
        await harness.ledger.adoption.adopt(plan, operator="maria", reason="a test", clock_skew_seconds=0.0)
    plan = await harness.operators.adoption.plan(None)
    with pytest.raises(LedgerUnavailable, match="InsufficientPrivilege"):
        await harness.operators.adoption.adopt(plan, operator="maria", reason="a test", clock_skew_seconds=0.0)


async def test_a_member_of_the_owner_migrates_as_the_owner(logins: Logins) -> None:
    """Two people who migrate under their own logins must not make tables that the other one cannot change."""
    admin = await asyncpg.connect(logins.admin_url)
    await admin.execute(f"CREATE ROLE l{logins.run}_second LOGIN PASSWORD 'secret' IN ROLE l{logins.run}_owner")
    async with migrator(logins.url("second")) as connection:
        assert await connection.fetchval("SELECT current_user") == f"l{logins.run}_owner"
    async with migrator(logins.admin_url) as connection:
        assert await connection.fetchval("SELECT current_user") == f"l{logins.run}_owner"
    async with migrator(logins.url("worker")) as connection:
        assert await connection.fetchval("SELECT current_user") == f"l{logins.run}_worker"
    assert (await migrate(logins.url("second"))).applied == ()
    await admin.close()


async def test_given_again_the_rights_are_the_same_and_what_was_given_besides_is_gone(logins: Logins) -> None:
    """A right that somebody gave in a night's trouble does not stay for ever."""
    admin = await asyncpg.connect(logins.admin_url)
    before = await _rights(admin)
    await admin.execute(f"GRANT DELETE, UPDATE ON payouts TO {logins.names.worker}")
    await admin.execute("GRANT SELECT ON payouts TO PUBLIC")
    assert await _rights(admin) != before
    await asyncio.gather(
        *(grant_roles(logins.admin_url, logins.names, operator="maria", detail=DETAIL) for _ in range(3))
    )
    assert await _rights(admin) == before
    noted = await admin.fetch("SELECT actor, transition FROM history WHERE transition = 'roles_granted'")
    assert {(record["actor"], record["transition"]) for record in noted} == {("maria", "roles_granted")}
    await admin.close()


async def _rights(connection: Any) -> set[tuple[Any, ...]]:
    tables = await connection.fetch(
        "SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants "
        "WHERE table_schema = 'public' UNION ALL "
        "SELECT grantee, table_name || '.' || column_name, privilege_type FROM information_schema.column_privileges "
        "WHERE table_schema = 'public'"
    )
    return {tuple(record) for record in tables}


async def test_every_table_has_its_rights(logins: Logins) -> None:
    """A migration that makes a table says who may do what with it: here, or the next release's workers stand still."""
    found = await look(logins.admin_url, logins.names)
    assert found is not None
    assert found.unknown_tables == []
    assert found.missing_tables == []
    assert set(roles.STEP_COLUMNS) & set(FIXED_COLUMNS) == set()
    assert set(MUTABLE_COLUMNS) <= set(roles.STEP_COLUMNS)


async def test_a_name_that_somebody_chose_is_quoted(logins: Logins) -> None:
    found = await look(logins.admin_url, logins.names)
    assert found is not None
    hostile = role_statements(logins.names, replace(found, database='pay"; DROP TABLE history; --'))
    assert any('"pay""; DROP TABLE history; --"' in statement for statement in hostile)
    for prefix in ("", "Payouts", "pay-outs", 'p"', "1p", "p" * 41):
        with pytest.raises(ValueError, match="prefix"):
            RoleNames(prefix)


async def test_e6_a_worker_counts_exceptions_that_an_operator_recorded(harness: AsWorker, logins: Logins) -> None:
    """E6, S4-30: each with its own login; a worker writes no run and closes no exception."""
    now = datetime.now(UTC)
    run = reconciliations.Run(
        now.date() - timedelta(days=1), "UTC", now, "maria", reconciliations.VisaSource.NONE, 4, 1, 0, {}
    )
    found = [reconciliations.Found("RESULT_MISSING", "pay-1", None, None, "no event")]
    assert await reconciliations.may_record(logins.url("operator"))
    assert not await reconciliations.may_record(logins.url("worker"))
    await reconciliations.record(logins.url("operator"), run, found, [])
    look = await harness.ledger.figures.look(patience_seconds=900, resend_limit_seconds=82_800)
    assert (look.reconciliation.matched, look.reconciliation.open_by_kind["RESULT_MISSING"]) == (4, 1)
    for statement in (
        "INSERT INTO reconciliations (operator) VALUES ('a')",
        "UPDATE reconciliation_exceptions SET gone_at = now()",
        "DELETE FROM reconciliation_exceptions",
    ):
        assert await refused(logins.url("worker"), statement), statement


async def test_l11_a_worker_may_insert_before_the_roles_are_given_again(harness: AsWorker, logins: Logins) -> None:
    """Every insert asks the table that a migration made: who reads adoptions reads it from the first moment."""
    admin = await asyncpg.connect(logins.url("owner"))
    try:
        await admin.execute(f"REVOKE ALL ON lost_payouts FROM {', '.join(logins.names.all)}")
        assert await refused(logins.url("worker"), "SELECT FROM lost_payouts")
        await admin.execute(RIGHTS)
    finally:
        await admin.close()
    assert (await inserted(harness.ledger)).held is False
    assert await refused(logins.url("worker"), "DELETE FROM lost_payouts")
