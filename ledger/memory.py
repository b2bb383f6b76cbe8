"""The model of the ledger: the same answers as `ledger.postgres`, in memory, by a clock that the caller moves.

Deterministic and single-threaded. No method but `set_mode` ever gives up the event loop, so every call is atomic.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from operator import itemgetter
from typing import Any, Final, TypeVar

from ledger.interface import (
    Change,
    CommitUnknown,
    DueRow,
    Existing,
    HistoryEntry,
    InboundPosition,
    Inserted,
    IntakeRecord,
    LeasesStillLive,
    LedgerUnavailable,
    LedgerUnverified,
    ModeMoved,
    ModeRecord,
    NotBegun,
    RowRejected,
)
from ledger.statements import COUNT_NAMES, INSERT_COLUMNS
from ledger.values import (
    checked_lease_seconds,
    checked_limit,
    checked_seconds,
    encoded_detail,
    in_utc,
    is_storable_text,
    sql_type,
)
from processors.payout.modes import Activity, Mode, allows, needs_reviewer, next_activity
from processors.payout.row import LEDGER_RESTORED, MUTABLE_COLUMNS, PayoutRow, PayoutState, with_changes
from schemas.trace_context import TRACEPARENT_CHARACTERS

_TIMES: Final = tuple(column for column in INSERT_COLUMNS if sql_type(column) == "timestamptz")
LEASE_POLL_SECONDS: Final = 0.25
BIGINT: Final = range(-(2**63), 2**63)
TRACE_NUMBERS: Final = range(100_000, 1_000_000)
PULL_BYTES: Final = 32
_GUARDED: Final = frozenset({
    "attempts", "identity_number", "systems_trace_audit_number", "retrieval_reference_number",
    "compensation_identity_number", "compensation_systems_trace_audit_number",
    "compensation_retrieval_reference_number", "returned_at", "returned_version", "returned_reason_code",
})  # fmt: skip
"""Columns that a trigger, a unique or a CHECK constraint looks at when a row is changed."""
_ALWAYS_STORABLE: Final = frozenset({type(None), bool, bytes, datetime})
_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""What is the same after it was written as JSON and read again."""
_SHORT_DETAIL_CHARACTERS: Final = 2_000
"""Below it no evidence is too long, whatever its characters."""
_mutable: Final[Callable[[Mapping[str, Any]], tuple[Any, ...]]] = itemgetter(*MUTABLE_COLUMNS)
_MUTABLE_TIMES: Final = frozenset(column for column in MUTABLE_COLUMNS if sql_type(column) == "timestamptz")
RETRIEVAL_REFERENCE: Final = re.compile(r"[0-9]{12}\Z")

Answer = TypeVar("Answer")
_Entry = tuple[str, int, datetime, str, str, str | None, str, Mapping[str, Any]]
"""The fields of a `HistoryEntry`, which is made when somebody asks: most are never read."""


class Fault(StrEnum):
    """What `MemoryLedger.fail_next` can make of a write."""

    UNAVAILABLE = "UNAVAILABLE"
    """LedgerUnavailable; nothing was written."""
    UNKNOWN_NOT_APPLIED = "UNKNOWN_NOT_APPLIED"
    """CommitUnknown; nothing was written."""
    UNKNOWN_APPLIED = "UNKNOWN_APPLIED"
    """CommitUnknown; all of it was written."""


@dataclass(slots=True)
class _Stored:
    row: PayoutRow
    updated_at: datetime


