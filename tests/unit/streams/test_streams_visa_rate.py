"""S0-22, S7: permits by rate, in turn, given back when nothing was sent; virtual time, so that minutes take none."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from processors.payout.events import CallKind
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.visa.identity import Operation
from sandbox.simulation.virtual_loop import VirtualLoop
from streams.metrics import Metrics
from streams.visa_rate import SHARED_RETRY_AFTER_SECONDS_MAX, STALE_AFTER_SECONDS, Place, VisaRate
from tests.unit.streams.streams_world import World, refused

PAID = Outcome(OutcomeKind.PAID, "ACTION_CODE_00", http_status=200)
SILENT = Outcome(OutcomeKind.UNKNOWN, "READ_TIMEOUT")
TIMER_TOLERANCE = 1e-6


def too_many(retry_after_seconds: float | None = None) -> Outcome:
    return Outcome(
        OutcomeKind.REFUSED,
        "HTTP_429",
        refusal=Refusal.RATE_LIMITED,
        http_status=429,
        retry_after_seconds=retry_after_seconds,
        systemic=True,
    )


def in_virtual_time(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it; a wait that nobody ends fails at once (NothingToDo)."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(story())
    finally:
        loop.end([])


def now() -> float:
    return asyncio.get_running_loop().time()


def a_rate(calls_max: int = 1_000, metrics: Metrics | None = None, **limits: float) -> VisaRate:
    return VisaRate(calls_max=calls_max, metrics=metrics or Metrics(), **limits)


@asynccontextmanager
async def sent(rate: VisaRate, originator: str = "a") -> AsyncIterator[Place]:
    """A place whose call is made."""
    async with rate.place(originator) as place:
        assert place is not None
        place.used = True
        yield place


async def call(rate: VisaRate, originator: str, into: list[float], *, takes_seconds: float = 0.0) -> None:
    async with sent(rate, originator):
        into.append(now())
        await asyncio.sleep(takes_seconds)


async def turns(count: int = 5) -> None:
    """Let what is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- the rate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_random_arrivals_never_leave_faster_than_the_rate_and_a_burst(seed: int) -> None:
    """S0-22: over every stretch of time, for the credential and for each originator."""
    chance = random.Random(seed)
    credential, originator = chance.uniform(1, 100), chance.uniform(1, 50)

    async def story() -> None:
        rate = a_rate(chance.choice((1, 4, 1_000)), credential_per_second=credential, originator_per_second=originator)
        left: dict[str, list[float]] = {name: [] for name in "abc"}

        async def arrive(name: str) -> None:
            await asyncio.sleep(chance.uniform(0, 5))
            await call(rate, name, left[name], takes_seconds=chance.uniform(0, 0.3))

        await asyncio.gather(*(arrive(chance.choice("aab")) for _ in range(150)))
        assert sum(map(len, left.values())) == 150
        for times, per_second in [
            (sorted(at for own in left.values() for at in own), credential),
            *((own, originator) for own in left.values()),
        ]:
            burst = max(1.0, per_second * 0.1)
            for first, begun in enumerate(times):
                for last in range(first, len(times)):
                    assert last - first + 1 <= per_second * (times[last] - begun) + burst + TIMER_TOLERANCE

    in_virtual_time(story)


def test_one_call_a_second_with_many_tasks_is_one_call_a_second() -> None:
    """S0-22: 64 tasks, a second each, none forgotten, none early."""

    async def story() -> None:
        rate, left = a_rate(credential_per_second=1.0), list[float]()
        await asyncio.gather(*(call(rate, "a", left) for _ in range(64)))
        assert left == pytest.approx([float(second) for second in range(64)])

    in_virtual_time(story)


def test_a_small_originator_does_not_wait_behind_a_large_one() -> None:
    """S0-22: 10,000 calls of one are queued before 10 of another come: those wait for one call of the other each."""

    async def story() -> None:
        rate = a_rate(credential_per_second=100.0)
        large, small = list[float](), list[float]()
        flood = [asyncio.ensure_future(call(rate, "large", large)) for _ in range(10_000)]
        await asyncio.sleep(5.0)
        begun = now()
        await asyncio.gather(*(call(rate, "small", small) for _ in range(10)))
        waits = sorted(at - begun for at in small)
        # Ten calls at every other token of a hundred a second; in the order of arrival it would be 95 seconds.
        assert waits[-1] <= 10 * 2 / 100.0 + 0.02
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    in_virtual_time(story)


def test_an_originator_at_his_own_limit_delays_nobody_else() -> None:
    """S0-22."""

    async def story() -> None:
        rate = a_rate(originator_per_second=1.0)
        slow, other = list[float](), list[float]()
        waiting = [asyncio.ensure_future(call(rate, "slow", slow)) for _ in range(20)]
        await turns()
        await call(rate, "other", other)
        assert (len(slow), other) == (1, [0.0])
        await asyncio.gather(*waiting)
        assert slow[-1] == pytest.approx(19.0)

    in_virtual_time(story)


