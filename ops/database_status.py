"""How the database itself is: sessions, locks, sizes, bloat, replication, numbers, seals. Reads, changes nothing.

    facts = await database_facts(connection)
    for finding in findings(facts, bounds): ...

The text of other people's statements is not shown: it may hold what somebody typed, a name or a card number. What is
shown of a statement is its first word, its session, and since when; `psql` shows the rest to whoever may see it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from ledger.connections import SAFE_SYNCHRONOUS_COMMIT
from ops.findings import Finding, Status
from ops.ledger_queries import Connection

IDENTITY_NUMBER_MAX: Final = 899_999_999_999
UNSEALED_COUNTED_MAX: Final = 10_000
"""Lines that wait to be sealed are counted up to here: beyond, the number says nothing more."""
SESSIONS_SHOWN_MAX: Final = 20
SLOW_STATEMENTS_MAX: Final = 10
# PostgreSQL stops taking writes at 2.1 thousand million; autovacuum works against it from 0.2 on.
TRANSACTION_AGE_MAX: Final = 1_000_000_000
NUMBERS_USED_MAX: Final = 0.8


@dataclass(frozen=True)
class Bounds:
    """From where on something is a finding."""

    statement_seconds: float = 30.0
    """Ours end after 8 s; a migration's after 300."""
    transaction_seconds: float = 300.0
    """It holds back vacuum, and with it every table's bloat."""
    lock_seconds: float = 5.0
    connections_share: float = 0.8
    replay_lag_seconds: float = 30.0
    standby_lag_bytes: int = 256 * 1024 * 1024
    slot_bytes: int = 4 * 1024**3
    """What a replication slot may keep of the log: it fills the disk."""
    dead_share: float = 0.3
    bloat_share: float = 0.5
    # From here on a table's estimate is worth something, and its bloat worth somebody's time.
    bloat_rows_min: int = 10_000
    bloat_bytes_min: int = 64 * 1024 * 1024
    database_bytes: int | None = None
    """Larger than this: the disk fills. PostgreSQL cannot say how large the disk is."""
    seal_seconds: float = 60.0
    publish_seconds: float = 60.0
    """The sealer looks every second."""


SESSIONS: Final = """
SELECT a.pid, a.usename::text AS login, a.application_name AS application, a.state,
    upper(substring(a.query FROM '^\\s*([A-Za-z]+)')) AS statement, a.wait_event_type AS waits_for,
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_seconds,
    CASE WHEN a.state = 'active' THEN extract(epoch FROM clock_timestamp() - a.query_start)::float8 END
        AS statement_seconds,
    pg_blocking_pids(a.pid) AS blocked_by
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
"""

SERVER: Final = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        AS connections_max,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections_of_the_server,
    pg_database_size(current_database()) AS database_bytes,
    age(d.datfrozenxid)::bigint AS transaction_age,
    current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on' AS autovacuum,
    current_setting('synchronous_standby_names') AS synchronous_standby_names,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('data_checksums') = 'on' AS data_checksums,
    extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8 AS up_seconds,
    (SELECT r.rolsuper OR pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') FROM pg_roles AS r
        WHERE r.rolname = current_user) AS sees_all
FROM pg_database AS d WHERE d.datname = current_database()
"""

# What a table would take if its live rows lay side by side: a line pointer and a header each, and what the statistics
# say of the columns' widths. None before anybody analysed it.
TABLES: Final = """
SELECT c.relname::text AS table, pg_total_relation_size(c.oid) AS total_bytes, pg_relation_size(c.oid) AS heap_bytes,
    pg_indexes_size(c.oid) AS index_bytes, s.n_live_tup AS live_rows, s.n_dead_tup AS dead_rows,
    s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze,
    CASE WHEN c.reltuples >= 0 AND w.row_bytes IS NOT NULL
        THEN (c.reltuples * (w.row_bytes + 28)
            / coalesce((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions)
                WHERE option_name = 'fillfactor') / 100, 1))::bigint END AS needed_bytes
FROM pg_class AS c
JOIN pg_stat_user_tables AS s ON s.relid = c.oid
LEFT JOIN LATERAL (
    SELECT sum((1 - null_frac) * avg_width) AS row_bytes FROM pg_stats AS t
    WHERE t.schemaname = s.schemaname AND t.tablename = c.relname
) AS w ON true
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('ledger_schema_version'))
    AND c.relkind = 'r'
