"""Who decides a case, and how often: four eyes (R1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest

from processors.payout.events import Reviewed
from processors.payout.row import CompensationState, PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply
from processors.payout.step import Nothing, Step

MakeRow = Callable[..., PayoutRow]


def _step(decision: object) -> Step:
    assert isinstance(decision, Step), decision
    return decision


def _by(
    row: PayoutRow, reviewer: str, *, approved: bool = True, needed: int = 1, not_by: tuple[str, ...] = ()
) -> Reviewed:
    return Reviewed(str(row.review_case_id), approved, reviewer, "FALSE_POSITIVE", needed, frozenset(not_by))


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("spelling", ["originator-1", " Originator-1 ", "ORIGINATOR-1"])
def test_r1_who_asked_for_the_money_does_not_decide(
    make_row: MakeRow, now: datetime, schedule: Schedule, approved: bool, spelling: str
) -> None:
    """R1: a reviewer approving his own case is refused, however he spells himself."""
    row = make_row(PayoutState.IN_REVIEW)
    refusal = apply(row, _by(row, spelling, approved=approved), now, schedule)
    assert isinstance(refusal, Nothing)
    assert "another person" in refusal.reason


@pytest.mark.parametrize("approved", [True, False])
def test_r1_who_held_it_or_opened_the_case_does_not_decide(
    make_row: MakeRow, now: datetime, schedule: Schedule, approved: bool
) -> None:
    """R1: four eyes; anybody else does."""
    row = make_row(PayoutState.IN_REVIEW)
    refusal = apply(row, _by(row, "Maria", approved=approved, not_by=("maria", "worker-1")), now, schedule)
    assert isinstance(refusal, Nothing)
    assert "held this payout or opened its case" in refusal.reason
    _step(apply(row, _by(row, "jan", approved=approved, not_by=("maria", "worker-1")), now, schedule))


def test_r1_two_approvals_are_two_people(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """R1: the case stays open under its id; each reviewer counts once; only then does the payout go on."""
    row = make_row(PayoutState.IN_REVIEW)
    first = _step(apply(row, _by(row, "maria", needed=2), now, schedule))
    assert (first.transition, first.row.state, first.row.reviewer) == (
        "review_approved_once", PayoutState.IN_REVIEW, "maria",
    )  # fmt: skip
    assert (first.row.review_case_id, first.row.announce_version) == (row.review_case_id, row.announce_version)
    for again in ("maria", " MARIA"):
        refusal = apply(first.row, _by(row, again, needed=2), now, schedule)
        assert isinstance(refusal, Nothing)
        assert "has approved this case already" in refusal.reason
    second = _step(apply(first.row, _by(row, "jan", needed=2), now, schedule))
    assert (second.row.state, second.row.reviewer) == (PayoutState.CLEARED, "jan")
    assert (second.detail["first"], second.detail["reviewer"]) == ("maria", "jan")
    assert isinstance(apply(second.row, _by(row, "cy", needed=2), now, schedule), Nothing), "R1: once"


def test_r1_one_is_enough_to_reject_whatever_was_approved(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """R1, C1: no money leaves by a refusal; also who approved may have found better."""
    row = make_row(PayoutState.IN_REVIEW, funding_captured=True, receipt_owned=True)
    first = _step(apply(row, _by(row, "maria", needed=2), now, schedule)).row
    for reviewer in ("maria", "jan"):
        denied = _step(apply(first, _by(row, reviewer, approved=False, needed=2), now, schedule)).row
        assert (denied.state, denied.reviewer) == (PayoutState.DENIED, reviewer)
        assert denied.compensation is CompensationState.REQUIRED


def test_r1_a_first_approval_counts_only_for_its_case(make_row: MakeRow, now: datetime, schedule: Schedule) -> None:
    """R1: case_id is payout and version at opening."""
    row = make_row(PayoutState.IN_REVIEW)
    other = replace(_by(row, "maria", needed=2), case_id="payout-0001.4")
    assert isinstance(apply(row, other, now, schedule), Nothing)
