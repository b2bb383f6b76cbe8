"""Workers as processes that are killed, frozen, woken, stopped and started again.

    fleet = Fleet(environment, directory)
    worker = fleet.start_worker()          # worker-1, in a directory of its own
    worker.wait_ready()
    worker.freeze(); worker.thaw(); worker.kill(); worker.restart()
    fleet.supervise()                      # starts again what ended by itself (rule K5), and counts it
    fleet.stop_all()

The product is started as an operator would: `payouts worker`, configured by its environment only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped, unused-ignore]  # whether or not the stubs are installed

from sandbox.servers.processes import LOOPBACK, POLL_SECONDS, ManagedProcess, ServerError, in_parallel, python_module

READY_SECONDS_MAX = 60.0
"""A worker is ready in a few seconds; beside three brokers on two busy cores it takes longer."""
STOP_SECONDS_MAX = 20.0
"""The drain waits for calls under way (test profile: 3 s) and leaves the group."""
FREEZE_SECONDS_MAX = 5.0
"""A process stops when it is next scheduled; one that waits for the disk, after that."""
FREEZE_POLL_SECONDS = 0.002
PAGE_SECONDS = 3.0
"""The health page asks the database for at most 2 s."""


@dataclass(frozen=True, slots=True)
class SelfEnded:
    """A worker that ended without being told to, for example with 71 for an unconfirmed publish (rule K5)."""

    worker: str
    exit_code: int
    at_monotonic_seconds: float
    log_path: Path


class FleetWorker:
    """One worker: a name, a directory, a log, and at most one process at a time."""

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        directory: Path,
        agents: Sequence[str] = (),
        module: str = "ops",
    ) -> None:
        """`environment` is the complete one of the process; name and port file are added here. No `agents`: all."""
        self.name = name
        self.directory = directory
        self.log_path = directory / "worker.log"
        self.port_path = directory / "http.port"
        self.starts = 0
        self.frozen = False
        self._wanted = False
        self._lock = threading.RLock()
        chosen = ("--agents", ",".join(agents)) if agents else ()
        command, found = python_module(module, "worker", *chosen)
        self._process = ManagedProcess(
            name,
            command,
            log_path=self.log_path,
            working_directory=directory,
            environment={
                **environment,
                "PYTHONPATH": found["PYTHONPATH"],
                "PAYOUTS_WORKER_NAME": name,
                "PAYOUTS_HTTP_PORT": "0",
                "PAYOUTS_HTTP_PORT_FILE": str(self.port_path),
            },
        )

    def __repr__(self) -> str:
        return f"FleetWorker({self.name})"

    @property
    def pid(self) -> int:
        """The process id of the latest start. Raises ServerError before the first."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its process exists, a frozen one included."""
        return self._process.is_running

    @property
    def exit_code(self) -> int | None:
        """How the latest process ended, negative for a signal; None while it runs."""
        return self._process.exit_code

    @property
    def is_assigned(self) -> bool:
        """Whether it says that it has partitions: before that it consumes nothing."""
        return bool(self.health().get("assigned_partitions"))

    def start(self) -> None:
        """Start it; returns before it is ready. Raises ServerError if it is running."""
        with self._lock:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.port_path.unlink(missing_ok=True)
            self._process.start()
            self._wanted, self.frozen = True, False
            self.starts += 1

    def wait_ready(self, timeout_seconds: float = READY_SECONDS_MAX) -> None:
        """Wait until it has partitions. Raises ServerError with the end of its log."""
        self._process.wait_ready(lambda: self.is_assigned, timeout_seconds=timeout_seconds)

    def kill(self) -> bool:
        """SIGKILL, also when frozen. False if it had ended by itself before."""
        with self._lock:
            was_alive = self.alive
            self._wanted = self._wanted and not was_alive
            self._process.kill()
            self.frozen = False
            return was_alive

    def freeze(self) -> bool:
        """SIGSTOP: it keeps its connections and does nothing from here on. False if it has ended.

        Raises ServerError if it does not stand still in time.
        """
        with self._lock:
            if not self.alive:
                return False
            self._process.pause()
            self.frozen = True
            return self._stands_still()

    def thaw(self) -> bool:
        """SIGCONT: it goes on where it stood, believing that no time has passed. False if it has ended."""
        with self._lock:
            if not self.alive:
                return False
            self._process.resume()
            self.frozen = False
            return True

    def terminate(self, timeout_seconds: float = STOP_SECONDS_MAX) -> int | None:
        """SIGTERM, so that it drains; its exit code. SIGKILL after `timeout_seconds` shows as -9."""
        with self._lock:
            if self.alive:
                self._wanted = False
            self._process.stop(timeout_seconds)
            self.frozen = False
            return self._process.exit_code

    def restart(self) -> None:
        """Start it again after `kill` or `terminate`; a running one is killed first."""
        with self._lock:
            if self.alive:
                self.kill()
            self.start()

    def revive(self) -> int | None:
        """Start it again if it is gone although nobody here ended it; then the code it ended with, else None."""
        with self._lock:
            if not self._wanted or self.alive:
                return None
            exit_code = self._process.exit_code or 0
            self.start()
            return exit_code

    def health(self) -> dict[str, Any]:
        """Its detailed health page, whatever the status; empty when it does not answer."""
        try:
            return dict(json.loads(self._page("/health/detailed")))
        except (OSError, ValueError):
            return {}

    def metrics_text(self) -> str:
        """Its metrics page. Raises ServerError when it does not answer."""
        try:
            return self._page("/metrics").decode()
        except (OSError, ValueError) as error:
            raise ServerError(f"{self.name} does not show its metrics: {error}") from error

    def save_metrics(self, path: Path) -> None:
        """Keep its metrics page in a file. Raises ServerError when it does not answer."""
        path.write_text(self.metrics_text(), encoding="utf-8")

    def log_tail(self) -> str:
        """The end of its log, for a message."""
        return self._process.log_tail()

    def log_text(self) -> str:
        """Everything it has logged, over all its starts."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def _stands_still(self) -> bool:
        """Wait until the signal has arrived: what is looked up afterwards is what the worker left. False if it died."""
        deadline = time.monotonic() + FREEZE_SECONDS_MAX
        while self.alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
                    return True
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name}, process {self.pid}, does not stop at SIGSTOP")
            time.sleep(FREEZE_POLL_SECONDS)
        return False

    def _page(self, path: str) -> bytes:
        address = f"http://{LOOPBACK}:{int(self.port_path.read_text())}{path}"
        try:
            with urllib.request.urlopen(address, timeout=PAGE_SECONDS) as page:
                return bytes(page.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.read()


class Fleet:
    """All workers of a run. Names are given in order and never used twice."""

    def __init__(self, environment: Mapping[str, str], directory: Path, module: str = "ops") -> None:
        """`environment` is the complete one of a worker's process but for its name; each gets `directory`/NAME.

        `module` names another launcher than the product's.
        """
        self.environment = dict(environment)
        self._module = module
        self.directory = directory
        self.all_workers: list[FleetWorker] = []
        self.self_ended: list[SelfEnded] = []

    @property
    def workers(self) -> list[FleetWorker]:
        """Those whose process exists now, frozen ones included."""
        return [worker for worker in self.all_workers if worker.alive]

    def start_worker(self, *agents: str) -> FleetWorker:
        """Start one more, of all agents or those named; returns before it is ready."""
        name = f"worker-{len(self.all_workers) + 1}"
        worker = FleetWorker(name, self.environment, self.directory / name, agents, self._module)
        self.all_workers.append(worker)
        worker.start()
        return worker

    def supervise(self) -> list[SelfEnded]:
        """Start again every worker that ended by itself, as a supervisor would; those found now. Call it often."""
        found = []
        for worker in list(self.all_workers):
            exit_code = worker.revive()
            if exit_code is not None:
                found.append(SelfEnded(worker.name, exit_code, time.monotonic(), worker.log_path))
        self.self_ended += found
        return found

    def wait_ready(self, timeout_seconds: float = READY_SECONDS_MAX) -> None:
        """Wait until every worker that runs has partitions, supervising meanwhile. Raises ServerError.

        Workers may outnumber the partitions of a topic: what counts is any partition of any topic.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            self.supervise()
            waiting = [worker for worker in self.workers if not worker.frozen and not worker.is_assigned]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise ServerError(f"{waiting} have no partitions after {timeout_seconds:.0f} s.{waiting[0].log_tail()}")
            time.sleep(POLL_SECONDS)

    def stop_all(self, timeout_seconds: float = STOP_SECONDS_MAX) -> None:
        """SIGTERM to all at once, so that they drain; SIGKILL for those that take longer."""
        in_parallel([functools.partial(_end, worker, timeout_seconds) for worker in self.all_workers])

    def kill_all(self) -> None:
        """SIGKILL to all."""
        for worker in self.all_workers:
            worker.kill()


def _end(worker: FleetWorker, timeout_seconds: float) -> None:
    worker.terminate(timeout_seconds)
