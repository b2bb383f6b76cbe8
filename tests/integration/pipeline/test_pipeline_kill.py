"""A worker killed between the effect and its answer: the payout is paid once and says so, and the auditor agrees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.auditor.audit import audit
from sandbox.auditor.evidence import append_accepted
from sandbox.auditor.verdict import FaultCounts, Verdict
from sandbox.servers.visa_stand_in import VisaStandIn
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import Pipeline, Worker, fault, in_order, new_id, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

RECIPIENT = "tok_approve_1"
CLEAN = "lost=0 double=0 stuck=0 phantom=0 orphan=0 comp_double=0 leak=0"
KILLS_MAX = 5


@pytest.fixture
def audited(make_pipeline: MakePipeline) -> Iterator[Pipeline]:
    """A pipeline with a stand-in of its own: its ledger holds this test's payments and no others."""
    visa = VisaStandIn()
    try:
        visa.start()
        pipeline = make_pipeline(own_visa=visa)
        pipeline.worker("killed").wait_until_assigned()
        yield pipeline
        pipeline.close()
    finally:
        visa.stop()


def test_a_worker_killed_after_the_effect_pays_once(audited: Pipeline) -> None:
    """S2, S3, P2: the intent is durable, the lost answer is asked for, nothing is sent twice."""
    worker = audited.workers[0]
    sent = _killed_in_a_call(audited, worker)
    payout_id = sent[-1]
    assert len(audited.approved(payout_id)) == 1
    assert audited.events_of("payout_results", payout_id) == []

    worker.start()
    audited.wait_all(sent)
    row = audited.wait_row(payout_id, state="PAID")
    assert row["attempts"] == 1
    assert len(audited.approved(payout_id)) == 1
    assert [request["operation"] for request in audited.visa_requests(payout_id)].count("push") == 1
    transitions = audited.transitions(payout_id)
    assert in_order(["intent", "answer_lost", "query_begun", "paid"], transitions), transitions
    results = until("the result", lambda: audited.events_of("payout_results", payout_id))
    assert len({event.event_id for event in results}) == 1
    assert audited.decode("PayoutResult", results[0].value)["status"] == "PAID"
    verdict = _judged(audited, kills=len(sent))
    assert verdict.clean, verdict.problems()
    assert f"{CLEAN} kills={len(sent)}" in verdict.line()


def _killed_in_a_call(pipeline: Pipeline, worker: Worker) -> list[str]:
    """Kill it between the effect and the answer; what was sent, the payout that it met last.

    Whether it met the call is looked up afterwards, when it can write nothing more: the call ends by itself after
    three seconds, which may have passed, and then the next one is aimed at.
    """
    sent: list[str] = []
    while len(sent) < KILLS_MAX:
        payout_id = new_id()
        pipeline.visa_faults(fault(payout_id, "push", "effect_then_silence", times=1, seconds=60))
        _send_and_note(pipeline, payout_id)
        sent.append(payout_id)
        until("the effect at Visa", lambda payout_id=payout_id: pipeline.approved(payout_id))
        worker.kill()
        if pipeline.row(payout_id)["state"] == "SUBMITTING":
            return sent
        worker.start().wait_until_assigned()
    raise AssertionError(f"none of {KILLS_MAX} kills met a call under way")


def _send_and_note(pipeline: Pipeline, payout_id: str) -> None:
    """Produce, and write down what the broker acknowledged, as every audited producer does."""
    value = pipeline.encode("PayoutRequest", pipeline.request(payout_id, card=RECIPIENT, amount_minor=2500))
    partition, offset = pipeline.produce("payout_requests", value, payout_id.encode())
    append_accepted(
        pipeline.directory / "accepted.jsonl",
        payout_id=payout_id,
        topic=f"{pipeline.prefix}payout_requests",
        partition=partition,
        offset=offset,
        value=value,
        amount_minor=2500,
        currency="USD",
        recipient=RECIPIENT,
    )


def _judged(pipeline: Pipeline, kills: int) -> Verdict:
    visa_directory = pipeline.visa.directory
    assert visa_directory is not None
    return audit(
        pipeline.directory / "accepted.jsonl",
        bootstrap_servers=pipeline.bootstrap_servers,
        database_url=pipeline.database_url,
        stand_in_admin_url=pipeline.visa.admin_url,
        fingerprint_key=(visa_directory / "credentials" / "fingerprint.key").read_bytes(),
        topic_prefix=pipeline.prefix,
        card_numbers=["4957030420210462"],
        scan=[pipeline.directory, visa_directory],
        stuck_after_seconds=60.0,
        faults=FaultCounts(kills=kills),
    )
