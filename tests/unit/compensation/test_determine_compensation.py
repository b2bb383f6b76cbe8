"""Which action hands captured funding back, and who performs it (C2, C3)."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.compensation.determine import CompensationPlan, determine
from processors.payout.row import CompensationAction, Executor, FundingKind

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY_SECONDS = 24 * 3600.0


def _plan(kind: FundingKind, *, age_seconds: float | None = 60.0, reversible: bool = True) -> CompensationPlan:
    captured_at = None if age_seconds is None else NOW - timedelta(seconds=age_seconds)
    return determine(kind, captured_at=captured_at, reversible=reversible, now=NOW)


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("age_seconds", [None, 0.0, DAY_SECONDS, 100 * DAY_SECONDS])
@pytest.mark.parametrize(
    ("kind", "action"),
    [(FundingKind.INTERNAL, CompensationAction.RELEASE_HOLD), (FundingKind.PIS, CompensationAction.REFUND_PIS)],
)
def test_what_the_originator_captured_the_originator_hands_back(
    kind: FundingKind, action: CompensationAction, age_seconds: float | None, reversible: bool
) -> None:
    """C2: whatever its age, never our call."""
    assert _plan(kind, age_seconds=age_seconds, reversible=reversible) == CompensationPlan(action, Executor.ORIGINATOR)


@pytest.mark.parametrize("age_seconds", [0.0, DAY_SECONDS - 1])
def test_a_fresh_card_pull_is_reversed_by_us(age_seconds: float) -> None:
    """C2: card AFT belongs to the processor, within Visa's 24 h."""
    expected = CompensationPlan(CompensationAction.REVERSE_FUNDS, Executor.PROCESSOR)
    assert _plan(FundingKind.AFT, age_seconds=age_seconds) == expected


@pytest.mark.parametrize("age_seconds", [DAY_SECONDS, DAY_SECONDS + 60, 100 * DAY_SECONDS])
def test_a_card_pull_past_24_hours_is_adjusted_by_us(age_seconds: float) -> None:
    """C2: Visa no longer reverses it."""
    expected = CompensationPlan(CompensationAction.ADJUSTMENT, Executor.PROCESSOR)
    assert _plan(FundingKind.AFT, age_seconds=age_seconds) == expected


@pytest.mark.parametrize(
    ("kind", "age_seconds", "reversible", "reason_code"),
    [
        (FundingKind.AFT, DAY_SECONDS, False, "REVERSAL_FACTS_MISSING"),
        (FundingKind.AFT, None, True, "REVERSAL_FACTS_MISSING"),
        (FundingKind.AFT, 60.0, False, "REVERSAL_FACTS_MISSING"),
        (FundingKind.UNSPECIFIED, 60.0, True, "FUNDING_KIND_UNKNOWN"),
    ],
)
def test_what_cannot_be_reversed_waits_for_a_person_and_says_why(
    kind: FundingKind, age_seconds: float | None, reversible: bool, reason_code: str
) -> None:
    """P1, C3: never guessed, never dropped."""
    plan = _plan(kind, age_seconds=age_seconds, reversible=reversible)
    assert plan == CompensationPlan(CompensationAction.MANUAL, Executor.PROCESSOR, reason_code)


@given(
    kind=st.sampled_from(FundingKind),
    age_seconds=st.none() | st.floats(min_value=-DAY_SECONDS, max_value=1000 * DAY_SECONDS),
    reversible=st.booleans(),
)
def test_exactly_one_side_acts(kind: FundingKind, age_seconds: float | None, reversible: bool) -> None:
    """C2: the executor follows from the action; a card pull is never reversed and adjusted (C3)."""
    plan = _plan(kind, age_seconds=age_seconds, reversible=reversible)
    originators = {CompensationAction.RELEASE_HOLD, CompensationAction.REFUND_PIS}
    assert (plan.executor is Executor.ORIGINATOR) == (plan.action in originators)
    assert (plan.reason_code is not None) == (plan.action is CompensationAction.MANUAL)
    if plan.action in (CompensationAction.ADJUSTMENT, CompensationAction.REVERSE_FUNDS):
        assert (kind, reversible) == (FundingKind.AFT, True)
        assert age_seconds is not None
        # Datetimes know microseconds; within one of the limit either is right.
        adjusted = plan.action is CompensationAction.ADJUSTMENT
        assert adjusted is (age_seconds >= DAY_SECONDS) or abs(age_seconds - DAY_SECONDS) < 1e-5
