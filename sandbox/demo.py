"""`make demo`: real Kafka, real PostgreSQL, the Visa Direct stand-in, one worker, and every sample payout to its end.

    python -m sandbox.demo [--keep DIRECTORY]

Exits 0 only if every payout ended where the sample file says it must and the auditor's verdict is clean. Stops
everything that it started; on a cluster or database of somebody else's it uses names of its own and removes only them.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.table import Table

from sandbox.auditor.audit import audit
from sandbox.auditor.evidence import append_accepted
from sandbox.auditor.verdict import Verdict
from sandbox.samples.sample_file import (
    Expectation,
    RequestBuilder,
    Sample,
    SampleFile,
    load_samples,
    planted_card_numbers,
    raw_record,
    utc_now,
)
from sandbox.servers.stack import Stack
from sandbox.visa_direct.cards import Cards
from sandbox.worker_process import CommandFailed, run_command, save_metrics, worker_environment, worker_process
from schemas.codec import BlockingCodec
from schemas.sender_reference import sender_reference
from schemas.topics import TOPICS, topic_name

WAIT_SECONDS_MAX = 75.0
"""The slowest sample needs about 20 s with the test profile's times; past this something is wrong."""
POLL_SECONDS = 0.2
LOST_REPLY = "reply-lost-after-effect"
STUCK_AFTER_SECONDS = 60.0
INITIATING_PARTY_ID = "1002"
"""Ours at the stand-in's account and wallet rail."""
FOLLOWED = ("payout_results", "payout_reviews", "payout_failed_requires_compensation", "payout_compensation_results")

say = Console(stderr=True, highlight=False)


@dataclass
class Names:
    """What this run calls its things; a prefix on somebody else's cluster, a database of its own on his server."""

    run: str
    prefix: str
    database_url: str
    foreign_kafka: bool
    foreign_database: bool


@dataclass
class Outcome:
    """How one sample ended, against what it was to."""

    sample: Sample
    row: Mapping[str, Any] | None
    disposition: str | None
    problems: list[str] = field(default_factory=list)


