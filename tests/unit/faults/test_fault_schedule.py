"""The fault schedule: pure, exact, replayable."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.faults import schedule
from sandbox.faults.schedule import Kind, Lane, lanes, plan_faults
from sandbox.faults.tiers import TIERS

SEEDS = st.integers(min_value=0, max_value=2**63)
TIER_NAMES = st.sampled_from(["commit", "nightly"])


@given(TIER_NAMES, SEEDS)
def test_counts_are_those_of_the_tier(name: str, seed: int) -> None:
    """Issue "Pay once", the proof: a run does at least what its tier promises, whatever the seed."""
    tier = TIERS[name]
    counts = Counter(fault.kind for fault in plan_faults(tier, seed))
    assert counts == {
        Kind.KILL: tier.kills,
        Kind.FREEZE: tier.freezes,
        Kind.BROKER_KILL: tier.broker_kills,
        Kind.DB_KILL: tier.db_kills,
        Kind.CUT: tier.cuts,
        Kind.SCALE_UP: tier.scale_changes / 2,
        Kind.SCALE_DOWN: tier.scale_changes / 2,
    }


@given(TIER_NAMES, SEEDS)
def test_same_seed_same_schedule(name: str, seed: int) -> None:
    """A failing seed can be repeated: the plan depends on tier and seed alone."""
    assert plan_faults(TIERS[name], seed) == plan_faults(TIERS[name], seed)
    assert plan_faults(TIERS[name], seed) != plan_faults(TIERS[name], seed + 1)


@given(TIER_NAMES, SEEDS)
def test_never_two_brokers_down(name: str, seed: int) -> None:
    """min ISR 2 of 3 (K1): whatever takes a broker down shares one lane, and a lane does one thing at a time."""
    plan = plan_faults(TIERS[name], seed)
    by_lane = lanes(plan)
    assert {fault.lane for fault in plan if fault.kind is Kind.BROKER_KILL} == {Lane.BROKERS}
    assert {fault.kind for fault in by_lane[Lane.BROKERS]} == {Kind.BROKER_KILL}
    assert sorted(fault for faults in by_lane.values() for fault in (f.number for f in faults)) == [
        fault.number for fault in plan
    ]


@given(TIER_NAMES, SEEDS)
def test_all_healed_before_the_end(name: str, seed: int) -> None:
    """Every fault has an end of its own and falls due while payouts are left to meet it."""
    plan = plan_faults(TIERS[name], seed)
    assert all(schedule.FIRST_AT <= fault.at <= schedule.LAST_AT for fault in plan)
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    for fault in plan:
        low, high = _bounds(fault.kind)
        assert low <= fault.seconds <= high


@given(TIER_NAMES, SEEDS)
def test_workers_never_fewer_than_at_first(name: str, seed: int) -> None:
    """Scale changes alternate, one more first."""
    changes = [f.kind for f in plan_faults(TIERS[name], seed) if f.kind in (Kind.SCALE_UP, Kind.SCALE_DOWN)]
    assert changes == [Kind.SCALE_UP, Kind.SCALE_DOWN] * (len(changes) // 2)


@given(TIER_NAMES, SEEDS)
def test_every_route_and_role_has_its_turn(name: str, seed: int) -> None:
    """Cuts hit Kafka, PostgreSQL and Visa; the group's coordinator and the controller are among the victims."""
    plan = plan_faults(TIERS[name], seed)
    assert {fault.target for fault in plan if fault.kind is Kind.CUT} == set(schedule.CUT_ROUTES)
    assert {fault.target for fault in plan if fault.kind is Kind.BROKER_KILL} >= {"coordinator", "controller"}


def test_release_has_its_outage() -> None:
    """The release tier spends half an hour without Visa (issue "Pay once")."""
    outages = [fault for fault in plan_faults(TIERS["release"], 1) if fault.kind is Kind.API_OUTAGE]
    assert [fault.seconds for fault in outages] == [1800.0]


@pytest.mark.parametrize("name", sorted(TIERS))
def test_freezes_outlast_session_and_lease(name: str) -> None:
    """A freeze counts only if another worker could take over: longer than session (6 s) and lease (8 s), rule L3."""
    assert all(fault.seconds > 8.0 for fault in plan_faults(TIERS[name], 7) if fault.kind is Kind.FREEZE)


def _bounds(kind: Kind) -> tuple[float, float]:
    return {
        Kind.KILL: (0.0, schedule.RESTART_SECONDS_MAX),
        Kind.FREEZE: schedule.FREEZE_SECONDS,
        Kind.BROKER_KILL: schedule.BROKER_DOWN_SECONDS,
        Kind.DB_KILL: schedule.DATABASE_DOWN_SECONDS,
        Kind.CUT: schedule.CUT_SECONDS,
    }.get(kind, (0.0, 0.0))
