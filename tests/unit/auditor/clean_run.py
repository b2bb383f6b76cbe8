"""Evidence of a run in which nothing went wrong, with a payout in every state; tests break one thing in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.auditor.evidence import (
    Accepted,
    CardPull,
    CompensationDemand,
    CompensationEnd,
    Confirmation,
    Evidence,
    Intake,
    LedgerRow,
    Position,
    ResultEvent,
    StandInEntry,
)
from sandbox.auditor.verdict import FaultCounts, Verdict, judge
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from schemas.sender_reference import sender_reference

NOW = datetime(2025, 11, 22, 12, 0, tzinfo=UTC)
RECEIVED_AT = NOW - timedelta(minutes=10)
STUCK_AFTER_SECONDS = 60.0
KEY = b"k" * 32
TOPIC = "payout_requests"
CARD = "4957030420210462"
PULL, ADJUSTED_PULL = "381228649430015", "381228649430023"
MONEY = {"JPY": (5_000, "5000"), "KWD": (12_340, "12.340"), "USD": (2_500, "25.00")}


class Run:
    """Builds evidence a payout at a time."""

    def __init__(self) -> None:
        self.evidence = Evidence(KEY)

    def position(self) -> Position:
        return Position(TOPIC, 0, len(self.evidence.accepted))

    def accept(self, payout_id: str | None, **facts: Any) -> Position:
        position = self.position()
        given = {"amount_minor": 2_500, "currency": "USD", "recipient": CARD, **facts}
        self.evidence.accepted.append(Accepted(position, payout_id, "0" * 64, **given))
        return position

    def payout(self, payout_id: str, state: str, *, currency: str = "USD", recipient: str = CARD, **row: Any) -> None:
        minor, decimal = MONEY[currency]
        position = self.accept(payout_id, amount_minor=minor, currency=currency, recipient=recipient)
        given = {"received_at": RECEIVED_AT, **row}
        self.evidence.rows.append(LedgerRow(payout_id, position, minor, currency, state, **given))
        if state in ("PAID", "REJECTED", "DENIED", "DECLINED", "EXPIRED", "FAILED", "CANCELLED"):
            self.evidence.results.append(ResultEvent(payout_id, f"result/{payout_id}", state, minor, currency))
        if state in ("PAID", "DECLINED"):
            self.entry(payout_id, decimal, currency, recipient, money_moved=state == "PAID")

    def entry(self, payout_id: str, amount: str, currency: str, recipient: str, *, money_moved: bool) -> None:
        self.evidence.entries.append(
            StandInEntry(
                entry_id=len(self.evidence.entries) + 1,
                operation="push",
                money_moved=money_moved,
                amount=amount,
                currency=currency,
                recipient_fingerprint=recipient_fingerprint(KEY, recipient),
                sender_reference=sender_reference(payout_id),
                transaction_identifier=f"2{len(self.evidence.entries):014d}",
            )
        )

    def compensation(self, payout_id: str, executor: str, end: str | None, identifier: str | None = None) -> None:
        row = self.row(payout_id)
        changed = replace(
            row, compensation=end or "REQUIRED", compensation_at=RECEIVED_AT, compensation_executor=executor
        )
        self.evidence.rows[self.evidence.rows.index(row)] = changed
        self.evidence.demands.append(
            CompensationDemand(payout_id, f"demand/{payout_id}", f"comp/{payout_id}", executor, "originator")
        )
        if executor == "ORIGINATOR" and end == "COMPENSATED":
            self.confirm(payout_id)
        if end is not None:
            self.evidence.compensation_ends.append(
                CompensationEnd(payout_id, f"end/{payout_id}", end, executor, identifier)
            )

    def confirm(self, payout_id: str, **changes: str) -> None:
        """The originator says that he handed the money back."""
        given = {"compensation_id": f"comp/{payout_id}", "originator_id": "originator", "reference": "release-1"}
        self.evidence.confirmations.append(Confirmation(payout_id, **given | changes))

    def row(self, payout_id: str) -> LedgerRow:
        return next(row for row in self.evidence.rows if row.payout_id == payout_id)

    def change_row(self, payout_id: str, **changes: Any) -> None:
        row = self.row(payout_id)
        self.evidence.rows[self.evidence.rows.index(row)] = replace(row, **changes)

    def approved(self, payout_id: str) -> StandInEntry:
        return next(
            entry
            for entry in self.evidence.entries
            if entry.sender_reference == sender_reference(payout_id) and entry.money_moved
        )

    def add_entry(self, like: StandInEntry, **changes: Any) -> None:
        number = max(entry.entry_id for entry in self.evidence.entries) + 1
        self.evidence.entries.append(replace(like, entry_id=number, **changes))

    def change_entry(self, place: int, **changes: Any) -> None:
        self.evidence.entries[place] = replace(self.evidence.entries[place], **changes)

    def judge(self, **faults: Any) -> Verdict:
        return judge(self.evidence, stuck_after_seconds=STUCK_AFTER_SECONDS, now=NOW, faults=FaultCounts(**faults))


def clean_run() -> Run:
    """One payout in every state that a settled run may have, a repeat, a refusal and a dead letter."""
    run = Run()
    run.payout("paid-usd", "PAID")
    run.payout("paid-jpy", "PAID", currency="JPY", recipient="tok_approve")
    run.payout("paid-kwd", "PAID", currency="KWD")
    run.payout("declined-released", "DECLINED")
    run.compensation("declined-released", "ORIGINATOR", "COMPENSATED")
    run.payout("declined-reversed", "DECLINED")
    run.compensation("declined-reversed", "PROCESSOR", "COMPENSATED", PULL)
    _hand_back(run, "reverse", "declined-reversed", PULL)
    run.payout("declined-adjusted", "DECLINED", currency="JPY")
    run.compensation("declined-adjusted", "PROCESSOR", "COMPENSATED", ADJUSTED_PULL)
    _hand_back(run, "adjustment", "declined-adjusted", ADJUSTED_PULL)
    run.payout("rejected", "REJECTED")
    run.payout("denied", "DENIED")
    run.compensation("denied", "ORIGINATOR", None)
    run.payout("expired", "EXPIRED")
    run.payout("failed", "FAILED")
    run.compensation("failed", "ORIGINATOR", "MANUAL")
    run.payout("cancelled", "CANCELLED")
    run.payout("in-review", "IN_REVIEW")
    run.payout("held", "UNKNOWN", held=True)
    run.payout("unknown", "UNKNOWN", first_intent_at=NOW - timedelta(hours=24))
    _set_aside(run, run.accept("paid-usd"), "REPEAT", "paid-usd")
    _set_aside(run, run.accept("paid-jpy", amount_minor=9), "REFUSED", "paid-jpy")
    _set_aside(run, run.accept(None, amount_minor=None, currency=None, recipient=None), "DEAD_LETTER", None)
    # A repeat is answered again, with the same event.
    run.evidence.results.append(run.evidence.results[0])
    return run


def _hand_back(run: Run, operation: str, payout_id: str, pull: str) -> None:
    run.evidence.pulls.append(CardPull(pull, payout_id))
    like = run.evidence.entries[0]
    for each in ("funding", operation):
        run.add_entry(like, operation=each, sender_reference=None, transaction_identifier=pull)


def _set_aside(run: Run, position: Position, disposition: str, payout_id: str | None) -> None:
    run.evidence.intake.append(Intake(position, disposition, payout_id))
    if disposition == "REFUSED":
        run.evidence.refusals.add(position)
    if disposition == "DEAD_LETTER":
        run.evidence.dead_letters.add(position)


Planted = Callable[[Run], None]
