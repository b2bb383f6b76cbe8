"""Many processes want one payout: exactly one gets it (L1, L3). Halting under load stops every later call (L9)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from ledger.interface import Inserted, LeasesStillLive, NotBegun
from ledger.postgres import PostgresLedger
from ledger.statements import LOCK_SPACE, MODE_LOCK
from processors.payout.modes import Mode
from processors.payout.row import PayoutRow, PayoutState
from tests.contract.ledger.ledger_harness import ACTOR, committed, inserted, sample_row, step

pytestmark = pytest.mark.servers

CONTENDERS = 500
PROCESSES = 2
CONNECTIONS_EACH = 12
ANSWER_SECONDS = 60.0
ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def contender(database_url: str, operation: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("contender.py")),
        *(database_url, operation, str(CONTENDERS // PROCESSES), str(CONNECTIONS_EACH)),
        stdin=PIPE,
        stdout=PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), ANSWER_SECONDS)).decode().strip()


async def contest(database_url: str, operation: str) -> Counter[str]:
    """What all contenders together were told; they start at the same moment, with every connection open."""
    async with contender(database_url, operation) as first, contender(database_url, operation) as second:
        assert [await line(process) for process in (first, second)] == ["ready", "ready"]
        watcher = await asyncpg.connect(database_url)
        connections = await watcher.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'payouts'"
        )
        await watcher.close()
        assert connections >= 20
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            await process.stdin.drain()
        answers: Counter[str] = Counter()
        for process in (first, second):
            answers.update(json.loads(await line(process)))
        return answers


async def test_l1_one_of_500_inserts_from_two_processes_wins(ledger_url: str) -> None:
    answers = await contest(ledger_url, "insert")
    assert answers == {"won": 1, "existing": CONTENDERS - 1}
    async with await PostgresLedger.connect(ledger_url) as ledger:
        row = await ledger.read(sample_row(1).payout_id)
        assert row is not None
        assert row.receipt_owned
        assert len(await ledger.history(row.payout_id)) == 1
        counts = await ledger.counts()
        assert sum(counts[state.value] for state in PayoutState) == 1


async def test_l3_one_of_500_begins_from_two_processes_wins(ledger_url: str) -> None:
    async with await PostgresLedger.connect(ledger_url) as ledger:
        await ledger.insert(sample_row(1), ACTOR)
        answers = await contest(ledger_url, "begin")
        assert answers["won"] == 1
        assert set(answers) <= {"won", "LOST", "LEASED"}
        assert answers.total() == CONTENDERS
        row = await ledger.read(sample_row(1).payout_id)
        assert row is not None
        assert row.version == 2
        assert row.lease_owner is not None
        assert [entry.version for entry in await ledger.history(row.payout_id)] == [1, 2]


async def test_l9_no_begin_commits_after_set_mode_returned(ledger_url: str) -> None:
    """Many tasks begin and end calls as fast as they can, over other connections than the operator's."""
    calls = 0
    async with (
        await PostgresLedger.connect(ledger_url, pool_max=10) as worker,
        await PostgresLedger.connect(ledger_url, pool_max=2) as operator,
    ):
        rows = [await inserted(worker, number) for number in range(1, 17)]
        moving = asyncio.Event()

        async def call_again_and_again(row: PayoutRow) -> NotBegun:
            nonlocal calls
            while True:
                answer = await worker.begin(step(row, attempts=row.attempts + 1), f"task-{row.payout_id}", 60)
                if isinstance(answer, NotBegun):
                    return answer
                calls += 1
                if calls >= 100:
                    moving.set()
                row = await committed(worker, step(answer, "answered"))

        for _ in range(3):
            tasks = [asyncio.create_task(call_again_and_again(row)) for row in rows]
            await asyncio.wait_for(moving.wait(), 30)
            await operator.set_mode(Mode.HALTED, "operator", "test", 30)
            after = await attempts(operator)
            assert set(await asyncio.wait_for(asyncio.gather(*tasks), 30)) == {NotBegun.MODE}
            assert await attempts(operator) == after, "a call began after set_mode had returned"
            await operator.set_mode(Mode.NORMAL, "operator", "test", 30)
            moving.clear()
            calls = 0
            found = [await worker.read(row.payout_id) for row in rows]
            rows = [row for row in found if row is not None]


async def attempts(ledger: PostgresLedger) -> int:
    """Begun calls so far, live or ended."""
    rows = [await ledger.read(sample_row(number).payout_id) for number in range(1, 17)]
    assert all(row is not None and row.lease_until is None for row in rows), "an earlier lease is still live"
    return sum(row.attempts for row in rows if row is not None)


async def test_l9_a_begin_that_already_holds_the_lock_is_waited_for(ledger_url: str) -> None:
    """The commit lands after the mode was asked for, and its lease is seen all the same."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        row = await inserted(ledger)
        blocker = await asyncpg.connect(ledger_url)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("SELECT FROM payouts WHERE payout_id = $1 FOR UPDATE", row.payout_id)
        beginning = asyncio.create_task(ledger.begin(step(row), "worker-1", 60))
        await waits_for_lock(blocker, "transactionid")
        setting = asyncio.create_task(ledger.set_mode(Mode.HALTED, "operator", "test", 0))
        await waits_for_lock(blocker, "advisory")
        await transaction.rollback()
        assert isinstance(await beginning, PayoutRow)
        with pytest.raises(LeasesStillLive):
            await setting
        await blocker.close()


async def test_l9_a_begin_that_waited_for_the_lock_sees_the_mode_set_meanwhile(ledger_url: str) -> None:
    """Reading the mode in the statement that takes the lock would read it as it was before the wait."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        row = await inserted(ledger)
        operator = await asyncpg.connect(ledger_url)
        transaction = operator.transaction()
        await transaction.start()
        await operator.execute(f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, {MODE_LOCK})")
        beginning = asyncio.create_task(ledger.begin(step(row), "worker-1", 60))
        await waits_for_lock(operator, "advisory")
        await operator.execute("UPDATE modes SET mode = 'halted'")
        await transaction.commit()
        assert await beginning is NotBegun.MODE
        assert await ledger.read(row.payout_id) == row
        await operator.close()


async def test_l1_copies_that_race_each_other_to_the_last_step_are_duplicates_not_errors(ledger_url: str) -> None:
    """Every copy collides on sender_reference as well, which must not be what it is told."""
    async with await PostgresLedger.connect(ledger_url, pool_min=8, pool_max=8) as ledger:
        for number in range(1, 151):
            outcomes = await asyncio.gather(*(ledger.insert(sample_row(number), ACTOR) for _ in range(8)))
            assert sum(isinstance(outcome, Inserted) for outcome in outcomes) == 1


async def waits_for_lock(connection: asyncpg.Connection, kind: str) -> None:
    """Until some session waits for a lock of that kind."""
    async with asyncio.timeout(10):
        while not await connection.fetchval(  # noqa: ASYNC110 - the server tells nobody when a session starts to wait
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock' AND wait_event = ANY ($1::text[])",
            [kind, "tuple"],
        ):
            await asyncio.sleep(0.005)
