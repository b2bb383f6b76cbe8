"""A PostgreSQL that is put back from a physical copy under a running pool: seen before anything begins (L10, L11)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ledger.adoption import HELD_AFTER_RESTORE, IDENTITY_MARGIN, Adopted, Overtaken
from ledger.guard import Published, Verdict
from ledger.interface import Inserted, LedgerUnavailable, LedgerUnverified, NotBegun
from ledger.migrate import migrate
from ledger.postgres import PostgresLedger
from ledger.seal_chain import Head, first_flaw, identity_position
from processors.payout.row import (
    LEDGER_RESTORED,
    CompensationAction,
    CompensationState,
    Executor,
    PayoutRow,
    PayoutState,
)
from sandbox.servers.postgres import PostgresServer
from tests.contract.ledger.ledger_harness import begun, committed, identity, inserted, sample_row, step

pytestmark = pytest.mark.servers

LINES_MAX = 500
BACK_SECONDS = 120.0
REASON = "INC-1: restored from the copy of 10:00"


class Audit:
    """Stands for `payout_audit`: what was confirmed, in order."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    async def publish(self, ledger: PostgresLedger, *, mark: bool = True) -> int:
        """Seal and publish everything that there is."""
        before = len(self.records)
        while await ledger.seals.seal(LINES_MAX):
            pass
        while batch := await ledger.seals.unpublished(LINES_MAX):
            self.records += batch
            if not mark:
                break
            await ledger.seals.published_up_to(batch[-1]["sequence"])
        return len(self.records) - before

    @property
    def last(self) -> Published | None:
        if not self.records:
            return None
        last = max(self.records, key=lambda record: record["sequence"])
        head = Head(last["sequence"], last["hash"])
        return Published(head, last["system_identifier"], last["timeline"], identity_position(last))


@pytest.fixture
def audit() -> Audit:
    """An empty topic."""
    return Audit()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that this file alone crashes and puts back."""
    postgres = PostgresServer()
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.stop()


@pytest.fixture
async def url(server: PostgresServer) -> str:
    """A migrated database of this test's own."""
    url = await asyncio.to_thread(server.create_database, f"restored_{uuid.uuid4().hex}")
    await migrate(url)
    return url


@pytest.fixture
async def ledger(url: str, audit: Audit) -> AsyncIterator[PostgresLedger]:
    """As a worker opens it, after its first look."""
    async with await PostgresLedger.connect(url, guarded=True) as opened:
        assert (await opened.seals.examine(audit.last))[0] is Verdict.KNOWN
        yield opened


async def back(ledger: PostgresLedger) -> None:
    """Until the same pool has reached the server again."""
    deadline = asyncio.get_running_loop().time() + BACK_SECONDS
    while True:
        try:
            await ledger.mode()
        except LedgerUnavailable:
            assert asyncio.get_running_loop().time() < deadline
        else:
            return


async def put_back(server: PostgresServer, copy: Any, ledger: PostgresLedger) -> None:
    await asyncio.to_thread(server.put_back, copy)
    await back(ledger)


async def first_intent(ledger: PostgresLedger, row: PayoutRow) -> PayoutRow:
    number = await ledger.issue_identity_number()
    return await begun(ledger, row, f"owner-{row.payout_id}", **identity(number), attempts=1)


async def adopt(ledger: PostgresLedger, audit: Audit, *, ended_unpaid: tuple[str, ...] = ()) -> Adopted:
    plan = await ledger.adoption.plan(audit.last, ended_unpaid=ended_unpaid)
    return await ledger.adoption.adopt(plan, operator="maria", reason=REASON, clock_skew_seconds=1.0)


