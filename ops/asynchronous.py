"""From a command, which is plain code, into the event loop and back."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from ledger.postgres import PostgresLedger
from streams.settings import Settings

# One command asks one thing at a time.
POOL_MAX: Final = 2

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end in an event loop of its own."""
    return asyncio.run(work)


@asynccontextmanager
async def connected_ledger(settings: Settings) -> AsyncIterator[PostgresLedger]:
    """The ledger of the settings. Raises LedgerUnavailable."""
    ledger = await PostgresLedger.connect(
        settings.database_url.get_secret_value(), pool_min=1, pool_max=POOL_MAX, application_name="payouts command"
    )
    try:
        yield ledger
    finally:
        await ledger.close()
