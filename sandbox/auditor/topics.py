"""Reads every topic once, without a group: what the processor said, and no record that is not searched for numbers.

Everything is read to an end that was fixed before, within a bounded time; what cannot be read completely is an error
and never a verdict. Above some size half of the partitions are read by a second process.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from sys import intern
from typing import Any, Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from sandbox.auditor.evidence import (
    CardPull,
    CompensationDemand,
    CompensationEnd,
    Confirmation,
    Evidence,
    EvidenceIncomplete,
    Position,
    ResultEvent,
    collection_paused,
)
from sandbox.auditor.leak import Artefact, CardNumberSearch
from schemas.codec import Codec, PinnedResolver, RegistryResolver, RegistryUnavailable, Undecodable
from schemas.headers import header_text
from schemas.registry_client import connect
from schemas.topics import TOPICS, topic_name

READ_SECONDS_MAX: Final = 3_600.0
"""All topics together. A record takes about 0.1 ms, decoded and searched: a million payouts take minutes."""
SILENCE_SECONDS_MAX: Final = 60.0
"""Without any record: a partition without a leader is not waited for longer; leaders change in seconds."""
CALL_SECONDS_MAX: Final = 20.0
"""One question to the broker."""
PARALLEL_RECORDS_MIN: Final = 50_000
"""From here on a second process, which takes a second to start, saves time."""
PROGRESS_SECONDS: Final = 5.0
# What a broker says of a partition whose leader is just changing.
LEADER_CHANGES: Final = frozenset(
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART}
)
FETCHED_RECORDS: Final = 1_000
FETCH_SECONDS: Final = 0.1
"""How long the client waits for so many; it waits in vain only at the end."""
# The client fetches ahead at most so much: records in flight must not be what memory goes to.
QUEUED_KIBIBYTES_MAX: Final = 64 * 1024
NAMES_SHOWN_MAX: Final = 5
REQUESTS: Final = "payout_requests"

Header = list[tuple[str, bytes | str | None]]
Say = Callable[[str], None]


class Place(NamedTuple):
    """A partition, with its offsets from the first record to after the last one when the reading began."""

    topic: str
    partition: int
    first: int
    end: int

    @property
    def records(self) -> int:
        """How many there are, if none is missing."""
        return self.end - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the topics are and what is to be looked for in them; crosses to the second process."""

    bootstrap_servers: str
    topic_prefix: str
    schema_registry_url: str | None
    excepted_topics: frozenset[str]
    """Without the prefix."""
    card_numbers: frozenset[str] = field(repr=False)
    transaction_identifiers: frozenset[str]


def read_topics(
    evidence: Evidence,
    search: CardNumberSearch,
    *,
    bootstrap_servers: str,
    topic_prefix: str,
    excepted_topics: Collection[str] = (),
    schema_registry_url: str | None = None,
    say: Say = lambda _: None,
) -> None:
    """Everything of every topic of the table into the evidence; keys, headers and values are searched.

    Not searched are `excepted_topics` (names with or without the prefix). Records acknowledged by `evidence.accepted`
    are looked for. Raises EvidenceIncomplete, RegistryUnavailable, ValueError.
    """
    excepted = frozenset(name.removeprefix(topic_prefix) for name in excepted_topics)
    if unknown := excepted - set(TOPICS):
        raise ValueError(f"excepted_topics names {', '.join(sorted(unknown))}, which is no topic of ours")
    cluster = Cluster(
        bootstrap_servers=bootstrap_servers,
        topic_prefix=topic_prefix,
        schema_registry_url=schema_registry_url,
        excepted_topics=excepted,
        card_numbers=search.card_numbers,
        transaction_identifiers=search.transaction_identifiers,
    )
    deadline = time.monotonic() + READ_SECONDS_MAX
    places = _places(cluster, evidence)
    say(f"topics: {sum(place.records for place in places)} records in {len(places)} partitions")
    ours, theirs = _halves(places, topic_name(REQUESTS, topic_prefix))
    with _Helper(cluster, theirs, deadline) as helper:
        _read_share(cluster, ours, evidence, search, deadline, say)
        evidence.add(helper.found())


def _halves(places: Sequence[Place], requests: str) -> tuple[list[Place], list[Place]]:
    """Two shares of about the same size. The requests are ours: only we know what was acknowledged."""
    ours = [place for place in places if place.topic == requests]
    theirs: list[Place] = []
    if sum(place.records for place in places) < PARALLEL_RECORDS_MIN:
        return list(places), theirs
    sizes = [sum(place.records for place in ours), 0]
    for place in sorted(places, key=lambda place: -place.records):
        if place.topic != requests:
            smaller = 0 if sizes[0] < sizes[1] else 1
            sizes[smaller] += place.records
            (ours, theirs)[smaller].append(place)
    return ours, theirs


