"""`payouts resolve`: two people end a payout of which nobody else can say whether it was paid (S6), or a compensation

of which nobody else can say that it was made (C4).

A proposal is no column: it is the history's line that says so, with the version that the row still has. Whatever
happens to the payout afterwards makes the row's version another one, and the proposal void.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from ledger.interface import HistoryEntry
from ops.action_plans import Action, Ended, EventOf
from ops.application import ending
from ops.failures import usage_error
from ops.hold import CODES, PROPOSED, rules_that_hold
from ops.operator_actions import (
    DryRunOption,
    OperatorOption,
    WaitOption,
    YesOption,
    answers,
    perform,
    said,
    who,
)
from ops.options import OutputOption
from ops.output import Output, message
from ops.redaction import redacted
from processors.payout.events import HandBackAgreed, HandBackProposed, ResolutionProposed, ResolutionUndone, Resolved
from processors.payout.row import LEDGER_RESTORED, PayoutRow
from processors.payout.step import Nothing

PayoutArgument = Annotated[str, typer.Argument(metavar="PAYOUT_ID", help="The payout, by its id.")]
PaidOption = Annotated[
    bool | None, typer.Option("--paid/--not-paid", help="Whether the recipient has the money, as the evidence shows.")
]
HandedBackOption = Annotated[
    bool, typer.Option("--handed-back", help="That a person has handed back what a MANUAL compensation waits for.")
]
EvidenceOption = Annotated[
    str | None,
    typer.Option(help="What shows it: case number, statement, who said so. No names, no card numbers. Stays for ever."),
]
ApproveOption = Annotated[
    int | None,
    typer.Option("--approve", min=1, metavar="VERSION", help="Agree, as a second person, with the proposal so named."),
]
UndoOption = Annotated[bool, typer.Option("--undo", help="Take a resolution back; needs --reason.")]
WhyOption = Annotated[str | None, typer.Option("--reason", help="With --undo: why; stays in the ledger's history.")]


HAND_BACK_PROPOSED: Final = "hand_back_proposed"
"""The history's transition of the other kind of proposal; its detail has evidence and by."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the first person said, and which version of the row he made by it."""

    paid: bool | None
    """None: that the funding was handed back."""
    evidence: str
    proposer: str
    version: int


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "resolve",
        epilog=ending(
            'payouts resolve order-2026-000017 --paid --evidence "Visa case 4711: credited" --operator maria --dry-run',
            'payouts resolve order-2026-000017 --paid --evidence "Visa case 4711: credited" --operator maria --yes',
            "payouts resolve order-2026-000017 --paid --approve 7 --operator jan --yes --wait 30",
            'payouts resolve order-2026-000017 --handed-back --evidence "bank transfer 0815 of 2026-11-27" --dry-run',
            "payouts resolve order-2026-000017 --handed-back --approve 9 --operator jan --yes",
            'payouts resolve order-2026-000017 --undo --reason "case 4711 spoke of another payout" --yes',
            codes=CODES,
        ),
    )(resolve)


