"""L5 on real PostgreSQL: a batch answers each caller as if they had come one by one, in some order."""

from __future__ import annotations

import asyncio
import copy
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from ledger import statements
from ledger.connections import Timeouts
from ledger.interface import CommitUnknown, Inserted, LedgerError, LedgerUnavailable, NotBegun, RowRejected
from ledger.memory import MemoryLedger
from ledger.postgres import PostgresLedger
from processors.payout.modes import Mode
from processors.payout.row import PayoutRow, PayoutState
from tests.contract.ledger.ledger_harness import (
    ACTOR,
    OWNER,
    START,
    PostgresHarness,
    identity,
    inserted,
    pull_key,
    sample_row,
    step,
)
from tests.contract.ledger.test_ledger_differential import (
    Operation,
    TickingClock,
    answer,
    assert_alike,
    drawn_change,
    drawn_row,
)
from tests.integration.ledger.test_ledger_lost_answers import attempt, cable_to, effect, hurried, locked, paid, until

pytestmark = pytest.mark.servers

SEEDS = (11, 12, 13)
BUDGET_SECONDS = 12.0
ROUNDS = 40
AT_ONCE = 12
PAYOUTS = 5
# Most orders agree with the answers, so that the search seldom turns back; a wrong answer makes it look everywhere.
SEARCH_PLACES_MAX = 20_000
PATIENT = Timeouts(lock_seconds=20.0, statement_seconds=30.0, write_seconds=40.0)


@pytest.fixture
async def harness(shared_ledger_url: str) -> AsyncIterator[PostgresHarness]:
    """A ledger in an emptied database, and a plain connection to it."""
    opened = await PostgresHarness.open(shared_ledger_url)
    yield opened
    await opened.close()


# One by one, in some order


def forked(model: MemoryLedger) -> MemoryLedger:
    """A copy that can be written to without the original noticing."""
    fork = copy.copy(model)
    fork._stored = {name: copy.copy(stored) for name, stored in model._stored.items()}
    fork._history = {name: list(entries) for name, entries in model._history.items()}
    fork._receipts, fork._owners = dict(model._receipts), dict(model._owners)
    fork._pulls = dict(model._pulls)
    return fork


def agree(expected: object, found: object) -> bool:
    try:
        assert_alike(expected, found, "")
    except AssertionError:
        return False
    return True


def where(state: MemoryLedger) -> object:
    """All that the answers of further operations depend on, but for moments."""
    rows = (stored.row for stored in state._stored.values())
    return frozenset(replace(row, lease_until=None if row.lease_owner is None else START) for row in rows)


async def ledger_after(model: MemoryLedger, asked: Sequence[tuple[Operation, object]]) -> MemoryLedger | None:
    """The model after all of these one by one, in an order that gives every answer that was found; None: there is none.

    Depth first; the order of arrival is tried first.
    """
    in_vain: set[object] = set()

    async def search(state: MemoryLedger, left: tuple[int, ...]) -> MemoryLedger | None:
        if not left:
            return state
        place = (left, where(state))
        if place in in_vain:
            return None
        in_vain.add(place)
        assert len(in_vain) < SEARCH_PLACES_MAX, "the search became too large: ask less at once"
        for number in left:
            operation, found = asked[number]
            fork = forked(state)
            if agree(await answer(fork, operation), found):
                end = await search(fork, tuple(other for other in left if other != number))
                if end is not None:
                    return end
        return None

    return await search(model, tuple(range(len(asked))))


def brief(found: object) -> str:
    row = getattr(found, "row", found)
    return f"{row.payout_id[-1]} v{row.version} {row.state}" if isinstance(row, PayoutRow) else str(found)


async def drawn(dice: random.Random, model: MemoryLedger) -> Operation:
    payout = dice.randrange(PAYOUTS)
    kind = dice.choices(["insert", "commit", "begin", "read"], [4, 5, 5, 2])[0]
    if kind == "insert":
        row = drawn_row(dice, payout)
        actor = dice.choice(["actor", "actor", "other actor"])
        return lambda ledger: ledger.insert(row, actor)
    if kind == "read":
        return lambda ledger: ledger.read(sample_row(payout).payout_id)
    row = await model.read(sample_row(payout).payout_id) or sample_row(payout)
    change, owner = drawn_change(dice, row), f"worker-{dice.randrange(3)}"
    if kind == "commit":
        return lambda ledger: ledger.commit(change, owner)
    return lambda ledger: ledger.begin(change, owner, 300.0)


