"""The whole sweep: a life without a kill tells the points, then one payout a point, then one audit of everything.

Lanes work side by side, each on a payout and a worker of its own (`lane.py`). A point that its payout did not pass (a
batch that came together otherwise this time) is tried again with another payout; one that is never hit has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException

from ledger.migrate import migrate
from sandbox.auditor.collect import read_ledger
from sandbox.auditor.evidence import Evidence, EvidenceIncomplete, read_journal
from sandbox.auditor.leak import CardNumberSearch, scan_paths
from sandbox.auditor.topics import read_topics
from sandbox.auditor.verdict import FaultCounts, Verdict, judge
from sandbox.faults.aim import LedgerAway
from sandbox.faults.load import LoadFailed, planted_cards
from sandbox.servers.postgres import Postgres
from sandbox.servers.processes import ServerError
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.sweep.book import StandInBook
from sandbox.sweep.lane import Lane, Passage, Servers
from sandbox.sweep.lives import LIVES, Life
from sandbox.sweep.nursery import Nursery
from sandbox.sweep.points import chosen
from sandbox.worker_process import worker_environment
from schemas.sender_reference import sender_reference

TRIES_MAX: Final = 4
"""For a point that its payout does not pass every time."""
NAMES_MAX: Final = 160
"""Payouts of one life that meets a fault: three such lives fit into one plan of the stand-in."""
NUMBER_BLOCK: Final = 10_000_000
"""A lane's own numbers at Visa (S1)."""
STUCK_AFTER_SECONDS: Final = 60.0
REFERENCE_SECONDS: Final = 90.0
"""For a life without a kill, whatever a point's payout is given: it must come to its end, or nothing is shown."""
LANE_FAILURES: Final = (ServerError, KafkaException, LedgerAway, EvidenceIncomplete, LoadFailed, OSError)
"""What may go wrong around a payout: its point has failed, and another lane takes the next one."""


class SweepFailed(Exception):
    """The sweep could not be carried through; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is swept, and how."""

    lives: tuple[str, ...] = tuple(LIVES)
    every: int = 1
    """Every n-th point of each life only."""
    containing: str = ""
    """Only points whose name contains this."""
    lanes: int = 12
    """Side by side: enough that two cores are busy although each payout mostly waits."""
    end_seconds: float = 90.0
    """By then a payout must have come to its end. The slowest way, a kill in the second push of `resend`, takes a
    session (6 s), two leases (8 s each) and a horizon (9 s), on a machine that does a dozen of them at once."""
    broken_order: str = ""
    """See `launcher.break_order`: only to show that the sweep can fail."""


