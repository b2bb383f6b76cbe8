"""What it brings that payouts share statements and commits (rule L5), everything on this machine.

    python -m bench.ledger_batching [--payouts 600] [--repeats 3]

The ledger's hot writes (insert, begin, commit) by 1, 20 and 64 concurrent callers, each asking again as soon as it is
answered; with batches of one row (`rows_max=1`: every request its own statement and commit) and with the product's
batches. Both run on the same server, one after the other in turn, so that a ratio says something where figures
alone would not. Prints one JSON object a line: median of the repeats in rows a second; asserts nothing.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ledger.batcher import ROWS_MAX
from ledger.interface import Change, Inserted
from ledger.migrate import migrate
from ledger.postgres import PostgresLedger
from processors.payout.row import FundingKind, PayoutRow, PayoutState
from sandbox.servers.postgres import postgres_from_environment

CALLERS = (1, 20, 64)
WRITES = ("insert", "begin", "commit")
# As large as an encrypted request with its parties is.
REQUEST_BYTES = 2_500
OWNER = "bench"

Rates = dict[str, float]


def fresh_row() -> PayoutRow:
    """A payout that nobody has seen yet."""
    name, now = uuid.uuid4().hex, datetime.now(UTC)
    return PayoutRow(
        payout_id=f"bench-{name}",
        originator_id="bench",
        amount_minor=12_500,
        currency="USD",
        source_country="US",
        target_country="JP",
        target_currency="JPY",
        funding_kind=FundingKind.AFT,
        funding_reference=name,
        funding_captured=True,
        funding_captured_at=now,
        funding_reversible=True,
        requested_at=now,
        expires_at=None,
        received_at=now,
        source_topic="payout_requests",
        source_partition=0,
        source_offset=0,
        correlation_id=name,
        sender_reference=name[:16],
        content_key_version="1",
        bytes_hmac=os.urandom(32),
        content_hmac=os.urandom(32),
        sealed_request=os.urandom(REQUEST_BYTES),
        state_at=now,
    )


async def by_callers(
    callers: int, rows: Sequence[PayoutRow], write: Callable[[PayoutRow], Awaitable[PayoutRow]]
) -> tuple[float, list[PayoutRow]]:
    """Rows a second, and the rows as written; every caller takes the next row when it is answered."""
    left, written = iter(rows), []

    async def caller() -> None:
        for row in left:
            written.append(await write(row))

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(rows) / (time.perf_counter() - started), written


async def life(ledger: PostgresLedger, callers: int, payouts: int) -> Rates:
    """The three writes of a payout, one kind after the other."""

    async def insert(row: PayoutRow) -> PayoutRow:
        outcome = await ledger.insert(row, OWNER)
        assert isinstance(outcome, Inserted)
        return outcome.row

    async def begin(row: PayoutRow) -> PayoutRow:
        change = Change(row, replace(row, state=PayoutState.SUBMITTING, attempts=1), "intent", OWNER)
        outcome = await ledger.begin(change, OWNER, 60.0)
        assert isinstance(outcome, PayoutRow)
        return outcome

    async def commit(row: PayoutRow) -> PayoutRow:
        outcome = await ledger.commit(Change(row, replace(row, state=PayoutState.PAID), "paid", OWNER), OWNER)
        assert outcome is not None
        return outcome

    rates: Rates = {}
    rows: list[PayoutRow] = [fresh_row() for _ in range(payouts)]
    for name, write in zip(WRITES, (insert, begin, commit), strict=True):
        rates[name], rows = await by_callers(callers, rows, write)
    return rates


async def compare(url: str, payouts: int, repeats: int) -> None:
    """Every number of callers, both ways, in turn."""
    async with (
        await PostgresLedger.connect(url, rows_max=1) as one_by_one,
        await PostgresLedger.connect(url) as batched,
    ):
        for ledger in (one_by_one, batched):
            await life(ledger, 20, 100)  # connections and plans
        for callers in CALLERS:
            # A single caller waits for every commit: fewer rows tell as much.
            count = max(50, payouts // 4) if callers == 1 else payouts
            runs = [
                (await life(one_by_one, callers, count), await life(batched, callers, count)) for _ in range(repeats)
            ]
            for name in WRITES:
                single = statistics.median(before[name] for before, _ in runs)
                shared = statistics.median(after[name] for _, after in runs)
                figures = {"one_by_one_per_second": round(single), "batched_per_second": round(shared)}
                say({"write": name, "callers": callers, **figures, "ratio": round(shared / single, 2)})


def say(fact: dict[str, object]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Start PostgreSQL, or use the one that DATABASE_URL names, in a database of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payouts", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    server = postgres_from_environment()
    name = f"payouts_bench_{uuid.uuid4().hex}"
    try:
        server.start()
        say({"python": platform.python_version(), "system": platform.platform(), "processors": os.cpu_count()})
        say({"postgres": server.describe(), "rows_max": ROWS_MAX, "load_average": os.getloadavg()[0]})
        url = server.create_database(name)
        asyncio.run(migrate(url))
        asyncio.run(compare(url, arguments.payouts, arguments.repeats))
        server.drop_database(name)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
