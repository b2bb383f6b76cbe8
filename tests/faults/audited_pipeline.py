"""A pipeline whose requests are written down as brokers acknowledge them, with a supervisor, judged by the auditor."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, Message, TopicPartition

from sandbox.auditor.audit import NO_FAULTS
from sandbox.auditor.collect import read_ledger, read_stand_in
from sandbox.auditor.evidence import Accepted, Evidence, append_accepted, read_journal
from sandbox.auditor.leak import CardNumberSearch, scan_paths
from sandbox.auditor.topics import read_topics
from sandbox.auditor.verdict import Verdict, judge
from sandbox.faults.load import planted_cards
from schemas.topics import topic_name
from streams.bootstrap import EXIT_CODE_TOPIC_MADE_ANEW, EXIT_CODE_UNCONFIRMED
from tests.integration.pipeline.pipeline_harness import Pipeline, Worker, until

STUCK_AFTER_SECONDS = 60.0
SEND_EVERY_SECONDS = 0.02
"""Fifty requests a second."""
TOKEN = "tok_approve_1"


@dataclass
class Audited:
    """One pipeline, what its originators know, and workers that are started again when they end by themselves."""

    pipeline: Pipeline
    workers: list[Worker] = field(default_factory=list)
    gone: list[Accepted] = field(default_factory=list)
    """Records that were acknowledged by a topic that was deleted since, under another name for it: the new one gives
    their places to others."""

    def __post_init__(self) -> None:
        self._journal = self.pipeline.directory / "accepted.jsonl"
        self._journal.touch()
        self._producer = self.pipeline.new_producer()

    # Originators.

    def send(self, count: int, partitions: Iterable[int] | None = None) -> list[str]:
        """Produce payouts of 25 dollars each, all to be paid, and write down what is acknowledged; their ids."""
        places = list(partitions) if partitions is not None else [-1]
        sent = []
        for number in range(count):
            request = self.pipeline.request(card=TOKEN)
            value = self.pipeline.encode("PayoutRequest", request)
            self._producer.produce(
                topic_name("payout_requests", self.pipeline.prefix),
                value,
                request["payout_id"].encode(),
                places[number % len(places)],
                on_delivery=self._noting(request, value),
            )
            self._producer.poll(0)
            sent.append(str(request["payout_id"]))
        return sent

    @contextlib.contextmanager
    def sending(self, at_most: int) -> Iterator[list[str]]:
        """An originator goes on while the block runs, fifty requests a second and not more than `at_most`; their ids.

        When the block ends the logs must have grown meanwhile: else nothing was shown.
        """
        stop, sent = threading.Event(), list[str]()

        def go_on() -> None:
            while len(sent) < at_most:
                sent.extend(self.send(1))
                if stop.wait(SEND_EVERY_SECONDS):
                    return

        before = self._request_ends()
        with ThreadPoolExecutor(1) as thread:
            going = thread.submit(go_on)
            try:
                yield sent
                assert self._request_ends() > before, "no request arrived meanwhile: this proved nothing"
            finally:
                stop.set()
                going.result(30.0)

    def _request_ends(self) -> int:
        """The ends of the requests' logs, added up."""
        name = topic_name("payout_requests", self.pipeline.prefix)
        with self.pipeline.outsider("an-onlooker") as consumer:
            numbers = consumer.list_topics(name, 10).topics[name].partitions
            return sum(consumer.get_watermark_offsets(TopicPartition(name, number), 10)[1] for number in numbers)

    def acknowledged(self) -> list[Accepted]:
        """Everything sent is acknowledged; all of it."""
        assert self._producer.flush(30) == 0
        return read_journal(self._journal)

    def forget_topic(self) -> None:
        """`payout_requests` is deleted: what it acknowledged is no evidence of what the new one holds."""
        name = f"gone-{len(self.gone)}"
        self.gone += [replace(one, position=one.position._replace(topic=name)) for one in self.acknowledged()]
        self._journal.write_bytes(b"")

    def _noting(self, request: Mapping[str, Any], value: bytes) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            append_accepted(
                self._journal,
                payout_id=request["payout_id"],
                topic=str(message.topic()),
                partition=int(message.partition() or 0),
                offset=int(message.offset() or 0),
                value=value,
                amount_minor=request["amount"]["amount_minor"],
                currency=request["amount"]["currency"],
                recipient=TOKEN,
            )

        return note

    # Workers.

    def start(self, *names: str, **extra: str) -> None:
        """Start workers of all agents, and wait until each has partitions."""
        started = [self.pipeline.worker(name, extra=extra) for name in names]
        self.workers += started
        for worker in started:
            worker.wait_until_assigned()

    def supervise(self) -> None:
        """Start again whoever ended by himself as rules K5 and K8 have it; any other end fails the test."""
        self.pipeline.supervise(EXIT_CODE_TOPIC_MADE_ANEW)

    def until_paid(self, payout_ids: Collection[str], seconds: float = 60.0) -> None:
        """All of them PAID and announced, under a supervisor."""
        paid = (
            "SELECT count(*) AS rows FROM payouts "
            "WHERE state = 'PAID' AND announced_version >= announce_version AND payout_id = ANY ($1)"
        )

        def check() -> bool:
            self.supervise()
            return bool(self.pipeline.fetch(paid, list(payout_ids))[0]["rows"] == len(payout_ids))

        until(f"{len(payout_ids)} payouts paid", check, seconds)

    def stop(self) -> None:
        """SIGTERM to all; they drain and leave the group. One whose publish stays unconfirmed then ends itself and does
        not leave (K5): it is started again, and told again."""
        self.supervise()
        for worker in self.workers:
            while (exit_code := worker.wait_until_assigned().terminate()) == EXIT_CODE_UNCONFIRMED:
                worker.wanted = True
                worker.revive()
            assert exit_code == 0, worker.process.log_tail()
        self.workers.clear()

    # The auditor.

    def verdict(self) -> Verdict:
        """As `sandbox.auditor.audit`, but for the places of records whose topic is gone: these get another name."""
        pipeline = self.pipeline
        assert pipeline.visa.directory is not None
        fingerprint_key = (pipeline.visa.directory / "credentials" / "fingerprint.key").read_bytes()
        evidence = Evidence(fingerprint_key, accepted=self.acknowledged())
        search = CardNumberSearch(planted_cards())
        read_topics(evidence, search, bootstrap_servers=pipeline.bootstrap_servers, topic_prefix=pipeline.prefix)
        asyncio.run(read_ledger(evidence, search, pipeline.database_url, topic_prefix=pipeline.prefix))
        evidence.entries = read_stand_in(pipeline.visa.admin_url)
        evidence.leaks.extend(scan_paths(search, [pipeline.directory], excepted=[self._journal]))
        places = {record.payout_id: record.position for record in self.gone}
        evidence.accepted += self.gone
        evidence.rows = [replace(row, position=places.get(row.payout_id, row.position)) for row in evidence.rows]
        return judge(evidence, stuck_after_seconds=STUCK_AFTER_SECONDS, now=datetime.now(UTC), faults=NO_FAULTS)

    def assert_clean(self, payouts: int) -> None:
        """P1 to P4, P6: lost, double, stuck, phantom, orphan, comp_double and leak are 0, and the counts add up."""
        verdict = self.verdict()
        assert verdict.clean, (verdict.line(), *verdict.problems())
        assert (verdict.counts["payouts"], verdict.counts["paid"]) == (payouts, payouts), verdict.line()
        assert self.pipeline.events("payout_dead_letters") == []


def committed(pipeline: Pipeline, topic: str, partitions: Sequence[int], group: str = "payouts") -> list[int]:
    """What the group has committed in each partition."""
    return [pipeline.committed(topic, partition, group) for partition in partitions]
