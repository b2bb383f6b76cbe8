"""Records that the consumer loses, on real Kafka: every payout still ends, once (rules K8, K9)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from streams.bootstrap import EXIT_CODE_RECORD_LOST
from streams.completeness import mark_group
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import Pipeline, Worker, assert_paid_once, new_id, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

LAUNCHER = "tests.integration.completeness.losing_worker"
REQUESTS, CONFIRMATIONS, REQUIRED = (
    "payout_requests",
    "payout_compensation_confirmations",
    "payout_failed_requires_compensation",
)
END_SECONDS = 60.0
COMMAND_SECONDS = 120.0
REASON = "INC-126: passed unseen"


def losing(pipeline: Pipeline, name: str, lost: dict[str, list[int]], **more: str) -> Worker:
    """A worker that loses these offsets of partition 0."""
    return pipeline.worker(
        name, module=LAUNCHER, extra={"PAYOUTS_TEST_LOSE": json.dumps(lost), "PYTHONFAULTHANDLER": "1", **more}
    )


def send_in_order(pipeline: Pipeline, count: int) -> list[str]:
    """Requests at the offsets 0 and so on of one partition."""
    return pipeline.send_many(pipeline.request() for _ in range(count))


def metric(pipeline: Pipeline, worker: Worker, name: str, topic: str) -> float:
    """A counter of a running worker."""
    page = worker.answer("/metrics").text
    wanted = f'{name}{{topic="{pipeline.prefix}{topic}"}} '
    return next((float(line.removeprefix(wanted)) for line in page.splitlines() if line.startswith(wanted)), 0.0)


def command(*words: str) -> list[str]:
    """`payouts intake verify WORDS…`, as a process of its own."""
    return [sys.executable, "-m", "ops", "intake", "verify", "--output", "json", *words]


def verify(pipeline: Pipeline, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """`payouts intake verify`: its exit code, its rows and what it said."""
    ended = subprocess.run(
        command(*words),
        env=pipeline.environment("command"),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return ended.returncode, json.loads(ended.stdout or "[]"), ended.stderr


def test_a_record_lost_in_the_middle_or_at_the_head_ends_the_worker_and_is_read_again(
    make_pipeline: MakePipeline,
) -> None:
    """K8: the hole is looked into, the record in it is found, nothing past it is committed."""
    pipeline = make_pipeline(**{REQUESTS: 1})
    payouts = send_in_order(pipeline, 12)
    middle = losing(pipeline, "middle", {REQUESTS: [3, 4]})
    assert middle.ended_itself(END_SECONDS) == EXIT_CODE_RECORD_LOST, middle.process.log_tail()
    assert f"{pipeline.prefix}{REQUESTS}-0-3" in middle.log()
    committed = pipeline.committed(REQUESTS, 0)
    assert committed <= 3

    head = losing(pipeline, "head", {REQUESTS: [committed]})
    assert head.ended_itself(END_SECONDS) == EXIT_CODE_RECORD_LOST, head.process.log_tail()
    assert pipeline.committed(REQUESTS, 0) == committed

    pipeline.worker("whole").wait_until_assigned()
    pipeline.wait_all(payouts)
    assert_paid_once(pipeline, payouts)


def test_records_lost_and_committed_past_are_driven_in_again(make_pipeline: MakePipeline) -> None:
    """K9: requests with and without a key, one that nobody can read, and an originator's confirmation."""
    pipeline = make_pipeline(**{REQUESTS: 1, CONFIRMATIONS: 1})
    payouts = send_in_order(pipeline, 4)
    without_key = pipeline.request()
    pipeline.produce(REQUESTS, pipeline.encode("PayoutRequest", without_key), None)
    pipeline.produce(REQUESTS, b"nobody can read this", b"unreadable")
    declined = new_id()
    pipeline.send(pipeline.request(declined, "tok_decline_51"))
    payouts += [without_key["payout_id"], *send_in_order(pipeline, 3)]
    lost = {REQUESTS: [1, 2, 4, 5], CONFIRMATIONS: [0]}
    worker = losing(pipeline, "blind", lost, PAYOUTS_TEST_BLIND="1")
    until("a compensation to confirm", lambda: pipeline.events_of(REQUIRED, declined), END_SECONDS)
    pipeline.confirm_compensation(declined)
    # What follows makes the gap, and is acknowledged.
    pipeline.confirm_compensation(declined)

    pipeline.wait_all(payouts, seconds=END_SECONDS)
    pipeline.wait_row(declined, compensation="COMPENSATED", seconds=END_SECONDS)
    assert_paid_once(pipeline, payouts)
    until("a dead letter", lambda: pipeline.events("payout_dead_letters"), END_SECONDS)
    pipeline.supervise()  # no loss ended it
    for topic, count in ((REQUESTS, 4), (CONFIRMATIONS, 1)):

        def counted(topic: str = topic, count: int = count) -> bool:
            return metric(pipeline, worker, "payouts_intake_missing_total", topic) == count

        until(f"the count of {topic}", counted, END_SECONDS)

    def verified() -> bool:
        rows = pipeline.fetch("SELECT topic, next_offset FROM verified_offsets ORDER BY topic")
        wanted = {(f"{pipeline.prefix}{REQUESTS}", 10), (f"{pipeline.prefix}{CONFIRMATIONS}", 2)}
        return wanted <= {(row["topic"], row["next_offset"]) for row in rows}

    until("everything verified", verified, END_SECONDS)
    assert verify(pipeline)[:2] == (0, [])
    handled = pipeline.fetch("SELECT record_offset FROM intake WHERE disposition = 'HANDLED' ORDER BY 1")
    assert [row["record_offset"] for row in handled] == [0, 1], "also the one that meant nothing any more"


