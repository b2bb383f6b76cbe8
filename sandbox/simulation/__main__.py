"""`python -m sandbox.simulation`: many simulated worlds, or the whole history of one.

Progress and what is wrong on stderr, the verdict line last on stdout. 0 clean, 1 a promise was broken, 2 misuse.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from sandbox.simulation.crash_pairs import sweep_pairs
from sandbox.simulation.many import Work, prepare, worlds
from sandbox.simulation.plan import Accident, draw
from sandbox.simulation.report import Tally, problems
from sandbox.simulation.world import Ended, World

PAYOUTS = 200
SEEDS = 200
SEED_MAX = 99_999_999
"""Every payout_id carries it, and must not look like a card number."""
SAY_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    given = _parser().parse_args(arguments)
    if not 0 <= given.first <= SEED_MAX or (given.seed is not None and not 0 <= given.seed <= SEED_MAX):
        _parser().error(f"a seed is a number from 0 to {SEED_MAX}")
    if given.seeds < 1 or not 1 <= given.payouts <= 2_000 or given.processes < 1:
        _parser().error("--seeds and --processes must be at least 1, --payouts between 1 and 2000")
    prepare()
    if given.crash_pairs:
        return sweep_pairs(given.processes, every=given.every, say=_say)
    always = frozenset(Accident(kind) for kind in given.always)
    if given.seed is not None:
        return _one(given.seed, given.payouts, always)
    work = [(seed, given.payouts, always) for seed in range(given.first, given.first + given.seeds)]
    return _many(work, given.processes, keep_going=given.keep_going)


def _one(seed: int, payouts: int, always: frozenset[Accident]) -> int:
    ended = World(draw(seed, payouts, always=always), tells=True).run()
    for line in ended.history:
        sys.stdout.write(f"{line}\n")
    return _conclude([ended])


def _many(work: Sequence[Work], processes: int, *, keep_going: bool) -> int:
    tally, begun, said = Tally(), time.monotonic(), 0.0
    for ended in worlds(work, processes):
        tally.add(ended)
        for line in problems(ended):
            _say(line)
        if ended.violations and not keep_going:
            break
        now = time.monotonic()
        if now - said > SAY_SECONDS:
            said = now
            _say(f"{tally.seeds} of {len(work)} seeds, {len(tally.failed_seeds)} failed, {now - begun:.0f} s")
    days = tally.virtual_seconds / 86_400
    _say(f"{tally.seeds} seeds × {work[0][1]} payouts in {time.monotonic() - begun:.1f} s, {days:.1f} virtual days")
    sys.stdout.write(f"{tally.line()}\n")
    return 0 if tally.clean else 1


def _conclude(worlds: Sequence[Ended]) -> int:
    tally = Tally()
    for ended in worlds:
        tally.add(ended)
        for line in problems(ended):
            _say(line)
    sys.stdout.write(f"{tally.line()}\n")
    return 0 if tally.clean else 1


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.simulation",
        description="The product's own agents in simulated worlds; every promise is checked in each.",
        epilog="Examples: --seeds 10000 (some 20 minutes on two cores) · --seed 4711 (one world, with its history) · "
        "--crash-pairs (two kills, at every pair of boundaries of every kind of life)",
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many worlds ({SEEDS})")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seed", type=int, help="only this one, with its history on stdout")
    parser.add_argument("--payouts", type=int, default=PAYOUTS, help=f"in each world ({PAYOUTS})")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="side by side (one a core)")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first seed that fails")
    parser.add_argument(
        "--with", dest="always", action="append", default=[], choices=list(Accident), metavar="KIND",
        help=f"every world has this kind of trouble: {', '.join(Accident)}",
    )  # fmt: skip
    parser.add_argument("--crash-pairs", action="store_true", help="kill at every pair of boundaries instead")
    parser.add_argument("--every", type=int, default=1, help="with --crash-pairs: only every n-th pair (1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
