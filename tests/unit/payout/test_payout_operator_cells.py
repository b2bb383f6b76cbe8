"""What operators can do to a row of every state, and what they are refused, with a reason to read (S6, L12, P9)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from processors.payout.events import (
    Answered,
    CallKind,
    Cancelled,
    Event,
    Held,
    Released,
    ResolutionProposed,
    ResolutionUndone,
    Resolved,
)
from processors.payout.operator_actions import RESOLUTION_PROPOSED, RESOLUTION_UNDONE
from processors.payout.outcome import OutcomeKind, Refusal
from processors.payout.publications import publications
from processors.payout.row import (
    TERMINAL_STATES,
    CompensationState,
    Executor,
    FundingKind,
    PayoutRow,
    PayoutState,
)
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply, begin_call, plan
from processors.payout.step import MakeCall, Nothing, Step

MakeRow = Callable[..., PayoutRow]
Answer = Callable[..., Answered]

CANCELLABLE = [PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.IN_REVIEW, PayoutState.CLEARED]
RESOLVABLE = [PayoutState.UNKNOWN, PayoutState.PENDING]
CAPTURED = {"funding_captured": True, "receipt_owned": True}
LONG_AGO = timedelta(hours=2)
CANCELLED = Cancelled("operator-1", "the recipient called")
EXECUTORS = {
    FundingKind.AFT: CompensationState.REQUIRED,
    FundingKind.INTERNAL: CompensationState.REQUIRED,
    FundingKind.PIS: CompensationState.REQUIRED,
    FundingKind.UNSPECIFIED: CompensationState.MANUAL,
}


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


def _refusal(decision: object) -> str:
    assert isinstance(decision, Nothing), decision
    assert len(decision.reason) > 5
    return decision.reason


def _settled(make_row: MakeRow, now: datetime, state: PayoutState = PayoutState.UNKNOWN, **changes: Any) -> PayoutRow:
    """A row whose last attempt can no longer take effect."""
    return make_row(state, **({"first_intent_at": now - LONG_AGO, "last_intent_at": now - LONG_AGO} | changes))


def _proposed(row: PayoutRow, now: datetime, schedule: Schedule, paid: bool) -> PayoutRow:
    return _step(apply(row, ResolutionProposed(paid, "case 7 at Visa", "ann"), now, schedule)).row


def _resolved(row: PayoutRow, paid: bool, **changes: Any) -> Resolved:
    said = {"evidence": "case 7 at Visa", "proposer": "ann", "approver": "bob", "proposed_version": row.version}
    return Resolved(**({"paid": paid} | said | changes))


# ---- cancel


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("state", CANCELLABLE)
def test_what_no_attempt_may_have_paid_can_be_cancelled(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, held: bool
) -> None:
    """S6, C1, K2: an end with its compensation, announced; L12: a cancel releases nothing."""
    row = make_row(state, held=held, hold_reason="INCIDENT" if held else None, **CAPTURED)
    step = _step(apply(row, CANCELLED, now, schedule))
    after = step.row
    assert (after.state, after.reason_code) == (PayoutState.CANCELLED, "CANCELLED_BY_OPERATOR")
    assert (after.compensation, after.announce_version) == (CompensationState.REQUIRED, after.version)
    assert after.held is held
    assert step.detail["by"] == "operator-1"


@pytest.mark.parametrize("kind", list(FundingKind))
def test_a_cancelled_payouts_funding_is_handed_back_by_the_usual_rule(
    make_row: MakeRow, now: datetime, schedule: Schedule, kind: FundingKind
) -> None:
    """C1, C2, L7."""
    row = make_row(PayoutState.CLEARED, funding_kind=kind, **CAPTURED)
    assert _step(apply(row, CANCELLED, now, schedule)).row.compensation is EXECUTORS[kind]
    not_captured = make_row(PayoutState.CLEARED, funding_kind=kind)
    assert _step(apply(not_captured, CANCELLED, now, schedule)).row.compensation is CompensationState.NONE


@pytest.mark.parametrize("state", sorted(set(PayoutState) - set(CANCELLABLE)))
def test_what_may_have_been_paid_or_has_ended_is_not_cancelled(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S6, P4."""
    reason = _refusal(apply(make_row(state, **CAPTURED), CANCELLED, now, schedule))
    assert state.value in reason


# ---- propose


