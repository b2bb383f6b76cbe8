"""One run of the fault suite: stage, load and faults, then healing, then every payout to its end, then the audit.

    python -m sandbox.faults --tier commit --seed 1

Safety phase: payouts flow while things break. Liveness phase: everything is healed and whatever needs no person must
end. Only then the auditor judges what all of them left; its line is the last one on stdout and decides the exit code.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException

from sandbox.auditor.audit import audit
from sandbox.auditor.evidence import EvidenceIncomplete, JournalUnreadable
from sandbox.auditor.leak import ScanFailed
from sandbox.auditor.verdict import FaultCounts, Verdict
from sandbox.faults.aim import LedgerAway, LedgerWatch
from sandbox.faults.conductor import Conductor, DoneFault, Pace
from sandbox.faults.load import Load, LoadFailed, planted_cards
from sandbox.faults.people import People
from sandbox.faults.recovery import recovery_times, summary
from sandbox.faults.schedule import Kind, PlannedFault, plan_faults
from sandbox.faults.scrape import EvaluationFailed, Scraper, fired_over, promtool
from sandbox.faults.stage import FaultStage
from sandbox.faults.tiers import Tier
from sandbox.servers.postgres import enterable_temporary_directory
from sandbox.servers.processes import ServerError
from sandbox.verdict_run import say
from sandbox.worker_process import CommandFailed, run_command

VISA_LATENCY_MS: Final = 150
"""Visa takes its time; an answer within a millisecond would leave nothing to hit."""
STUCK_AFTER_SECONDS: Final = 60.0
"""Test profile: a payout that needs no person ends within this time after the last fault (design, section 11)."""
SETTLE_SECONDS: Final = 2.0
SAY_SECONDS: Final = 5.0
AUDIT_RESERVE: Final = 0.25
"""The part of a tier's time that is kept for healing, liveness and audit."""
HELD: Final = "SELECT payout_id FROM payouts WHERE held"
PAID_AND_HELD: Final = "MISSING_ACK"
"""What may be said of a payout that waits for a person: Visa paid it, or a part of it, and the ledger does not know."""
BOOKS_SECONDS_MAX: Final = 600.0
"""A hundred thousand payouts are a thousand pages of Visa's report."""
PROBLEMS_SHOWN_MAX: Final = 100
SCRAPED_SECONDS_MAX: Final = 900.0
"""Of a tier that takes longer than this nobody records the metrics: a day of them would fill the memory."""

OPEN_WORK: Final = """
SELECT count(*) AS rows,
       count(*) FILTER (WHERE held AND state NOT IN
           ('PAID', 'REJECTED', 'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED')) AS held,
       count(*) FILTER (WHERE NOT held AND state NOT IN
           ('PAID', 'REJECTED', 'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED')) AS open,
       count(*) FILTER (WHERE announced_version < announce_version) AS unannounced,
       count(*) FILTER (WHERE payout_id = ANY ($1) AND state = 'PAID' AND NOT held
           AND returned_at IS NULL AND due_at IS NOT NULL) AS returning,
       count(*) FILTER (WHERE NOT held AND compensation IN ('REQUIRED', 'RUNNING', 'UNKNOWN')) AS compensating
FROM payouts
"""
SET_ASIDE: Final = """
SELECT count(*) AS records FROM intake WHERE disposition IN ('REPEAT', 'REFUSED', 'DEAD_LETTER')
"""

