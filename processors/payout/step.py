"""What a decision says: nothing, a stage to run, a call to make, or a change of the row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from processors.compensation.determine import determine
from processors.payout.events import CallKind
from processors.payout.row import CompensationAction, CompensationState, PayoutRow, PayoutState, with_changes
from processors.payout.schedule import Schedule

OUR_ACTIONS = frozenset({CompensationAction.REVERSE_FUNDS, CompensationAction.ADJUSTMENT})
"""What we perform ourselves, by a call to Visa (rule C2)."""
RESOLVED_PAID = "RESOLVED_PAID"
"""The reason code of a payout that two people found paid (rule S6)."""
RESOLVED_NOT_PAID = "RESOLVED_NOT_PAID"
"""The reason code of a payout that two people found not paid (rule S6)."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The row stays as it is; `reason` is for the log, the tests and the operator whose wish was refused."""

    reason: str


class Stage(StrEnum):
    """Work of our own that needs the opened request: the shell runs the stage and applies its event."""

    VALIDATE = "VALIDATE"
    COMPLY = "COMPLY"


@dataclass(frozen=True, slots=True)
class RunStage:
    """Run this stage next."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class MakeCall:
    """Begin this call next; `needs_identity` when it is a first intent with numbers of its own (rule S1).

    These are the first push, and the first adjustment; a reversal repeats the numbers of its pull (rule C4).
    """

    call: CallKind
    needs_identity: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """The row as it shall be, with the name and evidence for the history.

    `follow_up`: a call that the same decision allows once this step is committed, and only on that version.
    """

    row: PayoutRow
    transition: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    follow_up: CallKind | None = None


def after(seconds: float, now: datetime) -> datetime:
    """`now` plus seconds."""
    return now + timedelta(seconds=seconds)


def lease_is_live(row: PayoutRow, now: datetime, schedule: Schedule) -> bool:
    """Whether a call may be under way (L3), also in the seconds by which clocks may differ."""
    return row.lease_until is not None and now < after(schedule.clock_skew_seconds, row.lease_until)


def moved(row: PayoutRow, state: PayoutState, now: datetime, *, announce: bool, **changes: Any) -> PayoutRow:
    """The row in a new state, its version one higher. Leases are the ledger's: no decision touches them (L3)."""
    version = row.version + 1
    return with_changes(
        row,
        version=version,
        state=state,
        state_version=version,
        state_at=now,
        announce_version=version if announce else row.announce_version,
        **changes,
    )


def kept(row: PayoutRow, **changes: Any) -> PayoutRow:
    """The row in the same state with other facts, its version one higher."""
    return with_changes(row, version=row.version + 1, **changes)


def paid(row: PayoutRow, now: datetime, *, due_at: datetime | None = None, **changes: Any) -> PayoutRow:
    """The one good end. Whatever was ambiguous is settled by an answer for the identity."""
    return moved(row, PayoutState.PAID, now, announce=True, ambiguous=False, due_at=due_at, **changes)


def ended_unpaid(
    row: PayoutRow,
    state: PayoutState,
    now: datetime,
    schedule: Schedule,
    *,
    reason_code: str,
    reason: str,
    **changes: Any,
) -> PayoutRow:
    """An end without payment, and the compensation that it calls for (rules C1, L7).

    Compensation starts only for captured funding whose receipt is this payout's own, and only when no attempt is
    ambiguous; the caller passes `ambiguous=False` where an answer for the identity settled it.
    """
    ended = moved(row, state, now, announce=True, reason_code=reason_code, reason=reason, due_at=None, **changes)
    if not (ended.funding_captured and ended.receipt_owned) or ended.ambiguous:
        return ended
    plan = determine(
        ended.funding_kind,
        captured_at=ended.funding_captured_at,
        reversible=ended.funding_reversible,
        now=now,
    )
    manual = plan.action is CompensationAction.MANUAL
    ours = plan.action in OUR_ACTIONS
    return with_changes(
        ended,
        compensation=CompensationState.MANUAL if manual else CompensationState.REQUIRED,
        compensation_version=ended.version,
        compensation_at=now,
        compensation_action=plan.action,
        compensation_executor=plan.executor,
        compensation_reason_code=plan.reason_code,
        due_at=after(schedule.stage_patience_seconds, now) if ours else None,
    )


def compensation_moved(
    row: PayoutRow, state: CompensationState, now: datetime, *, announce: bool, **changes: Any
) -> PayoutRow:
    """The compensation in a new state; the payout's own state never moves with it."""
    version = row.version + 1
    return with_changes(
        row,
        version=version,
        compensation=state,
        compensation_version=version,
        compensation_at=now,
        announce_version=version if announce else row.announce_version,
        **changes,
    )
