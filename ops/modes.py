"""`payouts modes show|set`: whether calls that move money may leave."""

from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from ledger.interface import LeasesStillLive, ModeRecord
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, operator_name, settings_for
from ops.exit_codes import ExitCode
from ops.failures import not_found, usage_error
from ops.options import OutputOption
from ops.output import Output, emit_object, message
from ops.people import checked_text
from processors.payout.modes import Mode
from streams.settings import Settings

WAIT_MAX_SECONDS: Final = 3600.0
# On top of the lease: so that a lease begun in the last moment has ended when the wait does.
WAIT_MARGIN_SECONDS: Final = 5.0

app = new_app("The operating mode: normal, or halted (no call that moves money leaves).")


class ModeName(StrEnum):
    """The modes that can be set."""

    NORMAL = "normal"
    HALTED = "halted"


@app.command(
    "show",
    epilog=ending(
        "payouts modes show",
        "payouts modes show --output json",
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def show(output: OutputOption = Output.TABLE) -> None:
    """Show the mode in force, who set it, when and why."""
    emit_object(_shown(run(_mode(settings_for(DATABASE)))), output)


@app.command(
    "set",
    epilog=ending(
        'payouts modes set halted --reason "INC-123: wrong certificate" --wait 90',
        'payouts modes set normal --reason "INC-123 is solved" --operator maria',
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def set_(
    mode: Annotated[ModeName, typer.Argument(help="normal lets calls leave, halted stops every new one.")],
    reason: Annotated[str, typer.Option(help="Why; stays in the ledger's history.")],
    operator: Annotated[
        str | None, typer.Option(help="Who; the system's user when not given (PAYOUTS_OPERATOR, USER).")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(min=0.0, max=WAIT_MAX_SECONDS, help="Wait so many seconds for calls under way.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set the mode; halted then waits until every call begun before has ended. After it returns 0, no call leaves.

    Exit code 1: the mode is set, but calls begun before it were still under way when the wait ended.
    """
    who = checked_text(operator or operator_name() or "", "--operator")
    why = checked_text(reason, "--reason")
    if not who:
        raise usage_error("who sets the mode is not known", next_step="give --operator NAME")
    if not why:
        raise usage_error("--reason is empty", next_step="say why: the next person on duty reads it")
    settings = settings_for(DATABASE)
    seconds = _wait_seconds(settings, mode, wait)
    emit_object(_shown(run(_set(settings, Mode(mode.value), who, why, seconds))), output)
    if mode is ModeName.HALTED:
        message("No call begun before is under way, and none leaves until the mode is normal again.")


def _wait_seconds(settings: Settings, mode: ModeName, asked: float | None) -> float:
    if mode is ModeName.NORMAL:
        return 0.0
    return settings.schedule.lease_seconds + WAIT_MARGIN_SECONDS if asked is None else asked


async def _mode(settings: Settings) -> ModeRecord:
    async with connected_ledger(settings) as ledger:
        return await ledger.mode()


async def _set(settings: Settings, mode: Mode, operator: str, reason: str, wait_seconds: float) -> ModeRecord:
    async with connected_ledger(settings) as ledger:
        try:
            return await ledger.set_mode(mode, operator, reason, wait_seconds)
        except LeasesStillLive as error:
            if mode is Mode.NORMAL:  # calls under way are what this mode is for
                return await ledger.mode()
            raise not_found(str(error), next_step="run it again: it waits for the same calls") from None


def _shown(record: ModeRecord) -> dict[str, Any]:
    return {
        "mode": record.mode.value,
        "set_at": record.set_at,
        "operator": record.operator,
        "reason": record.reason,
    }
