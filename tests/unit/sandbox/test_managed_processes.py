"""Child processes end when they shall, and ports are ours as long as we say."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]  # whether or not the stubs are installed
import pytest

from sandbox.servers.processes import (
    LOOPBACK,
    PORT_RANGE,
    ManagedProcess,
    PortLease,
    ServerError,
    ServerExitedError,
    ServerNotReadyError,
    StartCancelledError,
    in_parallel,
    is_listening,
    redact_url,
)

READY_SECONDS = 20.0
# A program that writes a file when it is ready, and then does what the test wants to see ended.
OBEDIENT = "import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(60)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + OBEDIENT
WITH_CHILD = (
    "import pathlib, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
    "time.sleep(60)"
)


@pytest.fixture
def ready_path(tmp_path: Path) -> Path:
    return tmp_path / "ready"


def _started(program: str, ready_path: Path) -> ManagedProcess:
    process = _process(program, ready_path)
    process.start()
    process.wait_ready(ready_path.exists, timeout_seconds=READY_SECONDS)
    return process


def _process(program: str, ready_path: Path) -> ManagedProcess:
    return ManagedProcess(
        "the example",
        [sys.executable, "-c", program, ready_path],
        log_path=ready_path.with_name("example.log"),
    )


def test_stop_asks_first(ready_path: Path) -> None:
    process = _started(OBEDIENT, ready_path)
    process.stop(READY_SECONDS)
    assert process.exit_code == -signal.SIGTERM
    assert not psutil.pid_exists(process.pid)


def test_stop_kills_what_does_not_listen(ready_path: Path) -> None:
    process = _started(STUBBORN, ready_path)
    process.stop(grace_seconds=0.1)
    assert process.exit_code == -signal.SIGKILL


def test_a_frozen_process_is_stopped_too(ready_path: Path) -> None:
    process = _started(OBEDIENT, ready_path)
    process.pause()
    # The kernel stops it at its next opportunity, not within the call.
    frozen = psutil.Process(process.pid)
    process.wait_ready(lambda: frozen.status() == psutil.STATUS_STOPPED, timeout_seconds=READY_SECONDS)
    process.stop(READY_SECONDS)
    assert process.exit_code == -signal.SIGTERM


def test_kill_takes_the_descendants_along(ready_path: Path) -> None:
    process = _started(WITH_CHILD, ready_path)
    process.wait_ready(lambda: bool(ready_path.read_text()), timeout_seconds=READY_SECONDS)
    child = psutil.Process(int(ready_path.read_text()))
    process.kill()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_stopped_process_can_be_started_again(ready_path: Path) -> None:
    process = _started(OBEDIENT, ready_path)
    first = process.pid
    process.stop(READY_SECONDS)
    process.start()
    assert process.is_running
    assert process.pid != first
    process.kill()


def test_a_child_has_a_session_of_its_own(ready_path: Path) -> None:
    """So that Ctrl-C in the terminal reaches the launcher alone, which stops in order."""
    process = _started("import os\nassert os.getsid(0) == os.getpid()\n" + OBEDIENT, ready_path)
    process.kill()


def test_an_early_end_is_reported_with_the_log(ready_path: Path) -> None:
    process = _process("import sys\nsys.exit('port 1 is taken')", ready_path)
    process.start()
    with pytest.raises(ServerExitedError, match=r"(?s)ended with code 1.*port 1 is taken"):
        process.wait_ready(ready_path.exists, timeout_seconds=READY_SECONDS)


def test_a_server_that_never_gets_ready_is_reported(ready_path: Path) -> None:
    process = _started(OBEDIENT, ready_path)
    with pytest.raises(ServerNotReadyError, match="was not ready"):
        process.wait_ready(lambda: False, timeout_seconds=0.1)
    process.kill()


def test_waiting_ends_when_the_launcher_is_told_to_stop(ready_path: Path) -> None:
    process, cancel = _started(OBEDIENT, ready_path), threading.Event()
    cancel.set()
    with pytest.raises(StartCancelledError):
        process.wait_ready(lambda: False, timeout_seconds=READY_SECONDS, cancel=cancel)
    process.kill()


def test_a_program_that_does_not_exist_is_reported(ready_path: Path) -> None:
    process = ManagedProcess("nothing", ["/nonexistent"], log_path=ready_path.with_name("nothing.log"))
    process.start()
    with pytest.raises(ServerExitedError, match="cannot start /nonexistent"):
        process.wait_ready(lambda: False, timeout_seconds=READY_SECONDS)


def test_only_the_owner_may_read_a_log(ready_path: Path) -> None:
    process = _started(OBEDIENT, ready_path)
    process.kill()
    assert process.log_path is not None
    assert process.log_path.stat().st_mode & 0o077 == 0


def test_a_leased_port_is_held_until_it_is_released() -> None:
    lease = PortLease()
    assert lease.port in PORT_RANGE
    with socket.socket() as other:
        # As Java and PostgreSQL bind; two sockets that both say so may share a port on Linux.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((LOOPBACK, lease.port))
    assert not is_listening(lease.port), "a held port refuses clients, as that of a dead server does"
    lease.release()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((LOOPBACK, lease.port))


def test_a_port_that_is_leased_is_not_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two leases once got one port, because both sockets allowed sharing."""
    first = PortLease()
    answers = iter([first.port, first.port, *range(first.port + 1, first.port + 50)])
    monkeypatch.setattr("random.choice", lambda _range: next(answers))
    second = PortLease()
    assert second.port != first.port
    first.release()
    second.release()


def test_a_port_is_held_again_beside_what_is_left_of_its_server() -> None:
    lease = PortLease()
    lease.release()
    with socket.create_server((LOOPBACK, lease.port)) as server:
        client = socket.create_connection((LOOPBACK, lease.port))
        accepted, _ = server.accept()
        # The side that closes first keeps the connection in TIME_WAIT.
        accepted.close()
        client.close()
    lease.hold()
    assert not is_listening(lease.port)
    lease.release()


def test_work_in_parallel_is_all_done_before_a_failure_is_raised() -> None:
    done: list[str] = []

    def fail() -> None:
        raise ServerError("this one")

    with pytest.raises(ServerError, match="this one"):
        in_parallel([fail, lambda: done.append("other")])
    assert done == ["other"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@db.example:5432/payouts?password=x", "postgresql://db.example:5432/payouts"),
        ("https://u:secret@registry.example/apis", "https://registry.example/apis"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    """P6 in spirit: nothing secret in a message."""
    assert redact_url(url) == shown
