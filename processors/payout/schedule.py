"""When something is tried or asked again: the ledger's schedule is the only retry there is (rule S7)."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

RESEND_LIMIT_MAX_SECONDS = 23 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The times and bounds that decisions use, in seconds. `production()` and `test()` are the two shipped profiles.

    Raises ValueError for values with which the rules could not be kept.
    """

    stage_patience_seconds: float
    """How long a published step may stay untouched before the sweeper drives the row."""
    retry_base_seconds: float = 1.0
    """After a systemic refusal (429, no connection, ...): 1, 2, 4, ... up to `retry_max_seconds`, without a limit."""
    retry_multiplier: float = 2.0
    retry_max_seconds: float = 10.0
    retry_budget: int = 5
    """Failures of a payout's own after which a person looks, or it ends FAILED if it is known not paid (rule S7)."""
    own_retry_base_seconds: float = 20.0
    """After a failure of the payout's own: 20, 40, 80, ... up to `own_retry_max_seconds`."""
    own_retry_max_seconds: float = 300.0
    retry_after_max_seconds: float = 3600.0
    """A Retry-After beyond this is taken as this: a typo of a peer must not park a payout for a year."""
    inquiry_base_seconds: float
    inquiry_max_seconds: float
    lease_seconds: float
    in_flight_horizon_seconds: float
    """Longest call plus the server's idle time-out: after it nothing of an attempt can still arrive (rule S3)."""
    clock_skew_seconds: float
    resend_limit_seconds: float = RESEND_LIMIT_MAX_SECONDS
    """Visa remembers a duplicate key for 24 h; an hour is kept as margin (promise P3)."""
    unanswered_limit_seconds: float = 47 * 3600.0
    """How long a question that Visa does not answer is asked again before a person is shown the row (promise P1).

    A day past the resend limit: an outage of Visa alone brings nobody's payouts to a person all at once, and nothing
    waits unseen for ever.
    """
    compensation_inquiries_max: int = 5
    """Answers about an ambiguous reversal or adjustment before it is MANUAL (rule S3: query, then an operator)."""
    account_search_seconds: float = 3600.0
    """How long an account payout that Visa does not know is asked about before a person looks (rule S3).

    It is never sent again, so the only cost of asking longer is time; no source says how late the query may know it.
    """
    account_pending_limit_seconds: float = 10 * 86_400.0
    """How long an account payout may be on its way before a person is shown the row (promise P1). Inferred: accounts
    are credited within days, and no source names a bound."""
    account_return_window_seconds: float = 30 * 86_400.0
    """How long a paid account payout is asked about, because it may come back (rule S8). Inferred: no source names the
    longest time. It ends with an answer that still says delivered, so that no outage hides a return."""
    account_query_seconds: float = 180 * 86_400.0
    """How long Visa's query knows an account payout (Visa's Account & Wallet reference): nothing is asked later."""
    account_pending_interval_seconds: float = 6 * 3600.0
    """The longest time between two questions about an account payout that is on its way."""
    account_return_first_seconds: float = 3600.0
    account_return_interval_seconds: float = 86_400.0
    """The shortest and the longest time between two questions about a paid account payout."""

    def __post_init__(self) -> None:
        if not 0 < self.resend_limit_seconds <= RESEND_LIMIT_MAX_SECONDS:
            raise ValueError("resend_limit_seconds must be positive and at most 23 hours: Visa forgets after 24 (P3)")
        if self.unanswered_limit_seconds < self.resend_limit_seconds:
            raise ValueError("unanswered_limit_seconds must not be shorter than resend_limit_seconds (P1)")
        if self.retry_budget < 1 or self.compensation_inquiries_max < 1 or self.retry_multiplier < 1:
            raise ValueError("retry_budget, compensation_inquiries_max and retry_multiplier must be at least 1 (S7)")
        pairs = (
            (self.retry_base_seconds, self.retry_max_seconds),
            (self.own_retry_base_seconds, self.own_retry_max_seconds),
            (self.inquiry_base_seconds, self.inquiry_max_seconds),
            (self.account_return_first_seconds, self.account_return_interval_seconds),
        )
        waits = (self.account_search_seconds, self.account_pending_limit_seconds, self.account_pending_interval_seconds)
        if not all(seconds > 0 for seconds in (*waits, self.account_return_window_seconds)):
            raise ValueError("every wait of the account rail must be positive (S3, S8)")
        if self.account_query_seconds < self.account_return_window_seconds:
            raise ValueError("account_query_seconds must not be shorter than account_return_window_seconds (S8)")
        if not all(0 < base <= maximum for base, maximum in pairs):
            raise ValueError("every delay must be positive and not longer than its maximum: no retry at once (S7)")

    @staticmethod
    def production() -> "Schedule":
        """Times for real use (design: lease 60 s, horizon 90 s, skew 5 s)."""
        return Schedule(
            stage_patience_seconds=60.0,
            inquiry_base_seconds=2.0,
            inquiry_max_seconds=300.0,
            lease_seconds=60.0,
            in_flight_horizon_seconds=90.0,
            clock_skew_seconds=5.0,
        )

    @staticmethod
    def test() -> "Schedule":
        """The same code with shortened times (design: lease 8 s, horizon 8 s, skew 1 s)."""
        return Schedule(
            stage_patience_seconds=6.0,
            own_retry_base_seconds=1.0,
            own_retry_max_seconds=8.0,
            inquiry_base_seconds=0.5,
            inquiry_max_seconds=4.0,
            lease_seconds=8.0,
            in_flight_horizon_seconds=8.0,
            clock_skew_seconds=1.0,
            account_search_seconds=30.0,
            account_pending_limit_seconds=300.0,
            account_return_window_seconds=20.0,
            account_pending_interval_seconds=4.0,
            account_return_first_seconds=2.0,
            account_return_interval_seconds=8.0,
        )


