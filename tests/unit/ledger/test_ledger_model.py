"""The model on its own: invariants under any sequence of operations, and the faults it can be asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ledger.interface import (
    Change,
    CommitUnknown,
    Existing,
    Inserted,
    LeasesStillLive,
    LedgerUnavailable,
    NotBegun,
    RowRejected,
)
from ledger.memory import Fault, MemoryLedger
from processors.payout.modes import Activity, Mode, allows, needs_reviewer, next_activity
from processors.payout.row import FIXED_COLUMNS, MUTABLE_COLUMNS, PayoutRow, PayoutState
from tests.contract.ledger.ledger_harness import (
    OWNER,
    START,
    MemoryHarness,
    identity,
    inserted,
    pull_key,
    sample_row,
    step,
)

Answer = TypeVar("Answer")
PAYOUTS = st.integers(0, 4)
STATES = st.sampled_from(PayoutState)


def finished(work: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer of a coroutine that never waits, which is what makes the model deterministic."""
    try:
        work.send(None)
    except StopIteration as stop:
        answer: Answer = stop.value
        return answer
    work.close()
    raise AssertionError("the model gave up the event loop in the middle of a write")


class LedgerMachine(RuleBasedStateMachine):
    """L1, L2, L3, L7, L9, K2, K4, S1 as invariants over everything the model has said."""

    def __init__(self) -> None:
        super().__init__()
        self.time = START
        self.ledger = MemoryLedger(lambda: self.time)
        self.first: dict[str, PayoutRow] = {}
        self.last: dict[str, PayoutRow] = {}
        self.numbers: set[int] = set()

    def row(self, number: int) -> PayoutRow:
        return finished(self.ledger.read(sample_row(number).payout_id)) or sample_row(number)

    @rule(number=PAYOUTS, shared=st.booleans(), pull=PAYOUTS, captured=st.booleans(), due=st.booleans())
    def insert(self, number: int, shared: bool, pull: int, captured: bool, due: bool) -> None:
        row = sample_row(
            number,
            funding_reference="shared" if shared else f"own-{number}",
            funding_captured=captured,
            funding_trace=pull_key(pull),
            due_at=self.time if due else None,
            announce_version=1,
        )
        outcome = finished(self.ledger.insert(row, "actor"))
        assert isinstance(outcome, Existing) == (row.payout_id in self.first)
        if isinstance(outcome, Inserted):
            self.first[row.payout_id] = outcome.row

    @rule(
        number=PAYOUTS,
        state=STATES,
        stale=st.booleans(),
        held=st.booleans(),
        number_taken=st.integers(0, 6),
        owner=st.sampled_from([None, "a", "b"]),
    )
    def commit(
        self, number: int, state: PayoutState, stale: bool, held: bool, number_taken: int, owner: str | None
    ) -> None:
        row = self.row(number)
        before = replace(row, version=row.version - stale)
        taken = identity(number_taken) if number_taken else {}
        try:
            changed = finished(self.ledger.commit(step(before, state=state, held=held, **taken), owner))
        except RowRejected:
            assert taken
            assert self.row(number) == row
            return
        if changed is None:
            assert stale or row.payout_id not in self.first
            assert self.row(number) == row
        else:
            assert (changed.version, changed.state) == (row.version + 1, state)
            # L3, L9: only its owner gives a lease back.
            kept = (None, None) if owner == row.lease_owner else (row.lease_owner, row.lease_until)
            assert (changed.lease_owner, changed.lease_until) == kept

    @rule(
        number=PAYOUTS,
        owner=st.sampled_from(["a", "b"]),
        seconds=st.integers(1, 100),
        activity=st.sampled_from([Activity.SUBMIT, Activity.ASK, Activity.COMPENSATE]),
    )
    def begin(self, number: int, owner: str, seconds: int, activity: Activity) -> None:
        row, mode = self.row(number), finished(self.ledger.mode()).mode
        change = step(row, state=PayoutState.SUBMITTING)
        answer = finished(self.ledger.begin(change, owner, float(seconds), activity))
        leased = row.lease_until is not None and row.lease_until > self.time
        forbidden = not allows(mode, activity)
        unreviewed = mode is Mode.MANUAL_REVIEW and activity is Activity.SUBMIT and needs_reviewer(row)
        if isinstance(answer, PayoutRow):
            assert not forbidden
            assert not unreviewed
            assert not row.held
            assert not leased
            assert (answer.lease_owner, answer.lease_until) == (owner, self.time + timedelta(seconds=seconds))
        else:
            allowed = {NotBegun.HELD: row.held, NotBegun.LEASED: leased, NotBegun.MODE: forbidden}
            allowed |= {NotBegun.REVIEW: unreviewed}
            assert allowed.get(answer, row.payout_id not in self.first)

    @rule(seconds=st.integers(1, 120))
    def pass_time(self, seconds: int) -> None:
        self.time += timedelta(seconds=seconds)

    @rule(limit=st.integers(1, 5))
    def due(self, limit: int) -> None:
        due = finished(self.ledger.due(limit, 60.0))
        assert len(due) <= limit
        for entry in due:
            row = finished(self.ledger.read(entry.payout_id))
            assert row is not None
            assert allows(finished(self.ledger.mode()).mode, next_activity(row))
            assert not row.held
            assert (row.version, row.due_at) == (entry.version, self.time + timedelta(seconds=60))

    @rule(number=PAYOUTS, version=st.integers(0, 5))
    def announce(self, number: int, version: int) -> None:
        before = self.row(number)
        finished(self.ledger.mark_announced([(before.payout_id, version)]))
        assert before.announced_version <= self.row(number).announced_version <= before.announce_version

    @rule(mode=st.sampled_from(Mode))
    def set_mode(self, mode: Mode) -> None:
        try:
            finished(self.ledger.set_mode(mode, "operator", "why", 0.0))
        except LeasesStillLive:
            assert any(row.lease_until and row.lease_until > self.time for row in self.last.values())
        assert finished(self.ledger.mode()).mode is mode

    @rule()
    def issue(self) -> None:
        number = finished(self.ledger.issue_identity_number())
        assert number not in self.numbers
        self.numbers.add(number)

    @invariant()
    def the_history_has_one_entry_a_version(self) -> None:
        for payout_id in self.first:
            row = finished(self.ledger.read(payout_id))
            assert row is not None
            history = finished(self.ledger.history(payout_id))
            assert [entry.version for entry in history] == list(range(1, row.version + 1))
            assert history[-1].to_state == row.state

    @invariant()
    def rows_are_never_lost_and_their_versions_never_fall(self) -> None:
        for payout_id, first in self.first.items():
            row = finished(self.ledger.read(payout_id))
            assert row is not None
            last = self.last.get(payout_id, first)
            assert row.version >= last.version
            if row.version == last.version:
                unchanged = [name for name in MUTABLE_COLUMNS if name != "due_at"]
                assert [getattr(row, name) for name in unchanged] == [getattr(last, name) for name in unchanged]
            for column in FIXED_COLUMNS:
                assert getattr(row, column) == getattr(first, column)
            self.last[payout_id] = row

    @invariant()
    def what_may_be_used_once_is_used_once(self) -> None:
        rows = list(self.last.values())
        identities = [row.identity_number for row in rows if row.identity_number is not None]
        assert len(identities) == len(set(identities))
        receipts = [(row.originator_id, row.funding_kind, row.funding_reference) for row in rows if row.receipt_owned]
        assert len(receipts) == len(set(receipts))
        pulls = [pull for row in rows if row.receipt_owned for pull in (row.funding_trace, row.funding_transaction)]
        assert len(pulls) == len(set(pulls))


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_l1_l2_l3_l7_l9_k2_k4_s1_invariants_hold_under_any_operations = LedgerMachine.TestCase


