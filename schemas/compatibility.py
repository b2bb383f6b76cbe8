"""Whether a reader's schema can read what a writer's wrote: Avro's resolution rules, decided before any byte is read.

Covers all of Avro's types. Two rules are stricter than the specification's, both because money hangs on them:
a type's full name must be equal, and a logical type must not change (a timestamp in other units resolves without
an error and means another time).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
# What a "type" says by itself; a named type of the same name, which nothing forbids, is not meant by it.
_KINDS = _PRIMITIVES | {"record", "enum", "fixed", "array", "map"}
# Source: the Avro specification, "Schema Resolution".
_PROMOTIONS = frozenset(
    {
        ("int", "long"),
        ("int", "float"),
        ("int", "double"),
        ("long", "float"),
        ("long", "double"),
        ("float", "double"),
        ("string", "bytes"),
        ("bytes", "string"),
    }
)

AvroSchema: TypeAlias = Any
"""A schema as a JSON value: text, list or object."""

Named = dict[str, AvroSchema]


def full_name(schema: Mapping[str, Any], namespace: str) -> str:
    """Full name of a named type as Avro builds it from its name, its namespace and the enclosing one."""
    name = str(schema["name"])
    space = str(schema.get("namespace", namespace))
    return name if "." in name or not space else f"{space}.{name}"


def expand(schema: AvroSchema, names: Named, namespace: str = "") -> AvroSchema:
    """A schema with full names written out; `names` collects the named types, which later references look up."""
    if isinstance(schema, list):
        return [expand(branch, names, namespace) for branch in schema]
    if isinstance(schema, str):
        return schema if schema in _PRIMITIVES or "." in schema or not namespace else f"{namespace}.{schema}"
    kind = schema["type"]
    if kind in ("record", "enum", "fixed"):
        return _expand_named(schema, names, namespace)
    if kind == "array":
        return {**schema, "items": expand(schema["items"], names, namespace)}
    if kind == "map":
        return {**schema, "values": expand(schema["values"], names, namespace)}
    return {**schema, "type": expand(kind, names, namespace)}


def _expand_named(schema: Mapping[str, Any], names: Named, namespace: str) -> AvroSchema:
    name = full_name(schema, namespace)
    result = {**schema, "name": name}
    names[name] = result
    if schema["type"] == "record":
        inner = name.rpartition(".")[0]
        result["fields"] = [{**field, "type": expand(field["type"], names, inner)} for field in schema["fields"]]
    return result


def problems(reader: AvroSchema, writer: AvroSchema) -> list[str]:
    """Why `reader` cannot read what `writer` wrote, each with the field's path; empty when it can.

    Both are schemas as JSON values. Raises KeyError, TypeError or ValueError when one of them is no schema.
    """
    reader_names: Named = {}
    writer_names: Named = {}
    check = _Check(reader_names, writer_names)
    check.compare(expand(reader, reader_names), expand(writer, writer_names), "")
    return check.found


class _Check:
    def __init__(self, reader_names: Named, writer_names: Named) -> None:
        self.reader_names = reader_names
        self.writer_names = writer_names
        self.found: list[str] = []
        self.seen: set[tuple[str, str]] = set()

    def compare(self, reader: AvroSchema, writer: AvroSchema, path: str) -> None:
        reader = _named(reader, self.reader_names)
        writer = _named(writer, self.writer_names)
        if isinstance(writer, list):
            if not writer:
                self._say(path, "the writer's union has no branch")
            for branch in writer:
                self.compare(reader, branch, path)
        elif isinstance(reader, list):
            if not any(self._fits(branch, writer, path) for branch in reader):
                self._say(path, f"no branch of the reader's union reads {_kind(writer)}")
        else:
            self._single(reader, writer, path)

    def _fits(self, reader: AvroSchema, writer: AvroSchema, path: str) -> bool:
        trial = _Check(self.reader_names, self.writer_names)
        trial.seen = set(self.seen)
        trial.compare(reader, writer, path)
        return not trial.found

    def _single(self, reader: AvroSchema, writer: AvroSchema, path: str) -> None:
        reader_kind, writer_kind = _kind(reader), _kind(writer)
        if _logical(reader) != _logical(writer):
            self._say(path, f"logical type {_logical(writer)} became {_logical(reader)}")
        if reader_kind != writer_kind:
            if (writer_kind, reader_kind) not in _PROMOTIONS:
                self._say(path, f"{reader_kind} does not read {writer_kind}")
        elif reader_kind in ("record", "enum", "fixed"):
            self._named(reader, writer, path)
        elif reader_kind == "array":
            self.compare(reader["items"], writer["items"], f"{path}[]")
        elif reader_kind == "map":
            self.compare(reader["values"], writer["values"], f"{path}{{}}")

    def _named(self, reader: AvroSchema, writer: AvroSchema, path: str) -> None:
        if reader["name"] != writer["name"]:
            self._say(path, f"{reader['name']} does not read {writer['name']}")
        elif reader["type"] == "enum":
            self._enum(reader, writer, path)
        elif reader["type"] == "fixed":
            if reader["size"] != writer["size"]:
                self._say(path, "the size of a fixed type changed")
        elif (pair := (reader["name"], writer["name"])) not in self.seen:
            self.seen.add(pair)
            self._record(reader, writer, path)

    def _enum(self, reader: AvroSchema, writer: AvroSchema, path: str) -> None:
        unread = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
        if unread and "default" not in reader:
            self._say(path, f"the reader's enum has neither {', '.join(unread)} nor a default")

    def _record(self, reader: AvroSchema, writer: AvroSchema, path: str) -> None:
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            name = field["name"]
            inner = f"{path}.{name}" if path else name
            source = next((written[key] for key in (name, *field.get("aliases", ())) if key in written), None)
            if source is not None:
                self.compare(field["type"], source["type"], inner)
            elif "default" not in field:
                self._say(inner, "the writer does not have it and the reader has no default")

    def _say(self, path: str, what: str) -> None:
        self.found.append(f"{path or 'record'}: {what}")


def _named(schema: AvroSchema, names: Named) -> AvroSchema:
    """Follows references and unwraps {"type": {...}}, which JSON allows around any type."""
    while True:
        if isinstance(schema, str) and schema not in _PRIMITIVES:
            schema = names[schema]
        elif isinstance(schema, dict) and isinstance(schema["type"], dict | list):
            schema = schema["type"]
        elif isinstance(schema, dict) and schema["type"] not in _KINDS and schema["type"] in names:
            schema = names[schema["type"]]
        else:
            return schema


def _kind(schema: AvroSchema) -> str:
    return str(schema["type"]) if isinstance(schema, dict) else str(schema)


def _logical(schema: AvroSchema) -> str | None:
    return schema.get("logicalType") if isinstance(schema, dict) else None
