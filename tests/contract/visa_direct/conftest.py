"""A stand-in in this process on free ports, with real TLS, and a clock that a test can move."""

import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sandbox.visa_direct.credentials import make_credentials
from sandbox.visa_direct.server import running
from sandbox.visa_direct.settings import Settings
from tests.contract.visa_direct.visa_direct_client import VisaClient


class Clock:
    """The real time plus what a test added."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def credentials_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: three RSA keys a test would cost more than the tests."""
    return make_credentials(tmp_path_factory.mktemp("visa_direct") / "credentials").directory


@pytest.fixture
def with_credentials(tmp_path: Path, credentials_directory: Path) -> Path:
    """A state directory that has its credentials already."""
    state = tmp_path / "state"
    shutil.copytree(credentials_directory, state / "credentials")
    return state


@pytest.fixture
async def start(with_credentials: Path, clock: Clock) -> AsyncIterator[Callable[..., Awaitable[VisaClient]]]:
    """Start a stand-in with the given settings; stopped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def started(**settings: Any) -> VisaClient:
            endpoint = await stack.enter_async_context(
                running(Settings(state_directory=with_credentials, clock=clock, **settings))
            )
            client = VisaClient(endpoint.base_url, endpoint.admin_url, endpoint.credentials.client_directory)
            client.now = clock
            stack.push_async_callback(client.close)
            return client

        yield started


@pytest.fixture
async def visa(start: Callable[..., Awaitable[VisaClient]]) -> VisaClient:
    return await start()
