"""K8: what one client of ours commits, the other one reads: commands use confluent-kafka, workers aiokafka."""

from __future__ import annotations

import contextlib

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition as Place
from confluent_kafka import Consumer, Producer, TopicPartition

from streams.topic_ids import is_of, note_of

OURS, ANOTHER = "AAAAAAdbzRUAAAAAOt5osQ", "BBBBBBdbzRUAAAAAOt5osQ"


@pytest.mark.timeout(30)
async def test_an_offset_that_a_command_commits_is_of_its_topic_to_a_worker() -> None:
    """K8, R2: else a worker begins anew, whatever offset a plan has put it to."""
    # librdkafka's own mock of a broker, in this process: both clients speak to it as to a real one.
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    address = f"{broker.host}:{broker.port}"
    producer.produce("payout_requests", b"one")
    assert producer.flush(10) == 0
    place = TopicPartition("payout_requests", 0, 1, note_of(OURS))
    with contextlib.closing(Consumer({"bootstrap.servers": address, "group.id": "payouts", "log_level": 0})) as command:
        command.commit(offsets=[place], asynchronous=False)
    worker = AIOKafkaConsumer(bootstrap_servers=address, group_id="payouts", enable_auto_commit=False)
    await worker.start()
    try:
        found = await worker._coordinator.fetch_committed_offsets([Place("payout_requests", 0)])
    finally:
        await worker.stop()
    committed = found[Place("payout_requests", 0)]
    assert committed.offset == 1
    assert is_of(committed.metadata, OURS), repr(committed.metadata)
    assert not is_of(committed.metadata, ANOTHER)


@pytest.mark.parametrize("note", [None, "", "somebody's text", note_of(OURS), note_of(OURS) + "\0"])
def test_only_another_topics_name_is_another_topic(note: str | None) -> None:
    """K8: texts of others, and none, say nothing."""
    assert is_of(note, OURS)
    assert is_of(note, "")


@pytest.mark.parametrize("note", [note_of(ANOTHER), note_of(ANOTHER) + "\0", note_of(OURS) + "x", note_of(OURS)[:-1]])
def test_another_topics_name_is_another_topic(note: str) -> None:
    """K8: offsets of a topic that was deleted count for nothing."""
    assert not is_of(note, OURS)
