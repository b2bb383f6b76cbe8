"""The Faust application, with what stock Faust lacks (see ARCHITECTURE.md, "Faust").

Idempotent producer forced on; acknowledgement windows reset before Faust's own revoke handling; a bounded drain at
shutdown instead of an unbounded wait; no tables, no leader topic, no web server, no topic creation. What is committed
is what our windows say (rules K1, K8): Faust's own arithmetic of acknowledgements and gaps takes no part in it.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import aiokafka.conn
import faust
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.holes import Slot
from streams.settings import Settings
from streams.topic_ids import is_of, note_of

log = logging.getLogger(__name__)

COMMIT_INTERVAL_SECONDS = 0.5
"""Bounds the repeats after a kill to what half a second of work acknowledges."""
HEARTBEATS_PER_SESSION = 6
"""Several may be lost before the broker gives the partitions away."""
STREAM_BUFFER_MAX = 500
"""Records fetched and not started, per topic; with MAX_POLL_RECORDS it bounds memory whatever the backlog."""
MAX_POLL_RECORDS = 100
"""Taken from the fetcher at once. A fifth of the buffer: a topic is paused at four fifths, so one turn still fits."""
FETCH_PARTITION_BYTES_MAX = 262_144
"""Fetched ahead per partition: 84 partitions in one worker are 21 MiB. A longer record still comes, alone."""
FETCH_BYTES_MAX = 8_388_608
"""Of one answer of one broker, before it is split into partitions."""
NEXT_RECORDS_SECONDS = 0.1
"""A topic whose buffer became free waits until the question for the other topics' records has ended."""
POLL_INTERVAL_SECONDS = 366 * 86_400.0
"""Never leave the group for being silent: after a pause that was longer than this interval (shipped: 1,000 s) aiokafka
waits for Faust to ask for records before it joins again, and Faust for partitions before it asks: for ever. Our own
watchdog ends a worker that stands still (rule K5)."""
REPLACE_SECONDS = 5.0
"""aiokafka repeats a commit for as long as the topic is away; an assignment must not wait for that."""
PRODUCER_LINGER_SECONDS = 0.002
PRODUCER_END_SECONDS = 3.0
"""For each of the producer's last steps; a supervisor kills what does not leave in time."""


class Offsets:
    """Where reading began in each partition that is ours, and what is committed since, as the broker confirmed it."""

    def __init__(self) -> None:
        self._first: dict[Slot, int] = {}
        self._committed: dict[Slot, int] = {}

    @property
    def committed(self) -> dict[Slot, int]:
        """The committed offset of every partition that is ours; 0 where nothing was ever committed."""
        return dict(self._committed)

    def may_commit(self, slot: Slot, offset: int) -> bool:
        """Whether this would be news to the broker, and the partition is ours."""
        committed = self._committed.get(slot)
        return committed is not None and offset > committed

    def first(self, slot: Slot) -> int | None:
        """The committed offset at which reading began, or went back to, last."""
        return self._first.get(slot)

    def sought(self, found: Mapping[Slot, int | None]) -> None:
        """Reading goes on at the committed offsets; these partitions are ours, and no others."""
        self._first = {slot: max(0, offset or 0) for slot, offset in found.items()}
        self._committed = dict(self._first)

    def went_back(self, slot: Slot) -> None:
        """Reading goes on before the committed offset: the log was cut off, and gives its offsets anew."""
        if slot in self._committed:
            self._first[slot] = self._committed[slot] = 0

    def confirmed(self, offsets: Mapping[Slot, int]) -> None:
        """The broker took a commit. An answer that comes after the partition was lost changes nothing."""
        for slot, offset in offsets.items():
            if slot in self._committed:
                self._committed[slot] = max(self._committed[slot], offset)

    def forget(self) -> None:
        """No partition is ours."""
        self._first.clear()
        self._committed.clear()


