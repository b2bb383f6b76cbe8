"""The wire format: bytes to records, with our own schemas and with schemas that somebody else registered."""

import asyncio
import functools
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import fastavro

from schemas import catalog, compatibility
from schemas.codec import Codec, Decoded, PinnedResolver, Undecodable, Unencodable
from tests.fuzz.harness import Finding, Target, check, check_error
from tests.fuzz.values import change_json, change_record

GOLDEN: Final = Path(__file__).parents[2] / "contract" / "schemas" / "golden"
_HEADER: Final = struct.Struct(">BI")
_FOREIGN_ID: Final = 7
"""The id under which the input's own schema is registered."""


@functools.cache
def loop() -> asyncio.Runner:
    """One event loop for all inputs of a process."""
    return asyncio.Runner()


def header(name: str) -> bytes:
    """The first five bytes of a record's current version in the pinned table."""
    return _HEADER.pack(0, catalog.pinned_ids()[name, catalog.versions(name)[-1]])


def golden() -> Iterator[tuple[str, bytes]]:
    """(record, value) of every golden file."""
    for path in sorted(GOLDEN.glob("*.json")):
        yield path.stem.split(".")[0], bytes.fromhex(json.loads(path.read_text("utf-8"))["hex"])


@functools.cache
def expanded(name: str) -> tuple[Any, dict[str, Any]]:
    """A record's schema without references, and its named types."""
    names: dict[str, Any] = {}
    return compatibility.expand(json.loads(catalog.schema_text(name)), names), names


def changed_value(name: str, value: bytes, random: Random) -> bytes:
    """Another value of the same record, one field of it hostile; the value itself where it cannot be read."""
    schema, names = expanded(name)
    try:
        record = fastavro.schemaless_reader(
            io.BytesIO(value[_HEADER.size :]), catalog.parsed(catalog.schema_text(name))
        )
        buffer = io.BytesIO()
        changed = change_record(record, schema, names, random)  # type: ignore[arg-type]
        fastavro.schemaless_writer(buffer, catalog.parsed(catalog.schema_text(name)), changed)
    except Exception:  # noqa: BLE001 - the library's own: the value was no record, or the new one cannot be written
        return value
    return header(name) + buffer.getvalue()


# --- our own schemas ----------------------------------------------------------------------------------------------


def _wire(data: bytes) -> None:
    """The first byte chooses the record, and whether the right five bytes go before the rest."""
    if not data:
        return
    name = catalog.RECORDS[data[0] % len(catalog.RECORDS)]
    value = header(name) + data[1:] if data[0] >= 128 else data[1:]
    loop().run(_decode(name, value))


async def _decode(name: str, value: bytes) -> None:
    codec = Codec(PinnedResolver())
    try:
        decoded = await codec.decode(name, value)
    except Undecodable as error:
        check_error(error)
        return
    await _check_round_trip(codec, name, decoded)


async def _check_round_trip(codec: Codec, name: str, decoded: Decoded) -> None:
    """What was accepted is a record of the schema: it can be written again and reads the same."""
    try:
        again = await codec.decode(name, await codec.encode(name, decoded.record))
    except (Undecodable, Unencodable) as error:
        raise Finding(f"a decoded {name} cannot be written and read again: {error}") from None
    check(again.record == decoded.record, f"a decoded {name} reads differently when it was written again")


def _wire_seeds() -> Iterator[bytes]:
    for name, value in golden():
        index = catalog.RECORDS.index(name)
        yield bytes([index]) + value
        yield bytes([128 + (index - 128) % len(catalog.RECORDS)]) + value[_HEADER.size :]


def _change_wire(data: bytes, random: Random) -> bytes:
    if not data or data[0] >= 128:
        return data
    name = catalog.RECORDS[data[0] % len(catalog.RECORDS)]
    return data[:1] + changed_value(name, data[1:], random)


# --- a schema that somebody registered ----------------------------------------------------------------------------


class _OneSchema(PinnedResolver):
    """A registry that holds one schema: the input's."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def schema(self, schema_id: int) -> str:
        """The input's schema, whatever it is."""
        return self._text if schema_id == _FOREIGN_ID else await super().schema(schema_id)


def _foreign(data: bytes) -> None:
    """A byte that chooses the record, the schema's text, a zero byte, a value."""
    text, _, value = data[1:].partition(b"\0")
    if not data:
        return
    name = catalog.RECORDS[data[0] % len(catalog.RECORDS)]
    loop().run(_decode_foreign(name, text.decode("utf-8", "replace"), _HEADER.pack(0, _FOREIGN_ID) + value))


async def _decode_foreign(name: str, text: str, value: bytes) -> None:
    codec = Codec(_OneSchema(text))
    try:
        decoded = await codec.decode(name, value)
    except Undecodable as error:
        check_error(error)
        return
    ours = Codec(PinnedResolver())
    try:
        again = await ours.decode(name, await ours.encode(name, decoded.record))
    except Unencodable as error:
        raise Finding(f"a {name} of a foreign schema was accepted and is none of ours: {error}") from None
    check(set(again.record) == set(decoded.record), f"a {name} of a foreign schema has other fields than ours")


def _foreign_seeds() -> Iterator[bytes]:
    for name, value in golden():
        schema = catalog.schema_text(name).encode()
        yield bytes([catalog.RECORDS.index(name)]) + schema + b"\0" + value[_HEADER.size :]


def _change_foreign(data: bytes, random: Random) -> bytes:
    text, _, value = data[1:].partition(b"\0")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        return data
    return data[:1] + json.dumps(change_json(schema, random)).encode().replace(b"\0", b"") + b"\0" + value


TARGETS: Final = (
    Target("wire", "Confluent wire format and Avro, every record, pinned schemas", _wire, _wire_seeds, _change_wire),
    Target(
        "foreign_schema", "a schema text from a registry, and a value written with it", _foreign, _foreign_seeds,
        _change_foreign, longest_bytes=16_384,
    ),
)  # fmt: skip
