"""Kafka for the commands: client settings, the administrator, a reader without a group, a producer that waits.

Nothing here joins the consumer group or commits an offset: looking never changes where the workers stand.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from ops.failures import CommandFailed, unreachable
from ops.redaction import redacted
from schemas.topics import TOPICS, topic_name
from streams.settings import Settings

CLIENT_ID: Final = "payouts-command"
# A healthy broker answers in milliseconds; a first connection with TLS and SASL in less than two seconds.
LEADER_POLL_SECONDS: Final = 0.05
LEADER_IS_COMING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
)
"""What a broker says of a partition that it does not lead yet; the client marks only transactional errors retriable."""
ADMIN_SECONDS: Final = 10.0
# A leader may be elected while we wait; idempotence makes the broker keep one copy of whatever is tried again.
DELIVERY_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.2
# Our largest record is 256 KiB; this many of them fit the memory of any machine that runs a command.
QUEUED_RECORDS_MAX: Final = 1000
QUEUED_KIBIBYTES_MAX: Final = 65_536
# The broker's own limit for our topics; the codec refuses everything over 256 KiB before.
PRODUCED_BYTES_MAX: Final = 1_000_000

Result = TypeVar("Result")
Place = tuple[str, int]
"""A partition: topic and number."""

# librdkafka writes to stderr by itself; its lines would mix with ours and repeat what the exception says.
_library_log = logging.getLogger("ops.kafka.library")
_library_log.addHandler(logging.NullHandler())
_library_log.propagate = False


def client_config(settings: Settings) -> dict[str, Any]:
    """What every client of this cluster needs. Holds the password: never print it."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
        "client.id": CLIENT_ID,
        "socket.timeout.ms": round(ADMIN_SECONDS * 1000),
        "logger": _library_log,
        "error_cb": _ignore_error,
    }
    if settings.kafka_security_protocol != "PLAINTEXT":
        config |= _present(
            {
                "ssl.ca.location": settings.kafka_ssl_ca_path,
                "ssl.certificate.location": settings.kafka_ssl_certificate_path,
                "ssl.key.location": settings.kafka_ssl_key_path,
            }
        )
    if settings.kafka_security_protocol == "SASL_SSL":
        password = settings.kafka_sasl_password
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config |= _present(
            {
                "sasl.username": settings.kafka_sasl_username,
                "sasl.password": None if password is None else password.get_secret_value(),
            }
        )
    return config


def consumer_config(settings: Settings) -> dict[str, Any]:
    """For a reader that is assigned its partitions: the group's name is demanded by the library and never used."""
    return client_config(settings) | {
        "group.id": f"{CLIENT_ID}-reads-without-a-group",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "queued.min.messages": QUEUED_RECORDS_MAX,
        "queued.max.messages.kbytes": QUEUED_KIBIBYTES_MAX,
    }


def producer_config(settings: Settings) -> dict[str, Any]:
    """Idempotent, acknowledged by all in-sync replicas, keys placed as Java's clients and our workers place them."""
    return client_config(settings) | {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "compression.type": "gzip",
        "linger.ms": 5,
        "message.max.bytes": PRODUCED_BYTES_MAX,
        "delivery.timeout.ms": round(DELIVERY_SECONDS * 1000),
    }


def _present(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _ignore_error(_: KafkaError) -> None:
    """Every call of ours has its own answer or time-out; the library's running commentary adds nothing."""


def reason_of(error: KafkaException | KafkaError) -> str:
    """The library's reason, for people."""
    cause = error.args[0] if isinstance(error, KafkaException) and error.args else error
    if isinstance(cause, KafkaError):
        return redacted(f"{cause.name()}: {cause.str()}")
    return redacted(str(cause))


def connect_admin(settings: Settings) -> AdminClient:
    """An administrator that has reached the cluster. Raises CommandFailed (unreachable)."""
    try:
        admin = AdminClient(client_config(settings))
        admin.list_topics(timeout=ADMIN_SECONDS)
    except KafkaException as error:
        raise unreachable(
            f"Kafka at {redacted(settings.kafka_bootstrap_servers)} cannot be reached",
            why=reason_of(error),
            next_step="check KAFKA_BOOTSTRAP_SERVERS, KAFKA_SECURITY_PROTOCOL and the brokers: `payouts doctor`",
        ) from None
    return admin


def answer(future: "Future[Result]") -> Result:
    """The answer to one question to the administrator. Raises KafkaException, CommandFailed when it takes too long."""
    try:
        return future.result(timeout=ADMIN_SECONDS)
    except TimeoutError:
        raise unreachable(f"Kafka did not answer within {ADMIN_SECONDS:g} s") from None


def partition_counts(admin: AdminClient) -> dict[str, int]:
    """Partitions of every topic on the cluster. Raises KafkaException."""
    topics = admin.list_topics(timeout=ADMIN_SECONDS).topics
    return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}


