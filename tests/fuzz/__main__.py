"""Coverage-guided fuzzing of every decoder and parser: `python -m tests.fuzz --help`."""

import argparse
import sys
from pathlib import Path
from typing import Final

from tests.fuzz.catalogue import BY_NAME, TARGETS
from tests.fuzz.runner import ROOT, run_all, table

SIDE_BY_SIDE: Final = 2
SECONDS: Final = 600


def main() -> int:
    """Exit code 1 when there is a finding."""
    options = _options()
    if options.list:
        print("\n".join(f"{target.name:16}{target.about}" for target in TARGETS))  # noqa: T201
        return 0
    chosen = [BY_NAME[name] for name in options.target] or list(TARGETS)
    reports = run_all(
        chosen, seconds=options.seconds, side_by_side=options.side_by_side, folder=options.folder, keep=options.keep
    )
    print(table(reports))  # noqa: T201
    for report in reports:
        for finding in report.findings:
            print(f"{report.target}: {finding}", file=sys.stderr)  # noqa: T201
    return 1 if any(report.findings for report in reports) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Feed decoders and parsers with hostile bytes, guided by coverage. A finding is an exception "
        "that is not documented, an input that takes too long or too much memory, or a card number in a message or log "
        "line. Its input is kept in tests/fuzz/findings and replayed by `make test` from then on.",
        epilog="Exit code 0: nothing found, 1: findings.",
    )
    parser.add_argument(
        "--target", action="append", default=[], choices=sorted(BY_NAME), help="one of them; may repeat"
    )
    parser.add_argument("--seconds", type=int, default=SECONDS, help="how long each target runs (%(default)s)")
    parser.add_argument("--side-by-side", type=int, default=SIDE_BY_SIDE, help="processes at a time (%(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".fuzz", help="grown corpora and logs (.fuzz)")
    parser.add_argument("--keep", action="store_true", help="minimise what grew and keep it in tests/fuzz/corpus")
    parser.add_argument("--list", action="store_true", help="say which targets there are")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
