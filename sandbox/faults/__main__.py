"""`python -m sandbox.faults`: run a tier of the fault suite; progress on stderr, the verdict line last on stdout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sandbox.faults.schedule import plan_faults
from sandbox.faults.suite import run
from sandbox.faults.tiers import TIERS, Tier
from sandbox.verdict_run import EXIT_INTERRUPTED, say

SEED_MAX = 999_999
"""It is part of every payout_id, which must not look like a card number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 clean and every minimum reached, 1 otherwise, 2 misuse (argparse)."""
    given = _parser().parse_args(arguments)
    if not 0 <= given.seed <= SEED_MAX:
        _parser().error(f"a seed is a number from 0 to {SEED_MAX}")
    tier = _tier(given)
    if given.show_schedule:
        for fault in plan_faults(tier, given.seed):
            sys.stdout.write(f"{fault.describe()}\n")
        return 0
    try:
        return run(tier, given.seed, keep=given.keep, report_path=given.report)
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; nothing is left running")
        return EXIT_INTERRUPTED


def _tier(given: argparse.Namespace) -> Tier:
    """The tier, with what was asked for in place of its own numbers: for a try, not for a proof."""
    counts = ("payouts", "kills", "freezes", "broker_kills", "db_kills", "cuts", "scale_changes")
    changes = {name: getattr(given, name) for name in counts if getattr(given, name) is not None}
    tier = TIERS[given.tier]
    return replace(tier, name=f"{tier.name} (changed)", **changes) if changes else tier


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.faults",
        description="Real brokers, database, workers and a Visa stand-in, broken on purpose; then an audit.",
        epilog="Example: python -m sandbox.faults --tier commit --seed 1",
    )
    parser.add_argument("--tier", choices=sorted(TIERS), default="commit")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and of the payouts; printed in the verdict")
    parser.add_argument("--show-schedule", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument("--keep", type=Path, help="keep everything in this directory, which other users may enter")
    parser.add_argument("--report", type=Path, help="write the report as JSON to this file as well")
    for name in ("payouts", "kills", "freezes", "broker-kills", "db-kills", "cuts", "scale-changes"):
        parser.add_argument(f"--{name}", type=int, help="in place of the tier's own number")
    return parser


if __name__ == "__main__":
    sys.exit(main())
