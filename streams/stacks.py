"""Where a worker is just now: every thread and every task, by file, line and function (S3-33).

    kill -USR1 PID        a line of the log for each, "where it is"

Names of code only, never a value: a local variable may hold a card number. It works while the event loop stands still
in Python; the watchdog says the same before it ends a worker, so that nobody has to be there in time.
"""

import asyncio
import logging
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

log = logging.getLogger(__name__)

FRAMES_MAX: Final = 12
"""The innermost ones: what it waits for, and who asked for it."""
TELL_SECONDS_MAX: Final = 2.0
"""Whoever ends a worker waits no longer: what stands still may hold what logging needs."""
KINDS_MAX: Final = 100
"""Tasks that stand at the same place are one line with their number; a worker has some dozen places."""


def told(why: str, loop: asyncio.AbstractEventLoop | None) -> int:
    """Log where everything is; how many lines. Safe in any thread."""
    lines = 0
    for name, place in threads():
        log.warning("where it is", extra={"why": why, "of_thread": name, "stack": place})
        lines += 1
    for (name, place), count in tasks(loop).most_common(KINDS_MAX):
        log.warning("where it is", extra={"why": why, "task": name, "tasks": count, "stack": place})
        lines += 1
    return lines


def told_in_time(why: str, loop: asyncio.AbstractEventLoop | None) -> None:
    """As `told`, and back within `TELL_SECONDS_MAX` whatever happens."""
    telling = threading.Thread(target=told, args=(why, loop), name="stacks", daemon=True)
    telling.start()
    telling.join(TELL_SECONDS_MAX)


def threads() -> Iterator[tuple[str, str]]:
    """Each thread's name and where it is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        yield names.get(ident, str(ident)), of_frame(frame)


def tasks(loop: asyncio.AbstractEventLoop | None) -> Counter[tuple[str, str]]:
    """What the tasks of a loop are called, where they wait, and how many do."""
    if loop is None:
        return Counter()
    return Counter((_coroutine(task), " < ".join(_awaits(task))) for task in asyncio.all_tasks(loop))


def of_frame(frame: FrameType) -> str:
    """The innermost frames, the newest first."""
    found: list[str] = []
    at: FrameType | None = frame
    while at is not None and len(found) < FRAMES_MAX:
        found.append(_place(at))
        at = at.f_back
    return " < ".join(found)


def _place(frame: FrameType) -> str:
    """`streams/pump.py:217 drive`: enough to find it, without where it is installed."""
    file = "/".join(Path(frame.f_code.co_filename).parts[-2:])
    return f"{file}:{frame.f_lineno} {frame.f_code.co_name}"


def _coroutine(task: "asyncio.Task[Any]") -> str:
    return getattr(task.get_coro(), "__qualname__", type(task.get_coro()).__name__)


def _awaits(task: "asyncio.Task[Any]") -> Iterator[str]:
    """From the coroutine that waits to the one that the task is: `get_stack` of a waiting task knows only the last."""
    chain: list[str] = []
    waiting: Any = task.get_coro()
    while waiting is not None and len(chain) < FRAMES_MAX:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is not None:
            chain.append(_place(frame))
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return reversed(chain)


def tell_on_signal(loop: asyncio.AbstractEventLoop) -> None:
    """From now on SIGUSR1 asks for it. Only in the main thread, after Faust has set its own handler."""

    def asked(*_: object) -> None:
        # In a thread: a handler may interrupt the very lock that logging needs.
        threading.Thread(target=told, args=("a signal", loop), name="stacks", daemon=True).start()

    loop.remove_signal_handler(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, asked)