class _Helper:
    """A second process that reads a share; started only if there is one, ended whatever happens."""

    def __init__(self, cluster: Cluster, places: list[Place], deadline: float) -> None:
        self._deadline = deadline
        self._process: BaseProcess | None = None
        self._answers: Connection | None = None
        if places:
            # A fork would inherit the Kafka client without its threads.
            context = multiprocessing.get_context("spawn")
            self._answers, theirs = context.Pipe(duplex=False)
            arguments = (theirs, cluster, places, deadline - time.monotonic())
            self._process = context.Process(target=_help, args=arguments, name="auditor-topics", daemon=True)
            self._process.start()
            theirs.close()

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.join(CALL_SECONDS_MAX)
        if self._answers is not None:
            self._answers.close()

    def found(self) -> Evidence:
        """What the share held. Raises EvidenceIncomplete, RegistryUnavailable."""
        if self._answers is None:
            return Evidence(b"")
        try:
            in_time = self._answers.poll(max(0.0, self._deadline - time.monotonic()))
            answer = self._answers.recv() if in_time else EvidenceIncomplete("the second reader took too long")
        except EOFError:
            answer = EvidenceIncomplete("the second reader of the topics ended before it was done: is memory short?")
        if isinstance(answer, Exception):
            raise answer
        found: Evidence = answer
        return found


def _help(answers: Connection, cluster: Cluster, places: list[Place], seconds: float) -> None:
    """The second process."""
    evidence = Evidence(b"")
    try:
        with collection_paused():
            search = CardNumberSearch(cluster.card_numbers, transaction_identifiers=cluster.transaction_identifiers)
            _read_share(cluster, places, evidence, search, time.monotonic() + seconds, lambda _: None)
    except (EvidenceIncomplete, RegistryUnavailable) as error:
        answers.send(type(error)(str(error)))
    else:
        answers.send(evidence)


def _consumer(cluster: Cluster) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": cluster.bootstrap_servers,
            # The client wants a name; nothing joins it and nothing is committed.
            "group.id": f"payouts-auditor-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # Whatever lies in a topic may leak, an aborted transaction's records too.
            "isolation.level": "read_uncommitted",
            # Records that vanish while we read are an error: the client would go on behind them.
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": QUEUED_KIBIBYTES_MAX,
            "log_level": 0,
        }
    )


def _places(cluster: Cluster, evidence: Evidence) -> list[Place]:
    """Partitions that hold anything."""
    consumer = _consumer(cluster)
    topics = [topic_name(name, cluster.topic_prefix) for name in TOPICS]
    try:
        return [place for topic in topics for place in _places_of_topic(consumer, topic, evidence)]
    except KafkaException as error:
        raise EvidenceIncomplete(f"Kafka at {cluster.bootstrap_servers} did not answer: {error}") from error
    finally:
        consumer.close()


def _places_of_topic(consumer: Consumer, topic: str, evidence: Evidence) -> list[Place]:
    described = consumer.list_topics(topic, CALL_SECONDS_MAX).topics[topic]
    if described.error is not None:
        raise EvidenceIncomplete(
            f"topic {topic} cannot be read ({described.error.str()}): is the prefix right, "
            "and did `payouts topics ensure` create the topics?"
        )
    places = []
    for number in described.partitions:
        low, high = _watermarks(consumer, TopicPartition(topic, number))
        if low > 0:
            evidence.broken.append(f"{topic}-{number} begins at offset {low}: older records are gone")
        if high > low:
            places.append(Place(topic, number, low, high))
    return places


