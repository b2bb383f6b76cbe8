"""What an operator's action does to a payout, decided against the model of the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.interface import Change, HistoryEntry, LedgerUnavailable, NotBegun
from ledger.memory import Fault, MemoryLedger
from ops.action_plans import TRIES_MAX, Action, Ended, Plan, Result, carry_out, look, wait_until_announced
from ops.effects import money_totals, totals_text, warnings
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.hold import OPERATORS_HOLD, not_overruled
from ops.operator_actions import exit_code, recorded_if_reachable, who_or_what, why_if_given
from processors.payout.events import Event, Held, Released
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from streams.clock import utc_now
from streams.settings import Settings
from tests.ops.operator_rows import SUBMITTED, stored

SCHEDULE = Schedule.test()


@pytest.fixture
def ledger() -> MemoryLedger:
    """An empty model."""
    return MemoryLedger(utc_now)


def action(event: Event, **changes: Any) -> Action:
    """This event, asked for by maria."""
    values: dict[str, Any] = {"name": "act", "operator": "maria", "event": lambda _row, _history: event}
    return Action(**(values | changes))


HOLD = action(Held("OPERATOR: INC-1"), whatever_changed=True, is_so_already=lambda row: "held" if row.held else None)
RELEASE = action(Released("maria", "INC-1"))


async def planned(ledger: MemoryLedger, wanted: Action, row: PayoutRow) -> Plan:
    """The plan for this payout as it is now."""
    return await look(ledger, wanted, row.payout_id, utc_now, SCHEDULE)


async def done(ledger: MemoryLedger, wanted: Action, plan: Plan) -> Result:
    """The plan carried out."""
    return await carry_out(ledger, wanted, plan, utc_now, SCHEDULE)


async def moved_by_a_worker(ledger: MemoryLedger, row: PayoutRow, **changes: Any) -> PayoutRow:
    """The row one version on, as a worker writes it."""
    committed = await ledger.commit(Change(row, replace(row, **changes), "worker_did", "worker-1"))
    assert committed is not None
    return committed


async def last(ledger: MemoryLedger, payout_id: str) -> HistoryEntry:
    """The newest line of a payout's history."""
    return (await ledger.history(payout_id))[-1]


# Hold and release.


@pytest.mark.parametrize("state", [PayoutState.CLEARED, *SUBMITTED], ids=str)
async def test_l12_nothing_begins_for_what_an_operator_holds(ledger: MemoryLedger, state: PayoutState) -> None:
    """L12: after the command, no call begins; who, when and why is in the history (P9)."""
    row = await stored(ledger, state)
    result = await done(ledger, HOLD, await planned(ledger, HOLD, row))
    assert result.ended is Ended.DONE
    assert result.row is not None
    assert (result.row.held, result.row.hold_reason, result.row.state) == (True, "OPERATOR: INC-1", state)
    intent = Change(result.row, replace(result.row, attempts=row.attempts + 1), "intent", "worker-1")
    assert await ledger.begin(intent, "worker-1/1", 8.0) is NotBegun.HELD
    entry = await last(ledger, row.payout_id)
    assert (entry.actor, entry.transition, entry.detail["reason"]) == ("maria", "held", "OPERATOR: INC-1")


async def test_l12_a_hold_while_a_call_is_under_way_says_so_and_leaves_its_lease(ledger: MemoryLedger) -> None:
    """L3, L12: bytes may be leaving; the hold neither stops them nor takes the lease, and the plan says until when."""
    row = await stored(ledger, PayoutState.CLEARED)
    begun = await ledger.begin(
        Change(row, replace(row, state=PayoutState.SUBMITTING), "intent", "worker-1"), "worker-1/1", 8.0
    )
    assert isinstance(begun, PayoutRow)
    plan = await planned(ledger, HOLD, begun)
    assert any("may be under way until" in text for text in plan.warnings)
    result = await done(ledger, HOLD, plan)
    assert result.row is not None
    assert (result.row.lease_owner, result.row.lease_until) == ("worker-1/1", begun.lease_until)
    after_the_call = replace(begun, lease_until=datetime.now(UTC) - timedelta(minutes=1))
    assert warnings(after_the_call, datetime.now(UTC), SCHEDULE) == []


async def test_l2_a_hold_is_wanted_whatever_a_worker_did_meanwhile(ledger: MemoryLedger) -> None:
    """L2: a lost compare-and-set is decided again; a hold is wanted all the more."""
    row = await stored(ledger, PayoutState.CLEARED)
    plan = await planned(ledger, HOLD, row)
    await moved_by_a_worker(ledger, row, state=PayoutState.UNKNOWN, ambiguous=True)
    result = await done(ledger, HOLD, plan)
    assert result.ended is Ended.DONE
    assert result.row is not None
    assert (result.row.state, result.row.held, result.row.version) == (PayoutState.UNKNOWN, True, row.version + 2)


