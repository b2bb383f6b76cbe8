"""The modes on real servers with two workers: nothing leaves that a mode forbids, everybody obeys within a second.

The brake is tested with a worker that never hears of it: the other one would stop by itself within a moment, and then
nothing would show whether the ledger had anything to do with it.
"""

from __future__ import annotations

import json
import logging
import statistics
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from ops.main import app
from processors.payout.modes import Activity, Mode, allows
from streams.modes import LOOK_EVERY_SECONDS
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import Pipeline, Worker, assert_paid_once, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

log = logging.getLogger(__name__)

DEAF = "tests.integration.pipeline.deaf_worker"
OBEYED_SECONDS = 1.0
"""The promise, for the middle one of the measured times; a machine that stands still for a moment is no finding."""
OUR_TOPICS = ("payout_validated", "payout_cleared", "payout_retry", "payout_results")


@pytest.fixture(scope="module")
def two(make_pipeline: MakePipeline) -> Iterator[Pipeline]:
    """A pipeline of this module alone; its tests start their workers."""
    return make_pipeline()


def set_mode(pipeline: Pipeline, mode: Mode, *, wait_seconds: float = 12.0) -> dict[str, Any]:
    """`payouts modes set`, to its end."""
    words = ["modes", "set", mode.value, "--reason", "a test of the modes", "--operator", "operator-1", "--yes"]
    words += ["--wait", str(wait_seconds), "--output", "json"]
    answer = CliRunner().invoke(app, words, env={"DATABASE_URL": pipeline.database_url, "PAYOUTS_PROFILE": "test"})
    assert answer.exit_code == 0, answer.stderr
    return dict(json.loads(answer.stdout))


