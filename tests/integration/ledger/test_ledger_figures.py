"""What the gauges say of a real ledger: every row once, nothing made up, and no lock that a payout could wait for."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest

from ledger.interface import Disposition, IntakeRecord
from ledger.letter_actions import LetterAction
from ledger.postgres import PostgresLedger
from ledger.reconciliation_figures import NEVER_RECONCILED, ReconciliationFigures
from ledger.reconciliations import Closed, Found, Run, VisaSource, exceptions, record, resolve
from processors.payout.row import CompensationState, FundingKind, PayoutState
from tests.ops.operator_rows import stored

pytestmark = pytest.mark.servers

HOUR = timedelta(hours=1)
DAY = datetime.now(UTC).date() - timedelta(days=1)
NEXT_DAY = DAY + timedelta(days=1)


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


def run_of(day: date, source: VisaSource, *, matched: int, visa: int = 0) -> Run:
    money = {"USD": {"ledger": 500, "visa": visa}, "KWD": {"ledger": 9}}
    return Run(day, "UTC", datetime.now(UTC), "maria", source, matched=matched, unmatched=2, awaited=1, money=money)


def found_of(kind: str, number: int) -> Found:
    return Found(kind, f"pay-{number}", 500, "USD", "differs")


async def reconciled(ledger: PostgresLedger) -> ReconciliationFigures:
    return (await ledger.figures.look(patience_seconds=900, resend_limit_seconds=82_800)).reconciliation


async def test_e6_reconciliations_are_told_by_the_last_run_and_what_is_open(ledger_url: str) -> None:
    """E6, S4-18: open exceptions of all days; what is gone or explained is none; money of the last run with Visa."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        assert await reconciled(ledger) == NEVER_RECONCILED
        first = [found_of("NOT_AT_VISA", 1), found_of("NOT_AT_VISA", 2), found_of("RESULT_MISSING", 3)]
        await record(ledger_url, run_of(DAY, VisaSource.FILE, matched=10, visa=400), first, [])
        figures = await reconciled(ledger)
        assert 0 <= datetime.now(UTC).timestamp() - figures.last_at < 60
        assert figures.last_visa_at == figures.last_at
        assert (figures.matched, figures.visa_minus_ledger) == (10, {"USD": -100})
        assert figures.open_by_kind == {"NOT_AT_VISA": 2, "RESULT_MISSING": 1}

        (_, seen, *_) = await exceptions(ledger_url, only_open=True)
        assert await resolve(ledger_url, seen, operator="maria", reason="INC-7: settled a day later")
        closed = [Closed(["RESULT_MISSING"], ["pay-3"])]
        await record(ledger_url, run_of(DAY, VisaSource.NONE, matched=11), [], closed)
        await record(ledger_url, run_of(NEXT_DAY, VisaSource.NONE, matched=12), [found_of("NEWER_KIND", 4)], [])
        later = await reconciled(ledger)
        assert later.open_by_kind == {"NOT_AT_VISA": 1, "NEWER_KIND": 1}
        assert (later.matched, later.visa_minus_ledger) == (12, {"USD": -100}), "the last run had no report"
        assert later.last_at > later.last_visa_at == figures.last_at
        again = run_of(DAY - timedelta(days=20), VisaSource.FILE, matched=99, visa=9)
        await record(ledger_url, again, [], [])
        assert await reconciled(ledger) == later, "a day of long ago, compared again, says nothing of yesterday"


async def test_e6_before_the_roles_are_given_again_everything_else_is_still_counted(ledger_url: str) -> None:
    """E6: after a migration a worker's login may not read the new tables yet; its other gauges must not go."""
    async with await PostgresLedger.connect(ledger_url) as ledger:
        row = await stored(ledger, PayoutState.CLEARED)
        connection = await asyncpg.connect(ledger_url)
        try:
            await connection.execute("ALTER TABLE reconciliation_exceptions RENAME TO not_there_yet")
        finally:
            await connection.close()
        look = await ledger.figures.look(patience_seconds=900, resend_limit_seconds=82_800)
        assert (look.by_status["CLEARED"], look.reconciliation) == (1, NEVER_RECONCILED), row.payout_id