@pytest.mark.parametrize("paid", [True, False])
@pytest.mark.parametrize("state", RESOLVABLE)
@pytest.mark.parametrize("held_for", [None, "UNKNOWN_PAST_RESEND_LIMIT", RESOLUTION_PROPOSED])
def test_a_proposal_holds_the_row_and_says_who_found_what(
    make_row: MakeRow, now: datetime, schedule: Schedule, paid: bool, state: PayoutState, held_for: str | None
) -> None:
    """S6, L12: the state stands; a second proposal replaces the first."""
    row = _settled(make_row, now, state, held=held_for is not None, hold_reason=held_for)
    step = _step(apply(row, ResolutionProposed(paid, "case 7 at Visa", "ann"), now, schedule))
    assert (step.row.state, step.row.held, step.row.hold_reason) == (state, True, "RESOLUTION_PROPOSED")
    assert (step.row.ambiguous, step.row.due_at) == (True, None)
    assert step.transition == "resolution_proposed"
    assert (step.detail["paid"], step.detail["evidence"], step.detail["by"]) == (paid, "case 7 at Visa", "ann")


@pytest.mark.parametrize("state", sorted(set(PayoutState) - set(RESOLVABLE)))
def test_only_an_unknown_or_pending_payout_is_resolved(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S6: an end is never resolved again, not even a frozen one; what is known needs no people."""
    row = make_row(state, held=True, hold_reason="APPROVED_AFTER_UNPAID_END")
    assert state.value in _refusal(apply(row, ResolutionProposed(True, "case 7", "ann"), now, schedule))


@pytest.mark.parametrize(("evidence", "proposer"), [("", "ann"), ("  ", "ann"), ("case 7", ""), ("case 7", "  ")])
def test_a_proposal_needs_a_name_and_evidence(
    make_row: MakeRow, now: datetime, schedule: Schedule, evidence: str, proposer: str
) -> None:
    """S6."""
    row = _settled(make_row, now)
    assert _refusal(apply(row, ResolutionProposed(True, evidence, proposer), now, schedule))


def test_nobody_finds_a_payout_unpaid_while_its_last_attempt_may_still_take_effect(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """S3, P4: what was looked up within the horizon proves nothing; that it was paid is true at once."""
    row = make_row(PayoutState.UNKNOWN)
    assert "look after it" in _refusal(apply(row, ResolutionProposed(False, "case 7", "ann"), now, schedule))
    assert isinstance(apply(row, ResolutionProposed(True, "case 7", "ann"), now, schedule), Step)


@pytest.mark.parametrize("paid", [True, False])
@pytest.mark.parametrize("held_for", [None, "OPERATOR: wrong recipient?"])
def test_a_submission_whose_worker_died_is_resolved_as_unknown(
    make_row: MakeRow, now: datetime, schedule: Schedule, paid: bool, held_for: str | None
) -> None:
    """P1, S6, L12: nobody drives a held row, and a release would send it again: two people must be able to end it."""
    leased = {"lease_owner": "worker-a/1", "lease_until": now - LONG_AGO}
    row = _settled(
        make_row, now, PayoutState.SUBMITTING, held=held_for is not None, hold_reason=held_for, **leased, **CAPTURED
    )
    step = _step(apply(row, ResolutionProposed(paid, "case 7 at Visa", "ann"), now, schedule))
    proposed = step.row
    assert (proposed.state, proposed.ambiguous, proposed.state_version) == (PayoutState.UNKNOWN, True, row.version + 1)
    assert (proposed.held, proposed.hold_reason, proposed.due_at) == (True, RESOLUTION_PROPOSED, None)
    assert (step.transition, step.detail["was_held_for"]) == ("resolution_proposed", held_for)
    assert publications(proposed) == ()
    ended = _step(apply(proposed, _resolved(proposed, paid), now, schedule)).row
    assert ended.state is (PayoutState.PAID if paid else PayoutState.FAILED)


def test_nobody_resolves_a_submission_whose_call_may_be_under_way(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """L3, S6: its own answer is on the way, also in the seconds by which clocks may differ."""
    row = _settled(make_row, now, PayoutState.SUBMITTING, lease_until=now + timedelta(seconds=10), held=True)
    proposed = ResolutionProposed(True, "case 7", "ann")
    assert "under way" in _refusal(apply(row, proposed, now + timedelta(seconds=14), schedule))
    assert isinstance(apply(row, proposed, now + timedelta(seconds=15), schedule), Step)


def test_a_submission_whose_worker_died_is_not_cancelled(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """S6, P4: it may be paid."""
    row = _settled(make_row, now, PayoutState.SUBMITTING, lease_until=now - LONG_AGO, held=True)
    assert "payouts resolve" in _refusal(apply(row, CANCELLED, now, schedule))


# ---- resolve


@pytest.mark.parametrize("state", RESOLVABLE)
def test_two_people_find_a_payout_paid(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S6, P4: nothing is handed back."""
    row = _proposed(_settled(make_row, now, state, **CAPTURED), now, schedule, paid=True)
    step = _step(apply(row, _resolved(row, True), now, schedule))
    after = step.row
    assert (after.state, after.reason_code, after.ambiguous) == (PayoutState.PAID, "RESOLVED_PAID", False)
    assert (after.held, after.hold_reason, after.due_at) == (False, None, None)
    assert (after.compensation, after.announce_version) == (CompensationState.NONE, after.version)
    assert (step.detail["by"], step.detail["approved_by"]) == ("ann", "bob")


@pytest.mark.parametrize("kind", list(FundingKind))
@pytest.mark.parametrize("state", RESOLVABLE)
def test_two_people_find_a_payout_not_paid(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, kind: FundingKind
) -> None:
    """S6, C1: known not paid by now, so its funding is handed back by the usual rule."""
    row = _proposed(_settled(make_row, now, state, funding_kind=kind, **CAPTURED), now, schedule, paid=False)
    after = _step(apply(row, _resolved(row, False), now, schedule)).row
    assert (after.state, after.reason_code, after.ambiguous) == (PayoutState.FAILED, "RESOLVED_NOT_PAID", False)
    assert (after.held, after.hold_reason) == (False, None)
    assert (after.compensation, after.announce_version) == (EXECUTORS[kind], after.version)


@pytest.mark.parametrize("paid", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"approver": "ann"},
        {"approver": "ANN"},
        {"approver": "  Ann "},
        {"approver": ""},
        {"approver": " "},
        {"proposer": ""},
        {"evidence": " "},
        {"proposed_version": 5},
        {"proposed_version": 7},
    ],
)
def test_one_person_or_an_older_proposal_resolves_nothing(
    make_row: MakeRow, now: datetime, schedule: Schedule, paid: bool, changes: dict[str, Any]
) -> None:
    """S6: four eyes on the same version of the row."""
    row = _proposed(_settled(make_row, now), now, schedule, paid)
    assert row.version == 6
    assert _refusal(apply(row, _resolved(row, paid, **changes), now, schedule))


