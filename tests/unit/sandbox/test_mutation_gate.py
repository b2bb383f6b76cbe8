"""The gate of planted bugs: its catalogue fits the code, it sees what survives, and it takes no crash for a catch."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.mutants import __main__ as command
from sandbox.mutants.catalogue import HARMLESS, MUTANTS, Edit, Mutant
from sandbox.mutants.gate import EditDoesNotFit, Fate, apply_edits, copied_tree, try_mutant

CHEAP = "every currency has two decimals"


def test_the_catalogue_fits_the_code() -> None:
    """Every edit still finds its place, exactly once: a bug that cannot be planted proves nothing."""
    with copied_tree() as root:
        for mutant in (*MUTANTS, HARMLESS):
            before = {edit.file: (root / edit.file).read_text() for edit in mutant.edits}
            apply_edits(root, mutant.edits)
            for file, text in before.items():
                assert (root / file).read_text() != text
                (root / file).write_text(text)


def test_there_is_a_planted_bug_for_every_kind_of_rule() -> None:
    """The issue's list: more than twenty, with names of their own."""
    assert len(MUTANTS) > 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    rules = " ".join(mutant.rule for mutant in MUTANTS)
    assert {letter for letter in "LKSCRP" if f"{letter}" in rules} == set("LKSCRP")


@pytest.mark.timeout(300)
def test_the_gate_fails_when_a_bug_survives(capsys: pytest.CaptureFixture[str]) -> None:
    """One that every simulated world shows, and one that changes nothing: the first is caught, the gate fails."""
    assert command.main(["--only", CHEAP, "--harmless"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("caught")
    assert lines[1].startswith("SURVIVED")
    assert lines[-1] == "mutants planted=2 caught=1 survived=1 unusable=0"


def test_a_bug_that_does_not_run_is_not_called_caught() -> None:
    """A syntax error fails every check, and shows nothing."""
    broken = Mutant(
        "broken",
        "-",
        ("-m", "sandbox.simulation", "--seeds", "1"),
        (Edit("processors/money.py", '"""Money', "(Money"),),
    )
    assert try_mutant(broken).fate is Fate.UNUSABLE


def test_a_check_that_fails_without_the_bug_catches_nothing(tmp_path: Path) -> None:
    """What is red anyway must not be counted for a bug that nothing sees."""
    red = tmp_path / "test_red.py"
    red.write_text("def test_red():\n    raise AssertionError\n")
    always_red = Mutant(
        "anything", "-", ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(red)), ()
    )
    result = try_mutant(always_red)
    assert result.fate is Fate.UNUSABLE
    assert "without the bug as well" in result.seen


def test_an_edit_that_does_not_fit_is_told(tmp_path: Path) -> None:
    """The code moved on: the catalogue must follow, and says where."""
    (tmp_path / "file.py").write_text("one\none\n")
    with pytest.raises(EditDoesNotFit, match=r"file\.py: .* 2 times"):
        apply_edits(tmp_path, [Edit("file.py", "one", "two")])
    with pytest.raises(EditDoesNotFit, match="0 times"):
        apply_edits(tmp_path, [Edit("missing.py", "one", "two")])


def test_an_unknown_name_is_misuse() -> None:
    """Nothing is planted for it."""
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "no such bug"])
    assert ended.value.code == 2
