"""Adopting a restored copy of the database (rule L11): what is done to it before calls may leave again.

    plan = await look(pool, published, lost)      what would be done, in payouts and money
    done = await adopt(pool, plan, operator="maria", reason="INC-7")

One transaction, under the mode lock (nobody begins meanwhile) and the seal's: the numbers move past whatever may be
out, rows that may have gone further are held, and a record that names the adoption continues the published chain. A
second run finds nothing to do; of two people at once one is told that he was overtaken.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from ledger.connections import Connection, GuardedPool, Progress, transaction
from ledger.guard import Published, Standing, Verdict
from ledger.seal_chain import ADOPTED, EPOCH, Head, Origin, record_of
from ledger.seals import LINE_COLUMNS, Seals, line_of
from ledger.statements import LOCK_SPACE, MODE_LOCK, SEAL_LOCK
from processors.payout.row import LEDGER_RESTORED

IDENTITY_MARGIN: Final = 1_000_000
"""Numbers left out beyond the highest that anything shows, for what was begun and not sealed when the database was
lost: six minutes of the highest rate ever measured, where the sealer is a second behind. A millionth of the range."""
TOPICS_RESTORED: Final = "topics_restored"
"""The history's line of topics that were put back from a backup, too."""
HELD_AFTER_RESTORE: Final = "held_after_restore"
"""The history's line of a row that an adoption held."""
# Millions of rows may be held at once; nobody begins anything meanwhile anyway.
ADOPTION_SECONDS: Final = 600.0
LOCK_SECONDS: Final = 60.0

# What a copy shows before its first attempt may have been paid since, and what it shows refused may have been ended
# and handed back: only people can tell. A hand-back of ours that waits in the copy may have left. What the copy shows
# under way (SUBMITTING, PENDING, UNKNOWN) keeps its identity and is asked about before anything is sent again: Visa
# shows what became of it, and sent again it is the same (S3). Only where the audit says that it ended unpaid, so that
# its funding may be back already, is it held, too; and, where Kafka is a copy itself and cannot say so, wherever such
# funding would be handed back by us, under numbers that nobody remembers.
_MAY_BE_HANDED_BACK: Final = """
    state IN ('SUBMITTING', 'PENDING', 'UNKNOWN')
    AND (payout_id = ANY ($1::text[]) OR $2::boolean AND funding_kind = 'AFT' AND funding_captured)
"""
_DOUBTFUL: Final = f"""
    hold_reason IS DISTINCT FROM '{LEDGER_RESTORED}' AND (
        state IN ('RECEIVED', 'VALIDATED', 'IN_REVIEW', 'CLEARED')
        OR compensation = 'REQUIRED' AND compensation_executor = 'PROCESSOR'
        OR {_MAY_BE_HANDED_BACK}
    )
"""
DOUBTFUL: Final = f"""
SELECT CASE
        WHEN compensation = 'REQUIRED' THEN 'hand-back waits'
        WHEN payout_id = ANY ($1::text[]) THEN 'ended unpaid in what was lost'
        WHEN state IN ('SUBMITTING', 'PENDING', 'UNKNOWN') THEN 'may have been handed back'
        ELSE 'not submitted'
    END AS what, currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor
FROM payouts WHERE {_DOUBTFUL}
GROUP BY what, currency ORDER BY what, currency
"""  # noqa: S608 - every part is a constant
HOLD: Final = f"""
WITH doubtful AS (
    SELECT payout_id, hold_reason FROM payouts WHERE {_DOUBTFUL}
    ORDER BY payout_id FOR NO KEY UPDATE
), changed AS (
    UPDATE payouts AS p SET held = true, hold_reason = '{LEDGER_RESTORED}', version = p.version + 1,
        updated_at = clock_timestamp()
    FROM doubtful AS d WHERE p.payout_id = d.payout_id
    RETURNING p.payout_id, p.version, p.state, d.hold_reason AS was_held_for
), noted AS (
    INSERT INTO history (payout_id, version, actor, transition, from_state, to_state, detail)
    SELECT payout_id, version, $3, '{HELD_AFTER_RESTORE}', state, state,
        jsonb_build_object('reason', '{LEDGER_RESTORED}', 'was_held_for', was_held_for)
    FROM changed
)
SELECT count(*) FROM changed
"""  # noqa: S608
UNDER_WAY: Final = f"""
SELECT state, currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor FROM payouts
WHERE state IN ('SUBMITTING', 'PENDING', 'UNKNOWN') AND NOT ({_MAY_BE_HANDED_BACK})
GROUP BY state, currency ORDER BY state, currency
"""  # noqa: S608
# The newest backup that nobody has adopted yet: were its topics put back, too?
KAFKA_IS_A_COPY: Final = f"""
SELECT EXISTS (
    SELECT FROM restores AS r JOIN history AS h ON h.at > r.restored_at AND h.transition = '{TOPICS_RESTORED}'
    WHERE NOT EXISTS (SELECT FROM adoptions AS a WHERE a.sequence > r.sequence)
)
"""  # noqa: S608
LAST_CERTAIN: Final = """
SELECT h.at FROM seals AS s JOIN history AS h ON h.id = s.history_id
WHERE s.sequence = (SELECT sequence FROM seal_head)
"""
HIGHEST_NUMBER: Final = """
SELECT greatest(max(identity_number), max(compensation_identity_number), 0) FROM payouts
"""
LOST_PAYOUTS: Final = """
SELECT DISTINCT asked.payout_id FROM unnest($1::text[]) AS asked (payout_id)
WHERE NOT EXISTS (SELECT FROM payouts AS p WHERE p.payout_id = asked.payout_id COLLATE "C")
ORDER BY asked.payout_id
"""
KNOWN_VERSIONS: Final = """
SELECT asked.payout_id FROM unnest($1::text[], $2::bigint[]) AS asked (payout_id, version)
JOIN history AS h ON h.payout_id = asked.payout_id AND h.version = asked.version
"""
# A copy that was made row by row brings transaction numbers of another cluster: its history has no order here.
IS_PHYSICAL: Final = "SELECT coalesce(max(written_by) < pg_snapshot_xmax(pg_current_snapshot()), true) FROM history"

