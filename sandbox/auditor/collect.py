"""Reads the evidence: the topics without a group, the ledger's tables by SQL of its own, the stand-in by HTTP.

Everything is read to an end that was fixed before, within a bounded time; what cannot be read completely is an error
and never a verdict.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

import asyncpg
import httpx
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from sandbox.auditor.evidence import (
    CardPull,
    CompensationDemand,
    CompensationEnd,
    Evidence,
    Intake,
    LedgerRow,
    Position,
    ResultEvent,
    StandInEntry,
)
from sandbox.auditor.leak import Artefact, CardNumberSearch
from schemas.codec import BlockingCodec, Undecodable
from schemas.headers import header_text
from schemas.topics import TOPICS, topic_name

READ_SECONDS_MAX: Final = 900.0
"""All topics together. A record takes about 0.25 ms on two cores, decoded and searched: three million of them."""
CALL_SECONDS_MAX: Final = 20.0
"""One question to the broker, the database or the stand-in."""
# What a broker says of a partition whose leader is just changing.
LEADER_CHANGES: Final = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})
FETCHED_RECORDS: Final = 500
FETCH_SECONDS: Final = 0.1
"""How long the client waits for so many; it waits in vain only at the end."""
STAND_IN_PAGE: Final = 1_000
TABLE_ROWS_FETCHED: Final = 500
REQUESTS: Final = "payout_requests"

Header = list[tuple[str, bytes | str | None]]
Ends = dict[tuple[str, int], int]


class EvidenceIncomplete(RuntimeError):
    """Something that a verdict needs could not be read; the message says what, why and what to do."""


class TopicReader:
    """Reads every topic of the table once, from the beginning to the end that it has when the reading begins.

    Fills the evidence, and searches keys, headers and values for card numbers, but not those of `excepted_topics`
    (names with or without the prefix).
    """

    def __init__(
        self,
        evidence: Evidence,
        search: CardNumberSearch,
        codec: BlockingCodec,
        *,
        bootstrap_servers: str,
        topic_prefix: str,
        excepted_topics: Collection[str] = (),
    ) -> None:
        self._evidence = evidence
        self._codec = codec
        self._bootstrap_servers = bootstrap_servers
        self._prefix = topic_prefix
        excepted = {name.removeprefix(topic_prefix) for name in excepted_topics}
        unknown = excepted - set(TOPICS)
        if unknown:
            raise ValueError(f"excepted_topics names {', '.join(sorted(unknown))}, which is no topic of ours")
        self._artefacts = {
            name: Artefact(f"topic {topic_name(name, topic_prefix)}", search) for name in TOPICS if name not in excepted
        }
        # Kept until the request topic has been read: what was acknowledged must be in it.
        self._wanted = {record.position: record for record in evidence.accepted}

    def read(self) -> None:
        """Raises EvidenceIncomplete, RegistryUnavailable."""
        deadline = time.monotonic() + READ_SECONDS_MAX
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap_servers,
                # The client wants a name; nothing joins it and nothing is committed.
                "group.id": f"payouts-auditor-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                # Whatever lies in a topic may leak, an aborted transaction's records too.
                "isolation.level": "read_uncommitted",
                "log_level": 0,
            }
        )
        try:
            self._read_all(consumer, deadline)
        except KafkaException as error:
            raise EvidenceIncomplete(f"Kafka at {self._bootstrap_servers} did not answer: {error}") from error
        finally:
            consumer.close()
        for record in self._wanted.values():
            self._evidence.broken.append(f"record {record.position} was acknowledged, but the topic does not hold it")
        for artefact in self._artefacts.values():
            self._evidence.leaks.extend(artefact.finish())

    def _read_all(self, consumer: Consumer, deadline: float) -> None:
        ends: Ends = {}
        for name in TOPICS:
            ends |= self._ends(consumer, topic_name(name, self._prefix))
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in ends])
        while ends:
            if time.monotonic() > deadline:
                topics = ", ".join(sorted({topic for topic, _ in ends}))
                raise EvidenceIncomplete(f"{topics} could not be read to the end in {READ_SECONDS_MAX:.0f} s")
            for message in consumer.consume(FETCHED_RECORDS, FETCH_SECONDS):
                self._take(message, ends)

    def _ends(self, consumer: Consumer, topic: str) -> Ends:
        """Partitions that hold anything, with the offset after their last record."""
        described = consumer.list_topics(topic, CALL_SECONDS_MAX).topics[topic]
        if described.error is not None:
            raise EvidenceIncomplete(
                f"topic {topic} cannot be read ({described.error.str()}): is the prefix right, "
                "and did `payouts topics ensure` create the topics?"
            )
        ends: Ends = {}
        for number in described.partitions:
            low, high = _watermarks(consumer, TopicPartition(topic, number))
            if low > 0:
                self._evidence.broken.append(f"{topic}-{number} begins at offset {low}: older records are gone")
            if high > low:
                ends[topic, number] = high
        return ends

    def _take(self, message: Message, ends: Ends) -> None:
        error, topic = message.error(), message.topic()
        place, offset = (str(topic), int(message.partition() or 0)), int(message.offset() or 0)
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                ends.pop(place, None)
            elif topic is not None and not error.retriable():
                raise EvidenceIncomplete(f"{topic}-{place[1]} cannot be read: {error.str()}")
            # Anything else, as a broker that is away for a moment, the client repairs or the deadline ends.
            return
        if place not in ends:
            return
        if offset + 1 >= ends[place]:
            del ends[place]
        name = str(topic).removeprefix(self._prefix)
        self._record(name, Position(*place, offset), message)

    def _record(self, name: str, position: Position, message: Message) -> None:
        value = message.value()
        headers = _headers(message)
        record = self._decoded(name, position, value)
        artefact = self._artefacts.get(name)
        if artefact is not None:
            _add_message(artefact, position, message.key(), value, headers, record)
        if name == REQUESTS:
            self._request(position, value or b"", record)
        elif name == "payout_dead_letters":
            self._dead_letter(position, headers)
        elif record is not None:
            self._event(name, position, record, header_text(headers, "ce_id"))

    def _decoded(self, name: str, position: Position, value: bytes | None) -> Mapping[str, Any] | None:
        schema = TOPICS[name].schema
        if schema is None:
            return None
        try:
            return self._codec.decode(schema, value).record
        except Undecodable as error:
            if not TOPICS[name].inbound:
                self._evidence.broken.append(f"record {position} is our own and cannot be decoded ({error.code})")
            return None

    def _request(self, position: Position, value: bytes, record: Mapping[str, Any] | None) -> None:
        accepted = self._wanted.pop(position, None)
        if accepted is None:
            return
        if hashlib.sha256(value).hexdigest() != accepted.value_sha256:
            self._evidence.broken.append(f"record {position} is not what was acknowledged: its bytes differ")
        pull = record["funding"]["aft"] if record is not None else None
        if pull is not None and pull["transaction_identifier"] is not None and record is not None:
            self._evidence.pulls.append(CardPull(pull["transaction_identifier"], record["payout_id"]))

    def _dead_letter(self, position: Position, headers: Header) -> None:
        try:
            source = Position(
                str(header_text(headers, "source_topic")),
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
                money = record["amount"]
                evidence.results.append(
                    ResultEvent(
                        record["payout_id"], identity, record["status"], money["amount_minor"], money["currency"]
                    )
                )
            case "payout_failed_requires_compensation":
                evidence.demands.append(
                    CompensationDemand(record["payout_id"], identity, record["compensation_id"], record["executor"])
                )
            case "payout_compensation_results":
                evidence.compensation_ends.append(
                    CompensationEnd(
                        record["payout_id"],
                        identity,
                        record["status"],
                        record["executor"],
                        record["transaction_identifier"],
                    )
                )
            case "payout_refusals":
                source = (record["source_topic"], record["source_partition"], record["source_offset"])
                evidence.refusals.add(Position(*source))


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
    if key is not None:
        artefact.add(f"{where}, key", key.encode() if isinstance(key, str) else key, is_text=True)
    for name, content in headers:
        shown = content.encode() if isinstance(content, str) else content or b""
        artefact.add(f"{where}, header {name}", name.encode() + b"=" + shown, is_text=True)
    if value is not None:
        artefact.add(f"{where}, value", value, is_text=False)
    if record is not None:
        artefact.add(f"{where}, value", json.dumps(record, default=str).encode(), is_text=True)


# The ledger, by its own tables.

_ROWS: Final = """
SELECT payout_id, source_topic, source_partition, source_offset, amount_minor, currency, state, received_at,
       first_intent_at, held, compensation, compensation_at, compensation_executor, compensation_reference
