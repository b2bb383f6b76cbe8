"""The connections to Visa: a transport for httpx over aiohttp's connections, with the step that rule L3 needs.

httpx's own pool looks at every connection for every request, which takes more time the more calls are under way;
aiohttp hands out connections in constant time, and parses in C. httpx stays the interface: whoever uses this transport
sees httpx's requests, answers, time-outs and errors.

What is done otherwise than aiohttp does by itself, because a payment is not a page:

- `BEFORE_SENDING` in a request's extensions is called in the last synchronous step before the first byte, and an error
  of it stops the request. Head and body leave in one write, so that there is nothing between them.
- No request is made twice inside one call (aiohttp repeats idempotent ones after a lost connection).
- A connection on which anything came, or its end, while nobody had asked is dropped, not used: an answer that arrives
  twice must never be taken for the answer to the next payment.
- What fails or is abandoned aborts its connection: bytes that wait in a buffer do not leave after the call is over.
- Waiting for a place, connecting and reading have a time-out each, as httpx defines them. Writing has none of its own:
  a request is handed over whole, and what the system does not take counts into the time until an answer comes.
"""

import asyncio
import functools
import select
import ssl
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakSet

import aiohttp
import httpx
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from yarl import URL

BEFORE_SENDING: Final = "payouts.before_sending"
"""The extension of an httpx request that holds a `Callable[[], None]`. What it raises, the call raises."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """At most `max_connections` connections, kept for `keepalive_expiry_seconds` after their last answer.

    `context` decides about certificates. Use it in one event loop, the one of its first request. Raises httpx's errors,
    with the cause behind them; a `TimeoutError` is never its own.
    """

    def __init__(self, context: ssl.SSLContext, *, max_connections: int, keepalive_expiry_seconds: float) -> None:
        self.context = context
        self._max_connections = max_connections
        self._keepalive_expiry_seconds = keepalive_expiry_seconds
        self._places = asyncio.Semaphore(max_connections)
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, and be back with the head of the answer."""
        timeouts = request.extensions.get("timeout", {})
        await self._take_place(timeouts.get("pool"))
        call = _Call(request.extensions.get(BEFORE_SENDING, _nothing))
        try:
            response = await self._request(request, call, timeouts)
        except BaseException as error:
            call.abort()
            self._places.release()
            if isinstance(error, Exception):
                _raise_as_httpx(error)
            raise
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response, call, self._places.release),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close all connections; calls under way fail."""
        if self._session is not None:
            await self._session.close()

    def close_idle(self) -> None:
        """Close the connections that no call is under way on, at once. The next call opens one again."""
        connector = None if self._session is None else self._session.connector
        if isinstance(connector, _Connector):
            connector.close_idle()

    async def _take_place(self, timeout_seconds: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._places.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout("no connection was free in time") from error

    async def _request(
        self, request: httpx.Request, call: "_Call", timeouts: dict[str, float | None]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = self._new_session()
        connect = timeouts.get("connect")
        token = _CALL.set(call)
        try:
            return await self._session.request(
                request.method,
                # As httpx has encoded it.
                URL(str(request.url), encoded=True),
                data=request.content or None,
                headers=[(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers.raw],
                allow_redirects=False,
                # Without `total`: whoever calls has a time-out for the whole.
                timeout=aiohttp.ClientTimeout(connect=connect, sock_connect=connect, sock_read=timeouts.get("read")),
            )
        finally:
            _CALL.reset(token)

    def _new_session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=_Connector(
                ssl=self.context,
                limit=self._max_connections,
                keepalive_timeout=self._keepalive_expiry_seconds,
                # Not the one that aiohttp takes when another library happens to be installed.
                resolver=aiohttp.ThreadedResolver(),
            ),
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            # httpx has written the headers; nothing is added to them.
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
            trust_env=False,
        )
        # It has no public name; a test sees if this one is gone.
        session._retry_connection = False
        return session


class _Call:
    """What belongs to one request on its way through aiohttp."""

    __slots__ = ("before_sending", "transport")

    def __init__(self, before_sending: Callable[[], None]) -> None:
        self.before_sending = before_sending
        self.transport: asyncio.Transport | None = None
        """Of its connection, as soon as there is one."""

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


_CALL: ContextVar[_Call] = ContextVar("_CALL")


def _nothing() -> None:
    """For requests that have no such extension."""


class _Request(ClientRequest):
    """A request that asks before its first byte leaves.

    aiohttp writes a request without a body in `send`, and one with a body, head included, in `write_bytes`, which may
    run in a task of its own (Python 3.11) and later than `send`. Neither suspends before the write.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._call = _CALL.get()

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        self._call.transport = conn.transport
        if not self.body:
            self._call.before_sending()
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        protocol = conn.protocol
        try:
            self._call.before_sending()
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer raises it
            if protocol is not None:
                protocol.set_exception(error)
            return
        await super().write_bytes(writer, conn, content_length)


