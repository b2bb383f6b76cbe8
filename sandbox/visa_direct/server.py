"""One running stand-in: two loopback ports, TLS with a client certificate, one owner of the directory."""

import contextlib
import fcntl
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aiohttp import web

from sandbox.visa_direct.admin import Admin
from sandbox.visa_direct.credentials import SandboxCredentials, make_credentials
from sandbox.visa_direct.faults import FaultEngine
from sandbox.visa_direct.operations import VisaDirect
from sandbox.visa_direct.settings import KEEPALIVE_SECONDS, LOOPBACK, SHUTDOWN_SECONDS, Settings
from sandbox.visa_direct.store import Store

BACKLOG = 512  # a burst of new TLS connections waits here rather than being refused


class StartError(Exception):
    """The stand-in cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running stand-in answers, as written to ``endpoint.json``."""

    base_url: str
    admin_url: str
    credentials: SandboxCredentials


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Endpoint]:
    """Serve until the block ends. ``endpoint.json`` is in the directory for exactly as long.

    Raises StartError if the directory is in use or a port is taken, CredentialsError if its keys are unusable.
    """
    directory = settings.state_directory
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_only_owner(directory))
        (directory / "endpoint.json").unlink(missing_ok=True)  # left by a kill; who waits for ours must not read it
        credentials = make_credentials(directory / "credentials")
        public = stack.enter_context(_listen(settings.port))
        private = stack.enter_context(_listen(settings.admin_port))
        store = Store(directory / "ledger.sqlite3")
        stack.callback(store.close)
        faults = FaultEngine(store)
        faults.load()
        visa = VisaDirect(settings, credentials, store, faults)
        stack.push_async_callback(visa.stop)
        visa.start()
        admin = Admin(store, faults, credentials.fingerprint_key, lambda: visa.in_flight_count)
        await _serve(stack, visa.application(), public, _tls(credentials))
        await _serve(stack, admin.application(), private, None)
        endpoint = Endpoint(f"https://{LOOPBACK}:{_port(public)}", f"http://{LOOPBACK}:{_port(private)}", credentials)
        stack.enter_context(_announced(directory / "endpoint.json", endpoint))
        yield endpoint


async def _serve(
    stack: contextlib.AsyncExitStack,
    application: web.Application,
    listener: socket.socket,
    context: ssl.SSLContext | None,
) -> None:
    # No access log: a path holds trace numbers, and a line per request costs more than the request.
    runner = web.AppRunner(
        application,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener, ssl_context=context, backlog=BACKLOG).start()


def _tls(credentials: SandboxCredentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(credentials.path("ca.pem"))
    context.load_cert_chain(credentials.path("server_certificate.pem"), credentials.path("server_key.pem"))
    return context


@contextlib.contextmanager
def _only_owner(directory: Path) -> Iterator[None]:
    """Two servers on one ledger would each allow an effect; the lock goes with the process, however it ends."""
    lock: IO[str]
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(
                f"{directory} is in use by another stand-in. Stop that one, or choose another --state-dir."
            ) from error
        yield


@contextlib.contextmanager
def _listen(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as error:
            raise StartError(
                f"Port {port} on {LOOPBACK} cannot be taken ({error.strerror}). Stop what listens there, or "
                "give another port (0 takes a free one)."
            ) from error
        yield listener


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def _announced(path: Path, endpoint: Endpoint) -> Iterator[None]:
    """Write the file in one step, so that who waits for it never reads half of it."""
    unfinished = path.with_suffix(".tmp")
    content = {"base_url": endpoint.base_url, "admin_url": endpoint.admin_url, "pid": os.getpid()}
    unfinished.write_text(json.dumps(content) + "\n", "utf-8")
    unfinished.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
