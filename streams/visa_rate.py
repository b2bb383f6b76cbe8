"""The permit to call Visa: a place among the calls in flight, and a token, given in turn to the originators that wait.

    wait in turn  →  place and token  →  (the lane's turn, the lease, the call)  →  place given back
                                      →  nothing was sent: the token, too

- A bucket of tokens for the credential, one for each originator (rule S7: taken before the lease; nobody who waits here
  holds one). Both count this worker's calls: an enrolment's rate is divided by the number of workers.
- Places from 1 to VISA_CALLS_MAX: half as many after a 429, at most once a second; one more for each round of answers.
- A 429 with Retry-After keeps everybody back for so long, up to ten seconds: it is the credential that was refused.
  Longer ones pause their lane (`visa_pause`).
- One originator's queue delays another's calls by at most one call each: turns go round.

Who waited may be long after what he read: the permit says so.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from processors.payout.outcome import Outcome, Refusal
from processors.visa.call_rate import CallWindow, FairQueue, TokenBucket
from streams.metrics import Metrics

log = logging.getLogger(__name__)

SHARED_RETRY_AFTER_SECONDS_MAX = 10.0
"""The longest Retry-After that keeps every call back: from there on the lane that met it pauses."""
STALE_AFTER_SECONDS = 1.0
"""After a longer wait the row is read again: it may have expired, or be another's by now."""
WAKE_SECONDS_MIN = 0.001
"""The resolution of event loops: a timer that fires a moment early must not spin."""
BUCKETS_MAX = 1_000
"""Originators remembered at once; a bucket that is full again is as good as a new one, and goes first."""


class Cancellable(Protocol):
    """A timer."""

    def cancel(self) -> None:
        """Never mind."""


@dataclass(slots=True, eq=False)
class Place:
    """One call's permission."""

    originator_id: str
    waited_seconds: float = 0.0
    used: bool = False
    """Bytes may have left: the token is spent."""

    @property
    def is_stale(self) -> bool:
        """What was read before may have changed."""
        return self.waited_seconds >= STALE_AFTER_SECONDS


