"""What every schema of the contract has to satisfy, so that no change breaks a reader or lets a number be inexact.

`payouts schemas check` and the tests run it. The rules: exact numbers only (no float, no decimal); a doc on
everything; enums that a later symbol cannot break; nullable fields that default to null; no field that could hold
a card number in clear; shared types equal in every file; and FULL_TRANSITIVE against every version ever shipped.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro.schema
import yaml

from schemas.catalog import FOLDER, NAMESPACE, PINNED_ID_FIRST, PINNED_ID_LAST
from schemas.compatibility import AvroSchema, problems

_ALLOWED_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "string"})
_FIELD_NAME = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")
_TYPE_NAME = re.compile("[A-Z][A-Za-z0-9]*")
_SYMBOL = re.compile("[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
# Words that a field of the card industry's secret data carries; none is ever needed in an event.
_SECRET_WORDS = frozenset({"pan", "cvv", "cvv2", "cvc", "cvc2", "cav", "track", "track1", "track2", "pin"})
# A text about one of these holds an identifier of somebody's money or person: it travels encrypted.
_SENSITIVE_WORDS = frozenset({"card", "account", "wallet", "alias", "name", "email", "phone", "birth", "address"})
_ENCRYPTED = "encrypted_"


@dataclass(frozen=True)
class SchemaSet:
    """Everything that is linted together: schemas as JSON values."""

    current: Mapping[str, AvroSchema]
    history: Mapping[str, Mapping[int, AvroSchema]]
    pinned: Mapping[str, Mapping[int, int]]


def load(folder: Path = FOLDER) -> SchemaSet:
    """Reads the schema files, their history and the pinned ids of a folder."""
    history: dict[str, dict[int, AvroSchema]] = {}
    for path in sorted((folder / "history").glob("*/v*.avsc")):
        history.setdefault(path.parent.name, {})[int(path.stem[1:])] = json.loads(path.read_text("utf-8"))
    return SchemaSet(
        current={path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.avsc"))},
        history=history,
        pinned=yaml.safe_load((folder / "pinned_ids.yaml").read_text("utf-8")),
    )


def lint(schemas: SchemaSet | None = None) -> list[str]:
    """Findings, each as "Record.field: what is wrong"; empty when all is well. By default over our own schemas."""
    schemas = load() if schemas is None else schemas
    findings: list[str] = []
    for name, schema in schemas.current.items():
        findings.extend(lint_schema(name, schema))
    findings.extend(_shared_types(schemas.current))
    findings.extend(_history(schemas))
    findings.extend(_pinned(schemas))
    return findings


def lint_schema(name: str, schema: AvroSchema) -> list[str]:
    """Findings on one record's schema; `name` is the file's."""
    failure = ""
    try:
        fastavro.schema.parse_schema(json.loads(json.dumps(schema)))
    except (ValueError, TypeError, KeyError, fastavro.schema.SchemaParseException) as error:
        failure = str(error) or type(error).__name__
    if failure:
        return [f"{name}: is no Avro schema: {failure}"]
    if not isinstance(schema, dict) or schema["type"] != "record":
        return [f"{name}: is no record"]
    findings = []
    if schema["name"] != name or schema.get("namespace") != NAMESPACE:
        findings.append(f"{name}: must be named {NAMESPACE}.{name}, as its file")
    return [*findings, *_type(schema, name)]


def _type(schema: AvroSchema, path: str) -> Iterator[str]:
    if isinstance(schema, list):
        if len(schema) != 2 or schema[0] != "null":
            yield f"{path}: a union other than null and one type breaks old readers when it grows"
        for branch in schema[1:]:
            yield from _type(branch, path)
    elif isinstance(schema, str):
        # Any other text is the name of a type that the file defines, since the file parses.
        if schema in ("float", "double", "bytes"):
            yield f"{path}: {schema} is not allowed; money and scores are exact whole numbers"
    else:
        yield from _complex(schema, path)


def _complex(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    kind = schema["type"]
    logical = schema.get("logicalType")
    if logical is not None and (kind, logical) != ("long", "timestamp-micros"):
        yield f"{path}: logical type {logical} on {kind} is not allowed; times are long timestamp-micros"
    if kind == "record":
        yield from _record(schema, path)
    elif kind == "enum":
        yield from _enum(schema, path)
    elif kind in ("map", "array"):
        yield from _type(schema["values" if kind == "map" else "items"], path)
    elif kind == "fixed":
        yield f"{path}: fixed is not allowed"
    else:
        yield from _type(kind, path)


def _named(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if not str(schema.get("doc", "")).strip():
        yield f"{path}: type {schema['name']} has no doc"
    if not _TYPE_NAME.fullmatch(schema["name"]):
        yield f"{path}: type {schema['name']} must be named in capitals, as PayoutResult"
    if "aliases" in schema:
        yield f"{path}: aliases are not allowed: not every client knows them, names stay as they are"


def _enum(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    yield from _named(schema, path)
    if schema["symbols"][0] != "UNSPECIFIED" or schema.get("default") != "UNSPECIFIED":
        yield f"{path}: enum {schema['name']} must begin with UNSPECIFIED and have it as default"
    for symbol in schema["symbols"]:
        if not _SYMBOL.fullmatch(symbol):
            yield f"{path}: symbol {symbol} must be written in capitals"


def _record(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    yield from _named(schema, path)
    for field in schema["fields"]:
        yield from _field(field, f"{path}.{field['name']}")


def _field(field: Mapping[str, Any], path: str) -> Iterator[str]:
    name, type_ = field["name"], field["type"]
    if not str(field.get("doc", "")).strip():
        yield f"{path}: has no doc"
    if not _FIELD_NAME.fullmatch(name):
        yield f"{path}: must be named in small letters with underscores"
    if "aliases" in field:
        yield f"{path}: aliases are not allowed: not every client knows them, names stay as they are"
    yield from _default(field, path)
    yield from _secret(name, type_, path)
    if (name == "at" or name.endswith("_at")) != _is_time(type_):
        yield f"{path}: times, and nothing else, are named at or end in _at"
    yield from _type(type_, path)


def _default(field: Mapping[str, Any], path: str) -> Iterator[str]:
    """Only null and the empty map are defaults that mean the same to every client."""
    type_ = field["type"]
    if isinstance(type_, list):
        if field.get("default", "absent") is not None:
            yield f"{path}: is nullable and must default to null"
    elif "default" in field and field["default"] != {}:
        yield f"{path}: may have no default other than null or the empty map"


def _secret(name: str, type_: AvroSchema, path: str) -> Iterator[str]:
    words = set(name.split("_"))
    if words & _SECRET_WORDS or ("number" in words and words & {"card", "account"}):
        yield f"{path}: is named like a card's secret data, which no event may hold"
    elif words & _SENSITIVE_WORDS and not name.startswith(_ENCRYPTED) and _is_text(type_):
        yield f"{path}: a text about {', '.join(sorted(words & _SENSITIVE_WORDS))} travels encrypted"


def _inner(type_: AvroSchema) -> AvroSchema:
    return type_[-1] if isinstance(type_, list) else type_


def _is_text(type_: AvroSchema) -> bool:
    inner = _inner(type_)
    return (inner["type"] if isinstance(inner, dict) else inner) in ("string", "bytes")


def _is_time(type_: AvroSchema) -> bool:
    inner = _inner(type_)
    return isinstance(inner, dict) and inner.get("logicalType") == "timestamp-micros"


def _named_types(schema: AvroSchema) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, list):
        for branch in schema:
            yield from _named_types(branch)
    elif isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            yield schema
        for field in schema.get("fields", ()):
            yield from _named_types(field["type"])
        for key in ("items", "values"):
            yield from _named_types(schema.get(key))
        if not isinstance(schema["type"], str):
            yield from _named_types(schema["type"])


def _shared_types(current: Mapping[str, AvroSchema]) -> Iterator[str]:
    """A type of one name is one type: generated code of several files would otherwise clash."""
    first: dict[str, tuple[str, str]] = {}
    for name, schema in current.items():
        for named in _named_types(schema):
            text = json.dumps(named, sort_keys=True)
            file, known = first.setdefault(named["name"], (name, text))
            if text != known:
                yield f"{name}: type {named['name']} differs from the one in {file}"


def _history(schemas: SchemaSet) -> Iterator[str]:
    for name, schema in schemas.current.items():
        versions = schemas.history.get(name, {})
        if sorted(versions) != list(range(1, len(versions) + 1)) or not versions:
            yield f"{name}: the history must hold v1, v2 and so on without gaps"
            continue
        if schema != versions[max(versions)]:
            yield f"{name}: differs from v{max(versions)} of its history; a change needs v{max(versions) + 1}"
        # The current file joins in, so that an incompatible change is named as such before it has a version.
        every = [*((f"v{number}", versions[number]) for number in sorted(versions)), ("current", schema)]
        yield from _full_transitive(name, every)
    for name in schemas.history.keys() - schemas.current.keys():
        yield f"{name}: was shipped and is gone; records of it may still be replayed"


def _full_transitive(name: str, every: list[tuple[str, AvroSchema]]) -> Iterator[str]:
    for (older, before), (newer, after) in itertools.combinations(every, 2):
        for finding in _safe_problems(after, before):
            yield f"{name}: {newer} cannot read what {older} wrote: {finding}"
        for finding in _safe_problems(before, after):
            yield f"{name}: {older} cannot read what {newer} wrote: {finding}"


def _safe_problems(reader: AvroSchema, writer: AvroSchema) -> list[str]:
    try:
        return problems(reader, writer)
    except (KeyError, TypeError, ValueError) as error:
        return [f"one of them is no schema ({type(error).__name__})"]


def _pinned(schemas: SchemaSet) -> Iterator[str]:
    shipped = {(name, number) for name, versions in schemas.history.items() for number in versions}
    rows = [(name, number, value) for name, row in schemas.pinned.items() for number, value in row.items()]
    for name, number in sorted(shipped - {(name, number) for name, number, _ in rows}):
        yield f"{name}: v{number} has no id in pinned_ids.yaml"
    for name, number in sorted({(name, number) for name, number, _ in rows} - shipped):
        yield f"{name}: pinned_ids.yaml has an id for v{number}, which was never shipped"
    used: dict[int, str] = {}
    for name, number, value in rows:
        if used.setdefault(value, f"{name} v{number}") != f"{name} v{number}":
            yield f"{name}: v{number} and {used[value]} have the same pinned id {value}"
        if not PINNED_ID_FIRST <= value <= PINNED_ID_LAST:
            yield f"{name}: pinned id {value} is outside the reserved range"