def metric(worker: Worker, name: str, **labels: str) -> float:
    """One sample of a worker's metrics."""
    families = text_string_to_metric_families(worker.answer("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def uptime(worker: Worker) -> float:
    """Seconds of a worker's life, by its own clock: a worker that stands still ages."""
    return float(worker.answer("/health").json()["uptime_seconds"])


def refused_begins(worker: Worker) -> float:
    """Calls of a worker that the ledger did not let begin."""
    return metric(worker, "payouts_calls_not_begun_total", why="MODE")


def obeys(worker: Worker, mode: Mode) -> bool:
    """By its own health page."""
    return worker.health().get("mode", {}).get("obeyed") == mode.value


def sockets_to_visa(pipeline: Pipeline, worker: Worker) -> int:
    """Connections of the worker's process to the stand-in, whatever their state."""
    port = urlsplit(pipeline.visa.base_url).port
    process = psutil.Process(worker.process.pid)
    found = [place for place in process.net_connections("tcp") if place.raddr and place.raddr.port == port]
    return sum(place.status != "TIME_WAIT" for place in found)


def states(pipeline: Pipeline, payout_ids: list[str]) -> dict[str, int]:
    """How many of them stand where."""
    query = "SELECT state, count(*) AS rows FROM payouts WHERE payout_id = ANY($1) GROUP BY 1"
    return {row["state"]: row["rows"] for row in pipeline.fetch(query, payout_ids)}


def calls(pipeline: Pipeline) -> int:
    """What has reached the stand-in since it was started, by its own account."""
    return len(pipeline.visa_requests())


def ended(pipeline: Pipeline, payout_ids: list[str]) -> None:
    """P1, P2, E5: back to normal, nothing is lost and nothing was paid twice."""
    pipeline.wait_all(payout_ids)
    assert_paid_once(pipeline, payout_ids)


def test_after_halted_no_new_call_leaves(two: Pipeline) -> None:
    """L9, L3, P2, E5, S0-49: under load, also from a worker that has not heard of it; a restart keeps the mode."""
    hears, deaf = two.worker("hears"), two.worker("deaf", module=DEAF)
    for worker in (hears, deaf):
        worker.wait_until_assigned()
    two.visa_faults({"operation": "push", "fault": "slow", "seconds": 0.3})
    early = two.send_many(two.request() for _ in range(60))
    until("payouts at Visa", lambda: sum(two.approved_counts(early).values()) >= 5)
    loading, more = threading.Event(), list[str]()

    def load() -> None:
        while not loading.wait(0.1):
            more.extend(two.send_many(two.request() for _ in range(2)))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        set_mode(two, Mode.HALTED)
        arrived, refused_before = calls(two), refused_begins(deaf)
        assert states(two, early).get("SUBMITTING", 0) == 0, "every call begun before has ended"
        until(
            "ten calls that would have left, or one that did",
            lambda: refused_begins(deaf) >= refused_before + 10 or calls(two) != arrived,
        )
        assert calls(two) == arrived, "L9: a call left after the command had returned"
        until("who heard of it obeys", lambda: obeys(hears, Mode.HALTED))
    finally:
        loading.set()
        thread.join()
    everything = early + more
    deaf.kill()
    starts = two.worker("starts").wait_until_assigned()
    until("it starts in the mode that it finds", lambda: obeys(starts, Mode.HALTED))
    late = two.send_many(two.request() for _ in range(10))
    begun = uptime(starts)
    until(
        "three seconds of its life, or a call",
        lambda: uptime(starts) > begun + 3 or calls(two) != arrived,
    )
    assert calls(two) == arrived, "a worker that was started in `halted` called"
    assert states(two, late) == {}, "nothing is taken"
    two.visa_faults()
    set_mode(two, Mode.NORMAL)
    ended(two, everything + late)


def _obeyed_after(worker: Worker, mode: Mode, set_at: datetime) -> float:
    """Seconds from the commit to the worker's own line that it obeys: both by the clock of this machine."""
    for line in reversed(worker.log().splitlines()):
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("message") == "the mode is obeyed" and said.get("mode") == mode.value:
            return (datetime.fromisoformat(said["@timestamp"]).astimezone(UTC) - set_at).total_seconds()
    raise AssertionError(f"{worker.log_path.name} does not say that it obeys {mode.value}")


def _is_in_the_audit(pipeline: Pipeline, word: bytes) -> bool:
    return any(word in (record.value or b"") for record in pipeline.events("payout_audit"))


def test_e5_every_worker_obeys_every_mode_within_a_second(two: Pipeline) -> None:
    """E5, S3-36: two workers; what is not to be taken is not taken, and in `isolation` no socket to Visa is left."""
    two.supervise()
    running = [worker for worker in two.workers if worker.process.is_running]
    workers = running or [two.worker("first"), two.worker("second")]
    for worker in workers:
        worker.wait_until_assigned()
    sent = two.send_many(two.request() for _ in range(10))
    two.wait_all(sent)
    taken: dict[str, float] = {}
    untaken: list[str] = []
    for mode in [mode for mode in Mode if mode is not Mode.NORMAL]:
        set_at = datetime.fromisoformat(set_mode(two, mode)["set_at"])
        until(f"both obey {mode}", lambda mode=mode: all(obeys(worker, mode) for worker in workers))
        taken[mode.value] = max(_obeyed_after(worker, mode, set_at) for worker in workers)
        assert all(metric(worker, "payout_mode", mode=mode.value) == 1.0 for worker in workers)
        if mode in (Mode.ISOLATION, Mode.HALTED):
            until("no socket to Visa", lambda: not any(sockets_to_visa(two, worker) for worker in workers))
        told = {topic: len(two.events(topic)) for topic in OUR_TOPICS} if mode is Mode.ISOLATION else {}
        (asked,) = two.send_many([two.request()])
        sent.append(asked)
        if allows(mode, Activity.TAKE):
            two.wait_all([asked])
        else:
            untaken.append(asked)
        if mode is Mode.ISOLATION:
            until("the mode in the audit", lambda: _is_in_the_audit(two, b"isolation"))
            assert {topic: len(two.events(topic)) for topic in OUR_TOPICS} == told
    assert states(two, untaken) == {}, "the first of them has waited for as long as the other modes were measured"
    assert workers[0].terminate() == 0, "a worker that stands still leaves in order"
    log.warning("seconds from the commit to the last worker obeying: %s", taken)
    assert statistics.median(taken.values()) < OBEYED_SECONDS, taken
    assert 2 * LOOK_EVERY_SECONDS < OBEYED_SECONDS, "two looks, of which one may come just before the commit"
    set_mode(two, Mode.NORMAL)
    ended(two, sent)
