"""`payouts hold|release`: stop what calls out for single payouts, and let it go on (L12)."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from ledger.adoption import HELD_AFTER_RESTORE
from ledger.interface import HistoryEntry
from ops.action_plans import Action
from ops.application import ending
from ops.exit_codes import ExitCode
from ops.operator_actions import (
    DryRunOption,
    OperatorOption,
    PayoutsArgument,
    ReasonOption,
    WaitOption,
    YesOption,
    answers,
    perform,
    said,
    who,
)
from ops.options import OutputOption
from ops.output import Output
from ops.redaction import redacted
from processors.payout.events import Held, Released
from processors.payout.operator_actions import RESOLUTION_PROPOSED
from processors.payout.row import LEDGER_RESTORED, PayoutRow
from processors.payout.step import Nothing

OPERATORS_HOLD: Final = "OPERATOR: "
"""How the reason of an operator's hold begins: no rule of the state machine reads such a reason as its own."""

NO_REASON: Final = "NO_REASON"
"""Names, for --held-for, a hold without a reason."""
PROPOSED: Final = "resolution_proposed"
"""The history's transition of a proposal; its detail has paid, evidence, by and was_held_for."""

_HIDING: Final = {PROPOSED: RESOLUTION_PROPOSED, HELD_AFTER_RESTORE: LEDGER_RESTORED}
"""Transitions that replace the reason of a hold, and the reason that they put in its place."""

CODES: Final = (ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE)

HeldForOption = Annotated[
    list[str] | None,
    typer.Option(
        "--held-for",
        help="The hold reason that a rule has set and that you overrule; needed for each such reason.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "hold",
        epilog=ending(
            'payouts hold order-2026-000017 --reason "INC-123: wrong recipient?" --dry-run',
            'payouts hold order-2026-000017 order-2026-000018 --reason "INC-123" --operator maria --yes',
            codes=CODES,
        ),
    )(hold)
    app.command(
        "release",
        epilog=ending(
            'payouts release order-2026-000017 --reason "INC-123: recipient confirmed" --dry-run',
            'payouts release order-2026-000017 --reason "Visa, case 4711: goes on" --held-for QUERY_FAILED --yes',
            codes=CODES,
        ),
    )(release)


def hold(
    payout_ids: PayoutsArgument,
    reason: ReasonOption,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hold payouts: no payment, reversal or question leaves for them until somebody releases them.

    A call that has begun is not stopped: the plan says until when one may be under way; what it brings is recorded.
    Undo with `payouts release`. To stop everything at once, see `payouts modes set halted`.
    """
    why = OPERATORS_HOLD + said(reason, "--reason")

    def event(_row: PayoutRow, _history: Sequence[HistoryEntry]) -> Held:
        return Held(why)

    action = Action(
        name="hold", operator=who(operator), event=event, is_so_already=_held, whatever_changed=True, in_every_mode=True
    )
    perform(action, payout_ids, answers(yes=yes, dry_run=dry_run, wait=None, output=output))


def release(
    payout_ids: PayoutsArgument,
    reason: ReasonOption,
    held_for: HeldForOption = None,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Release held payouts: what a worker does next, money included, is shown before.

    A hold that a rule has set (a contradiction at Visa, an approval after an unpaid end, a proposal to resolve) is
    released only when --held-for names that reason: what the rule saw is yours to answer for then. Releasing a payout
    for which a resolution is proposed withdraws the proposal. Undo with `payouts hold`.
    """
    why, name = said(reason, "--reason"), who(operator)
    overruled = frozenset(held_for or ())

    def event(row: PayoutRow, history: Sequence[HistoryEntry]) -> Released | Nothing:
        return not_overruled(row, history, overruled) or Released(name, why)

    action = Action(name="release", operator=name, event=event, is_so_already=_not_held)
    perform(action, payout_ids, answers(yes=yes, dry_run=dry_run, wait=wait, output=output))


def not_overruled(row: PayoutRow, history: Sequence[HistoryEntry], overruled: frozenset[str]) -> Nothing | None:
    """Why the hold stays: it was set by a rule and the operator has not named it."""
    unnamed = [reason for reason in rules_that_hold(row, history) if reason not in overruled]
    if not unnamed:
        return None
    named = " ".join(f"--held-for {redacted(reason)}" for reason in unnamed)
    return Nothing(
        f"a rule holds it: read `payouts show {row.payout_id}` and the runbook first, then name what you overrule: "
        f"{named}"
    )


def rules_that_hold(row: PayoutRow, history: Sequence[HistoryEntry]) -> list[str]:
    """The reasons of a hold that no operator has set; a newer reason hides the one that was there."""
    reasons = [row.hold_reason or NO_REASON]
    for entry in reversed(history):
        if _HIDING.get(entry.transition) == reasons[-1] and entry.detail.get("was_held_for") is not None:
            reasons.append(str(entry.detail["was_held_for"]))
    return [reason for reason in dict.fromkeys(reasons) if not reason.startswith(OPERATORS_HOLD)]


def _held(row: PayoutRow) -> str | None:
    return f"it is held already: {redacted(row.hold_reason or 'no reason')}" if row.held else None


def _not_held(row: PayoutRow) -> str | None:
    return None if row.held else "it is not held"
