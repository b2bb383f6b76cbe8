"""Which payouts wait for a person, or for longer than anything should, and why (P1).

One definition for `payouts stuck`, which lists them, and for the gauges, which count them.
"""

from enum import StrEnum
from typing import Final

PATIENCE_SECONDS: Final = 900.0
"""A payout that needs no person ends within this, or something is wrong."""
PATIENCE_TEST_SECONDS: Final = 60.0
"""The same with the test profile's short times."""
ORIGINATOR_PATIENCE_SECONDS: Final = 24 * 3600.0
"""An originator that has not confirmed a compensation after a day does not read its events."""


class Why(StrEnum):
    """Why a payout waits; the words are those of the statement below."""

    FROZEN = "frozen"
    PROPOSED = "resolution proposed"
    HELD = "held"
    IN_REVIEW = "in review"
    MANUAL = "compensation manual"
    PAST_RESENDS = "unknown past resends"
    UNKNOWN = "unknown"
    COMPENSATION = "compensation slow"
    ORIGINATOR = "originator silent"
    UNANNOUNCED = "not published"
    NO_PROGRESS = "no progress"


WAITS_FOR_A_PERSON: Final = frozenset({Why.FROZEN, Why.PROPOSED, Why.HELD, Why.IN_REVIEW, Why.MANUAL, Why.PAST_RESENDS})

# In the order in which a payout is named by its most urgent reason. A frozen one stays so after its release, as long as
# anything of its compensation is open: nobody may read "a person hands the funding back" there. What waits for a person
# is in the list from its first second; everything else once it is older than $1 seconds. `updated_at` moves with every
# step, an inquiry too: so age counts from the first attempt, or from the present state where there was none. An account
# payout that Visa has and works on may take days: it is here when Visa waits for information, or when it is held.
#
# $1 patience, $2 patience with an originator, $3 from the first attempt to the end of resends; all in seconds.
WHY: Final = """CASE
    WHEN NOT waits THEN NULL
    WHEN compensation_reason_code IN ('APPROVED_AFTER_UNPAID_END', 'MAY_BE_PAID_AFTER_UNPAID_END')
        OR held AND hold_reason IN ('APPROVED_AFTER_UNPAID_END', 'MAY_BE_PAID_AFTER_UNPAID_END') THEN 'frozen'
    WHEN held AND hold_reason = 'RESOLUTION_PROPOSED' THEN 'resolution proposed'
    WHEN held THEN 'held'
    WHEN state = 'IN_REVIEW' THEN 'in review'
    WHEN compensation = 'MANUAL' THEN 'compensation manual'
    WHEN open AND ambiguous AND first_intent_at < clock_timestamp() - make_interval(secs => $3)
        THEN 'unknown past resends'
    WHEN open AND ambiguous AND since < clock_timestamp() - make_interval(secs => $1) THEN 'unknown'
    WHEN open AND since < clock_timestamp() - make_interval(secs => $1) THEN 'no progress'
    WHEN compensation IN ('REQUIRED', 'RUNNING', 'UNKNOWN') AND compensation_executor = 'ORIGINATOR'
        AND compensation_at < clock_timestamp() - make_interval(secs => $2) THEN 'originator silent'
    WHEN compensation IN ('REQUIRED', 'RUNNING', 'UNKNOWN') AND compensation_executor IS DISTINCT FROM 'ORIGINATOR'
        AND since < clock_timestamp() - make_interval(secs => $1) THEN 'compensation slow'
    WHEN announced_version < announce_version AND updated_at < clock_timestamp() - make_interval(secs => $1)
        THEN 'not published'
    END"""

COLUMNS: Final = """payout_id, originator_id, amount_minor, currency, target_country, state, state_at, version, held,
        hold_reason, compensation, compensation_executor, compensation_reason_code, compensation_at, reason_code,
        attempts, inquiries, ambiguous, first_intent_at, due_at, lease_until, announce_version, announced_version,
        updated_at, open, CASE WHEN open THEN COALESCE(first_intent_at, state_at)
            ELSE COALESCE(compensation_at, state_at) END AS since"""

EVERY: Final = """SELECT *, open AND NOT on_its_way OR held OR compensation NOT IN ('NONE', 'COMPENSATED')
        OR announced_version < announce_version AS waits
    FROM (SELECT *, state NOT IN ('PAID', 'REJECTED', 'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED') AS open,
        state = 'PENDING' AND destination_kind IN ('ACCOUNT', 'WALLET')
            AND reason_code IS DISTINCT FROM 'AWAITING_INFORMATION' AS on_its_way
        FROM payouts) AS every"""

WAITING: Final = f"""
SELECT p.*, GREATEST(0, EXTRACT(EPOCH FROM clock_timestamp() - since))::bigint AS age_seconds,
    {WHY.replace("WHEN NOT waits THEN NULL", "WHEN false THEN NULL")} AS why
FROM (SELECT {COLUMNS} FROM ({EVERY}) AS known WHERE waits) AS p
"""  # noqa: S608 - constants of this module; values are bound
