"""What every ledger promises, held to the model and to PostgreSQL alike; rule ids in the names and docstrings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ledger.interface import (
    Change,
    Disposition,
    Existing,
    InboundPosition,
    Inserted,
    IntakeRecord,
    LeasesStillLive,
    LedgerUnverified,
    ModeMoved,
    NotBegun,
    RowRejected,
)
from processors.payout.modes import Activity, Mode, next_activity
from processors.payout.row import (
    FIXED_COLUMNS,
    LEDGER_RESTORED,
    MUTABLE_COLUMNS,
    CompensationAction,
    CompensationState,
    DestinationKind,
    Executor,
    FundingKind,
    PayoutRow,
    PayoutState,
)
from tests.contract.ledger.ledger_harness import (
    ACTOR,
    OWNER,
    START,
    Harness,
    adjustment_identity,
    begun,
    committed,
    identity,
    inserted,
    pull_key,
    sample_row,
    step,
)

SECRET = "needle-4000001234"


# L1: one row a payout


async def test_l1_the_first_record_owns_the_payout_for_ever(harness: Harness) -> None:
    first = await inserted(harness.ledger)
    rival = sample_row(1, amount_minor=1, source_partition=7, sender_reference="another")
    outcome = await harness.ledger.insert(rival, "somebody else")
    assert outcome == Existing(first)
    assert await harness.ledger.read(first.payout_id) == first
    assert len(await harness.ledger.history(first.payout_id)) == 1


async def test_l1_one_of_many_copies_at_once_wins_and_the_others_see_it(harness: Harness) -> None:
    """The copies share the sender_reference too: its uniqueness must not turn a duplicate into an error."""
    outcomes = await asyncio.gather(*(harness.ledger.insert(sample_row(1), f"actor-{n}") for n in range(30)))
    winners = [outcome for outcome in outcomes if isinstance(outcome, Inserted)]
    assert len(winners) == 1
    assert all(outcome.row == winners[0].row for outcome in outcomes)
    assert len(await harness.ledger.history("payout-00000001")) == 1


async def test_l1_every_column_comes_back_as_it_was_inserted(harness: Harness) -> None:
    row = replace(sample_row(1), **EVERY_MUTABLE_COLUMN, amount_minor=-(2**63))
    outcome = await harness.ledger.insert(row, ACTOR)
    assert isinstance(outcome, Inserted)
    for column in (*FIXED_COLUMNS, *MUTABLE_COLUMNS):
        assert getattr(outcome.row, column) == getattr(row, column), column
    assert await harness.ledger.read(row.payout_id) == outcome.row


async def test_l1_insert_starts_at_version_1_whatever_the_row_says(harness: Harness) -> None:
    boastful = sample_row(1, version=9, announced_version=9, lease_owner=OWNER, lease_until=START, receipt_owned=True)
    outcome = await harness.ledger.insert(replace(boastful, funding_captured=False), ACTOR)
    row = outcome.row
    assert (row.version, row.announced_version, row.lease_owner, row.lease_until) == (1, 0, None, None)
    assert not row.receipt_owned


async def test_read_of_a_payout_never_seen_is_none(harness: Harness) -> None:
    assert await harness.ledger.read("payout-99999999") is None
    assert list(await harness.ledger.history("payout-99999999")) == []


async def test_times_come_back_in_utc_whatever_their_zone(harness: Harness) -> None:
    local = START.astimezone(timezone(timedelta(hours=9)))
    row = await inserted(harness.ledger, 1, requested_at=local, due_at=local)
    for moment in (row.requested_at, row.due_at):
        assert moment == START
        assert moment is not None
        assert moment.utcoffset() == timedelta(0)


# L7: receipts


async def test_l7_a_receipt_belongs_to_the_first_payout_that_claims_it(harness: Harness) -> None:
    """L7, B2, B6: what may be used once is used once, and no end of its payout gives it free."""
    first = await inserted(harness.ledger, 1, funding_reference="shared")
    second = await inserted(harness.ledger, 2, funding_reference="shared")
    assert first.receipt_owned
    assert not second.receipt_owned
    again = await harness.ledger.read(second.payout_id)
    assert again is not None
    assert not again.receipt_owned
    ended = await committed(harness.ledger, step(first, state=PayoutState.FAILED))
    assert ended.receipt_owned, "an end does not give the receipt up"
    third = await inserted(harness.ledger, 3, funding_reference="shared")
    assert not third.receipt_owned


@pytest.mark.parametrize("different", [{"originator_id": "originator-2"}, {"funding_kind": FundingKind.PIS}])
async def test_l7_a_receipt_is_named_by_originator_kind_and_reference(
    harness: Harness, different: dict[str, Any]
) -> None:
    assert (await inserted(harness.ledger, 1, funding_reference="shared")).receipt_owned
    assert (await inserted(harness.ledger, 2, funding_reference="shared", **different)).receipt_owned


PULL_NAMES = ("funding_trace", "funding_transaction")


@pytest.mark.parametrize("shared", [PULL_NAMES, PULL_NAMES[:1], PULL_NAMES[1:]], ids=["both", "trace", "transaction"])
async def test_l7_a_card_pull_belongs_to_the_first_payout_of_any_originator(
    harness: Harness, shared: tuple[str, ...]
) -> None:
    """Also P4, C1: by either of its names, under whatever receipt; for ever, and however the row is read."""
    pull = {name: pull_key("shared") for name in shared}
    first = await inserted(harness.ledger, 1, **pull)
    second = await inserted(harness.ledger, 2, originator_id="originator-2", **pull)
    assert first.receipt_owned
    assert not second.receipt_owned
    assert await harness.ledger.read(first.payout_id) == first
    assert await harness.ledger.read(second.payout_id) == second
    ended = [await committed(harness.ledger, step(row, state=PayoutState.FAILED)) for row in (first, second)]
    assert [row.receipt_owned for row in ended] == [True, False]
    leased = [await begun(harness.ledger, row) for row in ended]
    assert [row.receipt_owned for row in leased] == [True, False]
    announced = [await committed(harness.ledger, step(row, announce_version=9)) for row in leased]
    assert [row.receipt_owned for row in announced] == [True, False]
    await harness.pass_time(1)
    behind = await harness.ledger.unannounced(9, 0.5)
    assert [row.receipt_owned for row in behind] == [True, False]


@pytest.mark.parametrize("known", [(), PULL_NAMES[:1], PULL_NAMES[1:]], ids=["nothing", "trace", "transaction"])
async def test_l7_a_pull_of_which_names_are_missing_is_owned_by_the_others(
    harness: Harness, known: tuple[str, ...]
) -> None:
    unnamed = {name: None for name in PULL_NAMES if name not in known}
    rows = [await inserted(harness.ledger, number, **unnamed) for number in (1, 2)]
    assert all(row.receipt_owned for row in rows)
    assert [await harness.ledger.read(row.payout_id) for row in rows] == rows
    thief = await inserted(harness.ledger, 3, **{name: getattr(rows[0], name) for name in PULL_NAMES})
    assert thief.receipt_owned == (known == ())


@pytest.mark.parametrize(
    "without", [{"funding_captured": False}, {"funding_reference": None}, {"funding_reference": "receipt-9"}]
)
async def test_l7_who_gets_no_receipt_claims_no_pull(harness: Harness, without: dict[str, Any]) -> None:
    """The request that names the pull rightly may still come."""
    await inserted(harness.ledger, 9)
    pull = {name: pull_key(f"disputed {name}") for name in PULL_NAMES}
    assert not (await inserted(harness.ledger, 1, **pull, **without)).receipt_owned
    assert (await inserted(harness.ledger, 2, **pull)).receipt_owned


async def test_l7_one_of_many_payouts_at_once_gets_the_pull(harness: Harness) -> None:
    pull = {name: pull_key(f"shared {name}") for name in PULL_NAMES}
    rows = await asyncio.gather(*(inserted(harness.ledger, n, **pull) for n in range(1, 31)))
    assert sum(row.receipt_owned for row in rows) == 1
    for row in rows:
        assert await harness.ledger.read(row.payout_id) == row


@pytest.mark.parametrize("name", PULL_NAMES)
async def test_l5_l7_what_is_no_hash_is_refused_as_the_name_of_a_pull(harness: Harness, name: str) -> None:
    """An empty one would be everybody's."""
    with pytest.raises(RowRejected, match="payouts_funding_pull_form"):
        await inserted(harness.ledger, 1, **{name: b""})


