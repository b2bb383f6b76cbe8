"""What `payouts lag export` shows, without Kafka: names, labels, and nothing that is not known."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.group_members import GroupState, Member
from ops.lag import as_object
from ops.lag_export import Address, LagMetrics, serve
from ops.lag_look import GroupLag, PartitionLag, Watch
from ops.lag_status import SAMPLE_SECONDS, WINDOW_SAMPLES
from ops.repeating import Rhythm, ending_signals, repeat
from streams.settings import Settings

NOW = 1_800_000_000.0
KEEP_SECONDS = 60.0


def partition(number: int, committed: int | None, end: int, seconds: float | None, **changes: Any) -> PartitionLag:
    """A partition of one topic."""
    values: dict[str, Any] = {
        "topic": "payout_requests",
        "partition": number,
        "earliest_offset": 0,
        "committed_offset": committed,
        "end_offset": end,
        "lag_seconds": seconds,
        "record_is_missing": False,
        "waits": committed is not None and committed < end,
        "member": None,
        "host": None,
    }
    return PartitionLag(**(values | changes))


def look(*partitions: PartitionLag, state: GroupState = GroupState.EMPTY, members: tuple[Member, ...] = ()) -> GroupLag:
    """The group at one moment."""
    return GroupLag(datetime.fromtimestamp(NOW, UTC), "payouts", state, members, partitions)


ORDINARY = look(
    partition(0, 40, 100, 12.5, member="worker-1", host="10.0.0.1"),
    partition(1, 100, 100, 0.0, member="worker-1", host="10.0.0.1"),
    partition(2, None, 30, None),
    state=GroupState.STABLE,
    members=(Member("worker-1", "10.0.0.1", (("payout_requests", 0), ("payout_requests", 1))),),
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def samples(metrics: LagMetrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What a scraper reads: name -> labels -> value."""
    registry = CollectorRegistry()
    registry.register(metrics)
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.type == "gauge", family.name
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    """As `samples` has them."""
    return tuple(sorted({"cluster_name": "eu-1", **values}.items()))


def of(number: int) -> tuple[tuple[str, str], ...]:
    """The labels of one partition."""
    return labels(group="payouts", topic="payout_requests", partition=str(number))


def shown(*looks: GroupLag, clock: Clock | None = None) -> LagMetrics:
    """Metrics after these looks."""
    metrics = LagMetrics("eu-1", KEEP_SECONDS, clock or Clock())
    for number, one in enumerate(looks):
        metrics.took(one, 0.25, number * SAMPLE_SECONDS)
    return metrics


def test_a_partition_without_a_commit_has_no_lag_and_is_counted() -> None:
    """S3-09: never a made-up number."""
    found = samples(shown(ORDINARY))
    assert found["kafka_consumergroup_group_lag"] == {of(0): 60, of(1): 0}
    assert found["kafka_consumergroup_group_offset"] == {of(0): 40, of(1): 100}
    assert found["kafka_consumergroup_group_lag_seconds"] == {of(0): 12.5, of(1): 0}
    assert found["kafka_partition_latest_offset"][labels(topic="payout_requests", partition="2")] == 30
    assert found["payouts_consumergroup_uncommitted_partitions"] == {labels(group="payouts"): 1}
    assert found["kafka_consumergroup_group_sum_lag"] == {labels(group="payouts"): 60}
    assert found["kafka_consumergroup_group_max_lag"] == {labels(group="payouts"): 60}
    assert found["kafka_consumergroup_group_max_lag_seconds"] == {labels(group="payouts"): 12.5}
    assert found["kafka_consumergroup_group_topic_sum_lag"] == {labels(group="payouts", topic="payout_requests"): 60}
    assert found["payouts_consumergroup_members"] == {labels(group="payouts"): 1}


def test_where_nothing_is_committed_there_is_no_sum() -> None:
    """A sum over nothing would say that all is done."""
    found = samples(shown(look(partition(0, None, 5, None), state=GroupState.DEAD)))
    assert not {name for name in found if name.endswith(("_lag", "_lag_seconds"))}
    assert found["payouts_consumergroup_uncommitted_partitions"] == {labels(group="payouts"): 1}


def test_the_state_is_one_of_a_fixed_list() -> None:
    """Every state is a series, so that none disappears without a trace and none is unbounded."""
    found = samples(shown(ORDINARY))["kafka_consumergroup_group_state"]
    assert len(found) == len(GroupState)
    assert [dict(key)["state"] for key, value in found.items() if value] == ["STABLE"]


def test_a_record_that_did_not_come_leaves_no_seconds_and_no_maximum() -> None:
    """What is not known could be the largest."""
    found = samples(shown(look(partition(0, 1, 9, 700.0), partition(1, 1, 9, None, record_is_missing=True))))
    assert found["kafka_consumergroup_group_lag_seconds"] == {of(0): 700}
    assert "kafka_consumergroup_group_max_lag_seconds" not in found
    assert found["payouts_consumergroup_unknown_lag_seconds_partitions"] == {labels(group="payouts"): 1}
    assert found["kafka_consumergroup_group_max_lag"] == {labels(group="payouts"): 8}


