"""The process behind `sandbox.faults.proxy`: forwards TCP connections and spoils them when told.

    python -m sandbox.faults.proxy_process PORT_FILE

It writes the number of its control port (loopback) to PORT_FILE. A command is one line of JSON, its answer another:

    {"command": "add", "route": "db", "host": "127.0.0.1", "port": 25432,
     "upstream_host": "127.0.0.1", "upstream_port": 5432}
    {"command": "toxic", "route": "db", "toxic": "freeze"}
    {"command": "stats", "route": "db"}

A connection is a `Link` with two `Direction`s. What travels in a direction, bytes, the end of the stream or a reset,
keeps its order. A direction that may not flow holds at most `HELD_BYTES_MAX` and then stops reading, so that the
sender feels it as he would feel a network that delivers nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import socket
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, cast

import uvloop

from sandbox.servers.processes import LOOPBACK

HELD_BYTES_MAX = 1 << 20
"""Held for each direction of a connection, above what the operating system holds: a delayed line's throughput."""
WRITE_BUFFER_BYTES_MAX = 256 << 10
"""Accepted and not yet taken by the receiver; then its sender is not read any more."""
CONNECT_SECONDS = 10.0
"""A frozen upstream accepts by its backlog; only a full one lets a connection wait."""
LISTEN_BACKLOG = 512
"""Every worker's pools come back at once after a cut."""
DRAIN_POLL_SECONDS = 0.001
DRAIN_POLLS_MAX = 1000
"""How long an armed reset waits for its request to leave: a second, when the upstream does not read."""
CONTROL_LINE_BYTES_MAX = 64 << 10
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing sends RST."""


class Mode(Enum):
    """What a route does with everything that passes."""

    FORWARD = "heal"
    CUT = "cut"
    FROZEN = "freeze"
    DEAF = "deafen"


class Mark(Enum):
    """What travels beside bytes."""

    END = "the sender will send no more"
    RESET = "the sender is gone"


class Direction:
    """One way of one connection: what came in, in order, until it may and can go out."""

    def __init__(self, link: Link, *, up: bool) -> None:
        self._link = link
        self._up = up
        self._held: deque[tuple[float, bytes | Mark]] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        self._source_ended = False
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.sink_is_full = False
        self.ended = False

    @property
    def _blocked(self) -> bool:
        return self.sink is None or self._link.blocks(up=self._up)

    def feed(self, item: bytes | Mark) -> None:
        """Take what the source sent; forward it now if nothing stands in its way."""
        route = self._link.route
        # It is read, evidently: the library starts reading after `connection_made`, whatever was said in there.
        self._reading = True
        self._source_ended = self._source_ended or not isinstance(item, bytes)
        if not self._held and not self._blocked and not route.delay_seconds:
            self._emit(item)
        else:
            self._held.append((route.now() + route.delay_seconds, item))
            self._held_bytes += len(item) if isinstance(item, bytes) else 0
            self.flow()
        self.adjust_reading()

    def flow(self) -> None:
        """Forward what is held, due and allowed; come back for what is due later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held and not self._blocked:
            due, item = self._held[0]
            if due > self._link.route.now() and self._link.route.delay_seconds:
                self._timer = self._link.route.loop.call_at(due, self.flow)
                break
            self._held.popleft()
            self._held_bytes -= len(item) if isinstance(item, bytes) else 0
            self._emit(item)
        self.adjust_reading()

    def adjust_reading(self) -> None:
        """Read from the source exactly while there is room for what it sends."""
        want = not self._blocked and not self.sink_is_full and self._held_bytes < HELD_BYTES_MAX
        source = self.source
        if source is None or source.is_closing() or self._source_ended or want == self._reading:
            return
        self._reading = want
        if want:
            source.resume_reading()
        else:
            source.pause_reading()

    def drop(self) -> None:
        """Forget what is held; the receiver is gone."""
        self._held.clear()
        self._held_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _emit(self, item: bytes | Mark) -> None:
        sink = self.sink
        if sink is None or sink.is_closing():
            return
        if isinstance(item, bytes):
            self._link.route.count(len(item), up=self._up)
            sink.write(item)
            if self._up:
                self._link.request_has_passed()
        elif item is Mark.END:
            self.ended = True
            self._link.end_of(self)
        else:
            reset(sink)


