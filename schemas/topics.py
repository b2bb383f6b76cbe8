"""The one table of topics (topics.yaml) as typed values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import yaml

from schemas.catalog import FOLDER, RECORDS

MILLISECONDS_A_DAY = 86_400_000

# Kafka's own rule for topic names, and its longest one.
_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,200}")

TimestampType = Literal["CreateTime", "LogAppendTime"]
KeyKind = Literal["payout_id", "source_position", "none"]
_TIMESTAMP_TYPES: Mapping[str, TimestampType] = {"create": "CreateTime", "log_append": "LogAppendTime"}


def type_of_event(event: str) -> str:
    """The ce_type of an event by the middle part that the table gives it."""
    return f"io.payoutstreams.{event}.v1"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: its name without prefix, what is in it, and how the broker keeps it."""

    name: str
    schema: str | None
    """Record in it, or None for raw bytes (dead letters)."""
    event: str
    more_events: Mapping[str, str]
    """Other events told by the same record: the name that their ids derive from, and the middle part of ce_type."""
    description: str
    retention_ms: int
    """-1 keeps for ever."""
    partitions: int
    replication_factor: int
    min_insync_replicas: int
    timestamp_type: TimestampType
    cleanup_policy: str
    compression: str
    """The broker's setting: `producer` keeps what the producer chose."""
    max_message_bytes: int
    key: KeyKind
    inbound: bool
    """Whether others produce to it."""
    read_by_workers: bool
    """Whether the workers' own group reads it, and commits offsets there."""
    internal: bool
    """Whether only our own workers read and write it: no part of the published contract."""

    @property
    def event_type(self) -> str:
        """The ce_type of its events, for example io.payoutstreams.payout.result.v1."""
        return type_of_event(self.event)

    def broker_settings(self, replication_factor: int | None = None) -> dict[str, str]:
        """Topic settings under Kafka's own names, for creation and comparison.

        With fewer replicas than the table asks for (a laptop has one), min.insync.replicas is lowered with
        them, since a topic that demands more in-sync replicas than it has accepts no record at all.
        """
        replicas = self.replication_factor if replication_factor is None else replication_factor
        return {
            "cleanup.policy": self.cleanup_policy,
            "compression.type": self.compression,
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": self.timestamp_type,
            "min.insync.replicas": str(max(1, min(self.min_insync_replicas, replicas))),
            "retention.ms": str(self.retention_ms),
        }


def _topic(name: str, row: Mapping[str, Any]) -> Topic:
    days = int(row["retention_days"])
    return Topic(
        name=name,
        schema=row["schema"],
        event=row["event"],
        more_events=MappingProxyType(dict(row["more_events"])),
        description=row["description"],
        retention_ms=-1 if days < 0 else days * MILLISECONDS_A_DAY,
        partitions=row["partitions"],
        replication_factor=row["replication_factor"],
        min_insync_replicas=row["min_insync_replicas"],
        timestamp_type=_TIMESTAMP_TYPES[row["timestamp"]],
        cleanup_policy=row["cleanup_policy"],
        compression=row["compression"],
        max_message_bytes=row["max_message_bytes"],
        key=row["key"],
        inbound=row["inbound"],
        read_by_workers=row["read_by_workers"],
        internal=row["internal"],
    )


def _load() -> Mapping[str, Topic]:
    table = yaml.safe_load((FOLDER / "topics.yaml").read_text("utf-8"))
    return MappingProxyType({name: _topic(name, {**table["defaults"], **row}) for name, row in table["topics"].items()})


TOPICS: Mapping[str, Topic] = _load()
"""Every topic by its name without prefix, in the order of the flow."""

TOPIC_OF_SCHEMA: Mapping[str, Topic] = MappingProxyType(
    {topic.schema: topic for topic in TOPICS.values() if topic.schema is not None}
)
"""Every record's topic: each has exactly one, so a subject holds one type."""

READ_BY_WORKERS: tuple[str, ...] = tuple(topic.name for topic in TOPICS.values() if topic.read_by_workers)
"""Names of the topics that the agents read, in the order of the flow."""

if set(TOPIC_OF_SCHEMA) != set(RECORDS):
    raise RuntimeError("topics.yaml and the schema files name different records")


def check_prefix(prefix: str) -> str:
    """The prefix, if Kafka accepts names that begin with it; else ValueError."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("a topic prefix is at most 200 characters of A-Z, a-z, 0-9, dot, underscore and hyphen")
    return prefix


def topic_name(name: str, prefix: str = "") -> str:
    """The name on the cluster of a topic of the table. KeyError: the table has no such topic."""
    return check_prefix(prefix) + TOPICS[name].name


def topic_for(schema_name: str, prefix: str = "") -> str:
    """The name on the cluster of the topic that holds a record. KeyError: no topic holds it."""
    return check_prefix(prefix) + TOPIC_OF_SCHEMA[schema_name].name


def topic_of(cluster_name: str, prefix: str = "") -> Topic:
    """The table's topic for a name seen on the cluster. KeyError: it is none of ours."""
    if not cluster_name.startswith(prefix):
        raise KeyError(f"topic {cluster_name} does not begin with the prefix {prefix}")
    return TOPICS[cluster_name[len(prefix) :]]


def subject_of(cluster_name: str) -> str:
    """The registry's subject for a topic's values (TopicNameStrategy)."""
    return f"{cluster_name}-value"
