"""S4-30, P9, L10: exceptions of a reconciliation are kept, close when they are gone, and are explained once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime

import asyncpg
import pytest

from ledger.reconciliations import (
    Closed,
    Found,
    Run,
    VisaSource,
    days_to_compare,
    exceptions,
    may_record,
    record,
    reopen,
    resolve,
    standing,
)

pytestmark = [pytest.mark.servers, pytest.mark.database]

DAY, OTHER_DAY = date(2026, 11, 27), date(2026, 11, 28)
KINDS = ("NOT_AT_VISA", "RESULT_MISSING")
EVERYTHING = [Closed(KINDS, ["pay-1", "pay-2"])]
"""A run that was told everything about both."""
FIRST = Found("NOT_AT_VISA", "pay-1", 1999, "USD", "paid here, not in the report")
SECOND = Found("RESULT_MISSING", "pay-2", None, None, "no event")


def run_of(
    day: date = DAY,
    *,
    operator: str = "maria",
    unmatched: int = 2,
    zone: str = "UTC",
    begun_at: datetime | None = None,
    source: VisaSource = VisaSource.FILE,
) -> Run:
    return Run(
        day, zone, begun_at or datetime.now(UTC), operator, source,
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


async def test_s4_30_a_run_keeps_what_it_found_and_closes_what_it_looked_at_and_did_not_find(ledger_url: str) -> None:
    """S4-30: only of the kinds and subjects about which it was told everything."""
    first = await record(ledger_url, run_of(), [FIRST, SECOND], EVERYTHING)
    assert {one.subject for one in await standing(ledger_url)} == {"pay-1", "pay-2"}
    again = await record(ledger_url, run_of(), [FIRST], [Closed(["NOT_AT_VISA"], ["pay-1", "pay-2"])])
    assert again > first
    assert await statuses(ledger_url) == {"pay-1": "OPEN", "pay-2": "OPEN"}, "results were not compared again"
    await record(ledger_url, run_of(), [], [Closed(KINDS, ["pay-3"])])
    assert await statuses(ledger_url) == {"pay-1": "OPEN", "pay-2": "OPEN"}, "of neither anything was said"
    last = await record(ledger_url, run_of(unmatched=0), [], EVERYTHING)
    assert await statuses(ledger_url) == {"pay-1": "GONE", "pay-2": "GONE"}
    assert await standing(ledger_url) == []
    assert await exceptions(ledger_url, only_open=False, run_number=last) == []


async def test_s4_30_the_same_exception_is_one_whichever_days_run_finds_it(ledger_url: str) -> None:
    """S4-30: nobody explains it twice; it keeps the day on which it was found first."""
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
    number = await record(ledger_url, run_of(OTHER_DAY), [FIRST], EVERYTHING)
    (kept,) = await exceptions(ledger_url, only_open=True)
    assert (kept.day, kept.amount_minor, kept.currency, kept.detail) == (DAY, 1999, "USD", FIRST.detail)
    assert await exceptions(ledger_url, only_open=True, run_number=number) == [kept]
    assert await exceptions(ledger_url, only_open=True, kinds=["RESULT_MISSING"]) == []
    assert await exceptions(ledger_url, only_open=True, day=OTHER_DAY) == []
    await record(ledger_url, run_of(OTHER_DAY), [], EVERYTHING)
    assert await statuses(ledger_url) == {"pay-1": "GONE"}
    await record(ledger_url, run_of(OTHER_DAY), [FIRST], EVERYTHING)
    assert await statuses(ledger_url) == {"pay-1": "OPEN"}, "there again"


async def test_s4_30_what_no_payout_is_is_closed_by_its_own_days_run(ledger_url: str) -> None:
    """S4-30: of a transaction that nobody asked for only its day's report can say that it is not there."""
    stranger = Found("NOT_IN_LEDGER", "visa RRN 1 STAN 2", 700, "USD", "nobody's")
    of_its_day = [Closed(["NOT_IN_LEDGER"], None)]
    await record(ledger_url, run_of(), [stranger], of_its_day)
    await record(ledger_url, run_of(OTHER_DAY), [], of_its_day)
    assert await statuses(ledger_url) == {stranger.subject: "OPEN"}
    await record(ledger_url, run_of(), [], of_its_day)
    assert await statuses(ledger_url) == {stranger.subject: "GONE"}


