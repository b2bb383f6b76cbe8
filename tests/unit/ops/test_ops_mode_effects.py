"""P9, E5: what a mode changes, as the commands show it."""

from __future__ import annotations

from itertools import product

import pytest

from ops.mode_effects import NAMES, Waiting, only_stops, plan, word
from processors.payout.modes import Activity, Mode, allows


@pytest.mark.parametrize(("before", "mode"), list(product(Mode, Mode)))
def test_a_brake_lets_nothing_happen_that_was_forbidden(before: Mode, mode: Mode) -> None:
    """E5, P9: only then it is set without a question; the end of `manual_review` lets unreviewed payments go."""
    lets_go = any(allows(mode, one) and not allows(before, one) for one in Activity)
    ends_review = before is Mode.MANUAL_REVIEW and mode in (Mode.NORMAL, Mode.MAINTENANCE)
    assert only_stops(before, mode) == (not lets_go and not ends_review)


@pytest.mark.parametrize(("mode", "activity"), list(product(Mode, Activity)))
def test_every_cell_has_its_word(mode: Mode, activity: Activity) -> None:
    """E5: no for what is forbidden, and a condition where there is one."""
    shown = word(mode, activity)
    assert (shown == "no") == (not allows(mode, activity))
    assert (shown not in ("yes", "no")) == (
        (mode is Mode.MANUAL_REVIEW and activity is Activity.SUBMIT)
        or (mode is Mode.MAINTENANCE and activity in (Activity.SCREEN, Activity.SUBMIT, Activity.COMPENSATE))
    )


def test_the_plan_shows_payouts_and_money_or_that_they_were_not_counted() -> None:
    """P9: sums per currency; what could not be counted in time is not shown as nothing."""
    counted = {Activity.SUBMIT: Waiting(3, {"JPY": 500, "USD": 2500})}
    lines = {line["activity"]: line for line in plan(Mode.NORMAL, Mode.HALTED, counted)}
    assert set(lines) == set(NAMES)
    assert (lines["SUBMIT"]["payouts"], lines["SUBMIT"]["money"]) == (3, "500 JPY, 25.00 USD")
    assert (lines["ASK"]["payouts"], lines["TAKE"]["payouts"]) == (0, None)
    assert {line["payouts"] for line in plan(Mode.NORMAL, Mode.HALTED, None)} == {None}
