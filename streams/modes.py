"""The mode in force as one worker sees it: looked at a few times a second, obeyed at once (rule L9, requirement E5).

    watch = ModeWatch(ledger, metrics)
    watch.allows(Activity.TAKE)              what the last look says; before the first one nothing is allowed
    await watch.until(Activity.PUBLISH)      wait for a mode that allows it
    await watch.watch_forever()

That no call leaves is the ledger's to enforce, in the transaction that begins it; nothing here can let one through.
Here is what makes a worker stand: the stages that the mode forbids take nothing from their topics (their records stay
where they are, unacknowledged, and the group goes on), and what has something to publish waits until it may.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ledger.interface import Ledger, LedgerError
from processors.payout.modes import Activity, Mode, allows
from streams.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS: Final = 0.25
"""One read of one row; with it a worker obeys within half a second of the commit, in the worst case."""

ACTIVITY_OF_TOPIC: Final = {
    "payout_requests": Activity.TAKE,
    "payout_validated": Activity.SCREEN,
    "payout_cleared": Activity.SUBMIT,
    "payout_retry": Activity.ASK,  # where anything is driven, questions are; what else a row needs, the driver looks up
    "payout_failed_requires_compensation": Activity.COMPENSATE,
    "payout_compensation_confirmations": Activity.COMPENSATE,
    "payout_review_decisions": Activity.DECIDE,
}
"""What it takes to consume each topic."""


class WorkerStops(asyncio.CancelledError):
    """Who waited for another mode need not wait any more: the next worker does it."""


class ModeWatch:
    """One worker's view of the mode."""

    def __init__(self, ledger: Ledger, metrics: Metrics, on_look: Callable[[], None] = lambda: None) -> None:
        """`on_look` is called after each look, whatever it found."""
        self._ledger = ledger
        self._metrics = metrics
        self._on_look = on_look
        self._changed = asyncio.Event()
        self._stopping = False
        self._told = False
        self.mode: Mode | None = None
        """The mode as it was when last looked at; None before the first look."""

    def allows(self, activity: Activity) -> bool:
        """Whether the mode allows it, as far as this worker knows."""
        return self.mode is not None and allows(self.mode, activity)

    async def until(self, activity: Activity) -> None:
        """Return when the mode allows it. Raises WorkerStops."""
        while not self.allows(activity):
            if self._stopping:
                raise WorkerStops
            await self._changed.wait()

    def saw(self, mode: Mode) -> None:
        """This is the mode: from this moment on it is obeyed."""
        if mode is self.mode:
            return
        log.warning("the mode is obeyed", extra={"mode": mode.value})
        self.mode = mode
        for one in Mode:
            self._metrics.mode.labels(one.value).set(1 if one is mode else 0)
        self._wake()

    def stop(self) -> None:
        """The worker stops: nobody waits any more."""
        self._stopping = True
        self._wake()

    async def look(self) -> None:
        """Ask the ledger. Raises LedgerError."""
        try:
            self.saw((await self._ledger.mode()).mode)
        except ValueError:
            # A word of a newer release. The ledger allows no call in it; nothing else goes on here either.
            self.saw(Mode.HALTED)

    async def watch_forever(self) -> None:
        """Look until cancelled. Without an answer the last one holds: nothing can be begun without the database."""
        while True:
            try:
                await self.look()
                self._told = False
            except LedgerError as error:
                if not self._told:
                    log.warning("the mode is not known now", extra={"error": type(error).__name__})
                self._told = True
            self._on_look()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _wake(self) -> None:
        """Everybody who waits looks again; whoever comes later waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()


class Stage:
    """What a pump asks: may its records be taken now?"""

    def __init__(self, watch: Callable[[], ModeWatch], activity: Activity) -> None:
        """`watch` is asked each time: a worker's pumps are made before its ledger is open."""
        self._watch = watch
        self._activity = activity

    @property
    def is_open(self) -> bool:
        """Whether the mode allows it."""
        return self._watch().allows(self._activity)

    async def passed(self) -> None:
        """Return when it does: never again once the worker stops, whose agents are ended by those who run them."""
        try:
            await self._watch().until(self._activity)
        except WorkerStops:
            await asyncio.Event().wait()
