"""What operators do to a payout: hold, release, requeue, cancel, resolve by two, undo it (rules S6, L12, R).

    Held                 any row; nothing calls out for it until it is released
    Released             a held row goes on where it stood; a pending proposal is withdrawn; after RESENDS_SPENT the
                         payout gets a new retry budget
    Requeued             a payout that waits for its schedule is due now: what may have been sent is asked about first
                         (S3), and sent again no sooner for it; what Visa has refused is sent at once, before its wait
                         is over, and another refusal counts against the budget as ever (S7)
    Cancelled            a payout that no attempt may have paid ends CANCELLED; a held one stays held, so that a
                         hand-back of ours waits for the release
    ResolutionProposed   an UNKNOWN or PENDING row is held, and the history says what was found and by whom. So is a
                         SUBMITTING one whose lease has run out, as UNKNOWN. Not a row that has ended: what was
                         approved after its unpaid end is for the reconciliation
    Resolved             another person agrees with exactly that version of the row: PAID, or FAILED with its
                         compensation. Whatever happened in between voids the proposal
    ResolutionUndone     UNKNOWN and held again, as long as nothing followed that cannot be taken back

A row in doubt (rule L11) is one that a restored copy shows before its first attempt, while what was lost may have paid
it. Only people end it: released when it is known unpaid and never handed back, it goes on in its flow; otherwise it is
resolved like an UNKNOWN one. Nobody cancels it, and no stage, no reviewer and no missing fact ends it meanwhile. Found
not paid, a hand-back of ours stays held, because that may have been made, too; so does that of one that the copy shows
under way, and that was held for the same reason.

Every refusal is a `Nothing` whose reason an operator can read. The proposal is the history's `resolution_proposed`
line at `proposed_version`; whoever builds `Resolved` takes what was proposed, and by whom, from there.

What consumers see when a resolution is undone: nothing. No result says "unknown" (P3). The withdrawn result keeps its
version; the payout's next end is published under a higher one, and consumers keep the highest (K3).
"""

from datetime import datetime, timedelta
from typing import Any

from processors.payout.events import (
    Cancelled,
    Held,
    Released,
    Requeued,
    ResolutionProposed,
    ResolutionUndone,
    Resolved,
)
from processors.payout.frozen import is_frozen
from processors.payout.people import named as _named
from processors.payout.rail import may_come_back
from processors.payout.row import (
    COMPENSATION_ENDS,
    LEDGER_RESTORED,
    CompensationState,
    Executor,
    PayoutRow,
    PayoutState,
    with_changes,
)
from processors.payout.schedule import Schedule, resend_not_before, return_delay
from processors.payout.step import (
    RESOLVED_NOT_PAID,
    RESOLVED_PAID,
    Nothing,
    Step,
    ended_unpaid,
    kept,
    lease_is_live,
    moved,
    paid,
)

RESOLUTION_PROPOSED = "RESOLUTION_PROPOSED"
"""Why a row is held: one person has said how it ended, a second one has to agree (rule S6)."""
RESOLUTION_UNDONE = "RESOLUTION_UNDONE"
"""Why a row is held: a resolution was taken back, and somebody has to say how it goes on."""
RESENDS_SPENT = "RESENDS_SPENT"
"""Why a row is held: its retry budget is spent (`answers`); a release gives it a new one."""

CANCELLABLE = frozenset({PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.IN_REVIEW, PayoutState.CLEARED})
"""No attempt is under way and none is ambiguous: known not paid (rule S6)."""
RESOLVABLE = frozenset({PayoutState.UNKNOWN, PayoutState.PENDING})
"""Only these may have been paid without anybody knowing (rule S6)."""


def is_in_doubt(row: PayoutRow) -> bool:
    """L11: the copy shows it before its first attempt, and what was lost may have paid it. Proposed for, it stays so:

    nothing else lets a row in these states be resolved.
    """
    return row.held and row.state in CANCELLABLE and row.hold_reason in (LEDGER_RESTORED, RESOLUTION_PROPOSED)


def hold(row: PayoutRow, event: Held) -> Step | Nothing:
    """L12: set the flag. A call that is under way goes on; its answer is written."""
    if row.held:
        return Nothing(f"already held: {row.hold_reason}")
    return Step(kept(row, held=True, hold_reason=event.reason), "held", {"reason": event.reason})


def release(row: PayoutRow, event: Released, now: datetime) -> Step | Nothing:
    """L12: take the flag away; the sweeper finds the row if anything of ours is to be done."""
    if not row.held:
        return Nothing("not held")
    changes: dict[str, Any] = {"held": False, "hold_reason": None, "due_at": now if _is_ours_to_drive(row) else None}
    if row.hold_reason == RESENDS_SPENT:
        changes["own_failures"] = 0
    detail = {"by": event.actor, "reason": event.reason, "was_held_for": row.hold_reason}
    return Step(kept(row, **changes), "released", detail)


