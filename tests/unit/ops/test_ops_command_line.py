"""What every command promises: help with examples, exit codes, errors without tracebacks and secrets."""

from __future__ import annotations

import importlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from confluent_kafka import KafkaError, KafkaException
from typer.testing import CliRunner, Result

from ledger.interface import CommitUnknown, LeasesStillLive, LedgerUnavailable, RowRejected
from ops.application import CommandGroup, as_failure, new_app
from ops.commands import Commands
from ops.exit_codes import MEANINGS, ExitCode
from ops.failures import CommandFailed, refused
from ops.main import MODULES, app
from ops.worker import VISA_AGENTS, parse_agents
from schemas.codec import RegistryUnavailable, SchemaNotRegistered
from schemas.registry_client import RegistryRefused
from streams.keys import KeysUnusable
from streams.settings import AGENT_NAMES, SettingsInvalid

CARD = "4111111111111111"
PASSWORD = "correct-horse-battery"


def run(*words: str, **environment: str | None) -> Result:
    """Run `payouts WORDS…` in this process with a test profile and nobody's variables."""
    quiet = {
        "PAYOUTS_PROFILE": "test",
        "PAYOUTS_OPERATOR": "tester",
        "PAYOUTS_SETTINGS_FILE": None,
        "SCHEMA_REGISTRY_URL": None,
        "PAYOUTS_DEBUG": None,
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "DATABASE_URL": f"postgresql://payouts:{PASSWORD}@127.0.0.1:1/payouts",
    }
    return CliRunner().invoke(app, list(words), env={**quiet, **environment})


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command's words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        if getattr(command, "invoke_without_command", True):
            yield (*words, name)


EVERY_COMMAND = sorted(commands(typer.main.get_command(app)))
OURS = [words for words in EVERY_COMMAND if words[0] != "dev"]


def test_every_command_of_the_issue_is_there() -> None:
    """Issue: the list of commands that users rely on."""
    wanted = """worker; send; results; compensations; show; lag; lag export; doctor; topics ensure; topics list;
        schemas check;
        schemas push; schemas list; ledger migrate; ledger status; modes show; modes set; review list; review approve;
        review reject; keys create; stuck; resolve; hold; release; requeue; cancel; dlq list; dlq show; dlq replay;
        dlq discard; audit tail; audit verify; audit export; dev up; dev down; dev status"""
    assert {tuple(words.split()) for words in wanted.split(";")} <= set(EVERY_COMMAND)


def test_no_command_that_a_file_has_is_left_out() -> None:
    """Files are loaded by their commands' names: what a file adds and the table does not name, nobody could type."""
    for module_name in sorted(set(MODULES.values())):
        module = importlib.import_module(module_name)
        if not hasattr(module, "app"):
            alone = new_app("")
            module.register(alone)
            named = {name for name, where in MODULES.items() if where == module_name}
            assert set(typer.main.get_group(alone).commands) == named, module_name


