"""Review decisions as workers take them, by the policy in force and the payout's own life (R1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.interface import Change
from processors.compliance.review_policy import load_review_policy
from processors.payout.events import Held, Released
from processors.payout.row import PayoutRow
from processors.payout.state_machine import apply
from processors.payout.step import Step
from tests.unit.streams.streams_world import World


async def in_review(world: World, **limits: int) -> PayoutRow:
    """A payout that waits for a reviewer, under the shipped policy with these limits for one approval."""
    policy = replace(load_review_policy(), second_approval_from_minor=limits)
    world.policies = replace(world.policies, review=policy)
    world.worker = world.start_worker()
    address = {"line1": "1 High Street", "city": "Leeds", "state": "CA", "postal_code": "94404", "country": "US"}
    parties = {"sender": {"name": "Mara Lindqvist", "address": address}}
    parties["recipient"] = {"name": "Viktor Drakenfels Senior"}
    await world.ask("payout-0001", personal_data=world.seal(parties))
    await world.settle()
    row = await world.row("payout-0001")
    assert row.state == "IN_REVIEW"
    return row


async def decide(world: World, reviewer: str, **changes: Any) -> PayoutRow:
    """A decision about the open case, and the row after it."""
    row = await world.row("payout-0001")
    record = {
        "case_id": row.review_case_id,
        "payout_id": "payout-0001",
        "decision": "APPROVE",
        "reviewer": reviewer,
        "reason_code": "FALSE_POSITIVE",
        "note": None,
        "decided_at": world.now,
    }
    await world.produce("payout_review_decisions", "ReviewDecision", record | changes)
    await world.settle()
    return await world.row("payout-0001")


def fates(world: World) -> list[str]:
    """What became of the decisions, in order (K9)."""
    records = sorted(world.model._intake.items(), key=lambda item: item[0])
    return [record.reason_code for place, record in records if place[0] == "payout_review_decisions"]


@pytest.mark.parametrize("decision", ["APPROVE", "REJECT"])
async def test_r1_the_originators_own_word_counts_for_nothing(world: World, decision: str) -> None:
    """R1: a reviewer approving his own case, also past the command; the record is accounted for and says why."""
    row = await in_review(world)
    assert await decide(world, row.originator_id.upper(), decision=decision) == row
    assert fates(world) == ["FOUR_EYES"]
    assert (await decide(world, "casey")).state == "PAID"


async def test_r1_who_held_the_payout_does_not_let_it_go(world: World) -> None:
    """R1, L12: found in the payout's own history, also after somebody else released it."""
    row = await in_review(world)
    for event, actor in ((Held("OPERATOR: INC-1"), "maria"), (Released("jan", "INC-1"), "jan")):
        step = apply(row, event, world.now, world.schedule)
        assert isinstance(step, Step)
        committed = await world.model.commit(Change(row, step.row, step.transition, actor, step.detail))
        assert committed is not None
        row = committed
    assert (await decide(world, "Maria")).state == "IN_REVIEW"
    assert (await decide(world, "jan")).state == "PAID"
    assert fates(world) == ["FOUR_EYES", "HANDLED"]


async def test_r1_two_people_approve_what_is_over_the_limit(world: World) -> None:
    """R1: once a reviewer, whatever he repeats; nothing is sent before the second one."""
    row = await in_review(world, USD=1)
    assert (await decide(world, "casey")).state == "IN_REVIEW"
    assert (await decide(world, "casey")).state == "IN_REVIEW"
    assert not world.visa.requests
    paid = await decide(world, "robin")
    assert (paid.state, paid.reviewer) == ("PAID", "robin")
    assert fates(world) == ["HANDLED", "FOUR_EYES", "HANDLED"]
    approvals = [entry for entry in await world.model.history(row.payout_id) if "review_approved" in entry.transition]
    assert [entry.detail["reviewer"] for entry in approvals] == ["casey", "robin"]


async def test_r1_a_replayed_first_approval_is_not_the_second(world: World) -> None:
    """R1, K1: the topic of decisions read again from its beginning approves nothing."""
    await in_review(world, USD=1)
    before = await decide(world, "casey")
    world.next_offset["payout_review_decisions"] = 0
    await world.settle()
    assert await world.row("payout-0001") == before
    assert not world.visa.requests
