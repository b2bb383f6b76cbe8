"""Who answers the processor in a fault run: a reviewer, the originators, and one who counts the results.

One thread follows three topics directly, without a group. Reviews are approved or rejected and compensations are
confirmed or refused, by a draw that depends on the payout alone; now and then twice, as people do.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition

from sandbox.faults.load import payout_number
from schemas.codec import BlockingCodec
from schemas.topics import topic_name

RESULTS, REVIEWS, REQUIRED = "payout_results", "payout_reviews", "payout_failed_requires_compensation"
APPROVED_RATIO: Final = 0.5
REFUSED_RATIO: Final = 0.05
"""Originators who say that they cannot hand the money back: a person must."""
TWICE_RATIO: Final = 0.1
FETCHED_RECORDS: Final = 500
FETCH_SECONDS: Final = 0.2
METADATA_SECONDS: Final = 20.0
FLUSH_SECONDS: Final = 30.0


class People(threading.Thread):
    """Reviewer, originators and counter; `ended` is how many payouts have a result."""

    def __init__(self, *, seed: int, bootstrap_servers: str, topic_prefix: str) -> None:
        super().__init__(name="people", daemon=True)
        self._seed = seed
        self._prefix = topic_prefix
        self._bootstrap_servers = bootstrap_servers
        self._codec = BlockingCodec(topic_prefix=topic_prefix)
        self._stopping = threading.Event()
        self._answered: set[tuple[str, str]] = set()
        self._ended: set[int] = set()
        self.failure: str | None = None
        self._producer = Producer(
            {"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "acks": "all", "log_level": 0}
        )

    @property
    def ended(self) -> int:
        """Payouts with a result, each counted once."""
        return len(self._ended)

    def stop(self) -> None:
        """End the thread; what was answered is on the brokers."""
        self._stopping.set()
        self.join(FLUSH_SECONDS)

    def run(self) -> None:
        """Follow until stopped."""
        try:
            self._follow()
        except (KafkaException, OSError, ValueError) as error:
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._codec.close()

    def _follow(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap_servers,
                # The client wants a name; nothing joins it and nothing is committed.
                "group.id": "fault-run-people",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        try:
            places = []
            for name in (RESULTS, REVIEWS, REQUIRED):
                topic = topic_name(name, self._prefix)
                found = consumer.list_topics(topic, METADATA_SECONDS).topics[topic].partitions
                places += [TopicPartition(topic, number, OFFSET_BEGINNING) for number in found]
            consumer.assign(places)
            while not self._stopping.is_set():
                for message in consumer.consume(FETCHED_RECORDS, FETCH_SECONDS):
                    self._see(message)
                self._producer.poll(0)
            self._producer.flush(FLUSH_SECONDS)
        finally:
            consumer.close()

    def _see(self, message: Message) -> None:
        if message.error() is not None:
            # A broker that is away comes back; the client goes on by itself.
            return
        name = str(message.topic()).removeprefix(self._prefix)
        if name == RESULTS:
            key = message.key()
            self._ended.add(payout_number(key.decode() if isinstance(key, bytes) else str(key)))
            return
        record = self._codec.decode_topic(str(message.topic()), message.value()).record
        subject = str(record["case_id" if name == REVIEWS else "compensation_id"])
        if (name, subject) in self._answered:
            return
        self._answered.add((name, subject))
        if name == REVIEWS:
            self._decide(record)
        elif record["executor"] == "ORIGINATOR":
            self._confirm(record)

    def _decide(self, case: Mapping[str, Any]) -> None:
        dice = self._dice("review", case["payout_id"])
        decision = {
            "case_id": case["case_id"],
            "payout_id": case["payout_id"],
            "decision": "APPROVE" if dice.random() < APPROVED_RATIO else "REJECT",
            "reviewer": "fault-run-reviewer",
            "reason_code": "NAME_COMPARED",
            "note": None,
            "decided_at": datetime.now(UTC),
        }
        self._publish("payout_review_decisions", "ReviewDecision", decision, twice=dice.random() < TWICE_RATIO)

    def _confirm(self, required: Mapping[str, Any]) -> None:
        dice = self._dice("confirm", required["payout_id"])
        confirmation = {
            "compensation_id": required["compensation_id"],
            "payout_id": required["payout_id"],
            "originator_id": required["originator_id"],
            "confirmed_at": datetime.now(UTC),
            "confirmation_reference": f"release-{required['payout_id']}",
            "outcome": "REFUSED" if dice.random() < REFUSED_RATIO else "COMPLETED",
            "note": None,
        }
        self._publish(
            "payout_compensation_confirmations",
            "CompensationConfirmation",
            confirmation,
            twice=dice.random() < TWICE_RATIO,
        )

    def _dice(self, what: str, payout_id: str) -> random.Random:
        return random.Random(f"{self._seed}:{what}:{payout_id}")

    def _publish(self, topic: str, schema: str, record: Mapping[str, Any], *, twice: bool) -> None:
        name = topic_name(topic, self._prefix)
        value, key = self._codec.encode(schema, record, name), str(record["payout_id"]).encode()
        for _ in range(2 if twice else 1):
            self._producer.produce(name, value, key)