class OrderedConsumerThread(driver.AIOKafkaConsumerThread):
    """Reads committed records only, and little ahead; its commits name the topic that they are for (rule K8)."""

    @property
    def _payouts(self) -> "PayoutsApp":
        return cast("PayoutsApp", self.app)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        plain_commit = consumer.commit

        async def commit(offsets: Mapping[Any, OffsetAndMetadata]) -> None:
            await plain_commit(self._noted({place: found.offset for place, found in offsets.items()}))

        consumer.commit = commit
        # Faust has no settings for these; they are read when the consumer starts. An originator who took his
        # transaction back has asked for nothing.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_bytes = FETCH_BYTES_MAX
        return consumer

    async def seek_to_committed(self) -> Mapping[TP, Any]:
        """As Faust's, but for offsets that were committed for a topic that is gone: these are none."""
        found: Mapping[TP, Any] = await self.call_thread(self._seek_to_committed)
        return found

    async def _seek_to_committed(self) -> Mapping[TP, int | None]:
        consumer = self._ensure_consumer()
        places = list(consumer.assignment())
        committed = await consumer._coordinator.fetch_committed_offsets(places)
        foreign = [p for p in places if p in committed and not is_of(committed[p].metadata, self._topic_id(p.topic))]
        if foreign:
            await self._begin_anew(foreign)
        counting = {p: found.offset for p, found in committed.items() if found.offset > 0 and p not in foreign}
        for place, offset in counting.items():
            consumer.seek(place, offset)
        return {place: counting.get(place) for place in places}

    async def _begin_anew(self, places: Sequence[Any]) -> None:
        """Replace what was committed for another topic of that name; if that fails, the next assignment does it."""
        where = ", ".join(f"{place.topic}-{place.partition}" for place in sorted(places))
        log.critical("the topic was made anew: its records are read from the first one on", extra={"partitions": where})
        nothing_read = {place: OffsetAndMetadata(0, "") for place in places}
        try:
            await asyncio.wait_for(self._ensure_consumer().commit(nothing_read), REPLACE_SECONDS)
        except (KafkaError, TimeoutError) as error:
            log.warning("offsets of the old topic not replaced now", extra={"error": type(error).__name__})

    def _noted(self, offsets: Mapping[Any, int]) -> dict[Any, OffsetAndMetadata]:
        notes = {place: note_of(self._topic_id(place.topic)) for place in offsets}
        return {place: OffsetAndMetadata(offset, notes[place]) for place, offset in offsets.items()}

    def _topic_id(self, topic: str) -> str:
        return self._payouts.topic_id(topic)


