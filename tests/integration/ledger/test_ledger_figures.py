"""What the gauges say of a real ledger: every row once, nothing made up, and no lock that a payout could wait for."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ledger.interface import Disposition, IntakeRecord
from ledger.letter_actions import LetterAction
from ledger.postgres import PostgresLedger
from processors.payout.row import CompensationState, FundingKind, PayoutState
from tests.ops.operator_rows import stored

pytestmark = pytest.mark.servers

HOUR = timedelta(hours=1)


async def test_e6_figures_are_what_the_tables_hold(ledger_url: str) -> None:
    """E6, P1: states, ages, compensations, dead letters and the history's backlog, each counted where it stands."""
    now = datetime.now(UTC)
    async with await PostgresLedger.connect(ledger_url) as ledger:
        empty = await ledger.figures.look(patience_seconds=900, resend_limit_seconds=82_800)
        assert set(empty.by_status) == {state.value for state in PayoutState}
        assert sum(empty.by_status.values()) == empty.letters_parked == empty.due == empty.held == 0
        assert empty.unknown_oldest_seconds == empty.compensation_pull_oldest_seconds == 0.0

        await stored(ledger, PayoutState.UNKNOWN, first_intent_at=now - 2 * HOUR, due_at=now - timedelta(minutes=3))
        await stored(ledger, PayoutState.IN_REVIEW, state_at=now - HOUR)
        pull = {"funding_kind": FundingKind.AFT, "funding_captured": False}
        await stored(
            ledger,
            PayoutState.FAILED,
            **pull,
            compensation=CompensationState.REQUIRED,
            compensation_at=now - HOUR,
        )
        await stored(
            ledger, PayoutState.FAILED, compensation=CompensationState.MANUAL, compensation_at=now, announce_version=2
        )
        for offset in (1, 2, 3):
            await ledger.record_intake(
                IntakeRecord("payout_requests", 0, offset, Disposition.DEAD_LETTER, None, "NOT_AVRO")
            )
        await ledger.record_intake(IntakeRecord("payout_requests", 0, 4, Disposition.REPEAT, "p", "SAME_CONTENT"))
        await ledger.letter_actions.act(
            letter="payout_requests-0-2",
            sha256="0" * 64,
            after=0,
            action=LetterAction.DISCARDED,
            operator="maria",
            reason="nothing behind it",
        )
        found = await ledger.figures.look(patience_seconds=900, resend_limit_seconds=82_800)
        counted = Counter({name: rows for name, rows in found.by_status.items() if rows})
        assert counted == {"UNKNOWN": 1, "IN_REVIEW": 1, "FAILED": 2}
        assert found.letters_parked == 2, "one was discarded, and a repeat is no letter"
        assert (found.due, found.unannounced, found.held, found.leased) == (1, 1, 0, 0)
        assert (found.compensation_pending, found.compensation_manual) == (1, 1)
        for seconds, wanted in (
            (found.unknown_oldest_seconds, 7200),
            (found.review_oldest_seconds, 3600),
            (found.due_oldest_seconds, 180),
            (found.compensation_oldest_seconds, 3600),
            (found.compensation_pull_oldest_seconds, 120),
        ):
            assert wanted - 5 <= seconds <= wanted + 60
        assert found.stuck_by_status["UNKNOWN"] == 1
        assert found.history_unpublished > 0, "nothing was sealed or published here"
        assert 0 < found.history_oldest_unpublished_seconds < 60


async def test_a_look_waits_for_no_payout_and_no_payout_for_it(ledger_url: str) -> None:
    """E6, L5: rows locked by somebody's batch are counted as they were."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        row = await stored(ledger, PayoutState.CLEARED)
        other = await asyncpg.connect(ledger_url)
        try:
            async with other.transaction():
                await other.execute("SELECT * FROM payouts WHERE payout_id = $1 FOR UPDATE", row.payout_id)
                look = ledger.figures.look(patience_seconds=900, resend_limit_seconds=82_800)
                assert (await asyncio.wait_for(look, 30)).by_status["CLEARED"] == 1
        finally:
            await other.close()
