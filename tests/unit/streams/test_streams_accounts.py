"""Payouts to accounts and wallets through the product's own agents: asked about, never sent again (S3), S8, B4."""

from pathlib import Path
from typing import Any

import pytest

from processors.sealing import SealingError
from processors.visa.exchange import Answered
from processors.visa.identity import Operation
from processors.visa.requests import VisaRequest
from schemas.headers import header_text
from schemas.sender_reference import sender_reference
from streams.keys import Keys
from tests.unit.streams.streams_world import ACCOUNT_NUMBER, World, lost_reply, refused

NAME = "payout-0001"
RESULTS = "payout_results"


def _types(world: World) -> list[str | None]:
    return [header_text(record.headers, "ce_type") for record in world.broker.topics[RESULTS]]


def _silent_before(_: VisaRequest) -> Any:
    return lost_reply()


@pytest.mark.parametrize("kind", ["account", "wallet"])
async def test_b4_an_account_payout_is_paid_once_and_said_so(world: World, kind: str) -> None:
    """B3, B4: sent, asked about while it is on its way, delivered, announced; no number of the card rail leaves."""
    await world.ask(NAME, destination=getattr(world, kind)())
    await world.deliver_all()
    row = await world.row(NAME)
    assert (row.state, row.reason_code) == ("PENDING", "PAYMENT_RECEIVED")
    world.visa.account_status = "PAYMENT_DELIVERED"
    await world.settle()
    (sent,) = world.visa.account_payouts
    assert sent["transactionDetail"]["clientReferenceId"] == sender_reference(NAME)
    assert sent["transactionDetail"]["initiatingPartyId"] == 1002
    assert not world.visa.calls(Operation.PUSH_FUNDS) + world.visa.calls(Operation.TRANSACTION_QUERY)
    (result,) = await world.events(RESULTS, NAME)
    assert (result["status"], result["rail"], result["transaction_identifier"]) == ("PAID", kind.upper(), "A-1")
    assert (await world.row(NAME)).due_at is None, "the window is over: nobody asks any more"


async def test_s3_a_lost_reply_is_asked_about_and_the_payout_found(world: World) -> None:
    """S0-19: the effect was there."""
    world.visa.account_status = "PAYMENT_DELIVERED"
    world.visa.script[Operation.SEND_PAYOUT] = [world.visa.silent_after_effect]
    await world.ask(NAME, destination=world.account())
    await world.settle()
    assert len(world.visa.account_payouts) == 1
    assert (await world.row(NAME)).state == "PAID"


async def test_s3_a_send_that_never_arrived_waits_for_a_person_and_is_never_sent_again(world: World) -> None:
    """S3, S0-19: a card payout would be sent again here; this one is held, also after a release, for days."""
    world.visa.script[Operation.SEND_PAYOUT] = [_silent_before]
    await world.ask(NAME, destination=world.account())
    await world.settle(seconds=3 * 24 * 3600.0)
    row = await world.row(NAME)
    assert (row.state, row.held, row.hold_reason) == ("UNKNOWN", True, "ACCOUNT_NOT_FOUND_AFTER_SEND")
    assert len(world.visa.calls(Operation.PAYOUT_QUERY)) > 2
    assert len(world.visa.calls(Operation.SEND_PAYOUT)) == 1
    assert not world.visa.account_payouts
    assert not await world.events(RESULTS, NAME)


async def test_s4_a_refused_send_is_sent_again_with_the_same_bytes(world: World) -> None:
    """S4, S7: 429 and no connection had no effect; one payment, one reference, one body."""
    world.visa.account_status = "PAYMENT_DELIVERED"
    world.visa.script[Operation.SEND_PAYOUT] = [lambda _: refused(429, retry_after="1"), lambda _: refused(503)]
    world.visa.script[Operation.SEND_PAYOUT].pop()
    await world.ask(NAME, destination=world.account())
    await world.settle()
    first, second = world.visa.calls(Operation.SEND_PAYOUT)
    assert first.body == second.body
    assert len(world.visa.account_payouts) == 1
    assert (await world.row(NAME)).state == "PAID"


async def test_s4_a_503_is_no_refusal(world: World) -> None:
    """S4: it may have taken effect; nothing is sent again."""
    world.visa.script[Operation.SEND_PAYOUT] = [lambda _: refused(503)]
    await world.ask(NAME, destination=world.account())
    await world.settle()
    assert len(world.visa.calls(Operation.SEND_PAYOUT)) == 1
    assert (await world.row(NAME)).hold_reason == "ACCOUNT_NOT_FOUND_AFTER_SEND"


@pytest.mark.parametrize(("status", "reason"), [("REJECTED", "REJECTED"), ("RETURNED", "RETURNED")])
async def test_c1_what_is_rejected_or_returned_before_paid_is_handed_back(
    world: World, status: str, reason: str
) -> None:
    await world.ask(NAME, destination=world.account())
    await world.deliver_all()
    world.visa.account_status = status
    await world.settle()
    (result,) = await world.events(RESULTS, NAME)
    assert (result["status"], result["reason_code"], result["compensation_required"]) == ("DECLINED", reason, True)
    (demand,) = await world.events("payout_failed_requires_compensation", NAME)
    assert demand["executor"] == "ORIGINATOR"


