"""Carries out a fault schedule on a stage, lane by lane, and keeps what was done and whether it hit.

A kill or freeze is aimed: it is fired when the ledger shows that the victim has an intent under way, counted if the
intent still has no outcome afterwards, and repeated otherwise. Every wait is bounded; a fault that could not be done
is said in the report, and the count it lacks is missed in the verdict.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from sandbox.faults.aim import Aim, Intent, LedgerAway, LedgerWatch
from sandbox.faults.fleet import FleetWorker
from sandbox.faults.load import REQUESTS
from sandbox.faults.proxy import Route
from sandbox.faults.schedule import Kind, Lane, PlannedFault, lanes
from sandbox.faults.stage import FaultStage
from sandbox.servers.processes import ServerError
from schemas.topics import TOPICS, topic_name
from streams.settings import CONSUMER_GROUP

TRIES_MAX: Final = 25
"""Shots at one planned fault; about one in ten misses."""
AIM_SECONDS: Final = 90.0
"""For a victim with an intent: a group that has lost a broker and a worker may need half of it to go on."""
CONFIRM_SECONDS: Final = 8.0
OVERTAKEN_SECONDS: Final = 15.0
"""Beyond its planned time a freeze lasts until another worker has ended the row, at most this much longer."""
IN_SYNC_SECONDS: Final = 90.0
CLUSTER_POLL_SECONDS: Final = 0.25
WAIT_SECONDS: Final = 0.05
SUPERVISE_SECONDS: Final = 0.3
ASSIGNMENT_SECONDS: Final = 1.5
REARM_SECONDS: Final = 0.5
FEED_SECONDS: Final = 0.3
FEED_PAYOUTS: Final = 5
JOIN_SECONDS: Final = 60.0
WORKERS_AT_FIRST: Final = 2


@dataclass(slots=True)
class DoneFault:
    """One shot: what was hit, and whether it counts."""

    number: int
    kind: Kind
    subject: str
    """A worker, broker or route."""
    hit: bool
    began_at: datetime
    ended_at: datetime | None = None
    history_id: int | None = None
    """Where the ledger's history stood: what came of it has a higher number."""
    intents: list[Intent] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    """Of the request topic: owned by the killed worker, or led by the killed broker."""
    note: str = ""


class Pace:
    """How many payouts may have been sent: no further ahead than the workers and the faults can follow."""

    def __init__(self, payouts: int, lead: int, extra_ratio: float, ended: Callable[[], int]) -> None:
        """`ended` says how many payouts need nothing more."""
        self._payouts = payouts
        self._lead = lead
        self._most = int(payouts * (1 + extra_ratio))
        self._ended = ended
        self._fed = 0
        self._fed_at = 0.0
        self._pending: dict[Lane, float] = {}
        self._lock = threading.Lock()

    def pending(self, lane: Lane, at: float | None) -> None:
        """The next fault of a lane is due at this fraction; None: it has no more."""
        with self._lock:
            if at is None:
                self._pending.pop(lane, None)
            else:
                self._pending[lane] = at

    def progress(self) -> float:
        """The fraction of payouts that need nothing more."""
        return self._ended() / self._payouts

    def may_send(self) -> int:
        """How many payouts may have been sent by now."""
        with self._lock:
            due = min(self._pending.values(), default=None)
            planned = self._payouts if due is None else min(self._payouts, int(due * self._payouts) + self._lead)
            return min(max(planned, self._fed), self._ended() + self._lead)

    def feed(self, sent: int) -> None:
        """A fault has nothing to hit: let a few more come, unless enough are under way already."""
        now = time.monotonic()
        with self._lock:
            if now - self._fed_at < FEED_SECONDS or sent - self._ended() > self._lead // 2:
                return
            self._fed_at = now
            self._fed = min(max(self._fed, sent) + FEED_PAYOUTS, self._most)


