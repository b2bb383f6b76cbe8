"""Acknowledge strictly in offset order, whatever order the work finishes in (rule K1).

One window a topic-partition and generation. An offset may be acknowledged only when every offset before it that was
started is finished too; the window is pure bookkeeping and never touches Kafka.

    started   10 11 12 13
    finished     11 12        → nothing to acknowledge: 10 is still in work
    finished  10 11 12        → acknowledge 10, 11, 12 in this order
"""

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class OffsetOutOfOrder(Exception):
    """An offset was started that is not after the last one: the reader went backwards inside one generation."""


class AckWindow(Generic[Item]):
    """Offsets in work, oldest first, each with what its acknowledgement needs (a Faust event)."""

    __slots__ = ("_finished", "_in_work", "_last_started")

    def __init__(self) -> None:
        self._in_work: deque[tuple[int, Item]] = deque()
        self._finished: set[int] = set()
        self._last_started: int | None = None

    def __len__(self) -> int:
        """How many offsets are started and not yet acknowledged."""
        return len(self._in_work)

    @property
    def oldest(self) -> int | None:
        """The offset that everything after it waits for."""
        return self._in_work[0][0] if self._in_work else None

    def start(self, offset: int, item: Item) -> range:
        """Take an offset into work; returns the hole before it (empty when it follows the last one).

        Raises OffsetOutOfOrder when the offset is not after the last one started.
        """
        last = self._last_started
        if last is not None and offset <= last:
            raise OffsetOutOfOrder(f"offset {offset} was started after {last}")
        self._last_started = offset
        self._in_work.append((offset, item))
        return range(offset, offset) if last is None else range(last + 1, offset)

    def finish(self, offset: int) -> list[Item]:
        """Mark an offset finished; returns the items that may be acknowledged now, in offset order.

        Finishing an offset twice, or one that was never started, acknowledges nothing.
        """
        if self._last_started is None or offset > self._last_started or offset < (self.oldest or 0):
            return []
        self._finished.add(offset)
        ready: list[Item] = []
        while self._in_work and self._in_work[0][0] in self._finished:
            done, item = self._in_work.popleft()
            self._finished.discard(done)
            ready.append(item)
        if not self._in_work:
            self._finished.clear()
        return ready