API_FAULTS: Final[Mapping[str, Mapping[str, Mapping[str, float]]]] = {
    "push": {
        "effect_then_silence": {"probability": 0.05},
        "effect_then_reset": {"probability": 0.01},
        "effect_then_500": {"probability": 0.01},
        "effect_then_503": {"probability": 0.005},
        "silence_before_effect": {"probability": 0.01},
        "reset_before_effect": {"probability": 0.01},
        "refuse": {"probability": 0.01},
        "500": {"probability": 0.005},
        "503": {"probability": 0.01},
        "504": {"probability": 0.005},
        "400": {"probability": 0.003},
        "429": {"probability": 0.01, "retry_after": 1},
        "slow": {"probability": 0.01, "seconds": 1.5},
        "late_202": {"probability": 0.01, "seconds": 2},
        "malformed_body": {"probability": 0.005},
        "duplicate_with_original": {"probability": 0.005},
    },
    "query": {
        "500": {"probability": 0.03},
        "503": {"probability": 0.02},
        "429": {"probability": 0.02, "retry_after": 1},
        "silence_before_effect": {"probability": 0.02},
        "query_lag": {"probability": 0.03, "seconds": 2},
        "query_not_found": {"probability": 0.02},
        "query_stale_in_progress": {"probability": 0.01, "seconds": 3},
    },
    "account_send": {
        "effect_then_silence": {"probability": 0.04},
        "effect_then_500": {"probability": 0.01},
        "silence_before_effect": {"probability": 0.01},
        "reset_before_effect": {"probability": 0.01},
        "refuse": {"probability": 0.01},
        "503": {"probability": 0.01},
        "429": {"probability": 0.02, "retry_after": 1},
        "slow": {"probability": 0.02, "seconds": 1.5},
        "late_202": {"probability": 0.02, "seconds": 2},
    },
    "account_query": {
        "500": {"probability": 0.03},
        "503": {"probability": 0.02},
        "429": {"probability": 0.02, "retry_after": 1},
        "silence_before_effect": {"probability": 0.02},
        "query_lag": {"probability": 0.02, "seconds": 2},
        "query_not_found": {"probability": 0.02},
        "account_status_first": {"probability": 0.02, "seconds": 3},
    },
    "status": {"500": {"probability": 0.05}, "503": {"probability": 0.05}, "slow": {"probability": 0.05, "seconds": 1}},
    "reverse": {
        "effect_then_silence": {"probability": 0.05},
        "effect_then_500": {"probability": 0.03},
        "503": {"probability": 0.03},
        "silence_before_effect": {"probability": 0.02},
        "slow": {"probability": 0.02, "seconds": 1.5},
    },
    "adjustment": {
        "effect_then_silence": {"probability": 0.05},
        "effect_then_500": {"probability": 0.03},
        "503": {"probability": 0.03},
        "silence_before_effect": {"probability": 0.02},
        "slow": {"probability": 0.02, "seconds": 1.5},
    },
}
"""About 15 % of the calls of each kind go wrong, a third of them after the effect and in silence."""


class RunFailed(Exception):
    """The run could not be carried through, so there is no verdict; the message says why."""


NO_VERDICT: Final = (
    RunFailed, LoadFailed, ServerError, CommandFailed, KafkaException, OSError,
    EvidenceIncomplete, ScanFailed, JournalUnreadable,
)  # fmt: skip
"""What ends a run without a verdict; the exit code says so."""


@dataclass(slots=True)
class _OpenWork:
    """What still has to happen, as the ledger and the producer's account say."""

    rows: int = 0
    held: int = 0
    open: int = 0
    unannounced: int = 0
    compensating: int = 0
    unread: int = 0
    returning: int = 0
    """Paid accounts whose money comes back, which nobody has noticed yet (rule S8)."""

    @property
    def left(self) -> int:
        return self.open + self.unannounced + self.compensating + self.unread + self.returning


@dataclass(slots=True)
class Report:
    """What a run was and came to; written as JSON."""

    tier: str
    seed: int
    began_at: str
    verdict: str = ""
    clean: bool = False
    findings: list[str] = field(default_factory=list)
    minima_missed: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    payouts_per_second: float = 0.0
    recovery_seconds: dict[str, dict[str, float | int]] = field(default_factory=dict)
    shots: dict[str, dict[str, int]] = field(default_factory=dict)
    self_ended: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    api_faults: dict[str, int] = field(default_factory=dict)
    api_calls: int = 0
    load: dict[str, int] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    books_agree: bool = False
    books: dict[str, int] = field(default_factory=dict)
    """What `payouts reconcile` counted at the end: matched, awaited, unmatched."""
    alerts: list[str] | None = None
    """What the shipped rules would have fired; None where nobody recorded or promtool is not installed."""


