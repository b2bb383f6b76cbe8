"""Reads the sealed history in parts, however long it is, for whoever checks or exports it (rule L10). Changes nothing.

Everything is asked on one connection inside one repeatable-read transaction, so that a sealer that goes on meanwhile
changes nothing of what is looked at.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ledger.audit_check import Adopted, Adoptions
from ledger.connections import Connection
from ledger.seal_chain import ADOPTED, Head, Origin, record_of
from ledger.seals import line_of

CHUNK_RECORDS: Final = 2_000
"""Some megabytes, and a statement of some ten milliseconds."""
STATEMENT_SECONDS: Final = 600.0
"""For the one question that looks at every line of the history."""
STRAYS_MAX: Final = 100

# A seal without its line must be seen, so the line may be missing.
SEALED: Final = """
SELECT s.sequence, s.previous_hash, s.hash, s.system_identifier, s.timeline, s.identity_position, s.history_id,
    h.id, h.at, h.actor, h.transition, h.payout_id, h.version, h.from_state, h.to_state, h.detail
FROM seals AS s LEFT JOIN history AS h ON h.id = s.history_id
WHERE s.sequence > $1 AND s.sequence <= $2 ORDER BY s.sequence LIMIT $3
"""
HEAD: Final = """
SELECT head.sequence, head.hash, head.published_sequence, head.sealed_written_by::text AS sealed_written_by,
    head.sealed_history_id, (SELECT system_identifier FROM pg_control_system())::text AS system_identifier
FROM seal_head AS head
"""
# Everything up to the sealer's mark was sealed by it. A line there without a seal was written past it.
STRAYS: Final = """
SELECT h.id, h.payout_id, h.transition FROM history AS h
WHERE (h.written_by, h.id) <= ($1::text::xid8, $2::bigint) AND NOT EXISTS (
    SELECT FROM seals AS s WHERE s.history_id = h.id)
ORDER BY h.id LIMIT $3
"""
UNSEALED: Final = """
SELECT count(*) FROM history AS h
WHERE (h.written_by, h.id) > ($1::text::xid8, $2::bigint) AND NOT EXISTS (
    SELECT FROM seals AS s WHERE s.history_id = h.id)
"""
# From the sealed records alone: what the table of adoptions says is not sealed.
ADOPTIONS: Final = f"""
SELECT s.sequence, h.from_state AS verdict, (h.detail ->> 'old_sequence')::bigint AS old_sequence
FROM seals AS s JOIN history AS h ON h.id = s.history_id
WHERE h.payout_id IS NULL AND h.transition = '{ADOPTED}' ORDER BY s.sequence
"""  # noqa: S608 - a constant
HASHES: Final = "SELECT sequence, hash FROM seals WHERE sequence = ANY ($1::bigint[])"
SPAN: Final = """
SELECT min(s.sequence) AS first, max(s.sequence) AS last FROM seals AS s JOIN history AS h ON h.id = s.history_id
WHERE h.at >= coalesce($1::timestamptz, '-infinity') AND h.at < coalesce($2::timestamptz, 'infinity')
"""
LATEST: Final = """
SELECT s.sequence, h.id AS history_id, h.at, h.actor, h.transition, h.payout_id, h.version, h.from_state, h.to_state,
    h.detail
FROM history AS h LEFT JOIN seals AS s ON s.history_id = h.id
WHERE ($2::text IS NULL OR h.payout_id = $2) AND ($3::text IS NULL OR h.actor = $3)
    AND ($4::text IS NULL OR h.transition = $4)
    AND (NOT $5 OR h.payout_id IS NULL OR h.detail ->> 'by' IS NOT NULL OR h.detail ->> 'reviewer' IS NOT NULL
        OR h.detail ->> 'reason' LIKE 'OPERATOR: %')
ORDER BY h.id DESC LIMIT $1
"""


@dataclass(frozen=True, slots=True)
class HeadNow:
    """The end of the chain, and how far it was published."""

    head: Head
    published_sequence: int
    written_by: str
    history_id: int
    system_identifier: str


@dataclass(frozen=True, slots=True)
class SealedLine:
    """One seal, and its record as the history says it now; None when its line is gone."""

    sequence: int
    hash: str
    history_id: int
    record: Mapping[str, Any] | None
    """With the hash that was sealed, whatever the line says now."""


class AuditReading:
    """The questions, on a connection whose transaction the caller has begun."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def head(self) -> HeadNow:
        """Where the chain ends."""
        row = await self._connection.fetchrow(HEAD)
        return HeadNow(
            Head(row["sequence"], row["hash"]),
            row["published_sequence"],
            row["sealed_written_by"],
            row["sealed_history_id"],
            row["system_identifier"],
        )

    async def adoptions(self) -> Adoptions:
        """The joints that restored copies left."""
        rows = await self._connection.fetch(ADOPTIONS, timeout=STATEMENT_SECONDS)
        return Adoptions(Adopted(row["sequence"], str(row["verdict"]), row["old_sequence"]) for row in rows)

    async def sealed(self, after: int, up_to: int) -> AsyncIterator[SealedLine]:
        """Every seal behind `after` up to `up_to`, in order."""
        while True:
            rows = await self._connection.fetch(SEALED, after, up_to, CHUNK_RECORDS)
            for row in rows:
                yield _sealed_line(row)
            if len(rows) < CHUNK_RECORDS:
                return
            after = rows[-1]["sequence"]

    async def strays(self, head: HeadNow) -> Sequence[Mapping[str, Any]]:
        """Lines that lie before the sealer's mark and were never sealed."""
        place = (head.written_by, head.history_id)
        return [
            dict(row) for row in await self._connection.fetch(STRAYS, *place, STRAYS_MAX, timeout=STATEMENT_SECONDS)
        ]

    async def unsealed(self, head: HeadNow) -> int:
        """Lines that wait for the sealer."""
        count: int = await self._connection.fetchval(
            UNSEALED, head.written_by, head.history_id, timeout=STATEMENT_SECONDS
        )
        return count

    async def hashes(self, sequences: Sequence[int]) -> dict[int, str]:
        """What is sealed at these places."""
        rows = await self._connection.fetch(HASHES, list(sequences))
        return {row["sequence"]: row["hash"] for row in rows}

    async def span(self, since: datetime | None, until: datetime | None) -> tuple[int, int] | None:
        """First and last record of what was written in this time; None when nothing was."""
        row = await self._connection.fetchrow(SPAN, since, until, timeout=STATEMENT_SECONDS)
        return None if row["first"] is None else (row["first"], row["last"])

    async def latest(
        self, limit: int, *, payout_id: str | None, actor: str | None, action: str | None, people_only: bool
    ) -> Sequence[Mapping[str, Any]]:
        """The newest lines, the newest last, sealed or not."""
        rows = await self._connection.fetch(LATEST, limit, payout_id, actor, action, people_only)
        return [dict(row) for row in reversed(rows)]


def _sealed_line(row: Mapping[str, Any]) -> SealedLine:
    if row["id"] is None:
        return SealedLine(row["sequence"], row["hash"], row["history_id"], None)
    origin = Origin(row["system_identifier"], row["timeline"], row["identity_position"])
    record = record_of(Head(row["sequence"], row["previous_hash"]), line_of(row), origin)
    return SealedLine(row["sequence"], row["hash"], row["history_id"], record | {"hash": row["hash"]})
