"""The fault proxy does to connections what its names say, and nothing else.

Every proof of the fault suite rests on it: a cut that is none would prove a promise that nobody keeps.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.faults.proxy import FaultProxy, FaultProxyError, Route
from sandbox.servers.processes import PortLease

ANSWER_SECONDS = 10.0
SILENCE_SECONDS = 0.3
"""How long nothing may arrive before we say that nothing arrives; a healthy answer takes a millisecond."""
MEGABYTE = 1 << 20


@dataclass
class Echo:
    """A server that keeps what it receives and sends it back, unless `mute`; a `deaf_reader` does not even read."""

    address: tuple[str, int]
    received: list[bytes] = field(default_factory=list)
    resets: int = 0
    deaf_reader: bool = False
    mute: bool = False

    def text(self) -> bytes:
        return b"".join(self.received)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    echo: Echo


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        echo = self.server.echo
        while echo.deaf_reader:
            time.sleep(0.01)
        try:
            while data := self.request.recv(65536):
                echo.received.append(data)
                if not echo.mute:
                    self.request.sendall(data)
        except (ConnectionResetError, BrokenPipeError):
            echo.resets += 1


@contextlib.contextmanager
def echo_server(port: int = 0) -> Iterator[Echo]:
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.echo = Echo(("127.0.0.1", int(server.server_address[1])))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server.echo
        finally:
            server.echo.deaf_reader = False
            server.shutdown()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    with FaultProxy(tmp_path_factory.mktemp("proxy")) as running:
        yield running


@pytest.fixture
def echo() -> Iterator[Echo]:
    with echo_server() as server:
        yield server


@pytest.fixture
def route(proxy: FaultProxy, echo: Echo, request: pytest.FixtureRequest) -> Iterator[Route]:
    made = proxy.add_route(request.node.name, echo.address)
    yield made
    made.cut()


def client(route: Route) -> socket.socket:
    connection = socket.create_connection((route.host, route.port), ANSWER_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            break
        found += part
    return found


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE_SECONDS)
    try:
        return connection.recv(1, socket.MSG_PEEK) is None
    except TimeoutError:
        return True
    finally:
        connection.settimeout(ANSWER_SECONDS)


def until(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while not check():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def assert_is_reset(connection: socket.socket) -> None:
    try:
        while connection.recv(65536):
            pass
    except (ConnectionResetError, BrokenPipeError):
        return
    pytest.fail("an orderly end instead of a reset")


def assert_echoes(connection: socket.socket, text: bytes = b"still there") -> None:
    connection.sendall(text)
    assert read(connection, len(text)) == text


def test_a_healthy_route_changes_no_byte_and_keeps_half_closed_connections(route: Route, echo: Echo) -> None:
    """P2 rests on it: the proxy itself must never lose or alter what passes. Ends of one direction pass alone."""
    sent = hashlib.sha256(b"seed").digest() * (8 * MEGABYTE // 32)
    with client(route) as connection:

        def send() -> None:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        back = read(connection, len(sent) + 1)
        sender.join(ANSWER_SECONDS)
    assert hashlib.sha256(back).digest() == hashlib.sha256(sent).digest()
    assert echo.text() == sent
    until(lambda: route.stats().open_connections == 0)
    stats = route.stats()
    assert (stats.connections, stats.bytes_up, stats.bytes_down) == (1, len(sent), len(sent))
    assert stats.resets == stats.unreachable == 0


def test_a_cut_resets_what_is_there_and_what_comes_until_it_is_healed(route: Route, echo: Echo) -> None:
    """P8: workers meet dead connections, not slow ones, and the server hears of it too."""
    with client(route) as connection:
        assert_echoes(connection)
        route.cut()
        assert_is_reset(connection)
    until(lambda: echo.resets == 1)
    with contextlib.suppress(ConnectionResetError), client(route) as refused:
        assert_is_reset(refused)
    assert route.stats().resets == 2
    route.heal()
    with client(route) as connection:
        assert_echoes(connection)


def test_frozen_connections_stay_open_and_nothing_passes_until_they_are_healed(route: Route, echo: Echo) -> None:
    """P8, half-open connections: no byte and no end passes either way; afterwards everything does, in order."""
    with client(route) as old:
        assert_echoes(old, b"before ")
        route.freeze()
        old.sendall(b"during ")
        old.shutdown(socket.SHUT_WR)
        with client(route) as new:
            new.sendall(b"new")
            assert is_silent(old)
            assert is_silent(new)
            assert echo.text() == b"before "
            route.heal()
            assert read(old, 100) == b"during "
            assert read(new, 3) == b"new"
    assert route.stats().resets == 0


def test_a_frozen_route_keeps_answers_that_are_on_their_way(route: Route, echo: Echo) -> None:
    """P3: not only requests stop; an answer that the server has given already does not arrive either."""
    with client(route) as connection:
        route.deafen()
        connection.sendall(b"pay")
        until(lambda: echo.text() == b"pay")
        route.freeze()
        assert is_silent(connection)
        route.heal()
        assert read(connection, 3) == b"pay"


def test_a_deaf_route_delivers_requests_and_keeps_the_answers(route: Route, echo: Echo) -> None:
    """P3: the effect happens and its outcome is unknown; a late answer may still come."""
    with client(route) as connection:
        assert_echoes(connection, b"before ")
        route.deafen()
        connection.sendall(b"pay")
        until(lambda: echo.text() == b"before pay")
        assert is_silent(connection)
        route.heal()
        assert read(connection, 3) == b"pay"


def test_one_who_gives_up_on_a_deaf_route_is_seen_to_leave(route: Route, echo: Echo) -> None:
    """P3: a client that aborts after its time-out ends its connection at the server too, not only at the proxy."""
    connection = client(route)
    route.deafen()
    connection.sendall(b"pay")
    until(lambda: echo.text() == b"pay")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    until(lambda: echo.resets == 1)
    until(lambda: route.stats().open_connections == 0)


def test_a_delay_holds_each_direction_and_keeps_the_order(route: Route) -> None:
    """S7: a slow line is slow, nothing else; ending the delay lets everything through."""
    with client(route) as connection:
        route.delay(0.2)
        began = time.monotonic()
        for part in (b"one ", b"two ", b"three"):
            connection.sendall(part)
        assert read(connection, 13) == b"one two three"
        took_seconds = time.monotonic() - began
        assert 0.4 <= took_seconds < 0.4 + ANSWER_SECONDS
        route.delay(60)
        connection.sendall(b"held")
        assert is_silent(connection)
        route.heal()
        assert read(connection, 4) == b"held"


def test_an_armed_reset_lets_the_request_through_and_no_answer_back(route: Route, echo: Echo) -> None:
    """L4: the commit arrives, its answer does not, the connection is gone; once, and for one connection."""
    with client(route) as victim, client(route) as other:
        assert_echoes(victim, b"begin ")
        assert_echoes(other, b"other ")
        route.reset_after_request()
        victim.sendall(b"commit")
        assert_is_reset(victim)
        until(lambda: echo.text() == b"begin other commit")
        until(lambda: route.stats().resets == 1)
        assert_echoes(other)
    assert route.stats().resets == 1


def test_an_armed_reset_lets_a_whole_large_request_through_first(route: Route, echo: Echo) -> None:
    """L4: bytes that were passed have arrived at the server before the reset does."""
    with client(route) as connection:
        assert_echoes(connection, b"x")
        route.reset_after_request()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(b"y" * 64 * MEGABYTE)
    until(lambda: len(echo.text()) == route.stats().bytes_up)
    assert len(echo.text()) > 1


def test_an_armed_reset_waits_until_a_slow_server_has_taken_the_request(route: Route, echo: Echo) -> None:
    """L4: what waits at the proxy for a busy server arrives before the reset; a cut would have thrown it away."""
    echo.deaf_reader = echo.mute = True
    with client(route) as connection:
        _send_until_it_stops(connection)
        route.reset_after_request()
        echo.deaf_reader = False
        connection.settimeout(ANSWER_SECONDS)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(b"z" * 64 * MEGABYTE)
    until(lambda: echo.resets == 1)
    assert route.stats().resets == 1
    assert len(echo.text()) == route.stats().bytes_up


def test_a_cut_does_not_wait_for_a_server_that_does_not_read(route: Route, echo: Echo) -> None:
    """P8: bytes that are stuck at the proxy are lost with the connection, at once."""
    echo.deaf_reader = echo.mute = True
    with client(route) as connection:
        _send_until_it_stops(connection)
        route.cut()
        until(lambda: route.stats().open_connections == 0)
        echo.deaf_reader = False
        until(lambda: echo.resets == 1)
    assert len(echo.text()) < route.stats().bytes_up


def test_a_server_that_does_not_read_stops_the_sender_and_fills_no_memory(proxy: FaultProxy, echo: Echo) -> None:
    """P8: buffers are bounded; the sender feels the receiver, as it would without a proxy."""
    _assert_sender_stops(proxy, proxy.add_route("does-not-read", echo.address), echo, lambda _: None)


def test_a_frozen_route_stops_the_sender_and_fills_no_memory(proxy: FaultProxy, echo: Echo) -> None:
    """P8: a long freeze under load costs nothing but time."""
    _assert_sender_stops(proxy, proxy.add_route("frozen", echo.address), echo, Route.freeze)


def test_a_connection_that_begins_on_a_frozen_route_stops_its_sender_too(route: Route) -> None:
    """P8: what reconnects during a freeze is accepted, not read, and served when the freeze ends."""
    route.freeze()
    with client(route) as connection:
        until(lambda: route.stats().open_connections == 1)
        assert _send_until_it_stops(connection) < 50 * MEGABYTE
        route.heal()
        connection.settimeout(ANSWER_SECONDS)
        assert read(connection, MEGABYTE) == b"z" * MEGABYTE


def test_a_delayed_route_stops_the_sender_and_fills_no_memory(proxy: FaultProxy, echo: Echo) -> None:
    """P8: what a slow line holds is bounded."""
    _assert_sender_stops(proxy, proxy.add_route("delayed", echo.address), echo, lambda route: route.delay(300))


def _assert_sender_stops(proxy: FaultProxy, route: Route, echo: Echo, spoil: Callable[[Route], None]) -> None:
    echo.deaf_reader = True
    process = psutil.Process(proxy.process_id)
    with client(route) as connection:
        until(lambda: route.stats().open_connections == 1)
        spoil(route)
        before = process.memory_info().rss
        accepted = _send_until_it_stops(connection)
        # Buffers of two loopback connections, some MB each, and ours.
        assert accepted < 50 * MEGABYTE
        assert process.memory_info().rss - before < 20 * MEGABYTE
    route.cut()


def _send_until_it_stops(connection: socket.socket) -> int:
    """Fill everything between us and a receiver that does not read; how much that took, at most 200 MB."""
    connection.settimeout(SILENCE_SECONDS)
    accepted = 0
    with contextlib.suppress(TimeoutError):
        while accepted < 200 * MEGABYTE:
            accepted += connection.send(b"z" * MEGABYTE)
    return accepted


def test_an_upstream_that_is_not_there_is_a_reset_and_the_route_serves_when_it_is_back(proxy: FaultProxy) -> None:
    """P8: a killed server behind the proxy looks dead, and its restart on the same port is found."""
    lease = PortLease()
    route = proxy.add_route("not-there", ("127.0.0.1", lease.port))
    with contextlib.suppress(ConnectionResetError), client(route) as connection:
        assert_is_reset(connection)
    until(lambda: route.stats().unreachable == 1)
    lease.release()
    with echo_server(lease.port), client(route) as connection:
        assert_echoes(connection)


def test_a_freeze_that_ends_in_a_cut_resets_what_was_held(route: Route, echo: Echo) -> None:
    """P8: faults follow each other without a heal between them."""
    with client(route) as connection:
        assert_echoes(connection, b"before ")
        route.freeze()
        connection.sendall(b"lost")
        assert is_silent(connection)
        route.cut()
        assert_is_reset(connection)
    assert echo.text() == b"before "


def test_names_and_ports_are_used_once(proxy: FaultProxy, echo: Echo) -> None:
    """A route that silently took over another's address would spoil the wrong server."""
    first = proxy.add_route("once", echo.address)
    with pytest.raises(FaultProxyError, match="already"):
        proxy.add_route("once", echo.address)
    with pytest.raises(FaultProxyError, match="in use"):
        proxy.add_route("same-port", echo.address, first.port)
    assert "same-port" not in proxy.routes


