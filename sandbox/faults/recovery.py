"""How long it took until work went on after each fault, read from the ledger's history when the run is over.

* worker kill: until the last intent that it left has an outcome, and until each of its partitions is read again
* broker kill: until the first record that a new leader accepted in its place is in the ledger
* database kill: until the first committed transition

The next faults do not wait, so these are times under fire: what hits during a recovery prolongs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from statistics import quantiles
from typing import Final

from sandbox.faults.aim import LedgerAway, LedgerWatch
from sandbox.faults.conductor import DoneFault
from sandbox.faults.schedule import Kind

HISTORY_LOOKED_AT: Final = 20_000
"""Entries behind a fault that are searched: minutes of work, and a bounded question."""

Choose = Callable[[Iterable[datetime]], datetime]

OUTCOME: Final = """
SELECT max(first_at) AS last_at, count(*) AS found FROM (
    SELECT min(at) AS first_at FROM history
    WHERE payout_id = ANY($1) AND at > $2
      AND to_state IN ('PAID', 'DECLINED', 'FAILED', 'EXPIRED', 'CANCELLED', 'CLEARED')
    GROUP BY payout_id) AS firsts
"""
TAKEN_IN: Final = """
SELECT source_partition AS partition, min(at) AS first_at
FROM history JOIN payouts USING (payout_id)
WHERE history.id > $1 AND history.id <= $1 + $2 AND history.version = 1
  AND source_partition = ANY($3) AND received_at > $4
GROUP BY source_partition
"""
FIRST_COMMIT: Final = "SELECT min(at) AS first_at FROM history WHERE id > $1 AND id <= $1 + 1000 AND at > $2"


def recovery_times(watch: LedgerWatch, done: Sequence[DoneFault]) -> dict[str, list[float]]:
    """Seconds by what recovered. A fault whose recovery cannot be told from the history is left out."""
    found: dict[str, list[float]] = {name: [] for name in ("worker_intents", "worker_partitions", "broker", "database")}
    for fault in done:
        if not fault.hit:
            continue
        try:
            for name, moment in _moments(watch, fault).items():
                if moment is not None:
                    found[name].append((moment - fault.began_at).total_seconds())
        except LedgerAway:
            continue
    return found


def _moments(watch: LedgerWatch, fault: DoneFault) -> dict[str, datetime | None]:
    match fault.kind:
        case Kind.KILL:
            return {"worker_intents": _outcome(watch, fault), "worker_partitions": _taken_in(watch, fault, max)}
        case Kind.BROKER_KILL:
            return {"broker": _taken_in(watch, fault, min)}
        case Kind.DB_KILL if fault.history_id is not None:
            return {"database": _first_commit(watch, fault.history_id, fault.began_at)}
        case _:
            return {}


def _outcome(watch: LedgerWatch, fault: DoneFault) -> datetime | None:
    """When the last of the intents had an outcome; None if one has none yet."""
    names = [intent.payout_id for intent in fault.intents]
    row = watch.fetch(OUTCOME, names, fault.began_at)[0]
    return row["last_at"] if row["found"] == len(names) else None


def _taken_in(
    watch: LedgerWatch, fault: DoneFault, choose: Callable[[Iterable[datetime]], datetime]
) -> datetime | None:
    if fault.history_id is None or not fault.partitions:
        return None
    rows = watch.fetch(TAKEN_IN, fault.history_id, HISTORY_LOOKED_AT, fault.partitions, fault.began_at)
    moments = [row["first_at"] for row in rows]
    return choose(moments) if moments else None


def _first_commit(watch: LedgerWatch, history_id: int, began_at: datetime) -> datetime | None:
    moment: datetime | None = watch.fetch(FIRST_COMMIT, history_id, began_at)[0]["first_at"]
    return moment


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float | int]]:
    """Count, median, 99th percentile and maximum, in seconds.

    >>> summary({"database": [1.0, 2.0, 3.0]})
    {'database': {'count': 3, 'p50': 2.0, 'p99': 3.0, 'max': 3.0}}
    """
    return {name: _summary(sorted(values)) for name, values in times.items()}


def _summary(values: Sequence[float]) -> dict[str, float | int]:
    if not values:
        return {"count": 0}
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {
        "count": len(values),
        "p50": round(cuts[49], 2),
        "p99": round(min(cuts[98], values[-1]), 2),
        "max": round(values[-1], 2),
    }
