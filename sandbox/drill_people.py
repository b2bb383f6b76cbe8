"""Who decides after the servers were lost: the runbook's table for payouts held for LEDGER_RESTORED, as two people.

They know what Visa's books say (the stand-in's ledger, by the payout's reference), and what the originators say that
they were told and asked for before the servers were lost. They do not know what the lost database knew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from sandbox.auditor.evidence import Evidence, StandInEntry
from sandbox.auditor.verdict import HAND_BACKS, PAYMENTS, RETURNED, TERMINAL_STATES
from sandbox.faults.aim import LedgerWatch
from schemas.sender_reference import sender_reference

HELD: Final = """
SELECT payout_id, state, compensation FROM payouts WHERE held AND hold_reason = 'LEDGER_RESTORED' ORDER BY payout_id
"""
REASON: Final = "DRILL: checked with Visa and the originator"
RELEASED_AT_ONCE: Final = 100
"""Payouts that one command names."""
REFUSED, PARTIAL = 3, 5
"""Exit codes: some are not ready to be decided, because an attempt of theirs may still take effect."""

Command = Callable[..., tuple[int, str, str]]
"""`payouts WORDS...`; exit code, stdout, stderr."""


class Found(StrEnum):
    """What the two people find, and what they then do."""

    PAID = "resolved_paid"
    NOT_PAID = "resolved_not_paid"
    GOES_ON = "released"
    HANDED_BACK = "left_held"
    """Its hand-back was made before: nobody makes it again, and it stays in the list of what waits."""


@dataclass(frozen=True, slots=True)
class Known:
    """What can be known of payouts outside of the lost servers."""

    paid: frozenset[str]
    """References of the payouts that Visa paid."""
    handed_back: frozenset[str]
    """Card pulls that Visa gave back."""
    told_unpaid: frozenset[str]
    """Payouts whose originator was told that it is not paid, or asked to hand back, or told that we did."""
    pulls: Mapping[str, str]
    """Payout to the card pull that funds it."""

    def of(self, payout_id: str, state: str) -> Found:
        """The runbook's table."""
        if state in TERMINAL_STATES:
            return Found.HANDED_BACK if self.pulls.get(payout_id) in self.handed_back else Found.GOES_ON
        if sender_reference(payout_id) in self.paid:
            return Found.PAID
        if payout_id in self.told_unpaid or self.pulls.get(payout_id) in self.handed_back:
            return Found.NOT_PAID
        return Found.GOES_ON


def known(earlier: Evidence, entries: Sequence[StandInEntry]) -> Known:
    """From what the lost topics told, and Visa's books."""
    moved = [entry for entry in entries if entry.money_moved]
    unpaid = {one.payout_id for one in earlier.results if one.status not in ("PAID", RETURNED)}
    unpaid |= {one.payout_id for one in earlier.demands} | {one.payout_id for one in earlier.compensation_ends}
    return Known(
        paid=frozenset(str(entry.sender_reference) for entry in moved if entry.operation in PAYMENTS),
        handed_back=frozenset(entry.transaction_identifier for entry in moved if entry.operation in HAND_BACKS),
        told_unpaid=frozenset(unpaid),
        pulls={pull.payout_id: pull.transaction_identifier for pull in earlier.pulls},
    )


@dataclass(slots=True)
class TwoPeople:
    """Maria finds out and proposes, Jan agrees."""

    watch: LedgerWatch
    command: Command
    known: Callable[[], Known]
    done: dict[Found, set[str]] = field(default_factory=lambda: {found: set() for found in Found})

    def look(self) -> int:
        """Decide everything that is held for the lost time now; how many are left that wait for another look."""
        knowledge = self.known()
        found = {row["payout_id"]: knowledge.of(row["payout_id"], row["state"]) for row in self.watch.fetch(HELD)}
        later = self._release([name for name, what in found.items() if what is Found.GOES_ON])
        for name, what in found.items():
            if what is Found.HANDED_BACK:
                self.done[what].add(name)
            elif what is not Found.GOES_ON and not self._resolve(name, what):
                later += 1
        return later

    def _release(self, payout_ids: Sequence[str]) -> int:
        later = 0
        for first in range(0, len(payout_ids), RELEASED_AT_ONCE):
            names = payout_ids[first : first + RELEASED_AT_ONCE]
            code, stdout, stderr = self._asked(
                "release", *names, "--reason", REASON, "--held-for", "LEDGER_RESTORED", "--operator", "maria"
            )
            ended = {one["payout_id"]: one["result"] for one in _payouts(stdout)}
            released = {name for name in names if ended.get(name) == "done"}
            self.done[Found.GOES_ON] |= released
            later += len(names) - len(released)
            if code not in (0, REFUSED, PARTIAL):
                raise ValueError(f"`payouts release` ended with {code}: {stderr[-500:]}")
        return later

    def _resolve(self, payout_id: str, found: Found) -> bool:
        word = "--paid" if found is Found.PAID else "--not-paid"
        code, stdout, stderr = self._asked("resolve", payout_id, word, "--evidence", REASON, "--operator", "maria")
        if code == REFUSED:
            return False  # the last attempt may still take effect: look after it
        if code != 0:
            raise ValueError(f"`payouts resolve {payout_id} {word}` ended with {code}: {stderr[-500:]}")
        version = str(_payouts(stdout)[0]["version"])
        code, _, stderr = self._asked("resolve", payout_id, word, "--approve", version, "--operator", "jan")
        if code != 0:
            raise ValueError(f"`payouts resolve {payout_id} --approve` ended with {code}: {stderr[-500:]}")
        self.done[found].add(payout_id)
        return True

    def _asked(self, *words: str) -> tuple[int, str, str]:
        return self.command(*words, "--yes", "--output", "json")


def _payouts(stdout: str) -> list[dict[str, Any]]:
    document = json.loads(stdout or "{}")
    return list(document.get("payouts", []))
