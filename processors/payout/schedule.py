"""When something is tried or asked again: the ledger's schedule is the only retry there is (rule S7)."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The times and bounds that decisions use, in seconds. `production()` and `test()` are the two shipped profiles."""

    stage_patience_seconds: float
    """How long a published step may stay untouched before the sweeper drives the row."""
    retry_base_seconds: float = 1.0
    retry_multiplier: float = 2.0
    retry_max_seconds: float = 10.0
    retry_after_max_seconds: float = 3600.0
    """A Retry-After beyond this is taken as this: a typo of a peer must not park a payout for a year."""
    inquiry_base_seconds: float
    inquiry_max_seconds: float
    lease_seconds: float
    in_flight_horizon_seconds: float
    """Longest call plus the server's idle time-out: after it nothing of an attempt can still arrive (rule S3)."""
    clock_skew_seconds: float
    resend_limit_seconds: float = 23 * 3600.0
    """Visa remembers a duplicate key for 24 h; an hour is kept as margin (promise P3)."""
    push_attempts_max: int = 12
    """Resends of one identity before a person looks; each was preceded by a query that knew nothing."""
    reversal_inquiries_max: int = 5
    """Questions about an ambiguous reversal before it becomes MANUAL (rule S3: query, then an operator)."""
    reversal_window_seconds: float = 24 * 3600.0
    """Visa reverses a pull within 24 h of it; later it would be an adjustment."""

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
            inquiry_base_seconds=0.5,
            inquiry_max_seconds=4.0,
            lease_seconds=8.0,
            in_flight_horizon_seconds=8.0,
            clock_skew_seconds=1.0,
        )


JITTER_RATIO = 0.1
"""±10 %, so that payouts refused together do not come back together."""


def retry_delay(schedule: Schedule, payout_id: str, refusals: int, retry_after_seconds: float | None) -> timedelta:
    """The wait after the `refusals`-th refusal: 1, 2, 4, … 10 s ±10 %, never less than what the peer asked for."""
    seconds = _backoff(schedule.retry_base_seconds, schedule.retry_multiplier, schedule.retry_max_seconds, refusals)
    seconds *= _jitter(payout_id, refusals)
    return max(timedelta(seconds=seconds), asked_for(schedule, retry_after_seconds))


def asked_for(schedule: Schedule, retry_after_seconds: float | None) -> timedelta:
    """A peer's Retry-After, bounded; nothing, a negative number or no number at all asks for nothing."""
    if retry_after_seconds is None or not retry_after_seconds > 0:
        return timedelta(0)
    return timedelta(seconds=min(retry_after_seconds, schedule.retry_after_max_seconds))


def inquiry_delay(schedule: Schedule, payout_id: str, inquiries: int) -> timedelta:
    """Seconds to wait before asking again what became of an attempt, doubling up to the maximum."""
    seconds = _backoff(schedule.inquiry_base_seconds, 2.0, schedule.inquiry_max_seconds, inquiries)
    return timedelta(seconds=seconds * _jitter(payout_id, inquiries))


def resend_not_before(schedule: Schedule, last_intent_at: datetime) -> datetime:
    """The first moment at which nothing of the last attempt can still be under way (rule S3)."""
    return last_intent_at + timedelta(
        seconds=max(schedule.in_flight_horizon_seconds, schedule.lease_seconds) + schedule.clock_skew_seconds
    )


def _backoff(base: float, multiplier: float, maximum: float, count: int) -> float:
    steps = min(max(count - 1, 0), 32)  # 2**32 is past every maximum; an unbounded power would overflow
    return float(min(base * multiplier**steps, maximum))


def _jitter(payout_id: str, count: int) -> float:
    """Deterministic per payout and count: a decision replayed gives the same schedule."""
    digest = hashlib.sha256(f"{payout_id}:{count}".encode()).digest()
    return 1.0 + JITTER_RATIO * (int.from_bytes(digest[:4], "big") / 2**31 - 1.0)