def our_topics(admin: AdminClient, settings: Settings, names: Iterable[str]) -> dict[str, int]:
    """The cluster's names of these topics of the table, with their partitions. Raises CommandFailed (unreachable)."""
    wanted = [topic_name(name, settings.payouts_topic_prefix) for name in names]
    found = partition_counts(admin)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise unreachable(
            f"the cluster has no topic {', '.join(missing)}",
            why="the topics were not created yet, or PAYOUTS_TOPIC_PREFIX is another one",
            next_step="run `payouts topics ensure`",
        )
    return {name: found[name] for name in wanted}


def all_names(settings: Settings) -> dict[str, str]:
    """Every topic of the table: its name on the cluster to its name in the table."""
    return {topic_name(name, settings.payouts_topic_prefix): name for name in TOPICS}


@dataclass(frozen=True, slots=True)
class Span:
    """What is to be read of one partition: offsets from `first` up to, not including, `end`."""

    topic: str
    partition: int
    first: int
    end: int

    @property
    def is_empty(self) -> bool:
        """Nothing is there to be read."""
        return self.first >= self.end


def wait_until_served(admin: AdminClient, names: Sequence[str]) -> None:
    """Return when every partition of these topics has a leader that answers.

    A creation is acknowledged before the brokers lead the new partitions; until they do, a reader is told "not leader".
    Raises KafkaException for anything that waiting does not cure, CommandFailed after ADMIN_SECONDS.
    """
    deadline = time.monotonic() + ADMIN_SECONDS
    while not _is_served(admin, names):
        if time.monotonic() > deadline:
            raise unreachable(f"the new topics have no leaders after {ADMIN_SECONDS:g} s")
        time.sleep(LEADER_POLL_SECONDS)


def _is_served(admin: AdminClient, names: Sequence[str]) -> bool:
    topics = admin.list_topics(timeout=ADMIN_SECONDS).topics
    if not all(name in topics and topics[name].partitions for name in names):
        return False
    places = [TopicPartition(name, number) for name in names for number in topics[name].partitions]
    question = dict.fromkeys(places, latest_offset())
    for future in admin.list_offsets(question, request_timeout=ADMIN_SECONDS).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() not in LEADER_IS_COMING:
                raise
            return False
    return True


def committed_offsets(
    settings: Settings, places: Sequence[tuple[str, int]], group: str | None = None
) -> dict[tuple[str, int], int]:
    """What the group (None: the workers' own) has committed of these partitions, where it has. Raises KafkaException.

    Asked as a consumer: the administrator's question ends the process when the coordinator moves (librdkafka 5040).
    """
    if not places:
        return {}
    consumer = group_consumer(settings, group)
    try:
        found = consumer.committed([TopicPartition(*place) for place in places], timeout=ADMIN_SECONDS)
    finally:
        consumer.close()
    for place in found:
        if place.error is not None:
            raise KafkaException(place.error)
    return {(place.topic, place.partition): place.offset for place in found if place.offset >= 0}


def group_consumer(settings: Settings, group: str | None = None) -> Consumer:
    """A consumer that asks and commits for the group (None: the workers' own) and never joins it; close it."""
    return Consumer(consumer_config(settings) | {"group.id": group or settings.group})


def earliest_offset() -> OffsetSpec:
    """Asks for the first offset that a partition still has."""
    return OffsetSpec.earliest()  # type: ignore[no-untyped-call,no-any-return]


def latest_offset() -> OffsetSpec:
    """Asks for the end of a partition."""
    return OffsetSpec.latest()  # type: ignore[no-untyped-call,no-any-return]