async def test_l11_nothing_begins_before_somebody_has_looked(url: str, audit: Audit) -> None:
    """L11: a worker that has just connected gets no number, begins nothing, and moves no bookmark."""
    async with await PostgresLedger.connect(url, guarded=True) as ledger:
        row = await inserted(ledger)
        with pytest.raises(LedgerUnverified):
            await ledger.issue_identity_number()
        change = step(row, state=PayoutState.SUBMITTING, **identity(1))
        assert await ledger.begin(change, "owner", 60.0) is NotBegun.UNVERIFIED
        with pytest.raises(LedgerUnverified):
            await ledger.verified_up_to("payout_requests", 0, 10)
        assert await ledger.verified_offsets("payout_requests") == {}
        assert await ledger.seals.seal(LINES_MAX) == 0
        assert (await ledger.seals.examine(audit.last))[0] is Verdict.KNOWN
        assert isinstance(await ledger.begin(change, "owner", 60.0), PayoutRow)


async def test_l10_every_line_is_sealed_once_in_the_order_of_its_commit(
    ledger: PostgresLedger, audit: Audit, url: str
) -> None:
    """L10: ids commit out of order; a line whose transaction still runs is waited for, none is left out."""
    await inserted(ledger, 1)
    slow = await asyncpg.connect(url)
    note = "INSERT INTO history (actor, transition, to_state) VALUES ('late', 'mode_set', 'normal')"
    await slow.execute("BEGIN")
    await slow.execute(note)
    await inserted(ledger, 2)
    await audit.publish(ledger)
    assert [record["actor"] for record in audit.records].count("late") == 0
    await slow.execute("COMMIT")
    await inserted(ledger, 3)
    await audit.publish(ledger)
    lines = await slow.fetchval("SELECT count(*) FROM history")
    await slow.close()
    assert len(audit.records) == lines == len({record["sequence"] for record in audit.records})
    assert [record["actor"] for record in audit.records].count("late") == 1
    assert first_flaw(audit.records) is None


async def test_l10_many_sealers_make_one_chain(ledger: PostgresLedger, audit: Audit, url: str) -> None:
    """L10: under load, by four at once: no place twice, no line twice, nothing left out."""
    pools = [await PostgresLedger.connect(url) for _ in range(4)]
    done = asyncio.Event()

    async def sealing(pool: PostgresLedger) -> int:
        sealed = 0
        while not done.is_set():
            sealed += await pool.seals.seal(7)
        return sealed

    sealers = [asyncio.create_task(sealing(pool)) for pool in pools]
    await asyncio.gather(*(inserted(ledger, number) for number in range(200)))
    done.set()
    await asyncio.gather(*sealers)
    await audit.publish(ledger)
    for pool in pools:
        await pool.close()
    assert len(audit.records) == 200
    assert first_flaw(audit.records) is None


async def test_k2_l10_a_lost_publish_or_a_lost_mark_is_made_good_in_order(ledger: PostgresLedger, audit: Audit) -> None:
    """K1, K2, L10."""
    await inserted(ledger, 1)
    await audit.publish(ledger, mark=False)
    assert len(audit.records) == 1
    await inserted(ledger, 2)
    await audit.publish(ledger)
    assert [record["sequence"] for record in audit.records] == [1, 1, 2]
    assert first_flaw(audit.records) is None


async def test_l10_a_line_that_was_changed_behind_our_back_shows(
    ledger: PostgresLedger, audit: Audit, url: str
) -> None:
    """L10: the owner of the table can switch the trigger off; the seal still tells."""
    await inserted(ledger, 1)
    await audit.publish(ledger)
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER TABLE history DISABLE TRIGGER USER; UPDATE history SET actor = 'nobody'")
    await connection.close()
    ((record, sealed_hash),) = await ledger.seals.sealed_after(0, LINES_MAX)
    assert record["hash"] != sealed_hash


async def test_l11_a_crash_is_looked_at_and_known(server: PostgresServer, ledger: PostgresLedger, audit: Audit) -> None:
    """L11: nothing is lost by it, so nothing waits longer than the look."""
    await first_intent(ledger, await inserted(ledger))
    await audit.publish(ledger)
    server.kill()
    await asyncio.to_thread(server.restart)
    await back(ledger)
    assert not ledger.seals.is_trusted
    with pytest.raises(LedgerUnverified):
        await ledger.issue_identity_number()
    assert (await ledger.seals.examine(audit.last))[0] is Verdict.KNOWN
    assert await ledger.issue_identity_number() > 1, "a crash leaves numbers out, and gives none twice"


