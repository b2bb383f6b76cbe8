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
EMPTY_SECONDS = "30"


def offsets(audited: Audited, *words: str) -> Any:
    """`payouts offsets WORDS… --output json`, which must succeed."""
    environment = {**audited.pipeline.environment("command"), "PAYOUTS_OPERATOR": "maria"}
    result = CliRunner().invoke(app, ["offsets", *words, "--output", "json"], env=environment)
    assert result.exit_code == 0, f"{words}\n{result.stderr}\n{result.stdout}"
    return json.loads(result.stdout)


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

    made = offsets(audited, "plan", "--all-topics", "--to-earliest", "--out", plan)
    assert made["skip"]["records"] == 0
    assert made["replay"]["payouts"] >= LOAD
    assert made["replay"]["ended"] >= LOAD
    sent += audited.send(LOAD)
    offsets(audited, "apply", plan, "--reason", "INC-9: read again", "--yes")
    assert {row["fate"] for row in offsets(audited, "verify", plan)["partitions"]} == {"as planned"}
    back = offsets(audited, "undo", str(tmp_path / "plan.undo.json"), "--reason", "INC-9: not yet", "--yes")
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
    audited.assert_clean(payouts=4 * LOAD)


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
    made = offsets(audited, "plan", "--topic", "payout_requests", "--to-latest", "--out", plan)
    assert (made["skip"]["payouts"], made["skip"]["unseen"], made["skip"]["money"]) == (
        LOAD, LOAD, {"USD": 2500 * LOAD},
    )  # fmt: skip
    offsets(audited, "apply", plan, "--reason", "INC-9", "--skip-payouts", str(LOAD), "--yes")

    audited.start("right")
    after = audited.send(LOAD)
    audited.until_paid(after)
    wait_until_read(audited.pipeline, list(READ_BY_WORKERS))
    verified = offsets(audited, "verify", plan)
    assert (verified["skipped"]["held"], verified["skipped"]["missing"]) == (LOAD, 0)
    verdict = audited.verdict()
    assert verdict.clean, (verdict.line(), *verdict.problems())
    assert (verdict.counts["paid"], verdict.counts["held"]) == (2 * LOAD, LOAD)
    assert "never handled" not in audited.workers[-1].log()

    audited.stop()
    offsets(audited, "show", "--wait-empty", EMPTY_SECONDS)
    undo = str(tmp_path / "plan.undo.json")
    assert offsets(audited, "undo", undo, "--reason", "INC-9: they are right", "--yes")["released"] == LOAD
    audited.start("third")
    audited.until_paid([*sent, *skipped, *after])
    wait_until_read(audited.pipeline, list(READ_BY_WORKERS))
    audited.assert_clean(payouts=3 * LOAD)