def run(tier: Tier, seed: int, *, keep: Path | None = None, report_path: Path | None = None) -> int:
    """Run a tier; 0 clean and all minima reached, 1 otherwise. Prints the verdict line last on stdout."""
    directory = keep or enterable_temporary_directory("payouts-faults-")
    directory.mkdir(parents=True, exist_ok=True)
    report = Report(tier.name, seed, datetime.now(UTC).isoformat(timespec="seconds"))
    say(f"tier {tier.name}, seed {seed}; its schedule: python -m sandbox.faults --tier … --seed {seed} --show-schedule")
    plan = plan_faults(tier, seed)
    (directory / "schedule.txt").write_text("".join(f"{fault.describe()}\n" for fault in plan))
    verdict: Verdict | None = None
    failed = True
    try:
        verdict = FaultRun(tier, seed, plan, directory, report).carry_out()
        failed = not (verdict.clean and not report.minima_missed and report.books_agree)
    except NO_VERDICT as error:
        report.findings.append(f"no verdict: {type(error).__name__}: {error}")
    finally:
        report.clean = not failed
        _write_report(report, [directory / "report.json", *([report_path] if report_path else [])])
        if failed or keep is not None:
            say(f"artefacts are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    _conclude(report, verdict)
    return 1 if failed else 0


class FaultRun:
    """The phases of one run, on a stage of its own."""

    def __init__(self, tier: Tier, seed: int, plan: tuple[PlannedFault, ...], directory: Path, report: Report) -> None:
        self._tier = tier
        self._seed = seed
        self._plan = plan
        self._directory = directory
        self._report = report
        self._journal = directory / "accepted.jsonl"
        self._deadline = time.monotonic() + tier.deadline_seconds
        self._work = _OpenWork()
        self._looked = 0.0
        self._said = 0.0
        self._stage: FaultStage
        self._watch: LedgerWatch
        self._load: Load
        self._people: People
        self._conductor: Conductor
        self._scraper: Scraper | None = None

    def carry_out(self) -> Verdict:
        """All phases; the verdict. Raises RunFailed, ServerError. Stops everything that it started."""
        with FaultStage(self._directory, visa_latency_ms=VISA_LATENCY_MS, say=say) as self._stage:
            with self._timed("prepare"):
                self._stage.prepare(self._tier.partitions)
            with contextlib.ExitStack() as closing:
                self._open(closing)
                with self._timed("safety"):
                    self._safety_phase()
                stopped_at = self._heal()
                with self._timed("liveness"):
                    self._liveness_phase()
                self._take_stock()
                with self._timed("audit"):
                    verdict = self._audit(stopped_at)
                with self._timed("books"):
                    self._compare_books()
        with self._timed("alerts"):
            self._judge_alerts()
        return verdict

    # Phases.

    def _open(self, closing: contextlib.ExitStack) -> None:
        stage, environment = self._stage, self._stage.direct_environment
        stage.fleet.environment["PAYOUTS_LOG_LEVEL"] = self._tier.log_level
        self._watch = LedgerWatch(environment["DATABASE_URL"])
        closing.callback(self._watch.close)
        brokers = environment["KAFKA_BOOTSTRAP_SERVERS"]
        self._people = People(seed=self._seed, bootstrap_servers=brokers, topic_prefix=stage.topic_prefix)
        pace = Pace(self._tier.payouts, self._tier.lead, self._tier.extra_ratio, self._ended)
        party_key = json.loads((stage.keys_directory / "party_public.jwks.json").read_text())["keys"][0]
        self._load = Load(
            seed=self._seed,
            bootstrap_servers=brokers,
            topic_prefix=stage.topic_prefix,
            party_key=party_key,
            admin_url=stage.visa.admin_url,
            journal=self._journal,
            may_send=pace.may_send,
        )
        stage.visa.put_faults(api_fault_plan(self._seed))
        aiming = LedgerWatch(environment["DATABASE_URL"])
        closing.callback(aiming.close)
        self._conductor = Conductor(stage, self._plan, pace, aiming, sent=lambda: self._load.sent, say=say)
        closing.callback(self._conductor.abandon)
        if self._tier.deadline_seconds <= SCRAPED_SECONDS_MAX and promtool() is not None:
            self._scraper = closing.enter_context(Scraper(stage.fleet))

    def _ended(self) -> int:
        """Payouts that need nothing more of us: those with a result, and those that wait for a person."""
        return self._people.ended + self._work.held

    def _safety_phase(self) -> None:
        until = self._deadline - self._tier.deadline_seconds * AUDIT_RESERVE
        self._people.start()
        self._load.start()
        self._conductor.start()
        while not (self._conductor.finished and self._load.sent >= self._tier.payouts):
            self._check()
            if time.monotonic() > until:
                self._report.problems.append("the safety phase was ended by its time limit")
                break
            self._look()
            time.sleep(0.2)
        self._load.finish()

    def _heal(self) -> datetime:
        with self._timed("heal"):
            fired = self._stage.visa.fault_report()
            self._report.api_faults = _fired(fired)
            self._report.api_calls = int(self._stage.visa.admin("GET", "/sandbox/health")["requests"])
            self._conductor.heal()
            self._stage.visa.clear_faults()
        say("everything is healed")
        return datetime.now(UTC)

    def _liveness_phase(self) -> None:
        """Until nothing is left, or nothing has moved for as long as makes a payout stuck, or time is up."""
        moved, least = time.monotonic(), sys.maxsize
        while time.monotonic() - moved < STUCK_AFTER_SECONDS + SETTLE_SECONDS and time.monotonic() < self._deadline:
            self._check()
            if self._look(every_seconds=1.0):
                if self._work.left == 0:
                    break
                if self._work.left < least:
                    moved, least = time.monotonic(), self._work.left
            time.sleep(0.2)
        if self._work.left:
            self._report.problems.append(f"not everything ended: {self._work}")
        time.sleep(SETTLE_SECONDS)

    def _take_stock(self) -> None:
        """What only running workers can show; then they stop."""
        report, conductor = self._report, self._conductor
        for worker in self._stage.fleet.workers:
            with contextlib.suppress(ServerError):
                worker.save_metrics(worker.directory / "metrics.txt")
        if self._scraper is not None:
            self._scraper.stop()
        conductor.stop_supervision()
        self._stage.fleet.stop_all()
        self._people.stop()
        report.recovery_seconds = summary(recovery_times(self._watch, conductor.done))
        report.shots = _shots(conductor.done)
        report.problems += conductor.problems
        report.load = {"payouts": self._load.sent, "records": self._load.acknowledged}
        report.self_ended = [{"worker": end.worker, "exit_code": end.exit_code} for end in self._stage.fleet.self_ended]
        moving = report.seconds["safety"] + report.seconds["liveness"]
        report.payouts_per_second = round(self._load.sent / moving, 1)
        with (self._directory / "faults.jsonl").open("w") as lines:
            for fault in sorted(conductor.done, key=lambda fault: fault.began_at):
                lines.write(json.dumps(asdict(fault), default=str) + "\n")

    def _audit(self, stopped_at: datetime) -> Verdict:
        conductor, stage = self._conductor, self._stage
        assert stage.visa.directory is not None
        counts = FaultCounts(
            kills=conductor.count(Kind.KILL),
            freezes=conductor.count(Kind.FREEZE),
            broker_kills=conductor.count(Kind.BROKER_KILL),
            db_kills=conductor.count(Kind.DB_KILL),
            cuts=conductor.count(Kind.CUT),
            api_faults=sum(self._report.api_faults.values()),
            seed=self._seed,
            stopped_at=stopped_at,
        )
        verdict = audit(
            self._journal,
            bootstrap_servers=stage.direct_environment["KAFKA_BOOTSTRAP_SERVERS"],
            database_url=stage.direct_environment["DATABASE_URL"],
            stand_in_admin_url=stage.visa.admin_url,
            fingerprint_key=(stage.visa.directory / "credentials" / "fingerprint.key").read_bytes(),
            topic_prefix=stage.topic_prefix,
            card_numbers=planted_cards(),
            scan=[self._directory / "workers", stage.visa.directory, *_logs(self._directory)],
            excepted_topics=["payout_requests"],
            stuck_after_seconds=STUCK_AFTER_SECONDS,
            faults=counts,
            say=say,
        )
        self._report.verdict = verdict.line()
        self._report.findings += verdict.problems()
        self._report.minima_missed = missed_minima(self._tier, verdict, conductor)
        self._report.peak_rss_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1)
        return verdict

    def _compare_books(self) -> None:
        """The product's own comparison of ledger, topics and Visa's report must agree with what the auditor found.

        An exception where nothing is wrong would be a call in the night for nothing; none of the faults may cause one.
        What Visa has approved in part waits for a person, and is told.
        """
        report, words = self._report, ("reconcile", "daily", "--date", "today", "--ask-visa", "--dry-run")
        # Everything has ended: nothing is too young to be missed.
        impatient = ("--patience", "0")
        environment = self._stage.direct_environment
        try:
            told = run_command(
                environment, *words, *impatient, "--output", "json",
                seconds_max=BOOKS_SECONDS_MAX, may_find_something=True,
            )  # fmt: skip
        except CommandFailed as error:
            report.findings.append(f"the books were not compared: {error}")
            return
        found = json.loads(told)
        waiting = {row["payout_id"] for row in self._watch.fetch(HELD)}
        wrong = [one for one in found["exceptions"] if one["type"] != PAID_AND_HELD or one["subject"] not in waiting]
        report.findings += [
            f"books: {one['type']} {one['subject']}: {one['detail']}" for one in wrong[:PROBLEMS_SHOWN_MAX]
        ]
        report.books_agree = not wrong
        report.books = {name: found[name] for name in ("matched", "awaited", "unmatched")}
        say(f"books: {', '.join(f'{count} {name}' for name, count in report.books.items())}")

    def _judge_alerts(self) -> None:
        """What a Prometheus would have fired: a finding of its own, which changes no verdict about money."""
        if self._scraper is None:
            return
        try:
            self._report.alerts = sorted(fired_over(self._scraper.recording()))
        except EvaluationFailed as error:
            self._report.problems.append(f"alerts were not evaluated: {error}")
        else:
            say(f"alerts fired: {', '.join(self._report.alerts) or 'none'}")

    # Looking on.

    def _check(self) -> None:
        """Raises RunFailed when the run itself is broken: without load or people there is nothing to judge."""
        failure = self._load.failure or self._people.failure
        if failure is not None:
            raise RunFailed(f"the load or the people failed: {failure}")

    def _look(self, every_seconds: float | None = None) -> bool:
        """Ask the ledger how much is left, now and then; whether it was asked and answered."""
        now = time.monotonic()
        if now - self._looked < max(self._tier.poll_seconds, every_seconds or 0.0):
            return False
        self._looked = now
        try:
            row = self._watch.fetch(OPEN_WORK, self._load.returned_late)[0]
            aside = self._watch.fetch(SET_ASIDE)[0]["records"]
        except LedgerAway:
            return False
        unread = self._load.acknowledged - row["rows"] - aside
        columns = ("rows", "held", "open", "unannounced", "compensating", "returning")
        self._work = _OpenWork(**{name: row[name] for name in columns}, unread=unread)
        if now - self._said >= SAY_SECONDS:
            self._said = now
            self._say_progress()
        return True

    def _say_progress(self) -> None:
        done = " ".join(f"{kind}={self._conductor.count(kind)}" for kind in Kind if self._conductor.count(kind))
        work = self._work
        say(
            f"sent {self._load.sent} accepted {self._load.acknowledged} ended {self._people.ended} "
            f"open {work.open} unread {work.unread} held {work.held} compensating {work.compensating} "
            f"workers {len(self._stage.fleet.workers)} | {done}"
        )

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._report.seconds[name] = round(time.monotonic() - began, 1)


