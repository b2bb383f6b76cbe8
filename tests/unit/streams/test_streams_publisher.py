"""K1, K2, K3, K5: an event is published when the broker says so; a mark that is lost costs a repeat, never an event."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.interface import Change, CommitUnknown
from ledger.memory import Fault
from processors.payout.row import PayoutRow
from processors.payout.trace import root_of
from schemas.codec import Codec, PinnedResolver
from schemas.headers import header_text
from streams.metrics import Metrics
from streams.publisher import BrokerUnavailable, Publisher, PublishUnconfirmed
from tests.unit.streams.streams_world import World, until

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Transport:
    """A send whose confirmations the test gives."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes, Sequence[tuple[str, bytes]]]] = []
        self.confirmations: list[asyncio.Future[None]] = []
        self.refuse: Exception | None = None

    async def __call__(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> Awaitable[Any]:
        if self.refuse is not None:
            raise self.refuse
        self.sent.append((topic, key, value, headers))
        self.confirmations.append(asyncio.get_running_loop().create_future())
        return self.confirmations[-1]


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport()
    yield made
    for confirmation in made.confirmations:
        confirmation.cancel()


def publisher(transport: Transport, ended: list[str], *, prefix: str = "", seconds: float = 5.0) -> Publisher:
    return Publisher(
        transport,
        Codec(PinnedResolver(), topic_prefix=prefix),
        prefix=prefix,
        unconfirmed_seconds=seconds,
        on_unconfirmed=ended.append,
        metrics=Metrics(),
    )


async def test_publishing_ends_only_with_the_brokers_confirmation(transport: Transport) -> None:
    """K1: "sent" is not "stored"."""
    publishing = asyncio.create_task(publisher(transport, []).publish_bytes("t", b"k", b"v", [("h", b"1")]))
    for _ in range(10):
        await asyncio.sleep(0)
    assert transport.sent == [("t", b"k", b"v", [("h", b"1")])]
    assert not publishing.done()
    transport.confirmations[0].set_result(None)
    await asyncio.wait_for(publishing, 1.0)


async def test_an_unconfirmed_publish_ends_the_process(transport: Transport) -> None:
    """K5: in flight and unconfirmed for too long; whether the broker has it is unknown."""
    ended: list[str] = []
    with pytest.raises(PublishUnconfirmed, match="payout_results"):
        await publisher(transport, ended, seconds=0.01).publish_bytes("payout_results", b"k", b"v", [])
    assert ended == ["payout_results"]
    assert not transport.confirmations[0].cancelled(), "the record may still be stored: it is not withdrawn"


async def test_a_refusal_before_and_one_after_the_send_are_the_broker_being_away(transport: Transport) -> None:
    """K5, P8: not stored, so the record is published again; the process lives."""
    ended: list[str] = []
    sender = publisher(transport, ended)
    transport.refuse = ConnectionError("4957030420210462")
    with pytest.raises(BrokerUnavailable) as refused:
        await sender.publish_bytes("t", b"k", b"v", [])
    assert "4957030420210462" not in str(refused.value), "a transport's text may quote a record (P6)"
    transport.refuse = None
    publishing = asyncio.create_task(sender.publish_bytes("t", b"k", b"v", []))
    await until(lambda: bool(transport.confirmations))
    transport.confirmations[0].set_exception(OSError("not enough replicas"))
    with pytest.raises(BrokerUnavailable):
        await publishing
    assert ended == []


async def test_a_cancelled_publish_is_neither_away_nor_unconfirmed(transport: Transport) -> None:
    """K1: a worker that stops learns nothing from its own cancellation."""
    ended: list[str] = []
    publishing = asyncio.create_task(publisher(transport, ended).publish_bytes("t", b"k", b"v", []))
    await until(lambda: bool(transport.confirmations))
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert ended == []
    assert not transport.confirmations[0].cancelled()


async def test_the_same_event_has_the_same_identity_and_bytes_under_the_prefix(transport: Transport) -> None:
    """K3: `ce_id` is a function of the event."""
    sender = publisher(transport, [], prefix="t1-")
    record = {"payout_id": "payout-0001", "version": 3, "reason": "DUE", "requested_at": AT, "correlation_id": "c-1"}
    for _ in range(2):
        publishing = asyncio.create_task(
            sender.publish_event(
                "payout_retry",
                "PayoutRetry",
                record,
                key="payout-0001",
                identifier="id-1",
                at=AT,
                correlation_id="c-1",
                root=root_of("payout-0001", None),
            )
        )
        sent = len(transport.confirmations)
        await until(lambda sent=sent: len(transport.confirmations) > sent)  # type: ignore[misc]
        transport.confirmations[-1].set_result(None)
        await publishing
    assert transport.sent[0] == transport.sent[1]
    topic, key, _, headers = transport.sent[0]
    assert (topic, key) == ("t1-payout_retry", b"payout-0001")
    assert header_text(headers, "ce_id") == "id-1"
    assert header_text(headers, "correlation_id") == "c-1"


# --- the announcer, over the model ledger -------------------------------------------------------------------------


async def paid(world: World, payout_id: str = "payout-0001") -> PayoutRow:
    await world.ask(payout_id)
    await world.settle()
    return await world.row(payout_id)


async def test_what_is_announced_is_not_published_again(world: World) -> None:
    """K2: only what is newer than announced_version."""
    row = await paid(world)
    before = len(world.broker.topics["payout_results"])
    await world.worker.announcer.announce(row)
    assert len(world.broker.topics["payout_results"]) == before


async def test_again_publishes_everything_under_the_same_identity(world: World) -> None:
    """P5, K3: a repeated request is answered with the same event."""
    row = await paid(world)
    await world.worker.announcer.announce(row, again=True)
    first, second = world.event_ids("payout_results")
    assert first == second
    assert world.broker.topics["payout_results"][0].value == world.broker.topics["payout_results"][1].value


async def test_only_events_newer_than_the_confirmed_version_are_published(world: World) -> None:
    """K2, K3: the result was confirmed, the compensation's end was not."""
    await world.ask("payout-0001", expires_at=world.now)
    await world.settle()
    row = await world.row("payout-0001")
    assert (row.state, row.compensation) == ("REJECTED", "REQUIRED")
    record = {
        "compensation_id": "payout-0001.compensation",
        "payout_id": "payout-0001",
        "originator_id": "acme",
        "confirmed_at": world.now,
        "confirmation_reference": "release-1",
        "outcome": "COMPLETED",
        "note": None,
    }
    await world.produce("payout_compensation_confirmations", "CompensationConfirmation", record)
    await world.settle()
    assert len(world.broker.topics["payout_results"]) == 1
    assert len(world.broker.topics["payout_failed_requires_compensation"]) == 1
    assert len(world.broker.topics["payout_compensation_results"]) == 1


async def test_a_lost_mark_is_made_good_by_the_sweeper(world: World) -> None:
    """K2: losing a mark costs a repeat, never an event."""
    await world.ask("payout-0001")
    await world.deliver_all(mark=False)
    world.model.fail_next(Fault.UNAVAILABLE)
    await world.worker.announcer.mark_now()
    row = await world.row("payout-0001")
    assert row.announced_version < row.announce_version
    await world.settle()
    row = await world.row("payout-0001")
    assert row.announced_version == row.announce_version
    assert len(set(world.event_ids("payout_results"))) == 1 < len(world.event_ids("payout_results"))


async def test_a_lost_publish_is_made_good_by_the_sweeper(world: World) -> None:
    """K2: ended rows included."""
    row = await paid(world)
    world.broker.topics["payout_results"].clear()
    await world.put_row(row, announced_version=0)
    world.advance(4.0)
    await world.settle()
    assert [event["status"] for event in await world.events("payout_results")] == ["PAID"]


async def test_marks_are_written_in_the_background_and_survive_a_ledger_that_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K2: the task that writes marks outlives a failed batch."""
    monkeypatch.setattr("streams.announcer.MARK_EVERY_SECONDS", 0.0)
    announcer = world.worker.announcer
    marking = asyncio.create_task(announcer.mark_forever())
    world.boundary.fail_once("ledger.mark_announced:before", CommitUnknown("lost"))
    await world.ask("payout-0001")
    await world.deliver_all(mark=False)
    await until(lambda: "ledger.mark_announced:before" in world.boundary.passed)
    await world.ask("payout-0002")
    await world.deliver_all(mark=False)
    (row,) = [row for row in world.rows() if row.payout_id == "payout-0002"]
    assert row.state == "PAID"
    await until(
        lambda: ("payout-0002", row.announce_version) in [(r.payout_id, r.announced_version) for r in world.rows()]
    )
    marking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await marking
    row = await world.row("payout-0002")
    assert row.announced_version == row.announce_version


async def test_a_publish_rests_on_a_commit_of_our_own(world: World) -> None:
    """L4: a state that was only read is not yet durable.

    The commit of PAID is not confirmed (a stalled synchronous standby) but visible. What is then published must rest on
    a later write that was acknowledged, or the result may be of a commit that a failover takes back.
    """
    await world.ask("payout-0001")
    written = {"insert", "commit", "begin", "record_intake", "settle"}

    def unconfirmed(name: str) -> BaseException | None:
        commits = world.boundary.passed.count("ledger.commit:after")
        return CommitUnknown("not confirmed") if name == "ledger.commit:after" and commits == 3 else None

    world.boundary.fail = unconfirmed
    await world.settle()
    passed = world.boundary.passed
    publish = passed.index("publish.payout_results:before")
    unknown = [number for number, name in enumerate(passed) if name == "ledger.commit:after"][2]
    acknowledged = [
        name
        for name in passed[unknown + 1 : publish]
        if name.endswith(":after") and name.removeprefix("ledger.").removesuffix(":after") in written
    ]
    assert (await world.row("payout-0001")).state == "PAID"
    assert acknowledged, f"published on a read alone: {passed[unknown : publish + 1]}"


async def test_a_row_behind_the_ledgers_back_is_not_marked_too_far(world: World) -> None:
    """K2: a mark of an older announcement never hides a newer one."""
    row = await paid(world)
    newer = Change(row, row, "touched", "test")
    touched = await world.model.commit(newer)
    assert touched is not None
    await world.put_row(touched, announce_version=touched.version, announced_version=0)
    await world.model.mark_announced([("payout-0001", row.announce_version)])
    assert [row.payout_id for row in await world.model.unannounced(10, 0.0)] == ["payout-0001"]
