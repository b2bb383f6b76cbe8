"""`payouts offsets` against a real Kafka and a real PostgreSQL (rules R2, K9, L10)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from typer.testing import CliRunner, Result

import ops.backup
import ops.offset_cluster
from ledger.offset_actions import offset_actions
from ledger.operator_notes import SMOKE_BEGUN, note
from ops.backup_topics import plan_offsets, read_offsets
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.main import app
from ops.offset_cluster import Cluster
from ops.offset_plans import OffsetPlan, decode_plan, encode
from schemas.topics import topic_name
from streams.settings import Settings
from tests.integration.pipeline.conftest import (
    MakePipeline,
    background_loop,
    pipeline_maker,
    processor_keys,
    visa,
)
from tests.integration.pipeline.pipeline_harness import Pipeline, assert_paid_once, new_id, until

__all__ = ["background_loop", "processor_keys", "visa"]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

REQUESTS = "payout_requests"
REASON = "INC-9: not these"


@pytest.fixture(scope="module")
def make_pipeline(request: pytest.FixtureRequest) -> Iterator[MakePipeline]:
    """Pipelines whose workers end with this file."""
    with pipeline_maker(request) as make:
        yield make


class Desk:
    """An operator, his files, and the pipeline that he looks after."""

    def __init__(self, pipeline: Pipeline, directory: Path) -> None:
        self.pipeline = pipeline
        self.directory = directory
        self.topic = topic_name(REQUESTS, pipeline.prefix)

    def run(self, *words: str, offsets: bool = True) -> Result:
        """`payouts offsets WORDS…` in this process."""
        environment = {**self.pipeline.environment("command"), "PAYOUTS_OPERATOR": "maria"}
        return CliRunner().invoke(app, [*(("offsets",) if offsets else ()), *words], env=environment)

    def data(self, *words: str, code: ExitCode = ExitCode.OK, offsets: bool = True) -> Any:
        """The JSON that a command prints."""
        result = self.run(*words, "--output", "json", offsets=offsets)
        assert result.exit_code == code, f"{result.stderr}\n{result.stdout}"
        return json.loads(result.stdout)

    def file(self, name: str) -> str:
        return str(self.directory / name)

    def plan(self, *words: str, name: str = "plan.json", code: ExitCode = ExitCode.OK) -> Any:
        """A plan in a file."""
        return self.data("plan", *words, "--out", self.file(name), code=code)

    def read(self, name: str = "plan.json") -> OffsetPlan:
        return decode_plan(Path(self.file(name)).read_bytes())

    def write(self, plan: OffsetPlan, name: str) -> str:
        Path(self.file(name)).write_bytes(encode(plan))
        return self.file(name)

    def apply(self, *words: str, name: str = "plan.json", code: ExitCode = ExitCode.OK) -> Result:
        result = self.run("apply", self.file(name), "--reason", REASON, "--yes", *words)
        assert result.exit_code == code, f"{result.stderr}\n{result.stdout}"
        return result

    def commit(self, offset: int, partition: int = 0) -> None:
        """As if workers had come so far."""
        self.pipeline.commit([TopicPartition(self.topic, partition, offset)])

    def committed(self, partition: int = 0) -> int:
        return self.pipeline.committed(REQUESTS, partition)

    def held(self) -> dict[str, str]:
        rows = self.pipeline.fetch("SELECT payout_id, hold_reason FROM payouts WHERE held")
        return {row["payout_id"]: row["hold_reason"] for row in rows}

    def operator_lines(self) -> list[tuple[str, str, Any]]:
        rows = self.pipeline.fetch(
            "SELECT transition, actor, detail FROM history WHERE payout_id IS NULL AND transition LIKE 'offsets%' "
            "ORDER BY id"
        )
        return [(row["transition"], row["actor"], json.loads(row["detail"])) for row in rows]


@pytest.fixture
def desk(make_pipeline: MakePipeline, tmp_path: Path) -> Desk:
    """Five payouts, something that nobody can read, and a record under another payout's key, in one partition."""
    pipeline = make_pipeline(payout_requests=2)
    desk = Desk(pipeline, tmp_path)
    desk.payouts = [new_id() for _ in range(5)]  # type: ignore[attr-defined]
    for payout_id in payouts_of(desk):
        pipeline.send(pipeline.request(payout_id), 0)
    pipeline.produce(REQUESTS, b"nobody can read this", b"unreadable", 0)
    pipeline.produce(REQUESTS, pipeline.encode("PayoutRequest", pipeline.request()), b"another-payout", 0)
    desk.commit(0)
    return desk


