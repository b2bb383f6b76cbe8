"""The operating modes: what each lets happen. One table, pure; the ledger enforces it, workers obey it (rule L9).

    mode               take      screen     submit     ask   compensate  publish   decide
                       requests                              (hand back)           (API)
    normal             y         y          y          y     y           y         rw
    manual_review      y         y          (a)        y     y           y         rw
    read_only          n         n          n          y     n           y         ro
    maintenance/drain  n         finish     finish     y     finish      y         ro
    emergency          n         n          n          y     y           y         ro
    isolation          n         n          n          n     n           audit     modes only
    halted             n         n          n          n     n           n         health only

(a) only what screening scored below 0.7, or a reviewer approved; a CLEARED payout that is neither goes to a reviewer.
    One that may have been sent has no case: it is asked about, not sent again, and held after 23 h.
finish: no request is taken any more, and what was taken before goes on to its end. `drain` is another name for it.
n to submit: no first push, no resend and no question that would lead to one; calls begun before end by themselves.
In `isolation` no socket to Visa is open at all; in `halted` workers may still try new certificates (no payout's call).
ro: people look, hold payouts and set the mode; everything else that they decide waits.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from processors.payout.events import MONEY_MOVING_CALLS, SUBMISSIONS, CallKind
from processors.payout.row import CompensationState, PayoutRow, PayoutState


class Mode(StrEnum):
    """Operating modes, held in the ledger (rule L9)."""

    NORMAL = "normal"
    MANUAL_REVIEW = "manual_review"
    READ_ONLY = "read_only"
    MAINTENANCE = "maintenance"
    EMERGENCY = "emergency"
    ISOLATION = "isolation"
    HALTED = "halted"


class Activity(StrEnum):
    """What a mode allows or forbids: the columns of the table."""

    TAKE = "TAKE"
    """Payout requests are taken from their topic."""
    SCREEN = "SCREEN"
    """Validation and compliance of payouts that were taken."""
    SUBMIT = "SUBMIT"
    """Payments leave for Visa: first, again, and the questions before the first."""
    ASK = "ASK"
    """Questions about what was sent: status and queries, those about a hand-back too."""
    COMPENSATE = "COMPENSATE"
    """Captured funding is handed back, by us or by the originator's word."""
    PUBLISH = "PUBLISH"
    """Results and every other event of ours but the audit."""
    DECIDE = "DECIDE"
    """What people decide about payouts counts: reviews, releases, requeues, cancellations, resolutions."""
    AUDIT = "AUDIT"
    """The sealed history is published (rule L10)."""


_QUIET: Final = frozenset({Activity.ASK, Activity.PUBLISH, Activity.AUDIT})

ALLOWED: Final[Mapping[Mode, frozenset[Activity]]] = {
    Mode.NORMAL: frozenset(Activity),
    Mode.MANUAL_REVIEW: frozenset(Activity),
    Mode.READ_ONLY: _QUIET,
    Mode.MAINTENANCE: _QUIET | {Activity.SCREEN, Activity.SUBMIT, Activity.COMPENSATE},
    Mode.EMERGENCY: _QUIET | {Activity.COMPENSATE},
    Mode.ISOLATION: frozenset({Activity.AUDIT}),
    Mode.HALTED: frozenset(),
}
"""The table of above."""
CALLING: Final = (Activity.SUBMIT, Activity.ASK, Activity.COMPENSATE)
"""What a call to Visa can be."""

UNREVIEWED_BELOW_BASIS_POINTS: Final = 7_000
"""The score from which `manual_review` wants a reviewer. A constant, not a setting: the ledger compares with it, so
that no worker can be told another one."""


def allows(mode: Mode, activity: Activity) -> bool:
    """Whether the table allows it; of `manual_review`, for payouts that need no reviewer (any more)."""
    return activity in ALLOWED[mode]


def modes_that_allow(activity: Activity) -> tuple[Mode, ...]:
    """In the order of the table."""
    return tuple(mode for mode in Mode if allows(mode, activity))


def calls_leave(mode: Mode) -> bool:
    """Whether any kind of call may leave for Visa."""
    return any(allows(mode, activity) for activity in CALLING)


def connects(mode: Mode) -> bool:
    """Whether a worker may try new certificates at Visa, which is no payout's call: not in `isolation`."""
    return mode is not Mode.ISOLATION


def activity_of(call: CallKind) -> Activity:
    """What a call is by the table. Asking about a hand-back is asking: it moves no money."""
    if call in SUBMISSIONS:
        return Activity.SUBMIT
    return Activity.COMPENSATE if call in MONEY_MOVING_CALLS else Activity.ASK


def next_activity(row: PayoutRow) -> Activity:
    """What a row needs when it is driven; `ledger.statements.DUE` says the same in SQL."""
    if row.state in (PayoutState.RECEIVED, PayoutState.VALIDATED):
        return Activity.SCREEN
    if row.state is PayoutState.CLEARED:
        return Activity.SUBMIT
    return Activity.COMPENSATE if row.compensation is CompensationState.REQUIRED else Activity.ASK


def needs_reviewer(row: PayoutRow) -> bool:
    """Whether `manual_review` keeps this payout from being sent. Without a score it was not screened: it does."""
    if row.reviewer is not None:
        return False  # of a CLEARED row: one who approved it, and was the last who had to
    return row.score_basis_points is None or row.score_basis_points >= UNREVIEWED_BELOW_BASIS_POINTS
