"""The whole pipeline as somebody outside sees it: topics, rows, the stand-in's ledger, workers as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it is exported

from ledger.migrate import migrate
from ops.kafka import wait_until_served
from processors.personal_data import seal_for_processor
from sandbox.servers.processes import ManagedProcess
from sandbox.servers.visa_stand_in import VisaStandIn
from schemas.codec import Codec, PinnedResolver
from schemas.sender_reference import sender_reference
from schemas.topics import TOPICS, topic_name
from streams.bootstrap import EXIT_CODE_UNCONFIRMED

REPOSITORY = Path(__file__).resolve().parents[3]
PARTITIONS = 3
POLL_SECONDS = 0.05
READY_SECONDS = 40.0
# For one answer of a server on a machine that does other things meanwhile: what is waited for has a limit of its own.
CONNECT_SECONDS = 25.0
ANSWER_SECONDS = 30.0
# The longest way without a kill: a query that lags, asked every few seconds, then the sweeper's next pass.
END_SECONDS = 45.0
ADDRESS = {"line1": "1 Main Street", "city": "Foster City", "state": "CA", "postal_code": "94404", "country": "US"}
ENDED = ("PAID", "REJECTED", "DENIED", "DECLINED", "EXPIRED", "FAILED", "CANCELLED")

# Visa knows an acquirer's numbers for a day, whichever database they came from: each ledger here takes a block (S1).
_number_blocks = itertools.count(1)
NUMBER_BLOCK = 10_000_000

# What a worker says last that ends itself by rule K5; a background task that died ends it with the same code.
LAST_WORDS = ("not confirmed in time: ending the worker", "the producer's sender ended: ending the worker")

Result = TypeVar("Result")


class Loop:
    """An event loop in a thread of its own, so that tests can be plain functions."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pipeline-tests", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result], seconds: float = 60.0) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def until(what: str, check: Callable[[], Result | None], seconds: float = END_SECONDS) -> Result:
    """The first truthy answer of `check`; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; last answer: {answer!r}"
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Seen:
    """One record of a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    @property
    def event_id(self) -> str:
        return self.headers["ce_id"].decode()


@dataclass
class Worker:
    """One worker process; its log and its health address."""

    process: ManagedProcess
    log_path: Path
    port_path: Path
    wanted: bool = False
    """Started, and ended by nobody here."""
    own_ends: list[int] = field(default_factory=list)
    """The codes that it ended itself with and was started again after."""

    def start(self) -> Worker:
        self.port_path.unlink(missing_ok=True)
        self.process.start()
        self.wanted = True
        return self

    def revive(self, *also: int) -> None:
        """As a supervisor does: start it again if it ended itself for something unconfirmed, which it may (rule K5).

        Any other end of its own fails the test, but for the exit codes `also`.
        """
        if not self.wanted or self.process.is_running:
            return
        code, said = self.process.exit_code, self.process.log_tail()
        by_k5 = code == EXIT_CODE_UNCONFIRMED and any(words in said for words in LAST_WORDS)
        assert by_k5 or code in also, f"{self.process.name} ended itself with {code}.{said}"
        self.own_ends.append(code or 0)
        self.start()

    def ended_itself(self, seconds: float) -> int | None:
        """The exit code of one that is to end itself; nobody starts it again."""
        self.wanted = False
        assert self.process.wait(seconds), f"{self.process.name} did not end itself.{self.process.log_tail()}"
        return self.process.exit_code

    def wait_until_assigned(self) -> Worker:
        """Ready means: it has partitions. Before that nothing is consumed."""
        self.process.wait_ready(lambda: bool(self.health().get("assigned_partitions")), timeout_seconds=READY_SECONDS)
        return self

    def page(self) -> dict[str, Any]:
        """Its detailed health page, however long it takes on a machine that does other things meanwhile."""
        return dict(until("its health page", self.health))

    def health(self) -> dict[str, Any]:
        """Its detailed health page; empty when it does not answer. One that ended itself is started again."""
        self.revive()
        answer = self.get("/health/detailed", 3.0)
        return {} if answer is None else dict(answer.json())

    def get(self, path: str, seconds: float = ANSWER_SECONDS) -> httpx.Response | None:
        """One of its pages; None when it does not answer."""
        if not self.port_path.exists():
            return None
        try:
            return httpx.get(f"http://127.0.0.1:{self.port_path.read_text()}{path}", timeout=seconds)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None

    def answer(self, path: str) -> httpx.Response:
        """The same, however long it takes. One that ended itself is started again."""

        def asked() -> httpx.Response | None:
            self.revive()
            return self.get(path)

        return until(f"its {path}", asked)

    def lives(self) -> bool:
        """What a supervisor sees: whether `/health` says that the process lives."""
        page = self.answer("/health")
        return page.status_code == 200 and page.json()["status"] == "alive"

    def kill(self) -> None:
        self.wanted = False
        self.process.kill()

    def terminate(self) -> int | None:
        """SIGTERM, then its exit code; a worker that must be killed after 20 s fails the test."""
        self.wanted = False
        self.process.stop(20.0)
        return self.process.exit_code

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")


