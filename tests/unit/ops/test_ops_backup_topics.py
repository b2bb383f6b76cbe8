"""Kafka's side of putting a backup back: what would be committed, and what is not."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ops import backup, backup_topics
from ops.backup_files import OFFSETS, TOPICS, Part
from ops.backup_topics import (
    Committed,
    Here,
    Offsets,
    OffsetStep,
    are_unfilled,
    check_places,
    commit_offsets,
    ends_of,
    head_of,
    no_further_than,
    steps_of,
)
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.options import Output
from ops.output import to_json
from streams.settings import Settings
from tests.unit.ops.test_ops_backup_files import AT, MANIFEST_OF_A_TEST

REQUESTS = "payout_requests"
SETTINGS = Settings.model_validate({"payouts_profile": "test"})
EVERYTHING = replace(
    MANIFEST_OF_A_TEST,
    topics_at=AT + timedelta(seconds=1),
    files={OFFSETS: {}, f"{TOPICS}/{REQUESTS}.jsonl.gz": {}},
)


@pytest.mark.parametrize(
    ("parts", "noted", "filled"),
    [
        ([Part.OFFSETS], {}, False),
        ([Part.OFFSETS], {REQUESTS: "made anew since"}, False),
        ([Part.OFFSETS], {REQUESTS: "new"}, True),
        ([Part.TOPICS, Part.OFFSETS], {}, True),
    ],
)
def test_only_topics_that_were_put_back_count_as_those_of_the_backup(
    parts: list[Part], noted: dict[str, str], filled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """K8, S4-32: that the backup holds topics does not say that these topics are they; the ledger's note does."""
    asked: list[bool] = []

    def plan(*_: Any, with_records: bool, topics_of_backup: bool, to_be_filled: Any) -> list[OffsetStep]:
        assert topics_of_backup
        assert (to_be_filled is not None) is (Part.TOPICS in parts)
        asked.append(with_records)
        return []

    async def known(*_: Any) -> tuple[dict[tuple[str, int], int], dict[str, str]]:
        return {}, noted

    monkeypatch.setattr(backup, "plan_offsets", plan)
    monkeypatch.setattr(backup, "_ids_now", lambda _: {REQUESTS: "new"})
    monkeypatch.setattr(backup, "_ledger_first", lambda *_, **__: None)
    monkeypatch.setattr(backup, "_known", known)
    (tmp_path / OFFSETS).write_text(to_json(Offsets("payouts", [], {}).document()))
    backup._offsets(SETTINGS, EVERYTHING, tmp_path, Output.JSON, parts, "maria", "INC-1", dry_run=True)
    assert asked == [filled]


def topic_file(directory: Path, offsets: Sequence[int], *, end: int) -> Path:
    path = directory / f"{REQUESTS}.jsonl.gz"
    with gzip.open(path, "wt", encoding="ascii") as file:
        file.write(json.dumps({"topic": REQUESTS, "partitions": {"0": [0, end], "1": [0, 0]}}) + "\n")
        file.writelines(json.dumps({"partition": 0, "offset": offset}) + "\n" for offset in offsets)
    return path


@pytest.mark.parametrize(
    ("offsets", "end", "missing"), [([0, 1, 2], 3, 0), ([], 0, 0), ([0, 2], 3, 1), ([0, 1], 3, 1), ([1, 4], 6, 4)]
)
def test_a_place_without_a_record_is_seen_before_anything_is_written(
    offsets: list[int], end: int, missing: int, tmp_path: Path
) -> None:
    """S4-32: the mark of a transaction takes a place that nobody can fill; a dry run says so, too."""
    path = topic_file(tmp_path, offsets, end=end)
    assert ends_of(tmp_path) == {(REQUESTS, 0): end, (REQUESTS, 1): 0}
    if not missing:
        check_places(path, head_of(path))
        return
    with pytest.raises(CommandFailed) as failure:
        check_places(path, head_of(path))
    assert failure.value.code is ExitCode.REFUSED
    assert f"{missing} places of {REQUESTS}" in failure.value.what


def test_offsets_before_their_topics_are_seen() -> None:
    """S4-32: empty topics where the backup has records are not filled yet; a cluster that always was empty is."""
    one = Offsets("payouts", [Committed(REQUESTS, "id", 0, 7, 9)], {REQUESTS: 1})
    assert are_unfilled(one, {(REQUESTS, 0): 0})
    assert not are_unfilled(one, {(REQUESTS, 0): 1})
    assert not are_unfilled(Offsets("payouts", [Committed(REQUESTS, "id", 0, 0, 0)], {REQUESTS: 1}), {(REQUESTS, 0): 0})


def test_no_inbound_offset_is_further_than_the_ledger_is_sure_of() -> None:
    """K9: a decision is noted when it was looked up, a moment after it was committed; until then it is read again."""
    decisions = Committed("payout_review_decisions", "id", 0, 7, 9)
    stage = Committed("payout_cleared", "id", 0, 7, 9)
    nothing = replace(decisions, partition=1, offset=None)
    asked = Offsets("payouts", [decisions, nothing, stage], {})
    known = {("payout_review_decisions", 0): 5}
    found = no_further_than(asked, known, ["payout_requests", "payout_review_decisions"])
    assert [one.offset for one in found.committed] == [5, None, 7]
    assert [one.offset for one in no_further_than(asked, {}, ["payout_review_decisions"]).committed] == [0, None, 7]