def test_originators_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """S0-22: memory has a bound, and forgetting gives nobody more than his rate."""
    monkeypatch.setattr("streams.visa_rate.BUCKETS_MAX", 10)

    async def story() -> None:
        rate = a_rate(originator_per_second=1.0)
        for number in range(100):
            async with sent(rate, f"originator-{number}"):
                await asyncio.sleep(0.5)
        assert len(rate._originators) <= 11
        await asyncio.sleep(60.0)
        for number in range(20):
            async with sent(rate, f"late-{number}"):
                pass
        async with sent(rate, "late-0") as place:
            assert place.waited_seconds == pytest.approx(1.0)

    in_virtual_time(story)


# --- places -------------------------------------------------------------------------------------------------------


def test_places_are_given_in_turn_too() -> None:
    """S0-22: without any rate, who holds all places passes on every other one."""

    async def story() -> None:
        rate = a_rate(calls_max=1)
        order: list[str] = []

        async def one(name: str) -> None:
            async with sent(rate, name):
                order.append(name)
                await asyncio.sleep(1.0)

        await asyncio.gather(*(one(name) for name in ["a"] * 4 + ["b"] * 2))
        assert order == ["a", "a", "b", "a", "b", "a"]

    in_virtual_time(story)


@pytest.mark.parametrize("moment", ["queued", "cancelled before granted", "granted before cancelled"])
def test_a_cancelled_wait_leaves_place_and_token_to_the_next(moment: str) -> None:
    """S0-22: in the queue, and in the very moment in which it is, or had been, given them."""

    async def story() -> None:
        metrics = Metrics()
        rate = a_rate(1, metrics, credential_per_second=10.0)
        left: list[float] = []
        async with sent(rate):
            cancelled = asyncio.ensure_future(call(rate, "a", left))
            await asyncio.sleep(0.5)
            if moment == "queued":
                cancelled.cancel()
                await turns()
                assert metrics.registry.get_sample_value("visa_calls_waiting") == 0
            if moment == "cancelled before granted":
                cancelled.cancel()
        if moment == "granted before cancelled":
            assert not cancelled.done()
            cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert left == []
        await asyncio.wait_for(call(rate, "a", left), 1.0)
        assert left == [0.5]

    in_virtual_time(story)


def test_what_was_not_sent_gives_its_token_back() -> None:
    """S0-22, S7: the lane was paused, the row was taken by another, the request could not be built."""

    async def story() -> None:
        rate = a_rate(credential_per_second=1.0, originator_per_second=1.0)
        for _ in range(5):
            async with rate.place("a") as place:
                assert place is not None
        assert now() == 0.0
        async with sent(rate):
            pass
        async with sent(rate):
            assert now() == pytest.approx(1.0)

    in_virtual_time(story)


def test_an_error_inside_gives_the_place_back() -> None:
    """S0-22."""

    async def story() -> None:
        rate = a_rate(calls_max=1)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                async with sent(rate):
                    raise RuntimeError("the database, for example")

    in_virtual_time(story)


def test_who_waited_long_is_told_that_he_is_late() -> None:
    """S7: what he read may have expired meanwhile."""

    async def story() -> None:
        rate = a_rate(credential_per_second=1.0)
        stale: list[bool] = []

        async def one() -> None:
            async with sent(rate) as place:
                stale.append(place.is_stale)

        await asyncio.gather(*(one() for _ in range(3)))
        assert stale == [False, True, True]
        assert STALE_AFTER_SECONDS <= 1.0

    in_virtual_time(story)


# --- stopping -----------------------------------------------------------------------------------------------------


def test_when_the_worker_stops_nobody_waits_and_who_can_go_goes() -> None:
    """K5: a drain is as long as the longest call, not as the queue; what is not done is driven again later."""

    async def story() -> None:
        rate = a_rate(calls_max=1, credential_per_second=10.0)
        got: list[Place | None] = []

        async def one() -> None:
            async with rate.place("a") as place:
                got.append(place)

        async with sent(rate):
            waiting = [asyncio.ensure_future(one()) for _ in range(5)]
            await asyncio.sleep(5.0)
            rate.stop()
            await asyncio.gather(*waiting)
            await one()
        assert got == [None] * 6
        assert now() == 5.0
        await one()
        assert got[-1] is not None

    in_virtual_time(story)


# --- 429 ----------------------------------------------------------------------------------------------------------


