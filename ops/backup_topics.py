"""Kafka's side of a backup: what the group has committed, and the records of our topics (one file each).

    offsets = read_offsets(settings)                  what a backup keeps of the group
    plan = plan_offsets(offsets, known, now)          what would be committed, or why not
    export_topics(settings, directory)                every record, by its place
    import_topics(settings, directory)                each back at its place, into empty topics

Offsets belong to a ledger. Committed ones that are ahead of it name requests that nobody would read again: refused.
Those that are behind it cost nothing but time: every step of a record that is read again was taken already.
"""

import base64
import gzip
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are exported
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from ops.asynchronous import run
from ops.failures import CommandFailed, refused, unreachable
from ops.kafka import (
    ADMIN_SECONDS,
    DELIVERY_SECONDS,
    Reading,
    answer,
    committed_offsets,
    connect_admin,
    earliest_offset,
    latest_offset,
    offset_of,
    offsets,
    our_topics,
    producer_config,
    reader,
    reason_of,
    spans,
)
from ops.lag import group_lag
from ops.offset_cluster import commit_and_look, not_committed
from ops.output import progress
from schemas.topics import READ_BY_WORKERS, TOPICS, topic_name
from streams.completeness import INBOUND_TOPICS
from streams.holes import Unreadable
from streams.kafka_connection import confluent_config
from streams.settings import Settings
from streams.topic_ids import TopicIds, note_of

POLL_SECONDS: Final = 0.5
REQUESTS: Final = "payout_requests"
BROKERS_TIME: Final = "LogAppendTime"
PRODUCERS_TIME: Final = "CreateTime"
GROUPS_ARE_COMING: Final = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Committed:
    """What the group had committed of one partition, and where the partition stood."""

    topic: str
    topic_id: str
    partition: int
    offset: int | None
    """None: nothing was committed."""
    end: int


