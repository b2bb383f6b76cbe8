"""What a fuzz target is, and what counts as a finding.

A target takes bytes and returns; whatever it raises is a finding. `execute` adds what holds for every target: one input
costs a bounded time, and no line that was logged meanwhile shows a card number (promise P6).
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from schemas.card_numbers import looks_like_card_number
from streams.logs import JsonFormatter

UNCAUGHT: Final = "=== a finding ==="
"""Stands in a run's log before the traceback."""
CPU_SECONDS_MAX: Final = 2.0
"""Of one input, which is at most some hundred kilobytes: a hundred times what the slowest legitimate one takes."""
MESSAGE_CHARACTERS_MAX: Final = 4_000
"""An error is read by people and goes into log lines and headers: one that echoes a whole file is none."""


class Finding(AssertionError):
    """The code under test broke a promise."""


@dataclass(frozen=True)
class Target:
    """One decoder or parser under test."""

    name: str
    about: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    """Well-formed inputs to begin with, made anew each time."""
    mutate: Callable[[bytes, Random], bytes] | None = None
    """Changes an input in a way that keeps its structure; blind mutations are made beside it."""
    longest_bytes: int = 4_096


class _LogWatch(logging.Handler):
    """Looks at every log line as production would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.leaks: list[str] = []
        self.setFormatter(JsonFormatter("fuzz"))

    def emit(self, record: logging.LogRecord) -> None:
        """The handler's part; a finding is raised later, by `execute`, where no `except` of the code can take it."""
        if looks_like_card_number(self.format(record)):
            self.leaks.append(f"{record.name}:{record.lineno}")


_WATCH: Final = _LogWatch()


def watch_logs() -> None:
    """From now on every log line at any level is looked at, and printed nowhere."""
    root = logging.getLogger()
    root.handlers[:] = [_WATCH]
    root.setLevel(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def execute(target: Target, data: bytes) -> None:
    """Run the target on one input. Raises Finding, or whatever the code under test lets out."""
    _WATCH.leaks.clear()
    begun = time.process_time()
    target.run(data)
    spent_seconds = time.process_time() - begun
    if spent_seconds > CPU_SECONDS_MAX:
        raise Finding(f"one input of {len(data)} bytes took {spent_seconds:.1f} s of CPU")
    if _WATCH.leaks:
        raise Finding(f"a card number in a log line of {_WATCH.leaks[0]}")


def check_message(text: str) -> None:
    """An error's text, or another text for people: bounded, and without a card number (P6)."""
    if len(text) > MESSAGE_CHARACTERS_MAX:
        raise Finding(f"a message of {len(text)} characters")
    if looks_like_card_number(text):
        raise Finding("a card number in a message")


def check_error(error: BaseException) -> None:
    """The same of an exception, with what hangs on it: contexts end up in tracebacks."""
    check_message(str(error))
    hidden = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if hidden is not None:
        check_message(f"{hidden!r}")


def check(holds: bool, promise: str) -> None:
    """Raise Finding unless the promise was kept."""
    if not holds:
        raise Finding(promise)