async def test_l7_funding_that_was_not_captured_claims_nothing(harness: Harness) -> None:
    uncaptured = await inserted(harness.ledger, 1, funding_reference="shared", funding_captured=False)
    unnamed = await inserted(harness.ledger, 2, funding_reference=None)
    captured = await inserted(harness.ledger, 3, funding_reference="shared")
    assert [row.receipt_owned for row in (uncaptured, unnamed, captured)] == [False, False, True]


async def test_l7_one_of_many_payouts_at_once_gets_the_receipt(harness: Harness) -> None:
    rows = await asyncio.gather(*(inserted(harness.ledger, n, funding_reference="shared") for n in range(1, 31)))
    assert sum(row.receipt_owned for row in rows) == 1


async def test_l7_receipt_owned_is_derived_and_a_change_cannot_claim_it(harness: Harness) -> None:
    row = await inserted(harness.ledger, 1, funding_captured=False)
    changed = await committed(harness.ledger, step(row, receipt_owned=True, funding_captured=True))
    assert not changed.receipt_owned
    assert not changed.funding_captured


# K2: the trace that a request came in

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("traceparent", [PARENT, None])
async def test_k2_the_trace_of_a_payout_is_fixed_by_its_first_record(harness: Harness, traceparent: str | None) -> None:
    """The sweeper has it too: what it sends stands in the payout's trace."""
    before = await inserted(harness.ledger, 1, traceparent=traceparent, due_at=START)
    assert before.traceparent == traceparent
    changed = await committed(harness.ledger, step(before, traceparent=f"{PARENT[:-1]}0"))
    assert changed.traceparent == traceparent
    assert await harness.ledger.read(before.payout_id) == changed
    (due,) = await harness.ledger.due(10, 60)
    assert due.traceparent == traceparent


async def test_k2_no_row_keeps_more_than_a_trace_context(harness: Harness) -> None:
    """L5: a row of a worker that forgot to look ends with a reason, alone."""
    with pytest.raises(RowRejected, match="payouts_traceparent_length"):
        await inserted(harness.ledger, 1, traceparent=f"{PARENT}0")


# S3, S8: the account rail

ACCOUNT_KINDS = [DestinationKind.ACCOUNT, DestinationKind.WALLET]


async def test_s3_where_a_payout_goes_is_fixed_by_its_first_record(harness: Harness) -> None:
    before = await inserted(harness.ledger, 1, destination_kind=DestinationKind.WALLET)
    changed = await committed(harness.ledger, step(before, destination_kind=DestinationKind.CARD))
    assert changed.destination_kind is DestinationKind.WALLET


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
@pytest.mark.parametrize("state", [PayoutState.UNKNOWN, PayoutState.PENDING, PayoutState.SUBMITTING])
async def test_s3_an_account_payout_that_may_have_been_sent_is_never_sent_again(
    harness: Harness, kind: DestinationKind, state: PayoutState
) -> None:
    """S0-19: whatever a worker decides, the ledger itself takes no second intent; the row stays as it is."""
    ambiguous = state is not PayoutState.SUBMITTING
    facts: dict[str, Any] = {"state": state, "attempts": 1, "ambiguous": ambiguous}
    before = await inserted(harness.ledger, 1, destination_kind=kind, **facts, **identity(1))
    again = step(before, "intent", state=PayoutState.SUBMITTING, attempts=2)
    with pytest.raises(RowRejected, match="payouts_account_never_sent_again"):
        await harness.ledger.begin(again, OWNER, 60.0)
    with pytest.raises(RowRejected, match="payouts_account_never_sent_again"):
        await harness.ledger.commit(again)
    assert await harness.ledger.read(before.payout_id) == before


async def test_s3_s4_an_account_payout_is_sent_again_where_every_attempt_was_refused(harness: Harness) -> None:
    facts: dict[str, Any] = {"state": PayoutState.CLEARED, "attempts": 1}
    before = await inserted(harness.ledger, 1, destination_kind=DestinationKind.ACCOUNT, **facts, **identity(1))
    assert (await begun(harness.ledger, before, attempts=2)).attempts == 2


async def test_s3_a_card_payout_may_be_sent_again_while_ambiguous(harness: Harness) -> None:
    """The duplicate key is the card rail's: its resend is decided by the state machine."""
    before = await inserted(harness.ledger, 1, state=PayoutState.UNKNOWN, attempts=1, ambiguous=True, **identity(1))
    assert (await begun(harness.ledger, before, attempts=2)).attempts == 2


@pytest.mark.parametrize(
    "other",
    [
        {"returned_at": None, "returned_version": 0, "returned_reason_code": None},
        {"returned_at": START + timedelta(seconds=9)},
        {"returned_version": 8},
        {"returned_reason_code": "ANOTHER"},
    ],
    ids=["erased", "another time", "another version", "another reason"],
)
async def test_s8_that_a_payout_came_back_is_recorded_once_and_kept(harness: Harness, other: dict[str, Any]) -> None:
    facts = {"returned_at": START, "returned_version": 2, "returned_reason_code": "RETURNED"}
    before = await inserted(harness.ledger, 1, state=PayoutState.PAID)
    returned = await committed(harness.ledger, step(before, "returned", **facts))
    with pytest.raises(RowRejected, match="payouts_return_kept"):
        await harness.ledger.commit(step(returned, **other))
    assert (await committed(harness.ledger, step(returned, inquiries=3))).returned_at == START


@pytest.mark.parametrize(
    "part", [{"returned_at": START}, {"returned_version": 2}, {"returned_reason_code": "RETURNED"}], ids=str
)
async def test_s8_a_return_is_whole_or_not_there(harness: Harness, part: dict[str, Any]) -> None:
    before = await inserted(harness.ledger, 1, state=PayoutState.PAID)
    with pytest.raises(RowRejected, match="payouts_returned_whole"):
        await harness.ledger.commit(step(before, **part))


# L2: compare-and-set with history

