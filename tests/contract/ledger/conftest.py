"""Both implementations of the ledger, one test each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.ledger.ledger_fixtures import ledger_template, ledger_url, shared_ledger_url
from tests.contract.ledger.ledger_harness import Harness, MemoryHarness, PostgresHarness

__all__ = ["harness", "ledger_template", "ledger_url", "shared_ledger_url"]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.servers)])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """An empty ledger: the model, then PostgreSQL."""
    opened: Harness
    if request.param == "memory":
        opened = MemoryHarness()
    else:
        opened = await PostgresHarness.open(request.getfixturevalue("shared_ledger_url"))
    yield opened
    await opened.close()
