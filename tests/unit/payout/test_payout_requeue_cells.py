"""What driving a payout by hand does in every state: nothing that the schedule would not do, only sooner (S3, S6)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from processors.payout.events import SUBMISSIONS, Answered, CallKind, Requeued
from processors.payout.outcome import OutcomeKind
from processors.payout.row import TERMINAL_STATES, PayoutRow, PayoutState
from processors.payout.schedule import Schedule, resend_not_before
from processors.payout.state_machine import apply, plan
from processors.payout.step import MakeCall, Nothing, Step

MakeRow = Callable[..., PayoutRow]
Answer = Callable[..., Answered]
REQUEUED = Requeued("maria", "INC-128")
MAY_BE_SENT = (PayoutState.SUBMITTING, PayoutState.PENDING, PayoutState.UNKNOWN)
WAITS = (PayoutState.RECEIVED, PayoutState.VALIDATED, PayoutState.CLEARED, PayoutState.PENDING, PayoutState.UNKNOWN)


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


@pytest.mark.parametrize("state", WAITS)
def test_s4_27_what_waits_is_due_now_and_nothing_else_of_it_changes(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S4-27, S6: state, attempts, identity, body and doubt stay; the next step is the one it would have had."""
    row = make_row(state, due_at=now + timedelta(minutes=5))
    step = _step(apply(row, REQUEUED, now, schedule))
    assert (step.transition, step.row.due_at) == ("requeued", now)
    assert (step.detail["by"], step.detail["reason"]) == ("maria", "INC-128")
    assert step.detail["was_due_at"] == (now + timedelta(minutes=5)).isoformat()
    same = {name: value for name, value in row.__dict__.items() if name not in ("due_at", "version")}
    assert {name: step.row.__dict__[name] for name in same} == same
    assert plan(step.row, now, schedule) == plan(row, now, schedule)


@pytest.mark.parametrize("state", MAY_BE_SENT)
def test_s3_what_may_have_been_sent_is_asked_about_and_never_sent(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S3, S6, S4-27: after a requeue the next call is a question, on every rail."""
    row = make_row(state, lease_owner=None, lease_until=None)
    after = _step(apply(row, REQUEUED, now, schedule)).row
    match plan(after, now, schedule):
        case MakeCall(call=call):
            assert call not in SUBMISSIONS
        case Step(row=lost, follow_up=call):
            assert lost.state is PayoutState.UNKNOWN
            assert call in (CallKind.QUERY, CallKind.STATUS, CallKind.ACCOUNT_QUERY)
        case other:
            pytest.fail(f"{state} is driven to {other}")


def test_s3_a_question_asked_too_early_sends_nothing_again(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S3: an operator who asks within the horizon learns that Visa does not know it, and no more than that."""
    row = _step(apply(make_row(PayoutState.UNKNOWN), REQUEUED, now, schedule)).row
    assert row.last_intent_at is not None
    assert now < resend_not_before(schedule, row.last_intent_at)
    unknown = answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND, asked_at=now)
    after = apply(row, unknown, now, schedule)
    assert isinstance(after, Nothing) or after.follow_up not in SUBMISSIONS
    assert isinstance(after, Nothing) or after.row.state is PayoutState.UNKNOWN


def test_l3_a_call_that_may_be_under_way_is_waited_for(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """L3: its answer decides, and says until when to wait."""
    refusal = apply(make_row(PayoutState.SUBMITTING), REQUEUED, now, schedule)
    assert isinstance(refusal, Nothing)
    assert "may be under way until" in refusal.reason


@pytest.mark.parametrize("state", [*sorted(TERMINAL_STATES), PayoutState.IN_REVIEW])
def test_what_has_ended_or_waits_for_a_person_is_refused_with_the_reason(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """S4-27, R1: an end is an end, and a reviewer is not hurried by a schedule."""
    refusal = apply(make_row(state), REQUEUED, now, schedule)
    assert isinstance(refusal, Nothing)
    assert "reviewer" in refusal.reason if state is PayoutState.IN_REVIEW else state.value in refusal.reason


@pytest.mark.parametrize("state", WAITS)
def test_l12_a_held_payout_stays_held(make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState) -> None:
    """L12: only a release ends a hold."""
    held: dict[str, Any] = {"held": True, "hold_reason": "QUERY_FAILED"}
    refusal = apply(make_row(state, **held), REQUEUED, now, schedule)
    assert isinstance(refusal, Nothing)
    assert "QUERY_FAILED" in refusal.reason
