"""Which partitions hold a record that nobody has taken, asked of the brokers outside the consumer (design 6).

The consumer's own idea of its lag is no help: when it has stopped to fetch, that has stopped as well. Offsets are none
either: after a transaction the last one is a marker, and waits for nobody.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from streams.holes import PartitionReader, Slot, Unreadable

log = logging.getLogger(__name__)


class Backlog:
    """Looks now and then at partitions that do not move; `waiting` says where a record waited at the last look."""

    def __init__(
        self, reader: PartitionReader, positions: Callable[[], Mapping[Slot, int]], *, every_seconds: float
    ) -> None:
        """`positions` gives, for each of our partitions without work in progress, the offset that comes next."""
        self._reader = reader
        self._positions = positions
        self._every_seconds = every_seconds
        self._before: Mapping[Slot, int] = {}
        self._found: dict[Slot, int] = {}

    @property
    def waiting(self) -> frozenset[Slot]:
        """Partitions where a record waited, and that have not moved since."""
        now = self._positions()
        return frozenset(slot for slot, position in self._found.items() if now.get(slot) == position)

    async def look_forever(self) -> None:
        """Look again and again. An unanswered look finds nothing: while the brokers are away nobody is to blame."""
        while True:
            await asyncio.sleep(self._every_seconds)
            await self.look()

    async def look(self) -> None:
        """Look once, at partitions that stand where they stood at the look before."""
        now = dict(self._positions())
        still = {slot: position for slot, position in now.items() if self._before.get(slot) == position}
        self._before = now
        try:
            first = await asyncio.to_thread(self._reader.first_records, still) if still else {}
        except Unreadable as error:
            log.info("backlog not known", extra={"why": str(error)})
            first = {}
        self._found = {slot: still[slot] for slot, offset in first.items() if offset is not None}

    async def close(self) -> None:
        """Close the reader's connections."""
        await asyncio.to_thread(self._reader.close)
