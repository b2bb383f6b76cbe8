"""The stand-in as a child process: same addresses and same ledger after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sandbox.servers.processes import is_listening
from sandbox.servers.visa_stand_in import VisaStandIn

pytestmark = pytest.mark.servers


@pytest.fixture
def visa() -> Iterator[VisaStandIn]:
    server = VisaStandIn()
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_addresses_and_credentials_survive_a_kill(visa: VisaStandIn) -> None:
    """The stand-in's ledger judges what was paid (design.md 10), so it must outlive its own crash."""
    before = visa.base_url, visa.admin_url, visa.environment()
    port = int(visa.base_url.rsplit(":", 1)[1])
    visa.kill()
    assert not is_listening(port)
    visa.restart()
    assert (visa.base_url, visa.admin_url, visa.environment()) == before
    assert httpx.get(f"{visa.admin_url}/sandbox/ledger", timeout=10).status_code == httpx.codes.OK


def test_a_worker_gets_every_file_that_its_settings_name(visa: VisaStandIn) -> None:
    environment = visa.environment()
    files = {name: Path(value) for name, value in environment.items() if name.endswith("_PATH")}
    assert len(files) == 5
    assert all(path.is_file() for path in files.values())
    assert all(path.stat().st_mode & 0o077 == 0 for name, path in files.items() if "KEY_PATH" in name)
    assert environment["VISA_PASSWORD"] not in visa.describe()
