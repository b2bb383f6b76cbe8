"""What was reconciled, and which exceptions are open: written in one transaction with its line of the audited history.

    number = await record(url, run, found)               a day was compared: these exceptions, and no others
    rows = await exceptions(url, only_open=True)         what is left to be explained
    done = await resolve(url, 17, operator="maria", reason="INC-9: settled a day later")

An exception is known by its kind and subject, whichever day's run finds it; its day is that of the first. A run that
looked again, was told everything and did not find it closes it (`gone_at`); one that finds something else about it than
what a person has explained opens it again.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from ledger.restoring import opened
from ledger.statements import LOCK_SPACE, RECONCILIATION_LOCK

APPLICATION_NAME: Final = "payouts command"
EXCEPTIONS_MAX: Final = 100_000
"""Of one run: with so many the two sides are about different things, and a person looks for the cause first."""
ROWS_MAX: Final = 10_000

RUN: Final = """
INSERT INTO reconciliations (day, zone, begun_at, operator, visa_source, matched, unmatched, awaited, money)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb) RETURNING number
"""
# What a person explained stays explained while it is the same; what changed, or was gone and comes back, is open again.
REOPENED: Final = """
WITH found AS (
    SELECT f.* FROM unnest($1::text[], $2::text[], $3::text[]) AS f (kind, subject, detail)
), reopened AS (
    UPDATE reconciliation_exceptions AS e SET resolved_at = NULL, resolved_by = NULL, resolution = NULL
    FROM found AS f WHERE e.kind = f.kind AND e.subject = f.subject
        AND e.resolved_at IS NOT NULL AND (e.detail <> f.detail OR e.gone_at IS NOT NULL)
    RETURNING e.id, e.kind, e.subject
), noted AS (
    INSERT INTO history (actor, transition, from_state, to_state, detail)
    SELECT $4::text, 'reconciliation_exception_reopened', 'RESOLVED', 'OPEN', jsonb_build_object(
        'reason', 'what was explained has changed, or came back', 'exception', id, 'kind', kind, 'subject', subject)
    FROM reopened
)
SELECT count(*) FROM reopened
"""
SEEN: Final = """
INSERT INTO reconciliation_exceptions
    (day, kind, subject, amount_minor, currency, detail, first_number, last_number)
SELECT $1::date, f.kind, f.subject, f.amount_minor, f.currency, f.detail, $2::bigint, $2::bigint FROM unnest(
    $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[]) AS f (kind, subject, amount_minor, currency, detail)
ON CONFLICT (kind, subject) DO UPDATE SET amount_minor = excluded.amount_minor, currency = excluded.currency,
    detail = excluded.detail, last_number = excluded.last_number, last_seen_at = clock_timestamp(), gone_at = NULL
"""
# What another run has seen since this one began to read is not gone. Days of another time zone are other days.
GONE: Final = """
UPDATE reconciliation_exceptions AS e SET gone_at = clock_timestamp()
FROM reconciliations AS run WHERE run.number = $2
    AND last_number < $2 AND kind = ANY ($3::text[]) AND gone_at IS NULL AND last_seen_at < run.begun_at
    AND CASE WHEN $4::text[] IS NOT NULL THEN subject = ANY ($4)
        ELSE e.day = $1 AND run.zone = (SELECT r.zone FROM reconciliations AS r WHERE r.number = e.last_number) END
"""
NOTE: Final = """
INSERT INTO history (actor, transition, from_state, to_state, detail) VALUES ($1, 'reconciled', NULL, $2, $3::jsonb)
"""
COLUMNS: Final = """id, day, kind, subject, amount_minor, currency, detail, first_seen_at, last_seen_at, gone_at,
    resolved_at, resolved_by, resolution"""
MAY_RECORD: Final = """
SELECT has_table_privilege('reconciliations', 'INSERT') AND has_table_privilege('reconciliation_exceptions', 'INSERT')
"""
DAYS: Final = """
SELECT day, bool_or(visa_source <> 'NONE') AS with_visa, false AS open FROM reconciliations WHERE day >= $1 GROUP BY day
UNION ALL
SELECT day, false, true FROM reconciliation_exceptions
WHERE day >= $1 AND gone_at IS NULL AND resolved_at IS NULL GROUP BY day
"""
FIRST_DAY: Final = "SELECT min(day) FROM reconciliations"
STANDING: Final = f"SELECT {COLUMNS} FROM reconciliation_exceptions WHERE gone_at IS NULL"  # noqa: S608 - a constant
EXCEPTIONS: Final = f"""
SELECT {COLUMNS} FROM reconciliation_exceptions
WHERE ($1::boolean IS FALSE OR gone_at IS NULL AND resolved_at IS NULL)
    AND ($2::date IS NULL OR day = $2) AND ($3::text[] IS NULL OR kind = ANY ($3)) AND ($4::bigint IS NULL OR id = $4)
    AND ($5::bigint IS NULL OR last_number = $5)