EVERY_MUTABLE_COLUMN: dict[str, Any] = {
    "state": PayoutState.UNKNOWN,
    "state_version": 2,
    "state_at": START + timedelta(seconds=1),
    "compensation": CompensationState.UNKNOWN,
    "compensation_version": 3,
    "compensation_at": START + timedelta(seconds=2),
    "held": True,
    "hold_reason": "a person looks at it",
    "reason_code": "CODE",
    "reason": "words, with ünïcode 支払い",
    "policy_version": "p1",
    "list_version": "l1",
    "score_basis_points": 7_100,
    "matched_entry_id": "entry-1",
    "matched_party": "recipient",
    "review_case_id": "case-1",
    "reviewer": "reviewer-1",
    "attempts": 4,
    "inquiries": 5,
    "systemic_refusals": 6,
    "own_failures": 3,
    "ambiguous": True,
    **identity(7),
    "first_intent_at": START + timedelta(seconds=3),
    "last_intent_at": START + timedelta(seconds=4),
    "sealed_body": bytes(range(256)),
    "status_identifier": "status-1",
    "action_code": "91",
    "transaction_identifier": "381228649430015",
    "approval_code": "98765X",
    "visa_correlation_id": "visa-1",
    "returned_at": START + timedelta(seconds=7),
    "returned_version": 9,
    "returned_reason_code": "RETURNED",
    "compensation_action": CompensationAction.REVERSE_FUNDS,
    "compensation_executor": Executor.PROCESSOR,
    "compensation_reason_code": "C_CODE",
    "compensation_reference": "reference-1",
    "compensation_attempts": 8,
    "compensation_inquiries": 9,
    "compensation_ambiguous": True,
    "compensation_first_intent_at": START + timedelta(seconds=5),
    "compensation_last_intent_at": START + timedelta(seconds=6),
    "compensation_sealed_body": b"\x00\xff",
    **adjustment_identity(8),
    "due_at": START + timedelta(days=3_650),
    "announce_version": 10,
}


async def test_l2_a_commit_writes_every_mutable_column_and_no_other(harness: Harness) -> None:
    assert set(EVERY_MUTABLE_COLUMN) == set(MUTABLE_COLUMNS), "a new column is missing from this test"
    before = await inserted(harness.ledger)
    after = replace(before, **EVERY_MUTABLE_COLUMN)
    meddled = replace(
        after, **{column: getattr(sample_row(2), column) for column in FIXED_COLUMNS}, version=99, announced_version=99
    )
    changed = await committed(harness.ledger, Change(before=before, after=meddled, transition="all", actor=ACTOR))
    assert changed == replace(after, version=2)
    assert await harness.ledger.read(before.payout_id) == changed


async def test_l2_a_commit_can_clear_what_may_be_empty(harness: Harness) -> None:
    kept = {*identity(7), *adjustment_identity(8), "returned_at", "returned_version", "returned_reason_code"}
    full = {name: value for name, value in EVERY_MUTABLE_COLUMN.items() if name not in kept}
    before = await inserted(harness.ledger, 1, **full)
    empty: dict[str, Any] = {f.name: None for f in fields(PayoutRow) if f.name in full and "None" in str(f.type)}
    assert len(empty) > 20
    assert await committed(harness.ledger, step(before, **empty)) == replace(before, **empty, version=2)


@pytest.mark.parametrize(
    "stale",
    [{"version": 1}, {"version": 3}, {"state": PayoutState.RECEIVED}, {"payout_id": "payout-00000002"}],
    ids=["older version", "version to come", "other state", "no such payout"],
)
async def test_l2_a_lost_compare_and_set_answers_none_and_writes_nothing(
    harness: Harness, stale: dict[str, Any]
) -> None:
    row = await inserted(harness.ledger)
    row = await committed(harness.ledger, step(row, state=PayoutState.VALIDATED))
    history = await harness.ledger.history(row.payout_id)
    assert await harness.ledger.commit(step(replace(row, **stale), state=PayoutState.PAID)) is None
    assert await harness.ledger.read(row.payout_id) == row
    assert await harness.ledger.history(row.payout_id) == history
    assert await harness.ledger.read("payout-00000002") is None


async def test_l2_one_of_many_commits_at_once_wins(harness: Harness) -> None:
    row = await inserted(harness.ledger)
    changes = [step(row, reason_code=f"CODE_{n}") for n in range(30)]
    outcomes = await asyncio.gather(*(harness.ledger.commit(change) for change in changes))
    winners = [outcome for outcome in outcomes if outcome is not None]
    assert len(winners) == 1
    assert await harness.ledger.read(row.payout_id) == winners[0]
    assert len(await harness.ledger.history(row.payout_id)) == 2


async def test_l2_history_tells_the_payouts_life_in_order(harness: Harness) -> None:
    row = await inserted(harness.ledger)
    await inserted(harness.ledger, 2)
    evidence = {"action_code": "91", "count": 3, "deep": {"list": [1, None, True, "ü"]}}
    row = await committed(harness.ledger, Change(row, replace(row, state=PayoutState.CLEARED), "cleared", "comply"))
    row = await begun(harness.ledger, row)
    change = Change(row, replace(row, state=PayoutState.UNKNOWN), "unknown", "submit", evidence)
    await committed(harness.ledger, change)
    entries = await harness.ledger.history(row.payout_id)
    assert [(e.version, e.transition, e.actor, e.from_state, e.to_state) for e in entries] == [
        (1, "received", ACTOR, None, "RECEIVED"),
        (2, "cleared", "comply", "RECEIVED", "CLEARED"),
        (3, "begin", ACTOR, "CLEARED", "SUBMITTING"),
        (4, "unknown", "submit", "SUBMITTING", "UNKNOWN"),
    ]
    assert [dict(e.detail) for e in entries] == [{}, {}, {"first": "state"}, evidence]
    assert {e.payout_id for e in entries} == {row.payout_id}
    assert all(e.at.utcoffset() == timedelta(0) for e in entries)
    assert [e.at for e in entries] == sorted(e.at for e in entries)


# L3: leases


async def test_l3_begin_takes_the_lease_by_the_ledgers_clock(harness: Harness) -> None:
    row = await inserted(harness.ledger)
    earliest = await harness.now()
    row = await begun(harness.ledger, row, lease_seconds=60, **identity(1), sealed_body=b"body")
    latest = await harness.now()
    assert row.lease_owner == OWNER
    assert row.lease_until is not None
    assert earliest <= row.lease_until - timedelta(seconds=60) <= latest
    assert (row.version, row.state, row.sealed_body) == (2, PayoutState.SUBMITTING, b"body")
    assert await harness.ledger.read(row.payout_id) == row


@pytest.mark.parametrize("rival", [OWNER, "worker-2"], ids=["same owner", "other owner"])
async def test_l3_a_live_lease_refuses_every_other_call(harness: Harness, rival: str) -> None:
    """The same worker's too: two of its tasks are two callers."""
    row = await begun(harness.ledger, await inserted(harness.ledger))
    assert await harness.ledger.begin(step(row, attempts=2), rival, 60) is NotBegun.LEASED
    assert await harness.ledger.read(row.payout_id) == row
    assert len(await harness.ledger.history(row.payout_id)) == 2


async def test_l3_an_expired_lease_gives_way_to_a_new_owner(harness: Harness) -> None:
    row = await begun(harness.ledger, await inserted(harness.ledger), lease_seconds=60)
    await harness.pass_time(59)
    row_now = await harness.ledger.read(row.payout_id)
    assert row_now is not None
    assert await harness.ledger.begin(step(row_now), "worker-2", 60) is NotBegun.LEASED
    await harness.pass_time(2)
    again = await begun(harness.ledger, row_now, owner="worker-2")
    assert (again.lease_owner, again.version) == ("worker-2", 3)