def _is_ours_to_drive(row: PayoutRow) -> bool:
    """Whether the sweeper has anything to look for: not where a person or the originator is to act, or nobody."""
    if row.state is PayoutState.PAID and row.is_account_payout:
        return may_come_back(row)  # held for a contradiction after PAID it has none: a person has seen it
    if row.is_terminal:
        return row.compensation_executor is Executor.PROCESSOR and row.compensation not in COMPENSATION_ENDS
    return row.state is not PayoutState.IN_REVIEW


def requeue(row: PayoutRow, event: Requeued, now: datetime, schedule: Schedule) -> Step | Nothing:
    """S3, S6: due now. What the row then needs, `plan` says: a question for whatever may have been sent."""
    if row.is_terminal:
        return Nothing(f"the payout has ended {row.state}: nothing of it is sent again; what follows goes by itself")
    if row.held:
        return Nothing(f"it is held ({row.hold_reason}): release it first, if that is right (L12)")
    if row.state is PayoutState.IN_REVIEW:
        return Nothing("it waits for a reviewer, not for its schedule: see `payouts review list` (R1)")
    if lease_is_live(row, now, schedule):
        return Nothing(f"a call may be under way until {row.lease_until}: try again then (L3)")
    detail = {"by": event.actor, "reason": event.reason, "was_due_at": row.due_at and row.due_at.isoformat()}
    return Step(kept(row, due_at=now), "requeued", detail)


def cancel(row: PayoutRow, event: Cancelled, now: datetime, schedule: Schedule) -> Step | Nothing:
    """S6: end what no attempt may have paid; what may have been paid is resolved, never cancelled."""
    if row.is_terminal:
        return Nothing(f"the payout has ended {row.state} already")
    if row.state not in CANCELLABLE or row.ambiguous:
        return Nothing(f"it is {row.state} and may be paid: find out and use `payouts resolve` (S6)")
    if is_in_doubt(row):
        return Nothing("what the restored database lost may have paid it: find out and use `payouts resolve` (L11)")
    if lease_is_live(row, now, schedule):
        return Nothing(f"a call may be under way until {row.lease_until}: try again then (L3)")
    ended = ended_unpaid(
        row,
        PayoutState.CANCELLED,
        now,
        schedule,
        reason_code="CANCELLED_BY_OPERATOR",
        reason="An operator withdrew the payout before it was paid.",
    )
    return Step(ended, "cancelled", {"by": event.actor, "reason": event.reason, "held": row.held})


def propose_resolution(row: PayoutRow, event: ResolutionProposed, now: datetime, schedule: Schedule) -> Step | Nothing:
    """S6: the first pair of eyes. Nothing calls out any more, so that only evidence can still move the row.

    What was found while the last attempt could still take effect is no evidence that it did not. A submission whose
    worker died while the row was held is UNKNOWN, whatever the row says: nobody drives a held row there (L12).
    """
    if row.is_terminal:
        return Nothing(f"the payout has ended {row.state}; an end is not resolved again (S6)")
    if row.state is PayoutState.SUBMITTING and lease_is_live(row, now, schedule):
        return Nothing(f"it is SUBMITTING and its call may be under way until {row.lease_until}: try again then (L3)")
    if row.state not in RESOLVABLE | {PayoutState.SUBMITTING} and not is_in_doubt(row):
        return Nothing(f"it is {row.state}: only UNKNOWN and PENDING payouts are resolved (S6)")
    if not _named(event.proposer) or not event.evidence.strip():
        return Nothing("a resolution needs the name of who proposes it, and evidence (S6)")
    if not event.paid and now < _settled_at(row, schedule):
        return Nothing(f"the last attempt may still take effect until {_settled_at(row, schedule)}: look after it (S3)")
    detail = {"paid": event.paid, "evidence": event.evidence, "by": event.proposer, "was_held_for": row.hold_reason}
    hold: dict[str, Any] = {"held": True, "hold_reason": RESOLUTION_PROPOSED, "due_at": None}
    if row.state is PayoutState.SUBMITTING:
        lost = moved(row, PayoutState.UNKNOWN, now, announce=False, ambiguous=True, **hold)
        return Step(lost, "resolution_proposed", detail | {"was": row.state.value})
    return Step(kept(row, **hold), "resolution_proposed", detail)


