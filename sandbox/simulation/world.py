"""One seed: a ledger, a broker, a Visa, workers and people, on one virtual clock, from the first request to rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar, cast

from ledger.memory import MemoryLedger
from processors.payout.modes import Mode
from processors.payout.row import PayoutRow
from processors.payout.schedule import Schedule
from processors.sealing import EnvelopeSealer, Sealer
from processors.visa.account_payouts import AccountProfile
from processors.visa.requests import SubmissionProfile
from sandbox.simulation.broker import SimulatedBroker, Stored
from sandbox.simulation.contents import SimulatedCodec, SimulatedReader, SimulatedStages
from sandbox.simulation.people import People
from sandbox.simulation.plan import Accident, PayoutPlan, TimedAccident, WorldPlan
from sandbox.simulation.sealing import SimulatedEnvelopes, SimulatedSealer
from sandbox.simulation.virtual_loop import NothingToDo, Process, VirtualLoop, context_of
from sandbox.simulation.visa import SimulatedVisa
from sandbox.simulation.watch import Violation, Watch
from sandbox.simulation.worker import RESTART_SECONDS, SimulatedWorker
from schemas.sender_reference import sender_reference
from streams.bootstrap import account_profile, submission_profile
from streams.keys import Keys, create_keys, load_keys
from streams.metrics import Metrics
from streams.settings import Profile, Settings
from streams.stages import OpenRequest

START: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOOK_SECONDS: Final = 1.0
LOOK_SELDOM_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 2.0
REST_LIMIT_SECONDS: Final = 3_600.0
"""After the last accident: six times the longest probe of a lane and the longest pause between two sweeps, and many
times every other wait. Who is not at rest by then, and waits for no person, is stuck."""
LOST_ANSWER_CHANCE: Final = 0.01
UNCONFIRMED_CHANCE: Final = 0.002
LONG_PROBE_SECONDS: Final = 600.0
"""In an outage of days a lane asks this seldom: the product's own longest setting."""

Answer = TypeVar("Answer")


class CrashPoints:
    """Counts the boundaries that workers pass, and kills at the chosen ones."""

    def __init__(self, kill_at: tuple[int, ...] = ()) -> None:
        self.passed: list[str] = []
        self._kill_at = frozenset(kill_at)

    def kills_here(self, name: str) -> bool:
        """One more boundary; whether the process ends at it."""
        self.passed.append(name)
        return len(self.passed) - 1 in self._kill_at


@dataclass(frozen=True, slots=True)
class Shared:
    """What costs time to make and holds nothing of a world."""

    keys: Keys
    metrics: Metrics
    settings: Settings
    profile: SubmissionProfile
    accounts: AccountProfile | None


@cache
def shared() -> Shared:
    """Once a process."""
    settings = Settings.model_validate({"payouts_profile": Profile.TEST, "visa_initiating_party_id": 1002})
    with TemporaryDirectory(prefix="payouts-simulation-") as name:
        create_keys(Path(name) / "keys")
        keys = replace(
            load_keys(Path(name) / "keys"),
            sealer=cast("Sealer", SimulatedSealer()),
            dead_letters=cast("EnvelopeSealer", SimulatedEnvelopes()),
        )
    return Shared(keys, _silent_metrics(), settings, submission_profile(settings), account_profile(settings))


class _Silent:
    """Takes every call: what is counted in here nobody reads, and counting takes time."""

    def __getattr__(self, name: str) -> Callable[..., _Silent]:
        return self._again

    def _again(self, *_arguments: object) -> _Silent:
        return self

    __call__ = __enter__ = _again

    def __exit__(self, *_error: object) -> None:
        """An error goes on."""


def _silent_metrics() -> Metrics:
    metrics = Metrics()
    vars(metrics).update(dict.fromkeys((*vars(metrics), "handled", "staged", "count_end"), _Silent()))
    return metrics


@dataclass(frozen=True, slots=True)
class Ended:
    """What a world came to."""

    seed: int
    violations: tuple[Violation, ...]
    counts: dict[str, int]
    seconds: float
    """Virtual."""
    boundaries: tuple[str, ...] = ()
    kills: int = 0
    freezes: int = 0
    api_faults: int = 0
    history: tuple[str, ...] = field(default=(), repr=False)


