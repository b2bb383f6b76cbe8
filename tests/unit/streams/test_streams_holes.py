"""K8: partitions read a second time, against librdkafka's broker in memory; no network, no server."""

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from streams import holes
from streams.holes import HoleJudge, PartitionReader, Slot, Unreadable
from streams.metrics import Metrics

RECORDS = 20


class Broker:
    """One topic of one partition, with RECORDS records."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "in memory", "log_level": 0})
        (broker,) = self._producer.list_topics(timeout=10).brokers.values()
        self.config = {"bootstrap.servers": f"{broker.host}:{broker.port}"}
        self.slot: Slot = (f"requests-{uuid.uuid4().hex[:6]}", 0)
        for number in range(RECORDS):
            self._producer.produce(self.slot[0], f"value {number}".encode(), f"key-{number}".encode(), partition=0)
        assert self._producer.flush(10) == 0


@pytest.fixture(scope="module")
def broker() -> Broker:
    return Broker()


@pytest.fixture
def reader(broker: Broker) -> Iterator[PartitionReader]:
    with PartitionReader(broker.config) as opened:
        yield opened


def offsets_of(reader: PartitionReader, broker: Broker, first: int, end: int, **bounds: int) -> tuple[list[int], int]:
    limits = {"records_max": 1000, "bytes_max": 1_000_000} | bounds
    span = reader.read(broker.slot, first, end, **limits)
    return [message.offset() or 0 for message in span.records], span.next_offset


def test_a_span_is_read_to_its_end_and_no_further(reader: PartitionReader, broker: Broker) -> None:
    """K9: what lies at or behind the end is not touched; the same reader reads the next span."""
    assert offsets_of(reader, broker, 3, 9) == ([3, 4, 5, 6, 7, 8], 9)
    assert offsets_of(reader, broker, 9, RECORDS) == (list(range(9, RECORDS)), RECORDS)
    assert offsets_of(reader, broker, 5, 5) == ([], 5)
    assert offsets_of(reader, broker, 0, 2) == ([0, 1], 2)


def test_a_span_is_read_in_bounded_parts(reader: PartitionReader, broker: Broker) -> None:
    """K9: whatever the backlog, a batch has its size in records and in bytes."""
    assert offsets_of(reader, broker, 0, RECORDS, records_max=7) == (list(range(7)), 7)
    assert offsets_of(reader, broker, 7, RECORDS, bytes_max=len("value 7") * 2) == ([7, 8], 9)


def test_a_partition_that_ends_before_the_span_is_not_taken_for_empty(reader: PartitionReader, broker: Broker) -> None:
    """K8: a reader that sees less than the first one did has no opinion about what is in between."""
    with pytest.raises(Unreadable, match="before 40"):
        reader.read(broker.slot, RECORDS - 1, 40, records_max=10, bytes_max=1000)


def test_the_first_record_of_each_partition(reader: PartitionReader, broker: Broker) -> None:
    """Design 6: whether work waits is a question of records, not of offsets."""
    assert reader.first_records({broker.slot: 4}) == {broker.slot: 4}
    assert reader.first_records({broker.slot: RECORDS}) == {broker.slot: None}
    assert reader.first_records({}) == {}
    assert reader.earliest(broker.slot) == 0


async def test_a_record_in_a_hole_is_found(broker: Broker) -> None:
    """K8: the first of them is named."""
    judge = HoleJudge(broker.config, Metrics())
    assert await judge(broker.slot, range(5, 8)) == 5


async def test_brokers_that_are_away_leave_a_hole_unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """K5, K8: no answer is no proof of emptiness."""
    monkeypatch.setattr(holes, "READ_SECONDS", 0.5)
    judge = HoleJudge({"bootstrap.servers": "127.0.0.1:9"}, Metrics())
    with pytest.raises(Unreadable):
        await judge(("requests", 0), range(5, 8))
