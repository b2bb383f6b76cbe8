"""A worker whose consumer loses records: started by test_completeness_lost_records only.

    python -m tests.integration.completeness.losing_worker

PAYOUTS_TEST_LOSE        {topic: [offsets of partition 0]}: fetched, and never handed on. What comes next is handed on,
                         and Faust's own bookkeeping takes the gap as handled.
PAYOUTS_TEST_BLIND       set: nobody looks into holes, so the lost records are committed past, silently.
PAYOUTS_TEST_UNFOLLOWED  set: nobody follows behind the committed offsets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from streams.bootstrap import run_worker
from streams.completeness import Follower
from streams.holes import HoleJudge, Slot
from streams.kafka_app import OrderedConsumer
from streams.settings import load_settings

log = logging.getLogger(__name__)


def lose(offsets: dict[str, list[int]], prefix: str) -> None:
    """Let these records vanish between the fetch and the stream."""
    vanishing = {(f"{prefix}{topic}", 0, offset) for topic, chosen in offsets.items() for offset in chosen}
    getmany = OrderedConsumer.getmany

    async def getmany_without(self: OrderedConsumer, timeout: float) -> AsyncIterator[tuple[Any, Any]]:  # noqa: ASYNC109
        async for place, message in getmany(self, timeout):
            if (message.topic, message.partition, message.offset) in vanishing:
                log.warning("lost %s %s", message.topic, message.offset)
                continue
            yield place, message

    OrderedConsumer.getmany = getmany_without  # type: ignore[method-assign]


def look_into_nothing() -> None:
    """Every hole is passed, as stock Faust passes it."""

    async def nothing_there(_: HoleJudge, __: Slot, ___: range) -> None:
        return None

    HoleJudge.__call__ = nothing_there  # type: ignore[method-assign]


def follow_nothing() -> None:
    """No follower."""

    async def never(_: Follower) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    Follower.follow_forever = never  # type: ignore[method-assign]


if __name__ == "__main__":
    settings = load_settings()
    lose(json.loads(os.environ["PAYOUTS_TEST_LOSE"]), settings.payouts_topic_prefix)
    if os.environ.get("PAYOUTS_TEST_BLIND"):
        look_into_nothing()
    if os.environ.get("PAYOUTS_TEST_UNFOLLOWED"):
        follow_nothing()
    run_worker(settings)
