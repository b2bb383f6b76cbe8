"""S1-06, S1-17, S0-09: three failures open it, sixty seconds later one may try; on a clock that the test moves."""

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from processors.visa.breaker import Breaker, BreakerOpen, BreakerState, CallTooLong

RESET_SECONDS = 60.0


class Now:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Away(Exception):
    pass


async def well() -> str:
    return "well"


async def badly() -> str:
    raise Away


def breaker_at(now: Now, heard: list[tuple[BreakerState, bool]] | None = None, **numbers: float) -> Breaker:
    return Breaker(
        "b",
        max_failures=3,
        reset_seconds=RESET_SECONDS,
        timeout_seconds=numbers.get("timeout_seconds", 10.0),
        clock=now,
        on_change=lambda state, by_hand: None if heard is None else heard.append((state, by_hand)),
    )


async def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Away):
            await breaker.call(badly)


async def test_its_three_states_in_their_order() -> None:
    """S1-06: CLOSED, OPEN after the third failure, HALF_OPEN after the reset time, CLOSED after one success."""
    now, heard = Now(), []  # type: ignore[var-annotated]
    breaker = breaker_at(now, heard)
    await fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    await fail(breaker)
    assert breaker.state is BreakerState.OPEN
    now.seconds = RESET_SECONDS - 0.1
    with pytest.raises(BreakerOpen):
        await breaker.call(well)
    now.seconds = RESET_SECONDS
    assert breaker.state is BreakerState.HALF_OPEN
    assert await breaker.call(well) == "well"
    assert breaker.state is BreakerState.CLOSED
    assert heard == [(BreakerState.OPEN, False), (BreakerState.HALF_OPEN, False), (BreakerState.CLOSED, False)]


async def test_a_failed_trial_waits_the_whole_time_again() -> None:
    """S1-06: one failure is enough while half open."""
    now = Now()
    breaker = breaker_at(now)
    await fail(breaker, 3)
    now.seconds = RESET_SECONDS + 7.0
    await fail(breaker)
    now.seconds += RESET_SECONDS - 0.1
    assert breaker.state is BreakerState.OPEN
    now.seconds += 0.1
    assert breaker.state is BreakerState.HALF_OPEN


async def test_a_success_in_between_begins_the_count_anew() -> None:
    """S1-06: failures in a row, not in all."""
    breaker = breaker_at(Now())
    for _ in range(5):
        await fail(breaker, 2)
        await breaker.call(well)
    assert breaker.state is BreakerState.CLOSED


async def test_one_trial_at_a_time_and_a_cancelled_one_leaves_its_place() -> None:
    """S1-06: who hangs in the trial keeps the others out, and not for ever."""
    now = Now()
    breaker = breaker_at(now)
    await fail(breaker, 3)
    now.seconds = RESET_SECONDS
    hanging = asyncio.create_task(breaker.call(asyncio.Event().wait))
    await asyncio.sleep(0)
    with pytest.raises(BreakerOpen):
        await breaker.call(well)
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert breaker.state is BreakerState.HALF_OPEN
    assert await breaker.call(well) == "well"


async def test_a_call_that_takes_too_long_is_a_failure() -> None:
    """S1-06: ten seconds by default; the trial is bounded like any other call."""
    now = Now()
    breaker = breaker_at(now, timeout_seconds=0.001)
    for _ in range(3):
        with pytest.raises(CallTooLong):
            await breaker.call(asyncio.Event().wait)
    assert breaker.state is BreakerState.OPEN
    now.seconds = RESET_SECONDS
    with pytest.raises(CallTooLong):
        await breaker.call(asyncio.Event().wait)
    assert breaker.state is BreakerState.OPEN


async def test_a_person_closes_it_and_a_late_end_of_an_old_call_changes_nothing() -> None:
    """S0-10: reset by hand is told as such; what began before the opening does not open or close it later."""
    now, heard = Now(), []  # type: ignore[var-annotated]
    breaker = breaker_at(now, heard)
    go = asyncio.Event()

    async def late(work: BaseException | None) -> str:
        await go.wait()
        if work is not None:
            raise work
        return "late"

    slow = [
        asyncio.create_task(breaker.call(lambda: late(None))),
        asyncio.create_task(breaker.call(lambda: late(Away()))),
    ]
    await asyncio.sleep(0)
    await fail(breaker, 3)
    now.seconds = 10.0
    go.set()
    await asyncio.gather(*slow, return_exceptions=True)
    assert breaker.state is BreakerState.OPEN
    now.seconds = RESET_SECONDS
    assert breaker.state is BreakerState.HALF_OPEN, "the late failure did not begin the wait anew"
    breaker.reset()
    assert heard[-1] == (BreakerState.CLOSED, True)
    await fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


class BreakerLife(RuleBasedStateMachine):
    """Calls succeed and fail, time passes, people reset."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Now()
        self.breaker = breaker_at(self.now)
        self.in_a_row = 0

    @rule(ok=st.booleans())
    def somebody_calls(self, ok: bool) -> None:
        before = self.breaker.state
        made = True

        async def call() -> None:
            nonlocal made
            try:
                await self.breaker.call(well if ok else badly)
            except BreakerOpen:
                made = False
            except Away:
                pass

        asyncio.run(call())
        assert made is (before is not BreakerState.OPEN)
        if made:
            self.in_a_row = 0 if ok else self.in_a_row + 1
        wanted = {
            BreakerState.OPEN: BreakerState.OPEN,
            BreakerState.HALF_OPEN: BreakerState.CLOSED if ok else BreakerState.OPEN,
            BreakerState.CLOSED: BreakerState.OPEN if self.in_a_row >= 3 else BreakerState.CLOSED,
        }
        assert self.breaker.state is wanted[before]

    @rule(seconds=st.sampled_from([0.5, 20.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now.seconds += seconds

    @precondition(lambda self: self.in_a_row)
    @rule()
    def somebody_resets(self) -> None:
        self.breaker.reset()
        self.in_a_row = 0
        assert self.breaker.state is BreakerState.CLOSED

    @invariant()
    def it_is_closed_without_failures(self) -> None:
        if self.in_a_row < 3:
            assert self.breaker.state is BreakerState.CLOSED


TestBreakerLife = BreakerLife.TestCase
