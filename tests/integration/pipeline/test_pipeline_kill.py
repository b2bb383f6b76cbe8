"""A worker killed between the effect and its answer: the payout is paid once and says so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.pipeline.pipeline_harness import Pipeline, fault, in_order, new_id, until

pytestmark = pytest.mark.servers


def test_a_worker_killed_after_the_effect_pays_once(running: Pipeline) -> None:
    """S2, S3, P2: the intent is durable, the lost answer is asked for, nothing is sent twice."""
    payout_id = new_id()
    running.visa_faults(fault(payout_id, "push", "effect_then_silence", times=1, seconds=60))
    running.send(running.request(payout_id))

    def effect_without_answer() -> list[dict[str, Any]]:
        return running.approved(payout_id)

    assert len(until("the effect at Visa", effect_without_answer)) == 1
    assert running.row(payout_id)["state"] == "SUBMITTING"
    worker = running.workers[0]
    worker.kill()
    assert running.row(payout_id)["state"] == "SUBMITTING"
    assert running.events_of("payout_results", payout_id) == []

    worker.start()
    row = running.wait_row(payout_id, state="PAID")
    assert row["attempts"] == 1
    assert len(running.approved(payout_id)) == 1
    assert [request["operation"] for request in running.visa_requests(payout_id)].count("push") == 1
    transitions = running.transitions(payout_id)
    assert in_order(["intent", "answer_lost", "query_begun", "paid"], transitions), transitions
    results = running.events_of("payout_results", payout_id)
    assert len({event.event_id for event in results}) == 1
    assert running.decode("PayoutResult", results[0].value)["status"] == "PAID"
