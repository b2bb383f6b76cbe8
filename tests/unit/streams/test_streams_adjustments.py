"""Adjustments from end to end over the model ledger: one intent, one effect, proven by its own answer (rules C, S3)."""

from datetime import timedelta
from typing import Any

import pytest

from processors.payout.row import PayoutRow
from processors.visa.identity import Operation, client_transaction_id
from tests.unit.streams.streams_world import SENDER_CARD, World, approved, lost_reply, refused

PUSH, QUERY, REVERSE, ADJUST = (
    Operation.PUSH_FUNDS,
    Operation.TRANSACTION_QUERY,
    Operation.REVERSE_FUNDS,
    Operation.ADJUSTMENT,
)


def old_pull(world: World) -> dict[str, Any]:
    """Funding by a card pull of the day before yesterday."""
    funding = world.card_pull("payout-0001")
    funding["aft"]["captured_at"] = world.now - timedelta(hours=40)
    return funding


async def declined(world: World, *answers: Any) -> PayoutRow:
    """A payout that Visa declines, whose pull is too old for a reversal; `answers` meet its adjustment."""
    world.visa.script[PUSH] = [lambda _: approved("05")]
    world.visa.script[ADJUST] = list(answers)
    await world.ask("payout-0001", funding=old_pull(world))
    await world.settle(seconds=600)
    return await world.row("payout-0001")


async def test_a_pull_of_more_than_a_day_is_adjusted_under_numbers_of_its_own(world: World) -> None:
    """C2, C3, S1: identity from the one sequence, fixed with the first intent; the pull's transaction identifier."""
    row = await declined(world)
    assert (row.state, row.compensation, row.compensation_action) == ("DECLINED", "COMPENSATED", "ADJUSTMENT")
    (sent,) = world.visa.adjustments
    assert sent["systemsTraceAuditNumber"] == row.compensation_systems_trace_audit_number
    assert sent["retrievalReferenceNumber"] == row.compensation_retrieval_reference_number
    assert row.compensation_identity_number not in (None, row.identity_number)
    assert (sent["transactionIdentifier"], sent["senderPrimaryAccountNumber"]) == (381228649430015, SENDER_CARD)
    assert (str(sent["amount"]), sent["senderReference"]) == ("25.00", row.sender_reference)
    (request,) = world.visa.calls(ADJUST)
    assert request.client_transaction_id == client_transaction_id("payout-0001", ADJUST)
    assert not world.visa.calls(REVERSE)
    (result,) = await world.events("payout_compensation_results")
    assert result["status"] == "COMPENSATED"


async def test_the_body_of_an_adjustment_is_sealed_in_the_row(world: World) -> None:
    """P6, S2: kept whole with the intent, and no card number in it can be read."""
    row = await declined(world)
    assert row.compensation_sealed_body is not None
    assert SENDER_CARD.encode() not in row.compensation_sealed_body


async def test_a_lost_adjustment_answer_is_proven_by_its_row_and_never_sent_again(world: World) -> None:
    """S3, C4: a second one would be a second effect."""
    row = await declined(world, world.visa.silent_after_effect)
    assert row.compensation == "COMPENSATED"
    assert len(world.visa.adjustments) == len(world.visa.calls(ADJUST)) == 1
    asked = dict(world.visa.calls(QUERY)[-1].query)
    assert asked["stan"] == str(row.compensation_systems_trace_audit_number)
    assert asked["rrn"] == row.compensation_retrieval_reference_number


@pytest.mark.parametrize(
    "answer",
    [lost_reply(), refused(500), refused(202), approved("94", originalActionCode="00"), approved("94")],
    ids=["silence", "500", "202", "94-00", "94"],
)
async def test_an_adjustment_that_nobody_knows_becomes_a_persons(world: World, answer: Any) -> None:
    """S3: query, then an operator; neither 94 nor 202 proves it."""
    row = await declined(world, lambda _: answer)
    assert (row.compensation, len(world.visa.calls(ADJUST))) == ("MANUAL", 1)
    assert row.compensation_reason_code


async def test_a_refused_adjustment_is_sent_again_as_the_same(world: World) -> None:
    """S4, S7, C3: refusals are definite; the same body under the same identity comes again when it is due."""
    row = await declined(world, lambda _: refused(429, retry_after="5"), lambda _: refused(503))
    assert row.compensation == "MANUAL", "503 is ambiguous, and the query knew nothing"
    first, second = world.visa.calls(ADJUST)
    assert (first.body, first.client_transaction_id) == (second.body, second.client_transaction_id)


async def test_an_adjustment_whose_worker_died_is_asked_about_and_not_repeated(world: World) -> None:
    """S2, S3: killed after the effect, before the answer was recorded."""
    passed: list[str] = []

    def fail(name: str) -> BaseException | None:
        from tests.unit.streams.streams_world import Killed

        passed.append(name)
        return Killed(name) if name == "visa.adjustment:after" and passed.count(name) == 1 else None

    world.boundary.fail = fail
    row = await declined(world)
    assert (row.compensation, len(world.visa.adjustments)) == ("COMPENSATED", 1)
