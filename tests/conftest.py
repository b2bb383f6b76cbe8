"""Real servers for any test that asks: started at the first request, shared by the session, then stopped.

A test that only uses a server takes `database_url`, `kafka_bootstrap` or `registry_url`: they honour
DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS and SCHEMA_REGISTRY_URL. A test that kills or freezes one takes
`postgres_server`, `kafka_server` or `registry_server`, which are always our own, and leaves it running.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import settings

from sandbox.servers.kafka import ForeignKafka, KafkaCluster
from sandbox.servers.postgres import ForeignPostgres, PostgresServer
from sandbox.servers.registry import ApicurioRegistry, ForeignRegistry
from sandbox.servers.visa_stand_in import VisaStandIn


def pytest_configure() -> None:
    """Let SIGTERM end a test run as Ctrl-C does: through the fixtures, which stop and delete what they started.

    And let no property test fail for the time of one example: a busy machine is no broken promise (pytest-timeout ends
    what hangs).
    """
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


DATABASE_FIXTURES = frozenset({"postgres", "postgres_server", "own_postgres", "database_url"})
OTHER_SERVERS_FIXTURES = frozenset(
    {"kafka", "kafka_server", "own_kafka", "registry", "registry_server", "own_registry", "own_visa", "stack"}
    | {"make_pipeline"}  # it asks for its own by name
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs PostgreSQL and no other server, so that it can run beside the tests that wait for Kafka."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if (
            item.get_closest_marker("servers")
            and fixtures & DATABASE_FIXTURES
            and not fixtures & OTHER_SERVERS_FIXTURES
        ):
            item.add_marker(pytest.mark.database)


Own = TypeVar("Own", PostgresServer, KafkaCluster, ApicurioRegistry, VisaStandIn)


@dataclass(frozen=True)
class Stack:
    """Kafka, PostgreSQL and a schema registry, ready to use."""

    kafka: KafkaCluster | ForeignKafka
    postgres: PostgresServer | ForeignPostgres
    registry: ApicurioRegistry | ForeignRegistry


def _started(server: Own) -> Iterator[Own]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _named_or_own(request: pytest.FixtureRequest, variable: str, foreign: Callable[[str], Any], own: str) -> Any:
    """The server that the environment names, checked that it answers; else the session's own."""
    named = os.environ.get(variable, "")
    if not named:
        return request.getfixturevalue(own)
    server = foreign(named)
    server.start()
    return server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL 18 of the session's own, which a test may kill if it restarts it before it ends."""
    yield from _started(PostgresServer())


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaCluster]:
    """A one-broker Kafka of the session's own, which a test may kill if it restarts it before it ends."""
    yield from _started(KafkaCluster())


@pytest.fixture(scope="session")
def registry_server() -> Iterator[ApicurioRegistry]:
    """A schema registry of the session's own; it keeps schemas in memory only."""
    yield from _started(ApicurioRegistry())


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test alone, that nobody else misses."""
    yield from _started(PostgresServer())


@pytest.fixture
def own_kafka() -> Iterator[KafkaCluster]:
    """One broker for one test alone."""
    yield from _started(KafkaCluster())


@pytest.fixture
def own_registry() -> Iterator[ApicurioRegistry]:
    """A registry for one test alone."""
    yield from _started(ApicurioRegistry())


@pytest.fixture
def own_visa() -> Iterator[VisaStandIn]:
    """A Visa Direct stand-in for one test alone."""
    yield from _started(VisaStandIn())


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> PostgresServer | ForeignPostgres:
    """The PostgreSQL that `DATABASE_URL` names, else the session's own: for tests that only use one."""
    return _named_or_own(request, "DATABASE_URL", ForeignPostgres, "postgres_server")


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> KafkaCluster | ForeignKafka:
    """The Kafka that `KAFKA_BOOTSTRAP_SERVERS` names, else the session's own: for tests that only use one."""
    return _named_or_own(request, "KAFKA_BOOTSTRAP_SERVERS", ForeignKafka, "kafka_server")


@pytest.fixture(scope="session")
def registry(request: pytest.FixtureRequest) -> ApicurioRegistry | ForeignRegistry:
    """The registry that `SCHEMA_REGISTRY_URL` names, else the session's own: for tests that only use one."""
    return _named_or_own(request, "SCHEMA_REGISTRY_URL", ForeignRegistry, "registry_server")


@pytest.fixture(scope="session")
def stack(
    kafka: KafkaCluster | ForeignKafka,
    postgres: PostgresServer | ForeignPostgres,
    registry: ApicurioRegistry | ForeignRegistry,
) -> Stack:
    """All three together."""
    return Stack(kafka, postgres, registry)


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka: KafkaCluster | ForeignKafka) -> str:
    """`host:port` of a Kafka without any of our topics: use `topic_prefix`."""
    return kafka.bootstrap_servers


@pytest.fixture(scope="session")
def registry_url(registry: ApicurioRegistry | ForeignRegistry) -> str:
    """Address of a schema registry; subjects of other tests may be in it: use `topic_prefix`."""
    return registry.url


@pytest.fixture(scope="session")
def drop_database_later(postgres: PostgresServer | ForeignPostgres) -> Iterator[Callable[[str], None]]:
    """Drops databases behind the tests' back: each drop waits for a checkpoint, which no test should."""
    jobs: list[Future[None]] = []
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="drop-database") as pool:
        yield lambda name: jobs.append(pool.submit(postgres.drop_database, name))
        if postgres.owned:
            # All of it is deleted in a moment, with the server.
            pool.shutdown(cancel_futures=True)
            return
    for job in jobs:
        job.result()


@pytest.fixture
def database_url(
    postgres: PostgresServer | ForeignPostgres, drop_database_later: Callable[[str], None]
) -> Iterator[str]:
    """A fresh, empty database for this test alone, dropped afterwards, whoever is still connected."""
    name = f"payouts_test_{uuid.uuid4().hex}"
    url = postgres.create_database(name)
    try:
        yield url
    finally:
        drop_database_later(name)


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics, groups and subjects that no other test uses, for example `t3f9c2ab1-`."""
    return f"t{uuid.uuid4().hex[:8]}-"
