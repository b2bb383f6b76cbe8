"""The emergency brake: after `set_mode(halted)` has returned, nothing new reaches Visa."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from ledger.postgres import PostgresLedger
from processors.payout.modes import Mode
from tests.integration.pipeline.pipeline_harness import Pipeline, assert_paid_once, until

pytestmark = pytest.mark.servers

# Longer than the longest lease of the test profile.
WAIT_SECONDS = 12.0


def _set_mode(pipeline: Pipeline, mode: Mode) -> None:
    async def work() -> None:
        async with await PostgresLedger.connect(pipeline.database_url, pool_min=1, pool_max=2) as ledger:
            await ledger.set_mode(mode, "operator-1", "a test of the brake", WAIT_SECONDS)

    pipeline.loop.run(work())


def _states(pipeline: Pipeline, payout_ids: list[str]) -> Counter[str]:
    rows = pipeline.fetch("SELECT state FROM payouts WHERE payout_id = ANY($1)", payout_ids)
    return Counter(row["state"] for row in rows)


def test_after_halted_no_new_call_leaves(running: Pipeline) -> None:
    """L9, L3, P2: calls begun before end; what is cleared later waits; back to normal, everything is paid once."""
    running.visa_faults({"operation": "push", "fault": "slow", "seconds": 0.5})
    payout_ids = running.send_many(running.request() for _ in range(50))
    until("payouts at Visa", lambda: sum(running.approved_counts(payout_ids).values()) >= 3)
    _set_mode(running, Mode.HALTED)
    halted_at_ms = time.time() * 1000
    try:
        states = _states(running, payout_ids)
        assert "SUBMITTING" not in states, "every call begun before has ended"
        late = running.send_many(running.request() for _ in range(10))
        everything = payout_ids + late

        def stands_still() -> bool:
            return set(_states(running, everything)) <= {"PAID", "CLEARED"} and _states(running, late) == {
                "CLEARED": 10
            }

        until("nothing but PAID and CLEARED", stands_still)
        # The stage has seen the last of them: their events are behind the group's committed offsets.
        until("the submit stage's offsets", lambda: _lag(running, "payout_cleared") == 0)
        assert [call for call in running.visa_requests() if call["at_ms"] > halted_at_ms] == []
        assert all(running.row(payout_id)["first_intent_at"] is None for payout_id in late)
    finally:
        _set_mode(running, Mode.NORMAL)
    running.visa_faults()
    running.wait_all(everything)
    assert_paid_once(running, everything)


def _lag(pipeline: Pipeline, topic: str) -> int:
    ends: dict[int, int] = {}
    for record in pipeline.events(topic):
        ends[record.partition] = max(ends.get(record.partition, 0), record.offset + 1)
    return sum(max(0, end - pipeline.committed(topic, partition)) for partition, end in ends.items())