@pytest.mark.parametrize("seed", SEEDS)
async def test_l1_l2_l3_l5_l7_s1_a_batch_gives_what_one_by_one_gives_in_some_order(
    harness: PostgresHarness, shared_ledger_url: str, seed: int
) -> None:
    """Same payouts, lost races, held and leased rows, bad data, reused receipts and identities, from two workers."""
    dice = random.Random(seed)
    model: MemoryLedger = MemoryLedger(TickingClock())
    ends_at = time.monotonic() + BUDGET_SECONDS / len(SEEDS)
    kinds: Counter[str] = Counter()
    async with await PostgresLedger.connect(shared_ledger_url) as second:
        for number in range(ROUNDS):
            operations = [await drawn(dice, model) for _ in range(AT_ONCE)]
            workers = [harness.ledger if dice.random() < 0.7 else second for _ in operations]
            found = await asyncio.gather(*(answer(w, o) for w, o in zip(workers, operations, strict=True)))
            kinds.update(str(one) if isinstance(one, str) else type(one).__name__ for one in found)
            after = await ledger_after(model, list(zip(operations, found, strict=True)))
            assert after is not None, (
                f"seed {seed}, round {number}: no order gives these answers: {[brief(one) for one in found]}"
            )
            model = after
            if time.monotonic() > ends_at and number > ROUNDS // 4:
                break
    for payout in range(PAYOUTS):
        key = sample_row(payout).payout_id
        assert_alike(await model.read(key), await harness.ledger.read(key), f"seed {seed}, end, {key}")
        assert_alike(await model.history(key), await harness.ledger.history(key), f"seed {seed}, end, {key}")
    await assert_invariants(harness)
    assert len(kinds) >= 8, f"the dice did not reach enough: {kinds}"


async def assert_invariants(harness: PostgresHarness) -> None:
    """One history line a version without a gap; identities and receipts used once."""
    gaps = await harness.connection.fetch(
        "SELECT p.payout_id FROM payouts p JOIN history h USING (payout_id) GROUP BY p.payout_id, p.version "
        "HAVING count(*) <> p.version OR min(h.version) <> 1 OR max(h.version) <> p.version"
    )
    reused = await harness.connection.fetch(
        "SELECT identity_number FROM payouts WHERE identity_number IS NOT NULL GROUP BY 1 HAVING count(*) > 1"
    )
    receipts = await harness.connection.fetch(
        "SELECT originator_id, kind, reference FROM receipts GROUP BY 1, 2, 3 HAVING count(*) > 1"
    )
    pulls = await harness.connection.fetch("SELECT pull FROM card_pulls GROUP BY 1 HAVING count(*) > 1")
    assert (gaps, reused, receipts, pulls) == ([], [], [], [])


# Neighbours


async def test_l5_requests_of_one_moment_share_a_commit(harness: PostgresHarness) -> None:
    """What the batch is for. Counted by the server: every commit has a transaction number of its own."""
    rows = [sample_row(number) for number in range(1, 151)]
    before = await harness.connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
    outcomes = await asyncio.gather(*(harness.ledger.insert(row, ACTOR) for row in rows))
    fresh = [outcome.row for outcome in outcomes]
    leased = await asyncio.gather(
        *(harness.ledger.begin(step(row, state=PayoutState.SUBMITTING), OWNER, 60) for row in fresh)
    )
    begun_rows = [row for row in leased if isinstance(row, PayoutRow)]
    assert len(begun_rows) == 150
    paid_rows = await asyncio.gather(*(harness.ledger.commit(paid(row), OWNER) for row in begun_rows))
    await asyncio.gather(*(harness.ledger.settle() for _ in rows))
    after = await harness.connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
    assert after - before < 12, "450 writes and 150 settlements"
    assert all(row is not None and row.lease_owner is None for row in paid_rows)
    await assert_invariants(harness)


