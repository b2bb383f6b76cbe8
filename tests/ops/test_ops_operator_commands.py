"""`payouts hold|release|cancel|resolve|stuck` against a real PostgreSQL, while workers move the same rows."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner, Result

from ledger.interface import Change, HistoryEntry
from ledger.postgres import PostgresLedger
from ledger.waiting import WAITS_FOR_A_PERSON, Why
from ops.action_plans import Action, Ended, carry_out, look
from ops.exit_codes import ExitCode
from ops.hold import CODES
from ops.main import app
from ops.resolve import approval
from ops.stuck import ADVICE
from processors.payout.events import Held, ResolutionProposed
from processors.payout.row import CompensationState, Executor, PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from streams.clock import utc_now
from tests.contract.ledger.ledger_fixtures import ledger_template, ledger_url
from tests.ops.operator_rows import stored

__all__ = ["ledger_template", "ledger_url"]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

CARD = "4111111111111111"
SCHEDULE = Schedule.test()
CALL_SECONDS = 0.002
"""A call far faster than any real one, so that rows move as often as they can."""
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Desk:
    """An operator's desk: his commands, and the database that they change."""

    url: str
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The settings of his commands; there is no Kafka, because none of them needs one."""
        return {
            "PAYOUTS_PROFILE": "test",
            "DATABASE_URL": self.url,
            "PAYOUTS_OPERATOR": "maria",
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            **self.more,
        }

    def with_settings(self, **settings: str) -> Desk:
        """The same desk with other settings."""
        return replace(self, more=settings)

    def run(self, *words: str) -> Result:
        """Run `payouts WORDS…` in this process."""
        return CliRunner().invoke(app, list(words), env=self.environment)

    def data(self, *words: str, code: ExitCode = ExitCode.OK) -> Any:
        """The JSON that a command prints, which must end with `code`."""
        result = self.run(*words, "--output", "json")
        assert result.exit_code == code, f"{result.stderr}\n{result.stdout}"
        return json.loads(result.stdout)

    def ledger(self, work: Callable[[PostgresLedger], Awaitable[Answer]]) -> Answer:
        """Do something with the ledger itself."""

        async def inner() -> Answer:
            async with await PostgresLedger.connect(self.url, pool_min=1) as ledger:
                return await work(ledger)

        return asyncio.run(inner())

    def stored(self, state: PayoutState = PayoutState.RECEIVED, **changes: Any) -> PayoutRow:
        """A payout in this state."""
        return self.ledger(lambda ledger: stored(ledger, state, **changes))

    def moved(self, row: PayoutRow, **changes: Any) -> PayoutRow:
        """The payout one version on, as a worker writes it."""
        change = Change(row, replace(row, **changes), "worker_did", "worker-1")
        moved = self.ledger(lambda ledger: ledger.commit(change))
        assert moved is not None
        return moved

    def row(self, payout_id: str) -> PayoutRow:
        """The payout as it is now."""
        row = self.ledger(lambda ledger: ledger.read(payout_id))
        assert row is not None
        return row

    def history(self, payout_id: str) -> Sequence[HistoryEntry]:
        """The payout's life."""
        return self.ledger(lambda ledger: ledger.history(payout_id))


@pytest.fixture
def desk(ledger_url: str) -> Desk:
    """An operator with a ledger of his own."""
    return Desk(ledger_url)


def long_ago(**changes: Any) -> dict[str, Any]:
    """An attempt of which nothing can be under way any more."""
    return {"first_intent_at": _hours(2), "last_intent_at": _hours(2), **changes}


