"""Every version ever shipped decodes, for ever: topics are replayed in incidents (P1, P5)."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from schemas import catalog
from schemas.codec import BlockingCodec, schema_id_of

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))


def _name_and_version(path: Path) -> tuple[str, int]:
    name, version = path.name.split(".")[:2]
    return name, int(version[1:])


def _as_written(value: Any) -> Any:
    """A decoded record in the form of the golden files: times as text."""
    if isinstance(value, dict):
        return {key: _as_written(item) for key, item in value.items()}
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def _with_times(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _with_times(item, key) for key, item in value.items()}
    is_time = isinstance(value, str) and (name == "at" or name.endswith("_at"))
    return datetime.fromisoformat(value) if is_time else value


def _assert_contained(written: Any, decoded: Any) -> None:
    """All that was written is there; fields of later versions may be there too."""
    if isinstance(written, dict):
        assert written.keys() <= decoded.keys()
        for key, item in written.items():
            _assert_contained(item, decoded[key])
    else:
        assert decoded == written


def test_every_shipped_version_has_golden_bytes() -> None:
    shipped = {(name, version) for name in catalog.RECORDS for version in catalog.versions(name)}
    assert {_name_and_version(path) for path in FILES} == shipped


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_bytes_decode_into_the_current_schema(path: Path) -> None:
    golden = json.loads(path.read_text("utf-8"))
    name, version = _name_and_version(path)
    with BlockingCodec() as codec:
        decoded = codec.decode(name, bytes.fromhex(golden["hex"]))
    assert decoded.schema_id == catalog.pinned_ids()[name, version]
    _assert_contained(golden["record"], _as_written(decoded.record))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_newest_version_is_written_byte_for_byte(path: Path) -> None:
    golden = json.loads(path.read_text("utf-8"))
    name, version = _name_and_version(path)
    data = bytes.fromhex(golden["hex"])
    if version == catalog.versions(name)[-1]:
        with BlockingCodec() as codec:
            assert codec.encode(name, _with_times(golden["record"])) == data
    assert schema_id_of(data) == catalog.pinned_ids()[name, version]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_schema_file_is_never_edited(path: Path) -> None:
    """An edit of vN would make the registry, the pinned id and old records mean different things."""
    name, version = _name_and_version(path)
    text = catalog.schema_text(name, version)
    golden = json.loads(path.read_text("utf-8"))
    assert hashlib.sha256(text.encode()).hexdigest() == golden["schema_sha256"]
