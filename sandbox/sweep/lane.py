"""One lane: topics, group and database of its own, one worker at a time, one payout after the other.

Lanes share servers and nothing else, so that many points are swept side by side: what takes long is waiting (for the
dead member's session, for its lease, for Visa's horizon), not computing.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it is exported

from sandbox.auditor.evidence import append_accepted
from sandbox.faults.aim import PATIENT_CONNECT_SECONDS, LedgerWatch
from sandbox.faults.load import FundingDesk, PlannedPayout, RequestMaker
from sandbox.servers.processes import LOOPBACK, ServerError
from sandbox.sweep.book import StandInBook
from sandbox.sweep.judge import Seen, wrong
from sandbox.sweep.lives import Life
from sandbox.sweep.nursery import Nursery, NurseryWorker
from schemas.codec import BlockingCodec
from schemas.headers import header_text
from schemas.topics import READ_BY_WORKERS, TOPICS, topic_name

READY_SECONDS_MAX: Final = 60.0
"""A worker has its partitions 6 s after the one before it was killed; with a dozen beside it on two cores, later."""
POLL_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 0.3
"""Between two looks at everything."""
SERVED_SECONDS_MAX: Final = 30.0
ASK_SECONDS: Final = 30.0
PAGE_SECONDS: Final = 3.0
SET_ASIDE: Final = ("payout_dead_letters", "payout_refusals")
ROW: Final = """
SELECT state, compensation, held, announced_version, announce_version FROM payouts WHERE payout_id = $1
"""
VERIFIED: Final = "SELECT topic, next_offset FROM verified_offsets"


@dataclass(frozen=True, slots=True)
class Passage:
    """One payout's way through a lane."""

    points: tuple[str, ...]
    """What its first worker passed, in order."""
    hit: bool
    """Whether that worker ended itself at the point."""
    problems: tuple[str, ...]
    end: str
    seconds: float
    starts: int
    """Workers started meanwhile because one had ended: 1 for a hit, more if one ended by itself (K5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What all lanes share."""

    bootstrap_servers: str
    create_database: Callable[[str], str]
    """Makes a database with the ledger's tables; its address."""
    environment: Mapping[str, str] = field(repr=False)
    """Of every worker, but for what is a lane's own."""
    admin_url: str
    party_key: Mapping[str, Any] = field(repr=False)
    nursery: Nursery
    book: StandInBook
    stopping: threading.Event
    """Set when the sweep ends before its time: no lane goes on waiting."""


