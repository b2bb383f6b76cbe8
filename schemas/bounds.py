"""Walks the bytes of a record before the Avro library does, so that no byte decides how much is allocated.

fastavro trusts the lengths and counts that it reads (a negative index reads from the end of a list, a count of
2**60 nulls is looped over). This walk follows the writer's schema through the bytes, builds nothing, and refuses
lengths beyond the end, indexes outside their list, integers outside their width, more items than any record
needs and deeper nesting than any record has. What it accepts, the library can read in bounded time and memory.
"""

from __future__ import annotations

from collections.abc import Callable

from schemas.compatibility import AvroSchema, Named
from schemas.errors import Malformed

# Items of all arrays and maps of one record together. Only labels (metadata) are many; nobody has ten thousand.
ITEM_LIMIT = 10_000
# A varint of 64 bits has at most ten bytes (Avro specification, "Primitive Types").
VARINT_BYTES = 10
# Nesting of values; ours is four deep. Bounds a recursive schema that somebody registered.
DEPTH_LIMIT = 32

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
_WIDTHS = {"float": 4, "double": 8}


class Budget:
    """What one record may still use."""

    __slots__ = ("depth", "items")

    def __init__(self) -> None:
        self.items = ITEM_LIMIT
        self.depth = DEPTH_LIMIT


Walk = Callable[[bytes, int, Budget], int]
"""(bytes, position, budget) to the position behind the value; raises Malformed."""


def read_long(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag varint of 64 bits: (value, position behind it). Raises Malformed."""
    raw = shift = 0
    end = min(len(data), position + VARINT_BYTES)
    while position < end:
        byte = data[position]
        position += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            if raw >> 64:
                raise Malformed("a number is wider than 64 bits")
            return (raw >> 1) ^ -(raw & 1), position
        shift += 7
    raise Malformed("a number does not end within its record or its ten bytes")


def _null(_data: bytes, position: int, _budget: Budget) -> int:
    return position


def _boolean(data: bytes, position: int, _budget: Budget) -> int:
    if position >= len(data) or data[position] > 1:
        raise Malformed("a boolean is neither 0 nor 1")
    return position + 1


def _int(data: bytes, position: int, _budget: Budget) -> int:
    value, position = read_long(data, position)
    if not INT_MIN <= value <= INT_MAX:
        raise Malformed("an int is wider than 32 bits")
    return position


def _long(data: bytes, position: int, _budget: Budget) -> int:
    return read_long(data, position)[1]


def _length_prefixed(data: bytes, position: int, _budget: Budget) -> int:
    length, position = read_long(data, position)
    if not 0 <= length <= len(data) - position:
        raise Malformed("a text or byte field is longer than its record")
    return position + length


def _fixed(width: int) -> Walk:
    def walk(data: bytes, position: int, _budget: Budget) -> int:
        if width > len(data) - position:
            raise Malformed("the record ends inside a field")
        return position + width

    return walk


def _enum(symbols: int) -> Walk:
    def walk(data: bytes, position: int, _budget: Budget) -> int:
        index, position = read_long(data, position)
        if not 0 <= index < symbols:
            raise Malformed("an enum's index is outside its symbols")
        return position

    return walk


def _union(branches: list[Walk]) -> Walk:
    def walk(data: bytes, position: int, budget: Budget) -> int:
        index, position = read_long(data, position)
        if not 0 <= index < len(branches):
            raise Malformed("a union's index is outside its branches")
        return branches[index](data, position, budget)

    return walk


def _record(fields: list[Walk]) -> Walk:
    def walk(data: bytes, position: int, budget: Budget) -> int:
        budget.depth -= 1
        if budget.depth < 0:
            raise Malformed("the record is nested deeper than any of ours")
        for field in fields:
            position = field(data, position, budget)
        budget.depth += 1
        return position

    return walk


def _blocks(item: Walk) -> Walk:
    def walk(data: bytes, position: int, budget: Budget) -> int:
        budget.depth -= 1
        if budget.depth < 0:
            raise Malformed("the record is nested deeper than any of ours")
        while True:
            count, position = read_long(data, position)
            if count == 0:
                budget.depth += 1
                return position
            position = _block(item, count, data, position, budget)

    return walk


def _block(item: Walk, count: int, data: bytes, position: int, budget: Budget) -> int:
    """One block of an array or map; a negative count is followed by the block's size in bytes."""
    end = None
    if count < 0:
        count = -count
        size, position = read_long(data, position)
        end = position + size
    budget.items -= count
    if budget.items < 0:
        raise Malformed("an array or map says that it has more items than any record needs")
    for _ in range(count):
        position = item(data, position, budget)
    if end is not None and end != position:
        raise Malformed("a block of an array or map is not as long as it says")
    return position


def _entry(value: Walk) -> Walk:
    def walk(data: bytes, position: int, budget: Budget) -> int:
        return value(data, _length_prefixed(data, position, budget), budget)

    return walk


_SIMPLE: dict[str, Walk] = {
    "null": _null,
    "boolean": _boolean,
    "int": _int,
    "long": _long,
    "string": _length_prefixed,
    "bytes": _length_prefixed,
}


def compile_walk(schema: AvroSchema, names: Named) -> Walk:
    """The walk of one expanded schema (`compatibility.expand`); `names` are its named types.

    Raises KeyError or TypeError when it is no schema.
    """
    return _compile(schema, names, {})


def _compile(schema: AvroSchema, names: Named, done: dict[str, Walk]) -> Walk:
    if isinstance(schema, list):
        return _union([_compile(branch, names, done) for branch in schema])
    if isinstance(schema, str):
        return _SIMPLE.get(schema) or _compile_simple(schema, names, done)
    kind = schema["type"]
    if not isinstance(kind, str):
        return _compile(kind, names, done)
    if kind == "record":
        return _compile_record(schema, names, done)
    if kind == "enum":
        return _enum(len(schema["symbols"]))
    if kind == "fixed":
        return _fixed(int(schema["size"]))
    if kind == "array":
        return _blocks(_compile(schema["items"], names, done))
    if kind == "map":
        return _blocks(_entry(_compile(schema["values"], names, done)))
    return _compile(kind, names, done)


def _compile_simple(name: str, names: Named, done: dict[str, Walk]) -> Walk:
    if name in _WIDTHS:
        return _fixed(_WIDTHS[name])
    return done[name] if name in done else _compile(names[name], names, done)


def _compile_record(schema: AvroSchema, names: Named, done: dict[str, Walk]) -> Walk:
    if schema["name"] in done:
        return done[schema["name"]]
    fields: list[Walk] = []
    walk = done[schema["name"]] = _record(fields)
    # Filled in after the record is known by its name: a schema may refer to itself.
    fields.extend(_compile(field["type"], names, done) for field in schema["fields"])
    return walk