async def test_l3_one_of_many_begins_at_once_wins(harness: Harness) -> None:
    row = await inserted(harness.ledger)
    begins = (harness.ledger.begin(step(row, state=PayoutState.SUBMITTING), f"worker-{n}", 60) for n in range(30))
    outcomes = await asyncio.gather(*begins)
    winners = [outcome for outcome in outcomes if isinstance(outcome, PayoutRow)]
    assert len(winners) == 1
    assert {outcome for outcome in outcomes if not isinstance(outcome, PayoutRow)} == {NotBegun.LOST}
    assert await harness.ledger.read(row.payout_id) == winners[0]


@pytest.mark.parametrize("stale", [{"version": 2}, {"state": PayoutState.CLEARED}, {"payout_id": "nobody"}])
async def test_l3_begin_on_a_row_that_moved_is_lost(harness: Harness, stale: dict[str, Any]) -> None:
    row = await inserted(harness.ledger)
    assert await harness.ledger.begin(step(replace(row, **stale)), OWNER, 60) is NotBegun.LOST
    assert await harness.ledger.read(row.payout_id) == row


async def test_l12_nothing_begins_for_a_held_row(harness: Harness) -> None:
    row = await inserted(harness.ledger)
    row = await committed(harness.ledger, step(row, held=True, hold_reason="a person looks at it"))
    assert await harness.ledger.begin(step(row), OWNER, 60) is NotBegun.HELD
    assert await harness.ledger.read(row.payout_id) == row
    released = await committed(harness.ledger, step(row, held=False, hold_reason=None))
    assert (await begun(harness.ledger, released)).lease_owner == OWNER


async def test_l3_l9_only_its_owner_gives_a_lease_back(harness: Harness) -> None:
    """A hold in the middle of a call must not let the next caller, or a mode change, believe that the call is over."""
    row = await begun(harness.ledger, await inserted(harness.ledger))
    held = await harness.ledger.commit(step(row, held=True, hold_reason="a person looks at it"))
    assert held is not None
    assert (held.lease_owner, held.lease_until) == (row.lease_owner, row.lease_until)
    released = await harness.ledger.commit(step(held, held=False, hold_reason=None), "somebody else")
    assert released is not None
    assert await harness.ledger.begin(step(released), "worker-2", 60) is NotBegun.LEASED
    with pytest.raises(LeasesStillLive):
        await harness.ledger.set_mode(Mode.HALTED, "operator", "the lease of a held row counts too", 0)


async def test_l3_a_commit_clears_the_lease(harness: Harness) -> None:
    row = await begun(harness.ledger, await inserted(harness.ledger))
    row = await committed(harness.ledger, step(row, state=PayoutState.UNKNOWN))
    assert (row.lease_owner, row.lease_until) == (None, None)
    assert (await begun(harness.ledger, row, owner="worker-2")).lease_owner == "worker-2"


async def test_l2_late_evidence_is_welcome_without_a_lease(harness: Harness) -> None:
    """An answer that comes after its lease ended is committed all the same, on the row as it is now."""
    row = await begun(harness.ledger, await inserted(harness.ledger))
    await harness.pass_time(3_600)
    current = await harness.ledger.read(row.payout_id)
    assert current is not None
    paid = await committed(harness.ledger, step(current, "answered", state=PayoutState.PAID, action_code="00"))
    assert paid.state is PayoutState.PAID


async def test_l2_evidence_on_a_row_that_moved_is_lost_and_succeeds_when_read_again(harness: Harness) -> None:
    old = await begun(harness.ledger, await inserted(harness.ledger))
    await committed(harness.ledger, step(old, state=PayoutState.UNKNOWN))
    assert await harness.ledger.commit(step(old, state=PayoutState.PAID)) is None
    current = await harness.ledger.read(old.payout_id)
    assert current is not None
    assert (await committed(harness.ledger, step(current, state=PayoutState.PAID))).state is PayoutState.PAID


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
async def test_l3_a_lease_that_makes_no_sense_is_refused(harness: Harness, seconds: float) -> None:
    row = await inserted(harness.ledger)
    with pytest.raises(ValueError, match="lease_seconds"):
        await harness.ledger.begin(step(row), OWNER, seconds)
    assert await harness.ledger.read(row.payout_id) == row


# K4: what is due


async def test_k4_due_rows_come_oldest_first_and_move_forward_without_a_new_version(harness: Harness) -> None:
    now = await harness.now()
    for number, minutes in ((1, 1), (2, 3), (3, 2)):
        await inserted(harness.ledger, number, due_at=now - timedelta(minutes=minutes))
    await inserted(harness.ledger, 4, due_at=now + timedelta(minutes=30))
    await inserted(harness.ledger, 5)
    due = await harness.ledger.due(10, 60)
    assert [entry.payout_id for entry in due] == ["payout-00000002", "payout-00000003", "payout-00000001"]
    assert {(entry.version, entry.state) for entry in due} == {(1, PayoutState.RECEIVED)}
    assert due[0].correlation_id == "correlation-2"
    assert list(await harness.ledger.due(10, 60)) == [], "one outstanding drive a payout"
    moved = await harness.ledger.read("payout-00000002")
    assert moved is not None
    assert moved.due_at is not None
    assert timedelta(seconds=55) < moved.due_at - now < timedelta(seconds=90)
    assert (moved.version, moved.lease_owner) == (1, None)
    assert len(await harness.ledger.history("payout-00000002")) == 1
    await harness.pass_time(120)
    assert {entry.payout_id for entry in await harness.ledger.due(10, 60)} == {entry.payout_id for entry in due}


async def test_k4_due_takes_no_more_than_the_limit(harness: Harness) -> None:
    now = await harness.now()
    for number in range(1, 6):
        await inserted(harness.ledger, number, due_at=now - timedelta(minutes=number))
    assert [entry.payout_id[-1] for entry in await harness.ledger.due(2, 60)] == ["5", "4"]
    assert [entry.payout_id[-1] for entry in await harness.ledger.due(2, 60)] == ["3", "2"]


async def test_k4_one_of_many_sweepers_gets_each_row(harness: Harness) -> None:
    now = await harness.now()
    for number in range(1, 41):
        await inserted(harness.ledger, number, due_at=now - timedelta(minutes=1))
    batches = await asyncio.gather(*(harness.ledger.due(10, 600) for _ in range(8)))
    found = [entry.payout_id for batch in batches for entry in batch]
    found += [entry.payout_id for entry in await harness.ledger.due(40, 600)]
    assert sorted(found) == [f"payout-{number:08d}" for number in range(1, 41)]


async def test_k4_l12_a_held_row_is_not_due(harness: Harness) -> None:
    now = await harness.now()
    await inserted(harness.ledger, 1, due_at=now - timedelta(minutes=1), held=True, hold_reason="why")
    assert list(await harness.ledger.due(10, 60)) == []


async def test_k4_a_leased_row_can_be_due_and_the_drive_that_follows_is_refused(harness: Harness) -> None:
    now = await harness.now()
    row = await begun(harness.ledger, await inserted(harness.ledger), due_at=now - timedelta(seconds=1))
    assert [entry.version for entry in await harness.ledger.due(10, 60)] == [2]
    assert await harness.ledger.begin(step(row), "worker-2", 60) is NotBegun.LEASED


async def test_k4_a_commit_from_before_the_drive_still_wins_and_decides_the_schedule(harness: Harness) -> None:
    now = await harness.now()
    row = await inserted(harness.ledger, 1, due_at=now - timedelta(minutes=1))
    assert len(await harness.ledger.due(10, 60)) == 1
    assert (await committed(harness.ledger, step(row, state=PayoutState.PAID, due_at=None))).due_at is None
    await harness.pass_time(3_600)
    assert list(await harness.ledger.due(10, 60)) == []