JITTER_RATIO = 0.1
"""±10 %, so that payouts refused together do not come back together."""


def retry_delay(schedule: Schedule, payout_id: str, refusals: int, retry_after_seconds: float | None) -> timedelta:
    """The wait after the `refusals`-th refusal: 1, 2, 4, … 10 s ±10 %, never less than what the peer asked for."""
    seconds = _backoff(schedule.retry_base_seconds, schedule.retry_multiplier, schedule.retry_max_seconds, refusals)
    seconds *= _jitter(payout_id, refusals)
    return max(timedelta(seconds=seconds), asked_for(schedule, retry_after_seconds))


def own_retry_delay(schedule: Schedule, payout_id: str, failures: int, retry_after_seconds: float | None) -> timedelta:
    """The wait after the `failures`-th failure of the payout's own: 20, 40, 80, … 300 s ±10 %."""
    seconds = _backoff(
        schedule.own_retry_base_seconds, schedule.retry_multiplier, schedule.own_retry_max_seconds, failures
    )
    return max(timedelta(seconds=seconds * _jitter(payout_id, failures)), asked_for(schedule, retry_after_seconds))


def asked_for(schedule: Schedule, retry_after_seconds: float | None) -> timedelta:
    """A peer's Retry-After, bounded; nothing, a negative number or no number at all asks for nothing."""
    if retry_after_seconds is None or not retry_after_seconds > 0:
        return timedelta(0)
    return timedelta(seconds=min(retry_after_seconds, schedule.retry_after_max_seconds))


def inquiry_delay(schedule: Schedule, payout_id: str, inquiries: int) -> timedelta:
    """Seconds to wait before asking again what became of an attempt, doubling up to the maximum."""
    seconds = _backoff(schedule.inquiry_base_seconds, 2.0, schedule.inquiry_max_seconds, inquiries)
    return timedelta(seconds=seconds * _jitter(payout_id, inquiries))


def pending_delay(schedule: Schedule, payout_id: str, inquiries: int, age: timedelta) -> timedelta:
    """Until an account payout on its way is asked about again: a twentieth of its age, within the bounds."""
    seconds = min(age.total_seconds() / 20, schedule.account_pending_interval_seconds)
    return max(inquiry_delay(schedule, payout_id, inquiries), timedelta(seconds=seconds))


def return_delay(schedule: Schedule, payout_id: str, age: timedelta) -> timedelta:
    """Until a paid account payout is asked about again: a quarter of its age as PAID, within the bounds."""
    first, longest = schedule.account_return_first_seconds, schedule.account_return_interval_seconds
    seconds = min(max(age.total_seconds() / 4, first), longest)
    return timedelta(seconds=seconds * _jitter(payout_id, int(age.total_seconds())))


def resend_not_before(schedule: Schedule, last_intent_at: datetime) -> datetime:
    """The first moment at which nothing of the last attempt can still be under way (rule S3).

    Its bytes may leave until its lease ends, a worker may have been frozen before them (L3), and are under way for the
    horizon from then on.
    """
    return last_intent_at + timedelta(
        seconds=schedule.lease_seconds + schedule.in_flight_horizon_seconds + schedule.clock_skew_seconds
    )


def _backoff(base: float, multiplier: float, maximum: float, count: int) -> float:
    steps = min(max(count - 1, 0), 32)  # 2**32 is past every maximum; an unbounded power would overflow
    return float(min(base * multiplier**steps, maximum))


def _jitter(payout_id: str, count: int) -> float:
    """Deterministic per payout and count: a decision replayed gives the same schedule."""
    digest = hashlib.sha256(f"{payout_id}:{count}".encode()).digest()
    return 1.0 + JITTER_RATIO * (int.from_bytes(digest[:4], "big") / 2**31 - 1.0)
