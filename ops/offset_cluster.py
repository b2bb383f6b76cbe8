"""What the commands about offsets ask Kafka, and the one thing that they tell it: where a group stands.

Commits go out as a consumer's that never joined its group: the same request as the administrator's, taken by the broker
only while the group has no members (UNKNOWN_MEMBER_ID else), but without the administrator's way of ending the process
when the coordinator moves (librdkafka 5040).
"""

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused, unreachable, usage_error
from ops.group_members import describe_group
from ops.kafka import (
    ADMIN_SECONDS,
    all_names,
    answer,
    committed_offsets,
    connect_admin,
    group_consumer,
    latest_offset,
    offsets,
    partition_counts,
    reason_of,
)
from ops.offset_plans import Bounds, Move, OffsetPlan, Place, World, active
from schemas.topics import READ_BY_WORKERS, TOPICS, topic_name
from streams.clock import utc_now
from streams.completeness import mark_group
from streams.settings import Settings
from streams.topic_ids import note_of

ASK_AGAIN_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Group:
    """State and members, as the coordinator sees them; DEAD where there is no such group."""

    state: str
    members: tuple[str, ...]


class Cluster:
    """One cluster, asked about one group."""

    def __init__(self, settings: Settings, group: str | None = None) -> None:
        """`group`: another than the workers' own, to be looked at. Raises CommandFailed: unreachable, refused."""
        self.settings = settings
        self.group = group or settings.group
        if self.group == mark_group(settings.group):
            raise refused(
                "this group is where the workers note what they have verified",
                why="moved, requests that a restored database has lost would come in unnoticed (L11)",
                next_step="`payouts intake verify --drive` moves it, within its rules",
            )
        self._admin: AdminClient = connect_admin(settings)

    def cluster_id(self) -> str:
        """The cluster's id. Raises KafkaException."""
        return str(answer(self._admin.describe_cluster(request_timeout=ADMIN_SECONDS)).cluster_id)

    def members(self) -> Group:
        """Raises CommandFailed (unreachable)."""
        found = describe_group(self.settings, self.group)
        named = tuple(sorted(f"{member.client_id} at {member.host}" for member in found.members))
        return Group(found.state.value, named)

    def wait_until_empty(self, seconds: float) -> Group:
        """The group, once nobody is in it. Raises CommandFailed (active) after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.members()
            refusal = active(self._world(found, {}, {}, {}))
            if refusal is None:
                return found
            if time.monotonic() >= deadline:
                raise refusal
            time.sleep(ASK_AGAIN_SECONDS)

    def places(self, topics: Mapping[str, frozenset[int] | None] | None = None) -> list[Place]:
        """The partitions chosen; None: all that the workers read, or that another group has committed.

        Topics of the table may be named without the prefix. Raises CommandFailed (usage).
        """
        counts = partition_counts(self._admin)
        if topics is not None:
            return [place for name, chosen in topics.items() for place in self._chosen(counts, name, chosen)]
        if self.group == self.settings.group:
            ours = [topic_name(name, self.settings.payouts_topic_prefix) for name in READ_BY_WORKERS]
            return [(name, number) for name in ours if name in counts for number in range(counts[name])]
        everything = [(name, number) for name, count in sorted(counts.items()) for number in range(count)]
        return sorted(self.committed(everything))

    def _chosen(self, counts: Mapping[str, int], name: str, chosen: frozenset[int] | None) -> list[Place]:
        known = name if name in counts or name not in TOPICS else topic_name(name, self.settings.payouts_topic_prefix)
        if known not in counts:
            raise usage_error("there is no such topic on the cluster", next_step="`payouts topics list` shows them")
        if all_names(self.settings).get(known) not in READ_BY_WORKERS:
            raise usage_error(
                "the workers do not read this topic",
                why="an offset there would mean nothing",
                next_step=f"choose among {', '.join(READ_BY_WORKERS)}",
            )
        numbers = range(counts[known]) if chosen is None else sorted(chosen)
        if any(number >= counts[known] for number in numbers):
            raise usage_error("the topic has no such partition", next_step="`payouts topics list` shows them")
        return [(known, number) for number in numbers]

    def committed(self, places: Sequence[Place]) -> dict[Place, int]:
        """What the group has committed of these, where it has. Raises KafkaException."""
        return committed_offsets(self.settings, places, self.group)

    def bounds(self, places: Sequence[Place]) -> dict[Place, Bounds]:
        """First and end of each, as a committed reader sees them. Raises KafkaException."""
        firsts = offsets(self._admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        ends = offsets(self._admin, places, latest_offset())
        return {place: Bounds(firsts[place], max(ends[place], firsts[place])) for place in places}

    def found_at(self, places: Sequence[Place], at: datetime) -> dict[Place, int | None]:
        """The first record as young as `at`, None where there is none. Raises KafkaException."""
        milliseconds = max(0, int(at.timestamp() * 1000))
        found = offsets(self._admin, places, OffsetSpec.for_timestamp(milliseconds))
        return {place: offset if offset >= 0 else None for place, offset in found.items()}

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The id of each topic that is there. Raises KafkaException."""
        wanted = sorted(set(topics))
        if not wanted:
            return {}
        found = {}
        asked = self._admin.describe_topics(TopicCollection(wanted), request_timeout=ADMIN_SECONDS)
        for name, future in asked.items():
            try:
                found[name] = str(answer(future).topic_id)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    def world(self, plan: OffsetPlan) -> World:
        """What is there for this plan. Raises KafkaException, CommandFailed."""
        topic_ids = self.topic_ids(plan.topic_ids)
        places = [move.place for move in plan.moves if move.topic in topic_ids]
        return self._world(self.members(), topic_ids, self.committed(places), self.bounds(places))

    def _world(
        self,
        group: Group,
        topic_ids: Mapping[str, str],
        committed: Mapping[Place, int],
        bounds: Mapping[Place, Bounds],
    ) -> World:
        return World(
            cluster_id=self.cluster_id(),
            group=self.group,
            state=group.state,
            members=group.members,
            topic_ids=topic_ids,
            committed=committed,
            bounds=bounds,
            now=utc_now(),
        )

    def commit(self, moves: Sequence[Move], topic_ids: Mapping[str, str]) -> dict[Place, str]:
        """Move the group, and read it again: what did not take place, and why. Raises KafkaException for the whole.

        Each offset carries the id of its topic, as the workers' own (rule K8).
        """
        wanted = [TopicPartition(m.topic, m.partition, m.new, note_of(topic_ids[m.topic])) for m in moves]
        return commit_and_look(self.settings, wanted, self.group)


