"""Burrow's status rules, by Burrow's own cases, and the window of looks that feeds them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.lag_status import SAMPLE_SECONDS, WINDOW_SAMPLES, Commit, Status, Window, evaluate, worst

ADVANCING = (1000, 2000, 3000, 4000, 5000)
CONSTANT = (1000,) * 5
WENT_BACK_AND_CAUGHT_UP = (1000, 2000, 3000, 2000, 4000)
WENT_BACK = (1000, 2000, 3000, 2000, 2500)
FROM_ZERO = (0, 50, 100, 150, 200)
FROM_FIFTY = (50, 100, 150, 200, 250)
FROM_HUNDRED = (100, 150, 200, 250, 300)
WITH_A_PEAK = (100, 150, 200, 1250, 300)
EVERY_100_SECONDS = (100, 200, 300, 400, 500)
ONE_A_SECOND = tuple(range(792748079, 792748094))
SECONDS = (
    1512224618.356, 1512224619.362, 1512224620.366, 1512224621.367, 1512224622.370, 1512224623.373, 1512224624.378,
    1512224625.379, 1512224626.383, 1512224627.383, 1512224628.383, 1512224629.388, 1512224630.391, 1512224631.394,
    1512224632.397,
)  # fmt: skip


def commits(offsets: Sequence[int], seconds: Sequence[float], lags: Sequence[int | None]) -> list[Commit]:
    """Commits of these offsets at these times with these lags."""
    return [Commit(*of_one) for of_one in zip(offsets, seconds, lags, strict=True)]


def steady(offsets: Sequence[int], lags: Sequence[int | None]) -> list[Commit]:
    """One commit every hundred seconds."""
    return commits(offsets, EVERY_100_SECONDS, lags)


WITHOUT_LAGS_BETWEEN = commits(
    (1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000, 5500),
    (100, 150, 200, 250, 300, 350, 400, 450, 500, 550),
    (0, None, 50, None, 100, None, 150, None, 200, None),
)
ALLOWED_ONE = commits((1000, 2000, 2000), (100, 200, 300), (2, 1, 1))
IDLE = commits(ONE_A_SECOND, SECONDS, (0,) * 15)

# Number in Burrow's own test (core/internal/evaluator/caching_test.go, October 2025): commits, ends seen lately, lag
# now, time now, allowed lag, status.
BURROWS_CASES = [
    pytest.param(steady(ADVANCING, FROM_ZERO), [5200], 200, 600, 0, Status.OK, id="0: no lag somewhere"),
    pytest.param(steady(ADVANCING, FROM_ZERO), [5200], 200, 900, 0, Status.OK, id="1: as long ago, not longer"),
    pytest.param(steady(ADVANCING, FROM_ZERO), [5200], 200, 1000, 0, Status.STOP, id="2: stopped after no lag"),
    pytest.param(steady(ADVANCING, FROM_FIFTY), [5250], 250, 1000, 0, Status.STOP, id="3: stopped with lag"),
    pytest.param(steady(CONSTANT, FROM_ZERO), [1200], 200, 600, 0, Status.OK, id="4: stands, no lag at first"),
    pytest.param(steady(CONSTANT, FROM_HUNDRED), [1300], 300, 600, 0, Status.STALL, id="5: stands, lag grows"),
    pytest.param(steady(CONSTANT, (100,) * 5), [1100], 100, 600, 0, Status.STALL, id="6: stands, lag stays"),
    pytest.param(steady(WENT_BACK_AND_CAUGHT_UP, WITH_A_PEAK), [4300], 300, 600, 0, Status.OK, id="7: caught up"),
    pytest.param(steady(ADVANCING, FROM_FIFTY), [5250], 0, 1000, 0, Status.OK, id="8: no lag now"),
    pytest.param(
        IDLE, [792749024, 792749000, 792748800, 792748600, 792748500], 931, 1512224650, 0, Status.STOP,
        id="9: new records after an idle time",
    ),
    pytest.param(
        IDLE, [792748094, 792748093, 792748093, 792748093], 1, 1512224650, 0, Status.OK, id="10: no lag a moment ago",
    ),
    pytest.param(WITHOUT_LAGS_BETWEEN, [5700], 200, 600, 0, Status.OK, id="11: unknown lags between"),
    pytest.param(ALLOWED_ONE, [2001], 1, 550, 1, Status.OK, id="12: no more than allowed"),
    pytest.param(steady(CONSTANT, FROM_HUNDRED), [1300], 300, 600, 99, Status.STALL, id="13: 5, more than allowed"),
    pytest.param(steady(WENT_BACK_AND_CAUGHT_UP, WITH_A_PEAK), [4300], 300, 600, 99, Status.OK, id="14: 7, allowed 99"),
    pytest.param(steady(WENT_BACK, WITH_A_PEAK), [4300], 300, 600, 0, Status.REWIND, id="15: not caught up"),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "ends", "lag", "now", "allowed", "status"), BURROWS_CASES)
def test_burrows_own_cases_have_burrows_answers(
    seen: list[Commit], ends: list[int], lag: int, now: float, allowed: int, status: Status
) -> None:
    """S3-09: the rules are Burrow's, verbatim."""
    assert evaluate(seen, ends, lag, now, allowed) is status


