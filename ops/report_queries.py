"""What a day or a week of payouts came to, asked of the ledger. They only read; no personal data is in any answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from ops.ledger_queries import PEOPLES_TRANSITIONS, Connection

ROWS_MAX: Final = 200
# A report reads every payout of its days, and of the tables what has no index by time.
STATEMENT_SECONDS: Final = 120.0

STATES: Final = """
SELECT state, currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor,
    count(*) FILTER (WHERE held) AS held
FROM payouts WHERE received_at >= $1 AND received_at < $2 GROUP BY state, currency ORDER BY currency, state
"""
# A decline is the issuer's word and no failure of ours (F-02): both are told, and the ratio leaves declines out.
CORRIDORS: Final = """
SELECT source_country || ' to ' || target_country AS corridor, currency, count(*) AS payouts,
    count(*) FILTER (WHERE state = 'PAID') AS paid, count(*) FILTER (WHERE state = 'DECLINED') AS declined,
    count(*) FILTER (WHERE state IN ('FAILED', 'EXPIRED')) AS failed,
    count(*) FILTER (WHERE state IN ('REJECTED', 'DENIED', 'CANCELLED')) AS refused,
    count(*) FILTER (WHERE state NOT IN ('PAID', 'DECLINED', 'FAILED', 'EXPIRED', 'REJECTED', 'DENIED', 'CANCELLED'))
        AS open,
    sum(amount_minor) FILTER (WHERE state = 'PAID')::bigint AS amount_minor,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM state_at - received_at))
        FILTER (WHERE state = 'PAID')::float8 AS median_seconds,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM state_at - received_at))
        FILTER (WHERE state = 'PAID')::float8 AS slow_seconds
FROM payouts WHERE received_at >= $1 AND received_at < $2
GROUP BY corridor, currency ORDER BY payouts DESC, corridor, currency LIMIT $3
"""
REASONS: Final = """
SELECT state, coalesce(reason_code, '-') AS reason_code, currency, count(*) AS payouts,
    sum(amount_minor)::bigint AS amount_minor
FROM payouts WHERE received_at >= $1 AND received_at < $2 AND state IN
    ('REJECTED', 'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED')
GROUP BY 1, 2, 3 ORDER BY payouts DESC, 1, 2, 3 LIMIT $3
"""
COMPENSATIONS: Final = """
SELECT compensation AS state, coalesce(compensation_action, '-') AS action, coalesce(compensation_executor, '-')
    AS executor, currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor,
    extract(epoch FROM clock_timestamp() - min(compensation_at))::bigint AS oldest_seconds
FROM payouts WHERE compensation <> 'NONE' AND compensation_at >= $1 AND compensation_at < $2
GROUP BY 1, 2, 3, 4 ORDER BY payouts DESC, 1, 2, 3, 4 LIMIT $3
"""
WAITING: Final = """
SELECT CASE WHEN held THEN 'held: ' || coalesce(split_part(hold_reason, ':', 1), '-') ELSE state END AS what, currency,
    count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor,
    extract(epoch FROM clock_timestamp() - min(coalesce(first_intent_at, state_at)))::bigint AS oldest_seconds
FROM payouts WHERE held OR state IN ('UNKNOWN', 'PENDING', 'IN_REVIEW', 'SUBMITTING')
GROUP BY 1, 2 ORDER BY 5 DESC, 1, 2 LIMIT $1
"""
STEPS: Final = """
SELECT transition, count(*) AS steps, count(DISTINCT payout_id) AS payouts FROM history
WHERE at >= $1 AND at < $2 AND payout_id IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $3
"""
OPERATORS: Final = f"""
SELECT actor, transition, count(*) AS times, max(at) AS last FROM history
WHERE at >= $1 AND at < $2 AND (payout_id IS NULL OR transition IN
    {PEOPLES_TRANSITIONS})
GROUP BY 1, 2 ORDER BY 4 DESC, 1, 2 LIMIT $3
"""  # noqa: S608 - constants
INTAKE: Final = """
SELECT disposition, reason_code, count(*) AS records FROM intake
WHERE recorded_at >= $1 AND recorded_at < $2 AND disposition <> 'HANDLED'
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT $3
"""
ATTEMPTS: Final = """
SELECT attempts, count(*) AS payouts, sum(inquiries)::bigint AS inquiries, sum(systemic_refusals)::bigint AS systemic,
    sum(own_failures)::bigint AS own_failures
FROM payouts WHERE received_at >= $1 AND received_at < $2 GROUP BY attempts ORDER BY attempts LIMIT $3
"""
VERSIONS: Final = """
SELECT coalesce(policy_version, '-') AS policy, coalesce(list_version, '-') AS list, count(*) AS payouts,
    count(*) FILTER (WHERE state = 'DENIED') AS denied, count(*) FILTER (WHERE review_case_id IS NOT NULL) AS reviewed
FROM payouts WHERE received_at >= $1 AND received_at < $2 GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT $3
"""
BREAKERS: Final = """
SELECT worker, facts -> 'breakers' AS breakers FROM visa_workers
WHERE seen_at > clock_timestamp() - interval '60 seconds' ORDER BY worker LIMIT $1
"""

BY_TIME: Final[Mapping[str, str]] = {
    "states": STATES,
    "corridors": CORRIDORS,
    "reasons": REASONS,
    "compensations": COMPENSATIONS,
    "steps": STEPS,
    "operators": OPERATORS,
    "intake": INTAKE,
    "attempts": ATTEMPTS,
    "versions": VERSIONS,
}
UNLIMITED: Final = frozenset({"states"})


@dataclass(frozen=True, slots=True)
class Span:
    """From the first moment of a day up to, not including, that of another."""

    begin: datetime
    end: datetime

    @classmethod
    def of(cls, last: date, days: int, zone: ZoneInfo) -> "Span":
        """The days that end with `last`, by the clocks of a place."""
        end = datetime.combine(last + timedelta(days=1), time(), zone)
        return cls(datetime.combine(last - timedelta(days=days - 1), time(), zone), end)


async def gathered(connection: Connection, span: Span) -> dict[str, list[dict[str, Any]]]:
    """Every table of the report, of one moment. Raises whatever the driver raises."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        found = {}
        for name, statement in BY_TIME.items():
            bound = (span.begin, span.end) if name in UNLIMITED else (span.begin, span.end, ROWS_MAX)
            found[name] = _dicts(await connection.fetch(statement, *bound))
        found["waiting"] = _dicts(await connection.fetch(WAITING, ROWS_MAX))
        found["breakers"] = _dicts(await connection.fetch(BREAKERS, ROWS_MAX))
    return found


def _dicts(records: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(record) for record in records]
