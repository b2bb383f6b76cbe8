"""One card pull funds one payout and is handed back once, whatever its receipts are called (L7, C1, P4)."""

from datetime import timedelta
from typing import Any

import pytest

from processors.visa.identity import Operation
from tests.unit.streams.streams_world import World, approved

YOUNG, OLD = timedelta(minutes=3), timedelta(hours=25)


def decline_next_push(world: World) -> None:
    """The next push is declined."""
    world.visa.script[Operation.PUSH_FUNDS].append(lambda _: approved("05"))


def one_pull(world: World, receipt_id: str, age: timedelta, **changes: Any) -> dict[str, Any]:
    """One and the same card pull, under a receipt_id that the originator made for this request."""
    funding = world.card_pull("payout-0001")
    funding["aft"] |= {"receipt_id": receipt_id, "captured_at": world.now - age, **changes}
    return funding


async def test_the_pull_behind_a_paid_payout_is_not_handed_back_under_another_receipt_id(world: World) -> None:
    """P4, C1, L7: the same card pull, called by another receipt_id, has funded a payout that was paid."""
    await world.ask("payout-0001", funding=one_pull(world, "receipt-1", YOUNG))
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"
    decline_next_push(world)
    await world.ask("payout-0002", funding=one_pull(world, "receipt-2", timedelta(minutes=4)))
    await world.settle()
    assert world.visa.reversals == [], "the money behind a paid payout was given back"
    row = await world.row("payout-0002")
    assert (row.state, row.reason_code, row.compensation) == ("REJECTED", "RECEIPT_REUSED", "NONE")


@pytest.mark.parametrize(
    "otherwise",
    [
        {},
        {"systems_trace_audit_number": 451_999},
        {"transaction_identifier": "381228649430999"},
        {"acquiring_bin": "00408999", "transaction_identifier": "381228649430999"},
    ],
    ids=["the same", "another trace", "another transaction", "the BIN with zeros"],
)
@pytest.mark.parametrize("age", [YOUNG, OLD], ids=["reversal", "adjustment"])
async def test_one_pull_is_handed_back_once_whatever_its_receipts_are_called(
    world: World, age: timedelta, otherwise: dict[str, Any]
) -> None:
    """P4, C1, L7: two unpaid payouts on one pull; nothing at Visa stops the second adjustment (S3).

    A reversal names the pull by BIN, RRN and STAN, an adjustment by the transaction identifier alone: either is enough.
    """
    decline_next_push(world)
    await world.ask("payout-0001", funding=one_pull(world, "receipt-1", age))
    await world.settle()
    assert (await world.row("payout-0001")).compensation == "COMPENSATED"
    decline_next_push(world)
    await world.ask("payout-0002", originator_id="another-shop", funding=one_pull(world, "receipt-2", age, **otherwise))
    await world.settle()
    assert len(world.visa.reversals) + len(world.visa.adjustments) == 1, "one pull was handed back twice"
    row = await world.row("payout-0002")
    assert (row.state, row.reason_code, row.compensation) == ("REJECTED", "RECEIPT_REUSED", "NONE")


async def test_a_pull_that_a_person_hands_back_pays_for_nothing_else(world: World) -> None:
    """P4, C1, L7: refused for a missing fact, its money is owed by hand; the corrected request must not be paid too."""
    await world.ask("payout-0001", funding=one_pull(world, "receipt-1", YOUNG, approval_code=None))
    await world.settle()
    assert (await world.row("payout-0001")).compensation == "MANUAL"
    await world.ask("payout-0002", funding=one_pull(world, "receipt-2", YOUNG))
    await world.settle()
    assert world.visa.calls(Operation.PUSH_FUNDS) == []
    assert (await world.row("payout-0002")).reason_code == "RECEIPT_REUSED"


async def test_who_does_not_own_the_receipt_takes_no_pull_away(world: World) -> None:
    """L7: a receipt by mistake burns its payout alone; the request that names the pull rightly is paid."""
    await world.ask("payout-0001", funding=world.card_pull("payout-0001"))
    mistaken = world.card_pull("payout-0002")
    mistaken["aft"]["receipt_id"] = world.card_pull("payout-0001")["aft"]["receipt_id"]
    await world.ask("payout-0002", funding=mistaken)
    await world.ask("payout-0003", funding=world.card_pull("payout-0002"))
    await world.settle()
    states = [(await world.row(f"payout-000{number}")).state for number in (1, 2, 3)]
    assert states == ["PAID", "REJECTED", "PAID"]
