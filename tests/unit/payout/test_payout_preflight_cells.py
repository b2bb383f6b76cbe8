"""B3, L3, L12, S7: what questions before the first intent do to a row, in every state that it can be in."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from processors.payout.events import CallKind, Inquired, InquiryVerdict
from processors.payout.next_step import IntentNotAllowed
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.row import LEDGER_RESTORED, CompensationState, PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply, begin_inquiry, plan
from processors.payout.step import MakeCall, Nothing, Step

MakeRow = Callable[..., PayoutRow]
PASSED, REFUSED, LATER = InquiryVerdict.PASSED, InquiryVerdict.REFUSED, InquiryVerdict.LATER
SILENCE = Outcome(OutcomeKind.UNKNOWN, "READ_TIMEOUT")
SYSTEMIC = Outcome(
    OutcomeKind.REFUSED, "HTTP_429", refusal=Refusal.RATE_LIMITED, http_status=429, systemic=True, retry_after_seconds=7
)
OWN = Outcome(OutcomeKind.UNKNOWN, "HTTP_500", http_status=500)


def inquired(verdict: InquiryVerdict, outcome: Outcome | None = None) -> Inquired:
    reason = "CARD_NOT_ELIGIBLE" if verdict is REFUSED else "CARD_ELIGIBLE" if outcome is None else outcome.reason_code
    return Inquired("card_attributes", verdict, reason, outcome=outcome, http_status=200, visa_correlation_id="corr-7")


ENDINGS = [inquired(PASSED), inquired(REFUSED), inquired(LATER, SILENCE), inquired(LATER, OWN)]


def applied(row: PayoutRow, event: Inquired, now: datetime, schedule: Schedule) -> Step:
    step = apply(row, event, now, schedule)
    assert isinstance(step, Step), step
    return step


def cleared(make_row: MakeRow, **changes: Any) -> PayoutRow:
    """A row with a question under way."""
    return make_row(PayoutState.CLEARED, **({"lease_owner": "worker-a/3"} | changes))


def test_a_question_is_written_before_it_leaves_and_fixes_nothing(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """P7, S1: the history says what is asked and by which policy; no identity, no attempt, no other state."""
    row = cleared(make_row)
    step = begin_inquiry(row, "card_attributes", "policy-2", now, schedule)
    assert (step.transition, step.detail) == (
        "preflight_begun",
        {"question": "card_attributes", "policy_version": "policy-2"},
    )
    assert step.row.due_at == now + timedelta(seconds=schedule.lease_seconds + schedule.clock_skew_seconds)
    assert replace(step.row, due_at=row.due_at, version=row.version) == row
    assert step.row.version == row.version + 1


@pytest.mark.parametrize("state", [state for state in PayoutState if state is not PayoutState.CLEARED])
def test_nothing_is_asked_after_the_first_intent(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    with pytest.raises(IntentNotAllowed):
        begin_inquiry(make_row(state), "card_attributes", "policy-2", now, schedule)


@pytest.mark.parametrize(
    "changes",
    [
        {"held": True, "hold_reason": "OPERATOR"},
        {"first_intent_at": datetime.fromisoformat("2026-03-01T11:00:00+00:00")},
        {"ambiguous": True},
        {"expires_at": datetime.fromisoformat("2026-03-01T11:00:00+00:00")},
    ],
)
def test_nothing_is_asked_for_a_row_that_may_not_call_out(
    make_row: MakeRow, now: datetime, schedule: Schedule, changes: dict[str, Any]
) -> None:
    """L12, P2: the last pure gate does not trust its caller."""
    with pytest.raises(IntentNotAllowed):
        begin_inquiry(cleared(make_row, **changes), "card_attributes", "policy-2", now, schedule)


def test_what_passed_goes_on_to_its_first_intent(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    step = applied(cleared(make_row), inquired(PASSED), now, schedule)
    assert (step.transition, step.row.state) == ("preflight_passed", PayoutState.CLEARED)
    assert plan(step.row, now, schedule) == MakeCall(CallKind.PUSH, needs_identity=True)
    assert step.detail == {
        "question": "card_attributes",
        "verdict": "PASSED",
        "reason_code": "CARD_ELIGIBLE",
        "http_status": 200,
        "visa_correlation_id": "corr-7",
    }


def test_what_is_refused_ends_unpaid_and_its_funding_is_handed_back(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """B3, C1, F-09: no OCT; captured funding of its own is compensated as after any unpaid end."""
    row = cleared(make_row, funding_captured=True, receipt_owned=True)
    step = applied(row, inquired(REFUSED), now, schedule)
    assert (step.transition, step.row.state) == ("failed", PayoutState.FAILED)
    assert step.row.reason_code == "CARD_NOT_ELIGIBLE"
    assert step.row.reason == "The recipient's card takes no payouts of this kind."
    assert step.row.compensation is CompensationState.REQUIRED
    assert (step.row.attempts, step.row.first_intent_at) == (0, None)


def test_a_refusal_compensates_nothing_that_was_not_captured(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """C1, L7."""
    for facts in ({"funding_captured": False}, {"funding_captured": True, "receipt_owned": False}):
        step = applied(cleared(make_row, **facts), inquired(REFUSED), now, schedule)
        assert step.row.compensation is CompensationState.NONE


@pytest.mark.parametrize("outcome", [SILENCE, SYSTEMIC, replace(OWN, systemic=True)])
def test_s7_what_fails_everybody_spends_nothing_however_often(
    make_row: MakeRow, now: datetime, schedule: Schedule, outcome: Outcome
) -> None:
    """S7, K5: an outage of the questions ends no payout; the waits grow, and Retry-After is kept."""
    row = cleared(make_row)
    for _ in range(schedule.retry_budget * 3):
        step = applied(row, inquired(LATER, outcome), now, schedule)
        assert (step.transition, step.row.state) == ("preflight_deferred", PayoutState.CLEARED)
        assert step.row.due_at is not None
        assert step.row.due_at - now >= timedelta(seconds=outcome.retry_after_seconds or 0.8)
        row = step.row
    assert row.own_failures == 0


def test_s7_what_fails_this_payout_alone_ends_it_with_its_budget(
    make_row: MakeRow, now: datetime, schedule: Schedule
) -> None:
    """S7, P1: known not paid, so it ends FAILED, and does not wait for ever."""
    row = cleared(make_row, funding_captured=True, receipt_owned=True)
    lives = []
    while row.state is PayoutState.CLEARED:
        step = applied(row, inquired(LATER, OWN), now, schedule)
        lives.append(step.transition)
        row = step.row
    assert lives == ["preflight_deferred"] * (schedule.retry_budget - 1) + ["budget_spent"]
    assert (row.state, row.reason_code) == (PayoutState.FAILED, "RETRY_BUDGET_SPENT")
    assert row.compensation is CompensationState.REQUIRED


@pytest.mark.parametrize("event", ENDINGS, ids=lambda event: f"{event.verdict} {event.reason_code}")
@pytest.mark.parametrize("state", [state for state in PayoutState if state is not PayoutState.CLEARED])
def test_a_late_answer_changes_nothing_and_gives_the_lease_back(
    make_row: MakeRow, now: datetime, schedule: Schedule, state: PayoutState, event: Inquired
) -> None:
    """L2, L3, L9: somebody cancelled it meanwhile, or another worker went on: a line in the history, no more."""
    row = make_row(state)
    alone = replace(row, lease_owner=None, lease_until=None)
    assert isinstance(apply(alone, event, now, schedule), Nothing)
    leased = replace(row, lease_owner="worker-a/3", lease_until=now)
    step = applied(leased, event, now, schedule)
    assert step.transition == "noted"
    assert replace(step.row, version=leased.version) == leased


@pytest.mark.parametrize("event", ENDINGS, ids=lambda event: f"{event.verdict} {event.reason_code}")
def test_l11_what_may_have_been_paid_is_ended_by_no_question(
    make_row: MakeRow, now: datetime, schedule: Schedule, event: Inquired
) -> None:
    row = cleared(make_row, held=True, hold_reason=LEDGER_RESTORED)
    assert applied(row, event, now, schedule).transition == "noted"


@pytest.mark.parametrize("event", ENDINGS, ids=lambda event: f"{event.verdict} {event.reason_code}")
def test_l4_an_answer_whose_commit_was_not_confirmed_is_counted_once(
    make_row: MakeRow, now: datetime, schedule: Schedule, event: Inquired
) -> None:
    """L4, S7: read again, the lease is gone: it was written, and spends nothing a second time."""
    row = cleared(make_row, lease_owner=None, own_failures=1)
    assert isinstance(apply(row, event, now, schedule), Nothing)


@pytest.mark.parametrize("event", [inquired(PASSED), inquired(LATER, SILENCE)], ids=lambda event: event.verdict)
def test_l12_held_meanwhile_it_stays_held_and_is_not_due(
    make_row: MakeRow, now: datetime, schedule: Schedule, event: Inquired
) -> None:
    row = cleared(make_row, held=True, hold_reason="OPERATOR", due_at=None)
    step = applied(row, event, now, schedule)
    assert (step.row.held, step.row.hold_reason, step.row.due_at) == (True, "OPERATOR", None)