def settings_of(desk: Desk) -> Settings:
    environment = {key.lower(): value for key, value in desk.pipeline.environment("x").items()}
    return Settings.model_validate({k: v for k, v in environment.items() if k in Settings.model_fields})


def payouts_of(desk: Desk) -> list[str]:
    found: list[str] = desk.payouts  # type: ignore[attr-defined]
    return found


def test_r2_a_skip_is_planned_held_verified_and_taken_back(desk: Desk) -> None:
    """R2, L12, K9, L10: every payout skipped has a row and is held, nothing is silent, and undo pays them once."""
    plan = desk.plan("--topic", f"{REQUESTS}:0", "--to-latest")
    (line,) = plan["moves"]
    assert (line["old"], line["new"], line["delta"], line["direction"]) == (0, 7, 7, "skip")
    assert plan["skip"] == {
        "records": 7, "payouts": 5, "ended": 0, "open": 0, "unseen": 5, "undecodable": 1, "foreign": 1,
        "money": {"USD": 12500},
    }  # fmt: skip
    assert desk.held() == {}
    assert desk.committed() == 0

    assert "must be typed exactly" in desk.apply(code=ExitCode.REFUSED).stderr
    desk.apply("--skip-payouts", "4", code=ExitCode.REFUSED)
    dry = desk.run("apply", desk.file("plan.json"), "--reason", REASON, "--skip-payouts", "5", "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    assert "assign()" in dry.stderr
    assert (desk.committed(), desk.held(), desk.operator_lines()) == (0, {}, [])
    assert not Path(desk.file("plan.undo.json")).exists()

    desk.apply("--skip-payouts", "5")
    assert desk.committed() == 7
    held = desk.held()
    assert set(held) == set(payouts_of(desk))
    assert all(reason.startswith("OPERATOR: skipped by offset plan ") and REASON in reason for reason in held.values())
    assert desk.pipeline.transitions(payouts_of(desk)[0]) == ["received", "held"]
    assert len(desk.pipeline.events("payout_dead_letters")) == 2
    digest = desk.read().digest
    begun, applied = desk.operator_lines()
    assert [begun[0], applied[0]] == ["offsets_begun", "offsets_applied"]
    assert (applied[1], applied[2]["plan"], applied[2]["reason"], applied[2]["held"]) == ("maria", digest, REASON, 5)
    assert begun[2]["skip"]["money"] == {"USD": 12500}

    verified = desk.data("verify", desk.file("plan.json"))
    assert [row["fate"] for row in verified["partitions"]] == ["as planned"]
    assert (verified["skipped"]["held"], verified["skipped"]["seen"], verified["skipped"]["missing"]) == (5, 2, 0)
    assert desk.data("intake", "verify", offsets=False) == []
    (committed,) = desk.pipeline.committed_places(REQUESTS, [0])
    assert str(committed.metadata).startswith("topic-id=")

    undo = [desk.file("plan.undo.json"), "--reason", "INC-9: they are right"]
    shown = desk.run("undo", *undo, "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert "5 payouts, 125.00 USD: MONEY MOVES" in shown.stdout
    assert (desk.committed(), len(desk.held())) == (7, 5)
    done = desk.data("undo", *undo, "--yes")
    assert (done["released"], done["partitions_moved"]) == (5, 1)
    assert (desk.committed(), desk.held()) == (0, {})
    again = desk.run("undo", *undo, "--yes")
    assert again.exit_code == ExitCode.REFUSED, again.stderr
    assert "applied already" in desk.apply("--skip-payouts", "5", code=ExitCode.REFUSED).stderr

    desk.pipeline.worker("after the undo").wait_until_assigned()
    desk.pipeline.wait_all(payouts_of(desk))
    assert_paid_once(desk.pipeline, payouts_of(desk))
    until("everything read", lambda: desk.committed() == 7)
    active = desk.run("plan", "--topic", REQUESTS, "--to-earliest", "--out", desk.file("late.json"), "--output", "json")
    replay = json.loads(active.stdout)["replay"]
    assert (replay["payouts"], replay["ended"], replay["money"]) == (5, 5, {"USD": 12500})
    refused = desk.apply(name="late.json", code=ExitCode.GROUP_ACTIVE)
    assert "is active" in refused.stderr
    waited = desk.run("show", "--wait-empty", "0.1")
    assert waited.exit_code == ExitCode.GROUP_ACTIVE
    assert desk.pipeline.workers[-1].terminate() == 0
    assert desk.data("show", "--wait-empty", "20")["state"] == "EMPTY"
    desk.apply(name="late.json")
    assert desk.committed() == 0


def test_what_is_neither_held_nor_seen_is_found(desk: Desk) -> None:
    """K9: verify is no formality: a payout whose hold somebody took away in the database is named."""
    desk.plan("--topic", f"{REQUESTS}:0", "--to-offset", "3")
    desk.apply("--skip-payouts", "3")
    desk.pipeline.execute("UPDATE payouts SET held = false, hold_reason = NULL")
    found = desk.data("verify", desk.file("plan.json"))
    assert found["skipped"]["released"] == 3, "the history says that they were held"
    # Skipped with Kafka's own tool, as nobody should.
    desk.commit(5)
    moved = desk.read().moves[0].model_copy(update={"new": 5})
    forged = desk.read().model_copy(update={"moves": (moved,)})
    desk.write(forged, "forged.json")

    async def note() -> None:
        from ledger.offset_actions import Step

        async with offset_actions(desk.pipeline.database_url) as actions:
            await actions.note(Step.APPLIED, "maria", {"plan": forged.digest})

    asyncio.run(note())
    found = desk.data("verify", desk.file("forged.json"), code=ExitCode.FOUND)
    assert found["skipped"]["missing"] == 5
    assert f"{desk.topic}-0-4" in found["skipped"]["samples"]
    desk.commit(1)
    found = desk.data("verify", desk.file("plan.json"), code=ExitCode.FOUND)
    assert [row["fate"] for row in found["partitions"]] == ["not as planned"]


def test_bad_plans_and_backups_are_refused_and_change_nothing(desk: Desk) -> None:
    """Issue, bad input: each refused with a reason and an exit code, nothing changed."""
    desk.plan("--topic", f"{REQUESTS}:0", "--to-latest")
    plan, typed = desk.read(), ("--skip-payouts", "5")
    written = Path(desk.file("plan.json")).read_bytes()

    def refused(name: str, words: str, code: ExitCode = ExitCode.REFUSED) -> None:
        assert words in desk.apply(*typed, name=name, code=code).stderr, name
        assert (desk.committed(), desk.held(), desk.operator_lines()) == (0, {}, []), name

    Path(desk.file("edited.json")).write_bytes(written.replace(b'"new": 7', b'"new": 6'))
    refused("edited.json", "not as it was written")
    Path(desk.file("space.json")).write_bytes(written + b" ")
    refused("space.json", "not as it was written")
    Path(desk.file("no.json")).write_bytes(b"[]")
    refused("no.json", "this is no offset plan", ExitCode.USAGE)
    refused("absent.json", "there is no such file", ExitCode.USAGE)
    other = {"cluster_id": "another-cluster", "group": "another-group", "topic_ids": {desk.topic: "another-topic"}}
    for name, value in other.items():
        desk.write(plan.model_copy(update={name: value}), f"{name}.json")
    refused("cluster_id.json", "another cluster")
    refused("group.json", "another group")
    refused("topic_ids.json", "made anew")
    desk.write(plan.model_copy(update={"made_at": datetime.now(UTC) - timedelta(hours=2)}), "old.json")
    refused("old.json", "s old, and may be")
    beyond = plan.moves[0].model_copy(update={"new": 8})
    desk.write(plan.model_copy(update={"moves": (beyond,)}), "beyond.json")
    refused("beyond.json", "beyond the log")
    desk.write(plan.model_copy(update={"kind": "undo", "undoes": "0" * 64}), "undo.json")
    refused("undo.json", "this is an undo plan", ExitCode.USAGE)
    never = desk.run("undo", desk.file("undo.json"), "--reason", REASON, "--yes")
    assert (never.exit_code, "never applied" in never.stderr) == (ExitCode.REFUSED, True)

    desk.commit(1)
    assert "offsets moved since the plan" in desk.apply(*typed, code=ExitCode.REFUSED).stderr
    desk.commit(0)
    no_reason = desk.run("apply", desk.file("plan.json"), *typed, "--yes")
    assert no_reason.exit_code == ExitCode.USAGE

    async def by_two() -> None:
        async with offset_actions(desk.pipeline.database_url) as actions:
            assert await actions.lock()
            loser = await asyncio.to_thread(desk.apply, *typed, code=ExitCode.REFUSED)
            assert "somebody else is moving offsets" in loser.stderr

    asyncio.run(by_two())
    assert (desk.committed(), desk.held(), desk.operator_lines()) == (0, {}, [])

    backup = desk.data("backup", desk.file("backup.json"))
    assert backup["partitions"] == 1
    kept = Path(desk.file("backup.json")).read_bytes()
    Path(desk.file("changed.json")).write_bytes(kept.replace(b'"offset": 0', b'"offset": 1'))
    changed = desk.run("restore", desk.file("changed.json"))
    assert (changed.exit_code, "not as it was written" in changed.stderr) == (ExitCode.REFUSED, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--to-datetime", "2999-01-01T00:00:00.000"], ExitCode.REFUSED, "in the future"),
        (["--by-duration", "-PT1H"], ExitCode.REFUSED, "in the future"),
        (["--to-offset", "8"], ExitCode.REFUSED, "beyond the log"),
        (["--to-latest", "--to-earliest"], ExitCode.USAGE, "exactly one"),
        ([], ExitCode.USAGE, "exactly one"),
        (["--to-datetime", "yesterday"], ExitCode.USAGE, "a time is"),
        (["--to-latest", "--all-topics"], ExitCode.USAGE, "which topics"),
        (["--to-latest", "--group", "nobody-knows-it"], ExitCode.USAGE, "No such option"),
    ],
)
def test_plans_that_cannot_be_made_are_refused(refusing: Desk, words: list[str], code: ExitCode, said: str) -> None:
    """Issue, bad input: a time in the future, an offset beyond the log, a group that is not the workers'."""
    result = refusing.run("plan", "--topic", f"{REQUESTS}:0", *words)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr


@pytest.fixture(scope="module")
def refusing(make_pipeline: MakePipeline, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One pipeline for what only asks: four payouts in partition 0, two of them read."""
    desk = Desk(make_pipeline(payout_requests=2), tmp_path_factory.mktemp("refusing"))
    for _ in range(4):
        desk.pipeline.send(desk.pipeline.request(), 0)
    desk.commit(2)
    return desk


def test_kafkas_flags_lead_where_kafkas_own_tool_leads(refusing: Desk) -> None:
    """R2: earliest, latest, current, offset, shift, time, duration and file, of one partition or all."""
    one = ["--topic", f"{REQUESTS}:0"]

    def new(*words: str) -> list[int]:
        return [move["new"] for move in refusing.data("plan", *words)["moves"]]

    assert new(*one, "--to-earliest") == [0]
    assert new(*one, "--to-latest") == [4]
    assert new(*one, "--to-current") == [2]
    assert new(*one, "--to-offset", "3") == [3]
    assert new(*one, "--to-offset", "9", "--clamp") == [4]
    assert new(*one, "--shift-by", "-1") == [1]
    assert new(*one, "--shift-by", "-5") == [0]
    assert new(*one, "--to-datetime", "2020-01-01T00:00:00.000") == [0]
    assert new(*one, "--by-duration", "PT1H") == [0]
    assert new(*one, "--by-duration", "PT0S") == [4]
    assert new("--topic", refusing.topic, "--to-latest") == [4, 0]
    assert len(new("--all-topics", "--to-earliest")) == 2 + 6 * 3
    exported = refusing.run("plan", *one, "--to-offset", "3", "--export")
    assert exported.stdout == f"{refusing.topic},0,3\n"
    Path(refusing.file("offsets.csv")).write_text(exported.stdout)
    assert new("--from-file", refusing.file("offsets.csv")) == [3]
    shown = refusing.data("show")
    rows = {(row["topic"], row["partition"]): row for row in shown["partitions"]}
    assert rows[refusing.topic, 0]["lag"] == 2
    assert rows[refusing.topic, 1]["committed"] is None
    assert rows[refusing.topic, 1]["lag"] is None, "nothing committed: no number"


def test_a_backup_is_put_back_by_a_plan(desk: Desk) -> None:
    """Issue: backup and restore; through the same plan, with the same refusals."""
    desk.commit(4)
    desk.data("backup", desk.file("backup.json"))
    again = desk.run("backup", desk.file("backup.json"))
    assert again.exit_code == ExitCode.USAGE, "a backup is never written over"
    desk.commit(2)
    plan = desk.data("restore", desk.file("backup.json"), "--out", desk.file("back.json"))
    assert (plan["kind"], plan["moves"][0]["new"], plan["skip"]["payouts"]) == ("restore", 4, 2)
    desk.apply("--skip-payouts", "2", name="back.json")
    assert desk.committed() == 4
    assert len(desk.held()) == 2


def test_the_broker_has_the_last_word_and_what_was_begun_can_be_finished(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2: somebody joins between the last look and the commit: 5 with what was done; then the same plan ends it."""
    desk.plan("--topic", f"{REQUESTS}:0", "--to-latest")
    joined: list[Consumer] = []
    real_commit = Cluster.commit

    def join_first(cluster: Cluster, *arguments: Any) -> Any:
        settings = {"bootstrap.servers": desk.pipeline.bootstrap_servers, "group.id": cluster.group, "log_level": 0}
        consumer = Consumer({**settings, "enable.auto.commit": False, "session.timeout.ms": 6000})
        consumer.subscribe([desk.topic])
        joined.append(consumer)
        until("a member", lambda: consumer.poll(0.1) is not None or consumer.assignment())
        return real_commit(cluster, *arguments)

    monkeypatch.setattr(ops.offset_cluster.Cluster, "commit", join_first)
    partly = desk.run("apply", desk.file("plan.json"), "--reason", REASON, "--skip-payouts", "5", "--yes")
    assert partly.exit_code == ExitCode.PARTIAL, partly.stderr
    assert "5 payouts held" in partly.stderr
    assert "somebody joined it meanwhile" in partly.stderr
    assert (desk.committed(), len(desk.held())) == (0, 5)
    assert [line[0] for line in desk.operator_lines()] == ["offsets_begun", "offsets_partly_applied"]

    monkeypatch.undo()
    joined[0].close()
    desk.apply("--skip-payouts", "5")
    assert (desk.committed(), len(desk.held())) == (7, 5)
    assert [desk.pipeline.transitions(name) for name in payouts_of(desk)] == [["received", "held"]] * 5
    done = desk.data("undo", desk.file("plan.undo.json"), "--reason", REASON, "--yes")
    assert done["released"] == 5


def test_a_restored_database_is_not_read_into_again(desk: Desk) -> None:
    """L11: a ledger behind its mark has forgotten requests that may have been paid; a replay would pay them twice."""
    desk.pipeline.worker("before").wait_until_assigned()
    desk.pipeline.wait_all(payouts_of(desk))
    query = "SELECT next_offset FROM verified_offsets WHERE next_offset = 7"
    until("everything verified", lambda: desk.pipeline.fetch(query), 60)
    assert desk.pipeline.workers[-1].terminate() == 0
    desk.pipeline.execute("UPDATE verified_offsets SET next_offset = 3")
    desk.data("show", "--wait-empty", "20")
    desk.plan("--topic", f"{REQUESTS}:0", "--to-earliest")
    refused = desk.apply(code=ExitCode.REFUSED)
    assert "restored copy" in refused.stderr
    assert desk.committed() == 7


def test_a_commit_of_an_active_group_is_named(desk: Desk) -> None:
    """The broker's own fencing: UNKNOWN_MEMBER_ID is no fault of the network."""
    error = KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
    assert ops.offset_cluster.not_committed(error, "g").code is ExitCode.GROUP_ACTIVE
    other = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    assert ops.offset_cluster.not_committed(other, "g").code is ExitCode.UNREACHABLE
    settings = settings_of(desk)
    with pytest.raises(CommandFailed) as refusal:
        Cluster(settings, f"{settings.group}-verified")
    assert refusal.value.code is ExitCode.REFUSED


def test_a_ledgers_restore_leaves_no_partition_ahead(desk: Desk) -> None:
    """K9, S4-32: also one that had nothing committed at the backup; the broker is asked again afterwards."""
    settings = settings_of(desk)
    saved = read_offsets(settings)
    desk.pipeline.send(desk.pipeline.request(), 1)
    desk.commit(5)
    desk.commit(1, partition=1)
    steps = plan_offsets(settings, saved, {}, with_records=False)
    assert [(step.partition, step.now, step.then) for step in steps if step.topic == desk.topic] == [
        (0, 5, 0), (1, 1, 0),
    ]  # fmt: skip
    assert asyncio.run(ops.backup._committed(settings, steps, "backup-1", "maria", "INC-1")) == 2
    assert [line[:2] for line in desk.operator_lines()] == [("offsets_begun", "maria"), ("offsets_applied", "maria")]
    assert (desk.committed(), desk.committed(1)) == (0, 0)
    with pytest.raises(CommandFailed) as moved:
        asyncio.run(ops.backup._committed(settings, steps, "backup-1", "maria", "INC-1"))
    assert moved.value.code is ExitCode.REFUSED


def test_l10_what_an_operator_is_about_to_do_stands_in_the_history(desk: Desk) -> None:
    asyncio.run(note(desk.pipeline.database_url, "maria", SMOKE_BEGUN, {"reason": REASON}))
    (line,) = desk.pipeline.fetch("SELECT actor, detail FROM history WHERE transition = 'smoke_begun'")
    assert (line["actor"], json.loads(line["detail"])) == ("maria", {"reason": REASON})
