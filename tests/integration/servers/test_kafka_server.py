"""Kafka of our own: records survive a kill, and a cluster of somebody else is left alone."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it is exported

from sandbox.servers.kafka import CONSUMER_GROUPS_TOOL, KafkaCluster, broker_count
from sandbox.servers.postgres import PostgresServer, execute_sql
from sandbox.servers.registry import ApicurioRegistry
from sandbox.servers.stack import Stack

pytestmark = pytest.mark.servers

ANSWER_SECONDS = 20.0


def _create_topic(bootstrap_servers: str, topic: str) -> None:
    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    for created in client.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)]).values():
        created.result(ANSWER_SECONDS)


def _produce(bootstrap_servers: str, topic: str, values: list[bytes]) -> None:
    failures: list[KafkaError] = []

    def confirmed(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer({"bootstrap.servers": bootstrap_servers, "acks": "all", "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value, key=value, on_delivery=confirmed)
    assert producer.flush(ANSWER_SECONDS) == 0
    assert failures == []


def _consume(bootstrap_servers: str, topic: str, group: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        values: list[bytes] = []
        while len(values) < count:
            message = consumer.poll(ANSWER_SECONDS)
            assert message is not None, f"only {len(values)} of {count} records arrived"
            assert message.error() is None
            values.append(message.value() or b"")
        consumer.commit(asynchronous=False)
        return values
    finally:
        consumer.close()


def test_records_survive_a_kill_and_kafkas_own_tool_agrees(kafka_server: KafkaCluster, topic_prefix: str) -> None:
    """Fault model of the promise (P1): brokers may crash."""
    topic, group = f"{topic_prefix}kept", f"{topic_prefix}group"
    values = [f"{number}".encode() for number in range(100)]
    _create_topic(kafka_server.bootstrap_servers, topic)
    _produce(kafka_server.bootstrap_servers, topic, values)

    kafka_server.kill()
    assert broker_count(kafka_server.bootstrap_servers, 0.5) == 0
    kafka_server.restart()

    assert sorted(_consume(kafka_server.bootstrap_servers, topic, group, 100)) == sorted(values)
    told = kafka_server.run_tool(CONSUMER_GROUPS_TOOL, "--describe", "--group", group)
    lags = [line.split()[5] for line in told.splitlines() if line.startswith(group)]
    assert lags == ["0", "0", "0"], told


def test_a_topic_is_never_created_by_a_typing_error(kafka_server: KafkaCluster, topic_prefix: str) -> None:
    """Topics are created by our own command, never by auto-creation (design.md 3)."""
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap_servers, "message.timeout.ms": 1000})
    errors: list[KafkaError | None] = []
    producer.produce(f"{topic_prefix}typo", b"x", on_delivery=lambda error, _message: errors.append(error))
    producer.flush(ANSWER_SECONDS)
    assert errors[0] is not None
    assert (
        f"{topic_prefix}typo"
        not in AdminClient({"bootstrap.servers": kafka_server.bootstrap_servers})
        .list_topics(timeout=ANSWER_SECONDS)
        .topics
    )


def test_servers_that_the_environment_names_are_never_stopped(
    kafka_server: KafkaCluster, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what we started is ours to stop (issue 3, the demo on a foreign cluster)."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_server.bootstrap_servers)
    monkeypatch.setenv("DATABASE_URL", postgres_server.url)
    processes = kafka_server.process_id(1), postgres_server.process_id
    said: list[str] = []
    with Stack(say=said.append) as stack:
        assert [server.owned for server in stack.servers] == [False, False]
    assert broker_count(kafka_server.bootstrap_servers, ANSWER_SECONDS) == 1
    execute_sql(postgres_server.url, "SELECT 1")
    assert (kafka_server.process_id(1), postgres_server.process_id) == processes
    assert sum("it will not be stopped" in sentence for sentence in said) == 2


def test_the_registry_refuses_an_incompatible_schema(registry_server: ApicurioRegistry) -> None:
    """The registry is a real one: FULL_TRANSITIVE holds (design.md 3)."""
    subject = f"{registry_server.url}/subjects/{uuid.uuid4().hex}-value/versions"
    schema = '{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}'
    incompatible = schema.replace("string", "long")
    config = registry_server.url + "/config"
    assert httpx.put(config, json={"compatibility": "FULL_TRANSITIVE"}, timeout=ANSWER_SECONDS).is_success
    assert httpx.post(subject, json={"schema": schema}, timeout=ANSWER_SECONDS).is_success
    assert httpx.post(subject, json={"schema": incompatible}, timeout=ANSWER_SECONDS).status_code == 409


def test_a_named_directory_keeps_the_data_across_runs(tmp_path: Path) -> None:
    """The promise of `payouts dev up --state-dir`."""
    for run in range(2):
        cluster = KafkaCluster(tmp_path / "kafka")
        try:
            cluster.start()
            if run == 0:
                _create_topic(cluster.bootstrap_servers, "kept")
            client = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
            assert len(client.list_topics(timeout=ANSWER_SECONDS).topics["kept"].partitions) == 3
        finally:
            cluster.stop()