async def test_l5_a_bad_row_is_rejected_alone_and_its_neighbours_are_written(harness: PostgresHarness) -> None:
    await inserted(harness.ledger, 900, **identity(5))
    bad: dict[int, dict[str, Any]] = {
        3: {"reason": "zero\0byte"},
        17: identity(5),
        18: {"attempts": 2**63},
        31: {"funding_reference": "x" * 2_000},
        40: {"sender_reference": sample_row(900).sender_reference},
    }
    numbers = range(1, 51)
    outcomes = await asyncio.gather(
        *(attempt(harness.ledger.insert(sample_row(n, **bad.get(n, {})), ACTOR)) for n in numbers)
    )
    for number, outcome in zip(numbers, outcomes, strict=True):
        row = await harness.ledger.read(sample_row(number).payout_id)
        assert isinstance(outcome, RowRejected if number in bad else Inserted), number
        assert (row is None) == (number in bad)
    await assert_invariants(harness)


@pytest.mark.parametrize("write", ["commit", "begin"])
async def test_l5_s1_of_two_that_take_one_identity_in_one_batch_one_is_rejected(
    harness: PostgresHarness, write: str
) -> None:
    rows = [await inserted(harness.ledger, number) for number in range(1, 21)]
    numbers = [7 if n in {4, 15} else 100 + n for n in range(20)]
    changes = [step(row, **identity(number)) for row, number in zip(rows, numbers, strict=True)]
    writes: list[Awaitable[object]] = [
        harness.ledger.commit(change) if write == "commit" else harness.ledger.begin(change, OWNER, 60)
        for change in changes
    ]
    outcomes = await asyncio.gather(*(attempt(one) for one in writes))
    refused = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, RowRejected)]
    assert len(refused) == 1
    assert refused[0] in {4, 15}
    assert sum(isinstance(outcome, PayoutRow) for outcome in outcomes) == 19
    await assert_invariants(harness)


async def test_l7_of_many_that_claim_one_receipt_in_one_batch_one_owns_it(harness: PostgresHarness) -> None:
    outcomes = await asyncio.gather(
        *(harness.ledger.insert(sample_row(n, funding_reference=f"shared-{n % 3}"), ACTOR) for n in range(1, 61))
    )
    assert sum(outcome.row.receipt_owned for outcome in outcomes) == 3
    for outcome in outcomes:
        assert await harness.ledger.read(outcome.row.payout_id) == outcome.row


async def test_l7_of_many_that_claim_one_card_pull_in_one_batch_one_owns_it(harness: PostgresHarness) -> None:
    """P4: each receipt is its payout's own, the pull is not."""
    outcomes = await asyncio.gather(
        *(harness.ledger.insert(sample_row(n, **pull(n % 3, n % 3)), ACTOR) for n in range(1, 61))
    )
    assert sum(outcome.row.receipt_owned for outcome in outcomes) == 3
    for outcome in outcomes:
        assert await harness.ledger.read(outcome.row.payout_id) == outcome.row
    await assert_invariants(harness)


async def test_k5_l5_a_row_that_somebody_holds_keeps_no_neighbour_waiting(ledger_url: str) -> None:
    async with await PostgresLedger.connect(ledger_url, timeouts=PATIENT) as ledger:
        rows = [await inserted(ledger, number) for number in range(1, 21)]
        async with locked(ledger_url, rows[7]), asyncio.timeout(10):
            tasks = [asyncio.create_task(ledger.commit(step(row, reason_code="CODE"))) for row in rows]
            await asyncio.gather(*(task for task in tasks if task is not tasks[7]))
            assert not tasks[7].done()
        assert await tasks[7] is not None, "free again"


async def test_l9_a_batched_begin_reads_the_mode_after_the_lock(ledger_url: str) -> None:
    """Begins that wait behind an operator's halt see it; none gets a lease after the halt has returned."""
    async with await PostgresLedger.connect(ledger_url, timeouts=PATIENT) as ledger:
        rows = [await inserted(ledger, number) for number in range(1, 31)]
        operator = await asyncpg.connect(ledger_url)
        async with operator.transaction():
            await operator.execute(f"SELECT pg_advisory_xact_lock({statements.LOCK_SPACE}, {statements.MODE_LOCK})")
            begins = [asyncio.create_task(ledger.begin(step(row), OWNER, 60)) for row in rows]
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await until(lambda: operator.fetchval(waiting))
            await operator.execute("UPDATE modes SET mode = 'halted'")
        await operator.close()
        assert set(await asyncio.gather(*begins)) == {NotBegun.MODE}
        assert (await ledger.counts())["leased"] == 0


