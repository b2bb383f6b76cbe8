"""`payouts lag` and its exporter on a real Kafka, beside Kafka's own tool."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient  # type: ignore[attr-defined]
from prometheus_client.parser import text_string_to_metric_families

from ops.exit_codes import ExitCode
from sandbox.servers.kafka import CONSUMER_GROUPS_TOOL, KafkaCluster
from schemas.topics import READ_BY_WORKERS
from tests.ops.conftest import Live

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0
ANSWER_SECONDS = 30.0
KAFKAS_NOTHING = "-"
PARTITIONS = 3


@pytest.fixture
def live(kafka_server: KafkaCluster, tmp_path: Path) -> Live:
    """Topics of this test alone on a Kafka of our own; the lag needs no ledger."""
    prefix = f"t{uuid.uuid4().hex[:8]}-"
    environment = {
        "PAYOUTS_PROFILE": "test",
        "PAYOUTS_TOPIC_PREFIX": prefix,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "PAYOUTS_OPERATOR": "tester",
        "SCHEMA_REGISTRY_URL": "",
    }
    made = Live(environment, tmp_path, prefix)
    made.data("topics", "ensure", "--partitions", str(PARTITIONS), "--replication-factor", "1")
    return made


@dataclass(frozen=True)
class Seen:
    """One partition as somebody shows it."""

    committed: int
    end: int
    lag: int


Shown = dict[tuple[str, int], Seen]


def as_kafka_shows_it(kafka: KafkaCluster, group: str) -> Shown:
    """The rows of `kafka-consumer-groups.sh --describe` that have a lag."""
    told = kafka.run_tool(CONSUMER_GROUPS_TOOL, "--describe", "--group", group)
    rows = [line.split() for line in told.splitlines() if line.startswith(group)]
    return {
        (row[1], int(row[2])): Seen(int(row[3]), int(row[4]), int(row[5])) for row in rows if row[5] != KAFKAS_NOTHING
    }


def as_we_show_it(values: Mapping[str, Any]) -> Shown:
    """The same of ours."""
    return {
        (row["topic"], row["partition"]): Seen(row["committed_offset"], row["end_offset"], row["lag_records"])
        for row in values["partitions"]
        if row["lag_records"] is not None
    }


def row_of(values: Mapping[str, Any], topic: str, partition: int) -> Mapping[str, Any]:
    """One partition of ours."""
    return next(row for row in values["partitions"] if (row["topic"], row["partition"]) == (topic, partition))


def produced(live: Live, topic: str, partition: int, count: int, **more: Any) -> None:
    """So many records, confirmed."""
    producer = Producer({"bootstrap.servers": live.environment["KAFKA_BOOTSTRAP_SERVERS"], "acks": "all"})
    for _ in range(count):
        producer.produce(topic, b"x", partition=partition, **more)
    assert producer.flush(WAIT_SECONDS) == 0


def transactional(live: Live) -> Producer:
    """A producer whose transactions leave marks in the log."""
    producer = Producer(
        {
            "bootstrap.servers": live.environment["KAFKA_BOOTSTRAP_SERVERS"],
            "transactional.id": live.prefix,
            "log_level": 0,
        }
    )
    producer.init_transactions(WAIT_SECONDS)
    return producer


def committed(live: Live, *places: tuple[str, int, int]) -> None:
    """The group's offsets, as if workers had come so far and gone."""
    consumer = Consumer(
        {
            "bootstrap.servers": live.environment["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": live.settings.group,
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.commit(offsets=[TopicPartition(*place) for place in places], asynchronous=False)
    finally:
        consumer.close()


def test_on_a_quiet_group_ours_are_kafkas_own_numbers(kafka_server: KafkaCluster, live: Live) -> None:
    """S3-09: committed, end and lag of every partition, with marks of transactions, an aborted one, removed records

    and partitions where nothing was ever committed.
    """
    requests, validated = f"{live.prefix}payout_requests", f"{live.prefix}payout_validated"
    produced(live, requests, 0, 7)
    producer = transactional(live)
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.produce(validated, b"x", partition=1)
        assert producer.flush(WAIT_SECONDS) == 0
        end(WAIT_SECONDS)
    produced(live, validated, 2, 5)
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap_servers})
    for removed in admin.delete_records([TopicPartition(validated, 2, 3)]).values():
        removed.result(WAIT_SECONDS)
    committed(live, (requests, 0, 4), (validated, 1, 0), (validated, 2, 1))

    theirs, values = as_kafka_shows_it(kafka_server, live.settings.group), live.data("lag")
    ours = as_we_show_it(values)
    assert ours == theirs
    assert ours == {(requests, 0): Seen(4, 7, 3), (validated, 1): Seen(0, 4, 4), (validated, 2): Seen(1, 5, 4)}
    assert (values["state"], values["members"]) == ("EMPTY", 0)
    assert (values["lag_records"], values["max_lag_records"]) == (11, 4)
    assert values["uncommitted_partitions"] == len(READ_BY_WORKERS) * PARTITIONS - 3
    assert row_of(values, requests, 1)["lag_records"] is None
    assert row_of(values, requests, 1)["lag_seconds"] is None
    assert row_of(values, validated, 2)["expired_records"] == 2
    table = live.run("lag")
    assert table.exit_code == 0
    assert "No worker is in the group" in table.stderr


class MovingGroup:
    """A producer and a consumer of the group that never stop, until they are told."""

    def __init__(self, live: Live, topic: str) -> None:
        self._live = live
        self._topic = topic
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._produce), threading.Thread(target=self._consume)]
        self.consumed = 0

    def __enter__(self) -> MovingGroup:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(WAIT_SECONDS)

    def _produce(self) -> None:
        producer = Producer({"bootstrap.servers": self._live.environment["KAFKA_BOOTSTRAP_SERVERS"]})
        number = 0
        while not self._over.wait(0.005):
            producer.produce(self._topic, b"x", partition=number % PARTITIONS)
            producer.poll(0)
            number += 1
        producer.flush(WAIT_SECONDS)

    def _consume(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._live.environment["KAFKA_BOOTSTRAP_SERVERS"],
                "group.id": self._live.settings.group,
                "client.id": "moving-worker",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        consumer.subscribe([self._topic])
        try:
            while not self._over.is_set():
                record = consumer.poll(0.1)
                if record is not None and record.error() is None:
                    consumer.commit(record, asynchronous=False)
                    self.consumed += 1
        finally:
            consumer.close()


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Wait until it is so, and give what is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def test_on_a_moving_group_ours_lie_between_two_of_kafkas(kafka_server: KafkaCluster, live: Live) -> None:
    """Issue 7, done when: `payouts lag` and Kafka's own tool agree on a moving group. Offsets only grow, so ours, taken

    between two of theirs, lie between them; the lag is the difference of our two.
    """
    topic = f"{live.prefix}payout_requests"

    def every_partition_has_a_commit() -> bool:
        result = live.run("lag", "--output", "json")  # until its first commit there is no such group
        return result.exit_code == 0 and len(as_we_show_it(json.loads(result.stdout))) == PARTITIONS

    with MovingGroup(live, topic) as group:
        until("every partition has a commit", every_partition_has_a_commit)
        before = as_kafka_shows_it(kafka_server, live.settings.group)
        values = live.data("lag")
        after = as_kafka_shows_it(kafka_server, live.settings.group)
        assert group.consumed > 0
    ours = as_we_show_it(values)
    assert set(before) == set(ours) == set(after) == {(topic, number) for number in range(PARTITIONS)}
    for place, seen in ours.items():
        assert before[place].committed <= seen.committed <= after[place].committed
        assert before[place].end <= seen.end <= after[place].end
        assert seen.lag == seen.end - seen.committed
    assert any(before[place] != after[place] for place in ours), "the group stood still: nothing was proven"
    assert values["state"] == "STABLE"
    assert [(m["client_id"], m["partitions"]) for m in values["group_members"]] == [("moving-worker", PARTITIONS)]
    assert row_of(values, topic, 0)["member"] == "moving-worker"


def test_seconds_are_the_age_of_the_first_record_that_is_not_finished(live: Live) -> None:
    """S3-21: no interpolation. The record after the committed offset says since when it waits."""
    topic = f"{live.prefix}payout_validated"
    written_at_milliseconds = round(time.time() * 1000) - 3_600_000
    for minutes in range(3):
        produced(live, topic, 0, 1, timestamp=written_at_milliseconds + minutes * 60_000)
    committed(live, (topic, 0, 1), (topic, 1, 0))
    values = live.data("lag")
    waited = datetime.fromisoformat(values["at"]).timestamp() - written_at_milliseconds / 1000 - 60
    assert row_of(values, topic, 0)["lag_seconds"] == pytest.approx(waited, abs=0.06)
    assert row_of(values, topic, 1)["lag_seconds"] == 0
    assert values["max_lag_seconds"] == row_of(values, topic, 0)["lag_seconds"]
    committed(live, (topic, 0, 3))
    assert row_of(live.data("lag"), topic, 0)["lag_seconds"] == 0


def test_offsets_without_records_make_no_seconds_and_an_open_transaction_is_not_waited_for(live: Live) -> None:
    """kafka-operations: a caught-up group shows lag 1 behind a mark; a fetch at the last stable offset would block."""
    topic = f"{live.prefix}payout_validated"
    producer = transactional(live)
    producer.begin_transaction()
    producer.produce(topic, b"x", partition=0)
    producer.commit_transaction(WAIT_SECONDS)
    committed(live, (topic, 0, 1))
    marked = row_of(live.data("lag"), topic, 0)
    assert (marked["lag_records"], marked["lag_seconds"]) == (1, 0)
    producer.begin_transaction()
    producer.produce(topic, b"x", partition=0)
    assert producer.flush(WAIT_SECONDS) == 0
    committed(live, (topic, 0, 2))
    try:
        values = live.data("lag")
    finally:
        producer.abort_transaction(WAIT_SECONDS)
    assert (row_of(values, topic, 0)["end_offset"], row_of(values, topic, 0)["lag_seconds"]) == (2, 0)
    assert values["unknown_lag_seconds_partitions"] == 0


def test_a_record_that_does_not_come_in_time_is_said_and_no_number_is_made_up(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 5: done in part."""
    topic = f"{live.prefix}payout_requests"
    produced(live, topic, 0, 2)
    committed(live, (topic, 0, 0))
    monkeypatch.setattr("ops.lag_look.RECORDS_SECONDS", 0.0)
    result = live.run("lag", "--output", "json")
    assert result.exit_code == ExitCode.PARTIAL
    assert "their seconds are not known" in result.stderr
    values = json.loads(result.stdout)
    assert (row_of(values, topic, 0)["lag_records"], row_of(values, topic, 0)["lag_seconds"]) == (2, None)
    assert (values["unknown_lag_seconds_partitions"], values["max_lag_seconds"]) == (1, None)


def test_watching_appends_a_line_a_look_and_ends_after_as_many_as_were_asked_for(live: Live) -> None:
    """For scripts: bounded, one JSON object or one line a look."""
    topic = f"{live.prefix}payout_requests"
    produced(live, topic, 0, 2)
    committed(live, (topic, 0, 0))
    watched = live.run("lag", "--watch", "--interval", "1", "--count", "2", "--output", "json")
    assert watched.exit_code == 0, watched.stderr
    looks = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [look["lag_records"] for look in looks] == [2, 2]
    assert [look["status"] for look in looks] == ["OK", "OK"]
    assert all(0 < look["window_complete_ratio"] < 1 for look in looks), "a status from two looks would be made up"
    heading, line = live.run("lag", "--watch", "--count", "1").stdout.splitlines()
    assert heading.split()[:3] == ["AT", "STATE", "MEMBERS"]
    assert f"{topic}-0: 2" in line


@pytest.mark.parametrize("words", [("--count", "3"), ("--seconds", "3"), ("--watch", "--interval", "0.5")])
def test_bounds_that_make_no_sense_are_refused(live: Live, words: tuple[str, ...]) -> None:
    assert live.run("lag", *words).exit_code == ExitCode.USAGE


def test_a_group_or_a_cluster_that_is_not_there_ends_a_watch_at_once(live: Live) -> None:
    """Nobody watches a typing error for an hour."""
    unknown = live.run("lag", "--watch", "--interval", "300")
    assert unknown.exit_code == ExitCode.FOUND
    assert "no consumer group" in unknown.stderr
    away = live.run("lag", "--watch", "--interval", "300", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert away.exit_code == ExitCode.UNREACHABLE


@contextlib.contextmanager
def started(live: Live, *words: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`payouts WORDS…` as a process of its own, killed if it has not ended by then."""
    child = subprocess.Popen(
        [sys.executable, "-m", "ops", *words],
        env={**os.environ, **live.environment, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        **streams,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait(WAIT_SECONDS)
        if child.stderr is not None:
            child.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_on_a_terminal_it_redraws_and_a_signal_ends_it_with_0(live: Live, number: signal.Signals) -> None:
    committed(live, (f"{live.prefix}payout_requests", 0, 0))
    ours, theirs = pty.openpty()
    try:
        with started(live, "lag", "--watch", "--interval", "1", stdout=theirs, stderr=subprocess.DEVNULL) as watching:
            screen = b""
            deadline = time.monotonic() + WAIT_SECONDS
            while screen.count(b"\x1b[2J") < 2 or b"COMMITTED" not in screen:
                assert time.monotonic() < deadline, screen
                if select.select([ours], [], [], 0.1)[0]:
                    screen += os.read(ours, 65536)
            watching.send_signal(number)
            assert watching.wait(WAIT_SECONDS) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"OK 1/10" in screen


@dataclass
class Scraped:
    """What a scraper reads at once."""

    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    @property
    def up(self) -> float:
        """Whether Kafka answers, as the exporter says."""
        return self.samples["kafka_lag_exporter_up"][(("cluster_name", "eu-1"),)]


def scraped(url: str) -> Scraped:
    """The page, read as Prometheus does."""
    answer = httpx.get(url, timeout=ANSWER_SECONDS)
    assert answer.status_code == 200
    found = Scraped()
    for family in text_string_to_metric_families(answer.text):
        found.types[family.name] = family.type
        for sample in family.samples:
            found.samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def scraped_while(url: str, up: bool) -> Scraped:
    """The first page from a time when Kafka answers, or does not: one look may fail on a busy machine."""
    found: Scraped = until(f"Kafka answers: {up}", lambda: page if (page := scraped(url)).up == up else None)
    return found


def test_the_exporter_shows_what_the_command_shows_and_nothing_while_the_broker_is_away(
    kafka_server: KafkaCluster, live: Live
) -> None:
    """S3-09, S3-21: on loopback, in the shared names; a failed look drops the samples, a good one is back."""
    topic = f"{live.prefix}payout_requests"
    produced(live, topic, 0, 5)
    committed(live, (topic, 0, 2), (topic, 1, 0))
    words = ("lag", "export", "--port", "0", "--interval", "1", "--cluster-name", "eu-1")
    with started(live, *words, stderr=subprocess.PIPE) as exporter:
        assert exporter.stderr is not None
        url = exporter.stderr.readline().decode().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        health = url.replace("/metrics", "/health")
        page = scraped_while(url, up=True)
        lag = {(dict(key)["topic"], int(dict(key)["partition"])): value for key, value in
               page.samples["kafka_consumergroup_group_lag"].items()}  # fmt: skip
        assert lag == {(topic, 0): 3, (topic, 1): 0}
        assert len(page.samples["kafka_partition_latest_offset"]) == len(READ_BY_WORKERS) * PARTITIONS
        ours = {name for name in page.types if name.startswith(("kafka_", "payouts_"))}
        assert {page.types[name] for name in ours} == {"gauge"}
        assert not {name for name in ours if name.endswith("_total")}, "a gauge is no counter"
        until("Kafka answers", lambda: httpx.get(health, timeout=ANSWER_SECONDS).json()["kafka_answers"] is True)
        assert httpx.post(url, content=b"x" * 100_000, timeout=ANSWER_SECONDS).status_code == 405

        kafka_server.kill()
        try:
            page = scraped_while(url, up=False)
            assert not {name for name in page.samples if "consumergroup" in name or "partition" in name}
            assert httpx.get(health, timeout=ANSWER_SECONDS).status_code == 200, (
                "the broker's end is not the exporter's"
            )
        finally:
            kafka_server.restart()
        before = {(("cluster_name", "eu-1"), ("group", live.settings.group)): 3}
        # A broker that has just come up may answer before it has read what was committed.
        until(
            "the exporter shows the same again",
            lambda: scraped(url).samples.get("kafka_consumergroup_group_sum_lag") == before,
        )
        exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(WAIT_SECONDS) == 0
        said = exporter.stderr.read().decode()
    told = [line.endswith("is shown") for line in said.splitlines() if "no lag to show" in line or "is shown" in line]
    # Told when it changes, not at every look. One more look that fails on a busy machine is two more changes.
    assert all(one is not following for one, following in pairwise(told)), said
    assert told.count(False) >= 1, said
    assert told.count(True) >= 2, said
