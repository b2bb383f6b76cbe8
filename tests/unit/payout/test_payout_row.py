"""The row itself: how a changed one is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest

from processors.payout.row import PayoutRow, with_changes


def test_a_changed_row_is_what_replace_makes_and_the_old_one_stays(make_row: Callable[..., PayoutRow]) -> None:
    """L2: a decision gives a new row; what was read is not touched."""
    row = make_row()
    before = replace(row)
    changed = with_changes(row, version=row.version + 1, reason_code="X")
    assert changed == replace(row, version=row.version + 1, reason_code="X")
    assert row == before


def test_a_name_that_is_no_column_is_refused(make_row: Callable[..., PayoutRow]) -> None:
    """A mistyped name must not become a change that nobody stores."""
    with pytest.raises(TypeError, match="reason_cod"):
        with_changes(make_row(), reason_cod="X")


def test_a_row_cannot_be_changed_in_place(make_row: Callable[..., PayoutRow]) -> None:
    """L2."""
    with pytest.raises(FrozenInstanceError):
        make_row().version = 7  # type: ignore[misc]
