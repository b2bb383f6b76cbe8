"""How a consumer does, without a threshold: Burrow's rules over a window of what the group has committed. Pure.

The rules and their order are those of Burrow 1.9 (core/internal/evaluator/caching.go). Burrow reads every commit; a
worker here commits only when something was finished, so `Window` is fed with looks at the committed offset instead,
one each SAMPLE_SECONDS or so, and says itself which of them count as a commit.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

WINDOW_SAMPLES: Final = 10
"""Burrow's number of commits, here of looks."""
SAMPLE_SECONDS: Final = 15.0
"""Looks that come sooner are not kept: ten of them are then at least 135 s, longer than any call to Visa."""


class Status(StrEnum):
    """How a partition is consumed, or how the worst of a group's is; from good to bad, the last four as bad."""

    OK = "OK"
    WARN = "WARN"
    """Offsets advance and the lag never falls: too slow."""
    ERR = "ERR"
    """Of a group only: one of its partitions is in one of the states below."""
    STOP = "STOP"
    """Nobody has committed for longer than the commits in the window took."""
    STALL = "STALL"
    """Somebody is there, work waits, and the offset does not move."""
    REWIND = "REWIND"
    """The offset went back and has not come to where it was."""


PARTITION_STATUSES: Final = (Status.OK, Status.WARN, Status.STOP, Status.STALL, Status.REWIND)


@dataclass(frozen=True, slots=True)
class Commit:
    """An offset that the group had committed, when, and how many records waited behind it (None: not known)."""

    offset: int
    at_seconds: float
    lag: int | None


def evaluate(
    commits: Sequence[Commit], ends: Iterable[int], current_lag: int, now_seconds: float, allowed_lag: int = 0
) -> Status:
    """The status of one partition.

    `commits` are in the order of their times; `ends` are the partition's ends as they were seen lately.
    """
    if current_lag <= allowed_lag or not commits:
        return Status.OK
    if _stopped(commits, now_seconds) and not any(end <= commits[-1].offset for end in ends):
        return Status.STOP
    if _rewound(commits):
        return Status.REWIND
    if any(commit.lag is not None and commit.lag <= allowed_lag for commit in commits):
        return Status.OK
    if all(later.offset == earlier.offset for earlier, later in pairwise(commits)):
        return Status.STALL
    return Status.WARN if _never_falls([c.lag for c in commits if c.lag is not None]) else Status.OK


def _stopped(commits: Sequence[Commit], now_seconds: float) -> bool:
    return now_seconds - commits[-1].at_seconds > commits[-1].at_seconds - commits[0].at_seconds


def _rewound(commits: Sequence[Commit]) -> bool:
    """Whether the first step back in the window has not been made good."""
    for index, (earlier, later) in enumerate(pairwise(commits), start=1):
        if later.offset < earlier.offset:
            return all(commit.offset < earlier.offset for commit in commits[index:])
    return False


def _never_falls(lags: Sequence[int]) -> bool:
    return all(later >= earlier for earlier, later in pairwise(lags))


def worst(statuses: Iterable[Status]) -> Status:
    """A group's status: that of its worst partition, where everything worse than WARN is ERR."""
    found = set(statuses)
    if found - {Status.OK, Status.WARN}:
        return Status.ERR
    return Status.WARN if Status.WARN in found else Status.OK


@dataclass(frozen=True, slots=True)
class _Sample:
    commit: Commit
    end: int
    counts: bool


class Window:
    """What was seen of one partition lately: a bounded number of looks, and the status that they come to."""

    def __init__(self, samples: int = WINDOW_SAMPLES, every_seconds: float = SAMPLE_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._samples: deque[_Sample] = deque(maxlen=samples)

    @property
    def seen(self) -> int:
        """Looks in the window."""
        return len(self._samples)

    @property
    def size(self) -> int:
        """Looks that it takes."""
        return self._samples.maxlen or 0

    @property
    def complete(self) -> bool:
        """Whether the window says anything: an incomplete one is OK by rule, not by knowledge."""
        return self.seen == self.size

    def add(self, *, offset: int, end: int, lag: int, held: bool, at_seconds: float) -> None:
        """One look. `held` says that a member has the partition; `at_seconds` is of a clock that never goes back.

        A look counts as a commit when the offset has moved, or when a member has the partition: he commits whatever he
        finishes. Where nobody has it nothing is committed, and time passes since the last commit. The oldest look
        always counts: somebody committed that offset, once.
        """
        if self._samples and at_seconds - self._samples[-1].commit.at_seconds < self._every_seconds:
            return
        moved = bool(self._samples) and self._samples[-1].commit.offset != offset
        self._samples.append(_Sample(Commit(offset, at_seconds, lag), end, held or moved))

    def clear(self) -> None:
        """Forget everything: nothing is committed any more."""
        self._samples.clear()

    def status(self) -> Status:
        """By Burrow's rules; OK while the window is not complete."""
        if not self.complete:
            return Status.OK
        samples = list(self._samples)
        commits = [sample.commit for index, sample in enumerate(samples) if sample.counts or index == 0]
        latest = samples[-1].commit
        return evaluate(commits, [s.end for s in samples], latest.lag or 0, latest.at_seconds)
