"""Doing something again and again until a signal or a limit ends it, without waiting for what hangs."""

import asyncio
import contextlib
import math
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often, and when to end; None is no limit."""

    interval_seconds: float
    times: int | None = None
    seconds: float | None = None


@contextlib.contextmanager
def ending_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set, in place of what they do otherwise. Inside a running loop."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, ended.set)
    try:
        yield ended
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


async def in_thread(work: Callable[[], Result]) -> Result:
    """Run in a thread that the end of this program does not wait for: what asks a dead broker may take long."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(value: Result | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]  # None only if that is the result

    def body() -> None:
        value: Result | None = None
        failure: BaseException | None = None
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            failure = error
        # Nobody waits any more when the loop is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=body, daemon=True).start()
    return await done


async def unless_ended(ended: asyncio.Event, work: Awaitable[Result]) -> Result | None:
    """The result, or None if the end comes first."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return None if not task.done() else task.result()
    finally:
        task.cancel()
        waiting.cancel()


async def repeat(step: Callable[[], Awaitable[None]], rhythm: Rhythm, ended: asyncio.Event) -> None:
    """Take the step now and at every interval; one that takes longer is followed by the next at once."""
    loop = asyncio.get_running_loop()
    ends_at = math.inf if rhythm.seconds is None else loop.time() + rhythm.seconds
    taken = 0
    while not ended.is_set():
        due = loop.time() + rhythm.interval_seconds
        await unless_ended(ended, step())
        taken += 1
        if taken == rhythm.times or max(due, loop.time()) >= ends_at:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), max(0.0, due - loop.time()))
