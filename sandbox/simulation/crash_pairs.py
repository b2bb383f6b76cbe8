"""A worker killed at every pair of boundaries of every kind of life: one payout, two kills, the end is the same.

A boundary is a point before or after a ledger write, a publish, the bytes of a call, or the commit of offsets. The
second kill may hit the worker that came after the first. Single points with real processes: `python -m sandbox.sweep`.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from processors.payout.row import FundingKind
from sandbox.simulation.many import side_by_side
from sandbox.simulation.plan import CardPlan, PayoutPlan, Verdict, WorldPlan
from sandbox.simulation.visa import Fault
from sandbox.simulation.world import CrashPoints, World

LIVES: Final = ("first_try", "retry", "unknown", "review", "compensation", "originator", "account")
SETTLED_SECONDS: Final = 3.0
CHUNK: Final = 32
EXPECTED: Final = {
    "first_try": ("PAID", "NONE"),
    "retry": ("PAID", "NONE"),
    "unknown": ("PAID", "NONE"),
    "review": ("PAID", "NONE"),
    "compensation": ("DECLINED", "COMPENSATED"),
    "originator": ("DECLINED", "COMPENSATED"),
    "account": ("PAID", "NONE"),
}
"""How each life ends; where a kill takes an answer that only a person can make up for, these as well."""
FIRST_FAULTS: Final = {"retry": (Fault.RATE, Fault.REFUSE), "unknown": (Fault.EFFECT_THEN_SILENCE,)}
"""What goes wrong with a life's first calls that move money."""
ALSO: Final = {
    # The reversal's answer was lost and Visa's row of it is what decides, or a person (C4).
    "compensation": {("DECLINED", "MANUAL")},
    # The intent was written and no byte left: Visa knows nothing, it is never sent again, and people end it (S3).
    "account": {("FAILED", "COMPENSATED")},
}


@dataclass(frozen=True, slots=True)
class Point:
    """What one run came to."""

    life: str
    kill_at: tuple[int, ...]
    names: tuple[str, ...]
    boundaries: int
    """How many it passed in all."""
    killed: int
    end: str
    failure: str


def life_plan(life: str) -> WorldPlan:
    """One payout of this kind, one worker, and no other accident."""
    payout = PayoutPlan(
        payout_id=f"crash-{life}",
        number=1,
        originator="acme",
        at_seconds=0.5,
        amount_minor=2_500,
        currency="USD",
        funding=FundingKind.AFT if life == "compensation" else FundingKind.INTERNAL,
        captured=True,
        receipt="receipt-1",
        pull_age_seconds=180.0,
        pull_complete=True,
        verdict=Verdict.REVIEW if life == "review" else Verdict.CLEAR,
        reviewer_approves=True,
        card=CardPlan.DECLINE if life in ("compensation", "originator") else CardPlan.APPROVE,
        hand_back_declined=False,
        originator_completes=True,
        expires_in_seconds=None,
        copies=(),
        to_account=life == "account",
    )
    return WorldPlan(
        seed=0,
        workers=1,
        arrivals_seconds=1.0,
        kinds=frozenset(),
        payouts=(payout,),
        accidents=(),
        ends_at_seconds=SETTLED_SECONDS,
        rubbish=0,
        skews=(0.0,),
    )


def run_life(work: tuple[str, tuple[int, ...]]) -> Point:
    """One life with kills at these boundaries."""
    life, kill_at = work
    gc.disable()
    points = CrashPoints(kill_at)
    world = World(life_plan(life), crash_points=points)
    world.visa.first_faults = list(FIRST_FAULTS.get(life, ()))
    ended = world.run()
    row = world.row(f"crash-{life}")
    end = (row.state.value, row.compensation.value) if row is not None else ("no row", "")
    failure = "; ".join(f"{violation.term}: {violation.what}" for violation in ended.violations)
    if not failure and end != EXPECTED[life] and end not in ALSO.get(life, set()):
        failure = f"ended as {end}, expected {EXPECTED[life]}"
    names = tuple(ended.boundaries[number] for number in kill_at if number < len(ended.boundaries))
    return Point(life, kill_at, names, len(ended.boundaries), ended.kills, " ".join(end), failure)


def sweep_pairs(processes: int, *, every: int, say: Callable[[str], None]) -> int:
    """Every pair of every life; prints a line a life and what failed. 0 when all ended as they should."""
    begun, total, killed_twice, failures = time.monotonic(), 0, 0, 0
    for life in LIVES:
        reference = run_life((life, ()))
        if reference.failure:
            say(f"{life}: fails without a kill: {reference.failure}")
            return 1
        singles = list(
            side_by_side(run_life, [(life, (number,)) for number in range(reference.boundaries)], processes, CHUNK)
        )
        pairs = list(side_by_side(run_life, _pairs(singles, life, every), processes, CHUNK))
        twice = sum(point.killed == len(point.kill_at) for point in pairs)
        failures += _report([*singles, *pairs], say)
        total, killed_twice = total + len(pairs), killed_twice + twice
        sys.stdout.write(f"{life:13} boundaries={reference.boundaries} pairs={len(pairs)} killed_twice={twice}\n")
        sys.stdout.flush()
    sys.stdout.write(f"crash pairs lives={len(LIVES)} pairs={total} killed_twice={killed_twice} failed={failures}\n")
    say(f"{total} pairs in {time.monotonic() - begun:.1f} s")
    return 0 if failures == 0 else 1


def _pairs(singles: list[Point], life: str, every: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The second kill: at every boundary that a life passes after its first."""
    pairs = (
        (life, (single.kill_at[0], second))
        for single in singles
        for second in range(single.kill_at[0] + 1, single.boundaries)
    )
    return itertools.islice(pairs, None, None, every)


def _report(points: list[Point], say: Callable[[str], None]) -> int:
    failed = [point for point in points if point.failure]
    for point in failed:
        say(f"{point.life} killed at {point.kill_at} {' and '.join(point.names)}: {point.failure}")
    return len(failed)
