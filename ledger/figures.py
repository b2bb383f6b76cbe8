"""What the gauges say of the ledger, counted in one pass over the table.

    figures = await Figures(pool).look(patience_seconds=900, resend_limit_seconds=82_800)

For slow gauges: rows are never deleted, so it takes longer every year, and whoever asks rests in proportion. It has a
time-out of its own, reads one snapshot, and takes no lock that a payout could wait for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ledger.connections import Connection, GuardedPool
from ledger.reconciliation_figures import NEVER_RECONCILED, ReconciliationFigures, reconciliation_figures
from ledger.statements import SCAN_WHOLE_TABLES
from ledger.waiting import COLUMNS, EVERY, ORIGINATOR_PATIENCE_SECONDS, WAITS_FOR_A_PERSON, WHY, Why
from processors.payout.row import PayoutState

FIGURES_SECONDS: Final = 30.0
"""The longest that a look may take: beyond it there are no figures, and no session that reads for ever."""

# Groups: at most 14 states by 11 reasons. Ages count from what a person would count from, and are never below 0.
PAYOUTS: Final = f"""
SELECT state, why, count(*) AS payouts,
    count(*) FILTER (WHERE held) AS held,
    count(*) FILTER (WHERE announced_version < announce_version) AS unannounced,
    count(*) FILTER (WHERE lease_until > statement_timestamp()) AS leased,
    count(*) FILTER (WHERE due_at <= statement_timestamp() AND NOT held) AS due,
    count(*) FILTER (WHERE compensation IN ('REQUIRED', 'RUNNING', 'UNKNOWN')) AS pending,
    count(*) FILTER (WHERE compensation = 'MANUAL') AS manual,
    EXTRACT(EPOCH FROM statement_timestamp() - min(due_at) FILTER (WHERE NOT held))::float8 AS due_seconds,
    EXTRACT(EPOCH FROM statement_timestamp() - min(since))::float8 AS since_seconds,
    EXTRACT(EPOCH FROM statement_timestamp() - min(state_at))::float8 AS state_seconds,
    EXTRACT(EPOCH FROM statement_timestamp() - min(compensation_at)
        FILTER (WHERE compensation IN ('REQUIRED', 'RUNNING', 'UNKNOWN')))::float8 AS pending_seconds,
    EXTRACT(EPOCH FROM statement_timestamp() - min(funding_captured_at)
        FILTER (WHERE compensation IN ('REQUIRED', 'RUNNING', 'UNKNOWN') AND funding_kind = 'AFT'))::float8
        AS pull_seconds
FROM (SELECT *, {WHY} AS why FROM (
    SELECT {COLUMNS}, waits, funding_kind, funding_captured_at FROM ({EVERY}) AS known) AS facts) AS p
GROUP BY state, why
"""  # noqa: S608 - constants of this module and its neighbour; values are bound

PARKED: Final = """
SELECT count(*) FROM intake AS i WHERE i.disposition = 'DEAD_LETTER' AND NOT EXISTS (
    SELECT FROM letter_actions AS a
    WHERE a.letter = i.topic || '-' || i.partition_number || '-' || i.record_offset
        AND a.action IN ('REPLAYED', 'DISCARDED'))
