"""What `payouts offsets` asks and writes, without a cluster (rule R2)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from typer.testing import CliRunner

import ops.kafka
import ops.offset_cluster
from ops import offset_apply
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.group_members import GroupMembers, GroupState, Member
from ops.main import app
from ops.offset_cluster import Cluster
from ops.offset_plans import INACTIVE, Effect, Move, OffsetPlan, encode, undo_of
from streams.settings import Settings

MOVING = (
    ("plan", "--topic", "payout_requests", "--to-latest"),
    ("apply", "plan.json", "--reason", "INC-1", "--yes"),
    ("undo", "plan.undo.json", "--reason", "INC-1", "--yes"),
    ("verify", "plan.json"),
    ("backup", "offsets.json"),
    ("restore", "offsets.json"),
)


@pytest.mark.parametrize("words", MOVING)
def test_r2_only_the_workers_own_group_is_moved(words: tuple[str, ...]) -> None:
    """R2: what another group skips nobody holds; another group can be looked at only."""
    environment = {"PAYOUTS_PROFILE": "test", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, ["offsets", *words, "--group", "another-group"], env=environment)
    assert result.exit_code == ExitCode.USAGE
    assert "--group" in result.stderr
    assert "No such option" in result.stderr


PLACE = ("payout_requests", 0)
SETTINGS = Settings.model_validate({"payouts_profile": "test"})


class Answered:
    """One partition of an answer of the library's."""

    def __init__(self, offset: int, error: KafkaError | None = None) -> None:
        self.topic, self.partition = PLACE
        self.offset = offset
        self.error = error


class Coordinator:
    """A consumer as far as it asks and commits; what it is told, it does or refuses."""

    def __init__(self, answers: list[Answered]) -> None:
        self.answers = answers
        self.asked_for: list[str] = []
        self.sent: list[TopicPartition] = []

    def __call__(self, config: dict[str, Any]) -> Coordinator:
        self.asked_for.append(config["group.id"])
        return self

    def committed(self, _: list[TopicPartition], timeout: float) -> list[Answered]:
        assert timeout > 0
        return self.answers

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[Answered]:
        assert not asynchronous
        self.sent += offsets
        return self.answers

    def close(self) -> None:
        """As the library's."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(ops.offset_cluster, "connect_admin", lambda _: None)
    return Cluster(SETTINGS, "another-group")


def test_an_error_of_one_partition_is_not_nothing_committed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """R2: a plan made from "nothing committed" would skip from the first record on."""
    coordinator = Coordinator([Answered(7)])
    monkeypatch.setattr(ops.kafka, "Consumer", coordinator)
    assert cluster.committed([PLACE]) == {PLACE: 7}
    assert coordinator.asked_for == ["another-group"]
    coordinator.answers = [Answered(-1001, KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT))]
    with pytest.raises(KafkaException):
        cluster.committed([PLACE])
    assert cluster.committed([]) == {}


def test_who_is_in_the_group_is_not_asked_of_the_administrator(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator's broken connection ends the process there (librdkafka 5040); here it is an answer."""
    member = Member("worker-1", "127.0.0.1", (PLACE,))
    known = {"another-group": GroupMembers(GroupState.STABLE, (member,))}
    monkeypatch.setattr(ops.offset_cluster, "describe_group", lambda _, group: known[group])
    found = cluster.members()
    assert (found.state, found.members) == ("STABLE", ("worker-1 at 127.0.0.1",))
    assert found.state not in INACTIVE
    assert {GroupState.EMPTY.value, GroupState.DEAD.value} == INACTIVE


def test_a_commit_counts_only_where_the_broker_says_the_same_afterwards(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2: an error of one partition, and an offset that is another one afterwards, are failures with their reasons."""
    coordinator = Coordinator([Answered(4)])
    monkeypatch.setattr(ops.kafka, "Consumer", coordinator)
    move = Move(topic=PLACE[0], partition=PLACE[1], earliest=0, latest=9, old=9, new=4, clamped=False)
    assert cluster.commit([move], {PLACE[0]: "id"}) == {}
    assert [(place.offset, place.metadata) for place in coordinator.sent] == [(4, "topic-id=id")]
    coordinator.answers = [Answered(9)]
    assert cluster.commit([move], {PLACE[0]: "id"}) == {PLACE: "the broker has 9, not 4"}


def a_plan(new: int) -> OffsetPlan:
    move = Move(topic=PLACE[0], partition=PLACE[1], earliest=0, latest=9, old=9, new=new, clamped=False)
    return OffsetPlan(
        cluster_id="cluster",
        group="payouts",
        made_at=datetime(2026, 11, 29, 12, 0, tzinfo=UTC),
        max_age_seconds=3600,
        target="--to-earliest",
        topic_ids={PLACE[0]: "id"},
        moves=(move,),
        skip=Effect(),
        replay=Effect(records=9 - new),
    )


def test_the_undo_plan_of_a_first_try_is_taken_and_no_other_file(tmp_path: Path) -> None:
    """R2: the same command again goes on; and what is not the undo of this very plan is no way back."""
    path, plan = tmp_path / "plan.undo.json", a_plan(4)
    offset_apply._write_undo(path, plan)
    written = path.read_bytes()
    offset_apply._write_undo(path, plan)
    assert path.read_bytes() == written
    others = (encode(undo_of(a_plan(5), plan.made_at)), encode(plan), written.replace(b"9", b"8"), written[:-1], b"")
    forged = undo_of(a_plan(5), plan.made_at).model_copy(update={"undoes": plan.digest})
    for other in (*others, encode(forged)):
        path.write_bytes(other)
        with pytest.raises(CommandFailed) as failure:
            offset_apply._write_undo(path, plan)
        assert failure.value.code is ExitCode.USAGE
        assert path.read_bytes() == other