@dataclass
class Pipeline:
    """Topics under a prefix, a fresh ledger, and whatever workers a test starts on them."""

    prefix: str
    database_url: str
    bootstrap_servers: str
    keys: Path
    directory: Path
    visa: VisaStandIn
    loop: Loop
    registry_url: str | None = None
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._codec = Codec(PinnedResolver())
        self._party_key = json.loads((self.keys / "party_public.jwks.json").read_text())["keys"][0]
        self._producer = self.new_producer()

    # Set-up.

    def create(self, partitions: Mapping[str, int] | None = None) -> Pipeline:
        """Make topics and tables."""
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        wanted = [
            NewTopic(
                topic_name(topic.name, self.prefix),
                num_partitions=(partitions or {}).get(topic.name, min(PARTITIONS, topic.partitions)),
                replication_factor=1,
                config=topic.broker_settings(1),
            )
            for topic in TOPICS.values()
        ]
        made = client.create_topics(wanted)
        self.loop.run(migrate(self.database_url))
        first = next(_number_blocks) * NUMBER_BLOCK
        self.execute(f"ALTER SEQUENCE payout_identity_numbers RESTART WITH {first}")
        for future in made.values():
            future.result(20)
        wait_until_served(client, list(made))
        return self

    def environment(self, name: str) -> dict[str, str]:
        return {
            **os.environ,
            **self.visa.environment(),
            "PYTHONPATH": str(REPOSITORY),
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "DATABASE_URL": self.database_url,
            "PAYOUTS_PROFILE": "test",
            "VISA_INITIATING_PARTY_ID": "1002",
            "PAYOUTS_TOPIC_PREFIX": self.prefix,
            "PAYOUTS_KEYS_DIRECTORY": str(self.keys),
            "PAYOUTS_HTTP_PORT": "0",
            "PAYOUTS_HTTP_PORT_FILE": str(self.directory / f"{name}.port"),
            "PAYOUTS_WORKER_NAME": name,
            "PAYOUTS_LOG_LEVEL": "INFO",
            "PARTY_KEYS_FILE": str(self.keys / "party_public.jwks.json"),
            "SCHEMA_REGISTRY_URL": self.registry_url or "",
        }

    def worker(
        self, name: str, agents: Sequence[str] = (), module: str = "ops", extra: Mapping[str, str] | None = None
    ) -> Worker:
        """Start a worker process; `module` names another launcher than the product's."""
        command = [sys.executable, "-m", module]
        command += [*(("worker",) if module == "ops" else ()), *(("--agents", ",".join(agents)) if agents else ())]
        log_path = self.directory / f"{name}.log"
        process = ManagedProcess(
            f"worker {name}",
            command,
            log_path=log_path,
            environment={**self.environment(name), **(extra or {})},
            working_directory=self.directory,
        )
        worker = Worker(process, log_path, self.directory / f"{name}.port")
        self.workers.append(worker)
        return worker.start()

    def supervise(self, *also: int) -> None:
        """Start again every worker that ended itself as rule K5 has it; one that ended otherwise fails the test."""
        for worker in self.workers:
            worker.revive(*also)

    @property
    def exit_codes(self) -> list[int]:
        """Those of workers that ended themselves and were started again."""
        return [code for worker in self.workers for code in worker.own_ends]

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self._producer.purge()

    # Requests.

    def seal(self, document: Mapping[str, Any]) -> str:
        return seal_for_processor(self._party_key, document)

    def request(self, payout_id: str | None = None, card: str = "tok_approve_1", **changes: Any) -> dict[str, Any]:
        """A request that is paid, unless the card's token or `changes` say otherwise."""
        payout_id = payout_id or new_id()
        recipient = changes.pop("recipient", "Rosalind Example")
        parties = {"sender": "Acme Marketplace", "recipient": recipient}
        personal = {role: {"name": name, "address": ADDRESS} for role, name in parties.items()}
        return {
            "payout_id": payout_id,
            "originator_id": "acme-marketplace",
            "funding": internal_funding(f"debit-of-{payout_id}"),
            "destination": {"kind": "CARD", "card": {"token_reference": card}},
            "amount": {"amount_minor": changes.pop("amount_minor", 2500), "currency": "USD"},
            "corridor": {
                "source_country": "US",
                "target_country": "US",
                "source_currency": "USD",
                "target_currency": "USD",
            },
            "personal_data": self.seal(personal),
            "requested_at": datetime.now(UTC),
            "correlation_id": f"order-{payout_id}",
            **changes,
        }

    def encode(self, schema: str, record: Mapping[str, Any]) -> bytes:
        return self.loop.run(self._codec.encode(schema, record))

    def decode(self, schema: str, data: bytes | None) -> dict[str, Any]:
        return self.loop.run(self._codec.decode(schema, data)).record

    def new_producer(self, **settings: Any) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "acks": "all",
                "enable.idempotence": True,
                "message.max.bytes": 1_000_000,
                "log_level": 0,
                **settings,
            }
        )

    def produce(self, topic: str, value: bytes | None, key: bytes | None, partition: int = -1) -> tuple[int, int]:
        """Write one record; (partition, offset) once the broker has it."""
        placed: list[tuple[int, int]] = []

        def confirmed(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            placed.append((int(message.partition() or 0), int(message.offset() or 0)))

        self._producer.produce(topic_name(topic, self.prefix), value, key, partition, on_delivery=confirmed)
        assert self._producer.flush(20) == 0
        return placed[0]

    def produce_with_headers(self, topic: str, value: bytes, key: bytes, headers: Mapping[str, str]) -> None:
        """The same, with headers."""
        self._producer.produce(topic_name(topic, self.prefix), value, key, headers=dict(headers))
        assert self._producer.flush(20) == 0

    def send(self, request: Mapping[str, Any], partition: int = -1) -> tuple[int, int]:
        """Produce a request as an originator does."""
        value = self.encode("PayoutRequest", request)
        return self.produce("payout_requests", value, request["payout_id"].encode(), partition)

    def send_many(self, requests: Iterable[Mapping[str, Any]]) -> list[str]:
        """Produce many at once; their payout_ids."""
        sent = []
        for request in requests:
            value = self.encode("PayoutRequest", request)
            self._producer.produce(topic_name("payout_requests", self.prefix), value, request["payout_id"].encode())
            sent.append(str(request["payout_id"]))
        assert self._producer.flush(20) == 0
        return sent

    def confirm_compensation(self, payout_id: str) -> None:
        """Play the originator: read the event, confirm what it asks for (C2)."""
        event = self.decode(
            "PayoutFailedRequiresCompensation",
            self.events_of("payout_failed_requires_compensation", payout_id)[0].value,
        )
        assert event["executor"] == "ORIGINATOR"
        confirmation = {name: event[name] for name in ("compensation_id", "payout_id", "originator_id")} | {
            "confirmed_at": datetime.now(UTC),
            "confirmation_reference": f"released-{payout_id}",
            "outcome": "COMPLETED",
        }
        value = self.encode("CompensationConfirmation", confirmation)
        self.produce("payout_compensation_confirmations", value, payout_id.encode())

    def approve_review(self, payout_id: str) -> None:
        """Play the reviewer: read the case, approve it (R1)."""
        case = self.decode("ReviewCase", self.events_of("payout_reviews", payout_id)[0].value)
        decision = {
            "case_id": case["case_id"],
            "payout_id": payout_id,
            "decision": "APPROVE",
            "reviewer": "reviewer-1",
            "reason_code": "NAME_COMPARED",
            "decided_at": datetime.now(UTC),
        }
        self.produce("payout_review_decisions", self.encode("ReviewDecision", decision), payout_id.encode())

    # What Kafka holds.

    def events(self, topic: str) -> list[Seen]:
        """Every record that the topic holds now."""
        name = topic_name(topic, self.prefix)
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": f"reader-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        with contextlib.closing(consumer):
            partitions = consumer.list_topics(name, ANSWER_SECONDS).topics[name].partitions
            wanted: dict[int, int] = {}
            for number in partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(name, number), ANSWER_SECONDS)
                if high > low:
                    wanted[number] = high
            consumer.assign([TopicPartition(name, number, 0) for number in wanted])
            seen: list[Seen] = []
            deadline = time.monotonic() + ANSWER_SECONDS
            while wanted:
                assert time.monotonic() < deadline, f"{name} could not be read to its end"
                for message in consumer.consume(500, 0.2):
                    assert message.error() is None, message.error()
                    record = _seen(message)
                    seen.append(record)
                    if record.offset + 1 >= wanted.get(record.partition, -1):
                        wanted.pop(record.partition, None)
            return seen

    def events_of(self, topic: str, payout_id: str) -> list[Seen]:
        return [record for record in self.events(topic) if record.key == payout_id.encode()]

    def committed(self, topic: str, partition: int, group: str = "payouts") -> int:
        """The group's committed offset; 0 when there is none."""
        offset = self.committed_places(topic, [partition], group)[0].offset
        return 0 if offset == OFFSET_INVALID else int(offset)

    def committed_places(self, topic: str, partitions: Iterable[int], group: str = "payouts") -> list[TopicPartition]:
        """What the group has committed, with the text beside it."""
        with self.outsider(group) as consumer:
            places = [TopicPartition(topic_name(topic, self.prefix), each) for each in partitions]
            return consumer.committed(places, ANSWER_SECONDS)

    def commit(self, places: list[TopicPartition], group: str = "payouts") -> None:
        """Commit for a group that has no members."""
        with self.outsider(group) as consumer:
            consumer.commit(offsets=places, asynchronous=False)

    def outsider(self, group: str) -> contextlib.closing[Consumer]:
        settings = {"bootstrap.servers": self.bootstrap_servers, "group.id": f"{self.prefix}{group}", "log_level": 0}
        return contextlib.closing(Consumer({**settings, "enable.auto.commit": False}))

    # What the ledger holds.

    def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        async def work() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.database_url, timeout=CONNECT_SECONDS)
            try:
                return [dict(row) for row in await connection.fetch(statement, *arguments)]
            finally:
                await connection.close()

        return self.loop.run(work())

    def execute(self, statement: str) -> None:
        self.fetch(statement)

    def row(self, payout_id: str) -> dict[str, Any]:
        rows = self.fetch("SELECT * FROM payouts WHERE payout_id = $1", payout_id)
        return rows[0] if rows else {}

    def transitions(self, payout_id: str) -> list[str]:
        rows = self.fetch("SELECT transition FROM history WHERE payout_id = $1 ORDER BY version", payout_id)
        return [row["transition"] for row in rows]

    def wait_row(self, payout_id: str, seconds: float = END_SECONDS, **wanted: Any) -> dict[str, Any]:
        """The row once its columns are as wanted and everything it says is confirmed by the broker."""

        def check() -> dict[str, Any] | None:
            self.supervise()
            row = self.row(payout_id)
            is_so = bool(row) and all(row[name] == value for name, value in wanted.items())
            return row if is_so and row["announced_version"] >= row["announce_version"] else None

        try:
            return until(f"{payout_id} as {wanted}", check, seconds)
        except AssertionError as error:
            row = self.row(payout_id)
            shown = {name: row.get(name) for name in ("state", "compensation", "reason_code", "hold_reason", "due_at")}
            raise AssertionError(f"{error}; it is {shown}, after {self.transitions(payout_id)}") from None

    def wait_all(self, payout_ids: Sequence[str], state: str = "PAID", seconds: float = END_SECONDS) -> None:
        """Every one of them in one state, announced."""

        def open_rows() -> dict[str, int]:
            self.supervise()
            rows = self.fetch(
                "SELECT CASE WHEN announced_version < announce_version THEN state || ', unannounced' ELSE state END "
                "AS stands, count(*) AS rows FROM payouts WHERE payout_id = ANY($1) GROUP BY 1",
                list(payout_ids),
            )
            return {row["stands"]: row["rows"] for row in rows}

        deadline = time.monotonic() + seconds
        while (found := open_rows()) != {state: len(payout_ids)}:
            assert time.monotonic() < deadline, (
                f"of {len(payout_ids)} payouts not all {state} in {seconds:g} s: {found}"
            )
            time.sleep(4 * POLL_SECONDS)

    # What Visa's stand-in holds.

    def visa_faults(self, *rules: Mapping[str, Any]) -> None:
        """Replace the fault plan."""
        plan = {"seed": 1, "rules": list(rules)}
        answer = httpx.put(f"{self.visa.admin_url}/sandbox/faults", json=plan, timeout=ANSWER_SECONDS)
        assert answer.status_code == httpx.codes.OK, answer.text

    def visa_entries(self, payout_id: str) -> list[dict[str, Any]]:
        """The stand-in's ledger for one payout."""
        return self._visa_page("ledger", "entries", payout_id)

    def visa_requests(self, payout_id: str | None = None) -> list[dict[str, Any]]:
        """What reached the stand-in, in the order of arrival."""
        return self._visa_page("requests", "requests", payout_id)

    def approved(self, payout_id: str) -> list[dict[str, Any]]:
        """Payments that moved money: the only judge of `paid` (P2)."""
        return [entry for entry in self.visa_entries(payout_id) if _paid(entry)]

    def approved_counts(self, payout_ids: Sequence[str]) -> dict[str, int]:
        """Approved payments of each payout, from one read of the ledger."""
        names = {sender_reference(payout_id): payout_id for payout_id in payout_ids}
        counts = dict.fromkeys(payout_ids, 0)
        for entry in self._visa_page("ledger", "entries", None):
            name = names.get(entry["sender_reference"])
            if name is not None and _paid(entry):
                counts[name] += 1
        return counts

    def _visa_page(self, path: str, table: str, payout_id: str | None) -> list[dict[str, Any]]:
        query: dict[str, str | int] = {"limit": 5000}
        if payout_id is not None:
            query["sender_reference"] = sender_reference(payout_id)
        answer = httpx.get(f"{self.visa.admin_url}/sandbox/{path}", params=query, timeout=ANSWER_SECONDS).json()
        assert not answer["has_more"], "more than one page: the test must read on"
        return list(answer[table])