"""

# Sealed and not confirmed by the broker, and not sealed yet: both begin where an index can find them.
UNPUBLISHED: Final = """
SELECT count(*) AS lines, EXTRACT(EPOCH FROM statement_timestamp() - min(at))::float8 AS seconds FROM (
    SELECT h.at FROM seals AS s JOIN history AS h ON h.id = s.history_id
    WHERE s.sequence > (SELECT published_sequence FROM seal_head)
    UNION ALL
    SELECT h.at FROM history AS h
    WHERE (h.written_by, h.id) > (SELECT sealed_written_by, sealed_history_id FROM seal_head)
        AND NOT EXISTS (SELECT FROM seals AS s WHERE s.history_id = h.id)
) AS lines
"""


@dataclass(frozen=True, slots=True)
class LedgerFigures:
    """One look. Ages are seconds, 0 where there is nothing of the kind."""

    by_status: Mapping[str, int]
    """Every state."""
    stuck_by_status: Mapping[str, int]
    """Waits too long, and no person is asked; every state."""
    waiting_for_person: Mapping[Why, int]
    """Every reason that only a person ends."""
    held: int
    unannounced: int
    leased: int
    due: int
    due_oldest_seconds: float
    unknown_oldest_seconds: float
    review_oldest_seconds: float
    compensation_pending: int
    compensation_manual: int
    compensation_oldest_seconds: float
    compensation_pull_oldest_seconds: float
    """Since its capture, of the oldest card pull that is still to be handed back."""
    letters_parked: int
    history_unpublished: int
    history_oldest_unpublished_seconds: float
    reconciliation: ReconciliationFigures


class Figures:
    """Looks at one database."""

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool

    async def look(self, *, patience_seconds: float, resend_limit_seconds: float) -> LedgerFigures:
        """Count once. Raises LedgerUnavailable, also when it takes longer than `FIGURES_SECONDS`."""
        bounds = (patience_seconds, ORIGINATOR_PATIENCE_SECONDS, resend_limit_seconds)

        async def work(connection: Connection) -> LedgerFigures:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(SCAN_WHOLE_TABLES)
                await connection.execute(f"SET LOCAL statement_timeout = {int(FIGURES_SECONDS * 1000)}")
                groups = await connection.fetch(PAYOUTS, *bounds)
                parked = await connection.fetchval(PARKED)
                unpublished = await connection.fetchrow(UNPUBLISHED)
                reconciled = await reconciliation_figures(connection)
                return figures_of([dict(group) for group in groups], parked, dict(unpublished), reconciled)

        return await self._pool.read(work, FIGURES_SECONDS)


def figures_of(
    groups: list[dict[str, Any]],
    parked: int,
    unpublished: Mapping[str, Any],
    reconciliation: ReconciliationFigures = NEVER_RECONCILED,
) -> LedgerFigures:
    """From the rows of the statements above."""
    by_status = dict.fromkeys((state.value for state in PayoutState), 0)
    stuck = dict.fromkeys(by_status, 0)
    waiting = dict.fromkeys(sorted(WAITS_FOR_A_PERSON), 0)
    for group in groups:
        by_status[group["state"]] += group["payouts"]
        why = None if group["why"] is None else Why(group["why"])
        if why in waiting:
            waiting[why] += group["payouts"]
        elif why is not None:
            stuck[group["state"]] += group["payouts"]

    def total(column: str) -> int:
        return sum(group[column] for group in groups)

    def oldest(column: str, state: PayoutState | None = None) -> float:
        ages: list[float | None] = [group[column] for group in groups if state is None or group["state"] == state]
        return max(0.0, 0.0, *(age for age in ages if age is not None))

    return LedgerFigures(
        by_status=by_status,
        stuck_by_status=stuck,
        waiting_for_person=waiting,
        held=total("held"),
        unannounced=total("unannounced"),
        leased=total("leased"),
        due=total("due"),
        due_oldest_seconds=oldest("due_seconds"),
        unknown_oldest_seconds=oldest("since_seconds", PayoutState.UNKNOWN),
        review_oldest_seconds=oldest("state_seconds", PayoutState.IN_REVIEW),
        compensation_pending=total("pending"),
        compensation_manual=total("manual"),
        compensation_oldest_seconds=oldest("pending_seconds"),
        compensation_pull_oldest_seconds=oldest("pull_seconds"),
        letters_parked=parked,
        history_unpublished=unpublished["lines"],
        history_oldest_unpublished_seconds=max(0.0, unpublished["seconds"] or 0.0),
        reconciliation=reconciliation,
    )
