"""A kill or freeze counts only if it hit while an intent had no outcome (issue "Pay once", the proof, 2)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sandbox.faults import aim as aiming
from sandbox.faults.aim import Aim, Intent, LedgerAway
from sandbox.faults.conductor import DoneFault
from sandbox.faults.recovery import recovery_times, summary
from sandbox.faults.schedule import Kind

FIRST, SECOND = Intent("payout-1", 4, "worker-1"), Intent("payout-2", 7, "worker-2")


@dataclass
class Ledger:
    """A ledger that shows what a test says."""

    open_now: list[Intent] = field(default_factory=list)
    away: int = 0

    def intents(self) -> list[Intent]:
        return self.still_open()

    def still_open(self) -> list[Intent]:
        if self.away:
            self.away -= 1
            raise LedgerAway("away")
        return list(self.open_now)


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs to reach a real ledger."""
    monkeypatch.setattr(aiming, "SETTLE_SECONDS", 0.0)


def soon(seconds: float = 0.05) -> float:
    return time.monotonic() + seconds


def make(ledger: Ledger) -> tuple[Aim, list[str]]:
    hungry: list[str] = []
    return Aim(ledger, on_hungry=lambda: hungry.append("more")), hungry


def test_a_victim_has_an_intent_under_way() -> None:
    """Only a worker that may be hit and has an intent is a victim."""
    aim, _ = make(Ledger([FIRST, SECOND]))
    assert aim.victim(0.0, lambda: ["worker-2", "worker-3"], soon()) == "worker-2"
    assert aim.victim(0.99, lambda: ["worker-1", "worker-2"], soon()) == "worker-2"


def test_nothing_to_hit_asks_for_more_work() -> None:
    """Without an intent there is no victim; the load is told to send more."""
    aim, hungry = make(Ledger())
    assert aim.victim(0.0, lambda: ["worker-1"], soon()) is None
    assert hungry


def test_an_outcome_before_the_signal_is_a_miss() -> None:
    """The row moved on before the victim was gone: the shot does not count."""
    aim, _ = make(Ledger([SECOND]))
    assert aim.confirm("worker-1", soon()) == []


def test_an_intent_without_outcome_is_a_hit_and_counts_once() -> None:
    """What an earlier life of the worker left behind makes no later shot count."""
    aim, _ = make(Ledger([FIRST]))
    assert aim.confirm("worker-1", soon()) == [FIRST]
    assert aim.confirm("worker-1", soon()) == []
    assert aim.victim(0.0, lambda: ["worker-1"], soon()) is None


def test_what_a_worker_left_that_ended_by_itself_counts_for_nothing() -> None:
    """An exit of its own is no kill, and its intents are nobody's."""
    aim, _ = make(Ledger([FIRST]))
    aim.disown("worker-1")
    assert aim.confirm("worker-1", soon()) == []


def test_a_ledger_that_is_away_is_asked_again() -> None:
    """Another fault may be under way; a shot is judged when the ledger is back."""
    aim, _ = make(Ledger([FIRST], away=3))
    assert aim.confirm("worker-1", soon(2.0)) == [FIRST]


class History:
    """Answers the recovery's questions with one moment."""

    def __init__(self, at: datetime, found: int) -> None:
        self._at, self._found = at, found

    def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        del statement, arguments
        return [{"last_at": self._at, "found": self._found, "first_at": self._at, "partition": 0}]


def test_recovery_counts_from_the_fault_and_only_whole_answers() -> None:
    """An intent that has no outcome yet makes no recovery time."""
    began = datetime(2026, 11, 22, tzinfo=UTC)
    fault = DoneFault(1, Kind.KILL, "worker-1", True, began, history_id=5, intents=[FIRST, SECOND], partitions=[0])
    whole = recovery_times(History(began + timedelta(seconds=9), 2), [fault])  # type: ignore[arg-type]
    assert whole["worker_intents"] == whole["worker_partitions"] == [9.0]
    part = recovery_times(History(began + timedelta(seconds=9), 1), [fault])  # type: ignore[arg-type]
    assert part["worker_intents"] == []


def test_summary_of_no_values_says_so() -> None:
    """No fault, no figure."""
    assert summary({"broker": []}) == {"broker": {"count": 0}}
    assert summary({"broker": [2.0]})["broker"] == {"count": 1, "p50": 2.0, "p99": 2.0, "max": 2.0}