def test_a_failed_look_drops_the_samples_and_says_so() -> None:
    """An old number is a made-up one: up is 0, and only the time of the last good look stays."""
    metrics = shown(ORDINARY)
    metrics.failed(10.0)
    found = samples(metrics)
    assert set(found) == {
        "kafka_lag_exporter_up",
        "kafka_lag_exporter_last_update_timestamp_seconds",
        "kafka_lag_exporter_scrape_duration_seconds",
    }
    assert found["kafka_lag_exporter_up"] == {labels(): 0}
    assert found["kafka_lag_exporter_last_update_timestamp_seconds"] == {labels(): NOW}
    assert found["kafka_lag_exporter_scrape_duration_seconds"] == {labels(): 10}
    metrics.took(ORDINARY, 0.5, 100.0)
    assert samples(metrics)["kafka_lag_exporter_up"] == {labels(): 1}


def test_before_the_first_look_there_is_no_time_of_one() -> None:
    assert set(samples(LagMetrics("eu-1", KEEP_SECONDS))) == {"kafka_lag_exporter_up"}


def test_a_look_that_hangs_makes_what_was_seen_too_old() -> None:
    clock = Clock()
    metrics = shown(ORDINARY, clock=clock)
    clock.now += KEEP_SECONDS
    assert metrics.up
    clock.now += 0.1
    assert samples(metrics)["kafka_lag_exporter_up"] == {labels(): 0}
    assert "kafka_consumergroup_group_lag" not in samples(metrics)


def test_the_status_is_shown_for_each_partition_with_how_much_of_the_window_is_there() -> None:
    """Burrow's rules over looks: a member is there, work waits, the offset stands."""
    begun = samples(shown(ORDINARY))
    assert begun["payouts_consumergroup_window_complete_ratio"] == {labels(group="payouts"): 0.1}
    found = samples(shown(*[ORDINARY] * WINDOW_SAMPLES))
    assert found["payouts_consumergroup_window_complete_ratio"] == {labels(group="payouts"): 1}
    status = {
        (dict(key)["partition"], dict(key)["status"])
        for key, value in found["payouts_consumergroup_partition_status"].items()
        if value
    }
    assert status == {("0", "STALL"), ("1", "OK")}


def test_offsets_without_records_are_no_work() -> None:
    """Marks of transactions occupy offsets: a group that is done must not be called stalled for them."""
    marks = look(partition(0, 99, 100, 0.0, waits=False, member="worker-1"))
    seen = Watch()
    for number in range(WINDOW_SAMPLES):
        seen.add(marks, number * SAMPLE_SECONDS)
    assert as_object(marks, seen)["partitions"][0]["status"] == "OK"
    assert as_object(marks, seen)["partitions"][0]["lag_records"] == 1


def test_no_label_names_a_member_or_a_host() -> None:
    """Members come and go with every rebalance: a series for each would never end."""
    names = {name for series in samples(shown(ORDINARY)).values() for key in series for name, _ in key}
    assert names == {"cluster_name", "group", "topic", "partition", "state", "status"}


def test_a_partition_that_is_gone_is_forgotten() -> None:
    """Bounded history: one window for each partition that there is."""
    seen = Watch()
    seen.add(ORDINARY, 0.0)
    seen.add(look(partition(7, 1, 2, 1.0)), SAMPLE_SECONDS)
    assert set(seen.windows) == {("payout_requests", 7)}


def test_json_has_everything_with_its_unit() -> None:
    """Names end in what they count; without looks before it there is no status."""
    values = as_object(ORDINARY, None)
    assert (values["lag_records"], values["max_lag_seconds"], values["uncommitted_partitions"]) == (60, 12.5, 1)
    assert (values["status"], values["window_complete_ratio"]) == (None, None)
    assert values["group_members"] == [{"client_id": "worker-1", "host": "10.0.0.1", "partitions": 2}]
    assert values["topics"] == [{"topic": "payout_requests", "lag_records": 60}]
    first, _, last = values["partitions"]
    assert (first["lag_records"], first["lag_seconds"], first["member"]) == (60, 12.5, "worker-1")
    assert (last["committed_offset"], last["lag_records"], last["lag_seconds"]) == (None, None, None)


def test_what_retention_removed_unread_is_counted() -> None:
    expired = partition(0, 5, 30, 1.0, earliest_offset=12)
    assert (expired.expired_records, expired.lag_records) == (7, 25)
    assert partition(0, 30, 30, 0.0, earliest_offset=12).expired_records == 0


def test_a_commit_beyond_the_end_is_no_negative_lag() -> None:
    """The topic was made anew under its name."""
    assert partition(0, 50, 10, 0.0).lag_records == 0


async def test_a_taken_port_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.kafka.ADMIN_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailed) as failed:
            await serve(Settings(), Address("127.0.0.1", port), "kafka", Rhythm(1.0))
    assert failed.value.code is ExitCode.USAGE
    assert str(port) in failed.value.what


# The rhythm.


async def test_a_signal_ends_a_step_that_hangs_and_what_it_did_before_is_put_back() -> None:
    """A dead broker is waited for by nobody who has said that he wants to go."""
    before = signal.getsignal(signal.SIGTERM)
    begun = asyncio.Event()

    async def hangs() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ending_signals() as ended:
        running = asyncio.create_task(repeat(hangs, Rhythm(300.0), ended))
        await begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("rhythm", "steps"),
    [(Rhythm(0.001, times=3), 3), (Rhythm(300.0, seconds=5.0), 1), (Rhythm(300.0, times=1), 1)],
)
async def test_steps_are_bounded_by_their_number_and_by_time(rhythm: Rhythm, steps: int) -> None:
    taken: list[int] = []

    async def step() -> None:
        taken.append(1)

    await repeat(step, rhythm, asyncio.Event())
    assert len(taken) == steps
