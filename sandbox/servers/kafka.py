"""Apache Kafka 4 (KRaft) for tests, the demo and `payouts dev`: a running cluster, or one of our own.

A cluster of our own has one or three nodes, each broker and controller, on free loopback ports. For fault runs
every broker has a second listener whose advertised address is a proxy's: a client that begins there meets only
proxies, while tools, the brokers among themselves and the controllers go directly.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from sandbox.servers import jars
from sandbox.servers.java import JavaRuntime, find_java, java_environment, java_options
from sandbox.servers.processes import (
    BIND_TRIES,
    LOOPBACK,
    POLL_SECONDS,
    ManagedProcess,
    PortLease,
    ServerError,
    ServerExitedError,
    ServerUnreachableError,
    in_parallel,
    is_listening,
)

# One node is ready in about 3 s on an idle machine; three nodes on two busy cores need far more.
READY_SECONDS = 90.0
FORMAT_SECONDS = 60.0
TOOL_SECONDS = 60.0
# A node leaves in a fraction of a second; one that lost its quorum would wait for minutes.
STOP_SECONDS = 10.0
METADATA_SECONDS = 2.0
FOREIGN_SECONDS = 10.0
ANSWER_SECONDS = 10.0
# A dead leader is noticed after the broker session (4 s) and, when it also led the quorum, its own election.
ELECTION_SECONDS = 30.0
OFFSETS_TOPIC = "__consumer_offsets"
HEAP_MEBIBYTES = 400
TOOL_HEAP_MEBIBYTES = 128
BROKER_COUNTS = (1, 3)
# Every internal partition is created, opened and elected at start; the usual 50 only cost time here.
INTERNAL_PARTITIONS = 5
CONSUMER_GROUPS_TOOL = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


class ForeignKafka:
    """A cluster that somebody else runs: used, never started or stopped."""

    owned = False

    def __init__(self, bootstrap_servers: str) -> None:
        """`bootstrap_servers` is `host:port[,host:port…]`."""
        self.bootstrap_servers = bootstrap_servers

    def describe(self) -> str:
        """One sentence: which Kafka this is, and why."""
        return f"Kafka: {self.bootstrap_servers}, because KAFKA_BOOTSTRAP_SERVERS names it; it will not be stopped."

    def start(self, *, cancel: threading.Event | None = None) -> None:  # noqa: ARG002 - one shape for all servers
        """Check that it answers. Raises ServerUnreachableError if it does not."""
        if broker_count(self.bootstrap_servers, FOREIGN_SECONDS) == 0:
            raise ServerUnreachableError(
                f"Kafka at {self.bootstrap_servers} (from KAFKA_BOOTSTRAP_SERVERS) did not answer a metadata "
                f"request in {FOREIGN_SECONDS:.0f} s. Start it, correct KAFKA_BOOTSTRAP_SERVERS, or unset it to "
                "get a cluster of our own"
            )

    def stop(self) -> None:
        """Leave it alone."""


@dataclass
class _Node:
    number: int
    directory: Path
    # Broker, controller and, behind a proxy, second client port, in this order.
    leases: tuple[PortLease, ...] = field(default_factory=lambda: (PortLease(), PortLease()))
    advertised_proxy_port: int | None = None
    process: ManagedProcess | None = None
    formatter: ManagedProcess | None = None

    @property
    def properties_path(self) -> Path:
        return self.directory / "server.properties"

    @property
    def quorum_state_path(self) -> Path:
        return self.directory / "data" / "__cluster_metadata-0" / "quorum-state"

    @property
    def proxied(self) -> tuple[int, int] | None:
        """Port of the second client listener and the port it is advertised at."""
        return None if self.advertised_proxy_port is None else (self.leases[2].port, self.advertised_proxy_port)

    def release_ports(self) -> None:
        for lease in self.leases:
            lease.release()

    def hold_ports(self) -> None:
        for lease in self.leases:
            lease.hold()


class KafkaCluster:
    """A KRaft cluster of our own, nodes numbered from 1, that dies with this process."""

    owned = True

    def __init__(
        self,
        directory: Path | None = None,
        *,
        brokers: int = 1,
        advertised_proxy_ports: Mapping[int, int] | None = None,
    ) -> None:
        """`directory` keeps the data across runs; None puts it in a temporary one that `stop` deletes.

        `advertised_proxy_ports` gives every broker a second client listener (see `proxied_port`), advertised at
        that loopback port, where somebody else forwards. Raises ValueError unless `brokers` is 1 or 3.
        """
        if brokers not in BROKER_COUNTS:
            raise ValueError(f"a cluster has 1 or 3 brokers here, not {brokers}")
        if advertised_proxy_ports and set(advertised_proxy_ports) != set(range(1, brokers + 1)):
            raise ValueError("every broker needs a proxy port, or none")
        self.brokers = brokers
        self._advertised_proxy_ports = dict(advertised_proxy_ports or {})
        self._is_temporary = directory is None
        self._directory = directory
        self._nodes: dict[int, _Node] = {}
        self._java: JavaRuntime | None = None
        self._libraries: Path | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`host:port` of every broker, with commas. Raises ServerError before the first start."""
        if not self._nodes:
            raise ServerError("Kafka was not started")
        return ",".join(f"{LOOPBACK}:{node.leases[0].port}" for node in self._nodes.values())

    @property
    def directory(self) -> Path | None:
        """Where the data is; None before the first start and after the end of a temporary one."""
        return self._directory

    def describe(self) -> str:
        """One sentence: which Kafka this is, and why."""
        java = f"{self._java.describe()} " if self._java else ""
        return (
            f"Kafka: our own Apache Kafka {jars.KAFKA.version}, {self.brokers} broker(s) on "
            f"{self.bootstrap_servers}, because KAFKA_BOOTSTRAP_SERVERS is not set; "
            f"its data is in {self._directory}. {java}".rstrip()
        )

    def process_id(self, node: int) -> int:
        """The process id of a node. Raises ServerError for a node that was never started."""
        return self._process(node).pid

    @property
    def node_pids(self) -> dict[int, int]:
        """The process id of every node, dead ones included. Raises ServerError before the first start."""
        return {number: self.process_id(number) for number in self._nodes}

    def running_nodes(self) -> list[int]:
        """The nodes whose process exists, frozen ones included."""
        return [number for number, node in self._nodes.items() if node.process and node.process.is_running]

    def proxied_port(self, node: int) -> int:
        """Where the broker's second listener really is: the proxy's upstream. Raises ServerError if it has none."""
        proxied = self._nodes[node].proxied if node in self._nodes else None
        if proxied is None:
            raise ServerError(f"Kafka node {node} has no listener for a proxy")
        return proxied[0]

    def leader_of(self, topic: str, partition: int) -> int:
        """The node that leads a partition, asked for until there is a live one.

        Raises ServerError for a partition that has none in time.
        """

        def ask() -> int | None:
            topics = self._client().list_topics(topic, timeout=METADATA_SECONDS).topics
            found = topics[topic].partitions.get(partition)
            return found.leader if found is not None else None

        return self._wait_for_node(f"a leader for {topic} {partition}", ask)

    def group_coordinator(self, group: str) -> int:
        """The node that coordinates a consumer group: the leader of the group's partition of committed offsets.

        Raises ServerError if no group has committed anything yet, or there is no leader in time.
        """
        topics = self._client().list_topics(OFFSETS_TOPIC, timeout=ANSWER_SECONDS).topics
        partitions = len(topics[OFFSETS_TOPIC].partitions)
        if not partitions:
            raise ServerError("this cluster has no consumer group yet")
        return self.leader_of(OFFSETS_TOPIC, java_string_hash(group) % partitions)

    def controller(self) -> int:
        """The node that is the active controller. Raises ServerError if the quorum elects none in time.

        Read from the nodes' own quorum files: what clients are told is any live broker, not the controller.
        """
        return self._wait_for_node("an active controller", self._quorum_leader)

    def start(self, *, cancel: threading.Event | None = None) -> None:
        """Format what is new, start all nodes, wait until every broker is in the metadata.

        Raises ServerError with the end of a node's log.
        """
        self._java = find_java()
        self._libraries = jars.installed(jars.KAFKA, cancel=cancel)
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="payouts-kafka-"))
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for attempt in range(1, BIND_TRIES + 1):
            try:
                self._start_nodes(self._directory, cancel)
                break
            except ServerExitedError as error:
                self._kill_all()
                if attempt == BIND_TRIES or "Address already in use" not in str(error):
                    raise

    def stop(self) -> None:
        """Stop every node at once (a quorum that shrinks node by node would wait for itself)."""
        if self._is_temporary:
            self._kill_all()
        else:
            in_parallel([self._stopper(node) for node in self._nodes.values()])
        for node in self._nodes.values():
            node.release_ports()
        if self._is_temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill_all(self) -> None:
        """SIGKILL for every node: the end of a run whose data nobody will use. A temporary directory goes too."""
        self._kill_all()
        self.stop()

    def kill(self, node: int = 1) -> None:
        """SIGKILL for a node; its ports stay ours until `restart`."""
        self._process(node).kill()
        self._nodes[node].hold_ports()

    def restart(self, node: int = 1) -> None:
        """Start a node again on its data and ports, after `kill` or instead of the running one."""
        process, chosen = self._process(node), self._nodes[node]
        process.stop(STOP_SECONDS)
        chosen.release_ports()
        process.start()
        self._wait_ready(chosen, None)

    def pause(self, node: int = 1) -> None:
        """Freeze a node: its connections stay open, nothing answers."""
        self._process(node).pause()

    def resume(self, node: int = 1) -> None:
        """Wake a frozen node."""
        self._process(node).resume()

    def run_tool(self, main_class: str, *arguments: str) -> str:
        """Run one of Kafka's own tools against this cluster and return its standard output.

        `--bootstrap-server` is added. Raises ServerError if it fails or takes more than a minute.
        """
        if self._directory is None:
            raise ServerError("Kafka was not started")
        log_path = self._directory / f"tool-{uuid.uuid4().hex}.log"
        command = self._java_command(TOOL_HEAP_MEBIBYTES, self._directory, main_class)
        tool = ManagedProcess(
            main_class,
            [*command, "--bootstrap-server", self.bootstrap_servers, *arguments],
            log_path=log_path,
            environment=java_environment(),
        )
        tool.start()
        try:
            tool.wait_success(timeout_seconds=TOOL_SECONDS)
            return log_path.read_text(encoding="utf-8", errors="replace")
        finally:
            log_path.unlink(missing_ok=True)

    def _start_nodes(self, directory: Path, cancel: threading.Event | None) -> None:
        for number in range(1, self.brokers + 1):
            proxy_port = self._advertised_proxy_ports.get(number)
            leases = tuple(PortLease() for _ in range(2 if proxy_port is None else 3))
            self._nodes[number] = _Node(number, directory / f"node-{number}", leases, proxy_port)
        nodes = list(self._nodes.values())
        cluster_id = _cluster_id(directory)
        for node in nodes:
            node.directory.mkdir(exist_ok=True)
            properties = node_properties(node.number, self._ports(), node.directory / "data", node.proxied)
            node.properties_path.write_text(properties)
        # All formatters, then all nodes, so that no node waits for a quorum that cannot start yet.
        in_parallel([self._formatter(node, cluster_id, cancel) for node in nodes])
        for node in nodes:
            self._launch(node)
        for node in nodes:
            self._wait_ready(node, cancel)

    def _ports(self) -> dict[int, tuple[int, int]]:
        return {number: (node.leases[0].port, node.leases[1].port) for number, node in self._nodes.items()}

    def _formatter(self, node: _Node, cluster_id: str, cancel: threading.Event | None) -> Callable[[], None]:
        def work() -> None:
            marker = node.directory / "formatted"
            if marker.exists():
                return
            command = self._java_command(TOOL_HEAP_MEBIBYTES, node.directory, "kafka.tools.StorageTool")
            options = ["format", "--ignore-formatted", "-t", cluster_id, "-c", str(node.properties_path)]
            formatter = node.formatter = ManagedProcess(
                f"formatting Kafka node {node.number}",
                [*command, *options],
                log_path=node.directory / "format.log",
                environment=java_environment(),
            )
            formatter.start()
            formatter.wait_success(timeout_seconds=FORMAT_SECONDS, cancel=cancel)
            marker.touch()

        return work

    def _launch(self, node: _Node) -> None:
        command = self._java_command(HEAP_MEBIBYTES, node.directory, "kafka.Kafka")
        node.process = ManagedProcess(
            f"Kafka node {node.number}",
            [*command, node.properties_path],
            log_path=node.directory / "server.log",
            environment=java_environment(),
            working_directory=node.directory,
        )
        node.release_ports()
        node.process.start()

    def _wait_ready(self, node: _Node, cancel: threading.Event | None) -> None:
        port = node.leases[0].port
        address = f"{LOOPBACK}:{port}"
        expected = sum(1 for other in self._nodes.values() if other.process and other.process.is_running)
        self._process(node.number).wait_ready(
            # The port first: a client that meets a closed one backs off, and would notice late.
            lambda: is_listening(port) and broker_count(address, METADATA_SECONDS) >= expected,
            timeout_seconds=READY_SECONDS,
            cancel=cancel,
        )

    def _client(self) -> AdminClient:
        """A new client each time: an old one keeps believing what it was told before a failure."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0, "socket.timeout.ms": 5000})

    def _wait_for_node(self, what: str, ask: Callable[[], int | None]) -> int:
        deadline = time.monotonic() + ELECTION_SECONDS
        while True:
            with contextlib.suppress(KafkaException):
                number = ask()
                if number in self.running_nodes():
                    return int(number or 0)
            if time.monotonic() > deadline:
                raise ServerError(f"Kafka has not shown {what} on a live node in {ELECTION_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _quorum_leader(self) -> int | None:
        newest: tuple[int, int] = (-1, -1)
        for number in self.running_nodes():
            with contextlib.suppress(OSError, ValueError):
                state = json.loads(self._nodes[number].quorum_state_path.read_text())
                newest = max(newest, (int(state["leaderEpoch"]), int(state["leaderId"])))
        return newest[1]

    def _java_command(self, heap_mebibytes: int, work_directory: Path, main_class: str) -> list[str]:
        if self._java is None or self._libraries is None:
            raise ServerError("Kafka was not prepared")
        return [
            str(self._java.program),
            *java_options(heap_mebibytes=heap_mebibytes, work_directory=work_directory),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            f"{self._libraries}/*",
            main_class,
        ]

    def _process(self, node: int) -> ManagedProcess:
        process = self._nodes[node].process if node in self._nodes else None
        if process is None:
            raise ServerError(f"Kafka node {node} was not started")
        return process

    def _stopper(self, node: _Node) -> Callable[[], None]:
        def work() -> None:
            if node.formatter is not None:
                node.formatter.kill()
            if node.process is not None:
                node.process.stop(STOP_SECONDS)

        return work

    def _kill_all(self) -> None:
        for node in self._nodes.values():
            for process in (node.formatter, node.process):
                if process is not None:
                    process.kill()


def kafka_from_environment(directory: Path | None = None, *, brokers: int = 1) -> ForeignKafka | KafkaCluster:
    """The cluster that `KAFKA_BOOTSTRAP_SERVERS` names, or one of our own, not yet started."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    return ForeignKafka(named) if named else KafkaCluster(directory, brokers=brokers)


