"""Child processes that never outlive their launcher, and loopback ports to give them."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

import psutil  # type: ignore[import-untyped, unused-ignore]  # whether or not the stubs are installed

LOOPBACK = "127.0.0.1"
# Below the range that Linux (32768) and macOS (49152) hand to outgoing connections, so that no client of the
# machine takes a port between our choice and the server's bind, or while a killed server waits for restart.
PORT_RANGE = range(20_000, 32_000)
PORT_TRIES = 200
# A server that lost the race for a port is started again with another; three races in a row mean a fault.
BIND_TRIES = 3
POLL_SECONDS = 0.05
KILL_POLL_SECONDS = 0.01
# What a killed process may need to leave the process table on a machine under load.
KILL_WAIT_SECONDS = 15.0
LOG_TAIL_BYTES = 16_384
LOG_TAIL_LINES = 25
CHILD_EXEC = Path(__file__).with_name("child_exec.py")


class ServerError(Exception):
    """A server could not be started, reached or stopped; the message says what, why and what to do."""


class ServerExitedError(ServerError):
    """The server's process ended before it was ready."""


class ServerNotReadyError(ServerError):
    """The server's process runs but did not become ready in time."""


class ServerUnreachableError(ServerError):
    """A server that somebody else runs does not answer."""


class StartCancelledError(ServerError):
    """The launcher was told to stop while the server was starting."""


@dataclass(frozen=True)
class SystemUser:
    """An operating system account a server runs as, when the launcher is root and the server refuses root."""

    name: str
    user_id: int
    group_id: int


class PortLease:
    """A loopback port, kept for one server: held by a bound socket whenever the server is not running.

    A held port is bound but not listening, so clients of a killed server see "connection refused", and nobody
    else can take the port until the server is started again.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.port = self._choose()

    def hold(self) -> None:
        """Bind the port again after its server has ended. Raises OSError if somebody else took it."""
        if self._socket is None:
            try:
                self._socket = _bound_socket(self.port, share=False)
            except OSError:
                # Connections of the dead server are in TIME_WAIT. Choosing a port never shares, so no other
                # lease can take this one.
                self._socket = _bound_socket(self.port, share=True)

    def release(self) -> None:
        """Free the port for the server that is about to bind it, or for good."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _choose(self) -> int:
        for _ in range(PORT_TRIES):
            candidate = random.choice(PORT_RANGE)
            with contextlib.suppress(OSError):
                self._socket = _bound_socket(candidate, share=False)
                return candidate
        raise ServerError(
            f"no free port found on {LOOPBACK} between {PORT_RANGE.start} and {PORT_RANGE.stop - 1} "
            f"in {PORT_TRIES} tries; something holds nearly all of them: look with `ss -ltn`"
        )