async def test_a_second_hold_changes_nothing_and_is_no_failure(ledger: MemoryLedger) -> None:
    """P9: doing it again is harmless."""
    row = await stored(ledger, PayoutState.CLEARED, held=True, hold_reason="OPERATOR: before")
    result = await done(ledger, HOLD, await planned(ledger, HOLD, row))
    assert result.ended is Ended.UNCHANGED
    assert exit_code([result]) is ExitCode.OK
    assert (await ledger.read(row.payout_id)) == row


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (PayoutState.RECEIVED, "a worker validates it"),
        (PayoutState.VALIDATED, "a worker screens it"),
        (PayoutState.CLEARED, "MONEY MOVES: a worker sends 12.34 USD to Visa"),
        (PayoutState.UNKNOWN, "MONEY MAY MOVE: if Visa does not know it, 12.34 USD are sent again"),
    ],
    ids=str,
)
async def test_p9_a_release_says_what_a_worker_does_next(ledger: MemoryLedger, state: PayoutState, says: str) -> None:
    """P9: the effect in money is shown before, as the state machine itself decides it."""
    row = await stored(ledger, state, held=True, hold_reason="OPERATOR: INC-1")
    plan = await planned(ledger, RELEASE, row)
    assert any(says in text for text in plan.effects), plan.effects


async def test_p3_a_release_past_23_hours_promises_no_resend(ledger: MemoryLedger) -> None:
    """P3: what is never sent again is not announced as money that may move."""
    long_ago = datetime.now(UTC) - timedelta(hours=23, minutes=1)
    row = await stored(ledger, PayoutState.UNKNOWN, held=True, hold_reason="OPERATOR: x", first_intent_at=long_ago)
    (next_step, *_) = (await planned(ledger, RELEASE, row)).effects
    assert "nothing is sent again" in next_step
    assert "MONEY" not in next_step


@pytest.mark.parametrize(
    ("reason", "named", "released"),
    [
        ("OPERATOR: INC-1", (), True),
        ("APPROVED_AFTER_UNPAID_END", (), False),
        ("APPROVED_AFTER_UNPAID_END", ("QUERY_FAILED",), False),
        ("APPROVED_AFTER_UNPAID_END", ("APPROVED_AFTER_UNPAID_END",), True),
        ("RESOLUTION_PROPOSED", (), False),
        ("UNKNOWN_PAST_RESEND_LIMIT", (), False),
        ("PROCESSING_FAILED:ValueError", (), False),
        (None, (), False),
    ],
)
async def test_l12_what_a_rule_holds_is_released_only_by_its_name(
    ledger: MemoryLedger, reason: str | None, named: tuple[str, ...], released: bool
) -> None:
    """L12: a list of ids must not free a payout of which a rule saw a contradiction."""
    row = await stored(ledger, PayoutState.UNKNOWN, held=True, hold_reason=reason)
    assert (not_overruled(row, (), frozenset(named)) is None) is released


async def test_no_rule_reads_an_operators_reason_as_its_own() -> None:
    """L12, L2: whoever types the name of a freeze as his reason makes no freeze of it."""
    assert not f"{OPERATORS_HOLD}APPROVED_AFTER_UNPAID_END".startswith("APPROVED_AFTER_UNPAID_END")
    assert not OPERATORS_HOLD.isspace()


# Lost races and lost answers.


async def test_l2_what_changed_since_the_plan_was_shown_is_a_refusal(ledger: MemoryLedger) -> None:
    """P9, L2: what was agreed to is what is done; something else is told and not done."""
    row = await stored(ledger, PayoutState.CLEARED, held=True, hold_reason="OPERATOR: INC-1")
    plan = await planned(ledger, RELEASE, row)
    await moved_by_a_worker(ledger, row, state=PayoutState.UNKNOWN, ambiguous=True)
    result = await done(ledger, RELEASE, plan)
    assert result.ended is Ended.REFUSED
    assert "was CLEARED at version 2, is UNKNOWN at version 3" in result.why
    found = await ledger.read(row.payout_id)
    assert found is not None
    assert found.held


async def test_l2_the_same_plan_on_a_newer_version_is_done(ledger: MemoryLedger) -> None:
    """L2: losing a compare-and-set is no error when what was agreed to is still what would be done."""
    row = await stored(ledger, PayoutState.CLEARED, held=True, hold_reason="OPERATOR: INC-1")
    plan = await planned(ledger, RELEASE, row)
    await moved_by_a_worker(ledger, row, inquiries=row.inquiries + 1)
    result = await done(ledger, RELEASE, plan)
    assert result.ended is Ended.DONE