class MemoryLedger:
    """`ledger.interface.Ledger` as a model, for unit tests and the simulation."""

    def __init__(
        self, clock: Callable[[], datetime], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """`clock` gives aware UTC datetimes; `sleep` is what `set_mode` waits with, and may move that clock."""
        self._clock = clock
        self._sleep = sleep
        self._stored: dict[str, _Stored] = {}
        self._receipts: dict[tuple[str, str, str], str] = {}
        self._pulls: dict[bytes, str] = {}
        self._owners: dict[tuple[str, object], str] = {}
        self._history: dict[str, list[_Entry]] = {}
        self._intake: dict[tuple[str, int, int], IntakeRecord] = {}
        self._verified: dict[tuple[str, int], int] = {}
        self._mode = ModeRecord(Mode.NORMAL, clock(), "migration", "the ledger was created")
        self._last_identity_number = 0
        self._restored_until: datetime | None = None
        self._lost_payouts: set[str] = set()
        self.verified = True
        """False: as a database that nobody has looked at since it was put back (rule L11)."""
        self._faults: dict[int, Fault] = {}
        self.writes = 0
        """Writes asked for so far, failed ones included."""
        self.operator_actions: list[ModeRecord] = []

    def fail_next(self, fault: Fault, *, after: int = 0) -> None:
        """Let the next write fail in this way, or the one that comes `after` that many others."""
        self._faults[self.writes + after + 1] = fault

    def adopted(self, window_to: datetime, lost_payouts: Iterable[str] = ()) -> None:
        """A copy was adopted: from now on what was asked for before `window_to`, or is lost, is inserted held (L11)."""
        self._restored_until = max(window_to, self._restored_until or window_to)
        self._lost_payouts.update(lost_payouts)

    async def close(self) -> None:
        """Nothing to give back."""

    async def insert(self, row: PayoutRow, actor: str) -> Inserted | Existing:
        """See `Ledger.insert`."""
        return self._write(lambda: self._insert(row, actor))

    async def read(self, payout_id: str) -> PayoutRow | None:
        """See `Ledger.read`."""
        _refuse_unstorable([payout_id])
        stored = self._stored.get(payout_id)
        return None if stored is None else stored.row

    async def commit(self, change: Change, owner: str | None = None) -> PayoutRow | None:
        """See `Ledger.commit`."""
        return self._write(lambda: self._commit(change, owner))

    async def begin(
        self, change: Change, owner: str, lease_seconds: float, activity: Activity = Activity.SUBMIT
    ) -> PayoutRow | NotBegun:
        """See `Ledger.begin`."""
        seconds = checked_lease_seconds(lease_seconds)
        return self._write(lambda: self._begin(change, owner, seconds, activity))

    async def issue_identity_number(self) -> int:
        """See `Ledger.issue_identity_number`."""
        return self._write(self._next_identity_number)

    async def due(self, limit: int, redrive_seconds: float) -> Sequence[DueRow]:
        """See `Ledger.due`."""
        checked_limit(limit)
        seconds = checked_seconds("redrive_seconds", redrive_seconds)
        return self._write(lambda: self._due(limit, seconds))

    async def unannounced(self, limit: int, older_than_seconds: float, after: str | None = None) -> Sequence[PayoutRow]:
        """See `Ledger.unannounced`."""
        _refuse_unstorable([after])
        checked_limit(limit)
        latest = self._clock() - timedelta(seconds=checked_seconds("older_than_seconds", older_than_seconds))
        behind = [
            stored
            for stored in self._stored.values()
            if stored.row.announced_version < stored.row.announce_version and stored.updated_at <= latest
        ]
        behind.sort(key=_last_written)
        known = None if after is None else self._stored.get(after)
        if known is not None:
            behind = [stored for stored in behind if _last_written(stored) > _last_written(known)]
        return [stored.row for stored in behind[:limit]]

    async def mark_announced(self, announced: Sequence[tuple[str, int]]) -> None:
        """See `Ledger.mark_announced`."""
        if announced:
            self._write(lambda: self._mark_announced(announced))

    async def record_intake(self, record: IntakeRecord) -> None:
        """See `Ledger.record_intake`."""
        self._write(lambda: self._record_intake(record))

    async def unaccounted(self, positions: Sequence[InboundPosition]) -> Sequence[InboundPosition]:
        """See `Ledger.unaccounted`."""
        for position in positions:
            _refuse_unstorable([position.topic, position.partition, position.offset])
        return [position for position in positions if not self._is_accounted(position)]

    async def verified_offsets(self, topic: str) -> Mapping[int, int]:
        """See `Ledger.verified_offsets`."""
        _refuse_unstorable([topic])
        return {partition: offset for (name, partition), offset in self._verified.items() if name == topic}

    async def verified_up_to(self, topic: str, partition: int, offset: int) -> None:
        """See `Ledger.verified_up_to`."""
        self._write(lambda: self._verified_up_to(topic, partition, offset))

    async def settle(self) -> None:
        """See `Ledger.settle`."""
        self._write(lambda: None)

    async def history(self, payout_id: str) -> Sequence[HistoryEntry]:
        """See `Ledger.history`."""
        _refuse_unstorable([payout_id])
        return [HistoryEntry(*entry) for entry in self._history.get(payout_id, ())]

    async def mode(self) -> ModeRecord:
        """See `Ledger.mode`."""
        return self._mode

    async def set_mode(
        self, mode: Mode, operator: str, reason: str, wait_seconds: float, seen: ModeRecord | None = None
    ) -> ModeRecord:
        """See `Ledger.set_mode`."""
        deadline = self._clock() + timedelta(seconds=checked_seconds("wait_seconds", wait_seconds))
        record = self._write(lambda: self._set_mode(mode, operator, reason, seen))
        earlier = {row.payout_id: row.lease_owner for row in self._rows() if self._is_leased(row)}
        while live := self._still_live(earlier):
            remaining = (deadline - self._clock()).total_seconds()
            if remaining <= 0:
                raise LeasesStillLive(
                    f"mode {mode.value} is set, but {live} leases begun before it are still live after "
                    f"{wait_seconds:g} s: their calls may be under way; run the same command again to wait longer"
                )
            await self._sleep(min(LEASE_POLL_SECONDS, remaining))
        return record

    async def counts(self) -> Mapping[str, int]:
        """See `Ledger.counts`."""
        counts = dict.fromkeys(COUNT_NAMES, 0)
        now = self._clock()
        for row in self._rows():
            counts[row.state.value] += 1
            counts[f"compensation:{row.compensation.value}"] += 1
            counts["held"] += row.held
            counts["leased"] += self._is_leased(row)
            counts["unannounced"] += _is_unannounced(row)
            counts["due"] += row.due_at is not None and row.due_at <= now and not row.held
        return counts

    def intake(self) -> Sequence[IntakeRecord]:
        """Every record of `record_intake`, in the order of arrival: for tests."""
        return list(self._intake.values())

    def _write(self, write: Callable[[], Answer]) -> Answer:
        self.writes += 1
        fault = self._faults.pop(self.writes, None)
        if fault is Fault.UNAVAILABLE:
            raise LedgerUnavailable("the database is away (injected fault); nothing was written")
        if fault is Fault.UNKNOWN_NOT_APPLIED:
            raise CommitUnknown("a write was sent and not confirmed (injected fault); read the row again")
        answer = write()
        if fault is Fault.UNKNOWN_APPLIED:
            raise CommitUnknown("a write was sent and not confirmed (injected fault); read the row again")
        return answer

    def _insert(self, row: PayoutRow, actor: str) -> Inserted | Existing:
        given = row.__dict__
        times = {column: in_utc(column, given[column]) for column in _TIMES if given[column] is not None}
        _refuse_unstorable([given[column] for column in INSERT_COLUMNS])
        _refuse_unstorable([actor])
        fresh = with_changes(
            row, **times, version=1, announced_version=0, lease_owner=None, lease_until=None, receipt_owned=False
        )
        _refuse_broken_constraint(fresh)
        existing = self._stored.get(row.payout_id)
        if existing is not None:
            return Existing(existing.row)
        if self._taken(fresh) is not None:
            raise RowRejected("another payout has this sender_reference or identity already (a unique constraint)")
        if self._is_restored(fresh):
            fresh = with_changes(fresh, held=True, hold_reason=LEDGER_RESTORED)
        inserted = with_changes(fresh, receipt_owned=self._claim(fresh))
        self._store(inserted)
        self._take(inserted)
        self._note(inserted, actor, "received", None, {})
        return Inserted(inserted)

    def _is_restored(self, row: PayoutRow) -> bool:
        """Whether it may have been paid before a copy was put back."""
        until = self._restored_until
        is_old = until is not None and min(row.received_at, row.requested_at) < until
        return is_old or row.payout_id in self._lost_payouts

    def _claim(self, row: PayoutRow) -> bool:
        """Whether the receipt, and the card pull behind it, is this payout's from now on (rule L7)."""
        if not row.funding_captured or row.funding_reference is None:
            return False
        receipt = (row.originator_id, row.funding_kind.value, row.funding_reference)
        if self._receipts.setdefault(receipt, row.payout_id) != row.payout_id:
            return False
        pulls = [pull for pull in (row.funding_trace, row.funding_transaction) if pull is not None]
        # One that is lost does not keep the payout from claiming the other.
        owners = {self._pulls.setdefault(pull, row.payout_id) for pull in pulls}
        return owners <= {row.payout_id}

    def _commit(self, change: Change, owner: str | None) -> PayoutRow | None:
        values, detail = self._storable_change(change)
        stored = self._current(change.before)
        if stored is None:
            return None
        lease = stored.row.lease_owner, stored.row.lease_until
        return self._apply(stored, change, values, detail, *((None, None) if lease[0] == owner else lease))

    def _begin(self, change: Change, owner: str, lease_seconds: float, activity: Activity) -> PayoutRow | NotBegun:
        values, detail = self._storable_change(change)
        _refuse_unstorable([owner])
        stored = self._current(change.before)
        if stored is None:
            return NotBegun.LOST
        if stored.row.held:
            return NotBegun.HELD
        if self._is_leased(stored.row):
            return NotBegun.LEASED
        if not allows(self._mode.mode, activity):
            return NotBegun.MODE
        if activity is Activity.SUBMIT and self._mode.mode is Mode.MANUAL_REVIEW and needs_reviewer(stored.row):
            return NotBegun.REVIEW
        if not self.verified:
            return NotBegun.UNVERIFIED
        lease_until = self._clock() + timedelta(seconds=lease_seconds)
        return self._apply(stored, change, values, detail, owner, lease_until)

    def _storable_change(self, change: Change) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """What the change writes that is not there already, and its evidence."""
        detail = _stored_detail(change.detail)
        before = change.before
        _refuse_unstorable((before.payout_id, before.version, change.actor, change.transition))
        stored = self._stored.get(before.payout_id)
        after, there = change.after.__dict__, {} if stored is None else stored.row.__dict__
        written = dict(zip(MUTABLE_COLUMNS, _mutable(after), strict=True))
        if there:
            written = {column: value for column, value in written.items() if value is not there[column]}
        _refuse_unstorable(written.values())
        for column in _MUTABLE_TIMES & written.keys():
            if written[column] is not None:
                written[column] = in_utc(column, written[column])
        return written, detail

    def _current(self, before: PayoutRow) -> _Stored | None:
        stored = self._stored.get(before.payout_id)
        if stored is None or (stored.row.state, stored.row.version) != (before.state, before.version):
            return None
        return stored

    def _apply(
        self,
        stored: _Stored,
        change: Change,
        values: Mapping[str, Any],
        detail: Mapping[str, Any],
        lease_owner: str | None,
        lease_until: datetime | None,
    ) -> PayoutRow:
        row = stored.row
        changed = with_changes(row, **values, version=row.version + 1, lease_owner=lease_owner, lease_until=lease_until)
        if not _GUARDED.isdisjoint(values):  # else what is there has passed already
            _refuse_forbidden_change(row, changed)
            _refuse_broken_step(changed)
            taken = self._taken(changed)
            if taken is not None:
                raise RowRejected(f"the row's data is refused, constraint {taken}")
            self._take(changed)
        self._store(changed)
        self._note(changed, change.actor, change.transition, row.state.value, detail)
        return changed

    def _taken(self, row: PayoutRow) -> str | None:
        """The unique constraint that another payout's values leave no room in."""
        for name, key in _unique_keys(row):
            if self._owners.get((name, key), row.payout_id) != row.payout_id:
                return name
        return None

    def _next_identity_number(self) -> int:
        if not self.verified:
            raise LedgerUnverified("nobody has looked whether this ledger is a copy from before: no number (L11)")
        self._last_identity_number += 1
        return self._last_identity_number

    def _due(self, limit: int, redrive_seconds: float) -> Sequence[DueRow]:
        now, mode = self._clock(), self._mode.mode
        found = [
            (row.due_at, row.payout_id.encode(), row)
            for row in self._rows()
            if row.due_at is not None and row.due_at <= now and not row.held and allows(mode, next_activity(row))
        ]
        picked = sorted(found)[:limit]
        for _, _, row in picked:
            moved = with_changes(row, due_at=now + timedelta(seconds=redrive_seconds))
            self._stored[row.payout_id].row = moved
        return [_due_row(row) for _, _, row in picked]

    def _mark_announced(self, announced: Sequence[tuple[str, int]]) -> None:
        _refuse_unstorable([payout_id for payout_id, _ in announced] + [version for _, version in announced])
        highest: dict[str, int] = {}
        for payout_id, version in announced:
            highest[payout_id] = max(version, highest.get(payout_id, version))
        for payout_id, version in highest.items():
            stored = self._stored.get(payout_id)
            if stored and stored.row.announced_version < version <= stored.row.announce_version:
                stored.row = with_changes(stored.row, announced_version=version)

    def _record_intake(self, record: IntakeRecord) -> None:
        _refuse_unstorable([record.topic, record.partition, record.offset, record.payout_id, record.reason_code])
        if not 1 <= len(record.topic.encode()) <= 512:
            raise RowRejected("the row's data is refused, constraint intake_topic_length")
        self._intake.setdefault((record.topic, record.partition, record.offset), record)

    def _is_accounted(self, position: InboundPosition) -> bool:
        place = (position.topic, position.partition, position.offset)
        stored = self._stored.get(position.payout_id) if position.payout_id is not None else None
        if stored is not None and _source(stored.row) == place:
            return True
        return place in self._intake

    def _verified_up_to(self, topic: str, partition: int, offset: int) -> None:
        _refuse_unstorable([topic, partition, offset])
        if not self.verified:
            raise LedgerUnverified("nobody has looked whether this ledger is a copy from before (L11)")
        if partition < 0 or offset < 0:
            raise RowRejected("the row's data is refused, constraint verified_offsets_count")
        if not 1 <= len(topic.encode()) <= 512:
            raise RowRejected("the row's data is refused, constraint verified_offsets_topic_length")
        self._verified[topic, partition] = max(offset, self._verified.get((topic, partition), 0))

    def _set_mode(self, mode: Mode, operator: str, reason: str, seen: ModeRecord | None) -> ModeRecord:
        _refuse_unstorable([operator, reason])
        if seen is not None and seen != self._mode:
            raise ModeMoved(self._mode)
        self._mode = ModeRecord(mode, self._clock(), operator, reason)
        self.operator_actions.append(self._mode)
        return self._mode

    def _still_live(self, earlier: Mapping[str, str | None]) -> int:
        rows = (self._stored[payout_id].row for payout_id in earlier)
        return sum(self._is_leased(row) and row.lease_owner == earlier[row.payout_id] for row in rows)

    def _is_leased(self, row: PayoutRow) -> bool:
        return row.lease_until is not None and row.lease_until > self._clock()

    def _rows(self) -> Sequence[PayoutRow]:
        return [stored.row for stored in self._stored.values()]

    def _store(self, row: PayoutRow) -> None:
        self._stored[row.payout_id] = _Stored(row, self._clock())

    def _take(self, row: PayoutRow) -> None:
        """Never given back: sender_reference is fixed, and an identity once taken is kept."""
        self._owners.update(dict.fromkeys(_unique_keys(row), row.payout_id))

    def _note(
        self, row: PayoutRow, actor: str, transition: str, from_state: str | None, detail: Mapping[str, Any]
    ) -> None:
        now = self._clock()
        entry = row.payout_id, row.version, now, actor, transition, from_state, row.state.value, detail
        self._history.setdefault(row.payout_id, []).append(entry)


def _due_row(row: PayoutRow) -> DueRow:
    untouched = row.version == row.state_version and row.attempts == 0
    return DueRow(row.payout_id, row.version, row.state, untouched, row.correlation_id, row.traceparent)


def _last_written(stored: _Stored) -> tuple[datetime, bytes]:
    return stored.updated_at, stored.row.payout_id.encode()


def _is_unannounced(row: PayoutRow) -> bool:
    return row.announced_version < row.announce_version


def _source(row: PayoutRow) -> tuple[str, int, int]:
    return row.source_topic, row.source_partition, row.source_offset


Identity = tuple[int | None, int | None, str | None]


def _identity(row: PayoutRow) -> Identity:
    return row.identity_number, row.systems_trace_audit_number, row.retrieval_reference_number


def _compensation_identity(row: PayoutRow) -> Identity:
    return (
        row.compensation_identity_number,
        row.compensation_systems_trace_audit_number,
        row.compensation_retrieval_reference_number,
    )


def _returned(row: PayoutRow) -> tuple[datetime | None, int, str | None]:
    return row.returned_at, row.returned_version, row.returned_reason_code


def _refuse_forbidden_change(row: PayoutRow, changed: PayoutRow) -> None:
    """The triggers of the table, in the order in which they run: by name."""
    sent_before = row.ambiguous or row.state is not PayoutState.CLEARED
    if row.is_account_payout and changed.attempts > row.attempts and sent_before:
        raise RowRejected("the row's data is refused, constraint payouts_account_never_sent_again")
    for name, identity in (
        ("payouts_compensation_identity_kept", _compensation_identity),
        ("payouts_identity_kept", _identity),
    ):
        if identity(row)[0] is not None and identity(row) != identity(changed):
            raise RowRejected(f"the row's data is refused, constraint {name}")
    if row.returned_at is not None and _returned(row) != _returned(changed):
        raise RowRejected("the row's data is refused, constraint payouts_return_kept")


def _unique_keys(row: PayoutRow) -> Sequence[tuple[str, object]]:
    """Unique constraint and value, in the order in which PostgreSQL checks them: that of their creation."""
    keys: list[tuple[str, object]] = [("payouts_sender_reference_key", row.sender_reference)]
    if row.identity_number is not None:
        keys.append(("payouts_identity_number_key", row.identity_number))
        keys.append(("payouts_trace_and_retrieval_key", _identity(row)[1:]))
    if row.compensation_identity_number is not None:
        keys.append(("payouts_compensation_identity_number_key", row.compensation_identity_number))
    return keys


def _stored_detail(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    if not detail:
        return {}
    texts = [*detail, *(value for value in detail.values() if type(value) is str)]
    if all(type(value) in _PLAIN for value in detail.values()) and sum(map(len, texts)) < _SHORT_DETAIL_CHARACTERS:
        _refuse_unstorable(texts)
        return dict(detail)
    read_again: Mapping[str, Any] = json.loads(encoded_detail(detail))
    _refuse_unstorable_json(read_again)
    return read_again


def _refuse_unstorable(values: Iterable[Any]) -> None:
    """What PostgreSQL's types refuse before a statement runs: zero bytes, text that is no UTF-8, numbers too large."""
    for value in values:
        if type(value) in _ALWAYS_STORABLE:
            continue
        if isinstance(value, str):
            if not is_storable_text(value):
                raise RowRejected("a value is no text that PostgreSQL stores (a zero byte or half a character)")
        elif isinstance(value, int) and value not in BIGINT:
            raise RowRejected("a value does not fit the type of its column (bigint)")


def _refuse_unstorable_json(value: object) -> None:
    if isinstance(value, dict):
        _refuse_unstorable_json([*value, *value.values()])
    elif isinstance(value, list):
        for member in value:
            _refuse_unstorable_json(member)
    elif isinstance(value, str):
        _refuse_unstorable([value])


def _refuse_broken_constraint(row: PayoutRow) -> None:
    """The CHECK constraints of the table, by the same names; the first in the alphabet is the one that is named."""
    _refuse_first_broken(
        {
            **_broken_by_a_step(row),
            "payouts_payout_id_length": not 1 <= len(row.payout_id.encode()) <= 512,
            "payouts_originator_id_length": not 1 <= len(row.originator_id.encode()) <= 512,
            "payouts_funding_reference_length": len((row.funding_reference or "").encode()) > 1024,
            "payouts_funding_pull_form": not all(map(_is_hash_or_none, (row.funding_trace, row.funding_transaction))),
            "payouts_traceparent_length": len((row.traceparent or "").encode()) > TRACEPARENT_CHARACTERS,
            "payouts_sender_reference_length": not 1 <= len(row.sender_reference.encode()) <= 64,
        }
    )


def _refuse_broken_step(row: PayoutRow) -> None:
    """Of the CHECK constraints those on columns that a compare-and-set writes."""
    _refuse_first_broken(_broken_by_a_step(row))


def _refuse_first_broken(broken: Mapping[str, bool]) -> None:
    if True in broken.values():
        name = min(name for name, is_broken in broken.items() if is_broken)
        raise RowRejected(f"the row's data is refused, constraint {name}")


def _broken_by_a_step(row: PayoutRow) -> Mapping[str, bool]:
    identity, compensation_identity = _identity(row), _compensation_identity(row)
    return {
        "payouts_identity_whole": not _is_whole(identity),
        "payouts_identity_form": not _has_form(identity),
        "payouts_compensation_identity_whole": not _is_whole(compensation_identity),
        "payouts_compensation_identity_form": not _has_form(compensation_identity),
        "payouts_returned_whole": not _is_whole_return(row),
    }


def _is_hash_or_none(value: bytes | None) -> bool:
    return value is None or len(value) == PULL_BYTES


def _is_whole(identity: Identity) -> bool:
    return identity.count(None) in (0, 3)


def _is_whole_return(row: PayoutRow) -> bool:
    at, version, reason_code = _returned(row)
    return (at is None) is (version == 0) and (at is None) is (reason_code is None)


def _has_form(identity: Identity) -> bool:
    _, trace_number, reference = identity
    if trace_number is not None and trace_number not in TRACE_NUMBERS:
        return False
    return reference is None or RETRIEVAL_REFERENCE.match(reference) is not None