async def test_p9_l10_an_exception_is_explained_once_and_both_are_lines_of_the_history(ledger_url: str) -> None:
    """P9: of two people who explain the same at once one is told; who and why is in the history (L10)."""
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
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
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
    (kept,) = await exceptions(ledger_url, only_open=True)
    assert await resolve(ledger_url, kept, operator="maria", reason="settled a day later")
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
    assert await statuses(ledger_url) == {"pay-1": "RESOLVED"}
    changed = Found(FIRST.kind, FIRST.subject, 1999, "USD", "paid here, reversed at Visa")
    await record(ledger_url, run_of(operator="paul"), [changed], EVERYTHING)
    assert await statuses(ledger_url) == {"pay-1": "OPEN"}
    lines = [(line["actor"], line["transition"]) for line in await history_of(ledger_url)]
    assert ("paul", "reconciliation_exception_reopened") in lines
    assert not await resolve(ledger_url, kept, operator="maria", reason="as before"), "it is not what she has seen"


async def test_s4_30_what_was_explained_gone_and_comes_back_is_open_again(ledger_url: str) -> None:
    """S4-30: the explanation was of what had been there before."""
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
    (kept,) = await exceptions(ledger_url, only_open=True)
    assert await resolve(ledger_url, kept, operator="maria", reason="INC-1: Visa will take it back")
    await record(ledger_url, run_of(), [], EVERYTHING)
    assert await standing(ledger_url) == []
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
    assert await statuses(ledger_url) == {"pay-1": "OPEN"}


async def test_p9_what_was_explained_is_opened_again_once(ledger_url: str) -> None:
    """P9: the way back; of two at once one is told."""
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
    (kept,) = await exceptions(ledger_url, only_open=True)
    assert await resolve(ledger_url, kept, operator="maria", reason="INC-1")
    (explained,) = await exceptions(ledger_url, only_open=False)
    outcomes = await asyncio.gather(
        *(reopen(ledger_url, explained, operator=f"operator-{n}", reason="INC-2") for n in range(6))
    )
    assert sorted(outcomes) == [False] * 5 + [True]
    assert await statuses(ledger_url) == {"pay-1": "OPEN"}


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
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
    connection = await asyncpg.connect(ledger_url)
    try:
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_p9_what_another_run_saw_meanwhile_is_not_gone(ledger_url: str) -> None:
    """P9: one that reads Visa slowly does not close what a quicker one has found since it began."""
    slow = datetime.now(UTC)
    await record(ledger_url, run_of(), [FIRST], EVERYTHING)
    await record(ledger_url, run_of(begun_at=slow), [SECOND], EVERYTHING)
    assert await statuses(ledger_url) == {"pay-1": "OPEN", "pay-2": "OPEN"}
    await asyncio.gather(*(record(ledger_url, run_of(begun_at=slow), [], EVERYTHING) for _ in range(6)))
    assert await statuses(ledger_url) == {"pay-1": "OPEN", "pay-2": "OPEN"}
    await record(ledger_url, run_of(), [], EVERYTHING)
    assert await statuses(ledger_url) == {"pay-1": "GONE", "pay-2": "GONE"}


async def test_s4_30_a_day_of_another_time_zone_is_another_day(ledger_url: str) -> None:
    """S4-30: what no payout is, is closed by the run that would find it."""
    lost = Found("RESULT_NOT_IN_LEDGER", "lost-1", 700, "USD", "told PAID")
    of_its_day = [Closed(["RESULT_NOT_IN_LEDGER"], None)]
    await record(ledger_url, run_of(), [lost], of_its_day)
    await record(ledger_url, run_of(zone="Europe/Vienna"), [], of_its_day)
    assert await statuses(ledger_url) == {"lost-1": "OPEN"}
    await record(ledger_url, run_of(), [], of_its_day)
    assert await statuses(ledger_url) == {"lost-1": "GONE"}


async def test_s4_23_days_that_nobody_compared_and_those_with_open_exceptions_come_again(ledger_url: str) -> None:
    """S4-23: a job that did not run for a day is made up for; nothing before the first day that was ever compared."""
    days = [date(2026, 11, number) for number in range(20, 29)]
    last = days[-1]

    async def due(*, with_visa: bool = True, back: int = 10) -> list[date]:
        return await days_to_compare(ledger_url, last, back, with_visa=with_visa)

    assert await due() == [last], "the first run ever"
    await record(ledger_url, run_of(days[2]), [], EVERYTHING)
    await record(ledger_url, run_of(days[4], source=VisaSource.NONE), [FIRST], [])
    assert await due(with_visa=False) == [days[3], *days[4:]]
    assert await due() == [days[3], *days[4:]], "without Visa it was not compared with Visa"
    for day in days[3:]:
        await record(ledger_url, run_of(day), [], [])
    assert await due() == [days[4], last], "an open exception; and the last day always"
    assert await due(back=3) == [last]
    await record(ledger_url, run_of(), [], EVERYTHING)
    assert await due() == [last]


async def test_least_privilege_who_may_keep_what_is_found_is_known_before_anything_is_read(ledger_url: str) -> None:
    """The owner may; a login without rights is told no instead of an error."""
    assert await may_record(ledger_url)
