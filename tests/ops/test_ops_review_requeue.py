"""`payouts review list|approve|reject` before they publish, and `payouts requeue`, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ops.action_plans import Action, Ended, carry_out, look
from ops.exit_codes import ExitCode
from processors.payout.events import Requeued
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from streams.clock import utc_now
from tests.contract.ledger.ledger_fixtures import ledger_template, ledger_url
from tests.ops.operator_rows import stored
from tests.ops.test_ops_operator_commands import CARD, Desk, desk

__all__ = ["desk", "ledger_template", "ledger_url"]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

SCHEDULE = Schedule.test()


def in_review(desk: Desk, **changes: Any) -> PayoutRow:
    """A payout that waits for a reviewer."""
    case = {"review_case_id": None, "score_basis_points": 7600, "list_version": "list-1"}
    row = desk.stored(PayoutState.IN_REVIEW, **(case | changes))
    return desk.moved(row, review_case_id=f"{row.payout_id}.{row.version}")


def words(row: PayoutRow, *more: str, decision: str = "approve", reviewer: str = "maria") -> tuple[str, ...]:
    """A decision that is only looked at."""
    code = "FALSE_POSITIVE" if decision == "approve" else "CONFIRMED_MATCH"
    return (
        "review", decision, str(row.review_case_id), "--reason-code", code, "--reviewer", reviewer, "--dry-run", *more
    )  # fmt: skip


# Review.


def test_r1_a_decision_shows_its_effect_in_money_first(desk: Desk) -> None:
    """R1, P9: what a worker does with it, before anything is published."""
    row = in_review(desk)
    approved = desk.data(*words(row))
    assert "MONEY MOVES: a worker sends 12.34 USD" in " ".join(approved["effects"])
    denied = desk.data(*words(row, decision="reject"))
    assert "compensation RELEASE_HOLD of 12.34 USD" in " ".join(denied["effects"])
    assert desk.row(row.payout_id) == row


def test_r1_a_reviewer_does_not_decide_his_own_case(desk: Desk) -> None:
    """R1: refused with the reason, exit code 3, and nothing is published (there is no Kafka here)."""
    row = in_review(desk)
    for decision in ("approve", "reject"):
        own = desk.run(*words(row, decision=decision, reviewer=" Shop-1 "))
        assert own.exit_code == ExitCode.REFUSED
        assert "another person decides" in own.stderr
    desk.data("hold", row.payout_id, "--reason", "INC-1", "--operator", "maria", "--yes")
    desk.data("release", row.payout_id, "--reason", "INC-1", "--operator", "jan", "--yes")
    held_it = desk.run(*words(row, reviewer="MARIA"))
    assert held_it.exit_code == ExitCode.REFUSED
    assert "held this payout or opened its case" in held_it.stderr
    assert desk.run(*words(row, reviewer="jan")).exit_code == ExitCode.OK


def test_r1_reason_codes_are_those_of_the_policy(desk: Desk, tmp_path: Path) -> None:
    """R1: the error lists what there is; another policy has other codes, and a limit for two approvals."""
    row = in_review(desk)
    wrong = desk.run("review", "approve", str(row.review_case_id), "--reason-code", "CONFIRMED_MATCH", "--dry-run")
    assert wrong.exit_code == ExitCode.USAGE
    assert "FALSE_POSITIVE: another person" in wrong.stderr
    (tmp_path / "review.yaml").write_text(
        "version: '7'\nslaSeconds: 60\nsecondApprovalFromMinor: {USD: 1234}\n"
        "reasonCodes: {approve: {SEEN: 'seen'}, reject: {SEEN: 'seen'}}\n"
    )
    own = desk.with_settings(PAYOUTS_POLICIES_DIRECTORY=str(tmp_path))
    assert own.run(*words(row)).exit_code == ExitCode.USAGE
    plan = own.data("review", "approve", str(row.review_case_id), "--reason-code", "SEEN", "--dry-run")
    assert "a second person has to approve" in plan["effects"][0]
    (case,) = own.data("review", "list")
    assert (case["approvals"], case["approvals_needed"]) == ("0 of 2", 2)
    (tmp_path / "review.yaml").write_text("version: '7'\n")
    unusable = own.run("review", "list")
    assert unusable.exit_code == ExitCode.USAGE
    assert "review.yaml" in unusable.stderr


def test_s3_16_overdue_cases_are_marked_and_are_exit_code_1(desk: Desk) -> None:
    """S3-16: the age of each case, and 1 as soon as any is open for longer than four hours."""
    fresh = in_review(desk)
    assert [case["overdue"] for case in desk.data("review", "list")] == [False]
    assert desk.data("review", "list", "--overdue") == []
    late = in_review(desk, state_at=datetime.now(UTC) - timedelta(hours=4, minutes=1))
    listed = desk.data("review", "list", code=ExitCode.FOUND)
    assert [(case["payout_id"], case["overdue"]) for case in listed] == [
        (late.payout_id, True), (fresh.payout_id, False),
    ]  # fmt: skip
    only = desk.run("review", "list", "--overdue")
    assert only.exit_code == ExitCode.FOUND
    assert late.payout_id in only.stdout
    assert fresh.payout_id not in only.stdout
    assert "12.34 USD wait" in only.stderr


def test_p6_a_card_number_is_no_note(desk: Desk) -> None:
    """P6: refused without being quoted."""
    result = desk.run(*words(in_review(desk), "--note", f"card {CARD}"))
    assert result.exit_code == ExitCode.REFUSED
    assert CARD not in result.stderr + result.stdout


# Requeue.


def test_s4_27_a_requeue_says_what_follows_in_money_and_makes_it_due(desk: Desk) -> None:
    """S4-27, S3, P9: a question for what may have been sent; audited with who and why."""
    row = desk.stored(PayoutState.UNKNOWN)
    plan = desk.data("requeue", row.payout_id, "--reason", "INC-128", "--dry-run")
    assert (plan["payouts"][0]["result"], plan["money"]) == ("planned", {"USD": 1234})
    effects = " ".join(plan["payouts"][0]["effects"])
    assert "a worker asks Visa" in effects
    assert "sends" not in effects
    assert desk.row(row.payout_id) == row
    before = datetime.now(UTC) + timedelta(seconds=1)
    desk.data("requeue", row.payout_id, "--reason", "INC-128", "--yes")
    after = desk.row(row.payout_id)
    assert after.due_at is not None
    assert after.due_at <= before
    assert (after.state, after.ambiguous, after.attempts, after.sealed_body) == (
        row.state, row.ambiguous, row.attempts, row.sealed_body,
    )  # fmt: skip
    last = desk.history(row.payout_id)[-1]
    assert (last.transition, last.actor, last.detail["reason"]) == ("requeued", "maria", "INC-128")


def test_s4_27_what_is_refused_says_why_and_the_others_go_on(desk: Desk) -> None:
    """S4-27, L12, R1: held, ended, in review, a call under way, unknown to the ledger: exit code 5 beside one done."""
    refused = {
        desk.stored(PayoutState.CLEARED, held=True, hold_reason="OPERATOR: INC-1").payout_id: "held",
        desk.stored(PayoutState.PAID).payout_id: "ended PAID",
        desk.stored(PayoutState.FAILED).payout_id: "ended FAILED",
        in_review(desk).payout_id: "reviewer",
        "order-not-there": "no such payout",
    }
    for payout_id, why in refused.items():
        result = desk.run("requeue", payout_id, "--reason", "INC-1", "--yes")
        assert result.exit_code in (ExitCode.REFUSED, ExitCode.FOUND), payout_id
        assert why in result.stdout
    well = desk.stored(PayoutState.CLEARED)
    document = desk.data("requeue", *refused, well.payout_id, "--reason", "INC-1", "--yes", code=ExitCode.PARTIAL)
    assert [payout["result"] for payout in document["payouts"]][-1] == "done"


async def test_p9_of_two_who_requeue_at_once_both_are_right(ledger_url: str) -> None:
    """P9, L2: the second finds what he has seen still true, and nothing is done twice but the note."""
    from ledger.postgres import PostgresLedger

    async with await PostgresLedger.connect(ledger_url, pool_max=4) as ledger:
        row = await stored(ledger, PayoutState.UNKNOWN)

        async def act(operator: str) -> Ended:
            action = Action(name="requeue", operator=operator, event=lambda _row, _history: Requeued(operator, "x"))
            plan = await look(ledger, action, row.payout_id, utc_now, SCHEDULE)
            return (await carry_out(ledger, action, plan, utc_now, SCHEDULE)).ended

        assert await asyncio.gather(act("maria"), act("jan")) == [Ended.DONE, Ended.DONE]
        after = await ledger.read(row.payout_id)
        assert after is not None
        assert (after.attempts, after.state) == (row.attempts, row.state)
