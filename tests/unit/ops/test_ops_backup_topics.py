"""Kafka's side of putting a backup back: what would be committed, and what is not."""

from __future__ import annotations

import asyncio
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
from ops.backup_topics import Committed, Here, Offsets, OffsetStep, commit_offsets, steps_of
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


@pytest.mark.parametrize(("parts", "filled"), [([Part.OFFSETS], False), ([Part.TOPICS, Part.OFFSETS], True)])
def test_only_topics_that_this_run_put_back_count_as_those_of_the_backup(
    parts: list[Part], filled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """K8, S4-32: that the backup holds topics does not say that these topics are they."""
    asked: list[bool] = []

    def plan(*_: Any, with_records: bool) -> list[OffsetStep]:
        asked.append(with_records)
        return []

    async def known(_: Settings) -> dict[tuple[str, int], int]:
        return {}

    monkeypatch.setattr(backup, "plan_offsets", plan)
    monkeypatch.setattr(backup, "_ledger_first", lambda *_, **__: None)
    monkeypatch.setattr(backup, "_known", known)
    (tmp_path / OFFSETS).write_text(to_json(Offsets("payouts", [], {}).document()))
    backup._offsets(SETTINGS, EVERYTHING, tmp_path, Output.JSON, parts, dry_run=True)
    assert asked == [filled]


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
        asyncio.run(backup._committed(SETTINGS, [STEP]))
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
