"""A stranger's client, with stock serializers and our .avsc files, and our codec understand each other.

The registry here is the client library's own in-process one; the real one is asked in the integration tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from schemas import catalog
from schemas.codec import Codec
from schemas.topics import subject_of, topic_for

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))


def _is_newest(path: Path) -> bool:
    name, version = path.name.split(".")[:2]
    return int(version[1:]) == catalog.versions(name)[-1]


FILES = [path for path in GOLDEN if _is_newest(path)]
"""What a stranger with our current files writes and reads; older bytes are for the golden tests."""


class StrangersRegistry:
    """Our resolver's view of the registry that the stranger's client uses."""

    def __init__(self, client: SchemaRegistryClient) -> None:
        self.client = client

    async def schema(self, schema_id: int) -> str:
        text = self.client.get_schema(schema_id).schema_str
        assert text is not None
        return text

    async def id_for(self, schema_name: str, topic: str) -> int:
        schema = Schema(catalog.schema_text(schema_name), "AVRO")
        return self.client.register_schema(subject_of(topic), schema)

    async def confirm(self, schema_name: str, topic: str) -> None:  # noqa: ARG002
        return

    async def close(self) -> None:
        return


@pytest.fixture
def client() -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient.new_client({"url": "mock://strangers"}) as opened:
        yield opened


def _record(path: Path) -> dict[str, Any]:
    return _with_times(json.loads(path.read_text("utf-8"))["record"])


def _with_times(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _with_times(item, key) for key, item in value.items()}
    is_time = isinstance(value, str) and (name == "at" or name.endswith("_at"))
    return datetime.fromisoformat(value) if is_time else value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_we_read_what_a_stock_producer_writes(path: Path, client: SchemaRegistryClient) -> None:
    name = path.name.split(".")[0]
    text = catalog.schema_path(name).read_text("utf-8")
    serialize = AvroSerializer(client, text, conf={"auto.register.schemas": True})
    data = serialize(_record(path), SerializationContext(topic_for(name), MessageField.VALUE))
    assert data is not None
    decoded = await Codec(StrangersRegistry(client)).decode(name, data)
    assert decoded.record == _record(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_a_stock_consumer_reads_what_we_write(path: Path, client: SchemaRegistryClient) -> None:
    name = path.name.split(".")[0]
    data = await Codec(StrangersRegistry(client)).encode(name, _record(path))
    read = AvroDeserializer(client, catalog.schema_path(name).read_text("utf-8"))
    assert read(data, SerializationContext(topic_for(name), MessageField.VALUE)) == _record(path)


async def test_a_consumer_with_the_schema_from_before_returns_still_reads_one(client: SchemaRegistryClient) -> None:
    """S8: it learns from the status that the payout came back, and misses only the record that says more."""
    path = next(path for path in FILES if path.name == "PayoutResult.v2.returned.json")
    data = await Codec(StrangersRegistry(client)).encode("PayoutResult", _record(path))
    read = AvroDeserializer(client, catalog.schema_text("PayoutResult", 1))
    told = read(data, SerializationContext(topic_for("PayoutResult"), MessageField.VALUE))
    assert told == {name: value for name, value in _record(path).items() if name != "returned"}
    assert told["status"] == "RETURNED"


async def test_a_java_producers_string_annotation_changes_nothing(client: SchemaRegistryClient) -> None:
    """Java's generated classes register our schema with avro.java.string on every string."""
    path = next(path for path in FILES if path.name.startswith("PayoutRequest.v1.aft"))
    text = json.dumps(_annotated(json.loads(catalog.schema_text("PayoutRequest"))))
    serialize = AvroSerializer(client, text)
    data = serialize(_record(path), SerializationContext("payout_requests", MessageField.VALUE))
    decoded = await Codec(StrangersRegistry(client)).decode("PayoutRequest", data)
    assert decoded.record == _record(path)


def _annotated(schema: Any) -> Any:
    if schema == "string":
        return {"type": "string", "avro.java.string": "String"}
    if isinstance(schema, list):
        return [_annotated(branch) for branch in schema]
    if isinstance(schema, dict):
        return {key: _annotated(item) if key in ("type", "fields", "values") else item for key, item in schema.items()}
    return schema
