"""What the stack uses, and why; nothing is started here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

from sandbox.servers import stack as stack_module
from sandbox.servers.kafka import ForeignKafka, KafkaCluster, node_properties
from sandbox.servers.postgres import ForeignPostgres, PostgresServer, others_may_enter, with_database
from sandbox.servers.processes import ServerError, StartCancelledError
from sandbox.servers.registry import ForeignRegistry
from sandbox.servers.stack import Stack


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "SCHEMA_REGISTRY_URL", "PAYOUTS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


def test_what_the_environment_names_is_used_and_shown_without_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@db.example:5432/mine")
    monkeypatch.setenv("SCHEMA_REGISTRY_URL", "http://me:secret@registry.example:8081")
    stack = Stack()
    assert isinstance(stack.kafka, ForeignKafka)
    assert isinstance(stack.postgres, ForeignPostgres)
    assert isinstance(stack.registry, ForeignRegistry)
    assert not any(server.owned for server in stack.servers)
    text = " ".join(stack.describe())
    assert "secret" not in text
    assert all(name in text for name in ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "SCHEMA_REGISTRY_URL"))
    assert stack.environment() == {
        "KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092",
        "DATABASE_URL": "postgresql://me:secret@db.example:5432/mine",
        "SCHEMA_REGISTRY_URL": "http://me:secret@registry.example:8081",
        "PAYOUTS_PROFILE": "test",
    }


def test_everything_else_is_our_own() -> None:
    stack = Stack(brokers=3, visa=True)
    assert isinstance(stack.kafka, KafkaCluster)
    assert isinstance(stack.postgres, PostgresServer)
    assert stack.registry is None
    assert all(server.owned for server in stack.servers)


class _Server:
    """A server that records what is done to it."""

    owned = True

    def __init__(self, name: str, log: list[str], error: BaseException | None = None) -> None:
        self.name, self.log, self.error = name, log, error

    def describe(self) -> str:
        return self.name

    def start(self, *, cancel: threading.Event | None = None) -> None:
        self.log.append(f"start {self.name}")
        if self.error is not None:
            raise self.error
        assert cancel is not None
        if cancel.wait(10):
            raise StartCancelledError(self.name)

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")
        if self.name == "stubborn":
            raise ServerError("survived")


def _stack_of(*servers: _Server) -> Stack:
    class Fake(Stack):
        @property
        def servers(self) -> list[stack_module.Server]:
            return list(servers)

    return Fake(say=lambda _: None)


@pytest.mark.parametrize("error", [ServerError("no Java"), KeyboardInterrupt(), SystemExit(143)])
def test_one_failure_gives_up_the_other_starts_and_stops_everything_in_reverse(error: BaseException) -> None:
    log: list[str] = []
    stack = _stack_of(_Server("first", log), _Server("second", log, error), _Server("third", log))
    with pytest.raises(type(error)), stack:
        pytest.fail("entered although one server failed")
    assert sorted(log[:3]) == ["start first", "start second", "start third"]
    assert log[3:] == ["stop third", "stop second", "stop first"]


def test_a_server_that_cannot_be_stopped_does_not_keep_the_others_running() -> None:
    log: list[str] = []
    stack = _stack_of(_Server("first", log), _Server("stubborn", log))
    with pytest.raises(ServerError, match="survived"):
        stack.stop()
    assert log == ["stop stubborn", "stop first"]


def test_a_signal_during_the_clean_up_does_not_cut_it_short() -> None:
    with stack_module.ending_signals_ignored():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_unwinds_the_stack_and_the_handlers_are_given_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        restore = stack_module.raise_on_ending_signals()
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
        restore()
        assert caught.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_somebody_set_is_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        stack_module.raise_on_ending_signals()()
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("nodes", "replicas", "in_sync"), [(1, "1", "1"), (3, "3", "2")])
def test_node_settings(nodes: int, replicas: str, in_sync: str, tmp_path: Path) -> None:
    """Internal topics are as safe as the cluster is large, and nobody outside this machine can connect."""
    ports = {number: (20_000 + number, 21_000 + number) for number in range(1, nodes + 1)}
    settings = dict(line.split("=", 1) for line in node_properties(1, ports, tmp_path).splitlines())
    assert settings["offsets.topic.replication.factor"] == replicas
    assert settings["transaction.state.log.replication.factor"] == replicas
    assert settings["transaction.state.log.min.isr"] == settings["min.insync.replicas"] == in_sync
    assert settings["auto.create.topics.enable"] == "false"
    assert len(settings["controller.quorum.voters"].split(",")) == nodes
    listeners = settings["listeners"].split(",") + settings["advertised.listeners"].split(",")
    assert all("://127.0.0.1:" in listener for listener in listeners)


@pytest.mark.parametrize("brokers", [0, 2, 4])
def test_a_cluster_has_one_or_three_nodes(brokers: int) -> None:
    with pytest.raises(ValueError, match="1 or 3"):
        KafkaCluster(brokers=brokers)


def test_the_database_of_an_address_is_replaced() -> None:
    url = "postgresql://me:p%40ss@db.example:5432/one?sslmode=require"
    assert with_database(url, "two") == "postgresql://me:p%40ss@db.example:5432/two?sslmode=require"


def test_a_directory_that_others_may_not_enter_is_noticed(tmp_path: Path) -> None:
    closed = tmp_path / "closed" / "inside"
    closed.mkdir(parents=True)
    closed.parent.chmod(0o700)
    assert not others_may_enter(closed)


def test_a_ctrl_c_is_not_lost_where_a_cancellation_is() -> None:
    """Python 3.11's wait_for drops a cancellation that comes as its work ends; a Ctrl-C must end the program."""

    async def drops_cancellations() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(10)

    before = signal.getsignal(signal.SIGINT)
    restore = stack_module.raise_on_ending_signals()
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(drops_cancellations())
    finally:
        restore()
    assert signal.getsignal(signal.SIGINT) is before
