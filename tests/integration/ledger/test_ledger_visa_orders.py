"""S0-05, S0-10: orders reach every worker in their order, are part of the audited history, and are never changed."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from ledger.postgres import PostgresLedger
from ledger.visa_orders import Action
from tests.contract.ledger.ledger_harness import sealed

pytestmark = [pytest.mark.servers]


async def test_an_order_is_one_line_of_the_history_and_is_sealed_with_it(ledger_url: str) -> None:
    """S0-10, L10: who ordered what, and why, in the same transaction."""
    async with await PostgresLedger.connect(ledger_url, pool_min=1) as ledger:
        orders = ledger.visa_orders
        assert await orders.newest() == 0
        numbers = [await orders.give(action, "maria", f"INC-7 {action.value}") for action in Action]
        assert numbers == [1, 2, 3]
        assert [order.action for order in await orders.since(0)] == [action.value for action in Action]
        assert [order.number for order in await orders.since(2)] == [3]
        assert await orders.newest() == 3
        connection = await asyncpg.connect(ledger_url)
        try:
            noted = await connection.fetch(
                "SELECT actor, transition, to_state, detail FROM history WHERE payout_id IS NULL ORDER BY id"
            )
            assert [(row["actor"], row["transition"], row["to_state"]) for row in noted] == [
                ("maria", f"visa_{action.value}", "ORDERED") for action in Action
            ]
            assert json.loads(noted[2]["detail"]) == {"reason": "INC-7 breaker_reset", "order": 3}
            for statement in ("UPDATE visa_orders SET reason = 'other'", "DELETE FROM visa_orders"):
                with pytest.raises(asyncpg.RestrictViolationError):
                    await connection.execute(statement)
        finally:
            await connection.close()
        await sealed(ledger, len(numbers))
        records = await ledger.seals.unpublished(10)
        assert {record["subject"] for record in records} == {"visa"}


async def test_orders_given_at_once_become_visible_in_the_order_of_their_numbers(ledger_url: str) -> None:
    """S0-05: a worker that has read one number never misses a lower one."""
    async with await PostgresLedger.connect(ledger_url, pool_max=8) as ledger:
        seen: list[int] = []
        given = asyncio.gather(*(ledger.visa_orders.give(Action.RELOAD, "maria", "x") for _ in range(20)))
        while not given.done():
            orders = await ledger.visa_orders.since(seen[-1] if seen else 0)
            seen += [order.number for order in orders]
        numbers = await given
        seen += [order.number for order in await ledger.visa_orders.since(seen[-1] if seen else 0)]
        assert seen == sorted(numbers)
        assert len(set(numbers)) == 20


async def test_a_worker_says_what_it_uses_and_is_forgotten_when_it_leaves(ledger_url: str) -> None:
    """S0-05: the last word of each worker that reported lately."""
    async with await PostgresLedger.connect(ledger_url, pool_min=1) as ledger:
        orders = ledger.visa_orders
        await orders.report("worker-1", 0, None, None, {"mle_key_id": "old"})
        await orders.report("worker-2", 0, None, None, {})
        await orders.report("worker-1", 4, "failure", "HTTP 401", {"mle_key_id": "new", "decrypts_with": ["new"]})
        one, two = await orders.workers(60.0)
        assert (one.worker, one.order_number, one.result, one.why) == ("worker-1", 4, "failure", "HTTP 401")
        assert one.facts == {"mle_key_id": "new", "decrypts_with": ["new"]}
        assert (two.worker, two.result) == ("worker-2", None)
        assert await orders.workers(0.0) == []
        await orders.leave("worker-1")
        assert [report.worker for report in await orders.workers(60.0)] == ["worker-2"]
