"""How fast calls to Visa may leave: token buckets, a window that gives way to 429, and turns between originators. Pure.

The caller brings the time, in seconds of a clock that does not go back. One that does all the same adds nothing and
stops nobody.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

BURST_SECONDS: Final = 0.1
"""What may leave at once after a rest, as time at full rate: who counts by the second must not see two of them."""
HALVING_SECONDS: Final = 1.0
"""Calls under way when the limit was met are refused with it; together they say "too much" once."""
# Sums of floating point: a token that is short of this much is one.
_ALMOST: Final = 1e-9

T = TypeVar("T")


class TokenBucket:
    """So many calls a second on average, and at most `burst` at once. Without a rate it is never empty."""

    def __init__(self, per_second: float | None) -> None:
        """Raises ValueError for a rate that lets nothing through."""
        if per_second is not None and per_second <= 0:
            raise ValueError("a rate must be above 0")
        self._per_second = per_second
        self.burst = max(1.0, (per_second or 0.0) * BURST_SECONDS)
        self._tokens = self.burst
        self._at: float | None = None

    def seconds_to_token(self, now: float) -> float:
        """How long until a call may leave; 0 now."""
        if self._per_second is None:
            return 0.0
        self._refill(now)
        return 0.0 if self._tokens >= 1.0 - _ALMOST else (1.0 - self._tokens) / self._per_second

    def take(self) -> None:
        """One call leaves; only after `seconds_to_token` said 0."""
        if self._per_second is not None:
            self._tokens -= 1.0

    def give_back(self) -> None:
        """The call did not leave."""
        self._tokens = min(self.burst, self._tokens + 1.0)

    def is_full(self, now: float) -> bool:
        """Nothing left for so long that it is as a new one."""
        self._refill(now)
        return self._tokens >= self.burst

    def _refill(self, now: float) -> None:
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self.burst, self._tokens + passed * (self._per_second or 0.0))


class CallWindow:
    """How many calls may be in flight: half as many after a 429, one more for each round of answers without one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._size = float(most)
        self._halved_at: float | None = None

    @property
    def places(self) -> int:
        """Calls in flight at once, from 1 to `most`."""
        return int(self._size + _ALMOST)

    @property
    def is_narrowed(self) -> bool:
        """A 429 is not made up for yet."""
        return self.places < self.most

    def limited(self, now: float) -> bool:
        """A call was refused as one too many; whether that narrowed the window."""
        if self._halved_at is not None and 0.0 <= now - self._halved_at < HALVING_SECONDS:
            return False
        self._halved_at = now
        self._size = max(1.0, self._size / 2)
        return True

    def served(self) -> None:
        """A call was answered: as many answers as there are places make one place more."""
        self._size = min(float(self.most), self._size + 1.0 / self._size)


class FairQueue(Generic[T]):
    """Those who wait, by originator: one call of each in turn, in the order in which an originator's came."""

    def __init__(self) -> None:
        self._by_originator: OrderedDict[str, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_originator)

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._by_originator.values())

    @property
    def originators(self) -> list[str]:
        """Who waits, the next in turn first."""
        return list(self._by_originator)

    def push(self, originator_id: str, item: T) -> None:
        """One more, behind its originator's others; an originator that comes anew is the last in turn."""
        self._by_originator.setdefault(originator_id, deque()).append(item)

    def pop(self, may_go: Callable[[str], bool]) -> T | None:
        """The next in turn whose originator may go; one that may not keeps its turn and holds up nobody."""
        originator_id = next((name for name in self._by_originator if may_go(name)), None)
        if originator_id is None:
            return None
        waiting = self._by_originator[originator_id]
        item = waiting.popleft()
        if waiting:
            self._by_originator.move_to_end(originator_id)
        else:
            del self._by_originator[originator_id]
        return item

    def remove(self, originator_id: str, item: T) -> None:
        """Somebody waits no more; nothing happens if he is gone already."""
        waiting = self._by_originator.get(originator_id)
        if waiting is None or item not in waiting:
            return
        waiting.remove(item)
        if not waiting:
            del self._by_originator[originator_id]

    def clear(self) -> list[T]:
        """Everybody, who then waits no more."""
        everybody = [item for waiting in self._by_originator.values() for item in waiting]
        self._by_originator.clear()
        return everybody
