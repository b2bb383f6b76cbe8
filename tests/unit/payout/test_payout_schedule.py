"""The ledger's schedule is the only retry there is (S7): bounded, polite and the same when replayed."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.payout.schedule import (
    JITTER_RATIO,
    Schedule,
    inquiry_delay,
    own_retry_delay,
    resend_not_before,
    retry_delay,
)

SCHEDULES = st.sampled_from([Schedule.production(), Schedule.test()])
PAYOUT_IDS = st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True)
COUNTS = st.integers(min_value=0, max_value=10**9)


@given(schedule=SCHEDULES, payout_id=PAYOUT_IDS, refusals=COUNTS)
def test_retry_delay_doubles_within_ten_percent_and_never_passes_its_maximum(
    schedule: Schedule, payout_id: str, refusals: int
) -> None:
    """S7, B5: no count overflows, none waits for nothing; the delay doubles up to its maximum, give or take 10 %."""
    plain = min(2.0 ** min(max(refusals - 1, 0), 60), schedule.retry_max_seconds)
    seconds = retry_delay(schedule, payout_id, refusals, None).total_seconds()
    assert plain * (1 - JITTER_RATIO) - 1e-6 <= seconds <= plain * (1 + JITTER_RATIO) + 1e-6


@given(schedule=SCHEDULES, payout_id=PAYOUT_IDS, failures=COUNTS)
def test_own_failures_wait_longer_and_never_past_their_maximum(
    schedule: Schedule, payout_id: str, failures: int
) -> None:
    """S7: up to 300 s in production; Retry-After is honoured as well."""
    plain = schedule.own_retry_base_seconds * 2.0 ** min(max(failures - 1, 0), 60)
    plain = min(plain, schedule.own_retry_max_seconds)
    seconds = own_retry_delay(schedule, payout_id, failures, None).total_seconds()
    assert plain * (1 - JITTER_RATIO) - 1e-6 <= seconds <= plain * (1 + JITTER_RATIO) + 1e-6
    assert own_retry_delay(schedule, payout_id, failures, 600.0).total_seconds() == 600.0


def test_the_shipped_budget_is_five_failures_within_300_seconds_each() -> None:
    """S7, B5; design: budget 5 up to 300 s; systemic retries 1 to 10 s."""
    production = Schedule.production()
    assert (production.retry_budget, production.own_retry_max_seconds) == (5, 300.0)
    assert (production.retry_base_seconds, production.retry_max_seconds) == (1.0, 10.0)


@given(schedule=SCHEDULES, payout_id=PAYOUT_IDS, inquiries=COUNTS)
def test_inquiry_delay_stays_within_its_bounds(schedule: Schedule, payout_id: str, inquiries: int) -> None:
    """P1: a question is always asked again, and not in a storm."""
    seconds = inquiry_delay(schedule, payout_id, inquiries).total_seconds()
    lowest = schedule.inquiry_base_seconds * (1 - JITTER_RATIO) - 1e-6
    assert lowest <= seconds <= schedule.inquiry_max_seconds * (1 + JITTER_RATIO) + 1e-6


@given(
    schedule=SCHEDULES,
    payout_id=PAYOUT_IDS,
    refusals=COUNTS,
    retry_after=st.floats(allow_nan=True, allow_infinity=True),
)
def test_retry_after_is_honoured_up_to_its_limit_whatever_the_peer_wrote(
    schedule: Schedule, payout_id: str, refusals: int, retry_after: float
) -> None:
    """S7: never sooner than asked, never later than the limit, and no number breaks the decision."""
    seconds = retry_delay(schedule, payout_id, refusals, retry_after).total_seconds()
    if not math.isnan(retry_after):
        assert seconds >= min(retry_after, schedule.retry_after_max_seconds) - 1e-6
    assert seconds <= max(schedule.retry_max_seconds * (1 + JITTER_RATIO), schedule.retry_after_max_seconds) + 1e-6


@given(schedule=SCHEDULES, payout_id=PAYOUT_IDS, count=COUNTS)
def test_a_replayed_decision_gives_the_same_times(schedule: Schedule, payout_id: str, count: int) -> None:
    """K3: nothing random, nothing from a clock."""
    assert retry_delay(schedule, payout_id, count, None) == retry_delay(schedule, payout_id, count, None)
    assert inquiry_delay(schedule, payout_id, count) == inquiry_delay(schedule, payout_id, count)


def test_payouts_refused_together_do_not_come_back_together() -> None:
    """S7: the jitter differs from payout to payout."""
    schedule = Schedule.production()
    assert len({retry_delay(schedule, f"payout-{n:04}", 3, None) for n in range(100)}) > 90


@pytest.mark.parametrize("schedule", [Schedule.production(), Schedule.test()], ids=["production", "test"])
def test_nothing_is_resent_while_the_last_attempt_can_still_arrive(schedule: Schedule) -> None:
    """S3: bytes may leave until the lease ends, by clocks that differ, and are then under way for the horizon."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    last_bytes_leave_at = at + timedelta(seconds=schedule.lease_seconds + schedule.clock_skew_seconds)
    arrived_at = last_bytes_leave_at + timedelta(seconds=schedule.in_flight_horizon_seconds)
    assert resend_not_before(schedule, at) >= arrived_at


@pytest.mark.parametrize("schedule", [Schedule.production(), Schedule.test()], ids=["production", "test"])
def test_the_resend_limit_keeps_an_hour_of_visas_memory_in_hand(schedule: Schedule) -> None:
    """P3, S3: never resent after 23 h of the 24 h for which Visa honours a duplicate key."""
    assert schedule.resend_limit_seconds == 23 * 3600


@pytest.mark.parametrize(
    "changes",
    [
        {"resend_limit_seconds": 23 * 3600 + 1},
        {"resend_limit_seconds": 0},
        {"unanswered_limit_seconds": 3600},
        {"retry_budget": 0},
        {"compensation_inquiries_max": 0},
        {"retry_multiplier": 0.5},
        {"retry_base_seconds": 0},
        {"own_retry_base_seconds": 301},
        {"inquiry_base_seconds": -1},
    ],
)
def test_a_schedule_that_would_break_a_rule_cannot_be_made(changes: dict[str, float]) -> None:
    """P3, S7: whoever sets them by hand."""
    with pytest.raises(ValueError, match=r"\((P|S)\d\)"):
        replace(Schedule.production(), **changes)  # type: ignore[arg-type]
