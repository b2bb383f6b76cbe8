"""`payouts drain|resume`: take nothing new, finish what was taken, say when it is safe to stop; and go on (S3-24)."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import typer

from ledger.interface import ModeRecord
from ops.application import ending
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.failures import not_found, refused
from ops.ledger_queries import reading
from ops.modes import WAIT_MAX_SECONDS, set_mode
from ops.operator_actions import OperatorOption, ReasonOption, said, who
from ops.options import OutputOption
from ops.output import Output, emit_object, message
from processors.payout.modes import Mode
from streams.settings import Settings

WAIT_SECONDS: Final = 300.0
LOOK_EVERY_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 2.0
"""How long nothing may be seen in work: longer than workers take to see the mode and to write what they had in hand."""
DRAINED_FROM: Final = (Mode.NORMAL, Mode.MAINTENANCE)
"""Any other mode stops something that a drain would let go on: `manual_review` what nobody has reviewed."""

IN_WORK: Final = """
SELECT count(*) FILTER (WHERE lease_until > clock_timestamp()) AS calls_under_way,
    count(*) FILTER (WHERE NOT held AND state IN ('RECEIVED', 'VALIDATED')) AS before_screening,
    count(*) FILTER (WHERE NOT held AND (state = 'SUBMITTING'
        OR (state = 'CLEARED' AND attempts = 0 AND version = state_version))) AS before_submission,
    count(*) FILTER (WHERE NOT held AND compensation_executor = 'PROCESSOR' AND (compensation = 'RUNNING'
        OR (compensation = 'REQUIRED' AND compensation_attempts = 0))) AS before_hand_back,
    count(*) FILTER (WHERE announced_version < announce_version) AS unpublished,
    count(*) FILTER (WHERE state IN ('PENDING', 'UNKNOWN')) AS open_at_visa
FROM payouts
WHERE lease_until IS NOT NULL OR announced_version < announce_version OR compensation IN ('REQUIRED', 'RUNNING')
    OR state IN ('RECEIVED', 'VALIDATED', 'CLEARED', 'SUBMITTING', 'PENDING', 'UNKNOWN')
"""


@dataclass(frozen=True, slots=True)
class Left:
    """What is in work, as the ledger sees it."""

    calls_under_way: int
    before_screening: int
    before_submission: int
    before_hand_back: int
    unpublished: int
    open_at_visa: int
    """Asked about for as long as it takes: nothing is lost by stopping, and nobody waits for them here."""

    @property
    def is_nothing(self) -> bool:
        """No stage has anything in work, and no call is under way."""
        return not any(count for name, count in self.facts.items() if name != "open_at_visa")

    @property
    def facts(self) -> dict[str, int]:
        """By name."""
        return asdict(self)

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in self.facts.items())


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "drain",
        epilog=ending(
            'payouts drain --wait 300 --reason "deploy 2.4"',
            'payouts drain --wait 0 --reason "deploy 2.4" --output json',
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(drain)
    app.command(
        "resume",
        epilog=ending(
            'payouts resume --reason "deploy 2.4 is done"',
            codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(resume)


def drain(
    reason: ReasonOption,
    wait: Annotated[
        float, typer.Option(min=0.0, max=WAIT_MAX_SECONDS, help="Wait so many seconds until nothing is in work.")
    ] = WAIT_SECONDS,
    operator: OperatorOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take no new request, finish what was taken, and say when no call is under way and every stage is idle.

    Sets the mode `maintenance` and leaves it: requests wait in their topic, nothing is lost. What Visa has not decided
    yet is asked about as before, and does not keep a drain from its end. Undo, and go on afterwards, with
    `payouts resume`. Exit code 1: not in that time; what is left is shown, and the same command waits on.
    """
    name, why = who(operator), said(reason, "--reason")
    settings = settings_for(DATABASE)
    run(_set_maintenance(settings, name, why))
    begun_at = time.monotonic()
    left = run(_until_nothing(settings.database_url.get_secret_value(), wait))
    facts = {"drained": left.is_nothing, "seconds": round(time.monotonic() - begun_at, 1), "left": left.facts}
    emit_object(facts, output)
    if not left.is_nothing:
        raise not_found(
            f"not drained within {wait:g} s: {left}",
            why="the mode is maintenance: no request is taken, what was taken goes on",
            next_step="run it again to wait on, or `payouts resume`; `payouts stuck` shows what waits for a person",
        )
    message("Drained: workers may be stopped. Go on with: payouts resume --reason …")


def resume(
    reason: ReasonOption,
    operator: OperatorOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """End a drain: requests are taken again. Any other mode is ended by `payouts modes set normal`. Undo: drain again.

    Exit code 3: another mode than maintenance is in force, which somebody has set for a reason.
    """
    name, why = who(operator), said(reason, "--reason")
    record = run(_resumed(settings_for(DATABASE), name, why))
    emit_object({"mode": record.mode.value, "set_at": record.set_at, "operator": record.operator}, output)
    message("Requests are taken again. Undo: payouts drain --reason …")


async def _set_maintenance(settings: Settings, operator: str, reason: str) -> None:
    seen = await _mode(settings)
    if seen.mode not in DRAINED_FROM:
        raise refused(
            f"the mode is {seen.mode.value}, set by {seen.operator}: {seen.reason}",
            why="it stops more than a drain does: with a drain, payments would go on",
            next_step='`payouts modes set maintenance --reason "…" --yes`, if that is meant',
        )
    if seen.mode is not Mode.MAINTENANCE:
        await set_mode(settings, Mode.MAINTENANCE, operator, reason, 0.0, seen)


async def _resumed(settings: Settings, operator: str, reason: str) -> ModeRecord:
    seen = await _mode(settings)
    if seen.mode is Mode.NORMAL:
        message("The mode is normal already.")
        return seen
    if seen.mode is not Mode.MAINTENANCE:
        raise refused(
            f"the mode is {seen.mode.value}, set by {seen.operator}: {seen.reason}",
            why="resume ends a drain, and nothing else",
            next_step='`payouts modes set normal --reason "…"`, if the reason is gone',
        )
    return await set_mode(settings, Mode.NORMAL, operator, reason, 0.0, seen)


async def _mode(settings: Settings) -> ModeRecord:
    async with connected_ledger(settings) as ledger:
        return await ledger.mode()


async def _until_nothing(database_url: str, wait_seconds: float) -> Left:
    """Look until nothing was in work for a moment, or the time is over; what is left then. Tells on stderr."""
    until = time.monotonic() + wait_seconds
    quiet_since: float | None = None
    async with reading(database_url) as connection:
        while True:
            asked_at = time.monotonic()
            record: Mapping[str, Any] = await connection.fetchrow(IN_WORK)
            now, left = time.monotonic(), Left(**record)
            if not left.is_nothing:
                quiet_since = None
            elif quiet_since is None:
                quiet_since = asked_at
            if now >= until if quiet_since is None else now - quiet_since >= QUIET_SECONDS:
                return left
            message(f"{left} · {max(0.0, until - now):.0f} s left")
            await asyncio.sleep(max(LOOK_EVERY_SECONDS, now - asked_at))  # a large table is not asked all the time
