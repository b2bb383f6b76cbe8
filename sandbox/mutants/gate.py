"""Plants one bug at a time in a copy of the tree and runs its check there. A bug that no check sees fails the gate.

The copy holds what git knows of the tree, so that nothing else is in the way, and is started as `python -m …` from its
own root: the modules of the directory a program is started in are the ones that it runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from sandbox.mutants.catalogue import Edit, Mutant

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CHECK_SECONDS_MAX: Final = 900.0
"""Many times what any check takes: one that hangs has not caught anything."""
FAILED_VERDICT: Final = re.compile(r"^verdict .*failed_seeds=[1-9]", re.MULTILINE)
FAILED_TESTS: Final = re.compile(r"^(?:=+ )?\d+ failed", re.MULTILINE)
SHOWN: Final = 100


class Fate(StrEnum):
    """What became of one planted bug."""

    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    UNUSABLE = "UNUSABLE"
    """No verdict, or the same one without the bug: it proves nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """One mutant's end."""

    mutant: Mutant
    fate: Fate
    seconds: float
    seen: str
    """The check's own words about what it saw."""


class EditDoesNotFit(Exception):
    """The text to be replaced does not stand exactly once in its file: the catalogue must follow the code."""


def apply_edits(root: Path, edits: Sequence[Edit]) -> None:
    """Raises EditDoesNotFit."""
    for edit in edits:
        path = root / edit.file
        text = path.read_text() if path.is_file() else ""
        found = text.count(edit.old)
        if found != 1:
            raise EditDoesNotFit(f"{edit.file}: the text to replace stands there {found} times: {edit.old[:SHOWN]!r}")
        path.write_text(text.replace(edit.old, edit.new))


def check_edits(mutants: Sequence[Mutant]) -> None:
    """Before anything is run: a catalogue that is out of date is no verdict. Raises EditDoesNotFit."""
    with copied_tree() as root:
        for mutant in mutants:
            before = {
                edit.file: (root / edit.file).read_text() for edit in mutant.edits if (root / edit.file).is_file()
            }
            apply_edits(root, mutant.edits)
            for file, text in before.items():
                (root / file).write_text(text)


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of what git knows of this tree, as it is now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory(prefix="payouts-mutant-") as name:
        root = Path(name)
        root.chmod(0o755)  # PostgreSQL runs as another user and reads its helpers from here
        for file in filter(None, listed.stdout.split("\0")):
            if (REPOSITORY / file).is_file():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / file, root / file)
        yield root


def try_mutant(mutant: Mutant) -> Result:
    """Plant, check, and say what was seen. Raises EditDoesNotFit."""
    begun = time.monotonic()
    with copied_tree() as root:
        apply_edits(root, mutant.edits)
        done = _run(root, mutant.check)
    fate, seen = _judged(mutant, done)
    return Result(mutant, fate, time.monotonic() - begun, seen[:SHOWN])


def _judged(mutant: Mutant, done: subprocess.CompletedProcess[str] | None) -> tuple[Fate, str]:
    if done is None:
        return Fate.UNUSABLE, "the check did not end"
    if done.returncode == 0:
        return Fate.SURVIVED, ""
    if not (FAILED_VERDICT.search(done.stdout) or FAILED_TESTS.search(done.stdout)):
        return Fate.UNUSABLE, " ".join(f"{done.stdout}\n{done.stderr}".split())[-SHOWN:]
    again, seen = _what_failed(mutant.check, f"{done.stdout}\n{done.stderr}")
    without_it = _run(REPOSITORY, again)
    if without_it is None or without_it.returncode != 0:
        return Fate.UNUSABLE, f"it fails without the bug as well: {seen}"
    return Fate.CAUGHT, seen


def _run(root: Path, check: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """A check in a tree of its own; None when it does not end."""
    try:
        return subprocess.run(
            [sys.executable, *check],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None


def _what_failed(check: tuple[str, ...], said: str) -> tuple[tuple[str, ...], str]:
    """The one world or test that failed, to be run without the bug, and what it said."""
    world = re.search(r"^seed (\d+): (.*)$", said, re.MULTILINE)
    if world:
        return (*check, "--seed", world[1]), world[2]
    test = re.search(r"^FAILED ([^\s\[]+)", said, re.MULTILINE)  # the whole function: an id may hold spaces
    return (check, "a verdict that is not clean") if test is None else ((*check[:-1], test[1]), test[1])


def run_gate(mutants: Sequence[Mutant], say: Callable[[str], None]) -> list[Result]:
    """Every mutant, one after the other. Raises EditDoesNotFit."""
    results = []
    for mutant in mutants:
        result = try_mutant(mutant)
        results.append(result)
        say(f"{result.fate:8} {result.seconds:6.1f} s  {mutant.name} ({mutant.rule}): {result.seen}")
    return results
