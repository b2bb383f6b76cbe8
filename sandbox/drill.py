"""All servers are lost while payouts run, and everything is put back from a backup: nothing lost, nothing paid twice.

    python -m sandbox.drill

Real Kafka and PostgreSQL, workers, the stand-in for Visa with faults of its own, originators and reviewers. The backup
is taken by our own commands while payouts flow, which go on after it: so the backup is older than what happened. Then
every worker is killed, both servers and all of their data are gone, and so are our keys. Into empty servers everything
is put back in the order of the runbook (`A disaster: every server is lost`), with every wrong order tried on the way:

    keys, ledger, topics, offsets; half of what was lost is sent again; adopt; workers; the rest is sent again;
    two people decide what is held, with what Visa's books and the originators know; new payouts go on meanwhile

and all of it ends. Then an audit of both lives together. Printed are the seconds of each phase, what was refused, and
the verdict line; exit 0 only if all of that is as it must be. `--break` does one thing wrong on purpose, to see the
verdict red: a request that is not sent again, or one that is sent again as if it were new.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from sandbox.auditor.audit import audit, read_life
from sandbox.auditor.collect import read_stand_in
from sandbox.auditor.evidence import (
    Accepted,
    Evidence,
    EvidenceIncomplete,
    JournalUnreadable,
    Position,
    append_accepted,
)
from sandbox.auditor.leak import ScanFailed
from sandbox.auditor.verdict import FaultCounts, Verdict
from sandbox.drill_people import Found, TwoPeople, known
from sandbox.faults.aim import PATIENT_CONNECT_SECONDS, LedgerAway, LedgerWatch
from sandbox.faults.fleet import Fleet
from sandbox.faults.load import INITIATING_PARTY_ID, Load, LoadFailed, PlannedPayout, plan_payout, planted_cards
from sandbox.faults.people import People
from sandbox.faults.suite import OPEN_WORK, SET_ASIDE
from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.postgres import PostgresServer
from sandbox.servers.processes import ServerError, in_parallel
from sandbox.servers.stack import ending_signals_ignored
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.verdict_run import run_to_verdict, say
from sandbox.worker_process import CommandFailed, run_command, worker_environment
from schemas.codec import BlockingCodec
from schemas.topics import topic_name

BEFORE: Final = 150
DURING: Final = 60
AFTER: Final = 60
FRESH: Final = 30
RATE: Final = 25.0
"""Payouts a second that the originators ask for."""
WORKERS: Final = 2
PARTITIONS: Final = 3
PROCEDURE: Final = (
    ("ledger", "restore", "--part", "ledger"),
    ("ledger", "restore", "--part", "topics"),
    ("ledger", "restore", "--part", "offsets"),
    ("ledger", "adopt"),
)
"""What the runbook has an operator type, in its order; a test compares the two."""
SENT_SECONDS: Final = 120.0
HEALTH: Final = "/sandbox/health"
CALLS_PAGE: Final = 1_000
MONEY_OPERATIONS: Final = frozenset({"push", "reverse", "adjustment", "account_send"})
"""As the stand-in names calls."""
READY_SECONDS: Final = 60.0
WATCHED_SECONDS: Final = 2.0
"""How long nothing may leave while a worker waits before a copy that nobody has adopted."""
ENDED_SECONDS: Final = 240.0
MARGIN: Final = timedelta(seconds=2)
"""How much more than what is missing the originators send again: what is there already is a repeat."""
STUCK_AFTER_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.2
TOLD_SECONDS: Final = 2.0
ASKED_AGAIN_SECONDS: Final = 8.0
METADATA_SECONDS: Final = 20.0
FLUSH_SECONDS: Final = 60.0
SEEDS: Final = 1_000_000
LOOKED: Final = ("--reason", "DRILL: every server is lost", "--operator", "maria", "--dry-run")
SAID: Final = ("--reason", "DRILL: every server is lost", "--operator", "maria", "--yes")
REQUESTS: Final = "payout_requests"

WEIGHTS: Final[Mapping[str, float]] = {
    "approved": 48, "declined": 20, "unsure": 8, "review": 7, "listed": 3, "corridor_unknown": 2, "negative": 1,
    "expired": 1, "not_captured": 2, "account": 4, "wallet": 4,
}  # fmt: skip
FUNDING_WEIGHTS: Final[Mapping[str, float]] = {"INTERNAL": 40, "PIS": 10, "AFT_YOUNG": 25, "AFT_OLD": 25}
EXTRA_WEIGHTS: Final[Mapping[str, float]] = {
    "none": 88, "repeat": 5, "conflict": 3, "undecodable": 1, "unknown_schema": 1, "foreign_key": 1, "batch_repeat": 1,
}  # fmt: skip
"""As in the fault suite, with more of what is open for long: uncertain answers, reviews, hand-backs of ours. Not in it
is money that comes back after PAID: a payout that people resolve is not asked about any more."""
API_FAULTS: Final = (
    ("push", "effect_then_silence", {"probability": 0.05}),
    ("push", "effect_then_500", {"probability": 0.03}),
    ("push", "silence_before_effect", {"probability": 0.02}),
    ("push", "503", {"probability": 0.04}),
    ("push", "429", {"probability": 0.04, "retry_after": 1}),
    ("push", "late_202", {"probability": 0.03, "seconds": 2}),
    ("query", "query_not_found", {"probability": 0.03}),
    ("query", "503", {"probability": 0.03}),
    ("account_send", "effect_then_500", {"probability": 0.1}),
    ("reverse", "effect_then_500", {"probability": 0.05}),
    ("adjustment", "503", {"probability": 0.05}),
)

PAID_SINCE: Final = "SELECT count(*) AS rows FROM payouts WHERE state = 'PAID' AND payout_id >= $1"
STATES: Final = "SELECT state, count(*) AS rows FROM payouts GROUP BY 1 ORDER BY 1"
HELD_OTHERWISE: Final = """
SELECT count(*) AS rows FROM payouts WHERE held AND hold_reason NOT IN ('LEDGER_RESTORED', 'RESOLUTION_PROPOSED')
    AND state NOT IN ('PAID', 'REJECTED', 'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED')
