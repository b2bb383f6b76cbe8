"""E5, L9: every cell of the matrix on the product's own handlers; what stands goes on afterwards, and lost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ledger.interface import LedgerUnavailable
from ledger.memory import MemoryLedger
from processors.payout.modes import Activity, Mode
from processors.visa.identity import Operation
from streams.bootstrap import AGENT_TOPICS
from streams.metrics import Metrics
from streams.modes import ACTIVITY_OF_TOPIC, ModeWatch, Stage, WorkerStops
from streams.settings import AGENT_NAMES
from tests.unit.streams.streams_world import REQUESTS, START, World, approved, lost_reply, until

PUSH, QUERY, REVERSE = Operation.PUSH_FUNDS, Operation.TRANSACTION_QUERY, Operation.REVERSE_FUNDS
VALIDATED, CLEARED, COMPENSATE = "payout_validated", "payout_cleared", "payout_failed_requires_compensation"

YES = {
    Mode.NORMAL: "take screen submit ask compensate publish decide",
    Mode.MANUAL_REVIEW: "take screen submit ask compensate publish decide",
    Mode.READ_ONLY: "ask publish",
    Mode.MAINTENANCE: "screen submit ask compensate publish",
    Mode.EMERGENCY: "ask compensate publish",
    Mode.ISOLATION: "",
    Mode.HALTED: "",
}
"""The matrix, written down once more."""
CELLS = ("take", "screen", "submit", "ask", "compensate", "publish", "decide")


async def _pass(world: World, topic: str) -> None:
    """Deliver what waits in one topic."""
    while world.next_offset[topic] < len(world.broker.topics[topic]):
        await world.deliver(world.broker.topics[topic][world.next_offset[topic]])
        world.next_offset[topic] += 1
        await world.worker.announcer.mark_now()


async def _stand_ready(world: World) -> None:
    """One payout in front of each thing that a mode may forbid, each with the payout_id of the cell."""
    # decide: in review, and the approval is in its topic.
    parties = {"sender": {"name": "Mara Lindqvist", "address": ADDRESS}, "recipient": {"name": "Bartholomew Grimez"}}
    await world.ask("cell-decide", personal_data=world.seal(parties))
    for topic in (REQUESTS, VALIDATED):
        await _pass(world, topic)
    case = await world.row("cell-decide")
    assert case.state == "IN_REVIEW"
    # compensate: declined, its card pull is to be reversed. ask: the answer was lost. publish: its mark was.
    world.visa.script[PUSH] = [lambda _: approved("05"), world.visa.silent_after_effect, lambda _: approved()]
    world.visa.script[QUERY] = [lambda _: lost_reply()]
    await world.ask("cell-compensate", funding=world.card_pull("cell-9"))
    await world.ask("cell-ask")
    await world.ask("cell-publish")
    for topic in (REQUESTS, VALIDATED, CLEARED):
        await _pass(world, topic)
    await world.put_row(await world.row("cell-publish"), announced_version=0)
    # submit, screen, take: as far as each stage brought them.
    await world.ask("cell-submit")
    for topic in (REQUESTS, VALIDATED):
        await _pass(world, topic)
    await world.ask("cell-screen")
    await _pass(world, REQUESTS)
    await world.ask("cell-take")
    decision = {
        "case_id": case.review_case_id,
        "payout_id": "cell-decide",
        "decision": "APPROVE",
        "reviewer": "anna",
        "reason_code": "FALSE_POSITIVE",
        "note": None,
        "decided_at": world.now,
    }
    await world.produce("payout_review_decisions", "ReviewDecision", decision)
    world.broker.topics["payout_results"].clear()
    world.visa.requests.clear()


ADDRESS = {"line1": "1 High Street", "city": "Leeds", "state": "CA", "postal_code": "94404", "country": "US"}


async def _happened(world: World) -> set[str]:
    """Which cells came true, by what is outside: rows, calls, topics."""
    rows = {row.payout_id: row for row in world.rows()}
    told = {event["payout_id"] for event in await world.events("payout_results")}
    asked = {request.operation for request in world.visa.requests}
    facts = {
        "take": "cell-take" in rows,
        "screen": rows["cell-screen"].state != "VALIDATED",
        "submit": rows["cell-submit"].attempts > 0,
        "ask": rows["cell-ask"].state == "PAID" and QUERY in asked,
        "compensate": REVERSE in asked,
        "publish": "cell-publish" in told,
        "decide": rows["cell-decide"].state != "IN_REVIEW",
    }
    return {cell for cell, is_true in facts.items() if is_true}


@pytest.mark.parametrize("mode", Mode)
async def test_l9_e5_every_cell_of_the_matrix(world: World, mode: Mode) -> None:
    """E5: what the mode allows happens within a minute, what it forbids does not, and normal brings all of it."""
    await _stand_ready(world)
    await world.set_mode(mode)
    budgets = {row.payout_id: row.own_failures for row in world.rows()}
    await world.settle(seconds=60.0)
    assert await _happened(world) == set(YES[mode].split())
    assert {row.payout_id: row.own_failures for row in world.rows() if row.payout_id in budgets} == budgets
    await world.set_mode(Mode.NORMAL)
    await world.settle(seconds=200.0)
    assert await _happened(world) == set(CELLS)
    ends = {row.payout_id: row.state for row in world.rows()}
    assert ends.pop("cell-compensate") == "DECLINED"
    assert set(ends.values()) == {"PAID"}, ends
    assert len(world.visa.pushes) == len(ends) - 1, "P2: each once; one was approved by script"
    assert len(world.visa.reversals) == 1


@pytest.mark.parametrize("mode", [Mode.READ_ONLY, Mode.EMERGENCY])
async def test_e5_a_drive_from_before_does_not_do_what_the_mode_forbids(world: World, mode: Mode) -> None:
    """E5, K4: `payout_retry` is consumed for its questions; what else was asked for before is left for later."""
    await world.ask("payout-0001")
    await _pass(world, REQUESTS)
    world.advance(60.0)
    assert await world.worker.sweeper.sweep() == 1
    assert len(world.broker.topics["payout_retry"]) == 1
    await world.set_mode(mode)
    await world.settle(seconds=30.0)
    assert (await world.row("payout-0001")).state == "VALIDATED"
    await world.set_mode(Mode.NORMAL)
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"


@pytest.mark.parametrize("mode", [mode for mode in Mode if "submit" not in YES[mode]])
async def test_l9_a_worker_that_has_not_looked_yet_sends_nothing_all_the_same(world: World, mode: Mode) -> None:
    """L9: the ledger forbids it, whatever the worker believes; what it believed it may still screen."""
    await _stand_ready(world)
    await world.set_mode(mode, obeyed=False)
    await world.settle(seconds=60.0)
    allowed = {"ask": QUERY, "compensate": REVERSE}
    left = {request.operation for request in world.visa.requests}
    assert left == {operation for cell, operation in allowed.items() if cell in YES[mode].split()}


async def test_e5_p3_a_resend_waits_for_a_mode_that_lets_payments_leave(world: World) -> None:
    """E5, S3: what Visa does not know is not sent again in `emergency`; it is asked about, and spends nothing."""
    world.visa.script[PUSH] = [lambda _: lost_reply()]
    await world.ask("payout-0001")
    for topic in (REQUESTS, VALIDATED, CLEARED):
        await _pass(world, topic)
    await world.set_mode(Mode.EMERGENCY)
    await world.settle(seconds=300.0)
    row = await world.row("payout-0001")
    assert (row.state, row.attempts, row.own_failures) == ("UNKNOWN", 1, 0)
    assert row.inquiries > 1
    await world.set_mode(Mode.NORMAL)
    await world.settle(seconds=300.0)
    row = await world.row("payout-0001")
    assert (row.state, row.attempts, len(world.visa.pushes)) == ("PAID", 2, 1)


@pytest.mark.parametrize(
    ("score", "ends"), [(6_999, "PAID"), (7_000, "IN_REVIEW"), (9_999, "IN_REVIEW"), (None, "IN_REVIEW")]
)
async def test_e5_manual_review_brings_what_scored_high_to_a_reviewer(
    world: World, score: int | None, ends: str
) -> None:
    """E5, S3-16, R1: also what a worker with another threshold had cleared; approved, it is paid in this mode."""
    await world.ask("payout-0001")
    for topic in (REQUESTS, VALIDATED):
        await _pass(world, topic)
    await world.put_row(await world.row("payout-0001"), score_basis_points=score)
    await world.set_mode(Mode.MANUAL_REVIEW)
    await world.settle()
    row = await world.row("payout-0001")
    assert row.state == ends
    if ends == "PAID":
        return
    assert not world.visa.requests
    (case,) = await world.events("payout_reviews")
    assert (case["case_id"], case["reason_code"]) == (row.review_case_id, "MANUAL_REVIEW_MODE")
    decision = {"case_id": case["case_id"], "payout_id": "payout-0001", "decision": "APPROVE", "reviewer": "anna"}
    decision |= {"reason_code": "LOOKED_AT", "note": None, "decided_at": world.now}
    await world.produce("payout_review_decisions", "ReviewDecision", decision)
    await world.settle()
    assert ((await world.row("payout-0001")).state, len(world.visa.pushes)) == ("PAID", 1)


async def test_e5_manual_review_asks_no_question_for_what_waits_for_a_reviewer(world: World) -> None:
    """E5, B3: a question before the first intent is a step towards sending it."""
    await world.ask("payout-0001", **world.abroad())
    for topic in (REQUESTS, VALIDATED):
        await _pass(world, topic)
    await world.put_row(await world.row("payout-0001"), score_basis_points=8_000)
    await world.set_mode(Mode.MANUAL_REVIEW)
    await world.settle()
    assert not world.visa.requests
    assert (await world.row("payout-0001")).state == "IN_REVIEW"


async def _in_a_call(world: World, mode: Mode) -> asyncio.Task[None]:
    """A delivery whose call is answered only after the worker has seen the mode; it is over but for its event."""
    calling, answer = asyncio.Event(), asyncio.Event()

    async def hang(_: Any) -> None:
        calling.set()
        await answer.wait()

    await world.ask("payout-0001")
    for topic in (REQUESTS, VALIDATED):
        await _pass(world, topic)
    world.visa.pause = hang
    working = asyncio.create_task(world.deliver(world.broker.topics[CLEARED][0]))
    await calling.wait()
    world.worker.mode.saw(mode)
    answer.set()
    await until(lambda: world.rows()[0].state == "PAID")
    for _ in range(50):
        await asyncio.sleep(0)
    return working


@pytest.mark.parametrize("mode", [Mode.ISOLATION, Mode.HALTED])
async def test_e5_k1_what_is_in_work_when_the_mode_falls_silent_waits_unacknowledged(world: World, mode: Mode) -> None:
    """E5, K1, L2: the answer of a call under way is recorded; its event waits, and its record is not acknowledged."""
    working = await _in_a_call(world, mode)
    assert not working.done()
    assert not world.broker.topics["payout_results"]
    world.worker.mode.saw(Mode.NORMAL)
    await working
    assert [event["status"] for event in await world.events("payout_results")] == ["PAID"]


async def test_e5_k2_a_worker_that_stops_leaves_what_waits_to_the_next(world: World) -> None:
    """E5, K1, K2: nobody acknowledges what could not be published, the worker can end, and the next one tells it."""
    working = await _in_a_call(world, Mode.HALTED)
    world.worker.mode.stop()
    with pytest.raises(WorkerStops):
        await working
    assert not world.broker.topics["payout_results"]
    world.worker = world.start_worker()
    await world.settle()
    assert [event["status"] for event in await world.events("payout_results")] == ["PAID"]


async def test_e5_an_agent_that_stands_is_not_ended_by_the_end_of_its_worker(world: World) -> None:
    """E5: Faust ends its agents itself; one that ended before would be a crash to it. Nothing is taken meanwhile."""
    world.worker.mode.saw(Mode.HALTED)
    waiting = asyncio.create_task(Stage(lambda: world.worker.mode, Activity.TAKE).passed())
    await asyncio.sleep(0)
    world.worker.mode.stop()
    for _ in range(50):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


# --- the watch --------------------------------------------------------------------------------------------------------


async def test_e5_before_the_first_look_nothing_is_allowed() -> None:
    """E5: a worker that starts in `halted` takes nothing before it knows."""
    watch = ModeWatch(MemoryLedger(lambda: START), Metrics())
    assert not any(watch.allows(activity) for activity in Activity)
    await watch.look()
    assert all(watch.allows(activity) for activity in Activity)


@pytest.mark.parametrize("mode", Mode)
async def test_e5_the_gauge_shows_the_mode_that_is_obeyed(mode: Mode) -> None:
    """E5: `payout_mode{mode}` is 1 for one mode and 0 for the others."""
    metrics = Metrics()
    watch = ModeWatch(MemoryLedger(lambda: START), metrics)
    watch.saw(Mode.HALTED)
    watch.saw(mode)
    shown = {one: metrics.registry.get_sample_value("payout_mode", {"mode": one.value}) for one in Mode}
    assert shown == {one: float(one is mode) for one in Mode}


class _Asked:
    """A ledger that answers what the test says."""

    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        self.mode = answer


@dataclass
class _Record:
    mode: Mode


async def test_e5_without_an_answer_the_last_mode_holds_and_an_unknown_word_stops_everything() -> None:
    """E5, L9: a database that is away opens nothing; a mode of a newer release is taken for `halted`."""
    answers: list[Any] = [_Record(Mode.EMERGENCY), LedgerUnavailable("away"), ValueError("no such mode")]
    looks = 0

    async def answer() -> Any:
        nonlocal looks
        looks += 1
        found = answers[min(looks, len(answers)) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    seen: list[Mode | None] = []
    ledger: Any = _Asked(answer)
    third = asyncio.Event()

    def looked() -> None:
        seen.append(watch.mode)
        if len(seen) == 3:
            third.set()

    watch = ModeWatch(ledger, Metrics(), looked)
    watching = asyncio.create_task(watch.watch_forever())
    await asyncio.wait_for(third.wait(), 10)
    watching.cancel()
    assert seen[:3] == [Mode.EMERGENCY, Mode.EMERGENCY, Mode.HALTED]


def test_e5_every_topic_that_agents_consume_has_its_activity() -> None:
    """E5: a topic without one would be consumed in every mode, or in none."""
    assert {topic for agent in AGENT_NAMES for topic in AGENT_TOPICS[agent]} == set(ACTIVITY_OF_TOPIC)
