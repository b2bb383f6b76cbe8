"""S3-33, P6: a running worker says where it is, by names of code and never by a value."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from typing import Any

import pytest
import uvloop

from streams.stacks import FRAMES_MAX, tasks, tell_on_signal, threads, told, told_in_time

CARD = "4111111111111111"


async def innermost(card: str, gate: asyncio.Event) -> str:
    await gate.wait()
    return card


async def outer(card: str, gate: asyncio.Event) -> str:
    return await innermost(card, gate)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.getMessage() == "where it is"]


async def test_s3_33_tasks_say_for_what_they_wait_and_who_asked_for_it(caplog: pytest.LogCaptureFixture) -> None:
    """S3-33: from the innermost await outwards; tasks at the same place are one line."""
    gate = asyncio.Event()
    waiting = [asyncio.create_task(outer(CARD, gate)) for _ in range(5)]
    await asyncio.sleep(0)
    found = tasks(asyncio.get_running_loop())
    ((name, place), count) = next(one for one in found.items() if one[0][0] == "outer")
    assert (name, count) == ("outer", 5)
    steps = [step.split(" ")[1] for step in place.split(" < ")]
    assert steps[-2:] == ["innermost", "outer"]
    assert "streams/test_streams_stacks.py:" in place
    with caplog.at_level(logging.WARNING):
        assert told("asked", asyncio.get_running_loop()) >= 2
    gate.set()
    await asyncio.gather(*waiting)
    assert CARD not in caplog.text
    assert not [line for line in lines_of(caplog) if CARD in str(line)], "P6: a local variable is no name of code"


def test_s3_33_threads_are_named_and_deep_ones_cut() -> None:
    """S3-33: the innermost frames; recursion does not make a line of a megabyte."""
    entered, leave = threading.Event(), threading.Event()

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=deep, args=(200,), name="deep-one", daemon=True)
    thread.start()
    assert entered.wait(10)
    try:
        place = dict(threads())["deep-one"]
    finally:
        leave.set()
        thread.join()
    assert len(place.split(" < ")) == FRAMES_MAX
    assert "wait" in place.split(" < ")[0]


def test_s3_33_a_signal_is_answered_while_the_loop_stands_still(caplog: pytest.LogCaptureFixture) -> None:
    """S3-33: just then somebody wants to know. uvloop, as in a worker; Faust's own handler is replaced."""

    async def wedged() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: None)
        tell_on_signal(loop)
        os.kill(os.getpid(), signal.SIGUSR1)
        until = time.monotonic() + 10
        while not lines_of(caplog) and time.monotonic() < until:
            time.sleep(0.01)  # noqa: ASYNC251 - the loop is to stand still

    before = signal.getsignal(signal.SIGUSR1)
    try:
        with caplog.at_level(logging.WARNING):
            uvloop.run(wedged())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [line for line in lines_of(caplog) if "wedged" in line["stack"] and line["why"] == "a signal"]


def test_whoever_ends_a_worker_does_not_wait_for_what_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5: the worker ends, also when nothing can be said."""
    monkeypatch.setattr("streams.stacks.TELL_SECONDS_MAX", 0.05)
    monkeypatch.setattr("streams.stacks.told", lambda *_: time.sleep(5))
    begun = time.monotonic()
    told_in_time("the event loop stands still", None)
    assert time.monotonic() - begun < 4
