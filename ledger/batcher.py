"""Requests that come at the same moment share a statement and a commit (rule L5); their callers see no difference.

A request alone is sent at once. While a batch is under way, others are collected for it to end, for a few
milliseconds, or until enough are there. What becomes of each:

    the statement answered it                        → its answer
    a row that somebody else holds, a lost race      → asked again alone, where a lock is waited for (off the batches)
    the data of some row is refused                  → the batch is split down to that row; only it is rejected
    the database is away, or a commit is unconfirmed → every request of that statement hears so
    the same payout is asked for twice               → the second waits for the first to be answered

    batcher = Batcher(together=write_many, alone=write_one, limits=Limits(wait_seconds=5.0))
    row = await batcher.ask(request, key=payout_id)

A caller that is cancelled takes nothing with it: what was asked is done all the same (rule L4).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from ledger.connections import StayedBusy
from ledger.interface import CommitUnknown, LedgerError, LedgerUnavailable, RowRejected

# One statement stays far below its time-out, and above this the rows themselves cost, not the commit.
ROWS_MAX: Final = 200
# A request of the largest size there is (256 KiB) must not make a message of many megabytes with its neighbours.
BYTES_MAX: Final = 1_048_576
# Two: one is being committed while the next is being sent.
BATCHES_MAX: Final = 2
# Less than a commit takes, so that it is never the larger part of a request's time.
COLLECT_SECONDS: Final = 0.002
# Rows that somebody else holds are waited for one by one; more of them must not take every connection.
ALONE_MAX: Final = 3
# As many writes as may wait for a connection; beyond this the caller is told instead of queued.
QUEUED_MAX: Final = 5_000

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Unanswered(Enum):
    """What a shared statement says of a request that it left as it was."""

    UNANSWERED = "UNANSWERED"


UNANSWERED: Final = Unanswered.UNANSWERED


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is collected, and for how long a request may wait to be sent."""

    wait_seconds: float
    """As long as a request alone would wait for a connection; then it was never sent, and its caller is told."""
    rows_max: int = ROWS_MAX
    batches_max: int = BATCHES_MAX
    collect_seconds: float = COLLECT_SECONDS
    alone_max: int = ALONE_MAX


@dataclass(slots=True, eq=False)
class _Entry(Generic[Request, Answer]):
    request: Request
    key: str | None
    lane: str | None
    size_bytes: int
    queued_at: float
    future: "asyncio.Future[Answer]"

    def answer(self, answer: Answer) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: LedgerError) -> None:
        """Every caller gets an exception of its own: one that is raised twice would show the other's traceback."""
        if not self.future.done():
            self.future.set_exception(type(error)(*error.args))