# K2: what is announced


async def test_k2_rows_behind_are_found_ended_ones_included_oldest_first(harness: Harness) -> None:
    first = await inserted(harness.ledger, 1)
    second = await inserted(harness.ledger, 2)
    await inserted(harness.ledger, 3)
    second = await committed(harness.ledger, step(second, state=PayoutState.PAID, announce_version=2))
    await harness.pass_time(1)
    first = await committed(harness.ledger, step(first, state=PayoutState.CANCELLED, announce_version=2))
    assert list(await harness.ledger.unannounced(10, 30)) == [], "a publish may still be under way"
    await harness.pass_time(31)
    assert list(await harness.ledger.unannounced(10, 30)) == [second, first]
    assert list(await harness.ledger.unannounced(1, 30)) == [second]
    assert list(await harness.ledger.unannounced(10, 30, second.payout_id)) == [first]
    assert list(await harness.ledger.unannounced(10, 30, first.payout_id)) == []
    assert list(await harness.ledger.unannounced(10, 30, "of no row")) == [second, first], "from the beginning"
    await harness.ledger.mark_announced([(first.payout_id, 2), (second.payout_id, 2)])
    assert list(await harness.ledger.unannounced(10, 0)) == []
    announced = await harness.ledger.read(first.payout_id)
    assert announced == replace(first, announced_version=2), "no new version: consumers keep the highest (K3)"
    assert len(await harness.ledger.history(first.payout_id)) == 2


async def test_k2_the_announced_version_never_moves_backwards(harness: Harness) -> None:
    row = await inserted(harness.ledger, 1, announce_version=1)
    row = await committed(harness.ledger, step(row, announce_version=2))
    row = await committed(harness.ledger, step(row, announce_version=3))
    await harness.ledger.mark_announced([(row.payout_id, 2), (row.payout_id, 1)])
    assert await announced_version(harness, row) == 2
    await harness.ledger.mark_announced([(row.payout_id, 1)])
    assert await announced_version(harness, row) == 2
    await harness.ledger.mark_announced([(row.payout_id, 3), (row.payout_id, 3), ("payout-99999999", 1)])
    assert await announced_version(harness, row) == 3
    await harness.ledger.mark_announced([])


async def test_k2_a_version_that_was_never_announced_is_not_believed(harness: Harness) -> None:
    """Believing it would keep a later event from ever being published."""
    row = await inserted(harness.ledger, 1, announce_version=1)
    await harness.ledger.mark_announced([(row.payout_id, 7)])
    assert await announced_version(harness, row) == 0


async def test_k2_a_commit_does_not_undo_an_announcement_it_has_not_seen(harness: Harness) -> None:
    row = await inserted(harness.ledger, 1, announce_version=1)
    await harness.ledger.mark_announced([(row.payout_id, 1)])
    changed = await committed(harness.ledger, step(row, announce_version=2))
    assert (changed.announced_version, changed.announce_version) == (1, 2)


async def announced_version(harness: Harness, row: PayoutRow) -> int:
    found = await harness.ledger.read(row.payout_id)
    assert found is not None
    return found.announced_version


# S1: identities


async def test_s1_no_identity_number_is_issued_twice(harness: Harness) -> None:
    numbers = await asyncio.gather(*(harness.ledger.issue_identity_number() for _ in range(200)))
    assert len(set(numbers)) == 200
    assert min(numbers) >= 1


@pytest.mark.parametrize("write", ["commit", "begin"])
@pytest.mark.parametrize(
    "reused",
    [identity(1) | {"systems_trace_audit_number": 100_777}, identity(1) | {"identity_number": 777}, identity(1)],
    ids=["number", "trace and retrieval", "all"],
)
async def test_s1_l5_an_identity_in_use_is_refused_and_only_that_row_is_affected(
    harness: Harness, write: str, reused: dict[str, Any]
) -> None:
    await committed(harness.ledger, step(await inserted(harness.ledger, 1), **identity(1)))
    other = await inserted(harness.ledger, 2)
    change = step(other, **reused)
    with pytest.raises(RowRejected) as caught:
        await (harness.ledger.commit(change) if write == "commit" else harness.ledger.begin(change, OWNER, 60))
    assert "_key" in str(caught.value), "names the constraint"
    assert "777" not in str(caught.value)
    assert await harness.ledger.read(other.payout_id) == other
    assert len(await harness.ledger.history(other.payout_id)) == 1
    assert (await committed(harness.ledger, step(other, **identity(2)))).identity_number == 2


@pytest.mark.parametrize("other", [identity(2), dict.fromkeys(identity(1))], ids=["another", "none"])
async def test_s1_an_identity_once_taken_is_kept(harness: Harness, other: dict[str, Any]) -> None:
    row = await committed(harness.ledger, step(await inserted(harness.ledger), **identity(1)))
    with pytest.raises(RowRejected, match="payouts_identity_kept"):
        await harness.ledger.commit(step(row, **other))
    assert await harness.ledger.read(row.payout_id) == row
    assert (await committed(harness.ledger, step(row, attempts=2))).identity_number == 1


async def test_s1_an_adjustments_identity_is_used_once_and_kept(harness: Harness) -> None:
    """The same promises as for the payout's own identity, and the two do not get in each other's way."""
    row = await committed(harness.ledger, step(await inserted(harness.ledger), **identity(1)))
    row = await begun(harness.ledger, row, **adjustment_identity(2))
    other = await inserted(harness.ledger, 2)
    with pytest.raises(RowRejected, match="payouts_compensation_identity_number_key"):
        await harness.ledger.begin(step(other, **adjustment_identity(2)), OWNER, 60)
    with pytest.raises(RowRejected, match="payouts_compensation_identity_kept"):
        await harness.ledger.commit(step(row, **adjustment_identity(3)))
    with pytest.raises(RowRejected, match="payouts_compensation_identity_whole"):
        await harness.ledger.commit(step(other, compensation_identity_number=3))
    with pytest.raises(RowRejected, match="payouts_compensation_identity_form"):
        await harness.ledger.commit(
            step(other, **adjustment_identity(3) | {"compensation_systems_trace_audit_number": 1})
        )
    assert await harness.ledger.read(row.payout_id) == row
    assert await harness.ledger.read(other.payout_id) == other


@pytest.mark.parametrize(
    "broken",
    [
        {"identity_number": 1},
        {"systems_trace_audit_number": 100_001},
        identity(1) | {"systems_trace_audit_number": 99_999},
        identity(1) | {"systems_trace_audit_number": 1_000_000},
        identity(1) | {"retrieval_reference_number": "60601200000"},
        identity(1) | {"retrieval_reference_number": "60601200000X"},
        identity(1) | {"retrieval_reference_number": "606012000000\n"},
    ],
)
async def test_s1_a_malformed_identity_is_refused(harness: Harness, broken: dict[str, Any]) -> None:
    row = await inserted(harness.ledger)
    with pytest.raises(RowRejected, match="payouts_identity_"):
        await harness.ledger.commit(step(row, **broken))
    assert await harness.ledger.read(row.payout_id) == row


# L5: data that cannot be stored

