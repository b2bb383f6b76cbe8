"""All servers together, for tests, the demo and `payouts dev`: started at once, stopped in reverse, whatever happens.

What the environment names (`KAFKA_BOOTSTRAP_SERVERS`, `DATABASE_URL`, `SCHEMA_REGISTRY_URL`) is used and left
alone; everything else is started here and ends with this process, even by SIGKILL where Linux offers it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self

from sandbox.servers.kafka import ForeignKafka, KafkaCluster, kafka_from_environment
from sandbox.servers.postgres import (
    ForeignPostgres,
    PostgresServer,
    postgres_from_environment,
)
from sandbox.servers.processes import ServerError
from sandbox.servers.registry import ApicurioRegistry, ForeignRegistry, registry_from_environment
from sandbox.servers.visa_stand_in import VisaStandIn

ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Server(Protocol):
    """One server of the stack, ours or somebody else's."""

    @property
    def owned(self) -> bool:
        """Whether we start and stop it."""

    def describe(self) -> str:
        """One sentence: which one, and why."""

    def start(self, *, cancel: threading.Event | None = None) -> None:
        """Start it, or check that it answers; returns when it is ready, raises StartCancelledError on cancel."""

    def stop(self) -> None:
        """Stop it if it is ours."""


class Stack:
    """Kafka and PostgreSQL, and on request a registry and the Visa Direct stand-in.

    A context manager: on the way in everything starts at once; on the way out, also after an exception, Ctrl-C
    or SIGTERM in the middle of a start or a download, everything that was started is stopped in reverse order.
    """

    def __init__(
        self,
        *,
        state_directory: Path | None = None,
        brokers: int = 1,
        registry: bool = False,
        visa: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`state_directory` keeps all data across runs; None means temporary ones, deleted at the end.

        `say` receives progress messages, stderr by default. A registry that `SCHEMA_REGISTRY_URL` names is
        used whether or not one was asked for.
        """
        self.state_directory = state_directory
        self._say = say or _say_on_stderr
        self._cancel = threading.Event()
        self.kafka: ForeignKafka | KafkaCluster = kafka_from_environment(self._part("kafka"), brokers=brokers)
        self.postgres: ForeignPostgres | PostgresServer = postgres_from_environment(self._part("postgres"))
        with_registry = registry or bool(os.environ.get("SCHEMA_REGISTRY_URL"))
        self.registry: ForeignRegistry | ApicurioRegistry | None = (
            registry_from_environment(self._part("registry")) if with_registry else None
        )
        self.visa: VisaStandIn | None = VisaStandIn(self._part("visa")) if visa else None
        self._restore_signals: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._restore_signals = raise_on_ending_signals()
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def servers(self) -> list[Server]:
        """What belongs to this stack, in the order of start."""
        candidates: Sequence[Server | None] = (self.kafka, self.postgres, self.registry, self.visa)
        return [server for server in candidates if server is not None]

    def describe(self) -> list[str]:
        """One sentence a server: which one it is, and why. Holds no password."""
        return [server.describe() for server in self.servers]

    def environment(self) -> dict[str, str]:
        """Variables for a worker or a command that shall use these servers. Holds passwords: never log it."""
        variables = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "DATABASE_URL": self.postgres.url,
            # The servers on a laptop speak plaintext on loopback, which the production profile refuses.
            "PAYOUTS_PROFILE": os.environ.get("PAYOUTS_PROFILE", "test"),
        }
        if self.registry is not None:
            variables["SCHEMA_REGISTRY_URL"] = self.registry.url
        if self.visa is not None:
            variables |= self.visa.environment()
        return variables

    def start(self) -> None:
        """Start everything at once and wait until all of it is ready.

        Raises the first ServerError; the other starts are then given up. Call `stop` afterwards in any case,
        or use the context manager.
        """
        began = time.monotonic()
        if self.state_directory is not None:
            self._prepare_state_directory(self.state_directory)
        pool = ThreadPoolExecutor(max_workers=len(self.servers), thread_name_prefix="stack")
        try:
            jobs = [pool.submit(server.start, cancel=self._cancel) for server in self.servers]
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            self._cancel.set()
            raise
        finally:
            pool.shutdown(wait=True)
        for sentence in self.describe():
            self._say(sentence)
        self._say(f"ready after {time.monotonic() - began:.1f} s")

    def stop(self) -> None:
        """Stop what was started, in reverse order. Safe to call twice; further signals wait until it is done."""
        self._cancel.set()
        failures: list[str] = []
        with ending_signals_ignored():
            for server in reversed(self.servers):
                try:
                    server.stop()
                except (ServerError, OSError) as error:
                    failures.append(str(error))
        self._cancel = threading.Event()
        if failures:
            raise ServerError("not everything could be stopped: " + "; ".join(failures))

    def _end(self) -> None:
        try:
            self.stop()
        finally:
            if self._restore_signals is not None:
                self._restore_signals()
                self._restore_signals = None

    def _part(self, name: str) -> Path | None:
        return None if self.state_directory is None else self.state_directory / name

    def _prepare_state_directory(self, directory: Path) -> None:
        if not directory.exists():
            directory.mkdir(parents=True)
            # PostgreSQL may run as another user, who must be able to pass through.
            directory.chmod(0o711)


def raise_on_ending_signals() -> Callable[[], None]:
    """Let SIGTERM and SIGHUP raise SystemExit and SIGINT KeyboardInterrupt, so that `finally` runs.

    Only in the main thread, and only where nobody else has set a handler. A shell starts background jobs with
    SIGINT ignored, which is undone here. Returns a function that restores what was.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    previous: dict[signal.Signals, object] = {}
    for number in ENDING_SIGNALS:
        # An ignored SIGHUP is what nohup asks for, and stays.
        nobodys_sigint = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
        replaced = nobodys_sigint if number == signal.SIGINT else (signal.SIG_DFL,)
        if signal.getsignal(number) in replaced:
            previous[number] = signal.signal(number, _raise_interrupt if number == signal.SIGINT else _raise_exit)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it came from signal.signal

    return restore


@contextlib.contextmanager
def ending_signals_ignored() -> Iterator[None]:
    """Let nothing but SIGKILL interrupt a clean-up whose time is bounded. No effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise_interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of a signal handler
    """Not Python's own handler: asyncio.run replaces that one, and makes of a Ctrl-C a cancellation.

    `asyncio.wait_for` of Python 3.11 loses a cancellation that comes as its work ends (bpo-37658), and with it the
    Ctrl-C: the demo went on to its end.
    """
    raise KeyboardInterrupt


def _raise_exit(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of a signal handler
    raise SystemExit(128 + number)


def _say_on_stderr(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