class OrderedConsumer(driver.Consumer):
    """Commits what the acknowledgement windows say, and nothing else.

    Stock Faust commits past an event in work, and past a hole that nobody looked into (rule K8): its own lists of
    acknowledged offsets and gaps stay empty here.
    """

    @property
    def _payouts(self) -> "PayoutsApp":
        return cast("PayoutsApp", self.app)

    def _new_consumer_thread(self) -> OrderedConsumerThread:
        return OrderedConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def ack(self, message: Any) -> bool:
        """Faust's own bookkeeping of events that are finished; offsets are none of it."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """A gap is not handled because it is a gap: the window's hole is judged."""

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in self.assignment() if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self._payouts.committable((tp.topic, tp.partition))

    def _should_commit(self, tp: TP, offset: int) -> bool:
        return self._payouts.offsets.may_commit((tp.topic, tp.partition), offset)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        begun = time.monotonic()
        done = False
        try:
            done = bool(await super()._commit(offsets))
        finally:
            self._payouts.on_commit(time.monotonic() - begun, done)
        if done:
            self._payouts.offsets.confirmed({(tp.topic, tp.partition): offset for tp, offset in offsets.items()})
        return done

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go back to the committed offsets, and to the beginning where there is none: Faust would stay where it is."""
        found = await super().seek_to_committed()
        uncommitted = [tp for tp, offset in found.items() if not offset or offset < 0]
        if uncommitted:
            await self._thread.seek_to_beginning(*driver.ensure_aiokafka_TPset(uncommitted))
        self._payouts.offsets.sought({(tp.topic, tp.partition): offset for tp, offset in found.items()})
        return found

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's signature
        """Records as they come; asked again often, because the question leaves out what is paused at its beginning."""
        self._payouts.polled_at = time.monotonic()
        async for place_and_message in super().getmany(min(timeout, NEXT_RECORDS_SECONDS)):
            yield place_and_message

    def on_buffer_full(self, tp: TP) -> None:
        """The last partition that is read stays so: without one, Faust sleeps for a second. It waits for room."""
        if len(self._get_active_partitions()) > 1:
            super().on_buffer_full(tp)

    def on_buffer_drop(self, tp: TP) -> None:
        """There is room again; where the mode lets nothing be taken, nothing more is fetched all the same."""
        if not self._payouts.stands(tp.topic):
            super().on_buffer_drop(tp)

    def stand(self, tp: TP) -> None:
        """Fetch no more of a partition whose agent stands (rule L9). What is fetched already is still handed out.

        Not Faust's own pause: that one drops what is fetched, which would be a hole. The group hears nothing of it.
        """
        super().on_buffer_full(tp)

    def go_on(self) -> None:
        """Fetch again whatever has an agent that takes records."""
        if not self._buffered_partitions:
            return  # before the consumer has started, there is no assignment that could be asked for
        for tp in self._buffered_partitions & self.assignment():
            self.on_buffer_drop(tp)


class SteadyConnection(aiokafka.conn.AIOKafkaConnection):  # type: ignore[misc]  # the library has no types
    """A connection that is lost while it is written to is lost, and nothing more.

    uvloop raises RuntimeError there, which aiokafka does not expect: it ended the producer's sender for ever.
    """

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """See aiokafka. Raises KafkaConnectionError, which every caller there tries again after."""
        try:
            return super().send(request, expect_response)
        except RuntimeError as error:
            self.close(reason=aiokafka.conn.CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"connection at {self.host}:{self.port} broken: {error}") from error


async def _at_most(work: Awaitable[None], otherwise: str) -> None:
    try:
        await asyncio.wait_for(work, PRODUCER_END_SECONDS)
    except TimeoutError:
        log.warning(otherwise, extra={"seconds": PRODUCER_END_SECONDS})


class IdempotentProducer(driver.Producer):
    """aiokafka's retries may neither duplicate nor reorder our events."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def on_start(self) -> None:
        """Watch the task that sends: without it every publish fails for ever while the partitions stay ours."""
        await super().on_start()
        self._ensure_producer()._sender.sender_task.add_done_callback(self._sender_ended)

    async def flush(self) -> None:
        """For a bounded time: whatever of ours is still on its way has somebody who waits for its confirmation."""
        await _at_most(super().flush(), "producer not flushed")

    async def on_stop(self) -> None:
        """For a bounded time: with a broker away aiokafka would wait for it."""
        await _at_most(super().on_stop(), "producer not stopped")

    def _sender_ended(self, task: asyncio.Task[None]) -> None:
        if not self.should_stop and not task.cancelled():
            cast("PayoutsApp", self.app).on_sender_ended(task.exception())


