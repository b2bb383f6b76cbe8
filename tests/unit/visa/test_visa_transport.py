"""S4, L3, P6: what the client says about each failure, against a TLS server that fails in that very way."""

import asyncio
import base64
import json
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from processors.payout.outcome import OutcomeKind
from processors.secrets import Secret
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.inquiry import alias_resolution
from processors.visa.mle import ENCRYPTED_MEMBER
from processors.visa.outcome import outcome_of_push
from processors.visa.requests import VisaRequest, push_funds_again, status
from processors.visa.transport import VisaConnection, VisaDirectClient
from tests.unit.visa.visa_testbed import (
    Behaviour,
    MleKeys,
    Pki,
    Received,
    answering,
    read_request,
    refusing_server,
    reply,
    tls_server,
)

CARD = "4957030420210462"
PASSWORD = "basic-pass-word"
BODY = json.dumps({"amount": 1, "recipientPrimaryAccountNumber": CARD}).encode()
SENT_HEADERS = frozenset(
    {
        "request-line", "host", "accept", "accept-encoding", "authorization", "connection", "content-length",
        "content-type", "keyid", "user-agent", "x-client-transaction-id", "x-request-id", "x-transaction-timeout-ms",
    }
)  # fmt: skip
PUSH = push_funds_again(BODY, payout_id="payout-0001", correlation_id="corr-1")
APPROVED = b'{"actionCode":"00","transactionIdentifier":587010322176105}'
# Far beyond what a step takes on a loaded machine; no test waits for it.
PLENTY_SECONDS = 30.0


def connection(pki: Pki, port: int, **changes: Any) -> VisaConnection:
    settings: dict[str, Any] = {
        "base_url": f"https://127.0.0.1:{port}", "user_id": "user-1", "password": Secret(PASSWORD),
        "client_certificate_path": pki.path("client.pem"), "client_key_path": pki.path("client.key"),
        "ca_path": pki.path("ca.pem"),
    }  # fmt: skip
    return VisaConnection(**{**settings, **changes})


async def send_once(
    pki: Pki, port: int, request: VisaRequest = PUSH, deadline: Deadline | None = None, **changes: Any
) -> Exchange:
    async with VisaDirectClient(connection(pki, port, **changes)) as client:
        return await client.send(request, deadline or Deadline.after(PLENTY_SECONDS))


def failed(exchange: Exchange) -> tuple[bool, str]:
    assert isinstance(exchange, Failed), exchange
    return exchange.bytes_sent, exchange.cause


def answered(exchange: Exchange) -> Answered:
    assert isinstance(exchange, Answered), exchange
    return exchange


def head_of(request: bytes) -> dict[str, str]:
    lines = request.split(b"\r\n\r\n", 1)[0].decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines[1:])
    return {"request-line": lines[0], **{name.lower(): value for name, value in pairs}}


# --- what goes over the wire --------------------------------------------------------------------------------------


async def test_a_push_and_its_answer_travel_encrypted(pki: Pki, mle_keys: MleKeys) -> None:
    """S3, P6, B4, B5: same plaintext, fresh JWE on every attempt; the answer is opened; Visa's headers are there."""
    visa = mle_keys.visas()
    requests: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        while request := await read_request(reader, seen):
            requests.append(request)
            writer.write(reply(200, visa.encrypt(APPROVED), "Set-Cookie: session=1", "Content-Type: application/json"))
            await writer.drain()

    async with (
        tls_server(pki, behave) as (port, seen),
        VisaDirectClient(connection(pki, port, encryption=mle_keys.ours)) as client,
    ):
        exchanges = [await client.send(PUSH, Deadline.after(PLENTY_SECONDS)) for _ in range(2)]

    for exchange in map(answered, exchanges):
        assert (exchange.status, exchange.body_problem) == (200, None)
        assert exchange.body == {"actionCode": "00", "transactionIdentifier": 587010322176105}
        assert exchange.visa_correlation_id == "1763_VDP_WS"
    assert len(seen.connections) == 1, "the connection is used again"
    sealed = [json.loads(request.split(b"\r\n\r\n", 1)[1])[ENCRYPTED_MEMBER] for request in requests]
    assert sealed[0] != sealed[1]
    assert [visa.decrypt(compact) for compact in sealed] == [BODY, BODY]
    assert CARD.encode() not in seen.http_bytes
    head = head_of(requests[1])
    assert set(head) == SENT_HEADERS, "nothing else leaves: no traceparent, no cookie"
    assert head["request-line"] == f"POST {PUSH.path} HTTP/1.1"
    assert head["accept"] == "application/json"
    assert head["authorization"] == "Basic " + base64.b64encode(f"user-1:{PASSWORD}".encode()).decode()
    assert head["x-client-transaction-id"] == PUSH.client_transaction_id
    assert head["x-request-id"] == "corr-1"
    assert head["keyid"] == "key-2026"
    assert "cookie" not in head