ORDER BY 2 DESC
"""

INDEXES: Final = """
SELECT i.indexrelname::text AS index, i.relname::text AS table, pg_relation_size(i.indexrelid) AS bytes,
    i.idx_scan AS scans, x.indisvalid AS valid
FROM pg_stat_user_indexes AS i JOIN pg_index AS x ON x.indexrelid = i.indexrelid
WHERE i.schemaname = (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass('ledger_schema_version'))
ORDER BY 3 DESC LIMIT 20
"""

# The view may lie in any schema. Its text of a statement is not read: whoever may see it asks `psql` by the id.
COUNTED_STATEMENTS: Final = """
SELECT (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = 'pg_stat_statements' AND c.relkind = 'v' ORDER BY n.nspname LIMIT 1) AS view,
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') AS shipped
"""
SLOW_STATEMENTS: Final = """
SELECT queryid::text AS query_id, calls, mean_exec_time AS mean_ms, max_exec_time AS max_ms FROM {view}
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL
ORDER BY mean_exec_time DESC, queryid LIMIT {most}
"""
SWITCH_ON: Final = (
    "shared_preload_libraries = 'pg_stat_statements', a restart of the server, then as a superuser "
    "CREATE EXTENSION pg_stat_statements in this database"
)

STANDBYS: Final = """
SELECT application_name AS name, state, sync_state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint AS
    behind_bytes, extract(epoch FROM write_lag)::float8 AS write_lag_seconds,
    extract(epoch FROM flush_lag)::float8 AS flush_lag_seconds,
    extract(epoch FROM replay_lag)::float8 AS replay_lag_seconds
FROM pg_stat_replication ORDER BY name
"""

SLOTS: Final = """
SELECT slot_name::text AS slot, active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS kept_bytes
FROM pg_replication_slots ORDER BY slot
"""

# The lines beyond the head, as the sealer looks for them; of those before it only what it left open, which is nothing.
SEALING: Final = f"""
SELECT s.sequence AS sealed, s.published_sequence AS published,
    (SELECT count(*) FROM (SELECT FROM history AS h
        WHERE (h.written_by, h.id) > (s.sealed_written_by, s.sealed_history_id)
            AND NOT EXISTS (SELECT FROM seals AS done WHERE done.history_id = h.id)
        LIMIT {UNSEALED_COUNTED_MAX}) AS waiting) AS unsealed,
    (SELECT extract(epoch FROM clock_timestamp() - min(h.at))::float8 FROM (SELECT h.at FROM history AS h
        WHERE (h.written_by, h.id) > (s.sealed_written_by, s.sealed_history_id)
            AND NOT EXISTS (SELECT FROM seals AS done WHERE done.history_id = h.id)
        ORDER BY h.written_by, h.id LIMIT 100) AS h) AS unsealed_seconds,
    (SELECT extract(epoch FROM clock_timestamp() - h.at)::float8 FROM seals AS next JOIN history AS h
        ON h.id = next.history_id WHERE next.sequence > s.published_sequence ORDER BY next.sequence LIMIT 1)
        AS unpublished_seconds,
    (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM payout_identity_numbers)
        AS identity_numbers_issued