def commit_and_look(settings: Settings, wanted: Sequence[TopicPartition], group: str | None = None) -> dict[Place, str]:
    """Commit for a group (None: the workers' own) and read again: what did not take place, and why.

    Raises KafkaException for the whole.
    """
    with contextlib.closing(group_consumer(settings, group)) as consumer:
        answered = consumer.commit(offsets=list(wanted), asynchronous=False)
    failed = {(place.topic, place.partition): reason_of(place.error) for place in answered or () if place.error}
    found = committed_offsets(settings, [(place.topic, place.partition) for place in wanted], group)
    for one in wanted:
        place = (one.topic, one.partition)
        if found.get(place) != one.offset:
            failed.setdefault(place, f"the broker has {found.get(place)}, not {one.offset}")
    return failed


def not_committed(error: KafkaException, group: str) -> CommandFailed:
    """The broker refused the commit as a whole: nothing was moved."""
    code = error.args[0].code() if error.args and isinstance(error.args[0], KafkaError) else None
    if code in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION):
        return CommandFailed(
            ExitCode.GROUP_ACTIVE,
            f"the broker refuses to move {group}: somebody joined it meanwhile",
            why=reason_of(error),
            next_step="stop the workers, then `payouts offsets show --wait-empty 120`",
        )
    return unreachable("the broker did not take the offsets", why=reason_of(error), next_step="look: offsets show")