STEP = OffsetStep(REQUESTS, 0, 9, 4, "topic-id=x")


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], int]:
    """What the group has committed, as the coordinator tells it."""
    committed = {(REQUESTS, 0): 9}
    monkeypatch.setattr(backup_topics, "committed_offsets", lambda *_: dict(committed))
    return committed


def answering(failed: dict[tuple[str, int], str] | KafkaException) -> Callable[..., dict[tuple[str, int], str]]:
    def commit(_: Settings, wanted: Sequence[TopicPartition]) -> dict[tuple[str, int], str]:
        assert [(place.topic, place.partition, place.offset) for place in wanted] == [(REQUESTS, 0, 4)]
        if isinstance(failed, KafkaException):
            raise failed
        return failed

    return commit


@pytest.mark.parametrize(
    ("failed", "code"),
    [
        ({(REQUESTS, 0): "the broker has 9, not 4"}, ExitCode.UNREACHABLE),
        (KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID)), ExitCode.GROUP_ACTIVE),
        (KafkaException(KafkaError(KafkaError._TIMED_OUT)), ExitCode.UNREACHABLE),
    ],
)
def test_a_commit_that_did_not_take_place_is_said(
    failed: Any, code: ExitCode, group: dict[tuple[str, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """K9: a group left ahead of the restored ledger reads nobody's requests between; no count may hide it."""
    assert group
    monkeypatch.setattr(backup_topics, "commit_and_look", answering(failed))
    with pytest.raises(CommandFailed) as failure:
        commit_offsets(SETTINGS, [STEP])
    assert failure.value.code is code
    monkeypatch.setattr(backup_topics, "commit_and_look", answering({}))
    assert commit_offsets(SETTINGS, [STEP, replace(STEP, then=None)]) == 1


def test_offsets_that_moved_since_the_plan_are_left(group: dict[tuple[str, int], int]) -> None:
    group[REQUESTS, 0] = 3
    with pytest.raises(CommandFailed) as failure:
        commit_offsets(SETTINGS, [STEP])
    assert failure.value.code is ExitCode.REFUSED


def test_two_who_move_offsets_at_once_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2: `ledger restore` takes the lock of `offsets apply`."""

    class Taken:
        async def lock(self) -> bool:
            return False

    @asynccontextmanager
    async def actions(_: str) -> AsyncIterator[Taken]:
        yield Taken()

    monkeypatch.setattr(backup, "offset_actions", actions)
    monkeypatch.setattr(backup, "commit_offsets", lambda *_: pytest.fail("committed without the lock"))
    with pytest.raises(CommandFailed) as failure:
        asyncio.run(backup._committed(SETTINGS, [STEP], "backup-1", "maria", "INC-1"))
    assert failure.value.code is ExitCode.REFUSED


def here(now: int | None, *, first: int = 2, topic_id: str = "id") -> Here:
    """One partition with the records 2 to 99."""
    place = (REQUESTS, 0)
    return Here({} if now is None else {place: now}, {place: first}, {place: 100}, {REQUESTS: topic_id})


def saved(*offsets: int | None) -> Offsets:
    return Offsets("payouts", [Committed(REQUESTS, "id", n, one, 100) for n, one in enumerate(offsets)], {REQUESTS: 1})


@pytest.mark.parametrize(
    ("kept", "now", "topic_id", "then"),
    [
        ((7,), 50, "id", 7),
        ((7,), 7, "id", None),
        ((7,), 3, "id", None),
        ((7,), None, "id", 7),
        ((None,), 50, "id", 2),
        ((), 50, "id", 2),
        ((7,), 50, "another", 2),
        ((), 2, "id", None),
    ],
)
def test_no_partition_stays_ahead_of_the_restored_ledger(
    kept: tuple[int | None, ...], now: int | None, topic_id: str, then: int | None
) -> None:
    """K9, S4-32: one that had nothing committed, came later, or is of another topic goes back to its first record."""
    (step,) = steps_of(saved(*kept), here(now, topic_id=topic_id), with_records=False)
    assert (step.now, step.then) == (now, then)
    assert bool(step.why) is (then is None)


def test_where_nothing_is_committed_nothing_is_and_what_is_gone_is_named() -> None:
    assert steps_of(saved(None), here(None), with_records=False) == []
    assert steps_of(saved(), here(None), with_records=False) == []
    (other,) = steps_of(saved(7), here(None, topic_id="another"), with_records=False)
    assert (other.then, "another topic" in other.why) == (None, True)
    (filled,) = steps_of(saved(7), here(None, topic_id="another"), with_records=True)
    assert filled.then == 7
    _, gone = steps_of(saved(7, 8), here(50), with_records=False)
    assert (gone.partition, gone.then, gone.why) == (1, None, "the cluster has no such partition")
    with pytest.raises(CommandFailed):
        steps_of(saved(101), here(None), with_records=False)