def broker_count(bootstrap_servers: str, timeout_seconds: float) -> int:
    """How many live brokers a metadata request shows; 0 if nobody answers in time."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0, "socket.timeout.ms": 5000})
    with contextlib.suppress(KafkaException):
        return len(client.list_topics(timeout=timeout_seconds).brokers)
    return 0


def java_string_hash(text: str) -> int:
    """Java's `String.hashCode` without its sign bit, as Kafka takes it to place a group."""
    value = 0
    for (unit,) in struct.iter_unpack(">H", text.encode("utf-16-be")):
        value = (value * 31 + unit) & 0xFFFFFFFF
    return _absolute(value - (1 << 32) if value >= 1 << 31 else value)


def _absolute(number: int) -> int:
    """Kafka's `Utils.abs`: the smallest integer, which has no positive counterpart, counts as 0."""
    return 0 if number == -(1 << 31) else abs(number)


def node_properties(
    number: int, ports: dict[int, tuple[int, int]], data: Path, proxied: tuple[int, int] | None = None
) -> str:
    """`server.properties` of one node; `ports` gives broker and controller port of every node.

    `proxied` is the port of a second client listener and the port that it is advertised at.
    """
    replicas = min(3, len(ports))
    in_sync = max(1, replicas - 1)
    broker_port, controller_port = ports[number]
    voters = ",".join(f"{node}@{LOOPBACK}:{port}" for node, (_, port) in ports.items())
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": number,
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join([f"CONTROLLER://{LOOPBACK}:{controller_port}", *(_urls(broker_port, proxied, 0))]),
        "advertised.listeners": ",".join(_urls(broker_port, proxied, 1)),
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "group.initial.rebalance.delay.ms": 0,
        # A killed node may register again only when its old session has ended: this is most of a restart.
        "broker.session.timeout.ms": 4000,
        "broker.heartbeat.interval.ms": 1000,
        # A follower that hangs leaves the in-sync set before writers time out; only one of the set may lead.
        "replica.lag.time.max.ms": 6000,
        "unclean.leader.election.enable": "false",
        # Memory and files for many small topics in a small heap.
        "log.cleaner.dedupe.buffer.size": 8 << 20,
        "log.index.size.max.bytes": 1 << 20,
    }
    for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        settings[f"{topic}.num.partitions"] = INTERNAL_PARTITIONS
        settings[f"{topic}.replication.factor"] = replicas
    for topic in ("transaction.state.log", "share.coordinator.state.topic"):
        settings[f"{topic}.min.isr"] = in_sync
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _urls(broker_port: int, proxied: tuple[int, int] | None, which: int) -> list[str]:
    """Client listeners: the direct one, and the proxied one as it is bound (0) or advertised (1)."""
    direct = f"PLAINTEXT://{LOOPBACK}:{broker_port}"
    return [direct] if proxied is None else [direct, f"PROXIED://{LOOPBACK}:{proxied[which]}"]


def _cluster_id(directory: Path) -> str:
    """The cluster's id, 22 characters, the same for the life of the data."""
    path = directory / "cluster.id"
    if not path.exists():
        # "-" at the start would look like an option to the formatter.
        made = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        path.write_text(made, encoding="ascii")
    return path.read_text(encoding="ascii").strip()