class Link:
    """One connection of a client, and the one to the upstream that it stands for."""

    def __init__(self, route: RouteServer) -> None:
        self.route = route
        self.up = Direction(self, up=True)
        self.down = Direction(self, up=False)
        self._connecting: asyncio.Task[None] | None = None
        self._doomed = False
        self._open_ends = 0

    def blocks(self, *, up: bool) -> bool:
        """Whether this direction may not flow."""
        if self._doomed:
            return True
        return self.route.mode is Mode.FROZEN or (self.route.mode is Mode.DEAF and not up)

    def opened(self, transport: asyncio.Transport, *, by_client: bool) -> None:
        """One of the two connections stands."""
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self._open_ends += 1
        if by_client:
            self.route.links.add(self)
            self.up.source = self.down.sink = transport
            if self.route.mode is Mode.CUT:
                self.reset()
                return
        else:
            self.down.source = self.up.sink = transport
            if self not in self.route.links:  # the client left, or was cut, meanwhile
                reset(transport)
                return
        self.adjust()

    def lost(self, *, by_client: bool, error: Exception | None) -> None:
        """One of the two connections is gone: the other one hears of it when what was sent before has passed."""
        self._open_ends -= 1
        outgoing, incoming = (self.up, self.down) if by_client else (self.down, self.up)
        outgoing.source = None
        incoming.sink = None
        incoming.drop()
        if not self._open_ends:
            self.close()
        elif error is not None or not outgoing.ended:
            outgoing.feed(Mark.RESET)

    def adjust(self) -> None:
        """Do what the route's present mode allows."""
        if self.route.mode is not Mode.FROZEN and self.up.sink is None and self._connecting is None:
            self._connecting = self.route.loop.create_task(self._connect())
        for direction in (self.up, self.down):
            direction.flow()

    def end_of(self, direction: Direction) -> None:
        """Pass on that no more bytes come this way; when none come the other way either, close both."""
        if self.up.ended and self.down.ended:
            for transport in (self.up.sink, self.down.sink):
                if transport is not None:
                    transport.close()
        elif direction.sink is not None:
            direction.sink.write_eof()

    def request_has_passed(self) -> None:
        """If a reset is armed, this was the request: no answer comes back, and both ends go when it has left."""
        if self.route.resets_armed and not self._doomed:
            self.route.resets_armed -= 1
            self._doomed = True
            self.adjust_reading()
            self._reset_when_sent(DRAIN_POLLS_MAX)

    def adjust_reading(self) -> None:
        """Stop or start reading on both sides."""
        self.up.adjust_reading()
        self.down.adjust_reading()

    def reset(self) -> None:
        """Reset both connections now, as a cut line does for those who use it."""
        self.route.resets += 1
        for transport in (self.up.source, self.up.sink):
            if transport is not None:
                reset(transport)
        self.close()

    def close(self) -> None:
        """Forget the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.up.drop()
        self.down.drop()
        self.route.links.discard(self)

    async def _connect(self) -> None:
        """Connect to the upstream; a client whose upstream does not accept is reset."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.route.loop.create_connection(
                    lambda: End(self, by_client=False), self.route.upstream_host, self.route.upstream_port
                )
        except OSError:
            self.route.unreachable += 1
            if self.up.source is not None:
                reset(self.up.source)

    def _reset_when_sent(self, polls_left: int) -> None:
        # The library writes at the end of the loop's turn at the earliest; a reset now would take the request back.
        unsent = self.up.sink is not None and has_unsent(self.up.sink)
        if polls_left == DRAIN_POLLS_MAX or (unsent and polls_left):
            self.route.loop.call_later(DRAIN_POLL_SECONDS, self._reset_when_sent, polls_left - 1)
        elif self in self.route.links:
            self.reset()