def api_fault_plan(seed: int) -> dict[str, Any]:
    """The stand-in's fault plan for the whole safety phase."""
    rules = [
        {"operation": operation, "fault": fault, **settings}
        for operation, faults in API_FAULTS.items()
        for fault, settings in faults.items()
    ]
    return {"seed": seed, "rules": rules}


def missed_minima(tier: Tier, verdict: Verdict, conductor: Conductor) -> list[str]:
    """What the tier asks for and the run did not reach, a sentence each."""
    wanted = {
        "payouts": (tier.payouts, verdict.counts["payouts"]),
        "kills": (tier.kills, verdict.faults.kills),
        "freezes": (tier.freezes, verdict.faults.freezes),
        "broker_kills": (tier.broker_kills, verdict.faults.broker_kills),
        "db_kills": (tier.db_kills, verdict.faults.db_kills),
        "cuts": (tier.cuts, verdict.faults.cuts),
        "scale changes": (tier.scale_changes, conductor.count(Kind.SCALE_UP) + conductor.count(Kind.SCALE_DOWN)),
        "API outages": (int(tier.api_outage_seconds > 0), conductor.count(Kind.API_OUTAGE)),
        "API faults": (1, verdict.faults.api_faults),
    }
    return [f"{name}: {found}, at least {least} are needed" for name, (least, found) in wanted.items() if found < least]


