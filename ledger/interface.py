"""What the ledger promises its callers.

Two implementations: `ledger.postgres` (the product) and `ledger.memory` (the model).

One contract suite (`tests/contract/ledger`) holds both to the same behaviour. Every write is a compare-and-set on
(state, version) that appends to the history in the same statement (rule L2); losing one is an answer, not an error.
Callers never see whether a write was batched with others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from processors.payout.modes import Activity, Mode
from processors.payout.row import PayoutRow, PayoutState


class LedgerError(Exception):
    """Root of what the ledger raises.

    LedgerError
    ├── LedgerUnavailable   connection-class: the database is away; nothing was decided, pause and try again (rule K5)
    │   └── LedgerUnverified    it answers, but may be a copy from before: nothing begins until somebody looked (L11)
    ├── CommitUnknown       a commit was sent and not confirmed; read again before anything else (rule L4)
    ├── ModeMoved           somebody else has set the mode since it was looked at (L9)
    ├── LeasesStillLive     the mode is set, and calls begun before may still be under way (L9)
    └── RowRejected         this row's data cannot be stored (a zero byte, a reused identity): only this row (L5)
    """


class LedgerUnavailable(LedgerError):
    """The database cannot be reached or refuses to serve. Nothing is known to have changed."""


class LedgerUnverified(LedgerUnavailable):
    """The database answers, but whether it is the one that we know was not established yet (rule L11)."""


class ModeNotKnown(LedgerError, ValueError):
    """The mode in force is a word of a newer release: no call is allowed in it (rule L9)."""


class CommitUnknown(LedgerError):
    """The outcome of a commit is not known: time-out, lost connection or a commit that returned a warning."""


class RowRejected(LedgerError):
    """A data or constraint error of one row; names the constraint or type, never the value."""


@dataclass(frozen=True, slots=True)
class ModeRecord:
    """The mode in force and who set it."""

    mode: Mode
    set_at: datetime
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """One step of one payout: `after` replaces `before` if the row is still at before's (state, version).

    The ledger writes `MUTABLE_COLUMNS` of `after`, sets version to before.version + 1 itself, and appends a history
    entry (payout_id, version, at, actor, transition, from_state, to_state, detail).
    """

    before: PayoutRow
    after: PayoutRow
    transition: str
    actor: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able evidence: codes and counts, never personal data or card numbers."""


class NotBegun(StrEnum):
    """Why a call may not leave."""

    LOST = "LOST"
    """Somebody else changed the row: read again, decide again."""
    HELD = "HELD"
    LEASED = "LEASED"
    """Another owner's lease is live."""
    MODE = "MODE"
    """The mode forbids calls of this kind (rule L9)."""
    REVIEW = "REVIEW"
    """The mode wants a reviewer to look at this payout first (`manual_review`, rule L9)."""
    UNVERIFIED = "UNVERIFIED"
    """The database may be a copy from before (rule L11)."""


@dataclass(frozen=True, slots=True)
class Existing:
    """The payout_id is taken: this is its row (rule L1)."""

    row: PayoutRow


@dataclass(frozen=True, slots=True)
class Inserted:
    """The row is ours; `row.receipt_owned` says whether its receipt and its card pull are, too (rule L7)."""

    row: PayoutRow


@dataclass(frozen=True, slots=True)
class DueRow:
    """A row that the sweeper found due and moved forward (rule K4)."""

    payout_id: str
    version: int
    state: PayoutState
    untouched: bool
    """Nothing has happened to it since it entered its state: its stage event may still be on its way."""
    correlation_id: str
    traceparent: str | None = None


class Disposition(StrEnum):
    """What became of an inbound record that is not a payout's first (rules K6, K7, K9)."""

    REPEAT = "REPEAT"
    REFUSED = "REFUSED"
    DEAD_LETTER = "DEAD_LETTER"
    HANDLED = "HANDLED"
    """A review decision or a confirmation that was applied, or that meant nothing (any more)."""


@dataclass(frozen=True, slots=True)
class IntakeRecord:
    """One inbound record's fate, by source offset; recording it twice is harmless."""

    topic: str
    partition: int
    offset: int
    disposition: Disposition
    payout_id: str | None
    reason_code: str


@dataclass(frozen=True, slots=True)
class InboundPosition:
    """Where an inbound record lies, and whose it says it is (None: undecodable, or no payout_id)."""

    topic: str
    partition: int
    offset: int
    payout_id: str | None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a payout's life, oldest first in `history()`."""

    payout_id: str
    version: int
    at: datetime
    actor: str
    transition: str
    from_state: str | None
    to_state: str
    detail: Mapping[str, Any]


