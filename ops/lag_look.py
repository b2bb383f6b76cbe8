"""One look at the consumer group from outside: offsets, records and seconds that it is behind, members, state.

    with LagSource(settings) as source:
        look = source.look()          as often as wanted; connections and record times are kept between looks

Nothing here joins the group or commits. Committed offsets are asked before the ends, so that a group that moves shows
no negative lag; ends are those of a committed reader, as the workers read.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from ops.group_members import GroupState, Member, describe_group
from ops.kafka import (
    Place,
    committed_offsets,
    connect_admin,
    consumer_config,
    earliest_offset,
    latest_offset,
    offset_of,
    offsets,
    our_topics,
    place_of,
    record_time,
)
from ops.lag_status import Status, Window, worst
from schemas.topics import READ_BY_WORKERS
from streams.settings import Settings

RECORDS_SECONDS: Final = 5.0
"""The longest wait for the records at the committed offsets: one fetch from each leader takes milliseconds."""
POLL_SECONDS: Final = 0.2
FETCH_BYTES: Final = 65_536
"""Of one partition. One record is wanted, and brokers give a first batch whole, however large."""


@dataclass(frozen=True, slots=True)
class RecordTime:
    """What lies at a committed offset."""

    at_seconds: float | None
    """When the first record from there on was written, since the epoch; None: it has no time."""
    waits: bool
    """False: no record at all up to the end, only marks of transactions and what was aborted or compacted away."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition of a topic that the group reads. Offsets are those that come next."""

    topic: str
    partition: int
    earliest_offset: int
    committed_offset: int | None
    """None: the group has never committed anything here, and there is no lag to speak of."""
    end_offset: int
    lag_seconds: float | None
    """Age of the first record not finished; 0 where none waits. None: not known."""
    record_is_missing: bool
    """The record at the committed offset did not come in time, or has no time."""
    waits: bool
    """Whether a record waits, as far as known: offsets without records are no work."""
    member: str | None
    host: str | None

    @property
    def lag_records(self) -> int | None:
        """Offsets between what is committed and the end: Kafka's own measure of lag."""
        return None if self.committed_offset is None else max(0, self.end_offset - self.committed_offset)

    @property
    def expired_records(self) -> int:
        """Offsets that retention removed before the group came to them."""
        return 0 if self.committed_offset is None else max(0, self.earliest_offset - self.committed_offset)


@dataclass(frozen=True, slots=True)
class GroupLag:
    """The group at one moment."""

    at: datetime
    group: str
    state: GroupState
    members: tuple[Member, ...]
    partitions: tuple[PartitionLag, ...]

    @property
    def lag_records(self) -> int | None:
        """Of all partitions with a commit; None where there is none: a sum over nothing would say that all is done."""
        return _total(self.partitions)

    @property
    def max_lag_records(self) -> int | None:
        """The largest of one partition."""
        return max((p.lag_records for p in self.partitions if p.lag_records is not None), default=None)

    @property
    def max_lag_seconds(self) -> float | None:
        """The largest of one partition; None while one that counts is not known, for that could be the largest."""
        if self.unknown_seconds:
            return None
        return max((p.lag_seconds for p in self.partitions if p.lag_seconds is not None), default=None)

    @property
    def uncommitted(self) -> int:
        """Partitions for which nothing was ever committed."""
        return sum(p.committed_offset is None for p in self.partitions)

    @property
    def unknown_seconds(self) -> int:
        """Partitions whose first waiting record did not come in time."""
        return sum(p.record_is_missing for p in self.partitions)

    def by_topic(self) -> dict[str, int | None]:
        """The lag of each topic, as `lag_records`."""
        topics = dict.fromkeys(p.topic for p in self.partitions)
        return {topic: _total([p for p in self.partitions if p.topic == topic]) for topic in topics}


def _total(partitions: Sequence[PartitionLag]) -> int | None:
    known = [p.lag_records for p in partitions if p.lag_records is not None]
    return sum(known) if known else None


