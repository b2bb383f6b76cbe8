"""The chain that seals the history (rule L10). Pure: the same line after the same hash gives the same record.

    hash = SHA-256(previous_hash + canonical form of the record without its hashes)

The canonical form is JSON with sorted keys and no spaces, times in whole microseconds since 1970. Whoever has the
records of `payout_audit`, or the tables, can compute it again without anything of ours.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

FIRST_PREVIOUS_HASH: Final = "0" * 64
"""Stands before the first record."""
ADOPTED: Final = "ledger_adopted"
"""The history's line of an adoption (rule L11)."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HASHES: Final = ("hash", "previous_hash")
_SUBJECTS: Final = {
    "mode_set": "mode",
    "visa_reload": "visa",
    "visa_rollback": "visa",
    "visa_breaker_reset": "visa",
    "dead_letter_replay_begun": "dead_letter",
    "dead_letter_replayed": "dead_letter",
    "dead_letter_discarded": "dead_letter",
    "dead_letter_revealed": "dead_letter",
    "offsets_begun": "offsets",
    "offsets_applied": "offsets",
    "offsets_partly_applied": "offsets",
    "offsets_undo_begun": "offsets",
    "offsets_undone": "offsets",
    "offsets_partly_undone": "offsets",
    "smoke_begun": "smoke",
    "reconciled": "reconciliation",
    "reconciliation_exception_resolved": "reconciliation",
    "reconciliation_exception_reopened": "reconciliation",
    ADOPTED: "ledger",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the history, as it is sealed."""

    history_id: int
    at: datetime
    actor: str
    transition: str
    payout_id: str | None
    version: int | None
    from_state: str | None
    to_state: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where, and at what position of the numbers, a line was sealed: what a restored copy is told by (rule L11)."""

    system_identifier: str
    timeline: int
    identity_position: int
    """The highest identity number that was issued when the line was sealed, or a later one (rule S1)."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain."""

    sequence: int
    hash: str


EMPTY: Final = Head(0, FIRST_PREVIOUS_HASH)


@dataclass(frozen=True, slots=True)
class Flaw:
    """The first record at which a chain does not hold, and why."""

    sequence: int
    why: str


def sealed(head: Head, lines: Sequence[Line], origin: Origin) -> list[dict[str, Any]]:
    """The records (`AuditRecord`) that chain these lines to `head`, in this order."""
    records = []
    for line in lines:
        record = record_of(Head(head.sequence + 1, head.hash), line, origin)
        records.append(record)
        head = Head(record["sequence"], record["hash"])
    return records


def record_of(place: Head, line: Line, origin: Origin) -> dict[str, Any]:
    """The record of one line at `place`: its sequence, and the hash of the record before."""
    evidence = {
        "evidence": line.detail,
        "history_id": line.history_id,
        "identity_position": origin.identity_position,
    }
    reason = line.detail.get("reason")
    record: dict[str, Any] = {
        "sequence": place.sequence,
        "at": line.at.astimezone(UTC),
        "actor": line.actor,
        "action": line.transition,
        "subject": "payout" if line.payout_id is not None else _SUBJECTS.get(line.transition, "ledger"),
        "payout_id": line.payout_id,
        "version": line.version,
        "from_state": line.from_state,
        "to_state": line.to_state,
        "reason": reason if isinstance(reason, str) else None,
        "detail": _json(evidence),
        "system_identifier": origin.system_identifier,
        "timeline": origin.timeline,
    }
    return record | {"previous_hash": place.hash, "hash": hash_of(place.hash, record)}


def hash_of(previous_hash: str, record: Mapping[str, Any]) -> str:
    """The record's hash, whatever its own field says."""
    content = {name: value for name, value in record.items() if name not in _HASHES}
    content["at"] = (record["at"] - EPOCH) // timedelta(microseconds=1)
    return hashlib.sha256(previous_hash.encode() + _json(content).encode()).hexdigest()


def first_flaw(records: Iterable[Mapping[str, Any]], after: Head = EMPTY) -> Flaw | None:
    """Where a chain was changed, cut or put in another order; None when it holds. Repeats are passed (rule K2)."""
    head = after
    for record in records:
        sequence, found = int(record["sequence"]), str(record["hash"])
        if (sequence, found) == (head.sequence, head.hash):
            continue
        # An adoption stands behind both chains that it joins (rule L11): it may leave places out, and nothing else may.
        if sequence != head.sequence + 1 and not (sequence > head.sequence and record["action"] == ADOPTED):
            return Flaw(sequence, f"follows record {head.sequence}")
        if record["previous_hash"] != head.hash:
            return Flaw(sequence, "does not continue the record before it")
        if hash_of(head.hash, record) != found:
            return Flaw(sequence, "was changed")
        head = Head(sequence, found)
    return None


def identity_position(record: Mapping[str, Any]) -> int:
    """What a record says of the numbers that were issued; 0 where it says nothing."""
    try:
        return int(json.loads(record["detail"])["identity_position"])
    except (KeyError, TypeError, ValueError):
        return 0


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
