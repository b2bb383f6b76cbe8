"""Two workers whose clocks disagree by more than the profile tolerates between them: nothing is paid twice."""

from __future__ import annotations

import pytest

from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import assert_paid_once

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

PAYOUTS = 60
SKEWS_SECONDS = {"slow-clock": -1.0, "fast-clock": 1.0}
"""The test profile tolerates one second from the truth; the workers are two apart."""


def test_clocks_disagree(make_pipeline: MakePipeline) -> None:
    """L3, S3, P2: leases count by the database's clock, deadlines by the boot clock; the schedule bears the rest."""
    pipeline = make_pipeline()
    for name, skew in SKEWS_SECONDS.items():
        pipeline.worker(name, module="tests.faults.skewed_worker", extra={"PAYOUTS_TEST_SKEW_SECONDS": str(skew)})
    for worker in pipeline.workers:
        worker.wait_until_assigned()
    pipeline.visa_faults(
        {"operation": "push", "fault": "effect_then_500", "probability": 0.2, "times": 1},
        {"operation": "push", "fault": "500", "probability": 0.2, "times": 1},
        {"operation": "push", "fault": "429", "probability": 0.2, "times": 1},
        {"operation": "push", "fault": "late_202", "probability": 0.2, "times": 1, "seconds": 1.0},
    )
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    pipeline.wait_all(payout_ids, seconds=90)
    pipeline.visa_faults()
    assert_paid_once(pipeline, payout_ids)
    assert pipeline.events("payout_dead_letters") == []
