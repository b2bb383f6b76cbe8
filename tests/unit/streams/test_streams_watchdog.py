"""Design 6: the watchdog ends a worker whose event loop stands still, and no other."""

import threading
import time
from collections.abc import Iterator

import pytest

from streams import watchdog as module
from streams.watchdog import EXIT_CODE_WEDGED, Watchdog

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
