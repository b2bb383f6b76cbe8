"""The batcher on its own: nobody waits for company, nobody pays for a neighbour, nobody is asked twice (L4, L5)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import batcher as batcher_module
from ledger.batcher import BYTES_MAX, UNANSWERED, Batcher, Limits, Unanswered
from ledger.connections import StayedBusy
from ledger.interface import CommitUnknown, LedgerError, LedgerUnavailable, RowRejected

QUICK = Limits(wait_seconds=0.2, collect_seconds=0.01)


@dataclass(frozen=True)
class Wish:
    """What one caller asks for, and what the database will make of it."""

    number: int
    key: str = ""
    is_bad: bool = False
    is_held: bool = False
    deadlocks: bool = False


@dataclass
class Database:
    """Takes whole batches or nothing, as one statement does."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[list[int]] = field(default_factory=list)
    effects: Counter[int] = field(default_factory=Counter)
    running_keys: set[str] = field(default_factory=set)
    fails: LedgerError | None = None

    async def together(self, wishes: Sequence[Wish]) -> Sequence[int | Unanswered]:
        self.batches.append([wish.number for wish in wishes])
        keys = [wish.key for wish in wishes if wish.key]
        assert len(keys) == len(set(keys)), "one payout twice in a batch"
        assert self.running_keys.isdisjoint(keys), "one payout in two batches at once"
        self.running_keys.update(keys)
        try:
            await self.gate.wait()
            return self.outcome(wishes)
        finally:
            self.running_keys.difference_update(keys)

    def outcome(self, wishes: Sequence[Wish]) -> Sequence[int | Unanswered]:
        if self.fails is not None:
            raise self.fails
        if any(wish.is_bad for wish in wishes):
            raise RowRejected("constraint")
        if len(wishes) > 1 and any(wish.deadlocks for wish in wishes):
            raise StayedBusy("40P01")
        return [UNANSWERED if wish.is_held else self.effect(wish) for wish in wishes]

    async def alone(self, wish: Wish) -> int:
        await self.lock.wait()
        return self.effect(wish)

    def effect(self, wish: Wish) -> int:
        self.effects[wish.number] += 1
        return wish.number

    def batcher(self, limits: Limits = QUICK) -> Batcher[Wish, int]:
        return Batcher(together=self.together, alone=self.alone, limits=limits)


def opened() -> Database:
    database = Database()
    database.gate.set()
    database.lock.set()
    return database


