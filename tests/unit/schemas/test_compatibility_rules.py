"""Our compatibility rules are Avro's own, but for the two places in which they are stricter on purpose."""

from __future__ import annotations

import json
from typing import Any

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import catalog
from schemas.compatibility import problems


def avro_accepts(reader: Any, writer: Any) -> bool:
    verdict = ReaderWriterCompatibilityChecker().get_compatibility(
        avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
    )
    return verdict.compatibility == SchemaCompatibilityType.compatible


PRIMITIVE = st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string"])
SYMBOLS = st.lists(st.sampled_from("ABCD"), min_size=1, max_size=3, unique=True)


def _enum(symbols: list[str], with_default: bool) -> Any:
    schema: dict[str, Any] = {"type": "enum", "name": "E", "symbols": symbols}
    return schema | {"default": symbols[0]} if with_default else schema


LEAF = PRIMITIVE | st.builds(_enum, SYMBOLS, st.booleans())
NULLABLE = LEAF.filter(lambda leaf: leaf != "null").map(lambda leaf: ["null", leaf])
CONTAINER = LEAF.map(lambda leaf: {"type": "array", "items": leaf}) | LEAF.map(
    lambda leaf: {"type": "map", "values": leaf}
)


@st.composite
def records(draw: st.DrawFn) -> Any:
    fields = []
    for name in draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=3)):
        field: dict[str, Any] = {"name": name, "type": draw(LEAF | NULLABLE | CONTAINER)}
        if isinstance(field["type"], list) and draw(st.booleans()):
            field["default"] = None
        fields.append(field)
    # Avro allows a name to be defined once.
    seen = json.dumps(fields).count('"name": "E"')
    return (
        {"type": "record", "name": "R", "fields": fields}
        if seen <= 1
        else {"type": "record", "name": "R", "fields": []}
    )


@given(reader=records(), writer=records())
@settings(max_examples=600, deadline=None)
def test_the_verdict_is_that_of_avros_own_checker(reader: Any, writer: Any) -> None:
    assert (problems(reader, writer) == []) == avro_accepts(reader, writer), (reader, writer)


@pytest.mark.parametrize("name", catalog.RECORDS)
def test_every_record_reads_itself_for_both(name: str) -> None:
    schema = json.loads(catalog.schema_text(name))
    assert problems(schema, schema) == []
    assert avro_accepts(schema, schema)


@pytest.mark.parametrize("name", catalog.RECORDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_changes_of_our_own_schemas_are_judged_alike(name: str, data: st.DataObject) -> None:
    before = json.loads(catalog.schema_text(name))
    after = json.loads(catalog.schema_text(name))
    for _ in range(data.draw(st.integers(1, 3))):
        _change(after, data)
    for reader, writer in ((before, after), (after, before)):
        assert (problems(reader, writer) == []) == avro_accepts(reader, writer)


def _change(schema: Any, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["drop", "optional", "required", "swap"]))
    fields = schema["fields"]
    place = data.draw(st.integers(0, len(fields) - 1))
    if kind == "drop" and fields[place]["type"] in ("string", "long", "int"):
        del fields[place]
    elif kind == "swap" and fields[place]["type"] in ("string", "long", "int"):
        fields[place]["type"] = data.draw(st.sampled_from(["string", "long", "int", "boolean"]))
    elif kind in ("optional", "required") and not any(field["name"] == f"new_{kind}" for field in fields):
        new = {"name": f"new_{kind}", "type": ["null", "string"] if kind == "optional" else "string"}
        fields.append(new | {"default": None} if kind == "optional" else new)


def test_stricter_a_logical_type_may_not_change() -> None:
    """Milliseconds read as microseconds are another time; Avro's own rules let it pass."""
    micros = {"type": "long", "logicalType": "timestamp-micros"}
    millis = {"type": "long", "logicalType": "timestamp-millis"}
    assert problems(micros, millis)
    assert problems(micros, "long")
    assert problems(["null", micros], ["null", millis])
    assert problems(micros, micros) == []


def test_stricter_a_full_name_may_not_change() -> None:
    """A record of somebody else's namespace is another record, however alike it looks."""
    ours = json.loads(catalog.schema_text("PayoutRetry"))
    theirs = {**ours, "namespace": "io.other"}
    assert problems(ours, theirs)


def test_a_problem_names_the_field() -> None:
    ours = json.loads(catalog.schema_text("PayoutResult"))
    changed = json.loads(catalog.schema_text("PayoutResult"))
    amount = next(field for field in changed["fields"] if field["name"] == "amount")
    amount["type"]["fields"][0]["type"] = "string"
    assert problems(ours, changed) == ["amount.amount_minor: long does not read string"]


def test_recursive_schemas_end() -> None:
    node: Any = {"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"], "default": None}]}
    assert problems(node, node) == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["record", "enum", "fixed", "array", "map", "string"])
def test_a_type_may_be_named_like_a_kind_of_type(kind: str) -> None:
    """P8: whoever registers such a schema must not stop the event loop; found by fuzzing."""
    writer = {"type": "record", "name": kind, "fields": [{"name": "a", "type": "string"}]}
    reader = {"type": "record", "name": kind, "fields": [{"name": "a", "type": {"type": "string"}}]}
    assert problems(reader, writer) == []
    assert problems({**reader, "name": "other"}, writer) != []
