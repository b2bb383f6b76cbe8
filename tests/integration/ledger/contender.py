"""One process of many that want the same payout: run by test_ledger_contention, started by a line on stdin.

Arguments: DATABASE_URL OPERATION CONTENDERS CONNECTIONS. Prints "ready", then one JSON line: answer to how often.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter

from ledger.interface import Inserted
from ledger.postgres import PostgresLedger
from processors.payout.row import PayoutRow, PayoutState
from tests.contract.ledger.ledger_harness import sample_row, step


async def insert(ledger: PostgresLedger, contender: int) -> str:
    outcome = await ledger.insert(sample_row(1), f"contender-{os.getpid()}-{contender}")
    return "won" if isinstance(outcome, Inserted) else "existing"


async def begin(ledger: PostgresLedger, contender: int) -> str:
    row = await ledger.read(sample_row(1).payout_id)
    assert row is not None
    # Some decide on what they have just read, some on what everybody saw first.
    before = row if contender % 2 else sample_row(1)
    answer = await ledger.begin(step(before, state=PayoutState.SUBMITTING), f"{os.getpid()}-{contender}", 60)
    return "won" if isinstance(answer, PayoutRow) else answer.value


OPERATIONS = {"insert": insert, "begin": begin}


async def main(database_url: str, operation: str, contenders: int, connections: int) -> None:
    ledger = await PostgresLedger.connect(database_url, pool_min=connections, pool_max=connections)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    answers = await asyncio.gather(*(OPERATIONS[operation](ledger, number) for number in range(contenders)))
    sys.stdout.write(json.dumps(Counter(answers)) + "\n")
    await ledger.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
