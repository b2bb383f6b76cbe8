"""Whether a record fits its schema, decided before it is encoded.

fastavro's strict mode refuses unknown and missing fields, but takes a naive datetime for local time and a bool for
an int. Every refusal here names the field and never the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from schemas.bounds import INT_MAX, INT_MIN
from schemas.compatibility import AvroSchema, Named
from schemas.errors import Unencodable

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
_PRINTABLE_KEY = re.compile(r"[A-Za-z_][A-Za-z_0-9]{0,39}")

Value: TypeAlias = Any
"""Whatever a caller put into a field."""

Check = Callable[[Value, str], None]
"""(value, path) to nothing; raises Unencodable."""


def compile_check(schema: AvroSchema, names: Named) -> Check:
    """The check of one expanded schema of ours (`compatibility.expand`); `names` are its named types.

    Knows what our lint allows: nullable fields are the only unions, and there are no float, bytes or fixed types.
    """
    if isinstance(schema, list):
        return _nullable(schema, names)
    if isinstance(schema, str):
        return _SIMPLE[schema] if schema in _SIMPLE else compile_check(names[schema], names)
    kind = schema["type"]
    if kind == "record":
        return _record(schema, names)
    if kind == "enum":
        return _enum(frozenset(schema["symbols"]))
    if kind == "map":
        return _map(compile_check(schema["values"], names))
    if kind == "array":
        return _array(compile_check(schema["items"], names))
    if schema.get("logicalType") == "timestamp-micros":
        return _timestamp
    return compile_check(kind, names)


def _nullable(schema: list[Any], names: Named) -> Check:
    if len(schema) != 2 or schema[0] != "null":
        raise ValueError("only nullable unions, null first, are allowed in our schemas")
    inner = compile_check(schema[1], names)

    def check(value: Value, path: str) -> None:
        if value is not None:
            inner(value, path)

    return check


def _record(schema: AvroSchema, names: Named) -> Check:
    fields = [(field["name"], "default" in field, compile_check(field["type"], names)) for field in schema["fields"]]
    known = frozenset(name for name, _, _ in fields)

    def check(value: Value, path: str) -> None:
        if not isinstance(value, Mapping):
            raise Unencodable(path, "must be an object with fields")
        if not known.issuperset(value):
            raise Unencodable(path, f"has a field that the schema does not know: {_unknown(value, known)}")
        for name, optional, inner in fields:
            inner_path = f"{path}.{name}" if path else name
            if name in value:
                inner(value[name], inner_path)
            elif not optional:
                raise Unencodable(inner_path, "is missing and has no default")

    return check


def _unknown(value: Mapping[Any, Any], known: frozenset[str]) -> str:
    key = next(key for key in value if key not in known)
    return key if isinstance(key, str) and _PRINTABLE_KEY.fullmatch(key) else "(its name is not printed)"


def _enum(symbols: frozenset[str]) -> Check:
    expected = ", ".join(sorted(symbols))

    def check(value: Value, path: str) -> None:
        if not isinstance(value, str) or value not in symbols:
            raise Unencodable(path, f"must be one of {expected}")

    return check


def _map(inner: Check) -> Check:
    def check(value: Value, path: str) -> None:
        if not isinstance(value, Mapping):
            raise Unencodable(path, "must be an object of text keys")
        for key, item in value.items():
            _string(key, path)
            inner(item, f"{path}{{}}")

    return check


def _array(inner: Check) -> Check:
    def check(value: Value, path: str) -> None:
        if not isinstance(value, list | tuple):
            raise Unencodable(path, "must be a list")
        for item in value:
            inner(item, f"{path}[]")

    return check


def _string(value: Value, path: str) -> None:
    if not isinstance(value, str):
        raise Unencodable(path, "must be text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise Unencodable(path, "holds half of a surrogate pair, which UTF-8 cannot carry")


def _boolean(value: Value, path: str) -> None:
    if value is not True and value is not False:
        raise Unencodable(path, "must be true or false")


def _integer(low: int, high: int, bits: int) -> Check:
    def check(value: Value, path: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unencodable(path, "must be a whole number")
        if not low <= value <= high:
            raise Unencodable(path, f"does not fit into {bits} bits")

    return check


def _timestamp(value: Value, path: str) -> None:
    if not isinstance(value, datetime):
        raise Unencodable(path, "must be a datetime with a time zone")
    if value.utcoffset() is None:
        raise Unencodable(path, "is a datetime without a time zone; say which, for example UTC")


_SIMPLE: dict[str, Check] = {
    "string": _string,
    "boolean": _boolean,
    "int": _integer(INT_MIN, INT_MAX, 32),
    "long": _integer(LONG_MIN, LONG_MAX, 64),
}