"""
"""What a rule has found that only a person can read: it waits, seen, as in any other run."""
HELD_FOR_US: Final = "SELECT count(*) AS rows FROM payouts WHERE held AND hold_reason = 'LEDGER_RESTORED'"

FAILURES: Final = (
    ServerError, CommandFailed, LoadFailed, LedgerAway, KafkaException, EvidenceIncomplete, ScanFailed,
    JournalUnreadable, OSError, ValueError,
)  # fmt: skip


class DrillFailed(Exception):
    """The drill could not be carried through; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much is done, and what is done wrong on purpose."""

    before: int = BEFORE
    """Payouts until the backup begins."""
    during: int = DURING
    """Payouts that are sent while it is taken, at most: a slow machine takes long over it."""
    after: int = AFTER
    """Payouts that are sent when it is done, before everything is lost."""
    fresh: int = FRESH
    """New ones in the second life."""
    rate: float = RATE
    workers: int = WORKERS
    seed: int = 1
    wrong: str = ""
    """`not-sent-again` or `sent-as-new`."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where a life runs."""

    bootstrap_servers: str
    database_url: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A wrong order that was tried, and what was said to it."""

    what: str
    code: int
    said: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A record of the lost request topic, as its originator has it."""

    position: Position
    at: datetime
    """When the broker took it."""
    key: bytes
    value: bytes


@dataclass(slots=True)
class Outcome:
    """What came of a drill."""

    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    verdict: Verdict | None = None

    @property
    def clean(self) -> bool:
        """Everything ended, every wrong order was refused, and the audit of both lives found nothing."""
        return self.verdict is not None and self.verdict.clean and bool(self.refusals) and not self.problems

    def lines(self) -> Iterator[str]:
        """For stdout; the last one is the verdict."""
        for name, seconds in self.seconds.items():
            yield f"phase {name:<24} seconds={seconds:.1f}"
        for refusal in self.refusals:
            yield f"refused {refusal.what:<34} {refusal.said}"
        yield "drill " + " ".join(f"{name}={value}" for name, value in self.facts.items())
        yield "no verdict" if self.verdict is None else self.verdict.line()