@pytest.mark.parametrize(
    ("seconds", "configured", "sent"),
    [(PLENTY_SECONDS, 30_000, "29499"), (PLENTY_SECONDS, 1, "1"), (0.4, 30_000, "250")],
)
async def test_visa_is_told_to_answer_before_we_hang_up(pki: Pki, seconds: float, configured: int, sent: str) -> None:
    """A 202 with an identifier is worth more than a time-out: X-Transaction-Timeout-MS ends before the call does."""
    ticks = iter([0.0, 0.0])
    deadline = Deadline(seconds, lambda: next(ticks, 0.001))
    async with tls_server(pki, answering(reply(200, APPROVED))) as (port, seen):
        answered(await send_once(pki, port, deadline=deadline, transaction_timeout_ms=configured))
    assert head_of(seen.http_bytes)["x-transaction-timeout-ms"] == sent


async def test_a_question_before_a_payout_names_no_time_in_which_a_transaction_must_end(pki: Pki) -> None:
    """B3: it is none: a 202 to it would mean nothing."""
    asked = alias_resolution(Secret("rosalind@example.com"), business_application_id="PP")
    async with tls_server(pki, answering(reply(200, b"{}"))) as (port, seen):
        answered(await send_once(pki, port, asked))
    head = head_of(seen.http_bytes)
    assert head["request-line"].startswith("POST /visaaliasdirectory/v1/resolve")
    assert not {"x-client-transaction-id", "x-transaction-timeout-ms"} & set(head)


async def test_a_status_get_has_no_body_and_no_client_transaction_id(pki: Pki) -> None:
    """A look-up must not look like the POST it asks about (Visa's 303 rule)."""
    async with tls_server(pki, answering(reply(202, b"id_1"))) as (port, seen):
        exchange = answered(await send_once(pki, port, status("id_1", correlation_id="corr-1")))
    assert (exchange.body, exchange.body_problem) == ("id_1", BodyProblem.NOT_JSON)
    head = head_of(seen.http_bytes)
    assert head["request-line"].startswith("GET ")
    assert not {"x-client-transaction-id", "x-transaction-timeout-ms", "content-length"} & set(head)


async def test_a_303_is_read_and_not_followed(pki: Pki) -> None:
    """S4: the answer to a duplicate in flight; what it points to is asked for later, by rule."""
    async with tls_server(pki, answering(reply(303, b"", "Location: /push/id-9"))) as (port, seen):
        exchange = answered(await send_once(pki, port))
    assert (exchange.status, exchange.headers["location"]) == (303, "/push/id-9")
    assert seen.http_bytes.count(b" HTTP/1.1\r\n") == 1


