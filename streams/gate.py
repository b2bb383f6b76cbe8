"""New work waits behind a gate while something that everybody needs is away (rule K5, promise P8)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger(__name__)

PAUSE_FIRST_SECONDS = 0.2
"""The first pause after a failure: most are a restart of something and over at once."""
PAUSE_MAX_SECONDS = 5.0
"""The longest pause between two tries: an operator who repaired the cause should not wait longer."""


def pauses() -> Iterator[float]:
    """Seconds to wait before the next try, doubling up to the longest pause, for ever."""
    seconds = PAUSE_FIRST_SECONDS
    while True:
        yield seconds
        seconds = min(seconds * 2, PAUSE_MAX_SECONDS)


class Gate:
    """Open, or closed for named reasons; opens when the last reason is gone."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._reasons: dict[str, int] = {}

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why new work waits; empty when it does not."""
        return tuple(sorted(self._reasons))

    async def passed(self) -> None:
        """Return when new work may start."""
        await self._open.wait()

    def close(self, reason: str) -> None:
        """Let new work wait. Every close needs its own open."""
        if reason not in self._reasons:
            log.warning("work paused", extra={"reason": reason})
        self._reasons[reason] = self._reasons.get(reason, 0) + 1
        self._open.clear()

    def open(self, reason: str) -> None:
        """Take one close back."""
        left = self._reasons.get(reason, 0) - 1
        if left > 0:
            self._reasons[reason] = left
            return
        if self._reasons.pop(reason, None) is not None:
            log.warning("work resumed", extra={"reason": reason})
        if not self._reasons:
            self._open.set()

    async def retry_while_away(
        self, work: Callable[[], Awaitable[None]], away: Callable[[Exception], str | None]
    ) -> None:
        """Run `work` until it ends otherwise than by a failure that `away` names; the gate is closed meanwhile.

        `away(error)` returns the name of what is away, or None for an error that is the record's own: that one is
        raised to the caller.
        """
        closed_for: str | None = None
        try:
            for pause_seconds in pauses():
                try:
                    await work()
                except Exception as error:
                    reason = away(error)
                    if reason is None:
                        raise
                    log.warning("not available, trying again", extra={"reason": reason, "error": type(error).__name__})
                    if closed_for != reason:
                        self.close(reason)
                        if closed_for is not None:
                            self.open(closed_for)
                        closed_for = reason
                    await asyncio.sleep(pause_seconds)
                else:
                    return
        finally:
            if closed_for is not None:
                self.open(closed_for)