class VisaRate:
    """The permits of one worker. Use it in one event loop."""

    def __init__(
        self,
        *,
        calls_max: int,
        metrics: Metrics,
        credential_per_second: float | None = None,
        originator_per_second: float | None = None,
        clock: Callable[[], float] | None = None,
        call_later: Callable[[float, Callable[[], None]], Cancellable] | None = None,
    ) -> None:
        """Rates are calls a second, None for any. `clock` and `call_later` are the event loop's own if not given."""
        self._window = CallWindow(calls_max)
        self._credential = TokenBucket(credential_per_second)
        self._originator_per_second = originator_per_second
        self._originators: dict[str, TokenBucket] = {}
        self._queue: FairQueue[_Waiting] = FairQueue()
        self._in_flight = 0
        self._resume_at = 0.0
        self._timer: Cancellable | None = None
        self._stopping = False
        self._metrics = metrics
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._call_later = call_later or (lambda seconds, wake: asyncio.get_running_loop().call_later(seconds, wake))
        metrics.visa_places.set_function(lambda: self._window.places)
        metrics.visa_waiting.set_function(lambda: len(self._queue))

    @property
    def is_holding_back(self) -> bool:
        """Calls wait because Visa said "too many": a pause that is declared, and over by itself."""
        return bool(self._queue) and (self._window.is_narrowed or self._resting_seconds(self._clock()) > 0)

    @asynccontextmanager
    async def place(self, originator_id: str) -> AsyncIterator[Place | None]:
        """A place and a token, or None when the worker stops and nobody should wait any more."""
        place = await self._take(originator_id)
        try:
            yield place
        finally:
            if place is not None:
                self._leave(place)

    def learn(self, outcome: Outcome) -> None:
        """What a call came to, as far as it speaks of the rate."""
        if outcome.refusal is Refusal.RATE_LIMITED:
            self._limited(outcome.retry_after_seconds)
        elif outcome.http_status is not None:
            self.served()

    def served(self) -> None:
        """A call was answered, and not with "too many"."""
        self._window.served()

    def stop(self) -> None:
        """The worker stops: who can go at once goes, nobody waits."""
        self._stopping = True
        for waiting in self._queue.clear():
            if not waiting.granted.done():
                waiting.granted.set_result(None)
        self._wake_in(None)

    async def _take(self, originator_id: str) -> Place | None:
        begun = self._clock()
        if not self._queue and self._may_go(originator_id, begun):
            self._metrics.visa_wait_seconds.observe(0.0)
            return self._give(originator_id)
        waiting = _Waiting(originator_id, asyncio.get_running_loop().create_future())
        self._queue.push(originator_id, waiting)
        self._grant()
        if not waiting.granted.done():
            if self._stopping:
                self._queue.remove(originator_id, waiting)
                return None
            self._count_wait(originator_id, begun)
        try:
            place = await waiting.granted
        except asyncio.CancelledError:
            self._forsake(waiting)
            raise
        if place is not None:
            place.waited_seconds = max(0.0, self._clock() - begun)
            self._metrics.visa_wait_seconds.observe(place.waited_seconds)
        return place

    def _forsake(self, waiting: "_Waiting") -> None:
        """Who waited was cancelled: out of the queue, or with what he had been given already."""
        self._queue.remove(waiting.originator_id, waiting)
        given = None if waiting.granted.cancelled() or not waiting.granted.done() else waiting.granted.result()
        if given is not None:
            self._leave(given)

    def _leave(self, place: Place) -> None:
        self._in_flight -= 1
        if not place.used:
            self._credential.give_back()
            self._bucket(place.originator_id).give_back()
        self._grant()

    def _grant(self) -> None:
        """Give what there is to give, in turn, and look again when there will be more."""
        now = self._clock()
        while self._in_flight < self._window.places and self._shared_seconds(now) == 0.0:
            waiting = self._queue.pop(lambda name: self._bucket(name).seconds_to_token(now) == 0.0)
            if waiting is None:
                break
            if waiting.granted.done():
                continue  # cancelled, and not out of the queue yet
            waiting.granted.set_result(self._give(waiting.originator_id))
        has_place = self._queue and self._in_flight < self._window.places
        self._wake_in(self._seconds_to_next(now) if has_place else None)

    def _may_go(self, originator_id: str, now: float) -> bool:
        has_place = self._in_flight < self._window.places and self._shared_seconds(now) == 0.0
        return has_place and self._bucket(originator_id).seconds_to_token(now) == 0.0

    def _give(self, originator_id: str) -> Place:
        self._credential.take()
        self._bucket(originator_id).take()
        self._in_flight += 1
        return Place(originator_id)

    def _seconds_to_next(self, now: float) -> float:
        soonest = min(self._bucket(name).seconds_to_token(now) for name in self._queue.originators)
        return max(soonest, self._shared_seconds(now))

    def _shared_seconds(self, now: float) -> float:
        """How long everybody has to wait."""
        return max(self._resting_seconds(now), self._credential.seconds_to_token(now))

    def _resting_seconds(self, now: float) -> float:
        # Bounded anew each time: a clock that went back must not make a long rest of a short one.
        self._resume_at = min(self._resume_at, now + SHARED_RETRY_AFTER_SECONDS_MAX)
        return max(0.0, self._resume_at - now)

    def _wake_in(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._call_later(max(seconds, WAKE_SECONDS_MIN), self._grant)

    def _bucket(self, originator_id: str) -> TokenBucket:
        if self._originator_per_second is None:
            return _NO_LIMIT
        bucket = self._originators.get(originator_id)
        if bucket is None:
            if len(self._originators) >= BUCKETS_MAX:
                now = self._clock()
                self._originators = {name: kept for name, kept in self._originators.items() if not kept.is_full(now)}
            bucket = self._originators[originator_id] = TokenBucket(self._originator_per_second)
        return bucket

    def _limited(self, retry_after_seconds: float | None) -> None:
        self._metrics.rate_limit_429.inc()
        now = self._clock()
        if retry_after_seconds is not None:
            self._metrics.rate_limit_retry_after_seconds.observe(retry_after_seconds)
            self._resume_at = max(self._resume_at, now + min(retry_after_seconds, SHARED_RETRY_AFTER_SECONDS_MAX))
        if self._window.limited(now):
            log.warning("Visa limits our rate: fewer calls at once", extra={"calls_max": self._window.places})

    def _count_wait(self, originator_id: str, now: float) -> None:
        """Only what our own limits make wait: more work than places is no limit of rate."""
        if self._resting_seconds(now) > 0:
            self._metrics.rate_limit_client_side.labels("retry_after").inc()
        elif self._credential.seconds_to_token(now) > 0:
            self._metrics.rate_limit_client_side.labels("credential").inc()
        elif self._bucket(originator_id).seconds_to_token(now) > 0:
            self._metrics.rate_limit_client_side.labels("originator").inc()
        elif self._window.is_narrowed:
            self._metrics.rate_limit_client_side.labels("places").inc()


_NO_LIMIT = TokenBucket(None)


@dataclass(slots=True, eq=False)
class _Waiting:
    originator_id: str
    granted: asyncio.Future[Place | None]
