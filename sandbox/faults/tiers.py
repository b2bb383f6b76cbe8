"""How much a run of the fault suite does: `commit` on every change, `nightly`, and `release` before a version.

The counts are minima that the verdict line must reach; a kill or freeze counts only if it hit while an intent had no
outcome, so the suite does more of them than it counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """The size of a run, and the bounds within which it must end."""

    name: str
    payouts: int
    kills: int
    freezes: int
    broker_kills: int
    db_kills: int
    cuts: int
    scale_changes: int
    api_outage_seconds: float = 0.0
    lead: int
    """Payouts that may be under way at once: the load never runs further ahead of the results than this."""
    extra_ratio: float
    """More payouts than planned, sent only while a fault still waits for an intent to hit."""
    log_level: str
    """Of the workers. Every step of a payout is a line at INFO: far more than a long run can keep and search."""
    partitions: int
    """Of each topic. Few make rebalances cheap, many spread the leaders."""
    deadline_seconds: float
    """For everything, start to verdict; a run that takes longer has failed."""
    poll_seconds: float
    """Between two looks at the whole ledger, whose cost grows with the rows."""


TIERS: Final = {
    tier.name: tier
    for tier in (
        Tier(
            name="commit",
            payouts=2_000,
            kills=10,
            freezes=2,
            broker_kills=2,
            db_kills=1,
            cuts=5,
            scale_changes=2,
            lead=200,
            extra_ratio=0.5,
            log_level="INFO",
            partitions=6,
            deadline_seconds=600.0,
            poll_seconds=1.0,
        ),
        Tier(
            name="nightly",
            payouts=100_000,
            kills=200,
            freezes=20,
            broker_kills=20,
            db_kills=10,
            cuts=60,
            scale_changes=10,
            lead=1_500,
            extra_ratio=0.25,
            log_level="WARNING",
            partitions=12,
            deadline_seconds=3 * 3600.0,
            poll_seconds=5.0,
        ),
        Tier(
            name="release",
            payouts=1_000_000,
            kills=1_000,
            freezes=100,
            broker_kills=100,
            db_kills=50,
            cuts=300,
            scale_changes=20,
            api_outage_seconds=1_800.0,
            lead=3_000,
            extra_ratio=0.25,
            log_level="WARNING",
            partitions=12,
            deadline_seconds=24 * 3600.0,
            poll_seconds=30.0,
        ),
    )
}
