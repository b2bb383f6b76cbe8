"""Kafka, simulated: partitions with offsets, one consumer group with generations, a producer that confirms late or not.

What it is harsher in than Kafka: at a rebalance each member learns of its new partitions at a time of its own, so that
for a moment two of them work on the same partition.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sandbox.simulation.virtual_loop import context_of
from schemas.topics import READ_BY_WORKERS

if TYPE_CHECKING:
    import asyncio

    from sandbox.simulation.worker import SimulatedWorker
    from sandbox.simulation.world import World

PARTITIONS: Final = 3
SESSION_SECONDS: Final = 6.0
"""The test profile's session: how long a dead or frozen worker keeps its partitions."""

Slot = tuple[str, int]
Headers = Sequence[tuple[str, bytes]]

SLOTS: Final = tuple((topic, partition) for topic in READ_BY_WORKERS for partition in range(PARTITIONS))


@dataclass(slots=True)
class Stored:
    """One record as it lies in its partition."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class SendRefused(Exception):
    """The producer could not hand the record over."""


@dataclass
class SimulatedBroker:
    """Topics, and the one group that reads them."""

    world: World
    rng: random.Random
    topics: dict[Slot, list[Stored]] = field(default_factory=lambda: defaultdict(list))
    committed: dict[Slot, int] = field(default_factory=dict)
    generation: int = 0
    members: dict[str, SimulatedWorker] = field(default_factory=dict)
    owners: dict[Slot, SimulatedWorker] = field(default_factory=dict)
    away_until: float = 0.0
    partitions_of: int = PARTITIONS

    def __post_init__(self) -> None:
        self.started_at = self.world.start.timestamp()
        self._nobody = context_of(None)

    def append(
        self, topic: str, key: bytes | None, value: bytes, headers: Headers = (), *, other_partitioner: bool = False
    ) -> Stored:
        """Store a record, and let whoever reads the partition know."""
        number = zlib.crc32((b"other" if other_partitioner else b"") + (key or b"")) % self.partitions_of
        records = self.topics[topic, number]
        at = self.started_at + self.world.now_seconds
        stored = Stored(topic, number, len(records), at, key, value, tuple(headers))
        records.append(stored)
        owner = self.owners.get((topic, number))
        if owner is not None:
            owner.notice(topic)
        self.world.last_append = self.world.now_seconds
        self.world.people.hear(stored)
        return stored

    def all_of(self, topic: str) -> list[Stored]:
        """Every record of a topic, partition by partition."""
        return [record for number in range(self.partitions_of) for record in self.topics[topic, number]]

    async def send(
        self, worker: SimulatedWorker, topic: str, key: bytes | None, value: bytes, headers: Headers
    ) -> asyncio.Future[Any]:
        """As the transport: stored now or not at all; the future ends with the broker's confirmation, or never."""
        await worker.boundary(f"publish.{topic}:before")
        loop = self.world.loop
        confirmation: asyncio.Future[Any] = loop.create_future()
        if self.world.now_seconds < self.away_until:
            if self.rng.random() < 0.3:
                raise SendRefused("no leader")
            return confirmation  # never confirmed; the producer of a dead process gave it up
        self.append(topic, key, value, headers)
        if self.rng.random() < self.world.unconfirmed_chance:
            return confirmation  # stored, and the leader died before it said so
        delay = self.rng.uniform(0.0005, 0.02)
        if worker.may_skip(delay):
            confirmation.set_result(None)
        else:
            loop.call_later(delay, _confirm, confirmation, context=self._nobody)
        return worker.confirmed(topic, confirmation)

    # The group.

    def join(self, worker: SimulatedWorker) -> None:
        """A member came: everybody gets a new share."""
        self.members[worker.name] = worker
        self._rebalance()

    def leave(self, worker: SimulatedWorker) -> None:
        """A member said goodbye, or its session is over."""
        if self.members.get(worker.name) is worker:
            del self.members[worker.name]
            self._rebalance()

    def expire(self, worker: SimulatedWorker, stopped: int) -> None:
        """The session of a worker that has died, or has been frozen ever since, is over."""
        if self.members.get(worker.name) is worker and worker.process.dead | (worker.times_stopped == stopped):
            self.leave(worker)

    def commit(self, worker: SimulatedWorker, generation: int, slot: Slot, offset: int) -> bool:
        """Only from a member of this generation, for a partition that it has."""
        if self.members.get(worker.name) is not worker or generation != self.generation:
            return False
        if self.owners.get(slot) is not worker:
            return False
        self.world.watch.committed(slot, self.committed.get(slot, 0), offset)
        self.committed[slot] = offset
        return True

    def rewind(self) -> None:
        """Every offset back to the earliest, as an operator does with the group stopped."""
        self.committed.clear()
        self._rebalance()

    def lag(self, topic: str) -> int:
        """Records of a topic that are not committed yet."""
        return sum(
            len(self.topics[topic, number]) - self.committed.get((topic, number), 0)
            for number in range(self.partitions_of)
        )

    def _rebalance(self) -> None:
        self.generation += 1
        self.owners.clear()
        names = sorted(self.members)
        if not names:
            return
        shares: dict[str, list[Slot]] = defaultdict(list)
        for index, slot in enumerate(SLOTS):
            shares[names[(index + self.generation) % len(names)]].append(slot)
        for name in names:
            worker = self.members[name]
            after = self.rng.uniform(0.05, 0.5)
            self.world.loop.call_later(
                after, worker.assigned, self.generation, shares[name], context=context_of(worker.process)
            )


def _confirm(confirmation: asyncio.Future[Any]) -> None:
    if not confirmation.done():
        confirmation.set_result(None)