@dataclass(frozen=True, slots=True)
class Job:
    """A life for a payout, and where its worker is to end; None: nowhere."""

    life: Life
    point: str | None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one point."""

    life: str
    point: str
    killed: bool
    end: str
    problems: tuple[str, ...]
    tries: int
    seconds: float
    starts: int

    @property
    def ok(self) -> bool:
        """Hit, and everything ended as it must."""
        return self.killed and not self.problems

    def line(self) -> str:
        """One line of the list."""
        verdict = "ok" if self.ok else "FAILED " + "; ".join(self.problems or ("never hit",))
        return f"{self.life:<13}{self.point:<60}killed={'yes' if self.killed else 'no':<4}{self.end:<22}{verdict}"


@dataclass(slots=True)
class Report:
    """All of a sweep."""

    outcomes: list[Outcome] = field(default_factory=list)
    points: dict[str, list[str]] = field(default_factory=dict)
    """Of each life, in the order in which they were passed."""
    verdict: str = ""
    findings: list[str] = field(default_factory=list)
    ended_by_themselves: int = 0
    """Workers that ended without a trap and were started again, as a supervisor would (K5)."""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Every chosen point was hit and ended well, and the auditor found nothing."""
        return bool(self.outcomes) and all(outcome.ok for outcome in self.outcomes) and not self.findings

    def line(self) -> str:
        """The last line."""
        points = len(self.outcomes)
        killed = sum(outcome.killed for outcome in self.outcomes)
        well = sum(outcome.ok for outcome in self.outcomes)
        coverage = 100 * killed // points if points else 0
        return f"sweep points={points} killed={killed} ok={well} failed={points - well} coverage={coverage}%"

    def write(self, path: Path) -> None:
        """As JSON."""
        content = asdict(self) | {"clean": self.clean, "line": self.line()}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class Sweep:
    """One sweep on servers that are there; a context manager that ends every worker it started."""

    def __init__(
        self,
        options: Options,
        directory: Path,
        *,
        bootstrap_servers: str,
        postgres: Postgres,
        visa: VisaStandIn,
        say: Callable[[str], None],
    ) -> None:
        """`visa` must be this sweep's own: the verdict is about all of its ledger."""
        self._options = options
        self._directory = directory
        self._bootstrap_servers = bootstrap_servers
        self._postgres = postgres
        self._visa = visa
        self._say = say
        self._run = secrets.token_hex(3)
        self._nursery = Nursery(directory)
        self._names: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._lane_numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._all_lanes: list[Lane] = []
        self._free_lanes: deque[Lane] = deque()
        self._databases: list[str] = []
        self._servers: Servers
        self.report = Report()

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._all_lanes:
            lane.close()
        self._nursery.stop()
        if not self._postgres.owned:
            for name in self._databases:
                self._postgres.drop_database(name)

    def carry_out(self) -> Report:
        """Everything. Raises SweepFailed, and what servers raise."""
        with self._timed("prepare"):
            self._prepare()
        lives = [LIVES[name] for name in self._options.lives]
        with self._timed("reference"):
            took = self._reference(lives)
        jobs = [Job(life, point) for place, life in enumerate(lives) for point in self._chosen(life, place)]
        if not jobs:
            raise SweepFailed("no point was chosen: nothing was swept")
        self._say(f"{len(jobs)} points to sweep in {len(lives)} lives")
        order = {(job.life.name, job.point): place for place, job in enumerate(jobs)}
        with self._timed("sweep"):
            # What takes longest first, so that no lane works alone at the end.
            outcomes = self._work_off(sorted(jobs, key=lambda job: -took[job.life.name]))
        self.report.outcomes = sorted(outcomes, key=lambda outcome: order[outcome.life, outcome.point])
        self.report.ended_by_themselves = sum(max(0, each.starts - each.killed) for each in outcomes)
        with self._timed("audit"):
            verdict = self._audit()
        self.report.verdict, self.report.findings = verdict.line(), verdict.problems()
        return self.report

    # Phases.

    def _prepare(self) -> None:
        self._nursery.start()
        template = self._database("template")
        asyncio.run(migrate(self._postgres.create_database(template)))

        def create(name: str) -> str:
            with self._lock:  # a template can be copied by one at a time
                return self._postgres.create_database(self._database(name), template=template)

        environment = worker_environment(
            {
                **self._visa.environment(),
                "KAFKA_BOOTSTRAP_SERVERS": self._bootstrap_servers,
                "SCHEMA_REGISTRY_URL": "",
                # A dozen workers share one server, and each works on one payout.
                "DATABASE_POOL_MAX": "4",
                "PAYOUTS_SWEEP_BREAK": self._options.broken_order,
            },
            self._directory,
        )
        environment.pop("PAYOUTS_SETTINGS_FILE", None)
        jwks = json.loads((self._directory / "keys" / "party_public.jwks.json").read_text())
        self._servers = Servers(
            bootstrap_servers=self._bootstrap_servers,
            create_database=create,
            environment=environment,
            admin_url=self._visa.admin_url,
            party_key=jwks["keys"][0],
            nursery=self._nursery,
            book=StandInBook(self._visa.admin_url),
            stopping=self._stopping,
        )
        self._visa.put_faults({"seed": 1, "rules": list(self._fault_rules())})

    def _fault_rules(self) -> Iterator[Mapping[str, Any]]:
        """A new plan would forget which payout met its fault already, so there is one, made before any payout."""
        for name in self._options.lives:
            fault = LIVES[name].fault
            for number in range(NAMES_MAX) if fault else ():
                yield {**(fault or {}), "sender_reference": sender_reference(self._payout_id(name, number))}

    def _reference(self, lives: Sequence[Life]) -> dict[str, float]:
        """Every life once without a kill: its points, and how long it takes."""
        took: dict[str, float] = {}

        def live(life: Life) -> None:
            passage = self._carry(Job(life, None))
            if passage.problems:
                why = "; ".join(passage.problems)
                raise SweepFailed(f"{life.name} does not come to its end even without a kill: {why}")
            self.report.points[life.name] = list(passage.points)
            took[life.name] = passage.seconds
            self._say(f"{life.name}: {len(passage.points)} points, {passage.seconds:.1f} s")

        with ThreadPoolExecutor(max_workers=self._options.lanes, thread_name_prefix="reference") as pool:
            self._all_done([pool.submit(live, life) for life in lives])
        return took

    def _chosen(self, life: Life, place: int) -> list[str]:
        """Each life begins with another point, so that few points are points of different kinds."""
        options = self._options
        return chosen(self.report.points[life.name], options.every, options.containing, first=place)

    def _work_off(self, jobs: Sequence[Job]) -> list[Outcome]:
        waiting, outcomes = deque(jobs), list[Outcome]()

        def work() -> None:
            while True:
                try:
                    job = waiting.popleft()
                except IndexError:
                    return
                if self._stopping.is_set():
                    return
                outcome = self._outcome(job)
                if not outcome.killed and not outcome.problems and job.tries < TRIES_MAX:
                    waiting.append(Job(job.life, job.point, job.tries + 1))
                    continue
                outcomes.append(outcome)
                self._say(f"{len(outcomes)}/{len(jobs)} {outcome.seconds:5.1f} s  {outcome.line()}")

        lanes = min(self._options.lanes, len(jobs))
        with ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="lane") as pool:
            self._all_done([pool.submit(work) for _ in range(lanes)])
        return outcomes

    def _all_done(self, jobs: Sequence[Future[None]]) -> None:
        """The first failure, also Ctrl-C, ends the others: a lane may have a minute of waiting before it."""
        try:
            for job in jobs:
                job.result()
        except BaseException:
            self._stopping.set()
            raise

    def _outcome(self, job: Job) -> Outcome:
        point, began = job.point or "", time.monotonic()
        try:
            passage = self._carry(job)
        except LANE_FAILURES as error:
            why, seconds = f"{type(error).__name__}: {error}", time.monotonic() - began
            return Outcome(job.life.name, point, False, "none", (why,), job.tries, seconds, 0)
        return Outcome(
            job.life.name,
            point,
            passage.hit,
            passage.end,
            passage.problems,
            job.tries,
            passage.seconds,
            passage.starts,
        )

    def _carry(self, job: Job) -> Passage:
        """In a lane that is free or new; one in which a payout did not come to its end is not used again."""
        lane = self._lane()
        passage: Passage | None = None
        try:
            payout_id, number = self._next_payout(job.life.name)
            end_seconds = max(self._options.end_seconds, REFERENCE_SECONDS if job.point is None else 0.0)
            passage = lane.carry(job.life, number, payout_id, job.point, end_seconds)
        finally:
            if passage is None or passage.problems:
                lane.close()
            else:
                self._free_lanes.append(lane)
        return passage

    def _lane(self) -> Lane:
        try:
            return self._free_lanes.popleft()
        except IndexError:
            number = next(self._lane_numbers)
        name = f"sweep-{self._run}-{number}"
        lane = Lane(self._servers, name, self._directory / "lanes" / str(number), number * NUMBER_BLOCK)
        self._all_lanes.append(lane)
        return lane

    def _next_payout(self, life: str) -> tuple[str, int]:
        with self._lock:
            used = self._names[life]
            self._names[life] += 1
        if used >= NAMES_MAX and LIVES[life].fault:
            raise ServerError(f"{life} has had {NAMES_MAX} payouts: the stand-in's plan knows no more of them")
        return self._payout_id(life, used), next(self._numbers)

    def _payout_id(self, life: str, number: int) -> str:
        return f"sweep-{self._run}-{life}-{number:04d}"

    def _database(self, name: str) -> str:
        full = f"payouts_{self._run}_{name}"
        self._databases.append(full)
        return full

    # Judgement.

    def _audit(self) -> Verdict:
        """One verdict over all lanes: each lane's journal, topics and ledger, and the one ledger of the stand-in."""
        directory = self._visa.directory
        assert directory is not None
        entries = self._servers.book.entries()
        evidence = Evidence((directory / "credentials" / "fingerprint.key").read_bytes())
        identifiers = {entry.transaction_identifier for entry in entries}
        search = CardNumberSearch(planted_cards(), transaction_identifiers=identifiers)
        for lane in self._all_lanes:
            evidence.add(self._evidence_of(lane, search, evidence.fingerprint_key))
        evidence.entries = list(entries)
        journals = [lane.journal for lane in self._all_lanes]
        evidence.leaks.extend(scan_paths(search, [self._directory, directory], excepted=journals))
        kills = sum(outcome.killed for outcome in self.report.outcomes)
        faults = FaultCounts(kills=kills, stopped_at=datetime.now(UTC))
        return judge(evidence, stuck_after_seconds=STUCK_AFTER_SECONDS, now=datetime.now(UTC), faults=faults)

    def _evidence_of(self, lane: Lane, search: CardNumberSearch, fingerprint_key: bytes) -> Evidence:
        accepted = read_journal(lane.journal) if lane.journal.exists() else []
        found = Evidence(fingerprint_key, accepted=accepted)
        read_topics(found, search, bootstrap_servers=self._bootstrap_servers, topic_prefix=lane.prefix)
        asyncio.run(read_ledger(found, search, lane.database_url, topic_prefix=lane.prefix))
        return found

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.report.seconds[phase] = round(time.monotonic() - began, 1)
