"""Says on Kafka what the ledger has decided, and marks in the ledger what the broker confirmed (rules K1, K2)."""

import asyncio
import logging

from ledger.interface import Ledger, LedgerError
from processors.payout.row import PayoutRow
from streams.publisher import Publisher

log = logging.getLogger(__name__)

MARK_EVERY_SECONDS = 0.05
"""Confirmed announcements are written together; one that is lost with the process is only published again."""
MARKS_MAX = 500
"""Rows in one such write."""


class Announcer:
    """Publishes a row's events, then queues the mark. Losing a mark costs a repeat, never an event."""

    def __init__(self, ledger: Ledger, publisher: Publisher) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._marks: dict[str, int] = {}
        self._wake = asyncio.Event()

    async def announce(self, row: PayoutRow, *, again: bool = False) -> None:
        """Publish what is not confirmed yet; `again`: everything the row announces, confirmed or not (P5)."""
        if again:
            await self._publisher.publish_row(row)
        elif row.announced_version < row.announce_version:
            await self._publisher.publish_row(row, since_version=row.announced_version)
        else:
            return
        if row.announced_version < row.announce_version:
            self._marks[row.payout_id] = max(row.announce_version, self._marks.get(row.payout_id, 0))
            self._wake.set()

    async def mark_forever(self) -> None:
        """Write confirmed announcements in batches until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(MARK_EVERY_SECONDS)
            await self.mark_now()

    async def mark_now(self) -> None:
        """Write what is queued; what cannot be written is forgotten, and the sweeper publishes it again (K2)."""
        self._wake.clear()
        while self._marks:
            batch = [(name, self._marks.pop(name)) for name in list(self._marks)[:MARKS_MAX]]
            try:
                await self._ledger.mark_announced(batch)
            except LedgerError as error:
                log.warning("announcements not marked", extra={"rows": len(batch), "error": type(error).__name__})