def planned(seed: int, number: int) -> PlannedPayout:
    """A payout of a drill."""
    return plan_payout(seed, number, WEIGHTS, FUNDING_WEIGHTS, EXTRA_WEIGHTS)


Said = tuple[int, str, str]
"""What became of a command: exit code, stdout, stderr."""
COMMAND_SECONDS_MAX: Final = 120.0


def by_process(environment: Mapping[str, str], words: Sequence[str]) -> Said:
    """`payouts WORDS…` as an operator's shell runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "ops", *words],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class Drill:
    """One drill: a life on `servers`, its end, and another one on what `replace` gives."""

    def __init__(
        self,
        options: Options,
        servers: Servers,
        replace: Callable[[], Servers],
        visa: VisaStandIn,
        directory: Path,
        *,
        topic_prefix: str = "",
        say: Callable[[str], None] = lambda _: None,
        command: Callable[[Mapping[str, str], Sequence[str]], Said] = by_process,
    ) -> None:
        """`replace` destroys the servers with all that is on them, and starts empty ones. `command` runs ours."""
        self._command = command
        self._options = options
        self._replace = replace
        self._visa = visa
        self._directory = directory
        self._prefix = topic_prefix
        self._say = say
        self._outcome = Outcome()
        self._first_journal, self._second_journal = directory / "first.jsonl", directory / "second.jsonl"
        self._backup, self._keys_backup = directory / "backup", directory / "keys-backup"
        for journal in (self._first_journal, self._second_journal):
            journal.touch(mode=0o600)
        self._servers = servers
        self._environment: dict[str, str] = {}
        self._fleets: list[Fleet] = []
        self._closing = contextlib.ExitStack()
        self._lost_at = 0.0
        self._earlier: Evidence
        self._outbox: list[Kept]
        self._watch: LedgerWatch

    def carry_out(self) -> Outcome:
        """Both lives and the audit. Raises DrillFailed and FAILURES; stops everything that it started."""
        with self._closing:
            self._begin_life()
            self._first_life()
            self._disaster()
            self._put_back()
            self._second_life()
        self._outcome.verdict = self._audit()
        return self._outcome

    # The first life.

    def _first_life(self) -> None:
        options, visa = self._options, self._visa
        rules = [{"operation": operation, "fault": fault, **how} for operation, fault, how in API_FAULTS]
        visa.put_faults({"seed": options.seed, "rules": rules})
        _payouts(self._environment, "topics", "ensure", "--replication-factor", "1", "--partitions", str(PARTITIONS))
        _payouts(self._environment, "ledger", "migrate")
        self._start_workers()
        people = self._people()
        limit = [options.before + options.during]
        load = self._load(self._first_journal, 0, lambda: limit[0])
        self._until("the load before the backup", SENT_SECONDS, lambda: _sent(load) >= options.before)
        self._say(f"the backup begins: {load.sent} payouts were sent")
        with self._timed("backup"):
            everything = ("--include-offsets", "--include-topics", "--operator", "maria")
            _payouts(self._environment, "ledger", "backup", str(self._backup), *everything)
            shutil.copytree(self._directory / "keys", self._keys_backup)
        backed_up = load.sent
        limit[0] = backed_up + options.after
        self._until("the load after the backup", SENT_SECONDS, lambda: _sent(load) >= limit[0])
        self._until("some of it at Visa", SENT_SECONDS, self._some_are_open)
        load.finish()
        self._first_fresh = load.sent
        self._outcome.facts |= {"sent_with_backup": backed_up, "sent": load.sent}
        # From here on nobody writes: what is in flight at Visa takes its course.
        self._fleets[-1].kill_all()
        people.stop()
        if people.failure is not None:
            self._outcome.problems.append(f"people: {people.failure}")

    def _some_are_open(self) -> bool:
        states = {row["state"]: row["rows"] for row in self._watch.fetch(STATES)}
        return bool(states.get("SUBMITTING", 0) + states.get("UNKNOWN", 0) + states.get("PENDING", 0))

    # The end of it.

    def _disaster(self) -> None:
        self._lost_at = time.monotonic()
        self._say("every worker was killed; looking for the last time at what the brokers hold")
        self._outcome.facts |= {f"at_loss_{row['state'].lower()}": row["rows"] for row in self._watch.fetch(STATES)}
        self._earlier = read_life(
            self._first_journal,
            bootstrap_servers=self._servers.bootstrap_servers,
            stand_in_admin_url=self._visa.admin_url,
            topic_prefix=self._prefix,
            card_numbers=planted_cards(),
        )
        self._outbox = list(_records(self._servers.bootstrap_servers, self._requests))
        looked = time.monotonic()
        shutil.rmtree(self._directory / "keys")
        with self._timed("destroy, empty servers"):
            self._servers = self._replace()
        # What the look took is the drill's own time, not the recovery's.
        self._lost_at = looked

    # Putting back, in the order of the runbook.

    def _put_back(self) -> None:
        shutil.copytree(self._keys_backup, self._directory / "keys")
        self._begin_life()
        environment = self._environment
        restore = ("ledger", "restore", str(self._backup))
        ledger, topics, offsets, adopt = (_with_backup(words, self._backup) for words in PROCEDURE)
        before = self._last_call()
        _payouts(environment, "topics", "ensure", "--replication-factor", "1", "--partitions", str(PARTITIONS))
        self._refused("topics before the ledger", (*restore, "--part", "topics", *SAID), 3, "--part ledger")
        self._refused("offsets before the ledger", (*restore, "--part", "offsets", *SAID), 3, "--part ledger")
        self._refused("adopting nothing", ("ledger", "adopt", *SAID), 6, "")
        self._may("a look at all of it", (*restore, *LOOKED))
        with self._timed("restore the ledger"):
            _payouts(environment, *ledger, *SAID)
        self._refused("offsets before the topics", (*restore, "--part", "offsets", *SAID), 3, "--part topics")
        self._refused("a ledger over the ledger", (*restore, "--part", "ledger", *SAID), 3, "not empty")
        with self._timed("restore the topics"):
            _payouts(environment, *topics, *SAID)
        self._refused("topics over topics", (*restore, "--part", "topics", *SAID), 3, "holds records already")
        with self._timed("restore the offsets"):
            _payouts(environment, *offsets, *SAID)
        self._worker_before_adopting(restore)
        lost = self._sent_since_the_backup()
        self._send_again(lost[: len(lost) // 2])
        plan = self._may("what adopting does", ("ledger", "adopt", *LOOKED))
        self._outcome.facts["guard"] = plan["verdict"]
        if not plan["kafka_is_a_copy"]:
            self._outcome.problems.append("adopting does not know that the topics are a copy")
        with self._timed("adopt"):
            _payouts(environment, *adopt, *SAID)
        if called := self._money_calls_since(before):
            self._outcome.problems.append(f"Visa was asked for money before the copy was adopted: {called}")
        self._lost = lost[len(lost) // 2 :]

    def _worker_before_adopting(self, restore: tuple[str, ...]) -> None:
        """Too early: it waits, whatever lies in the topics, and nothing is put back under it."""
        fleet = Fleet(self._environment, self._directory / "early")
        self._fleets.append(fleet)
        self._closing.callback(fleet.kill_all)
        before, rows = self._last_call(), self._states()
        worker = fleet.start_worker()
        worker.wait_ready(READY_SECONDS)
        paused = self._until("the early worker waits", READY_SECONDS, lambda: _paused(worker.health()))
        self._refused("offsets under a worker", (*restore, "--part", "offsets", *SAID), 4, "in the group")
        watched = time.monotonic() + WATCHED_SECONDS
        while time.monotonic() < watched:
            if self._money_calls_since(before) or self._states() != rows:
                self._outcome.problems.append("a worker did something before the copy was adopted")
                break
            time.sleep(POLL_SECONDS)
        self._outcome.refusals.append(Refusal("a worker before adopting", 0, f"paused for {paused}, nothing moved"))
        if worker.terminate() != 0:
            self._outcome.problems.append(f"the early worker ended with {worker.exit_code}")

    # The second life.

    def _second_life(self) -> None:
        options = self._options
        self._start_workers()
        self._outcome.seconds["workers again"] = time.monotonic() - self._lost_at
        load = self._load(self._second_journal, self._first_fresh, lambda: options.fresh)
        first = planned(options.seed, self._first_fresh).payout_id
        self._until("a new payout paid", READY_SECONDS, lambda: self._watch.fetch(PAID_SINCE, first)[0]["rows"] > 0)
        self._outcome.seconds["first payout paid"] = time.monotonic() - self._lost_at
        self._until("the new payouts sent", SENT_SECONDS, lambda: _sent(load) >= options.fresh)
        load.finish()
        self._send_again(self._lost)
        self._outcome.facts["sent_again"] = len(self._sent_since_the_backup())
        two = TwoPeople(self._watch, self._said, lambda: known(self._earlier, read_stand_in(self._visa.admin_url)))
        # Decisions on what is held do not count: reviewers begin when the first look is done.
        two.look()
        self._asked_at, people = time.monotonic(), [self._people()]
        moved = datetime.now(UTC)
        self._until("everything ended", ENDED_SECONDS, lambda: self._all_ended(two, people))
        self._outcome.seconds["all ended"] = time.monotonic() - self._lost_at
        self._outcome.facts |= {found.value: len(names) for found, names in two.done.items()}
        self._stopped_at = moved
        people[-1].stop()
        self._fleets[-1].stop_all()
        self._outcome.facts["fired"] = sum(self._visa.fault_report()["fired"])
        self._visa.clear_faults()

    def _all_ended(self, two: TwoPeople, people: list[People]) -> bool:
        two.look()
        if time.monotonic() - self._asked_at > ASKED_AGAIN_SECONDS:
            # Step 10: originators confirm again, and reviewers decide again, what did not count while it was held.
            people[-1].stop()
            self._asked_at = time.monotonic()
            people.append(self._people())
        row = self._watch.fetch(OPEN_WORK, [])[0]
        aside = self._watch.fetch(SET_ASIDE)[0]["records"]
        unread = _end(self._servers.bootstrap_servers, self._requests) - row["rows"] - aside
        left_held = self._watch.fetch(HELD_FOR_US)[0]["rows"] - len(two.done[Found.HANDED_BACK])
        others = self._outcome.facts["held_otherwise"] = self._watch.fetch(HELD_OTHERWISE)[0]["rows"]
        left = row["held"] - others + row["open"] + row["unannounced"] + row["compensating"] + unread + left_held
        if time.monotonic() - self._told < TOLD_SECONDS:
            return bool(left == 0)
        self._told = time.monotonic()
        self._say(
            f"open {row['open']} held {row['held']} hand-backs {row['compensating']} held for us {left_held} "
            f"not announced {row['unannounced']} unread {unread}"
        )
        return bool(left == 0)

    # Originators.

    def _sent_since_the_backup(self) -> list[Kept]:
        """What they have to send again: all that the broker took since the topics were read, and a little more."""
        manifest = json.loads((self._backup / "manifest.json").read_text())
        since = datetime.fromisoformat(manifest["topics_at"]) - MARGIN
        wanted = sorted((one for one in self._outbox if one.at >= since), key=lambda one: (one.at, one.position))
        self._outcome.facts["backup_age_seconds"] = round((self._outbox_end() - since - MARGIN).total_seconds(), 1)
        return wanted

    def _outbox_end(self) -> datetime:
        return max(one.at for one in self._outbox)

    def _send_again(self, records: Sequence[Kept]) -> None:
        """As they were, in the order in which they were sent; under the journal of the second life."""
        facts = {one.position: one for one in self._earlier.accepted}
        producer = Producer(
            {
                "bootstrap.servers": self._servers.bootstrap_servers,
                "enable.idempotence": True,
                "acks": "all",
                "log_level": 0,
            }
        )
        problems: list[str] = []
        for kept in self._as_wrong(records):
            accepted = facts[kept.position]
            noted = functools.partial(self._note, problems, accepted, kept.value)
            producer.produce(self._requests, kept.value, kept.key, on_delivery=noted)
            producer.poll(0)
        if producer.flush(FLUSH_SECONDS) or problems:
            raise DrillFailed(f"not everything could be sent again: {problems[:1]}")

    def _as_wrong(self, records: Sequence[Kept]) -> list[Kept]:
        """What is sent: the same, unless something is to go wrong with one payout that Visa has paid."""
        if not self._options.wrong or not records or records[-1] is not self._sent_since_the_backup()[-1]:
            return list(records)
        wrong = self._one_that_is_gone_and_paid(records)
        if self._options.wrong == "not-sent-again":
            return [one for one in records if one.key != wrong.key]
        with BlockingCodec(topic_prefix=self._prefix) as codec:
            request = dict(codec.decode("PayoutRequest", wrong.value).record)
            request["requested_at"] = datetime.now(UTC)
            value = codec.encode("PayoutRequest", request, self._requests)
        return [Kept(one.position, one.at, one.key, value) if one.key == wrong.key else one for one in records]

    def _one_that_is_gone_and_paid(self, records: Sequence[Kept]) -> Kept:
        told = {one.payout_id for one in self._earlier.results if one.status == "PAID"}
        known_now = {row["payout_id"] for row in self._watch.fetch("SELECT payout_id FROM payouts")}
        for one in records:
            if one.key.decode() in told and one.key.decode() not in known_now:
                return one
        raise DrillFailed("no payout was paid after the backup, which --break needs: more --after")

    def _note(
        self, problems: list[str], accepted: Accepted, value: bytes, error: KafkaError | None, message: Message
    ) -> None:
        if error is not None:
            problems.append(error.str())
            return
        append_accepted(
            self._second_journal,
            payout_id=accepted.payout_id,
            topic=self._requests,
            partition=int(message.partition() or 0),
            offset=int(message.offset() or 0),
            value=value,
            amount_minor=accepted.amount_minor,
            currency=accepted.currency,
            recipient=accepted.recipient,
            kind="sent again",
        )

    # Parts.

    @property
    def _requests(self) -> str:
        return topic_name(REQUESTS, self._prefix)

    def _begin_life(self) -> None:
        shared = {
            **self._visa.environment(),
            "VISA_INITIATING_PARTY_ID": INITIATING_PARTY_ID,
            "KAFKA_BOOTSTRAP_SERVERS": self._servers.bootstrap_servers,
            "DATABASE_URL": self._servers.database_url,
            "SCHEMA_REGISTRY_URL": "",
            "PAYOUTS_TOPIC_PREFIX": self._prefix,
            "PAYOUTS_LOG_LEVEL": "WARNING",
        }
        self._environment = worker_environment(shared, self._directory)
        self._watch = LedgerWatch(self._servers.database_url, connect_seconds=PATIENT_CONNECT_SECONDS)
        self._closing.callback(self._watch.close)

    def _start_workers(self) -> None:
        fleet = Fleet(self._environment, self._directory / f"workers-{len(self._fleets)}")
        self._fleets.append(fleet)
        self._closing.callback(fleet.kill_all)
        for _ in range(self._options.workers):
            fleet.start_worker()
        fleet.wait_ready(READY_SECONDS)

    def _people(self) -> People:
        people = People(
            seed=self._options.seed, bootstrap_servers=self._servers.bootstrap_servers, topic_prefix=self._prefix
        )
        people.start()
        self._closing.callback(people.stop)
        return people

    def _load(self, journal: Path, first: int, limit: Callable[[], int]) -> Load:
        begun = time.monotonic()
        keys = json.loads((self._directory / "keys" / "party_public.jwks.json").read_text())
        load = Load(
            seed=self._options.seed,
            bootstrap_servers=self._servers.bootstrap_servers,
            topic_prefix=self._prefix,
            party_key=keys["keys"][0],
            admin_url=self._visa.admin_url,
            journal=journal,
            may_send=lambda: min(limit(), int((time.monotonic() - begun) * self._options.rate)),
            plan=lambda seed, number: planned(seed, first + number),
        )
        load.start()
        return load

    def _last_call(self) -> int:
        """The number of the last call that Visa has seen, once it works on none: what was begun takes its course."""
        self._until(
            "Visa has ended what was under way", SENT_SECONDS, lambda: not self._visa.admin("GET", HEALTH)["in_flight"]
        )
        number = 0
        while (page := self._calls_after(number))["next_after"] != number:
            number = page["next_after"]
        return int(number)

    def _money_calls_since(self, number: int) -> list[str]:
        """Operations that move money and were asked for after that call; what moved late was asked for before."""
        asked: list[str] = []
        while rows := (page := self._calls_after(number))["requests"]:
            asked += [row["operation"] for row in rows if row["operation"] in MONEY_OPERATIONS]
            number = page["next_after"]
        return asked

    def _calls_after(self, number: int) -> dict[str, Any]:
        return self._visa.admin("GET", f"/sandbox/requests?after={number}&limit={CALLS_PAGE}")

    def _states(self) -> list[tuple[str, int]]:
        return [(row["state"], row["rows"]) for row in self._watch.fetch(STATES)]

    def _said(self, *words: str) -> Said:
        return self._command(self._environment, words)

    def _refused(self, what: str, words: tuple[str, ...], code: int, sentence: str) -> None:
        found, _, stderr = self._said(*words)
        said = " ".join(stderr.split())
        self._outcome.refusals.append(Refusal(what, found, f"code={found} {said[:160]}"))
        if found != code or sentence not in said:
            self._outcome.problems.append(f"{what}: exit code {found} and not {code} with {sentence!r}: {said[:300]}")

    def _may(self, what: str, words: tuple[str, ...]) -> dict[str, Any]:
        """A look, which must succeed; what it shows."""
        code, stdout, stderr = self._said(*words, "--output", "json")
        if code != 0:
            raise DrillFailed(f"{what}: exit code {code}: {' '.join(stderr.split())[-500:]}")
        return dict(json.loads(stdout))

    def _until(self, what: str, seconds: float, check: Callable[[], Any]) -> Any:  # noqa: ANN401 - what `check` gives
        deadline = time.monotonic() + seconds
        while not (found := check()):
            for fleet in self._fleets:
                fleet.supervise()
            if time.monotonic() > deadline:
                raise DrillFailed(f"not in {seconds:.0f} s: {what}")
            time.sleep(POLL_SECONDS)
        return found

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._outcome.seconds[name] = time.monotonic() - begun
        self._say(f"{name}: {self._outcome.seconds[name]:.1f} s")

    def _audit(self) -> Verdict:
        visa, facts = self._visa, self._outcome.facts
        assert visa.directory is not None
        verdict = audit(
            self._second_journal,
            earlier=self._earlier,
            bootstrap_servers=self._servers.bootstrap_servers,
            database_url=self._servers.database_url,
            stand_in_admin_url=visa.admin_url,
            fingerprint_key=(visa.directory / "credentials" / "fingerprint.key").read_bytes(),
            topic_prefix=self._prefix,
            card_numbers=planted_cards(),
            scan=[*(fleet.directory for fleet in self._fleets), visa.directory, self._backup],
            stuck_after_seconds=STUCK_AFTER_SECONDS,
            faults=FaultCounts(
                kills=self._options.workers,
                broker_kills=1,
                db_kills=1,
                api_faults=int(facts.pop("fired")),
                seed=self._options.seed,
                stopped_at=self._stopped_at,
            ),
        )
        self._outcome.problems += verdict.problems()
        return verdict

    _lost: Sequence[Kept] = ()
    _first_fresh: int
    _told = 0.0
    _asked_at = 0.0
    _stopped_at: datetime


def _payouts(environment: Mapping[str, str], *words: str) -> str:
    """A command as an operator runs it, its start included in its time. Raises CommandFailed."""
    return run_command(environment, *words)


def _with_backup(words: tuple[str, ...], backup: Path) -> tuple[str, ...]:
    """The command with the backup's place, where it takes one."""
    return (*words[:2], str(backup), *words[2:]) if words[1] == "restore" else words


