"""Targets, plans and their refusals: the pure part of `payouts offsets` (rule R2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.offset_plans import (
    OFFSET_MAX,
    UNDO_AGE_SECONDS,
    BeyondTheLog,
    Bounds,
    CommittedPlace,
    Effect,
    FileChanged,
    FileUnreadable,
    Move,
    OffsetBackup,
    OffsetPlan,
    Scenario,
    Target,
    TargetUnusable,
    World,
    decode_backup,
    decode_plan,
    encode,
    in_the_past,
    parse_csv,
    parse_datetime,
    parse_duration,
    parse_topics,
    refusal_of,
    resolve,
    skip_refusal,
    undo_moves,
    undo_of,
    undo_refusal,
)

NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)
PLACE = ("payout_requests", 0)
BOUNDS = Bounds(10, 100)
CARD = "4111111111111111"

counts = st.integers(0, 10**9)
offsets = st.integers(0, 2**40)


@st.composite
def logs(draw: st.DrawFn) -> Bounds:
    """What a partition may hold."""
    first = draw(offsets)
    return Bounds(first, first + draw(counts))


@st.composite
def some_moves(draw: st.DrawFn) -> tuple[Move, ...]:
    """Moves of different partitions, each within its log."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        held = draw(logs())
        inside = st.integers(held.earliest, held.latest)
        old, new = draw(st.none() | inside), draw(inside)
        limits = {"earliest": held.earliest, "latest": held.latest}
        found.append(Move(topic="payout_requests", partition=number, old=old, new=new, clamped=False, **limits))
    return tuple(found)


effects = st.builds(
    Effect,
    records=counts,
    payouts=counts,
    ended=counts,
    open=counts,
    unseen=counts,
    undecodable=counts,
    foreign=counts,
    money=st.dictionaries(st.sampled_from(["USD", "JPY", "???"]), st.integers(-(10**30), 10**30)),
)
plans = st.builds(
    OffsetPlan,
    cluster_id=st.just("MkU3OEVBNTcwNTJENDM2Qg"),
    group=st.just("payouts"),
    made_at=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    max_age_seconds=st.integers(1, UNDO_AGE_SECONDS),
    target=st.sampled_from(["--to-earliest", "--shift-by -5"]),
    topic_ids=st.just({"payout_requests": "x1fYb5c3Q5mVg1u2nYb5cQ"}),
    moves=some_moves(),
    skip=effects,
    replay=effects,
)


def move(old: int | None = 50, new: int = 20, **changes: Any) -> Move:
    """A move within 10 to 100."""
    given: dict[str, Any] = {"topic": PLACE[0], "partition": 0, "earliest": 10, "latest": 100, "clamped": False}
    return Move(**given | {"old": old, "new": new} | changes)


def plan(*moves: Move, **changes: Any) -> OffsetPlan:
    """A plan made at NOW."""
    made = OffsetPlan(
        cluster_id="cluster-1",
        group="payouts",
        made_at=NOW,
        max_age_seconds=3600,
        target="--to-offset 20",
        topic_ids={"payout_requests": "topic-1"},
        moves=moves or (move(),),
        skip=Effect(records=3, payouts=2, money={"USD": 500}) if any(one.skipped for one in moves) else Effect(),
        replay=Effect(),
    )
    return made.model_copy(update=changes)


def world(made: OffsetPlan, **changes: Any) -> World:
    """The world in which the plan was made."""
    found = World(
        cluster_id=made.cluster_id,
        group=made.group,
        state="EMPTY",
        members=(),
        topic_ids=dict(made.topic_ids),
        committed={one.place: one.old for one in made.moves if one.old is not None},
        bounds={one.place: Bounds(one.earliest, one.latest) for one in made.moves},
        now=made.made_at + timedelta(seconds=1),
    )
    return replace(found, **changes)


# Targets.