def _watermarks(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """First and end offset. A partition whose leader is just changing is asked again, for a bounded time."""
    deadline = time.monotonic() + CALL_SECONDS_MAX
    while True:
        try:
            low, high = consumer.get_watermark_offsets(partition, CALL_SECONDS_MAX, cached=False)
        except KafkaException as error:
            if error.args[0].code() not in LEADER_CHANGES or time.monotonic() > deadline:
                raise EvidenceIncomplete(
                    f"{partition.topic}-{partition.partition} cannot be read ({error.args[0].str()}): "
                    "has it a leader, are all brokers up?"
                ) from error
            time.sleep(FETCH_SECONDS)
        else:
            return low, high


def _read_share(
    cluster: Cluster, places: list[Place], evidence: Evidence, search: CardNumberSearch, deadline: float, say: Say
) -> None:
    """Read some partitions to their ends."""
    consumer = _consumer(cluster)
    try:
        reader = _ShareReader(cluster, places, evidence, search)
        asyncio.run(reader.read(consumer, deadline, say))
    except KafkaException as error:
        raise EvidenceIncomplete(f"Kafka at {cluster.bootstrap_servers} did not answer: {error}") from error
    finally:
        consumer.close()


class _ShareReader:
    def __init__(self, cluster: Cluster, places: list[Place], evidence: Evidence, search: CardNumberSearch) -> None:
        self._prefix = cluster.topic_prefix
        self._registry_url = cluster.schema_registry_url
        self._evidence = evidence
        self._places = {(place.topic, place.partition): place for place in places}
        self._left = dict(self._places)
        self._records_of = dict.fromkeys(self._places, 0)
        self._names = {topic: topic.removeprefix(self._prefix) for topic, _ in self._places}
        self._artefacts = {
            name: Artefact(f"topic {topic}", search)
            for topic, name in self._names.items()
            if name not in cluster.excepted_topics
        }
        # Kept until the request topic has been read: what was acknowledged must be in it.
        self._wanted = {record.position: record.value_sha256 for record in evidence.accepted}
        earlier = evidence.earlier.accepted if evidence.earlier is not None else []
        # At the place of a record that was lost may stand a later one: that one is not the lost one.
        self._earlier = {one.position: one.value_sha256 for one in earlier if one.position not in self._wanted}

    async def read(self, consumer: Consumer, deadline: float, say: Say) -> None:
        resolver = PinnedResolver() if self._registry_url is None else RegistryResolver(connect(self._registry_url))
        # In an event loop of its own, one for all records: entering one for each would take as long as decoding it.
        self._codec = Codec(resolver, topic_prefix=self._prefix)
        try:
            await self._read_all(consumer, deadline, say)
        finally:
            await self._codec.close()
        self._missing_records()
        for artefact in self._artefacts.values():
            self._evidence.leaks.extend(artefact.finish())

    async def _read_all(self, consumer: Consumer, deadline: float, say: Say) -> None:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in self._left])
        heard = said = time.monotonic()
        while self._left:
            messages = consumer.consume(FETCHED_RECORDS, FETCH_SECONDS)
            now = time.monotonic()
            heard = now if any(message.error() is None for message in messages) else heard
            if now > deadline or now - heard > SILENCE_SECONDS_MAX:
                raise EvidenceIncomplete(self._gave_up(now > deadline))
            for message in messages:
                await self._take(message)
            if now - said > PROGRESS_SECONDS:
                said = now
                say(f"topics: {sum(self._records_of.values())} records read, {len(self._left)} partitions to go")

    def _gave_up(self, out_of_time: bool) -> str:
        names = [f"{topic}-{number}" for topic, number in self._left]
        more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
        shown = ", ".join(names[:NAMES_SHOWN_MAX]) + more
        if out_of_time:
            return f"{shown} could not be read to the end in {READ_SECONDS_MAX:.0f} s"
        return f"{shown}: no record for {SILENCE_SECONDS_MAX:.0f} s. Have they leaders, are all brokers up?"

    async def _take(self, message: Message) -> None:
        error, topic = message.error(), message.topic()
        place, offset = (str(topic), int(message.partition() or 0)), int(message.offset() or 0)
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._left.pop(place, None)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET or (topic is not None and not error.retriable()):
                raise EvidenceIncomplete(f"{topic}-{place[1]} cannot be read: {error.str()}")
            # Anything else, as a broker that is away for a moment, the client repairs or the silence ends.
            return
        whole = self._left.get(place)
        if whole is None or offset >= whole.end:
            self._left.pop(place, None)
            return
        self._records_of[place] += 1
        if offset + 1 >= whole.end:
            del self._left[place]
        await self._record(self._names[place[0]], Position(whole.topic, whole.partition, offset), message)

    def _missing_records(self) -> None:
        for position in self._wanted:
            self._evidence.broken.append(f"record {position} was acknowledged, but the topic does not hold it")
        for place, whole in self._places.items():
            missing = whole.records - self._records_of[place]
            # Others may write transactions, whose markers take offsets; we do not.
            if missing and not TOPICS[self._names[whole.topic]].inbound:
                sentence = f"{whole.topic}-{whole.partition} holds {missing} records less than it has offsets: "
                self._evidence.broken.append(sentence + "was it compacted or truncated?")

    async def _record(self, name: str, position: Position, message: Message) -> None:
        value = message.value()
        headers = _headers(message)
        record = await self._decoded(name, position, value)
        artefact = self._artefacts.get(name)
        if artefact is not None:
            _add_message(artefact, position, message.key(), value, headers, record)
        if name == REQUESTS:
            self._request(position, value or b"", record)
        elif name == "payout_dead_letters":
            self._dead_letter(position, headers)
        elif record is not None:
            self._event(name, position, record, header_text(headers, "ce_id"))

    async def _decoded(self, name: str, position: Position, value: bytes | None) -> Mapping[str, Any] | None:
        schema = TOPICS[name].schema
        if schema is None:
            return None
        try:
            return (await self._codec.decode(schema, value)).record
        except Undecodable as error:
            if not TOPICS[name].inbound:
                self._evidence.broken.append(f"record {position} is our own and cannot be decoded ({error.code})")
            return None

    def _request(self, position: Position, value: bytes, record: Mapping[str, Any] | None) -> None:
        acknowledged, survivor = self._wanted.pop(position, None), self._earlier.get(position)
        if acknowledged is None and survivor is None:
            return
        digest = hashlib.sha256(value).hexdigest()
        if survivor is not None:
            if digest != survivor:
                return
            self._evidence.survived.add(position)
        elif digest != acknowledged:
            self._evidence.broken.append(f"record {position} is not what was acknowledged: its bytes differ")
        pull = record["funding"]["aft"] if record is not None else None
        if pull is not None and pull["transaction_identifier"] is not None and record is not None:
            self._evidence.pulls.append(CardPull(pull["transaction_identifier"], intern(record["payout_id"])))

    def _dead_letter(self, position: Position, headers: Header) -> None:
        try:
            source = Position(
                intern(str(header_text(headers, "source_topic"))),
                int(str(header_text(headers, "source_partition"))),
                int(str(header_text(headers, "source_offset"))),
            )
        except ValueError:
            self._evidence.broken.append(f"dead letter {position} does not say where it comes from")
            return
        if source.topic == topic_name(REQUESTS, self._prefix):
            self._evidence.dead_letters.add(source)

    def _event(self, name: str, position: Position, record: Mapping[str, Any], event_id: str | None) -> None:
        # An event without an identity cannot be a repetition of another one.
        identity = event_id or str(position)
        evidence = self._evidence
        match name:
            case "payout_results":
                evidence.results.append(_result(record, identity))
            case "payout_failed_requires_compensation":
                evidence.demands.append(_demand(record, identity))
            case "payout_compensation_results":
                evidence.compensation_ends.append(_compensation_end(record, identity))
            case "payout_compensation_confirmations":
                if record["outcome"] == "COMPLETED":
                    evidence.confirmations.append(_confirmation(record))
            case "payout_refusals":
                source = (intern(record["source_topic"]), record["source_partition"], record["source_offset"])
                evidence.refusals.add(Position(*source))


