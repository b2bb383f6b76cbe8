"""Rule L2: an unpaid end that Visa approves after all, or that only a person can read, is frozen.

The state stands, the row is held, a compensation that was waiting becomes MANUAL, and nothing of it goes on by itself,
not even after a release.
"""

from datetime import datetime
from typing import Any

from processors.payout.events import Answered
from processors.payout.evidence import evidence
from processors.payout.row import COMPENSATION_ENDS, CompensationState, PayoutRow
from processors.payout.step import Nothing, Step, compensation_moved, kept

APPROVED_AFTER_UNPAID_END = "APPROVED_AFTER_UNPAID_END"
"""Why a row is frozen: Visa approved what the ledger had ended unpaid. A page, always (rule L2)."""
MAY_BE_PAID_AFTER_UNPAID_END = "MAY_BE_PAID_AFTER_UNPAID_END"
"""Why a row is frozen: what Visa says about an unpaid end can only be read by a person."""
FROZEN_FOR = frozenset({APPROVED_AFTER_UNPAID_END, MAY_BE_PAID_AFTER_UNPAID_END})


def is_frozen(row: PayoutRow) -> bool:
    """Whether somebody has learnt, after its unpaid end, that the payout was or may have been paid."""
    return bool({row.compensation_reason_code, row.hold_reason} & FROZEN_FOR)


def freeze(row: PayoutRow, event: Answered, now: datetime, reason: str) -> Step | Nothing:
    """Hold the row for a person and stop what has not begun of its compensation."""
    known = {row.compensation_reason_code, row.hold_reason}
    # An approval outweighs a doubt: only an approval already recorded makes it old news.
    if APPROVED_AFTER_UNPAID_END in known or (reason == MAY_BE_PAID_AFTER_UNPAID_END and known & FROZEN_FOR):
        return Nothing("already frozen")
    hold: dict[str, Any] = {"held": True, "hold_reason": reason, "due_at": None}
    transition = reason.lower()
    if row.compensation in COMPENSATION_ENDS:
        return Step(kept(row, **hold), transition, evidence(event))
    hold["compensation_reason_code"] = reason
    if row.compensation is not CompensationState.REQUIRED:
        return Step(kept(row, **hold), transition, evidence(event))
    manual = compensation_moved(row, CompensationState.MANUAL, now, announce=True, **hold)
    return Step(manual, transition, evidence(event))
