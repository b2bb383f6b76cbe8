"""`payouts requeue`: drive payouts now, and not when their schedule says (S3, S6)."""

from collections.abc import Sequence

import typer

from ledger.interface import HistoryEntry
from ops.action_plans import Action
from ops.application import ending
from ops.hold import CODES
from ops.operator_actions import (
    DryRunOption,
    OperatorOption,
    PayoutsArgument,
    ReasonOption,
    YesOption,
    answers,
    perform,
    said,
    who,
)
from ops.options import OutputOption
from ops.output import Output
from processors.payout.events import Requeued
from processors.payout.row import PayoutRow


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "requeue",
        epilog=ending(
            'payouts requeue order-2026-000017 --reason "INC-128: Visa answers again" --dry-run',
            'payouts requeue order-2026-000017 order-2026-000018 --reason "INC-128" --operator maria --yes',
            codes=CODES,
        ),
    )(requeue)


def requeue(
    payout_ids: PayoutsArgument,
    reason: ReasonOption,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make payouts due now: a worker's sweeper drives them within seconds, as the plan shows.

    For whatever may have been sent that is a question to Visa, never a send; what its answer allows is decided as
    always. Held payouts, those in review and those that have ended are refused. There is no undo, because nothing is
    decided by it: `payouts hold` stops what is driven.
    """
    why, name = said(reason, "--reason"), who(operator)

    def event(_row: PayoutRow, _history: Sequence[HistoryEntry]) -> Requeued:
        return Requeued(name, why)

    action = Action(name="requeue", operator=name, event=event)
    perform(action, payout_ids, answers(yes=yes, dry_run=dry_run, wait=None, output=output))
