"""The database crashes in the middle of a run: work pauses, goes on, nothing is lost and nothing is double."""

from __future__ import annotations

import pytest

from sandbox.servers.postgres import PostgresServer
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import assert_paid_once, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

PAYOUTS = 40


def test_a_database_crash_in_the_middle(own_postgres: PostgresServer, make_pipeline: MakePipeline) -> None:
    """K5, L4, P1, P2: SIGKILL of PostgreSQL while calls are under way; the worker stays and finishes."""
    pipeline = make_pipeline(own_postgres)
    worker = pipeline.worker("survivor").wait_until_assigned()
    pipeline.visa_faults({"operation": "push", "fault": "slow", "seconds": 0.3, "probability": 0.7})
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    until("some at Visa", lambda: sum(pipeline.approved_counts(payout_ids).values()) >= 3)
    own_postgres.kill()
    try:
        late = pipeline.send_many(pipeline.request() for _ in range(5))  # whose first step needs the database
        until("the pause", lambda: "database" in worker.health().get("paused_for", ()))
    finally:
        own_postgres.restart()
    pipeline.visa_faults()
    pipeline.wait_all(payout_ids + late)
    assert_paid_once(pipeline, payout_ids + late)
    pipeline.supervise()  # a database that is away ends no worker; only K5's publish that stays unconfirmed may
    assert pipeline.events("payout_dead_letters") == []
    for worker in pipeline.workers:
        worker.kill()
