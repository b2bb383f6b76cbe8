"""Looks through the records of our topics for `payouts pii-scan`: key, headers, and the value twice.

The value is decoded and every text of it looked at with its field's name, which knows best; and its bytes are looked
at as they are, because a field of a newer schema version is not in what was decoded, and because it may be no record at
all. What is encrypted (a compact JWE) is passed over, but only if it really is one.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, cast

from confluent_kafka import Message

from processors.pii.find import find
from processors.pii.hits import Kind
from schemas.codec import BlockingCodec, Undecodable

_COMPACT_JWE: Final = re.compile(r"eyJ[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){4}")
_DEEPEST: Final = 32
"""Our schemas are four deep; a record that could be deeper is not decoded."""

Field = tuple[str, Kind]
"""Where in a record (`value.destination.card`), and what."""


def scan_record(record: Message, codec: BlockingCodec, kinds: Collection[Kind]) -> list[Field]:
    """What one record holds: each field and kind once. Raises RegistryUnavailable."""
    decoded = _decoded(record, codec)
    found = dict.fromkeys((*_around(record, kinds), *_fields(decoded, "value", kinds)))
    told = {kind for place, kind in found if place.startswith("value")}
    value = record.value()
    text = _text_of(value) if isinstance(value, bytes) else ""
    # Bytes have no names, and Visa's transaction identifiers may look like card numbers in all but their name.
    for identifier in _transaction_identifiers(decoded):
        text = text.replace(identifier, "")
    return [*found, *dict.fromkeys(("value", kind) for kind in _kinds_in(text, kinds) if kind not in told)]


def _around(record: Message, kinds: Collection[Kind]) -> Iterator[Field]:
    key = record.key()
    yield from (("key", kind) for kind in _kinds_in(_text_of(key) if isinstance(key, bytes) else "", kinds))
    # A consumer gives a list; only a producer may hand over a mapping.
    for name, data in cast("list[tuple[str, str | bytes | None]]", record.headers() or []):
        text = data if isinstance(data, str) else _text_of(data or b"")
        yield from ((f"headers.{_shown(name)}", kind) for kind in _kinds_in(f'{name}="{text}"', kinds))


def _transaction_identifiers(record: Mapping[str, Any], deep: int = 0) -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, Mapping) and deep < _DEEPEST:
            yield from _transaction_identifiers(value, deep + 1)
        elif isinstance(value, str) and name.endswith("transaction_identifier") and not find(f'{name}="{value}"'):
            yield value


def _decoded(record: Message, codec: BlockingCodec) -> Mapping[str, Any]:
    value = record.value()
    try:
        return codec.decode_topic(record.topic() or "", value if isinstance(value, bytes) else None).record
    except (Undecodable, KeyError):
        return {}  # its bytes are looked at as they are


def _fields(record: Mapping[str, Any], path: str, kinds: Collection[Kind], deep: int = 0) -> Iterator[Field]:
    for name, value in record.items():
        place = f"{path}.{_shown(name)}"
        if isinstance(value, Mapping) and deep < _DEEPEST:
            yield from _fields(value, place, kinds, deep + 1)
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            if not (isinstance(one, str) and _COMPACT_JWE.fullmatch(one)):
                yield from ((place, kind) for kind in _kinds_in(f'{name}="{one}"', kinds))


def _kinds_in(text: str, kinds: Collection[Kind]) -> list[Kind]:
    return [] if _COMPACT_JWE.fullmatch(text) else [hit.kind for hit in find(text, kinds)]


def _text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _shown(name: str) -> str:
    """A name that somebody else may have chosen, for a place that is printed."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z_-]{0,63}", name) else "(a name)"