def test_a_file_that_cannot_be_loaded_is_no_unknown_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever types a command that is broken is told so, and not that there is none."""

    def broken(_: str) -> None:
        raise KeyError("a constant of the file")

    monkeypatch.setattr("ops.commands.import_module", broken)
    found = Commands({"lag": "ops.lag"})
    assert "lag" in found
    assert found.get("lgg") is None
    with pytest.raises(KeyError, match="a constant of the file"):
        found.get("lag")


def test_a_command_loads_only_what_it_needs() -> None:
    """Whoever is on duty types many commands, and waits for nothing that only others need."""
    script = "import sys; from ops.main import app; app(['lag', '--help'], standalone_mode=False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(shown.stdout.splitlines()[-1].split())
    assert "ops.lag" in loaded
    assert not loaded & {"ops.ledger", "ops.known_failures", "faust", "aiokafka", "aiohttp", "httpx", "jwcrypto"}


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_every_help_has_examples(words: tuple[str, ...]) -> None:
    """Every --help shows how it is used."""
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"payouts {' '.join(words)}" in result.stdout


CHANGES_PAYOUTS = (
    ("hold",), ("release",), ("cancel",), ("requeue",), ("resolve",), ("dlq", "replay"), ("dlq", "discard"),
    ("review", "approve"), ("review", "reject"),
)  # fmt: skip


@pytest.mark.parametrize("words", CHANGES_PAYOUTS, ids=" ".join)
def test_p9_every_command_that_changes_payouts_is_planned_reasoned_and_undone_or_says_why_not(
    words: tuple[str, ...],
) -> None:
    """P9, issue 7: --dry-run, a reason (or what stands for one), who, --yes, json, and a word about the way back."""
    text = " ".join(run(*words, "--help").stdout.split())
    reasons = {("resolve",): "--evidence"} | dict.fromkeys(CHANGES_PAYOUTS[-2:], "--reason-code")
    who = "--reviewer" if words[0] == "review" else "--operator"
    for option in ("--dry-run", "--yes", "--output", who, reasons.get(words, "--reason")):
        assert option in text, option
    assert re.search(r"[Uu]ndo|no way back|taken back", text), text


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_help_has_the_exit_codes(words: tuple[str, ...]) -> None:
    """Scripts rely on the exit codes (design 10)."""
    text = run(*words, "--help").stdout
    assert "Exit codes:" in text
    assert "  0   done" in text


def test_the_exit_codes_are_those_of_the_design() -> None:
    """Design 10: 0 ok, 1 found, 2 usage, 3 refused, 4 group active, 5 partial, 6 unreachable."""
    assert [code.value for code in ExitCode][:7] == [0, 1, 2, 3, 4, 5, 6]
    assert set(MEANINGS) == set(ExitCode)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (refused("no"), ExitCode.REFUSED),
        (SettingsInvalid("x"), ExitCode.USAGE),
        (KeysUnusable("x"), ExitCode.USAGE),
        (LeasesStillLive("x"), ExitCode.FOUND),
        (LedgerUnavailable("x"), ExitCode.UNREACHABLE),
        (CommitUnknown("x"), ExitCode.UNREACHABLE),
        (RowRejected("x"), ExitCode.FOUND),
        (RegistryUnavailable("x"), ExitCode.UNREACHABLE),
        (SchemaNotRegistered("x"), ExitCode.FOUND),
        (RegistryRefused("GET /x", 409, 409), ExitCode.FOUND),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), ExitCode.UNREACHABLE),
        (ZeroDivisionError("x"), ExitCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_every_failure_has_its_exit_code(error: Exception, code: ExitCode) -> None:
    """One place decides what a failure means to a script."""
    failure = as_failure(error)
    assert failure.code is code
    assert failure.what


def failing(error: Exception) -> Result:
    """A command that raises, in a group like ours."""
    group = new_app("A test.")
    group.info.cls = CommandGroup

    @group.command("one")
    def one() -> None:
        raise error

    @group.command("two")
    def two() -> None:
        """So that there is a group."""

    secret = {"DATABASE_URL": f"postgresql://payouts:{PASSWORD}@127.0.0.1:1/payouts", "PAYOUTS_PROFILE": "test"}
    return CliRunner().invoke(group, ["one"], env=secret)


def test_a_failure_says_what_why_and_what_to_do_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors: what happened, why, what to do next."""
    monkeypatch.delenv("PAYOUTS_DEBUG", raising=False)
    result = failing(refused("it is forbidden", why="rule X", next_step="ask"))
    assert result.exit_code == ExitCode.REFUSED
    assert result.stdout == ""
    assert result.stderr == "error: it is forbidden\n  why:  rule X\n  next: ask\n"


