"""The load of a fault run: seeded, varied, and never ahead of what it may send."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.faults.__main__ import SEED_MAX
from sandbox.faults.conductor import Pace
from sandbox.faults.load import (
    EXTRA_WEIGHTS,
    FUNDING_WEIGHTS,
    WEIGHTS,
    RequestMaker,
    payout_number,
    plan_payout,
    planted_cards,
)
from sandbox.faults.schedule import Lane
from sandbox.faults.suite import API_FAULTS, api_fault_plan
from sandbox.visa_direct.faults import FaultPlan
from schemas.codec import BlockingCodec
from schemas.payout_id import payout_id_problem
from streams.keys import create_keys

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@given(st.integers(0, 2**40), st.integers(0, 2_000_000))
def test_a_payout_depends_on_seed_and_number_alone(seed: int, number: int) -> None:
    """A failing seed asks for the same payouts again."""
    planned = plan_payout(seed, number)
    assert planned == plan_payout(seed, number)
    assert payout_number(planned.payout_id) == number
    assert planned.currency == planned.corridor[-3:]


def test_every_kind_of_request_occurs() -> None:
    """The commit tier's 2,000 payouts contain every purpose, every funding and every kind of rubbish."""
    planned = [plan_payout(1, number) for number in range(2_000)]
    assert set(Counter(payout.purpose for payout in planned)) == set(WEIGHTS)
    assert set(Counter(payout.funding for payout in planned)) == set(FUNDING_WEIGHTS)
    assert set(Counter(payout.extra for payout in planned)) == set(EXTRA_WEIGHTS)
    assert len({payout.payout_id for payout in planned}) == len(planned)


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> RequestMaker:
    keys = tmp_path_factory.mktemp("load") / "keys"
    create_keys(keys)
    return RequestMaker(json.loads((keys / "party_public.jwks.json").read_text())["keys"][0])


def test_requests_fit_the_schema_and_hide_cards(maker: RequestMaker, tmp_path: Path) -> None:  # noqa: ARG001
    """P6: a card number leaves the originator sealed, but for the request that exists to be refused for it."""
    with BlockingCodec() as codec:
        for number in range(300):
            planned = plan_payout(3, number)
            value = codec.encode("PayoutRequest", maker.record(planned, NOW))
            if planned.purpose != "card_in_clear":
                assert not any(card.encode() in value for card in planted_cards())


def test_card_pulls_never_share_numbers(maker: RequestMaker) -> None:
    """S1: the numbers of originators' card pulls and ours are disjoint on the same BIN."""
    facts = [maker.aft_facts(plan_payout(1, number), NOW) for number in range(3_000)]
    numbers = {(fact["systems_trace_audit_number"], fact["retrieval_reference_number"]) for fact in facts}
    assert len(numbers) == len(facts)
    assert len({fact["transaction_identifier"] for fact in facts}) == len(facts)
    assert all(int(fact["retrieval_reference_number"][4:6]) >= 24 for fact in facts), "an hour of ours"


def test_the_stand_in_takes_the_fault_plan() -> None:
    """15 % of the calls of each kind go wrong, 5 % of the pushes after the effect and in silence."""
    FaultPlan.model_validate(api_fault_plan(1))
    for operation, faults in API_FAULTS.items():
        assert sum(settings["probability"] for settings in faults.values()) == pytest.approx(0.15, abs=0.02), operation
    assert API_FAULTS["push"]["effect_then_silence"]["probability"] == 0.05


@settings(max_examples=200)
@given(
    ended=st.integers(0, 2_000),
    due=st.one_of(st.none(), st.floats(0, 1)),
    feeds=st.integers(0, 3),
)
def test_the_load_has_a_bounded_lead(ended: int, due: float | None, feeds: int) -> None:
    """Back-pressure: never more under way than the lead, whatever faults wait for."""
    pace = Pace(payouts=2_000, lead=200, extra_ratio=0.5, ended=lambda: ended)
    pace.pending(Lane.WORKERS, due)
    for _ in range(feeds):
        pace.feed(sent=ended)
    assert pace.may_send() <= ended + 200
    assert pace.may_send() <= 3_000
    if due is not None and not feeds:
        assert pace.may_send() <= due * 2_000 + 200


def test_a_waiting_fault_gets_something_to_hit() -> None:
    """A fault that finds no intent lets more payouts come, until enough are under way."""
    pace = Pace(payouts=2_000, lead=200, extra_ratio=0.5, ended=lambda: 500)
    pace.pending(Lane.WORKERS, 0.1)
    assert pace.may_send() == 400
    pace.feed(sent=500)
    assert pace.may_send() > 500


@given(st.integers(0, SEED_MAX), st.integers(0, 2_000_000))
def test_payout_ids_are_ids(seed: int, number: int) -> None:
    """Ids of the load are ids that the contract allows, and look like no card number (design, section 11)."""
    assert payout_id_problem(plan_payout(seed, number).payout_id) is None
