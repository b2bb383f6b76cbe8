"""Looks at the ledger to hit a worker while one of its intents has no outcome; reads only, and by SQL of its own.

An intent is a row in SUBMITTING whose lease is live: the call may be under way, or its answer on the way back. A kill
or freeze counts only if the row is still so after the signal, when the victim can write nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol

import asyncpg

CONNECT_SECONDS: Final = 3.0
"""Where the database is killed on purpose, a look that waits longer keeps the suite from its next fault."""
PATIENT_CONNECT_SECONDS: Final = 30.0
"""Where nobody kills it: whatever a busy machine takes is no outage."""
ANSWER_SECONDS: Final = 20.0
"""A look at the whole of a large ledger takes seconds, beside everything else on two cores."""
LEASE_LEFT_SECONDS: Final = 2.0
"""A lease (8 s) with more left than this may still have its call (at most 3 s) under way."""
POLL_SECONDS: Final = 0.02
SETTLE_SECONDS: Final = 0.15
"""What a dead worker had already handed to the kernel is in the ledger by then."""

LIVE_INTENTS: Final = """
SELECT payout_id, version, split_part(lease_owner, '/', 1) AS worker
FROM payouts
WHERE state = 'SUBMITTING' AND lease_until > clock_timestamp() + make_interval(secs => $1)
"""
STILL_OPEN: Final = """
SELECT payout_id, version, split_part(lease_owner, '/', 1) AS worker
FROM payouts
WHERE state = 'SUBMITTING' AND lease_until > clock_timestamp()
"""


class LedgerAway(Exception):
    """The ledger could not be asked now; it may be the fault under way."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that the ledger knows the beginning of and not the end."""

    payout_id: str
    version: int
    worker: str


AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's own confusion when a connection dies under it
)
"""Everything by which the driver says that something went wrong."""


class LedgerWatch:
    """Asks the ledger from any thread, over one connection of its own that is made again when it is lost."""

    def __init__(self, url: str, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        """`url` leads to the database directly, not through the proxy."""
        self._url = url
        self._connect_seconds = connect_seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ledger-watch", daemon=True)
        self._thread.start()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._lock = threading.Lock()

    def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of one statement. Raises LedgerAway."""
        with self._lock:
            work = asyncio.run_coroutine_threadsafe(self._fetch(statement, arguments), self._loop)
            try:
                return work.result(self._connect_seconds + ANSWER_SECONDS + 1)
            except AWAY as error:
                self._let_go(work)
                raise LedgerAway(f"{type(error).__name__}: {error}") from error

    def _let_go(self, work: Future[list[asyncpg.Record]]) -> None:
        """Leave the connection behind: the next statement must not meet what this one has not finished."""
        work.cancel()
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result(self._connect_seconds + 1)

    def intents(self) -> list[Intent]:
        """Every intent whose call is under way or just over, and whose outcome is not recorded."""
        return [_intent(row) for row in self.fetch(LIVE_INTENTS, LEASE_LEFT_SECONDS)]

    def still_open(self) -> list[Intent]:
        """Every intent with a live lease, whatever is left of it."""
        return [_intent(row) for row in self.fetch(STILL_OPEN)]

    def last_history_id(self) -> int:
        """Where the history stands: what happens later has a higher number."""
        return int(self.fetch("SELECT coalesce(max(id), 0) AS last FROM history")[0]["last"])

    def close(self) -> None:
        """Close the connection and end the thread."""
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result(self._connect_seconds + 1)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self._connect_seconds)
        self._loop.close()

    async def _fetch(self, statement: str, arguments: Sequence[Any]) -> list[asyncpg.Record]:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._url, timeout=self._connect_seconds)
            return await self._connection.fetch(statement, *arguments, timeout=ANSWER_SECONDS)
        except BaseException:
            await self._disconnect()
            raise

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _intent(row: asyncpg.Record) -> Intent:
    return Intent(row["payout_id"], int(row["version"]), row["worker"])


class SeesIntents(Protocol):
    """What aiming needs of the ledger."""

    def intents(self) -> list[Intent]:
        """Those whose call is under way or just over."""

    def still_open(self) -> list[Intent]:
        """Those without outcome whose lease is live."""


class Aim:
    """Chooses victims with an intent under way, and confirms hits."""

    def __init__(self, watch: SeesIntents, *, on_hungry: Callable[[], None]) -> None:
        """`on_hungry` is called while there is nothing to hit: more work is needed."""
        self._watch = watch
        self._on_hungry = on_hungry
        self._left: set[tuple[str, int]] = set()
        """Intents that earlier victims left: a live lease, and nobody behind it."""

    def victim(self, draw: float, may_hit: Callable[[], Iterable[str]], deadline: float) -> str | None:
        """The name of a worker that has an intent under way now; None at the deadline (monotonic seconds)."""
        while time.monotonic() < deadline:
            names = self._names_with_intents(may_hit())
            if names:
                return names[int(draw * len(names))]
            self._on_hungry()
            time.sleep(POLL_SECONDS)
        return None

    def confirm(self, worker: str, deadline: float) -> list[Intent]:
        """The intents of a worker that can write nothing more, still without outcome; empty is a miss."""
        time.sleep(SETTLE_SECONDS)
        while time.monotonic() < deadline:
            try:
                found = [intent for intent in self._watch.still_open() if intent.worker == worker]
            except LedgerAway:
                time.sleep(POLL_SECONDS)
                continue
            fresh = [intent for intent in found if (intent.payout_id, intent.version) not in self._left]
            self._left.update((intent.payout_id, intent.version) for intent in found)
            return fresh
        return []

    def disown(self, worker: str) -> None:
        """Forget what a worker left that ended by itself: its next life has nothing to do with those intents."""
        self.confirm(worker, time.monotonic() + CONNECT_SECONDS)

    def _names_with_intents(self, allowed: Iterable[str]) -> list[str]:
        try:
            found = self._watch.intents()
        except LedgerAway:
            return []
        names = set(allowed)
        return sorted(
            {
                intent.worker
                for intent in found
                if intent.worker in names and (intent.payout_id, intent.version) not in self._left
            }
        )