def test_a_lag_that_never_falls_is_a_warning() -> None:
    """Burrow's rule 5, which no case of its own ends in: offsets advance, too slowly."""
    assert evaluate(steady(ADVANCING, FROM_HUNDRED), [5300], 300, 600) is Status.WARN
    assert evaluate(steady(ADVANCING, (100, 150, 140, 250, 300)), [5300], 300, 600) is Status.OK


def test_going_back_is_seen_also_after_a_moment_without_lag() -> None:
    """A replay from the earliest begins with no lag: that must not hide it for a whole window."""
    assert evaluate(steady((5000, 5000, 10, 20, 30), (0, 0, 4990, 4980, 4970)), [5000], 4970, 600) is Status.REWIND


def test_a_group_is_as_bad_as_its_worst_partition() -> None:
    assert worst([]) is Status.OK
    assert worst([Status.OK, Status.OK]) is Status.OK
    assert worst([Status.OK, Status.WARN]) is Status.WARN
    for bad in (Status.STOP, Status.STALL, Status.REWIND):
        assert worst([Status.OK, bad, Status.WARN]) is Status.ERR


# The window.


def window(looks: Sequence[tuple[int, int, bool]], every_seconds: float = SAMPLE_SECONDS) -> Window:
    """A window that has had these looks: offset, end, and whether a member had the partition."""
    made = Window()
    for number, (offset, end, held) in enumerate(looks):
        made.add(offset=offset, end=end, lag=end - offset, held=held, at_seconds=number * every_seconds)
    return made


def test_an_incomplete_window_is_ok_by_rule_and_says_that_it_is_incomplete() -> None:
    almost = window([(100, 900, True)] * (WINDOW_SAMPLES - 1))
    assert (almost.status(), almost.complete, almost.seen) == (Status.OK, False, WINDOW_SAMPLES - 1)
    full = window([(100, 900, True)] * WINDOW_SAMPLES)
    assert (full.status(), full.complete) == (Status.STALL, True)


def test_an_offset_that_stands_is_a_stall_with_a_member_and_a_stop_without() -> None:
    """Kafka tells no time of a commit: whether somebody could commit is what tells the two apart."""
    assert window([(100, 900, True)] * WINDOW_SAMPLES).status() is Status.STALL
    assert window([(100, 900, False)] * WINDOW_SAMPLES).status() is Status.STOP


def test_a_member_that_has_just_come_ends_a_stop() -> None:
    waiting = [(100, 900, False)] * (WINDOW_SAMPLES - 1)
    assert window([*waiting, (100, 900, False)]).status() is Status.STOP
    assert window([*waiting, (200, 900, True)]).status() is not Status.STOP


def test_commits_without_a_member_are_commits() -> None:
    """A consumer that assigns its partitions to itself is in no group, and commits."""
    assert window([(100 * n, 5000, False) for n in range(WINDOW_SAMPLES)]).status() is Status.OK


def test_work_that_has_just_arrived_is_no_stop() -> None:
    """Burrow's issue 303: no lag a moment ago."""
    idle = [(100, 100, False)] * (WINDOW_SAMPLES - 1)
    assert window([*idle, (100, 150, False)]).status() is Status.OK


def test_offsets_that_were_set_back_are_a_rewind_until_they_are_where_they_were() -> None:
    back = [(900, 1000, True)] * 3 + [(100 + n, 1000, True) for n in range(WINDOW_SAMPLES - 3)]
    assert window(back).status() is Status.REWIND
    assert window([*back[:-1], (950, 1000, True)]).status() is Status.OK


def test_looks_that_come_too_fast_do_not_fill_the_window() -> None:
    """A second of standing still is no stall: calls to Visa take up to thirty."""
    assert window([(100, 900, True)] * 30, every_seconds=1.0).seen == 2
    assert window([(100, 900, True)] * 30, every_seconds=1.0).status() is Status.OK


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans()), max_size=60))
def test_whatever_is_seen_the_window_is_bounded_and_answers(looks: list[tuple[int, int, bool]]) -> None:
    """No history grows for ever, and no sequence of looks breaks the rules."""
    made = Window()
    for number, (offset, behind, held) in enumerate(looks):
        made.add(offset=offset, end=offset + behind, lag=behind, held=held, at_seconds=number * SAMPLE_SECONDS)
        assert made.seen <= WINDOW_SAMPLES
        if not behind or not made.complete:
            assert made.status() is Status.OK
        assert made.status() in set(Status) - {Status.ERR}


def test_what_is_no_longer_committed_is_forgotten() -> None:
    made = window([(100, 900, True)] * WINDOW_SAMPLES)
    made.clear()
    assert (made.seen, made.status()) == (0, Status.OK)
