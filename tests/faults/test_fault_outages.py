"""What everybody needs goes away for a while: the stage stops, no payout is lost, spent, held or handed back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.registry import ApicurioRegistry
from sandbox.servers.visa_stand_in import VisaStandIn
from schemas.registry import push_schemas
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import Pipeline, Worker, assert_paid_once, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

PAYOUTS = 40
OUTAGE_SECONDS = 12.0


def assert_nothing_was_spent(pipeline: Pipeline, payout_ids: list[str]) -> None:
    """K5, S7, P4: paid once, no budget spent, nobody holds, nothing is handed back, nothing is a dead letter."""
    assert_paid_once(pipeline, payout_ids)
    spent = pipeline.fetch("SELECT payout_id FROM payouts WHERE own_failures > 0 OR held OR compensation <> 'NONE'")
    assert spent == []
    assert pipeline.events("payout_dead_letters") == []
    assert pipeline.events("payout_failed_requires_compensation") == []


def test_visa_is_away(own_visa: VisaStandIn, make_pipeline: MakePipeline) -> None:
    """K5, S7: nothing listens at Visa's address for longer than a lease; intake and screening go on meanwhile."""
    pipeline = make_pipeline(own_visa=own_visa)
    worker = pipeline.worker("patient").wait_until_assigned()
    own_visa.kill()
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    waiting = "SELECT 1 FROM payouts WHERE state IN ('CLEARED', 'SUBMITTING')"
    until("all screened, none paid", lambda: len(pipeline.fetch(waiting)) == PAYOUTS)
    time.sleep(OUTAGE_SECONDS)
    assert worker.lives(), "liveness does not depend on Visa"
    versions = pipeline.fetch("SELECT max(version) AS highest FROM payouts")[0]["highest"]
    own_visa.restart()
    pipeline.wait_all(payout_ids, seconds=90)  # the next probe may be 30 s away
    assert_nothing_was_spent(pipeline, payout_ids)
    assert versions < 30, "an outage is waited out, not tried again and again"
    pipeline.supervise()  # no outage of Visa's ends a worker; only K5's publish that stays unconfirmed may


def test_visa_answers_nothing(own_visa: VisaStandIn, make_pipeline: MakePipeline) -> None:
    """S4, P3: every call meets silence for a while; few payouts become unknown, all are paid once afterwards."""
    pipeline = make_pipeline(own_visa=own_visa)
    pipeline.worker("listening").wait_until_assigned()
    pipeline.visa_faults(
        {"operation": "push", "fault": "silence_before_effect"}, {"operation": "query", "fault": "503"}
    )
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    until("some unknown", lambda: pipeline.fetch("SELECT 1 FROM payouts WHERE state = 'UNKNOWN'"))
    time.sleep(OUTAGE_SECONDS)
    pipeline.visa_faults()
    pipeline.wait_all(payout_ids, seconds=90)
    assert_paid_once(pipeline, payout_ids)
    assert pipeline.fetch("SELECT payout_id FROM payouts WHERE held OR compensation <> 'NONE'") == []
    pipeline.supervise()  # no outage of Visa's ends a worker; only K5's publish that stays unconfirmed may


def test_the_registry_is_away_when_a_worker_starts(own_registry: ApicurioRegistry, make_pipeline: MakePipeline) -> None:
    """K5, P8: without the registry nothing can be announced, so nothing is paid; nothing becomes a dead letter."""
    pipeline = make_pipeline(registry_url=own_registry.url)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(push_schemas, own_registry.url, pipeline.prefix).result(30).ok
    own_registry.pause()
    try:
        worker = pipeline.worker("waiting").wait_until_assigned()
        payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS // 4))
        until("the pause", lambda: "schema registry" in worker.health().get("paused_for", ()))
        assert pipeline.fetch("SELECT 1 FROM payouts WHERE attempts > 0") == []
    finally:
        own_registry.resume()
    pipeline.wait_all(payout_ids)
    assert_nothing_was_spent(pipeline, payout_ids)


def test_all_of_kafka_restarts(own_kafka: KafkaCluster, make_pipeline: MakePipeline) -> None:
    """K1, K5, P1: the whole cluster is killed in the middle and comes back; a supervisor restarts who ended itself."""
    pipeline = make_pipeline(kafka_server=own_kafka)
    worker = pipeline.worker("before").wait_until_assigned()
    pipeline.visa_faults({"operation": "push", "fault": "slow", "seconds": 0.3, "probability": 0.7})
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    until("some at Visa", lambda: sum(pipeline.approved_counts(payout_ids).values()) >= 3)
    own_kafka.kill(1)
    time.sleep(OUTAGE_SECONDS / 2)
    until("it says that it lives, or has ended itself", lambda: _says_that_it_lives(worker))
    own_kafka.restart(1)
    pipeline.visa_faults()

    def ended() -> bool:
        pipeline.supervise()
        rows = pipeline.fetch("SELECT 1 FROM payouts WHERE state = 'PAID' AND announced_version >= announce_version")
        return len(rows) == PAYOUTS

    until("all paid and announced", ended, 90)
    assert_nothing_was_spent(pipeline, payout_ids)


def _says_that_it_lives(worker: Worker) -> bool:
    """P8: liveness does not depend on brokers. An unconfirmed publish ends the worker, maybe just now (K5)."""
    page = worker.get("/health")
    if page is None:
        return not worker.process.is_running
    assert page.json()["status"] == "alive", page.text
    return True
