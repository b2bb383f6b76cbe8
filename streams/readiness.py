"""What the health pages decide: whether the process lives, and which of its parts keep it from working. Pure.

A process that does not live is killed by its supervisor, and a rollout waits for one that is not ready. So liveness
depends on nothing outside the process: with a broker, the database or Visa away every worker would be killed for it, in
turn and for ever. It pauses instead, which readiness says (rule K5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

LOOP_SILENT_SECONDS_MAX: Final = 10.0
"""The loop ticks twice a second; a page that answers although it did not for so long has lost its ticking task."""
POLL_SILENT_SECONDS_MAX: Final = 60.0
"""Records are asked for ten times a second, whether or not a broker answers, but not during a rebalance."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the process moves; all times are of one monotonic clock, in seconds."""

    ticked_at: float
    polled_at: float | None
    """When records were last asked for; None before the first time."""
    reads: bool
    """It has partitions and is in no rebalance: somebody ought to ask for records."""


def liveness(pulse: Pulse, now: float) -> dict[str, Any]:
    """`status` is alive or hanging, with why."""
    tick_age = now - pulse.ticked_at
    poll_age = None if pulse.polled_at is None else now - pulse.polled_at
    why = []
    if tick_age > LOOP_SILENT_SECONDS_MAX:
        why.append("the event loop's own task does not tick")
    if pulse.reads and poll_age is not None and poll_age > POLL_SILENT_SECONDS_MAX:
        why.append("nobody asks for records although partitions are ours")
    return {
        "status": "hanging" if why else "alive",
        "why": why,
        "last_tick_seconds": round(tick_age, 1),
        "last_poll_seconds": None if poll_age is None else round(poll_age, 1),
    }


@dataclass(frozen=True, slots=True)
class Parts:
    """What work needs, as it is now. True and empty are good."""

    database: Mapping[str, Any]
    """With `status`."""
    ledger_verified: bool
    joined: bool
    """In the group, and in no rebalance; a worker without partitions is ready to get some."""
    producer: bool
    certificates: Mapping[str, datetime]
    """Until when each is valid; empty in a worker that calls nobody."""
    paused_for: tuple[str, ...]


def readiness(parts: Parts, now: datetime) -> dict[str, str]:
    """Every part that can keep the worker from working: `ok`, or what is wrong."""
    ended = sorted(name for name, until in parts.certificates.items() if until <= now)
    return {
        "database": "ok" if parts.database["status"] == "ok" else str(parts.database.get("why", "failing")),
        "ledger": "ok" if parts.ledger_verified else "not known to be the database that published",
        "group": "ok" if parts.joined else "not joined, or partitions are being given out anew",
        "producer": "ok" if parts.producer else "not connected",
        "certificates": f"ended: {', '.join(ended)}" if ended else "ok",
        "work": f"paused for {', '.join(parts.paused_for)}" if parts.paused_for else "ok",
    }