OPEN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL enable_seqscan = on; "
    f"SET LOCAL lock_timeout = '{LOCK_SECONDS:.0f}s'; SET LOCAL statement_timeout = '{ADOPTION_SECONDS:.0f}s'; "
    f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, {MODE_LOCK}); SELECT pg_advisory_xact_lock({LOCK_SPACE}, {SEAL_LOCK})"
)
STILL_THE_SAME: Final = """
SELECT sequence = $1 AND hash = $2 AND pg_postmaster_start_time() = $3 FROM seal_head FOR UPDATE
"""
# Never backwards: numbers that nobody used are no loss, numbers used twice are.
MOVE_NUMBERS: Final = """
SELECT setval('payout_identity_numbers', greatest($1, last_value)) FROM payout_identity_numbers
"""
NOTE: Final = f"""
WITH h AS (
    INSERT INTO history (actor, transition, from_state, to_state, detail)
    VALUES ($1, '{ADOPTED}', $2, 'ADOPTED', $3::jsonb)
    RETURNING *
)
SELECT {LINE_COLUMNS} FROM h
"""  # noqa: S608
SEAL_ADOPTION: Final = """
INSERT INTO seals (sequence, history_id, previous_hash, hash, system_identifier, timeline, identity_position)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
MOVE_HEAD: Final = "UPDATE seal_head SET sequence = $1, hash = $2, published_sequence = $3"
REMEMBER: Final = """
INSERT INTO adoptions (sequence, operator, reason, window_from, window_to, old_sequence, old_hash, continued_sequence,
    continued_hash)
VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5), $6, $7, $8, $9)
RETURNING window_to
"""
# Asked for again they are not new, whatever their time says. A later adoption finds some that an earlier one noted.
REMEMBER_LOST: Final = """
INSERT INTO lost_payouts (payout_id, adoption_sequence)
SELECT asked.payout_id, $2 FROM unnest($1::text[]) AS asked (payout_id)
ON CONFLICT DO NOTHING
"""


_CHAIN_IS_OURS: Final = frozenset({Verdict.FORGOTTEN, Verdict.RESTORED})
"""What was published is sealed here under the same hash: the chain goes on where ours ends."""


class Overtaken(Exception):
    """The database is not as the plan saw it: somebody has adopted it, or it was put back again. Nothing was done."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Payouts of one kind and currency, and their money."""

    what: str
    currency: str
    payouts: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class AdoptionPlan:
    """What adopting would do now."""

    verdict: Verdict
    standing: Standing
    published: Published | None
    certain_at: datetime
    """When the last line that the copy had sealed was written: what came after it may be lost."""
    identity_to: int
    """The last number that is left out."""
    held: Sequence[Sum]
    under_way: Sequence[Sum]
    ended_unpaid: Sequence[str] = field(default_factory=tuple)
    """Payouts that the audit shows ended unpaid after what the copy has."""
    lost_payouts: Sequence[str] = field(default_factory=tuple)
    """Payouts that topics name and the copy does not know at all: they may have been paid."""
    kafka_is_a_copy: bool = False
    """The topics do not show either what became of payouts after the copy."""
    is_physical: bool = True


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was done."""

    sequence: int
    held: int
    window_from: datetime
    window_to: datetime
    identity_to: int


class Adoption:
    """Plans and does it on one database."""

    def __init__(self, pool: GuardedPool) -> None:
        self._pool = pool
        self._seals = Seals(pool)

    async def plan(
        self,
        published: Published | None,
        *,
        ended_unpaid: Sequence[str] = (),
        told_of: Collection[str] = (),
        highest_number: int = 0,
    ) -> AdoptionPlan:
        """Look, change nothing.

        `told_of`: every payout that audit, results and requests name since the copy; `highest_number`: the highest
        identity number that they show. Raises LedgerUnavailable.
        """
        verdict, standing = await self._seals.examine(published)

        async def work(connection: Connection) -> AdoptionPlan:
            async with connection.transaction(readonly=True):
                await connection.execute("SET LOCAL enable_seqscan = on")
                is_copy = published is None or await connection.fetchval(KAFKA_IS_A_COPY)
                doubts = (list(ended_unpaid), is_copy)
                highest = max(
                    standing.identity_position,
                    published.identity_position if published else 0,
                    highest_number,
                    await connection.fetchval(HIGHEST_NUMBER),
                )
                return AdoptionPlan(
                    verdict=verdict,
                    standing=standing,
                    published=published,
                    certain_at=await connection.fetchval(LAST_CERTAIN) or EPOCH,
                    identity_to=highest + IDENTITY_MARGIN,
                    held=[Sum(**row) for row in await connection.fetch(DOUBTFUL, *doubts)],
                    under_way=[Sum(*row) for row in await connection.fetch(UNDER_WAY, *doubts)],
                    ended_unpaid=tuple(ended_unpaid),
                    lost_payouts=tuple(row["payout_id"] for row in await connection.fetch(LOST_PAYOUTS, list(told_of))),
                    kafka_is_a_copy=is_copy,
                    is_physical=await connection.fetchval(IS_PHYSICAL),
                )

        return await self._pool.read(work)

    async def certain_at(self) -> datetime:
        """When the last sealed line was written; 1970 when nothing is sealed. Raises LedgerUnavailable."""
        at: datetime | None = await self._pool.read(lambda connection: connection.fetchval(LAST_CERTAIN))
        return at or EPOCH

    async def unknown_of(self, told: Mapping[str, int]) -> set[str]:
        """Payouts whose published version the database does not have. Raises LedgerUnavailable."""
        columns = (list(told), list(told.values()))
        rows = await self._pool.read(lambda connection: connection.fetch(KNOWN_VERSIONS, *columns))
        return set(told) - {row["payout_id"] for row in rows}

    async def adopt(self, plan: AdoptionPlan, *, operator: str, reason: str, clock_skew_seconds: float) -> Adopted:
        """Do what the plan says. Raises Overtaken, CommitUnknown (look again), LedgerUnavailable."""

        async def work(connection: Connection, progress: Progress) -> Adopted | None:
            async with transaction(connection, OPEN):
                head = plan.standing.head
                same = await connection.fetchval(STILL_THE_SAME, head.sequence, head.hash, plan.standing.incarnation)
                if not same:
                    await connection.execute("ROLLBACK")
                    return None
                adopted = await _adopted(connection, plan, operator, reason, clock_skew_seconds)
                progress.sending(connection)
                await connection.execute("COMMIT")
            return adopted

        done = await self._pool.write(work, ADOPTION_SECONDS)
        if done is None:
            raise Overtaken("the database changed since it was looked at: somebody adopted it, or put it back again")
        return done


async def _adopted(
    connection: Connection, plan: AdoptionPlan, operator: str, reason: str, clock_skew_seconds: float
) -> Adopted:
    await connection.execute(MOVE_NUMBERS, plan.identity_to)
    held = await connection.fetchval(HOLD, list(plan.ended_unpaid), plan.kafka_is_a_copy, operator)
    old, place, published_sequence = plan.standing.head, _place_after(plan), _published_after(plan)
    detail = {
        "reason": reason,
        "verdict": plan.verdict.value,
        "old_sequence": old.sequence,
        "old_hash": old.hash,
        "certain_at": plan.certain_at.isoformat(),
        "identity_to": plan.identity_to,
        "held": held,
        "lost_payouts": len(plan.lost_payouts),
    }
    line = line_of(await connection.fetchrow(NOTE, operator, plan.verdict.value, _json(detail)))
    origin = Origin(plan.standing.system_identifier, plan.standing.timeline, plan.identity_to)
    record = record_of(place, line, origin)
    sequence, sealed_hash = record["sequence"], record["hash"]
    fields = (origin.system_identifier, origin.timeline, origin.identity_position)
    await connection.execute(SEAL_ADOPTION, sequence, line.history_id, place.hash, sealed_hash, *fields)
    await connection.execute(MOVE_HEAD, sequence, sealed_hash, published_sequence)
    continued = plan.published.head if plan.published is not None else old
    window_from = max(EPOCH, plan.certain_at - timedelta(seconds=clock_skew_seconds))
    window_to = await connection.fetchval(
        REMEMBER,
        *(sequence, operator, reason, window_from, clock_skew_seconds),
        *(old.sequence, old.hash, continued.sequence, continued.hash),
    )
    await connection.execute(REMEMBER_LOST, list(plan.lost_payouts), sequence)
    return Adopted(sequence, held, window_from, window_to, plan.identity_to)


def _place_after(plan: AdoptionPlan) -> Head:
    """Behind everything that was sealed anywhere, continuing what was published."""
    own, published = plan.standing.head, plan.published
    if published is None or plan.verdict in _CHAIN_IS_OURS:
        return Head(own.sequence + 1, own.hash)
    return Head(max(own.sequence, published.head.sequence) + 1, published.head.hash)


def _published_after(plan: AdoptionPlan) -> int:
    """What the topic has then: all before the adoption; of a lost topic nothing, so that it is filled again."""
    if plan.verdict is Verdict.TOPIC_LOST:
        return 0
    if plan.verdict in _CHAIN_IS_OURS:
        return plan.standing.published_sequence
    return _place_after(plan).sequence - 1


def _json(detail: Mapping[str, Any]) -> str:
    return json.dumps(dict(detail))