def _result(record: Mapping[str, Any], identity: str) -> ResultEvent:
    money = record["amount"]
    return ResultEvent(
        intern(record["payout_id"]),
        intern(identity),
        intern(record["status"]),
        money["amount_minor"],
        intern(money["currency"]),
        record["version"],
    )


def _demand(record: Mapping[str, Any], identity: str) -> CompensationDemand:
    return CompensationDemand(
        intern(record["payout_id"]),
        intern(identity),
        intern(record["compensation_id"]),
        intern(record["executor"]),
        intern(record["originator_id"]),
        record["version"],
    )


def _compensation_end(record: Mapping[str, Any], identity: str) -> CompensationEnd:
    return CompensationEnd(
        intern(record["payout_id"]),
        intern(identity),
        intern(record["status"]),
        intern(record["executor"]),
        record["transaction_identifier"],
    )


def _confirmation(record: Mapping[str, Any]) -> Confirmation:
    return Confirmation(
        intern(record["payout_id"]),
        intern(record["compensation_id"]),
        intern(record["originator_id"]),
        record["confirmation_reference"],
    )


def _headers(message: Message) -> Header:
    found = message.headers() or []
    return list(found.items() if isinstance(found, dict) else found)


def _add_message(
    artefact: Artefact,
    position: Position,
    key: bytes | str | None,
    value: bytes | None,
    headers: Header,
    record: Mapping[str, Any] | None,
) -> None:
    """Everything of a message: as bytes, and as text where it is text or can be made such."""
    where = f"offset {position.offset} of partition {position.partition}"
    # Key and headers together, each on a line of its own: no number spans two of them.
    lines = [] if key is None else [b"key=" + (key.encode() if isinstance(key, str) else key)]
    for name, content in headers:
        shown = content.encode() if isinstance(content, str) else content or b""
        lines.append(b"header " + name.encode() + b"=" + shown)
    if lines:
        artefact.add(f"{where}, key and headers", b"\n".join(lines), is_text=True)
    if value is not None:
        artefact.add(f"{where}, value", value, is_text=False)
    if record is not None:
        artefact.add(f"{where}, value", json.dumps(record, default=str).encode(), is_text=True)
