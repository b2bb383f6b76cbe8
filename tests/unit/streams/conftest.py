"""Keys made once a session, and a world for each test; pauses of the product are shortened, its clock is the test's."""

from pathlib import Path

import pytest

from streams.keys import Keys, create_keys, load_keys
from tests.unit.streams.streams_world import World


@pytest.fixture(scope="session")
def keys_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete set of keys."""
    directory = tmp_path_factory.mktemp("streams") / "keys"
    create_keys(directory)
    return directory


@pytest.fixture(scope="session")
def keys(keys_directory: Path) -> Keys:
    """The same, loaded."""
    return load_keys(keys_directory)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries take no time here."""
    monkeypatch.setattr("streams.gate.PAUSE_FIRST_SECONDS", 0.001)
    monkeypatch.setattr("streams.gate.PAUSE_MAX_SECONDS", 0.001)


@pytest.fixture
def world(keys: Keys, keys_directory: Path) -> World:
    """A fresh world with one worker."""
    return World(keys, keys_directory)
