"""What the deploy helpers decide, without any server."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from ops import forensics, preflight, report_queries, smoke
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.findings import Finding, Status
from ops.forensics import clean
from ops.main import app
from ops.monitor import Limits, Seen, breaches_of
from ops.report import DAILY, WEEKLY, markdown_of, shown, success_share
from ops.report_queries import Span
from ops.smoke import TEST_CARD
from processors.payout import operator_actions, review
from streams.settings import Settings

QUIET = Seen(
    lag=3, members=2, mode="normal", paid=100, failed=0, declined=7, held=1, unknown=2, manual=0, unannounced=0, stuck=0
)
LIMITS = Limits(lag_max=1000, error_share_max=0.05, ended_min=20, more_held_max=0, more_unknown_max=20)


def test_a_quiet_system_has_no_breach() -> None:
    assert breaches_of(QUIET, QUIET, LIMITS) == []
    assert breaches_of(QUIET, replace(QUIET, lag=None, declined=5000, unknown=22), LIMITS) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"lag": 1001}, "records wait"),
        ({"members": 0}, "no worker"),
        ({"mode": "halted"}, "halted"),
        ({"failed": 6}, "have failed"),
        ({"held": 2}, "held"),
        ({"unknown": 23}, "unknown"),
        ({"stuck": 1}, "stuck"),
        ({"manual": 1}, "by hand"),
        ({"unannounced": 1}, "not published"),
    ],
)
def test_each_bound_is_a_breach_by_itself(changes: dict[str, Any], word: str) -> None:
    """S1-27, S3-27, F-02: declines by issuers are no failures, and what was so before is no finding of now."""
    (breach,) = breaches_of(QUIET, replace(QUIET, **changes), LIMITS)
    assert word in breach


def test_few_payouts_make_no_ratio() -> None:
    """One failure of two payouts is no trend."""
    few = replace(QUIET, paid=1, failed=1)
    assert breaches_of(few, few, LIMITS) == []


def test_a_day_and_a_week_begin_by_the_clocks_of_their_place() -> None:
    """S0-44, S0-45: also across the change of clocks, where a day has 23 or 25 hours."""
    vienna = ZoneInfo("Europe/Vienna")
    day = Span.of(date(2026, 3, 29), 1, vienna)
    assert day.begin.astimezone(UTC) == datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert day.end.astimezone(UTC) == datetime(2026, 3, 29, 22, tzinfo=UTC)
    week = Span.of(date(2026, 11, 29), 7, ZoneInfo("UTC"))
    assert (week.begin.date(), week.end.date()) == (date(2026, 11, 23), date(2026, 11, 30))


def test_a_success_rate_leaves_declines_out_and_is_none_of_nothing() -> None:
    """F-02."""
    assert success_share(0, 0) is None
    assert success_share(9, 1) == 0.9
    assert success_share(1, 0) == 1.0


def test_money_is_shown_in_its_own_digits_and_texts_of_others_are_masked() -> None:
    row = {"currency": "JPY", "amount_minor": 5000, "reason_code": "4111111111111111", "oldest_seconds": 7200}
    assert shown(row)["money"] == "5000 JPY"
    assert shown(row)["oldest"] == "2 h 0 min"
    assert "4111111111111111" not in str(shown(row))


def test_markdown_has_every_section_and_breaks_on_no_text() -> None:
    head = {"report": "daily", "from": datetime(2026, 1, 1, tzinfo=UTC), "to": datetime(2026, 1, 2, tzinfo=UTC)}
    tables: dict[str, Any] = {section: [] for section in WEEKLY}
    tables["operators"] = [{"actor": "a|b", "transition": "held", "times": 2, "last": head["from"]}]
    text = markdown_of(head, tables)
    assert text.count("\n## ") == len(WEEKLY)
    assert "a\\|b" in text
    assert set(DAILY) < set(WEEKLY)


@pytest.mark.parametrize("words", [("--date", "tomorrow"), ("--date", "2999-01-01"), ("--zone", "Mars/Olympus")])
def test_a_day_that_is_none_is_refused(words: tuple[str, ...]) -> None:
    """Bad input: nothing is asked of any server."""
    result = CliRunner().invoke(app, ["report", "daily", *words], env={"PAYOUTS_PROFILE": "test"})
    assert result.exit_code == ExitCode.USAGE
    assert "next:" in result.stderr


# Smoke.


def settings_with(url: str) -> Settings:
    return Settings.model_validate({"payouts_profile": "test", "visa_base_url": url})


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:9443", "https://localhost:1", "https://[::1]:9443", "https://sandbox.api.visa.com"]
)
def test_a_synthetic_payout_goes_to_a_stand_in_or_the_sandbox(url: str) -> None:
    assert not smoke._is_real(settings_with(url), allow_production=False, token=None, why="")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.visa.com",
        "https://sandbox.api.visa.com.example.org",
        "https://sandbox.api.visa.com@api.visa.com",
        "https://api.visa.com/?sandbox.api.visa.com",
        "https://127.0.0.1.example.org",
        "https://10.0.0.1",
        "not an address",
    ],
)
def test_a_synthetic_payout_never_goes_where_money_is_real(url: str) -> None:
    """S3-27: refused, and even when it is allowed, only to a named recipient and with a reason."""
    with pytest.raises(CommandFailed) as refusal:
        smoke._is_real(settings_with(url), allow_production=False, token=None, why="")
    assert refusal.value.code is ExitCode.REFUSED
    for token, why in ((None, "a reason"), ("token", "")):
        with pytest.raises(CommandFailed) as refusal:
            smoke._is_real(settings_with(url), allow_production=True, token=token, why=why)
        assert refusal.value.code is ExitCode.USAGE
    assert smoke._is_real(settings_with(url), allow_production=True, token="tok_own", why="INC-1")


def test_a_default_does_not_say_where_the_workers_pay() -> None:
    """S3-27: VISA_BASE_URL of the machine that types is the workers' only if somebody has set it."""
    unset = Settings.model_validate({"payouts_profile": "production"})
    assert unset.visa_base_url == "https://sandbox.api.visa.com"
    with pytest.raises(CommandFailed) as refusal:
        smoke._is_real(unset, allow_production=False, token=None, why="")
    assert refusal.value.code is ExitCode.REFUSED
    assert smoke._is_real(unset, allow_production=True, token="tok_own", why="INC-1")
    named = Settings.model_validate({"payouts_profile": "production", "visa_base_url": unset.visa_base_url})
    assert not smoke._is_real(named, allow_production=False, token=None, why="")
    by_default = Settings.model_validate({"payouts_profile": "test"})
    assert not smoke._is_real(by_default, allow_production=False, token=None, why="")


