"""Ends a worker that is wedged: a thread, because a wedged event loop cannot watch itself (design 6).

Two ways to be wedged: the event loop stands still, or it turns and a partition's committed offset does not move while
work waits there. Faust's heartbeats run in another thread, so such a worker keeps its partitions for ever. Ending it is
safe at any instruction (ARCHITECTURE.md, fault model); somebody else takes over.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streams.holes import Slot

log = logging.getLogger(__name__)

CHECK_EVERY_SECONDS = 1.0
EXIT_CODE_WEDGED = 70
"""EX_SOFTWARE: the supervisor starts the worker again."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the event loop says of our partitions."""

    committed: Mapping[Slot, int] = field(default_factory=dict)
    """The committed offset of each partition that is ours."""
    waiting: frozenset[Slot] = frozenset()
    """Those in which something is in work, or a record waits that nobody has taken."""
    is_paused: bool = False
    """New work waits because something is away, or the partitions are being given out anew."""


class Standstill:
    """Since when each partition has not moved although it should. Pure: the caller brings the time."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._since: dict[Slot, tuple[int, float]] = {}

    def over_limit(self, work: Work, now: float) -> list[Slot]:
        """The partitions that have stood still for longer than the limit while work waited and nothing paused it."""
        since: dict[Slot, tuple[int, float]] = {}
        for slot, committed in work.committed.items():
            known = self._since.get(slot)
            stands = known is not None and known[0] == committed and slot in work.waiting and not work.is_paused
            since[slot] = known if known is not None and stands else (committed, now)
        self._since = since
        return sorted(slot for slot, (_, at) in since.items() if now - at > self._limit_seconds)

    def forgive(self) -> None:
        """Begin to count anew."""
        self._since.clear()


class Watchdog:
    """`beat()` from the event loop; silence, or a standstill, for longer than its limit ends the process."""

    def __init__(
        self,
        limit_seconds: float,
        standstill_seconds: float = float("inf"),
        tell_where: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`tell_where` says where the worker is, and why it is asked, before it ends; it must come back soon."""
        self._tell_where = tell_where
        self._limit_seconds = limit_seconds
        self._standstill = Standstill(standstill_seconds)
        self._work = Work()
        self._last = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def beat(self, work: Work | None = None) -> None:
        """The event loop is turning, and this is how its work stands."""
        self._last = time.monotonic()
        if work is not None:
            self._work = work

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self) -> None:
        woke = time.monotonic()
        while not self._stopped.wait(CHECK_EVERY_SECONDS):
            now = time.monotonic()
            if now - woke > CHECK_EVERY_SECONDS * 3:
                self._last = now  # the whole process was frozen, not only its loop: give the loop a chance to turn
                self._standstill.forgive()
            woke = now
            if now - self._last > self._limit_seconds:
                log.critical("the event loop stands still: ending the worker", extra={"seconds": now - self._last})
                self._end("the event loop stands still")
            stuck = self._standstill.over_limit(self._work, now)
            if stuck:
                log.critical(
                    "committed offsets do not move while work waits: ending the worker",
                    extra={"partitions": ", ".join(f"{topic}-{number}" for topic, number in stuck)},
                )
                self._end("committed offsets do not move")

    def _end(self, why: str) -> None:
        self._tell_where(why)
        os._exit(EXIT_CODE_WEDGED)