class Batcher(Generic[Request, Answer]):
    """Collects requests of one kind. Belongs to one event loop."""

    def __init__(
        self,
        *,
        together: Callable[[Sequence[Request]], Awaitable[Sequence[Answer | Unanswered]]],
        alone: Callable[[Request], Awaitable[Answer]] | None = None,
        limits: Limits,
        unfinished: type[LedgerError] = CommitUnknown,
    ) -> None:
        """`together` answers in the order asked and waits for no row that others hold; `alone` may.

        Without `alone`, `together` answers everything. Both raise LedgerErrors only. `unfinished` is what a caller
        hears if a batch ends without an answer, which happens when the event loop itself is being closed.
        """
        self._together = together
        self._alone = alone
        self._limits = limits
        self._unfinished = unfinished
        self._queued: dict[_Entry[Request, Answer], None] = {}
        self._busy_keys: set[str] = set()
        self._batches = 0
        self._permits = asyncio.Semaphore(limits.alone_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._closing = False

    async def ask(
        self, request: Request, *, key: str | None = None, lane: str | None = None, size_bytes: int = 0
    ) -> Answer:
        """The answer. Two requests of one `key` never run at the same time; those of a batch share a `lane`.

        Raises what a request alone raises: RowRejected, CommitUnknown, LedgerUnavailable.
        """
        if self._closing:
            raise LedgerUnavailable("the ledger is being closed; nothing was written")
        if len(self._queued) >= QUEUED_MAX:
            raise LedgerUnavailable(f"{QUEUED_MAX} requests wait already; nothing was written, slow down")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        entry = _Entry(request, key, lane, size_bytes, loop.time(), future)
        self._queued[entry] = None
        if self._expiry is None:
            self._expiry = loop.call_later(self._limits.wait_seconds, self._expire)
        self._wake()
        # Not shielded: a cancelled caller cancels this future, and the batch does not look at it before it is done.
        return await future

    async def close(self) -> None:
        """Take no more, and wait until everything asked for is answered; each of it is bounded."""
        self._closing = True
        while self._queued or self._tasks:
            self._send_next()
            if self._tasks:
                await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)
        for handle in (self._timer, self._expiry):
            if handle is not None:
                handle.cancel()

    def _wake(self) -> None:
        """Send what waits: now if nothing is under way or a batch is full, else a little later."""
        if not self._queued or self._batches >= self._limits.batches_max:
            return
        if self._batches and len(self._queued) >= self._limits.rows_max:
            self._send_next()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            if self._batches:
                self._timer = loop.call_later(self._limits.collect_seconds, self._on_timer)
            else:
                # Not this instant: whoever asks in the same turn of the event loop comes along.
                self._timer = loop.call_soon(self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._send_next()

    def _send_next(self) -> None:
        if self._batches >= self._limits.batches_max:
            return
        batch = self._take()
        if batch:
            self._batches += 1
            self._start(self._run(batch))
            self._wake()

    def _take(self) -> list[_Entry[Request, Answer]]:
        """The oldest that can go together: of one lane, and no payout of which something is under way."""
        batch: list[_Entry[Request, Answer]] = []
        size_bytes = 0
        for entry in self._queued:
            if len(batch) == self._limits.rows_max or (batch and size_bytes + entry.size_bytes > BYTES_MAX):
                break
            if entry.key in self._busy_keys or (batch and entry.lane != batch[0].lane):
                continue
            if entry.key is not None:
                self._busy_keys.add(entry.key)
            batch.append(entry)
            size_bytes += entry.size_bytes
        for entry in batch:
            del self._queued[entry]
        return batch

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="ledger-batch")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: Sequence[_Entry[Request, Answer]]) -> None:
        left: list[_Entry[Request, Answer]] = []
        try:
            left = await self._answer(batch)
        finally:
            self._batches -= 1
            self._release([entry for entry in batch if entry not in left])
            for entry in left:
                self._start(self._run_alone(entry))
            self._wake()

    async def _answer(self, batch: Sequence[_Entry[Request, Answer]]) -> list[_Entry[Request, Answer]]:
        """Answer what a shared statement can, splitting where it must; the rest is to be asked alone."""
        left: list[_Entry[Request, Answer]] = []
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                answers = await self._together([entry.request for entry in part])
            except (RowRejected, StayedBusy) as error:
                if len(part) > 1:
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                elif isinstance(error, StayedBusy) and self._alone is not None:
                    left += part
                else:
                    part[0].fail(error)
                continue
            except LedgerError as error:
                _fail_all(part, error)
                # The rest was not sent: whether it would fare better is not worth its callers' time.
                for unsent in parts:
                    _fail_all(unsent, LedgerUnavailable("the database went away during a batch; nothing was written"))
                break
            left += _distribute(part, answers)
        return left

    async def _run_alone(self, entry: _Entry[Request, Answer]) -> None:
        try:
            async with asyncio.timeout(self._limits.wait_seconds):
                await self._permits.acquire()
        except TimeoutError:
            entry.fail(LedgerUnavailable("rows that stay locked have taken every turn; nothing was written"))
        else:
            await self._ask_alone(entry)
        finally:
            self._release([entry])
            self._wake()

    async def _ask_alone(self, entry: _Entry[Request, Answer]) -> None:
        try:
            if self._alone is not None:
                entry.answer(await self._alone(entry.request))
        except LedgerError as error:
            entry.fail(error)
        finally:
            self._permits.release()

    def _release(self, entries: Sequence[_Entry[Request, Answer]]) -> None:
        """Nothing of these runs any more; whoever has no answer yet never gets another."""
        for entry in entries:
            entry.fail(self._unfinished("the work ended without an answer; read the row again"))
            if entry.key is not None:
                self._busy_keys.discard(entry.key)

    def _expire(self) -> None:
        """Tell those that waited too long that nothing was sent."""
        loop = asyncio.get_running_loop()
        self._expiry = None
        oldest_allowed = loop.time() - self._limits.wait_seconds
        for entry in list(self._queued):
            if entry.queued_at > oldest_allowed:
                self._expiry = loop.call_at(entry.queued_at + self._limits.wait_seconds, self._expire)
                break
            del self._queued[entry]
            entry.fail(LedgerUnavailable(f"not sent within {self._limits.wait_seconds:g} s; nothing was written"))


def _fail_all(part: Sequence[_Entry[Request, Answer]], error: LedgerError) -> None:
    for entry in part:
        entry.fail(error)


def _distribute(
    part: Sequence[_Entry[Request, Answer]], answers: Sequence[Answer | Unanswered]
) -> list[_Entry[Request, Answer]]:
    """Hand out the answers; whoever got none is returned."""
    left = []
    for entry, answer in zip(part, answers, strict=True):
        if isinstance(answer, Unanswered):
            left.append(entry)
        else:
            entry.answer(answer)
    return left