@pytest.mark.parametrize("debug", [False, True])
def test_no_failure_shows_a_password_or_a_card_number(monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    """P6: also not in the traceback that --debug shows."""
    if debug:
        monkeypatch.setenv("PAYOUTS_DEBUG", "1")
    else:
        monkeypatch.delenv("PAYOUTS_DEBUG", raising=False)
    other = "https://user:another-password@example.invalid/"
    for error in (
        ValueError(f"{PASSWORD} {CARD} {other}"),
        LedgerUnavailable(f"{PASSWORD} {CARD} {other} \x1b[31mred"),
    ):
        result = failing(error)
        for hidden in (PASSWORD, CARD, "another-password"):
            assert hidden not in result.stderr
        assert ("Traceback" in result.stderr) is debug
        assert "\x1b" not in result.stderr
    assert result.exit_code == ExitCode.UNREACHABLE


def test_settings_errors_list_every_problem_and_no_value() -> None:
    """Issue: validated at start with clear errors."""
    result = run("lag", PAYOUTS_HTTP_PORT="99999", DATABASE_POOL_MAX=CARD, KAFKA_SECURITY_PROTOCOL="PLAIN")
    assert result.exit_code == ExitCode.USAGE
    for name in ("PAYOUTS_HTTP_PORT", "DATABASE_POOL_MAX", "KAFKA_SECURITY_PROTOCOL"):
        assert name in result.stderr
    assert CARD not in result.stderr


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("lag",), {"KAFKA_SECURITY_PROTOCOL"}),
        (("ledger", "status"), {"DATABASE_URL"}),
        (("ledger", "adopt", "--reason", "x", "--dry-run"), {"KAFKA_SECURITY_PROTOCOL", "DATABASE_URL"}),
        (("show", "order-2026-0001"), {"KAFKA_SECURITY_PROTOCOL", "DATABASE_URL"}),
        (("topics", "ensure"), {"KAFKA_SECURITY_PROTOCOL"}),
        (("modes", "set", "halted", "--reason", "x", "--operator", "y"), {"DATABASE_URL"}),
        (("drain", "--reason", "x"), {"DATABASE_URL"}),
        (("stuck",), {"DATABASE_URL"}),
        (("hold", "order-2026-0001", "--reason", "x", "--yes"), {"DATABASE_URL"}),
        (("resolve", "order-2026-0001", "--paid", "--evidence", "x", "--yes"), {"DATABASE_URL"}),
        (("worker",), {"KAFKA_SECURITY_PROTOCOL", "DATABASE_URL", "VISA_CERT_PATH", "PAYOUTS_KEYS_DIRECTORY"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_production_refuses_plaintext(tmp_path: Path, words: tuple[str, ...], names: set[str]) -> None:
    """Issue: the production profile refuses plaintext Kafka or PostgreSQL, and missing keys."""
    result = run(*words, PAYOUTS_PROFILE="production", PAYOUTS_KEYS_DIRECTORY=str(tmp_path / "none"))
    assert result.exit_code == ExitCode.REFUSED
    for name in names:
        assert name in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("ledger", "status"),
        ("ledger", "migrate"),
        ("modes", "show"),
        ("modes", "set", "halted", "--reason", "x"),
        ("drain", "--wait", "0", "--reason", "x"),
        ("resume", "--reason", "x"),
        ("review", "list"),
        ("stuck",),
        ("hold", "order-2026-0001", "--reason", "x", "--yes"),
        ("release", "order-2026-0001", "--reason", "x", "--yes"),
        ("cancel", "order-2026-0001", "--reason", "x", "--dry-run"),
        ("resolve", "order-2026-0001", "--not-paid", "--evidence", "x", "--yes"),
    ],
    ids=" ".join,
)
def test_a_database_that_is_away_is_exit_code_6(words: tuple[str, ...]) -> None:
    """Design 10: 6 is unreachable; the password of the address is nowhere."""
    result = run(*words)
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "Traceback" not in result.stderr
    assert PASSWORD not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-command",),
        ("lag", "--output", "yaml"),
        ("show", "short"),
        ("show",),
        ("worker", "--agents", "validate,nobody"),
        ("worker", "--agents", ","),
        ("send", "/nonexistent/file.jsonl"),
        ("send", "requests.txt"),
        ("results", "--since", "yesterday"),
        ("results", "--since", "1h", "--from-beginning"),
        ("results", "--status", "HAPPY"),
        ("results", "--limit", "0"),
        ("compensations", "--status", "PAID"),
        ("modes", "set", "paused", "--reason", "x"),
        ("drain", "--reason", " "),
        ("drain", "--wait", "-1", "--reason", "x"),
        ("resume",),
        ("modes", "set", "halted", "--reason", " ", "--operator", "y"),
        ("modes", "set", "halted", "--reason", "a\x07b", "--operator", "y"),
        ("review", "approve", "order-2026-0001", "--reason-code", "FALSE_POSITIVE", "--dry-run"),
        ("review", "approve", "order-2026-0001.0", "--reason-code", "FALSE_POSITIVE", "--dry-run"),
        ("review", "approve", "order-2026-0001.3", "--reason-code", "lower", "--dry-run"),
        ("review", "approve", "order-2026-0001.3", "--reason-code", "CONFIRMED_MATCH", "--dry-run"),
        ("review", "reject", "order-2026-0001.3", "--reason-code", "FALSE_POSITIVE", "--dry-run"),
        ("review", "reject", "order-2026-0001.3", "--reason-code", "CONFIRMED_MATCH"),
        ("requeue", "--reason", "x", "--yes"),
        ("requeue", "order-2026-0001", "--yes"),
        ("requeue", "order-2026-0001", "--reason", " ", "--yes"),
        ("requeue", "order-2026-0001", "--reason", "x"),
        ("dlq", "list", "--state", "lost"),
        ("dlq", "list", "--topic", "no_such_topic"),
        ("dlq", "replay", "--reason", "x", "--yes"),
        ("dlq", "replay", "payout_requests-0-1", "--yes"),
        ("dlq", "replay", "payout_requests-0-1", "--reason", "x"),
        ("dlq", "discard", "payout_requests-0-1", "--reason", " ", "--yes"),
        ("dlq", "show", "payout_requests-0-1", "--reason", "x"),
        ("dlq", "show", "payout_requests-0-1", "--reveal", "x.bin"),
        ("audit", "tail", "--limit", "0"),
        ("audit", "export"),
        ("topics", "ensure", "--partitions", "0"),
        ("hold", "--reason", "x", "--yes"),
        ("hold", "order-2026-0001", "--yes"),
        ("hold", "order-2026-0001", "--reason", " ", "--yes"),
        ("hold", "order-2026-0001", "--reason", "a\x07b", "--yes"),
        ("hold", "short", "--reason", "x", "--yes"),
        ("release", "order-2026-0001", "--reason", "x"),
        ("cancel", "order-2026-0001", "--reason", "x", "--wait", "-1", "--yes"),
        ("cancel", "order-2026-0001", "--reason", "x", "--yes", "--dry-run"),
        ("resolve", "order-2026-0001", "--evidence", "x", "--yes"),
        ("resolve", "order-2026-0001", "--paid", "--yes"),
        ("resolve", "order-2026-0001", "--paid", "--evidence", " ", "--yes"),
        ("resolve", "order-2026-0001", "--paid", "--evidence", "x", "--approve", "3", "--yes"),
        ("resolve", "order-2026-0001", "--paid", "--approve", "0", "--yes"),
        ("resolve", "order-2026-0001", "--undo", "--yes"),
        ("resolve", "order-2026-0001", "--undo", "--paid", "--reason", "x", "--yes"),
        ("resolve", "order-2026-0001", "--paid", "--evidence", "x", "--reason", "y", "--yes"),
        ("stuck", "--state", "HAPPY"),
        ("stuck", "--older-than", "-1"),
        ("schemas", "push"),
        ("--settings-file", "/nonexistent/payouts.env", "lag"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_understood_is_exit_code_2(words: tuple[str, ...]) -> None:
    """Design 10: 2 is usage."""
    result = run(*words)
    assert result.exit_code == ExitCode.USAGE, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        (
            "review",
            "reject",
            "order-2026-0001.3",
            "--reason-code",
            "CONFIRMED_MATCH",
            "--note",
            f"card {CARD}",
            "--yes",
        ),
        ("review", "reject", "order-2026-0001.3", "--reason-code", "CONFIRMED_MATCH", "--reviewer", CARD, "--yes"),
        ("requeue", "order-2026-0001", "--reason", CARD, "--yes"),
        ("dlq", "replay", "payout_requests-0-1", "--reason", CARD, "--yes"),
        ("dlq", "discard", "payout_requests-0-1", "--reason", CARD, "--yes"),
        ("dlq", "show", "payout_requests-0-1", "--reveal", "x.bin", "--reason", CARD),
        ("modes", "set", "halted", "--reason", CARD, "--operator", "y"),
        ("resolve", "order-2026-0001", "--paid", "--evidence", f"card {CARD}", "--yes"),
        ("resolve", "order-2026-0001", "--undo", "--reason", CARD, "--yes"),
        ("hold", "order-2026-0001", "--reason", CARD, "--yes"),
        ("release", "order-2026-0001", "--reason", "x", "--operator", CARD, "--yes"),
        ("cancel", "order-2026-0001", "--reason", CARD, "--yes"),
    ],
)
def test_what_people_type_is_not_stored_when_it_holds_a_card_number(words: tuple[str, ...]) -> None:
    """P6: notes and reasons are stored in clear."""
    result = run(*words)
    assert result.exit_code == ExitCode.REFUSED
    assert CARD not in result.stderr


