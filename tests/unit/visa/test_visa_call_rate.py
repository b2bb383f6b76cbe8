"""S0-22: what may leave in any time, how a 429 narrows the window, whose turn it is. Pure; the tests bring the time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.visa.call_rate import BURST_SECONDS, CallWindow, FairQueue, TokenBucket

RATES = st.floats(0.1, 500.0)
STEPS = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200)
TOLERANCE = 1e-6


def left_at(bucket: TokenBucket, times: list[float]) -> list[float]:
    """When calls left that were asked for at these times, and given up where there was no token."""
    left = []
    for now in times:
        if bucket.seconds_to_token(now) == 0.0:
            bucket.take()
            left.append(now)
    return left


@given(per_second=RATES, steps=STEPS)
def test_property_never_more_leaves_than_the_rate_and_a_burst(per_second: float, steps: list[float]) -> None:
    """S0-22: in every stretch of time, not only in the whole."""
    times = [sum(steps[: number + 1]) for number in range(len(steps))]
    bucket = TokenBucket(per_second)
    left = left_at(bucket, times)
    for first in range(len(left)):
        for last in range(first, len(left)):
            allowed = per_second * (left[last] - left[first]) + bucket.burst
            assert last - first + 1 <= allowed + TOLERANCE


@given(per_second=RATES, steps=STEPS)
def test_property_who_waits_as_long_as_he_is_told_gets_a_token(per_second: float, steps: list[float]) -> None:
    """S0-22: a timer set by it does not fire in vain, and the rate is reached."""
    bucket, now = TokenBucket(per_second), 0.0
    for step in steps:
        now += step
        now += bucket.seconds_to_token(now) + TOLERANCE
        assert bucket.seconds_to_token(now) == 0.0
        bucket.take()


def test_a_burst_is_a_tenth_of_a_second_and_at_least_one_call() -> None:
    """S0-22: a peer that counts by the second must not see two seconds' worth."""
    assert (TokenBucket(200.0).burst, TokenBucket(1.0).burst) == (200.0 * BURST_SECONDS, 1.0)
    assert left_at(TokenBucket(200.0), [7.0] * 300) == [7.0] * 20


def test_a_token_given_back_is_there_again_and_never_more_than_the_burst() -> None:
    """S0-22: what was not sent takes nothing from what is."""
    bucket = TokenBucket(1.0)
    assert left_at(bucket, [0.0, 0.0]) == [0.0]
    bucket.give_back()
    bucket.give_back()
    assert left_at(bucket, [0.0, 0.0]) == [0.0]


def test_a_clock_that_steps_back_or_far_ahead_gives_no_more_than_a_burst() -> None:
    """S0-22: neither a flood nor a standstill."""
    bucket = TokenBucket(10.0)
    assert left_at(bucket, [1_000.0, 1_000.0]) == [1_000.0]
    assert left_at(bucket, [5.0, 5.05, 5.1]) == [5.1]
    assert left_at(bucket, [1e9, 1e9, 1e9]) == [1e9]


def test_without_a_rate_everything_may_leave() -> None:
    assert left_at(TokenBucket(None), [0.0] * 1_000) == [0.0] * 1_000


@pytest.mark.parametrize("per_second", [0.0, -1.0])
def test_a_rate_that_lets_nothing_through_is_refused(per_second: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(per_second)


# --- the window ---------------------------------------------------------------------------------------------------


def test_a_429_halves_the_window_once_a_second_and_never_below_one() -> None:
    """S0-22: sixty-four calls that meet one limit say so once."""
    window = CallWindow(64)
    assert [window.limited(10.0 + number / 100) for number in range(64)] == [True] + [False] * 63
    assert window.places == 32
    for second in range(11, 30):
        assert window.limited(float(second))
    assert window.places == 1


def test_a_round_of_answers_makes_one_place_more_up_to_the_most() -> None:
    """S0-22: additive increase, multiplicative decrease."""
    window = CallWindow(8)
    window.limited(0.0)
    rounds = []
    while window.is_narrowed:
        for _ in range(window.places):
            window.served()
        rounds.append(window.places)
    assert rounds == [4, 5, 6, 7, 8] or rounds == [5, 6, 7, 8]
    for _ in range(100):
        window.served()
    assert window.places == 8


@given(events=st.lists(st.one_of(st.just("served"), st.floats(-5.0, 5.0)), max_size=300), most=st.integers(1, 200))
def test_property_the_window_stays_between_one_and_the_most(events: list[str | float], most: int) -> None:
    """S0-22: whatever comes, also from a clock that goes back."""
    window, now = CallWindow(most), 100.0
    for event in events:
        if isinstance(event, float):
            now += event
            window.limited(now)
        else:
            window.served()
        assert 1 <= window.places <= most


# --- turns --------------------------------------------------------------------------------------------------------


def drained(queue: FairQueue[int], may_go: frozenset[str] | None = None) -> list[int]:
    items = []
    while (item := queue.pop(lambda name: may_go is None or name in may_go)) is not None:
        items.append(item)
    return items


def test_turns_go_round_and_an_originators_own_order_is_kept() -> None:
    """S0-22: one of each."""
    queue: FairQueue[int] = FairQueue()
    for originator, item in [("a", 1), ("a", 2), ("a", 3), ("b", 10), ("c", 20), ("b", 11)]:
        queue.push(originator, item)
    assert len(queue) == 6
    assert drained(queue) == [1, 10, 20, 2, 11, 3]
    assert not queue


def test_an_originator_that_may_not_go_keeps_his_turn_and_holds_up_nobody() -> None:
    """S0-22: one at his own limit is no reason for another to wait."""
    queue: FairQueue[int] = FairQueue()
    for originator, item in [("slow", 1), ("slow", 2), ("b", 10), ("c", 20)]:
        queue.push(originator, item)
    assert drained(queue, frozenset({"b", "c"})) == [10, 20]
    queue.push("b", 11)
    assert drained(queue) == [1, 11, 2]


def test_who_waits_no_more_is_out() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.push("a", 1)
    queue.push("a", 2)
    queue.remove("a", 1)
    queue.remove("a", 1)
    queue.remove("nobody", 1)
    assert drained(queue) == [2]
    queue.push("a", 3)
    queue.remove("a", 3)
    assert (queue.originators, queue.clear()) == ([], [])


@given(arrivals=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=300))
def test_property_nobody_is_more_than_one_call_ahead_of_whoever_waits_too(arrivals: list[str]) -> None:
    """S0-22: while two wait all the time, neither gets two turns more than the other."""
    queue: FairQueue[str] = FairQueue()
    for originator in arrivals:
        queue.push(originator, originator)
    total, given_to = Counter(arrivals), Counter[str]()
    while (name := queue.pop(lambda _: True)) is not None:
        given_to[name] += 1
        waiting = [other for other in total if given_to[other] < total[other]]
        assert all(given_to[name] - given_to[other] <= 1 for other in waiting)
    assert given_to == total
