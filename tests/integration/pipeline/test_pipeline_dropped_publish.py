"""The commit is there and the publish is not, in every state: the payout still ends, once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.dropping_worker import CRASH_EXIT_CODE
from tests.integration.pipeline.pipeline_harness import Pipeline, Worker, fault, new_id, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

LAUNCHER = "tests.integration.pipeline.dropping_worker"
CRASH_SECONDS = 40.0
# Resembles an entry of the synthetic watch list, enough for a review and not for a refusal.
FOR_REVIEW = "Viktor Drachenfeld Andersen"
RESULT, REQUIRED = "payout_results", "payout_failed_requires_compensation"
EVENT_OF_STATE = {
    "VALIDATED": "payout_validated",
    "IN_REVIEW": "payout_reviews",
    "CLEARED": "payout_cleared",
    "PAID": RESULT,
    "REQUIRED": REQUIRED,
    "COMPENSATED": "payout_compensation_results",
}
CRASH_STATES = (
    "RECEIVED",
    "VALIDATED",
    "IN_REVIEW",
    "CLEARED",
    "SUBMITTING",
    "PENDING",
    "UNKNOWN",
    "PAID",
    "REQUIRED",
    "COMPENSATED",
)


@dataclass(frozen=True)
class Dropping:
    """A pipeline whose worker loses first publishes, with its payouts on their way since the module began."""

    pipeline: Pipeline
    worker: Worker
    payouts: dict[str, str]


def _send_one_for_each(pipeline: Pipeline, payouts: dict[str, str]) -> None:
    """Requests that take the ways on which these states lie."""
    for state, payout_id in payouts.items():
        card = "tok_decline_51" if state in ("REQUIRED", "COMPENSATED") else "tok_approve_1"
        recipient = FOR_REVIEW if state == "IN_REVIEW" else "Rosalind Example"
        pipeline.send(pipeline.request(payout_id, card, recipient=recipient))


def _faults(payouts: dict[str, str]) -> list[dict[str, object]]:
    return [
        fault(payouts["PENDING"], "push", "late_202", seconds=1, times=1),
        fault(payouts["UNKNOWN"], "push", "effect_then_reset", times=1),
    ]


@pytest.fixture(scope="module")
def crashing_payouts() -> dict[str, str]:
    return {state: new_id() for state in CRASH_STATES}


@pytest.fixture(scope="module")
def dropping(make_pipeline: MakePipeline, crashing_payouts: dict[str, str]) -> Iterator[Dropping]:
    """Started first, so that its waiting is done while the other test runs."""
    pipeline = make_pipeline()
    payouts = {state: new_id() for state in ("PAID", "IN_REVIEW", "PENDING", "UNKNOWN", "REQUIRED")}
    pipeline.visa_faults(*_faults(payouts), *_faults(crashing_payouts))
    worker = pipeline.worker("dropping", module=LAUNCHER, extra={"PAYOUTS_TEST_DROP": "1"})
    _send_one_for_each(pipeline, payouts)
    yield Dropping(pipeline, worker, payouts)
    worker.terminate()


def test_a_crash_right_after_the_commit_in_every_state(
    make_pipeline: MakePipeline, dropping: Dropping, crashing_payouts: dict[str, str]
) -> None:
    """K1, K2, S2, S6: committed, not published, not acknowledged; the next worker brings each to its end."""
    assert dropping.payouts
    pipeline, payouts = make_pipeline(), crashing_payouts
    targets = {payout_id: state for state, payout_id in payouts.items()}
    crashing = pipeline.worker("crashing", module=LAUNCHER, extra={"PAYOUTS_TEST_CRASH_AT": json.dumps(targets)})
    _send_one_for_each(pipeline, payouts)
    declined = payouts["COMPENSATED"]
    until("a compensation to confirm", lambda: pipeline.events_of(REQUIRED, declined), CRASH_SECONDS)
    pipeline.confirm_compensation(declined)
    assert crashing.ended_itself(CRASH_SECONDS) == CRASH_EXIT_CODE

    for state, payout_id in payouts.items():
        row = pipeline.row(payout_id)
        assert state in (row["state"], row["compensation"])
        if state in EVENT_OF_STATE:
            assert row["announced_version"] < row["announce_version"], state
            assert pipeline.events_of(EVENT_OF_STATE[state], payout_id) == [], state

    pipeline.worker("next").wait_until_assigned()
    _play_and_check(pipeline, payouts, CRASH_STATES)


def test_a_publish_lost_after_the_commit_and_the_acknowledgement(dropping: Dropping) -> None:
    """K2, K4: no source record is left to redeliver; the sweeper publishes what the broker never confirmed."""
    _play_and_check(dropping.pipeline, dropping.payouts, tuple(dropping.payouts))
    log = dropping.worker.log()
    for state, payout_id in dropping.payouts.items():
        states = {"REQUIRED": ("VALIDATED NONE", "CLEARED NONE", "DECLINED REQUIRED", "DECLINED COMPENSATED")}
        for lost in states.get(state, ("VALIDATED NONE", "CLEARED NONE", "PAID NONE")):
            assert f"dropped the announcement of {payout_id} {lost}" in log
    assert f"dropped the announcement of {dropping.payouts['IN_REVIEW']} IN_REVIEW" in log
    for state in ("PENDING", "UNKNOWN"):
        assert f"dropped the drive of {dropping.payouts[state]} {state}" in log


def _play_and_check(pipeline: Pipeline, payouts: dict[str, str], states: tuple[str, ...]) -> None:
    in_review, required = payouts["IN_REVIEW"], payouts["REQUIRED"]
    until("the case to review", lambda: pipeline.events_of("payout_reviews", in_review))
    pipeline.approve_review(in_review)
    until("the compensation to confirm", lambda: pipeline.events_of(REQUIRED, required))
    pipeline.confirm_compensation(required)
    declined = [payouts[state] for state in states if state in ("REQUIRED", "COMPENSATED")]
    paid = [payout_id for payout_id in payouts.values() if payout_id not in declined]
    pipeline.wait_all(paid)
    for payout_id in declined:
        pipeline.wait_row(payout_id, state="DECLINED", compensation="COMPENSATED")
    assert pipeline.approved_counts([*paid, *declined]) == dict.fromkeys(paid, 1) | dict.fromkeys(declined, 0)
    for topic, ended in ((RESULT, [*paid, *declined]), (REQUIRED, declined), ("payout_compensation_results", declined)):
        events = pipeline.events(topic)
        for payout_id in ended:
            identities = {event.event_id for event in events if event.key == payout_id.encode()}
            assert len(identities) == 1, f"{payout_id} in {topic}: published, and always as the same event (K3)"
