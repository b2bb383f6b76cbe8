"""What a reviewer's decision does to the open case (rule R1). Pure.

A decision names its case and counts only while that case is open; a replayed one does nothing. Whoever asked for the
money, held the payout or opened the case does not decide it. Where the policy asks for two approvals, the first leaves
the case open under its id, and the second has to be another person's: each reviewer counts once. One is enough to
reject, whatever was approved before: no money leaves by it.
"""

from datetime import datetime

from processors.payout.events import Reviewed
from processors.payout.people import named
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.step import Nothing, Step, after, ended_unpaid, kept, moved

BARS_FROM_DECIDING = frozenset({"held", "review_opened"})
"""Steps of the history whose actor does not decide the case afterwards."""


def not_this_reviewer(row: PayoutRow, event: Reviewed) -> str | None:
    """Why the decision of this person does not count, whatever it is; None when it does (four eyes)."""
    reviewer = named(event.reviewer)
    if reviewer == named(row.originator_id):
        return f"{event.reviewer} asked for this payout: another person decides (R1)"
    if reviewer in {named(name) for name in event.not_by}:
        return f"{event.reviewer} held this payout or opened its case: another person decides (R1)"
    if event.approved and row.reviewer is not None and reviewer == named(row.reviewer):
        return f"{event.reviewer} has approved this case already: the second approval is another person's (R1)"
    return None


def reviewed(row: PayoutRow, event: Reviewed, now: datetime, schedule: Schedule) -> Step | Nothing:
    """R1: the payout goes on, waits for a second approval, or is denied."""
    if row.state is not PayoutState.IN_REVIEW or event.case_id != row.review_case_id:
        return Nothing("no such open case (R1)")
    refusal = not_this_reviewer(row, event)
    if refusal is not None:
        return Nothing(refusal)
    detail = {"case_id": event.case_id, "reviewer": event.reviewer, "reason_code": event.reason_code}
    if event.approved and event.approvals_needed > 1 and row.reviewer is None:
        waiting = kept(row, reviewer=event.reviewer)
        return Step(waiting, "review_approved_once", detail | {"approvals_needed": event.approvals_needed})
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
        return Step(cleared, "review_approved", detail if row.reviewer is None else detail | {"first": row.reviewer})
    denied = ended_unpaid(
        row,
        PayoutState.DENIED,
        now,
        schedule,
        reason_code="REVIEW_REJECTED",
        reason="A reviewer refused the payout.",
        reviewer=event.reviewer,
    )
    return Step(denied, "review_rejected", detail)
