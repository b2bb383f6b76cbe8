"""What can be turned while the stand-in runs, for a suite that has no hand on its process."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from sandbox.visa_direct.settings import Settings

# A year: past every window of Visa's.
AHEAD_SECONDS_MAX: Final = 366 * 24 * 3600
SECONDS_MAX: Final = 24 * 3600


class Turned(BaseModel):
    """Values of ``Settings`` that change from now on, and how far the clock is ahead. Gone after a restart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_seconds: Annotated[float, Field(ge=0, le=SECONDS_MAX)]
    query_lag_seconds: Annotated[float, Field(ge=0, le=SECONDS_MAX)]
    query_amount_after_seconds: Annotated[float, Field(ge=0, le=SECONDS_MAX)]
    query_no_match: Literal["empty", "404"]
    accepted_body: Literal["json", "text"]
    accepted_headers: Literal["none", "location", "link"]
    accounts_pace_seconds: Annotated[float, Field(ge=0, le=SECONDS_MAX)]
    accounts_repeat: Literal["second_payout", "refused"] = "second_payout"
    accounts_no_match: Literal["404", "empty"] = "404"
    quote_seconds: Annotated[float, Field(gt=0, le=SECONDS_MAX)] = 1800.0
    clock_ahead_seconds: Annotated[float, Field(ge=0, le=AHEAD_SECONDS_MAX)] = 0.0


class Knobs:
    """The values in force: those of the start until something is turned."""

    def __init__(self, settings: Settings) -> None:
        self._started_with = Turned(
            latency_seconds=settings.latency_seconds,
            query_lag_seconds=settings.query_lag_seconds,
            query_amount_after_seconds=settings.query_amount_after_seconds,
            query_no_match=settings.query_no_match,
            accepted_body=settings.accepted_body,
            accepted_headers=settings.accepted_headers,
            accounts_pace_seconds=settings.accounts_pace_seconds,
        )
        self._clock: Callable[[], float] = settings.clock
        self._turned = asyncio.Event()
        self.now = self._started_with

    def turn(self, change: dict[str, object]) -> None:
        """Replace the values named. Raises pydantic.ValidationError, and changes nothing."""
        self.now = Turned.model_validate(self.now.model_dump() | change)
        self._turned.set()
        self._turned = asyncio.Event()

    def reset(self) -> None:
        """As at the start."""
        self.now = self._started_with

    def clock(self) -> float:
        """Seconds since the epoch, as this stand-in sees it."""
        return self._clock() + self.now.clock_ahead_seconds

    async def wait(self, seconds: float) -> None:
        """So many seconds; over at once when the clock is turned past them, so that nobody has to sit out a delay."""
        loop = asyncio.get_running_loop()
        over, over_by_clock = loop.time() + seconds, self.clock() + seconds
        while (left := over - loop.time()) > 0 and self.clock() < over_by_clock:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._turned.wait(), left)
