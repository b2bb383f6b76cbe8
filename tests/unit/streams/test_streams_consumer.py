"""K1, K8: what Faust commits is what our windows say; its own arithmetic takes no part in it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as AioTP
from faust.types import TP

from streams import kafka_app
from streams.kafka_app import Offsets, OrderedConsumer, PayoutsApp, create_app
from streams.settings import Profile, Settings
from streams.topic_ids import note_of

PLACE = TP("payout_requests", 0)
SLOT = ("payout_requests", 0)


@dataclass(eq=False)
class Message:
    """What Faust acknowledges."""

    offset: int
    tp: TP = PLACE
    topic: str = PLACE.topic
    acked: bool = False


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[PayoutsApp]:
    """An application that nobody starts."""
    monkeypatch.setattr(OrderedConsumer, "assignment", lambda _: {PLACE})
    made = create_app(Settings(payouts_profile=Profile.TEST), "worker-1")
    made.committable = lambda _: None
    loops: list[Any] = []
    new_thread = OrderedConsumer._new_consumer_thread

    def noted(consumer: OrderedConsumer) -> Any:
        thread = new_thread(consumer)
        loops.append(thread.thread_loop)
        return thread

    monkeypatch.setattr(OrderedConsumer, "_new_consumer_thread", noted)
    yield made
    for loop in loops:
        loop.close()


def consumer_of(app: PayoutsApp) -> Any:
    consumer = app.consumer
    assert isinstance(consumer, OrderedConsumer)
    return consumer


async def test_neither_acknowledgements_nor_gaps_of_faust_move_the_commit(app: PayoutsApp) -> None:
    """K8: stock Faust would commit 106 here, with 100 in work and a hole that nobody looked into."""
    consumer = consumer_of(app)
    app.offsets.sought({SLOT: 100})
    for offset in (101, 105):
        message = Message(offset)
        assert consumer.ack(message)
        assert not consumer.ack(message), "twice is once"
    await consumer._add_gap(PLACE, 102, 105)
    assert consumer._filter_committable_offsets([PLACE]) == {}
    assert (dict(consumer._acked), dict(consumer._gap)) == ({}, {})


async def test_the_windows_say_what_is_committed_and_only_what_is_news(app: PayoutsApp) -> None:
    """K1: the tracked offset is what the broker confirmed, so a failed commit is tried again."""
    consumer = consumer_of(app)
    app.committable = {SLOT: 104}.get
    places = list(consumer._filter_tps_with_pending_acks())
    assert consumer._filter_committable_offsets(places) == {}, "not ours yet"
    app.offsets.sought({SLOT: None})
    assert consumer._filter_committable_offsets(places) == {PLACE: 104}
    taken: list[Mapping[TP, int]] = []

    async def commit(offsets: Mapping[TP, int]) -> bool:
        taken.append(offsets)
        return len(taken) > 1

    consumer._thread = SimpleNamespace(commit=commit)
    assert not await consumer._commit({PLACE: 104})
    assert consumer._filter_committable_offsets(places) == {PLACE: 104}
    assert await consumer._commit({PLACE: 104})
    assert consumer._filter_committable_offsets(places) == {}
    assert app.offsets.committed == {SLOT: 104}


async def test_going_back_goes_to_the_beginning_where_nothing_was_committed(app: PayoutsApp) -> None:
    """K8: Faust would stay where it is, behind records that it fetched and dropped."""
    consumer = consumer_of(app)
    other, empty = TP("payout_requests", 1), TP("payout_requests", 2)
    began: list[Any] = []

    async def committed() -> Mapping[TP, int | None]:
        return {PLACE: 7, other: None, empty: 0}

    async def beginning(*places: Any) -> None:
        began.extend(places)

    consumer._thread = SimpleNamespace(seek_to_committed=committed, seek_to_beginning=beginning)
    await consumer.seek_to_committed()
    assert {(place.topic, place.partition) for place in began} == {("payout_requests", 1), ("payout_requests", 2)}
    assert [app.offsets.first(("payout_requests", number)) for number in range(4)] == [7, 0, 0, None]


def test_what_was_confirmed_after_the_partition_was_lost_changes_nothing() -> None:
    """K1: an answer from before belongs to nobody; and a bookmark never moves backwards by a late one."""
    offsets = Offsets()
    offsets.sought({SLOT: 5})
    offsets.confirmed({SLOT: 9})
    offsets.confirmed({SLOT: 7})
    assert (offsets.committed, offsets.first(SLOT)) == ({SLOT: 9}, 5)
    offsets.forget()
    offsets.confirmed({SLOT: 11})
    assert (offsets.committed, offsets.first(SLOT), offsets.may_commit(SLOT, 12)) == ({}, None, False)


def test_a_log_that_was_cut_off_is_committed_from_its_beginning() -> None:
    """K8: else nothing would be committed until it is as long as it was; a partition that is not ours is none."""
    offsets = Offsets()
    offsets.sought({SLOT: 300})
    assert not offsets.may_commit(SLOT, 4)
    offsets.went_back(SLOT)
    offsets.went_back(("payout_requests", 1))
    assert offsets.may_commit(SLOT, 4)
    offsets.confirmed({SLOT: 4})
    assert (offsets.committed, offsets.first(SLOT)) == ({SLOT: 4}, 0)


class Coordinated:
    """What Faust's thread asks of aiokafka's consumer."""

    def __init__(self, committed: Mapping[AioTP, OffsetAndMetadata], refuses: bool = False) -> None:
        self.committed = dict(committed)
        self.refuses = refuses
        self.sought: dict[AioTP, int] = {}
        self._coordinator = self

    def assignment(self) -> set[AioTP]:
        return {AioTP("payout_requests", number) for number in range(4)}

    async def fetch_committed_offsets(self, places: list[AioTP]) -> Mapping[AioTP, OffsetAndMetadata]:
        assert set(places) == self.assignment()
        return self.committed

    async def commit(self, offsets: Mapping[AioTP, OffsetAndMetadata]) -> None:
        if self.refuses:
            raise CommitFailedError
        self.committed |= offsets

    def seek(self, place: AioTP, offset: int) -> None:
        self.sought[place] = offset


@pytest.mark.parametrize("refuses", [False, True])
async def test_an_offset_of_a_topic_that_is_gone_counts_for_nothing(app: PayoutsApp, *, refuses: bool) -> None:
    """K8: it would skip as many records of the new one. It is replaced at once; if not, it counts no more next time."""
    app.topic_id = {"payout_requests": "new"}.get  # type: ignore[assignment]
    thread = consumer_of(app)._thread
    of_old, of_new, unsaid, none = (AioTP("payout_requests", number) for number in range(4))
    thread._consumer = found = Coordinated(
        {
            of_old: OffsetAndMetadata(300, note_of("old")),
            of_new: OffsetAndMetadata(7, note_of("new")),
            unsaid: OffsetAndMetadata(9, ""),
            none: OffsetAndMetadata(-1, ""),
        },
        refuses,
    )
    starts = await thread._seek_to_committed()
    assert starts == {of_old: None, of_new: 7, unsaid: 9, none: None}
    assert found.sought == {of_new: 7, unsaid: 9}
    assert found.committed[of_old].offset == (300 if refuses else 0)


async def test_a_commit_names_the_topic_that_it_is_for(app: PayoutsApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """K8: whoever reads it later can tell whether it is for the topic of that name."""
    app.topic_id = {"payout_requests": "new"}.get  # type: ignore[assignment]
    taken: list[Mapping[AioTP, OffsetAndMetadata]] = []

    async def commit(_: Any, offsets: Mapping[AioTP, OffsetAndMetadata]) -> None:
        taken.append(offsets)

    monkeypatch.setattr(aiokafka.AIOKafkaConsumer, "commit", commit)
    made = consumer_of(app)._thread._create_worker_consumer(app.transport)
    made._closed = True  # it was never started
    await made.commit({AioTP("payout_requests", 0): OffsetAndMetadata(7, "")})
    assert taken == [{AioTP("payout_requests", 0): OffsetAndMetadata(7, note_of("new"))}]


async def test_only_committed_records_are_read_and_little_ahead(app: PayoutsApp) -> None:
    """K8: who took his transaction back asked for nothing; the memory is bounded whatever the backlog."""
    thread = consumer_of(app)._thread
    made = thread._create_worker_consumer(app.transport)
    made._closed = True  # it was never started
    assert made._isolation_level == "read_committed"
    assert made._fetch_max_bytes == kafka_app.FETCH_BYTES_MAX
    assert app.conf.consumer_max_fetch_size == kafka_app.FETCH_PARTITION_BYTES_MAX
    assert kafka_app.MAX_POLL_RECORDS * 5 <= kafka_app.STREAM_BUFFER_MAX


async def test_the_last_partition_that_is_read_stays_so(app: PayoutsApp) -> None:
    """Throughput: with none left Faust sleeps for a second, whatever waits."""
    consumer = consumer_of(app)
    app._tables = SimpleNamespace(changelog_topics=set())  # type: ignore[assignment]
    other = TP("payout_requests", 1)
    consumer._active_partitions = {PLACE, other}
    consumer.on_buffer_full(PLACE)
    consumer.on_buffer_full(other)
    assert consumer._active_partitions == {other}


async def test_a_long_pause_never_makes_the_consumer_leave_its_group(app: PayoutsApp) -> None:
    """K5, P1: with the shipped 1,000 s a longer outage ended in a worker that waited for its partitions for ever.

    Found by a pause of three such intervals, shortened to five seconds, on a real broker: it never came back.
    """
    made = consumer_of(app)._thread._create_worker_consumer(app.transport)
    made._closed = True  # it was never started
    year_ms = 365 * 86_400 * 1000
    assert made._max_poll_interval_ms > year_ms


async def test_e5_k8_a_partition_whose_agent_stands_is_not_fetched_and_what_was_fetched_is_not_dropped(
    app: PayoutsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E5, K8: Faust skips fetched records of a paused partition, which would be a hole; of a buffered one it does not.

    Room in the buffer does not end it, the mode does; and a partition that was lost meanwhile is not asked for again.
    """
    other, lost = TP("payout_retry", 0), TP("payout_requests", 1)
    monkeypatch.setattr(OrderedConsumer, "assignment", lambda _: {PLACE, other})
    consumer = consumer_of(app)
    consumer._active_partitions = {PLACE, other, lost}
    standing = {"payout_requests"}
    app.stands = standing.__contains__
    app.stand(("payout_requests", 0))
    app.stand(("payout_requests", 1))
    assert consumer._get_active_partitions() == {other}
    assert {PLACE, lost} <= consumer._buffered_partitions, "what is fetched already is handed out"
    consumer.on_buffer_drop(PLACE)
    assert consumer._get_active_partitions() == {other}
    standing.clear()
    app.go_on()
    assert consumer._get_active_partitions() == {PLACE, other}
    app.stand(("payout_requests", 0))
    assert consumer._get_active_partitions() == {PLACE, other}, "who looked before the mode opened stops nothing"


async def test_e5_a_mode_that_changes_before_the_consumer_has_started_ends_nothing(app: PayoutsApp) -> None:
    """E5, K5: a worker that starts while the broker is away has no assignment yet that could be asked for."""
    assert not consumer_of(app)._buffered_partitions
    app.go_on()