class _Connector(aiohttp.TCPConnector):
    """Hands out connections on which nothing came while they were idle."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = functools.partial(_Protocol, loop=self._loop)  # type: ignore[assignment] # of ResponseHandler
        self._used: WeakSet[ResponseHandler] = WeakSet()

    def close_idle(self) -> None:
        """Close what waits for a next request: without a farewell, which would wait for the server's."""
        idle = [protocol for waiting in self._conns.values() for protocol, _ in waiting]
        self._conns.clear()
        for protocol in idle:
            if protocol.transport is not None:
                protocol.transport.abort()

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or protocol not in self._used:
                break
            if _is_silent(protocol):
                return connection
            connection.close()
        if protocol is not None:
            self._used.add(protocol)
        return connection


class _Protocol(ResponseHandler):
    """Tells also whoever reads a body that the connection is over; aiohttp leaves him waiting after a bad chunk."""

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        body = self._payload
        super().set_exception(exc, *cause)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(exc, *cause)


def _is_silent(protocol: ResponseHandler) -> bool:
    """True while neither the event loop nor the system has anything from the server, its end included."""
    transport = protocol.transport
    if transport is None or transport.is_closing() or protocol.should_close:
        return False
    connected = transport.get_extra_info("socket")
    if connected is None:
        return True
    descriptor = connected.fileno()
    if descriptor < 0:
        return False
    # Not select(): that one knows the first 1024 descriptors only.
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return not waiting.poll(0)


class _Body(httpx.AsyncByteStream):
    """The body of an answer; its end gives the place back."""

    def __init__(self, response: aiohttp.ClientResponse, call: _Call, give_back: Callable[[], None]) -> None:
        self._response = response
        self._call = call
        self._give_back: Callable[[], None] | None = give_back

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except Exception as error:
            _raise_as_httpx(error)
            raise

    async def aclose(self) -> None:
        if self._give_back is None:
            return
        # With the last byte aiohttp has given the connection back, and it may be another call's by now.
        if self._response.connection is not None:
            self._call.abort()
        self._response.close()
        give_back, self._give_back = self._give_back, None
        give_back()


_ERRORS: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.SocketTimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ClientConnectionResetError, httpx.WriteError),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (HttpProcessingError, httpx.RemoteProtocolError),
    # After the more special ones: a connection that broke.
    (aiohttp.ClientConnectionError, httpx.ReadError),
)


def _raise_as_httpx(error: Exception) -> None:
    """Raise httpx's error for what aiohttp raised, with what is behind it as the cause; nothing for another's error."""
    # aiohttp's own are only names for a system's or TLS's error, and some of them are of its class without its facts.
    cause = error.__cause__ or error
    kind = next((named for raised, named in _ERRORS if isinstance(error, raised)), None)
    if isinstance(cause, aiohttp.ClientConnectionResetError):
        kind = httpx.WriteError
    if kind is not None:
        # The class only: what libraries say may quote what was sent.
        raise kind(type(error).__name__) from cause