@pytest.mark.parametrize("state", list(PayoutState))
@pytest.mark.parametrize("hold_reason", [None, "INCIDENT", RESOLUTION_UNDONE])
def test_nothing_is_resolved_that_nobody_proposed(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, hold_reason: str | None
) -> None:
    """S6."""
    row = make_row(state, held=hold_reason is not None, hold_reason=hold_reason)
    assert _refusal(apply(row, _resolved(row, True), now, schedule))


@pytest.mark.parametrize(
    "kind", [OutcomeKind.UNKNOWN, OutcomeKind.NOT_FOUND, OutcomeKind.PENDING, OutcomeKind.OPERATOR]
)
def test_whatever_happens_after_the_proposal_voids_it(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind
) -> None:
    """S6: a question was out while the first person looked; its answer may say something else."""
    row = _proposed(_settled(make_row, now), now, schedule, paid=False)
    later = _step(apply(row, answer(row, CallKind.QUERY, kind), now, schedule)).row
    assert later.version > row.version
    assert _refusal(apply(later, _resolved(row, False), now, schedule))


def test_nothing_is_resolved_while_a_call_may_be_under_way(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """L3: its answer is better evidence."""
    leased = {"lease_owner": "worker-a/1", "lease_until": now + timedelta(seconds=10)}
    row = _proposed(_settled(make_row, now, **leased), now, schedule, paid=True)
    assert "under way" in _refusal(apply(row, _resolved(row, True), now, schedule))
    assert isinstance(apply(row, _resolved(row, True), now + timedelta(seconds=16), schedule), Step)


def test_a_release_withdraws_the_proposal(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """L12, S6: the payout is asked about again."""
    row = _proposed(_settled(make_row, now), now, schedule, paid=False)
    released = _step(apply(row, Released("bob", "wrong ticket"), now, schedule))
    assert released.detail["was_held_for"] == RESOLUTION_PROPOSED
    assert plan(released.row, now, schedule) == MakeCall(CallKind.QUERY)
    assert _refusal(apply(released.row, _resolved(row, False), now, schedule))


def test_an_approval_after_two_people_found_it_unpaid_freezes_the_row(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """L2, P4: Visa's word outweighs theirs, and the funding is not handed back by itself any more."""
    row = _proposed(_settled(make_row, now, **CAPTURED), now, schedule, paid=False)
    failed = _step(apply(row, _resolved(row, False), now, schedule)).row
    frozen = _step(apply(failed, answer(failed, CallKind.QUERY, OutcomeKind.PAID), now, schedule)).row
    assert (frozen.held, frozen.compensation) == (True, CompensationState.MANUAL)
    undone = ResolutionUndone("ann", "Visa paid it", failed.state_version)
    assert "Visa approved it" in _refusal(apply(frozen, undone, now, schedule))


# ---- undo


def _ended(make_row: MakeRow, now: datetime, schedule: Schedule, paid: bool, **changes: Any) -> PayoutRow:
    row = _proposed(_settled(make_row, now, **changes), now, schedule, paid)
    return _step(apply(row, _resolved(row, paid), now, schedule)).row


@pytest.mark.parametrize("paid", [True, False])
@pytest.mark.parametrize("captured", [True, False])
def test_a_resolution_of_which_nothing_followed_is_taken_back(
    make_row: MakeRow, now: datetime, schedule: Schedule, paid: bool, captured: bool
) -> None:
    """P9, P3: unknown and held again, with nothing to hand back, and not announced as anything."""
    row = _ended(make_row, now, schedule, paid, **(CAPTURED if captured else {}))
    step = _step(apply(row, ResolutionUndone("cy", "wrong ticket", row.state_version), now, schedule))
    after = step.row
    assert (after.state, after.ambiguous) == (PayoutState.UNKNOWN, True)
    assert (after.held, after.hold_reason) == (True, RESOLUTION_UNDONE)
    assert (after.reason_code, after.reason, after.compensation) == (None, None, CompensationState.NONE)
    assert (after.compensation_action, after.compensation_executor) == (None, None)
    assert (after.identity_number, after.sealed_body) == (row.identity_number, row.sealed_body)
    assert publications(after) == ()
    assert isinstance(plan(after, now, schedule), Nothing)
    again = _proposed(after, now, schedule, not paid)
    ended = _step(apply(again, _resolved(again, not paid), now, schedule)).row
    assert ended.state_version > row.state_version, "K3: consumers keep the highest version"


@pytest.mark.parametrize("state", list(PayoutState))
def test_nothing_is_undone_that_people_did_not_resolve(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """Terminal states never change but for what operators did."""
    assert _refusal(apply(make_row(state), ResolutionUndone("cy", "wrong ticket", 5), now, schedule))


@pytest.mark.parametrize("kind", [FundingKind.INTERNAL, FundingKind.PIS, FundingKind.UNSPECIFIED])
def test_a_demand_to_the_originator_or_to_a_person_is_not_taken_back(
    make_row: MakeRow, now: datetime, schedule: Schedule, kind: FundingKind
) -> None:
    """C2, P4: it may be published, and acted on, before the ledger knows that it was."""
    row = _ended(make_row, now, schedule, False, funding_kind=kind, **CAPTURED)
    assert row.announced_version < row.announce_version
    assert _refusal(apply(row, ResolutionUndone("cy", "wrong ticket", row.state_version), now, schedule))


def test_a_hand_back_that_has_begun_is_not_taken_back(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """C1, C3, P4: not even one that was refused; its kind and body are fixed."""
    row = _ended(make_row, now, schedule, False, **CAPTURED)
    begun = begin_call(row, CallKind.REVERSE, now, schedule, sealed_body=b"reversal").row
    busy = answer(begun, CallKind.REVERSE, OutcomeKind.REFUSED, refusal=Refusal.RATE_LIMITED)
    refused = _step(apply(begun, busy, now, schedule)).row
    for after in (begun, refused):
        assert _refusal(apply(after, ResolutionUndone("cy", "wrong ticket", row.state_version), now, schedule))


def test_a_hold_stops_a_hand_back_of_ours_and_the_resolution_can_still_be_undone(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """P9, L12: the way to take a mistake back in time."""
    row = _ended(make_row, now, schedule, False, **CAPTURED)
    held = _step(apply(row, Held("MISTAKE"), now, schedule)).row
    undone = apply(held, ResolutionUndone("cy", "wrong ticket", row.state_version), now, schedule)
    assert _step(undone).row.state is PayoutState.UNKNOWN


def test_what_visa_has_confirmed_is_not_undone(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """P2, S5: an approval that was seen is never forgotten, and changes nothing that was announced (K3)."""
    row = _ended(make_row, now, schedule, True)
    confirmed = _step(
        apply(row, answer(row, CallKind.QUERY, OutcomeKind.PAID, transaction_identifier="1"), now, schedule)
    )
    assert publications(confirmed.row) == publications(row)
    assert _refusal(apply(confirmed.row, ResolutionUndone("cy", "wrong", row.state_version), now, schedule))


@pytest.mark.parametrize(
    "event", [ResolutionUndone("cy", "wrong ticket", 6), ResolutionUndone("", "why", 7), ResolutionUndone("cy", " ", 7)]
)
def test_undoing_names_the_resolution_a_person_and_a_reason(
    make_row: MakeRow, now: datetime, schedule: Schedule, event: Event
) -> None:
    """P9."""
    row = _ended(make_row, now, schedule, True)
    assert row.state_version == 7
    assert _refusal(apply(row, event, now, schedule))


# ---- hold and release


@pytest.mark.parametrize("state", list(PayoutState))
def test_hold_and_release_change_nothing_else(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """L12."""
    row = make_row(state)
    held = _step(apply(row, Held("INCIDENT"), now, schedule)).row
    assert (held.held, held.hold_reason, held.state, held.version) == (True, "INCIDENT", state, row.version + 1)
    assert isinstance(apply(held, Held("AGAIN"), now, schedule), Nothing)
    released = _step(apply(held, Released("operator-1"), now, schedule)).row
    assert (released.held, released.hold_reason, released.state) == (False, None, state)
    assert isinstance(apply(released, Released("operator-1"), now, schedule), Nothing)


@pytest.mark.parametrize("state", list(PayoutState))
def test_a_released_row_is_driven_only_if_there_is_something_to_do(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """K4: the sweeper would publish `payout_retry` for an ended row for ever."""
    held = make_row(state, held=True, hold_reason="INCIDENT", due_at=None)
    released = _step(apply(held, Released("operator-1"), now, schedule)).row
    rests = state is PayoutState.IN_REVIEW or state in TERMINAL_STATES
    assert (released.due_at is None) is rests


@pytest.mark.parametrize("compensation", [CompensationState.NONE, CompensationState.RUNNING])
def test_a_row_released_while_its_call_is_under_way_is_driven_again(
    make_row: MakeRow, now: datetime, schedule: Schedule, compensation: CompensationState
) -> None:
    """P1, S2: the lease is live at the release; should its owner die, only `due_at` finds the row."""
    paying = compensation is CompensationState.NONE
    row = make_row(
        PayoutState.SUBMITTING if paying else PayoutState.DECLINED,
        compensation=compensation,
        compensation_executor=None if paying else Executor.PROCESSOR,
        lease_owner="worker-a/1",
        lease_until=now + timedelta(seconds=30),
        held=True,
        hold_reason="INCIDENT",
        due_at=now + timedelta(seconds=65),
    )
    assert _step(apply(row, Released("operator-1"), now, schedule)).row.due_at is not None


def test_a_hold_does_not_hide_a_call_that_is_under_way(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """L9: `modes set` waits for live leases; one wiped by a hold lets a call leave after it returned."""
    row = make_row(PayoutState.SUBMITTING)
    held = _step(apply(row, Held("INCIDENT"), now, schedule)).row
    released = _step(apply(held, Released("operator-1"), now, schedule)).row
    assert (held.lease_owner, held.lease_until) == (row.lease_owner, row.lease_until)
    assert (released.lease_owner, released.lease_until) == (row.lease_owner, row.lease_until)


def test_a_release_after_the_budget_was_spent_gives_a_new_one(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """S7: a person said that it shall be tried again; any other release changes no count."""
    for reason, left in (("RESENDS_SPENT", 0), ("INCIDENT", 5)):
        row = _settled(make_row, now, own_failures=5, held=True, hold_reason=reason)
        assert _step(apply(row, Released("operator-1", "Visa repaired it"), now, schedule)).row.own_failures == left
