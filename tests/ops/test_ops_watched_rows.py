"""What `payouts monitor` counts and `payouts report weekly` adds up, held to rows of a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from ledger.interface import Change, Inserted
from ledger.postgres import PostgresLedger
from ops.monitor import Limits, Seen, _clock, _of_ledger, breaches_of
from processors.payout.row import CompensationState, PayoutRow, PayoutState, with_changes
from streams.settings import Settings
from tests.contract.ledger.ledger_fixtures import ledger_template, ledger_url
from tests.ops.operator_rows import facts_of, new_row
from tests.ops.test_ops_operator_commands import Desk, desk

__all__ = ["desk", "ledger_template", "ledger_url"]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

LIMITS = Limits(lag_max=1000, error_share_max=0.05, ended_min=2, more_held_max=0, more_unknown_max=0)
LONG_AGO = timedelta(hours=2)


def look(desk: Desk, began_at: datetime) -> Seen:
    """One look of the monitor at the rows, with a group in which nothing is wrong."""
    settings = Settings.model_validate({name.lower(): value for name, value in desk.environment.items()})
    return Seen(lag=0, members=1, **asyncio.run(_of_ledger(settings, began_at)))


def clock(desk: Desk) -> datetime:
    """The database's."""
    settings = Settings.model_validate({name.lower(): value for name, value in desk.environment.items()})
    return asyncio.run(_clock(settings))


def aged(desk: Desk, row: PayoutRow, **columns: datetime) -> None:
    """Times that only the database writes, as they are when nobody has touched the row for long."""

    async def work() -> None:
        connection = await asyncpg.connect(desk.url)
        try:
            for column, value in columns.items():
                await connection.execute("SET session_replication_role = replica")
                statement = f"UPDATE payouts SET {column} = $2 WHERE payout_id = $1"
                assert await connection.execute(statement, row.payout_id, value) == "UPDATE 1"
        finally:
            await connection.close()

    asyncio.run(work())


def test_s3_27_each_breach_is_seen_once_on_real_rows(desk: Desk) -> None:
    """S3-27: held, unknown, to be handed back, stuck, unpublished, failing: each by its row, and by nothing else."""
    old = {"state_at": datetime.now(UTC) - LONG_AGO}
    # What was so before the watch began, and what is as it should be, is no breach.
    desk.stored(PayoutState.PAID, **old)
    desk.stored(PayoutState.FAILED, **old)
    desk.stored(PayoutState.CLEARED, held=True, hold_reason="OPERATOR: before")
    desk.stored(PayoutState.UNKNOWN)
    desk.stored(PayoutState.CLEARED, **old)
    began_at = clock(desk)
    first = look(desk, began_at)
    assert asdict(first) == {
        "lag": 0, "members": 1, "mode": "normal", "paid": 0, "failed": 0, "declined": 0, "held": 1, "unknown": 1,
        "manual": 0, "unannounced": 0, "stuck": 1,
    }  # fmt: skip
    assert breaches_of(first, first, LIMITS) == []

    def after(state: PayoutState, **changes: Any) -> list[str]:
        """The breaches that this one row makes."""
        nonlocal now
        before, row = now, desk.stored(state, **changes)
        if changes.get("announce_version"):
            assert breaches_of(before, look(desk, began_at), LIMITS) == [], "a sweeper may still publish it"
            aged(desk, row, updated_at=datetime.now(UTC) - LONG_AGO)
        now = look(desk, began_at)
        return breaches_of(before, now, LIMITS)

    now = first
    ended = {"state_at": began_at + timedelta(seconds=1)}
    assert after(PayoutState.RECEIVED, held=True, hold_reason=None) == [
        "1 more payouts are held than at the beginning (2)"
    ]
    assert after(PayoutState.UNKNOWN) == ["1 more payouts are unknown than at the beginning (2)"]
    assert after(PayoutState.CLEARED, first_intent_at=datetime.now(UTC) - LONG_AGO) == [
        "1 more payouts are stuck than at the beginning (2)"
    ]
    assert after(PayoutState.DENIED, compensation=CompensationState.MANUAL, **old) == [
        "1 more payouts are to be handed back by hand than at the beginning (1)"
    ]
    assert after(PayoutState.PAID, announce_version=2, **old) == [
        "1 more payouts are not published for a minute than at the beginning (1)"
    ]
    for state in (PayoutState.PAID, PayoutState.DECLINED, PayoutState.IN_REVIEW, PayoutState.REJECTED):
        assert after(state, **(ended if state is not PayoutState.IN_REVIEW else old)) == []
    assert after(PayoutState.FAILED, **ended) == ["1 of 2 payouts that ended have failed, more than 5.0%"]
    assert after(PayoutState.EXPIRED, **ended) == ["2 of 3 payouts that ended have failed, more than 5.0%"]
    assert asdict(now) == {
        "lag": 0, "members": 1, "mode": "normal", "paid": 1, "failed": 2, "declined": 1, "held": 2, "unknown": 2,
        "manual": 1, "unannounced": 1, "stuck": 2,
    }  # fmt: skip