async def turns(count: int = 5) -> None:
    """Let the event loop go round; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)


async def answers(batcher: Batcher[Wish, int], wishes: Sequence[Wish]) -> list[int | BaseException]:
    asked = (batcher.ask(wish, key=wish.key or None) for wish in wishes)
    return await asyncio.gather(*asked, return_exceptions=True)


async def test_l5_a_request_alone_is_sent_in_the_same_moment() -> None:
    database = Database()
    asking = asyncio.create_task(database.batcher().ask(Wish(1)))
    await turns()
    assert database.batches == [[1]], "no timer had to pass"
    database.gate.set()
    assert await asking == 1


async def test_l5_requests_of_one_moment_share_a_statement() -> None:
    database = opened()
    assert await answers(database.batcher(), [Wish(n) for n in range(50)]) == list(range(50))
    assert len(database.batches) == 1


async def test_l5_what_comes_while_a_batch_is_under_way_is_collected() -> None:
    database = Database()
    batcher = database.batcher(Limits(wait_seconds=5.0, batches_max=1))
    asked = []
    for number in range(20):
        asked.append(asyncio.create_task(batcher.ask(Wish(number))))
        await turns()
    assert database.batches == [[0]]
    database.gate.set()
    await asyncio.gather(*asked)
    assert database.batches == [[0], list(range(1, 20))]


async def test_l5_a_second_batch_does_not_wait_for_the_first_to_end() -> None:
    database = Database()
    batcher = database.batcher(Limits(wait_seconds=5.0, collect_seconds=0.001))
    asked = [asyncio.create_task(batcher.ask(Wish(0)))]
    await turns()
    asked += [asyncio.create_task(batcher.ask(Wish(number))) for number in (1, 2)]
    async with asyncio.timeout(5):
        while len(database.batches) < 2:  # noqa: ASYNC110 - the batcher has a timer of its own
            await asyncio.sleep(0.001)
    assert database.batches == [[0], [1, 2]]
    database.gate.set()
    await asyncio.gather(*asked)


async def test_l5_a_batch_is_bounded_in_rows_and_bytes() -> None:
    database = opened()
    await answers(database.batcher(Limits(wait_seconds=5.0, rows_max=7)), [Wish(n) for n in range(20)])
    assert [len(batch) for batch in database.batches] == [7, 7, 6]
    database = opened()
    batcher = database.batcher()
    await asyncio.gather(*(batcher.ask(Wish(n), size_bytes=BYTES_MAX // 2) for n in range(4)))
    await batcher.ask(Wish(9), size_bytes=BYTES_MAX * 2)
    assert [len(batch) for batch in database.batches] == [2, 2, 1], "even the largest goes, alone"


async def test_requests_of_different_lanes_never_share_a_statement() -> None:
    database = opened()
    batcher = database.batcher()
    await asyncio.gather(*(batcher.ask(Wish(n), lane=f"actor-{n % 2}") for n in range(6)))
    assert [{number % 2 for number in batch} for batch in database.batches] in ([{0}, {1}], [{1}, {0}])


async def test_l5_copies_of_one_payout_are_answered_one_after_the_other_in_order() -> None:
    database = opened()
    wishes = [Wish(n, key="same" if n % 2 else f"own-{n}") for n in range(10)]
    assert await answers(database.batcher(), wishes) == list(range(10))
    same = [number for batch in database.batches for number in batch if number % 2]
    assert same == [1, 3, 5, 7, 9]


WISHES = st.lists(
    st.builds(
        Wish,
        number=st.just(0),
        key=st.sampled_from(["", "a", "b", "c", "d"]),
        is_bad=st.booleans(),
        is_held=st.booleans(),
        deadlocks=st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(wishes=WISHES, rows_max=st.integers(1, 12), batches_max=st.integers(1, 3))
def test_l5_any_mix_gives_each_caller_what_it_would_get_alone(
    wishes: list[Wish], rows_max: int, batches_max: int
) -> None:
    """Bad rows are rejected, the others take effect exactly once, whoever their neighbours are."""
    numbered = [Wish(n, wish.key, wish.is_bad, wish.is_held, wish.deadlocks) for n, wish in enumerate(wishes)]

    async def run() -> tuple[Database, list[int | BaseException]]:
        database = opened()
        limits = Limits(wait_seconds=30.0, rows_max=rows_max, batches_max=batches_max, collect_seconds=0.0)
        batcher = database.batcher(limits)
        found = await answers(batcher, numbered)
        await batcher.close()
        return database, found

    database, found = asyncio.run(run())
    for wish, answer in zip(numbered, found, strict=True):
        if wish.is_bad:
            assert isinstance(answer, RowRejected)
            assert database.effects[wish.number] == 0
        else:
            assert answer == wish.number
            assert database.effects[wish.number] == 1


@pytest.mark.parametrize("failure", [CommitUnknown("sent, not confirmed"), LedgerUnavailable("away")])
async def test_l4_a_lost_batch_is_lost_for_each_of_its_callers(failure: LedgerError) -> None:
    database = opened()
    database.fails = failure
    found = await answers(database.batcher(), [Wish(n) for n in range(5)])
    assert [type(answer) for answer in found] == [type(failure)] * 5
    assert len({id(answer) for answer in found}) == 5, "an exception of its own each"
    assert len(database.batches) == 1, "nothing that may have happened is sent again"


async def test_l4_parts_of_a_split_batch_fare_each_for_itself() -> None:
    """The first half is written, then the database goes away: the second half was never sent."""
    database = opened()
    seen = 0

    async def together(wishes: Sequence[Wish]) -> Sequence[int | Unanswered]:
        nonlocal seen
        seen += 1
        if seen == 3:
            database.fails = CommitUnknown("cut")
        return await database.together(wishes)

    batcher = Batcher(together=together, limits=QUICK)
    wishes = [Wish(0), Wish(1), Wish(2), Wish(3, is_bad=True), Wish(4), Wish(5), Wish(6), Wish(7)]
    found = await answers(batcher, wishes)
    # 0-7 refused, 0-3 refused, 0-1 lost.
    assert database.batches == [list(range(8)), [0, 1, 2, 3], [0, 1]]
    assert [type(answer) for answer in found] == [CommitUnknown] * 2 + [LedgerUnavailable] * 6
    assert not database.effects


async def test_l4_a_cancelled_caller_takes_nothing_with_it() -> None:
    database = Database()
    database.lock.set()
    batcher = database.batcher()
    asked = [asyncio.create_task(batcher.ask(Wish(n))) for n in range(3)]
    await turns()
    queued = asyncio.create_task(batcher.ask(Wish(3)))
    await turns(1)
    for task in (asked[1], queued):
        task.cancel()
    await turns()
    database.gate.set()
    assert (await asked[0], await asked[2]) == (0, 2)
    for task in (asked[1], queued):
        with pytest.raises(asyncio.CancelledError):
            await task
    await batcher.close()
    assert database.effects == Counter(range(4)), "what was asked is done all the same, once"


async def test_k5_a_row_that_somebody_holds_keeps_nobody_else_waiting() -> None:
    database = Database()
    database.gate.set()
    batcher = database.batcher(Limits(wait_seconds=30.0, alone_max=2))
    held = [asyncio.create_task(batcher.ask(Wish(n, key=f"held-{n}", is_held=True))) for n in range(5)]
    await turns(10)
    assert await answers(batcher, [Wish(n, key=f"own-{n}") for n in range(10, 20)]) == list(range(10, 20))
    assert not any(task.done() for task in held)
    database.lock.set()
    assert await asyncio.gather(*held) == list(range(5))


async def test_k5_locked_rows_beyond_the_turns_there_are_hear_so_in_bounded_time() -> None:
    database = Database()
    database.gate.set()
    batcher = database.batcher(Limits(wait_seconds=0.05, alone_max=1))
    asked = [asyncio.create_task(batcher.ask(Wish(n, is_held=True))) for n in range(2)]
    await asyncio.wait(asked, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    database.lock.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in found) == ["LedgerUnavailable", "int"]


async def test_k5_a_request_that_was_not_sent_in_time_is_told_so() -> None:
    database = Database()
    batcher = database.batcher(Limits(wait_seconds=0.05, batches_max=1))
    first = asyncio.create_task(batcher.ask(Wish(0)))
    await turns()
    with pytest.raises(LedgerUnavailable, match="not sent within"):
        await batcher.ask(Wish(1))
    database.gate.set()
    assert await first == 0
    assert database.batches == [[0]]


async def test_k5_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "QUEUED_MAX", 3)
    database = opened()
    found = await answers(database.batcher(), [Wish(n) for n in range(5)])
    assert found[:3] == [0, 1, 2]
    assert all(isinstance(answer, LedgerUnavailable) for answer in found[3:])


async def test_closing_answers_everything_and_takes_no_more() -> None:
    database = Database()
    batcher = database.batcher(Limits(wait_seconds=30.0, batches_max=1, rows_max=2))
    asked = [asyncio.create_task(batcher.ask(Wish(n, is_held=n == 4))) for n in range(5)]
    await turns()
    closing = asyncio.create_task(batcher.close())
    await turns()
    with pytest.raises(LedgerUnavailable, match="closed"):
        await batcher.ask(Wish(9))
    database.gate.set()
    await turns(20)
    assert not closing.done(), "the held row is still waited for"
    database.lock.set()
    await closing
    assert await asyncio.gather(*asked) == list(range(5))
    await batcher.close()


async def test_l4_a_batch_that_ends_without_an_answer_is_unknown_and_frees_its_payouts() -> None:
    """Only a bug of ours or the end of the event loop does this; nobody may be left waiting for ever."""
    broken = [True]

    async def together(wishes: Sequence[Wish]) -> Sequence[int | Unanswered]:
        if broken.pop() if broken else False:
            raise KeyError("a bug of ours")
        return [wish.number for wish in wishes]

    batcher = Batcher(together=together, limits=QUICK)
    loop = asyncio.get_running_loop()
    noticed: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _loop, context: noticed.append(context))
    with pytest.raises(CommitUnknown):
        await batcher.ask(Wish(1), key="a")
    assert await batcher.ask(Wish(2), key="a") == 2