class World:
    """Everything of one seed. `run` is its whole life."""

    def __init__(self, plan: WorldPlan, *, crash_points: CrashPoints | None = None, tells: bool = False) -> None:
        common = shared()
        self.plan = plan
        self.start = START
        self.loop = VirtualLoop()
        self._now, self._now_seconds = START, 0.0
        self.keys, self.metrics, self.settings = common.keys, common.metrics, common.settings
        self.profile, self.accounts = common.profile, common.accounts
        self.crash_points = crash_points
        self.schedule = Schedule.test()
        self.plans: dict[str, PayoutPlan] = {payout.payout_id: payout for payout in plan.payouts}
        self.opened: dict[str, OpenRequest] = {}
        self.codec, self.reader = SimulatedCodec(), SimulatedReader()
        self.stages = SimulatedStages(self.plans, self.opened)
        self.ledger = MemoryLedger(self.now)
        self.database_rng = random.Random(f"database-{plan.seed}")
        self.database_away_until = 0.0
        self.broker = SimulatedBroker(self, random.Random(f"broker-{plan.seed}"))
        self.visa = SimulatedVisa(self, random.Random(f"visa-{plan.seed}"))
        self.watch = Watch(self)
        self.people = People(self)
        self.workers: list[SimulatedWorker] = []
        self._processes: list[Process] = []
        self._every_worker: list[SimulatedWorker] = []
        self.last_append = 0.0
        self.kills = self.freezes = 0
        self._rng = random.Random(f"accidents-{plan.seed}")
        self._started = 0
        self._tells = tells
        self._told: list[str] = []
        self._references = {payout_id: sender_reference(payout_id) for payout_id in self.plans}
        self._pulls = {400_000 + plan.number: (plan.amount_minor, plan.currency) for plan in plan.payouts}
        long_outage = Accident.VISA_LONG_OUTAGE in plan.kinds
        self.probe_max_seconds = LONG_PROBE_SECONDS if long_outage else common.settings.visa_probe_max_seconds

    # Time.

    @property
    def now_seconds(self) -> float:
        """Virtual seconds since the beginning."""
        return self.loop.now

    def now(self) -> datetime:
        """The true time of this world, and its database's."""
        if self.loop.now != self._now_seconds:
            self._now_seconds = self.loop.now
            self._now = START + timedelta(seconds=self._now_seconds)
        return self._now

    @property
    def is_calm(self) -> bool:
        """Nothing goes wrong any more."""
        return self.now_seconds >= self.plan.ends_at_seconds

    @property
    def is_visa_paused(self) -> bool:
        """Whether any worker has found Visa away; one that makes no calls would not know, and drive for days."""
        return any(worker.visa_pauses.stop_payouts for worker in self.workers)

    @property
    def lost_answer_chance(self) -> float:
        """Of a write, that its answer is lost."""
        lossy = Accident.LOST_ANSWERS in self.plan.kinds and not self.is_calm
        return LOST_ANSWER_CHANCE if lossy else 0.0

    @property
    def unconfirmed_chance(self) -> float:
        """Of a publish, that it is stored and never confirmed."""
        lossy = Accident.BROKER_OUTAGE in self.plan.kinds and not self.is_calm
        return UNCONFIRMED_CHANCE if lossy else 0.0

    def at(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Something happens in nobody's process."""
        self.loop.call_at(seconds, callback, *arguments, context=context_of(None))

    def neutral_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that takes time happens in nobody's process."""
        context_of(None).run(self.loop.create_task, work)

    def run_now(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """The model of the ledger never waits: its calls end at once."""
        try:
            call.send(None)
        except StopIteration as ended:
            answer: Answer = ended.value
            return answer
        raise AssertionError("the model of the ledger waited")

    # What is there.

    def row(self, payout_id: str) -> PayoutRow | None:
        """A row as it is now."""
        stored = self.ledger._stored.get(payout_id)
        return None if stored is None else stored.row

    def rows(self) -> list[PayoutRow]:
        """Every row."""
        return [stored.row for stored in self.ledger._stored.values()]

    def events_of(self, topic: str) -> list[Stored]:
        """Every record of one of our topics, partition by partition."""
        return self.broker.all_of(topic)

    def reference_of(self, payout_id: str) -> str | None:
        """What an OCT of this payout must carry."""
        return self._references.get(payout_id)

    def pull_amount(self, numbers: tuple[int, str]) -> tuple[int, str] | None:
        """The card pull under these numbers, if there is one."""
        return self._pulls.get(numbers[0]) if numbers[1] == "606011451018" else None

    def seconds_to_next_due(self) -> float:
        """How long nothing is due for the sweeper."""
        now = self.now()
        nearest: datetime | None = None
        for row in self.rows():
            if row.announced_version < row.announce_version:
                return 0.0
            if row.due_at is not None and not row.held and (nearest is None or row.due_at < nearest):
                nearest = row.due_at
        return float("inf") if nearest is None else (nearest - now).total_seconds()

    def tell(self, what: str) -> None:
        """One line of the history, where somebody reads it."""
        if self._tells:
            self._told.append(f"{self.now_seconds:10.3f}  {what}")

    # Life.

    def run(self) -> Ended:
        """From the first request to rest, and the judgement."""
        for payout in self.plan.payouts:
            self.at(payout.at_seconds, self.people.send, payout)
        for number in range(self.plan.rubbish):
            self.at(self._rng.uniform(0.0, self.plan.arrivals_seconds), self.people.send_rubbish, number)
        for accident in self.plan.accidents:
            self.at(accident.at_seconds, self._happens, accident)
        self.loop.run_until_complete(self._live())
        violations = tuple(self.watch.judge())
        ended = Ended(
            self.plan.seed,
            violations,
            dict(self.watch.counts()),
            round(self.now_seconds, 3),
            tuple(self.crash_points.passed) if self.crash_points else (),
            self.kills,
            self.freezes,
            self.visa.faults,
            self._history(violations) if self._tells else (),
        )
        self.loop.end(self._processes)
        return ended

    def take_apart(self) -> None:
        """Once nobody looks at it any more: cut, this large cycle goes at once; a collector would take twice that."""
        for worker in self._every_worker:
            vars(worker).clear()
        for part in (self.broker, self.visa, self.watch, self.people, self.ledger, self.stages, self):
            vars(part).clear()

    async def _live(self) -> None:
        for _ in range(self.plan.workers):
            self.start_worker()
        try:
            while not self._is_over():
                await asyncio.sleep(self._until_next_look())
                if self.is_calm and self._is_at_rest():
                    self.people.resolve_held()
                    if self._is_at_rest():
                        break
        except NothingToDo:
            self.watch.bug("nobody does anything any more")

    def _is_over(self) -> bool:
        return self.now_seconds > self.plan.ends_at_seconds + REST_LIMIT_SECONDS

    def _is_busy(self) -> bool:
        return self.now_seconds - self.last_append < 10.0 or self.now_seconds < self.plan.arrivals_seconds + 30.0

    def _until_next_look(self) -> float:
        if not self.is_calm:
            return min(self.plan.ends_at_seconds - self.now_seconds, LOOK_SELDOM_SECONDS) + LOOK_SECONDS
        if self._is_busy():
            return LOOK_SECONDS
        return min(max(LOOK_SECONDS, self.seconds_to_next_due()), LOOK_SELDOM_SECONDS)

    def _is_at_rest(self) -> bool:
        """Nothing is unread, unannounced, leased, or due ever again without a person."""
        now = self.now()
        if self.people.intentions or self.now_seconds - self.last_append < SETTLE_SECONDS:
            return False
        for row in self.rows():
            if row.announced_version < row.announce_version or (row.lease_until is not None and row.lease_until > now):
                return False
            if row.due_at is not None and not row.held:
                return False
        topics = self.broker.topics
        return all(self.broker.committed.get(slot, 0) >= len(topics[slot]) for slot in list(topics) if slot in _READ)

    # Workers.

    def start_worker(self) -> SimulatedWorker:
        """A fresh process."""
        self._started += 1
        skew = self.plan.skews[self._started % len(self.plan.skews)]
        worker = SimulatedWorker(self, f"worker-{self._started}", skew)
        self.workers.append(worker)
        self._every_worker.append(worker)
        self._processes.append(worker.process)
        self.tell(f"{worker.name} starts, its clock {skew:+.2f} s")
        worker.start()
        return worker

    def restart_later(self, worker: SimulatedWorker) -> None:
        """A supervisor notices that the process is gone; one that was told to leave needs no other in its place."""
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        after = self._rng.uniform(*RESTART_SECONDS)
        self.loop.call_later(after, self.start_worker, context=context_of(None))

    async def passes(self, worker: SimulatedWorker, name: str) -> None:
        """A worker passes a boundary; at a chosen one it ends here and now."""
        assert self.crash_points is not None
        if self.crash_points.kills_here(name):
            self.kills += 1
            worker.end(f"killed at {name}")
            await self.loop.create_future()

    # Accidents.

    def _happens(self, accident: TimedAccident) -> None:
        self.tell(f"accident: {accident.kind} {accident.seconds:.1f} s")
        until = self.now_seconds + accident.seconds
        match accident.kind:
            case Accident.KILLS if self.workers:
                self.kills += 1
                self._rng.choice(self.workers).end("killed")
            case Accident.FREEZES if self.workers:
                self.freezes += 1
                self._rng.choice(self.workers).freeze(accident.seconds)
            case Accident.SCALING:
                self._scale()
            case Accident.DATABASE_OUTAGE:
                self.database_away_until = max(self.database_away_until, until)
            case Accident.BROKER_OUTAGE:
                self.broker.away_until = max(self.broker.away_until, until)
            case Accident.VISA_OUTAGE | Accident.VISA_LONG_OUTAGE:
                self.visa.away_until = max(self.visa.away_until, until)
            case Accident.LOST_RECORDS if self.workers:
                self._rng.choice(self.workers).lose_next += 1
            case Accident.REPLAYS:
                self.broker.rewind()
            case Accident.OPERATORS:
                self.people.act()
            case Accident.MODES:
                self.people.set_mode(self._rng.choice([mode for mode in Mode if mode is not Mode.NORMAL]))
                self.at(until, self.people.set_mode, Mode.NORMAL)

    def _scale(self) -> None:
        running = [worker for worker in self.workers if not worker.process.frozen and not worker.stopping]
        if len(running) > 1 and self._rng.random() < 0.5:
            leaving = self._rng.choice(running)
            self.workers.remove(leaving)
            context_of(leaving.process).run(self.loop.create_task, leaving.stop())
        else:
            self.start_worker()

    # The history.

    def _history(self, violations: tuple[Violation, ...]) -> tuple[str, ...]:
        lines = list(self._told)
        for payout_id in sorted({violation.payout_id for violation in violations if violation.payout_id}):
            lines += self._life_of(payout_id)
        return tuple(lines)

    def _life_of(self, payout_id: str) -> list[str]:
        told: list[tuple[float, str]] = []
        for entry in self.run_now(self.ledger.history(payout_id)):
            at = (entry.at - START).total_seconds()
            what = (
                f"ledger  v{entry.version} {entry.transition} → {entry.to_state} by {entry.actor} {dict(entry.detail)}"
            )
            told.append((at, what))
        told += [
            (sent.at_seconds, f"sent    {sent.operation} {sent.numbers} by {sent.worker}")
            for sent in self.visa.sent.get(payout_id, ())
        ]
        told += [
            (effect.at_seconds, f"effect  {effect.operation} {effect.numbers} code {effect.code}")
            for effect in self.visa.by_payout[payout_id]
        ]
        return [f"--- {payout_id}: {self.plans[payout_id]}", *(f"{at:10.3f}  {what}" for at, what in sorted(told))]


_READ: Final = frozenset(
    (topic, number)
    for topic in (
        "payout_requests", "payout_validated", "payout_cleared", "payout_retry", "payout_failed_requires_compensation",
        "payout_compensation_confirmations", "payout_review_decisions",
    )
    for number in range(16)
)  # fmt: skip
