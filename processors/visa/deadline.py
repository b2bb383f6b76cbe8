"""A point in time after which nothing may leave for Visa (rule L3).

The lease of a payout runs on while this process is frozen or the machine sleeps, so the deadline is counted on
CLOCK_BOOTTIME, which does not stop during a suspend as CLOCK_MONOTONIC does.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

# Linux has CLOCK_BOOTTIME; elsewhere (macOS) CLOCK_MONOTONIC is the best there is, and never goes back.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime_seconds() -> float:
    """Seconds since the machine started, suspends included where the system can count them."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Deadline:
    """Make it *before* sending the statement that takes the lease, and shorter than the lease by the caller's margin.

    `at_seconds` is a reading of `clock`; another clock is for tests.
    """

    at_seconds: float
    clock: Callable[[], float] = field(default=boottime_seconds, repr=False, compare=False)

    @classmethod
    def after(cls, seconds: float, *, clock: Callable[[], float] = boottime_seconds) -> "Deadline":
        """A deadline so many seconds from now. Raises ValueError for a number that is negative or not finite."""
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError("a deadline is a finite, non-negative number of seconds away")
        return cls(clock() + seconds, clock)

    def remaining_seconds(self) -> float:
        """Seconds left; 0.0 once it has passed."""
        return max(0.0, self.at_seconds - self.clock())

    def expired(self) -> bool:
        """True from the deadline on."""
        return self.clock() >= self.at_seconds
