"""The worker's clock, as a parameter wherever time decides something."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """This machine's clock in UTC; decisions tolerate a few seconds of skew."""
    return datetime.now(UTC)
