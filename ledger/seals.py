"""The sealed history on PostgreSQL (rule L10), and what the database says of itself to whoever has to know it (L11).

await seals.seal(500)                                      chains what was committed and is not sealed yet
for record in await seals.unpublished(500): ...            what `payout_audit` may not have, in order
await seals.published_up_to(record["sequence"])            after the broker's confirmation, never before
verdict, standing = await seals.examine(published)         is this the database that published it?
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from ledger.connections import Connection, GuardedPool, Progress, transaction
from ledger.guard import Published, Standing, Verdict, judge
from ledger.seal_chain import EMPTY, Head, Line, Origin, record_of, sealed
from ledger.statements import LOCK_SPACE, SEAL_LOCK

LINE_COLUMNS: Final = "h.id, h.at, h.actor, h.transition, h.payout_id, h.version, h.from_state, h.to_state, h.detail"

ORIGIN: Final = """
    (SELECT system_identifier FROM pg_control_system())::text AS system_identifier,
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline,
    (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM payout_identity_numbers)
        AS identity_position
"""

# The lock is tried, never waited for: whoever has it does the work of all. The head is compared again when it is moved.
TRY_TO_SEAL: Final = f"""
SELECT pg_try_advisory_xact_lock({LOCK_SPACE}, {SEAL_LOCK}) AS locked, s.sequence, s.hash,
    s.sealed_written_by::text AS sealed_written_by, s.sealed_history_id,
    pg_snapshot_xmin(pg_current_snapshot())::text AS ended_below,
    $1::timestamptz IS NULL OR $1 = pg_postmaster_start_time() AS trusted, {ORIGIN}
FROM seal_head AS s
"""  # noqa: S608 - every part is a constant

# Below the oldest transaction that still runs nothing appears any more, whatever the order of ids (rule L10).
UNSEALED: Final = f"""
SELECT {LINE_COLUMNS}, h.written_by::text AS written_by FROM history AS h
WHERE (h.written_by, h.id) > ($1::text::xid8, $2::bigint) AND h.written_by < $3::text::xid8
    AND NOT EXISTS (SELECT FROM seals AS s WHERE s.history_id = h.id)
ORDER BY h.written_by, h.id
LIMIT $4
"""  # noqa: S608

SEAL: Final = """
WITH moved AS (
    UPDATE seal_head SET sequence = $3, hash = $4, sealed_written_by = $5::text::xid8, sealed_history_id = $6
    WHERE sequence = $1 AND hash = $2
    RETURNING singleton
)
INSERT INTO seals (sequence, history_id, previous_hash, hash, system_identifier, timeline, identity_position)
SELECT line.*, $11::text, $12::integer, $13::bigint
FROM moved CROSS JOIN unnest($7::bigint[], $8::bigint[], $9::text[], $10::text[]) AS line
"""

UNPUBLISHED: Final = f"""
SELECT s.sequence, s.previous_hash, s.system_identifier, s.timeline, s.identity_position, {LINE_COLUMNS}
FROM seals AS s JOIN history AS h ON h.id = s.history_id
WHERE s.sequence > (SELECT published_sequence FROM seal_head)
ORDER BY s.sequence
LIMIT $1
"""  # noqa: S608

PUBLISHED_UP_TO: Final = """
UPDATE seal_head SET published_sequence = $1
WHERE published_sequence < $1 AND sequence >= $1 AND ($2::timestamptz IS NULL OR $2 = pg_postmaster_start_time())
"""

LOOK: Final = f"""
SELECT pg_postmaster_start_time() AS incarnation, {ORIGIN}, head.sequence, head.hash, head.published_sequence,
    (SELECT coalesce(max(a.sequence), 0) FROM adoptions AS a) AS adopted_sequence,
    EXISTS (SELECT FROM restores AS r WHERE NOT EXISTS (SELECT FROM adoptions AS a WHERE a.sequence > r.sequence))
        AS restored,
    EXISTS (SELECT FROM seals AS s WHERE s.sequence = $1::bigint AND s.hash = $2::text)
        OR EXISTS (SELECT FROM adoptions AS a WHERE a.continued_sequence = $1 AND a.continued_hash = $2)
        AS knows_published,
    EXISTS (
        SELECT FROM unnest($3::text[], $4::bigint[]) AS witness (payout_id, version)
        WHERE NOT EXISTS (
            SELECT FROM history AS h WHERE h.payout_id = witness.payout_id AND h.version = witness.version)
    ) AS misses_witnesses