class PayoutsApp(faust.App):
    """One worker. `on_lost` forgets lost partitions; `on_begin` and `on_end` open and close our parts.

    `committable` says for a partition what may be committed; `offsets` knows what is; `topic_id` for which topic.
    """

    offsets: Offsets
    stands: Callable[[str], bool]
    """Whether the mode lets nothing be taken from this topic (rule L9)."""
    committable: Callable[[Slot], int | None]
    topic_id: Callable[[str], str]
    """Of a topic by its name on the cluster, as it was when this worker began; empty when not known."""
    on_lost: Callable[[Iterable[tuple[str, int]]], None]
    on_sender_ended: Callable[[BaseException | None], None]
    """The producer can send nothing any more (rule K5)."""
    on_commit: Callable[[float, bool], None]
    """Hears how long a commit of offsets took, and whether the broker took it."""
    polled_at: float | None = None
    """When records were last asked for, on the monotonic clock."""
    on_begin: Callable[[], Awaitable[None]]
    on_end: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]]

    async def on_first_start(self) -> None:
        """Open the ledger and Visa before the first record is fetched. Faust would only make a table directory here."""
        await self.on_begin()

    @property
    def is_producing(self) -> bool:
        """Whether there is a producer whose sending task lives; without a broker it lives and tries again."""
        producer = self._producer
        sender = getattr(getattr(getattr(producer, "_producer", None), "_sender", None), "sender_task", None)
        return sender is not None and not sender.done()

    async def _on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.offsets.forget()
        self.on_lost((tp.topic, tp.partition) for tp in revoked)
        await super()._on_partitions_revoked(revoked)

    async def on_stop(self) -> None:
        """Finish what is in work for a bounded time, commit it, then leave the group."""
        await self.drain()
        consumer = self._consumer
        if consumer is not None:
            try:
                await asyncio.wait_for(consumer.commit(), timeout=5.0)
            except Exception as error:  # noqa: BLE001 - leaving without the commit only repeats work
                log.warning("last commit not possible", extra={"error": type(error).__name__})
        await super().on_stop()
        await self.on_end()

    def stand(self, slot: Slot) -> None:
        """See `OrderedConsumer.stand`. Not if the mode has opened since the caller looked: nobody would undo it."""
        if self._consumer is not None and self.stands(slot[0]):
            cast("OrderedConsumer", self._consumer).stand(TP(*slot))

    def go_on(self) -> None:
        """See `OrderedConsumer.go_on`."""
        if self._consumer is not None:
            cast("OrderedConsumer", self._consumer).go_on()

    async def send_record(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> Awaitable[Any]:
        """Hand a record to the producer; the result ends when the broker has it."""
        producer = await self.maybe_start_producer()
        confirmation: Awaitable[Any] = await producer.send(topic, key, value, None, None, list(headers))
        return confirmation


def create_app(settings: Settings, worker_name: str) -> PayoutsApp:
    """An application without agents; `streams.bootstrap` adds them."""
    brokers = [f"kafka://{address.strip()}" for address in settings.kafka_bootstrap_servers.split(",")]
    session = settings.session_timeout_seconds
    app = PayoutsApp(
        settings.group,
        broker=brokers,
        broker_credentials=_credentials(settings),
        broker_client_id=f"{settings.group}-{worker_name}",
        processing_guarantee="at_least_once",
        broker_session_timeout=session,
        broker_heartbeat_interval=session / HEARTBEATS_PER_SESSION,
        broker_rebalance_timeout=settings.rebalance_timeout_seconds,
        broker_request_timeout=max(90.0, settings.rebalance_timeout_seconds + 10.0),
        broker_commit_interval=COMMIT_INTERVAL_SECONDS,
        broker_max_poll_interval=POLL_INTERVAL_SECONDS,
        broker_max_poll_records=MAX_POLL_RECORDS,
        consumer_max_fetch_size=FETCH_PARTITION_BYTES_MAX,
        broker_check_crcs=True,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=STREAM_BUFFER_MAX,
        stream_wait_empty=False,
        producer_linger=PRODUCER_LINGER_SECONDS,
        producer_request_timeout=max(5.0, settings.unconfirmed_seconds * 4),
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        autodiscover=False,
    )
    app.offsets = Offsets()
    app.topic_id = lambda _: ""
    app.stands = lambda _: False
    app.on_commit = lambda _seconds, _done: None
    aiokafka.conn.AIOKafkaConnection = SteadyConnection
    app.transport.Producer = IdempotentProducer  # type: ignore[misc]
    app.transport.Consumer = OrderedConsumer  # type: ignore[misc]
    return app


def _credentials(settings: Settings) -> SSLCredentials | SASLCredentials | None:
    if settings.kafka_security_protocol == "PLAINTEXT":
        return None
    context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_path)
    if settings.kafka_ssl_certificate_path is not None:
        context.load_cert_chain(settings.kafka_ssl_certificate_path, settings.kafka_ssl_key_path)
    if settings.kafka_security_protocol == "SSL":
        return SSLCredentials(context)
    password = settings.kafka_sasl_password
    return SASLCredentials(
        username=settings.kafka_sasl_username,
        password=password.get_secret_value() if password else None,
        mechanism=settings.kafka_sasl_mechanism,
        ssl_context=context,
    )