async def test_s8_a_return_after_paid_is_told_once_as_an_event_of_its_own(world: World) -> None:
    """S8, K3: PAID stays; another ce_type, another ce_id, a higher version; nothing is handed back."""
    world.visa.account_status = "PAYMENT_DELIVERED"
    await world.ask(NAME, destination=world.account())
    await world.deliver_all()
    assert (await world.row(NAME)).state == "PAID"
    world.visa.account_status = "RETURNED"
    await world.settle()
    row = await world.row(NAME)
    assert (row.state, row.compensation, row.returned_reason_code) == ("PAID", "NONE", "RETURNED")
    paid, returned = await world.events(RESULTS, NAME)
    assert (paid["status"], paid["returned"]) == ("PAID", None)
    assert (returned["status"], returned["returned"]["paid_version"]) == ("RETURNED", paid["version"])
    assert returned["version"] == row.returned_version > paid["version"]
    assert _types(world) == ["io.payoutstreams.payout.result.v1", "io.payoutstreams.payout.returned.v1"]
    assert len(set(world.event_ids(RESULTS))) == 2
    assert not world.broker.topics["payout_failed_requires_compensation"]
    asked = len(world.visa.calls(Operation.PAYOUT_QUERY))
    await world.settle(seconds=3600.0)
    assert len(world.visa.calls(Operation.PAYOUT_QUERY)) == asked, "nothing more is expected"


async def test_p5_a_repeated_request_gets_both_events_again_under_the_same_ids(world: World) -> None:
    """P5, K3: what was said is said again, and nothing else."""
    world.visa.account_status = "PAYMENT_DELIVERED"
    record = await world.ask(NAME, destination=world.account())
    await world.deliver_all()
    world.visa.account_status = "RETURNED"
    await world.settle()
    before = world.event_ids(RESULTS)
    world.broker.put(record.topic, record.key, record.value)
    await world.settle()
    assert world.event_ids(RESULTS) == before * 2
    assert len(world.visa.account_payouts) == 1


async def test_s2_a_worker_killed_at_any_point_sends_an_account_payout_once(
    world: World, keys: Keys, keys_directory: Path
) -> None:
    """P2, S3: at every boundary of a life that is paid at once; where the answer is lost, a question finds it."""
    world.visa.account_status = "PAYMENT_DELIVERED"
    await world.ask(NAME, destination=world.account())
    await world.settle()
    for point, name in enumerate(list(world.boundary.passed)):
        other = World(keys, keys_directory)
        other.visa.account_status = "PAYMENT_DELIVERED"
        other.boundary.kill_at = point
        await other.ask(NAME, destination=other.account())
        await other.settle()
        row = await other.row(NAME)
        assert len(other.visa.account_payouts) <= 1, f"paid twice after a kill at {name}"
        assert (row.state == "PAID") is (len(other.visa.account_payouts) == 1), f"{row.state} after a kill at {name}"
        assert row.state == "PAID" or row.hold_reason == "ACCOUNT_NOT_FOUND_AFTER_SEND", f"a kill at {name}"


async def test_s5_an_answer_about_other_money_is_held(world: World) -> None:
    other = {"status": "PAYMENT_DELIVERED", "transactionAmount": "1.00"}
    world.visa.script[Operation.SEND_PAYOUT] = [lambda _: Answered(200, {}, other, None, "corr-visa", 0.01)]
    await world.ask(NAME, destination=world.account())
    await world.settle()
    row = await world.row(NAME)
    assert (row.state, row.hold_reason) == ("UNKNOWN", "PAYOUT_AMOUNT_MISMATCH")


async def test_k7_an_account_that_cannot_be_read_is_rejected(world: World) -> None:
    await world.ask(NAME, destination=world.account(bank_code=""))
    await world.settle()
    row = await world.row(NAME)
    assert (row.state, row.reason_code, row.attempts) == ("REJECTED", "ACCOUNT_UNREADABLE", 0)


async def test_s3_a_body_of_one_rail_does_not_open_for_the_other(world: World) -> None:
    """A row whose destination was damaged can be neither pushed to a card nor sent to an account a second time."""
    world.visa.script[Operation.SEND_PAYOUT] = [lambda _: refused(429, retry_after="3600")]
    await world.ask(NAME, destination=world.account())
    await world.deliver_all()
    row = await world.row(NAME)
    assert row.state == "CLEARED"
    await world.put_row(row, destination_kind="CARD", due_at=world.now)
    await world.worker.announcer.mark_now()
    with pytest.raises(SealingError):
        await world.worker.driver.drive(await world.row(NAME))
    assert not world.visa.calls(Operation.PUSH_FUNDS)


async def test_p6_an_account_number_is_in_no_topic_row_history_or_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    world.visa.account_status = "PAYMENT_DELIVERED"
    await world.ask(NAME, destination=world.account())
    await world.settle()
    row = await world.row(NAME)
    history = [str(entry) for entry in await world.model.history(NAME)]
    topics = [record.value for records in world.broker.topics.values() for record in records]
    assert ACCOUNT_NUMBER in str(world.visa.account_payouts)
    assert not any(ACCOUNT_NUMBER in text for text in (repr(row), caplog.text, *history))
    assert not any(ACCOUNT_NUMBER.encode() in (value or b"") for value in topics)
