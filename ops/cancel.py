"""`payouts cancel`: end payouts that no attempt may have paid (S6)."""

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
    WaitOption,
    YesOption,
    answers,
    perform,
    said,
    who,
)
from ops.options import OutputOption
from ops.output import Output
from processors.payout.events import Cancelled
from processors.payout.row import PayoutRow, PayoutState


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "cancel",
        epilog=ending(
            'payouts cancel order-2026-000017 --reason "INC-123: the originator asked for it" --dry-run',
            'payouts cancel order-2026-000017 --reason "INC-123" --operator maria --yes --wait 30',
            codes=CODES,
        ),
    )(cancel)


def cancel(
    payout_ids: PayoutsArgument,
    reason: ReasonOption,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """End payouts as CANCELLED; captured funding is handed back by the usual rules, as the plan shows.

    Refused once an attempt may have paid: such a payout ends by an answer of Visa or by `payouts resolve`. There is no
    way back: who wants the money paid after all sends a new payout. When in doubt, `payouts hold` first.
    """
    why, name = said(reason, "--reason"), who(operator)

    def event(_row: PayoutRow, _history: Sequence[HistoryEntry]) -> Cancelled:
        return Cancelled(name, why)

    action = Action(name="cancel", operator=name, event=event, is_so_already=_cancelled)
    perform(action, payout_ids, answers(yes=yes, dry_run=dry_run, wait=wait, output=output))


def _cancelled(row: PayoutRow) -> str | None:
    return "it is cancelled already" if row.state is PayoutState.CANCELLED else None
