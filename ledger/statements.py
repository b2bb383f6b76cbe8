"""Every SQL text of the ledger, generated where it lists columns so that a new column cannot be forgotten.

The three hot statements (insert, commit, begin) read what they are asked from one relation named `request`: a VALUES
list of one row, or arrays column by column for a batch (`*_MANY`). A batch takes its rows in the order of payout_id,
leaves out those that somebody else holds, and so waits for no row (rule L5). No join of a batch is between two lists.
"""

# ruff: noqa: S608 - every part of these texts is a constant of this package; values are always bound
from collections.abc import Sequence
from typing import Final

from ledger.values import COLUMNS, sql_type
from processors.payout.modes import CALLING, UNREVIEWED_BELOW_BASIS_POINTS, Activity, Mode, modes_that_allow
from processors.payout.row import (
    FIXED_COLUMNS,
    LEDGER_RESTORED,
    MUTABLE_COLUMNS,
    CompensationState,
    PayoutState,
)

# Advisory locks have no names: the first number is ours ("PAYO"), the second says which.
LOCK_SPACE: Final = 0x5041594F
MODE_LOCK: Final = 1
MIGRATION_LOCK: Final = 2
SEAL_LOCK: Final = 3
ORDERS_LOCK: Final = 4
RECONCILIATION_LOCK: Final = 5

# A server that was put back from a copy has to be started: only the one that was looked at may begin calls (rule L11).
# Without a value (a command, a test) any server will do.
_SAME_SERVER: Final = "({value} IS NULL OR {value} = pg_postmaster_start_time())"

INSERT_COLUMNS: Final = (*FIXED_COLUMNS, *MUTABLE_COLUMNS)
CHANGE_EXTRAS: Final = (
    ("payout_id", "text"),
    ("before_state", "text"),
    ("before_version", "bigint"),
    ("actor", "text"),
    ("transition", "text"),
    ("detail", "jsonb"),
)
COMMIT_EXTRAS: Final = (*CHANGE_EXTRAS, ("owner", "text"))
BEGIN_EXTRAS: Final = (
    *COMMIT_EXTRAS,
    ("lease_seconds", "double precision"),
    ("incarnation", "timestamptz"),
    ("activity", "text"),
)

_IN_FORCE: Final = "(SELECT m.mode FROM modes AS m)"
"""The mode, read once a statement. A word that this release does not know allows nothing."""


def _allowed(activity: str, activities: Sequence[Activity]) -> str:
    """Whether the mode in force allows what `activity` names, as SQL; the table is `processors.payout.modes`."""
    pairs = [(one.value, mode.value) for one in activities for mode in modes_that_allow(one)]
    return f"({activity}, {_IN_FORCE}) IN ({', '.join(f'({one!r}, {mode!r})' for one, mode in pairs)})"


_NEEDS_NO_REVIEWER: Final = (
    "({activity} <> '" + Activity.SUBMIT.value + "' OR " + _IN_FORCE + " <> '" + Mode.MANUAL_REVIEW.value + "' "
    f"OR p.reviewer IS NOT NULL OR coalesce(p.score_basis_points < {UNREVIEWED_BELOW_BASIS_POINTS}, false))"
)
"""As `needs_reviewer`, of what is stored."""
_NEXT_ACTIVITY: Final = """
    CASE WHEN state IN ('RECEIVED', 'VALIDATED') THEN 'SCREEN' WHEN state = 'CLEARED' THEN 'SUBMIT'
        WHEN compensation = 'REQUIRED' THEN 'COMPENSATE' ELSE 'ASK' END"""
"""As `next_activity`."""
_DRIVEN: Final = (Activity.SCREEN, *CALLING)


