"""What the auditor knows about a run, as plain values; and the journal that a producer keeps for it.

A producer appends one line to the journal when the broker has acknowledged a record, and not before: the journal is
the only list of what was accepted. It holds recipients' card numbers in clear, so it is an input file of a test,
readable by its owner only, and it is not searched for leaks.

A million payouts are a million of several of these values, so they are small: slots, no bytes of any record, and one
object for every text that comes again (`intern`): about 2.5 KiB a payout, all of it together.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from sys import intern
from typing import Any, Final, NamedTuple

# A line is one record's facts; a longer one was not written by `append_accepted`.
JOURNAL_LINE_BYTES_MAX: Final = 16 * 1024


class EvidenceIncomplete(RuntimeError):
    """Something that a verdict needs could not be read; the message says what, why and what to do."""


class JournalUnreadable(ValueError):
    """A line of the journal is not what `append_accepted` writes. Names the line, quotes nothing of it."""


class Position(NamedTuple):
    """Where a record lies in Kafka; `topic` is the name on the cluster."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """One record that the broker acknowledged to its producer. Amounts are in minor units of `currency`."""

    position: Position
    payout_id: str | None
    """None for bytes that are no request."""
    value_sha256: str
    amount_minor: int | None = None
    currency: str | None = None
    recipient: str | None = field(default=None, repr=False)
    """The card number, token reference or account number that is to be paid; None if the producer does not say."""
    kind: str | None = None
    """What the producer meant by it: payout, repeat, conflict or raw. For people; no verdict rests on it."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What the verdict needs of a row of `payouts`."""

    payout_id: str
    position: Position
    amount_minor: int
    currency: str
    state: str
    received_at: datetime
    first_intent_at: datetime | None = None
    held: bool = False
    compensation: str = "NONE"
    compensation_at: datetime | None = None
    compensation_executor: str | None = None
    compensation_reference: str | None = None
    undone_version: int = 0
    """The row version at which an operator last took a resolution back (rule L12); 0: never."""


@dataclass(frozen=True, slots=True)
class Intake:
    """A record that did not become a row, as the ledger remembers it: REPEAT, REFUSED or DEAD_LETTER."""

    position: Position
    disposition: str
    payout_id: str | None = None


@dataclass(frozen=True, slots=True)
class ResultEvent:
    """One record of `payout_results`."""

    payout_id: str
    event_id: str
    status: str
    amount_minor: int
    currency: str
    version: int = 0
    """The row version that it tells; consumers keep the highest (rule K3)."""


@dataclass(frozen=True, slots=True)
class CompensationDemand:
    """One record of `payout_failed_requires_compensation`."""

    payout_id: str
    event_id: str
    compensation_id: str
    executor: str
    originator_id: str = ""
    version: int = 0
    """The row version that asked for it."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One record of `payout_compensation_confirmations`: an originator says that he handed the money back (C2)."""

    payout_id: str
    compensation_id: str
    originator_id: str
    reference: str


@dataclass(frozen=True, slots=True)
class CompensationEnd:
    """One record of `payout_compensation_results`."""

    payout_id: str
    event_id: str
    status: str
    executor: str
    transaction_identifier: str | None = None


@dataclass(frozen=True, slots=True)
class StandInEntry:
    """One entry of the stand-in's own ledger; `amount` is decimal text in `currency` (ISO 4217 alphabetic)."""

    entry_id: int
    operation: str
    """push, funding, reverse, adjustment, account or account_return."""
    money_moved: bool
    amount: str
    currency: str
    recipient_fingerprint: str
    sender_reference: str | None
    transaction_identifier: str
    """For a reversal and an adjustment that of the card pull which they hand back."""


@dataclass(frozen=True, slots=True)
class CardPull:
    """A card pull (AFT) that an accepted request names as its funding."""

    transaction_identifier: str
    payout_id: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A card number in an artefact (a file, a topic, a table). Holds no digit of it but the last four."""

    artefact: str
    where: str
    encoding: str
    ending: str | None
    """Last four digits of one of the run's own numbers; None for a number that only looks like a card's."""


@dataclass(slots=True)
class Evidence:
    """Everything a verdict rests on."""

    fingerprint_key: bytes = field(repr=False)
    """The stand-in's key for recipients' fingerprints."""
    accepted: list[Accepted] = field(default_factory=list)
    rows: list[LedgerRow] = field(default_factory=list)
    intake: list[Intake] = field(default_factory=list)
    results: list[ResultEvent] = field(default_factory=list)
    demands: list[CompensationDemand] = field(default_factory=list)
    compensation_ends: list[CompensationEnd] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    refusals: set[Position] = field(default_factory=set)
    """Sources named by the records of `payout_refusals`."""
    dead_letters: set[Position] = field(default_factory=set)
    """Sources named by the records of `payout_dead_letters`."""
    entries: list[StandInEntry] = field(default_factory=list)
    pulls: list[CardPull] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Sentences about evidence that contradicts itself: an acknowledged record that the topic does not hold, …"""
    earlier: Evidence | None = None
    """What a cluster held that was lost since, read before it went: what it acknowledged, and what it told."""
    survived: set[Position] = field(default_factory=set)
    """Records that the earlier cluster acknowledged, and whose bytes stand at the same place of this one."""

    def add(self, other: Evidence) -> None:
        """Take over all that another reader found."""
        for each in fields(self):
            ours, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(ours, set):
                ours.update(theirs)
            elif isinstance(ours, list):
                ours.extend(theirs)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Without Python's cycle collector: it would walk through millions of values again and again, none in a cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def append_accepted(
    path: Path,
    *,
    payout_id: str | None,
    topic: str,
    partition: int,
    offset: int,
    value: bytes,
    amount_minor: int | None,
    currency: str | None,
    recipient: str | None,
    kind: str | None = None,
) -> None:
    """Append one acknowledged record to the journal; call it from the delivery report, when it brings no error.

    `topic` is the name on the cluster; `recipient` the card number, token reference or account number to be paid. One
    write of one line, so that several producers may share a journal and a killed one leaves no half of a line.
    """
    line = {
        "payout_id": payout_id,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "value_sha256": hashlib.sha256(value).hexdigest(),
        "amount_minor": amount_minor,
        "currency": currency,
        "recipient": recipient,
        "kind": kind,
    }
    data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    if len(data) > JOURNAL_LINE_BYTES_MAX:
        raise ValueError("a line of the journal is too long: is the payout_id or the recipient really one?")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def read_journal(path: Path) -> list[Accepted]:
    """Every acknowledged record, in the order of acknowledgement. Raises JournalUnreadable, OSError."""
    accepted: list[Accepted] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            accepted.append(_accepted(line, number))
    return accepted


def _accepted(line: bytes, number: int) -> Accepted:
    try:
        return _from_json(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        what = type(error).__name__
    raise JournalUnreadable(f"line {number} of the journal is not a line of `append_accepted` ({what})")


def _from_json(facts: dict[str, Any]) -> Accepted:
    amount = facts["amount_minor"]
    return Accepted(
        position=Position(intern(str(facts["topic"])), int(facts["partition"]), int(facts["offset"])),
        payout_id=_interned(facts["payout_id"]),
        value_sha256=str(facts["value_sha256"]),
        amount_minor=None if amount is None else int(amount),
        currency=_interned(facts["currency"]),
        recipient=_interned(facts["recipient"]),
        kind=_interned(facts.get("kind")),
    )


def _interned(text: str | None) -> str | None:
    return None if text is None else intern(str(text))
