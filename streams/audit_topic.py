"""Between the sealed history and `payout_audit`: what is written there, and what its last record says (L10, L11)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import Message

from ledger.guard import Published
from ledger.seal_chain import Head, identity_position
from schemas.codec import Codec, Undecodable
from schemas.headers import Headers, event_headers, event_id, event_type
from schemas.topics import topic_name
from streams.holes import PartitionReader, Unreadable
from streams.publisher import EVENT_SOURCE

AUDIT_TOPIC = "payout_audit"
SCHEMA = "AuditRecord"
TAIL_RECORDS = 500
"""As many as are published at once: what was sent again after a failure stands behind later records no further."""


@dataclass(slots=True)
class Lost:
    """What the audit tells of lines that a database does not have."""

    lines: int = 0
    states: dict[str, str] = field(default_factory=dict)
    """The last state of each payout among them."""
    identity_position: int = 0

    def note(self, record: Mapping[str, Any], after: int) -> None:
        """One record, the newest first."""
        self.identity_position = max(self.identity_position, identity_position(record))
        if int(record["sequence"]) <= after:
            return
        self.lines += 1
        if record["payout_id"] is not None:
            self.states.setdefault(str(record["payout_id"]), str(record["to_state"]))


LOOKED_AT_RECORDS = 2 * TAIL_RECORDS
"""Two workers may send the same batch, one behind the other."""


class LastPublished(Protocol):
    """Reads the last record of the audit. Raises Unreadable, RegistryUnavailable."""

    async def __call__(self) -> Published | None:
        """The record with the highest sequence; None when the topic holds nothing."""


class AuditTopic:
    """`LastPublished` from the cluster, outside every group."""

    def __init__(self, config: Mapping[str, Any], codec: Codec, prefix: str) -> None:
        self._reader = PartitionReader(config)
        self._codec = codec
        self._slot = (topic_name(AUDIT_TOPIC, prefix), 0)

    async def __call__(self) -> Published | None:
        """See `LastPublished`. With more than one partition the last record could stand anywhere: refused."""
        count = await asyncio.to_thread(self._reader.partitions, self._slot[0])
        if count != 1:
            raise Unreadable(f"{self._slot[0]} has {count} partitions and must have one: see `payouts topics ensure`")
        messages = await asyncio.to_thread(self._reader.last_records, self._slot, LOOKED_AT_RECORDS)
        records = await decoded(self._codec, messages)
        if messages and not records:
            raise Unreadable(f"{self._slot[0]}: none of its last records can be read")
        return newest(records)

    async def lost_after(self, sequence: int) -> Lost:
        """What was published beyond a place of the chain. Raises Unreadable, RegistryUnavailable."""
        lost = Lost()
        end = await asyncio.to_thread(self._reader.end, self._slot)
        while end > 0:
            first = max(0, end - TAIL_RECORDS)
            messages = await asyncio.to_thread(self._reader.between, self._slot, first, end)
            records = await decoded(self._codec, messages)
            for record in reversed(records):
                lost.note(record, sequence)
            if any(int(record["sequence"]) <= sequence for record in records):
                break
            end = first
        return lost

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._reader.close)


async def decoded(codec: Codec, messages: Sequence[Message]) -> Sequence[Mapping[str, Any]]:
    """The audit records among the messages: what others wrote there says nothing. Raises RegistryUnavailable."""
    records = []
    for message in messages:
        value = message.value()
        try:
            records.append((await codec.decode(SCHEMA, value if isinstance(value, bytes) else b"")).record)
        except Undecodable:
            continue
    return records


def newest(records: Sequence[Mapping[str, Any]]) -> Published | None:
    """The last of the chain among these records, wherever it stands."""
    if not records:
        return None
    last = max(records, key=lambda record: int(record["sequence"]))
    return Published(
        Head(int(last["sequence"]), str(last["hash"])),
        str(last["system_identifier"]),
        int(last["timeline"] or 0),
        max(map(identity_position, records)),
    )


def headers_of(record: Mapping[str, Any]) -> Headers:
    """The record's headers; sent again it is the same event (K3)."""
    # Two databases may seal a place of the chain: only with its hash is a record the same one.
    identifier = event_id(SCHEMA, str(record["hash"]), int(record["sequence"]))
    return event_headers(event_type(SCHEMA), EVENT_SOURCE, record["at"], None, event_id=identifier)
