"""Whatever ends the launcher, at whatever moment: no process, no port and no file of it stays."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]  # whether or not the stubs are installed
import pytest

from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.processes import LOOPBACK, ManagedProcess, is_listening, python_module

pytestmark = pytest.mark.servers

START_SECONDS = 60.0
END_SECONDS = 30.0
POLL_SECONDS = 0.05
NAMED = ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "SCHEMA_REGISTRY_URL", "PAYOUTS_STATE_DIR")


@dataclass
class Launcher:
    """`payouts dev up` in a process of its own."""

    process: subprocess.Popen[str]
    messages_path: Path

    @property
    def messages(self) -> str:
        return self.messages_path.read_text(encoding="utf-8")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        _wait_until(lambda: condition() or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, self.messages

    def descendants(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found

    def directories(self) -> list[Path]:
        return [Path(found) for found in re.findall(r"(?:data|ledger) is in (\S+?)[.;]", self.messages)]


def _wait_until(condition: Callable[[], bool], timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(POLL_SECONDS)


def _ports(processes: list[psutil.Process]) -> set[int]:
    ports = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip in (LOOPBACK, f"::ffff:{LOOPBACK}"), "listens beyond loopback"
                    ports.add(connection.laddr.port)
    return ports


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _assert_gone(processes: list[psutil.Process], ports: set[int]) -> None:
    _wait_until(lambda: not any(_alive(process) for process in processes), END_SECONDS)
    assert [port for port in ports if is_listening(port)] == []


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    started: list[Launcher] = []

    def start(*arguments: str, **variables: str) -> Launcher:
        command, environment = python_module("ops.dev", "up", *arguments)
        environment = {name: value for name, value in environment.items() if name not in NAMED}
        environment |= {"PAYOUTS_STATE_DIR": str(tmp_path / "state"), **variables}
        messages_path = tmp_path / "messages"
        with messages_path.open("w") as messages:
            process = subprocess.Popen(command, env=environment, stdout=messages, stderr=subprocess.STDOUT, text=True)
        started.append(Launcher(process, messages_path))
        return started[-1]

    yield start
    for launcher in started:
        launcher.process.kill()
        launcher.process.wait()


def test_ctrl_c_stops_everything(launch: Callable[..., Launcher]) -> None:
    launcher = launch()
    launcher.wait_for(lambda: "paste the next line" in launcher.messages)
    processes, directories = launcher.descendants(), launcher.directories()
    ports = _ports(processes)
    # Kafka has two ports, the stand-in two, PostgreSQL one.
    assert len(ports) == 5, launcher.messages
    assert len(directories) == 3
    assert all(path.exists() for path in directories)

    launcher.process.send_signal(signal.SIGINT)
    assert launcher.process.wait(END_SECONDS) == 0, launcher.messages
    _assert_gone(processes, ports)
    assert [path for path in directories if path.exists()] == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_the_start(launch: Callable[..., Launcher], ending: signal.Signals) -> None:
    """As a background job too: a shell starts those with SIGINT ignored, which would be inherited."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        launcher = launch("--no-visa")
    finally:
        signal.signal(signal.SIGINT, previous)
    # The first two children are initdb and Kafka's formatter.
    launcher.wait_for(lambda: len(launcher.descendants()) >= 2)
    processes = launcher.descendants()
    launcher.process.send_signal(ending)
    assert launcher.process.wait(END_SECONDS) == 128 + ending, launcher.messages
    _assert_gone(processes, set())


def test_a_signal_in_the_middle_of_a_download(launch: Callable[..., Launcher], tmp_path: Path) -> None:
    """A repository that accepts connections and never answers; nothing leaves this machine."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        silent.settimeout(START_SECONDS)
        settings = tmp_path / "jgo.conf"
        settings.write_text(f"[repositories]\nsilent = http://{LOOPBACK}:{silent.getsockname()[1]}\n")
        launcher = launch("--no-visa", PAYOUTS_CACHE_DIR=str(tmp_path / "cache"), JGO_CONFIG_FILE=str(settings))
        connection, _ = silent.accept()
        with connection:
            processes = launcher.descendants()
            launcher.process.send_signal(signal.SIGINT)
            assert launcher.process.wait(END_SECONDS) == 128 + signal.SIGINT, launcher.messages
    assert "downloading Apache Kafka" in launcher.messages
    _assert_gone(processes, set())
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kafka.lock"]


def test_sigkill_of_the_launcher_takes_the_servers_along(
    launch: Callable[..., Launcher], kafka_server: KafkaCluster
) -> None:
    launcher = launch(KAFKA_BOOTSTRAP_SERVERS=kafka_server.bootstrap_servers)
    launcher.wait_for(lambda: "paste the next line" in launcher.messages)
    processes = launcher.descendants()
    ports = _ports(processes)
    assert len(ports) == 3, launcher.messages
    launcher.process.kill()
    _assert_gone(processes, ports)
    assert kafka_server.process_id(1) in psutil.pids()
    for path in launcher.directories():
        # SIGKILL leaves files: nobody is left to delete them.
        shutil.rmtree(path, ignore_errors=True)


def test_detached_status_and_down(kafka_server: KafkaCluster, tmp_path: Path) -> None:
    """A stack that is left behind is used from another shell, and ends by `down`."""
    command, environment = python_module("ops.dev")
    environment = {name: value for name, value in environment.items() if name not in NAMED}
    environment |= {
        "PAYOUTS_STATE_DIR": str(tmp_path / "state"),
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
    }

    def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=90, check=False
        )

    up = dev("up", "--no-visa", "--detach")
    assert up.returncode == 0, up.stderr
    try:
        loaded = subprocess.run(
            ["/bin/sh", "-c", f"{up.stdout}\necho $DATABASE_URL"], capture_output=True, text=True, check=True
        )
        assert re.fullmatch(r"postgresql://payouts:\w+@127\.0\.0\.1:\d+/payouts\n", loaded.stdout)
        assert loaded.stdout.strip() not in up.stderr, "a password was printed"
        status = json.loads(dev("status", "--output", "json").stdout)
        assert {name: server["reachable"] for name, server in status["servers"].items()} == {
            "kafka": True,
            "postgres": True,
        }
        supervisor = psutil.Process(status["process_id"])
        processes = [supervisor, *supervisor.children(recursive=True)]
        ports = _ports(processes)
    finally:
        down = dev("down")
    assert down.returncode == 0, down.stderr
    _assert_gone(processes, ports)
    assert not (tmp_path / "state" / "dev.json").exists()
    assert not Path(shlex.split(up.stdout)[1]).exists(), "the file with the password stayed"
    assert kafka_server.process_id(1) in psutil.pids()


def test_the_spawning_thread_may_end_before_its_server(tmp_path: Path) -> None:
    """Linux ties the parent-death signal to the thread that forked: ours lives as long as the process."""
    process = ManagedProcess("sleeper", ["/bin/sleep", "60"], log_path=tmp_path / "log")
    starter = threading.Thread(target=process.start)
    starter.start()
    starter.join()
    try:
        assert not process.wait(0.5)
    finally:
        process.kill()
