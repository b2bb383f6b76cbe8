"""What a mode does to the payouts that are there, in numbers and money, before it is set (P9). It only reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ops.effects import totals_text
from ops.ledger_queries import reading
from ops.output import Column
from processors.payout.modes import UNREVIEWED_BELOW_BASIS_POINTS, Activity, Mode, allows

COUNT_SECONDS: Final = 3.0
"""The brake does not wait for numbers longer than this."""

WAITING: Final = """
SELECT CASE WHEN state IN ('RECEIVED', 'VALIDATED') THEN 'SCREEN' WHEN state = 'CLEARED' THEN 'SUBMIT'
        WHEN state = 'IN_REVIEW' THEN 'DECIDE' WHEN compensation = 'REQUIRED' THEN 'COMPENSATE'
        ELSE 'ASK' END AS activity,
    currency, count(*) AS payouts, sum(amount_minor) AS amount_minor
FROM payouts
WHERE NOT held AND (state IN ('RECEIVED', 'VALIDATED', 'IN_REVIEW', 'CLEARED', 'SUBMITTING', 'PENDING', 'UNKNOWN')
    OR compensation IN ('REQUIRED', 'RUNNING', 'UNKNOWN'))
GROUP BY 1, 2 ORDER BY 1, 2
"""

NAMES: Final[Mapping[Activity, str]] = {
    Activity.TAKE: "new requests are taken",
    Activity.SCREEN: "validation and screening",
    Activity.SUBMIT: "payments leave for Visa",
    Activity.ASK: "Visa is asked about payments",
    Activity.COMPENSATE: "funding is handed back",
    Activity.PUBLISH: "results and events are published",
    Activity.DECIDE: "people's decisions count (review, release, requeue, cancel, resolve)",
    Activity.AUDIT: "the audit is published",
}
FINISHED: Final = (Activity.SCREEN, Activity.SUBMIT, Activity.COMPENSATE)
REVIEWED_ONLY: Final = f"only what scored below {UNREVIEWED_BELOW_BASIS_POINTS / 10_000:.2f} or a reviewer approved"

COLUMNS: Final = (
    Column("what", "WHAT"),
    Column("now", "NOW"),
    Column("then", "THEN"),
    Column("payouts", "PAYOUTS", right=True),
    Column("money", "MONEY"),
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Payouts that are not at their end, and not held: how many, and minor units per currency."""

    payouts: int
    money: Mapping[str, int]


async def waiting(database_url: str) -> Mapping[Activity, Waiting]:
    """By what each needs next. Raises LedgerUnavailable, also when counting takes too long."""
    async with reading(database_url, statement_seconds=COUNT_SECONDS) as connection:
        records: Sequence[Mapping[str, Any]] = await connection.fetch(WAITING)
    found: dict[Activity, Waiting] = {}
    for record in records:
        activity = Activity(record["activity"])
        before = found.get(activity, Waiting(0, {}))
        money = {**before.money, record["currency"]: int(record["amount_minor"])}
        found[activity] = Waiting(before.payouts + record["payouts"], money)
    return found


def only_stops(before: Mode, mode: Mode) -> bool:
    """Whether `mode` lets nothing happen that `before` forbids. Pure."""
    reviewed = before is Mode.MANUAL_REVIEW and allows(mode, Activity.SUBMIT) and mode is not Mode.MANUAL_REVIEW
    return not reviewed and all(allows(before, one) for one in Activity if allows(mode, one))


def plan(before: Mode, mode: Mode, counted: Mapping[Activity, Waiting] | None) -> list[dict[str, Any]]:
    """One line an activity: what is so now, what then, and the payouts with their money that it concerns. Pure."""
    lines = []
    for activity in Activity:
        found = None if counted is None else counted.get(activity)
        is_counted = counted is not None and activity not in (Activity.TAKE, Activity.PUBLISH, Activity.AUDIT)
        none_wait = 0 if is_counted else None
        lines.append(
            {
                "activity": activity.value,
                "what": NAMES[activity],
                "now": word(before, activity),
                "then": word(mode, activity),
                "payouts": none_wait if found is None else found.payouts,
                "money": None if found is None else totals_text(found.money),
                "money_minor": {} if found is None else dict(found.money),
            }
        )
    return lines


def word(mode: Mode, activity: Activity) -> str:
    """The cell of the table as people read it."""
    if not allows(mode, activity):
        return "no"
    if mode is Mode.MANUAL_REVIEW and activity is Activity.SUBMIT:
        return REVIEWED_ONLY
    return "what was taken before" if mode is Mode.MAINTENANCE and activity in FINISHED else "yes"