async def test_a_proxy_in_the_environment_is_ignored(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: nothing outside the configuration may stand between us and Visa, or write down our TLS keys."""
    key_log = pki.path("keys.log")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSLKEYLOGFILE", str(key_log))
    async with tls_server(pki, answering(reply(200, APPROVED))) as (port, _):
        assert answered(await send_once(pki, port)).status == 200
    assert not key_log.exists()


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (reply(200, b"x" * 2048), BodyProblem.TOO_LARGE),
        (reply(200, b"\x1f\x8b", "Content-Encoding: gzip"), BodyProblem.CONTENT_ENCODING),
        (reply(200, b'{"actionCode":"00"'), BodyProblem.NOT_JSON),
        (reply(200), BodyProblem.EMPTY),
        (reply(200, b'{"encData":"a.b.c.d.e"}'), BodyProblem.UNDECRYPTABLE),
    ],
)
async def test_an_unreadable_answer_keeps_its_status(pki: Pki, raw: bytes, problem: BodyProblem) -> None:
    """S4: the status is known, the content is not; and no answer fills the memory."""
    async with tls_server(pki, answering(raw)) as (port, _):
        exchange = answered(await send_once(pki, port, largest_reply_bytes=1024))
    assert (exchange.status, exchange.body_problem) == (200, problem)


# --- no byte left -------------------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_connection_is_definite(pki: Pki) -> None:
    """S4: connect failure, no byte left."""
    assert failed(await send_once(pki, closed_port())) == (False, FailureCause.CONNECT_FAILED)


async def test_an_unknown_name_is_definite(pki: Pki) -> None:
    """S4: no address, no byte. (RFC 6761: .invalid never resolves.)"""
    exchange = await send_once(pki, 443, base_url="https://visa.invalid", connect_timeout_seconds=PLENTY_SECONDS)
    assert failed(exchange) == (False, FailureCause.CONNECT_FAILED)


@pytest.mark.parametrize(
    ("name", "trusted"), [("server", "stranger_ca"), ("stranger_server", "ca"), ("other_host", "ca")]
)
async def test_a_server_that_cannot_prove_itself_gets_nothing(pki: Pki, name: str, trusted: str) -> None:
    """S4, P6, B5: wrong issuer or wrong name: verification and host name are on, not one byte of HTTP leaves."""
    async with tls_server(pki, answering(reply(200, APPROVED)), name=name) as (port, seen):
        exchange = await send_once(pki, port, ca_path=pki.path(f"{trusted}.pem"))
    assert failed(exchange) == (False, FailureCause.SERVER_CERTIFICATE_INVALID)
    assert seen.http_bytes == b""


async def test_a_client_certificate_refused_in_the_handshake_is_definite(pki: Pki) -> None:
    """S4: TLS 1.2 refuses before the request."""
    async with refusing_server(pki, ssl.TLSVersion.TLSv1_2) as port:
        exchange = await send_once(pki, port)
    assert failed(exchange) == (False, FailureCause.CLIENT_CERTIFICATE_REFUSED)


async def test_old_tls_is_refused(pki: Pki) -> None:
    """P6, B5: TLS 1.2 at least."""
    client = VisaDirectClient(connection(pki, 1))
    async with client:
        context = client._client._transport.context  # type: ignore[attr-defined]
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.check_hostname is True
        assert context.verify_mode is ssl.CERT_REQUIRED


async def test_a_handshake_that_never_ends_is_definite(pki: Pki) -> None:
    """S4: a server that accepts and says nothing at all."""
    silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    held: list[asyncio.StreamWriter] = []
    try:
        exchange = await send_once(pki, silent.sockets[0].getsockname()[1], connect_timeout_seconds=0.1)
    finally:
        for writer in held:
            writer.transport.abort()
        silent.close()
        await silent.wait_closed()
    assert failed(exchange) == (False, FailureCause.CONNECT_TIMEOUT)


async def test_a_server_that_hangs_up_in_the_handshake_is_definite(pki: Pki) -> None:
    """S4: half a handshake is no request."""
    server = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    try:
        exchange = await send_once(pki, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()
    assert failed(exchange) == (False, FailureCause.CONNECT_FAILED)


async def test_a_passed_deadline_does_not_even_connect(pki: Pki) -> None:
    """L3."""
    async with tls_server(pki, answering(reply(200, APPROVED))) as (port, seen):
        assert failed(await send_once(pki, port, deadline=Deadline.after(0))) == (False, FailureCause.DEADLINE_PASSED)
    assert seen.connections == []


async def test_waiting_for_a_connection_ends_before_the_deadline(pki: Pki) -> None:
    """L3, B5: a full pool does not let a call outlive its lease, and nothing of it was sent."""
    async with tls_server(pki, silent_after_request) as (port, seen):
        settings = connection(pki, port, max_connections=1)
        async with VisaDirectClient(settings) as client:
            first = asyncio.create_task(client.send(PUSH, Deadline.after(PLENTY_SECONDS)))
            await asyncio.wait_for(seen.first_request.wait(), PLENTY_SECONDS)
            before = len(seen.http_bytes)
            exchange = await client.send(PUSH, Deadline.after(0.1))
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
    assert failed(exchange) == (False, FailureCause.TOTAL_TIMEOUT)
    assert exchange.elapsed_seconds < PLENTY_SECONDS / 2
    assert before == len(seen.http_bytes)


async def test_encryption_that_fails_sends_nothing(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """S4, P6: an error of ours is an exchange too, and its text stays out of the log."""

    class Broken:
        key_id = "key-2026"

        def encrypt(self, plaintext: bytes) -> bytes:
            raise RuntimeError(plaintext)

    async with tls_server(pki, answering(reply(200, APPROVED))) as (port, seen):
        exchange = await send_once(pki, port, encryption=Broken())
    assert failed(exchange) == (False, FailureCause.INTERNAL_ERROR)
    assert seen.connections == []
    assert "RuntimeError" in caplog.text
    assert CARD not in caplog.text


# --- bytes left ---------------------------------------------------------------------------------------------------


async def silent_after_request(reader: asyncio.StreamReader, _: asyncio.StreamWriter, seen: Received) -> None:
    await read_request(reader, seen)


async def closes_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
    await read_request(reader, seen)
    writer.close()


async def closes_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Received) -> None:
    writer.close()


def says(raw: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        await read_request(reader, seen)
        writer.write(raw)
        await writer.drain()
        writer.close()

    return behave


@pytest.mark.parametrize(
    ("behave", "causes"),
    [
        (closes_after_request, {FailureCause.SERVER_DISCONNECTED, FailureCause.READ_FAILED}),
        (closes_at_once, {FailureCause.SERVER_DISCONNECTED, FailureCause.READ_FAILED}),
        (
            says(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
            {FailureCause.SERVER_DISCONNECTED, FailureCause.READ_FAILED},
        ),
        (
            says(b"HTTP/1.1 400 Bad\r\nContent-Length: 500\r\n\r\n{"),
            {FailureCause.SERVER_DISCONNECTED, FailureCause.READ_FAILED},
        ),
        (says(b"SSH-2.0-OpenSSH\r\n\r\n"), {FailureCause.SERVER_DISCONNECTED}),
        (says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000), {FailureCause.SERVER_DISCONNECTED}),
    ],
)
async def test_an_answer_cut_short_is_ambiguous(pki: Pki, behave: Behaviour, causes: set[FailureCause]) -> None:
    """S4: any error after bytes were sent, even within a reply whose status is known."""
    async with tls_server(pki, behave) as (port, _):
        bytes_sent, cause = failed(await send_once(pki, port))
    assert bytes_sent
    assert cause in causes


async def test_silence_is_ambiguous(pki: Pki) -> None:
    """S4: the request was read, no answer came."""
    async with tls_server(pki, silent_after_request) as (port, seen):
        exchange = await send_once(pki, port, read_timeout_seconds=0.2)
        assert failed(exchange) == (True, FailureCause.READ_TIMEOUT)
    assert BODY in seen.http_bytes


async def test_the_whole_call_ends_at_its_deadline(pki: Pki) -> None:
    """L3, B5: a server that dribbles one byte at a time resets every read time-out but not the total."""

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        await read_request(reader, seen)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with tls_server(pki, dribble) as (port, _):
        exchange = await send_once(pki, port, deadline=Deadline.after(0.5))
    assert failed(exchange) == (True, FailureCause.TOTAL_TIMEOUT)
    assert exchange.elapsed_seconds < PLENTY_SECONDS / 2


async def test_a_client_certificate_refused_by_tls_1_3_is_ambiguous_and_recognised(pki: Pki) -> None:
    """S4: in TLS 1.3 the refusal surfaces after the send: ambiguous for the payout, systemic for the stage."""
    async with refusing_server(pki, ssl.TLSVersion.TLSv1_3) as port:
        exchange = await send_once(pki, port)
    assert failed(exchange) == (True, FailureCause.CLIENT_CERTIFICATE_REFUSED)
    outcome = outcome_of_push(exchange)
    assert (outcome.kind, outcome.systemic) == (OutcomeKind.UNKNOWN, True)


async def test_a_cancelled_call_is_cancelled_and_leaves_the_client_usable(pki: Pki) -> None:
    """Cancellation is not an answer: it passes through, and the pool does not lose a connection to it."""
    first = True

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        nonlocal first
        if first:
            first = False
            await silent_after_request(reader, writer, seen)
        else:
            await answering(reply(200, APPROVED))(reader, writer, seen)

    async with (
        tls_server(pki, behave) as (port, seen),
        VisaDirectClient(connection(pki, port, max_connections=1)) as client,
    ):
        call = asyncio.create_task(client.send(PUSH, Deadline.after(PLENTY_SECONDS)))
        await asyncio.wait_for(seen.first_request.wait(), PLENTY_SECONDS)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert answered(await client.send(PUSH, Deadline.after(PLENTY_SECONDS))).status == 200


# --- the last step before bytes leave -----------------------------------------------------------------------------


class JumpingClock:
    """Stands at 0 for so many readings, then is past every deadline."""

    def __init__(self, readings: int) -> None:
        self.readings = readings

    def __call__(self) -> float:
        self.readings -= 1
        return 0.0 if self.readings >= 0 else 1e9


@pytest.mark.parametrize("reused", [False, True])
async def test_a_deadline_that_passes_anywhere_stops_what_has_not_left(pki: Pki, reused: bool) -> None:
    """L3: let the deadline pass at every reading of its clock, the last one after a connection is there. Nothing of
    the request leaves then, and a head never leaves without its body."""
    stages: list[tuple[bool | None, bool, bool]] = []
    for readings in range(12):
        async with (
            tls_server(pki, answering(*[reply(200, APPROVED)] * 2)) as (port, seen),
            VisaDirectClient(connection(pki, port)) as client,
        ):
            if reused:
                answered(await client.send(PUSH, Deadline.after(PLENTY_SECONDS)))
            before = len(seen.http_bytes)
            exchange = await client.send(PUSH, Deadline(PLENTY_SECONDS, JumpingClock(readings)))
        sent = seen.http_bytes[before:]
        bytes_sent = exchange.bytes_sent if isinstance(exchange, Failed) else None
        stages.append((bytes_sent, b"POST" in sent, BODY in sent))
        if isinstance(exchange, Failed):
            assert exchange.cause in (FailureCause.DEADLINE_PASSED, FailureCause.TOTAL_TIMEOUT)
    nothing_left, all_left = (False, False, False), (None, True, True)
    assert stages == sorted(stages, key=[nothing_left, all_left].index)
    assert stages.count(nothing_left) >= 3
    assert stages[-1] == all_left


async def test_nothing_runs_between_the_check_and_the_write(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """L3: the check is in the last synchronous step: the event loop does not turn between it and the socket."""
    loop = asyncio.get_running_loop()
    turned = False
    turned_at_send: list[bool] = []

    def turn() -> None:
        nonlocal turned
        turned = True

    def clock() -> float:
        nonlocal turned
        turned = False
        loop.call_soon(turn)
        return 0.0

    original = socket.socket.send

    def send(self: socket.socket, data: Any, *flags: int) -> int:
        if self.getpeername()[1] == server_port:
            turned_at_send.append(turned)
        return original(self, data, *flags)

    async with (
        tls_server(pki, answering(reply(200, APPROVED))) as (server_port, _),
        VisaDirectClient(connection(pki, server_port)) as client,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "send", send)
            answered(await client.send(PUSH, Deadline(PLENTY_SECONDS, clock)))
    # Last of all was sent the request, in one write; before it the two of the handshake.
    assert len(turned_at_send) >= 3
    assert turned_at_send[-1] is False


# --- secrets ------------------------------------------------------------------------------------------------------


async def test_nothing_secret_reaches_a_log_or_a_repr(
    pki: Pki, mle_keys: MleKeys, caplog: pytest.LogCaptureFixture
) -> None:
    """P6: at any log level, for an answer and for failures."""
    caplog.set_level(logging.DEBUG)
    shown: list[object] = []
    for encryption in (None, mle_keys.ours):
        for behave in (answering(reply(200, APPROVED)), closes_after_request):
            async with tls_server(pki, behave) as (port, _):
                settings = connection(pki, port, encryption=encryption)
                async with VisaDirectClient(settings) as client:
                    shown += [settings, client, PUSH, await client.send(PUSH, Deadline.after(PLENTY_SECONDS))]
    shown.append(await send_once(pki, closed_port()))
    text = caplog.text + repr(shown) + str(shown)
    encoded = base64.b64encode(f"user-1:{PASSWORD}".encode()).decode()
    for private in (CARD, PASSWORD, encoded, "PRIVATE KEY"):
        assert private not in text
    assert "httpx" not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "http://127.0.0.1"},
        {"base_url": "https://user:word@127.0.0.1"},
        {"base_url": "https://127.0.0.1?x=1"},
        {"transaction_timeout_ms": 30_001},
        {"transaction_timeout_ms": 0},
        {"read_timeout_seconds": 36.0},
        {"connect_timeout_seconds": 0.0},
        {"keepalive_expiry_seconds": 60.0},
        {"max_connections": 0},
    ],
)
def test_settings_that_cannot_be_safe_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Clear text, credentials in a URL, time-outs that contradict each other: refused at start, without values."""
    with pytest.raises(ValueError, match="must be") as caught:
        connection(Pki(tmp_path), 443, **changes)
    assert "word" not in str(caught.value)


# --- another event loop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops_tell_the_same_story(pki: Pki, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """S4, L3: a worker may run on either."""

    async def story() -> list[object]:
        told: list[object] = [failed(await send_once(pki, closed_port()))]
        async with tls_server(pki, answering(reply(200, APPROVED))) as (port, _):
            told.append(answered(await send_once(pki, port)).status)
        async with tls_server(pki, closes_after_request) as (port, _):
            told.append(failed(await send_once(pki, port))[0])
        async with tls_server(pki, answering(reply(200, APPROVED))) as (port, seen):
            told.append(failed(await send_once(pki, port, deadline=Deadline(PLENTY_SECONDS, JumpingClock(3)))))
            told.append(seen.http_bytes)
        return told

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        told = runner.run(story())
    nothing_sent = (False, FailureCause.DEADLINE_PASSED)
    assert told == [(False, FailureCause.CONNECT_FAILED), 200, True, nothing_sent, b""]


async def test_a_correlation_id_that_looks_like_a_card_number_is_not_kept(pki: Pki) -> None:
    """P6: it goes into every log line about the call, and into the row's history."""
    async with tls_server(pki, answering(reply(200, APPROVED, f"X-CORRELATION-ID: {CARD}"))) as (port, _):
        exchange = await send_once(pki, port)
    assert isinstance(exchange, Answered)
    assert exchange.visa_correlation_id is None