@pytest.mark.parametrize(
    ("target", "committed", "found_at", "new", "clamped"),
    [
        (Target(Scenario.TO_EARLIEST), 50, None, 10, False),
        (Target(Scenario.TO_LATEST), 50, None, 100, False),
        (Target(Scenario.TO_CURRENT), 50, None, 50, False),
        (Target(Scenario.TO_CURRENT), None, None, 100, False),
        (Target(Scenario.TO_CURRENT), 3, None, 10, True),
        (Target(Scenario.TO_OFFSET, number=20), 50, None, 20, False),
        (Target(Scenario.SHIFT_BY, number=-30), 50, None, 20, False),
        (Target(Scenario.SHIFT_BY, number=-41), 50, None, 10, True),
        (Target(Scenario.SHIFT_BY, number=51), 50, None, 100, True),
        (Target(Scenario.TO_DATETIME, at=NOW), 50, 70, 70, False),
        (Target(Scenario.TO_DATETIME, at=NOW), 50, None, 100, False),
        (Target(Scenario.BY_DURATION, at=NOW), None, 11, 11, False),
        (Target(Scenario.FROM_FILE, offsets={PLACE: 99}), 50, None, 99, False),
    ],
)
def test_targets_mean_what_kafkas_flags_mean(
    target: Target, committed: int | None, found_at: int | None, new: int, clamped: bool
) -> None:
    """R2: the words of kafka-consumer-groups.sh; what is not as it was asked for is said."""
    aim = resolve(target, PLACE, BOUNDS, committed=committed, found_at=found_at, clamp=False)
    assert (aim.offset, aim.clamped) == (new, clamped)
    assert not clamped or (aim.note is not None and "beyond the log" in aim.note)


@pytest.mark.parametrize("offset", [9, 101, 0, OFFSET_MAX])
@pytest.mark.parametrize("scenario", [Scenario.TO_OFFSET, Scenario.FROM_FILE, Scenario.RESTORE])
def test_an_offset_beyond_the_log_is_refused_unless_the_nearest_is_asked_for(scenario: Scenario, offset: int) -> None:
    """R2: a typing error would skip everything; Kafka's own tool takes the nearest, as --clamp does."""
    by_number = scenario is Scenario.TO_OFFSET
    target = Target(scenario, number=offset) if by_number else Target(scenario, offsets={PLACE: offset})
    with pytest.raises(BeyondTheLog):
        resolve(target, PLACE, BOUNDS, committed=50, found_at=None, clamp=False)
    aim = resolve(target, PLACE, BOUNDS, committed=50, found_at=None, clamp=True)
    assert aim.clamped
    assert aim.offset == (10 if offset < 10 else 100)


def test_nothing_can_be_shifted_where_nothing_is_committed() -> None:
    """R2: as Kafka's own tool."""
    with pytest.raises(TargetUnusable):
        resolve(Target(Scenario.SHIFT_BY, number=1), PLACE, BOUNDS, committed=None, found_at=None, clamp=True)


@given(
    held=logs(),
    scenario=st.sampled_from([s for s in Scenario if s not in (Scenario.UNDO, Scenario.RESTORE)]),
    number=st.integers(-(2**41), 2**41),
    committed=st.none() | offsets,
    found_at=st.none() | offsets,
)
def test_property_no_target_is_beyond_the_log(
    held: Bounds, scenario: Scenario, number: int, committed: int | None, found_at: int | None
) -> None:
    """R2: whatever is asked for, what is planned is an offset that the partition has; other than asked is marked."""
    target = Target(scenario, number=number, offsets={PLACE: number} if scenario is Scenario.FROM_FILE else None)
    try:
        aim = resolve(target, PLACE, held, committed=committed, found_at=found_at, clamp=True)
    except TargetUnusable:
        assert scenario is Scenario.SHIFT_BY
        assert committed is None
        return
    assert held.earliest <= aim.offset <= held.latest
    assert not aim.clamped or aim.note


