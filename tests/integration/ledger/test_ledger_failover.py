"""L4 with a synchronous standby: what it has not confirmed is unknown, what was confirmed survives its primary."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from ledger.connections import Primary, Timeouts
from ledger.interface import CommitUnknown, Inserted, LedgerError, LedgerUnavailable
from ledger.migrate import migrate
from ledger.postgres import PostgresLedger
from ops.ledger_queries import reading
from processors.payout.row import PayoutRow, PayoutState
from sandbox.servers.postgres import PostgresServer, PostgresStandby
from tests.contract.ledger.ledger_harness import ACTOR, OWNER, identity, inserted, sample_row, step
from tests.integration.ledger.test_ledger_lost_answers import attempt, hurried, paid, until

pytestmark = pytest.mark.servers

# A commit that waits for the standby has no bound in the server: only the write's own ends it, by aborting the socket.
HASTY = Timeouts(connect_seconds=3.0, lock_seconds=0.3, statement_seconds=2.0, write_seconds=2.5)
WAITING_FOR_STANDBY = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'payouts'"


@dataclass
class Pair:
    """A primary and its synchronous standby, with a migrated database."""

    primary: PostgresServer
    standby: PostgresStandby
    url: str
    primary_url: str

    async def fail_over(self) -> None:
        """Kill the primary at once; the standby takes over with what it has on disk, not what is in its sockets."""
        await asyncio.to_thread(self.primary.kill)
        await asyncio.to_thread(self.standby.kill)
        await asyncio.to_thread(self.standby.restart)
        await asyncio.to_thread(self.standby.promote)


@pytest.fixture
def servers() -> Iterator[tuple[PostgresServer, PostgresStandby]]:
    primary = PostgresServer()
    try:
        primary.start()
        standby = PostgresStandby(primary)
        try:
            standby.start()
            yield primary, standby
        finally:
            standby.stop()
    finally:
        primary.stop()


@pytest.fixture
async def pair(servers: tuple[PostgresServer, PostgresStandby]) -> Pair:
    primary, standby = servers
    name = f"payouts_{uuid.uuid4().hex}"
    url = await asyncio.to_thread(primary.create_database, name)
    await migrate(url)
    return Pair(primary, standby, standby.shared_url(name), url)


async def test_l4_with_a_stalled_standby_nothing_is_confirmed_settled_or_acted_on(pair: Pair) -> None:
    """What only the primary has: unknown to its writer, never settled for a reader, gone after the failover.

    The reader is as good as frozen from before the failover until after it.
    """
    patient = Timeouts(connect_seconds=3.0, write_seconds=40.0)
    async with await PostgresLedger.connect(pair.url, timeouts=patient) as ledger, administrator(pair) as admin:
        rows = [await inserted(ledger, number) for number in range(1, 5)]
        pair.standby.pause()
        with hurried(ledger, HASTY):
            outcomes = await asyncio.gather(
                attempt(ledger.commit(paid(rows[0]))),
                attempt(ledger.begin(step(rows[1], state=PayoutState.SUBMITTING), OWNER, 60)),
                attempt(ledger.insert(sample_row(50), ACTOR)),
                attempt(ledger.settle()),
            )
        assert [type(outcome) for outcome in outcomes] == [CommitUnknown] * 4, "silence"
        assert await ledger.read(rows[0].payout_id) == rows[0], "nobody sees it before the standby has it"

        cancelling = asyncio.create_task(attempt(ledger.commit(step(rows[2], state=PayoutState.CANCELLED))))
        await until(lambda: admin.fetchval(f"SELECT count(*) > 4 {WAITING_FOR_STANDBY}"))
        await admin.execute(f"SELECT pg_cancel_backend(pid) {WAITING_FOR_STANDBY}")
        outcome = await cancelling
        assert isinstance(outcome, CommitUnknown)
        assert "warned" in str(outcome)
        seen = await ledger.read(rows[2].payout_id)
        assert seen is not None
        assert seen.state is PayoutState.CANCELLED, "the primary shows what only it has"
        await pair.fail_over()
        await until(lambda: is_serving(ledger))
        with pytest.raises(CommitUnknown, match="took over"):
            await ledger.settle()
        assert await ledger.read(rows[2].payout_id) == rows[2], "it was never cancelled"
        await ledger.settle()
        assert isinstance(await ledger.commit(paid(rows[3])), PayoutRow)


@asynccontextmanager
async def administrator(pair: Pair) -> AsyncIterator[Any]:
    """A connection to the primary, which may be gone when it is given back."""
    connection = await asyncpg.connect(pair.primary_url)
    try:
        yield connection
    finally:
        connection.terminate()


async def is_serving(ledger: PostgresLedger) -> bool:
    """By a question that says nothing about payouts."""
    with suppress(LedgerError):
        await ledger.mode()
        return True
    return False


async def test_l4_p1_every_confirmed_write_survives_the_primary(pair: Pair) -> None:
    """Under load: some confirmed, some waiting for a standby that has stalled, then the primary dies."""
    bounds = Timeouts(connect_seconds=2.0, acquire_seconds=2.0)
    async with await PostgresLedger.connect(pair.url, timeouts=bounds, rows_max=20) as ledger:
        outcomes: dict[int, object] = {}

        async def life(number: int) -> None:
            outcomes[number] = await attempt(ledger.insert(sample_row(number), ACTOR))
            if isinstance(outcomes[number], Inserted):
                issued = await attempt(ledger.issue_identity_number())
                if isinstance(issued, int):
                    change = step(sample_row(number), state=PayoutState.SUBMITTING, **identity(issued))
                    outcomes[number] = await attempt(ledger.begin(change, OWNER, 60))

        tasks = [asyncio.create_task(life(number)) for number in range(1, 601)]

        async def some_begun() -> bool:
            return sum(isinstance(outcome, PayoutRow) for outcome in outcomes.values()) >= 100

        await until(some_begun)
        pair.standby.pause()
        await asyncio.wait(tasks, timeout=0.3)
        await pair.fail_over()
        await asyncio.gather(*tasks)
        confirmed = {n: outcome for n, outcome in outcomes.items() if isinstance(outcome, PayoutRow)}
        unknown = [n for n, outcome in outcomes.items() if isinstance(outcome, CommitUnknown)]
        assert confirmed
        assert unknown, "no write was ever in doubt: the test has shown nothing"
        for row in confirmed.values():
            assert await ledger.read(row.payout_id) == row, "the same ledger has found the new primary"
        fresh = [await ledger.issue_identity_number() for _ in range(20)]
        taken = {row.identity_number for row in confirmed.values()}
        assert taken.isdisjoint(fresh), "the sequence did not go back (S1)"
        assert isinstance(await ledger.insert(sample_row(5_000), ACTOR), Inserted)
        for number in unknown:
            found = await ledger.read(sample_row(number).payout_id)
            assert found is None or len(await ledger.history(found.payout_id)) == found.version


async def test_the_reading_commands_find_the_primary_before_and_after_a_failover(pair: Pair) -> None:
    """P9: with two hosts and `read-write` in the address, which is what workers need, in either order."""
    first, second = pair.url.partition("?")[0], f"{pair.url.partition('?')[0]}?target_session_attrs=read-write"
    assert "," in first, "two hosts"
    for moment in ("before", "after"):
        for url in (pair.url, second):
            async with reading(url) as connection:
                assert await connection.fetchval("SELECT pg_is_in_recovery()") is False, moment
        if moment == "before":
            await pair.fail_over()


async def test_l4_a_primary_that_was_followed_by_another_is_refused() -> None:
    """Timelines grow with each promotion; another cluster (a restore, rule L11) is not an older one."""
    replaced = 0

    async def replace_connections() -> None:
        nonlocal replaced
        replaced += 1

    primary = Primary(replace_connections=replace_connections)
    await primary.meet(7, "00000009")
    await primary.meet(7, "00000009")
    assert (primary.generation, replaced) == (0, 0)
    await primary.meet(7, "0000000A")
    assert (primary.generation, replaced) == (1, 1)
    with pytest.raises(LedgerUnavailable, match="taken over"):
        await primary.meet(7, "00000009")
    await primary.meet(8, "00000001")
    assert (primary.generation, replaced) == (2, 2)
