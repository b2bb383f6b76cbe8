"""Forks workers from one process that has imported everything: 0.1 s for a start instead of 2 s of computing.

    python -m sandbox.sweep.nursery SOCKET        started by `Nursery`, one conversation, ends with it

The process that forks has one thread, no event loop and no client: what a worker needs it makes after the fork. Each
child is a process of its own with a session of its own, and dies with the nursery.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from sandbox.servers.child_exec import EXIT_PARENT_GONE, PR_SET_PDEATHSIG
from sandbox.servers.processes import ManagedProcess, ServerError, python_module
from sandbox.sweep.channel import CHUNK_BYTES, Channel

READY_SECONDS: Final = 60.0
EXIT_FAILED: Final = 1


class Nursery:
    """The launcher's end. Safe to use from many threads."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "nursery.sock"
        command, environment = python_module("sandbox.sweep.nursery", str(self._path))
        log_path = directory / "nursery.log"
        self._process = ManagedProcess("the nursery", command, log_path=log_path, environment=environment)
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start it and wait until it can fork. Raises ServerError."""
        self._process.start()
        self._process.wait_ready(self._connect, timeout_seconds=READY_SECONDS)

    def stop(self) -> None:
        """Kill it, and every worker that it made."""
        self._process.kill()
        if self._socket is not None:
            self._socket.close()

    def worker(self, environment: Mapping[str, str], log_path: Path) -> NurseryWorker:
        """Start a worker with exactly this environment. Raises ServerError."""
        ours, theirs = socket.socketpair()
        with theirs:
            answer = self._ask({"start": dict(environment), "log": str(log_path)}, [theirs.fileno()])
        return NurseryWorker(int(answer["pid"]), Channel(ours), self)

    def exit_code(self, pid: int) -> int | None:
        """How a worker ended, negative for a signal; None while it lives."""
        code = self._ask({"status": pid})["exit"]
        return None if code is None else int(code)

    def _connect(self) -> bool:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            return False
        self._socket = connection
        return True

    def _ask(self, question: Mapping[str, Any], handles: list[int] | None = None) -> dict[str, Any]:
        with self._lock:
            if self._socket is None:
                raise ServerError("the nursery was not started")
            data = json.dumps(question).encode() + b"\n"
            try:
                sent = socket.send_fds(self._socket, [data], handles or [])
                self._socket.sendall(data[sent:])
                return dict(json.loads(_line(self._socket)[0]))
            except (OSError, ValueError) as error:
                raise ServerError(f"the nursery does not answer: {error}.{self._process.log_tail()}") from error


class NurseryWorker:
    """One worker process."""

    def __init__(self, pid: int, channel: Channel, nursery: Nursery) -> None:
        self.pid = pid
        self.channel = channel
        self._nursery = nursery

    def kill(self) -> None:
        """SIGKILL. Its number is its own until the nursery was asked how it ended."""
        if self._nursery.exit_code(self.pid) is None:
            os.kill(self.pid, signal.SIGKILL)
        self.channel.close()

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it lives."""
        return self._nursery.exit_code(self.pid)


def _line(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One line and the handles that came with it; an empty line: the other side is gone."""
    data, handles, _, _ = socket.recv_fds(connection, CHUNK_BYTES, 1)
    while data and not data.endswith(b"\n"):
        more = connection.recv(CHUNK_BYTES)
        if not more:
            return b"", handles
        data += more
    return data, handles


def serve(path: Path) -> None:
    """Fork on request until the launcher is gone."""
    import sandbox.sweep.launcher as _  # noqa: F401 - everything that a worker imports, once

    gc.freeze()  # children share these pages for as long as nobody walks through them
    exits: dict[int, int] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(1)
        connection, _address = listening.accept()
    with connection:
        while True:
            data, handles = _line(connection)
            if not data:
                return
            answer = _answered(json.loads(data), handles, exits, connection)
            connection.sendall(json.dumps(answer).encode() + b"\n")


def _answered(
    question: Mapping[str, Any], handles: list[int], exits: dict[int, int], connection: socket.socket
) -> dict[str, Any]:
    if "start" in question:
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            connection.close()
            _be_a_worker(question["start"], Path(question["log"]), handles[0], parent_pid)
        os.close(handles[0])
        return {"pid": pid}
    pid = int(question["status"])
    if pid not in exits:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            exits[pid] = os.waitstatus_to_exitcode(status)
    return {"exit": exits.get(pid)}


def _be_a_worker(environment: Mapping[str, str], log_path: Path, control: int, parent_pid: int) -> NoReturn:
    """Never returns into the nursery's loop, whatever happens."""
    code = EXIT_FAILED
    try:
        os.setsid()
        _die_with(parent_pid)
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        from sandbox.sweep import launcher  # imported before the fork

        launcher.work(environment, socket.socket(fileno=control))
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else EXIT_FAILED
    except BaseException:  # noqa: BLE001 - the log is the only place left to say it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_with(parent_pid: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(EXIT_PARENT_GONE)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