def _bound_socket(port: int, *, share: bool) -> socket.socket:
    """A socket bound to the loopback port. `share` (SO_REUSEADDR) binds beside others that say so too.

    Without it the port is ours alone: on Linux two sockets that both say it, and do not listen, get the same.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(share))
        holder.bind((LOOPBACK, port))
    except OSError:
        holder.close()
        raise
    return holder


class _Spawner:
    """Starts every child from one thread that lives as long as the process.

    Linux sends the parent-death signal when the *thread* that started the child ends, not the process; a
    server started from a short-lived worker thread would be killed as soon as that thread is done.
    """

    def __init__(self) -> None:
        self.owner_pid = os.getpid()
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="server-spawner", daemon=True).start()

    def run(self, work: Callable[[], None]) -> None:
        done: Future[None] = Future()
        self._work.put((work, done))
        done.result()

    def _run(self) -> None:
        while True:
            work, done = self._work.get()
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
                done.set_exception(error)
            else:
                done.set_result(None)
            del work, done


_spawner: _Spawner | None = None
_spawner_lock = threading.Lock()


def _the_spawner() -> _Spawner:
    global _spawner
    with _spawner_lock:
        # A forked copy of this process has the object but not the thread.
        if _spawner is None or _spawner.owner_pid != os.getpid():
            _spawner = _Spawner()
        return _spawner


class ManagedProcess:
    """One child process in a session of its own, logging to a file, gone when its launcher is gone.

    `stop` is safe at any time, from any thread, also while `start` runs in another one; a stopped object can
    be started again.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path | None,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
        run_as: SystemUser | None = None,
        output_path: Path | None = None,
    ) -> None:
        """`log_path` None lets the child write to the launcher's own stderr; `output_path` keeps its stdout apart."""
        self.name = name
        self.command = [str(part) for part in command]
        self.log_path = log_path
        self._environment = dict(environment) if environment is not None else None
        self._working_directory = working_directory
        self._run_as = run_as
        self._output_path = output_path
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._start_refused = False

    @property
    def pid(self) -> int:
        """The process id. Raises ServerError if it was never started."""
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process exists and has not ended (a frozen one counts as running)."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal, or None while running or never started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process. Raises ServerError if it is running or was told to stop meanwhile."""
        with self._lock:
            if self.is_running:
                raise ServerError(f"{self.name} is already running as process {self.pid}")
            self._start_refused = False
        _the_spawner().run(self._spawn)

    def _spawn(self) -> None:
        with self._lock, contextlib.ExitStack() as files:
            if self._start_refused:
                raise StartCancelledError(f"{self.name} was told to stop while it was starting")
            output: IO[bytes] | int | None = None
            if self.log_path is not None:
                self.log_path.parent.mkdir(parents=True, exist_ok=True)
                output = files.enter_context(_open_log(self.log_path))
            apart = files.enter_context(self._output_path.open("wb")) if self._output_path is not None else None
            user = self._run_as
            identity = (-1, -1) if user is None else (user.user_id, user.group_id)
            prefix = [sys.executable, "-I", "-S", str(CHILD_EXEC), str(os.getpid()), *map(str, identity)]
            self._process = subprocess.Popen(
                [*prefix, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=apart or output or sys.stderr.fileno(),
                stderr=output,
                env=self._environment,
                cwd=self._working_directory,
                start_new_session=True,
            )

    def wait_ready(
        self,
        check: Callable[[], bool],
        *,
        timeout_seconds: float,
        cancel: threading.Event | None = None,
    ) -> None:
        """Wait until `check` says yes.

        Raises ServerExitedError, ServerNotReadyError or StartCancelledError, the first two with the end of
        the server's log.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            if cancel is not None and cancel.is_set():
                raise StartCancelledError(f"{self.name} was told to stop while it was starting")
            if not self.is_running:
                raise ServerExitedError(
                    f"{self.name} ended with code {self.exit_code} before it was ready.{self.log_tail()}"
                )
            if check():
                return
            if time.monotonic() > deadline:
                raise ServerNotReadyError(f"{self.name} was not ready after {timeout_seconds:.0f} s.{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the process to end by itself; returns whether it did."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_success(self, *, timeout_seconds: float, cancel: threading.Event | None = None) -> None:
        """Wait for a one-shot program to end well; in every other case it is killed.

        Raises ServerError with the end of its log, or StartCancelledError.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            while not self.wait(POLL_SECONDS):
                if cancel is not None and cancel.is_set():
                    raise StartCancelledError(f"{self.name}: told to stop before it was done")
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} was not done after {timeout_seconds:.0f} s.{self.log_tail()}")
        finally:
            self.kill()
        if self.exit_code != 0:
            raise ServerError(f"{self.name} failed with code {self.exit_code}.{self.log_tail()}")

    def stop(self, grace_seconds: float = 10.0, *, first_signal: signal.Signals = signal.SIGTERM) -> None:
        """End the process: `first_signal`, then SIGKILL for it and its descendants after `grace_seconds`."""
        with self._lock:
            self._start_refused = True
            if not self.is_running:
                return
            descendants = self.descendants()
            self._signal(first_signal)
            # A frozen process would not see the first signal before it is woken.
            self._signal(signal.SIGCONT)
            if not self.wait(grace_seconds):
                self._kill_now()
            _kill_all(descendants)

    def kill(self) -> None:
        """SIGKILL for the process and all its descendants, and wait until they are gone."""
        with self._lock:
            self._start_refused = True
            if self.is_running:
                self._kill_now()

    def pause(self) -> None:
        """Freeze the process and its descendants (SIGSTOP): sockets stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        for child in self.descendants():
            _signal_quietly(child, signal.SIGSTOP)

    def resume(self) -> None:
        """Wake a frozen process and its descendants."""
        for child in self.descendants():
            _signal_quietly(child, signal.SIGCONT)
        self._signal(signal.SIGCONT)

    def descendants(self) -> list[psutil.Process]:
        """The processes that this one started, at this moment."""
        try:
            return psutil.Process(self.pid).children(recursive=True) if self.is_running else []
        except psutil.NoSuchProcess:
            return []

    def log_tail(self) -> str:
        """The end of the log for an error message, beginning with a space, or nothing."""
        if self.log_path is None or not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        return f" The end of its log {self.log_path}:\n" + "\n".join(lines)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            # Our own child and not yet reaped, so the number cannot belong to another process.
            self._process.send_signal(number)

    def _kill_now(self) -> None:
        descendants = self.descendants()
        self._signal(signal.SIGKILL)
        if not self.wait(KILL_WAIT_SECONDS):
            raise ServerError(f"{self.name}, process {self.pid}, survived SIGKILL; it may hang in the kernel")
        _kill_all(descendants)


def _open_log(path: Path) -> IO[bytes]:
    """Append to a log that only its owner may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        # psutil compares the start time first, so a recycled process id is never signalled.
        _signal_quietly(process, signal.SIGKILL)
    deadline = time.monotonic() + KILL_WAIT_SECONDS
    while any(_is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(KILL_POLL_SECONDS)


def _is_alive(process: psutil.Process) -> bool:
    """Whether it can still act: in a container nobody may reap an orphan, which stays as a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_quietly(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def in_parallel(work: Sequence[Callable[[], None]]) -> None:
    """Do everything at once, wait for all, then raise the first failure."""
    if not work:
        return
    with ThreadPoolExecutor(max_workers=len(work), thread_name_prefix="servers") as pool:
        jobs = [pool.submit(item) for item in work]
    for job in jobs:
        job.result()


def is_listening(port: int, timeout_seconds: float = 1.0) -> bool:
    """Whether something accepts connections on the loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_seconds):
            return True
    except OSError:
        return False


def python_module(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment that run a module of this repository, installed or not, wherever we stand."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return [sys.executable, "-m", module, *arguments], {**os.environ, "PYTHONPATH": path}


def redact_url(url: str) -> str:
    """The address without user, password and parameters, for people to read."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))