def _hours(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


# Plans, agreement, results.


def test_p9_a_dry_run_shows_the_effect_in_money_and_changes_nothing(desk: Desk) -> None:
    """P9: amount, currency, recipient's country and what follows, before anything is changed."""
    row = desk.stored(PayoutState.CLEARED)
    table = desk.run("cancel", row.payout_id, "--reason", "INC-1", "--dry-run")
    assert table.exit_code == ExitCode.OK, table.stderr
    for text in ("12.34 USD", "GB", "CANCELLED", "compensation RELEASE_HOLD of 12.34 USD will be asked of originator"):
        assert text in table.stdout, table.stdout
    assert "cancel: 1 payout, 12.34 USD, by maria" in table.stderr
    plan = desk.data("cancel", row.payout_id, "--reason", "INC-1", "--dry-run")
    assert (plan["payouts"][0]["result"], plan["money"]) == ("planned", {"USD": 1234})
    assert desk.row(row.payout_id) == row


def test_p9_nothing_is_done_where_nobody_can_agree(desk: Desk) -> None:
    """P9, design 10: a script says --yes, or it is a usage error; a plan is never carried out unseen."""
    row = desk.stored(PayoutState.CLEARED)
    for words in ((), ("--output", "json"), ("--yes", "--dry-run")):
        result = desk.run("cancel", row.payout_id, "--reason", "INC-1", *words)
        assert result.exit_code == ExitCode.USAGE
        assert result.stdout == ""
    assert desk.row(row.payout_id) == row


@pytest.mark.parametrize(("answer", "held", "code"), [("y", True, ExitCode.OK), ("n", False, ExitCode.FOUND)])
def test_p9_a_person_at_a_terminal_is_asked(desk: Desk, answer: str, held: bool, code: ExitCode) -> None:
    """P9: the plan is on the screen, then the question; only "yes" changes anything."""
    row = desk.stored(PayoutState.CLEARED)
    controlling, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops", "hold", row.payout_id, "--reason", "INC-1"],
            env={**os.environ, **desk.environment},
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.write(controlling, f"{answer}\n".encode())
        said, asked = process.communicate(timeout=60)
    finally:
        os.close(controlling)
        os.close(terminal)
    assert process.returncode == code, asked
    assert b"12.34 USD" in said
    assert b"Do it" in asked
    assert desk.row(row.payout_id).held is held


def test_l12_hold_and_release_undo_each_other(desk: Desk) -> None:
    """L12, P9: both are in the history with who and why; the row goes on as if nothing had been."""
    row = desk.stored(PayoutState.CLEARED)
    held = desk.data("hold", row.payout_id, "--reason", "INC-1", "--yes")
    assert (held["payouts"][0]["result"], held["payouts"][0]["held"]) == ("done", True)
    again = desk.data("hold", row.payout_id, "--reason", "INC-2", "--yes")
    assert again["payouts"][0]["result"] == "unchanged"
    freed = desk.data("release", row.payout_id, "--reason", "INC-1 is over", "--operator", "jan", "--yes")
    assert any("MONEY MOVES" in text for text in freed["payouts"][0]["effects"])
    now = desk.row(row.payout_id)
    assert (now.state, now.held, now.hold_reason) == (row.state, False, None)
    assert now.due_at is not None
    entries = [(e.actor, e.transition, e.detail.get("reason")) for e in desk.history(row.payout_id)[-2:]]
    assert entries == [("maria", "held", "OPERATOR: INC-1"), ("jan", "released", "INC-1 is over")]


def test_design_10_several_payouts_end_each_for_itself(desk: Desk) -> None:
    """Design 10: 5 when a part was done; what was not says why."""
    good, paid = desk.stored(PayoutState.CLEARED), desk.stored(PayoutState.UNKNOWN)
    answer = desk.data(
        "cancel", good.payout_id, paid.payout_id, "order-not-there", "--reason", "INC-1", "--yes", code=ExitCode.PARTIAL
    )
    assert [payout["result"] for payout in answer["payouts"]] == ["done", "refused", "not found"]
    assert answer["money"] == {"USD": 1234}
    assert desk.row(paid.payout_id) == paid
    assert desk.data("hold", "order-not-there", "--reason", "x", "--yes", code=ExitCode.FOUND)


def test_l12_a_frozen_payout_is_not_released_in_passing(desk: Desk) -> None:
    """L2, L12: exit code 3 until the reason is named; the history then says who overruled what."""
    frozen = desk.stored(PayoutState.FAILED, held=True, hold_reason="APPROVED_AFTER_UNPAID_END", reason_code="X")
    words = ("release", frozen.payout_id, "--reason", "settled with the originator", "--yes")
    refused = desk.data(*words, code=ExitCode.REFUSED)
    assert "--held-for APPROVED_AFTER_UNPAID_END" in refused["payouts"][0]["why"]
    assert desk.row(frozen.payout_id) == frozen
    desk.data(*words, "--held-for", "APPROVED_AFTER_UNPAID_END")
    assert desk.history(frozen.payout_id)[-1].detail["was_held_for"] == "APPROVED_AFTER_UNPAID_END"


def test_s6_two_people_resolve_and_one_takes_it_back(desk: Desk) -> None:
    """S6, P9: propose, agree, undo, as an operator types it; one person alone gets exit code 3."""
    row = desk.stored(PayoutState.UNKNOWN, **long_ago())
    propose = ("resolve", row.payout_id, "--paid", "--evidence", "Visa case 4711: credited")
    told = desk.run(*propose, "--yes")
    assert told.exit_code == ExitCode.OK, told.stderr
    assert f"payouts resolve {row.payout_id} --paid --approve 3" in told.stderr
    agree = ("resolve", row.payout_id, "--paid", "--approve", "3")
    alone = desk.data(*agree, "--operator", "MARIA", "--yes", code=ExitCode.REFUSED)
    assert "another person" in alone["payouts"][0]["why"]
    plan = desk.run(*agree, "--operator", "jan", "--dry-run")
    assert "Visa case 4711: credited" in plan.stdout
    done = desk.data(*agree, "--operator", "jan", "--yes")
    assert (done["payouts"][0]["state"], done["payouts"][0]["announced"]) == ("PAID", None)
    late = desk.data(*agree, "--operator", "ann", "--yes", code=ExitCode.REFUSED)
    assert "void" in late["payouts"][0]["why"]
    undone = desk.data("resolve", row.payout_id, "--undo", "--reason", "case 4711 was another payout", "--yes")
    assert (undone["payouts"][0]["state"], undone["payouts"][0]["held"]) == ("UNKNOWN", True)
    assert [e.transition for e in desk.history(row.payout_id)[-3:]] == [
        "resolution_proposed", "resolved_paid", "resolution_undone",
    ]  # fmt: skip


def test_c4_two_people_close_a_compensation_that_waits_for_one(desk: Desk) -> None:
    """C2, C4, S6, P9: as an operator types it; one alone is refused, what is the originator's is refused, once."""
    waits = {"compensation": CompensationState.MANUAL, "compensation_reason_code": "ACTION_CODE_05"}
    ours = desk.stored(PayoutState.FAILED, **waits, compensation_executor=Executor.PROCESSOR, reason_code="X")
    his = desk.stored(PayoutState.FAILED, **waits, compensation_executor=Executor.ORIGINATOR, reason_code="X")
    evidence = ("--handed-back", "--evidence", "bank transfer 0815", "--yes")
    refused = desk.data("resolve", his.payout_id, *evidence, code=ExitCode.REFUSED)
    assert "his confirmation" in refused["payouts"][0]["why"]
    told = desk.run("resolve", ours.payout_id, *evidence)
    assert told.exit_code == ExitCode.OK, told.stderr
    assert f"payouts resolve {ours.payout_id} --handed-back --approve 3" in told.stderr
    assert ours.payout_id in desk.run("stuck").stdout
    agree = ("resolve", ours.payout_id, "--handed-back", "--approve", "3")
    alone = desk.data(*agree, "--operator", "MARIA", "--yes", code=ExitCode.REFUSED)
    assert "another person" in alone["payouts"][0]["why"]
    other = desk.data("resolve", ours.payout_id, "--not-paid", "--approve", "3", "--yes", code=ExitCode.REFUSED)
    assert "proposed --handed-back" in other["payouts"][0]["why"]
    plan = desk.run(*agree, "--operator", "jan", "--dry-run")
    assert "12.34 USD count as handed back, for ever" in plan.stdout
    assert "bank transfer 0815" in plan.stdout
    assert desk.row(ours.payout_id).compensation is CompensationState.MANUAL
    desk.data(*agree, "--operator", "jan", "--yes")
    assert desk.row(ours.payout_id).compensation is CompensationState.COMPENSATED
    late = desk.data(*agree, "--operator", "ann", "--yes", code=ExitCode.REFUSED)
    assert "void" in late["payouts"][0]["why"]
    assert [(e.transition, e.actor) for e in desk.history(ours.payout_id)[-2:]] == [
        ("hand_back_proposed", "maria"), ("hand_back_agreed", "jan"),
    ]  # fmt: skip
    assert ours.payout_id not in {one["payout_id"] for one in desk.data("stuck", code=ExitCode.FOUND)["payouts"]}


@pytest.mark.parametrize("words", [(), ("--paid", "--handed-back"), ("--handed-back", "--undo", "--reason", "x")])
def test_a_resolution_says_one_thing(desk: Desk, words: tuple[str, ...]) -> None:
    """P9: two answers at once are none; exit code 2, and nothing is looked up."""
    assert desk.run("resolve", "payout-1", *words, "--evidence", "x", "--yes").exit_code == ExitCode.USAGE


def test_s6_a_card_number_is_no_evidence(desk: Desk) -> None:
    """P6: what is stored in clear holds no card number; exit code 3, and the number is not repeated."""
    row = desk.stored(PayoutState.UNKNOWN)
    for words in (("--evidence", f"card {CARD}"), ("--evidence", "x", "--operator", CARD)):
        result = desk.run("resolve", row.payout_id, "--paid", *words, "--yes")
        assert result.exit_code == ExitCode.REFUSED
        assert CARD not in result.stderr + result.stdout
    assert desk.row(row.payout_id) == row


def test_k2_wait_ends_with_the_announcement_or_says_that_it_is_missing(desk: Desk) -> None:
    """K2: the command changes the row; a worker's sweeper publishes. Without one, --wait ends with 5."""
    alone = desk.stored(PayoutState.CLEARED)
    missing = desk.data("cancel", alone.payout_id, "--reason", "x", "--yes", "--wait", "0.3", code=ExitCode.PARTIAL)
    assert (missing["payouts"][0]["result"], missing["payouts"][0]["announced"]) == ("done", False)
    row = desk.stored(PayoutState.CLEARED)
    sweeper = threading.Thread(target=lambda: desk.ledger(lambda ledger: _announce(ledger, row.payout_id)))
    sweeper.start()
    told = desk.data("cancel", row.payout_id, "--reason", "x", "--yes", "--wait", "60")
    sweeper.join(60)
    assert (told["payouts"][0]["announced"], told["payouts"][0]["why"]) == (True, "published")


async def _announce(ledger: PostgresLedger, payout_id: str) -> None:
    """As the sweeper does: look for the row that is behind, then record what the broker confirmed."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        behind = [row for row in await ledger.unannounced(100, 0.0) if row.payout_id == payout_id]
        if behind:
            await ledger.mark_announced([(payout_id, behind[0].announce_version)])
            return
        await asyncio.sleep(0.05)


# Against workers.


async def test_l2_l12_holds_land_between_the_steps_of_busy_workers(ledger_url: str) -> None:
    """L2, L12: every hold is written once although its row moves all the time, and no call begins after it."""
    async with (
        await PostgresLedger.connect(ledger_url, pool_min=1) as workers,
        await PostgresLedger.connect(ledger_url, pool_min=1, pool_max=2) as operators,
    ):
        rows = [await stored(workers, PayoutState.UNKNOWN) for _ in range(12)]
        stop = asyncio.Event()

        async def drive(payout_id: str) -> int:
            steps = 0
            while not stop.is_set():
                row = await workers.read(payout_id)
                assert row is not None
                change = Change(row, replace(row, inquiries=row.inquiries + 1), "query_begun", "worker-1")
                if isinstance(begun := await workers.begin(change, "worker-1/1", 8.0), PayoutRow):
                    await asyncio.sleep(CALL_SECONDS)
                    answer = Change(begun, replace(begun, action_code="91"), "still_unknown", "worker-1")
                    steps += await workers.commit(answer, "worker-1/1") is not None
            return steps

        driving = [asyncio.create_task(drive(row.payout_id)) for row in rows]
        hold = Action(
            name="hold", operator="maria", event=lambda _row, _history: Held("OPERATOR: x"), whatever_changed=True
        )
        results = []
        for row in rows:
            plan = await look(operators, hold, row.payout_id, utc_now, SCHEDULE)
            results.append(await carry_out(operators, hold, plan, utc_now, SCHEDULE))
        stop.set()
        steps = await asyncio.gather(*driving)
        assert sum(steps) > 0, "the workers did nothing: this proved nothing"
        for row, result in zip(rows, results, strict=True):
            assert result.ended is Ended.DONE, result.why
            history = await workers.history(row.payout_id)
            holds = [entry.version for entry in history if entry.transition == "held"]
            assert len(holds) == 1
            assert [entry.transition for entry in history if entry.version > holds[0]] in ([], ["still_unknown"])
            assert [entry.version for entry in history] == list(range(1, len(history) + 1))


async def test_s6_of_many_who_agree_at_once_one_resolves(ledger_url: str) -> None:
    """S6, L2: twelve second persons at once; one end, one line of history, the others are told."""
    async with await PostgresLedger.connect(ledger_url, pool_min=1) as ledger:
        row = await stored(ledger, PayoutState.UNKNOWN, **long_ago())
        propose = Action(
            name="propose", operator="maria", event=lambda _row, _history: ResolutionProposed(False, "case", "maria")
        )
        await carry_out(
            ledger, propose, await look(ledger, propose, row.payout_id, utc_now, SCHEDULE), utc_now, SCHEDULE
        )

        def agree(name: str) -> Action:
            return Action(
                name="agree", operator=name, event=lambda now, history: approval(now, history, 3, False, name)
            )

        actions = [agree(f"person-{number}") for number in range(12)]
        plans = [await look(ledger, action, row.payout_id, utc_now, SCHEDULE) for action in actions]
        results = await asyncio.gather(
            *(carry_out(ledger, action, plan, utc_now, SCHEDULE) for action, plan in zip(actions, plans, strict=True))
        )
        assert sorted(result.ended for result in results) == [Ended.DONE] + [Ended.REFUSED] * 11
        history = await ledger.history(row.payout_id)
        assert [entry.transition for entry in history][2:] == ["resolution_proposed", "resolved_not_paid"]


# Stuck.


def _compensation(state: CompensationState, executor: Executor, hours: float) -> dict[str, Any]:
    return {"compensation": state, "compensation_executor": executor, "compensation_at": _hours(hours)}


def _outside() -> list[tuple[PayoutState, dict[str, Any]]]:
    """What is as it should be."""
    return [
        (PayoutState.CLEARED, {}),
        (PayoutState.UNKNOWN, {}),
        (PayoutState.PAID, {"state_at": _hours(9)}),
        (PayoutState.FAILED, {"state_at": _hours(9)}),
        (PayoutState.FAILED, _compensation(CompensationState.COMPENSATED, Executor.ORIGINATOR, 99)),
        (PayoutState.FAILED, _compensation(CompensationState.REQUIRED, Executor.ORIGINATOR, 23)),
        (PayoutState.FAILED, _compensation(CompensationState.REQUIRED, Executor.PROCESSOR, 0)),
        (PayoutState.PAID, {"announce_version": 2}),
    ]


def _inside() -> list[tuple[Why, PayoutState, dict[str, Any]]]:
    """What waits for a person, or for longer than 15 minutes."""
    return [
        (Why.FROZEN, PayoutState.FAILED, {"held": True, "hold_reason": "APPROVED_AFTER_UNPAID_END"}),
        (Why.FROZEN, PayoutState.DENIED, {"held": True, "hold_reason": "MAY_BE_PAID_AFTER_UNPAID_END"}),
        (Why.PROPOSED, PayoutState.UNKNOWN, {"held": True, "hold_reason": "RESOLUTION_PROPOSED"}),
        (Why.HELD, PayoutState.CLEARED, {"held": True, "hold_reason": "OPERATOR: x"}),
        (Why.HELD, PayoutState.UNKNOWN, {"held": True, "hold_reason": None}),
        (Why.IN_REVIEW, PayoutState.IN_REVIEW, {}),
        (Why.MANUAL, PayoutState.FAILED, _compensation(CompensationState.MANUAL, Executor.PROCESSOR, 0)),
        (Why.PAST_RESENDS, PayoutState.UNKNOWN, {"first_intent_at": _hours(23.1)}),
        (Why.UNKNOWN, PayoutState.UNKNOWN, {"first_intent_at": _hours(1)}),
        (Why.UNKNOWN, PayoutState.PENDING, {"first_intent_at": _hours(1)}),
        (Why.NO_PROGRESS, PayoutState.SUBMITTING, {"first_intent_at": _hours(1)}),
        (Why.NO_PROGRESS, PayoutState.RECEIVED, {"state_at": _hours(1)}),
        (Why.NO_PROGRESS, PayoutState.CLEARED, {"first_intent_at": _hours(1)}),
        (Why.COMPENSATION, PayoutState.FAILED, _compensation(CompensationState.REQUIRED, Executor.PROCESSOR, 1)),
        (Why.COMPENSATION, PayoutState.FAILED, _compensation(CompensationState.UNKNOWN, Executor.PROCESSOR, 1)),
        (Why.ORIGINATOR, PayoutState.FAILED, _compensation(CompensationState.REQUIRED, Executor.ORIGINATOR, 25)),
    ]


def test_p1_what_waits_for_a_person_or_too_long_is_listed_with_its_money(desk: Desk) -> None:
    """P1: every kind of waiting is visible, named by its most urgent reason, added up per currency; nothing else is."""
    nothing = desk.data("stuck")
    assert (nothing["payouts"], nothing["totals"], nothing["older_than_seconds"]) == ([], [], 60.0)

    async def prepare(ledger: PostgresLedger) -> dict[str, Why]:
        for state, changes in _outside():
            await stored(ledger, state, **changes)
        return {(await stored(ledger, state, **changes)).payout_id: why for why, state, changes in _inside()}

    wanted = desk.ledger(prepare)
    listed = desk.data("stuck", "--older-than", "900", code=ExitCode.FOUND)
    assert {row["payout_id"]: row["why"] for row in listed["payouts"]} == wanted
    totals = {(total["why"], total["currency"]): total for total in listed["totals"]}
    patience, limit = 900.0, SCHEDULE.resend_limit_seconds
    figures = desk.ledger(lambda ledger: ledger.figures.look(patience_seconds=patience, resend_limit_seconds=limit))
    counted = Counter(wanted.values())
    assert figures.waiting_for_person == {why: counted[why] for why in WAITS_FOR_A_PERSON}
    assert sum(figures.stuck_by_status.values()) == len(wanted) - sum(figures.waiting_for_person.values())
    assert sum(figures.by_status.values()) == len(_outside()) + len(_inside())
    for why in set(wanted.values()):
        count = list(wanted.values()).count(why)
        assert (totals[why, "USD"]["payouts"], totals[why, "USD"]["amount_minor"]) == (count, count * 1234)
        assert totals[why, "USD"]["advice"] == ADVICE[why]
    limited = desk.data("stuck", "--older-than", "900", "--limit", "2", code=ExitCode.FOUND)
    assert len(limited["payouts"]) == 2
    assert [(t["why"], t["payouts"]) for t in limited["totals"]] == [(t["why"], t["payouts"]) for t in listed["totals"]]
    table = desk.run("stuck", "--state", "PENDING")
    assert table.exit_code == ExitCode.FOUND
    assert "12.34 USD" in table.stdout
    assert "IN_REVIEW" not in table.stdout


def test_p1_what_is_not_published_is_stuck(desk: Desk) -> None:
    """P1, K2: an end that nobody hears of is not an end."""
    row = desk.stored(PayoutState.PAID, announce_version=2)
    (found,) = desk.data("stuck", "--older-than", "0", code=ExitCode.FOUND)["payouts"]
    assert (found["payout_id"], found["why"]) == (row.payout_id, Why.UNANNOUNCED)
    desk.ledger(lambda ledger: ledger.mark_announced([(row.payout_id, 2)]))
    assert desk.run("stuck", "--older-than", "0").exit_code == ExitCode.OK


def test_every_reason_of_the_statement_has_its_advice() -> None:
    """P1: somebody who reads a word at 3 a.m. is told what to do."""
    assert set(ADVICE) == set(Why)
    assert ExitCode.REFUSED in CODES