@given(moves=some_moves())
def test_property_what_is_skipped_and_what_is_read_again_is_the_difference(moves: tuple[Move, ...]) -> None:
    """R2: forward is a skip, backward a replay, never both, and no offset is left out of the count."""
    for one in moves:
        assert not (one.skipped and one.replayed)
        assert len(one.skipped) - len(one.replayed) == one.delta
        for span in (one.skipped, one.replayed):
            assert not span or (one.earliest <= span.start and span.stop <= one.latest)


# What is typed.


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-22T17:00:00.000", NOW),
        ("2026-11-22T17:00:00.000Z", NOW),
        ("2026-11-22T18:00:00.000+01:00", NOW),
        ("2026-11-22T12:30:00.000-0430", NOW),
        ("2026-11-22T18:00:00.250+01", NOW + timedelta(milliseconds=250)),
        ("2026-11-22T17:00:00", NOW),
    ],
)
def test_a_time_is_read_as_kafka_reads_it(text: str, at: datetime) -> None:
    """R2: no zone means UTC."""
    assert parse_datetime(text) == at


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-22", "2026-13-01T00:00:00.000", "2026-11-22T17:00:00+99"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Bad input: a clear error."""
    with pytest.raises(TargetUnusable):
        parse_datetime(text)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("PT30M", timedelta(minutes=30)),
        ("P1DT2H3M4.5S", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
        ("P7D", timedelta(days=7)),
        ("-PT5S", timedelta(seconds=-5)),
    ],
)
def test_a_duration_is_read_as_kafka_reads_it(text: str, span: timedelta) -> None:
    """R2: ISO 8601."""
    assert parse_duration(text) == span


@pytest.mark.parametrize("text", ["", "P", "PT", "P1M", "1h", "P1DT", "PT-5S"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Bad input: a clear error."""
    with pytest.raises(TargetUnusable):
        parse_duration(text)


def test_a_time_in_the_future_is_refused() -> None:
    """R2: it would skip what nobody has sent yet."""
    assert in_the_past(NOW, NOW) == NOW
    with pytest.raises(CommandFailed) as refusal:
        in_the_past(NOW + timedelta(milliseconds=1), NOW)
    assert refusal.value.code is ExitCode.REFUSED


def test_topics_and_partitions_are_read() -> None:
    """R2: t and t:0,1 as Kafka's tool has them."""
    assert parse_topics(["a", "b:0,1"]) == {"a": None, "b": frozenset({0, 1})}
    for wrong in (["a:"], ["a:x"], ["a", "a:1"], [""], ["a b"], [f"{CARD}:-1"]):
        with pytest.raises(TargetUnusable) as refusal:
            parse_topics(wrong)
        assert CARD not in str(refusal.value)


def test_offsets_are_read_from_both_of_kafkas_files() -> None:
    """R2: what --export prints, of one group or several."""
    assert parse_csv("payout_requests,0,7\n\npayouts,payout_retry,1,8\n", "payouts") == {
        ("payout_requests", 0): 7, ("payout_retry", 1): 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "a,0", "a,x,1", "a,0,-1", "a,0,1\na,0,2", "other,a,0,1", f"a,0,{OFFSET_MAX + 1}", 'a,0,"1\n']
)
def test_a_file_of_offsets_that_is_none_is_refused(text: str) -> None:
    """Bad input: with the line's number, and without quoting it."""
    with pytest.raises(TargetUnusable):
        parse_csv(text, "payouts")


# Files.


@given(made=plans)
def test_property_a_plan_is_read_as_it_was_written(made: OffsetPlan) -> None:
    """R2: one form only, to the byte."""
    data = encode(made)
    read = decode_plan(data)
    assert read == made
    assert encode(read) == data
    assert read.digest == made.digest


@given(made=plans, data=st.data())
def test_property_a_plan_with_a_byte_changed_is_refused(made: OffsetPlan, data: st.DataObject) -> None:
    """Bad input: a plan edited by hand."""
    written = bytearray(encode(made))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != written[place]))
    with pytest.raises((FileChanged, FileUnreadable)):
        decode_plan(bytes(written))


