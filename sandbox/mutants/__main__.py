"""`python -m sandbox.mutants`: plant every seeded bug, one at a time, and see that its check fails.

A line a bug on stdout as it is decided, then one summary line. 0: all caught; 1: one survived, or could not be run;
2: misuse, or the catalogue no longer fits the code.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from sandbox.mutants.catalogue import HARMLESS, MUTANTS
from sandbox.mutants.gate import EditDoesNotFit, Fate, check_edits, run_gate


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    given = _parser().parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if given.only is None or given.only in mutant.name]
    if given.harmless:
        chosen.append(HARMLESS)
    if not chosen:
        _parser().error(f"no seeded bug is called {given.only!r}; --list shows them")
    if given.list:
        for mutant in chosen:
            sys.stdout.write(f"{mutant.name} ({mutant.rule}): {mutant.check_name}\n")
        return 0
    try:
        check_edits(chosen)
        results = run_gate(chosen, _say)
    except EditDoesNotFit as error:
        sys.stderr.write(f"the catalogue of seeded bugs does not fit the code: {error}\n")
        return 2
    fates = Counter(result.fate for result in results)
    _say(f"mutants planted={len(results)} {' '.join(f'{fate.lower()}={fates[fate]}' for fate in Fate)}")
    return 0 if fates[Fate.CAUGHT] == len(results) else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.mutants",
        description="Money bugs planted on purpose, one at a time; each must be caught by its check.",
        epilog="Examples: --list · --only 'out of order' · --harmless (plants one that must survive: the gate fails)",
    )
    parser.add_argument("--only", help="those whose name holds this text")
    parser.add_argument("--list", action="store_true", help="print them, and plant nothing")
    parser.add_argument("--harmless", action="store_true", help="plant a harmless change as well: the gate must fail")
    return parser


if __name__ == "__main__":
    sys.exit(main())
