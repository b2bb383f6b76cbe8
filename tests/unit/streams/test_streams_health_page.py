"""The health page answers from its first moment: an error there is an alert for nothing."""

from __future__ import annotations

from streams.bootstrap import WorkerRuntime
from streams.settings import AGENT_NAMES, Profile, Settings


async def test_a_worker_that_has_not_joined_its_group_yet_has_no_partitions() -> None:
    """P8: the page is open before the consumer is; it says "none" and not 500."""
    runtime = WorkerRuntime(Settings(payouts_profile=Profile.TEST), AGENT_NAMES, "early")
    try:
        assert runtime._assignment() == []
    finally:
        runtime.app.consumer._thread.thread_loop.close()