async def test_l4_a_lost_answer_of_a_change_that_was_written_is_found_and_not_written_twice(
    ledger: MemoryLedger,
) -> None:
    """L4: the commit's outcome is unknown, so the ledger is read again, and what was read is made durable."""
    row = await stored(ledger, PayoutState.CLEARED)
    plan = await planned(ledger, HOLD, row)
    ledger.fail_next(Fault.UNKNOWN_APPLIED)
    before = ledger.writes
    result = await done(ledger, HOLD, plan)
    assert (result.ended, result.row is not None and result.row.version) == (Ended.DONE, row.version + 1)
    assert "answer was lost" in result.why
    assert [entry.transition for entry in await ledger.history(row.payout_id)].count("held") == 1
    assert ledger.writes == before + 2, "the change, and a commit of our own before it is told (L4)"


async def test_l4_a_lost_answer_of_a_change_that_was_not_written_is_tried_again(ledger: MemoryLedger) -> None:
    """L4: tried again on the same version, so that at most one of the two can win."""
    row = await stored(ledger, PayoutState.CLEARED)
    plan = await planned(ledger, HOLD, row)
    ledger.fail_next(Fault.UNKNOWN_NOT_APPLIED)
    result = await done(ledger, HOLD, plan)
    assert (result.ended, result.row is not None and result.row.version) == (Ended.DONE, row.version + 1)


@pytest.mark.parametrize("lands_after", [1, 2])
async def test_l4_a_change_that_lands_after_its_answer_was_lost_is_told_as_ours(
    ledger: MemoryLedger, lands_after: int
) -> None:
    """L4: the first write arrives late, the second loses to it: done, once, and not "somebody else was faster"."""
    row = await stored(ledger, PayoutState.CLEARED)
    plan = await planned(ledger, HOLD, row)
    assert plan.step is not None
    commit, change = ledger.commit, Change(row, plan.step.row, plan.step.transition, "maria", plan.step.detail)
    history, reads = ledger.history, 0

    async def late(payout_id: str) -> Sequence[HistoryEntry]:
        nonlocal reads
        reads += 1
        found = await history(payout_id)
        if reads == lands_after:
            await commit(change)
        return found

    ledger.history = late  # type: ignore[method-assign]
    ledger.fail_next(Fault.UNKNOWN_NOT_APPLIED)
    result = await done(ledger, HOLD, plan)
    assert result.ended is Ended.DONE, result.why
    assert [entry.transition for entry in await history(row.payout_id)].count("held") == 1


async def test_l4_an_outcome_that_cannot_be_looked_up_is_told_as_not_known(ledger: MemoryLedger) -> None:
    """L4, design 10: neither "done" nor "not done": exit code 6 and what to do."""
    row = await stored(ledger, PayoutState.CLEARED)
    plan = await planned(ledger, HOLD, row)

    async def away(_payout_id: str) -> Sequence[HistoryEntry]:
        raise LedgerUnavailable("gone")

    ledger.history = away  # type: ignore[method-assign]
    ledger.fail_next(Fault.UNKNOWN_APPLIED)
    result = await done(ledger, HOLD, plan)
    assert result.ended is Ended.NOT_KNOWN
    assert "it is not known whether" in result.why
    assert exit_code([result]) is ExitCode.UNREACHABLE


async def test_k5_a_database_that_is_away_has_changed_nothing(ledger: MemoryLedger) -> None:
    """K5: connection-class errors before the commit are no doubt about it."""
    row = await stored(ledger, PayoutState.CLEARED)
    plan = await planned(ledger, HOLD, row)
    ledger.fail_next(Fault.UNAVAILABLE)
    result = await done(ledger, HOLD, plan)
    assert result.ended is Ended.NOT_KNOWN
    assert "nothing was changed" in result.why


async def test_a_payout_that_never_stands_still_is_given_up(ledger: MemoryLedger) -> None:
    """Every loop has a bound: after so many lost races the operator is told to try again."""
    row = await stored(ledger, PayoutState.CLEARED)
    plan = await planned(ledger, HOLD, row)
    tries = 0

    async def lost(_change: Change, _owner: str | None = None) -> PayoutRow | None:
        nonlocal tries
        tries += 1
        return None

    ledger.commit = lost  # type: ignore[method-assign]
    result = await done(ledger, HOLD, plan)
    assert (result.ended, tries) == (Ended.REFUSED, TRIES_MAX)


# Announcement.


