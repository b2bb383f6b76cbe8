"""S4, S7, L3, S1-14, B5: what the connections themselves promise, beside what the client says about each failure."""

import asyncio
import gzip
import json
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvloop

from processors.secrets import Secret
from processors.visa.aiohttp_transport import BEFORE_SENDING, AiohttpTransport
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.requests import VisaRequest, push_funds_again, status
from processors.visa.transport import VisaConnection, VisaDirectClient
from tests.unit.visa.visa_testbed import Pki, Received, answering, read_request, reply, tls_server

PLENTY_SECONDS = 30.0
LARGE_BYTES = 16 * 1024 * 1024
"""More than the buffers of both ends of a loopback connection hold."""
MARK = "x-mark"

both_loops = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
Loops = Callable[[], asyncio.AbstractEventLoop]


def run(loop_factory: Loops, story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(story)


def push(number: int = 1, body: bytes = b'{"amount":1}') -> VisaRequest:
    return push_funds_again(body, payout_id=f"payout-{number:04}", correlation_id=f"corr-{number}")


def client(pki: Pki, port: int, **changes: Any) -> VisaDirectClient:
    settings: dict[str, Any] = {
        "base_url": f"https://127.0.0.1:{port}", "user_id": "user-1", "password": Secret("basic-pass-word"),
        "client_certificate_path": pki.path("client.pem"), "client_key_path": pki.path("client.key"),
        "ca_path": pki.path("ca.pem"),
    }  # fmt: skip
    return VisaDirectClient(VisaConnection(**{**settings, **changes}))


def plain_client(pki: Pki, port: int, **settings: Any) -> httpx.AsyncClient:
    """httpx on one connection of ours, and nothing of the client's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pki.path("ca.pem"))
    context.load_cert_chain(pki.path("client.pem"), pki.path("client.key"))
    transport = AiohttpTransport(context, max_connections=1, keepalive_expiry_seconds=PLENTY_SECONDS)
    base_url = f"https://127.0.0.1:{port}"
    return httpx.AsyncClient(transport=transport, base_url=base_url, timeout=2 * PLENTY_SECONDS, **settings)


async def send(visa: VisaDirectClient, request: VisaRequest | None = None) -> Exchange:
    return await visa.send(request or push(), Deadline.after(PLENTY_SECONDS))


def answer(number: int) -> bytes:
    return json.dumps({"actionCode": "00", "transactionIdentifier": number}).encode()


def number_in(exchange: Exchange) -> int:
    assert isinstance(exchange, Answered), exchange
    assert isinstance(exchange.body, dict)
    return int(exchange.body["transactionIdentifier"])


# --- an answer belongs to its request -----------------------------------------------------------------------------


class Numbering:
    """Answers every request with its number, and says the first answer again when told to."""

    def __init__(self) -> None:
        self.requests = 0
        self.first: asyncio.StreamWriter | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        self.first = self.first or writer
        while await read_request(reader, seen):
            self.requests += 1
            writer.write(reply(200, answer(self.requests)))
            await writer.drain()

    def say_again(self) -> None:
        assert self.first is not None
        self.first.write(reply(200, answer(1)))


@both_loops
@pytest.mark.parametrize("noticed", [True, False])
def test_an_answer_that_comes_again_is_not_the_next_ones(pki: Pki, loop_factory: Loops, noticed: bool) -> None:
    """P2, P3: a second approval on an idle connection must never be taken for the answer to another payment, whether
    the event loop has read it or it waits in the system."""

    async def story() -> None:
        server = Numbering()
        async with tls_server(pki, server) as (port, seen), client(pki, port) as visa:
            assert number_in(await send(visa)) == 1
            [idle] = idle_protocols(visa)
            server.say_again()
            if noticed:
                await until(lambda: bool(idle._buffer))
            else:
                # The event loop does not turn between this and the next call's choice of a connection.
                descriptor = idle.transport.get_extra_info("socket").fileno()
                assert select.select([descriptor], [], [], PLENTY_SECONDS)[0]
            assert number_in(await send(visa, push(2))) == 2
        assert len(seen.connections) == 2, "the connection that spoke unasked is not used"

    run(loop_factory, story())


def idle_protocols(visa: VisaDirectClient) -> list[Any]:
    session: Any = visa._client._transport._session  # type: ignore[attr-defined]
    return [protocol for kept in session.connector._conns.values() for protocol, _ in kept]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PLENTY_SECONDS):
        while not holds():  # noqa: ASYNC110 - of a library's, which tells nobody
            await asyncio.sleep(0.001)


@both_loops
def test_a_connection_that_the_server_has_closed_is_not_used(pki: Pki, loop_factory: Loops) -> None:
    """S4: an idle connection closed by the server must not make the next call ambiguous."""

    async def story() -> None:
        closed: asyncio.Queue[None] = asyncio.Queue()

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
            await read_request(reader, seen)
            writer.write(reply(200, answer(1)))
            await writer.drain()
            writer.close()
            closed.put_nowait(None)

        async with tls_server(pki, behave) as (port, seen), client(pki, port, max_connections=1) as visa:
            for _ in range(3):
                assert number_in(await send(visa)) == 1
                await closed.get()
        assert len(seen.connections) == 3

    run(loop_factory, story())


async def test_calls_at_once_get_their_own_answers(pki: Pki) -> None:
    """S1-14, B5: 200 at once over 50 connections: each answer goes to its caller, no connection more is made."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        while request := await read_request(reader, seen):
            number = int(request.split(b"corr-", 1)[1].split(b"\r\n", 1)[0])
            await asyncio.sleep(0)
            writer.write(reply(200, answer(number)))
            await writer.drain()

    settings = {"max_connections": 50, "pool_timeout_seconds": PLENTY_SECONDS}
    async with tls_server(pki, behave) as (port, seen), client(pki, port, **settings) as visa:
        exchanges = await asyncio.gather(*(send(visa, push(number)) for number in range(200)))
    assert [number_in(exchange) for exchange in exchanges] == list(range(200))
    assert len(seen.connections) <= 50


# --- nothing is made twice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [push(), status("id_1", correlation_id="corr-1")], ids=["push", "question"])
async def test_no_request_is_made_twice_inside_a_call(pki: Pki, request_: VisaRequest) -> None:
    """S7: the connection is lost after a request on a kept connection; what to do next is the schedule's to say."""
    heads: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        while request := await read_request(reader, seen):
            heads.append(request)
            if len(heads) == 2:
                writer.transport.abort()
                return
            writer.write(reply(200, answer(len(heads))))
            await writer.drain()

    async with tls_server(pki, behave) as (port, _), client(pki, port) as visa:
        assert number_in(await send(visa, request_)) == 1
        exchange = await send(visa, request_)
    assert isinstance(exchange, Failed), exchange
    assert exchange.bytes_sent
    assert exchange.cause in (FailureCause.SERVER_DISCONNECTED, FailureCause.READ_FAILED)
    assert len(heads) == 2


# --- the last step before the first byte --------------------------------------------------------------------------


@both_loops
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_the_last_step_refuses_does_not_leave(pki: Pki, loop_factory: Loops, method: str) -> None:
    """L3: on a new connection and on a kept one, with a body and without; and the next request goes out as ever."""

    class Refused(Exception):
        """Not any library's."""

    def refuse() -> None:
        raise Refused

    async def story() -> None:
        async with (
            tls_server(pki, answering(*[reply(200, b"{}")] * 3)) as (port, seen),
            plain_client(pki, port) as visa,
        ):
            content = b"the body" if method == "POST" else None
            for turn in range(2):
                with pytest.raises(Refused):
                    await visa.request(method, f"/refused/{turn}", content=content, extensions={BEFORE_SENDING: refuse})
                assert (await visa.request(method, f"/sent/{turn}", content=content)).status_code == 200
        assert b"refused" not in seen.http_bytes
        assert seen.http_bytes.count(b"/sent/") == 2

    run(loop_factory, story())


@both_loops
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_call_cancelled_anywhere_leaves_nothing_unannounced(pki: Pki, loop_factory: Loops, method: str) -> None:
    """L3, S4: cancelled after every turn of the event loop: whenever a byte arrived, the last step was passed before;
    and once the call is over the step is not passed any more."""

    async def cancelled_after(turns: int) -> tuple[bool, bool]:
        announced = over = False

        def announce() -> None:
            nonlocal announced
            assert not over, "a call that is over sends"
            announced = True

        async with tls_server(pki, answering(reply(200, b"{}"))) as (port, seen), plain_client(pki, port) as visa:
            content = b"the body" if method == "POST" else None
            sending = visa.request(method, "/path", content=content, extensions={BEFORE_SENDING: announce})
            call = asyncio.ensure_future(sending)
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            over = True
        return announced, bool(seen.http_bytes)

    async def story() -> None:
        told = set()
        for turns in range(0, 400, 2):
            told.add(await cancelled_after(turns))
            if (True, True) in told:
                break
        assert (False, True) not in told
        assert {(False, False), (True, True)} <= told

    run(loop_factory, story())


@pytest.mark.filterwarnings("ignore:Sending a large body directly")
@both_loops
@pytest.mark.parametrize("answers_early", [False, True])
def test_what_waits_in_a_buffer_does_not_leave_after_the_call(
    pki: Pki, loop_factory: Loops, answers_early: bool
) -> None:
    """L3: a server that takes nothing for a while gets no more once the call is over, however much had been written;
    whether no answer came or one that was not read to its end."""

    async def story() -> None:
        taken = 0
        over = asyncio.Event()

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Received) -> None:
            nonlocal taken
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            if answers_early:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 2048)
            await over.wait()
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            while chunk := await reader.read(65536):
                taken += len(chunk)

        settings = {"read_timeout_seconds": 0.3, "largest_reply_bytes": 1024}
        async with tls_server(pki, behave) as (port, _), client(pki, port, **settings) as visa:
            exchange = await send(visa, push(body=b" " * LARGE_BYTES))
            over.set()
        if answers_early:
            assert isinstance(exchange, Answered), exchange
            assert exchange.body_problem is BodyProblem.TOO_LARGE
        else:
            assert isinstance(exchange, Failed), exchange
            assert (exchange.bytes_sent, exchange.cause) == (True, FailureCause.READ_TIMEOUT)
        assert taken < LARGE_BYTES

    run(loop_factory, story())


