"""The seeded bugs of `catalogue.yaml`, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import yaml


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in one file."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug that somebody could write."""

    name: str
    rule: str
    check: tuple[str, ...]
    """The arguments of a Python that must fail, and say what it saw."""
    edits: tuple[Edit, ...]

    @property
    def check_name(self) -> str:
        """What the check is called in the table."""
        return "simulation" if "sandbox.simulation" in self.check else self.check[-1]


def _mutant(entry: Mapping[str, Any]) -> Mutant:
    edits = tuple(Edit(edit["file"], edit["old"], edit["new"]) for edit in entry["edits"])
    return Mutant(entry["name"], str(entry["rule"]), _check(entry["check"]), edits)


def _check(check: Mapping[str, Any]) -> tuple[str, ...]:
    if "test" in check:
        return ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", check["test"])
    always = [word for kind in check["worlds"] for word in ("--with", kind)]
    return ("-m", "sandbox.simulation", "--seeds", str(check["seeds"]), *always)


_ALL: Final = tuple(
    _mutant(entry)
    for entry in yaml.safe_load((resources.files("sandbox.mutants") / "catalogue.yaml").read_text(encoding="utf-8"))
)
MUTANTS: Final = _ALL[:-1]
"""At least one for each rule that a line of code can break."""
HARMLESS: Final = _ALL[-1]
"""Planted to show that the gate fails when a bug survives."""
