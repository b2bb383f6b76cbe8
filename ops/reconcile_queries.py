"""The ledger's side of a reconciliation, and how old what is open has become. They only read."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from ledger.statements import CLAIMS_OF_A_PAYOUT, RECEIPT_OWNED
from ops.ledger_queries import Connection
from processors.payout.row import ACCOUNT_DESTINATIONS, CompensationState, PayoutState
from processors.reconciliation.sides import LedgerPayout, Numbers
from processors.visa.identity import IdentityError, sequence_number

STATEMENT_SECONDS: Final = 600.0
"""The table has no index by time: a day's payouts are found by reading it once."""
ROWS_AT_ONCE: Final = 1_000
NAMES_AT_ONCE: Final = 10_000

COLUMNS: Final = """p.payout_id, p.amount_minor, p.currency, p.state, p.state_version, p.state_at, p.received_at,
    p.destination_kind, p.systems_trace_audit_number, p.retrieval_reference_number, p.first_intent_at,
    p.last_intent_at, p.ambiguous, p.funding_captured, p.compensation, p.compensation_version, p.compensation_at,
    p.returned_at, p.returned_version, p.hold_reason, p.compensation_reason_code"""

# A payout is of every day on which something of it happened that another side should know.
OF_THE_DAY: Final = f"""
SELECT {COLUMNS}, {RECEIPT_OWNED} FROM payouts AS p {CLAIMS_OF_A_PAYOUT}
WHERE p.received_at >= $1 AND p.received_at < $2 OR p.state_at >= $1 AND p.state_at < $2
    OR p.first_intent_at >= $1 AND p.first_intent_at < $2 OR p.last_intent_at >= $1 AND p.last_intent_at < $2
    OR p.compensation_at >= $1 AND p.compensation_at < $2 OR p.returned_at >= $1 AND p.returned_at < $2
    OR p.held AND p.updated_at >= $1 AND p.updated_at < $2
"""  # noqa: S608 - constants; values are bound
OF_NUMBERS: Final = f"""
SELECT {COLUMNS}, {RECEIPT_OWNED} FROM unnest($1::bigint[], $2::text[]) AS asked (stan, rrn)
JOIN payouts AS p ON p.systems_trace_audit_number = asked.stan AND p.retrieval_reference_number = asked.rrn
{CLAIMS_OF_A_PAYOUT}
"""  # noqa: S608 - constants; values are bound
FIRST_SENT: Final = """
SELECT min(first_intent_at) FROM payouts
WHERE state IN ('PAID', 'REJECTED', 'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED')
    AND state_at >= $1 AND state_at < $2 AND destination_kind NOT IN ('ACCOUNT', 'WALLET')
"""
OF_IDS: Final = f"""
SELECT {COLUMNS}, {RECEIPT_OWNED} FROM payouts AS p {CLAIMS_OF_A_PAYOUT}
WHERE p.payout_id = ANY ($1::text[] COLLATE "C")
"""  # noqa: S608 - constants; values are bound
ADJUSTMENTS: Final = """
SELECT compensation_identity_number AS number FROM payouts WHERE compensation_identity_number = ANY ($1::bigint[])
"""
BUCKETS: Final = """count(*) FILTER (WHERE age < interval '1 hour') AS under_1_hour,
    count(*) FILTER (WHERE age >= interval '1 hour' AND age < interval '1 day') AS under_1_day,
    count(*) FILTER (WHERE age >= interval '1 day' AND age < interval '3 days') AS under_3_days,
    count(*) FILTER (WHERE age >= interval '3 days' AND age < interval '7 days') AS under_7_days,
    count(*) FILTER (WHERE age >= interval '7 days') AS older,
    extract(epoch FROM max(age))::bigint AS oldest_seconds"""