def test_an_ended_proxy_says_so_and_starts_again_on_the_same_ports(tmp_path: Path, echo: Echo) -> None:
    """A proxy that died must not be mistaken for a fault that was made."""
    proxy = FaultProxy(tmp_path)
    route = proxy.add_route("early", echo.address)
    with pytest.raises(FaultProxyError, match="not running"):
        route.cut()
    with proxy:
        with client(route) as connection:
            assert_echoes(connection)
        psutil.Process(proxy.process_id).kill()
        with pytest.raises(FaultProxyError, match=r"has ended|does not answer"):
            route.cut()
    with proxy, client(route) as connection:
        assert_echoes(connection)


SPOIL: dict[str, Callable[[Route], None]] = {
    "freeze": Route.freeze,
    "deafen": Route.deafen,
    "delay": lambda route: route.delay(0.002),
    "heal": Route.heal,
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(st.sampled_from(sorted(SPOIL)), st.binary(min_size=1, max_size=5000), st.integers(1, 300_000)),
        max_size=25,
    )
)
def test_whatever_is_held_and_healed_the_stream_is_whole(route: Route, steps: list[str | bytes | int]) -> None:
    """P2: freezing, deafening and delaying in any order loses, repeats and reorders nothing (K3's streams too)."""
    sent = b""
    with client(route) as connection:
        for step in steps:
            if isinstance(step, str):
                SPOIL[step](route)
            else:
                data = step if isinstance(step, bytes) else bytes(i % 251 for i in range(step % 997)) * (step // 997)
                sent += data
                sender = threading.Thread(target=connection.sendall, args=(data,))
                sender.start()
                sender.join(0.01)  # a blocked one goes on after the heal below
                if sender.is_alive():
                    route.heal()
                    sender.join(ANSWER_SECONDS)
        route.heal()
        connection.shutdown(socket.SHUT_WR)
        assert read(connection, len(sent) + 1) == sent
