"""The conductor on a stage of paper: what counts, what is repeated, what is put right afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.faults import aim as aiming
from sandbox.faults import conductor as conducting
from sandbox.faults.aim import Intent
from sandbox.faults.conductor import Conductor, Pace
from sandbox.faults.schedule import Kind, PlannedFault

END_SECONDS = 10.0


@dataclass
class PaperWorker:
    """Does as it is told, and writes down what that was."""

    name: str
    alive: bool = True
    frozen: bool = False
    done: list[str] = field(default_factory=list)
    dies_when_frozen: bool = False

    def wait_ready(self) -> None:
        self.done.append("ready")

    def kill(self) -> bool:
        self.alive = False
        self.done.append("kill")
        return True

    def restart(self) -> None:
        self.alive = True
        self.done.append("restart")

    def freeze(self) -> bool:
        self.frozen = not self.dies_when_frozen
        self.done.append("freeze")
        return True

    def thaw(self) -> bool:
        self.frozen = False
        self.done.append("thaw")
        return True

    def health(self) -> dict[str, Any]:
        return {"assigned_partitions": ["payout_requests-0", "payout_results-1"]}


class PaperFleet:
    """Two workers."""

    def __init__(self) -> None:
        self.all_workers: list[PaperWorker] = []

    @property
    def workers(self) -> list[PaperWorker]:
        return [worker for worker in self.all_workers if worker.alive]

    def start_worker(self) -> PaperWorker:
        self.all_workers.append(PaperWorker(f"worker-{len(self.all_workers) + 1}"))
        return self.all_workers[-1]

    def supervise(self) -> list[Any]:
        return []


class PaperLedger:
    """Worker-1 always has an intent; whether it is still open after the signal is what `open_after` says, in turn."""

    def __init__(self, open_after: list[bool]) -> None:
        self._open_after = open_after
        self._version = 1

    def intents(self) -> list[Intent]:
        return [Intent("payout-1", self._version, "worker-1")]

    def still_open(self) -> list[Intent]:
        is_open = self._open_after.pop(0) if self._open_after else True
        intent = Intent("payout-1", self._version, "worker-1")
        self._version += 1
        return [intent] if is_open else []

    def last_history_id(self) -> int:
        return 7

    def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        del statement, arguments
        return [{"payout_id": "payout-1", "version": self._version + 1}]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits; nothing here needs to reach a real server."""
    monkeypatch.setattr(aiming, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(conducting, "SUPERVISE_SECONDS", 0.01)


def conduct(fault: PlannedFault, ledger: PaperLedger, *, before: Callable[[PaperFleet], None] | None = None) -> Any:
    """Run one planned fault to its end; the conductor and the workers."""
    fleet = PaperFleet()
    kafka = SimpleNamespace(bootstrap_servers="127.0.0.1:1", brokers=3)
    stage: Any = SimpleNamespace(fleet=fleet, kafka=kafka, topic_prefix="")
    pace = Pace(payouts=10, lead=5, extra_ratio=0.0, ended=lambda: 5)
    conductor = Conductor(stage, (fault,), pace, ledger, sent=lambda: 5, say=lambda _: None)  # type: ignore[arg-type]
    if before is not None:
        start = fleet.start_worker

        def started() -> PaperWorker:
            worker = start()
            before(fleet)
            return worker

        fleet.start_worker = started  # type: ignore[method-assign]
    conductor.start()
    deadline = time.monotonic() + END_SECONDS
    while not conductor.finished:
        assert time.monotonic() < deadline, "the lane did not end"
        time.sleep(0.01)
    return conductor, fleet


def until_restarted(worker: PaperWorker) -> None:
    deadline = time.monotonic() + END_SECONDS
    while "restart" not in worker.done:
        assert time.monotonic() < deadline, "never restarted"
        time.sleep(0.01)


def planned(kind: Kind, seconds: float) -> PlannedFault:
    return PlannedFault(1, kind, 0.1, 0.0, seconds)


def test_a_kill_that_missed_is_repeated_and_not_counted() -> None:
    """Only shots that hit while an intent had no outcome count; misses are repeated."""
    conductor, fleet = conduct(planned(Kind.KILL, 0.0), PaperLedger([False, True]))
    assert [fault.hit for fault in conductor.done] == [False, True]
    assert conductor.count(Kind.KILL) == 1
    until_restarted(fleet.all_workers[0])
    conductor.abandon()


def test_what_a_kill_hit_is_remembered() -> None:
    """The recovery time needs the intents, and where the history stood."""
    conductor, _ = conduct(planned(Kind.KILL, 0.0), PaperLedger([True]))
    assert [intent.payout_id for intent in conductor.done[0].intents] == ["payout-1"]
    assert conductor.done[0].history_id == 7
    conductor.abandon()


def test_a_freeze_lasts_its_time_and_ends() -> None:
    """L3: longer than session and lease, so that another worker owns the row when the frozen one wakes up."""
    began = time.monotonic()
    conductor, fleet = conduct(planned(Kind.FREEZE, 0.5), PaperLedger([True]))
    assert time.monotonic() - began >= 0.5
    assert conductor.count(Kind.FREEZE) == 1
    assert conductor.done[0].note.startswith("1 of 1")
    assert fleet.all_workers[0].done == ["ready", "freeze", "thaw"]
    conductor.abandon()


def test_a_freeze_of_a_worker_that_ended_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is gone wakes up with no late answer: the shot is repeated, in vain here."""
    monkeypatch.setattr(conducting, "TRIES_MAX", 2)

    def mortal(fleet: PaperFleet) -> None:
        fleet.all_workers[-1].dies_when_frozen = True

    conductor, _ = conduct(planned(Kind.FREEZE, 0.05), PaperLedger([]), before=mortal)
    assert conductor.count(Kind.FREEZE) == 0
    assert [fault.hit for fault in conductor.done] == [False, False]
    assert any("did not hit in 2 tries" in problem for problem in conductor.problems)
    conductor.abandon()


def test_a_missed_freeze_is_thawed_at_once() -> None:
    """Nobody stays frozen because of a miss."""
    conductor, fleet = conduct(planned(Kind.FREEZE, 0.05), PaperLedger([False, True]))
    assert fleet.all_workers[0].done == ["ready", "freeze", "thaw", "freeze", "thaw"]
    assert conductor.count(Kind.FREEZE) == 1
    conductor.abandon()
