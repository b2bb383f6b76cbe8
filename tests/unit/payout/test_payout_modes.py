"""E5: the one table of the modes, cell by cell, against the requirement's own text."""

from __future__ import annotations

import pytest

from processors.payout import modes
from processors.payout.events import CallKind, ReviewWanted
from processors.payout.modes import (
    Activity,
    Mode,
    activity_of,
    allows,
    calls_leave,
    connects,
    needs_reviewer,
    next_activity,
)
from processors.payout.row import CompensationState, PayoutState, with_changes
from processors.payout.schedule import Schedule
from processors.payout.state_machine import apply
from processors.payout.step import Nothing, Step
from tests.unit.payout.conftest import NOW, build_row

MATRIX = """
normal        | y | y      | y      | y | y      | y     | rw
manual_review | y | y      | y      | y | y      | y     | rw
read_only     | n | n      | n      | y | n      | y     | ro
maintenance   | n | finish | finish | y | finish | y     | ro
emergency     | n | n      | n      | y | y      | y     | ro
isolation     | n | n      | n      | n | n      | audit | no
halted        | n | n      | n      | n | n      | n     | no
"""
COLUMNS = (
    *(Activity.TAKE, Activity.SCREEN, Activity.SUBMIT, Activity.ASK, Activity.COMPENSATE),
    *(Activity.PUBLISH, Activity.DECIDE),
)
CELLS = [
    (Mode(words[0]), activity, word)
    for line in MATRIX.strip().splitlines()
    for words in [[word.strip() for word in line.split("|")]]
    for activity, word in zip(COLUMNS, words[1:], strict=True)
]


@pytest.mark.parametrize(("mode", "activity", "word"), CELLS)
def test_e5_a_cell_of_the_matrix(mode: Mode, activity: Activity, word: str) -> None:
    """E5: finishing is going on with what was taken; the audit is let out in every mode but `halted`."""
    assert allows(mode, activity) == (word in ("y", "finish", "rw"))
    assert allows(mode, Activity.AUDIT) == (mode is not Mode.HALTED)


def test_e5_the_docstring_shows_the_table() -> None:
    """The text that people read says the same: no y for what is forbidden, no n for what is allowed."""
    words_of = {line.split()[0].split("/")[0]: line.split()[1:] for line in str(modes.__doc__).splitlines() if line}
    for mode in Mode:
        for activity, word in zip(COLUMNS, words_of[mode.value], strict=False):
            assert allows(mode, activity) == (word in ("y", "(a)", "finish", "rw")), (mode, activity, word)


@pytest.mark.parametrize("call", CallKind)
def test_e5_every_call_is_one_column(call: CallKind) -> None:
    """E5: what pays, what hands back, what only asks."""
    expected = {
        CallKind.PUSH: Activity.SUBMIT,
        CallKind.ACCOUNT_SEND: Activity.SUBMIT,
        CallKind.REVERSE: Activity.COMPENSATE,
        CallKind.ADJUST: Activity.COMPENSATE,
    }
    assert activity_of(call) == expected.get(call, Activity.ASK)


def test_e5_where_no_call_leaves_no_socket_is_needed() -> None:
    """E5: `isolation` and `halted`, and no other mode."""
    assert [mode for mode in Mode if not calls_leave(mode)] == [Mode.ISOLATION, Mode.HALTED]
    assert [mode for mode in Mode if not connects(mode)] == [Mode.ISOLATION]


def test_e5_whoever_drives_may_ask() -> None:
    """`payout_retry` is consumed wherever questions are: no mode may drive anything else without them."""
    for mode in Mode:
        if any(allows(mode, activity) for activity in (Activity.SCREEN, Activity.SUBMIT, Activity.COMPENSATE)):
            assert allows(mode, Activity.ASK)


@pytest.mark.parametrize("state", PayoutState)
@pytest.mark.parametrize("compensation", CompensationState)
def test_e5_every_row_has_one_next_activity(state: PayoutState, compensation: CompensationState) -> None:
    """E5: what is taken is screened, what is cleared is submitted, what is required is handed back; else one asks."""
    row = build_row(state=state, compensation=compensation)
    if state in (PayoutState.RECEIVED, PayoutState.VALIDATED):
        assert next_activity(row) is Activity.SCREEN
    elif state is PayoutState.CLEARED:
        assert next_activity(row) is Activity.SUBMIT
    elif compensation is CompensationState.REQUIRED:
        assert next_activity(row) is Activity.COMPENSATE
    else:
        assert next_activity(row) is Activity.ASK


@pytest.mark.parametrize(
    ("score", "reviewer", "needs"),
    [(0, None, False), (6_999, None, False), (7_000, None, True), (None, None, True), (10_000, "anna", False)],
)
def test_e5_who_needs_a_reviewer(score: int | None, reviewer: str | None, needs: bool) -> None:
    """E5: score below 0.7, or approved by a reviewer."""
    assert needs_reviewer(build_row(score_basis_points=score, reviewer=reviewer)) is needs


@pytest.mark.parametrize("state", PayoutState)
def test_e5_p3_only_a_cleared_payout_goes_to_a_reviewer(state: PayoutState) -> None:
    """E5, P3, S6: what may have been paid is never put before somebody who could deny it."""
    row = build_row(state=state, score_basis_points=9_000, ambiguous=state is PayoutState.UNKNOWN)
    step = apply(row, ReviewWanted(), NOW, Schedule.test())
    if state is not PayoutState.CLEARED:
        assert isinstance(step, Nothing)
        return
    assert isinstance(step, Step)
    assert (step.row.state, step.row.reason_code) == (PayoutState.IN_REVIEW, "MANUAL_REVIEW_MODE")
    assert step.row.review_case_id == f"{row.payout_id}.{step.row.version}"
    assert step.row.announce_version == step.row.version
    assert isinstance(apply(with_changes(row, reviewer="anna"), ReviewWanted(), NOW, Schedule.test()), Nothing)
