"""The database is put back from a copy while a worker runs: nothing is paid twice, nothing is lost (L10, L11)."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.seal_chain import first_flaw
from sandbox.servers.postgres import PostgresServer
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import (
    REPOSITORY,
    Pipeline,
    Worker,
    assert_paid_once,
    until,
)

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

PAYOUTS = 6
COMMAND_SECONDS = 120.0
WAIT_SECONDS = 150.0
REASON = "INC-1: restored from a copy"
HELD = "SELECT payout_id FROM payouts WHERE held AND hold_reason = 'LEDGER_RESTORED'"


def payouts(pipeline: Pipeline, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
    """What a command prints, as an operator runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "ops", *arguments, "--output", "json"],
        cwd=REPOSITORY,
        env=pipeline.environment("operator"),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode in codes, (arguments, done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def paused_for_ledger(worker: Worker) -> list[str]:
    return [reason for reason in worker.page()["paused_for"] if reason.startswith("ledger")]


def all_is_published(pipeline: Pipeline) -> bool:
    (found,) = pipeline.fetch(
        "SELECT (SELECT count(*) FROM history) AS lines, published_sequence AS published FROM seal_head"
    )
    return bool(found["lines"] == found["published"])


def held(pipeline: Pipeline) -> set[str]:
    return {row["payout_id"] for row in pipeline.fetch(HELD)}


def audited(pipeline: Pipeline) -> list[dict[str, Any]]:
    return [pipeline.decode("AuditRecord", record.value) for record in pipeline.events("payout_audit")]


def test_a_database_put_back_under_a_running_worker(own_postgres: PostgresServer, make_pipeline: MakePipeline) -> None:
    """L11, L10, L12, K9, S1, S6, P1, P2: judged by the stand-in's own ledger."""
    pipeline = make_pipeline(own_postgres)
    worker = pipeline.worker("survivor").wait_until_assigned()
    kept = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    pipeline.wait_all(kept, seconds=WAIT_SECONDS)
    until("the history is published", lambda: all_is_published(pipeline), WAIT_SECONDS)
    copy = own_postgres.copy()
    lost = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    pipeline.wait_all(lost, seconds=WAIT_SECONDS)
    until("the lost history is published", lambda: all_is_published(pipeline), WAIT_SECONDS)
    numbers = {row["identity_number"] for row in pipeline.fetch("SELECT identity_number FROM payouts")}

    own_postgres.put_back(copy)
    until("the worker refuses the copy", lambda: "ledger:BEHIND" in paused_for_ledger(worker), WAIT_SECONDS)
    late = pipeline.send_many(pipeline.request() for _ in range(2))
    status = payouts(pipeline, "ledger", "status", codes=(1,))
    assert status["guard"] == "BEHIND"

    plan = payouts(pipeline, "ledger", "adopt", "--reason", REASON, "--operator", "maria", "--dry-run")
    (told,) = plan["results_the_copy_does_not_have"]
    assert (told["what"], told["payouts"], told["amount_minor"]) == ("PAID", PAYOUTS, PAYOUTS * 2500)
    assert plan["lost_lines_of_payouts"] == PAYOUTS
    assert plan["lost_payouts"] == PAYOUTS + len(late), "the late ones are asked for and not known, either"
    assert "ledger:BEHIND" in paused_for_ledger(worker), "a look changes nothing"
    worker.process.pause()  # so that what was lost is asked for anew before it is read again
    try:
        done = payouts(pipeline, "ledger", "adopt", "--reason", REASON, "--operator", "maria", "--yes")
        assert done["done"]["adopted"]
        again = payouts(pipeline, "ledger", "adopt", "--reason", REASON, "--operator", "jan", "--yes")
        assert again["verdict"] == "KNOWN"
        window_ends = datetime.fromisoformat(done["done"]["window_to"])
        until("the lost time is over", lambda: datetime.now(UTC) > window_ends)
        pipeline.send_many(pipeline.request(payout_id) for payout_id in lost)
    finally:
        worker.process.resume()

    until("work goes on by itself", lambda: worker.page()["paused_for"] == [], WAIT_SECONDS)
    fresh = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
    pipeline.wait_all(fresh, seconds=WAIT_SECONDS)
    until("lost requests come in again, held", lambda: held(pipeline) >= {*lost, *late}, WAIT_SECONDS)
    assert held(pipeline) == {*lost, *late}
    assert_paid_once(pipeline, [*kept, *lost, *fresh])
    assert set(pipeline.approved_counts(late).values()) == {0}
    taken = pipeline.fetch("SELECT identity_number FROM payouts WHERE payout_id = ANY ($1)", fresh)
    news = {row["identity_number"] for row in taken}
    assert not news & numbers, "no number twice"

    evidence = ("--evidence", "result of 10:05, Visa case 7")
    proposed = payouts(pipeline, "resolve", lost[0], "--paid", *evidence, "--operator", "maria", "--yes")
    version = str(proposed["payouts"][0]["version"])
    payouts(pipeline, "resolve", lost[0], "--paid", "--approve", version, "--operator", "jan", "--yes")
    released = ("--reason", "not known to Visa", "--held-for", "LEDGER_RESTORED", "--operator", "maria", "--yes")
    payouts(pipeline, "release", *late, *released)
    pipeline.wait_all([lost[0], *late], seconds=WAIT_SECONDS)
    until("the rest of the history is published", lambda: _is_whole(pipeline), WAIT_SECONDS)
    assert_paid_once(pipeline, [*kept, *lost, *fresh, *late])
    pipeline.supervise()  # a copy ends no worker; only K5's publish that stays unconfirmed may
    assert pipeline.events("payout_dead_letters") == []


def test_an_audit_that_is_not_one_partition_is_not_read(make_pipeline: MakePipeline) -> None:
    """L10, L11: its last record could stand anywhere, so that a copy could pass for the database: nothing begins."""
    pipeline = make_pipeline(payout_audit=2)
    worker = pipeline.worker("careful").wait_until_assigned()
    payout_ids = pipeline.send_many(pipeline.request() for _ in range(2))
    until("it says why", lambda: "has 2 partitions and must have one" in worker.log_path.read_text(), WAIT_SECONDS)
    assert paused_for_ledger(worker) == ["ledger:NOT_LOOKED_AT"]
    assert set(pipeline.approved_counts(payout_ids).values()) == {0}


def _is_whole(pipeline: Pipeline) -> bool:
    """One chain in the topic, from its beginning over what was lost to the release."""
    records = audited(pipeline)
    assert first_flaw(records) is None
    actions = [record["action"] for record in records]
    return actions.count("ledger_adopted") == 1 and "released" in actions
