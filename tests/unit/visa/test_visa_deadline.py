"""L3: the deadline is counted on a clock that a frozen process and a sleeping machine cannot stop."""

import time

import pytest

from processors.visa.deadline import Deadline, boottime_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_deadline_passes_at_its_moment_and_stays_passed() -> None:
    """L3."""
    clock = Clock()
    deadline = Deadline.after(5, clock=clock)
    assert (deadline.remaining_seconds(), deadline.expired()) == (5.0, False)
    clock.now = 104.999
    assert not deadline.expired()
    clock.now = 105.0
    assert (deadline.remaining_seconds(), deadline.expired()) == (0.0, True)
    clock.now = 1e9
    assert (deadline.remaining_seconds(), deadline.expired()) == (0.0, True)


def test_the_clock_is_the_one_that_counts_suspends() -> None:
    """L3: CLOCK_BOOTTIME where the system has it."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    before = time.clock_gettime(clock)
    assert before <= boottime_seconds() <= time.clock_gettime(clock)
    assert Deadline.after(0).expired()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_deadline_without_a_moment_is_refused(seconds: float) -> None:
    """A deadline that never comes would let a stale lease send."""
    with pytest.raises(ValueError, match="finite"):
        Deadline.after(seconds)