FROM seal_head AS s
"""  # noqa: S608 - a constant


async def database_facts(connection: Connection) -> dict[str, Any]:
    """Everything that is shown. A role without pg_read_all_stats sees its own sessions only, and says so."""
    facts = dict(await connection.fetchrow(SERVER))
    sessions = [dict(row) for row in await connection.fetch(SESSIONS)]
    facts["connections"] = _connections(sessions)
    facts["sessions"] = _longest(sessions)
    facts["tables"] = [_table(dict(row)) for row in await connection.fetch(TABLES)]
    facts["indexes"] = [dict(row) for row in await connection.fetch(INDEXES)]
    facts["standbys"] = [dict(row) for row in await connection.fetch(STANDBYS)]
    facts["slots"] = [dict(row) for row in await connection.fetch(SLOTS)]
    facts |= dict(await connection.fetchrow(SEALING))
    facts["slow_statements"], facts["slow_statements_not_counted"] = await _slow_statements(connection)
    return facts


async def _slow_statements(connection: Connection) -> tuple[list[dict[str, Any]], str | None]:
    """The statements that took longest on average, by their ids; else why nobody counts them, and what would."""
    found = await connection.fetchrow(COUNTED_STATEMENTS)
    if found["view"] is None:
        package = "" if found["shipped"] else "the server lacks it: install its package of contributed modules; "
        return [], f"{package}{SWITCH_ON}"
    try:
        rows = await connection.fetch(SLOW_STATEMENTS.format(view=found["view"], most=SLOW_STATEMENTS_MAX))
    except asyncpg.ObjectNotInPrerequisiteStateError:
        return [], f"it was created and is not loaded: {SWITCH_ON}"
    return [dict(row) for row in rows], None


def _connections(sessions: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many sessions each of our programs has here."""
    counts: dict[str, int] = {}
    for session in sessions:
        name = session["application"] or "?"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _longest(sessions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that do something, have something open, or wait; longest transaction first."""
    busy = [one for one in sessions if one["transaction_seconds"] is not None or one["blocked_by"]]
    busy.sort(key=lambda one: one["transaction_seconds"] or 0.0, reverse=True)
    return busy[:SESSIONS_SHOWN_MAX]


def _table(row: dict[str, Any]) -> dict[str, Any]:
    live, dead, needed, heap = row["live_rows"] or 0, row["dead_rows"] or 0, row.pop("needed_bytes"), row["heap_bytes"]
    row["dead_share"] = round(dead / (live + dead), 3) if live + dead else 0.0
    row["bloat_share"] = None if needed is None or heap == 0 else round(max(0.0, 1 - needed / heap), 3)
    row["vacuumed_at"] = _later(row.pop("last_vacuum"), row.pop("last_autovacuum"))
    row["analyzed_at"] = _later(row.pop("last_analyze"), row.pop("last_autoanalyze"))
    return row


def _later(first: Any, second: Any) -> Any:  # noqa: ANN401 - two times or nothing
    return max((at for at in (first, second) if at is not None), default=None)


def findings(facts: Mapping[str, Any], bounds: Bounds) -> Iterator[Finding]:
    """What is out of bounds, and what to do about it. Pure."""
    yield from _of_sessions(facts, bounds)
    yield from _of_space(facts, bounds)
    yield from _of_replication(facts, bounds)
    yield from _of_sealing(facts, bounds)


def _of_sessions(facts: Mapping[str, Any], bounds: Bounds) -> Iterator[Finding]:
    used, most = facts["connections_of_the_server"], facts["connections_max"]
    if used >= bounds.connections_share * most:
        detail = f"{used} of {most} connections are in use"
        yield Finding("connections", Status.FAIL, detail, "fewer workers, or a smaller DATABASE_POOL_MAX")
    if not facts["sees_all"]:
        yield Finding(
            "sessions",
            Status.WARN,
            "this login sees its own sessions only",
            "GRANT pg_read_all_stats TO it: long statements of others are not seen without",
        )
    for one in facts["sessions"]:
        who = f"session {one['pid']} ({one['login']}, {one['application'] or 'no name'})"
        running = one["statement_seconds"]
        if one["blocked_by"] and running is not None and running >= bounds.lock_seconds:
            blockers = ", ".join(str(pid) for pid in one["blocked_by"])
            detail = f"{who} has waited {running:.0f} s for a lock of {blockers}"
            yield Finding("locks", Status.FAIL, detail, "end the one that holds it, if it is not ours")
        elif running is not None and running >= bounds.statement_seconds:
            detail = f"{who} has run one {one['statement'] or 'statement'} for {running:.0f} s"
            yield Finding("statements", Status.FAIL, detail, "whose is it? SELECT pg_terminate_backend(pid) ends it")
        if (one["transaction_seconds"] or 0.0) >= bounds.transaction_seconds:
            detail = f"{who} has a transaction open for {one['transaction_seconds']:.0f} s"
            yield Finding("transactions", Status.FAIL, detail, "end it: nothing is vacuumed or sealed past it")


def _of_space(facts: Mapping[str, Any], bounds: Bounds) -> Iterator[Finding]:
    if bounds.database_bytes is not None and facts["database_bytes"] > bounds.database_bytes:
        size, most = bytes_text(facts["database_bytes"]), bytes_text(bounds.database_bytes)
        detail = f"the database has {size}, more than {most}"
        yield Finding("size", Status.FAIL, detail, "a larger disk; rows are never deleted")
    if facts["transaction_age"] > TRANSACTION_AGE_MAX:
        detail = f"the oldest row is {facts['transaction_age']} transactions old"
        yield Finding("vacuum", Status.FAIL, detail, "VACUUM FREEZE, and find out what keeps autovacuum from it")
    if not facts["autovacuum"]:
        yield Finding("vacuum", Status.FAIL, "autovacuum or its counting is off", "set autovacuum and track_counts on")
    for table in facts["tables"]:
        rows = (table["live_rows"] or 0) + (table["dead_rows"] or 0)
        if rows >= bounds.bloat_rows_min and table["dead_share"] > bounds.dead_share:
            detail = f"{table['table']} has {table['dead_share']:.0%} dead rows"
            yield Finding("bloat", Status.FAIL, detail, "VACUUM (ANALYZE) it; is a transaction open that prevents it?")
        elif (table["bloat_share"] or 0.0) > bounds.bloat_share and table["heap_bytes"] >= bounds.bloat_bytes_min:
            detail = f"{table['table']} is about {table['bloat_share']:.0%} empty, of {bytes_text(table['heap_bytes'])}"
            yield Finding("bloat", Status.FAIL, detail, "pg_repack, or VACUUM FULL while all workers are stopped")
    for index in facts["indexes"]:
        if not index["valid"]:
            yield Finding("indexes", Status.FAIL, f"{index['index']} is not valid", "REINDEX INDEX CONCURRENTLY it")


def _of_replication(facts: Mapping[str, Any], bounds: Bounds) -> Iterator[Finding]:
    standbys, named = facts["standbys"], facts["synchronous_standby_names"]
    if named and facts["sees_all"] and not any(one["sync_state"] in ("sync", "quorum") for one in standbys):
        yield Finding(
            "standby",
            Status.FAIL,
            f"no synchronous standby is there ({named})",
            "commits wait for it: bring it back; runbook, `Failover to a standby`",
        )
    if named and facts["synchronous_commit"] not in SAFE_SYNCHRONOUS_COMMIT:
        detail = f"synchronous_commit is {facts['synchronous_commit']}, so the standby may miss what was confirmed"
        yield Finding("standby", Status.FAIL, detail, "set synchronous_commit to on")
    if not named:
        yield Finding(
            "standby",
            Status.WARN,
            "nothing is synchronous, so whoever takes over from this server is a copy from before",
            "set synchronous_standby_names; runbook, `Failover to a standby`",
        )
    for one in standbys:
        behind, lag = one["behind_bytes"] or 0, one["replay_lag_seconds"] or 0.0
        if one["state"] != "streaming" or behind > bounds.standby_lag_bytes or lag > bounds.replay_lag_seconds:
            detail = f"{one['name']} is {one['state']}, {bytes_text(behind)} and {lag:.0f} s behind"
            yield Finding("standby", Status.FAIL, detail, "its network and its disk; do not fail over to it now")
    for slot in facts["slots"]:
        if (slot["kept_bytes"] or 0) > bounds.slot_bytes:
            detail = f"slot {slot['slot']} keeps {bytes_text(slot['kept_bytes'])} of the log"
            yield Finding(
                "slots", Status.FAIL, detail, "bring its standby back, or drop the slot before the disk is full"
            )


def _of_sealing(facts: Mapping[str, Any], bounds: Bounds) -> Iterator[Finding]:
    issued = facts["identity_numbers_issued"]
    if issued > NUMBERS_USED_MAX * IDENTITY_NUMBER_MAX:
        yield Finding("numbers", Status.FAIL, f"{issued} of {IDENTITY_NUMBER_MAX} identity numbers are used", "L3 (S1)")
    if (facts["unsealed_seconds"] or 0.0) > bounds.seal_seconds:
        more = "or more " if facts["unsealed"] >= UNSEALED_COUNTED_MAX else ""
        detail = f"{facts['unsealed']} {more}lines are not sealed, the oldest for {facts['unsealed_seconds']:.0f} s"
        yield Finding("seals", Status.FAIL, detail, "is a worker running? a transaction open for long holds it up")
    if (facts["unpublished_seconds"] or 0.0) > bounds.publish_seconds:
        detail = (
            f"{facts['sealed'] - facts['published']} sealed lines are not published, "
            f"the oldest for {facts['unpublished_seconds']:.0f} s"
        )
        yield Finding("seals", Status.FAIL, detail, "is a worker running? is the broker away?")


def bytes_text(count: int) -> str:
    """`12 MiB`; as exact as somebody on duty needs it."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