async def test_k2_waiting_ends_when_the_broker_has_confirmed_the_change(ledger: MemoryLedger) -> None:
    """K2: the command publishes nothing; it can wait for the sweeper."""
    row = await stored(ledger, PayoutState.CLEARED, announce_version=2)
    changed = Result(await planned(ledger, HOLD, row), Ended.DONE, "", row)
    late = await wait_until_announced(ledger, changed, time.monotonic())
    assert (late.announced, exit_code([late])) == (False, ExitCode.PARTIAL)
    waiting = asyncio.create_task(wait_until_announced(ledger, changed, time.monotonic() + 30))
    await asyncio.sleep(0)
    await ledger.mark_announced([(row.payout_id, 2)])
    told = await asyncio.wait_for(waiting, 30)
    assert (told.announced, exit_code([told])) == (True, ExitCode.OK)


# What is said.


def test_money_is_added_up_per_currency_and_never_across() -> None:
    """P9: the plan's effect in money."""
    assert totals_text({"JPY": 500, "USD": 2468}) == "500 JPY, 24.68 USD"
    assert totals_text({}) == "no money"


async def test_totals_are_exact(ledger: MemoryLedger) -> None:
    """P9: minor units, per currency."""
    rows = [await stored(ledger), await stored(ledger), await stored(ledger, currency="JPY", amount_minor=500)]
    assert money_totals(rows) == {"JPY": 500, "USD": 2468}


async def test_a_plan_repeats_the_newest_history_without_card_numbers(ledger: MemoryLedger) -> None:
    """P6: what others wrote is masked, also in a plan."""
    row = await stored(ledger, PayoutState.UNKNOWN)
    change = Change(row, replace(row, inquiries=1), "still_unknown", "worker 4111111111111111", {"code": "91"})
    moved = await ledger.commit(change)
    assert moved is not None
    plan = await planned(ledger, HOLD, moved)
    assert "still_unknown" in plan.lately[-1]
    assert "code=91" in plan.lately[-1]
    assert "4111111111111111" not in " ".join(plan.lately)


def _result(ended: Ended, announced: bool | None = None) -> Result:
    return Result(Plan("order-2026-0001", None, None, ended), ended, announced=announced)


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([Ended.DONE, Ended.UNCHANGED], ExitCode.OK),
        ([Ended.PLANNED], ExitCode.OK),
        ([Ended.DONE, Ended.REFUSED], ExitCode.PARTIAL),
        ([Ended.UNCHANGED, Ended.NOT_KNOWN], ExitCode.PARTIAL),
        ([Ended.REFUSED, Ended.NOT_FOUND], ExitCode.REFUSED),
        ([Ended.NOT_FOUND], ExitCode.FOUND),
        ([Ended.REFUSED, Ended.NOT_KNOWN], ExitCode.UNREACHABLE),
    ],
)
def test_the_exit_code_says_whether_all_some_or_none_was_done(ends: list[Ended], code: ExitCode) -> None:
    """Design 10."""
    assert exit_code([_result(ended) for ended in ends]) is code


async def test_a_payout_that_is_not_there_is_said_to_be_not_there(ledger: MemoryLedger) -> None:
    """Design 10: 1, there is no such thing."""
    plan = await look(ledger, HOLD, "order-2026-0001", utc_now, SCHEDULE)
    assert (plan.ended, plan.step) == (Ended.NOT_FOUND, None)


def test_p9_a_pipeline_without_a_user_is_named_by_its_machine_and_gives_no_made_up_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P9: `ledger migrate`, `topics ensure`, `schemas push` run where nobody is; the audit says what is known."""
    for name in ("PAYOUTS_OPERATOR", "USER"):
        monkeypatch.delenv(name, raising=False)
    assert who_or_what(None).startswith("uid ")
    assert who_or_what("release-1.4") == "release-1.4"
    monkeypatch.setenv("PAYOUTS_OPERATOR", "maria")
    assert who_or_what(None) == "maria"
    assert (why_if_given(None), why_if_given(" OPS-31 ")) == ({}, {"reason": "OPS-31"})
    with pytest.raises(CommandFailed) as empty:
        why_if_given(" ")
    assert empty.value.code is ExitCode.USAGE
    with pytest.raises(CommandFailed):
        who_or_what("4111 1111 1111 1111")


@pytest.mark.parametrize("profile", ["test", "production"])
def test_p9_what_was_done_elsewhere_stands_although_the_ledger_is_away_and_that_is_said(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """P9: topics are made before there is a ledger; the pipeline must not fail for it, nor believe that it is noted."""
    address = "postgresql://payouts:hidden-word@127.0.0.1:1/payouts"
    settings = Settings.model_validate({"payouts_profile": profile, "database_url": address})
    assert not recorded_if_reachable(settings, "maria", "topics_created", {"topics": ["payout_requests"]})
    said = capsys.readouterr().err
    assert "Not in the ledger's history (by maria)" in said
    assert "hidden-word" not in said
