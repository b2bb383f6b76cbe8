"""Which action hands captured funding back, and who performs it (rules C1, C2, C3).

INTERNAL   the originator releases its hold            PIS   the originator refunds
AFT        we reverse the card pull, from 24 h after it we adjust it
else, or without every fact of the pull: a person
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from processors.payout.row import CompensationAction, Executor, FundingKind

REVERSAL_WINDOW = timedelta(hours=24)
"""Visa reverses a card pull within 24 h of it and adjusts it later. Visa's rule, so no setting of ours."""


@dataclass(frozen=True, slots=True)
class CompensationPlan:
    """What to do and who does it; `reason_code` says why it is left to a person."""

    action: CompensationAction
    executor: Executor
    reason_code: str | None = None


def determine(kind: FundingKind, *, captured_at: datetime | None, reversible: bool, now: datetime) -> CompensationPlan:
    """Choose by the kind of funding and its age. `reversible`: every fact of the card pull is known."""
    if kind is FundingKind.INTERNAL:
        return CompensationPlan(CompensationAction.RELEASE_HOLD, Executor.ORIGINATOR)
    if kind is FundingKind.PIS:
        return CompensationPlan(CompensationAction.REFUND_PIS, Executor.ORIGINATOR)
    if kind is not FundingKind.AFT:
        return _manual("FUNDING_KIND_UNKNOWN")
    if not reversible or captured_at is None:
        return _manual("REVERSAL_FACTS_MISSING")
    if is_past_reversal(captured_at, now):
        return CompensationPlan(CompensationAction.ADJUSTMENT, Executor.PROCESSOR)
    return CompensationPlan(CompensationAction.REVERSE_FUNDS, Executor.PROCESSOR)


def is_past_reversal(captured_at: datetime, now: datetime) -> bool:
    """Whether Visa would no longer reverse the pull, only adjust it."""
    return now - captured_at >= REVERSAL_WINDOW


def _manual(reason_code: str) -> CompensationPlan:
    return CompensationPlan(CompensationAction.MANUAL, Executor.PROCESSOR, reason_code)
