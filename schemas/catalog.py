"""The schema files: the current version of each record and every version ever shipped.

`<Record>.avsc` is the current one; `history/<Record>/vN.avsc` are all of them, the newest equal to the current.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import fastavro.schema
import yaml

from schemas.compatibility import AvroSchema

NAMESPACE = "io.payoutstreams.v1"
FOLDER = Path(__file__).parent

# Ids of the pinned table begin here: registries count up from 1, and some clients hold an id in a signed
# 32-bit number, so the range is high and still below 2**31.
PINNED_ID_FIRST = 2_000_000_001
PINNED_ID_LAST = 2_000_999_999
# A registry hands out positive ids of a signed 32-bit number; asked for another, some answer like a wrong path.
REGISTRY_ID_LAST = 2**31 - 1

RECORDS: tuple[str, ...] = (
    "PayoutRequest",
    "ValidatedPayout",
    "ClearedPayout",
    "PayoutRetry",
    "PayoutResult",
    "PayoutFailedRequiresCompensation",
    "CompensationConfirmation",
    "CompensationResult",
    "ReviewCase",
    "ReviewDecision",
    "RequestRefused",
    "AuditRecord",
)


def schema_path(name: str, version: int | None = None) -> Path:
    """The file of a record's schema: the current one, or version N of its history. KeyError: no such record."""
    if name not in RECORDS:
        raise KeyError(f"there is no schema named {name}; the records are {', '.join(RECORDS)}")
    return FOLDER / f"{name}.avsc" if version is None else FOLDER / "history" / name / f"v{version}.avsc"


@functools.cache
def schema_text(name: str, version: int | None = None) -> str:
    """A schema as compact JSON, the form in which it is registered and looked up."""
    return json.dumps(
        json.loads(schema_path(name, version).read_text("utf-8")), ensure_ascii=False, separators=(",", ":")
    )


@functools.cache
def versions(name: str) -> tuple[int, ...]:
    """Versions of a record that were ever shipped, ascending."""
    return tuple(sorted(int(path.stem[1:]) for path in schema_path(name, 1).parent.glob("v*.avsc")))


@functools.cache
def parsed(text: str) -> AvroSchema:
    """fastavro's parsed form of a schema text of ours. Callers do not change it."""
    return fastavro.schema.parse_schema(json.loads(text))


@functools.cache
def pinned_ids() -> Mapping[tuple[str, int], int]:
    """(record, version) to the id that stands for it where there is no registry."""
    table: Mapping[str, Mapping[int, int]] = yaml.safe_load((FOLDER / "pinned_ids.yaml").read_text("utf-8"))
    return MappingProxyType({(name, version): number for name, row in table.items() for version, number in row.items()})


@functools.cache
def pinned_names() -> Mapping[int, tuple[str, int]]:
    """The pinned table read backwards: id to (record, version)."""
    return MappingProxyType({number: key for key, number in pinned_ids().items()})


def is_pinned_range(schema_id: int) -> bool:
    """Whether an id is one that only the pinned table hands out."""
    return PINNED_ID_FIRST <= schema_id <= PINNED_ID_LAST
