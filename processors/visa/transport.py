"""The only place that talks to Visa Direct: HTTP/1.1 over mutual TLS, Basic, and message level encryption.

`VisaDirectClient.send` turns whatever happens into an `Exchange`; what that proves is decided elsewhere. It keeps one
promise above all: `Failed(bytes_sent=False)` means that not one byte of the request reached the network.

The order inside one call (rule L3):

    encrypt → take a connection from the pool, or connect and shake hands → CHECK THE DEADLINE → head and body → read

The check runs in the same step of the event loop as the write that follows it, so that nothing of ours runs in between;
head and body are one write. `processors.visa.aiohttp_transport` has the connections and calls it.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx

from processors.secrets import Secret
from processors.visa.aiohttp_transport import BEFORE_SENDING, AiohttpTransport
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.identity import PREFLIGHT_QUESTIONS
from processors.visa.mle import MessageEncryption, MleError
from processors.visa.reply_body import read_body
from processors.visa.requests import VisaRequest
from schemas.card_numbers import looks_like_card_number

# Visa's header page: X-Transaction-Timeout-MS is at most 30000; above that no time-out happens at all.
LONGEST_TRANSACTION_TIMEOUT_MS: Final = 30_000
# Visa must have answered 202 before we hang up; this is for the way back.
REPLY_MARGIN_MS: Final = 500
# A forced 202 (header of 1 ms) is for tests only; a call with less time left than this has nothing to gain from one.
SHORTEST_TRANSACTION_TIMEOUT_MS: Final = 250
# A query answers at most some ten rows of 1 KiB, encrypted a third more.
LARGEST_REPLY_BYTES: Final = 256 * 1024
LONGEST_HEADER_VALUE: Final = 1024
LONGEST_CORRELATION_ID: Final = 128
# What an answer's header can tell: where to ask again, when, and what to quote to Visa's support.
HEADERS_KEPT: Final = (
    "content-type", "date", "link", "location", "retry-after", "x-app-status", "x-correlation-id", "x-error-origin",
    "x-pagination",
)  # fmt: skip
# OpenSSL's reasons for "the other side does not like our certificate", as alerts received.
_CERTIFICATE_ALERTS: Final = (
    "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE", "CERTIFICATE_REVOKED", "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN", "UNKNOWN_CA", "ACCESS_DENIED",
)  # fmt: skip
# Subclasses of SSLError that say "not yet" or "the connection ended", not "the handshake or a record is bad".
_TLS_STATES: Final = (
    ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLZeroReturnError, ssl.SSLEOFError, ssl.SSLSyscallError,
)  # fmt: skip
# httpx over aiohttp over asyncio: three levels, and one to spare for each.
LONGEST_ERROR_CHAIN: Final = 6

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisaConnection:
    """Where Visa is, who we are, and how long each step may take. Never shows its secrets.

    `base_url` is https://host[:port]; `ca_path` is a PEM file of trusted roots, the system's own when None;
    `encryption` None sends bodies in clear (TLS only). Raises ValueError for settings that cannot be safe.
    """

    base_url: str
    user_id: str
    password: Secret
    client_certificate_path: Path
    client_key_path: Path
    client_key_password: Secret | None = None
    ca_path: Path | None = None
    encryption: MessageEncryption | None = None
    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 33.0
    write_timeout_seconds: float = 5.0
    """For httpx's interface: a request of some KB is handed over whole, and what follows is waiting for its answer."""
    pool_timeout_seconds: float = 5.0
    total_timeout_seconds: float = 35.0
    """Longer than Visa's 30 s, shorter than the lease."""
    transaction_timeout_ms: int = LONGEST_TRANSACTION_TIMEOUT_MS
    max_connections: int = 32
    keepalive_expiry_seconds: float = 15.0
    server_idle_timeout_seconds: float = 60.0
    """After which the server closes a silent connection; a request must not meet that moment."""
    correlation_header: str = "x-request-id"
    largest_reply_bytes: int = LARGEST_REPLY_BYTES
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request, for what an enrolment asks for beyond the rest."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError("base_url must be https://host[:port], without credentials or query")
        if not 1 <= self.transaction_timeout_ms <= LONGEST_TRANSACTION_TIMEOUT_MS:
            raise ValueError(f"transaction_timeout_ms must be 1 to {LONGEST_TRANSACTION_TIMEOUT_MS}")
        steps = (
            self.connect_timeout_seconds,
            self.read_timeout_seconds,
            self.write_timeout_seconds,
            self.pool_timeout_seconds,
        )
        if min(steps) <= 0 or max(steps) > self.total_timeout_seconds:
            raise ValueError("every time-out must be above 0 and none longer than total_timeout_seconds")
        if not 0 <= self.keepalive_expiry_seconds < self.server_idle_timeout_seconds:
            raise ValueError("keepalive_expiry_seconds must be below server_idle_timeout_seconds")
        if self.max_connections < 1 or self.largest_reply_bytes < 1:
            raise ValueError("max_connections and largest_reply_bytes must be at least 1")