class Lane:
    """Carries payouts through, each with a worker that is killed at one point, or none."""

    def __init__(self, servers: Servers, name: str, directory: Path, number_block: int) -> None:
        """`number_block` is where its numbers at Visa begin: the stand-in knows an acquirer's for a day (S1)."""
        self.prefix = f"{name}-"
        self.directory = directory
        self.journal = directory / "accepted.jsonl"
        self._servers = servers
        self._codec = BlockingCodec(topic_prefix=self.prefix)
        self._maker = RequestMaker(servers.party_key)
        self._records: dict[str, list[Message]] = defaultdict(list)
        self._worker: NurseryWorker | None = None
        self._starts = 0
        self._hit = ""
        self._armed = False
        self._closed = False
        self._passed: list[str] = []
        directory.mkdir(parents=True)
        self._create_topics()
        self.database_url = servers.create_database(name.replace("-", "_"))
        self._watch = LedgerWatch(self.database_url, connect_seconds=PATIENT_CONNECT_SECONDS)
        self._watch.fetch(f"ALTER SEQUENCE payout_identity_numbers RESTART WITH {number_block}")
        self._producer = Producer({"bootstrap.servers": servers.bootstrap_servers, "acks": "all", "log_level": 0})
        self._consumer = self._follower(f"{self.prefix}payouts")
        self._marks = self._follower(f"{self.prefix}payouts-verified")
        self._desk = FundingDesk(servers.admin_url)

    def close(self) -> None:
        """End its worker and its clients; twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
        for client in (self._consumer, self._marks, self._watch, self._desk, self._codec):
            client.close()

    def carry(self, life: Life, number: int, payout_id: str, target: str | None, end_seconds: float) -> Passage:
        """One payout from its request to its end, its first worker killed at `target`. Raises ServerError."""
        self._arm(target)
        began, starts = time.monotonic(), self._starts
        planned = life.planned(number, payout_id)
        amount = f"{planned.amount_minor // 100}.{planned.amount_minor % 100:02d}"
        self._send(life, planned)
        answered: set[str] = set()
        deadline = time.monotonic() + end_seconds
        while True:
            self._tend_worker()
            self._answer(life, payout_id, answered)
            seen = self._look(life, planned)
            problems = wrong(life, seen, amount, target if self._hit else None)
            if not problems or time.monotonic() > deadline:
                break
            if self._servers.stopping.wait(LOOK_SECONDS):
                raise ServerError("the sweep was stopped")
        end = "/".join(str(seen.row.get(name)) for name in ("state", "compensation")) if seen.row else "none"
        started = self._starts - starts
        return Passage(tuple(self._passed), bool(self._hit), tuple(problems), end, time.monotonic() - began, started)

    # The worker.

    def _arm(self, target: str | None) -> None:
        """The worker that went through the last payout goes on with this one; without one, a fresh one."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        self._armed = False
        asked: NurseryWorker | None = None
        while not self._armed:
            self._tend_worker()
            if self._worker is not asked and self._assigned():
                asked = self._worker
                if asked is not None:
                    asked.channel.send({"arm": target})
            elif time.monotonic() > deadline:
                log_path = self.directory / "worker.log"
                raise ServerError(f"no worker of {self.prefix} has partitions and listens; see {log_path}")

    def _tend_worker(self) -> None:
        """Hear what it says; start a fresh one, which is not armed, when it is gone."""
        worker = self._worker
        if worker is not None:
            for message in worker.channel.receive(POLL_SECONDS):
                self._hear(message)
            if not worker.channel.ended:
                return
            worker.kill()
        port_file = self.directory / "worker.port"
        port_file.unlink(missing_ok=True)
        self._starts += 1
        environment = {
            **self._servers.environment,
            "DATABASE_URL": self.database_url,
            "PAYOUTS_TOPIC_PREFIX": self.prefix,
            "PAYOUTS_HTTP_PORT_FILE": str(port_file),
            "PAYOUTS_WORKER_NAME": f"{self.prefix}{self._starts}",
        }
        self._worker = self._servers.nursery.worker(environment, self.directory / "worker.log")

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "armed" in message:
            # What it told earlier was of the payout before.
            self._armed, self._passed, self._hit = True, [], ""
        elif "hit" in message:
            self._hit = message["hit"]
        else:
            self._passed.append(message["passed"])

    def _assigned(self) -> bool:
        """By its health page, which is not there, or not whole, while it starts."""
        try:
            port = int((self.directory / "worker.port").read_text())
            return bool(json.loads(_health_page(port)).get("assigned_partitions"))
        except (OSError, ValueError):
            return False

    # Originator, reviewer, and whoever else produces.

    def _send(self, life: Life, planned: PlannedPayout) -> None:
        """Produce the request and write down that the broker has it."""
        now = datetime.now(UTC)
        if life.funding.startswith("AFT"):
            self._desk.record(planned, self._maker.aft_facts(planned, now))
        topic = topic_name("payout_requests", self.prefix)
        value = self._codec.encode("PayoutRequest", self._maker.record(planned, now), topic)
        message = self._produce(topic, value, planned.payout_id)
        append_accepted(
            self.journal,
            payout_id=planned.payout_id,
            topic=topic,
            partition=int(message.partition() or 0),
            offset=int(message.offset() or 0),
            value=value,
            amount_minor=planned.amount_minor,
            currency=planned.currency,
            recipient=planned.card,
        )

    def _answer(self, life: Life, payout_id: str, answered: set[str]) -> None:
        """The reviewer approves the case; the originator confirms that he released the money."""
        for topic, due, answer in (
            ("payout_reviews", life.purpose == "review", self._approve),
            ("payout_failed_requires_compensation", life.executor == "ORIGINATOR", self._confirm),
        ):
            for event in self._of(topic, payout_id) if due and topic not in answered else ():
                answer(self._codec.decode_topic(str(event.topic()), event.value()).record)
                answered.add(topic)
                break

    def _approve(self, case: Mapping[str, Any]) -> None:
        decision = {
            "case_id": case["case_id"],
            "payout_id": case["payout_id"],
            "decision": "APPROVE",
            "reviewer": "sweep-reviewer",
            "reason_code": "NAME_COMPARED",
            "note": None,
            "decided_at": datetime.now(UTC),
        }
        self._publish("payout_review_decisions", "ReviewDecision", decision)

    def _confirm(self, required: Mapping[str, Any]) -> None:
        confirmation = {
            **{name: required[name] for name in ("compensation_id", "payout_id", "originator_id")},
            "confirmed_at": datetime.now(UTC),
            "confirmation_reference": f"release-{required['payout_id']}",
            "outcome": "COMPLETED",
            "note": None,
        }
        self._publish("payout_compensation_confirmations", "CompensationConfirmation", confirmation)

    def _publish(self, name: str, schema: str, record: Mapping[str, Any]) -> None:
        topic = topic_name(name, self.prefix)
        self._produce(topic, self._codec.encode(schema, record, topic), str(record["payout_id"]))

    def _produce(self, topic: str, value: bytes, key: str) -> Message:
        placed: list[Message] = []
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            placed.append(message) if error is None else failed.append(error)

        self._producer.produce(topic, value, key.encode(), on_delivery=delivered)
        if self._producer.flush(ASK_SECONDS) or failed:
            raise ServerError(f"Kafka did not take a record for {topic}: {failed}")
        return placed[0]

    # What is there.

    def _look(self, life: Life, planned: PlannedPayout) -> Seen:
        payout_id = planned.payout_id
        self._read_topics()
        rows = self._watch.fetch(ROW, payout_id)
        pull = None
        if life.funding.startswith("AFT"):
            pull = str(self._maker.aft_facts(planned, datetime.now(UTC))["transaction_identifier"])
        pushes, hand_backs = self._servers.book.of(payout_id, pull)
        return Seen(
            pushes=pushes,
            hand_backs=hand_backs,
            results=self._events("payout_results", payout_id, "status"),
            demands=self._events("payout_failed_requires_compensation", payout_id, "executor"),
            compensation_ends=self._events("payout_compensation_results", payout_id, "status"),
            set_aside=[name for name in SET_ASIDE if self._records[name]],
            row=dict(rows[0]) if rows else {},
            behind=self._behind(),
        )

    def _events(self, topic: str, payout_id: str, content: str) -> list[tuple[str, str]]:
        found = []
        for message in self._of(topic, payout_id):
            record = self._codec.decode_topic(str(message.topic()), message.value()).record
            headers = dict(message.headers() or []).items()
            found.append((str(header_text(headers, "ce_id")), str(record[content])))
        return found

    def _of(self, topic: str, payout_id: str) -> list[Message]:
        return [message for message in self._records[topic] if message.key() == payout_id.encode()]

    def _read_topics(self) -> None:
        for message in self._consumer.consume(500, 0.0):
            if message.error() is None:
                self._records[str(message.topic()).removeprefix(self.prefix)].append(message)

    def _behind(self) -> list[str]:
        """What is not committed up to its end, and which inbound topics are not verified up to it (K9)."""
        places = [TopicPartition(topic_name(name, self.prefix), 0) for name in READ_BY_WORKERS]
        verified = {row["topic"]: row["next_offset"] for row in self._watch.fetch(VERIFIED)}
        try:
            committed = {place.topic: place.offset for place in self._consumer.committed(places, ASK_SECONDS)}
            marked = {place.topic: place.offset for place in self._marks.committed(places, ASK_SECONDS)}
            ends = {place.topic: self._consumer.get_watermark_offsets(place, ASK_SECONDS)[1] for place in places}
        except KafkaException as error:
            return [str(error)]
        found = [topic for topic, end in ends.items() if max(0, committed[topic]) < end]
        inbound = {topic: end for topic, end in ends.items() if TOPICS[topic.removeprefix(self.prefix)].inbound}
        for topic, end in inbound.items():
            if min(verified.get(topic, 0), max(0, marked[topic])) < end:
                found.append(f"{topic} (verified)")
        return found

    # Set-up.

    def _create_topics(self) -> None:
        client = AdminClient({"bootstrap.servers": self._servers.bootstrap_servers, "log_level": 0})
        wanted = [
            NewTopic(
                topic_name(topic.name, self.prefix),
                num_partitions=1,
                replication_factor=1,
                config=topic.broker_settings(1),
            )
            for topic in TOPICS.values()
        ]
        for future in client.create_topics(wanted).values():
            future.result(SERVED_SECONDS_MAX)

    def _follower(self, group: str) -> Consumer:
        """Reads every topic from its beginning and asks what the group committed; joins and commits nothing."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._servers.bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
                "log_level": 0,
            }
        )
        places = [TopicPartition(topic_name(name, self.prefix), 0, 0) for name in TOPICS]
        deadline = time.monotonic() + SERVED_SECONDS_MAX
        while not _are_served(consumer, places):
            if time.monotonic() > deadline:
                raise ServerError(f"the new topics of {self.prefix} have no leaders")
            time.sleep(POLL_SECONDS)
        if not group.endswith("-verified"):
            consumer.assign(places)
        return consumer


def _health_page(port: int) -> bytes:
    """Whatever its status says."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/health/detailed", timeout=PAGE_SECONDS) as page:
            return bytes(page.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.read()


def _are_served(consumer: Consumer, places: list[TopicPartition]) -> bool:
    """A creation is acknowledged before the broker leads the new partitions."""
    try:
        for place in places:
            consumer.get_watermark_offsets(place, ASK_SECONDS)
    except KafkaException:
        return False
    return True
