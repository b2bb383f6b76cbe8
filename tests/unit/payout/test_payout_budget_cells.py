"""What spends a payout's retry budget, what does not, and who sees a payout that cannot end by itself (S7, P1)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.payout.events import Answered, CallKind
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.row import CompensationState, PayoutRow, PayoutState
from processors.payout.schedule import Schedule, resend_not_before
from processors.payout.state_machine import apply, begin_call, plan
from processors.payout.step import MakeCall, Nothing, Step

MakeRow = Callable[..., PayoutRow]
Answer = Callable[..., Answered]
HOUR = timedelta(hours=1)

SYSTEMIC = [Refusal.RATE_LIMITED, Refusal.NOT_CONNECTED, Refusal.CREDENTIALS, Refusal.WRONG_ENDPOINT]
OWN: list[dict[str, Any]] = [{"http_status": 500}, {"http_status": 200}, {"http_status": 202}]
NOT_OWN: list[dict[str, Any]] = [
    {},
    {"http_status": 502},
    {"http_status": 503},
    {"http_status": 504},
    {"http_status": 500, "systemic": True},
]


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


def _after_push(make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, **outcome: Any) -> Step:
    facts = outcome.pop("row", {})
    row = make_row(PayoutState.SUBMITTING, **facts)
    return _step(apply(row, answer(row, CallKind.PUSH, outcome.pop("kind"), **outcome), now, schedule))


# ---- what an attempt costs


@pytest.mark.parametrize("ambiguous", [True, False])
@pytest.mark.parametrize("refusal", SYSTEMIC)
@pytest.mark.parametrize("flag", [True, False])
def test_a_systemic_refusal_spends_nothing(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    ambiguous: bool,
    refusal: Refusal,
    flag: bool,
) -> None:
    """S7: whatever else the outcome says about itself."""
    refused = {"kind": OutcomeKind.REFUSED, "refusal": refusal, "systemic": flag}
    after = _after_push(make_row, answer, now, schedule, row={"ambiguous": ambiguous}, **refused).row
    assert (after.own_failures, after.systemic_refusals) == (0, 1)


@pytest.mark.parametrize("facts", NOT_OWN)
def test_what_an_outage_looks_like_spends_nothing(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, facts: dict[str, Any]
) -> None:
    """S7, K5: silence and 502, 503, 504 stop the stage, not the payouts."""
    after = _after_push(make_row, answer, now, schedule, kind=OutcomeKind.UNKNOWN, **facts).row
    assert (after.state, after.own_failures) == (PayoutState.UNKNOWN, 0)


@pytest.mark.parametrize("facts", OWN)
def test_an_error_that_visa_answers_to_this_payout_spends_one(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, facts: dict[str, Any]
) -> None:
    """S7."""
    after = _after_push(make_row, answer, now, schedule, kind=OutcomeKind.UNKNOWN, **facts).row
    assert (after.state, after.own_failures) == (PayoutState.UNKNOWN, 1)


def test_a_worker_that_died_spends_nothing(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """S7: the lost answer was ours to lose."""
    row = make_row(PayoutState.SUBMITTING, lease_until=now - HOUR)
    assert _step(plan(row, now, schedule)).row.own_failures == 0


@pytest.mark.parametrize("call", [CallKind.STATUS, CallKind.QUERY])
@pytest.mark.parametrize("kind", sorted(set(OutcomeKind) - {OutcomeKind.PAID}))
def test_questions_spend_nothing(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, call: CallKind, kind: OutcomeKind
) -> None:
    """S7."""
    row = make_row(PayoutState.PENDING if call is CallKind.STATUS else PayoutState.UNKNOWN)
    decision = apply(row, answer(row, call, kind, http_status=500), now, schedule)
    assert isinstance(decision, Nothing) or decision.row.own_failures == 0


# ---- the budget spent


def test_refusals_of_its_own_come_later_and_later_until_the_payout_fails_known_not_paid(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S7, C1: never due before its time, five and not six."""
    facts: dict[str, Any] = {"funding_captured": True, "receipt_owned": True}
    waits = []
    for failures in range(schedule.retry_budget):
        row = {"own_failures": failures, **facts}
        step = _after_push(make_row, answer, now, schedule, kind=OutcomeKind.REFUSED, http_status=409, row=row)
        if step.row.due_at is not None and not step.row.is_terminal:
            assert (step.transition, step.row.state) == ("refused", PayoutState.CLEARED)
            waits.append((step.row.due_at - now).total_seconds())
    assert len(waits) == schedule.retry_budget - 1
    assert waits == sorted(waits)
    assert waits[0] >= 18
    assert waits[-1] <= 330
    assert (step.transition, step.row.state) == ("budget_spent", PayoutState.FAILED)
    assert (step.row.reason_code, step.row.own_failures) == ("RETRY_BUDGET_SPENT", schedule.retry_budget)
    assert step.row.compensation is CompensationState.REQUIRED


