"""`python -m sandbox.auditor`: audit a run; problems on stderr, the verdict line on stdout."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sandbox.auditor.audit import audit
from sandbox.auditor.collect import EvidenceIncomplete
from sandbox.auditor.evidence import JournalUnreadable
from sandbox.auditor.leak import ScanFailed
from sandbox.auditor.verdict import FaultCounts
from schemas.errors import RegistryUnavailable

# Standard exit codes of the project's commands.
EXIT_CLEAN, EXIT_FOUND, EXIT_UNREACHABLE = 0, 1, 6
PROBLEMS_SHOWN_MAX = 200
STUCK_AFTER_SECONDS = 60.0
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
            faults=FaultCounts(**{name: getattr(given, name) for name in _FAULT_NAMES}),
            schema_registry_url=given.schema_registry_url or None,
        )
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


def _card_numbers(path: Path | None) -> list[str]:
    """Every run of 13 to 19 digits in a file of any form: one number a line, YAML, CSV."""
    if path is None:
        return []
    return sorted(set(re.findall(r"(?<![0-9])[0-9]{13,19}(?![0-9])", path.read_text(encoding="utf-8"))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.auditor",
        description="Judge a run by its producers' journal, the topics, the ledger and the stand-in's own ledger.",
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
    parser.add_argument("--except-topic", nargs="*", default=[], help="topics in which a test planted one")
    parser.add_argument("--except-file", type=Path, nargs="*", default=[], help="input files that hold some")
    parser.add_argument("--stuck-after-seconds", type=float, default=STUCK_AFTER_SECONDS)
    for name in _FAULT_NAMES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=0, help="for the line only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