class VisaDirectClient:
    """One pool of connections to Visa Direct. Use it as an async context manager, in one event loop."""

    def __init__(self, connection: VisaConnection) -> None:
        """Reads certificate and key. Raises OSError or ssl.SSLError when they cannot be used."""
        _silence_libraries()
        self._connection = connection
        self._transport = AiohttpTransport(
            _tls_context(connection),
            max_connections=connection.max_connections,
            keepalive_expiry_seconds=connection.keepalive_expiry_seconds,
        )
        self._client = httpx.AsyncClient(
            base_url=connection.base_url,
            auth=httpx.BasicAuth(connection.user_id, connection.password.reveal()),
            headers={
                # Without it Visa answers in XML (Visa's header page).
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "payout-streams",
                **connection.headers,
            },
            # No cookies are kept: no call may depend on an earlier one.
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(
                connect=connection.connect_timeout_seconds,
                read=connection.read_timeout_seconds,
                write=connection.write_timeout_seconds,
                pool=connection.pool_timeout_seconds,
            ),
            follow_redirects=False,
            # Neither proxies nor certificate stores from the environment.
            trust_env=False,
            transport=self._transport,
        )

    def __repr__(self) -> str:
        return f"VisaDirectClient({self._connection.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; calls under way fail."""
        await self._client.aclose()

    def close_idle(self) -> None:
        """Close the connections that no call is under way on."""
        self._transport.close_idle()

    async def send(self, request: VisaRequest, deadline: Deadline) -> Exchange:
        """Make the call, to be over before `deadline`. Never raises for what the network or Visa does.

        Only cancellation passes through (asyncio.CancelledError): the caller then knows nothing about the effect.
        """
        attempt = _Attempt(deadline)
        try:
            attempt.check()
            async with asyncio.timeout(min(self._connection.total_timeout_seconds, deadline.remaining_seconds())):
                return await self._exchange(request, attempt)
        except Exception as error:  # noqa: BLE001 - whatever it is, bytes_sent says what may have happened
            cause = _cause(error)
            if cause is FailureCause.INTERNAL_ERROR:
                # The class only: messages and tracebacks of libraries may quote what was sent.
                _LOG.error("call to Visa failed inside the client: %s", type(error).__name__)
            return Failed(attempt.bytes_sent, cause, attempt.elapsed_seconds())

    async def _exchange(self, request: VisaRequest, attempt: "_Attempt") -> Answered:
        encryption = self._connection.encryption
        body = request.body
        if body is not None and encryption is not None:
            body = encryption.encrypt(body)
        async with self._client.stream(
            request.method,
            request.path,
            params=request.query or None,
            content=body,
            headers=self._headers(request, attempt),
            extensions={BEFORE_SENDING: attempt.before_sending},
        ) as response:
            content, problem = await self._read(response)
        value: object | None = None
        if problem is None:
            value, problem = read_body(content, None if encryption is None else encryption.decrypt)
        return Answered(
            status=response.status_code,
            headers=_headers_kept(response.headers),
            body=value,
            body_problem=problem,
            visa_correlation_id=_correlation_id(response.headers),
            elapsed_seconds=attempt.elapsed_seconds(),
        )

    def _headers(self, request: VisaRequest, attempt: "_Attempt") -> dict[str, str]:
        headers: dict[str, str] = {}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
            if request.operation not in PREFLIGHT_QUESTIONS:
                headers["X-Transaction-Timeout-MS"] = str(self._transaction_timeout_ms(attempt))
        if request.client_transaction_id is not None:
            headers["X-Client-Transaction-ID"] = request.client_transaction_id
        if request.correlation_id is not None:
            headers[self._connection.correlation_header] = request.correlation_id
        if self._connection.encryption is not None:
            headers["keyId"] = self._connection.encryption.key_id
        return headers

    def _transaction_timeout_ms(self, attempt: "_Attempt") -> int:
        # A 202 with an identifier is worth more than a time-out of ours, so Visa is told to answer before we hang up.
        available = min(self._connection.total_timeout_seconds, attempt.deadline.remaining_seconds())
        before_we_hang_up = max(int(available * 1000) - REPLY_MARGIN_MS, SHORTEST_TRANSACTION_TIMEOUT_MS)
        return min(self._connection.transaction_timeout_ms, before_we_hang_up)

    async def _read(self, response: httpx.Response) -> tuple[bytes, BodyProblem | None]:
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            return b"", BodyProblem.CONTENT_ENCODING
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._connection.largest_reply_bytes:
                return b"", BodyProblem.TOO_LARGE
        return bytes(content), None