def test_a_storm_of_429_halves_the_places_once_a_second() -> None:
    """S0-22: calls under way together are one piece of news."""

    async def story() -> None:
        metrics = Metrics()
        rate = a_rate(64, metrics)

        async def one() -> None:
            async with sent(rate):
                await asyncio.sleep(0.1)
                rate.learn(too_many())

        await asyncio.gather(*(one() for _ in range(64)))
        assert metrics.registry.get_sample_value("rate_limit_429_total") == 64
        assert metrics.registry.get_sample_value("visa_calls_allowed") == 32

    in_virtual_time(story)


def test_places_come_back_one_for_each_round_of_answers() -> None:
    """S0-22: silence says nothing about the rate, an answer does."""

    async def story() -> None:
        metrics = Metrics()
        rate = a_rate(8, metrics)
        rate.learn(too_many())
        for _ in range(100):
            rate.learn(SILENT)
        assert metrics.registry.get_sample_value("visa_calls_allowed") == 4
        for _ in range(5):
            rate.learn(PAID)
        assert metrics.registry.get_sample_value("visa_calls_allowed") == 5
        for _ in range(50):
            rate.learn(PAID)
        assert metrics.registry.get_sample_value("visa_calls_allowed") == 8

    in_virtual_time(story)


def test_narrowed_places_bound_what_is_in_flight() -> None:
    """S0-22: those under way end; nobody follows until there are fewer than the new bound."""

    async def story() -> None:
        rate = a_rate(4)
        in_flight = most = 0

        async def one(seconds: float) -> None:
            nonlocal in_flight, most
            async with sent(rate):
                in_flight += 1
                most = max(most, in_flight)
                await asyncio.sleep(seconds)
                in_flight -= 1

        early = [asyncio.ensure_future(one(1.0)) for _ in range(4)]
        await turns()
        rate.learn(too_many())
        late = [asyncio.ensure_future(one(1.0)) for _ in range(6)]
        await asyncio.gather(*early)
        most = 0
        await asyncio.gather(*late)
        assert most == 2

    in_virtual_time(story)


@pytest.mark.parametrize(("asked", "waited"), [(3.0, 3.0), (3600.0, SHARED_RETRY_AFTER_SECONDS_MAX), (None, 0.0)])
def test_a_retry_after_keeps_every_originator_back(asked: float | None, waited: float) -> None:
    """S0-21, S0-22: it is the credential that was refused; an hour is left to the lane that met it."""

    async def story() -> None:
        rate = a_rate()
        rate.learn(too_many(asked))
        async with sent(rate, "another") as place:
            assert place.waited_seconds == pytest.approx(waited)

    in_virtual_time(story)


def test_a_retry_after_counts_from_the_answer_that_asked_for_it() -> None:
    """S0-21: not from the next call, which may be long after."""

    async def story() -> None:
        rate = a_rate()
        rate.learn(too_many(3600.0))
        await asyncio.sleep(SHARED_RETRY_AFTER_SECONDS_MAX)
        async with sent(rate) as place:
            assert place.waited_seconds == 0.0

    in_virtual_time(story)


def test_a_shorter_retry_after_does_not_shorten_a_longer_one() -> None:
    """S0-21."""

    async def story() -> None:
        rate = a_rate()
        rate.learn(too_many(5.0))
        rate.learn(too_many(1.0))
        async with sent(rate) as place:
            assert place.waited_seconds == pytest.approx(5.0)

    in_virtual_time(story)


def test_a_clock_that_goes_back_makes_no_long_rest_of_a_short_one() -> None:
    """S0-22: nobody's clock should; a worker that stands still for a day is worse."""

    async def story() -> None:
        seconds = [1_000_000.0]
        rate = VisaRate(calls_max=4, metrics=Metrics(), credential_per_second=10.0, clock=lambda: seconds[0])
        rate.learn(too_many(3.0))
        seconds[0] = 0.0
        waiting = asyncio.ensure_future(call(rate, "a", []))
        await turns()
        assert not waiting.done()
        seconds[0] = SHARED_RETRY_AFTER_SECONDS_MAX + 0.2
        await asyncio.wait_for(waiting, 60.0)

    in_virtual_time(story)


def test_holding_back_is_declared_only_while_somebody_waits_for_a_429() -> None:
    """K5: the watchdog must not take it for a standstill; our own steady rate is none of it."""

    async def story() -> None:
        rate = a_rate(calls_max=2, credential_per_second=1.0)
        waiting = [asyncio.ensure_future(call(rate, "a", [])) for _ in range(3)]
        await turns()
        assert not rate.is_holding_back
        rate.learn(too_many(5.0))
        assert rate.is_holding_back
        await asyncio.gather(*waiting)
        assert not rate.is_holding_back

    in_virtual_time(story)