# Age since the request came in: a payout that is open, or whose funding is still to be handed back.
AGING: Final = f"""
SELECT what, currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor,
    {BUCKETS}
FROM (
    SELECT CASE WHEN held THEN 'held ' ELSE '' END
            || CASE WHEN ended THEN 'compensation ' || compensation ELSE state END AS what,
        currency, amount_minor, statement_timestamp() - received_at AS age
    FROM (SELECT *, state IN ('PAID', 'REJECTED', 'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED') AS ended
        FROM payouts) AS every
    WHERE NOT ended OR held OR compensation NOT IN ('NONE', 'COMPENSATED')
) AS waiting
WHERE age >= make_interval(days => $1)
GROUP BY what, currency ORDER BY max(age) DESC, what, currency
"""  # noqa: S608 - constants; values are bound
AGING_EXCEPTIONS: Final = f"""
SELECT 'exception ' || kind AS what, currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor,
    {BUCKETS}
FROM (SELECT kind, currency, amount_minor, statement_timestamp() - first_seen_at AS age
    FROM reconciliation_exceptions WHERE gone_at IS NULL AND resolved_at IS NULL) AS open
WHERE age >= make_interval(days => $1)
GROUP BY kind, currency ORDER BY max(age) DESC, kind, currency
"""  # noqa: S608 - constants; values are bound


async def payouts_of(connection: Connection, begin: datetime, end: datetime) -> AsyncIterator[LedgerPayout]:
    """Every payout of the day. Inside a transaction, so that all of them are of one moment."""
    async for record in connection.cursor(OF_THE_DAY, begin, end, prefetch=ROWS_AT_ONCE):
        yield ledger_payout(record)


def ledger_payout(record: Mapping[str, Any]) -> LedgerPayout:
    """The ledger's side from a row of the statement above."""
    values = dict(record)
    destination = values.pop("destination_kind")
    return LedgerPayout(
        **values
        | {
            "state": PayoutState(values["state"]),
            "compensation": CompensationState(values["compensation"]),
            "is_account_payout": destination in {kind.value for kind in ACCOUNT_DESTINATIONS},
        }
    )


async def payouts_with_ids(connection: Connection, payout_ids: Collection[str]) -> AsyncIterator[LedgerPayout]:
    """Those of these that the ledger has."""
    names = sorted(payout_ids)
    for first in range(0, len(names), NAMES_AT_ONCE):
        for record in await connection.fetch(OF_IDS, names[first : first + NAMES_AT_ONCE]):
            yield ledger_payout(record)


async def adjustments_among(connection: Connection, numbers: Collection[Numbers]) -> set[Numbers]:
    """Those that are an adjustment's: it has numbers of its own, from the same sequence (rule S1)."""
    by_sequence = {number: one for one in numbers if (number := _sequence_number(one)) is not None}
    asked, found = sorted(by_sequence), set[Numbers]()
    for first in range(0, len(asked), NAMES_AT_ONCE):
        known = await connection.fetch(ADJUSTMENTS, asked[first : first + NAMES_AT_ONCE])
        found |= {by_sequence[record["number"]] for record in known}
    return found


def _sequence_number(numbers: Numbers) -> int | None:
    trace, reference = numbers
    try:
        return None if trace is None else sequence_number(trace, reference)
    except IdentityError:
        return None


async def first_sent(connection: Connection, begin: datetime, end: datetime) -> datetime | None:
    """When the first of the card payouts was sent that ended in this time."""
    sent: datetime | None = await connection.fetchval(FIRST_SENT, begin, end)
    return sent


async def payouts_named(connection: Connection, numbers: Collection[Numbers]) -> AsyncIterator[LedgerPayout]:
    """The payouts that have these numbers at Visa."""
    asked: Sequence[Numbers] = [one for one in numbers if one[0] is not None]
    for first in range(0, len(asked), NAMES_AT_ONCE):
        some = asked[first : first + NAMES_AT_ONCE]
        for record in await connection.fetch(OF_NUMBERS, [stan for stan, _ in some], [rrn for _, rrn in some]):
            yield ledger_payout(record)


async def aging(connection: Connection, older_than_days: int) -> list[dict[str, Any]]:
    """What is open and at least so old, by what it is and currency; then open exceptions."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        rows = [*await connection.fetch(AGING, older_than_days)]
        rows += await connection.fetch(AGING_EXCEPTIONS, older_than_days)
    return [dict(row) for row in rows]