def _fired(fault_report: Mapping[str, Any]) -> dict[str, int]:
    """How often each fault of the stand-in's plan has fired."""
    fired: dict[str, int] = {}
    for rule, times in zip(fault_report["rules"], fault_report["fired"], strict=True):
        name = f"{rule['operation']}:{rule['fault']}"
        fired[name] = fired.get(name, 0) + int(times)
    return fired


def _shots(done: Sequence[DoneFault]) -> dict[str, dict[str, int]]:
    """A kind: how many were fired, how many count."""
    return {
        kind.value: {
            "fired": sum(fault.kind is kind for fault in done),
            "counted": sum(fault.kind is kind and fault.hit for fault in done),
        }
        for kind in Kind
    }


def _logs(directory: Path) -> list[Path]:
    """Logs of the servers, without their data: topics and tables are read through their owners."""
    return [path for path in directory.rglob("*.log") if "data" not in path.parts and path.is_file()]


def _write_report(report: Report, paths: Sequence[Path]) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(report), indent=2) + "\n")


def _conclude(report: Report, verdict: Verdict | None) -> None:
    for title, lines in (("problem", report.problems), ("finding", report.findings)):
        for line in lines[:PROBLEMS_SHOWN_MAX]:
            sys.stderr.write(f"{title}: {line}\n")
        if len(lines) > PROBLEMS_SHOWN_MAX:
            sys.stderr.write(f"and {len(lines) - PROBLEMS_SHOWN_MAX} more of these\n")
    for line in report.minima_missed:
        sys.stderr.write(f"minimum missed: {line}\n")
    sys.stderr.write(f"shots: {json.dumps(report.shots)}\n")
    sys.stderr.write(f"self-ended: {json.dumps(report.self_ended)}\n")
    sys.stderr.write(f"recovery in seconds: {json.dumps(report.recovery_seconds)}\n")
    sys.stderr.write(f"phases in seconds: {json.dumps(report.seconds)}; {report.payouts_per_second} payouts/s\n")
    sys.stderr.flush()
    if verdict is not None:
        sys.stdout.write(f"{verdict.line()}\n")
        sys.stdout.flush()
