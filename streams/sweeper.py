"""Drives what is due and announces what was not: in every worker, without leases, in bounded batches (rules K2, K4)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from ledger.interface import DueRow, Ledger, LedgerError
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.trace import root_of
from schemas.codec import RegistryUnavailable
from schemas.headers import event_id
from streams.announcer import Announcer
from streams.clock import Clock
from streams.metrics import Metrics
from streams.publisher import BrokerUnavailable, Publisher, PublishUnconfirmed

log = logging.getLogger(__name__)

SWEEP_EVERY_SECONDS = 0.5
"""Due payouts are late by at most about this much."""
BATCH_MAX = 200
"""Rows a pass: bounds the burst on payout_retry; what is left is due in the next pass."""
TRICKLE_MAX = 10
"""Rows a pass while calls to Visa pause: enough to probe and to go on with what needs no call, no burst for nothing."""
LAG_EXPLAINS_AGE_FROM = 1000
"""Records. Under steady traffic a little lag never ends: it must not starve a row whose stage event was lost."""
OUTSTANDING_MAX = 1000
"""Drives waiting on payout_retry beyond which more of them help nobody (rule K4)."""
UNANNOUNCED_AFTER_SECONDS = 3.0
"""A publish that the broker has not confirmed by then was lost, or its mark was: publish again."""
FAILED_REST_SECONDS = 30.0
"""A row that could not be announced is left alone for this long: the others first, and no log full of it."""
FAILED_MAX = 10_000
"""Such rows remembered at once; beyond it the oldest are only tried, and logged, more often."""

STAGE_TOPICS = {
    PayoutState.RECEIVED: "payout_requests",
    PayoutState.VALIDATED: "payout_validated",
    PayoutState.CLEARED: "payout_cleared",
}
"""Where a row waits for its stage; while the stage itself lags, its age needs no drive (K4)."""


class Sweeper:
    """One pass: republish unannounced rows, then publish `payout_retry` for due ones."""

    def __init__(
        self,
        ledger: Ledger,
        publisher: Publisher,
        announcer: Announcer,
        *,
        schedule: Schedule,
        lag_of: Callable[[str], Awaitable[int]],
        clock: Clock,
        metrics: Metrics,
        is_paused: Callable[[], bool] = lambda: False,
        is_visa_paused: Callable[[], bool] = lambda: False,
        may_publish: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_publish`: whether the mode lets events out (L9)."""
        self._may_publish = may_publish
        self._is_paused = is_paused
        self._is_visa_paused = is_visa_paused
        self._ledger = ledger
        self._publisher = publisher
        self._announcer = announcer
        self._schedule = schedule
        self._lag_of = lag_of
        self._clock = clock
        self._metrics = metrics
        self._after: str | None = None
        """The last row looked at: every pass goes on behind it, and begins anew at the end (P8)."""
        self._failed: dict[str, datetime] = {}
        """Rows that could not be announced, and when, the newest last."""

    async def run_forever(self) -> None:
        """Sweep until cancelled; what fails is tried again in the next pass."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_SECONDS)
            try:
                await self.sweep()
            except (LedgerError, BrokerUnavailable) as error:
                log.warning("sweep not possible now", extra={"error": type(error).__name__})
            except Exception:
                log.exception("sweep failed")

    async def sweep(self) -> int:
        """One pass; returns how many rows it moved."""
        if not self._may_publish():
            return 0
        moved = await self._announce_batch()
        if self._is_paused() or await self._lag_of("payout_retry") > OUTSTANDING_MAX:
            return moved
        drives_max = TRICKLE_MAX if self._is_visa_paused() else BATCH_MAX
        due = await self._ledger.due(drives_max, self._schedule.lease_seconds + self._schedule.clock_skew_seconds)
        waiting = {row.state for row in due if row.untouched}
        lagging = {state for state in waiting if await self._is_lagging(state)}
        for row in due:
            if not row.untouched or row.state not in lagging:
                await self._publish_retry(row)
                moved += 1
        return moved

    async def _announce_batch(self) -> int:
        """What is silent among the next rows; a batch that holds only rows nobody can announce is passed (K2, P8)."""
        batch = await self._ledger.unannounced(BATCH_MAX, UNANNOUNCED_AFTER_SECONDS, self._after)
        silent = [row for row in batch if not self._rests(row.payout_id)]
        if silent:
            await self._ledger.settle()  # what follows rests on rows that were only read (L4)
        moved = 0
        for row in silent:
            moved += await self._announced(row)
        self._after = batch[-1].payout_id if len(batch) >= BATCH_MAX else None
        return moved

    def _rests(self, payout_id: str) -> bool:
        failed_at = self._failed.get(payout_id)
        return failed_at is not None and self._clock() - failed_at < timedelta(seconds=FAILED_REST_SECONDS)

    def _note_failure(self, payout_id: str) -> None:
        self._failed.pop(payout_id, None)
        self._failed[payout_id] = self._clock()
        while len(self._failed) > FAILED_MAX:
            del self._failed[next(iter(self._failed))]

    async def _announced(self, row: PayoutRow) -> int:
        """One row that no event can express must not keep the others from being driven (P8)."""
        try:
            await self._announcer.announce(row)
        except (BrokerUnavailable, PublishUnconfirmed):
            self._note_failure(row.payout_id)  # the broker may be away, or refuse this one record for ever
            raise
        except (LedgerError, RegistryUnavailable):
            raise
        except Exception:
            self._note_failure(row.payout_id)
            log.exception("row cannot be announced", extra={"payout_id": row.payout_id, "state": row.state.value})
            return 0
        self._failed.pop(row.payout_id, None)
        self._metrics.swept.labels("announced").inc()
        return 1

    async def _is_lagging(self, state: PayoutState) -> bool:
        topic = STAGE_TOPICS.get(state)
        return topic is not None and await self._lag_of(topic) >= LAG_EXPLAINS_AGE_FROM

    async def _publish_retry(self, row: DueRow) -> None:
        reason = "LEASE_EXPIRED" if row.state is PayoutState.SUBMITTING else "DUE"
        now = self._clock()
        record = {
            "payout_id": row.payout_id,
            "version": row.version,
            "reason": reason,
            "requested_at": now,
            "correlation_id": row.correlation_id,
        }
        await self._publisher.publish_event(
            "payout_retry",
            "PayoutRetry",
            record,
            key=row.payout_id,
            identifier=event_id("PayoutRetry", f"{row.payout_id}/{now.isoformat()}", row.version),
            at=now,
            correlation_id=row.correlation_id,
            root=root_of(row.payout_id, row.traceparent),
        )
        self._metrics.swept.labels("driven").inc()
