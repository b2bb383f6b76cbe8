"""The simulation's event loop: time is a number, and a process can be stopped, thawed and killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from sandbox.simulation.virtual_loop import NothingToDo, Process, VirtualLoop, context_of, run_in


@pytest.fixture
def processes() -> list[Process]:
    """What a test has started."""
    return []


@pytest.fixture
def loop(processes: list[Process]) -> Iterator[VirtualLoop]:
    """A fresh one, at second 0."""
    loop = VirtualLoop()
    yield loop
    loop.end(processes)


def ticking(loop: VirtualLoop, process: Process, seen: list[float]) -> None:
    """Let the process note the time every second."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)
            seen.append(loop.time())

    run_in(process, lambda: loop.create_task(tick()))


def test_an_hour_passes_at_once_and_in_order(loop: VirtualLoop) -> None:
    """What is due earlier happens earlier; what is due at the same time, in the order it was asked for."""
    seen: list[str] = []
    for seconds, name in ((3600.0, "late"), (1.0, "first"), (1.0, "second")):
        loop.call_at(seconds, seen.append, name)
    loop.run_until_complete(asyncio.sleep(3600.0))
    assert seen == ["first", "second", "late"]
    assert loop.time() == 3600.0


def test_a_frozen_process_does_everything_when_it_is_thawed(loop: VirtualLoop, processes: list[Process]) -> None:
    """SIGSTOP: its timers come due meanwhile, and happen late."""
    process, seen = Process("worker"), list[float]()
    processes.append(process)
    ticking(loop, process, seen)
    loop.call_at(1.5, loop.freeze, process, context=context_of(None))
    loop.call_at(10.0, loop.thaw, process, context=context_of(None))
    loop.run_until_complete(asyncio.sleep(12.5))
    assert seen == [1.0, 10.0, 11.0, 12.0]


def test_a_killed_process_does_nothing_more(loop: VirtualLoop, processes: list[Process]) -> None:
    """SIGKILL, also of a frozen one; others go on."""
    killed, other = Process("killed"), Process("other")
    processes += [killed, other]
    seen: dict[str, list[float]] = {"killed": [], "other": []}
    ticking(loop, killed, seen["killed"])
    ticking(loop, other, seen["other"])
    loop.call_at(1.5, loop.freeze, killed, context=context_of(None))
    loop.call_at(2.5, loop.kill, killed, context=context_of(None))
    loop.call_at(2.6, loop.thaw, killed, context=context_of(None))
    loop.run_until_complete(asyncio.sleep(4.5))
    assert seen == {"killed": [1.0], "other": [1.0, 2.0, 3.0, 4.0]}


def test_a_world_in_which_nobody_does_anything_says_so(loop: VirtualLoop) -> None:
    """Waiting for what will never come is an end, not a hang."""
    with pytest.raises(NothingToDo):
        loop.run_until_complete(loop.create_future())


def test_time_is_skipped_only_where_nothing_else_happens_in_it(loop: VirtualLoop) -> None:
    """Who waits alone goes on at once, later; never past what somebody else has to do."""

    async def skips() -> tuple[bool, bool, bool, bool]:
        loop.call_at(2.0, lambda: None)
        loop.call_at(0.5, lambda: None).cancel()
        alone, up_to_a_timer = loop.skip(1.5), loop.skip(0.5)
        loop.call_soon(lambda: None)
        beside_what_is_ready = loop.skip(0.1)
        await asyncio.sleep(0)
        return alone, up_to_a_timer, beside_what_is_ready, loop.time() == 1.5

    assert loop.run_until_complete(skips()) == (True, False, False, True)