def test_s0_45_a_week_is_seven_days_by_somebodys_clocks_and_adds_up(desk: Desk) -> None:
    """S0-45, S4-24: the first moment of day -6 belongs to it, the last of day -7 does not, today does."""
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    first, last_before = midnight - timedelta(days=6), midnight - timedelta(days=6, microseconds=1)
    vienna = ZoneInfo("Europe/Vienna")
    local_day = datetime.combine(midnight.date() - timedelta(days=6), datetime.min.time(), vienna)

    async def work(ledger: PostgresLedger) -> None:
        for amount, received, state, changes in (
            (1_00, now, PayoutState.PAID, {}),
            (10_00, first, PayoutState.PAID, {}),
            (100_00, first, PayoutState.DECLINED, {"reason_code": "ACTION_CODE_51"}),
            (1000_00, last_before, PayoutState.PAID, {}),
            (10000_00, local_day, PayoutState.PAID, {}),
        ):
            row = new_row(f"week-{amount}", amount_minor=amount, received_at=received)
            inserted = await ledger.insert(row, "intake")
            assert isinstance(inserted, Inserted)
            ended = with_changes(inserted.row, **(facts_of(state) | changes))
            assert await ledger.commit(Change(inserted.row, ended, f"became_{state.value.lower()}", "worker-1"))

    desk.ledger(work)
    day = ("--date", midnight.date().isoformat())

    def money(*words: str) -> dict[tuple[str, str], tuple[int, str]]:
        report = desk.data("report", *words)
        return {(row["state"], row["currency"]): (row["payouts"], row["money"]) for row in report["states"]}

    declined = {("DECLINED", "USD"): (1, "100.00 USD")}
    assert money("weekly", *day) == {("PAID", "USD"): (2, "11.00 USD")} | declined
    # By the clocks of Vienna the week begins, and ends, an hour or two earlier.
    there = money("weekly", *day, "--zone", "Europe/Vienna")
    assert there.pop(("PAID", "USD")) in ((4, "11011.00 USD"), (3, "11010.00 USD")), "now may be tomorrow there"
    assert there == declined
    assert money("daily", *day) == {("PAID", "USD"): (1, "1.00 USD")}
    report = desk.data("report", "weekly", *day)
    (corridor,) = report["corridors"]
    assert [corridor[key] for key in ("payouts", "paid", "declined", "failed", "open")] == [3, 2, 1, 0, 0]
    assert (corridor["money"], corridor["success"]) == ("11.00 USD", "100.0%")
    assert [(row["reason_code"], row["money"]) for row in report["reasons"]] == [("ACTION_CODE_51", "100.00 USD")]
    assert [(row["attempts"], row["payouts"]) for row in report["attempts"]] == [(1, 3)]
