"""What people did with dead letters (rule K6): who replayed or discarded which, and who looked into one.

    done = await letters.actions(["payout_requests-0-17"])
    number = await letters.act(letter, sha256, after=0, action=LetterAction.DISCARDED, operator="maria", reason="…")

A letter is named by the place of the record that it was, and by that record's SHA-256: a topic that was made anew gives
its places again. An action is numbered within its letter and names the number that its operator has seen last; of two
people at once one is told. Each is a line of the audited history as well, in the same transaction.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from ledger.connections import Connection, GuardedPool, Progress

# Whoever waits for another's uncommitted number finds it taken: the loser inserts nothing, and notes nothing.
ACT: Final = """
WITH acted AS (
    INSERT INTO letter_actions (letter, sha256, number, operator, reason, action, detail)
    VALUES ($1::text, $2::text, $3::bigint, $4::text, $5::text, $6::text, $7::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING letter, sha256, number, operator, reason, action, detail
), noted AS (
    INSERT INTO history (actor, transition, from_state, to_state, detail)
    SELECT operator, 'dead_letter_' || lower(action), $8::text, action, detail || jsonb_build_object(
        'reason', reason, 'letter', letter, 'sha256', sha256, 'number', number)
    FROM acted
)
SELECT number FROM acted
"""

ACTIONS: Final = """
SELECT letter, sha256, number, at, operator, reason, action, detail FROM letter_actions
WHERE letter = ANY ($1::text[]) ORDER BY letter, sha256, number
"""

RECORDED: Final = """
SELECT asked.topic, asked.partition_number, asked.record_offset
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS asked (topic, partition_number, record_offset)
JOIN intake AS i USING (topic, partition_number, record_offset)
"""

Place = tuple[str, int, int]
"""Topic, partition, offset."""


class LetterAction(StrEnum):
    """What was done."""

    REPLAY_BEGUN = "REPLAY_BEGUN"
    """It is about to be put back: without REPLAYED behind it nobody knows whether the broker took it."""
    REPLAYED = "REPLAYED"
    DISCARDED = "DISCARDED"
    REVEALED = "REVEALED"
    """Somebody has read what is in it. Says nothing of what becomes of it."""


@dataclass(frozen=True, slots=True)
class LetterDone:
    """One action on one letter."""

    letter: str
    sha256: str
    number: int
    at: datetime
    operator: str
    reason: str
    action: LetterAction
    detail: Mapping[str, Any]


class LetterActions:
    """Reads and writes them on PostgreSQL."""

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool

    async def actions(self, letters: Sequence[str]) -> Sequence[LetterDone]:
        """Everything that was done with these, by letter and in order. Raises LedgerUnavailable."""
        rows = await self._pool.read(lambda connection: connection.fetch(ACTIONS, list(letters)))
        return [
            LetterDone(**{**row, "action": LetterAction(row["action"]), "detail": json.loads(row["detail"])})
            for row in rows
        ]

    async def recorded(self, places: Sequence[Place]) -> set[Place]:
        """Those of these records of which the ledger remembers a fate that made no payout. Raises LedgerUnavailable."""
        columns = [list(column) for column in zip(*places, strict=True)] or [[], [], []]
        rows = await self._pool.read(lambda connection: connection.fetch(RECORDED, *columns))
        return {(row["topic"], row["partition_number"], row["record_offset"]) for row in rows}

    async def act(
        self,
        letter: str,
        sha256: str,
        *,
        after: int,
        action: LetterAction,
        operator: str,
        reason: str,
        was: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Write down what is done after the action `after` (0: nothing yet); its number, None when somebody was faster.

        Raises CommitUnknown, LedgerUnavailable.
        """
        parameters = (letter, sha256, after + 1, operator, reason, action.value, json.dumps(dict(detail or {})), was)

        async def work(connection: Connection, progress: Progress) -> int | None:
            progress.sending(connection)
            number: int | None = await connection.fetchval(ACT, *parameters)
            return number

        return await self._pool.write(work)
