"""Two people close a compensation that waits for a person (C2, C4, L2, S6)."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from processors.payout.events import CallKind, HandBackAgreed, HandBackProposed
from processors.payout.frozen import FROZEN_FOR
from processors.payout.outcome import OutcomeKind
from processors.payout.publications import publications
from processors.payout.row import (
    CompensationAction,
    CompensationState,
    Executor,
    FundingKind,
    PayoutRow,
    PayoutState,
)
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply
from processors.payout.step import Nothing, Step

MakeRow = Callable[..., PayoutRow]
LONG_AGO = timedelta(hours=2)
PROPOSED = HandBackProposed("bank transfer 0815", "ann")


@pytest.fixture
def manual(make_row: MakeRow, now: datetime) -> PayoutRow:
    """A card pull whose reversal Visa has declined, hours ago."""
    return replace(
        make_row(PayoutState.FAILED, funding_captured=True, receipt_owned=True),
        funding_kind=FundingKind.AFT,
        compensation=CompensationState.MANUAL,
        compensation_at=now - LONG_AGO,
        compensation_action=CompensationAction.REVERSE_FUNDS,
        compensation_executor=Executor.PROCESSOR,
        compensation_reason_code="ACTION_CODE_05",
        compensation_attempts=1,
        compensation_first_intent_at=now - LONG_AGO,
        compensation_last_intent_at=now - LONG_AGO,
    )


def step(decision: Step | Nothing) -> Step:
    """The step that was decided."""
    assert isinstance(decision, Step), decision
    return decision


def refusal(decision: Step | Nothing) -> str:
    """Why nothing was decided."""
    assert isinstance(decision, Nothing), decision
    return decision.reason


def agreed(row: PayoutRow, **changes: Any) -> HandBackAgreed:
    """Somebody else agrees with what made this version."""
    said = {"evidence": "bank transfer 0815", "proposer": "ann", "approver": "bob", "proposed_version": row.version}
    return HandBackAgreed(**(said | changes))


def test_one_person_says_so_and_nothing_is_closed(manual: PayoutRow, now: datetime, schedule: Schedule) -> None:
    """S6, K3: only the version moves; nothing is announced."""
    proposed = step(apply(manual, PROPOSED, now, schedule))
    assert proposed.row == replace(manual, version=manual.version + 1)
    assert proposed.transition == "hand_back_proposed"
    assert proposed.detail == {"evidence": "bank transfer 0815", "by": "ann"}


def test_two_people_close_it_and_its_originator_reads_it(manual: PayoutRow, now: datetime, schedule: Schedule) -> None:
    """C4, K2, K3: COMPENSATED under a higher version; what was demanded at the end still says what it said."""
    proposed = step(apply(manual, PROPOSED, now, schedule)).row
    closed = step(apply(proposed, agreed(proposed), now, schedule))
    assert closed.row.compensation is CompensationState.COMPENSATED
    assert (closed.row.state, closed.row.compensation_reason_code) == (manual.state, None)
    assert closed.row.announce_version == closed.row.version > proposed.version
    assert closed.detail == {
        "evidence": "bank transfer 0815", "by": "ann", "approved_by": "bob", "was_reason_code": "ACTION_CODE_05",
    }  # fmt: skip
    told = {one.topic: one.record for one in publications(closed.row)}
    result = next(record for record in told.values() if record.get("status") == "COMPENSATED")
    assert (result["version"], result["transaction_identifier"]) == (closed.row.version, None)
    demand = [one for one in publications(closed.row) if one.topic == "payout_failed_requires_compensation"]
    assert demand == [one for one in publications(manual) if one.topic == "payout_failed_requires_compensation"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"approver": " ANN "}, "another person"),
        ({"approver": " "}, "two names"),
        ({"evidence": " "}, "evidence"),
        ({"proposed_version": 1}, "something happened since"),
    ],
)
def test_nobody_agrees_with_himself_or_with_something_else(
    manual: PayoutRow, now: datetime, schedule: Schedule, changes: dict[str, Any], why: str
) -> None:
    """S6: four eyes on exactly what was proposed."""
    proposed = step(apply(manual, PROPOSED, now, schedule)).row
    assert why in refusal(apply(proposed, agreed(proposed, **changes), now, schedule))


@pytest.mark.parametrize("event", [HandBackProposed("x", " "), HandBackProposed(" ", "ann")])
def test_a_proposal_has_a_name_and_evidence(
    manual: PayoutRow, now: datetime, schedule: Schedule, event: HandBackProposed
) -> None:
    assert "evidence" in refusal(apply(manual, event, now, schedule))


@pytest.mark.parametrize("state", [one for one in CompensationState if one is not CompensationState.MANUAL])
def test_only_what_waits_for_a_person_is_closed_by_people(
    manual: PayoutRow, now: datetime, schedule: Schedule, state: CompensationState
) -> None:
    """C4: what Visa may still do, or has done, is Visa's to say."""
    other = replace(manual, compensation=state)
    assert "only MANUAL" in refusal(apply(other, PROPOSED, now, schedule))
    assert "only MANUAL" in refusal(apply(other, agreed(other), now, schedule))


@pytest.mark.parametrize("reason", sorted(FROZEN_FOR))
def test_the_funding_of_a_payout_that_was_paid_after_all_stays(
    manual: PayoutRow, now: datetime, schedule: Schedule, reason: str
) -> None:
    """L2: both marks of it, also after the release."""
    for frozen in (
        replace(manual, compensation_reason_code=reason),
        replace(manual, held=True, hold_reason=reason),
    ):
        assert "must not go back" in refusal(apply(frozen, PROPOSED, now, schedule))
        assert "must not go back" in refusal(apply(frozen, agreed(frozen), now, schedule))


def test_what_the_originator_hands_back_he_confirms(manual: PayoutRow, now: datetime, schedule: Schedule) -> None:
    """C2: never both."""
    his = replace(manual, compensation_executor=Executor.ORIGINATOR, compensation_reason_code="ORIGINATOR_REFUSED")
    assert "his confirmation" in refusal(apply(his, PROPOSED, now, schedule))


def test_a_hand_back_of_ours_that_may_still_arrive_is_waited_for(
    manual: PayoutRow, now: datetime, schedule: Schedule
) -> None:
    """C4, L3, S3: somebody who looked too early would hand it back a second time."""
    late = replace(manual, compensation_last_intent_at=now - timedelta(seconds=1))
    assert "may still take effect" in refusal(apply(late, PROPOSED, now, schedule))
    leased = replace(manual, lease_until=now + timedelta(seconds=1), lease_owner="worker-1")
    assert "under way" in refusal(apply(leased, PROPOSED, now, schedule))


def test_what_visa_says_afterwards_changes_nothing(
    manual: PayoutRow, now: datetime, schedule: Schedule, answer: Callable[..., Any]
) -> None:
    """C1: one compensation a payout."""
    proposed = step(apply(manual, PROPOSED, now, schedule)).row
    closed = step(apply(proposed, agreed(proposed), now, schedule)).row
    late = answer(closed, CallKind.REVERSAL_QUERY, OutcomeKind.PAID)
    assert isinstance(apply(closed, late, now, schedule), Nothing)