ORDER BY day DESC, id DESC LIMIT $6
"""  # noqa: S608 - a constant
RESOLVE: Final = """
WITH resolved AS (
    UPDATE reconciliation_exceptions SET resolved_at = clock_timestamp(), resolved_by = $2, resolution = $3
    WHERE id = $1 AND gone_at IS NULL AND resolved_at IS NULL
        AND detail = $4
    RETURNING id, day, kind, subject
), noted AS (
    INSERT INTO history (actor, transition, from_state, to_state, detail)
    SELECT $2, 'reconciliation_exception_resolved', 'OPEN', 'RESOLVED', jsonb_build_object(
        'reason', $3::text, 'exception', id, 'day', day, 'kind', kind, 'subject', subject)
    FROM resolved
)
SELECT id FROM resolved
"""
REOPEN: Final = """
WITH opened AS (
    UPDATE reconciliation_exceptions SET resolved_at = NULL, resolved_by = NULL, resolution = NULL
    WHERE id = $1 AND resolved_at = $4
    RETURNING id, day, kind, subject
), noted AS (
    INSERT INTO history (actor, transition, from_state, to_state, detail)
    SELECT $2::text, 'reconciliation_exception_reopened', 'RESOLVED', 'OPEN', jsonb_build_object(
        'reason', $3::text, 'exception', id, 'day', day, 'kind', kind, 'subject', subject)
    FROM opened
)
SELECT id FROM opened
"""


class VisaSource(StrEnum):
    """Where Visa's side came from."""

    NONE = "NONE"
    FILE = "FILE"
    API = "API"


@dataclass(frozen=True, slots=True)
class Run:
    """One comparison of one day. Counts are payouts, and transactions at Visa that no payout has."""

    day: date
    zone: str
    begun_at: datetime
    operator: str
    visa_source: VisaSource
    matched: int
    unmatched: int
    awaited: int
    """Neither: what is too young, or outside of what the other side covers."""
    money: Mapping[str, Mapping[str, int]]
    """Sums in minor units by currency."""


@dataclass(frozen=True, slots=True)
class Found:
    """One exception of a run."""

    kind: str
    subject: str
    """A payout_id; or the numbers of a transaction at Visa."""
    amount_minor: int | None
    currency: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An exception as it is kept."""

    id: int
    day: date
    kind: str
    subject: str
    amount_minor: int | None
    currency: str | None
    detail: str
    first_seen_at: datetime
    last_seen_at: datetime
    gone_at: datetime | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None

    @property
    def status(self) -> str:
        """OPEN, GONE (a later run did not find it), or RESOLVED (a person explained it)."""
        if self.resolved_at is not None:
            return "RESOLVED"
        return "OPEN" if self.gone_at is None else "GONE"


@dataclass(frozen=True, slots=True)
class Closed:
    """Exceptions that are gone if this run did not find them."""

    kinds: Sequence[str]
    subjects: Collection[str] | None
    """Of these; None: all of the run's day."""


async def standing(database_url: str) -> list[Kept]:
    """Every exception that is not gone, explained or not. Raises LedgerUnavailable."""
    async with opened(database_url, application_name=APPLICATION_NAME) as connection:
        return [Kept(**row) for row in await connection.fetch(STANDING)]


async def may_record(database_url: str) -> bool:
    """Whether this login may write runs and exceptions: an operator's may, a worker's not. Raises LedgerUnavailable."""
    async with opened(database_url, application_name=APPLICATION_NAME) as connection:
        return bool(await connection.fetchval(MAY_RECORD))


