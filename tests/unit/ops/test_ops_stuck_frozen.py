"""`payouts stuck` and rule L2: what Visa paid after its unpaid end is never listed as money to hand back."""

from __future__ import annotations

import itertools

import pytest

from ledger.postgres import PostgresLedger
from ledger.waiting import Why
from ops.stuck import found
from processors.payout.row import CompensationAction, CompensationState, Executor, PayoutState
from streams.settings import Settings
from tests.contract.ledger.ledger_fixtures import ledger_template, ledger_url
from tests.ops.operator_rows import stored

__all__ = ["ledger_template", "ledger_url"]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

MARKS = ("APPROVED_AFTER_UNPAID_END", "MAY_BE_PAID_AFTER_UNPAID_END")
HOLDS = (None, "OPERATOR: INC-1", "APPROVED_AFTER_UNPAID_END")
OPEN = (CompensationState.MANUAL, CompensationState.RUNNING)
CLOSED = (CompensationState.NONE, CompensationState.COMPENSATED)


async def frozen(ledger: PostgresLedger, compensation: CompensationState, mark: str, hold_reason: str | None) -> str:
    """The id of a payout that was frozen, perhaps released, and perhaps held again since."""
    row = await stored(
        ledger,
        PayoutState.FAILED,
        compensation=compensation,
        compensation_action=CompensationAction.REVERSE_FUNDS,
        compensation_executor=Executor.PROCESSOR,
        compensation_reason_code=mark,
        held=hold_reason is not None,
        hold_reason=hold_reason,
    )
    return row.payout_id


async def test_a_frozen_payout_is_named_frozen_whoever_released_or_holds_it(ledger_url: str) -> None:
    """P4, L2: whoever reads the list at 3 a.m. hands nothing back.

    P1: one of which nothing is open is listed until its release, which says that somebody has seen it.
    """
    async with await PostgresLedger.connect(ledger_url, pool_min=1) as ledger:
        wanted = {await frozen(ledger, *kind): kind[1] for kind in itertools.product(OPEN, MARKS, HOLDS)}
        wanted |= {await frozen(ledger, *kind): kind[1] for kind in itertools.product(CLOSED, MARKS, HOLDS[1:])}
        for compensation in CLOSED:
            await frozen(ledger, compensation, MARKS[0], None)
    settings = Settings.model_validate({"payouts_profile": "test", "database_url": ledger_url})
    rows, totals = await found(settings, 900.0, None, 100)
    assert {row["payout_id"]: row["reason"] for row in rows} == wanted
    assert [(total["why"], total["payouts"]) for total in totals] == [(Why.FROZEN, len(wanted))]
    assert {row["why"] for row in rows} == {Why.FROZEN}
    assert "hand nothing back" in totals[0]["advice"]
