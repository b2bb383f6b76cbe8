"""Everything is read again, everything is said twice, the same id comes from everywhere at once: one payment each."""

from __future__ import annotations

import asyncio
import itertools
import os

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.topics import READ_BY_WORKERS, TOPICS, topic_name
from tests.faults.mixed_payouts import bring_to_their_ends, look, wait_until_read
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import Pipeline, assert_paid_once, new_id, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

WRITTEN_BY_ANYBODY = tuple(TOPICS)
SAME_IDS = int(os.environ.get("FAULTS_SAME_IDS", "20"))
"""Enough for every change; FAULTS_SAME_IDS=1000 takes minutes."""
COPIES = 50
LIMIT_SECONDS = 60.0 + SAME_IDS * COPIES / 50


@pytest.fixture(scope="module")
def ended(make_pipeline: MakePipeline) -> tuple[Pipeline, list[str]]:
    """Payouts of every end, and nothing under way."""
    pipeline = make_pipeline()
    pipeline.worker("first").wait_until_assigned()
    return pipeline, bring_to_their_ends(pipeline)


def test_every_topic_is_replayed_from_its_beginning(ended: tuple[Pipeline, list[str]]) -> None:
    """K1, P2, P4: offsets back to the earliest while the group is empty; the ledger knows better than the log."""
    pipeline, payout_ids = ended
    before = look(pipeline, payout_ids)
    assert pipeline.workers[-1].terminate() == 0
    places = [
        TopicPartition(topic_name(topic, pipeline.prefix), partition, 0)
        for topic in READ_BY_WORKERS
        for partition in range(3)
    ]
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers, "log_level": 0})
    request = ConsumerGroupTopicPartitions(f"{pipeline.prefix}payouts", places)
    for future in admin.alter_consumer_group_offsets([request]).values():
        future.result(20)
    assert pipeline.committed("payout_requests", 0) == 0
    pipeline.worker("second").wait_until_assigned()
    wait_until_read(pipeline, list(READ_BY_WORKERS))
    assert look(pipeline, payout_ids) == before
    assert_nothing_was_sent_again(pipeline, payout_ids)


def test_every_record_of_every_topic_is_doubled(ended: tuple[Pipeline, list[str]]) -> None:
    """K3, P2, P4, P5: the same bytes under the same key and headers, once more, in our topics and in the others'."""
    pipeline, payout_ids = ended
    pipeline.supervise()
    if not any(worker.process.is_running for worker in pipeline.workers):
        pipeline.worker("third").wait_until_assigned()
    before = look(pipeline, payout_ids)
    doubles = [record for topic in WRITTEN_BY_ANYBODY for record in pipeline.events(topic)]
    producer = pipeline.new_producer()
    for record in doubles:
        producer.produce(record.topic, record.value, record.key, headers=list(record.headers.items()))
    assert producer.flush(30) == 0
    wait_until_read(pipeline, list(READ_BY_WORKERS))
    assert look(pipeline, payout_ids) == before
    assert_nothing_was_sent_again(pipeline, payout_ids)


def assert_nothing_was_sent_again(pipeline: Pipeline, payout_ids: list[str]) -> None:
    """P2, S3: by the stand-in's own list of what reached it, every payment belongs to an attempt of the row's."""
    rows = {row["payout_id"]: row["attempts"] for row in pipeline.fetch("SELECT payout_id, attempts FROM payouts")}
    for payout_id in payout_ids:
        calls = pipeline.visa_requests(payout_id)
        pushes = [call for call in calls if call["operation"] in ("push", "account_send")]
        assert len(pushes) == rows[payout_id], payout_id


@pytest.mark.timeout(3 * LIMIT_SECONDS)
def test_one_id_from_many_clients_at_once(make_pipeline: MakePipeline) -> None:
    """L1, P2, P5: 50 copies of each id by clients whose partitioners differ; one with another amount is refused."""
    pipeline = make_pipeline()
    for name in ("left", "right"):
        pipeline.worker(name)
    for worker in pipeline.workers:
        worker.wait_until_assigned()
    payout_ids = [new_id() for _ in range(SAME_IDS)]
    produce_copies(pipeline, payout_ids)
    pipeline.wait_all(payout_ids, seconds=LIMIT_SECONDS)

    def all_accounted() -> bool:
        rows = pipeline.fetch("SELECT disposition, count(*) AS records FROM intake GROUP BY disposition")
        return {row["disposition"]: row["records"] for row in rows} == {
            "REPEAT": SAME_IDS * (COPIES - 1),
            "REFUSED": SAME_IDS,
        }

    until("every copy accounted for", all_accounted, LIMIT_SECONDS)
    assert_paid_once(pipeline, payout_ids)
    assert len(pipeline.visa_requests()) >= SAME_IDS
    amounts = pipeline.fetch("SELECT DISTINCT amount_minor FROM payouts")
    assert [row["amount_minor"] for row in amounts] == [2500], "the first content owns the id"
    refusals = {record.key for record in pipeline.events("payout_refusals")}
    assert refusals == {payout_id.encode() for payout_id in payout_ids}


def produce_copies(pipeline: Pipeline, payout_ids: list[str]) -> None:
    """Half of the copies by librdkafka with three partitioners, half by aiokafka; then one each with more money."""
    topic = topic_name("payout_requests", pipeline.prefix)
    partitioners = ("consistent_random", "murmur2_random", "fnv1a_random")
    producers = [pipeline.new_producer(partitioner=name) for name in partitioners]
    encoded = {payout_id: pipeline.encode("PayoutRequest", pipeline.request(payout_id)) for payout_id in payout_ids}

    async def by_aiokafka() -> None:
        async with AIOKafkaProducer(bootstrap_servers=pipeline.bootstrap_servers, enable_idempotence=True) as client:
            copies = [(encoded[name], name.encode()) for name in payout_ids for _ in range(COPIES // 2)]
            await asyncio.gather(*[client.send_and_wait(topic, value, key) for value, key in copies])

    turns = itertools.cycle(producers)
    for _ in range(COPIES - COPIES // 2):
        for payout_id in payout_ids:
            next(turns).produce(topic, encoded[payout_id], payout_id.encode())
    pipeline.loop.run(by_aiokafka(), LIMIT_SECONDS)
    for producer in producers:
        assert producer.flush(LIMIT_SECONDS) == 0
    count = "SELECT count(*) AS rows FROM payouts"
    until("every id has a row", lambda: pipeline.fetch(count)[0]["rows"] == len(payout_ids), LIMIT_SECONDS)
    for payout_id in payout_ids:
        pipeline.send(pipeline.request(payout_id, amount_minor=999_900))
