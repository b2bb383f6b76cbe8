"""The one place that decides a payout's next step: (row, event) → (new row, what is published, the call to make).

`plan` says what a driven row needs, `begin_call` writes an intent, `apply` takes everything that can happen,
`publications` (its own module) says what a row announces. All pure; terminal states never change (only a later
approval freezes an unpaid end, rule L2).
"""

from datetime import datetime

from processors.payout.answers import apply_answer
from processors.payout.events import (
    Answered,
    CallKind,
    Confirmed,
    Event,
    Held,
    Rejected,
    Released,
    Reviewed,
    Screened,
    ScreeningVerdict,
    Unbuildable,
    Validated,
)
from processors.payout.next_step import begin_call, plan
from processors.payout.row import COMPENSATION_ENDS, CompensationState, Executor, PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.step import Nothing, Step, after, compensation_moved, ended_unpaid, kept, moved

__all__ = ["apply", "begin_call", "compensation_id", "plan"]


def compensation_id(payout_id: str) -> str:
    """One compensation a payout, so one name for it (rule C1)."""
    return f"{payout_id}.compensation"


def apply(row: PayoutRow, event: Event, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Decide what the event does to the row."""
    match event:
        case Answered():
            return apply_answer(row, event, now, schedule)
        case Validated():
            return _validated(row, event, now, schedule)
        case Rejected():
            return _rejected(row, event, now, schedule)
        case Screened():
            return _screened(row, event, now, schedule)
        case Reviewed():
            return _reviewed(row, event, now, schedule)
        case Unbuildable():
            return _unbuildable(row, event, now, schedule)
        case Confirmed():
            return _confirmed(row, event, now)
        case Held():
            if row.held:
                return Nothing("already held")
            return Step(kept(row, held=True, hold_reason=event.reason), "held", {"reason": event.reason})
        case Released():
            if not row.held:
                return Nothing("not held")
            due_at = now if _is_ours_to_drive(row) else None
            return Step(kept(row, held=False, hold_reason=None, due_at=due_at), "released", {"by": event.actor})


def _is_ours_to_drive(row: PayoutRow) -> bool:
    """Whether the sweeper has anything to look for: not where a person or the originator is to act, or nobody."""
    if row.is_terminal:
        return row.compensation_executor is Executor.PROCESSOR and row.compensation not in COMPENSATION_ENDS
    return row.state is not PayoutState.IN_REVIEW


def _validated(row: PayoutRow, event: Validated, now: datetime, schedule: Schedule) -> Step | Nothing:
    if row.state is not PayoutState.RECEIVED:
        return Nothing("validated before")
    due_at = after(schedule.stage_patience_seconds, now)
    validated = moved(
        row, PayoutState.VALIDATED, now, announce=True, policy_version=event.policy_version, due_at=due_at
    )
    return Step(validated, "validated", {"policy_version": event.policy_version})


def _rejected(row: PayoutRow, event: Rejected, now: datetime, schedule: Schedule) -> Step | Nothing:
    if row.state is not PayoutState.RECEIVED:
        return Nothing("validated before")
    ended = ended_unpaid(
        row,
        PayoutState.REJECTED,
        now,
        schedule,
        reason_code=event.reason_code,
        reason=event.reason,
        policy_version=event.policy_version,
    )
    return Step(ended, "rejected", {"reason_code": event.reason_code, "policy_version": event.policy_version})


def _screened(row: PayoutRow, event: Screened, now: datetime, schedule: Schedule) -> Step | Nothing:
    if row.state is not PayoutState.VALIDATED:
        return Nothing("screened before")
    evidence = {
        "policy_version": event.policy_version,
        "list_version": event.list_version,
        "score_basis_points": event.score_basis_points,
        "matched_entry_id": event.matched_entry_id,
        "matched_party": event.matched_party,
    }
    detail = {"reason_code": event.reason_code, **evidence}
    match event.verdict:
        case ScreeningVerdict.CLEARED:
            due_at = after(schedule.stage_patience_seconds, now)
            cleared = moved(row, PayoutState.CLEARED, now, announce=True, due_at=due_at, **evidence)
            return Step(cleared, "cleared", detail)
        case ScreeningVerdict.NEEDS_REVIEW:
            case_id = f"{row.payout_id}.{row.version + 1}"
            review = moved(
                row,
                PayoutState.IN_REVIEW,
                now,
                announce=True,
                due_at=None,
                review_case_id=case_id,
                reason_code=event.reason_code,
                **evidence,
            )
            return Step(review, "review_opened", {"case_id": case_id, **detail})
        case ScreeningVerdict.DENIED:
            denied = ended_unpaid(
                row,
                PayoutState.DENIED,
                now,
                schedule,
                reason_code=event.reason_code,
                reason=event.reason,
                **evidence,
            )
            return Step(denied, "denied", detail)


def _reviewed(row: PayoutRow, event: Reviewed, now: datetime, schedule: Schedule) -> Step | Nothing:
    """R1: a decision counts only for the case that is open now; a replayed one does nothing."""
    if row.state is not PayoutState.IN_REVIEW or event.case_id != row.review_case_id:
        return Nothing("no such open case (R1)")
    detail = {"case_id": event.case_id, "reviewer": event.reviewer, "reason_code": event.reason_code}
    if event.approved:
        due_at = after(schedule.stage_patience_seconds, now)
        cleared = moved(
            row,
            PayoutState.CLEARED,
            now,
            announce=True,
            due_at=due_at,
            reviewer=event.reviewer,
            reason_code=None,
        )
        return Step(cleared, "review_approved", detail)
    denied = ended_unpaid(
        row,
        PayoutState.DENIED,
        now,
        schedule,
        reason_code="REVIEW_REJECTED",
        reason="A reviewer refused the payout after a watch-list match.",
        reviewer=event.reviewer,
    )
    return Step(denied, "review_rejected", detail)


def _unbuildable(row: PayoutRow, event: Unbuildable, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Before any intent the payout is known not paid; an unbuildable reversal is a person's."""
    detail = {"reason_code": event.reason_code}
    if event.call is CallKind.PUSH and row.state is PayoutState.CLEARED and row.first_intent_at is None:
        failed = ended_unpaid(
            row, PayoutState.FAILED, now, schedule, reason_code=event.reason_code, reason=event.reason
        )
        return Step(failed, "failed", detail)
    ours = row.compensation_executor is Executor.PROCESSOR and row.compensation_first_intent_at is None
    if event.call is CallKind.REVERSE and row.compensation is CompensationState.REQUIRED and ours:
        manual = compensation_moved(
            row,
            CompensationState.MANUAL,
            now,
            announce=True,
            compensation_reason_code=event.reason_code,
            due_at=None,
        )
        return Step(manual, "compensation_manual", detail)
    return Nothing("an intent exists: its answer decides")


def _confirmed(row: PayoutRow, event: Confirmed, now: datetime) -> Step | Nothing:
    """C2: only the originator's own confirmation ends a compensation that is his to perform."""
    if row.compensation is not CompensationState.REQUIRED or row.compensation_executor is not Executor.ORIGINATOR:
        return Nothing("no compensation waits for this originator (C2)")
    if event.compensation_id != compensation_id(row.payout_id):
        return Nothing("the confirmation names another compensation (C2)")
    state = CompensationState.COMPENSATED if event.completed else CompensationState.MANUAL
    ended = compensation_moved(
        row,
        state,
        now,
        announce=True,
        compensation_reference=event.reference,
        compensation_reason_code=None if event.completed else "ORIGINATOR_REFUSED",
        due_at=None,
    )
    return Step(ended, "compensated" if event.completed else "compensation_manual", {"confirmed": event.completed})