def test_waits_are_counted_by_the_limit_that_made_them() -> None:
    """S0-22: rate_limit_client_side_total; more work than places is no limit of rate."""

    async def story() -> None:
        def counted(metrics: Metrics) -> dict[str, float]:
            samples = next(iter(metrics.rate_limit_client_side.collect())).samples
            return {sample.labels["limit"]: sample.value for sample in samples if sample.name.endswith("_total")}

        async def two(rate: VisaRate) -> None:
            await asyncio.gather(*(call(rate, "a", [], takes_seconds=0.1) for _ in range(2)))

        full, credential, originator, rest = (Metrics() for _ in range(4))
        await two(a_rate(1, full))
        await two(a_rate(9, credential, credential_per_second=1.0))
        await two(a_rate(9, originator, originator_per_second=1.0))
        resting = a_rate(9, rest)
        resting.learn(too_many(1.0))
        await two(resting)
        assert counted(full) == {}
        assert counted(credential) == {"credential": 1}
        assert counted(originator) == {"originator": 1}
        assert counted(rest) == {"retry_after": 2}
        assert rest.registry.get_sample_value("rate_limit_retry_after_seconds_count") == 1

    in_virtual_time(story)


# --- in a worker --------------------------------------------------------------------------------------------------


async def test_a_paused_lane_spends_no_token(world: World) -> None:
    """S7, S0-22: who finds his lane paused gives both back, and a call of another lane finds them."""
    calls = world.worker.calls
    lane = calls.pauses.lane(CallKind.PUSH)
    turn = lane.enter()
    assert turn is not None
    lane.conclude(turn, Outcome(OutcomeKind.REFUSED, "HTTP_401", refusal=Refusal.CREDENTIALS, http_status=401))
    calls.rate = VisaRate(calls_max=1, metrics=Metrics(), credential_per_second=0.001)
    for _ in range(3):
        async with calls.permit(CallKind.PUSH, "acme", patient=False) as permit:
            assert permit is None
    async with calls.permit(CallKind.QUERY, "acme", patient=False) as permit:
        assert permit is not None


async def test_a_429_narrows_the_workers_places_and_is_counted_by_name(world: World) -> None:
    """S0-22, S1-22, S0-20: from Visa's answer to the metrics; the retry is counted by what it was answered."""
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: refused(429, retry_after="2")]
    await world.ask("payout-0001")
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"
    value = world.worker.metrics.registry.get_sample_value
    assert value("rate_limit_429_total") == 1
    assert value("rate_limit_retry_after_seconds_sum") == 2
    labels = {"error_type": "rate_limit", "error_category": "rate_limit", "error_name": "RateLimitExceeded"}
    assert value("visa_direct_errors_total", labels) == 1
    assert value("retry_attempt_total", {"operation": "PUSH", "status_code": "200"}) == 1


async def test_every_call_that_leaves_spends_a_token(world: World) -> None:
    """S0-22: pushes of one worker are as far apart as the rate says, whatever their payout."""
    calls, left = world.worker.calls, list[float]()
    calls.rate = VisaRate(
        calls_max=8,
        metrics=Metrics(),
        credential_per_second=0.5,
        clock=lambda: world.now.timestamp(),
        call_later=world._call_later,
    )

    async def note(_: object) -> None:
        left.append(world.now.timestamp())

    world.visa.pause = note
    for number in range(4):
        await world.ask(f"payout-000{number}")
    await world.settle()
    assert len(world.visa.pushes) == 4
    assert [round(later - earlier, 3) for earlier, later in itertools.pairwise(left)] == [2.0, 2.0, 2.0]


async def test_a_payout_that_expired_while_it_waited_for_the_rate_is_not_sent(world: World) -> None:
    """S7: a permit after a long wait begins with another look at the row."""
    calls = world.worker.calls
    pending: list[Callable[[], None]] = []

    class Timer:
        def cancel(self) -> None:
            pending.clear()

    def later(_seconds: float, wake: Callable[[], None]) -> Timer:
        pending.append(wake)
        return Timer()

    calls.rate = VisaRate(
        calls_max=8,
        metrics=Metrics(),
        credential_per_second=0.01,
        clock=lambda: world.now.timestamp(),
        call_later=later,
    )
    async with sent(calls.rate):
        pass
    await world.ask("payout-0001", expires_at=world.now.replace(hour=world.now.hour + 1))
    delivering = asyncio.ensure_future(world.deliver_all())
    await until_pending(pending)
    world.advance(2 * 3600)
    pending.pop()()
    await delivering
    assert (await world.row("payout-0001")).state == "EXPIRED"
    assert world.visa.requests == []
    assert "ledger.issue_identity_number:before" not in world.boundary.passed


async def until_pending(pending: list[Callable[[], None]]) -> None:
    for _ in range(10_000):
        if pending:
            return
        await asyncio.sleep(0)
    raise AssertionError("nobody waits for the rate")
