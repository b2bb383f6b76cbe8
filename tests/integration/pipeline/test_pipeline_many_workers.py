"""Agents spread over workers that come and go: every payout ends, each is paid once."""

from __future__ import annotations

import pytest

from sandbox.rotation import PRODUCTION_PATIENCE
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import (
    Pipeline,
    Worker,
    assert_paid_once,
    fault,
    in_order,
    until,
)

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

PAYOUTS = 40
CALL_SECONDS = 3.0
PATIENT = "sandbox.rotation_worker"
"""Its calls may take as long as in production, and so may its drain: neither ends early on a slow machine."""
SUBMITTING = "SELECT payout_id FROM payouts WHERE state = 'SUBMITTING'"
FREEZES_MAX = 5


@pytest.fixture(scope="module")
def spread(make_pipeline: MakePipeline) -> tuple[Pipeline, Worker]:
    """One group, two workers, no agent in both."""
    pipeline = make_pipeline()
    pipeline.worker("first-half", agents=("validate", "comply"))
    agents = ("submit", "retry", "compensate", "review")
    second = pipeline.worker("second-half", agents=agents, module=PATIENT, extra=PRODUCTION_PATIENCE)
    for worker in pipeline.workers:
        worker.wait_until_assigned()
    return pipeline, second


def test_agents_run_apart(spread: tuple[Pipeline, Worker]) -> None:
    """K1, P1: a topic's partitions go to the workers that subscribe to it; no payout stops between them."""
    pipeline, second = spread
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    pipeline.wait_all(payout_ids)
    assert_paid_once(pipeline, payout_ids)
    assert not any("payout_requests" in name for name in second.page()["assigned_partitions"])


def test_a_worker_leaves_and_another_joins_in_the_middle(spread: tuple[Pipeline, Worker]) -> None:
    """K1, L2, L3, P2: SIGTERM finishes what is in work; who joins goes on; nobody is paid twice."""
    pipeline, second = spread
    pipeline.visa_faults({"operation": "push", "fault": "slow", "seconds": CALL_SECONDS})
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    until("calls under way", lambda: len(pipeline.fetch(SUBMITTING)) >= PAYOUTS // 8)
    assert second.terminate() == 0
    assert pipeline.fetch(SUBMITTING) == [], "what it had begun, it ended"
    pipeline.visa_faults()
    third = pipeline.worker("third", agents=("submit", "retry", "compensate", "review", "comply"))
    more = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS // 2))
    third.wait_until_assigned()
    pipeline.wait_all(payout_ids + more)
    assert_paid_once(pipeline, payout_ids + more)


def test_a_worker_frozen_after_the_effect_wakes_into_a_finished_payout(spread: tuple[Pipeline, Worker]) -> None:
    """L2, L3, P2: another worker asks Visa and ends the payout; the one that wakes changes and sends nothing."""
    pipeline, _ = spread
    third = pipeline.workers[-1]
    payout_id = _frozen_in_a_call(pipeline, third)
    try:
        fourth = pipeline.worker("fourth", agents=("submit", "retry"))
        ended = pipeline.wait_row(payout_id, state="PAID")
        assert in_order(["intent", "answer_lost", "query_begun", "paid"], pipeline.transitions(payout_id))
    finally:
        third.process.resume()
    fourth.wait_until_assigned()
    # Or it ends itself: a publish that was under way when it was frozen may look unconfirmed to it (K5).
    until(
        "the woken worker's answer",
        lambda: "visa call" in _after(third, payout_id) or not third.process.is_running,
    )
    following = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS // 4))
    pipeline.wait_all(following)
    assert pipeline.row(payout_id)["version"] == ended["version"]
    assert [call["operation"] for call in pipeline.visa_requests(payout_id)].count("push") == 1
    assert_paid_once(pipeline, [payout_id, *following])


def _frozen_in_a_call(pipeline: Pipeline, worker: Worker) -> str:
    """Freeze it between the effect and the answer; the payout.

    Whether it met the call is looked up afterwards, when it can write nothing more: the call ends by itself after
    three seconds, which may have passed, and then the next one is aimed at.
    """
    for _ in range(FREEZES_MAX):
        request = pipeline.request()
        payout_id = str(request["payout_id"])
        pipeline.visa_faults(fault(payout_id, "push", "effect_then_silence", times=1, seconds=60))
        pipeline.send(request)
        until("the effect at Visa", lambda payout_id=payout_id: pipeline.approved(payout_id))
        worker.process.pause()
        if pipeline.row(payout_id)["state"] == "SUBMITTING":
            return payout_id
        worker.process.resume()
    raise AssertionError(f"none of {FREEZES_MAX} freezes met a call under way")


def _after(worker: Worker, payout_id: str) -> str:
    """The worker's log lines about one payout."""
    return "\n".join(line for line in worker.log().splitlines() if payout_id in line)