class RecordTimes:
    """Times of the records at committed offsets, read by a consumer without a group; kept until an offset moves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: Consumer | None = None
        self._known: dict[Place, tuple[int, int, RecordTime]] = {}

    def of(self, behind: Mapping[Place, tuple[int, int]], within_seconds: float) -> dict[Place, RecordTime]:
        """For each (committed, end) offset with committed < end; those that did not come in time are not there.

        Only such partitions may be asked for: at the last stable offset a committed reader would wait for the end of
        whatever transaction is open. Raises KafkaException.
        """
        self._known = {place: known for place, known in self._known.items() if place in behind}
        unknown = {place: span for place, span in behind.items() if not self._holds(place, span)}
        if unknown:
            self._read(unknown, time.monotonic() + within_seconds)
        return {place: self._known[place][2] for place, span in behind.items() if self._holds(place, span)}

    def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _holds(self, place: Place, span: tuple[int, int]) -> bool:
        """A record at an offset stays what it is; that there is none is true up to the end that was looked at."""
        committed, end, found = self._known.get(place, (-1, -1, None))
        return committed == span[0] and found is not None and (found.waits or end == span[1])

    def _read(self, unknown: Mapping[Place, tuple[int, int]], deadline: float) -> None:
        consumer = self._consumer = self._consumer or Consumer(
            consumer_config(self._settings) | {"queued.min.messages": 1, "fetch.message.max.bytes": FETCH_BYTES}
        )
        consumer.assign([TopicPartition(*place, committed) for place, (committed, _) in unknown.items()])
        try:
            missing = dict(unknown)
            while missing and (left := deadline - time.monotonic()) > 0:
                record = consumer.poll(min(left, POLL_SECONDS))
                place = None if record is None else place_of(record)
                if record is None or place not in missing:
                    continue
                found = _found(record, missing[place][1])
                if found is not None:
                    self._known[place] = (*missing.pop(place), found)
                    consumer.pause([TopicPartition(*place)])
        finally:
            consumer.unassign()


def _found(record: Message, end: int) -> RecordTime | None:
    """What a record, or the note that a partition is read to its end, says; None for what passes by itself."""
    error = record.error()
    if error is None:
        if offset_of(record) >= end:
            return RecordTime(None, waits=False)
        at = record_time(record)
        return RecordTime(None if at is None else at.timestamp(), waits=True)
    if error.code() == KafkaError._PARTITION_EOF:
        return RecordTime(None, waits=False) if offset_of(record) >= end else None
    if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT) or error.retriable():
        return None
    raise KafkaException(error)


class LagSource:
    """Looks at the group, again and again. A look that fails closes all connections; the next one makes new ones."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._admin: AdminClient | None = None
        self._times = RecordTimes(settings)
        self._busy = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. A look under way in another thread keeps what it uses: its clients must not go under it."""
        if self._busy.acquire(blocking=False):
            try:
                self._disconnect()
            finally:
                self._busy.release()

    def look(self) -> GroupLag:
        """The group now. Raises KafkaException, CommandFailed (unreachable). A group that is not there is DEAD."""
        with self._busy:
            try:
                return self._look()
            except BaseException:
                self._disconnect()
                raise

    def _disconnect(self) -> None:
        self._admin = None
        self._times.close()

    def _look(self) -> GroupLag:
        admin = self._admin = self._admin or connect_admin(self._settings)
        topics = our_topics(admin, self._settings, READ_BY_WORKERS)
        places = [(topic, number) for topic, count in topics.items() for number in range(count)]
        described = describe_group(self._settings, self._settings.group)
        committed = committed_offsets(self._settings, places)
        earliest = offsets(admin, places, earliest_offset())
        ends = offsets(admin, places, latest_offset())
        behind = {place: (at, ends[place]) for place, at in committed.items() if at < ends[place]}
        times = self._times.of(behind, RECORDS_SECONDS)
        now = self._clock()
        holders = {place: member for member in described.members for place in member.partitions}
        return GroupLag(
            datetime.fromtimestamp(now, UTC),
            self._settings.group,
            described.state,
            described.members,
            tuple(
                _partition(place, committed.get(place), earliest[place], ends[place], times, holders, now)
                for place in places
            ),
        )


def _partition(
    place: Place,
    committed: int | None,
    earliest: int,
    end: int,
    times: Mapping[Place, RecordTime],
    holders: Mapping[Place, Member],
    now: float,
) -> PartitionLag:
    seconds, waits = None, False
    is_behind = committed is not None and committed < end
    if is_behind:
        found = times.get(place)
        waits = found is None or found.waits
        if not waits:
            seconds = 0.0
        elif found is not None and found.at_seconds is not None:
            # The writer's clock may be ahead of ours.
            seconds = max(0.0, now - found.at_seconds)
    elif committed is not None:
        seconds = 0.0
    holder = holders.get(place)
    return PartitionLag(
        *place,
        earliest_offset=earliest,
        committed_offset=committed,
        end_offset=end,
        lag_seconds=seconds,
        record_is_missing=is_behind and seconds is None,
        waits=waits,
        member=None if holder is None else holder.client_id,
        host=None if holder is None else holder.host,
    )


@dataclass
class Watch:
    """What looks in a row say that one look cannot: each partition's status. Holds one window a partition."""

    new_window: Callable[[], Window] = Window
    windows: dict[Place, Window] = field(default_factory=dict)

    def add(self, look: GroupLag, at_seconds: float) -> None:
        """One look; `at_seconds` is of a clock that never goes back."""
        kept = {(p.topic, p.partition): p for p in look.partitions}
        self.windows = {place: self.windows.get(place) or self.new_window() for place in kept}
        for place, seen in kept.items():
            if seen.committed_offset is None or seen.lag_records is None:
                self.windows[place].clear()
                continue
            self.windows[place].add(
                offset=seen.committed_offset,
                end=seen.end_offset,
                lag=seen.lag_records if seen.waits else 0,
                held=seen.member is not None,
                at_seconds=at_seconds,
            )

    def window(self, seen: PartitionLag) -> Window:
        """That of one partition."""
        return self.windows[seen.topic, seen.partition]

    def status(self) -> Status:
        """The group's: that of its worst partition."""
        return worst(window.status() for window in self.windows.values())

    def complete_ratio(self) -> float:
        """How much of the windows of partitions with a commit is filled, 0 to 1; 0 where there is none."""
        counted = [window for window in self.windows.values() if window.seen]
        return sum(window.seen for window in counted) / sum(window.size for window in counted) if counted else 0.0


def unreadable_sentence(look: GroupLag) -> str | None:
    """Says that some seconds are not known, if so."""
    if not look.unknown_seconds:
        return None
    return (
        f"The first waiting record of {look.unknown_seconds} partition(s) did not come within {RECORDS_SECONDS:g} s, "
        f'or has no time: their seconds are not known ("-").'
    )
