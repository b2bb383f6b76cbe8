"""The stand-in's own ledger, followed: the only judge of what was paid and handed back."""

from __future__ import annotations

import threading
import time
from typing import Final

from sandbox.auditor.collect import read_stand_in
from sandbox.auditor.evidence import StandInEntry
from schemas.sender_reference import sender_reference

FRESH_SECONDS: Final = 0.2
"""All lanes look; one question serves them."""


class StandInBook:
    """Every entry so far; safe to use from many threads."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._entries: list[StandInEntry] = []
        self._read_at = 0.0
        self._lock = threading.Lock()

    def of(self, payout_id: str, pull: str | None) -> tuple[list[str], list[str]]:
        """Amounts of the pushes that moved money for a payout, and what handed its card pull back.

        Raises EvidenceIncomplete.
        """
        name = sender_reference(payout_id)
        moved = [entry for entry in self.entries() if entry.money_moved]
        pushes = [entry.amount for entry in moved if entry.operation == "push" and entry.sender_reference == name]
        backs = [
            entry.operation
            for entry in moved
            if entry.operation in ("reverse", "adjustment")
            and (entry.sender_reference == name or entry.transaction_identifier == pull)
        ]
        return pushes, backs

    def entries(self) -> list[StandInEntry]:
        """All of them, a moment old at most."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                last = self._entries[-1].entry_id if self._entries else 0
                self._entries += read_stand_in(self._admin_url, after=last)
                self._read_at = time.monotonic()
            return list(self._entries)
