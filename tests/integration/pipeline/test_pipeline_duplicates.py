"""One request, sent twenty times at once by clients that partition differently: one payout."""

from __future__ import annotations

import asyncio
import zlib

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from schemas.topics import topic_name
from tests.integration.pipeline.pipeline_harness import Pipeline, new_id, one_event, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

COPIES = 20


def placed_apart_by_stock_clients(partitions: int) -> str:
    """A payout_id that librdkafka's own hash and the Java client's place in two partitions (L1).

    For one id in `partitions` they agree, and then this test would show nothing.
    """
    while True:
        payout_id = new_id()
        key = payout_id.encode()
        if zlib.crc32(key) % partitions != (murmur2(key) & 0x7FFFFFFF) % partitions:
            return payout_id


def test_twenty_copies_at_once_are_one_payout(running: Pipeline) -> None:
    """L1, P2, P5: the first record owns the payout_id, whichever partition and producer it came from."""
    topic = topic_name("payout_requests", running.prefix)
    stock = [running.new_producer(), running.new_producer(partitioner="murmur2_random")]
    stock.append(running.new_producer(partitioner="random"))
    payout_id = placed_apart_by_stock_clients(len(stock[0].list_topics(topic, timeout=20).topics[topic].partitions))
    copies = [running.encode("PayoutRequest", running.request(payout_id)) for _ in range(COPIES)]
    assert len(set(copies)) == COPIES, "each is encrypted anew"
    key = payout_id.encode()

    async def produce_with_aiokafka(values: list[bytes]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=running.bootstrap_servers, enable_idempotence=True) as producer:
            await asyncio.gather(*[producer.send_and_wait(topic, value, key) for value in values])

    for number, value in enumerate(copies[: COPIES // 2]):
        stock[number % len(stock)].produce(topic, value, key)
    running.loop.run(produce_with_aiokafka(copies[COPIES // 2 :]))
    for producer in stock:
        assert producer.flush(20) == 0

    placed = running.events_of("payout_requests", payout_id)
    assert len(placed) == COPIES
    assert len({record.partition for record in placed}) > 1, "the clients partitioned differently"
    running.wait_row(payout_id, state="PAID")

    def repeats() -> list[dict[str, object]]:
        found = running.fetch("SELECT * FROM intake WHERE payout_id = $1", payout_id)
        return found if len(found) == COPIES - 1 else []

    assert {row["disposition"] for row in until("every other copy", repeats)} == {"REPEAT"}
    assert len(running.approved(payout_id)) == 1
    assert [call["operation"] for call in running.visa_requests(payout_id)].count("push") == 1
    assert one_event(running.events_of("payout_results", payout_id))