async def test_l3_l9_every_refusal_in_a_batch_names_its_own_reason(harness: PostgresHarness) -> None:
    ledger = harness.ledger
    rows = [await inserted(ledger, number, held=number == 2) for number in range(1, 7)]
    await ledger.begin(step(rows[2]), "somebody", 60)
    leased = await ledger.read(rows[2].payout_id)
    assert leased is not None
    rows[2] = leased
    await ledger.commit(step(rows[3], reason_code="CODE"))
    unseen = sample_row(99)
    answers = await asyncio.gather(*(ledger.begin(step(row), OWNER, 60) for row in (*rows, unseen)))
    kinds = ["begun" if isinstance(one, PayoutRow) else one.value for one in answers]
    assert kinds == ["begun", "HELD", "LEASED", "LOST", "begun", "begun", "LOST"]
    free = [await inserted(ledger, number) for number in (11, 12)]
    with pytest.raises(LedgerError):
        await ledger.set_mode(Mode.HALTED, "operator", "why", 0)
    assert await asyncio.gather(*(ledger.begin(step(row), OWNER, 60) for row in free)) == [NotBegun.MODE] * 2


# Lost answers (L4)


@pytest.mark.parametrize("loss", ["silence", "cut"])
@pytest.mark.parametrize("write", ["insert", "commit"])
async def test_l4_a_batch_whose_answer_is_lost_is_unknown_for_each_and_happened_for_all(
    ledger_url: str, write: str, loss: str
) -> None:
    async with cable_to(ledger_url) as (cable, cabled_url):
        ledger = await PostgresLedger.connect(cabled_url, pool_min=1, pool_max=1)
        rows = [await inserted(ledger, number) for number in (1, *range(11, 31))]
        await ledger.commit(step(rows[1], reason_code="prepared"))
        rows.pop(1)
        cable.passing.clear()
        if write == "commit":
            asked: list[Awaitable[object]] = [ledger.commit(paid(row)) for row in rows]
        else:
            asked = [ledger.insert(sample_row(number), ACTOR) for number in (2, *range(40, 60))]
        with hurried(ledger):
            tasks = [asyncio.create_task(attempt(one)) for one in asked]
            await until(lambda: effect(ledger_url, write))
            if loss == "cut":
                cable.cut()
            outcomes = await asyncio.gather(*tasks)
        assert {type(outcome) for outcome in outcomes} == {CommitUnknown}
        cable.passing.set()
        await ledger.close()
    async with await PostgresLedger.connect(ledger_url) as ledger:
        counts = await ledger.counts()
        assert counts["PAID" if write == "commit" else "RECEIVED"] == (20 if write == "commit" else 42)


async def test_l4_a_batch_of_begins_cut_before_its_commit_has_begun_nothing(ledger_url: str) -> None:
    async with cable_to(ledger_url) as (cable, cabled_url):
        ledger = await PostgresLedger.connect(cabled_url, pool_min=1, pool_max=1)
        rows = [await inserted(ledger, number) for number in range(1, 21)]
        cable.passing.clear()
        with hurried(ledger):
            outcomes = await asyncio.gather(*(attempt(ledger.begin(paid(row), OWNER, 60)) for row in rows))
        assert {type(outcome) for outcome in outcomes} == {LedgerUnavailable}
        cable.passing.set()
        await ledger.close()
    async with await PostgresLedger.connect(ledger_url) as ledger:
        assert (await ledger.counts())["RECEIVED"] == 20
        assert (await ledger.counts())["leased"] == 0


# Many workers