def resolve(
    payout_id: PayoutArgument,
    paid: PaidOption = None,
    handed_back: HandedBackOption = False,
    evidence: EvidenceOption = None,
    approve: ApproveOption = None,
    undo: UndoOption = False,
    reason: WhyOption = None,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """End a payout that may have been paid, by the word of two people and their evidence.

    The first proposes (--paid or --not-paid, with --evidence): the payout is held and nothing else changes. The second,
    somebody else, agrees with exactly that proposal (--approve VERSION, with --paid or --not-paid again): the payout is
    PAID, or FAILED and its funding handed back. Whatever happens to it in between makes the proposal void. Withdraw a
    proposal with `payouts release`. A resolution of which nothing has followed yet is taken back with --undo.

    In the same way two people close a compensation that is MANUAL, once its funding is with its owner (--handed-back):
    its originator reads COMPENSATED. No money moves by it, and it cannot be undone.
    """
    _check_usage(paid=paid, handed_back=handed_back, evidence=evidence, approve=approve, undo=undo, reason=reason)
    name = who(operator)
    outcome = None if handed_back else paid is True
    action, event = _asked_for(name, outcome, evidence=evidence, approve=approve, reason=reason)
    wanted = answers(yes=yes, dry_run=dry_run, wait=wait, output=output)
    (result,) = perform(Action(name=action, operator=name, event=event, every_fact=True), [payout_id], wanted)
    if evidence is not None and result.ended is Ended.DONE and result.row is not None:
        agree = f"payouts resolve {payout_id} {_word(outcome)} --approve {result.row.version}"
        message(f"Nothing is resolved yet. Somebody else than {name} must agree: `{agree}`.")


def _check_usage(
    *,
    paid: bool | None,
    handed_back: bool,
    evidence: str | None,
    approve: int | None,
    undo: bool,
    reason: str | None,
) -> None:
    if undo:
        if reason is None or paid is not None or handed_back or evidence is not None or approve is not None:
            raise usage_error("--undo goes with --reason and with nothing else of a resolution")
        return
    if reason is not None:
        raise usage_error("--reason goes with --undo", next_step="a proposal has --evidence")
    if (paid is None) is not handed_back:
        raise usage_error(
            "give one of --paid, --not-paid and --handed-back", next_step="say what the evidence shows, and only that"
        )
    if (evidence is None) is (approve is None):
        raise usage_error(
            "give either --evidence or --approve",
            why="--evidence makes a proposal; --approve agrees with one and stands by its evidence",
            next_step="the plan of --approve VERSION --dry-run shows the evidence",
        )


def _asked_for(
    name: str, outcome: bool | None, *, evidence: str | None, approve: int | None, reason: str | None
) -> tuple[str, EventOf]:
    """What the action is called, and the event that it is. `outcome`: paid or not, None that it was handed back."""
    if reason is not None:
        why = said(reason, "--reason")
        return "undo the resolution", lambda row, _: ResolutionUndone(name, why, row.state_version)
    if approve is not None:
        version = approve
        return (
            f"resolve as {_outcome(outcome)}",
            lambda row, history: approval(row, history, version, outcome, name),
        )
    seen = said(evidence or "", "--evidence")
    proposed = HandBackProposed(seen, name) if outcome is None else ResolutionProposed(outcome, seen, name)
    return f"propose to resolve as {_outcome(outcome)}", lambda _row, _history: proposed


def open_proposal(row: PayoutRow, history: Sequence[HistoryEntry]) -> Proposal | None:
    """The proposal that made the row's version; None when nothing is proposed, or something happened since."""
    for entry in history:
        if entry.version == row.version and entry.transition in (PROPOSED, HAND_BACK_PROPOSED):
            return _proposal(entry.version, entry.detail)
    return None


def _proposal(version: int, detail: Mapping[str, Any]) -> Proposal:
    return Proposal(
        bool(detail["paid"]) if "paid" in detail else None, str(detail["evidence"]), str(detail["by"]), version
    )


def approval(
    row: PayoutRow, history: Sequence[HistoryEntry], version: int, outcome: bool | None, approver: str
) -> Resolved | HandBackAgreed | Nothing:
    """The event by which a second person agrees, or why this is no agreement with what is proposed now."""
    proposal = open_proposal(row, history)
    if proposal is None:
        return Nothing(_no_proposal(row, history, version))
    if proposal.version != version:
        return Nothing(
            f"the proposal that waits is version {proposal.version}, by {redacted(proposal.proposer)}: read it first"
        )
    if proposal.paid is not outcome:
        return Nothing(f"{redacted(proposal.proposer)} proposed {_word(proposal.paid)}, not {_word(outcome)}")
    if proposal.paid is None:
        return HandBackAgreed(proposal.evidence, proposal.proposer, approver, proposal.version)
    in_doubt = LEDGER_RESTORED in rules_that_hold(row, history)
    return Resolved(proposal.paid, proposal.evidence, proposal.proposer, approver, proposal.version, in_doubt)


def _no_proposal(row: PayoutRow, history: Sequence[HistoryEntry], version: int) -> str:
    """What happened since the proposal that the second person has read."""
    named = [
        entry for entry in history if entry.version == version and entry.transition in (PROPOSED, HAND_BACK_PROPOSED)
    ]
    if not named:
        return f"version {version} is no proposal to resolve this payout; it is {row.state.value} at {row.version}"
    since = ", ".join(
        f"{entry.transition} by {redacted(entry.actor)} (version {entry.version})"
        for entry in history
        if entry.version > version
    )
    return f"the proposal is void, because the payout changed since: {since}; look at it and propose again"


def _outcome(paid: bool | None) -> str:
    return "handed back" if paid is None else "paid" if paid else "not paid"


def _word(paid: bool | None) -> str:
    return "--handed-back" if paid is None else "--paid" if paid else "--not-paid"