REAL = ("smoke", "--allow-production", "--token", "tok_own", "--reason", "INC-1", "--operator", "maria")


def test_real_money_needs_a_yes_and_a_line_of_the_history_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9, L10: who paid whom real money for a test, and why, stands in the audit whatever happens afterwards."""
    done: list[Any] = []

    async def noted(_: str, operator: str, transition: str, detail: dict[str, Any]) -> None:
        done.append((operator, transition, detail["reason"]))

    async def nothing(*_: Any) -> tuple[None, list[Any]]:
        return None, []

    monkeypatch.setattr(smoke, "note", noted)
    monkeypatch.setattr(smoke, "_prepared", lambda *_: ["prepared"])
    monkeypatch.setattr(smoke, "_send_all", lambda *_: done.append("sent"))
    monkeypatch.setattr(smoke, "_ended", nothing)
    environment = {"PAYOUTS_PROFILE": "test", "VISA_BASE_URL": "https://api.visa.com"}
    silent = CliRunner().invoke(app, list(REAL), env=environment)
    assert (silent.exit_code, done) == (ExitCode.USAGE, [])
    agreed = CliRunner().invoke(app, [*REAL, "--yes"], env=environment)
    assert agreed.exit_code == ExitCode.FOUND, "nobody took it here"
    assert done == [("maria", "smoke_begun", "INC-1"), "sent"]


def test_a_smoke_payout_is_a_request_like_any_other_and_its_card_is_encrypted(tmp_path: Path) -> None:
    """P6: what is sent holds no card number and no name in clear."""
    from streams.keys import create_keys

    create_keys(tmp_path / "keys")
    settings = Settings.model_validate({"payouts_profile": "test", "payouts_keys_directory": tmp_path / "keys"})
    (item,) = smoke._prepared(settings, "smoke-01jabcdefghjkmnpqrstvwxyz0", 100, None, None)
    assert TEST_CARD.encode() not in item.value
    assert b"Rosalind" not in item.value
    (with_token,) = smoke._prepared(settings, "smoke-01jabcdefghjkmnpqrstvwxyz1", 100, "tok_own_account", None)
    assert b"tok_own_account" in with_token.value


# Forensics.


def test_nothing_that_somebody_typed_leaves_unmasked() -> None:
    """P6: secrets, card numbers, addresses; numbers and times that are the evidence stay."""
    given = {
        "reason": "call maria@example.org about 4111 1111 1111 1111",
        "url": "postgresql://app:hunter22@db/payouts",
        "nested": [{"why": "the password is correct-horse"}],
        "retrieval_reference_number": "606012000001",
        "at": "2026-11-28T12:00:00.000000Z",
        "count": 17,
    }
    found = clean(given, ["correct-horse"])
    assert isinstance(found, dict)
    for secret in ("maria@", "4111", "hunter22", "correct-horse"):
        assert secret not in str(found)
    assert (found["retrieval_reference_number"], found["at"], found["count"]) == (
        "606012000001", "2026-11-28T12:00:00.000000Z", 17,
    )  # fmt: skip


@pytest.mark.parametrize("statement", [forensics.OPERATORS, report_queries.OPERATORS])
def test_what_people_did_is_every_step_that_people_decide(statement: str) -> None:
    """S3-27, L10: also what they requeued, and every word of a review."""
    named = {
        step
        for module in (operator_actions, review)
        for step in re.findall(r'Step\([^"\n]*"(\w+)"', Path(str(module.__file__)).read_text())
    }
    assert len(named) == 11, "every step is found in the source"
    assert {step for step in named if f"'{step}'" not in statement} == set()


# Preflight.


@pytest.mark.parametrize(
    ("status", "strict", "code"),
    [(Status.OK, True, 0), (Status.WARN, False, 0), (Status.WARN, True, 1), (Status.FAIL, False, 1)],
)
def test_preflight_says_by_its_exit_code_whether_to_deploy(
    monkeypatch: pytest.MonkeyPatch, status: Status, strict: bool, code: int
) -> None:
    """S1-26, S3-27."""
    one = (("settings", lambda _settings: iter([Finding("settings", status, "as it is", "do something")])),)
    monkeypatch.setattr(preflight, "CHECKS", one)
    monkeypatch.setattr(preflight, "MORE_CHECKS", ())
    words = ["preflight", *(("--strict",) if strict else ())]
    result = CliRunner().invoke(app, words, env={"PAYOUTS_PROFILE": "test"})
    assert result.exit_code == code, result.stderr


def test_preflight_looks_at_all_that_doctor_looks_at_and_more() -> None:
    from ops.doctor import CHECKS

    assert preflight.CHECKS == CHECKS
    assert {name for name, _ in preflight.MORE_CHECKS} == {"schemas", "database", "breakers", "thresholds", "waiting"}