def _request(
    columns: Sequence[str], extras: Sequence[tuple[str, str]], *, many: bool = False, first_number: int = 1
) -> str:
    """The relation that a hot statement reads: one row of parameters, or many, in the order extras, columns."""
    typed = [*extras, *((column, sql_type(column)) for column in columns)]
    suffix = "[]" if many else ""
    values = ", ".join(f"${number}::{kind}{suffix}" for number, (_, kind) in enumerate(typed, start=first_number))
    # Column names of the request never meet those of the table: an ambiguous name would be an error at run time.
    names = ", ".join(f"r_{name}" for name, _ in typed)
    return f"request ({names}) AS ({f'SELECT * FROM unnest({values})' if many else f'VALUES ({values})'})"


def _listed(columns: Sequence[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{column}" for column in columns)


# Names of payouts are ordered by bytes, those in `receipts` by the database's locale: without saying which of the two
# is meant, no index of `receipts` serves the comparison, and every read goes through all receipts.
_CLAIMS_OF: Final = """
LEFT JOIN receipts AS r ON r.payout_id = {row}.payout_id COLLATE "default"
LEFT JOIN card_pulls AS t ON t.pull = {row}.funding_trace
LEFT JOIN card_pulls AS v ON v.pull = {row}.funding_transaction
"""
_OWNED: Final = """r.payout_id IS NOT NULL
    AND ({row}.funding_trace IS NULL OR coalesce(t.payout_id = {row}.payout_id, false))
    AND ({row}.funding_transaction IS NULL OR coalesce(v.payout_id = {row}.payout_id, false)) AS receipt_owned"""
CLAIMS_OF_A_PAYOUT: Final = _CLAIMS_OF.format(row="p")
"""What tells, beside `payouts AS p`, whether its receipt is its own."""
RECEIPT_OWNED: Final = _OWNED.format(row="p")


# L11: what the broker took before a copy was adopted may have been paid before the copy was put back. There is no
# lower bound: how long a request had waited for its worker, nobody knows. A request that was sent again, because the
# topics were lost as well, is younger at the broker: it is as old as its originator says. And one that
# topics named when the copy was adopted is not new, however young it says that it is. (Not EXISTS: PostgreSQL might
# read all of them into a hash.)
_HELD_AFTER_RESTORE: Final = {
    "held": "r_held OR lost.restored",
    "hold_reason": f"CASE WHEN lost.restored THEN '{LEDGER_RESTORED}' ELSE r_hold_reason END",
}


def _insert(*, many: bool) -> str:
    """Payouts, then receipts, then card pulls, each in one order for everybody: no two batches wait for each other.

    The array makes sure of it: it is complete, and with it the receipts, before the first pull is claimed.
    """
    return f"""
WITH {_request(INSERT_COLUMNS, (), many=many, first_number=2)},
inserted AS (
    INSERT INTO payouts ({_listed(INSERT_COLUMNS)})
    SELECT {", ".join(_HELD_AFTER_RESTORE.get(column, f"r_{column}") for column in INSERT_COLUMNS)}
    FROM request CROSS JOIN LATERAL (
        SELECT EXISTS (
            SELECT FROM adoptions AS a WHERE least(request.r_received_at, request.r_requested_at) < a.window_to
        ) OR (
            SELECT true FROM lost_payouts AS l WHERE l.payout_id = request.r_payout_id COLLATE "C"
        ) IS TRUE AS restored
    ) AS lost
    ORDER BY r_payout_id COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING {_listed(COLUMNS)}
), claimed AS (
    INSERT INTO receipts (originator_id, kind, reference, payout_id)
    SELECT originator_id, funding_kind, funding_reference, payout_id FROM inserted
    WHERE funding_captured AND funding_reference IS NOT NULL
    ORDER BY originator_id, funding_kind, funding_reference, payout_id
    ON CONFLICT DO NOTHING
    RETURNING payout_id
), pulled AS (
    INSERT INTO card_pulls (pull, payout_id)
    SELECT named.pull, i.payout_id
    FROM inserted AS i CROSS JOIN LATERAL (VALUES (i.funding_trace), (i.funding_transaction)) AS named (pull)
    WHERE named.pull IS NOT NULL AND i.payout_id = ANY (ARRAY(SELECT c.payout_id FROM claimed AS c))
    ORDER BY named.pull, i.payout_id
    ON CONFLICT DO NOTHING
    RETURNING pull, payout_id
), noted AS (
    INSERT INTO history (payout_id, version, actor, transition, from_state, to_state, detail)
    SELECT i.payout_id, i.version, $1::text, 'received', NULL, i.state, '{{}}'::jsonb FROM inserted AS i
)
SELECT {_listed(COLUMNS, "i.")}, i.payout_id IN (SELECT c.payout_id FROM claimed AS c)
    AND (i.funding_trace IS NULL OR (i.funding_trace, i.payout_id) IN (SELECT p.pull, p.payout_id FROM pulled AS p))
    AND (i.funding_transaction IS NULL
        OR (i.funding_transaction, i.payout_id) IN (SELECT p.pull, p.payout_id FROM pulled AS p)) AS receipt_owned
FROM inserted AS i
"""


INSERT: Final = _insert(many=False)
"""Without a conflict target, because with one a simultaneous copy of the same request could fail on another unique
index (`sender_reference`) before the primary key has made it a duplicate. The actor is $1, for all rows of a batch."""
INSERT_MANY: Final = _insert(many=True)

READ_MANY: Final = f"""
SELECT {_listed(COLUMNS, "p.")}, {_OWNED.format(row="p")}
FROM unnest($1::text[]) AS asked (payout_id)
JOIN payouts AS p ON p.payout_id = asked.payout_id
{_CLAIMS_OF.format(row="p")}
"""
"""Names are asked for once each."""


_EVIDENCE: Final = ("r_actor", "r_transition", "r_before_state", "r_detail")

_LOCKED: Final = """,
locked AS (
    SELECT request.* FROM payouts AS p JOIN request ON request.r_payout_id = p.payout_id
    ORDER BY p.payout_id
    FOR NO KEY UPDATE OF p SKIP LOCKED
)"""


def _compare_and_set(extras: Sequence[tuple[str, str]], lease: str, conditions: str, *, many: bool) -> str:
    """One step of a row, its history line, and the row as it is afterwards (rule L2)."""
    assignments = ", ".join(f"{column} = request.r_{column}" for column in MUTABLE_COLUMNS)
    return f"""
WITH {_request(MUTABLE_COLUMNS, extras, many=many)}{_LOCKED if many else ""},
changed AS (
    UPDATE payouts AS p
    SET {assignments}, version = p.version + 1, updated_at = clock_timestamp(), {lease}
    FROM {"locked AS request" if many else "request"}
    WHERE p.payout_id = request.r_payout_id AND p.state = request.r_before_state
        AND p.version = request.r_before_version {conditions}
    RETURNING {_listed(COLUMNS, "p.")}, {_listed(_EVIDENCE, "request.")}
), noted AS (
    INSERT INTO history (payout_id, version, actor, transition, from_state, to_state, detail)
    SELECT payout_id, version, r_actor, r_transition, r_before_state, state, r_detail FROM changed
)
SELECT {_listed(COLUMNS, "c.")}, {_OWNED.format(row="c")} FROM changed AS c {_CLAIMS_OF.format(row="c")}
"""


def _commit(*, many: bool) -> str:
    """Only the owner gives a lease back: his bytes may still leave, whatever others write meanwhile (L3, L9)."""
    return _compare_and_set(
        COMMIT_EXTRAS,
        "lease_owner = CASE WHEN p.lease_owner = request.r_owner THEN NULL ELSE p.lease_owner END, "
        "lease_until = CASE WHEN p.lease_owner = request.r_owner THEN NULL ELSE p.lease_until END",
        "",
        many=many,
    )


def _begin(*, many: bool) -> str:
    return _compare_and_set(
        BEGIN_EXTRAS,
        "lease_owner = request.r_owner, "
        "lease_until = clock_timestamp() + make_interval(secs => request.r_lease_seconds)",
        "AND NOT p.held AND (p.lease_until IS NULL OR p.lease_until <= clock_timestamp()) "
        f"AND {_allowed('request.r_activity', CALLING)} AND {_NEEDS_NO_REVIEWER.format(activity='request.r_activity')} "
        f"AND {_SAME_SERVER.format(value='request.r_incarnation')}",
        many=many,
    )


COMMIT: Final = _commit(many=False)
COMMIT_MANY: Final = _commit(many=True)
BEGIN: Final = _begin(many=False)
BEGIN_MANY: Final = _begin(many=True)

OPEN_UNDER_SHARED_MODE_LOCK: Final = (
    f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock_shared({LOCK_SPACE}, {MODE_LOCK})"
)
"""Two statements in one message: the lock is held before any later statement takes its snapshot (rule L9)."""

WHY_NOT_BEGUN: Final = f"""
SELECT p.state = $2 AND p.version = $3 AS current, p.held,
    p.lease_until IS NOT NULL AND p.lease_until > clock_timestamp() AS leased,
    NOT {_allowed("$5::text", CALLING)} AS forbidden,
    NOT {_NEEDS_NO_REVIEWER.format(activity="$5::text")} AS unreviewed,
    $4::timestamptz <> pg_postmaster_start_time() AS unverified
FROM payouts AS p WHERE p.payout_id = $1
"""

NEXT_IDENTITY_NUMBERS: Final = f"""
SELECT nextval('payout_identity_numbers') FROM generate_series(1, $1::bigint)
WHERE {_SAME_SERVER.format(value="$2::timestamptz")}
"""

DUE: Final = f"""
WITH picked AS (
    SELECT payout_id, due_at FROM payouts
    WHERE due_at <= statement_timestamp() AND NOT held AND {_allowed(_NEXT_ACTIVITY, _DRIVEN)}
        AND {_IN_FORCE} IN ({", ".join(sorted({repr(m.value) for a in _DRIVEN for m in modes_that_allow(a)}))})
    ORDER BY due_at, payout_id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE payouts AS p SET due_at = statement_timestamp() + make_interval(secs => $2)
    FROM picked WHERE p.payout_id = picked.payout_id
    RETURNING p.payout_id, p.version, p.state, p.version = p.state_version AND p.attempts = 0 AS untouched,
        p.correlation_id, p.traceparent, picked.due_at AS was_due_at
)
SELECT payout_id, version, state, untouched, correlation_id, traceparent FROM moved ORDER BY was_due_at, payout_id
"""
"""The mode is compared twice: without any row, so that one which drives nothing reads none, and row by row."""

UNANNOUNCED: Final = f"""
SELECT {_listed(COLUMNS, "p.")}, {_OWNED.format(row="p")} FROM payouts AS p {_CLAIMS_OF.format(row="p")}
WHERE p.announced_version < p.announce_version
    AND p.updated_at <= statement_timestamp() - make_interval(secs => $2)
    AND (p.updated_at, p.payout_id)
        > (COALESCE((SELECT l.updated_at FROM payouts AS l WHERE l.payout_id = $3), '-infinity'), COALESCE($3, ''))
ORDER BY p.updated_at, p.payout_id
LIMIT $1
"""

MARK_ANNOUNCED: Final = """
WITH confirmed AS (
    SELECT payout_id, max(version) AS version FROM unnest($1::text[], $2::bigint[]) AS pair (payout_id, version)
    GROUP BY payout_id
), locked AS (
    SELECT p.payout_id, c.version FROM payouts AS p JOIN confirmed AS c ON c.payout_id = p.payout_id
    WHERE p.announced_version < c.version AND c.version <= p.announce_version
    ORDER BY p.payout_id
    FOR UPDATE OF p
)
UPDATE payouts AS p SET announced_version = locked.version
FROM locked WHERE p.payout_id = locked.payout_id AND p.announced_version < locked.version
"""

RECORD_INTAKE: Final = """
INSERT INTO intake (topic, partition_number, record_offset, disposition, payout_id, reason_code)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""

UNACCOUNTED: Final = """
SELECT asked.place
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) WITH ORDINALITY
    AS asked (topic, partition_number, record_offset, payout_id, place)
WHERE NOT EXISTS (
    SELECT FROM payouts AS p
    WHERE p.payout_id = asked.payout_id AND p.source_topic = asked.topic
        AND p.source_partition = asked.partition_number AND p.source_offset = asked.record_offset
) AND NOT EXISTS (
    SELECT FROM intake AS i
    WHERE i.topic = asked.topic AND i.partition_number = asked.partition_number
        AND i.record_offset = asked.record_offset
)
ORDER BY asked.place
"""

VERIFIED_OFFSETS: Final = "SELECT partition_number, next_offset FROM verified_offsets WHERE topic = $1"

VERIFIED_UP_TO: Final = f"""
WITH looked_at AS (SELECT {_SAME_SERVER.format(value="$4::timestamptz")} AS known), written AS (
    INSERT INTO verified_offsets AS v (topic, partition_number, next_offset)
    SELECT $1::text, $2::bigint, $3::bigint FROM looked_at WHERE known
    ON CONFLICT ON CONSTRAINT verified_offsets_pkey
    DO UPDATE SET next_offset = excluded.next_offset, verified_at = clock_timestamp()
    WHERE v.next_offset < excluded.next_offset
)
SELECT known FROM looked_at
"""

HISTORY: Final = """
SELECT payout_id, version, at, actor, transition, from_state, to_state, detail FROM history
WHERE payout_id = $1 ORDER BY version
"""

MODE: Final = "SELECT mode, set_at, operator, reason FROM modes"

OPEN_UNDER_MODE_LOCK: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL lock_timeout = {milliseconds}; SET LOCAL statement_timeout = {milliseconds}; "
    f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, {MODE_LOCK})"
)

SET_MODE: Final = """
WITH earlier AS (SELECT mode FROM modes), changed AS (
    UPDATE modes SET mode = $1, set_at = clock_timestamp(), operator = $2, reason = $3
    WHERE set_at = coalesce($4, set_at)
    RETURNING mode, set_at, operator, reason
), noted AS (
    INSERT INTO history (actor, transition, from_state, to_state, detail)
    SELECT changed.operator, 'mode_set', earlier.mode, changed.mode, jsonb_build_object('reason', changed.reason)
    FROM changed, earlier
)
SELECT mode, set_at, operator, reason FROM changed
"""

SETTLE: Final = "SELECT pg_logical_emit_message(true, 'payouts', '')"
"""A transaction that writes to the log and changes no row: its commit waits for everything before it (rule L4)."""

LIVE_LEASES: Final = "SELECT payout_id, lease_owner FROM payouts WHERE lease_until > clock_timestamp()"

STILL_LIVE: Final = """
SELECT count(*) FROM unnest($1::text[], $2::text[]) AS earlier (payout_id, lease_owner)
JOIN payouts AS p ON p.payout_id = earlier.payout_id AND p.lease_owner = earlier.lease_owner
WHERE p.lease_until > clock_timestamp()
"""

COUNT_NAMES: Final = (
    *(state.value for state in PayoutState),
    *(f"compensation:{state.value}" for state in CompensationState),
    "held",
    "leased",
    "unannounced",
    "due",
)
"""Every name of `Ledger.counts`; those that have no row count 0."""

COUNTS: Final = """
SELECT state AS name, count(*) AS rows FROM payouts GROUP BY state
UNION ALL SELECT 'compensation:' || compensation, count(*) FROM payouts GROUP BY compensation
UNION ALL SELECT 'held', count(*) FROM payouts WHERE held
UNION ALL SELECT 'leased', count(*) FROM payouts WHERE lease_until > statement_timestamp()
UNION ALL SELECT 'unannounced', count(*) FROM payouts WHERE announced_version < announce_version
UNION ALL SELECT 'due', count(*) FROM payouts WHERE due_at <= statement_timestamp() AND NOT held
"""

SCAN_WHOLE_TABLES: Final = "SET LOCAL enable_seqscan = on"
"""For `COUNTS`, which reads every row anyway."""

DURABILITY: Final = """
SELECT current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes
"""