async def test_l11_a_copy_put_back_under_a_pool_begins_nothing_until_it_is_adopted(
    server: PostgresServer, ledger: PostgresLedger, audit: Audit
) -> None:
    """L11, S1, L12: no begin, no number twice, what may have gone further is held, what comes in again is held."""
    waiting, refused_once = await inserted(ledger, 1), await inserted(ledger, 2)
    refused_once = await committed(ledger, step(refused_once, state=PayoutState.CLEARED, **identity(900)))
    owed = await inserted(ledger, 3)
    owed = await committed(
        ledger,
        step(
            owed,
            state=PayoutState.DECLINED,
            compensation=CompensationState.REQUIRED,
            compensation_executor=Executor.PROCESSOR,
            compensation_action=CompensationAction.REVERSE_FUNDS,
        ),
    )
    under_way, given_up = await first_intent(ledger, await inserted(ledger, 4)), await inserted(ledger, 5)
    given_up = await first_intent(ledger, given_up)
    paid_before = await committed(ledger, step(await inserted(ledger, 6), state=PayoutState.PAID))
    await audit.publish(ledger)
    seen_before = audit.last
    copy = await asyncio.to_thread(server.copy)
    in_hand = await first_intent(ledger, waiting)  # paid in the lost time
    lost_request = sample_row(7, received_at=datetime.now(UTC))
    await ledger.insert(lost_request, "intake")
    issued = [await ledger.issue_identity_number() for _ in range(20)]
    await audit.publish(ledger)
    published = list(audit.records)

    before = await ledger.seals.incarnation()
    await put_back(server, copy, ledger)
    assert await ledger.read("payout-00000007") is None, "the copy has forgotten"
    assert (await ledger.seals.examine(seen_before, incarnation=before))[0] is Verdict.NOT_LOOKED_AT
    change = step(waiting, state=PayoutState.SUBMITTING, **identity(5_000))
    assert await ledger.begin(change, "owner", 60.0) is NotBegun.UNVERIFIED
    verdict, _ = await ledger.seals.examine(audit.last)
    assert verdict is Verdict.BEHIND
    assert await ledger.begin(change, "owner", 60.0) is NotBegun.UNVERIFIED
    with pytest.raises(LedgerUnverified):
        await ledger.issue_identity_number()
    assert await audit.publish(ledger) == 0, "a copy that is not known is not sealed"

    done = await adopt(ledger, audit, ended_unpaid=(given_up.payout_id,))
    assert done.held == 4
    assert done.sequence == len(published) + 1
    assert (await ledger.seals.examine(audit.last))[0] is Verdict.KNOWN
    await audit.publish(ledger)
    assert first_flaw(audit.records) is None, "one chain, over what was lost"
    assert (audit.records[len(published)]["action"], audit.records[len(published)]["reason"]) == (
        "ledger_adopted",
        REASON,
    )
    number = await ledger.issue_identity_number()
    assert number > max(*issued, in_hand.identity_number or 0) + IDENTITY_MARGIN - 1
    for row in (waiting, refused_once, owed, given_up):
        now = await ledger.read(row.payout_id)
        assert now is not None
        assert (now.held, now.hold_reason, now.version) == (True, LEDGER_RESTORED, row.version + 1)
        assert (await ledger.history(row.payout_id))[-1].transition == HELD_AFTER_RESTORE
    for row in (under_way, paid_before):
        assert await ledger.read(row.payout_id) == row, "keeps its identity, and is asked about"
    again = await ledger.insert(lost_request, "intake")
    assert isinstance(again, Inserted)
    assert (again.row.held, again.row.hold_reason) == (True, LEDGER_RESTORED)
    since = done.window_to + timedelta(seconds=1)
    later = sample_row(8, received_at=since, requested_at=since)
    fresh = await ledger.insert(later, "intake")
    assert isinstance(fresh, Inserted)
    assert not fresh.row.held
    assert isinstance(await first_intent(ledger, fresh.row), PayoutRow)


