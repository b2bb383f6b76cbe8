"""The one place that decides a payout's next step: (row, event) → (new row, what is published, the call to make).

`plan` says what a driven row needs, `begin_call` writes an intent, `begin_inquiry` a question before the first one,
`apply` takes everything that can happen,
`publications` (its own module) says what a row announces. All pure; terminal states never change (a later approval
freezes an unpaid end, rule L2), except when an operator undoes what operators resolved.
"""

from datetime import datetime

from processors.payout.account_answers import apply_account_answer
from processors.payout.answers import apply_answer
from processors.payout.events import (
    ACCOUNT_CALLS,
    COMPENSATION_CALLS,
    MONEY_MOVING_CALLS,
    SUBMISSIONS,
    Answered,
    CallKind,
    Cancelled,
    Confirmed,
    Event,
    HandBackAgreed,
    HandBackProposed,
    Held,
    Inquired,
    Rejected,
    Released,
    Requeued,
    ResolutionProposed,
    ResolutionUndone,
    Resolved,
    Reviewed,
    ReviewWanted,
    Screened,
    ScreeningVerdict,
    Unbuildable,
    Validated,
)
from processors.payout.frozen import frozen_for
from processors.payout.hand_back import agree_hand_back, propose_hand_back
from processors.payout.intents import begin_call
from processors.payout.modes import needs_reviewer
from processors.payout.next_step import plan
from processors.payout.operator_actions import (
    cancel,
    hold,
    is_in_doubt,
    propose_resolution,
    release,
    requeue,
    resolve,
    undo_resolution,
)
from processors.payout.preflight import apply_inquired, begin_inquiry
from processors.payout.rail import may_come_back
from processors.payout.review import reviewed
from processors.payout.row import CompensationState, Executor, PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.step import Nothing, Step, after, compensation_moved, ended_unpaid, kept, moved

__all__ = ["apply", "begin_call", "begin_inquiry", "compensation_id", "plan"]


_OF_THE_FLOW = (Validated, Rejected, Screened, ReviewWanted, Reviewed, Unbuildable)
"""What moves or ends a payout that has not been submitted yet."""


MANUAL_REVIEW_MODE = "MANUAL_REVIEW_MODE"
"""The reason code of a case that the mode opened, not screening."""


def compensation_id(payout_id: str) -> str:
    """One compensation a payout, so one name for it (rule C1)."""
    return f"{payout_id}.compensation"


