"""What a Prometheus would have seen of a run, and which of the shipped alerts it would have fired.

    with Scraper(fleet) as scraper: ...      # every worker's /metrics, every few seconds, from another thread
    fired_over(scraper.recording())          # the rules that the chart ships, evaluated over all of it by promtool

A worker that does not answer is `up` 0; one whose process is gone is gone, as from a cluster. What a run does not have
(the lag exporter, a daily scan) has no series here, so alerts about those say nothing.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

from prometheus_client.parser import text_string_to_metric_families

from sandbox.faults.fleet import Fleet, FleetWorker
from sandbox.servers.processes import ServerError

RULES: Final = Path(__file__).resolve().parents[2] / "helm" / "payout-streams" / "files" / "rules"
SCRAPE_SECONDS: Final = 5
EVALUATION_SECONDS: Final = 15
JOB: Final = "payouts-worker"
AT_ONCE_MAX: Final = 8
PROMTOOL_SECONDS_MAX: Final = 120.0
NOBODY_WATCHES_HERE: Final = frozenset({"LagExporterStale", "PiiScanNotRun"})
"""They say that something is not there, and a run does not have it."""

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A name and its labels, sorted."""


class EvaluationFailed(Exception):
    """promtool could not evaluate the rules; the message is its own."""


@dataclass
class Recording:
    """Samples by series and slot; a slot is `SCRAPE_SECONDS` long."""

    began_at: float
    samples: dict[Series, dict[int, float]] = field(default_factory=dict)
    looked: dict[int, frozenset[str]] = field(default_factory=dict)
    """Which instances were asked in a slot, those that did not answer included."""

    def add(self, slot: int, name: str, labels: Mapping[str, str], value: float) -> None:
        """One sample. Times are counted from the beginning, as the evaluation's clock does."""
        if name.endswith("_timestamp_seconds"):
            value -= self.began_at
        self.samples.setdefault((name, tuple(sorted(labels.items()))), {})[slot] = value

    @property
    def slots(self) -> int:
        """How many there are."""
        return max(self.looked, default=-1) + 1


class Scraper:
    """A thread that scrapes a fleet; a context manager."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._recording = Recording(time.time())
        self._begun = time.monotonic()
        self._wanted = _words_of_the_rules()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._scrape_until_ended, name="scraper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the scrape under way end, and begin no other."""
        self._ended.set()
        self._thread.join()

    def recording(self) -> Recording:
        """All of it; stops the scraping."""
        self.stop()
        return self._recording

    def _scrape_until_ended(self) -> None:
        with ThreadPoolExecutor(AT_ONCE_MAX, thread_name_prefix="scrape") as pool:
            wait_seconds = 0.0
            while not self._ended.wait(wait_seconds) or not self._recording.looked:
                slot = int((time.monotonic() - self._begun) / SCRAPE_SECONDS)
                workers = self._fleet.workers
                for worker, text in zip(workers, pool.map(_text_of, workers), strict=True):
                    self._take(slot, worker.name, text)
                self._recording.looked[slot] = frozenset(worker.name for worker in workers)
                next_at = self._begun + (slot + 1) * SCRAPE_SECONDS
                wait_seconds = max(0.0, next_at - time.monotonic())

    def _take(self, slot: int, instance: str, text: str | None) -> None:
        target = {"job": JOB, "instance": instance}
        self._recording.add(slot, "up", target, 0.0 if text is None else 1.0)
        for family in text_string_to_metric_families(text or ""):
            for sample in family.samples:
                if sample.name in self._wanted and math.isfinite(sample.value):
                    self._recording.add(slot, sample.name, {**sample.labels, **target}, sample.value)


def _text_of(worker: FleetWorker) -> str | None:
    try:
        return worker.metrics_text()
    except ServerError:
        return None


def _words_of_the_rules() -> frozenset[str]:
    return frozenset(word for path in RULES.glob("*.yaml") for word in re.findall(r"[a-z_0-9]+", path.read_text()))


def promtool() -> str | None:
    """Prometheus's own evaluator, where it is installed."""
    return shutil.which("promtool")


def fired_over(recording: Recording) -> frozenset[str]:
    """Every alert that fired at any time, as `Name severity`. Raises EvaluationFailed."""
    program = promtool()
    if program is None:
        raise EvaluationFailed("promtool is not installed")
    with TemporaryDirectory() as directory:
        test = Path(directory) / "run.test.yaml"
        test.write_text(json.dumps(_as_test(recording)))  # JSON is YAML, and needs no quoting rules
        done = subprocess.run(
            [program, "test", "rules", str(test)],
            capture_output=True,
            text=True,
            timeout=PROMTOOL_SECONDS_MAX,
            check=False,
        )
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return frozenset()
    got = re.search(r"got: (\{.+)", said)
    if got is None:
        raise EvaluationFailed(said[-2000:])
    found = re.findall(r'\{alertname="(\w+)", severity="(\w+)"\}', got[1])
    return frozenset(f"{name} {severity}" for name, severity in found if name not in NOBODY_WATCHES_HERE)


def _as_test(recording: Recording) -> dict[str, object]:
    """A unit test that expects silence: what it finds instead is what fired."""
    end = recording.slots * SCRAPE_SECONDS
    asked = f'count by (alertname, severity) (count_over_time(ALERTS{{alertstate="firing"}}[{end + 1}s]))'
    return {
        "rule_files": [str(path) for path in sorted(RULES.glob("*.yaml"))],
        "evaluation_interval": f"{EVALUATION_SECONDS}s",
        "tests": [
            {
                "interval": f"{SCRAPE_SECONDS}s",
                "input_series": [_as_series(series, recording) for series in sorted(recording.samples)],
                "promql_expr_test": [{"expr": asked, "eval_time": f"{end}s", "exp_samples": []}],
            }
        ],
    }


def _as_series(series: Series, recording: Recording) -> dict[str, str]:
    name, labels = series
    written = ",".join(f"{label}={json.dumps(value)}" for label, value in labels)
    values = _values(recording.samples[series], recording)
    return {"series": f"{name}{{{written}}}", "values": " ".join(values)}


def _values(samples: Mapping[int, float], recording: Recording) -> Iterable[str]:
    """`_` where nobody looked, `stale` where somebody did and it was gone: an old value must not live on."""
    for slot in range(recording.slots):
        if slot in samples:
            yield _number(samples[slot])
        elif slot in recording.looked and slot - 1 in samples:
            yield "stale"
        else:
            yield "_"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.9f}"
