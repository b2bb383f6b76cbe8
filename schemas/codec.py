"""Records to bytes and back: Avro in the Confluent wire format (a zero byte, a four-byte schema id, the record).

    codec = Codec(PinnedResolver())
    data = await codec.encode("PayoutResult", record)
    decoded = await codec.decode("PayoutResult", data)

Decoding accepts whatever bytes there are and ends in one of three ways: a record in the shape of our current
schema, an `Undecodable` (the record's fault, dead letter), or a `RegistryUnavailable` (nobody's fault, stop).
"""

from __future__ import annotations

import asyncio
import copy
import functools
import io
import json
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import fastavro
import fastavro.schema

from schemas import catalog, compatibility
from schemas.bounds import Budget, Walk, compile_walk
from schemas.card_numbers import excerpt
from schemas.compatibility import AvroSchema
from schemas.errors import (
    Malformed,
    NoMagicByte,
    OverLimit,
    RegistryUnavailable,
    SchemaNotRegistered,
    TrailingBytes,
    Undecodable,
    Unencodable,
    UnknownSchemaId,
    WrongSchema,
)
from schemas.registry_client import RegistryAddress, RegistryClient, connect
from schemas.resolvers import PinnedResolver, RegistryResolver, Resolver
from schemas.shape import Check, compile_check
from schemas.topics import topic_for, topic_of

__all__ = [
    "RECORD_LIMIT_BYTES",
    "BlockingCodec",
    "Codec",
    "Decoded",
    "Malformed",
    "NoMagicByte",
    "OverLimit",
    "PinnedResolver",
    "RegistryClient",
    "RegistryResolver",
    "RegistryUnavailable",
    "Resolver",
    "SchemaNotRegistered",
    "TrailingBytes",
    "Undecodable",
    "Unencodable",
    "UnknownSchemaId",
    "WrongSchema",
    "schema_id_of",
]

# The longest value that is a record (K6): an encrypted request has a few KiB; the rest is somebody's accident.
RECORD_LIMIT_BYTES = 256 * 1024
# (record, id) pairs whose decoding plan is held; the same bound as the resolver's.
PLAN_LIMIT = 1_024

Result = TypeVar("Result")

_HEADER = struct.Struct(">BI")
_MAGIC = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One record in the shape of our current schema, and the schema that it was written with."""

    record: dict[str, Any] = field(repr=False)
    """Field values by name: int, str, bool, None, aware UTC datetime, nested dict."""
    schema_id: int
    schema_name: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to read what one writer wrote; `problem` says why it cannot be read at all."""

    walk: Walk | None
    writer: AvroSchema
    reader: AvroSchema
    problem: str


@dataclass(frozen=True, slots=True)
class _Writer:
    check: Check
    schema: AvroSchema


class Codec:
    """Encodes and decodes every record of the contract; share one per event loop.

    `topic_prefix` is the prefix of our topics on the cluster, which the registry's subjects carry too.
    """

    def __init__(self, resolver: Resolver, *, topic_prefix: str = "") -> None:
        self.resolver = resolver
        self.topic_prefix = topic_prefix
        self._plans: OrderedDict[tuple[str, int], _Plan] = OrderedDict()

    async def encode(self, schema_name: str, record: Mapping[str, Any], topic: str | None = None) -> bytes:
        """The bytes of a record. Fields that have a default may be left out; unknown ones are refused.

        `topic` is the topic's name on the cluster, by default that of the table. Raises Unencodable (names the
        field, quotes no value), RegistryUnavailable, KeyError for an unknown schema name.
        """
        writer = _writer(schema_name)
        writer.check(record, "")
        schema_id = await self.resolver.id_for(schema_name, topic or topic_for(schema_name, self.topic_prefix))
        buffer = io.BytesIO()
        buffer.write(_HEADER.pack(_MAGIC, schema_id))
        _library(Unencodable, lambda: _write(buffer, writer.schema, record))
        data = buffer.getvalue()
        if len(data) > RECORD_LIMIT_BYTES:
            raise Unencodable("", f"is longer than {RECORD_LIMIT_BYTES} bytes, the most that a record may have")
        return data

    async def decode(self, schema_name: str, data: bytes | None) -> Decoded:
        """The record that `data` holds, read as the current version of `schema_name`.

        Raises Undecodable (dead letter), RegistryUnavailable (stop and try again), KeyError for an unknown name.
        """
        if data is None:
            raise NoMagicByte("the record has no value")
        schema_id = schema_id_of(data)
        plan = self._plans.get((schema_name, schema_id)) or await self._make_plan(schema_name, schema_id)
        if plan.walk is None:
            raise WrongSchema(plan.problem)
        end = plan.walk(data, _HEADER.size, Budget())
        if end != len(data):
            raise TrailingBytes(f"the record ends {len(data) - end} bytes before its value does")
        record = _library(Malformed, lambda: _read(data, plan))
        return Decoded(record=record, schema_id=schema_id, schema_name=schema_name)

    async def decode_topic(self, topic: str, data: bytes | None) -> Decoded:
        """As `decode`, with the record that belongs to a topic's name on the cluster. KeyError: none of ours."""
        schema_name = topic_of(topic, self.topic_prefix).schema
        if schema_name is None:
            raise KeyError(f"topic {topic} holds raw bytes, not a record")
        return await self.decode(schema_name, data)

    async def close(self) -> None:
        """Closes the resolver."""
        await self.resolver.close()

    async def _written(self, schema_name: str, schema_id: int) -> str:
        try:
            return await self.resolver.schema(schema_id)
        except UnknownSchemaId:
            await self.resolver.confirm(schema_name, topic_for(schema_name, self.topic_prefix))
            raise

    async def _make_plan(self, schema_name: str, schema_id: int) -> _Plan:
        current = catalog.schema_text(schema_name)
        plan = _plan(schema_name, current, await self._written(schema_name, schema_id), schema_id)
        self._plans[schema_name, schema_id] = plan
        if len(self._plans) > PLAN_LIMIT:
            self._plans.popitem(last=False)
        return plan


