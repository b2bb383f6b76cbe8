"""Acknowledge strictly in offset order, whatever order the work finishes in (rules K1, K8).

One window a topic-partition and generation. An offset may be acknowledged only when every offset before it is finished,
and a hole between two offsets counts as unfinished until somebody has looked into it. `committable` is what may be
committed; nothing else decides that. The window is pure bookkeeping and never touches Kafka.

    started   10 11 12 13
    finished     11 12        → nothing to acknowledge: 10 is still in work
    finished  10 11 12        → acknowledge 10, 11, 12 in this order; 13 may be committed (the next offset to read)

    started   10    13        → the hole 11, 12 is returned, and nothing after it is acknowledged ...
    passed       11 12        → ... before it was passed: then 13 once it is finished
"""

from collections import deque
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


class OffsetOutOfOrder(Exception):
    """An offset was started that is not after the last one: the reader went backwards inside one generation."""


class _Place(NamedTuple, Generic[Item]):
    """One offset in work, or one hole (without an item)."""

    offset: int
    end: int
    item: Item | None
    is_hole: bool


class AckWindow(Generic[Item]):
    """Offsets in work, oldest first, each with what its acknowledgement needs (a Faust event)."""

    __slots__ = ("_committable", "_finished", "_in_work", "_last_started")

    def __init__(self, first: int | None = None) -> None:
        """`first` is the offset that must come first, the committed one: what lies before another one is a hole."""
        self._in_work: deque[_Place[Item]] = deque()
        self._finished: set[tuple[int, bool]] = set()
        self._last_started: int | None = None if first is None else first - 1
        self._committable: int | None = None

    def __len__(self) -> int:
        """How many offsets are started, and holes met, that are not yet acknowledged or passed."""
        return len(self._in_work)

    @property
    def oldest(self) -> int | None:
        """The offset that everything after it waits for."""
        return self._in_work[0].offset if self._in_work else None

    @property
    def committable(self) -> int | None:
        """The offset at which the next reader may begin; None while nothing was acknowledged."""
        return self._committable

    def start(self, offset: int, item: Item) -> range:
        """Take an offset into work; returns the hole before it (empty when it follows the last one).

        A hole holds back everything after it until `pass_hole`. Raises OffsetOutOfOrder when the offset is not after
        the last one started.
        """
        last = self._last_started
        if last is not None and offset <= last:
            raise OffsetOutOfOrder(f"offset {offset} was started after {last}")
        hole = range(offset, offset) if last is None else range(last + 1, offset)
        if hole:
            self._in_work.append(_Place(hole.start, hole.stop, None, is_hole=True))
        self._last_started = offset
        self._in_work.append(_Place(offset, offset + 1, item, is_hole=False))
        return hole

    def finish(self, offset: int) -> list[Item]:
        """Mark an offset finished; returns the items that may be acknowledged now, in offset order.

        Finishing an offset twice, or one that was never started, acknowledges nothing.
        """
        return self._end(offset, is_hole=False)

    def pass_hole(self, hole: range) -> list[Item]:
        """There is no record in this hole; returns the items that may be acknowledged now, in offset order."""
        return self._end(hole.start, is_hole=True)

    def _end(self, offset: int, *, is_hole: bool) -> list[Item]:
        oldest = self.oldest
        if oldest is None or self._last_started is None or not oldest <= offset <= self._last_started:
            return []
        self._finished.add((offset, is_hole))
        ready: list[Item] = []
        while self._in_work and (self._in_work[0].offset, self._in_work[0].is_hole) in self._finished:
            done = self._in_work.popleft()
            self._finished.discard((done.offset, done.is_hole))
            self._committable = done.end
            if done.item is not None:
                ready.append(done.item)
        if not self._in_work:
            self._finished.clear()
        return ready