class End(asyncio.Protocol):
    """One end of a link, as the event loop sees it."""

    def __init__(self, link: Link, *, by_client: bool) -> None:
        self._link = link
        self._by_client = by_client
        self._sent_by_me, self._sent_to_me = (link.up, link.down) if by_client else (link.down, link.up)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._by_client:
            self._link.route.connections += 1
        self._link.opened(cast("asyncio.Transport", transport), by_client=self._by_client)

    def data_received(self, data: bytes) -> None:
        self._sent_by_me.feed(data)

    def eof_received(self) -> bool:
        self._sent_by_me.feed(Mark.END)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost(by_client=self._by_client, error=exc)

    def pause_writing(self) -> None:
        self._sent_to_me.sink_is_full = True
        self._sent_to_me.adjust_reading()

    def resume_writing(self) -> None:
        self._sent_to_me.sink_is_full = False
        self._sent_to_me.adjust_reading()


class RouteServer:
    """One listening address, its upstream, its connections and what is wrong with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, upstream_host: str, upstream_port: int) -> None:
        self.loop = loop
        self.now: Callable[[], float] = loop.time
        self.upstream_host = upstream_host
        self.upstream_port = upstream_port
        self.mode = Mode.FORWARD
        self.delay_seconds = 0.0
        self.resets_armed = 0
        self.links: set[Link] = set()
        self.connections = self.bytes_up = self.bytes_down = self.resets = self.unreachable = 0
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Accept clients. Raises OSError when the port is taken."""
        self._server = await self.loop.create_server(
            lambda: End(Link(self), by_client=True), host, port, backlog=LISTEN_BACKLOG, reuse_address=True
        )

    def spoil(self, toxic: str, seconds: float) -> None:
        """Apply a toxic, or heal. Raises ValueError for one that does not exist."""
        if toxic == "delay":
            self.delay_seconds = max(0.0, seconds)
        elif toxic == "reset_after_request":
            self.resets_armed = 1
        else:
            self._enter(Mode(toxic))
        for link in list(self.links):
            link.adjust()

    def count(self, size: int, *, up: bool) -> None:
        """Count bytes that are on their way out."""
        if up:
            self.bytes_up += size
        else:
            self.bytes_down += size

    def stats(self) -> dict[str, int]:
        """The fields of `sandbox.faults.proxy.RouteStats`."""
        return {
            "connections": self.connections,
            "open_connections": len(self.links),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "resets": self.resets,
            "unreachable": self.unreachable,
        }

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        if mode is Mode.FORWARD:
            self.delay_seconds, self.resets_armed = 0.0, 0
        if mode is Mode.CUT:
            for link in list(self.links):
                link.reset()


class Control:
    """Carries out commands, one at a time, each complete before its answer."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteServer] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One controller's connection."""
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                try:
                    answer = await self._carry_out(json.loads(line))
                except (OSError, ValueError, KeyError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()

    async def _carry_out(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["route"]
        if request["command"] == "add":
            route = RouteServer(asyncio.get_running_loop(), request["upstream_host"], request["upstream_port"])
            await route.listen(request["host"], request["port"])
            self._routes[name] = route
            return {}
        if request["command"] == "toxic":
            self._routes[name].spoil(request["toxic"], float(request.get("seconds", 0.0)))
            return {}
        if request["command"] == "stats":
            return dict(self._routes[name].stats())
        raise ValueError(f"no such command: {request['command']}")


def reset(transport: asyncio.Transport) -> None:
    """Close a connection so that its peer sees a reset, not an orderly end."""
    if transport.is_closing():
        return
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()


def has_unsent(transport: asyncio.Transport) -> bool:
    """Whether bytes that were written have not arrived at the peer's machine: a reset would throw them away."""
    if transport.is_closing():
        return False
    if transport.get_write_buffer_size():
        return True
    count = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder) > 0


async def run(port_file: Path) -> None:
    """Serve the control port until the process is ended."""
    server = await asyncio.start_server(Control().serve, LOOPBACK, 0, limit=CONTROL_LINE_BYTES_MAX)
    partial = port_file.with_suffix(".partial")
    partial.write_text(str(server.sockets[0].getsockname()[1]))
    partial.rename(port_file)  # complete or not there at all
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(run(Path(sys.argv[1])))