def schema_id_of(data: bytes) -> int:
    """The schema id that a value begins with. Raises NoMagicByte or OverLimit."""
    if len(data) < _HEADER.size:
        raise NoMagicByte("the value is shorter than the wire format's five bytes")
    if len(data) > RECORD_LIMIT_BYTES:
        raise OverLimit(f"the value has {len(data)} bytes; a record has at most {RECORD_LIMIT_BYTES}")
    magic, schema_id = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise NoMagicByte("the value does not begin with the wire format's zero byte")
    return int(schema_id)


@functools.cache
def _writer(schema_name: str) -> _Writer:
    text = catalog.schema_text(schema_name)
    names: dict[str, Any] = {}
    expanded = compatibility.expand(json.loads(text), names)
    return _Writer(check=compile_check(expanded, names), schema=catalog.parsed(text))


def _write(buffer: io.BytesIO, schema: AvroSchema, record: Mapping[str, Any]) -> None:
    fastavro.schemaless_writer(buffer, schema, record, strict_allow_default=True, disable_tuple_notation=True)


def _read(data: bytes, plan: _Plan) -> dict[str, Any]:
    record = fastavro.schemaless_reader(io.BytesIO(data[_HEADER.size :]), plan.writer, plan.reader)
    if not isinstance(record, dict):
        raise TypeError("the schema is of no record")
    # A default that was filled in is the schema's own object, shared by all records that miss the field.
    return record if plan.reader is None else copy.deepcopy(record)


def _plan(schema_name: str, current: str, written: str, schema_id: int) -> _Plan:
    """How our current schema reads what was written with another one."""
    if written == current:
        return _ready(current, current)
    problem = ""
    try:
        found = compatibility.problems(json.loads(current), json.loads(written))
        if not found:
            return _ready(current, written)
        problem = found[0]
    # The text is somebody else's: whatever is wrong with it is a fact about this id, not about us.
    except Exception as error:  # noqa: BLE001
        problem = f"it is no schema that we can use ({type(error).__name__})"
    # It may quote names out of the foreign schema, which may be of any length and say anything.
    why = f"{schema_name} cannot read schema id {schema_id}: {excerpt(problem)}"
    return _Plan(walk=None, writer=None, reader=None, problem=why)


def _ready(current: str, written: str) -> _Plan:
    names: dict[str, Any] = {}
    walk = compile_walk(compatibility.expand(json.loads(written), names), names)
    writer = fastavro.schema.parse_schema(json.loads(written))
    reader = None if written == current else catalog.parsed(current)
    return _Plan(walk=walk, writer=writer, reader=reader, problem="")


def _library(refusal: type[Malformed] | type[Unencodable], call: Callable[[], Result]) -> Result:
    """Runs the Avro library and turns whatever it raises into one of ours, without its text, which quotes values."""
    failure = ""
    try:
        return call()
    # Any error here is about this one record, and one record never stops a partition (P8).
    except Exception as error:  # noqa: BLE001
        failure = type(error).__name__
    if refusal is Unencodable:
        raise Unencodable("", f"the Avro library refused it ({failure})")
    raise Malformed(f"the Avro library refused it ({failure})")


class BlockingCodec:
    """The codec for code without an event loop (command line, consumers in threads); close it, or use `with`.

    with BlockingCodec(registry=None) as codec:
        codec.decode("PayoutResult", data)
    """

    def __init__(self, registry: RegistryAddress | None = None, *, topic_prefix: str = "") -> None:
        resolver: Resolver = PinnedResolver() if registry is None else RegistryResolver(connect(registry))
        self._runner = asyncio.Runner()
        self._codec = Codec(resolver, topic_prefix=topic_prefix)

    def encode(self, schema_name: str, record: Mapping[str, Any], topic: str | None = None) -> bytes:
        """As `Codec.encode`."""
        return self._runner.run(self._codec.encode(schema_name, record, topic))

    def decode(self, schema_name: str, data: bytes | None) -> Decoded:
        """As `Codec.decode`."""
        return self._runner.run(self._codec.decode(schema_name, data))

    def decode_topic(self, topic: str, data: bytes | None) -> Decoded:
        """As `Codec.decode_topic`."""
        return self._runner.run(self._codec.decode_topic(topic, data))

    def close(self) -> None:
        """Closes the connections and the loop."""
        try:
            self._runner.run(self._codec.close())
        finally:
            self._runner.close()

    def __enter__(self) -> BlockingCodec:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
