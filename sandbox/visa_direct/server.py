"""One running stand-in: two loopback ports, TLS with a client certificate, one owner of the directory."""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aiohttp import web

from sandbox.visa_direct.accounts import Accounts
from sandbox.visa_direct.admin import Admin
from sandbox.visa_direct.credentials import CredentialsError, SandboxCredentials, make_credentials
from sandbox.visa_direct.faults import FaultEngine, FaultPlan
from sandbox.visa_direct.gateway import JWKS_PATH, Gateway
from sandbox.visa_direct.inquiry import Inquiry
from sandbox.visa_direct.keyring import Keyring
from sandbox.visa_direct.knobs import Knobs
from sandbox.visa_direct.operations import VisaDirect
from sandbox.visa_direct.settings import BODY_BYTES_MAX, KEEPALIVE_SECONDS, LOOPBACK, SHUTDOWN_SECONDS, Settings
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
    keyring: Keyring


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
        keyring = _keyring(credentials)
        knobs = Knobs(settings)
        gateway = Gateway(settings, knobs, credentials, keyring, store, faults)
        key = credentials.fingerprint_key
        visa = VisaDirect(settings, knobs, gateway, store, faults, key)
        stack.push_async_callback(visa.stop)
        visa.start()
        admin = Admin(store, faults, keyring, knobs, credentials.fingerprint_key, lambda: visa.in_flight_count)
        addresses = f"https://{LOOPBACK}:{_port(public)}", f"http://{LOOPBACK}:{_port(private)}"
        rails = (visa, Accounts(knobs, gateway, store, key), Inquiry(settings, knobs, gateway))
        runner = await _runner(stack, _application(gateway, *rails))
        door = Door(runner, public, keyring.tls_context)
        stack.push_async_callback(door.stop)
        await door.follow(faults.plan)
        faults.on_change = door.follow
        keyring.on_tls_change = door.renew
        keyring.on_revocation = door.cut
        await web.SockSite(await _runner(stack, admin.application()), private, backlog=BACKLOG).start()
        endpoint = Endpoint(*addresses, credentials, keyring)
        stack.enter_context(_announced(directory / "endpoint.json", endpoint))
        yield endpoint


def _keyring(credentials: SandboxCredentials) -> Keyring:
    try:
        return Keyring(credentials)
    except (OSError, ValueError, TypeError) as error:
        raise CredentialsError(
            f"The keys in {credentials.directory} are incomplete ({type(error).__name__}). Remove that directory; "
            "new ones are made at the next start."
        ) from error


def _application(gateway: Gateway, *rails: VisaDirect | Accounts | Inquiry) -> web.Application:
    """The HTTPS application: gateway checks around every operation."""
    application = web.Application(middlewares=[gateway.middleware], client_max_size=BODY_BYTES_MAX)
    application.router.add_get(JWKS_PATH, gateway.jwks)
    for rail in rails:
        rail.add_routes(application)
    return application


class Door:
    """The public port: open, or shut while a rule of the fault plan refuses connections."""

    def __init__(self, runner: web.AppRunner, bound: socket.socket, make_context: Callable[[], ssl.SSLContext]) -> None:
        self._runner = runner
        self._bound = bound
        self._port = _port(bound)
        self._make_context = make_context
        self._context = make_context()
        self._site: web.SockSite | None = None
        self._opening: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()  # one change at a time: each begins from what the one before has left

    async def follow(self, plan: FaultPlan) -> None:
        """Do what the plan says from now on; a rule with seconds opens again by itself."""
        async with self._changing:
            await self._cancel_opening()
            rule = plan.refuses_connections
            if rule is None:
                await self._open()
                return
            await self._shut()
            if rule.seconds is not None:
                self._opening = asyncio.create_task(self._open_after(rule.seconds))

    async def renew(self) -> None:
        """Take new connections with the certificates as they are on disk now; no connection is refused meanwhile.

        Connections that are open keep what they were made with. Raises RotationError, and goes on as before.
        """
        async with self._changing:
            self._context = self._make_context()
            if self._site is not None:
                old = self._site
                # Both listen on one socket of the kernel: whoever knocks is let in by one or the other.
                self._bound, self._site = self._bound.dup(), None
                await self._open()
                await old.stop()

    def cut(self) -> None:
        """Cut the connections that are open."""
        server = self._runner.server
        for connection in server.connections if server is not None else []:
            if connection.transport is not None:
                connection.transport.abort()

    async def stop(self) -> None:
        """Stop waiting to open; an open port is the runner's to close."""
        await self._cancel_opening()
        if self._site is None:
            self._bound.close()

    async def _open_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        async with self._changing:
            await self._open()

    async def _open(self) -> None:
        if self._site is None:
            self._site = web.SockSite(self._runner, self._bound, ssl_context=self._context, backlog=BACKLOG)
            await self._site.start()

    async def _shut(self) -> None:
        """A socket that is bound and does not listen refuses connections, and nobody else can take its port."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
            self._bound = _bound(self._port)
        self.cut()

    async def _cancel_opening(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
            self._opening = None


async def _runner(stack: contextlib.AsyncExitStack, application: web.Application) -> web.AppRunner:
    # No access log: a path holds trace numbers, and a line per request costs more than the request.
    runner = web.AppRunner(
        application,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


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
    with _bound(port) as listener:
        yield listener


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"Port {port} on {LOOPBACK} cannot be taken ({error.strerror}). Stop what listens there, or "
            "give another port (0 takes a free one)."
        ) from error
    return listener


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