class Conductor:
    """One thread a lane, one that supervises the workers."""

    def __init__(
        self,
        stage: FaultStage,
        plan: tuple[PlannedFault, ...],
        pace: Pace,
        watch: LedgerWatch,
        *,
        sent: Callable[[], int],
        say: Callable[[str], None],
    ) -> None:
        self._stage = stage
        self._pace = pace
        self._watch = watch
        self._say = say
        self._aim = Aim(watch, on_hungry=lambda: pace.feed(sent()))
        self._lanes = lanes(plan)
        self._stopping = threading.Event()
        self._supervising = threading.Event()
        self._restarts: list[tuple[float, FleetWorker]] = []
        self._fleet_lock = threading.RLock()
        self._admin = AdminClient({"bootstrap.servers": stage.kafka.bootstrap_servers, "log_level": 0})
        self._assignments: dict[str, list[int]] = {}
        self._threads = [
            threading.Thread(target=self._run_lane, args=(lane, faults), name=f"lane-{lane}", daemon=True)
            for lane, faults in self._lanes.items()
        ]
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self.done: list[DoneFault] = []
        self.problems: list[str] = []
        for lane, faults in self._lanes.items():
            pace.pending(lane, faults[0].at)

    def start(self) -> None:
        """Start workers, supervision and lanes. Raises ServerError."""
        for _ in range(WORKERS_AT_FIRST):
            self._stage.fleet.start_worker()
        for worker in list(self._stage.fleet.all_workers):
            worker.wait_ready()
        self._supervisor.start()
        for thread in self._threads:
            thread.start()

    @property
    def finished(self) -> bool:
        """Whether every lane has come to its end."""
        return not any(thread.is_alive() for thread in self._threads)

    def count(self, kind: Kind) -> int:
        """How many of a kind count."""
        return sum(fault.hit for fault in self.done if fault.kind is kind)

    def heal(self) -> None:
        """End the lanes where they stand, then every fault: servers up, routes open, workers running."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS + IN_SYNC_SECONDS)
        self._stage.heal()
        for node in set(range(1, self._stage.kafka.brokers + 1)) - set(self._stage.kafka.running_nodes()):
            self._stage.kafka.restart(node)
        self._start_due_workers(at_once=True)

    def abandon(self) -> None:
        """End every thread, whatever is left to do: the stage is about to go. Nothing to do after a whole run."""
        self._stopping.set()
        self._supervising.set()
        for thread in (*self._threads, self._supervisor):
            if thread.ident is not None:
                thread.join(JOIN_SECONDS)

    def stop_supervision(self) -> None:
        """From here on a worker that ends stays ended."""
        self._supervising.set()
        self._supervisor.join(JOIN_SECONDS)

    # Lanes.

    def _run_lane(self, lane: Lane, faults: list[PlannedFault]) -> None:
        for fault in faults:
            self._pace.pending(lane, fault.at)
            while self._pace.progress() < fault.at and not self._stopping.is_set():
                time.sleep(WAIT_SECONDS)
            if self._stopping.is_set():
                break
            self._do(fault)
        self._pace.pending(lane, None)

    def _do(self, fault: PlannedFault) -> None:
        """Try until it hits, a bounded number of times."""
        for _ in range(TRIES_MAX):
            try:
                done = self._actions[fault.kind](self, fault)
            except (ServerError, KafkaException, OSError) as error:
                self.problems.append(f"fault {fault.number} ({fault.kind}): {type(error).__name__}: {error}")
                self._pause(1.0)
                done = None
            if done is not None:
                self.done.append(done)
                if done.hit:
                    return
            if self._stopping.is_set():
                return
        self.problems.append(f"fault {fault.number} ({fault.kind}) did not hit in {TRIES_MAX} tries")

    def _kill(self, fault: PlannedFault) -> DoneFault | None:
        worker = self._victim(fault)
        if worker is None:
            return None
        owned = list(self._assignments.get(worker.name, ()))
        with self._fleet_lock:
            began_at = datetime.now(UTC)
            if not worker.kill():
                return None
            self._restarts.append((time.monotonic() + fault.seconds, worker))
        history_id = self._history_id()
        intents = self._aim.confirm(worker.name, time.monotonic() + CONFIRM_SECONDS)
        return DoneFault(
            fault.number,
            fault.kind,
            worker.name,
            bool(intents),
            began_at,
            datetime.now(UTC),
            history_id,
            intents,
            owned,
        )

    def _freeze(self, fault: PlannedFault) -> DoneFault | None:
        worker = self._victim(fault)
        if worker is None:
            return None
        began_at, began = datetime.now(UTC), time.monotonic()
        if not worker.freeze():
            return None
        try:
            history_id = self._history_id()
            intents = self._aim.confirm(worker.name, time.monotonic() + CONFIRM_SECONDS)
            done = DoneFault(fault.number, fault.kind, worker.name, False, began_at, None, history_id, intents)
            if intents:
                self._pause(fault.seconds - (time.monotonic() - began))
                overtaken = self._wait_overtaken(intents)
                done.hit = time.monotonic() - began >= fault.seconds and worker.frozen
                done.note = f"{overtaken} of {len(intents)} intents were ended by another worker meanwhile"
        finally:
            worker.thaw()
        done.ended_at = datetime.now(UTC)
        return done

    def _wait_overtaken(self, intents: list[Intent]) -> int:
        """How many of the intents another worker has moved on, waiting until it is all of them."""
        deadline = time.monotonic() + OVERTAKEN_SECONDS
        versions = {intent.payout_id: intent.version for intent in intents}
        while True:
            moved = self._moved_on(versions)
            if moved == len(versions) or time.monotonic() > deadline or self._stopping.is_set():
                return moved
            time.sleep(CLUSTER_POLL_SECONDS)

    def _moved_on(self, versions: Mapping[str, int]) -> int:
        """How many rows have a newer version than the given one; none while the ledger is away."""
        try:
            rows = self._watch.fetch("SELECT payout_id, version FROM payouts WHERE payout_id = ANY($1)", list(versions))
        except LedgerAway:
            return 0
        return sum(row["version"] > versions[row["payout_id"]] for row in rows)

    def _scale_up(self, fault: PlannedFault) -> DoneFault:
        with self._fleet_lock:
            worker = self._stage.fleet.start_worker()
        return DoneFault(fault.number, fault.kind, worker.name, True, datetime.now(UTC))

    def _scale_down(self, fault: PlannedFault) -> DoneFault | None:
        names = self._hittable()
        if len(names) < WORKERS_AT_FIRST:
            self._pause(1.0)
            return None
        worker = self._worker(names[int(fault.draw * len(names))])
        began_at = datetime.now(UTC)
        code = worker.terminate()
        note = f"left with {code}"
        if code != 0:
            self.problems.append(f"{worker.name} was told to drain (SIGTERM) and {note}: see {worker.log_path}")
        return DoneFault(fault.number, fault.kind, worker.name, True, began_at, datetime.now(UTC), note=note)

    def _broker_kill(self, fault: PlannedFault) -> DoneFault | None:
        self._wait_in_sync()
        node = self._broker(fault)
        led = self._led_by(node)
        if not led:
            node = self._leader(fault)
            led = self._led_by(node)
        history_id, began_at = self._history_id(), datetime.now(UTC)
        self._stage.kafka.kill(node)
        try:
            self._pause(fault.seconds)
        finally:
            self._stage.kafka.restart(node)
        ended_at = datetime.now(UTC)
        self._wait_in_sync()
        subject = f"kafka-{node}"
        return DoneFault(
            fault.number, fault.kind, subject, True, began_at, ended_at, history_id, [], led, str(fault.target)
        )

    def _database_kill(self, fault: PlannedFault) -> DoneFault:
        history_id = self._history_id()
        self._stage.postgres.kill()
        began_at = datetime.now(UTC)
        try:
            self._pause(fault.seconds)
        finally:
            self._stage.postgres.restart()
        return DoneFault(fault.number, fault.kind, "postgres", True, began_at, datetime.now(UTC), history_id)

    def _cut(self, fault: PlannedFault) -> DoneFault:
        route = self._route(fault)
        before, began_at = route.stats(), datetime.now(UTC)
        end = time.monotonic() + fault.seconds
        apply = {
            "cut": route.cut,
            "freeze": route.freeze,
            "deafen": route.deafen,
            "reset_after_request": route.reset_after_request,
        }[str(fault.toxic)]
        try:
            apply()
            while time.monotonic() < end and not self._stopping.is_set():
                self._pause(min(REARM_SECONDS, end - time.monotonic()))
                if fault.toxic == "reset_after_request":
                    apply()
        finally:
            route.heal()
        felt = before.open_connections > 0 or route.stats().connections > before.connections
        return DoneFault(fault.number, fault.kind, route.name, felt, began_at, datetime.now(UTC), note=str(fault.toxic))

    def _outage(self, fault: PlannedFault) -> DoneFault:
        began_at = datetime.now(UTC)
        self._stage.visa_route.cut()
        try:
            self._pause(fault.seconds)
        finally:
            self._stage.visa_route.heal()
        return DoneFault(fault.number, fault.kind, "visa", True, began_at, datetime.now(UTC))

    _actions: Mapping[Kind, Callable[[Conductor, PlannedFault], DoneFault | None]] = {
        Kind.KILL: _kill,
        Kind.FREEZE: _freeze,
        Kind.SCALE_UP: _scale_up,
        Kind.SCALE_DOWN: _scale_down,
        Kind.BROKER_KILL: _broker_kill,
        Kind.DB_KILL: _database_kill,
        Kind.CUT: _cut,
        Kind.API_OUTAGE: _outage,
    }

    # Whom it hits.

    def _victim(self, fault: PlannedFault) -> FleetWorker | None:
        name = self._aim.victim(fault.draw, self._hittable, time.monotonic() + AIM_SECONDS)
        return None if name is None or self._stopping.is_set() else self._worker(name)

    def _hittable(self) -> list[str]:
        if self._stopping.is_set():
            return []
        return [worker.name for worker in list(self._stage.fleet.all_workers) if worker.alive and not worker.frozen]

    def _worker(self, name: str) -> FleetWorker:
        return next(worker for worker in self._stage.fleet.all_workers if worker.name == name)

    def _broker(self, fault: PlannedFault) -> int:
        kafka = self._stage.kafka
        if fault.target == "coordinator":
            return kafka.group_coordinator(f"{self._stage.topic_prefix}{CONSUMER_GROUP}")
        if fault.target == "controller":
            return kafka.controller()
        return self._leader(fault)

    def _leader(self, fault: PlannedFault) -> int:
        partitions = self._partitions(self._requests)
        return self._stage.kafka.leader_of(self._requests, int(fault.draw * len(partitions)))

    def _route(self, fault: PlannedFault) -> Route:
        if fault.target == "postgres":
            return self._stage.postgres_route
        if fault.target == "visa":
            return self._stage.visa_route
        routes = sorted(self._stage.kafka_routes)
        return self._stage.kafka_routes[routes[int(fault.draw * len(routes))]]

    @property
    def _requests(self) -> str:
        return topic_name(REQUESTS, self._stage.topic_prefix)

    def _partitions(self, topic: str) -> dict[int, Any]:
        return dict(self._admin.list_topics(topic, timeout=10).topics[topic].partitions)

    def _led_by(self, node: int) -> list[int]:
        return [number for number, found in self._partitions(self._requests).items() if found.leader == node]

    def _wait_in_sync(self) -> None:
        """Until every replica is in sync: only then is another broker expendable (min ISR 2). Raises ServerError."""
        deadline = time.monotonic() + IN_SYNC_SECONDS
        names = {topic_name(name, self._stage.topic_prefix) for name in TOPICS} | {"__consumer_offsets"}
        behind = "no answer"
        while time.monotonic() < deadline:
            with contextlib.suppress(KafkaException):
                topics = self._admin.list_topics(timeout=10).topics
                late = [
                    f"{name}-{number}"
                    for name in names
                    for number, found in topics[name].partitions.items()
                    if len(found.isrs) < len(found.replicas)
                ]
                if not late:
                    return
                behind = f"{len(late)} partitions, among them {late[0]}"
            time.sleep(CLUSTER_POLL_SECONDS)
        raise ServerError(f"replicas are not in sync after {IN_SYNC_SECONDS:.0f} s: {behind}")

    def _history_id(self) -> int | None:
        with contextlib.suppress(LedgerAway):
            return self._watch.last_history_id()
        return None

    def _pause(self, seconds: float) -> None:
        """Wait, unless the run is being ended."""
        self._stopping.wait(max(0.0, seconds))

    # Supervision.

    def _supervise(self) -> None:
        """What a supervisor does: start again what was killed after a while, and what ended by itself at once."""
        looked = 0.0
        while not self._supervising.wait(SUPERVISE_SECONDS):
            try:
                self._start_due_workers()
                with self._fleet_lock:
                    ended = self._stage.fleet.supervise()
            except ServerError as error:
                self.problems.append(f"a worker could not be started: {error}")
                continue
            for found in ended:
                self._say(f"{found.worker} ended by itself with {found.exit_code} and was started again")
                self._aim.disown(found.worker)
            if time.monotonic() - looked > ASSIGNMENT_SECONDS:
                looked = time.monotonic()
                self._look_at_assignments()

    def _start_due_workers(self, *, at_once: bool = False) -> None:
        with self._fleet_lock:
            now = time.monotonic()
            due = [entry for entry in self._restarts if at_once or entry[0] <= now]
            self._restarts = [entry for entry in self._restarts if entry not in due]
            for _, worker in due:
                worker.restart()

    def _look_at_assignments(self) -> None:
        """Who owns which partitions of the request topic, for the recovery times; a guess during rebalances."""
        for worker in self._stage.fleet.workers:
            if not worker.frozen:
                places = [str(place).rpartition("-") for place in worker.health().get("assigned_partitions", ())]
                owned = [int(number) for topic, _, number in places if topic == self._requests]
                if owned:
                    self._assignments[worker.name] = owned
