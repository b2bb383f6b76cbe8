"""How a compensation that waits for a person is closed: two say that the owner has his funding (rules C2, C4, S6).

    HandBackProposed   a MANUAL compensation that is not the originator's: what was found, and by whom, is in the
                       history. Nothing else changes, nothing is published
    HandBackAgreed     another person agrees with exactly that version of the row: COMPENSATED, and published so

No money moves by either: the funding went back by other means before, and this says so. What an originator is to hand
back is closed by his own confirmation and by nothing else (C2). A frozen payout is never closed so: it was paid, or may
have been, and its funding must not go back (L2). There is no way back: whoever reads the event takes it as true.
"""

from datetime import datetime

from processors.payout.events import HandBackAgreed, HandBackProposed
from processors.payout.frozen import is_frozen
from processors.payout.people import named
from processors.payout.row import CompensationState, Executor, PayoutRow
from processors.payout.schedule import Schedule, resend_not_before
from processors.payout.step import Nothing, Step, compensation_moved, kept, lease_is_live


def propose_hand_back(row: PayoutRow, event: HandBackProposed, now: datetime, schedule: Schedule) -> Step | Nothing:
    """The first pair of eyes: the row's version is what the second agrees with."""
    if not named(event.proposer) or not event.evidence.strip():
        return Nothing("it needs the name of who says it, and evidence (S6)")
    refusal = _why_not_closed(row, now, schedule)
    if refusal is not None:
        return Nothing(refusal)
    return Step(kept(row), "hand_back_proposed", {"evidence": event.evidence, "by": event.proposer})


def agree_hand_back(row: PayoutRow, event: HandBackAgreed, now: datetime, schedule: Schedule) -> Step | Nothing:
    """The second pair of eyes: the funding is with its owner."""
    refusal = _why_not_agreed(row, event) or _why_not_closed(row, now, schedule)
    if refusal is not None:
        return Nothing(refusal)
    closed = compensation_moved(
        row,
        CompensationState.COMPENSATED,
        now,
        announce=True,
        compensation_ambiguous=False,
        compensation_reason_code=None,
        due_at=None,
    )
    detail = {
        "evidence": event.evidence,
        "by": event.proposer,
        "approved_by": event.approver,
        "was_reason_code": row.compensation_reason_code,
    }
    return Step(closed, "hand_back_agreed", detail)


def _why_not_agreed(row: PayoutRow, event: HandBackAgreed) -> str | None:
    if row.version != event.proposed_version:
        return (
            f"the row is at version {row.version}, the proposal made {event.proposed_version}: "
            "something happened since; read it and propose again (S6)"
        )
    if not named(event.approver) or not named(event.proposer) or not event.evidence.strip():
        return "it needs two names and evidence (S6)"
    if named(event.approver) == named(event.proposer):
        return f"{event.proposer} proposed it: another person has to agree (S6)"
    return None


def _why_not_closed(row: PayoutRow, now: datetime, schedule: Schedule) -> str | None:
    if row.compensation is not CompensationState.MANUAL:
        return f"its compensation is {row.compensation}: only MANUAL waits for a person (C4)"
    if is_frozen(row):
        return "it was paid, or may have been, after its unpaid end: its funding must not go back (L2)"
    if row.compensation_executor is Executor.ORIGINATOR:
        return "its originator hands it back: his confirmation closes it, and nothing else does (C2)"
    if lease_is_live(row, now, schedule):
        return f"a call may be under way until {row.lease_until}: try again then (L3)"
    if row.compensation_last_intent_at is None:
        return None
    settled_at = resend_not_before(schedule, row.compensation_last_intent_at)
    # A hand-back of ours that was still on its way when somebody looked would be the second one.
    return (
        None if now >= settled_at else f"the last attempt may still take effect until {settled_at}: look after it (S3)"
    )