async def test_l11_what_nobody_had_sealed_is_missed_by_the_worker_that_began_it(
    server: PostgresServer, ledger: PostgresLedger, audit: Audit
) -> None:
    """L11: the copy has everything that was published; the worker remembers more."""
    row = await inserted(ledger)
    await audit.publish(ledger)
    copy = await asyncio.to_thread(server.copy)
    await first_intent(ledger, row)
    await put_back(server, copy, ledger)
    assert (await ledger.seals.examine(audit.last))[0] is Verdict.FORGOTTEN
    assert await ledger.begin(step(row, state=PayoutState.SUBMITTING), "owner", 60.0) is NotBegun.UNVERIFIED
    await adopt(ledger, audit)
    assert (await ledger.seals.examine(audit.last))[0] is Verdict.KNOWN
    await audit.publish(ledger)
    assert first_flaw(audit.records) is None


async def test_l11_of_two_operators_one_adopts_and_the_other_is_told(
    server: PostgresServer, ledger: PostgresLedger, audit: Audit
) -> None:
    """L11, P9: and a second run finds nothing to do."""
    copy = await asyncio.to_thread(server.copy)
    await inserted(ledger)
    await audit.publish(ledger)
    await put_back(server, copy, ledger)
    plans = [await ledger.adoption.plan(audit.last) for _ in range(2)]
    ends = await asyncio.gather(
        *(
            ledger.adoption.adopt(plan, operator=name, reason=REASON, clock_skew_seconds=1.0)
            for plan, name in zip(plans, ("maria", "jan"), strict=True)
        ),
        return_exceptions=True,
    )
    assert sorted(type(end).__name__ for end in ends) == [Adopted.__name__, Overtaken.__name__]
    assert (await ledger.adoption.plan(audit.last)).verdict is Verdict.KNOWN


async def test_l11_the_old_database_is_refused_once_its_copy_was_adopted(
    server: PostgresServer, ledger: PostgresLedger, audit: Audit
) -> None:
    """L11: it comes back by mistake, with everything that it had published and nothing of the adoption."""
    await audit.publish(ledger)
    copy = await asyncio.to_thread(server.copy)
    await inserted(ledger)
    await audit.publish(ledger)
    original = await asyncio.to_thread(server.copy)
    await put_back(server, copy, ledger)
    await adopt(ledger, audit)
    assert (await ledger.seals.examine(audit.last))[0] is Verdict.KNOWN
    await audit.publish(ledger)
    await put_back(server, original, ledger)
    assert (await ledger.seals.examine(audit.last))[0] is Verdict.BEHIND


async def test_l11_a_lost_topic_is_refused_until_it_is_adopted_and_then_filled_again(
    ledger: PostgresLedger, audit: Audit
) -> None:
    """L11."""
    await inserted(ledger)
    await audit.publish(ledger)
    audit.records.clear()
    assert (await ledger.seals.examine(audit.last))[0] is Verdict.TOPIC_LOST
    await adopt(ledger, audit)
    assert (await ledger.seals.examine(audit.last))[0] is Verdict.KNOWN
    await audit.publish(ledger)
    assert [record["action"] for record in audit.records] == ["received", "ledger_adopted", HELD_AFTER_RESTORE]
    assert first_flaw(audit.records) is None


@pytest.mark.parametrize("table", ["seals", "adoptions", "lost_payouts", "seal_head"])
async def test_l10_l11_what_was_sealed_or_adopted_stays(url: str, table: str) -> None:
    """L1, L10: the database itself refuses."""
    connection = await asyncpg.connect(url)
    try:
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await connection.execute(statement)
    finally:
        await connection.close()
