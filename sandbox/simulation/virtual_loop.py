"""An event loop whose time is a number: nothing waits, and whole processes can be stopped, thawed or killed.

A `Process` is a context variable: what runs in its context is the process. Frozen, its callbacks are kept until it is
thawed, as those of a stopped process are; killed, they never run. Everything runs in one thread, in the order of
(time, when it was asked for), so that one seed is one history.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Iterable


class Process:
    """A worker as the operating system sees it."""

    __slots__ = ("dead", "frozen", "name", "parked")

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.dead = False
        self.parked: list[asyncio.Handle] = []


CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class NothingToDo(Exception):
    """Everybody waits for something that nobody will do: the world has come to a stop before its end."""


class _Call(asyncio.TimerHandle):
    """A handle that is made in one step: there are a hundred of them a payout."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._cancelled = False
        self._scheduled = False
        self._context = contextvars.copy_context() if context is None else context


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready, else jumps to the next timer. Has no selector: nothing in here may touch a socket."""

    _ready: deque[asyncio.Handle]
    _clock_resolution: float
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = 0
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        """Virtual seconds since the world began."""
        return self.now

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As any loop's; the timer is ours."""
        timer = _Call(when, callback, args, self, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, timer))
        return timer

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As any loop's."""
        handle = _Call(self.now, callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As any loop's."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def skip(self, seconds: float) -> bool:
        """Let time pass for whoever runs, without leaving him, if nothing else would happen in it; else do nothing."""
        when, timers = self.now + seconds, self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if self._ready or (timers and timers[0][0] <= when):
            return False
        self.now = when
        return True

    def freeze(self, process: Process) -> None:
        """SIGSTOP."""
        process.frozen = True

    def thaw(self, process: Process) -> None:
        """SIGCONT: everything that came due meanwhile happens now, in its order."""
        process.frozen = False
        if not process.dead:
            self._ready.extend(process.parked)
            process.parked.clear()

    def kill(self, process: Process) -> None:
        """SIGKILL: not one more callback."""
        process.dead = True

    def end(self, processes: Iterable[Process]) -> None:
        """Let all that is left come to its end, the dead too: what is only dropped complains when it is swept away."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        for process in processes:
            process.dead = False
            self.thaw(process)
        self.run_until_complete(asyncio.wait(tasks) if tasks else asyncio.sleep(0))
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()

    def _write_to_self(self) -> None:
        """There is no other thread to wake this one."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when their time comes."""

    def _run_once(self) -> None:
        """Not once: as long as nobody asks the loop to stop."""
        ready = self._ready
        while not self._stopping:
            if not ready:
                self._advance()
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context = handle._context  # type: ignore[attr-defined]
            process = context.get(CURRENT)
            if process is not None and (process.frozen or process.dead):
                process.parked.append(handle)
                continue
            try:  # as handle._run(), for less
                context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
            except Exception as error:  # noqa: BLE001 - what a killed process leaves behind is no news
                del error

    def _advance(self) -> None:
        """Go to the next moment at which something happens."""
        timers = self._timers
        while timers:
            when, _, timer = heapq.heappop(timers)
            if timer._cancelled:
                continue
            if when > self.now:
                self.now = when
            self._ready.append(timer)
            return
        raise NothingToDo("no timer is left")


def run_in(process: Process, callback: Callable[[], object]) -> None:
    """Call as the process, so that whatever it starts belongs to it."""
    context_of(process).run(callback)


def context_of(process: Process | None) -> contextvars.Context:
    """A context whose callbacks belong to the process; None: to nobody, so that nothing stops them."""
    context = contextvars.copy_context()
    context.run(CURRENT.set, process)
    return context
