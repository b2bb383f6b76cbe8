"""How a suite ends: by its exit code, its last line, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.verdict_run import EXIT_INTERRUPTED, Ended, run_to_verdict


@dataclass
class Came:
    """What came of a run."""

    clean: bool
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """A line, and the verdict."""
        return ("a swap", "verdict lost=0")


class BrokeDown(Exception):
    """A failure that the suite names."""


def ran(work: Callable[[Path], Ended], keep: Path | None = None) -> tuple[int, list[Path]]:
    """The exit code, and the directory that it worked in."""
    worked_in: list[Path] = []

    def watched(directory: Path) -> Ended:
        worked_in.append(directory)
        return work(directory)

    return run_to_verdict("test", keep, watched, (BrokeDown,)), worked_in


def test_a_clean_run_ends_with_the_verdict_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """0; the verdict is the last line of stdout."""
    code, (directory,) = ran(lambda _: Came(clean=True))
    assert (code, directory.exists()) == (0, False)
    assert capsys.readouterr().out.splitlines()[-1] == "verdict lost=0"


def test_a_clean_run_keeps_what_it_was_told_to_keep(tmp_path: Path) -> None:
    code, (directory,) = ran(lambda _: Came(clean=True), tmp_path / "kept")
    assert (code, directory) == (0, tmp_path / "kept")
    assert directory.is_dir()


def test_a_finding_is_told_and_its_artefacts_stay(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """1, although there is a verdict."""
    code, (directory,) = ran(lambda _: Came(clean=False, problems=["one was lost"]), tmp_path)
    said = capsys.readouterr()
    assert (code, directory.is_dir()) == (1, True)
    assert "problem: one was lost" in said.err
    assert f"artefacts are in {tmp_path}" in said.err


def broken(_: Path) -> Ended:
    """No verdict."""
    raise BrokeDown("the broker is gone")


def interrupted(_: Path) -> Ended:
    """Ctrl-C."""
    raise KeyboardInterrupt


def test_without_a_verdict_it_is_no_success(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ran(broken, tmp_path)[0] == 1
    said = capsys.readouterr()
    assert (said.out, "no verdict: BrokeDown: the broker is gone" in said.err) == ("", True)
    assert ran(interrupted, tmp_path)[0] == EXIT_INTERRUPTED
