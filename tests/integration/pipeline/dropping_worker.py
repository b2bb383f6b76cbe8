"""A worker that loses what it should publish: started by test_pipeline_dropped_publish only.

    python -m tests.integration.pipeline.dropping_worker

PAYOUTS_TEST_CRASH_AT  {payout_id: state}: after the commit that brings a payout there nothing more is done for it;
                       when all are there the process ends as by SIGKILL, with nothing published or acknowledged.
PAYOUTS_TEST_DROP      set: the first announcement of every decision, and the first drive of every payout, is lost
                       between the commit and the broker, while its source record is acknowledged.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from ledger.interface import DueRow, Inserted
from ledger.postgres import PostgresLedger
from processors.payout.row import PayoutRow
from streams.announcer import Announcer
from streams.bootstrap import run_worker
from streams.settings import load_settings
from streams.sweeper import Sweeper

log = logging.getLogger(__name__)

CRASH_EXIT_CODE = 75


def crash_after_commits(targets: dict[str, str]) -> None:
    """Freeze each payout right after its commit; end when all are frozen."""
    reached: set[str] = set()

    async def freeze_if_there(row: object) -> None:
        if not isinstance(row, PayoutRow) or targets.get(row.payout_id) not in (row.state, row.compensation):
            return
        reached.add(row.payout_id)
        if reached == set(targets):
            os._exit(CRASH_EXIT_CODE)
        await asyncio.Event().wait()

    def wrapped(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(method)
        async def commit_and_freeze(*arguments: Any, **named: Any) -> Any:
            result = await method(*arguments, **named)
            await freeze_if_there(result.row if isinstance(result, Inserted) else result)
            return result

        return commit_and_freeze

    async def never(_: Sweeper) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    for name in ("insert", "commit", "begin"):
        setattr(PostgresLedger, name, wrapped(getattr(PostgresLedger, name)))
    # It would drive the frozen ones on.
    Sweeper.run_forever = never  # type: ignore[method-assign]


def drop_first_publishes() -> None:
    """Lose each announcement and each drive once."""
    lost: set[tuple[str, int]] = set()
    announce, publish_retry = Announcer.announce, Sweeper._publish_retry

    async def announce_later(self: Announcer, row: PayoutRow, *, again: bool = False) -> None:
        decision = (row.payout_id, row.announce_version)
        if row.announced_version < row.announce_version and decision not in lost:
            lost.add(decision)
            log.warning("dropped the announcement of %s %s %s", row.payout_id, row.state, row.compensation)
            return
        await announce(self, row, again=again)

    async def drive_later(self: Sweeper, row: DueRow) -> None:
        drive = (row.payout_id, -1)
        if drive not in lost:
            lost.add(drive)
            log.warning("dropped the drive of %s %s", row.payout_id, row.state)
            return
        await publish_retry(self, row)

    Announcer.announce = announce_later  # type: ignore[method-assign]
    Sweeper._publish_retry = drive_later  # type: ignore[method-assign]


if __name__ == "__main__":
    crash_at = os.environ.get("PAYOUTS_TEST_CRASH_AT")
    if crash_at:
        crash_after_commits(json.loads(crash_at))
    if os.environ.get("PAYOUTS_TEST_DROP"):
        drop_first_publishes()
    run_worker(load_settings())
