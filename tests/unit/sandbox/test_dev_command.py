"""`payouts dev`: what it says and does when nothing runs, and that it never ends a stranger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]  # whether or not the stubs are installed
import pytest
from typer.testing import CliRunner

from ops import dev
from ops.exit_codes import ExitCode

runner = CliRunner()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us, whose id might be the one we once had."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def _record(folder: Path, process_id: int, started_at: float) -> None:
    record = dev.Record(process_id, started_at, ["Kafka: x"], {"kafka": "127.0.0.1:1"}, str(folder / "dev.env"))
    (folder / dev.RECORD_NAME).write_text(json.dumps(asdict(record)), encoding="utf-8")


def test_status_without_a_stack(tmp_path: Path) -> None:
    result = runner.invoke(dev.app, ["status", "--state-dir", str(tmp_path), "--output", "json"])
    assert result.exit_code == ExitCode.FOUND
    assert json.loads(result.stdout) == {"running": False}


def test_down_without_a_stack_has_reached_its_aim(tmp_path: Path) -> None:
    assert runner.invoke(dev.app, ["down", "--state-dir", str(tmp_path)]).exit_code == 0


def test_a_recycled_process_id_is_never_ended(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    _record(tmp_path, stranger.pid, psutil.Process(stranger.pid).create_time() - 3600)
    assert runner.invoke(dev.app, ["status", "--state-dir", str(tmp_path)]).exit_code == ExitCode.FOUND
    assert runner.invoke(dev.app, ["down", "--state-dir", str(tmp_path)]).exit_code == 0
    assert stranger.poll() is None


def test_status_of_a_stack_that_does_not_answer(
    tmp_path: Path, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "PROBE_SECONDS", 0.2)
    _record(tmp_path, stranger.pid, psutil.Process(stranger.pid).create_time())
    result = runner.invoke(dev.app, ["status", "--state-dir", str(tmp_path), "--output", "json"])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert json.loads(result.stdout)["servers"] == {"kafka": {"address": "127.0.0.1:1", "reachable": False}}


def test_a_second_stack_in_one_place_is_refused(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    _record(tmp_path, stranger.pid, psutil.Process(stranger.pid).create_time())
    result = runner.invoke(dev.app, ["up", "--state-dir", str(tmp_path)])
    assert result.exit_code == ExitCode.FOUND
    assert "already running" in result.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process_id": 1}'])
def test_a_damaged_record_is_no_running_stack(tmp_path: Path, text: str) -> None:
    (tmp_path / dev.RECORD_NAME).write_text(text, encoding="utf-8")
    assert dev.place_of(tmp_path).running() is None


@pytest.mark.parametrize("arguments", [["up", "--brokers", "2"], ["up", "--brokers", "5"], ["status", "--output", "x"]])
def test_usage_errors(arguments: list[str]) -> None:
    assert runner.invoke(dev.app, arguments).exit_code == ExitCode.USAGE


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_help_has_examples_and_exit_codes(command: str) -> None:
    text = runner.invoke(dev.app, [command, "--help"]).stdout
    assert "Examples:" in text
    assert "Exit codes:" in text


def test_a_named_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/mine")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("sandbox.servers.kafka.FOREIGN_SECONDS", 0.2)
    result = runner.invoke(dev.app, ["up", "--no-visa", "--state-dir", str(tmp_path)])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "secret" not in result.output


def test_files_with_passwords_are_for_the_owner_only(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        dev._write_whole(tmp_path / "dev.env", "export X=1\n")
    finally:
        os.umask(old_mask)
    assert (tmp_path / "dev.env").stat().st_mode & 0o777 == 0o600
