"""Alerts of a run: what was scraped is judged by the rules that ship."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from prometheus_client.exposition import generate_latest

from sandbox.faults.fleet import Fleet
from sandbox.faults.scrape import JOB, RULES, SCRAPE_SECONDS, Recording, Scraper, fired_over
from sandbox.servers.processes import ServerError
from streams.metrics import Metrics
from tests.promtool import NEEDS_PROMTOOL

WORKER = {"job": "payouts-worker", "instance": "worker-1"}
LETTER = {**WORKER, "topic": "payout_requests", "reason": "MALFORMED"}
MINUTE = 60 // SCRAPE_SECONDS


def recorded(minutes: int) -> Recording:
    """Somebody looked all the time, and the worker answered."""
    recording = Recording(began_at=1_800_000_000.0)
    for slot in range(minutes * MINUTE):
        recording.looked[slot] = frozenset({"worker-1"})
        recording.add(slot, "up", WORKER, 1)
    return recording


@NEEDS_PROMTOOL
def test_a_quiet_run_fires_nothing() -> None:
    """Neither do the watchers that a run does not have: the lag exporter, the scan, for as long as this."""
    assert RULES.is_dir()
    assert fired_over(recorded(minutes=3)) == frozenset()


@NEEDS_PROMTOOL
def test_what_happened_in_a_run_fires_its_alert() -> None:
    """A dead letter in the middle, two workers' worth of starts, a database that nobody reaches for two minutes."""
    recording = recorded(minutes=4)
    for slot in range(4 * MINUTE):
        recording.add(slot, "process_start_time_seconds", WORKER, slot // 6)
        recording.add(slot, "payouts_database_up", WORKER, 0 if slot > MINUTE else 1)
        if slot > 2 * MINUTE:
            recording.add(slot, "payouts_dead_letters_total", LETTER, 1)
    assert fired_over(recording) == {
        "RequestDeadLettered critical", "WorkerKeepsEnding warning", "DatabaseDown critical",
    }  # fmt: skip


@NEEDS_PROMTOOL
def test_a_worker_that_is_gone_leaves_no_value_behind() -> None:
    """Its last word was that no database answers; it is no reason to alert for what it does not say any more."""
    recording = recorded(minutes=4)
    for slot in range(2 * MINUTE, 2 * MINUTE + 4):
        recording.add(slot, "payouts_database_up", WORKER, 0)
    assert fired_over(recording) == frozenset()


def test_times_are_counted_from_the_beginning_of_the_run() -> None:
    """The evaluation's clock begins at 0: a certificate that ends in 29 days does so in a run, too."""
    recording = recorded(minutes=1)
    recording.add(0, "visa_certificate_expiry_timestamp_seconds", {**WORKER, "cert": "client"}, 1_800_000_100.0)
    ((_, values),) = [item for item in recording.samples.items() if item[0][0].startswith("visa")]
    assert values == {0: 100.0}


def test_what_a_worker_shows_is_recorded_as_a_prometheus_would() -> None:
    """Job, instance and `up` beside the worker's own labels; a frozen worker is down, and shows nothing."""
    metrics = Metrics()
    metrics.dead_letters.labels("payout_requests", "MALFORMED").inc()

    def silent() -> str:
        raise ServerError("frozen")

    shows = SimpleNamespace(name="worker-1", metrics_text=lambda: generate_latest(metrics.registry).decode())
    frozen = SimpleNamespace(name="worker-2", metrics_text=silent)
    with Scraper(cast("Fleet", SimpleNamespace(workers=[shows, frozen]))) as scraper:
        pass  # it has looked once before it ends
    samples = scraper.recording().samples
    assert samples["up", (("instance", "worker-1"), ("job", JOB))] == {0: 1.0}
    assert samples["up", (("instance", "worker-2"), ("job", JOB))] == {0: 0.0}
    assert samples["payouts_dead_letters_total", tuple(sorted(LETTER.items()))] == {0: 1.0}
    assert {dict(labels)["instance"] for name, labels in samples if name != "up"} == {"worker-1"}
