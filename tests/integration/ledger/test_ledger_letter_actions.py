"""K6, P9: what people did with dead letters is recorded once, in one order, and sealed with everything else."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from ledger.interface import Disposition, IntakeRecord
from ledger.letter_actions import LetterAction
from ledger.postgres import PostgresLedger
from tests.contract.ledger.ledger_harness import sealed

pytestmark = [pytest.mark.servers]

LETTER = "payout_requests-0-17"
DIGEST, OTHER = "a" * 64, "b" * 64


async def test_p9_of_many_who_act_at_once_one_wins(ledger_url: str) -> None:
    """P9: two operators doing the same thing at the same moment: one wins, the others are told."""
    async with await PostgresLedger.connect(ledger_url, pool_max=8) as ledger:
        letters = ledger.letter_actions
        for after in range(3):
            acts = [
                letters.act(
                    LETTER, DIGEST, after=after, action=LetterAction.REPLAY_BEGUN, operator=f"operator-{n}", reason="x"
                )
                for n in range(12)
            ]
            numbers = await asyncio.gather(*acts)
            assert sorted(number for number in numbers if number is not None) == [after + 1]
        done = await letters.actions([LETTER, "another-0-1"])
        assert [action.number for action in done] == [1, 2, 3]
        connection = await asyncpg.connect(ledger_url)
        try:
            count = await connection.fetchval("SELECT count(*) FROM history WHERE transition LIKE 'dead_letter%'")
            assert count == 3, "who lost is not in the history"
        finally:
            await connection.close()


async def test_l10_an_action_is_one_line_of_the_sealed_history(ledger_url: str) -> None:
    """L10, K6: who did it to which letter, and why; it can neither be changed nor taken away."""
    async with await PostgresLedger.connect(ledger_url, pool_min=1) as ledger:
        letters = ledger.letter_actions
        number = await letters.act(
            LETTER, DIGEST, after=0, action=LetterAction.DISCARDED, operator="maria", reason="INC-1", was="open",
            detail={"reason_code": "MALFORMED"},
        )  # fmt: skip
        assert number == 1
        connection = await asyncpg.connect(ledger_url)
        try:
            (line,) = await connection.fetch(
                "SELECT actor, transition, from_state, to_state, detail FROM history WHERE payout_id IS NULL"
            )
            assert tuple(line)[:4] == ("maria", "dead_letter_discarded", "open", "DISCARDED")
            assert json.loads(line["detail"]) == {
                "reason": "INC-1", "letter": LETTER, "sha256": DIGEST, "number": 1, "reason_code": "MALFORMED",
            }  # fmt: skip
            for statement in ("UPDATE letter_actions SET operator = 'x'", "DELETE FROM letter_actions"):
                with pytest.raises(asyncpg.RestrictViolationError):
                    await connection.execute(statement)
        finally:
            await connection.close()
        await sealed(ledger, 1)
        (record,) = await ledger.seals.unpublished(10)
        assert (record["subject"], record["reason"]) == ("dead_letter", "INC-1")


async def test_k6_letters_of_one_place_are_told_apart_by_what_they_were(ledger_url: str) -> None:
    """K8, K6: a topic that was made anew gives its places again."""
    async with await PostgresLedger.connect(ledger_url, pool_min=1) as ledger:
        letters = ledger.letter_actions
        for digest in (DIGEST, OTHER):
            number = await letters.act(
                LETTER, digest, after=0, action=LetterAction.REPLAYED, operator="maria", reason="x"
            )
            assert number == 1
        await ledger.record_intake(IntakeRecord("payout_requests", 0, 17, Disposition.DEAD_LETTER, None, "MALFORMED"))
        known, unknown = ("payout_requests", 0, 17), ("payout_requests", 1, 17)
        assert await letters.recorded([known, unknown]) == {known}
        assert await letters.recorded([]) == set()