class DemoFailed(Exception):
    """The demo could not be carried through; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code is the verdict."""
    parser = argparse.ArgumentParser(
        prog="sandbox.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="keep logs, journal and keys in this directory")
    options = parser.parse_args(arguments)
    directory = options.keep or Path(tempfile.mkdtemp(prefix="payouts-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with Stack(visa=True, say=_progress) as stack:
            return _run(stack, directory)
    except (DemoFailed, CommandFailed) as error:
        say.print(f"[bold]demo failed:[/] {error}")
        return 1
    except KeyboardInterrupt:
        say.print("stopped by Ctrl-C; nothing is left running")
        return 130
    finally:
        if options.keep is None:
            shutil.rmtree(directory, ignore_errors=True)


def _run(stack: Stack, directory: Path) -> int:
    begun = time.monotonic()
    samples = load_samples()
    environment = stack.environment()
    names = _names(stack, environment)
    environment = worker_environment(
        {
            **environment,
            "DATABASE_URL": names.database_url,
            "PAYOUTS_TOPIC_PREFIX": names.prefix,
            "VISA_INITIATING_PARTY_ID": INITIATING_PARTY_ID,
        },
        directory,
    )
    try:
        _progress("creating topics and tables")
        run_command(environment, "topics", "ensure", "--replication-factor", "1")
        run_command(environment, "ledger", "migrate")
        with worker_process(environment, directory) as port:
            run = DemoRun(stack, samples, names, environment, directory)
            run.prepare_visa()
            _progress(f"producing {len(samples.payouts)} records")
            run.produce()
            run.play_until_ended()
            save_metrics(port, directory / "metrics.txt")
        outcomes = asyncio.run(run.outcomes())
        run.show(LOST_REPLY, directory / "show.json")
        verdict = run.audit()
        run.close()
    finally:
        _remove_own_names(environment, names)
    _print_table(outcomes, samples)
    return _conclude(outcomes, verdict, time.monotonic() - begun)


class DemoRun:
    """One run: what was sent, what is played, what came of it."""

    def __init__(
        self, stack: Stack, samples: SampleFile, names: Names, environment: Mapping[str, str], directory: Path
    ) -> None:
        self._samples = {sample.name: sample for sample in samples.payouts}
        self._names = names
        self._environment = environment
        self._journal = directory / "accepted.jsonl"
        self._directory = directory
        self._codec = BlockingCodec(environment.get("SCHEMA_REGISTRY_URL") or None, topic_prefix=names.prefix)
        party_key = json.loads((directory / "keys" / "party_public.jwks.json").read_text())["keys"][0]
        self._builder = RequestBuilder(samples.defaults, party_key, names.run, utc_now())
        if stack.visa is None:
            raise DemoFailed("the Visa Direct stand-in is not part of the stack")
        self._admin_url = stack.visa.admin_url
        visa_directory = stack.visa.directory
        if visa_directory is None:
            raise DemoFailed("the stand-in has no directory")
        self._visa_directory = visa_directory
        self._producer = Producer(
            {
                "bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"],
                "enable.idempotence": True,
                "acks": "all",
                "message.max.bytes": 1_000_000,
                "partitioner": "murmur2_random",
                "log_level": 0,
            }
        )
        self._acknowledged: list[dict[str, Any]] = []
        self._played: set[str] = set()

    def prepare_visa(self) -> None:
        """Tell the stand-in about faults and about the card pulls that originators are supposed to have made."""
        rules = [
            {"sender_reference": sender_reference(self._builder.payout_id(sample.name)), **rule}
            for sample in self._samples.values()
            for rule in sample.visa
        ]
        self._put("/sandbox/faults", {"seed": 1, "rules": rules}, "PUT")
        for sample in self._samples.values():
            if sample.funding == "aft" and sample.captured and sample.amount:
                self._put("/sandbox/funding", self._funding_fixture(sample), "POST")

    def produce(self) -> None:
        """Send every record and write down which the broker acknowledged: the auditor's first evidence."""
        for sample in self._samples.values():
            key, value, recipient = self._record(sample)
            self._send(key, value, sample, recipient)
        left = self._producer.flush(20)
        if left:
            raise DemoFailed(f"{left} records were not acknowledged by Kafka in 20 s")

    def play_until_ended(self) -> None:
        """Follow the topics, play reviewer and originator, and stop when everything has ended where it must."""
        consumer = _follow(self._environment["KAFKA_BOOTSTRAP_SERVERS"], self._names.prefix)
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        shown = 0.0
        try:
            while time.monotonic() < deadline:
                self._play(consumer.consume(200, POLL_SECONDS))
                if time.monotonic() - shown < 1.0:
                    continue
                shown = time.monotonic()
                open_samples = [outcome for outcome in asyncio.run(self.outcomes()) if outcome.problems]
                _progress(f"{len(self._samples) - len(open_samples)} of {len(self._samples)} ended where they must")
                if not open_samples:
                    break
        finally:
            consumer.close()

    async def outcomes(self) -> list[Outcome]:
        """Every sample with its row or disposition, and what is wrong with it."""
        connection = await asyncpg.connect(self._names.database_url)
        try:
            rows = {row["payout_id"]: dict(row) for row in await connection.fetch("SELECT * FROM payouts")}
            intake = {
                (row["topic"], row["partition_number"], row["record_offset"]): str(row["disposition"]).lower()
                for row in await connection.fetch("SELECT * FROM intake")
            }
        finally:
            await connection.close()
        places = {
            entry["sample"]: (entry["topic"], entry["partition"], entry["offset"]) for entry in self._acknowledged
        }
        found = []
        for sample in self._samples.values():
            row = rows.get(self._builder.payout_id(sample.name)) if sample.send is None else None
            outcome = Outcome(sample, row, intake.get(places.get(sample.name, ("", -1, -1))))
            outcome.problems = _problems(sample.expect, outcome)
            found.append(outcome)
        return found

    def show(self, name: str, file: Path) -> None:
        """Keep what `payouts show` says of one sample: the life of a payout whose reply was lost."""
        file.write_text(run_command(self._environment, "show", self._builder.payout_id(name), "--output", "json"))

    def close(self) -> None:
        """Close what the run opened for itself."""
        self._codec.close()

    def audit(self) -> Verdict:
        """The auditor's verdict on everything that this run left."""
        fingerprint_key = (self._visa_directory / "credentials" / "fingerprint.key").read_bytes()
        return audit(
            self._journal,
            bootstrap_servers=self._environment["KAFKA_BOOTSTRAP_SERVERS"],
            database_url=self._names.database_url,
            stand_in_admin_url=self._admin_url,
            fingerprint_key=fingerprint_key,
            topic_prefix=self._names.prefix,
            card_numbers=planted_card_numbers(),
            scan=[self._directory, self._visa_directory],
            excepted_topics=["payout_requests"],
            stuck_after_seconds=STUCK_AFTER_SECONDS,
            schema_registry_url=self._environment.get("SCHEMA_REGISTRY_URL") or None,
        )

    def _record(self, sample: Sample) -> tuple[bytes, bytes, str | None]:
        topic = topic_name("payout_requests", self._names.prefix)
        send = sample.send
        if send is None:
            record = self._builder.record(sample)
            value = self._codec.encode("PayoutRequest", record, topic)
            return record["payout_id"].encode(), value, _recipient(sample)
        if send.raw == "foreign_key":
            other = Sample(name=sample.name, amount="100 USD", to="token:tok_approve", expect=sample.expect)
            return b"some-other-payout", self._codec.encode("PayoutRequest", self._builder.record(other), topic), None
        if send.raw is not None:
            key, value = raw_record(send.raw, 1)
            return key, value, None
        original = self._samples[send.repeat_of or send.conflict_of or ""]
        record = self._builder.record(original, send.amount)
        return record["payout_id"].encode(), self._codec.encode("PayoutRequest", record, topic), _recipient(original)

    def _send(self, key: bytes, value: bytes, sample: Sample, recipient: str | None) -> None:
        def acknowledged(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                return
            topic, partition, offset = str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)
            self._acknowledged.append({"sample": sample.name, "topic": topic, "partition": partition, "offset": offset})
            self._write_journal(sample, topic, partition, offset, value, recipient)

        topic = topic_name("payout_requests", self._names.prefix)
        self._producer.produce(topic, value, key, on_delivery=acknowledged)
        self._producer.poll(0)
        if sample.send is None:
            self._producer.flush(10)  # a repeat must come after its first: another one would own the id

    def _write_journal(
        self, sample: Sample, topic: str, partition: int, offset: int, value: bytes, recipient: str | None
    ) -> None:
        source = (
            sample if sample.send is None else self._samples.get(sample.send.repeat_of or sample.send.conflict_of or "")
        )
        amount = (sample.send.amount if sample.send else None) or (source.amount if source else None)
        minor, currency = amount.split() if amount else (None, None)
        append_accepted(
            self._journal,
            payout_id=self._builder.payout_id(source.name) if source else None,
            topic=topic,
            partition=partition,
            offset=offset,
            value=value,
            amount_minor=int(minor) if minor else None,
            currency=currency,
            recipient=recipient,
        )

    def _play(self, messages: list[Message]) -> None:
        for message in messages:
            if message.error() is not None:
                continue
            name = str(message.topic()).removeprefix(self._names.prefix)
            record = self._codec.decode_topic(str(message.topic()), message.value()).record
            sample = self._samples.get(str(record["payout_id"]).removesuffix(f"-{self._names.run}"))
            if sample is None or f"{name}:{sample.name}" in self._played:
                continue
            if name == "payout_reviews" and sample.play.reviewer:
                self._decide(sample, record)
            elif name == "payout_failed_requires_compensation" and sample.play.originator:
                self._confirm(sample, record)
            else:
                continue
            self._played.add(f"{name}:{sample.name}")
        self._producer.flush(5)

    def _decide(self, sample: Sample, case: Mapping[str, Any]) -> None:
        decision = {
            "case_id": case["case_id"],
            "payout_id": case["payout_id"],
            "decision": "APPROVE" if sample.play.reviewer == "approves" else "REJECT",
            "reviewer": "demo-reviewer",
            "reason_code": "NAME_COMPARED",
            "note": None,
            "decided_at": utc_now(),
        }
        self._publish("payout_review_decisions", "ReviewDecision", decision)

    def _confirm(self, sample: Sample, required: Mapping[str, Any]) -> None:
        if required["executor"] != "ORIGINATOR":
            return
        confirmation = {
            "compensation_id": required["compensation_id"],
            "payout_id": required["payout_id"],
            "originator_id": required["originator_id"],
            "confirmed_at": utc_now(),
            "confirmation_reference": f"release-{required['payout_id']}",
            "outcome": "COMPLETED" if sample.play.originator == "confirms" else "REFUSED",
            "note": None,
        }
        self._publish("payout_compensation_confirmations", "CompensationConfirmation", confirmation)

    def _publish(self, topic: str, schema: str, record: Mapping[str, Any]) -> None:
        name = topic_name(topic, self._names.prefix)
        self._producer.produce(name, self._codec.encode(schema, record, name), str(record["payout_id"]).encode())

    def _funding_fixture(self, sample: Sample) -> dict[str, Any]:
        facts = self._builder.aft_facts(sample)
        minor, currency = (sample.amount or "0 USD").split()
        return {
            "acquiringBin": facts["acquiring_bin"],
            "stan": str(facts["systems_trace_audit_number"]),
            "rrn": facts["retrieval_reference_number"],
            "transactionIdentifier": facts["transaction_identifier"],
            "approvalCode": facts["approval_code"],
            "amount": f"{int(minor) // 100}.{int(minor) % 100:02d}",
            "currency": currency,
            "captured_at": facts["captured_at"].isoformat(),
            "recipient": "4895142232120006",
        }

    def _put(self, path: str, body: Mapping[str, Any], method: str) -> None:
        request = urllib.request.Request(  # noqa: S310 - the stand-in's loopback port
            self._admin_url + path,
            data=json.dumps(body).encode(),
            method=method,
            headers={"content-type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            raise DemoFailed(f"the stand-in refused {path}: {error.read().decode()[:500]}") from error


def _problems(expect: Expectation, outcome: Outcome) -> list[str]:
    if expect.disposition is not None:
        return [] if outcome.disposition == expect.disposition else [f"disposition is {outcome.disposition}"]
    row = outcome.row
    if row is None:
        return ["no row"]
    expected = {
        "state": expect.state,
        "reason_code": expect.reason_code,
        "compensation": expect.compensation,
        "held": expect.held,
    }
    wrong = [f"{name} is {row[name]}" for name, value in expected.items() if value is not None and row[name] != value]
    if expect.returned is not (row["returned_at"] is not None):
        wrong.append("it did not come back" if expect.returned else "it came back")
    if row["attempts"] < expect.attempts_min:
        wrong.append(f"{row['attempts']} attempts")
    if row["announced_version"] < row["announce_version"]:
        wrong.append("not announced")
    return wrong


def _recipient(sample: Sample) -> str | None:
    kind, _, value = (sample.to or "token:tok_approve").partition(":")
    if kind == "alias":
        return Cards.from_file().aliases[value].card_number
    return value if kind in ("card", "token", "account", "wallet") else None


def _names(stack: Stack, environment: Mapping[str, str]) -> Names:
    run = secrets.token_hex(4)
    foreign_kafka, foreign_database = not stack.kafka.owned, not stack.postgres.owned
    url = environment["DATABASE_URL"]
    if foreign_database:
        url = urlunsplit(urlsplit(url)._replace(path=f"/payouts_demo_{run}"))
        asyncio.run(_database(environment["DATABASE_URL"], f"CREATE DATABASE payouts_demo_{run}"))
        _progress(f"on this PostgreSQL the demo uses the database payouts_demo_{run} and drops it afterwards")
    prefix = f"demo-{run}-" if foreign_kafka else ""
    if foreign_kafka:
        _progress(f"on this Kafka the demo's topics and group begin with {prefix} and are deleted afterwards")
    return Names(run, prefix, url, foreign_kafka, foreign_database)


async def _database(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _remove_own_names(environment: Mapping[str, str], names: Names) -> None:
    if names.foreign_kafka:
        admin = AdminClient({"bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"]})
        deletions = admin.delete_topics([topic_name(name, names.prefix) for name in TOPICS], operation_timeout=10)
        deletions |= admin.delete_consumer_groups([f"{names.prefix}payouts"], request_timeout=10)
        for future in deletions.values():
            with contextlib.suppress(Exception):
                future.result()
    if names.foreign_database:
        name = urlsplit(names.database_url).path.lstrip("/")
        server = urlunsplit(urlsplit(names.database_url)._replace(path="/postgres"))
        with contextlib.suppress(Exception):
            asyncio.run(_database(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def _follow(bootstrap_servers: str, prefix: str) -> Consumer:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "not-used", "enable.auto.commit": False, "log_level": 0}
    )
    names = [topic_name(name, prefix) for name in FOLLOWED]
    topics = consumer.list_topics(timeout=10).topics
    consumer.assign([TopicPartition(name, number, 0) for name in names for number in topics[name].partitions])
    return consumer


def _progress(message: str) -> None:
    say.print(f"[dim]{datetime.now(UTC):%H:%M:%S}[/] {message}")


def _print_table(outcomes: Sequence[Outcome], samples: SampleFile) -> None:
    table = Table("payout", "amount", "corridor", "state", "reason", "compensation", "attempts", "ms", "", box=None)
    for outcome in outcomes:
        row, sample = outcome.row, outcome.sample
        verdict = "ok" if not outcome.problems else "; ".join(outcome.problems)
        corridor = sample.corridor or samples.defaults.corridor
        if row is None:
            table.add_row(sample.name, "", "", (outcome.disposition or "?").upper(), "", "", "", "", verdict)
            continue
        took_ms = int((row["state_at"] - row["received_at"]).total_seconds() * 1000)
        state = f"{row['state']} (held)" if row["held"] else row["state"]
        compensation = "" if row["compensation"] == "NONE" else row["compensation"]
        reason = row["hold_reason"] if row["held"] else row["reason_code"] or ""
        numbers = str(row["attempts"]), str(took_ms)
        table.add_row(sample.name, sample.amount, corridor, state, reason, compensation, *numbers, verdict)
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


def _conclude(outcomes: Sequence[Outcome], verdict: Verdict, seconds: float) -> int:
    for problem in verdict.problems():
        say.print(f"[bold]auditor:[/] {problem}")
    wrong = [outcome.sample.name for outcome in outcomes if outcome.problems]
    if wrong:
        say.print(f"[bold]not where they must be:[/] {', '.join(wrong)}")
    _progress(f"{len(outcomes)} records in {seconds:.1f} s, servers not counted")
    sys.stdout.write(verdict.line() + "\n")
    return 0 if verdict.clean and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