def resolve(row: PayoutRow, event: Resolved, now: datetime, schedule: Schedule) -> Step | Nothing:
    """S6: the second pair of eyes; the only way out of UNKNOWN without an answer from Visa."""
    refusal = _why_not_resolved(row, event, now, schedule)
    if refusal is not None:
        return Nothing(refusal)
    detail = {"paid": event.paid, "evidence": event.evidence, "by": event.proposer, "approved_by": event.approver}
    free: dict[str, Any] = {"held": False, "hold_reason": None}
    if event.paid:
        reason = "Two operators found with evidence that it was paid."
        # Like any account payout that is paid, it may come back (S8).
        due_at = now + return_delay(schedule, row.payout_id, timedelta(0)) if row.is_account_payout else None
        done = paid(row, now, due_at=due_at, reason_code=RESOLVED_PAID, reason=reason, **free)
        return Step(done, "resolved_paid", detail)
    ended = ended_unpaid(
        row,
        PayoutState.FAILED,
        now,
        schedule,
        reason_code=RESOLVED_NOT_PAID,
        reason="Two operators found with evidence that it was not paid.",
        ambiguous=False,
        **free,
    )
    if (is_in_doubt(row) or event.in_doubt) and ended.compensation_executor is Executor.PROCESSOR:
        ended = with_changes(ended, held=True, hold_reason=LEDGER_RESTORED)
    return Step(ended, "resolved_not_paid", detail)


def _why_not_resolved(row: PayoutRow, event: Resolved, now: datetime, schedule: Schedule) -> str | None:
    if row.is_terminal:
        return f"the payout has ended {row.state} already ({row.reason_code})"
    if not (row.state in RESOLVABLE or is_in_doubt(row)) or row.hold_reason != RESOLUTION_PROPOSED:
        return "no resolution is proposed: propose one first (S6)"
    if row.version != event.proposed_version:
        return (
            f"the row is at version {row.version}, the proposal made {event.proposed_version}: "
            "something happened since; read it and propose again (S6)"
        )
    if not _named(event.approver) or not _named(event.proposer) or not event.evidence.strip():
        return "a resolution needs two names and evidence (S6)"
    if _named(event.approver) == _named(event.proposer):
        return f"{event.proposer} proposed it: another person has to agree (S6)"
    if lease_is_live(row, now, schedule):
        return f"a call may be under way until {row.lease_until}: approve after it (L3)"
    if not event.paid and now < _settled_at(row, schedule):
        return f"the last attempt may still take effect until {_settled_at(row, schedule)}: look after it (S3)"
    return None


def _settled_at(row: PayoutRow, schedule: Schedule) -> datetime:
    return resend_not_before(schedule, row.last_intent_at or row.state_at)


def undo_resolution(row: PayoutRow, event: ResolutionUndone, now: datetime) -> Step | Nothing:
    """P9: UNKNOWN again, held and ambiguous, as if it had never been resolved; its next end has a higher version."""
    refusal = _why_not_undone(row, event)
    if refusal is not None:
        return Nothing(refusal)
    undone = moved(
        row,
        PayoutState.UNKNOWN,
        now,
        announce=False,
        ambiguous=True,
        held=True,
        hold_reason=RESOLUTION_UNDONE,
        reason_code=None,
        reason=None,
        due_at=None,
        compensation=CompensationState.NONE,
        compensation_at=None,
        compensation_action=None,
        compensation_executor=None,
        compensation_reason_code=None,
    )
    detail = {"by": event.actor, "reason": event.reason, "was": row.state.value, "was_reason_code": row.reason_code}
    return Step(undone, "resolution_undone", detail)


def _why_not_undone(row: PayoutRow, event: ResolutionUndone) -> str | None:
    """A demand to the originator or to a person cannot be taken back: it may be published before it is marked so."""
    if row.reason_code not in (RESOLVED_PAID, RESOLVED_NOT_PAID) or not row.is_terminal:
        return "no resolution ended this payout: there is nothing to undo"
    if row.state_version != event.resolved_version:
        return f"the resolution made version {row.state_version}, not {event.resolved_version}: read it again"
    if not _named(event.actor) or not event.reason.strip():
        return "undoing needs a name and a reason (P9)"
    if row.first_intent_at is None:
        return "no attempt of it is in this ledger, so there is nothing that Visa could be asked (L11)"
    if is_frozen(row):
        return "Visa approved it, or may have, since it was resolved: that is for the reconciliation (L2)"
    if row.compensation is CompensationState.NONE:
        untouched = row.version == row.state_version
        return None if untouched else "something happened to it since, perhaps Visa confirmed it: read its history"
    if row.compensation_executor is Executor.ORIGINATOR:
        return "the originator may have handed the funding back already: settle it with him (C2)"
    if row.compensation is not CompensationState.REQUIRED or row.compensation_first_intent_at is not None:
        return f"its compensation is {row.compensation} and may have handed the funding back (C1)"
    return None
