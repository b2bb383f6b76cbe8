"""Runs targets under atheris, each in a process of its own, and says what came of it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz import corpus
from tests.fuzz.harness import UNCAUGHT, Target

ROOT: Final = Path(__file__).parents[2]
HANG_SECONDS: Final = 20
"""By the clock, on a machine that does other things; `harness.CPU_SECONDS_MAX` is the finer bound."""
RSS_LIMIT_MB: Final = 768
"""A worker has some 140 MB; one input that makes it five times that is an attack."""
GROWTH_MB_MAX: Final = 64
"""Of the resident memory, from the first fifth of a run to its end: caches are bounded and full long before."""
WARM_UP: Final = 0.2
OVERRUN_SECONDS: Final = 300
"""A run that is this much over its time is stopped: the fuzzer itself hangs."""
MERGE_SECONDS: Final = 600

_COUNTS: Final = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_STEPS: Final = re.compile(r"^#(\d+)\t", re.MULTILINE)
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units: *(\d+)")
_REASON: Final = re.compile(rf"^(?:{UNCAUGHT}|.*ERROR: libFuzzer: .*)$", re.MULTILINE)


@dataclass
class Report:
    """What one run came to."""

    target: str
    executions: int = 0
    edges: int = 0
    features: int = 0
    corpus_files: int = 0
    growth_mb: float = 0.0
    seconds: int = 0
    findings: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Its line of the table."""
        numbers = (self.seconds, self.executions, self.edges, self.features, self.corpus_files)
        return [self.target, *(f"{number:,}" for number in numbers), f"{self.growth_mb:+.1f}", str(len(self.findings))]


HEADINGS: Final = ["target", "seconds", "executions", "edges", "features", "corpus", "RSS growth MB", "findings"]


def run_all(targets: Sequence[Target], *, seconds: int, side_by_side: int, folder: Path, keep: bool) -> list[Report]:
    """Run every target for so long; `keep` replaces the corpus in the repository by what was found, minimised."""
    with ThreadPoolExecutor(side_by_side) as pool:
        return list(pool.map(lambda target: _run(target, seconds, folder / target.name, keep=keep), targets))


def table(reports: Sequence[Report]) -> str:
    """The reports, one a line, as Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(report.cells() for report in reports)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _run(target: Target, seconds: int, folder: Path, *, keep: bool) -> Report:
    inputs, faults, log = folder / "corpus", folder / "faults", folder / "log"
    shutil.rmtree(faults, ignore_errors=True)
    faults.mkdir(parents=True)
    corpus.fill(inputs, target)
    arguments = [
        f"-max_total_time={seconds}", f"-max_len={target.longest_bytes}", f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={RSS_LIMIT_MB}", f"-artifact_prefix={faults}/", "-print_final_stats=1", str(inputs),
    ]  # fmt: skip
    report = Report(target.name, seconds=seconds)
    ended = _child(target, arguments, folder, log, seconds + OVERRUN_SECONDS)
    text = log.read_text(encoding="utf-8", errors="replace")
    _read_counts(text, report)
    report.growth_mb = _growth_mb(folder / "memory", seconds)
    _collect_findings(target, faults, text, report)
    if not ended or (not report.findings and "stat::" not in text):
        report.findings.append(f"the run did not end as it should; see {log}")
    if report.growth_mb > GROWTH_MB_MAX:
        report.findings.append(f"resident memory grew by {report.growth_mb:.0f} MB after the warm-up")
    if keep and not report.findings:
        _keep(target, inputs, folder)
    return report


def _child(target: Target, arguments: Sequence[str], folder: Path, log: Path, limit_seconds: float) -> bool:
    command = [sys.executable, "-m", "tests.fuzz.child", target.name, str(folder / "memory"), str(folder / "faults")]
    command += arguments
    # Hash seeds would make two runs of one input differ.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
            process.wait()
    return True


def _read_counts(text: str, report: Report) -> None:
    counts = _COUNTS.findall(text)
    if counts:
        report.edges, report.features, report.corpus_files = map(int, counts[-1])
    executed = [int(number) for number in _EXECUTED.findall(text) or _STEPS.findall(text)]
    report.executions = executed[-1] if executed else 0


def _growth_mb(path: Path, seconds: int) -> float:
    """From the end of the warm-up to the last look."""
    notes = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()] if path.is_file() else []
    warm = [bytes_ for at_seconds, bytes_ in notes if at_seconds >= WARM_UP * seconds]
    return (warm[-1] - warm[0]) / 2**20 if warm else 0.0


def _collect_findings(target: Target, faults: Path, text: str, report: Report) -> None:
    for fault in sorted(faults.iterdir()):
        if fault.name.startswith("slow-unit"):
            continue  # by the clock of a busy machine; the bound on CPU time is the target's own
        data = fault.read_bytes()
        folder = corpus.FINDINGS / target.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / corpus.name_of(data)).write_bytes(data)
        report.findings.append(f"{fault.name.partition('-')[0]} {folder / corpus.name_of(data)}: {_reason(text)}")


def _reason(text: str) -> str:
    """The last line of a traceback, or what libFuzzer says."""
    found = _REASON.search(text)
    if found is None:
        return "see the log"
    lines = [line.strip() for line in text[found.start() :].splitlines() if line.strip()]
    return (lines[-1] if lines[0] == UNCAUGHT else lines[0])[:300]


def _keep(target: Target, inputs: Path, folder: Path) -> None:
    minimised = folder / "minimised"
    shutil.rmtree(minimised, ignore_errors=True)
    minimised.mkdir()
    arguments = [
        "-set_cover_merge=1", f"-max_len={target.longest_bytes}", f"-timeout={HANG_SECONDS}",
        str(minimised), str(inputs),
    ]  # fmt: skip
    _child(target, arguments, folder, folder / "merge.log", MERGE_SECONDS)
    corpus.keep(minimised, target)