class Ledger(Protocol):
    """One row a payout, changed only by compare-and-set, with leases for whoever calls out."""

    async def insert(self, row: PayoutRow, actor: str) -> Inserted | Existing:
        """Insert at version 1 and claim the receipt, if the funding is captured, in the same transaction (L1, L7).

        After a restored copy was adopted, whatever the broker took, or its originator asked for, before that is held
        (`LEDGER_RESTORED`, rule L11); so is, however young, what topics named and the copy did not know.
        Who gets the receipt also claims what the card pull is known by (`funding_trace`, `funding_transaction`), which
        no two payouts of any originators share. `receipt_owned` needs all of it. Who does not get the receipt claims
        no pull: the request that names the pull rightly may still come.
        The history gets its first entry (transition "received"). Raises RowRejected, CommitUnknown, LedgerUnavailable.
        """

    async def read(self, payout_id: str) -> PayoutRow | None:
        """The row as it is now. What was only read is not yet durable (rule L4)."""

    async def commit(self, change: Change, owner: str | None = None) -> PayoutRow | None:
        """Compare-and-set; None when it was lost. Needs no lease: evidence is always welcome (L2).

        Gives the lease back only when `owner` holds it: his call has ended. Anybody else's write leaves it, because
        the owner's bytes may still leave (L3, L9).
        """

    async def begin(
        self, change: Change, owner: str, lease_seconds: float, activity: Activity = Activity.SUBMIT
    ) -> PayoutRow | NotBegun:
        """Compare-and-set an intent and take the lease, for a call that leaves next (rules S2, L3, L9).

        Takes the shared mode lock in a statement before the one that reads the mode; refuses held rows, live leases
        and modes that forbid the `activity` that the call is; whoever does not say which is refused most.
        `lease_until` is the clock_timestamp() of the database plus lease_seconds. `owner` names one call, not one
        worker: two tasks of a worker are two callers.
        """

    async def issue_identity_number(self) -> int:
        """The next number of the one sequence; never returned twice (rule S1).

        Raises LedgerUnverified for a database that may be a copy from before: it would hand out numbers again (L11).
        """

    async def due(self, limit: int, redrive_seconds: float) -> Sequence[DueRow]:
        """Rows with due_at <= now, not held, oldest first; moves their due_at forward by redrive_seconds.

        No lease and no version change (K4); FOR UPDATE SKIP LOCKED; only rows whose next step the mode allows.
        """

    async def unannounced(self, limit: int, older_than_seconds: float, after: str | None = None) -> Sequence[PayoutRow]:
        """Rows with announced_version < announce_version, last written longer ago than that, ended ones too (K2).

        In the order of (last written, payout_id); only those behind the row `after`, wherever that one stands by now.
        """

    async def mark_announced(self, announced: Sequence[tuple[str, int]]) -> None:
        """Record (payout_id, announce_version) pairs that the broker confirmed; never moves backwards (K2)."""

    async def record_intake(self, record: IntakeRecord) -> None:
        """Remember what became of an inbound record that is no payout's first."""

    async def unaccounted(self, positions: Sequence[InboundPosition]) -> Sequence[InboundPosition]:
        """Those of `positions` of which the ledger knows nothing (rule K9), in the order given.

        A record is accounted for by the row of its payout_id whose source it is, or by an intake record of its
        topic, partition and offset.
        """

    async def verified_offsets(self, topic: str) -> Mapping[int, int]:
        """Per partition, the offset up to which (exclusive) every record was found in the ledger (rule K9)."""

    async def verified_up_to(self, topic: str, partition: int, offset: int) -> None:
        """Every record below `offset` is accounted for; never moves backwards (rule K9).

        Raises LedgerUnverified for a database that may be a copy from before: what was found was found elsewhere (L11).
        """

    async def settle(self) -> None:
        """Commit something of our own. What was read before the call is durable once it returns (rule L4).

        Raises CommitUnknown, LedgerUnavailable.
        """

    async def history(self, payout_id: str) -> Sequence[HistoryEntry]:
        """Every entry of one payout, oldest first."""

    async def mode(self) -> ModeRecord:
        """The mode in force."""

    async def set_mode(
        self, mode: Mode, operator: str, reason: str, wait_seconds: float, seen: ModeRecord | None = None
    ) -> ModeRecord:
        """Take the mode lock exclusively, write, then wait until no lease begun earlier is live (rule L9).

        Raises LeasesStillLive after wait_seconds; the mode is set all the same. With `seen`, ModeMoved when that is
        not what is in force any more: nothing is written, and of two people who act on what both saw one is told.
        """

    async def counts(self) -> Mapping[str, int]:
        """Rows per state, and under `compensation:<STATE>`, `held`, `leased`, `unannounced`, `due` what they say."""

    async def close(self) -> None:
        """Give back connections; in-flight commits finish first."""


class ModeMoved(LedgerError):
    """Somebody else has set the mode since it was looked at: nothing was written. `found` is what is in force."""

    def __init__(self, found: ModeRecord) -> None:
        super().__init__(f"{found.operator} has set the mode to {found.mode.value} meanwhile: {found.reason}")
        self.found = found


class LeasesStillLive(LedgerError):
    """The mode is set, but leases begun before it were still live when the wait ended; names how many."""
