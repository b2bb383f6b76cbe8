"""A circuit breaker: what fails again and again is left alone for a while, then tried by one (S1-06, S0-09).

    CLOSED ──── max_failures in a row ────► OPEN ──── reset_seconds later ────► HALF_OPEN
       ▲                                     ▲                                     │
       │                                     └──────────── its one trial fails ────┤
       └──────────────────── its one trial succeeds ───────────────────────────────┘

A call that takes longer than `timeout_seconds` is a failure like any other, a hanging trial included: nothing keeps the
breaker half open for ever. A person may close it by hand (`reset`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class BreakerState(StrEnum):
    """Whether calls go through: all, none, or one that tries."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


class BreakerOpen(Exception):
    """The call was not made: the breaker is open, or its one trial is under way."""


class CallTooLong(Exception):
    """The call took longer than the breaker allows."""


class Breaker:
    """One breaker, for one event loop. `clock` counts seconds and never goes back."""

    def __init__(
        self,
        name: str,
        *,
        max_failures: int = 3,
        timeout_seconds: float = 10.0,
        reset_seconds: float = 60.0,
        clock: Callable[[], float],
        on_change: Callable[[BreakerState, bool], None] = lambda _state, _by_hand: None,
    ) -> None:
        """`on_change` hears every new state, and whether it came by hand."""
        self.name = name
        self._max_failures = max_failures
        self._timeout_seconds = timeout_seconds
        self._reset_seconds = reset_seconds
        self._clock = clock
        self._on_change = on_change
        self._failures = 0
        self._opened_at: float | None = None
        self._trial: object | None = None
        self._shown = BreakerState.CLOSED

    @property
    def state(self) -> BreakerState:
        """What a call would find now."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        waited = self._clock() - self._opened_at >= self._reset_seconds
        return BreakerState.HALF_OPEN if waited else BreakerState.OPEN

    async def call(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Do `work` if the breaker lets it through, and learn from how it ends.

        Raises BreakerOpen, CallTooLong, or what `work` raises.
        """
        turn = self._enter()
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                result = await work()
        except asyncio.CancelledError:
            self._leave(turn)  # nobody knows: the next one may try
            raise
        except TimeoutError:
            self._failed(turn)
            if limit.expired():
                raise CallTooLong(f"no answer within {self._timeout_seconds:g} s") from None
            raise
        except Exception:
            self._failed(turn)
            raise
        self._succeeded(turn)
        return result

    def reset(self) -> None:
        """Close it by hand, as if the next call had a good reason to succeed."""
        self._failures, self._opened_at, self._trial = 0, None, None
        self._show(by_hand=True)

    def show(self) -> None:
        """Tell `on_change` if the time alone has changed the state."""
        self._show()

    def _enter(self) -> object:
        turn = object()
        match self.state:
            case BreakerState.OPEN:
                raise BreakerOpen(f"{self.name}: left alone for {self._reset_seconds:g} s after failures")
            case BreakerState.HALF_OPEN if self._trial is not None:
                raise BreakerOpen(f"{self.name}: one trial is under way")
            case BreakerState.HALF_OPEN:
                self._trial = turn
        self._show()
        return turn

    def _leave(self, turn: object) -> None:
        if turn is self._trial:
            self._trial = None

    def _succeeded(self, turn: object) -> None:
        # A late success of a call from before the opening says nothing that the trial would not say better.
        if self._opened_at is None or turn is self._trial:
            self._failures, self._opened_at, self._trial = 0, None, None
        self._show()

    def _failed(self, turn: object) -> None:
        if turn is self._trial:
            self._trial = None
            self._opened_at = self._clock()
        elif self._opened_at is None:
            self._failures += 1
            if self._failures >= self._max_failures:
                self._opened_at = self._clock()
        self._show()

    def _show(self, *, by_hand: bool = False) -> None:
        state = self.state
        if state is not self._shown:
            log.warning("breaker changed", extra={"breaker": self.name, "state": state.value, "by_hand": by_hand})
            self._shown = state
            self._on_change(state, by_hand)