def _paid(entry: Mapping[str, Any]) -> bool:
    return bool(entry["money_moved"]) and entry["operation"] in ("push", "account")


def internal_funding(reference: str) -> dict[str, Any]:
    return {"kind": "INTERNAL", "internal": {"debit_confirmed": True, "confirmation_ref": reference}}


def new_id() -> str:
    return f"p-{uuid.uuid4().hex[:20]}"


def fault(payout_id: str, operation: str, name: str, **settings: Any) -> dict[str, Any]:
    """A rule for one payout's calls."""
    return {"operation": operation, "fault": name, "sender_reference": sender_reference(payout_id), **settings}


def in_order(wanted: Sequence[str], found: Iterable[str]) -> bool:
    """Whether `wanted` is a subsequence of `found`."""
    rest = iter(found)
    return all(name in rest for name in wanted)


def one_event(records: Sequence[Seen]) -> Seen:
    """The only event among these records; the same one may have been said more than once (rule K3)."""
    assert len({(record.event_id, record.value) for record in records}) == 1, records
    return records[0]


def assert_paid_once(pipeline: Pipeline, payout_ids: Sequence[str]) -> None:
    """P2, by the stand-in's own ledger."""
    counts = pipeline.approved_counts(payout_ids)
    assert {payout_id: count for payout_id, count in counts.items() if count != 1} == {}


def _seen(message: Message) -> Seen:
    headers = dict(message.headers() or ())
    place = (str(message.topic()), int(message.partition() or 0), int(message.offset() or 0))
    key = message.key()
    value = message.value()
    return Seen(
        *place,
        key if key is None or isinstance(key, bytes) else key.encode(),
        value if value is None or isinstance(value, bytes) else value.encode(),
        {
            name: bytes(content or b"") if not isinstance(content, str) else content.encode()
            for name, content in headers.items()
        },
    )
