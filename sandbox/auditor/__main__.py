"""`python -m sandbox.auditor`: audit a run; progress and problems on stderr, the verdict line on stdout."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from sandbox.auditor.audit import audit
from sandbox.auditor.evidence import EvidenceIncomplete, JournalUnreadable
from sandbox.auditor.leak import ScanFailed
from sandbox.auditor.report import write_report
from sandbox.auditor.verdict import FaultCounts
from schemas.errors import RegistryUnavailable

# Standard exit codes of the project's commands.
EXIT_CLEAN, EXIT_FOUND, EXIT_UNREACHABLE = 0, 1, 6
PROBLEMS_SHOWN_MAX = 200
STUCK_AFTER_SECONDS = 60.0
EXAMPLE = """
The journal is JSON lines, one for each record that the broker acknowledged, as `append_accepted` of
sandbox/auditor/evidence.py writes them. For example, after a run whose stand-in kept its state in run/visa:

    export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092 DATABASE_URL=postgresql://…
    python -m sandbox.auditor --journal run/accepted.jsonl --stand-in http://127.0.0.1:8090 \\
        --fingerprint-key run/visa/credentials/fingerprint.key --card-numbers run/cards.txt \\
        --scan run/logs run/state run/visa --scan-url http://127.0.0.1:9464/metrics --report run/verdict.json

Exit codes: 0 every zero is zero and the counts add up, 1 something is wrong (each finding is a line on stderr and in
the report), 2 usage, 6 some evidence could not be read: then there is no verdict.
"""
_FAULT_NAMES = ("kills", "freezes", "broker_kills", "db_kills", "cuts", "api_faults", "seed")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 clean, 1 something is wrong, 2 misuse (argparse), 6 the evidence could not be read."""
    given = _parser().parse_args(arguments)
    try:
        verdict = audit(
            given.journal,
            bootstrap_servers=given.bootstrap_servers,
            database_url=given.database_url,
            stand_in_admin_url=given.stand_in,
            fingerprint_key=given.fingerprint_key.read_bytes(),
            topic_prefix=given.topic_prefix,
            card_numbers=_card_numbers(given.card_numbers),
            scan=given.scan,
            excepted_topics=given.except_topic,
            excepted_files=[*given.except_file, *([given.card_numbers] if given.card_numbers else [])],
            stuck_after_seconds=given.stuck_after_seconds,
            faults=FaultCounts(
                **{name: getattr(given, name) for name in _FAULT_NAMES}, stopped_at=given.faults_stopped_at
            ),
            schema_registry_url=given.schema_registry_url or None,
            scan_urls=given.scan_url,
            say=(lambda _: None) if given.quiet else _progress(),
        )
        if given.report is not None:
            write_report(verdict, given.report)
    except (EvidenceIncomplete, ScanFailed, JournalUnreadable, RegistryUnavailable, OSError, ValueError) as error:
        sys.stderr.write(f"auditor: no verdict: {error}\n")
        return EXIT_UNREACHABLE
    problems = verdict.problems()
    for problem in problems[:PROBLEMS_SHOWN_MAX]:
        sys.stderr.write(f"{problem}\n")
    if len(problems) > PROBLEMS_SHOWN_MAX:
        sys.stderr.write(f"and {len(problems) - PROBLEMS_SHOWN_MAX} more problems\n")
    sys.stdout.write(f"{verdict.line()}\n")
    return EXIT_CLEAN if verdict.clean else EXIT_FOUND


def _progress() -> Callable[[str], None]:
    began = time.monotonic()

    def say(sentence: str) -> None:
        sys.stderr.write(f"auditor: {time.monotonic() - began:6.1f} s  {sentence}\n")
        sys.stderr.flush()

    return say


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.utcoffset() is None:
        raise ValueError("a time needs a time zone")
    return at


def _card_numbers(path: Path | None) -> list[str]:
    """Every run of 13 to 19 digits in a file of any form: one number a line, YAML, CSV."""
    if path is None:
        return []
    return sorted(set(re.findall(r"(?<![0-9])[0-9]{13,19}(?![0-9])", path.read_text(encoding="utf-8"))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.auditor",
        description="Judge a run by its producers' journal, the topics, the ledger and the stand-in's own ledger.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    variables = os.environ.get
    parser.add_argument("--journal", type=Path, required=True, help="what the producers acknowledged, JSON lines")
    parser.add_argument(
        "--bootstrap-servers",
        default=variables("KAFKA_BOOTSTRAP_SERVERS"),
        required="KAFKA_BOOTSTRAP_SERVERS" not in os.environ,
    )
    parser.add_argument(
        "--database-url",
        default=variables("DATABASE_URL"),
        required="DATABASE_URL" not in os.environ,
        help="better given as DATABASE_URL: it may hold a password",
    )
    parser.add_argument("--stand-in", required=True, help="admin address of the stand-in, http://127.0.0.1:PORT")
    parser.add_argument(
        "--fingerprint-key", type=Path, required=True, help="credentials/fingerprint.key of the stand-in's directory"
    )
    parser.add_argument("--topic-prefix", default="")
    parser.add_argument("--schema-registry-url", default=variables("SCHEMA_REGISTRY_URL"))
    parser.add_argument("--card-numbers", type=Path, help="file with the run's own card numbers")
    parser.add_argument("--scan", type=Path, nargs="*", default=[], help="files and directories to search for them")
    parser.add_argument("--scan-url", nargs="*", default=[], help="pages to search, as the workers' metrics")
    parser.add_argument("--except-topic", nargs="*", default=[], help="topics in which a test planted one")
    parser.add_argument("--except-file", type=Path, nargs="*", default=[], help="input files that hold some")
    parser.add_argument("--stuck-after-seconds", type=float, default=STUCK_AFTER_SECONDS)
    parser.add_argument("--report", type=Path, help="write everything found to this file, as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "--faults-stopped-at",
        type=_time,
        help="when the last fault ended (ISO 8601 with zone): patience counts from it",
    )
    for name in _FAULT_NAMES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=0, help="for the line only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