@given(data=st.data())
def test_property_a_backup_with_a_byte_changed_is_refused(data: st.DataObject) -> None:
    """Bad input: a backup with a byte changed."""
    written = bytearray(encode(backup()))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != written[place]))
    with pytest.raises((FileChanged, FileUnreadable)):
        decode_backup(bytes(written))


def backup() -> OffsetBackup:
    """Two partitions."""
    kept = tuple(CommittedPlace(topic="payout_requests", partition=number, offset=7) for number in range(2))
    ids = {"payout_requests": "topic-1"}
    return OffsetBackup(cluster_id="cluster-1", group="payouts", made_at=NOW, topic_ids=ids, offsets=kept)


def test_a_backup_is_read_as_it_was_written() -> None:
    assert decode_backup(encode(backup())) == backup()
    with pytest.raises(FileUnreadable):
        decode_plan(encode(backup()))


def edited(made: OffsetPlan, **content: Any) -> bytes:
    """The file with its content changed and the digest left as it was."""
    document = json.loads(encode(made))
    document["content"] |= content
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def test_a_plan_edited_by_hand_is_refused_however_well_it_reads() -> None:
    """Bad input: the digest is of other content."""
    made = plan()
    for change in ({"group": "other"}, {"max_age_seconds": 604800}, {"skip": Effect().model_dump() | {"payouts": 1}}):
        with pytest.raises(FileChanged):
            decode_plan(edited(made, **change))
    with pytest.raises(FileChanged):
        decode_plan(encode(made) + b"\n")


@pytest.mark.parametrize(
    "content",
    [
        {"moves": []},
        {"moves": [move().model_dump(), move().model_dump()]},
        {"topic_ids": {}},
        {"moves": [move(earliest=101).model_dump()]},
        {"made_at": "2026-11-22T17:00:00"},
        {"format": "payouts-offset-plan/2"},
        {"surprise": 1},
        {"target": CARD * 30},
    ],
)
def test_what_is_no_plan_is_refused_without_quoting_it(content: Mapping[str, Any]) -> None:
    """Bad input, P6."""
    with pytest.raises((FileUnreadable, FileChanged)) as refusal:
        decode_plan(edited(plan(), **content))
    assert CARD not in str(refusal.value)


# Refusals.


def test_a_plan_is_applied_in_the_world_that_it_was_made_in() -> None:
    made = plan(move(), move(partition=1, old=None, new=10))
    assert refusal_of(made, world(made)) is None
    assert refusal_of(made, world(made, state="DEAD")) is None


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"cluster_id": "cluster-2"}, ExitCode.REFUSED, "another cluster"),
        ({"group": "payouts-2"}, ExitCode.REFUSED, "another group"),
        ({"topic_ids": {"payout_requests": "topic-2"}}, ExitCode.REFUSED, "made anew"),
        ({"topic_ids": {}}, ExitCode.REFUSED, "made anew, or gone"),
        ({"now": NOW + timedelta(seconds=3601)}, ExitCode.REFUSED, "may be 3600 s old"),
        ({"now": NOW - timedelta(seconds=301)}, ExitCode.REFUSED, "in the future"),
        ({"applied": True}, ExitCode.REFUSED, "applied already"),
        ({"state": "STABLE", "members": ("worker-1 at /127.0.0.1",)}, ExitCode.GROUP_ACTIVE, "worker-1"),
        ({"state": "UNKNOWN"}, ExitCode.GROUP_ACTIVE, "active"),
        ({"state": "PREPARING_REBALANCING"}, ExitCode.GROUP_ACTIVE, "active"),
        ({"committed": {PLACE: 51}}, ExitCode.REFUSED, "offsets moved since the plan"),
        ({"committed": {}}, ExitCode.REFUSED, "50 then, nothing now"),
        ({"committed": {PLACE: 20}}, ExitCode.REFUSED, "offsets moved since the plan"),
        ({"bounds": {PLACE: Bounds(21, 100)}}, ExitCode.REFUSED, "beyond the log"),
        ({"bounds": {PLACE: Bounds(0, 19)}}, ExitCode.REFUSED, "beyond the log"),
    ],
)
def test_a_plan_is_refused_where_the_world_is_another(changes: dict[str, Any], code: ExitCode, words: str) -> None:
    """Bad input: each with a reason and an exit code."""
    made = plan()
    refusal = refusal_of(made, world(made, **changes))
    assert refusal is not None
    assert refusal.code is code
    assert words in refusal.what
    assert refusal.next_step