async def test_l5_batches_of_two_workers_over_the_same_payouts_never_block_each_other_for_good(
    ledger_url: str,
) -> None:
    """No deadlock, no outage: every write is won by one and lost by the other, rows and receipts in opposite orders."""
    payouts = 60
    async with (
        await PostgresLedger.connect(ledger_url, pool_max=6) as first,
        await PostgresLedger.connect(ledger_url, pool_max=6) as second,
    ):
        ups = [sample_row(n, funding_reference=f"shared-{payouts - n}", **pull(n, n)) for n in range(1, payouts)]
        strangers = [
            sample_row(n + 500, funding_reference=f"shared-{n}" if n % 2 else f"own-{n}", **pull(n * 7, n * 11))
            for n in range(1, payouts)
        ]
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(
                *(first.insert(row, "first") for row in [*ups, *strangers]),
                *(second.insert(row, "second") for row in [*reversed(strangers), *reversed(ups)]),
            )
            assert sum(isinstance(outcome, Inserted) for outcome in outcomes) == 2 * (payouts - 1)
            rows = [await first.read(row.payout_id) for row in ups]
            current = [row for row in rows if row is not None]
            for _ in range(5):
                current = await contended_round(first, second, current)
    async with await PostgresLedger.connect(ledger_url) as ledger:
        for row in current:
            assert [entry.version for entry in await ledger.history(row.payout_id)] == list(range(1, row.version + 1))


def pull(trace: int, transaction: int) -> dict[str, bytes]:
    """One of a few pulls, whose names come in many orders."""
    return {"funding_trace": pull_key(trace % 60), "funding_transaction": pull_key(f"transaction {transaction % 60}")}


async def contended_round(first: PostgresLedger, second: PostgresLedger, rows: list[PayoutRow]) -> list[PayoutRow]:
    """Both want to begin every row, then both write what came of it: one each wins."""
    begins = await asyncio.gather(
        *(first.begin(step(row, state=PayoutState.SUBMITTING), f"first-{row.version}", 60) for row in rows),
        *(second.begin(step(row, state=PayoutState.SUBMITTING), f"second-{row.version}", 60) for row in reversed(rows)),
    )
    won = {row.payout_id: row for row in begins if isinstance(row, PayoutRow)}
    assert len(won) == sum(isinstance(row, PayoutRow) for row in begins) == len(rows)
    assert {answer for answer in begins if not isinstance(answer, PayoutRow)} <= {NotBegun.LOST, NotBegun.LEASED}
    ends = [step(won[row.payout_id], state=PayoutState.UNKNOWN) for row in rows]
    commits = await asyncio.gather(
        *(first.commit(change, change.before.lease_owner) for change in ends),
        *(second.commit(change, change.before.lease_owner) for change in reversed(ends)),
    )
    ended = {row.payout_id: row for row in commits if row is not None}
    assert len(ended) == sum(row is not None for row in commits) == len(rows)
    assert all(row.lease_owner is None for row in ended.values())
    return [ended[row.payout_id] for row in rows]


# Plans


@pytest.mark.parametrize(
    "statement",
    ["INSERT_MANY", "COMMIT_MANY", "BEGIN_MANY", "READ_MANY", "COMMIT", "BEGIN", "UNANNOUNCED", "UNACCOUNTED"],
)
async def test_l5_a_plan_made_for_empty_tables_never_reads_a_whole_table_later(ledger_url: str, statement: str) -> None:
    """A worker prepares its statements once, perhaps on the first day, and keeps the plan."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        text: str = getattr(statements, statement)
        count = max(int(number) for number in re.findall(r"\$(\d+)", text))

        async def plan(connection: Any) -> list[Any]:
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            try:
                await connection.execute(f"PREPARE asked AS {text}")
                found = await connection.fetch(f"EXPLAIN EXECUTE asked ({', '.join(['NULL'] * count)})")
            finally:
                await connection.execute("DEALLOCATE ALL; RESET plan_cache_mode")
            return [line[0] for line in found]

        lines = await ledger._pool.read(plan)
    # A join that is no index condition, or an index that is read without one, is as much as a scan.
    suspicious = (
        "Hash Join",
        "Merge Join",
        "Join Filter: (r.",
        "Join Filter: (t.",
        "Join Filter: (v.",
        "Bitmap Heap Scan",
    )
    whole = [line for line in lines if any(word in line for word in suspicious)]
    whole += [line for line in lines if "Seq Scan on" in line and "modes" not in line]
    assert whole == [], "\n".join(lines)
