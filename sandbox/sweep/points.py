"""Where a worker can be killed: points by name, counted while a payout passes them.

    ledger.commit cleared after #1        the first commit of that transition is confirmed, nothing rests on it yet
    publish payout_results before #1      decided and committed, not handed to the producer
    http.send QUERY after #2              the second question's last byte has left

A point is (boundary, what, before or after, occurrence). The occurrence counts from the payout's first write, which
begins its life in this worker: what an idle worker does all the time (sweeps, marks) is no part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

BEFORE: Final = "before"
AFTER: Final = "after"
FIRST_WRITE: Final = "ledger.insert received"
"""With it a payout exists; whatever came earlier was about another one."""
BROKEN_ORDERS: Final = ("marks_first", "ack_first")
"""Ways to break a worker, see `launcher.break_order`."""
BOUNDARIES: Final = ("ledger", "publish", "http.send", "http.receive", "ack", "offset_commit")
"""Every point's name begins with one of them: what the first word says, up to a dot for the ledger."""


def boundary_of(point: str) -> str:
    """Which boundary a point belongs to."""
    word = point.split(" ", 1)[0]
    return "ledger" if word.startswith("ledger.") else word


def chosen(points: Sequence[str], every: int, containing: str, *, first: int = 0) -> list[str]:
    """Every `every`-th of the points whose name contains the text, from the `first`-th (modulo `every`) on."""
    return [point for point in points if containing in point][first % every :: every]


class Trap:
    """Counts what the armed worker passes, tells each point, and springs at the one it was armed for."""

    def __init__(self, tell: Callable[[str], None], spring: Callable[[str], None]) -> None:
        """`spring` does not return; `tell` comes before it, so that a hit is known although the worker is gone."""
        self._tell = tell
        self._spring = spring
        self._passed: Counter[str] = Counter()
        self._target: str | None = None
        self._armed = False

    def arm(self, target: str | None) -> None:
        """Count anew, for the next payout; None only tells the points."""
        self._passed.clear()
        self._target = target
        self._armed = True

    def passing(self, what: str, moment: str, *, once: bool = False) -> None:
        """This place is reached now. `once` counts the first time only, for what repeats by the clock."""
        place = f"{what} {moment}"
        if not self._armed or not (self._passed or what == FIRST_WRITE) or (once and self._passed[place]):
            return
        self._passed[place] += 1
        point = f"{place} #{self._passed[place]}"
        self._tell(point)
        if point == self._target:
            self._spring(point)
