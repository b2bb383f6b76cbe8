"""S1-02, S1-03, S1-16, B5: a payout has one request id, at Visa, on its events and in the log, whatever workers do."""

import logging

import pytest

from processors.visa.correlation import RequestIdFormat, outbound_id
from processors.visa.identity import Operation
from schemas.headers import header_text
from tests.unit.streams.streams_world import World, approved, refused

FORMATS = [RequestIdFormat.UUID, RequestIdFormat.ULID, RequestIdFormat.PREFIX_TS]
ANNOUNCED = (
    "payout_validated", "payout_cleared", "payout_results", "payout_failed_requires_compensation",
    "payout_compensation_results",
)  # fmt: skip


def choose(world: World, form: RequestIdFormat) -> None:
    """The same world, its worker started again with another format."""
    changes = {"request_id_format": form, "request_id_prefix": "acme"}
    world.settings = world.settings.model_copy(update=changes)
    world.worker = world.start_worker()


@pytest.mark.parametrize("form", FORMATS)
async def test_retries_questions_and_restarts_keep_the_id(world: World, form: RequestIdFormat) -> None:
    """S1-02, S1-03: a refused push, one whose reply is lost, and the question, each by another worker."""
    choose(world, form)
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: refused(429), world.visa.silent_after_effect]
    await world.ask("payout-0001")
    for _ in range(4):
        await world.deliver_all()
        world.advance(30)
        world.worker = world.start_worker()
        await world.worker.sweeper.sweep()
    row = await world.row("payout-0001")
    assert row.state == "PAID"
    operations = [request.operation for request in world.visa.requests]
    assert operations == [Operation.PUSH_FUNDS, Operation.PUSH_FUNDS, Operation.TRANSACTION_QUERY]
    expected = outbound_id("payout-0001", row.received_at, form, "acme")
    assert [request.correlation_id for request in world.visa.requests] == [expected] * 3


async def test_every_event_of_a_payout_carries_both_ids(world: World) -> None:
    """S1-03: results and compensations too: whoever reads one can name the call to Visa's support."""
    choose(world, RequestIdFormat.ULID)
    world.visa.script[Operation.PUSH_FUNDS] = [lambda _: approved("05")]
    await world.ask("payout-0001", funding=world.card_pull("payout-0001"), correlation_id="order-17")
    await world.settle()
    expected = outbound_id("payout-0001", (await world.row("payout-0001")).received_at, RequestIdFormat.ULID)
    for topic in ANNOUNCED:
        records = world.broker.topics[topic]
        assert records, topic
        for record in records:
            assert header_text(record.headers, "request_id") == expected
            assert header_text(record.headers, "correlation_id") == "order-17"
    assert {request.correlation_id for request in world.visa.requests} == {expected}
    assert {request.operation for request in world.visa.requests} == {Operation.PUSH_FUNDS, Operation.REVERSE_FUNDS}


async def test_the_log_line_of_a_call_has_both_ids_and_visas(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S1-16: payout, originator, our request and Visa's answer can be found from each other."""
    choose(world, RequestIdFormat.PREFIX_TS)
    with caplog.at_level(logging.INFO):
        await world.ask("payout-0001", correlation_id="order-17")
        await world.settle()
    line = next(record for record in caplog.records if record.message == "visa call")
    assert (line.payout_id, line.correlation_id, line.visa_correlation_id) == ("payout-0001", "order-17", "corr-visa")
    assert line.request_id == world.visa.requests[0].correlation_id
    assert line.request_id.startswith("acme-")


async def test_the_originators_id_goes_out_where_that_is_wanted(world: World) -> None:
    """S1-03: one id from end to end, as long as it fits a header."""
    choose(world, RequestIdFormat.ORIGINATOR)
    await world.ask("payout-0001", correlation_id="order-17")
    await world.settle()
    assert [request.correlation_id for request in world.visa.requests] == ["order-17"]