def test_the_command_finds_what_is_missing_and_lets_the_workers_drive_it_in(make_pipeline: MakePipeline) -> None:
    """K9, P9: `payouts intake verify` changes nothing, --drive shows payouts and money first and is in the history;

    the workers look again, and nothing is produced. Of two operators at once one is told.
    """
    pipeline = make_pipeline(**{REQUESTS: 1})
    payouts = send_in_order(pipeline, 6)
    worker = losing(pipeline, "first", {REQUESTS: [2, 3]}, PAYOUTS_TEST_BLIND="1", PAYOUTS_TEST_UNFOLLOWED="1")
    pipeline.wait_all([payout_id for number, payout_id in enumerate(payouts) if number not in (2, 3)])
    until("the commit past them", lambda: pipeline.committed(REQUESTS, 0) == 6)
    worker.terminate()
    # As if they had been verified: only then does a worker not look by itself.
    pipeline.execute(f"INSERT INTO verified_offsets VALUES ('{pipeline.prefix}{REQUESTS}', 0, 6)")
    pipeline.commit([TopicPartition(f"{pipeline.prefix}{REQUESTS}", 0, 6)], mark_group("payouts"))

    code, rows, said = verify(pipeline)
    assert code == 1, said
    assert [(row["offset"], row["payout_id"], row["fate"]) for row in rows] == [
        (2, payouts[2], "missing"),
        (3, payouts[3], "missing"),
    ]
    place = ("--topic", REQUESTS, "--partition", "0")
    assert [row["offset"] for row in verify(pipeline, *place, "--from", "3")[1]] == [3]
    assert verify(pipeline, "--from-time", "2100-01-01T00:00:00Z")[:2] == (0, [])
    assert pipeline.fetch("SELECT next_offset FROM verified_offsets")[0]["next_offset"] == 6

    drive = ("--drive", "--reason", REASON, "--operator")
    code, rows, said = verify(pipeline, *drive, "maria", "--dry-run")
    assert (code, {row["fate"] for row in rows}) == (1, {"missing"}), said
    assert "Missing: 2 payouts, 50.00 USD, in 2 records" in said
    assert "the workers look up again what lies from offset 2 on" in said
    assert _noted(pipeline) == []
    assert pipeline.fetch("SELECT next_offset FROM verified_offsets")[0]["next_offset"] == 6, (
        "a dry run changes nothing"
    )

    with subprocess.Popen(
        command(*drive, "maria", "--yes"),
        env=pipeline.environment("command"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as first:
        until("the first of two operators", lambda: _noted(pipeline), END_SECONDS)
        code, _, said = verify(pipeline, *drive, "jan", "--yes")
        assert code == 3, said
        assert "somebody else is moving offsets, or has records driven in" in said
        pipeline.worker("second").wait_until_assigned()
        answer, said = first.communicate(timeout=COMMAND_SECONDS)
    assert (first.returncode, {row["fate"] for row in json.loads(answer)}) == (0, {"driven in"}), said
    pipeline.wait_all(payouts)
    assert_paid_once(pipeline, payouts)
    assert len(pipeline.events(REQUESTS)) == 6, "nothing is produced again"
    begun, ended = _noted(pipeline)
    assert (begun["actor"], begun["transition"], ended["transition"]) == (
        "maria",
        "intake_drive_begun",
        "intake_driven",
    )
    wanted = {
        "reason": REASON,
        "records": 2,
        "records_shown": 2,
        "payouts_shown": 2,
        "money_shown": {"USD": 5000},
        "partitions": 1,
    }
    assert json.loads(begun["detail"]).items() >= wanted.items()
    assert json.loads(ended["detail"]) == {"reason": REASON, "left": 0}


def _noted(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What the audited history says of records that somebody had driven in."""
    return pipeline.fetch(
        "SELECT actor, transition, detail FROM history WHERE transition LIKE 'intake\\_drive%' ORDER BY id"
    )
