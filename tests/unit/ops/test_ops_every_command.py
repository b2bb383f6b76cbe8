"""Every command of the whole line changes nothing, or can be planned, is given a reason and a name, and says its undo.

A new command belongs into exactly one of the three tables below, or the first test names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import typer

from ops.main import app

READS_ONLY: Final = frozenset(
    {
        "results", "compensations", "show", "stuck", "doctor", "pii-scan", "preflight", "monitor",
        "lag", "lag export", "topics list", "schemas check", "schemas list", "ledger status",
        "offsets show", "offsets verify", "modes show", "review list", "dlq list", "audit tail", "audit verify",
        "certs status", "certs probe", "breaker status", "report daily", "report weekly",
        "reconcile aging", "reconcile exceptions list", "health", "dev status",
    }
)  # fmt: skip
"""It changes nothing anywhere; a file or table of numbers may be what it prints."""

CHANGES: Final = frozenset(
    {
        "hold", "release", "requeue", "resolve", "cancel", "smoke", "topics ensure", "schemas push",
        "ledger roles", "ledger restore", "ledger adopt", "ledger migrate", "intake verify",
        "offsets apply", "offsets undo", "dlq replay", "dlq discard", "certs reload", "certs rollback", "breaker reset",
        "modes set", "reconcile exceptions resolve", "reconcile exceptions reopen",
    }
)  # fmt: skip
"""It has every one of `WANTED`, under these names."""


@dataclass(frozen=True)
class Excepted:
    """What a command does not have, and why; it has the rest of `WANTED`."""

    without: frozenset[str]
    why: str

    @classmethod
    def of(cls, why: str, *without: str) -> Excepted:
        """The same, with what is missing as words."""
        return cls(frozenset(without), why)


UNDO: Final = "a word about undo"
WANTED: Final = frozenset({"--dry-run", "--reason", "--operator", "--output", UNDO})

EXCEPTIONS: Final = {
    "worker": Excepted.of("it is the system that is operated, no act upon it", *WANTED),
    "send": Excepted.of(
        "an originator's, not an operator's: its journal says what was sent, and only `cancel` takes a payout back",
        "--reason", "--operator", UNDO,
    ),
    "review approve": Excepted.of("--reviewer is who, --reason-code and --note are why", "--reason", "--operator"),
    "review reject": Excepted.of("--reviewer is who, --reason-code and --note are why", "--reason", "--operator"),
    "drain": Excepted.of("it sets a mode: `modes set maintenance --dry-run` is its plan", "--dry-run"),
    "resume": Excepted.of("it sets the mode: `modes set normal --dry-run` is its plan", "--dry-run"),
    "offsets plan": Excepted.of(
        "it is the dry run of `offsets apply`: it writes a plan file and nothing else",
        "--dry-run", "--reason", "--operator", UNDO,
    ),
    "offsets backup": Excepted.of(
        "it writes a file of committed offsets, in which nothing is anybody's",
        "--dry-run", "--reason", "--operator", UNDO,
    ),
    "offsets restore": Excepted.of(
        "it makes a plan of a backup, for `offsets apply`", "--dry-run", "--reason", "--operator"
    ),
    "dlq show": Excepted.of("it changes nothing; revealing what is in a letter is recorded", "--dry-run"),
    "ledger backup": Excepted.of("it changes nothing; that data leave is recorded, also without a person", "--dry-run"),
    "audit export": Excepted.of("it changes nothing; that data leave is recorded, also without a person", "--dry-run"),
    "forensics": Excepted.of("it changes nothing; that data leave is recorded", "--dry-run"),
    "reconcile daily": Excepted.of(
        "it changes no payout; what it found is recorded, also without a person", "--reason", UNDO
    ),
    "keys create": Excepted.of(
        "it makes new files, never over others: deleting them before use is the way back; no ledger is asked for",
        "--dry-run", "--reason", "--operator", UNDO,
    ),
    "dev up": Excepted.of("servers of a laptop", *WANTED),
    "dev down": Excepted.of("servers of a laptop", *WANTED),
}  # fmt: skip
UNDO_WORDS: Final = re.compile(r"\b[Uu]ndo(ne)?\b|no way back|taken back")


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that can be typed, with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        if getattr(command, "invoke_without_command", True):
            yield " ".join((*words, name)), command


EVERY: Final = dict(commands(typer.main.get_command(app)))


def missing(command: Any) -> frozenset[str]:
    """What a command that changes something should have, and this one does not."""
    options = {option for parameter in command.params for option in getattr(parameter, "opts", ())}
    has = options | ({UNDO} if UNDO_WORDS.search(" ".join((command.help or "").split())) else set())
    return WANTED - has


def test_p9_every_command_is_in_exactly_one_table() -> None:
    """P9, issue 7: whoever adds a command says what it does to the world, or this fails with its name."""
    tables = (READS_ONLY, CHANGES, frozenset(EXCEPTIONS))
    assert set(EVERY) - frozenset().union(*tables) == set(), "in no table"
    assert frozenset().union(*tables) - set(EVERY) == set(), "in a table, and no command"
    assert sum(map(len, tables)) == len(frozenset().union(*tables)), "in two tables"
    assert len(EVERY) > 50


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_p9_what_changes_something_is_planned_reasoned_named_and_undone_or_says_why_not(name: str) -> None:
    """P9, issue 7: --dry-run, --reason, --operator, --output, and an undo or a sentence why there is none."""
    assert missing(EVERY[name]) == frozenset()


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_p9_an_exception_lacks_what_its_reason_is_about_and_nothing_else(name: str) -> None:
    """P9: an exception that is none any more is taken out of the table, so that it cannot hide a loss later."""
    assert len(EXCEPTIONS[name].why) > 15
    assert missing(EVERY[name]) == EXCEPTIONS[name].without


@pytest.mark.parametrize("name", sorted(READS_ONLY))
def test_p9_what_only_reads_asks_nobody_for_a_yes(name: str) -> None:
    """A command that asks for a yes changes something: it stands in the wrong table."""
    options = {option for parameter in EVERY[name].params for option in getattr(parameter, "opts", ())}
    assert options.isdisjoint({"--yes", "--dry-run", "--reason", "--operator"}), options
