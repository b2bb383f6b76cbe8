"""A server that gives every request the same answer and does nothing else, so that a client is what limits.

    python -m bench.canned_visa CREDENTIALS_DIRECTORY ANSWER_FILE

Mutual TLS under the stand-in's credentials, on a loopback port that it prints. Serves until its standard input ends.
"""

import asyncio
import ssl
import sys
from pathlib import Path
from typing import cast

import uvloop

LOOPBACK = "127.0.0.1"
BACKLOG = 1024


class Canned(asyncio.Protocol):
    """One connection: a request is its head, and as many bytes as Content-Length says."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if separator and len(rest) >= _content_length(head):
            self._received = b""
            self._transport.write(self._answer)


def _content_length(head: bytes) -> int:
    after = head.lower().partition(b"content-length:")[2]
    return int(after.partition(b"\r\n")[0] or 0)


async def _serve(credentials: Path, answer: bytes) -> None:
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(credentials / "ca.pem")
    context.load_cert_chain(credentials / "server_certificate.pem", credentials / "server_key.pem")
    server = await loop.create_server(lambda: Canned(answer), LOOPBACK, 0, ssl=context, backlog=BACKLOG)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
