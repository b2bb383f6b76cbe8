"""Rule L2's freeze: that Visa paid after an unpaid end reaches whoever hands back, and is never forgotten."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from processors.payout.events import Answered, CallKind, Confirmed, Released
from processors.payout.frozen import APPROVED_AFTER_UNPAID_END, FROZEN_FOR, MAY_BE_PAID_AFTER_UNPAID_END, is_frozen
from processors.payout.outcome import OutcomeKind, Refusal
from processors.payout.publications import publications
from processors.payout.row import CompensationAction, CompensationState, Executor, PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply, compensation_id
from processors.payout.step import Step

MakeRow = Callable[..., PayoutRow]
Answer = Callable[..., Answered]
FROZEN_BY = {
    OutcomeKind.PAID: APPROVED_AFTER_UNPAID_END,
    OutcomeKind.OPERATOR: MAY_BE_PAID_AFTER_UNPAID_END,
}


def _ended(make_row: MakeRow, compensation: CompensationState, **changes: Any) -> PayoutRow:
    """Ended unpaid by two people's word; what is announced of it has been published."""
    facts: dict[str, Any] = {
        "reason_code": "RESOLVED_NOT_PAID",
        "funding_captured": True,
        "receipt_owned": True,
        "compensation": compensation,
        "compensation_version": 0 if compensation is CompensationState.NONE else 5,
        "announced_version": 5,
    }
    if compensation is not CompensationState.NONE:
        facts |= {"compensation_action": CompensationAction.REVERSE_FUNDS, "compensation_executor": Executor.PROCESSOR}
    if compensation in (CompensationState.RUNNING, CompensationState.UNKNOWN):
        facts |= {"compensation_attempts": 1, "compensation_sealed_body": b"reversal"}
    if compensation is CompensationState.MANUAL:
        facts |= {"compensation_action": CompensationAction.MANUAL}
        facts |= {"compensation_reason_code": "REVERSAL_FACTS_MISSING"}
    return make_row(PayoutState.FAILED, **(facts | changes))


def _after(row: PayoutRow, event: Any, now: datetime, schedule: Schedule) -> PayoutRow:
    step = apply(row, event, now, schedule)
    assert isinstance(step, Step), step
    return step.row


def _results(row: PayoutRow) -> list[tuple[str, str | None]]:
    events = [event.record for event in publications(row) if event.topic == "payout_compensation_results"]
    return [(record["status"], record["reason_code"]) for record in events]


@pytest.mark.parametrize("kind", sorted(FROZEN_BY))
@pytest.mark.parametrize("compensation", [CompensationState.REQUIRED, CompensationState.MANUAL])
def test_whoever_was_told_to_hand_back_is_told_of_the_approval(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    compensation: CompensationState,
    kind: OutcomeKind,
) -> None:
    """P4, L2, K2: the MANUAL demand is published already; the approval must follow it, or a person pays twice."""
    row = _ended(make_row, compensation)
    frozen = _after(row, answer(row, CallKind.PUSH, kind), now, schedule)
    assert _results(frozen) == [("MANUAL", FROZEN_BY[kind])]
    assert frozen.announce_version == frozen.compensation_version == frozen.version, "nothing new is published"
    assert frozen.announce_version > frozen.announced_version


def test_an_approval_after_a_doubt_is_told_as_well(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """L2: whoever judged the doubt to be nothing has to hear of the approval."""
    row = _ended(make_row, CompensationState.MANUAL)
    doubt = _after(row, answer(row, CallKind.QUERY, OutcomeKind.OPERATOR), now, schedule)
    approved = _after(doubt, answer(doubt, CallKind.QUERY, OutcomeKind.PAID), now, schedule)
    assert _results(approved) == [("MANUAL", APPROVED_AFTER_UNPAID_END)]
    assert approved.announce_version == approved.version


@pytest.mark.parametrize("kind", sorted(FROZEN_BY))
@pytest.mark.parametrize("compensation", list(CompensationState))
def test_a_release_does_not_make_the_row_forget_that_visa_paid(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    compensation: CompensationState,
    kind: OutcomeKind,
) -> None:
    """P4, L2: after the release `payouts stuck` would say "a person hands the funding back" of a paid payout."""
    row = _ended(make_row, compensation)
    frozen = _after(row, answer(row, CallKind.PUSH, kind), now, schedule)
    released = _after(frozen, Released("maria", "seen"), now, schedule)
    assert not released.held
    assert is_frozen(released)
    assert released.compensation_reason_code == FROZEN_BY[kind]


@pytest.mark.parametrize("end", [OutcomeKind.PAID, OutcomeKind.DECLINED, OutcomeKind.REFUSED, OutcomeKind.OPERATOR])
def test_the_end_of_a_hand_back_under_way_does_not_hide_the_approval(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, end: OutcomeKind
) -> None:
    """L2, P4: paid and handed back, or paid and MANUAL, is what the reconciliation must find, also after a release."""
    row = _ended(make_row, CompensationState.RUNNING)
    frozen = _after(row, answer(row, CallKind.PUSH, OutcomeKind.PAID), now, schedule)
    refusal = Refusal.RATE_LIMITED if end is OutcomeKind.REFUSED else None
    ended = _after(frozen, answer(frozen, CallKind.REVERSE, end, refusal=refusal), now, schedule)
    assert is_frozen(_after(ended, Released("maria", "seen"), now, schedule))
    if end is OutcomeKind.PAID:
        assert _results(ended) == [("COMPENSATED", None)], "the contract: no reason code when compensated"
    else:
        assert _results(ended) == [("MANUAL", APPROVED_AFTER_UNPAID_END)]


def test_the_originators_confirmation_does_not_hide_the_approval(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """L2, C2: he handed the funding back of what Visa paid."""
    facts = {"compensation_executor": Executor.ORIGINATOR, "compensation_action": CompensationAction.RELEASE_HOLD}
    row = _ended(make_row, CompensationState.REQUIRED, **facts)
    frozen = _after(row, answer(row, CallKind.PUSH, OutcomeKind.PAID), now, schedule)
    confirmed = _after(frozen, Confirmed(compensation_id(row.payout_id), True, "confirmation-1"), now, schedule)
    assert (confirmed.compensation, _results(confirmed)) == (CompensationState.COMPENSATED, [("COMPENSATED", None)])
    assert is_frozen(_after(confirmed, Released("maria", "seen"), now, schedule))


def test_what_a_release_left_frozen_is_not_frozen_again_by_the_same_news(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """L2: redelivered answers page nobody twice, and publish nothing again."""
    for compensation in CompensationState:
        row = _ended(make_row, compensation)
        frozen = _after(row, answer(row, CallKind.PUSH, OutcomeKind.PAID), now, schedule)
        released = _after(frozen, Released("maria", "seen"), now, schedule)
        for kind in FROZEN_BY:
            assert not isinstance(apply(released, answer(released, CallKind.PUSH, kind), now, schedule), Step)
    assert set(FROZEN_BY.values()) == FROZEN_FOR
