"""`python -m sandbox.sweep`: kill a worker at every point; progress on stderr, the list and its last line on stdout."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.postgres import PostgresServer, enterable_temporary_directory
from sandbox.servers.stack import ending_signals_ignored, raise_on_ending_signals
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.sweep.lives import LIVES
from sandbox.sweep.points import BROKEN_ORDERS
from sandbox.sweep.sweep import LANE_FAILURES, Options, Report, Sweep, SweepFailed
from sandbox.verdict_run import EXIT_INTERRUPTED, say

LANES_MAX = 24
"""Two cores are busy with a dozen; connections to the database bound the rest."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 every point hit and ended well, 1 otherwise, 2 misuse (argparse)."""
    options, keep, report_path = _options(arguments)
    directory = keep or enterable_temporary_directory("payouts-sweep-")
    directory.mkdir(parents=True, exist_ok=True)
    restore = raise_on_ending_signals()
    report: Report | None = None
    try:
        report = _sweep(options, directory)
    except (SweepFailed, *LANE_FAILURES) as error:
        say(f"no result: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; nothing is left running")
        return EXIT_INTERRUPTED
    finally:
        restore()
        if keep is None and report is not None and report.clean:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(f"artefacts are in {directory}")
    if report is None:
        return 1
    if report_path is not None:
        report.write(report_path)
    _print(report)
    return 0 if report.clean else 1


def _sweep(options: Options, directory: Path) -> Report:
    """On servers of its own, all on this machine."""
    kafka, postgres = KafkaCluster(directory / "kafka"), PostgresServer(directory / "postgres")
    visa = VisaStandIn(directory / "visa")
    try:
        with ThreadPoolExecutor(max_workers=3) as pool:
            for done in [pool.submit(server.start) for server in (kafka, postgres, visa)]:
                done.result()
        sweep = Sweep(
            options,
            directory / "sweep",
            bootstrap_servers=kafka.bootstrap_servers,
            postgres=postgres,
            visa=visa,
            say=say,
        )
        with sweep:
            return sweep.carry_out()
    finally:
        with ending_signals_ignored():
            for server in (visa, postgres, kafka):
                server.stop()


def _print(report: Report) -> None:
    for outcome in report.outcomes:
        sys.stdout.write(f"{outcome.line()}\n")
    for finding in report.findings:
        say(f"auditor: {finding}")
    seconds = ", ".join(f"{phase} {took:.0f} s" for phase, took in report.seconds.items())
    say(f"{seconds}; {report.ended_by_themselves} workers ended by themselves and were started again")
    sys.stdout.write(f"{report.verdict}\n{report.line()}\n")


def _options(arguments: Sequence[str] | None) -> tuple[Options, Path | None, Path | None]:
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.sweep",
        description="One payout and one SIGKILL for every point at which a worker can be killed, on real servers.",
        epilog="Example: python -m sandbox.sweep --lives first_try,unknown --every 3",
    )
    parser.add_argument("--lives", default=",".join(LIVES), help=f"of {', '.join(LIVES)}; all unless given")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th point of each life")
    parser.add_argument("--containing", default="", metavar="TEXT", help="only points whose name contains this")
    parser.add_argument("--lanes", type=int, default=defaults.lanes, help="points swept side by side")
    parser.add_argument("--end-seconds", type=float, default=defaults.end_seconds, help="by then a payout must end")
    parser.add_argument("--broken-order", choices=BROKEN_ORDERS, default="", help="break a worker: points must fail")
    parser.add_argument("--keep", type=Path, help="keep everything in this directory, which other users may enter")
    parser.add_argument("--report", type=Path, help="write the report as JSON to this file as well")
    given = parser.parse_args(arguments)
    lives = tuple(name.strip() for name in given.lives.split(",") if name.strip())
    unknown = sorted(set(lives) - set(LIVES))
    if unknown or not lives:
        parser.error(f"no such life: {', '.join(unknown) or '(none)'}; choose from {', '.join(LIVES)}")
    if given.every < 1 or not 1 <= given.lanes <= LANES_MAX or given.end_seconds <= 0:
        parser.error(f"--every is at least 1, --lanes 1 to {LANES_MAX}, --end-seconds above 0")
    options = Options(
        lives=lives,
        every=given.every,
        containing=given.containing,
        lanes=given.lanes,
        end_seconds=given.end_seconds,
        broken_order=given.broken_order,
    )
    return options, given.keep, given.report


if __name__ == "__main__":
    sys.exit(main())