@dataclass(frozen=True, slots=True)
class Offsets:
    """The group's offsets, and every topic of ours with its partitions."""

    group: str
    committed: Sequence[Committed]
    topics: Mapping[str, int]

    def document(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


def offsets_of(document: Mapping[str, Any]) -> Offsets:
    """What `document` wrote. Raises KeyError, TypeError."""
    committed = [Committed(**one) for one in document["committed"]]
    return Offsets(str(document["group"]), committed, dict(document["topics"]))


@dataclass(frozen=True, slots=True)
class OffsetStep:
    """What would be committed of one partition, or why nothing is."""

    topic: str
    partition: int
    now: int | None
    then: int | None
    note: str
    why: str = ""

    @property
    def read_again(self) -> int:
        """Records that are read once more."""
        return 0 if self.then is None or self.now is None else max(0, self.now - self.then)


def read_offsets(settings: Settings) -> Offsets:
    """Read them, with the ends and the ids of their topics. Raises CommandFailed, KafkaException."""
    admin = connect_admin(settings)
    everything = our_topics(admin, settings, TOPICS)
    consumed = {name: everything[name] for name in _names(settings, READ_BY_WORKERS)}
    places = _places(consumed)
    found = committed_offsets(settings, places)
    ends = offsets(admin, places, latest_offset())
    ids = topic_ids(settings, list(consumed))
    committed = [
        Committed(*place[:1], ids.get(place[0], ""), place[1], found.get(place), ends[place]) for place in places
    ]
    return Offsets(settings.group, committed, everything)


def topic_ids(settings: Settings, topics: Sequence[str]) -> dict[str, str]:
    """The id of each topic; empty where brokers give none. Raises CommandFailed (unreachable)."""
    ids = TopicIds(confluent_config(settings), topics)
    try:
        run(ids.others())
    except Unreadable as error:
        raise unreachable("the topics could not be described", why=str(error)) from None
    return {topic: ids.of(topic) for topic in topics}


def refuse_active_group(settings: Settings) -> None:
    """Nobody may read while what he has read is changed. Raises CommandFailed (group active), KafkaException."""
    from ops.exit_codes import ExitCode

    try:
        members = _members(settings)
    except CommandFailed as error:
        if error.code is ExitCode.FOUND:  # there is no group at all
            return
        raise
    if members:
        raise CommandFailed(
            ExitCode.GROUP_ACTIVE,
            f"{members} worker(s) are in the group {settings.group}",
            why="a worker that runs would go on with what it remembers",
            next_step="stop every worker (runbook, `Start, stop, drain`), then run it again",
        )


def _members(settings: Settings) -> int:
    """How many are in the group; a cluster that has just started is asked until it knows its groups."""
    deadline = time.monotonic() + ADMIN_SECONDS
    while True:
        try:
            return int(group_lag(settings)["members"])
        except KafkaException as error:
            if error.args[0].code() not in GROUPS_ARE_COMING or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def plan_offsets(
    settings: Settings,
    saved: Offsets,
    known: Mapping[Place, int],
    *,
    with_records: bool,
    topics_of_backup: bool = False,
    to_be_filled: Mapping[Place, int] | None = None,
) -> list[OffsetStep]:
    """What would be committed now. `known`: behind the last record that the ledger knows, of each inbound partition.

    `with_records`: the topics were filled from the same backup, each record at its old place; else offsets of a topic
    with another id name other records. `topics_of_backup`: it holds their records, so that empty topics are to be
    filled first. `to_be_filled`: the ends that they will have, in a dry run that does not fill them. Never moves a
    partition forward. One that had nothing committed, or came later, goes back to its first record where something is
    committed now. Raises CommandFailed (refused) for offsets that are ahead of the ledger or of the topic, and for
    topics that are not filled yet, KafkaException.
    """
    if saved.group != settings.group:
        raise refused(
            f"the offsets are those of the group {saved.group}, not of {settings.group}",
            next_step="set PAYOUTS_TOPIC_PREFIX as it was",
        )
    ahead = ahead_of(saved, known, _names(settings, [REQUESTS]))
    if ahead:
        raise refused(
            "these offsets are ahead of this ledger: the requests between them would be read by nobody",
            why="; ".join(ahead),
            next_step="put the ledger of the same backup back first, or take the offsets of an older backup",
        )
    admin = connect_admin(settings)
    present = our_topics(admin, settings, READ_BY_WORKERS)
    places = _places(present)
    here = Here(
        now=committed_offsets(settings, places),
        firsts=offsets(admin, places, earliest_offset()),
        ends={**offsets(admin, places, latest_offset()), **(to_be_filled or {})},
        ids=topic_ids(settings, list(present)),
    )
    if topics_of_backup and not with_records and are_unfilled(saved, here.ends):
        raise refused(
            "the topics of this backup were not put back yet",
            why="they are empty, so that its offsets name records that are not there",
            next_step="put the topics back first: `payouts ledger restore DIRECTORY --part topics`",
        )
    return steps_of(no_further_than(saved, known, _names(settings, INBOUND_TOPICS)), here, with_records=with_records)


def are_unfilled(saved: Offsets, ends: Mapping[Place, int]) -> bool:
    """Whether no topic holds anything, and some held records when they were saved. Pure."""
    return not any(ends.values()) and any(one.end for one in saved.committed)


def no_further_than(saved: Offsets, known: Mapping[Place, int], inbound: Sequence[str]) -> Offsets:
    """The same, but of no inbound partition more than the ledger is sure to know: what is before was answered. Pure.

    Of decisions and confirmations it notes a place only when it has looked them up (K9), a moment after the commit.
    """
    return replace(
        saved,
        committed=[
            one
            if one.offset is None or one.topic not in inbound
            else replace(one, offset=min(one.offset, known.get((one.topic, one.partition), 0)))
            for one in saved.committed
        ],
    )


@dataclass(frozen=True, slots=True)
class Here:
    """Where the group and the partitions that it reads stand now."""

    now: Mapping[Place, int]
    """What is committed, where something is."""
    firsts: Mapping[Place, int]
    ends: Mapping[Place, int]
    ids: Mapping[str, str]
    """Of the topics."""


def steps_of(saved: Offsets, here: Here, *, with_records: bool) -> list[OffsetStep]:
    """As `plan_offsets`, of every partition saved or present. Pure. Raises CommandFailed (refused)."""
    kept = {(one.topic, one.partition): one for one in saved.committed if one.offset is not None}
    steps = (_step(place, kept.get(place), here, with_records=with_records) for place in sorted({*kept, *here.ends}))
    return [step for step in steps if step is not None]


def ahead_of(saved: Offsets, known: Mapping[Place, int], inbound: Sequence[str]) -> list[str]:
    """The inbound partitions whose offset says more than the ledger knows. Pure."""
    return [
        f"{one.topic}-{one.partition}: {one.offset}, and the ledger knows what is before {known.get(place, 0)}"
        for one in saved.committed
        if one.offset is not None
        and one.topic in inbound
        and one.offset > known.get(place := (one.topic, one.partition), 0)
    ]


def _step(place: Place, one: Committed | None, here: Here, *, with_records: bool) -> OffsetStep | None:
    topic, current = place[0], here.now.get(place)
    if place not in here.ends:
        return OffsetStep(*place, current, None, "", "the cluster has no such partition")
    if one is not None and one.topic_id != here.ids.get(topic, "") and not with_records:
        if current is None:
            return OffsetStep(*place, None, None, "", "another topic of that name: it is read from its first record")
        one = None  # what is committed is of this topic, and later than the ledger
    if one is None and current is None:
        return None
    # Nothing was committed when the ledger was read: what is committed now may be ahead of it.
    wanted = here.firsts[place] if one is None or one.offset is None else max(one.offset, here.firsts[place])
    if wanted > here.ends[place]:
        raise refused(
            f"{topic}-{place[1]} ends at {here.ends[place]}, before the offset {wanted}",
            why="the topic's records were not put back, or it is another topic",
            next_step="put the topics back first, or leave the offsets out: workers then read from the first record",
        )
    if current is not None and current <= wanted:
        return OffsetStep(*place, current, None, "", "committed is not after it: left as it is")
    return OffsetStep(*place, current, wanted, note_of(here.ids.get(topic, "")))


def commit_offsets(settings: Settings, steps: Sequence[OffsetStep]) -> int:
    """Commit what the plan says, and look whether it is so; how many partitions. The caller has the offsets' lock.

    Raises CommandFailed: refused (they moved since the plan), group active, unreachable (some were not moved).
    KafkaException.
    """
    wanted = [TopicPartition(s.topic, s.partition, s.then, s.note) for s in steps if s.then is not None]
    if not wanted:
        return 0
    now = committed_offsets(settings, [(place.topic, place.partition) for place in wanted])
    for step in steps:
        found = now.get((step.topic, step.partition))
        if step.then is not None and found != step.now:
            raise refused(
                f"offsets moved since they were looked at: {step.topic}-{step.partition} was {step.now}, is {found}",
                next_step="find out who moved them, then the same with --part offsets",
            )
    try:
        failed = commit_and_look(settings, wanted)
    except KafkaException as error:
        raise not_committed(error, settings.group) from None
    if failed:
        place, why = next(iter(failed.items()))
        raise unreachable(
            f"{len(failed)} of {len(wanted)} partitions were not moved, the first is {place[0]}-{place[1]}",
            why=why,
            next_step="the same with --part offsets, before any worker starts",
        )
    return len(wanted)


# The records themselves.


def export_topics(settings: Settings, directory: Path) -> dict[str, int]:
    """Write every record of every topic of ours; how many of each. Raises CommandFailed, KafkaException."""
    admin = connect_admin(settings)
    counts = {}
    with progress("reading topics", len(TOPICS)) as step, reader(settings) as consumer:
        for name, partitions in our_topics(admin, settings, TOPICS).items():
            to_read = spans(admin, {name: partitions}, since=None)
            with gzip.open(directory / f"{name}.jsonl.gz", "wt", encoding="ascii") as file:
                head = {
                    "topic": name,
                    "partitions": {span.partition: [max(0, span.first), span.end] for span in to_read},
                }
                file.write(json.dumps(head) + "\n")
                count = 0
                for record in Reading(consumer, to_read, follow=False, timeout_seconds=None).records():
                    file.write(json.dumps(_line(record)) + "\n")
                    count += 1
            (directory / f"{name}.jsonl.gz").chmod(0o600)
            counts[name] = count
            step()
    return counts


def _line(record: Message) -> dict[str, Any]:
    return {
        "partition": record.partition(),
        "offset": offset_of(record),
        "timestamp": record.timestamp()[1],
        "key": _text(record.key()),
        "value": _text(record.value()),
        "headers": [list(header) for header in _headers(record)],
    }


def _headers(record: Message) -> Iterator[tuple[str, str | None]]:
    headers: Any = record.headers() or ()  # the library allows a mapping here, which it never gives
    for name, value in headers:
        yield name, _text(value)


def _text(value: str | bytes | None) -> str | None:
    if value is None:
        return None
    return base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode("ascii")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def import_topics(settings: Settings, directory: Path, *, dry_run: bool) -> dict[str, int]:
    """Write every record back at its place, into empty topics; how many of each topic.

    Raises CommandFailed: refused (a topic with records, other partitions, or places without a record), unreachable.
    KafkaException.
    """
    files = topic_files(directory)
    heads = [head_of(path) for path in files]
    admin = connect_admin(settings)
    present = our_topics(admin, settings, TOPICS)
    for path, head in zip(files, heads, strict=True):
        _check_topic(admin, head, present)
        check_places(path, head)
    counts = {}
    with progress("writing topics", len(files)) as step:
        for path, head in zip(files, heads, strict=True):
            expected = sum(end for _, end in head["partitions"].values())
            written = expected if dry_run else _filled(settings, admin, path, head)
            counts[head["topic"]] = written
            step()
    return counts


def topic_files(directory: Path) -> list[Path]:
    """The files of the topics, in the order in which they are put back."""
    return sorted(directory.glob("*.jsonl.gz"))


def ends_of(directory: Path) -> dict[Place, int]:
    """Where each partition will end when it is filled."""
    heads = map(head_of, topic_files(directory))
    return {(head["topic"], number): end for head in heads for number, (_, end) in head["partitions"].items()}


def check_places(path: Path, head: Mapping[str, Any]) -> None:
    """Every place from 0 to the end holds a record. Raises CommandFailed (refused): then nothing was written yet."""
    following = dict.fromkeys(head["partitions"], 0)
    missing = 0
    for line in _lines(path):
        missing += line["offset"] - following[line["partition"]]
        following[line["partition"]] = line["offset"] + 1
    missing += sum(end - following[number] for number, (_, end) in head["partitions"].items())
    if missing:
        raise refused(
            f"{missing} places of {head['topic']} hold no record (a producer's transactions, compaction)",
            why="what is written behind such a place would stand at another one than the ledger says",
            next_step="put back the ledger alone (--part ledger): workers read an empty topic from its first record",
        )


def head_of(path: Path) -> dict[str, Any]:
    """Topic, and partition to first and end offset."""
    with gzip.open(path, "rt", encoding="ascii") as file:
        head: dict[str, Any] = json.loads(file.readline())
    head["partitions"] = {int(number): tuple(span) for number, span in head["partitions"].items()}
    return head


def _check_topic(admin: AdminClient, head: Mapping[str, Any], present: Mapping[str, int]) -> None:
    name, partitions = head["topic"], head["partitions"]
    if present.get(name) != len(partitions):
        raise refused(
            f"{name} has {present.get(name, 0)} partitions here and had {len(partitions)}",
            why="its records would stand at other places than the ledger says",
            next_step="make the topics as they were: `payouts topics ensure --partitions N`",
        )
    gone = [number for number, (first, _) in partitions.items() if first > 0]
    if gone:
        raise refused(
            f"the first records of {name} were gone when the backup was made (retention)",
            why="Kafka numbers what is written from 0 on, and the ledger knows the old places",
            next_step="put back the ledger alone (--part ledger): workers read an empty topic from its first record",
        )
    places = [(name, number) for number in partitions]
    ends = offsets(admin, places, latest_offset())
    firsts = offsets(admin, places, earliest_offset())
    if any(ends.values()) or any(firsts.values()):
        raise refused(
            f"{name} holds records already, or has held some",
            why="what is put back would stand behind them",
            next_step="delete the topics and make them anew with `payouts topics ensure`",
        )


def _filled(settings: Settings, admin: AdminClient, path: Path, head: Mapping[str, Any]) -> int:
    """Each record at its place and with its time, also where the broker gives times (`message.timestamp.type`).

    Its time is what tells a request of the backup from another one at its place, and old ones from new ones (L11).
    """
    name, wanted = head["topic"], TOPICS[head["topic"].removeprefix(settings.payouts_topic_prefix)]
    if wanted.timestamp_type != BROKERS_TIME:
        return _produced(settings, path, head)
    _set_timestamps(admin, name, PRODUCERS_TIME)
    try:
        return _produced(settings, path, head)
    finally:
        _set_timestamps(admin, name, BROKERS_TIME)


def _set_timestamps(admin: AdminClient, topic: str, kind: str) -> None:
    entry = ConfigEntry("message.timestamp.type", kind, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    try:
        for future in admin.incremental_alter_configs([resource], request_timeout=ADMIN_SECONDS).values():
            answer(future)
    except KafkaException as error:
        raise unreachable(
            f"{topic} could not be set to {kind}",
            why=reason_of(error),
            next_step="delete the topics, make them anew, and run it again",
        ) from None


def _produced(settings: Settings, path: Path, head: Mapping[str, Any]) -> int:
    producer = Producer(producer_config(settings))
    problems: list[str] = []
    count = 0
    for line in _lines(path):
        count += 1
        expected = (line["partition"], line["offset"])

        def placed(error: KafkaError | None, message: Message, expected: tuple[int, int] = expected) -> None:
            if error is not None:
                problems.append(reason_of(error))
            elif (message.partition(), message.offset()) != expected:
                problems.append(f"offset {expected[1]} of partition {expected[0]} became {message.offset()}")

        _produce(producer, head["topic"], line, placed)
        if problems:
            break
    producer.flush(DELIVERY_SECONDS + ADMIN_SECONDS)
    if problems:
        raise unreachable(
            f"{head['topic']} could not be put back as it was",
            why=problems[0],
            next_step="delete the topics, make them anew, and run it again, or put the ledger back alone",
        )
    return count


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="ascii") as file:
        file.readline()
        for line in file:
            yield json.loads(line)


def _produce(producer: Producer, topic: str, line: Mapping[str, Any], placed: Any) -> None:  # noqa: ANN401
    headers: Any = [(name, _bytes(value)) for name, value in line["headers"]]
    while True:
        try:
            producer.produce(
                topic,
                _bytes(line["value"]),
                _bytes(line["key"]),
                line["partition"],
                on_delivery=placed,
                timestamp=max(0, line["timestamp"]),
                headers=headers,
            )
        except BufferError:
            producer.poll(POLL_SECONDS)
        except KafkaException as error:
            raise unreachable(f"{topic} does not take records", why=reason_of(error)) from None
        else:
            producer.poll(0)
            return


def _names(settings: Settings, names: Sequence[str]) -> list[str]:
    return [topic_name(name, settings.payouts_topic_prefix) for name in names]


def _places(topics: Mapping[str, int]) -> list[Place]:
    return [(topic, number) for topic, count in topics.items() for number in range(count)]
