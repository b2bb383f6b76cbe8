"""Everything a fault run needs, each part behind a proxy: three brokers, PostgreSQL, the Visa stand-in, workers.

    with FaultStage() as stage:
        stage.prepare(partitions=12)
        worker = stage.fleet.start_worker()
        stage.kafka_routes[1].cut()
        stage.postgres.kill(); stage.postgres.restart()
        stage.visa.put_faults({"seed": 1, "rules": [...]})

Workers reach every server through its route (`worker_environment`); load, tools and the auditor go directly
(`direct_environment`), so that a fault never hides what happened. All servers are our own, whatever the environment
names: nobody else's broker may be killed. Nothing is left running, and the directory goes unless it was named.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from sandbox.faults.fleet import Fleet
from sandbox.faults.load import INITIATING_PARTY_ID
from sandbox.faults.proxy import FaultProxy, Route
from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.postgres import PostgresServer, enterable_temporary_directory
from sandbox.servers.processes import LOOPBACK, PortLease, ServerError, in_parallel
from sandbox.servers.stack import ending_signals_ignored, raise_on_ending_signals
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.worker_process import run_command, worker_environment
from streams.keys import create_keys

BROKERS = 3
FOREIGN_VARIABLES = ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "SCHEMA_REGISTRY_URL", "PAYOUTS_SETTINGS_FILE")
"""What a shell may name for other uses, and a fault run must not touch."""
FLEET_STOP_SECONDS = 10.0


class FaultStage:
    """The servers, their routes and the fleet; a context manager, ready within seconds of entering."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        topic_prefix: str = "",
        visa_latency_ms: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`directory` keeps logs, data and keys after the end; None means a temporary one.

        It must be one that other users may enter: PostgreSQL refuses to run as root.
        """
        self._keep = directory is not None
        self.directory = directory or enterable_temporary_directory("payouts-faults-")
        self.topic_prefix = topic_prefix
        self._say = say or _say_on_stderr
        self._cancel = threading.Event()
        self._restore_signals: Callable[[], None] | None = None
        self._leases = {number: PortLease() for number in range(1, BROKERS + 1)}
        self.kafka = KafkaCluster(
            self.directory / "kafka",
            brokers=BROKERS,
            advertised_proxy_ports={number: lease.port for number, lease in self._leases.items()},
        )
        self.postgres = PostgresServer(self.directory / "postgres")
        self.visa = VisaStandIn(self.directory / "visa", latency_ms=visa_latency_ms)
        self.proxy = FaultProxy(self.directory / "proxy")
        self.kafka_routes: dict[int, Route] = {}
        self.postgres_route: Route
        self.visa_route: Route
        self.worker_environment: dict[str, str] = {}
        self.direct_environment: dict[str, str] = {}
        self.fleet: Fleet
        self.seconds_to_ready = 0.0

    def __enter__(self) -> Self:
        self._restore_signals = raise_on_ending_signals()
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    @property
    def keys_directory(self) -> Path:
        """Our own keys, the same for every worker; `party_public.jwks.json` in it is for originators."""
        return self.directory / "keys"

    @property
    def routes(self) -> list[Route]:
        """Every route: brokers in order of number, PostgreSQL, the stand-in."""
        return [*self.kafka_routes.values(), self.postgres_route, self.visa_route]

    def start(self) -> None:
        """Start all servers at once, then open the routes. Raises the first ServerError."""
        began = time.monotonic()
        self.directory.mkdir(parents=True, exist_ok=True)
        # PostgreSQL may run as another user, who must be able to pass through.
        self.directory.chmod(0o711)
        with ThreadPoolExecutor(max_workers=5, thread_name_prefix="stage") as pool:
            servers = (self.kafka, self.postgres, self.visa, self.proxy)
            jobs = [pool.submit(server.start, cancel=self._cancel) for server in servers]
            if not self.keys_directory.exists():
                jobs.append(pool.submit(create_keys, self.keys_directory))
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                self._cancel.set()
                raise
        self._open_routes()
        self._make_environments()
        self.fleet = Fleet(self.worker_environment, self.directory / "workers")
        self.seconds_to_ready = time.monotonic() - began
        self._say(f"three brokers, PostgreSQL, stand-in and proxy ready after {self.seconds_to_ready:.1f} s")

    def prepare(self, partitions: int = 12) -> None:
        """Create topics (RF 3, min ISR 2) and tables. Raises CommandFailed."""
        topics = ("topics", "ensure", "--replication-factor", str(BROKERS), "--partitions", str(partitions))
        commands = (topics, ("ledger", "migrate"))
        in_parallel([functools.partial(_run, self.direct_environment, command) for command in commands])

    def heal(self) -> None:
        """End every fault of this stage but a dead server: routes forward, what was frozen wakes up."""
        self.proxy.heal_all()
        for number in self.kafka.running_nodes():
            self.kafka.resume(number)
        self.postgres.resume()
        self.visa.resume()
        for worker in self.fleet.workers:
            worker.thaw()

    def stop(self) -> None:
        """Stop everything, workers first. Safe to call twice; further signals wait until it is done."""
        self._cancel.set()
        failures: list[str] = []
        with ending_signals_ignored():
            if hasattr(self, "fleet"):
                self._attempt(self.fleet.kill_all, failures)
            for stop in (self.proxy.stop, self.visa.stop, self.postgres.stop, self.kafka.kill_all):
                self._attempt(stop, failures)
            for lease in self._leases.values():
                lease.release()
            if not self._keep:
                shutil.rmtree(self.directory, ignore_errors=True)
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

    def _open_routes(self) -> None:
        for number, lease in self._leases.items():
            lease.release()
            upstream = (LOOPBACK, self.kafka.proxied_port(number))
            self.kafka_routes[number] = self.proxy.add_route(f"kafka-{number}", upstream, lease.port)
        self.postgres_route = self.proxy.add_route("postgres", (LOOPBACK, self.postgres.port))
        self.visa_route = self.proxy.add_route("visa", (LOOPBACK, int(urlsplit(self.visa.base_url).port or 0)))

    def _make_environments(self) -> None:
        shared = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
        shared |= {
            **self.visa.environment(),
            # A crash below Python (a client library in C) then names its place in the worker's log; no values.
            "PYTHONFAULTHANDLER": "1",
            "PAYOUTS_TOPIC_PREFIX": self.topic_prefix,
            "PAYOUTS_PROFILE": "test",
            "VISA_INITIATING_PARTY_ID": INITIATING_PARTY_ID,
            "PAYOUTS_KEYS_DIRECTORY": str(self.keys_directory),
            "PARTY_KEYS_FILE": str(self.keys_directory / "party_public.jwks.json"),
        }
        self.direct_environment = {
            **shared,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "DATABASE_URL": self.postgres.url,
        }
        through = worker_environment(
            {
                **shared,
                "KAFKA_BOOTSTRAP_SERVERS": ",".join(f"{r.host}:{r.port}" for r in self.kafka_routes.values()),
                "DATABASE_URL": _with_address(self.postgres.url, self.postgres_route),
                "VISA_BASE_URL": _with_address(self.visa.base_url, self.visa_route),
            },
            self.directory,
        )
        self.worker_environment = {name: value for name, value in through.items() if name not in FOREIGN_VARIABLES[2:]}

    def _attempt(self, work: Callable[[], None], failures: list[str]) -> None:
        try:
            work()
        except (ServerError, OSError) as error:
            failures.append(str(error))


def _with_address(url: str, route: Route) -> str:
    """The same address, by way of the route; user and password stay."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{route.host}:{route.port}"))


def _run(environment: dict[str, str], words: tuple[str, ...]) -> None:
    run_command(environment, *words)


def _say_on_stderr(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
