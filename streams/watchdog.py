"""Ends a worker that is wedged: a thread, because a wedged event loop cannot watch itself.

Faust's heartbeats run in another thread, so a worker whose event loop stands still keeps its partitions for ever.
Ending it is safe at any instruction (ARCHITECTURE.md, fault model); somebody else takes over.
"""

import logging
import os
import threading
import time

log = logging.getLogger(__name__)

CHECK_EVERY_SECONDS = 1.0
EXIT_CODE_WEDGED = 70
"""EX_SOFTWARE: the supervisor starts the worker again."""


class Watchdog:
    """`beat()` from the event loop; silence for longer than the limit ends the process."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._last = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def beat(self) -> None:
        """The event loop is turning."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self) -> None:
        woke = time.monotonic()
        while not self._stopped.wait(CHECK_EVERY_SECONDS):
            now = time.monotonic()
            if now - woke > CHECK_EVERY_SECONDS * 3:
                self._last = now  # the whole process was frozen, not only its loop: give the loop a chance to turn
            woke = now
            if now - self._last > self._limit_seconds:
                log.critical("the event loop stands still: ending the worker", extra={"seconds": now - self._last})
                os._exit(EXIT_CODE_WEDGED)
