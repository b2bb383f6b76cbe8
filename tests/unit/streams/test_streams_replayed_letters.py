"""A dead letter that was put back is a record like any other, and as old as the one that it was (K6, K9, L11, P5)."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from ledger.interface import InboundPosition
from processors.payout.row import LEDGER_RESTORED
from processors.sealing import EnvelopeOpener
from schemas.headers import header_text
from streams.dead_letters import FIRST_TAKEN_HEADER, REPLAYED_HEADER
from streams.pump import Record
from tests.unit.streams.streams_world import REQUESTS, World

CARD = "4957030420210462"


async def unreadable(world: World) -> Record:
    """A request that no worker can read, set aside."""
    record = world.broker.put(REQUESTS, b"payout-0001", b'{"payout_id": "payout-0001"}')
    await world.settle()
    return record


def put_back(world: World, record: Record, value: bytes, **headers: str) -> Record:
    """The record again, as `payouts dlq replay` puts it back; `headers` replace its own."""
    told = {REPLAYED_HEADER: record.source, FIRST_TAKEN_HEADER: record.timestamp.isoformat()} | headers
    return world.broker.put(REQUESTS, record.key, value, [(name, text.encode()) for name, text in told.items()])


async def unaccounted(world: World, *records: Record) -> int:
    """How many of these the ledger knows nothing of (K9)."""
    positions = [InboundPosition(r.topic, r.partition, r.offset, "payout-0001") for r in records]
    return len(await world.model.unaccounted(positions))


async def test_k6_k9_a_letter_that_was_put_back_is_paid_once_and_accounted_for(world: World) -> None:
    """K6, K9, P2: under its own payout_id; letter and replay are each accounted for; a second replay pays nothing."""
    first = await unreadable(world)
    assert len(world.broker.topics["payout_dead_letters"]) == 1
    readable = await world.codec.encode("PayoutRequest", world.request("payout-0001"))
    again = put_back(world, first, readable)
    await world.settle()
    assert (await world.row("payout-0001")).state == "PAID"
    twice = put_back(world, first, readable)
    await world.settle()
    assert len(world.visa.requests) == 1
    assert await unaccounted(world, first, again, twice) == 0
    assert len(await world.events("payout_results")) == 2, "P5: a repeat is answered again"


async def test_l11_a_letter_from_before_a_restored_copy_is_held(world: World) -> None:
    """L11: whether it was put back and paid in the time that was lost nobody knows, so it is held like all of then."""
    first = await unreadable(world)
    world.advance(3600)
    world.model.adopted(world.now)
    world.advance(60)
    put_back(world, first, await world.codec.encode("PayoutRequest", world.request("payout-0001")))
    await world.settle()
    row = await world.row("payout-0001")
    assert (row.held, row.hold_reason) == (True, LEDGER_RESTORED)
    assert not world.visa.requests


@pytest.mark.parametrize("said", ["tomorrow", "", "2026-03-01T11:00:00", "9999-01-01T00:00:00+00:00", CARD, "x" * 5000])
async def test_k6_what_a_producer_makes_up_makes_no_request_younger(world: World, said: str) -> None:
    """L11, K6: any other text is no time; a later time counts for nothing."""
    record = put_back(
        world,
        Record(REQUESTS, 0, 7, world.now, b"payout-0001", None, ()),
        await world.codec.encode("PayoutRequest", world.request("payout-0001")),
        **{FIRST_TAKEN_HEADER: said},
    )
    taken = record.timestamp
    await world.settle()
    row = await world.row("payout-0001")
    assert (row.received_at, row.state) == (taken, "PAID")


async def test_k1_a_redelivered_replay_is_the_same_record(world: World) -> None:
    """K1: with the older time of its first record it is still recognised as the source of its row."""
    first = await unreadable(world)
    world.advance(600)
    put_back(world, first, await world.codec.encode("PayoutRequest", world.request("payout-0001")))
    await world.settle()
    row = await world.row("payout-0001")
    assert row.received_at == first.timestamp
    world.next_offset[REQUESTS] = row.source_offset
    await world.settle()
    assert (await world.row("payout-0001")).version == row.version
    assert not world.model._intake.get((REQUESTS, 0, row.source_offset)), "no repeat of itself"


async def test_k6_a_replay_that_is_set_aside_again_says_what_it_was(world: World) -> None:
    """K6: the newer letter names the older one and keeps its time, so that a later replay is not younger."""
    first = await unreadable(world)
    world.advance(600)
    put_back(world, first, b"still nothing that we can read")
    await world.settle()
    _, letter = world.broker.topics["payout_dead_letters"]
    assert header_text(letter.headers, REPLAYED_HEADER) == first.source
    assert header_text(letter.headers, FIRST_TAKEN_HEADER) == first.timestamp.isoformat()
    assert header_text(letter.headers, "source_timestamp") == (first.timestamp + timedelta(seconds=600)).isoformat()


@pytest.mark.parametrize("said", [f"payout_requests-0-{CARD}", CARD, "a b-0-1", "payout_requests-0-x", "é-0-1"])
async def test_p6_what_anybody_writes_into_that_header_is_not_repeated(world: World, said: str) -> None:
    """P6: our topics repeat no card number that a producer put into a header."""
    put_back(world, await unreadable(world), b"nothing", **{REPLAYED_HEADER: said, FIRST_TAKEN_HEADER: said})
    await world.settle()
    letter = world.broker.topics["payout_dead_letters"][-1]
    assert header_text(letter.headers, REPLAYED_HEADER) is None
    assert header_text(letter.headers, FIRST_TAKEN_HEADER) is None
    opener = EnvelopeOpener([json.loads(world.letters_key.export())])
    assert opener.open(letter.value or b"") == b"nothing"
