"""`payouts modes show|set`: what may happen to payouts at all (rule L9)."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from ledger.interface import LeasesStillLive, LedgerError, ModeMoved, ModeRecord
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, not_found, refused
from ops.mode_effects import COLUMNS, Waiting, only_stops, plan, waiting
from ops.operator_actions import DryRunOption, OperatorOption, ReasonOption, YesOption, answers, said, who
from ops.options import OutputOption
from ops.output import Output, emit_object, emit_rows, message
from processors.payout.modes import Activity, Mode, allows, calls_leave
from streams.settings import Settings

WAIT_MAX_SECONDS: Final = 3600.0
# On top of the lease: so that a lease begun in the last moment has ended when the wait does.
WAIT_MARGIN_SECONDS: Final = 5.0
GOING_ON: Final = (Mode.NORMAL, Mode.MAINTENANCE)
"""Modes in which calls under way are as they should be: nobody waits for their end."""

app = new_app("The operating mode: what may happen to payouts at all, in every worker at once.")


class ModeName(StrEnum):
    """The modes that can be set; `drain` is `maintenance` under the name of what it is for."""

    NORMAL = "normal"
    MANUAL_REVIEW = "manual_review"
    READ_ONLY = "read_only"
    MAINTENANCE = "maintenance"
    DRAIN = "drain"
    EMERGENCY = "emergency"
    ISOLATION = "isolation"
    HALTED = "halted"

    @property
    def mode(self) -> Mode:
        """As the ledger knows it."""
        return Mode.MAINTENANCE if self is ModeName.DRAIN else Mode(self.value)


@app.command(
    "show",
    epilog=ending(
        "payouts modes show",
        "payouts modes show --output json",
        codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def show(output: OutputOption = Output.TABLE) -> None:
    """Show the mode in force, who set it, when and why, and what it allows."""
    emit_object(_shown(run(_mode(settings_for(DATABASE)))), output)


@app.command(
    "set",
    epilog=ending(
        'payouts modes set halted --reason "INC-123: wrong certificate" --wait 90',
        'payouts modes set emergency --reason "INC-123" --dry-run',
        'payouts modes set normal --reason "INC-123 is solved" --operator maria --yes',
        codes=(ExitCode.FOUND, ExitCode.USAGE, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def set_(
    mode: Annotated[ModeName, typer.Argument(help="What may happen from now on: see the table in RUNBOOK.md.")],
    reason: ReasonOption,
    operator: OperatorOption = None,
    wait: Annotated[
        float | None, typer.Option(min=0.0, max=WAIT_MAX_SECONDS, help="Wait so many seconds for calls under way.")
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set the mode; one that stops calls then waits until every call begun before has ended.

    After it returns 0, nothing that the mode forbids leaves for Visa. What goes on, what stops, and the payouts and
    money that wait for each, are shown before. A mode that only stops is set at once: the brake asks nobody. One that
    lets anything go on again is asked about, or needs --yes.

    Exit code 1: the mode is set, but calls begun before it were still under way when the wait ended. Exit code 3:
    somebody else has set another mode since the plan was made: nothing was changed. To undo it set the mode of before,
    which the plan names.
    """
    name, why = who(operator), said(reason, "--reason")
    settings = settings_for(DATABASE)
    before, counted = run(_looked(settings))
    wanted = mode.mode
    lines = plan(before.mode, wanted, counted)
    document = {"before": _facts(before), "plan": lines, "undo": undo_of(before.mode)}
    if output is Output.TABLE:
        emit_rows(lines, COLUMNS, output)
    message(f"mode: {before.mode.value} (by {before.operator}: {before.reason}) to {wanted.value}, by {name}.")
    if dry_run:
        if output is Output.JSON:
            emit_object({"mode": wanted.value, "dry_run": True, **document}, output)
        message("Nothing was changed (--dry-run).")
        return
    if not only_stops(before.mode, wanted):
        asked = answers(yes=yes, dry_run=False, wait=None, output=output)
        if not asked.yes and not typer.confirm(f"Let it go on ({wanted.value}, as {name})?", err=True):
            raise CommandFailed(ExitCode.FOUND, "nothing was changed", why="the plan was not agreed to")
    record = run(set_mode(settings, wanted, name, why, _wait_seconds(settings, wanted, wait), before))
    emit_object(_shown(record) | ({} if output is Output.TABLE else document), output)
    message(_said_of(wanted))
    message(f"Undo: {undo_of(before.mode)}")


def _said_of(mode: Mode) -> str:
    if mode is Mode.NORMAL:
        return "Everything that is due goes on within seconds."
    if not calls_leave(mode):
        return "No call begun before is under way, and none leaves until another mode is set."
    if mode is Mode.MAINTENANCE:
        return "No request is taken any more; what was taken goes on. Wait for its end with `payouts drain`."
    return "No call begun before is under way; of new ones, only those that this mode allows leave."


def undo_of(before: Mode) -> str:
    """The command that brings back what was."""
    return f"payouts modes set {before.value} --reason … --yes"


def _wait_seconds(settings: Settings, mode: Mode, asked: float | None) -> float:
    if mode in GOING_ON:
        return 0.0
    return settings.schedule.lease_seconds + WAIT_MARGIN_SECONDS if asked is None else asked


async def _mode(settings: Settings) -> ModeRecord:
    async with connected_ledger(settings) as ledger:
        return await ledger.mode()


async def _looked(settings: Settings) -> tuple[ModeRecord, Mapping[Activity, Waiting] | None]:
    """The mode, and what waits; None where counting takes too long for a brake."""
    async with connected_ledger(settings) as ledger:
        record = await ledger.mode()
    try:
        return record, await waiting(settings.database_url.get_secret_value())
    except LedgerError:
        message("The payouts that wait could not be counted in time.")
        return record, None


async def set_mode(
    settings: Settings, mode: Mode, operator: str, reason: str, wait_seconds: float, seen: ModeRecord
) -> ModeRecord:
    """Set it if `seen` is still in force. Raises CommandFailed: refused (3), or found (1) for calls under way."""
    async with connected_ledger(settings) as ledger:
        try:
            return await ledger.set_mode(mode, operator, reason, wait_seconds, seen)
        except ModeMoved as error:
            raise refused(
                "nothing was changed", why=str(error), next_step="talk to each other, then run it again"
            ) from None
        except LeasesStillLive as error:
            if mode in GOING_ON:
                return await ledger.mode()
            raise not_found(str(error), next_step="run it again: it waits for the same calls") from None


def _facts(record: ModeRecord) -> dict[str, Any]:
    return {
        "mode": record.mode.value,
        "set_at": record.set_at,
        "operator": record.operator,
        "reason": record.reason,
    }


def _shown(record: ModeRecord) -> dict[str, Any]:
    allowed: Sequence[str] = [activity.value.lower() for activity in Activity if allows(record.mode, activity)]
    return _facts(record) | {"allows": allowed}