def apply(row: PayoutRow, event: Event, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Decide what the event does to the row."""
    if isinstance(event, _OF_THE_FLOW) and is_in_doubt(row):
        return Nothing("held since the database was put back: it may have been paid, a person decides (L11)")
    match event:
        case Answered() if event.call in ACCOUNT_CALLS:
            return apply_account_answer(row, event, now, schedule)
        case Answered():
            return apply_answer(row, event, now, schedule)
        case Validated():
            return _validated(row, event, now, schedule)
        case Rejected():
            return _rejected(row, event, now, schedule)
        case Screened():
            return _screened(row, event, now, schedule)
        case ReviewWanted():
            return _review_wanted(row, now)
        case Reviewed():
            return reviewed(row, event, now, schedule)
        case Unbuildable():
            return _unbuildable(row, event, now, schedule)
        case Inquired():
            return apply_inquired(row, event, now, schedule)
        case Confirmed():
            return _confirmed(row, event, now)
        case Held():
            return hold(row, event)
        case Released():
            return release(row, event, now)
        case Requeued():
            return requeue(row, event, now, schedule)
        case Cancelled():
            return cancel(row, event, now, schedule)
        case ResolutionProposed():
            return propose_resolution(row, event, now, schedule)
        case Resolved():
            return resolve(row, event, now, schedule)
        case ResolutionUndone():
            return undo_resolution(row, event, now)
        case HandBackProposed():
            return propose_hand_back(row, event, now, schedule)
        case HandBackAgreed():
            return agree_hand_back(row, event, now, schedule)


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


def _review_wanted(row: PayoutRow, now: datetime) -> Step | Nothing:
    """The mode `manual_review` met a payout that was cleared without a person: a case is opened for it (E5).

    Nothing of it can have taken effect (S6), so that a reviewer may still deny it.
    """
    if row.state is not PayoutState.CLEARED or row.ambiguous or not needs_reviewer(row):
        return Nothing("only a cleared payout that nobody has reviewed goes to a reviewer")
    case_id = f"{row.payout_id}.{row.version + 1}"
    opened = moved(
        row,
        PayoutState.IN_REVIEW,
        now,
        announce=True,
        due_at=None,
        review_case_id=case_id,
        reason_code=MANUAL_REVIEW_MODE,
    )
    return Step(opened, "review_opened", {"case_id": case_id, "reason_code": MANUAL_REVIEW_MODE})


def _unbuildable(row: PayoutRow, event: Unbuildable, now: datetime, schedule: Schedule) -> Step | Nothing:
    """Nothing was sent. Before any intent the payout is known not paid; a hand-back or a question is a person's."""
    detail = {"reason_code": event.reason_code, "call": event.call.value}
    if event.call in SUBMISSIONS and row.state is PayoutState.CLEARED and row.first_intent_at is None:
        failed = ended_unpaid(
            row, PayoutState.FAILED, now, schedule, reason_code=event.reason_code, reason=event.reason
        )
        return Step(failed, "failed", detail)
    if event.call in (CallKind.REVERSE, CallKind.ADJUST) and _has_no_hand_back_under_way(row):
        manual = compensation_moved(
            row,
            CompensationState.MANUAL,
            now,
            announce=True,
            compensation_reason_code=event.reason_code,
            due_at=None,
        )
        return Step(manual, "compensation_manual", detail)
    if event.call not in MONEY_MOVING_CALLS and _is_asked_about(row, event.call) and not row.held:
        # Asked again for ever it would never be seen (P1); what is asked about may have taken effect.
        return Step(kept(row, held=True, hold_reason=event.reason_code, due_at=None), "held_for_operator", detail)
    return Nothing("an intent exists: its answer decides")


def _has_no_hand_back_under_way(row: PayoutRow) -> bool:
    ours = row.compensation_executor is Executor.PROCESSOR
    return ours and row.compensation is CompensationState.REQUIRED and not row.compensation_ambiguous


def _is_asked_about(row: PayoutRow, call: CallKind) -> bool:
    if call in COMPENSATION_CALLS:
        return row.compensation is CompensationState.UNKNOWN
    return row.state in (PayoutState.UNKNOWN, PayoutState.PENDING) or may_come_back(row)


def _confirmed(row: PayoutRow, event: Confirmed, now: datetime) -> Step | Nothing:
    """C2: only the originator's own confirmation ends a compensation that is his to perform.

    That he has handed the funding back is a fact that counts even after a person was called, because he had refused
    or because Visa approved the payout after all (L2): whoever looks must see it.
    """
    if row.compensation_executor is not Executor.ORIGINATOR:
        return Nothing("no compensation waits for this originator (C2)")
    if event.compensation_id != compensation_id(row.payout_id):
        return Nothing("the confirmation names another compensation (C2)")
    after_all = row.compensation is CompensationState.MANUAL and event.completed
    if row.compensation is not CompensationState.REQUIRED and not after_all:
        return Nothing("no compensation waits for this originator (C2)")
    state = CompensationState.COMPENSATED if event.completed else CompensationState.MANUAL
    ended = compensation_moved(
        row,
        state,
        now,
        announce=True,
        compensation_reference=event.reference,
        compensation_reason_code=frozen_for(row) or (None if event.completed else "ORIGINATOR_REFUSED"),
        due_at=None,
    )
    return Step(ended, "compensated" if event.completed else "compensation_manual", {"confirmed": event.completed})
