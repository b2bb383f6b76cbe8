"""What the gauges say of reconciliations: when the last ones ended, and what nobody has explained yet.

    found = await reconciliation_figures(connection)          as part of a look: see `ledger.figures`

Kinds are the words of the table: those of a newer release are counted like any other.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.connections import Connection

CURRENCIES_MAX: Final = 50
"""Label values of one gauge: more currencies than anybody pays in, and no more, whatever the table says."""
CURRENCY: Final = re.compile(r"[A-Z]{3}")

# After a migration, before the roles were given again, the table is there and not for a worker to read: then nothing is
# known of reconciliations, and of everything else all.
MAY_LOOK: Final = """
SELECT CASE WHEN to_regclass('reconciliation_exceptions') IS NULL THEN false
    ELSE has_table_privilege('reconciliations', 'SELECT') AND has_table_privilege('reconciliation_exceptions', 'SELECT')
    END
"""
# Runs are written one after the other, so the one with the highest number ended last. One that looks at a day of long
# ago again says nothing about yesterday.
LAST: Final = """
SELECT EXTRACT(EPOCH FROM ended_at)::float8 AS ended_at, matched FROM reconciliations
WHERE day >= (ended_at - interval '2 days')::date ORDER BY number DESC LIMIT 1
"""
LAST_WITH_VISA: Final = """
SELECT EXTRACT(EPOCH FROM ended_at)::float8 AS ended_at, money FROM reconciliations
WHERE visa_source <> 'NONE' AND day >= (ended_at - interval '2 days')::date ORDER BY number DESC LIMIT 1
"""
OPEN: Final = """
SELECT kind, count(*) AS exceptions FROM reconciliation_exceptions
WHERE gone_at IS NULL AND resolved_at IS NULL GROUP BY kind
"""


@dataclass(frozen=True, slots=True)
class ReconciliationFigures:
    """Times are Unix seconds; all is 0 or empty before the first run. Only runs about the last days count."""

    last_at: float = 0.0
    last_visa_at: float = 0.0
    """Of the last run that had Visa's side."""
    matched: int = 0
    """Of the last run."""
    open_by_kind: Mapping[str, int] = field(default_factory=dict)
    """Exceptions of all days that are neither gone nor explained."""
    visa_minus_ledger: Mapping[str, int] = field(default_factory=dict)
    """Minor units by currency, of the last run that had Visa's side."""


NEVER_RECONCILED: Final = ReconciliationFigures()


async def reconciliation_figures(connection: Connection) -> ReconciliationFigures:
    """Look once, within the caller's transaction."""
    if not await connection.fetchval(MAY_LOOK):
        return NEVER_RECONCILED
    last = await connection.fetchrow(LAST)
    with_visa = await connection.fetchrow(LAST_WITH_VISA)
    return reconciliation_figures_of(last, with_visa, await connection.fetch(OPEN))


def reconciliation_figures_of(
    last: Mapping[str, Any] | None, with_visa: Mapping[str, Any] | None, kinds: Sequence[Mapping[str, Any]]
) -> ReconciliationFigures:
    """From the rows of the statements above."""
    return ReconciliationFigures(
        last_at=0.0 if last is None else last["ended_at"],
        last_visa_at=0.0 if with_visa is None else with_visa["ended_at"],
        matched=0 if last is None else last["matched"],
        open_by_kind={row["kind"]: row["exceptions"] for row in kinds},
        visa_minus_ledger={} if with_visa is None else differences(json.loads(with_visa["money"])),
    )


def differences(money: object) -> dict[str, int]:
    """Visa's sum less ours by currency, where both are known; where they differ first, and at most `CURRENCIES_MAX`."""
    sums = money if isinstance(money, dict) else {}
    known = {currency: _difference(both) for currency, both in sums.items() if CURRENCY.fullmatch(currency)}
    found = {currency: minor_units for currency, minor_units in known.items() if minor_units is not None}
    shown = sorted(found, key=lambda currency: (found[currency] == 0, currency))[:CURRENCIES_MAX]
    return {currency: found[currency] for currency in shown}


def _difference(sums: object) -> int | None:
    """None where one of them is not known, or is no whole number."""
    if not isinstance(sums, dict):
        return None
    visa, ledger = sums.get("visa"), sums.get("ledger")
    # A bool is an int, and no sum.
    return visa - ledger if type(visa) is int and type(ledger) is int else None