UNSTORABLE: dict[str, dict[str, Any]] = {
    "zero byte": {"reason": f"{SECRET}\0"},
    "half a character": {"reason": f"{SECRET}\ud800"},
    "number too large": {"attempts": 4_000_001_234 * 10**15},
    "time without zone": {"due_at": datetime(2026, 3, 1)},  # noqa: DTZ001 - the point of the test
}


@pytest.mark.parametrize("kind", UNSTORABLE)
@pytest.mark.parametrize("write", ["insert", "commit", "begin"])
async def test_l5_unstorable_data_rejects_the_row_without_showing_the_value(
    harness: Harness, kind: str, write: str
) -> None:
    row = await inserted(harness.ledger)
    change = step(row, **UNSTORABLE[kind])
    writes: dict[str, Callable[[], Awaitable[object]]] = {
        "insert": lambda: harness.ledger.insert(sample_row(2, **UNSTORABLE[kind]), ACTOR),
        "commit": lambda: harness.ledger.commit(change),
        "begin": lambda: harness.ledger.begin(change, OWNER, 60),
    }
    with pytest.raises(RowRejected) as caught:
        await writes[write]()
    assert_shows_no_value(caught.value)
    assert await harness.ledger.read(row.payout_id) == row
    assert await harness.ledger.read("payout-00000002") is None
    assert len(await harness.ledger.history(row.payout_id)) == 1


@pytest.mark.parametrize(
    "detail",
    [
        {"text": f"{SECRET}\0"},
        {f"{SECRET}\0": 1},
        {"deep": [{"deeper": f"{SECRET}\ud800"}]},
        {"number": float("nan")},
        {"object": object()},
        {"long": SECRET * 2_000},
    ],
    ids=["zero byte", "zero byte in a key", "half a character", "no number", "no JSON", "too long"],
)
async def test_l5_unstorable_evidence_rejects_the_row_without_showing_the_value(
    harness: Harness, detail: dict[str, Any]
) -> None:
    row = await inserted(harness.ledger)
    with pytest.raises(RowRejected) as caught:
        await harness.ledger.commit(replace(step(row, attempts=1), detail=detail))
    assert_shows_no_value(caught.value)
    assert await harness.ledger.read(row.payout_id) == row
    assert len(await harness.ledger.history(row.payout_id)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"payout_id": ""},
        {"payout_id": SECRET * 40},
        {"originator_id": ""},
        {"originator_id": SECRET * 40},
        {"funding_reference": SECRET * 80},
        {"sender_reference": SECRET * 10},
        {"sender_reference": ""},
    ],
)
async def test_l5_names_of_impossible_length_are_refused(harness: Harness, changes: dict[str, str]) -> None:
    with pytest.raises(RowRejected, match="_length") as caught:
        await harness.ledger.insert(sample_row(1, **changes), ACTOR)
    assert_shows_no_value(caught.value)


async def test_l5_a_sender_reference_of_another_payout_is_refused(harness: Harness) -> None:
    first = await inserted(harness.ledger)
    with pytest.raises(RowRejected, match="sender_reference"):
        await harness.ledger.insert(sample_row(2, sender_reference=first.sender_reference), ACTOR)
    assert await harness.ledger.read("payout-00000002") is None
    assert (await inserted(harness.ledger, 2)).receipt_owned, "the refused insert claimed no receipt"


async def test_l5_a_zero_byte_in_a_name_asked_for_is_refused(harness: Harness) -> None:
    for question in (harness.ledger.read(f"{SECRET}\0"), harness.ledger.history(f"{SECRET}\0")):
        with pytest.raises(RowRejected) as caught:
            await question
        assert_shows_no_value(caught.value)


def assert_shows_no_value(error: BaseException | None) -> None:
    """P6: neither the message nor any exception behind it holds the data."""
    while error is not None:
        assert SECRET not in str(error)
        assert "4000001234" not in repr(error)
        error = error.__cause__ or error.__context__


# L9: modes


async def test_l9_a_new_ledger_is_in_normal_mode(harness: Harness) -> None:
    assert (await harness.ledger.mode()).mode is Mode.NORMAL


async def test_l9_halted_refuses_every_call_and_nothing_is_due(harness: Harness) -> None:
    now = await harness.now()
    row = await inserted(harness.ledger, 1, due_at=now - timedelta(minutes=1))
    record = await harness.ledger.set_mode(Mode.HALTED, "operator-1", "incident 7", 5)
    assert (record.mode, record.operator, record.reason) == (Mode.HALTED, "operator-1", "incident 7")
    assert await harness.ledger.mode() == record
    assert await harness.ledger.begin(step(row), OWNER, 60) is NotBegun.MODE
    assert list(await harness.ledger.due(10, 60)) == []
    assert await harness.ledger.read(row.payout_id) == row
    changed = await committed(harness.ledger, step(row, reason_code="EVIDENCE"))
    await harness.ledger.set_mode(Mode.NORMAL, "operator-1", "over", 5)
    assert [entry.payout_id for entry in await harness.ledger.due(10, 60)] == [row.payout_id]
    assert (await begun(harness.ledger, changed)).lease_owner == OWNER


CALLS_BY_MODE = {
    Mode.NORMAL: {Activity.SUBMIT, Activity.ASK, Activity.COMPENSATE},
    Mode.MANUAL_REVIEW: {Activity.SUBMIT, Activity.ASK, Activity.COMPENSATE},
    Mode.READ_ONLY: {Activity.ASK},
    Mode.MAINTENANCE: {Activity.SUBMIT, Activity.ASK, Activity.COMPENSATE},
    Mode.EMERGENCY: {Activity.ASK, Activity.COMPENSATE},
    Mode.ISOLATION: set(),
    Mode.HALTED: set(),
}
"""Requirement E5, written down once more."""
DRIVEN_BY_MODE = {
    mode: calls | ({Activity.SCREEN} if mode in (Mode.NORMAL, Mode.MANUAL_REVIEW, Mode.MAINTENANCE) else set())
    for mode, calls in CALLS_BY_MODE.items()
}


@pytest.mark.parametrize("mode", Mode)
async def test_l9_e5_every_kind_of_call_begins_only_in_a_mode_that_allows_it(harness: Harness, mode: Mode) -> None:
    """L9, E5: alone and in a batch; a row that screening scored low, so that `manual_review` has nothing against it."""
    rows = [await inserted(harness.ledger, number, score_basis_points=1_000) for number in range(1, 10)]
    await harness.ledger.set_mode(mode, "operator-1", "a test", 0)
    kinds = [Activity.SUBMIT, Activity.ASK, Activity.COMPENSATE]
    alone = {
        kind: await harness.ledger.begin(step(row), OWNER, 60, kind) for kind, row in zip(kinds, rows, strict=False)
    }
    begins = [
        harness.ledger.begin(step(row), f"worker-{row.payout_id}", 60, kinds[n % 3]) for n, row in enumerate(rows[3:])
    ]
    together = list(zip(kinds * 2, await asyncio.gather(*begins), strict=True))
    for kind, answer in (*alone.items(), *together):
        assert isinstance(answer, PayoutRow) == (kind in CALLS_BY_MODE[mode]), (mode, kind)
        assert isinstance(answer, PayoutRow) or answer is NotBegun.MODE