FROM payouts
"""
_INTAKE: Final = """
SELECT topic, partition_number, record_offset, disposition, payout_id FROM intake WHERE topic = $1
"""
_TABLES: Final = """
SELECT n.nspname AS schema_name, c.relname AS table_name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
ORDER BY 1, 2
"""


async def read_ledger(
    evidence: Evidence, search: CardNumberSearch, database_url: str, *, topic_prefix: str = ""
) -> None:
    """Rows and dispositions into the evidence, and every column of every table searched, in one snapshot.

    Raises EvidenceIncomplete.
    """
    try:
        connection = await asyncpg.connect(
            database_url, timeout=CALL_SECONDS_MAX, command_timeout=READ_SECONDS_MAX, statement_cache_size=0
        )
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await _read_rows(evidence, connection, topic_name(REQUESTS, topic_prefix))
                for table in await connection.fetch(_TABLES):
                    leaks = await _scan_table(search, connection, table["schema_name"], table["table_name"])
                    evidence.leaks.extend(leaks)
        finally:
            await connection.close(timeout=CALL_SECONDS_MAX)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise EvidenceIncomplete(
            f"the ledger could not be read ({type(error).__name__}): is the database up, and was "
            "`payouts ledger migrate` run?"
        ) from error


async def _read_rows(evidence: Evidence, connection: asyncpg.Connection[Any], request_topic: str) -> None:
    async for row in connection.cursor(_ROWS, prefetch=TABLE_ROWS_FETCHED):
        facts: dict[str, Any] = dict(row)
        source = (facts.pop("source_topic"), facts.pop("source_partition"), facts.pop("source_offset"))
        evidence.rows.append(LedgerRow(position=Position(*source), **facts))
    async for line in connection.cursor(_INTAKE, request_topic, prefetch=TABLE_ROWS_FETCHED):
        position = Position(line["topic"], line["partition_number"], line["record_offset"])
        evidence.intake.append(Intake(position, line["disposition"], line["payout_id"]))


async def _scan_table(
    search: CardNumberSearch, connection: asyncpg.Connection[Any], schema_name: str, table_name: str
) -> list[Any]:
    name = table_name if schema_name == "public" else f"{schema_name}.{table_name}"
    artefact = Artefact(f"table {name}", search)
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema_name, table_name))
    number = 0
    async for row in connection.cursor(f"SELECT * FROM {quoted}", prefetch=TABLE_ROWS_FETCHED):  # noqa: S608 - quoted
        number += 1
        for column, value in row.items():
            if isinstance(value, bytes):
                artefact.add(f"row {number}, column {column}", value, is_text=False)
            elif value is not None and not isinstance(value, (bool, datetime)):
                # With the column's name in front, as in a JSON field: the name says what a number is.
                artefact.add(f"row {number}, column {column}", f"{column}={value}".encode(), is_text=True)
    return artefact.finish()


# The stand-in.


def read_stand_in(admin_url: str, *, after: int = 0) -> list[StandInEntry]:
    """Entries of the stand-in's ledger with an id above `after`, oldest first. Raises EvidenceIncomplete."""
    entries: list[StandInEntry] = []
    try:
        # Its address is on this machine: a proxy of the environment is none of its business.
        with httpx.Client(base_url=admin_url, timeout=CALL_SECONDS_MAX, trust_env=False) as client:
            while True:
                answer = client.get("/sandbox/ledger", params={"after": after, "limit": STAND_IN_PAGE})
                page = answer.raise_for_status().json()
                entries.extend(_entry(row) for row in page["entries"])
                after = page["next_after"]
                if not page["has_more"]:
                    return entries
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise EvidenceIncomplete(
            f"the stand-in's ledger at {admin_url} could not be read ({type(error).__name__}): is it running?"
        ) from error


def _entry(row: Mapping[str, Any]) -> StandInEntry:
    return StandInEntry(
        entry_id=int(row["id"]),
        operation=str(row["operation"]),
        money_moved=bool(row["money_moved"]),
        amount=str(row["amount"]),
        currency=str(row["currency"]),
        recipient_fingerprint=str(row["recipient_fingerprint"]),
        sender_reference=row["sender_reference"],
        transaction_identifier=str(row["transaction_identifier"]),
    )


def _watermarks(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """First and end offset. A partition whose leader is just changing is asked again, for a bounded time."""
    deadline = time.monotonic() + CALL_SECONDS_MAX
    while True:
        try:
            low, high = consumer.get_watermark_offsets(partition, CALL_SECONDS_MAX, cached=False)
        except KafkaException as error:
            if error.args[0].code() not in LEADER_CHANGES or time.monotonic() > deadline:
                raise
            time.sleep(FETCH_SECONDS)
        else:
            return low, high