FROM seal_head AS head
"""  # noqa: S608

INCARNATION: Final = "SELECT pg_postmaster_start_time()"

SEALED_BETWEEN: Final = f"""
SELECT s.sequence, s.previous_hash, s.hash, s.system_identifier, s.timeline, s.identity_position, {LINE_COLUMNS}
FROM seals AS s JOIN history AS h ON h.id = s.history_id
WHERE s.sequence > $1 ORDER BY s.sequence LIMIT $2
"""  # noqa: S608


class Seals:
    """Seals and reads the sealed history of one database."""

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool

    async def seal(self, lines_max: int) -> int:
        """Chain up to `lines_max` lines; how many it was. 0 also while another one seals, or on a database not trusted.

        Raises CommitUnknown, LedgerUnavailable.
        """
        incarnation = self._pool.primary.required_incarnation

        async def work(connection: Connection, progress: Progress) -> int:
            async with transaction(connection, "BEGIN ISOLATION LEVEL READ COMMITTED"):
                place = await connection.fetchrow(TRY_TO_SEAL, incarnation)
                lines = []
                if place["locked"] and place["trusted"]:
                    after = (place["sealed_written_by"], place["sealed_history_id"], place["ended_below"])
                    lines = await connection.fetch(UNSEALED, *after, lines_max)
                if not lines:
                    await connection.execute("ROLLBACK")
                    return 0
                status = await connection.execute(SEAL, *_seal_parameters(place, lines))
                progress.sending(connection)
                await connection.execute("COMMIT")
            return int(status.rpartition(" ")[2])

        return await self._pool.write(work)

    async def unpublished(self, records_max: int) -> Sequence[dict[str, Any]]:
        """Records (`AuditRecord`) beyond the mark of what was published, in order. Raises LedgerUnavailable."""
        rows = await self._pool.read(lambda connection: connection.fetch(UNPUBLISHED, records_max))
        return [_record(row) for row in rows]

    async def published_up_to(self, sequence: int) -> None:
        """The broker has confirmed every record up to this one; the mark never moves back (as K2)."""
        incarnation = self._pool.primary.required_incarnation

        async def work(connection: Connection, progress: Progress) -> None:
            progress.sending(connection)
            await connection.execute(PUBLISHED_UP_TO, sequence, incarnation)

        await self._pool.write(work)

    async def sealed_after(self, sequence: int, records_max: int) -> Sequence[tuple[dict[str, Any], str]]:
        """Records as the history says them now, each with the hash that was sealed: a changed line differs (L10)."""
        rows = await self._pool.read(lambda connection: connection.fetch(SEALED_BETWEEN, sequence, records_max))
        return [(_record(row), row["hash"]) for row in rows]

    async def incarnation(self) -> datetime:
        """When the server that answers now was started. Raises LedgerUnavailable."""
        started: datetime = await self._pool.read(lambda connection: connection.fetchval(INCARNATION))
        return started

    async def examine(
        self, published: Published | None, *, incarnation: datetime | None = None
    ) -> tuple[Verdict, Standing]:
        """Whether this is the database that published it; if so calls may begin on it (rule L11).

        What is read and what is trusted is the same server: its start is read in the same statement, and every begin
        compares it again. `incarnation` is what was there before `published` was read: had the database been put back
        in between, the record would be older than what was lost. Raises LedgerUnavailable.
        """
        primary = self._pool.primary
        witnesses = list(primary.witnesses)
        head = published.head if published is not None else EMPTY
        columns = ([name for name, _ in witnesses], [version for _, version in witnesses])
        found = await self._pool.read(lambda connection: connection.fetchrow(LOOK, head.sequence, head.hash, *columns))
        standing = _standing(found)
        verdict = judge(
            standing,
            published,
            knows_published=found["knows_published"],
            misses_witnesses=found["misses_witnesses"],
            trusted_adoption=primary.trusted_adoption,
        )
        if incarnation not in (None, standing.incarnation):
            verdict = Verdict.NOT_LOOKED_AT
        if verdict is Verdict.KNOWN:
            primary.trust(standing.incarnation, standing.adopted_sequence, forget_witnesses=found["misses_witnesses"])
        else:
            primary.distrust()
        return verdict, standing

    @property
    def is_trusted(self) -> bool:
        """The server that we met last is one that was looked at."""
        primary = self._pool.primary
        return primary.trusted is not None and primary.trusted == primary.incarnation


def _seal_parameters(place: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
    head = Head(place["sequence"], place["hash"])
    origin = Origin(place["system_identifier"], int(place["timeline"], 16), place["identity_position"])
    records = sealed(head, [line_of(row) for row in rows], origin)
    last = records[-1]
    return (
        *(head.sequence, head.hash, last["sequence"], last["hash"], rows[-1]["written_by"], rows[-1]["id"]),
        [record["sequence"] for record in records],
        [row["id"] for row in rows],
        [record["previous_hash"] for record in records],
        [record["hash"] for record in records],
        *(origin.system_identifier, origin.timeline, origin.identity_position),
    )


def line_of(row: Mapping[str, Any]) -> Line:
    """A line of the history out of its row."""
    return Line(
        history_id=row["id"],
        at=row["at"],
        actor=row["actor"],
        transition=row["transition"],
        payout_id=row["payout_id"],
        version=row["version"],
        from_state=row["from_state"],
        to_state=row["to_state"],
        detail=json.loads(row["detail"]),
    )


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    origin = Origin(row["system_identifier"], row["timeline"], row["identity_position"])
    return record_of(Head(row["sequence"], row["previous_hash"]), line_of(row), origin)


def _standing(found: Mapping[str, Any]) -> Standing:
    return Standing(
        incarnation=found["incarnation"],
        system_identifier=found["system_identifier"],
        timeline=int(found["timeline"], 16),
        head=Head(found["sequence"], found["hash"]),
        published_sequence=found["published_sequence"],
        adopted_sequence=found["adopted_sequence"],
        identity_position=found["identity_position"],
        restored=found["restored"],
    )
