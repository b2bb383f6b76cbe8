"""S4-30, P9, L10: exceptions of a reconciliation are kept, close when they are gone, and are explained once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime

import asyncpg
import pytest

from ledger.reconciliations import Found, Kept, Run, VisaSource, exceptions, record, resolve

pytestmark = [pytest.mark.servers, pytest.mark.database]

DAY, OTHER_DAY = date(2026, 11, 27), date(2026, 11, 28)
KINDS = ("NOT_AT_VISA", "RESULT_MISSING")
FIRST = Found("NOT_AT_VISA", "pay-1", 1999, "USD", "paid here, not in the report")
SECOND = Found("RESULT_MISSING", "pay-2", None, None, "no event")


def run_of(day: date = DAY, *, operator: str = "maria", unmatched: int = 2) -> Run:
    return Run(
        day, "UTC", datetime(2026, 11, 28, 6, tzinfo=UTC), operator, VisaSource.FILE,
        matched=10, unmatched=unmatched, awaited=1, money={"USD": {"ledger": 5, "visa": 4}},
    )  # fmt: skip


async def statuses(url: str) -> dict[str, str]:
    return {one.subject: one.status for one in await exceptions(url, only_open=False)}


async def history_of(url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(
            await connection.fetch(
                "SELECT actor, transition, to_state, detail FROM history WHERE transition LIKE 'reconcil%' ORDER BY id"
            )
        )
    finally:
        await connection.close()


async def test_s4_30_a_run_keeps_what_it_found_and_a_later_one_closes_what_is_gone(ledger_url: str) -> None:
    """S4-30: the same exception is one row; of the kinds that a later run compared, what it did not find is gone."""
    first = await record(ledger_url, run_of(), [FIRST, SECOND], KINDS)
    again = await record(ledger_url, run_of(), [FIRST], ["NOT_AT_VISA"])
    assert again > first
    assert await statuses(ledger_url) == {"pay-1": "OPEN", "pay-2": "OPEN"}, "results were not compared again"
    await record(ledger_url, run_of(unmatched=0), [], KINDS)
    assert await statuses(ledger_url) == {"pay-1": "GONE", "pay-2": "GONE"}
    await record(ledger_url, run_of(OTHER_DAY), [FIRST], KINDS)
    await record(ledger_url, run_of(), [FIRST], KINDS)
    kept = await exceptions(ledger_url, only_open=True, kinds=["NOT_AT_VISA"])
    assert [one.day for one in kept] == [OTHER_DAY, DAY], "a day is not closed by another one's run"
    assert [one.day for one in await exceptions(ledger_url, only_open=True, day=DAY)] == [DAY]
    assert (kept[0].amount_minor, kept[0].currency, kept[0].detail) == (1999, "USD", FIRST.detail)


async def test_p9_l10_an_exception_is_explained_once_and_both_are_lines_of_the_history(ledger_url: str) -> None:
    """P9: of two people who explain the same at once one is told; who and why is in the history (L10)."""
    await record(ledger_url, run_of(), [FIRST], KINDS)
    (kept,) = await exceptions(ledger_url, only_open=True)
    outcomes = await asyncio.gather(
        *(resolve(ledger_url, kept, operator=f"operator-{n}", reason=f"INC-{n}") for n in range(6))
    )
    assert sorted(outcomes) == [False] * 5 + [True]
    winner = outcomes.index(True)
    (now,) = await exceptions(ledger_url, only_open=False, exception_id=kept.id)
    assert (now.status, now.resolved_by, now.resolution) == ("RESOLVED", f"operator-{winner}", f"INC-{winner}")
    reconciled, resolved = await history_of(ledger_url)
    assert (reconciled["actor"], reconciled["transition"]) == ("maria", "reconciled")
    assert json.loads(reconciled["detail"])["unmatched"] == 2
    assert (resolved["actor"], resolved["to_state"]) == (f"operator-{winner}", "RESOLVED")
    assert json.loads(resolved["detail"])["reason"] == f"INC-{winner}"


async def test_s4_30_what_was_explained_stays_explained_until_it_is_something_else(ledger_url: str) -> None:
    """S4-30: a run that finds the same again asks nobody twice; one that finds another difference does."""
    await record(ledger_url, run_of(), [FIRST], KINDS)
    (kept,) = await exceptions(ledger_url, only_open=True)
    assert await resolve(ledger_url, kept, operator="maria", reason="settled a day later")
    await record(ledger_url, run_of(), [FIRST], KINDS)
    assert await statuses(ledger_url) == {"pay-1": "RESOLVED"}
    changed = Found(FIRST.kind, FIRST.subject, 1999, "USD", "paid here, reversed at Visa")
    await record(ledger_url, run_of(operator="paul"), [changed], KINDS)
    assert await statuses(ledger_url) == {"pay-1": "OPEN"}
    lines = [(line["actor"], line["transition"]) for line in await history_of(ledger_url)]
    assert ("paul", "reconciliation_exception_reopened") in lines
    assert not await resolve(ledger_url, kept, operator="maria", reason="as before"), "it is not what she has seen"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE reconciliations SET matched = 0",
        "DELETE FROM reconciliations",
        "DELETE FROM reconciliation_exceptions",
        "TRUNCATE reconciliation_exceptions, reconciliations",
    ],
)
async def test_l10_what_was_found_cannot_be_taken_away(ledger_url: str, statement: str) -> None:
    """L10: neither a run nor an exception disappears."""
    await record(ledger_url, run_of(), [FIRST], KINDS)
    connection = await asyncpg.connect(ledger_url)
    try:
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_p9_two_runs_of_a_day_at_once_leave_what_the_later_one_found(ledger_url: str) -> None:
    """P9: their writes do not mix."""

    async def one(found: Sequence[Found]) -> int:
        return await record(ledger_url, run_of(), found, KINDS)

    numbers = await asyncio.gather(*(one([FIRST]) if n % 2 else one([SECOND]) for n in range(8)))
    last = max(numbers)
    kept: list[Kept] = await exceptions(ledger_url, only_open=True)
    assert [one.subject for one in kept] == ["pay-1" if numbers.index(last) % 2 else "pay-2"]