def _sent(load: Load) -> int:
    load.check()
    return load.sent


def _paused(health: Mapping[str, Any]) -> str:
    return ", ".join(reason for reason in health.get("paused_for", ()) if reason.startswith("ledger:"))


def _consumer(bootstrap_servers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            # The client wants a name; nothing joins it and nothing is committed.
            "group.id": "drill-originators",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )


def _end(bootstrap_servers: str, topic: str) -> int:
    """All records of a topic that nothing was deleted from."""
    consumer = _consumer(bootstrap_servers)
    try:
        partitions = consumer.list_topics(topic, METADATA_SECONDS).topics[topic].partitions
        places = [TopicPartition(topic, number) for number in partitions]
        return sum(consumer.get_watermark_offsets(place, METADATA_SECONDS, cached=False)[1] for place in places)
    finally:
        consumer.close()


def _records(bootstrap_servers: str, topic: str) -> Iterator[Kept]:
    """Every record of a topic: what the originators have in books of their own."""
    left, consumer = _end(bootstrap_servers, topic), _consumer(bootstrap_servers)
    deadline = time.monotonic() + FLUSH_SECONDS
    try:
        partitions = consumer.list_topics(topic, METADATA_SECONDS).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        while left:
            if time.monotonic() > deadline:
                raise DrillFailed(f"{topic} could not be read to its end")
            for message in consumer.consume(500, POLL_SECONDS):
                if message.error() is None:
                    left -= 1
                    yield _kept(message)
    finally:
        consumer.close()