def offsets(admin: AdminClient, partitions: Sequence[tuple[str, int]], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    """The offset that `spec` asks for, of each partition, as a committed reader sees it. Raises KafkaException."""
    if not partitions:
        return {}
    question = {TopicPartition(topic, number): spec for topic, number in partitions}
    futures = admin.list_offsets(question, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ADMIN_SECONDS)
    return {(place.topic, place.partition): answer(future).offset for place, future in futures.items()}


def spans(
    admin: AdminClient, topics: Mapping[str, int], *, since: datetime | None, only_new: bool = False
) -> list[Span]:
    """What these topics hold now: everything, what is younger than `since`, or nothing yet (`only_new`)."""
    return spans_of(
        admin,
        [(topic, number) for topic, count in topics.items() for number in range(count)],
        since=since,
        only_new=only_new,
    )


def spans_of(
    admin: AdminClient, places: Sequence[tuple[str, int]], *, since: datetime | None, only_new: bool = False
) -> list[Span]:
    """As `spans`, for chosen partitions."""
    ends = offsets(admin, places, latest_offset())
    if only_new:
        firsts = ends
    elif since is None:
        firsts = offsets(admin, places, earliest_offset())
    else:
        milliseconds = max(0, int(since.timestamp() * 1000))
        found = offsets(admin, places, OffsetSpec.for_timestamp(milliseconds))
        # No record is that young: start at the end.
        firsts = {place: offset if offset >= 0 else ends[place] for place, offset in found.items()}
    return [Span(topic, number, firsts[topic, number], ends[topic, number]) for topic, number in places]


@contextlib.contextmanager
def reader(settings: Settings) -> Iterator[Consumer]:
    """A consumer for `records`, closed at the end."""
    consumer = Consumer(consumer_config(settings))
    try:
        yield consumer
    finally:
        consumer.close()


class Reading:
    """Reads spans to their ends, or for ever; `complete` says afterwards whether every end was reached."""

    def __init__(
        self, consumer: Consumer, to_read: Sequence[Span], *, follow: bool, timeout_seconds: float | None
    ) -> None:
        self._consumer = consumer
        self._open = {(span.topic, span.partition): span for span in to_read if follow or not span.is_empty}
        self._follow = follow
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds

    @property
    def complete(self) -> bool:
        """Everything that was to be read was read."""
        return not self._follow and not self._open

    def records(self) -> Iterator[Message]:
        """Every record, in offset order within its partition. Raises CommandFailed when Kafka is away."""
        if not self._open:
            return
        self._consumer.assign(
            [
                TopicPartition(s.topic, s.partition, s.first if s.first >= 0 else OFFSET_BEGINNING)
                for s in self._open.values()
            ]
        )
        while self._open and not self._over():
            record = self._consumer.poll(POLL_SECONDS)
            if record is None:
                continue
            error = record.error()
            if error is not None:
                self._note(record, error)
            else:
                span = self._open.get(place_of(record))
                if span is not None and (self._follow or offset_of(record) < span.end):
                    yield record
                self._close_if_over(record)

    def _over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _close_if_over(self, record: Message) -> None:
        span = self._open.get(place_of(record))
        if not self._follow and span is not None and offset_of(record) + 1 >= span.end:
            self._close(span)

    def _note(self, record: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            span = self._open.get(place_of(record))
            if span is not None and not self._follow:
                self._close(span)
        elif error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT) or error.retriable():
            return
        else:
            raise unreachable("Kafka refuses to be read", why=reason_of(error))

    def _close(self, span: Span) -> None:
        del self._open[span.topic, span.partition]
        self._consumer.pause([TopicPartition(span.topic, span.partition)])


def place_of(record: Message) -> Place:
    """The partition of a record that was read."""
    return record.topic() or "", -1 if (partition := record.partition()) is None else partition


def offset_of(record: Message) -> int:
    """The offset of a record that was read."""
    offset = record.offset()
    return -1 if offset is None else offset


def record_time(record: Message) -> datetime | None:
    """The broker's timestamp of a record."""
    kind, milliseconds = record.timestamp()
    if kind == TIMESTAMP_NOT_AVAILABLE or milliseconds < 0:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):  # a producer chose it
        return None


def key_text(record: Message) -> str:
    """The key, if it is text; else nothing."""
    key = record.key()
    if isinstance(key, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            return key.decode()
    return ""


Acknowledged = Callable[[Message], None]


class ConfirmedProducer:
    """Sends records and knows of each whether the brokers have it."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer(producer_config(settings))
        self.acknowledged = 0
        self.unconfirmed: list[str] = []
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why the last unconfirmed record is unconfirmed."""
        return self._reason

    def send(
        self,
        topic: str,
        key: str | bytes | None,
        value: bytes,
        headers: Sequence[tuple[str, bytes]],
        acknowledged: Acknowledged | None = None,
    ) -> None:
        """Hand one record over. Blocks while the queue is full; `acknowledged` is called when the brokers have it."""

        def delivered(error: KafkaError | None, record: Message) -> None:
            if error is not None:
                self.unconfirmed.append(key if isinstance(key, str) else "")
                self._reason = reason_of(error)
                return
            self.acknowledged += 1
            if acknowledged is not None:
                acknowledged(record)

        key_bytes = key.encode() if isinstance(key, str) else key
        while True:
            try:
                self._producer.produce(topic, value, key_bytes, on_delivery=delivered, headers=list(headers))
            except BufferError:
                self._producer.poll(POLL_SECONDS)
            else:
                break
        self._producer.poll(0)

    def finish(self) -> None:
        """Wait until every record is acknowledged or given up; bounded by the delivery time."""
        self._producer.flush(DELIVERY_SECONDS + ADMIN_SECONDS)


def send_one(
    settings: Settings, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
) -> Message:
    """Send one record and wait for it. Raises CommandFailed when the brokers do not confirm it."""
    confirmed: list[Message] = []
    producer = ConfirmedProducer(settings)
    producer.send(topic, key, value, headers, confirmed.append)
    producer.finish()
    if not confirmed:
        raise not_confirmed(producer.reason)
    return confirmed[0]


def not_confirmed(reason: str) -> CommandFailed:
    """The brokers did not confirm a record."""
    return unreachable(
        "Kafka did not confirm the record: whether it has it is not known",
        why=reason,
        next_step="do the same again: a repeat of the same event changes nothing",
    )
