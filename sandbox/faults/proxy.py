"""Put a TCP proxy in front of a server and spoil its connections on command.

    with FaultProxy(directory) as proxy:
        route = proxy.add_route("postgres", ("127.0.0.1", 5432))
        ...                    # the client connects to route.host, route.port
        route.freeze()         # nothing passes, connections stay open
        route.heal()           # what was held flows again

The forwarding is done by a process of its own (`sandbox.faults.proxy_process`), so that it costs the caller nothing
and the caller's own pauses do not look like network faults. It ends with the process that started it.
Nothing here is random: when a fault begins and ends is the caller's decision alone.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sandbox.servers.processes import BIND_TRIES, LOOPBACK, ManagedProcess, PortLease, ServerError, python_module

READY_SECONDS = 30.0
STOP_SECONDS = 2.0
CONTROL_SECONDS = 10.0
"""The proxy answers in milliseconds; one that does not answer for this long hangs."""


class FaultProxyError(ServerError):
    """The proxy is not running, or refused a command; the message says which."""


@dataclass(frozen=True, slots=True)
class RouteStats:
    """What has passed one route since it was added."""

    connections: int
    """Accepted from clients, ever."""
    open_connections: int
    """Now, frozen ones included."""
    bytes_up: int
    """From clients to the upstream."""
    bytes_down: int
    """From the upstream to clients."""
    resets: int
    """Connections that a fault has reset, refused ones included."""
    unreachable: int
    """Connections reset because the upstream itself did not accept."""


class Route:
    """One address that forwards to one server; spoil it with the verbs, undo all of them with `heal`."""

    def __init__(self, proxy: FaultProxy, name: str, upstream: tuple[str, int], listen_port: int | None) -> None:
        """Made by `FaultProxy.add_route`."""
        self._proxy = proxy
        self._lease = PortLease() if listen_port is None else None
        self._named_port = listen_port
        self.name = name
        self.upstream = upstream
        self.host = LOOPBACK

    def __repr__(self) -> str:
        return f"Route({self.name} {self.host}:{self.port} -> {self.upstream[0]}:{self.upstream[1]})"

    @property
    def port(self) -> int:
        """Where clients connect; it stays the same for the life of the proxy."""
        return self._lease.port if self._lease is not None else int(self._named_port or 0)

    def cut(self) -> None:
        """Reset every connection, and every new one at once, until `heal`."""
        self._toxic("cut")

    def freeze(self) -> None:
        """Let no byte pass either way, nor any end of a connection; all stay open, new ones are accepted."""
        self._toxic("freeze")

    def deafen(self) -> None:
        """Let bytes reach the upstream and no answer come back: what was asked for happens, and nobody is told."""
        self._toxic("deafen")

    def delay(self, seconds: float) -> None:
        """Hold every byte for `seconds`, in each direction, in order. Zero ends it."""
        self._toxic("delay", seconds=seconds)

    def reset_after_request(self) -> None:
        """Let the next bytes from a client reach the upstream, no answer back, then reset both ends. Once."""
        self._toxic("reset_after_request")

    def heal(self) -> None:
        """Forward plainly again: what was held flows, what was reset may connect, what was armed is disarmed."""
        self._toxic("heal")

    def stats(self) -> RouteStats:
        """What has passed so far."""
        return RouteStats(**self._proxy.command({"command": "stats", "route": self.name}))

    def open(self) -> None:
        """Let the running proxy listen; `FaultProxy` calls it."""
        for attempt in range(1, BIND_TRIES + 1):
            if self._lease is not None:
                self._lease.release()
            try:
                upstream_host, upstream_port = self.upstream
                self._proxy.command(
                    {
                        "command": "add",
                        "route": self.name,
                        "host": self.host,
                        "port": self.port,
                        "upstream_host": upstream_host,
                        "upstream_port": upstream_port,
                    }
                )
            except FaultProxyError as error:
                if self._lease is None or attempt == BIND_TRIES or "address already in use" not in str(error).lower():
                    raise
                self._lease = PortLease()
            else:
                return

    def _toxic(self, name: str, **parameters: float) -> None:
        self._proxy.command({"command": "toxic", "route": self.name, "toxic": name, **parameters})


class FaultProxy:
    """One proxy process with any number of routes; a context manager. Safe to use from several threads."""

    owned = True

    def __init__(self, directory: Path) -> None:
        """`directory` receives the process's log and the number of its control port."""
        self._directory = directory
        self._process: ManagedProcess | None = None
        self._control: socket.socket | None = None
        self._answers: Any = None
        self._lock = threading.RLock()
        self.routes: dict[str, Route] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process_id(self) -> int:
        """The proxy's process id. Raises FaultProxyError before the first start."""
        if self._process is None:
            raise FaultProxyError("the fault proxy was not started")
        return self._process.pid

    def describe(self) -> str:
        """One sentence: what stands before what."""
        shown = ", ".join(f"{route.name} {route.host}:{route.port}" for route in self.routes.values())
        return f"Fault proxy: {shown or 'no routes yet'}."

    def add_route(self, name: str, upstream: tuple[str, int], listen_port: int | None = None) -> Route:
        """A new route, open at once if the proxy runs, else at its start; without `listen_port` on a free port.

        The upstream need not be there yet. Raises FaultProxyError for a name twice or a port that is taken.
        """
        with self._lock:
            if name in self.routes:
                raise FaultProxyError(f"there is a route {name} already")
            route = Route(self, name, upstream, listen_port)
            if self._process is not None:
                route.open()
            self.routes[name] = route
            return route

    def start(self, *, cancel: threading.Event | None = None) -> None:
        """Start the process and open the routes added so far. Raises ServerError with the end of its log."""
        self._directory.mkdir(parents=True, exist_ok=True)
        port_file = self._directory / "proxy.port"
        port_file.unlink(missing_ok=True)
        command, environment = python_module("sandbox.faults.proxy_process", str(port_file))
        process = ManagedProcess(
            "the fault proxy", command, log_path=self._directory / "proxy.log", environment=environment
        )
        with self._lock:
            self._process = process
            process.start()
            process.wait_ready(port_file.exists, timeout_seconds=READY_SECONDS, cancel=cancel)
            self._control = socket.create_connection((LOOPBACK, int(port_file.read_text())), CONTROL_SECONDS)
            self._control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._answers = self._control.makefile("rb")
            for route in self.routes.values():
                route.open()

    def stop(self) -> None:
        """End the process and with it every connection. Safe to call twice."""
        with self._lock:
            for closable in (self._answers, self._control):
                if closable is not None:
                    with contextlib.suppress(OSError):
                        closable.close()
            self._answers = self._control = None
            if self._process is not None:
                self._process.stop(STOP_SECONDS)

    def heal_all(self) -> None:
        """Undo every fault on every route."""
        for route in list(self.routes.values()):
            route.heal()

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one command and wait for its effect. Raises FaultProxyError if it was refused or nobody answers."""
        with self._lock:
            if self._control is None or self._answers is None:
                raise FaultProxyError("the fault proxy is not running")
            try:
                self._control.sendall(json.dumps(request).encode() + b"\n")
                line = self._answers.readline()
            except OSError as error:
                raise FaultProxyError(f"the fault proxy does not answer: {error}") from error
        if not line:
            tail = self._process.log_tail() if self._process is not None else ""
            raise FaultProxyError(f"the fault proxy has ended.{tail}")
        answer = json.loads(line)
        if "error" in answer:
            raise FaultProxyError(f"the fault proxy refused {request['command']}: {answer['error']}")
        return dict(answer)