async def test_l4_an_unavailable_ledger_has_written_nothing() -> None:
    harness = MemoryHarness()
    harness.ledger.fail_next(Fault.UNAVAILABLE)
    with pytest.raises(LedgerUnavailable):
        await harness.ledger.insert(sample_row(), "actor")
    assert await harness.ledger.read(sample_row().payout_id) is None
    assert (await inserted(harness.ledger)).version == 1, "the fault is over"


@pytest.mark.parametrize(
    ("fault", "applied"), [(Fault.UNKNOWN_APPLIED, True), (Fault.UNKNOWN_NOT_APPLIED, False)], ids=str
)
async def test_l4_an_unknown_commit_may_have_happened_or_not(fault: Fault, applied: bool) -> None:
    harness = MemoryHarness()
    row = await inserted(harness.ledger)
    harness.ledger.fail_next(fault)
    with pytest.raises(CommitUnknown):
        await harness.ledger.begin(step(row, state=PayoutState.SUBMITTING), OWNER, 60)
    found = await harness.ledger.read(row.payout_id)
    assert found is not None
    assert (found.version == 2, found.lease_owner == OWNER) == (applied, applied)
    assert len(await harness.ledger.history(row.payout_id)) == 1 + applied


async def test_faults_strike_the_write_they_were_meant_for() -> None:
    harness = MemoryHarness()
    harness.ledger.fail_next(Fault.UNAVAILABLE, after=1)
    row = await inserted(harness.ledger)
    with pytest.raises(LedgerUnavailable):
        await harness.ledger.commit(step(row, attempts=1))
    assert await harness.ledger.commit(step(row, attempts=1)) is not None
    assert harness.ledger.writes == 3


async def test_the_same_operations_give_the_same_ledger() -> None:
    async def life() -> list[object]:
        ledger = MemoryLedger(lambda: datetime(2026, 3, 1, tzinfo=UTC))
        row = await inserted(ledger)
        await ledger.commit(Change(row, replace(row, state=PayoutState.PAID), "paid", "actor", {"code": "00"}))
        return [await ledger.read(row.payout_id), await ledger.history(row.payout_id), await ledger.counts()]

    assert await life() == await life()


async def test_l9_the_wait_of_set_mode_runs_by_the_models_own_time() -> None:
    harness = MemoryHarness()

    async def sleep(seconds: float) -> None:
        harness.time += timedelta(seconds=seconds)
        await asyncio.sleep(0)

    ledger = MemoryLedger(lambda: harness.time, sleep=sleep)
    row = await inserted(ledger)
    await ledger.begin(step(row), OWNER, 8.0)
    with pytest.raises(LeasesStillLive):
        await ledger.set_mode(Mode.HALTED, "operator", "why", 5.0)
    assert harness.time - START == timedelta(seconds=5)
    await ledger.set_mode(Mode.HALTED, "operator", "why", 5.0)
    assert harness.time - START >= timedelta(seconds=8)
    assert [action.operator for action in ledger.operator_actions] == ["operator", "operator"]
