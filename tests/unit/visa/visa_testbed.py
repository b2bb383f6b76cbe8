"""Certificates, keys and a small TLS server that can misbehave at every step of one exchange."""

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from processors.secrets import Secret
from processors.visa.mle import DecryptionKey, MessageEncryption

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate(
    name: str, key: PrivateKey, issuer: tuple[x509.Certificate, PrivateKey] | None = None, host: str = "127.0.0.1"
) -> x509.Certificate:
    """Self-signed (and a CA) without an issuer."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signer = key if issuer is None else issuer[1]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .sign(signer, hashes.SHA256())
    )


@dataclass(frozen=True)
class Pki:
    """Files of one test CA and what it issued, and of a stranger's."""

    directory: Path

    def path(self, name: str) -> Path:
        return self.directory / name


def make_pki(directory: Path) -> Pki:
    """ca, server, client, other_host for a server of another name; and the same of a stranger."""

    def write(name: str, certificate_: x509.Certificate, key: PrivateKey) -> None:
        pem = certificate_.public_bytes(serialization.Encoding.PEM)
        (directory / f"{name}.pem").write_bytes(pem)
        (directory / f"{name}.key").write_bytes(private_pem(key))

    for prefix in ("", "stranger_"):
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = certificate(f"{prefix}ca", ca_key)
        write(f"{prefix}ca", ca, ca_key)
        for name, host in (("server", "127.0.0.1"), ("client", "127.0.0.1"), ("other_host", "127.0.0.9")):
            key = ec.generate_private_key(ec.SECP256R1())
            write(f"{prefix}{name}", certificate(f"{prefix}{name}", key, (ca, ca_key), host), key)
    return Pki(directory)


@dataclass(frozen=True)
class MlePair:
    """One RSA key and its certificate, in PEM."""

    private_pem: bytes
    certificate_pem: bytes


def mle_pair(bits: int = 2048) -> MlePair:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    pem = certificate("mle", key).public_bytes(serialization.Encoding.PEM)
    return MlePair(private_pem(key), pem)


@dataclass
class MleKeys:
    """Visa's pair, ours, and our retired one."""

    server: MlePair
    client: MlePair
    retired: MlePair

    @functools.cached_property
    def ours(self) -> MessageEncryption:
        return MessageEncryption(
            key_id="key-2026",
            server_certificate_pem=self.server.certificate_pem,
            decryption_keys=[
                DecryptionKey("key-2026", Secret(self.client.private_pem.decode())),
                DecryptionKey("key-2025", Secret(self.retired.private_pem.decode())),
            ],
        )

    def visas(self, key_id: str = "key-2026", *, retired: bool = False) -> MessageEncryption:
        """The other end: opens what we send, closes what we read."""
        pair = self.retired if retired else self.client
        return MessageEncryption(
            key_id=key_id,
            server_certificate_pem=pair.certificate_pem,
            decryption_keys=[DecryptionKey("server", Secret(self.server.private_pem.decode()))],
        )


class Received(bytearray):
    """The decrypted bytes of one connection."""

    def __init__(self, server: "Seen") -> None:
        super().__init__()
        self.server = server


@dataclass
class Seen:
    """What reached the server: the bytes of every connection that finished its handshake."""

    connections: list[Received] = field(default_factory=list)
    first_request: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def http_bytes(self) -> bytes:
        return b"".join(bytes(connection) for connection in self.connections)


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Received], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader, seen: Received) -> bytes:
    """One request, headers and body; an empty head when the client has gone."""
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = await reader.read(65536)
        if not chunk:
            return b""
        head += chunk
        seen += chunk
    length = 0
    for line in head.split(b"\r\n\r\n", 1)[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(head.split(b"\r\n\r\n", 1)[1]) < length:
        chunk = await reader.read(65536)
        if not chunk:
            break
        head += chunk
        seen += chunk
    seen.server.first_request.set()
    return head


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "X-CORRELATION-ID: 1763_VDP_WS", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def answering(*replies: bytes) -> Behaviour:
    """Answer each request with the next reply, on one connection or several."""
    left = list(replies)

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Received) -> None:
        while left and await read_request(reader, seen):
            writer.write(left.pop(0))
            await writer.drain()

    return behave


@asynccontextmanager
async def tls_server(pki: Pki, behave: Behaviour, *, name: str = "server") -> AsyncIterator[tuple[int, Seen]]:
    """A server that asks for a client certificate; gives its port and what it saw.

    When the block ends, everything that clients had sent by then has been read: what is not in `seen` never came.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.path(f"{name}.pem"), pki.path(f"{name}.key"))
    context.load_verify_locations(pki.path("ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    seen = Seen()
    handlers: dict[int, asyncio.Task[None]] = {}
    marker_arrived = asyncio.Event()
    marker_port = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = Received(seen)
        seen.connections.append(mine)
        try:
            await behave(reader, writer, mine)
            # Until the client hangs up, so that nothing it sent is missed.
            while chunk := await reader.read(65536):
                mine += chunk
        except (ConnectionError, ssl.SSLError):
            pass

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client_port = writer.get_extra_info("peername")[1]
        if client_port == marker_port:
            marker_arrived.set()
        else:
            handlers[client_port] = asyncio.create_task(serve(reader, writer))
            await asyncio.wait([handlers[client_port]])
        writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield port, seen
        # A last connection of our own: when it is served, those before it have been taken up as well.
        marker = socket.create_connection(("127.0.0.1", port))
        marker_port = marker.getsockname()[1]
        _, marker_writer = await asyncio.open_connection(
            sock=marker, ssl=_marker_context(pki), server_hostname="marker"
        )
        await asyncio.wait_for(marker_arrived.wait(), 10.0)
        marker_writer.transport.abort()
        if handlers:
            _, unfinished = await asyncio.wait(handlers.values(), timeout=10.0)
            assert not unfinished, "a client has not hung up"
    finally:
        for handler in handlers.values():
            handler.cancel()
        server.close()
        await server.wait_closed()


def _marker_context(pki: Pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(pki.path("client.pem"), pki.path("client.key"))
    return context


@asynccontextmanager
async def refusing_server(pki: Pki, newest: ssl.TLSVersion) -> AsyncIterator[int]:
    """Refuses our client certificate as other servers do: with an alert that arrives (asyncio's own sends none)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.load_cert_chain(pki.path("server.pem"), pki.path("server.key"))
    context.load_verify_locations(pki.path("stranger_ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10.0)

    def refuse_one() -> bool:
        accepted, _ = listener.accept()
        accepted.settimeout(10.0)
        tls = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        try:
            tls.do_handshake()
        except ssl.SSLError:
            # Read on until the client hangs up: closing on unread bytes would reset the alert away.
            with socket.socket(fileno=tls.detach()) as raw:
                raw.settimeout(10.0)
                while raw.recv(65536):
                    pass
            return True
        tls.close()
        return False

    refusal = asyncio.create_task(asyncio.to_thread(refuse_one))
    try:
        yield listener.getsockname()[1]
        assert await refusal, "the server must have refused the certificate"
    finally:
        listener.close()
