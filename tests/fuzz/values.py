"""Hostile values, and mutations that keep an input well formed."""

import json
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

CARDS: Final = ("4957030420210462", "4895142232120006", "4111111111111111", "5555555555554444", "378282246310005")
"""Published test numbers: Visa Direct's and the card schemes'."""
TEXTS: Final = (
    "", " ", "\x00", "a\x00b", "\ud800", "\u202e", "\ufeff", "é", "字" * 40, "🙂", "A" * 129, "A" * 513, "x" * 5_000,
    "\t", "\n", "\r\n", "'", '"', "\\", "%s%n", "{}", "[]", "null", "NaN", "-1", "0", "00", "1e999", "9" * 40, "USD",
    "usd", "XXX", "JPY", "KWD", "US", "ZZ", "UNSPECIFIED", "2026-03-01T12:00:00Z", "0001-01-01T00:00:00+23:59", "../..",
    "e30.e30.e30.e30.e30", *CARDS, "4957 0304 2021 0462", "4957-0304-2021-0462",
    "4957\u20110304\u20112021\u20110462", "0" * 12, "1" * 15,
)  # fmt: skip
NUMBERS: Final = (
    0, 1, -1, 2, 99, 100, 127, 128, 255, 999, 1_000, 2_500, 65_535, 999_999, 1_000_000, 2**31 - 1, 2**31, -(2**31),
    999_999_999_999, 10**13, 2**53, 2**63 - 1, -(2**63), 2**64,
)  # fmt: skip
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def hostile_text(random: Random) -> str:
    """A text that somebody will send one day."""
    if random.random() < 0.8:
        return random.choice(TEXTS)
    return random.choice(TEXTS) + random.choice(TEXTS)


def hostile_number(random: Random) -> int:
    """A number at an edge, or next to one."""
    return random.choice(NUMBERS) + random.choice((0, 0, 1, -1))


def hostile_json(random: Random, depth: int = 0) -> Any:
    """Any JSON value."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: hostile_text(random),
        lambda: hostile_number(random),
        lambda: random.choice((None, True, False, 0.5, -0.0, 1e300)),
        lambda: [hostile_json(random, depth + 1) for _ in range(random.randint(0, 3))],
        lambda: {hostile_text(random): hostile_json(random, depth + 1) for _ in range(random.randint(0, 3))},
    )
    return random.choice(kinds if depth < 2 else kinds[:3])()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a nested value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        found.extend(places(inner))
    return found


def change_json(document: Any, random: Random) -> Any:
    """The document (used up) with one thing replaced, taken away, doubled or moved."""
    found = places(document)
    if not found or random.random() < 0.03:
        return hostile_json(random)
    container, key = random.choice(found)
    change = random.randrange(5)
    if change == 0:
        del container[key]
    elif change == 1:
        other, place = random.choice(found)
        # Only what still can be written as JSON: nothing may end up inside itself.
        container[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
    elif change == 2 and isinstance(container, MutableSequence):
        container.insert(0, hostile_json(random))
    elif change == 3 and isinstance(container, MutableMapping):
        container[hostile_text(random)] = hostile_json(random)
    else:
        container[key] = _like(container[key], random)
    return document


def _keys(container: Any) -> Any:
    return container if isinstance(container, dict) else range(len(container))


def _like(value: Any, random: Random) -> Any:
    """Mostly a hostile value of the same kind: another kind is refused at the door."""
    if random.random() < 0.25:
        return hostile_json(random)
    if isinstance(value, str):
        return hostile_text(random)
    if isinstance(value, bool):
        return not value
    return hostile_number(random) if isinstance(value, int) else hostile_json(random)


def change_record(record: Mapping[str, Any], schema: Any, names: Mapping[str, Any], random: Random) -> dict[str, Any]:
    """The record with one value replaced by another that its Avro schema can write."""
    changed = dict(record)
    fields = schema["fields"]
    field = random.choice(fields)
    name = field["name"]
    changed[name] = _avro_value(changed.get(name), field["type"], names, random)
    return changed


def _avro_value(value: Any, kind: Any, names: Mapping[str, Any], random: Random) -> Any:
    if isinstance(kind, str):
        kind = names.get(kind, kind)
    if isinstance(kind, list):
        if value is not None and "null" in kind and random.random() < 0.2:
            return None
        branch = random.choice([branch for branch in kind if branch != "null"])
        return _avro_value(value, branch, names, random)
    if isinstance(kind, str):
        return _simple(kind, random)
    return _complex(value, kind, names, random)


def _simple(kind: str, random: Random) -> Any:
    match kind:
        case "string":
            return hostile_text(random).encode("utf-8", "replace").decode()
        case "int":
            return max(-(2**31), min(2**31 - 1, hostile_number(random)))
        case "long":
            return max(-(2**63), min(2**63 - 1, hostile_number(random)))
        case "boolean":
            return random.random() < 0.5
        case "bytes":
            return random.randbytes(random.randint(0, 40))
        case _:
            return None


def _complex(value: Any, kind: Mapping[str, Any], names: Mapping[str, Any], random: Random) -> Any:
    match kind["type"]:
        case "record":
            if isinstance(value, dict):
                return change_record(value, kind, names, random)
            return {field["name"]: _avro_value(None, field["type"], names, random) for field in kind["fields"]}
        case "enum":
            return random.choice(kind["symbols"])
        case "map":
            return {str(_simple("string", random)): _avro_value(None, kind["values"], names, random) for _ in range(3)}
        case "array":
            return [_avro_value(None, kind["items"], names, random) for _ in range(random.randint(0, 3))]
        case "fixed":
            return random.randbytes(kind["size"])
        case inner if "logicalType" in kind and inner == "long":
            return _EPOCH + timedelta(
                microseconds=random.choice((0, 1, 1_772_366_400_000_000, 253_402_300_799_999_999, -1))
            )
        case inner:
            return _avro_value(value, inner, names, random)