def test_more_payouts_than_anybody_reads_are_not_done_at_once() -> None:
    """P9: a plan must be readable before somebody agrees to it."""
    ids = [f"order-2026-{number:04}" for number in range(201)]
    result = run("hold", *ids, "--reason", "x", "--yes")
    assert result.exit_code == ExitCode.USAGE
    assert "200" in result.stderr


def test_keys_are_made_once_and_never_replaced(tmp_path: Path) -> None:
    """A replaced key makes stored payouts unreadable."""
    directory = tmp_path / "keys"
    made = run("keys", "create", str(directory), "--output", "json")
    assert made.exit_code == 0
    files = json.loads(made.stdout)
    assert len(files) == 6
    assert {row["mode"] for row in files if row["secret"]} == {"600"}
    before = {path: path.read_bytes() for path in directory.iterdir()}
    assert run("keys", "create", str(directory)).exit_code == ExitCode.REFUSED
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_schemas_can_be_checked_and_listed_without_a_registry() -> None:
    """Design 3: a registry is optional on a laptop."""
    assert run("schemas", "check").exit_code == 0
    listed = json.loads(run("schemas", "list", "--output", "json").stdout)
    assert {row["status"] for row in listed} == {"pinned"}
    assert all(row["pinned_id"] > 2_000_000_000 for row in listed)