# --- places -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def occupied(visa: VisaDirectClient, seen: Any) -> AsyncIterator[None]:
    call = asyncio.create_task(send(visa))
    await asyncio.wait_for(seen.first_request.wait(), PLENTY_SECONDS)
    try:
        yield
    finally:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)


async def holds_the_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
    if seen.server.connections[0] is seen:
        await read_request(reader, seen)
        return
    await answering(reply(200, answer(2)))(reader, writer, seen)


async def test_no_free_place_is_a_cause_of_its_own(pki: Pki) -> None:
    """S4, B5: the time to wait for a place is not the time to connect; nothing left."""
    async with (
        tls_server(pki, holds_the_first) as (port, seen),
        client(pki, port, max_connections=1, pool_timeout_seconds=0.05) as visa,
        occupied(visa, seen),
    ):
        exchange = await send(visa)
    assert isinstance(exchange, Failed), exchange
    assert (exchange.bytes_sent, exchange.cause) == (False, FailureCause.POOL_TIMEOUT)


async def test_a_place_comes_back_however_a_call_ends(pki: Pki) -> None:
    """S1-14: cancelled, refused by the last step, failed, answered too long: the only place is free again."""
    ends = [reply(200, b"x" * 4096), b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        await read_request(reader, seen)
        writer.write(ends.pop(0) if ends else reply(200, answer(2)))
        await writer.drain()
        writer.close()

    settings = {"max_connections": 1, "pool_timeout_seconds": 1.0, "largest_reply_bytes": 1024}
    async with tls_server(pki, behave) as (port, seen), client(pki, port, **settings) as visa:
        waiting = asyncio.create_task(send(visa))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (await visa.send(push(), Deadline.after(0))).cause == FailureCause.DEADLINE_PASSED  # type: ignore[union-attr]
        while ends:
            exchange = await send(visa)
            assert isinstance(exchange, Failed) or exchange.body_problem is not None
        assert number_in(await send(visa)) == 2
    assert seen.connections


@both_loops
def test_closing_ends_the_calls_under_way(pki: Pki, loop_factory: Loops) -> None:
    """S4: whoever closes a client ends its calls at once, ambiguous; it makes no new ones."""

    async def story() -> None:
        async with tls_server(pki, holds_the_first) as (port, seen):
            visa = client(pki, port)
            call = asyncio.create_task(send(visa))
            await asyncio.wait_for(seen.first_request.wait(), PLENTY_SECONDS)
            await visa.aclose()
            under_way = await asyncio.wait_for(call, PLENTY_SECONDS / 2)
            after = await send(visa)
        assert isinstance(under_way, Failed), under_way
        assert under_way.bytes_sent
        assert isinstance(after, Failed), after
        assert not after.bytes_sent
        assert len(seen.connections) == 1

    run(loop_factory, story())


async def test_the_end_of_a_connection_in_the_middle_of_a_body_is_seen_at_once(pki: Pki) -> None:
    """S4: a bad chunk after a good head ends the call, not only its time-out (aiohttp would leave it waiting)."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        await read_request(reader, seen)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        await head_read.wait()
        writer.write(b"not a length\r\n")
        await writer.drain()

    head_read = asyncio.Event()
    async with (
        tls_server(pki, behave) as (port, _),
        plain_client(pki, port) as visa,
        visa.stream("GET", "/path") as response,
    ):
        chunks = response.aiter_raw()
        assert await anext(chunks) == b"{}"
        head_read.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await asyncio.wait_for(anext(chunks), PLENTY_SECONDS)


# --- on the wire --------------------------------------------------------------------------------------------------


async def test_aiohttp_adds_nothing_to_what_httpx_wrote(pki: Pki) -> None:
    """B5: every header once, none that a library invents, and the path as httpx encoded it."""
    async with (
        tls_server(pki, answering(reply(200, b"{}"))) as (port, seen),
        plain_client(pki, port, headers={MARK: "mark"}) as visa,
    ):
        request = visa.build_request("POST", "/a%7Eb%2Fc/ü?q=%2B+%41", content=b"body")
        await visa.send(request)
    lines = seen.http_bytes.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    assert lines[0] == b"POST " + request.url.raw_path + b" HTTP/1.1"
    sent = [tuple(line.split(b": ", 1)) for line in lines[1:]]
    assert sorted((name.lower(), value) for name, value in sent) == sorted(
        (name.lower(), value) for name, value in request.headers.raw
    )


async def test_an_answer_is_given_as_it_came(pki: Pki) -> None:
    """S4: no library unpacks it, and no header is lost or joined."""
    packed = gzip.compress(b"{}" * 1000)
    raw = reply(200, packed, "Content-Encoding: gzip", "Link: <a>", "Link: <b>")
    async with (
        tls_server(pki, answering(raw)) as (port, _),
        plain_client(pki, port) as visa,
        visa.stream("GET", "/path") as response,
    ):
        assert b"".join([chunk async for chunk in response.aiter_raw()]) == packed
    assert response.headers.get_list("link") == ["<a>", "<b>"]


async def test_looking_for_an_end_of_idle_connections_has_no_limit_of_descriptors(pki: Pki) -> None:
    """S1-14: with more than 1024 files open, a kept connection is used again (select() could not look at it)."""
    held = [socket.socket() for _ in range(1100)]
    try:
        async with tls_server(pki, answering(*[reply(200, answer(1))] * 2)) as (port, seen), client(pki, port) as visa:
            for _ in range(2):
                assert number_in(await send(visa)) == 1
        assert len(seen.connections) == 1
    finally:
        for one in held:
            one.close()


# --- no socket is left where the mode lets no call leave ----------------------------------------------------------


@both_loops
def test_e5_idle_connections_are_closed_at_once_and_calls_under_way_are_not(pki: Pki, loop_factory: Loops) -> None:
    """E5 (`isolation`), L3: the server sees the idle one go; a call that was begun before gets its answer."""
    slow, let_go, gone = asyncio.Event(), asyncio.Event(), list[int]()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        number = len(seen.server.connections)
        while request := await read_request(reader, seen):
            if b"corr-2" in request:
                slow.set()
                await let_go.wait()
            writer.write(reply(200, answer(number)))
            await writer.drain()
        gone.append(number)

    async def story() -> None:
        async with tls_server(pki, behave) as (port, seen), client(pki, port) as visa:
            under_way = asyncio.create_task(send(visa, push(2)))
            await slow.wait()
            assert number_in(await send(visa, push(1))) == 2
            visa.close_idle()
            visa.close_idle()
            await until(lambda: gone == [2])
            assert idle_protocols(visa) == []
            let_go.set()
            assert number_in(await under_way) == 1
            visa.close_idle()
            await until(lambda: gone == [2, 1])
            assert number_in(await send(visa, push(3))) == 3
            assert len(seen.connections) == 3

    run(loop_factory, story())