def test_an_exhausted_budget_holds_what_may_be_paid(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S7, P3: never failed; under a name of its own, so that it can be counted."""
    at = now - HOUR
    row = make_row(PayoutState.UNKNOWN, own_failures=schedule.retry_budget, first_intent_at=at, last_intent_at=at)
    step = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND), now, schedule))
    assert (step.transition, step.row.state, step.row.hold_reason) == (
        "budget_spent",
        PayoutState.UNKNOWN,
        "RESENDS_SPENT",
    )
    assert (step.row.held, step.follow_up, step.row.ambiguous) == (True, None, True)


@pytest.mark.parametrize("kind", [OutcomeKind.PAID, OutcomeKind.DECLINED])
def test_an_exhausted_budget_is_no_obstacle_to_a_definite_answer(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, kind: OutcomeKind
) -> None:
    """S6: it is asked about before anybody is called."""
    row = make_row(PayoutState.UNKNOWN, own_failures=schedule.retry_budget)
    assert plan(row, now, schedule) == MakeCall(CallKind.QUERY)
    assert _step(apply(row, answer(row, CallKind.QUERY, kind), now, schedule)).row.is_terminal


def test_systemic_refusals_spend_none_of_the_resends(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule
) -> None:
    """S7."""
    at = now - HOUR
    row = make_row(
        PayoutState.UNKNOWN, attempts=100, systemic_refusals=99, own_failures=1, first_intent_at=at, last_intent_at=at
    )
    step = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND), now, schedule))
    assert step.follow_up is CallKind.PUSH


@pytest.mark.parametrize("failures", [1, 2, 3, 4])
def test_a_resend_waits_out_the_horizon_and_the_back_off(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, failures: int
) -> None:
    """S3, S7: before-due never, after-due soon."""
    row = make_row(PayoutState.UNKNOWN, own_failures=failures, first_intent_at=now, last_intent_at=now)
    settled = resend_not_before(schedule, now)
    backed_off = now + timedelta(seconds=20 * 2 ** (failures - 1))
    early = max(settled - timedelta(seconds=1), now + (backed_off - now) * 0.89)
    late = max(settled, now + (backed_off - now) * 1.11)
    found_nothing = answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND, asked_at=early)
    waiting = _step(apply(row, found_nothing, early, schedule))
    assert waiting.follow_up is None
    assert waiting.row.due_at is not None
    assert settled <= waiting.row.due_at <= late + timedelta(seconds=330)
    found_nothing = answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND, asked_at=late)
    assert _step(apply(row, found_nothing, late, schedule)).follow_up is CallKind.PUSH


OUTCOMES = st.builds(
    Outcome,
    kind=st.sampled_from([OutcomeKind.UNKNOWN, OutcomeKind.REFUSED]),
    reason_code=st.just("TEST"),
    refusal=st.sampled_from([None, *Refusal]),
    http_status=st.sampled_from([None, 200, 202, 303, 400, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504]),
    systemic=st.booleans(),
    retry_after_seconds=st.none() | st.floats(0, 1e6),
)


@given(outcomes=st.lists(OUTCOMES, max_size=60), ambiguous=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_property_only_own_failures_count_and_never_more_than_the_budget(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, outcomes: list[Outcome], ambiguous: bool
) -> None:
    """S7: a life of pushes that fail, each begun from where the one before left the row."""
    at, own = now, 0
    row = make_row(PayoutState.SUBMITTING, ambiguous=ambiguous)
    for outcome in outcomes:
        step = _step(apply(row, Answered(CallKind.PUSH, row.attempts, outcome, at), at, schedule))
        systemic = outcome.systemic or outcome.refusal in SYSTEMIC or outcome.http_status in (429, 502, 503, 504)
        own += not systemic and (outcome.kind is OutcomeKind.REFUSED or outcome.http_status is not None)
        row = step.row
        if row.is_terminal:
            assert not row.ambiguous
            break
        assert row.own_failures == own
        assert row.due_at is not None
        assert row.due_at > at, "S7: never at once"
        if row.state is PayoutState.UNKNOWN:
            at = max(at + HOUR / 10, row.due_at)
            found = _step(apply(row, answer(row, CallKind.QUERY, OutcomeKind.NOT_FOUND, asked_at=at), at, schedule))
            row = found.row
            if row.held:
                assert own >= schedule.retry_budget or at - (row.first_intent_at or at) >= 23 * HOUR
                break
            assert found.follow_up is CallKind.PUSH
        if (decision := plan(row, at, schedule)) != MakeCall(CallKind.PUSH) and row.state is PayoutState.CLEARED:
            assert isinstance(decision, Step)
            break
        assert own < schedule.retry_budget
        row = begin_call(row, CallKind.PUSH, at, schedule).row


# ---- waiting visibly for a person


@pytest.mark.parametrize(
    ("kind", "age_hours", "held"),
    [
        (OutcomeKind.PENDING, 22, False),
        (OutcomeKind.PENDING, 23, True),
        (OutcomeKind.UNKNOWN, 23, False),
        (OutcomeKind.UNKNOWN, 46, False),
        (OutcomeKind.UNKNOWN, 47, True),
        (OutcomeKind.REFUSED, 46, False),
        (OutcomeKind.REFUSED, 47, True),
        (OutcomeKind.NOT_FOUND, 23, True),
    ],
)
def test_an_unknown_payout_past_its_time_is_shown_to_a_person_but_not_for_an_outage_of_a_day(
    make_row: MakeRow,
    answer: Answer,
    now: datetime,
    schedule: Schedule,
    kind: OutcomeKind,
    age_hours: int,
    held: bool,
) -> None:
    """P1, P3: held, never ended; what is not held is asked about again."""
    at = now - age_hours * HOUR
    row = make_row(PayoutState.UNKNOWN, first_intent_at=at, last_intent_at=at)
    refusal = Refusal.NOT_CONNECTED if kind is OutcomeKind.REFUSED else None
    after = _step(apply(row, answer(row, CallKind.QUERY, kind, refusal=refusal), now, schedule)).row
    assert (after.state, after.ambiguous, after.held) == (PayoutState.UNKNOWN, True, held)
    assert (after.hold_reason, after.due_at is None) == ("UNKNOWN_PAST_RESEND_LIMIT" if held else None, held)


@pytest.mark.parametrize("state", [PayoutState.PAID, PayoutState.DECLINED, PayoutState.UNKNOWN, PayoutState.CLEARED])
def test_an_answer_that_changes_nothing_still_gives_its_lease_back(
    make_row: MakeRow, answer: Answer, now: datetime, schedule: Schedule, state: PayoutState
) -> None:
    """L3, L9: only its owner's commit does; without one `modes set` and the next call would wait for the lease."""
    facts = {"attempts": 2, "lease_owner": "worker-a/1", "lease_until": now + timedelta(seconds=30)}
    row = make_row(state, **facts)
    late = answer(row, CallKind.QUERY, OutcomeKind.UNKNOWN, attempt=1)
    step = _step(apply(row, late, now, schedule))
    assert (step.transition, step.follow_up) == ("noted", None)
    assert (step.row.state, step.row.due_at, step.row.version) == (row.state, row.due_at, row.version + 1)
    free = make_row(state, attempts=2)
    assert isinstance(apply(free, answer(free, CallKind.QUERY, OutcomeKind.UNKNOWN, attempt=1), now, schedule), Nothing)