async def test_l9_a_begin_that_does_not_say_what_it_is_is_refused_most(harness: Harness) -> None:
    """L9: a forgotten kind stops a call; it never lets one leave."""
    row = await inserted(harness.ledger, 1, score_basis_points=1_000)
    await harness.ledger.set_mode(Mode.EMERGENCY, "operator-1", "a test", 0)
    assert await harness.ledger.begin(step(row), OWNER, 60) is NotBegun.MODE


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        ({"score_basis_points": 6_999}, None),
        ({"score_basis_points": 7_000}, NotBegun.REVIEW),
        ({"score_basis_points": None}, NotBegun.REVIEW),
        ({"score_basis_points": 9_000, "reviewer": "anna"}, None),
        ({"score_basis_points": None, "reviewer": "anna"}, None),
    ],
)
async def test_l9_e5_manual_review_submits_what_scored_low_or_was_approved(
    harness: Harness, facts: dict[str, Any], answer: NotBegun | None, together: int
) -> None:
    """L9, E5: by what is stored, whatever a worker's settings are; questions and hand-backs are not held up."""
    rows = [await inserted(harness.ledger, number, **facts) for number in range(1, together + 1)]
    await harness.ledger.set_mode(Mode.MANUAL_REVIEW, "operator-1", "a test", 0)
    submitted = await asyncio.gather(*(harness.ledger.begin(step(row), row.payout_id, 60) for row in rows))
    assert {found if isinstance(found, NotBegun) else None for found in submitted} == {answer}
    other = await inserted(harness.ledger, 8, **facts)
    asked = await harness.ledger.begin(step(other), OWNER, 60, Activity.ASK)
    assert isinstance(asked, PayoutRow)


@pytest.mark.parametrize("mode", Mode)
async def test_l9_e5_k4_only_what_the_mode_lets_go_on_is_due(harness: Harness, mode: Mode) -> None:
    """L9, E5, K4: what waits keeps its place in the schedule, and comes when the mode is normal again."""
    past = await harness.now() - timedelta(minutes=1)
    required, running = CompensationState.REQUIRED, CompensationState.RUNNING
    stands: list[tuple[Activity, dict[str, Any]]] = [
        (Activity.SCREEN, {"state": PayoutState.RECEIVED}),
        (Activity.SCREEN, {"state": PayoutState.VALIDATED}),
        (Activity.SUBMIT, {"state": PayoutState.CLEARED}),
        (Activity.ASK, {"state": PayoutState.SUBMITTING}),
        (Activity.ASK, {"state": PayoutState.PENDING}),
        (Activity.ASK, {"state": PayoutState.UNKNOWN}),
        (Activity.ASK, {"state": PayoutState.PAID}),
        (Activity.COMPENSATE, {"state": PayoutState.DECLINED, "compensation": required}),
        (Activity.ASK, {"state": PayoutState.DECLINED, "compensation": running}),
        (Activity.ASK, {"state": PayoutState.DECLINED, "compensation": CompensationState.UNKNOWN}),
    ]
    rows = [
        (kind, await inserted(harness.ledger, n, due_at=past, **facts)) for n, (kind, facts) in enumerate(stands, 1)
    ]
    assert [next_activity(row) for _, row in rows] == [kind for kind, _ in rows]
    await harness.ledger.set_mode(mode, "operator-1", "a test", 0)
    due = {entry.payout_id for entry in await harness.ledger.due(100, 60)}
    assert due == {row.payout_id for kind, row in rows if kind in DRIVEN_BY_MODE[mode]}
    await harness.ledger.set_mode(Mode.NORMAL, "operator-1", "over", 0)
    later = {entry.payout_id for entry in await harness.ledger.due(100, 60)}
    assert later == {row.payout_id for _, row in rows} - due


async def test_l9_p9_of_two_who_saw_the_same_mode_one_is_told(harness: Harness) -> None:
    """L9, P9: the second one's plan was made for a mode that is not in force any more; nothing of it is written."""
    seen = await harness.ledger.mode()
    first = await harness.ledger.set_mode(Mode.HALTED, "anna", "incident 7", 0, seen)
    with pytest.raises(ModeMoved, match="anna") as told:
        await harness.ledger.set_mode(Mode.NORMAL, "bertil", "nothing is wrong", 0, seen)
    assert told.value.found == first == await harness.ledger.mode()
    assert (await harness.ledger.set_mode(Mode.NORMAL, "bertil", "looked again", 0, first)).mode is Mode.NORMAL


async def test_l9_a_held_or_leased_row_says_so_before_the_mode_does(harness: Harness) -> None:
    held = await inserted(harness.ledger, 1, held=True)
    leased = await begun(harness.ledger, await inserted(harness.ledger, 2))
    with pytest.raises(LeasesStillLive):
        await harness.ledger.set_mode(Mode.HALTED, "operator-1", "why", 0)
    assert await harness.ledger.begin(step(held), OWNER, 60) is NotBegun.HELD
    assert await harness.ledger.begin(step(leased), OWNER, 60) is NotBegun.LEASED
    assert await harness.ledger.begin(step(replace(leased, version=9)), OWNER, 60) is NotBegun.LOST


@pytest.mark.parametrize("end", ["answer", "expiry"])
async def test_l9_set_mode_waits_until_no_earlier_lease_is_live(harness: Harness, end: str) -> None:
    rows = [await begun(harness.ledger, await inserted(harness.ledger, number)) for number in (1, 2)]
    setting = asyncio.create_task(harness.ledger.set_mode(Mode.HALTED, "operator-1", "why", 60))
    while (await harness.ledger.mode()).mode is not Mode.HALTED:  # noqa: ASYNC110 - set in another process, or as if
        await asyncio.sleep(0)
    if end == "expiry":
        await harness.pass_time(61)
    else:
        await committed(harness.ledger, step(rows[0], state=PayoutState.PAID))
        done, _ = await asyncio.wait({setting}, timeout=0.4)
        assert not done, "the second lease is live"
        await committed(harness.ledger, step(rows[1], state=PayoutState.PAID))
    assert (await asyncio.wait_for(setting, 10)).mode is Mode.HALTED


async def test_l9_the_mode_is_set_even_if_a_lease_outlives_the_wait(harness: Harness) -> None:
    await begun(harness.ledger, await inserted(harness.ledger))
    with pytest.raises(LeasesStillLive, match="1 lease"):
        await harness.ledger.set_mode(Mode.HALTED, "operator-1", "why", 0)
    assert (await harness.ledger.mode()).mode is Mode.HALTED


# Intake, counts, limits


async def test_k6_k7_intake_remembers_the_first_fate_of_every_offset(harness: Harness) -> None:
    refused = IntakeRecord("payout_requests", 3, 17, Disposition.REFUSED, "payout-00000001", "OTHER_CONTENT")
    dead = IntakeRecord("payout_requests", 3, 18, Disposition.DEAD_LETTER, None, "UNDECODABLE")
    for record in (refused, refused, replace(refused, disposition=Disposition.REPEAT), dead):
        await harness.ledger.record_intake(record)
    assert await harness.intake() == [refused, dead]


