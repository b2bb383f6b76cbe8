"""Fixtures of the ledger's tests, imported by the conftest of each tier that uses them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger.migrate import migrate
from sandbox.servers.postgres import Postgres


@pytest.fixture(scope="session")
def ledger_template(postgres: Postgres) -> Iterator[str]:
    """The name of a migrated, empty database: copying it is several times faster than migrating again."""
    name = f"payouts_ledger_template_{uuid.uuid4().hex}"
    url = postgres.create_database(name)
    try:
        # In a thread, because an asynchronous test may be the first to ask for this.
        with ThreadPoolExecutor(max_workers=1) as apart:
            apart.submit(lambda: asyncio.run(migrate(url))).result()
        yield name
    finally:
        postgres.drop_database(name)


@pytest.fixture
def ledger_url(postgres: Postgres, ledger_template: str) -> Iterator[str]:
    """A migrated, empty database for this test alone."""
    name = f"payouts_ledger_{uuid.uuid4().hex}"
    url = postgres.create_database(name, template=ledger_template)
    try:
        yield url
    finally:
        postgres.drop_database(name)


@pytest.fixture(scope="session")
def shared_ledger_url(postgres: Postgres, ledger_template: str) -> Iterator[str]:
    """A migrated database for tests that empty it before they start."""
    name = f"payouts_ledger_{uuid.uuid4().hex}"
    url = postgres.create_database(name, template=ledger_template)
    try:
        yield url
    finally:
        postgres.drop_database(name)
