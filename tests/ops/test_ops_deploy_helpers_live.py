"""Report, forensics, monitor and preflight against a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import stat
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.exit_codes import ExitCode
from processors.payout.row import CompensationAction, CompensationState, Executor, PayoutRow, PayoutState
from tests.ops.conftest import Live, sample_row

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

CARD = "4111111111111111"
NEEDLE = "correct-horse-battery"


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def ended(live: Live) -> list[PayoutRow]:
    """Payouts of today that ended in several ways, one held, one handed back."""
    now = datetime.now(UTC)
    rows = [
        live.store(sample_row(unique("paid")), [("paid", {"state": PayoutState.PAID, "state_at": now})])
        for _ in range(3)
    ]
    declined = {"state": PayoutState.DECLINED, "reason_code": "ACTION_CODE_51", "state_at": now}
    handed_back = {
        "compensation": CompensationState.REQUIRED,
        "compensation_action": CompensationAction.RELEASE_HOLD,
        "compensation_executor": Executor.ORIGINATOR,
        "compensation_at": now,
    }
    rows.append(live.store(sample_row(unique("declined")), [("declined", declined | handed_back)]))
    rows.append(live.store(sample_row(unique("failed")), [("failed", {"state": PayoutState.FAILED, "state_at": now})]))
    held = {"held": True, "hold_reason": f"OPERATOR: call me@example.org about {CARD}"}
    rows.append(live.store(sample_row(unique("held"), amount_minor=700, currency="JPY"), [("held", held)]))
    return rows


def test_a_daily_report_counts_payouts_and_money_by_currency(live: Live, ended: list[PayoutRow]) -> None:
    """S0-44, S4-23, S4-24, F-02: success without declines, money in its own digits, what waits with its age."""
    today = datetime.now(UTC).date().isoformat()
    report = live.data("report", "daily", "--date", today)
    states = {(row["state"], row["currency"]): (row["payouts"], row["money"]) for row in report["states"]}
    assert states["PAID", "USD"] == (3, "37.50 USD")
    assert states["RECEIVED", "JPY"] == (1, "700 JPY")
    (usd,) = [row for row in report["corridors"] if row["currency"] == "USD"]
    assert (usd["paid"], usd["declined"], usd["failed"], usd["success"]) == (3, 1, 1, "75.0%")
    assert [row["reason_code"] for row in report["reasons"] if row["state"] == "DECLINED"] == ["ACTION_CODE_51"]
    (waiting,) = report["waiting"]
    assert (waiting["what"], waiting["payouts"]) == ("held: OPERATOR", 1)
    (compensation,) = report["compensations"]
    assert (compensation["state"], compensation["executor"]) == ("REQUIRED", "ORIGINATOR")
    assert CARD not in json.dumps(report)
    assert len(ended) == 6


def test_another_day_has_nothing_but_what_waits_now(live: Live, ended: list[PayoutRow]) -> None:
    report = live.data("report", "daily", "--date", "2026-01-01")
    assert (report["states"], report["corridors"], report["reasons"]) == ([], [], [])
    assert report["waiting"]
    assert ended


def test_a_weekly_report_is_readable_as_a_table_and_as_markdown(live: Live, ended: list[PayoutRow]) -> None:
    """S0-45."""
    today = datetime.now(UTC).date().isoformat()
    table = live.run("report", "weekly", "--date", today)
    markdown = live.run("report", "weekly", "--date", today, "--markdown")
    assert (table.exit_code, markdown.exit_code) == (0, 0), table.stderr + markdown.stderr
    for heading in ("Success by corridor", "Attempts", "Policies in use", "What people did", "Certificates"):
        assert heading in table.stdout
        assert f"## {heading}" in markdown.stdout
    assert CARD not in table.stdout + markdown.stdout
    assert ended


def test_forensics_hold_the_evidence_and_no_secret(live: Live, ended: list[PayoutRow], tmp_path: Path) -> None:
    """P6, P9: redacted, private, with a hash of every file; what could not be asked is said."""
    held = next(row for row in ended if row.held)
    out = tmp_path / "INC-7"
    secrets = {"VISA_PASSWORD": NEEDLE, "KAFKA_SASL_PASSWORD": NEEDLE}
    words = ("forensics", held.payout_id, "--out", str(out), "--reason", "INC-7", "--output", "json")
    result = live.run(*words, **secrets)
    assert result.exit_code in (0, ExitCode.PARTIAL), result.stderr
    told = json.loads(result.stdout)
    assert set(told["not_asked"]) <= {"lag.json"}, "there is no consumer group yet"
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["reason"], manifest["operator"]) == ("INC-7", "tester")
    text = ""
    for name, file in manifest["files"].items():
        content = (out / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert stat.S_IMODE((out / name).stat().st_mode) == 0o600
        text += content.decode()
    password = live.environment["DATABASE_URL"].split(":")[2].split("@")[0]
    for secret in (NEEDLE, CARD, "me@example.org", password):
        assert secret not in text
    payout = json.loads((out / "payouts" / f"{held.payout_id}.json").read_text())
    assert [moment["what"] for moment in payout["history"]] == ["received", "held"]
    assert json.loads((out / "settings.json").read_text())["settings"]["VISA_PASSWORD"] == {"set": True}
    again = live.run(*words)
    assert again.exit_code == ExitCode.USAGE, "evidence is never overwritten"
    (line,) = live.data("audit", "tail", "--action", "forensics_begun")
    assert line["actor"] == "tester"
    assert "INC-7" in line["detail"]
    assert held.payout_id in line["detail"]


def test_monitor_ends_at_once_when_a_bound_is_passed(live: Live) -> None:
    """S3-27: nobody is in the group, so the first look is the last."""
    watched = live.data("monitor", "--seconds", "600", code=ExitCode.FOUND)
    assert watched["looks"] == 1
    assert "no worker is in the group" in watched["breaches"]


def test_preflight_forbids_a_deployment_that_misses_something(live: Live, ended: list[PayoutRow]) -> None:
    """S1-26: one finding a line, with what to do; here the certificates of Visa are not there."""
    found = live.data("preflight", "--no-visa", code=ExitCode.FOUND)
    by_check: dict[str, set[str]] = {}
    for finding in found:
        by_check.setdefault(finding["check"], set()).add(finding["status"])
    assert by_check["schemas"] == {"ok"}
    assert by_check["topics"] == {"ok"}
    assert by_check["breakers"] == {"ok"}
    assert "fail" in by_check["settings"]
    assert "warn" in by_check["waiting"], f"a payout of {len(ended)} is held"
    assert by_check["thresholds"] == {"ok"}
