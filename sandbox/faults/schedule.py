"""What goes wrong and when: a pure function of tier and seed, so that a run can be repeated on any machine.

A fault is due when a fraction of the payouts has ended, not at a time: a slower machine meets the same faults at the
same places. Faults of one lane happen one after the other, each healed before the next; lanes overlap freely. All
that takes a broker down is in one lane, so never more than one is down (min ISR 2 of 3).

    for fault in plan_faults(TIERS["commit"], seed=1):
        print(fault.describe())
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sandbox.faults.tiers import Tier

FIRST_AT, LAST_AT = 0.03, 0.9
"""Faults begin when work is under way, and the last one when enough is left to hit and to recover by."""
RESTART_SECONDS_MAX: Final = 2.0
"""What a supervisor may take to start a killed worker again."""
FREEZE_SECONDS: Final = (10.5, 13.0)
"""Longer than session (6 s) and lease (8 s) of the test profile: another worker owns and ends the row meanwhile."""
BROKER_DOWN_SECONDS: Final = (2.0, 6.0)
DATABASE_DOWN_SECONDS: Final = (0.5, 3.0)
CUT_SECONDS: Final = (1.0, 10.0)


class Kind(StrEnum):
    """What is done."""

    KILL = "kill"
    FREEZE = "freeze"
    BROKER_KILL = "broker_kill"
    DB_KILL = "db_kill"
    CUT = "cut"
    SCALE_UP = "scale_up"
    SCALE_DOWN = "scale_down"
    API_OUTAGE = "api_outage"


class Lane(StrEnum):
    """Faults of one lane never overlap."""

    WORKERS = "workers"
    BROKERS = "brokers"
    DATABASE = "database"
    NETWORK = "network"
    VISA = "visa"


LANES: Final[Mapping[Kind, Lane]] = {
    Kind.KILL: Lane.WORKERS,
    Kind.FREEZE: Lane.WORKERS,
    Kind.SCALE_UP: Lane.WORKERS,
    Kind.SCALE_DOWN: Lane.WORKERS,
    Kind.BROKER_KILL: Lane.BROKERS,
    Kind.DB_KILL: Lane.DATABASE,
    Kind.CUT: Lane.NETWORK,
    Kind.API_OUTAGE: Lane.VISA,
}
BROKER_ROLES: Final = ("coordinator", "controller", "leader")
"""Whom a broker kill takes, in turn; each leads partitions of ours too."""
CUT_ROUTES: Final = ("kafka", "postgres", "visa")
TOXICS: Final = ("cut", "freeze", "deafen", "reset_after_request")


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault. `at` is the fraction of payouts ended; `draw` in [0, 1) chooses among those that can be hit."""

    number: int
    kind: Kind
    at: float
    draw: float
    seconds: float
    """Down, frozen or cut for so long; for a kill, until it is started again."""
    target: str | None = None
    """A broker's role, or the route of a cut."""
    toxic: str | None = None

    @property
    def lane(self) -> Lane:
        """The faults that it never overlaps with."""
        return LANES[self.kind]

    def describe(self) -> str:
        """One line for people; equal for equal plans."""
        words = " ".join(word for word in (self.target, self.toxic) if word)
        head = f"{self.number:4d}  {self.at:6.2%}  {self.kind:<11}  {self.seconds:6.1f} s  draw {self.draw:.4f}"
        return f"{head}  {words}".rstrip()


def plan_faults(tier: Tier, seed: int) -> tuple[PlannedFault, ...]:
    """Every fault of a run in the order in which they fall due; exactly as many of each kind as the tier says."""
    dice = random.Random(f"{tier.name}:{seed}")
    drafts = [draft for kind, count in _counts(tier).items() for draft in _of_kind(kind, count, dice)]
    if tier.api_outage_seconds:
        drafts.append((Kind.API_OUTAGE, 0.5, tier.api_outage_seconds, "visa", "cut"))
    drafts.sort(key=lambda draft: draft[1])
    return tuple(
        PlannedFault(number, kind, round(at, 6), dice.random(), round(seconds, 2), target, toxic)
        for number, (kind, at, seconds, target, toxic) in enumerate(drafts, 1)
    )


def lanes(plan: Iterable[PlannedFault]) -> dict[Lane, list[PlannedFault]]:
    """The plan, one list a lane, each in order."""
    found: dict[Lane, list[PlannedFault]] = {}
    for fault in plan:
        found.setdefault(fault.lane, []).append(fault)
    return found


_Draft = tuple[Kind, float, float, str | None, str | None]


def _counts(tier: Tier) -> dict[Kind, int]:
    return {
        Kind.KILL: tier.kills,
        Kind.FREEZE: tier.freezes,
        Kind.BROKER_KILL: tier.broker_kills,
        Kind.DB_KILL: tier.db_kills,
        Kind.CUT: tier.cuts,
        # One more, then one fewer, so that there are always as many workers as at first, or one more.
        Kind.SCALE_UP: (tier.scale_changes + 1) // 2,
        Kind.SCALE_DOWN: tier.scale_changes // 2,
    }


def _of_kind(kind: Kind, count: int, dice: random.Random) -> list[_Draft]:
    drafts: list[_Draft] = []
    for index in range(count):
        seconds, target, toxic = _details(kind, index, dice)
        drafts.append((kind, _place(kind, index, count, dice), seconds, target, toxic))
    return drafts


def _place(kind: Kind, index: int, count: int, dice: random.Random) -> float:
    """Somewhere in the index-th of `count` equal parts; growing first in its pair, shrinking second."""
    part = (LAST_AT - FIRST_AT) / count
    within = dice.random()
    if kind in (Kind.SCALE_UP, Kind.SCALE_DOWN):
        within = within * 0.45 + (0.55 if kind is Kind.SCALE_DOWN else 0.0)
    return FIRST_AT + part * (index + within)


def _details(kind: Kind, index: int, dice: random.Random) -> tuple[float, str | None, str | None]:
    match kind:
        case Kind.KILL:
            return dice.uniform(0, RESTART_SECONDS_MAX), None, None
        case Kind.FREEZE:
            return dice.uniform(*FREEZE_SECONDS), None, None
        case Kind.BROKER_KILL:
            return dice.uniform(*BROKER_DOWN_SECONDS), BROKER_ROLES[index % len(BROKER_ROLES)], None
        case Kind.DB_KILL:
            return dice.uniform(*DATABASE_DOWN_SECONDS), None, None
        case Kind.CUT:
            route = CUT_ROUTES[index % len(CUT_ROUTES)]
            return dice.uniform(*CUT_SECONDS), route, dice.choice(TOXICS)
        case _:
            return 0.0, None, None
