"""A run that never was: real Kafka, PostgreSQL and stand-in, filled by hand with the facts of a clean run."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it is exported

from ledger.migrate import migrate
from sandbox.auditor.audit import audit
from sandbox.auditor.evidence import Position, append_accepted
from sandbox.auditor.verdict import FaultCounts, Verdict
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from sandbox.visa_direct.server import Endpoint, running
from sandbox.visa_direct.settings import Settings
from sandbox.visa_direct.store import ENTRY_COLUMNS, insert_entry
from schemas.codec import BlockingCodec
from schemas.headers import event_headers, event_id, event_type
from schemas.sender_reference import sender_reference
from schemas.topics import TOPIC_OF_SCHEMA, TOPICS, topic_name

GOLDEN = Path(__file__).parents[2] / "contract" / "schemas" / "golden"
ANSWER_SECONDS = 20.0
STUCK_AFTER_SECONDS = 60.0
CARD = "4957030420210462"
ACCOUNT = "TESTDELIVER0001"
LATE = timedelta(minutes=5)


@contextmanager
def stand_in_in_this_process(directory: Path) -> Iterator[Endpoint]:
    """The stand-in, served by an event loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="stand-in")
    thread.start()
    serving = running(Settings(state_directory=directory))
    try:
        yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(ANSWER_SECONDS)
    finally:
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(ANSWER_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(ANSWER_SECONDS)
        loop.close()


class Scene:
    """Topics of its own, a ledger of its own, a stand-in of its own, a journal, and a directory of logs."""

    def __init__(self, bootstrap_servers: str, database_url: str, endpoint: Endpoint, directory: Path) -> None:
        self.prefix = f"t{uuid.uuid4().hex[:8]}-"
        self.bootstrap_servers, self.database_url = bootstrap_servers, database_url
        self.endpoint, self.directory = endpoint, directory
        self.journal = directory / "accepted.jsonl"
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.stand_in_directory = directory / "stand-in"
        self.codec = BlockingCodec(topic_prefix=self.prefix)
        self._producer = Producer(
            {"bootstrap.servers": bootstrap_servers, "acks": "all", "linger.ms": 0, "log_level": 0}
        )
        self._runner = asyncio.Runner()
        self._create_topics()
        asyncio.run(migrate(database_url))

    def close(self) -> None:
        self._runner.close()
        self.codec.close()

    def audit(self, **given: Any) -> Verdict:
        """What the auditor says now."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "database_url": self.database_url,
            "stand_in_admin_url": self.endpoint.admin_url,
            "fingerprint_key": self.endpoint.credentials.fingerprint_key,
            "topic_prefix": self.prefix,
            "card_numbers": [CARD],
            "scan": [self.directory],
            "stuck_after_seconds": STUCK_AFTER_SECONDS,
            "faults": FaultCounts(seed=7),
        }
        return audit(self.journal, **arguments | given)

    # Facts, one at a time.

    def accept(self, payout_id: str, *, recipient: str = CARD, pull: str | None = None) -> Position:
        """A request that the broker acknowledged and the producer wrote down."""
        record = golden("PayoutRequest.v1.aft-card") | {"payout_id": payout_id}
        record["funding"]["aft"]["transaction_identifier"] = pull
        return self.accept_bytes(self.codec.encode("PayoutRequest", record), payout_id, record["amount"], recipient)

    def accept_bytes(
        self, value: bytes, payout_id: str | None, amount: Mapping[str, Any] | None, recipient: str | None = None
    ) -> Position:
        position = self.produce(topic_name("payout_requests", self.prefix), value, (payout_id or "raw").encode(), [])
        self.note_accepted(position, value, payout_id, amount, recipient)
        return position

    def note_accepted(
        self,
        position: Position,
        value: bytes,
        payout_id: str | None,
        amount: Mapping[str, Any] | None,
        recipient: str | None,
    ) -> None:
        """One line of the journal."""
        append_accepted(
            self.journal,
            payout_id=payout_id,
            topic=position.topic,
            partition=position.partition,
            offset=position.offset,
            value=value,
            amount_minor=amount["amount_minor"] if amount else None,
            currency=amount["currency"] if amount else None,
            recipient=recipient,
        )

    def row(self, payout_id: str, position: Position, state: str, **columns: Any) -> None:
        """A row of the ledger, received LATE ago."""
        long_ago = datetime.now(UTC) - LATE
        amount = golden("PayoutRequest.v1.aft-card")["amount"]
        facts: dict[str, Any] = {
            "payout_id": payout_id,
            "originator_id": "treasury-emea",
            "amount_minor": amount["amount_minor"],
            "currency": amount["currency"],
            "source_country": "US",
            "target_country": "GB",
            "target_currency": "GBP",
            "funding_kind": "INTERNAL",
            "funding_captured": True,
            "funding_reversible": False,
            "requested_at": long_ago,
            "received_at": long_ago,
            "source_topic": position.topic,
            "source_partition": position.partition,
            "source_offset": position.offset,
            "correlation_id": f"corr-{payout_id}",
            "sender_reference": sender_reference(payout_id),
            "content_key_version": "1",
            "bytes_hmac": b"b" * 32,
            "content_hmac": b"c" * 32,
            "sealed_request": b"sealed",
            "state": state,
            "state_version": 1,
            "state_at": long_ago,
            "compensation": "NONE",
            "compensation_version": 0,
            "held": False,
            "announce_version": 1,
            **dict.fromkeys(("attempts", "inquiries", "systemic_refusals"), 0),
            **dict.fromkeys(("compensation_attempts", "compensation_inquiries"), 0),
            **dict.fromkeys(("ambiguous", "compensation_ambiguous"), False),
        }
        self.insert("payouts", facts | columns)

    def set_aside(self, position: Position, disposition: str, payout_id: str | None = None) -> None:
        facts = {"topic": position.topic, "partition_number": position.partition, "record_offset": position.offset}
        self.insert("intake", {**facts, "disposition": disposition, "payout_id": payout_id, "reason_code": "TEST"})

    def insert(self, table: str, facts: Mapping[str, Any]) -> None:
        places = ", ".join(f"${number}" for number in range(1, len(facts) + 1))
        self.execute(f"INSERT INTO {table} ({', '.join(facts)}) VALUES ({places})", *facts.values())

    def execute(self, statement: str, *values: Any) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.database_url)
            try:
                await connection.execute(statement, *values)
            finally:
                await connection.close()

        self._runner.run(run())

    def result(self, payout_id: str, status: str) -> None:
        record = golden("PayoutResult.v1.paid") | {"payout_id": payout_id, "status": status}
        record["amount"] = golden("PayoutRequest.v1.aft-card")["amount"]
        self.event("PayoutResult", record)

    def demand(self, payout_id: str, executor: str) -> None:
        changes = {"payout_id": payout_id, "executor": executor, "compensation_id": f"comp-{payout_id}"}
        self.event("PayoutFailedRequiresCompensation", golden("PayoutFailedRequiresCompensation.v1") | changes)

    def compensated(self, payout_id: str, executor: str, identifier: str | None = None, version: int = 2) -> None:
        changes = {
            "payout_id": payout_id,
            "executor": executor,
            "status": "COMPENSATED",
            "version": version,
            "transaction_identifier": identifier,
        }
        self.event("CompensationResult", golden("CompensationResult.v1") | changes)

    def confirmation(self, payout_id: str, **changes: Any) -> None:
        """The originator's word that the money was handed back."""
        given = {"payout_id": payout_id, "compensation_id": f"comp-{payout_id}"}
        self.event("CompensationConfirmation", golden("CompensationConfirmation.v1") | given | changes)

    def refusal(self, payout_id: str, position: Position) -> None:
        source = {f"source_{name}": value for name, value in position._asdict().items()}
        self.event("RequestRefused", golden("RequestRefused.v1") | source | {"payout_id": payout_id})

    def event(self, schema: str, record: Mapping[str, Any], **headers: bytes) -> None:
        payout_id, version = record["payout_id"], int(record.get("version", 0))
        identity = event_id(schema, payout_id, version)
        given = event_headers(event_type(schema), "/tests", datetime.now(UTC), "corr", event_id=identity)
        topic = topic_name(TOPIC_OF_SCHEMA[schema].name, self.prefix)
        self.produce(topic, self.codec.encode(schema, record), payout_id.encode(), given + list(headers.items()))

    def dead_letter(self, position: Position) -> None:
        headers = [(f"source_{name}", str(value).encode()) for name, value in position._asdict().items()]
        self.produce(topic_name("payout_dead_letters", self.prefix), b"sealed", str(position).encode(), headers)

    def produce(self, topic: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> Position:
        acknowledged: list[Message] = []

        def report(error: KafkaError | None, message: Message) -> None:
            assert error is None
            acknowledged.append(message)

        self._producer.produce(topic, value, key, headers=list(headers), on_delivery=report)
        assert self._producer.flush(ANSWER_SECONDS) == 0
        message = acknowledged[0]
        return Position(topic, int(message.partition() or 0), int(message.offset() or 0))

    def payment(self, payout_id: str, **changes: Any) -> None:
        """An entry of the stand-in's ledger: an approved push of funds, unless changed."""
        number = uuid.uuid4().int % 10**13
        facts: dict[str, Any] = {
            **dict.fromkeys(ENTRY_COLUMNS),
            "at_ms": 0,
            "operation": "push",
            "money_moved": 1,
            "transaction_identifier": f"2{number:013d}7",
            "acquiring_bin": "408999",
            "stan": str(100_000 + number % 900_000),
            "rrn": f"{number % 10**12:012d}",
            "sender_reference": sender_reference(payout_id),
            "amount": "125.50",
            "currency": "USD",
            "recipient_fingerprint": recipient_fingerprint(self.endpoint.credentials.fingerprint_key, CARD),
            "action_code": "00",
            "response_code": "5",
            "query_status": "COMPLETED",
            "response": "{}",
        }
        path = self.stand_in_directory / "ledger.sqlite3"
        with contextlib.closing(sqlite3.connect(path, timeout=ANSWER_SECONDS)) as connection, connection:
            insert_entry(connection, facts | changes)

    def hand_back(self, identifier: str, operation: str = "reverse") -> None:
        self.payment("", operation=operation, sender_reference=None, transaction_identifier=identifier)

    def account_payment(self, payout_id: str, identifier: str, operation: str = "account") -> None:
        """An account was credited, or the money came back; Visa names both by its own id of the payout."""
        fingerprint = recipient_fingerprint(self.endpoint.credentials.fingerprint_key, ACCOUNT)
        numbers = {"transaction_identifier": identifier, "acquiring_bin": "", "stan": "", "rrn": ""}
        self.payment(payout_id, operation=operation, recipient_fingerprint=fingerprint, **numbers)

    # Payouts, whole.

    def paid(self, payout_id: str, **facts: Any) -> None:
        self.row(payout_id, self.accept(payout_id, **facts), "PAID")
        self.result(payout_id, "PAID")
        self.payment(payout_id)

    def paid_to_account(self, payout_id: str) -> None:
        self.row(payout_id, self.accept(payout_id, recipient=ACCOUNT), "PAID")
        self.result(payout_id, "PAID")
        self.account_payment(payout_id, f"VP-{payout_id}")

    def unpaid(
        self, payout_id: str, state: str, pull: str | None = None, *, recipient: str = CARD, **columns: Any
    ) -> None:
        self.row(payout_id, self.accept(payout_id, recipient=recipient, pull=pull), state, **columns)
        self.result(payout_id, state)

    def handed_back_by_us(self, payout_id: str, pull: str, operation: str = "reverse") -> None:
        facts = {"compensation_executor": "PROCESSOR", "compensation_reference": pull}
        self.unpaid(payout_id, "DECLINED", pull, compensation="COMPENSATED", **facts)
        self.demand(payout_id, "PROCESSOR")
        self.compensated(payout_id, "PROCESSOR", pull)
        self.hand_back(pull, operation)

    def released_by_originator(self, payout_id: str) -> None:
        self.unpaid(payout_id, "REJECTED", compensation="COMPENSATED", compensation_executor="ORIGINATOR")
        self.demand(payout_id, "ORIGINATOR")
        self.confirmation(payout_id)
        self.compensated(payout_id, "ORIGINATOR")

    def clean_run(self) -> None:
        """Every way in which a record may end."""
        self.paid("paid-0001")
        self.handed_back_by_us("declined-0001", "381228649430015")
        self.handed_back_by_us("declined-0002", "381228649430023", "adjustment")
        self.released_by_originator("rejected-0001")
        self.unpaid("denied-0001", "DENIED")
        self.row("review-0001", self.accept("review-0001"), "IN_REVIEW")
        self.row("held-0001", self.accept("held-0001"), "UNKNOWN", held=True)
        self.set_aside(self.accept("paid-0001"), "REPEAT", "paid-0001")
        self.result("paid-0001", "PAID")
        refused = self.accept("denied-0001")
        self.set_aside(refused, "REFUSED", "denied-0001")
        self.refusal("denied-0001", refused)
        dead = self.accept_bytes(b"{this is not Avro}", None, None)
        self.set_aside(dead, "DEAD_LETTER")
        self.dead_letter(dead)

    def _create_topics(self) -> None:
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        topics = [NewTopic(topic_name(name, self.prefix), num_partitions=2, replication_factor=1) for name in TOPICS]
        for created in client.create_topics(topics).values():
            created.result(ANSWER_SECONDS)


def golden(stem: str) -> dict[str, Any]:
    """A golden record of the contract, its times as times."""
    record: dict[str, Any] = _with_times(json.loads((GOLDEN / f"{stem}.json").read_text("utf-8"))["record"])
    return copy.deepcopy(record)


def _with_times(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _with_times(item, key) for key, item in value.items()}
    return datetime.fromisoformat(value) if isinstance(value, str) and name.endswith("_at") else value