async def test_k9_what_the_ledger_knows_nothing_of_is_named_in_the_order_asked(harness: Harness) -> None:
    """A row counts for the record it came from only: the same id at another offset is another record's matter."""
    row = await inserted(harness.ledger, 1)
    dead = IntakeRecord("payout_requests", 1, 50, Disposition.DEAD_LETTER, None, "UNDECODABLE")
    decided = IntakeRecord("payout_review_decisions", 0, 2, Disposition.HANDLED, row.payout_id, "NO_OPEN_CASE")
    for record in (dead, decided):
        await harness.ledger.record_intake(record)
    known = [
        InboundPosition(row.source_topic, row.source_partition, row.source_offset, row.payout_id),
        InboundPosition(dead.topic, dead.partition, dead.offset, None),
        InboundPosition(dead.topic, dead.partition, dead.offset, "payout-99999999"),
        InboundPosition(decided.topic, decided.partition, decided.offset, row.payout_id),
    ]
    unknown = [
        InboundPosition(row.source_topic, row.source_partition, row.source_offset, None),
        InboundPosition(row.source_topic, row.source_partition, row.source_offset + 1, row.payout_id),
        InboundPosition(row.source_topic, row.source_partition + 1, row.source_offset, row.payout_id),
        InboundPosition("another_topic", row.source_partition, row.source_offset, row.payout_id),
        InboundPosition(dead.topic, dead.partition, dead.offset + 1, f"{SECRET}\0"),
        InboundPosition(dead.topic, dead.partition, dead.offset + 1, "half \ud800"),
    ]
    unknown.append(unknown[0])
    mixed = [place for pair in zip(unknown, [*known, *known], strict=False) for place in pair]
    assert list(await harness.ledger.unaccounted(mixed)) == unknown
    assert list(await harness.ledger.unaccounted([])) == []


async def test_k9_verified_offsets_only_grow_and_are_kept_by_topic_and_partition(harness: Harness) -> None:
    assert await harness.ledger.verified_offsets("payout_requests") == {}
    for partition, offset in ((0, 10), (3, 7), (0, 4), (3, 8), (5, 0)):
        await harness.ledger.verified_up_to("payout_requests", partition, offset)
    await harness.ledger.verified_up_to("payout_review_decisions", 0, 99)
    assert await harness.ledger.verified_offsets("payout_requests") == {0: 10, 3: 8, 5: 0}
    assert await harness.ledger.verified_offsets("payout_review_decisions") == {0: 99}


@pytest.mark.parametrize("place", [("", 0, 1), ("t" * 513, 0, 1), ("topic", -1, 1), ("topic", 0, -1), ("\0", 0, 1)])
async def test_k9_l5_a_place_that_cannot_be_is_refused(harness: Harness, place: tuple[str, int, int]) -> None:
    with pytest.raises(RowRejected):
        await harness.ledger.verified_up_to(*place)


async def test_counts_say_where_everything_stands(harness: Harness) -> None:
    now = await harness.now()
    assert set((await harness.ledger.counts()).values()) == {0}
    await inserted(harness.ledger, 1, due_at=now - timedelta(minutes=1))
    await inserted(harness.ledger, 2, due_at=now - timedelta(minutes=1), held=True)
    await begun(harness.ledger, await inserted(harness.ledger, 3), announce_version=2)
    row = await inserted(harness.ledger, 4)
    await committed(harness.ledger, step(row, state=PayoutState.FAILED, compensation=CompensationState.REQUIRED))
    counts = await harness.ledger.counts()
    assert {name: count for name, count in counts.items() if count} == {
        "RECEIVED": 2,
        "SUBMITTING": 1,
        "FAILED": 1,
        "compensation:NONE": 3,
        "compensation:REQUIRED": 1,
        "held": 1,
        "leased": 1,
        "unannounced": 1,
        "due": 1,
    }
    assert {state.value for state in PayoutState} <= set(counts)


@pytest.mark.parametrize("limit", [0, -1, 10_001])
async def test_limits_that_make_no_sense_are_refused(harness: Harness, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await harness.ledger.due(limit, 60)
    with pytest.raises(ValueError, match="limit"):
        await harness.ledger.unannounced(limit, 60)
    with pytest.raises(ValueError, match="redrive_seconds"):
        await harness.ledger.due(1, -1)


async def test_the_ledger_can_be_closed_twice(harness: Harness) -> None:
    await harness.ledger.close()


# L11: a database that may be a copy from before.


async def test_l11_an_unverified_ledger_begins_nothing_and_issues_no_number(harness: Harness) -> None:
    """L11, S1, K9: no intent, no number, no bookmark; what calls have proven is still written."""
    ledger = harness.ledger
    row = await inserted(ledger)
    await harness.distrust()
    with pytest.raises(LedgerUnverified):
        await ledger.issue_identity_number()
    change = step(row, state=PayoutState.SUBMITTING)
    assert await ledger.begin(change, OWNER, 60.0) is NotBegun.UNVERIFIED
    with pytest.raises(LedgerUnverified):
        await ledger.verified_up_to("payout_requests", 0, 7)
    assert await ledger.verified_offsets("payout_requests") == {}
    assert await ledger.read(row.payout_id) == row
    evidence = await committed(ledger, step(row, reason_code="EVIDENCE"))
    await harness.trust()
    assert isinstance(await ledger.begin(step(evidence, state=PayoutState.SUBMITTING), OWNER, 60.0), PayoutRow)
    assert await ledger.issue_identity_number() == 1, "a refusal takes no number"
    await ledger.verified_up_to("payout_requests", 0, 7)
    assert await ledger.verified_offsets("payout_requests") == {0: 7}


async def test_l11_what_else_refuses_a_begin_is_named_first(harness: Harness) -> None:
    """L11, L9: the reason that stays when the database is known again."""
    row = await inserted(harness.ledger, held=True, hold_reason="INCIDENT")
    await harness.distrust()
    assert await harness.ledger.begin(step(row), OWNER, 60.0) is NotBegun.HELD


async def test_l11_what_the_broker_took_before_an_adoption_is_inserted_held(harness: Harness) -> None:
    """L11, L12: however long ago; what came after it is not."""
    until = await harness.adopt()
    for number, received_at in enumerate((until - timedelta(days=3), until - timedelta(microseconds=1)), start=1):
        row = await inserted(harness.ledger, number, received_at=received_at)
        assert (row.held, row.hold_reason) == (True, LEDGER_RESTORED)
    fresh = await inserted(harness.ledger, 3, received_at=until, requested_at=until)
    assert (fresh.held, fresh.hold_reason) == (False, None)


async def test_l11_what_is_sent_again_after_an_adoption_is_as_old_as_it_was(harness: Harness) -> None:
    """L11, L12: Kafka was lost as well, and the originator sends what it had acknowledged: the broker takes it now."""
    until = await harness.adopt()
    later = until + timedelta(hours=1)
    again = await inserted(harness.ledger, 1, received_at=later, requested_at=until - timedelta(microseconds=1))
    assert (again.held, again.hold_reason) == (True, LEDGER_RESTORED)


async def test_l11_a_payout_that_was_lost_is_never_new(harness: Harness) -> None:
    """L11, P1: a topic names it; asked for again as if it were new, it may have been paid already."""
    known = await inserted(harness.ledger, 1)
    until = await harness.adopt(told_of=[known.payout_id, sample_row(2).payout_id])
    young = {"received_at": until + timedelta(days=2), "requested_at": until + timedelta(days=2)}
    assert (await inserted(harness.ledger, 2, **young)).hold_reason == LEDGER_RESTORED
    assert (await inserted(harness.ledger, 3, **young)).held is False
    assert isinstance(await harness.ledger.insert(known, ACTOR), Existing), "what the copy knows is a repeat as ever"
    until = await harness.adopt(told_of=[sample_row(2).payout_id, sample_row(4).payout_id])
    young = {"received_at": until + timedelta(days=2), "requested_at": until + timedelta(days=2)}
    assert (await inserted(harness.ledger, 4, **young)).hold_reason == LEDGER_RESTORED, (
        "a second loss adds to the first"
    )
