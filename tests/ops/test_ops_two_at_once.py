"""Two operators do something to one payout at the same moment: one wins, the other is told, the history has one line.

The commands themselves run, each in a thread with connections of its own, on a real PostgreSQL: both have read the same
row and shown the same plan, and both hear the yes before either writes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import typer

from ledger.interface import Change
from ledger.postgres import PostgresLedger
from ops import operator_actions
from ops.cancel import cancel
from ops.exit_codes import ExitCode
from ops.hold import hold, release
from ops.output import Output
from ops.review import Decision, Standing, standing
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.schedule import Schedule
from schemas.codec import Codec, PinnedResolver
from streams.announcer import Announcer
from streams.dead_letters import DeadLetters
from streams.driver import Driver
from streams.handlers import StageHandlers
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.pump import Record
from streams.stages import StageRunner
from tests.contract.ledger.ledger_fixtures import ledger_template, ledger_url
from tests.ops.operator_rows import stored
from tests.ops.test_ops_operator_commands import Desk, desk

__all__ = ["desk", "ledger_template", "ledger_url"]

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

MEET_SECONDS = 60.0
ROUNDS = 4
"""Who is first is chance: over so many payouts both orders come up nearly always, and either must be right."""
Act = Callable[[str, str], None]


def cancelling(payout_id: str, operator: str) -> None:
    """`payouts cancel`."""
    cancel([payout_id], "INC-1", operator=operator, yes=True, output=Output.JSON)


def holding(payout_id: str, operator: str) -> None:
    """`payouts hold`."""
    hold([payout_id], "INC-1", operator=operator, yes=True, output=Output.JSON)


def releasing(payout_id: str, operator: str) -> None:
    """`payouts release`."""
    release([payout_id], "INC-1", operator=operator, yes=True, output=Output.JSON)


@pytest.fixture
def meet(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Act, Act], list[ExitCode]]:
    """Let two people do these to a payout at the same moment; how their commands end."""
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    agreed = threading.Barrier(2)

    def confirmed(_question: str, _operator: str, *, yes: bool) -> None:
        assert yes
        agreed.wait(MEET_SECONDS)

    monkeypatch.setattr(operator_actions, "confirmed", confirmed)

    def ended(act: Act, payout_id: str, operator: str) -> ExitCode:
        try:
            act(payout_id, operator)
        except typer.Exit as exit_:
            return ExitCode(exit_.exit_code)
        return ExitCode.OK

    def both(payout_id: str, first: Act, second: Act) -> list[ExitCode]:
        with ThreadPoolExecutor(2) as threads:
            asked = [
                threads.submit(ended, act, payout_id, operator) for act, operator in ((first, "maria"), (second, "jan"))
            ]
            return [one.result(MEET_SECONDS) for one in asked]

    return both


def lines(desk: Desk, row: PayoutRow) -> list[str]:
    """What was done to the payout since it was stored."""
    return [entry.transition for entry in desk.history(row.payout_id) if entry.version > row.version]


def test_p9_of_two_who_cancel_one_does_and_the_other_is_told(
    desk: Desk, meet: Callable[[str, Act, Act], list[ExitCode]], capsys: pytest.CaptureFixture[str]
) -> None:
    """P9, L2: code 3 for the second; one line of history, one end."""
    for _ in range(ROUNDS):
        row = desk.stored(PayoutState.CLEARED)
        assert sorted(meet(row.payout_id, cancelling, cancelling)) == [ExitCode.OK, ExitCode.REFUSED]
        said = capsys.readouterr().out
        assert "it changed since the plan was shown: was CLEARED" in said
        assert "it is cancelled already; nothing was changed by this command" in said
        assert lines(desk, row) == ["cancelled"]


def test_p9_l12_a_hold_wins_over_a_cancel_that_comes_after_it_and_lands_on_one_that_came_before(
    desk: Desk, meet: Callable[[str, Act, Act], list[ExitCode]]
) -> None:
    """P9, L2, L12: who cancels is told of the hold (3); a hold is wanted whatever happened, and stops the hand-back."""
    for _ in range(ROUNDS):
        row = desk.stored(PayoutState.CLEARED)
        codes, now = meet(row.payout_id, holding, cancelling), desk.row(row.payout_id)
        assert now.held
        if now.state is PayoutState.CANCELLED:
            assert (codes, lines(desk, row)) == ([ExitCode.OK, ExitCode.OK], ["cancelled", "held"])
        else:
            assert (codes, lines(desk, row)) == ([ExitCode.OK, ExitCode.REFUSED], ["held"])
            assert now.state is PayoutState.CLEARED


@pytest.mark.parametrize("acts", [(releasing, releasing), (releasing, cancelling)], ids=["release", "cancel"])
def test_p9_who_releases_what_another_has_released_or_cancelled_meanwhile_is_told(
    desk: Desk, meet: Callable[[str, Act, Act], list[ExitCode]], acts: tuple[Act, Act]
) -> None:
    """P9, L2: the plan that the second agreed to is no longer true: code 3, and nothing is done in passing."""
    row = desk.stored(PayoutState.CLEARED, held=True, hold_reason="OPERATOR: INC-1")
    codes = meet(row.payout_id, *acts)
    assert sorted(codes) == [ExitCode.OK, ExitCode.REFUSED]
    assert len(lines(desk, row)) == 1


# Reviewers: their words meet in the workers.


class Quiet:
    """Kafka, of which nothing is asked here: what the rows announce is counted."""

    def __init__(self) -> None:
        self.published: list[str] = []

    async def publish_row(self, row: PayoutRow, **_: Any) -> None:
        self.published.append(row.payout_id)


async def _worker(ledger: PostgresLedger, codec: Codec, row: PayoutRow, decision: Decision, offset: int) -> None:
    """One worker takes one decision from the topic."""
    publisher = cast("Publisher", cast("Any", Quiet()))
    driver = Driver(
        ledger,
        stages=cast("StageRunner", None),
        calls=None,
        announcer=Announcer(ledger, publisher),
        schedule=Schedule.test(),
        owner=f"worker-{offset}",
        metrics=Metrics(),
    )
    value = await codec.encode(
        "ReviewDecision",
        {
            "case_id": decision.case_id, "payout_id": row.payout_id, "decision": decision.word,
            "reviewer": decision.reviewer, "reason_code": decision.reason_code, "note": None,
            "decided_at": datetime.now(UTC),
        },
    )  # fmt: skip
    key = row.payout_id.encode()
    record = Record("payout_review_decisions", 0, offset, datetime.now(UTC), key, value, ())
    await StageHandlers(ledger, codec, driver, cast("DeadLetters", None)).review(record)


async def test_r1_p9_of_one_who_approves_and_one_who_rejects_one_decides_and_the_other_is_told(
    ledger_url: str,
) -> None:
    """R1, L2, P9: two workers take the two words at once; one line of history, both are accounted for (K9)."""
    codec = Codec(PinnedResolver())
    async with (
        await PostgresLedger.connect(ledger_url, pool_min=1, pool_max=2) as left,
        await PostgresLedger.connect(ledger_url, pool_min=1, pool_max=2) as right,
    ):
        for number in range(2 * ROUNDS):
            found = await stored(left, PayoutState.IN_REVIEW)
            case_id = f"{found.payout_id}.{found.version}"
            row = await _opened(left, found, case_id)
            yes, no = (Decision(case_id, True, "FALSE_POSITIVE", None, "casey"),
                       Decision(case_id, False, "CONFIRMED_MATCH", None, "robin"))  # fmt: skip
            assert standing(yes, row, await left.history(row.payout_id))[0] is Standing.NOT_TAKEN_YET
            await asyncio.gather(
                _worker(left, codec, row, yes, 2 * number), _worker(right, codec, row, no, 2 * number + 1)
            )
            now, history = await left.read(row.payout_id), await left.history(row.payout_id)
            assert now is not None
            decided = [entry.transition for entry in history if entry.version > row.version]
            assert decided in (["review_approved"], ["review_rejected"])
            is_approved = now.state is PayoutState.CLEARED
            assert (decided == ["review_approved"], now.state is PayoutState.DENIED) == (is_approved, not is_approved)
            won, lost = (yes, no) if is_approved else (no, yes)
            assert standing(won, now, history)[0] is Standing.COUNTS
            assert standing(lost, now, history) == (Standing.OVERTAKEN, f"{decided[0]} by {won.reviewer}")


async def _opened(ledger: PostgresLedger, row: PayoutRow, case_id: str) -> PayoutRow:
    opened = await ledger.commit(Change(row, replace(row, review_case_id=case_id), "review_opened", "worker-1"))
    assert opened is not None
    return opened