def _kept(message: Message) -> Kept:
    key, value = message.key() or b"", message.value() or b""
    return Kept(
        Position(str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)),
        datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC),
        key if isinstance(key, bytes) else key.encode(),
        value if isinstance(value, bytes) else value.encode(),
    )


class OwnServers:
    """Kafka and PostgreSQL of the drill's own; `replace` leaves nothing of the first ones."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[KafkaCluster | PostgresServer] = []
        self._lives = 0

    def start(self) -> Servers:
        """Empty ones."""
        self._lives += 1
        place = self._directory / f"servers-{self._lives}"
        place.mkdir()
        place.chmod(0o711)
        kafka, postgres = KafkaCluster(place / "kafka", brokers=1), PostgresServer(place / "postgres")
        self._started = [kafka, postgres]
        in_parallel([kafka.start, postgres.start])
        return Servers(kafka.bootstrap_servers, postgres.url)

    def replace(self) -> Servers:
        """SIGKILL, and their directories are gone; then empty ones."""
        self._end(kill=True)
        shutil.rmtree(self._directory / f"servers-{self._lives}")
        return self.start()

    def stop(self) -> None:
        """Stop what runs."""
        self._end(kill=False)

    def _end(self, *, kill: bool) -> None:
        for server in self._started:
            if kill and isinstance(server, KafkaCluster):
                server.kill_all()
            elif kill and isinstance(server, PostgresServer):
                server.kill()
            server.stop()
        self._started = []


def main(arguments: Sequence[str] | None = None) -> int:
    """0 as it must be, 1 otherwise, 2 misuse (argparse)."""
    options, keep = _options(arguments)
    return run_to_verdict("drill", keep, lambda path: _on_own_servers(options, path), (DrillFailed, *FAILURES))


def _on_own_servers(options: Options, directory: Path) -> Outcome:
    own, visa = OwnServers(directory), VisaStandIn(directory / "visa", latency_ms=100)
    try:
        visa.start()
        servers = own.start()
        run = directory / "run"
        run.mkdir()
        return Drill(options, servers, own.replace, visa, run, say=say).carry_out()
    finally:
        with ending_signals_ignored():
            in_parallel([own.stop, visa.stop])


def _options(arguments: Sequence[str] | None) -> tuple[Options, Path | None]:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=int, default=BEFORE, help="payouts until the backup begins (%(default)s)")
    parser.add_argument("--during", type=int, default=DURING, help="while it is taken, at most (%(default)s)")
    parser.add_argument("--after", type=int, default=AFTER, help="after it, before the disaster (%(default)s)")
    parser.add_argument("--fresh", type=int, default=FRESH, help="after the disaster (%(default)s)")
    parser.add_argument("--rate", type=float, default=RATE, help="payouts a second (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="part of every payout_id")
    parser.add_argument("--break", dest="wrong", default="", choices=["not-sent-again", "sent-as-new"])
    parser.add_argument("--keep", type=Path, help="keep everything in this directory, which other users may enter")
    given = parser.parse_args(arguments)
    if min(given.before, given.during, given.after, given.fresh) < 1 or given.rate <= 0:
        parser.error("at least one payout each, and a rate above 0")
    options = Options(
        before=given.before,
        during=given.during,
        after=given.after,
        fresh=given.fresh,
        rate=given.rate,
        seed=given.seed % SEEDS,
        wrong=given.wrong,
    )
    return options, given.keep


if __name__ == "__main__":
    sys.exit(main())