async def days_to_compare(database_url: str, last: date, days_back_max: int, *, with_visa: bool) -> list[date]:
    """The last day, and of those before it what was never compared (with Visa), or has open exceptions; oldest first.

    Nothing before the first day that ever was compared. Raises LedgerUnavailable.
    """
    first = last - timedelta(days=days_back_max)
    async with opened(database_url, application_name=APPLICATION_NAME) as connection:
        ever: date | None = await connection.fetchval(FIRST_DAY)
        rows = await connection.fetch(DAYS, first)
    compared = {row["day"] for row in rows if not row["open"] and (row["with_visa"] or not with_visa)}
    again = {row["day"] for row in rows if row["open"] and row["day"] < last}
    begin = last if ever is None else max(first, ever)
    before = {begin + timedelta(days=number) for number in range((last - begin).days)}
    return sorted({last} | (before - compared) | again)


async def record(database_url: str, run: Run, found: Sequence[Found], closed: Sequence[Closed]) -> int:
    """Write the run, its exceptions, and which others are gone; its number. All of it or nothing.

    One after the other, and none closes what another one has seen since it began to read. Raises ValueError for more
    than `EXCEPTIONS_MAX`, LedgerError.
    """
    if len(found) > EXCEPTIONS_MAX:
        raise ValueError(f"more than {EXCEPTIONS_MAX} exceptions")
    columns = [list(column) for column in zip(*(_fields(one) for one in found), strict=True)] or [[], [], [], [], []]
    async with (
        opened(database_url, application_name=APPLICATION_NAME) as connection,
        connection.transaction(),
    ):
        await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, {RECONCILIATION_LOCK})")
        money = json.dumps(run.money)
        number: int = await connection.fetchval(
            RUN, run.day, run.zone, run.begun_at, run.operator, run.visa_source.value,
            run.matched, run.unmatched, run.awaited, money,
        )  # fmt: skip
        kinds, subjects, _, _, details = columns
        await connection.execute(REOPENED, kinds, subjects, details, run.operator)
        await connection.execute(SEEN, run.day, number, *columns)
        for one in closed:
            of = None if one.subjects is None else sorted(one.subjects)
            await connection.execute(GONE, run.day, number, sorted(one.kinds), of)
        await connection.execute(NOTE, run.operator, "RECONCILED", json.dumps(_noted(number, run)))
    return number


async def exceptions(
    database_url: str,
    *,
    only_open: bool,
    day: date | None = None,
    kinds: Collection[str] | None = None,
    exception_id: int | None = None,
    run_number: int | None = None,
    limit: int = ROWS_MAX,
) -> list[Kept]:
    """Those that fit, youngest first; with `run_number` those that this run has found. Raises LedgerUnavailable."""
    wanted = None if kinds is None else sorted(kinds)
    async with opened(database_url, application_name=APPLICATION_NAME) as connection:
        rows = await connection.fetch(EXCEPTIONS, only_open, day, wanted, exception_id, run_number, limit)
    return [Kept(**row) for row in rows]


async def resolve(database_url: str, seen: Kept, *, operator: str, reason: str) -> bool:
    """Explain it, as it was seen; False when it changed, is gone, or somebody was faster. Raises LedgerError."""
    async with opened(database_url, application_name=APPLICATION_NAME) as connection:
        return await connection.fetchval(RESOLVE, seen.id, operator, reason, seen.detail) is not None


async def reopen(database_url: str, seen: Kept, *, operator: str, reason: str) -> bool:
    """Open it again, as it was explained; False when somebody was faster. Raises LedgerError."""
    async with opened(database_url, application_name=APPLICATION_NAME) as connection:
        return await connection.fetchval(REOPEN, seen.id, operator, reason, seen.resolved_at) is not None


def _fields(found: Found) -> tuple[str, str, int | None, str | None, str]:
    return found.kind, found.subject, found.amount_minor, found.currency, found.detail


def _noted(number: int, run: Run) -> dict[str, Any]:
    return {
        "reason": f"reconciliation of {run.day.isoformat()}",
        "reconciliation": number,
        "visa_source": run.visa_source.value,
        "matched": run.matched,
        "unmatched": run.unmatched,
        "awaited": run.awaited,
    }
