"""Rule L2: an unpaid end that Visa approves after all, or that only a person can read, is frozen.

The state stands, the row is held, a compensation that was waiting becomes MANUAL, and nothing of it goes on by itself.
Whoever was to hand the funding back is told by another MANUAL result. The mark is `compensation_reason_code`: it
outlives the release, and whatever becomes of a hand-back that was under way.
"""

from datetime import datetime
from typing import Any

from processors.payout.events import Answered
from processors.payout.evidence import evidence
from processors.payout.row import CompensationState, PayoutRow
from processors.payout.step import Nothing, Step, compensation_moved, kept

APPROVED_AFTER_UNPAID_END = "APPROVED_AFTER_UNPAID_END"
"""Why a row is frozen: Visa approved what the ledger had ended unpaid. A page, always (rule L2)."""
MAY_BE_PAID_AFTER_UNPAID_END = "MAY_BE_PAID_AFTER_UNPAID_END"
"""Why a row is frozen: what Visa says about an unpaid end can only be read by a person."""
FROZEN_FOR = frozenset({APPROVED_AFTER_UNPAID_END, MAY_BE_PAID_AFTER_UNPAID_END})


def frozen_for(row: PayoutRow) -> str | None:
    """Why the row is frozen; an approval outweighs a doubt. None for a row that is not."""
    known = {row.compensation_reason_code, row.hold_reason}
    return next(
        (reason for reason in (APPROVED_AFTER_UNPAID_END, MAY_BE_PAID_AFTER_UNPAID_END) if reason in known), None
    )


def is_frozen(row: PayoutRow) -> bool:
    """Whether somebody has learnt, after its unpaid end, that the payout was or may have been paid."""
    return frozen_for(row) is not None


def freeze(row: PayoutRow, event: Answered, now: datetime, reason: str) -> Step | Nothing:
    """Hold the row for a person, stop what has not begun of its compensation, and tell whoever was to perform it."""
    known = frozen_for(row)
    # An approval outweighs a doubt: only an approval already recorded makes it old news.
    if known == APPROVED_AFTER_UNPAID_END or (known is not None and reason == MAY_BE_PAID_AFTER_UNPAID_END):
        return Nothing("already frozen")
    changes: dict[str, Any] = {
        "held": True,
        "hold_reason": reason,
        "due_at": None,
        "compensation_reason_code": reason,
    }
    if row.compensation in (CompensationState.REQUIRED, CompensationState.MANUAL):
        manual = compensation_moved(row, CompensationState.MANUAL, now, announce=True, **changes)
        return Step(manual, reason.lower(), evidence(event))
    return Step(kept(row, **changes), reason.lower(), evidence(event))
