"""Sealing and publishing the history: the mark follows the broker's confirmation (K1, L10)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from ledger.seal_chain import EMPTY, Line, Origin, sealed
from ledger.seals import Seals
from schemas.codec import Codec, PinnedResolver
from streams.audit_topic import newest
from streams.metrics import Metrics
from streams.publisher import BrokerUnavailable, Publisher
from streams.sealer import LINES_MAX, Sealer

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORIGIN = Origin("7440000000000000001", 1, 17)


def lines(count: int) -> list[Line]:
    return [Line(n, AT, "worker-1", "cleared", f"payout-{n:08d}", 3, "VALIDATED", "CLEARED", {}) for n in range(count)]


class History:
    """The sealed history of a database, in memory."""

    def __init__(self, count: int) -> None:
        self.unsealed = count
        self.records = sealed(EMPTY, lines(count), ORIGIN)
        self.is_trusted = True
        self.published = 0

    async def seal(self, lines_max: int) -> int:
        taken = min(lines_max, self.unsealed)
        self.unsealed -= taken
        return taken

    async def unpublished(self, records_max: int) -> Sequence[dict[str, Any]]:
        end = len(self.records) - self.unsealed
        return self.records[self.published : min(end, self.published + records_max)]

    async def published_up_to(self, sequence: int) -> None:
        self.published = sequence


class Broker:
    """Takes records, and fails for the one that it is told to refuse."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.keys: set[bytes | None] = set()
        self.refuse_at: int | None = None
        self.history: History | None = None

    async def send(
        self, _topic: str, key: bytes | None, value: bytes, _headers: Sequence[tuple[str, bytes]]
    ) -> Awaitable[Any]:
        if self.refuse_at == len(self.taken):
            self.refuse_at = None
            raise OSError("no leader")
        if self.history is not None:
            assert self.history.published <= len(self.taken), "marked before it was sent"
        self.taken.append(value)
        self.keys.add(key)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        confirmed.set_result(None)
        return confirmed


def sealer(history: History, broker: Broker, is_permitted: Callable[[], bool] = lambda: True) -> Sealer:
    codec, metrics = Codec(PinnedResolver()), Metrics()
    publisher = Publisher(
        broker.send, codec, prefix="t-", unconfirmed_seconds=5.0, on_unconfirmed=pytest.fail, metrics=metrics
    )
    return Sealer(cast("Seals", history), publisher, codec, prefix="t-", metrics=metrics, is_permitted=is_permitted)


async def published(broker: Broker) -> list[dict[str, Any]]:
    codec = Codec(PinnedResolver())
    return [(await codec.decode("AuditRecord", value)).record for value in broker.taken]


async def test_k1_l10_the_mark_follows_the_brokers_confirmation() -> None:
    """K1, L10: bounded passes, in order, without keys; every record reads back as it was sealed."""
    history, broker = History(LINES_MAX + 3), Broker()
    broker.history = history
    one = sealer(history, broker)
    assert await one.seal_once() is True
    assert history.published == LINES_MAX
    assert await one.seal_once() is False
    assert await published(broker) == history.records
    assert history.published == LINES_MAX + 3
    assert broker.keys == {None}
    assert newest(await published(broker)) == newest(history.records[-1:])


async def test_k2_l10_what_the_broker_refused_is_sent_again_in_order() -> None:
    """K2, L10: nothing is marked, and the next pass begins where the last mark is."""
    history, broker = History(5), Broker()
    broker.refuse_at = 3
    one = sealer(history, broker)
    with pytest.raises(BrokerUnavailable):
        await one.seal_once()
    assert history.published == 0
    await one.seal_once()
    assert [record["sequence"] for record in await published(broker)] == [1, 2, 3, 1, 2, 3, 4, 5]
    assert history.published == 5


async def test_e5_l10_what_happens_in_a_mode_that_keeps_the_audit_in_is_sealed_and_published_afterwards() -> None:
    """E5 (`halted`), L10: nothing of the history is lost, and its order is kept."""
    history, broker, let_out = History(5), Broker(), False
    one = sealer(history, broker, lambda: let_out)
    assert await one.seal_once() is False
    assert (history.unsealed, broker.taken) == (5, [])
    let_out = True
    await one.seal_once()
    assert [record["sequence"] for record in await published(broker)] == [1, 2, 3, 4, 5]


async def test_l11_a_database_that_nobody_has_looked_at_is_neither_sealed_nor_published() -> None:
    """L11: its chain may end before what was published."""
    history, broker = History(5), Broker()
    history.is_trusted = False
    assert await sealer(history, broker).seal_once() is False
    assert (history.unsealed, broker.taken) == (5, [])
