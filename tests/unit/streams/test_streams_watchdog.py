"""Design 6: the watchdog ends a worker whose event loop, or whose committed offset, stands still, and no other."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import bootstrap
from streams import watchdog as module
from streams.holes import Slot
from streams.settings import Profile, Settings
from streams.watchdog import EXIT_CODE_WEDGED, Standstill, Watchdog, Work

LIMIT_SECONDS = 0.2


class Ended(list[int]):
    """Exit codes that the process would have ended with."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def __call__(self, code: int) -> None:
        self.append(code)
        self.event.set()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Ended:
    calls = Ended()
    monkeypatch.setattr(module.os, "_exit", calls)
    monkeypatch.setattr(module, "CHECK_EVERY_SECONDS", 0.02)
    return calls


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    dog = Watchdog(LIMIT_SECONDS)
    yield dog
    dog.stop()
    if dog._thread.is_alive():
        dog._thread.join(5.0)
    assert not dog._thread.is_alive()


def test_silence_ends_the_worker_with_a_code_that_restarts_it(ended: Ended, watchdog: Watchdog) -> None:
    """K5, design 6: a wedged event loop keeps its partitions for ever, so the process ends."""
    watchdog.start()
    assert ended.event.wait(10.0)
    assert set(ended) == {EXIT_CODE_WEDGED}


def test_s3_33_it_says_where_the_worker_stands_before_it_ends_it(ended: Ended) -> None:
    """S3-33: nobody has to be there in time to see what it was."""
    said: list[tuple[str, bool]] = []
    dog = Watchdog(LIMIT_SECONDS, tell_where=lambda why: said.append((why, ended.event.is_set())))
    dog.start()
    try:
        assert ended.event.wait(10.0)
    finally:
        dog.stop()
        dog._thread.join(5.0)
    assert said[0] == ("the event loop stands still", False)


def test_beats_keep_the_worker_alive(ended: Ended, watchdog: Watchdog) -> None:
    """A loop that turns is left alone for many times the limit."""
    watchdog.start()
    until = time.monotonic() + 3 * LIMIT_SECONDS
    while time.monotonic() < until:
        watchdog.beat()
        ended.event.wait(0.01)
    assert ended == []


def test_a_stopped_watchdog_ends_nobody(ended: Ended, watchdog: Watchdog) -> None:
    """An orderly stop may take longer than the limit."""
    watchdog.start()
    watchdog.stop()
    watchdog._thread.join(5.0)
    assert not ended.event.wait(2 * LIMIT_SECONDS)


def test_a_process_that_was_frozen_as_a_whole_gets_another_chance(
    ended: Ended, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault model: SIGSTOP for any time; after SIGCONT the loop must first have a chance to turn."""
    now = 1000.0
    steps = iter([0.02, 500.0, 0.02, 0.02])
    watchdog._last = now

    def monotonic() -> float:
        return now

    def wait(_: float) -> bool:
        nonlocal now
        step = next(steps, None)
        if step is None:
            return True
        now += step
        return False

    monkeypatch.setattr(module, "time", type("Time", (), {"monotonic": staticmethod(monotonic)}))
    monkeypatch.setattr(watchdog._stopped, "wait", wait)
    watchdog._watch()
    assert ended == []


A: Slot = ("payout_requests", 0)
B: Slot = ("payout_requests", 1)
STANDSTILL_SECONDS = 30.0


def work(a: int, *waiting: Slot, paused: bool = False) -> Work:
    """Partition A at an offset; B never moves."""
    return Work({A: a, B: 7}, frozenset(waiting), paused)


def test_a_partition_that_stands_still_while_work_waits_is_named() -> None:
    """Design 6: over the limit, not at it; and only that partition."""
    standstill = Standstill(STANDSTILL_SECONDS)
    assert standstill.over_limit(work(5, A), 100.0) == []
    assert standstill.over_limit(work(5, A), 130.0) == []
    assert standstill.over_limit(work(5, A), 130.5) == [A]


def test_progress_begins_the_count_anew() -> None:
    """A call may take long: what counts is that the committed offset moves within the limit."""
    standstill = Standstill(STANDSTILL_SECONDS)
    for number in range(20):
        assert standstill.over_limit(work(number, A), 100.0 + 29.0 * number) == []


@pytest.mark.parametrize("declared", [work(5), work(5, A, paused=True), Work({B: 7}, frozenset({A}))])
def test_without_waiting_work_in_a_declared_pause_or_without_the_partition_nobody_is_ended(declared: Work) -> None:
    """K5: what is away pauses the worker on purpose; the count begins anew when it comes back."""
    standstill = Standstill(STANDSTILL_SECONDS)
    assert standstill.over_limit(work(5, A), 100.0) == []
    assert standstill.over_limit(declared, 125.0) == []
    assert standstill.over_limit(declared, 500.0) == []
    assert standstill.over_limit(work(5, A), 501.0) == []
    assert standstill.over_limit(work(5, A), 530.0) == []
    assert standstill.over_limit(work(5, A), 532.0) == [A]


@given(st.lists(st.tuples(st.floats(0.1, 40.0), st.booleans(), st.booleans(), st.booleans()), max_size=40))
def test_property_ended_is_exactly_who_stood_still_for_the_whole_limit(
    steps: list[tuple[float, bool, bool, bool]],
) -> None:
    """Design 6, against the definition: no step within the limit moved, paused, or found nothing waiting."""
    standstill = Standstill(STANDSTILL_SECONDS)
    now, offset, excused_at = 1000.0, 0, 1000.0
    standstill.over_limit(work(offset, A), now)
    for seconds, moves, waits, paused in steps:
        now += seconds
        offset += moves
        if moves or not waits or paused:
            excused_at = now
        found = standstill.over_limit(work(offset, *([A] if waits else []), paused=paused), now)
        assert found == ([A] if now - excused_at > STANDSTILL_SECONDS else [])


def test_a_standstill_ends_the_worker_although_its_loop_turns(ended: Ended) -> None:
    """Design 6: heartbeats go on in another thread, so nobody else would notice."""
    dog = Watchdog(60.0, standstill_seconds=0.1)
    dog.beat(work(5, A))
    dog.start()
    try:
        assert ended.event.wait(10.0)
        assert set(ended) == {EXIT_CODE_WEDGED}
    finally:
        dog.stop()
        dog._thread.join(5.0)


@pytest.mark.parametrize(("rebalancing", "minutes", "ends"), [(True, 1, False), (True, 30, True), (False, 30, False)])
def test_a_rebalance_that_does_not_end_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch, *, rebalancing: bool, minutes: float, ends: bool
) -> None:
    """K5: it works on nothing, and has no partition that the watchdog could look at."""
    ended: list[str] = []
    monkeypatch.setattr(bootstrap, "_end_process", ended.append)
    worker = SimpleNamespace(
        app=SimpleNamespace(rebalancing=rebalancing),
        settings=Settings(payouts_profile=Profile.PRODUCTION),
        _assigned_at=time.monotonic() - minutes * 60,
    )
    bootstrap.WorkerRuntime._end_if_never_assigned(cast("Any", worker))
    assert bool(ended) is ends
