"""Which action hands captured funding back, and who performs it (rules C1, C2, C3)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from processors.payout.row import CompensationAction, Executor, FundingKind


@dataclass(frozen=True, slots=True)
class CompensationPlan:
    """What to do and who does it; `reason_code` says why it is left to a person."""

    action: CompensationAction
    executor: Executor
    reason_code: str | None = None


def determine(
    kind: FundingKind, *, captured_at: datetime | None, reversible: bool, now: datetime, window_seconds: float
) -> CompensationPlan:
    """Choose by the kind of funding and its age.

    INTERNAL and PIS belong to the originator, who confirms by an event; a card pull is reversed by us within 24 h of
    it. What is older, or lacks a fact that the reversal must repeat, waits for a person.
    """
    if kind is FundingKind.INTERNAL:
        return CompensationPlan(CompensationAction.RELEASE_HOLD, Executor.ORIGINATOR)
    if kind is FundingKind.PIS:
        return CompensationPlan(CompensationAction.REFUND_PIS, Executor.ORIGINATOR)
    if kind is not FundingKind.AFT:
        return _manual("FUNDING_KIND_UNKNOWN")
    if not reversible or captured_at is None:
        return _manual("REVERSAL_FACTS_MISSING")
    if now - captured_at >= timedelta(seconds=window_seconds):
        return _manual("ADJUSTMENT_NOT_AVAILABLE")
    return CompensationPlan(CompensationAction.REVERSE_FUNDS, Executor.PROCESSOR)


def _manual(reason_code: str) -> CompensationPlan:
    return CompensationPlan(CompensationAction.MANUAL, Executor.PROCESSOR, reason_code)