class _DeadlinePassed(Exception):
    """The deadline came before the bytes left."""


class _Attempt:
    """What one call may still do, and what it has done."""

    __slots__ = ("_started", "bytes_sent", "deadline")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.bytes_sent = False
        self._started = time.monotonic()

    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._started

    def check(self) -> None:
        if self.deadline.expired():
            raise _DeadlinePassed

    def before_sending(self) -> None:
        """Called by the transport; what follows it is the write."""
        self.check()
        self.bytes_sent = True


def _tls_context(connection: VisaConnection) -> ssl.SSLContext:
    # Not ssl.create_default_context: it would obey SSLKEYLOGFILE from the environment.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if connection.ca_path is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=connection.ca_path)
    password = connection.client_key_password
    context.load_cert_chain(
        connection.client_certificate_path,
        connection.client_key_path,
        # Never None: OpenSSL would ask on the terminal and hang.
        password="" if password is None else password.reveal(),
    )
    return context


def _silence_libraries() -> None:
    # httpx logs every URL at INFO; neither that nor what aiohttp has to say belongs in our log at any level.
    for name in ("httpx", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)


_CAUSES: Final[tuple[tuple[type[BaseException], FailureCause], ...]] = (
    (_DeadlinePassed, FailureCause.DEADLINE_PASSED),
    (MleError, FailureCause.ENCRYPTION_FAILED),
    (httpx.PoolTimeout, FailureCause.POOL_TIMEOUT),
    (httpx.ConnectTimeout, FailureCause.CONNECT_TIMEOUT),
    (httpx.ConnectError, FailureCause.CONNECT_FAILED),
    (httpx.WriteTimeout, FailureCause.WRITE_TIMEOUT),
    (httpx.WriteError, FailureCause.WRITE_FAILED),
    (httpx.ReadTimeout, FailureCause.READ_TIMEOUT),
    (httpx.ReadError, FailureCause.READ_FAILED),
    (httpx.RemoteProtocolError, FailureCause.SERVER_DISCONNECTED),
    (ssl.SSLError, FailureCause.READ_FAILED),
    # After the more special ones: asyncio's own time-out is ours for the whole call.
    (TimeoutError, FailureCause.TOTAL_TIMEOUT),
    (OSError, FailureCause.READ_FAILED),
)


def _cause(error: BaseException) -> FailureCause:
    tls_error = None if isinstance(error, TimeoutError | httpx.TimeoutException) else _tls_error(error)
    if tls_error is not None:
        return _tls_cause(tls_error, connecting=isinstance(error, httpx.ConnectError))
    return next((cause for kind, cause in _CAUSES if isinstance(error, kind)), FailureCause.INTERNAL_ERROR)


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS error behind a library's error, which hides it one or two levels deep."""
    seen: BaseException | None = error
    for _ in range(LONGEST_ERROR_CHAIN):
        if isinstance(seen, ssl.SSLError) and not isinstance(seen, _TLS_STATES):
            return seen
        seen = None if seen is None else seen.__cause__ or seen.__context__
    return None


def _tls_cause(error: ssl.SSLError, *, connecting: bool) -> FailureCause:
    if isinstance(error, ssl.SSLCertVerificationError):
        return FailureCause.SERVER_CERTIFICATE_INVALID
    reason = getattr(error, "reason", None) or ""
    if "ALERT" in reason and any(name in reason for name in _CERTIFICATE_ALERTS):
        return FailureCause.CLIENT_CERTIFICATE_REFUSED
    return FailureCause.TLS_HANDSHAKE_FAILED if connecting else FailureCause.READ_FAILED


def _headers_kept(headers: httpx.Headers) -> dict[str, str]:
    return {name: headers[name][:LONGEST_HEADER_VALUE] for name in HEADERS_KEPT if name in headers}


def _correlation_id(headers: httpx.Headers) -> str | None:
    value = headers.get("x-correlation-id", "").strip()
    usable = value and len(value) <= LONGEST_CORRELATION_ID and value.isascii() and value.isprintable()
    return value if usable and not looks_like_card_number(value) else None