def test_a_plan_that_ended_half_way_may_be_applied_again() -> None:
    """R2: partitions that are where it put them count as planned; others must still stand where they stood."""
    made = plan(move(), move(partition=1))
    half = {PLACE: 20, (PLACE[0], 1): 50}
    assert refusal_of(made, world(made, committed=half, begun=True)) is None
    assert refusal_of(made, world(made, committed={**half, PLACE: 21}, begun=True)) is not None


@pytest.mark.parametrize("typed", [None, 0, 1, 3])
def test_a_skip_needs_the_exact_number_of_payouts(typed: int | None) -> None:
    """R2: nobody skips what he has not read."""
    made = plan(move(old=20, new=50))
    refusal = skip_refusal(made, typed)
    assert refusal is not None
    assert refusal.code is ExitCode.REFUSED
    assert skip_refusal(made, 2) is None


def test_a_replay_needs_no_number_and_takes_none() -> None:
    made = plan(move(old=50, new=20))
    assert skip_refusal(made, None) is None
    refusal = skip_refusal(made, 0)
    assert refusal is not None
    assert refusal.code is ExitCode.USAGE


# Taking back.


@given(made=plans)
def test_property_undo_puts_every_partition_back(made: OffsetPlan) -> None:
    """R2: from where the plan put it, to where the workers would have gone on."""
    undo = decode_plan(encode(undo_of(made, NOW)))
    assert undo.undoes == made.digest
    committed = {one.place: one.new for one in made.moves}
    bounds = {one.place: Bounds(one.earliest, one.latest) for one in made.moves}
    back = undo_moves(undo, committed, bounds)
    assert [one.new for one in back] == [one.stands for one in made.moves]
    assert [one.delta for one in back] == [-one.delta for one in made.moves]


@given(made=plans, data=st.data())
def test_property_undo_moves_nothing_past_where_it_stood(made: OffsetPlan, data: st.DataObject) -> None:
    """R2: wherever the workers are by now, undo of a skip only goes back, undo of a replay only forward."""
    undo = undo_of(made, NOW)
    bounds = {one.place: Bounds(one.earliest, one.latest) for one in made.moves}
    committed = {one.place: data.draw(st.integers(one.earliest, one.latest)) for one in made.moves}
    for one, before in zip(undo_moves(undo, committed, bounds), made.moves, strict=True):
        now = committed[one.place]
        wanted = {True: min(now, before.stands), False: max(now, before.stands)}
        assert one.new == (wanted[before.delta > 0] if before.delta else now)


def test_undo_is_refused_elsewhere_and_while_somebody_reads_but_not_where_the_workers_went_on() -> None:
    """Bad input: another cluster, an active group. It is made anew from where the group stands."""
    undo = undo_of(plan(), NOW)
    assert undo_refusal(undo, world(undo, committed={PLACE: 33})) is None
    assert undo_refusal(undo, world(undo, cluster_id="cluster-2")) is not None
    active = undo_refusal(undo, world(undo, state="STABLE"))
    assert active is not None
    assert active.code is ExitCode.GROUP_ACTIVE