def test_a_registry_that_is_away_is_exit_code_6() -> None:
    """Design 10, with a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert run("schemas", "check", SCHEMA_REGISTRY_URL=url).exit_code == ExitCode.UNREACHABLE


@pytest.mark.parametrize("url", ["ftp://h", "http://", f"http://u:{PASSWORD}@h", "http://[", "registry:8081"])
def test_an_address_of_a_registry_that_cannot_be_right_is_exit_code_2(url: str) -> None:
    """Settings errors are the user's, not faults of ours."""
    result = run("schemas", "check", SCHEMA_REGISTRY_URL=url)
    assert result.exit_code == ExitCode.USAGE
    assert PASSWORD not in result.stderr


def test_a_dry_run_checks_a_file_without_any_server(tmp_path: Path) -> None:
    """Nothing is sent, so nothing has to run."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"payout_id": "order-2026-0001"}\nnot json\n')
    result = run("send", str(path), "--dry-run", "--output", "json")
    assert result.exit_code == ExitCode.FOUND
    assert [error["line"] for error in json.loads(result.stdout)["errors"]] == [1, 2]


def test_no_colour_reaches_a_pipe() -> None:
    """stdout is data: no escape sequences where nobody looks."""
    assert "\x1b" not in run("schemas", "list").stdout


def test_agents_are_named_in_the_order_of_the_flow() -> None:
    """`payouts worker --agents` runs any subset."""
    assert parse_agents("submit, validate,submit") == ("validate", "submit")
    assert parse_agents(",".join(AGENT_NAMES)) == AGENT_NAMES


def test_the_commands_know_the_workers_own_tables() -> None:
    """The table of topics says what the agents read (lag, offsets, K6: letters); `worker` asks for Visa's files when
    an agent calls Visa.
    """
    from schemas.topics import READ_BY_WORKERS
    from streams.bootstrap import AGENT_TOPICS, AGENTS_THAT_CALL_VISA

    assert set(READ_BY_WORKERS) == {topic for topics in AGENT_TOPICS.values() for topic in topics}
    assert VISA_AGENTS == AGENTS_THAT_CALL_VISA


def test_a_failure_without_reasons_is_one_line() -> None:
    """No empty lines where there is nothing to say."""
    assert CommandFailed(ExitCode.FOUND, "it is not there").lines() == ["error: it is not there"]


def test_the_module_is_the_command() -> None:
    """`python -m ops` works where the script is not on the path."""
    done = subprocess.run(
        [sys.executable, "-m", "ops", "worker", "--agents", "nobody"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    assert done.stderr.startswith("error: 1 of the agents named are not known")
