"""Offsets are moved by `payouts offsets` while originators go on: nothing is paid twice, lost or silent (rule R2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.main import app
from sandbox.servers.visa_stand_in import VisaStandIn
from schemas.topics import READ_BY_WORKERS
from tests.faults.audited_pipeline import Audited
from tests.faults.mixed_payouts import wait_until_read
from tests.integration.pipeline.conftest import MakePipeline

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

LOAD = 30
GOING_ON = 40
"""Requests that arrive while one command runs, at most."""
EMPTY_SECONDS = "30"


def offsets(audited: Audited, *words: str) -> Any:
    """`payouts offsets WORDS… --output json`, which must succeed."""
    environment = {**audited.pipeline.environment("command"), "PAYOUTS_OPERATOR": "maria"}
    result = CliRunner().invoke(app, ["offsets", *words, "--output", "json"], env=environment)
    assert result.exit_code == 0, f"{words}\n{result.stderr}\n{result.stdout}"
    return json.loads(result.stdout)


def while_requests_go_on(audited: Audited, sent: list[str], *words: str) -> Any:
    """The same while an originator goes on; what he sent is added to `sent`, and the logs grew meanwhile."""
    with audited.sending(GOING_ON) as more:
        answer = offsets(audited, *words)
    sent += more
    return answer


def test_every_topic_is_read_again_from_its_first_record_while_requests_go_on(
    make_pipeline: MakePipeline, own_visa: VisaStandIn, tmp_path: Path
) -> None:
    """R2, P2: plan, apply, verify, undo, and again; the auditor finds double=0 lost=0."""
    audited = Audited(make_pipeline(own_visa=own_visa))
    plan, again = str(tmp_path / "plan.json"), str(tmp_path / "again.json")
    audited.start("left", "right")
    sent = audited.send(LOAD)
    audited.until_paid(sent)
    sent += audited.send(LOAD)  # some of it is under way when the workers are stopped
    audited.stop()
    offsets(audited, "show", "--wait-empty", EMPTY_SECONDS)

    made = while_requests_go_on(audited, sent, "plan", "--all-topics", "--to-earliest", "--out", plan)
    assert made["skip"]["records"] == 0
    assert made["replay"]["payouts"] >= LOAD
    assert made["replay"]["ended"] >= LOAD
    while_requests_go_on(audited, sent, "apply", plan, "--reason", "INC-9: read again", "--yes")
    verified = while_requests_go_on(audited, sent, "verify", plan)
    assert {row["fate"] for row in verified["partitions"]} == {"as planned"}
    undo = str(tmp_path / "plan.undo.json")
    back = while_requests_go_on(audited, sent, "undo", undo, "--reason", "INC-9: not yet", "--yes")
    assert back["partitions_moved"] > 0
    offsets(audited, "plan", "--all-topics", "--to-earliest", "--out", again)
    offsets(audited, "apply", again, "--reason", "INC-9: read again", "--yes")

    audited.start("third", "fourth")
    sent += audited.send(LOAD)
    audited.until_paid(sent)
    wait_until_read(audited.pipeline, list(READ_BY_WORKERS))
    verified = offsets(audited, "verify", again)
    assert {row["fate"] for row in verified["partitions"]} <= {"as planned", "went on"}
    assert verified["read again"]["records"] >= LOAD
    assert verified["read again"]["missing"] == 0
    assert len(sent) > 3 * LOAD + 4
    audited.assert_clean(payouts=len(sent))


def test_what_is_skipped_is_held_while_requests_go_on_and_paid_after_the_undo(
    make_pipeline: MakePipeline, own_visa: VisaStandIn, tmp_path: Path
) -> None:
    """R2, P1, P2, K9: held is visible and never lost; nobody drives it in; released it is paid once."""
    audited = Audited(make_pipeline(own_visa=own_visa))
    plan = str(tmp_path / "plan.json")
    audited.start("left")
    sent = audited.send(LOAD)
    audited.until_paid(sent)
    audited.stop()
    skipped = audited.send(LOAD)
    assert len(audited.acknowledged()) == 2 * LOAD
    offsets(audited, "show", "--wait-empty", EMPTY_SECONDS)
    more: list[str] = []
    made = while_requests_go_on(audited, more, "plan", "--topic", "payout_requests", "--to-latest", "--out", plan)
    count = made["skip"]["payouts"]
    assert LOAD <= count <= LOAD + len(more), "up to the end that the plan saw, and not beyond"
    assert (made["skip"]["unseen"], made["skip"]["money"]) == (count, {"USD": 2500 * count})
    while_requests_go_on(audited, more, "apply", plan, "--reason", "INC-9", "--skip-payouts", str(count), "--yes")
    held = {row["payout_id"] for row in audited.pipeline.fetch("SELECT payout_id FROM payouts WHERE held")}
    assert len(held) == count
    assert set(skipped) <= held <= {*skipped, *more}

    audited.start("right")
    after = audited.send(LOAD)
    verified = while_requests_go_on(audited, more, "verify", plan)
    assert (verified["skipped"]["held"], verified["skipped"]["missing"]) == (count, 0)
    repeats = audited.pipeline.fetch("SELECT count(*) AS records FROM intake WHERE disposition = 'REPEAT'")
    assert repeats == [{"records": 0}], "the worker began where the plan put it, not before"
    paid = [*sent, *after, *(payout_id for payout_id in more if payout_id not in held)]
    audited.until_paid(paid)
    wait_until_read(audited.pipeline, list(READ_BY_WORKERS))
    verdict = audited.verdict()
    assert verdict.clean, (verdict.line(), *verdict.problems())
    assert (verdict.counts["paid"], verdict.counts["held"]) == (len(paid), count)
    assert "never handled" not in audited.workers[-1].log()

    audited.stop()
    offsets(audited, "show", "--wait-empty", EMPTY_SECONDS)
    undo = str(tmp_path / "plan.undo.json")
    back = while_requests_go_on(audited, more, "undo", undo, "--reason", "INC-9: they are right", "--yes")
    assert back["released"] == count
    audited.start("third")
    everything = [*sent, *skipped, *after, *more]
    audited.until_paid(everything)
    wait_until_read(audited.pipeline, list(READ_BY_WORKERS))
    audited.assert_clean(payouts=len(everything))
