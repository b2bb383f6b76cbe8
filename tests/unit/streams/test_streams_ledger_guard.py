"""The worker waits while its database is not known to be the one that published the audit, and says so (L11)."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from ledger.connections import NEVER
from ledger.guard import Published, Standing, Verdict
from ledger.interface import LedgerUnavailable
from ledger.seal_chain import EMPTY, Head
from ledger.seals import Seals
from streams.gate import Gate
from streams.holes import Unreadable
from streams.ledger_guard import LedgerGuard
from streams.metrics import Metrics

STANDING = Standing(NEVER, "system-1", 1, EMPTY, 0, 0, 0)
PUBLISHED = Published(Head(7, "a" * 64), "system-1", 1, 0)


class Database:
    """Answers as a database would: a verdict, or an error."""

    def __init__(self) -> None:
        self.answers: list[Verdict | Exception] = []
        self.is_trusted = False
        self.asked: list[Published | None] = []
        self.started: list[datetime] = []

    async def incarnation(self) -> datetime:
        return self.started.pop(0) if self.started else NEVER

    async def examine(self, published: Published | None, *, incarnation: datetime) -> tuple[Verdict, Standing]:
        self.asked.append(published)
        if incarnation != NEVER:
            return Verdict.NOT_LOOKED_AT, STANDING
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.is_trusted = answer is Verdict.KNOWN
        return answer, STANDING


class Scene:
    def __init__(self) -> None:
        self.database, self.gate, self.metrics = Database(), Gate(), Metrics()
        self.away: Exception | None = None
        self.guard = LedgerGuard(cast("Seals", self.database), self.last, self.gate, self.metrics)

    async def last(self) -> Published | None:
        if self.away is not None:
            raise self.away
        return PUBLISHED

    async def look(self, *answers: Verdict | Exception) -> tuple[str, ...]:
        self.database.answers += answers
        await self.guard.look()
        return self.gate.reasons

    @property
    def gauge(self) -> Any:
        return self.metrics.registry.get_sample_value("payouts_ledger_verified")


@pytest.fixture
def scene() -> Scene:
    """A worker that has just started."""
    scene = Scene()
    scene.guard.close()
    return scene


async def test_l11_work_waits_until_the_database_is_known(scene: Scene) -> None:
    """L11: from the first moment on; the reason is visible, and adopting opens by itself."""
    assert scene.gate.reasons == ("ledger:NOT_LOOKED_AT",)
    assert await scene.look(Verdict.BEHIND) == ("ledger:BEHIND",)
    assert scene.gauge == 0
    assert await scene.look(Verdict.BEHIND) == ("ledger:BEHIND",), "closed once, however often it is refused"
    assert await scene.look(Verdict.DIFFERENT) == ("ledger:DIFFERENT",)
    assert await scene.look(Verdict.KNOWN) == ()
    assert scene.gauge == 1
    assert scene.database.asked == [PUBLISHED] * 4


async def test_k5_l11_what_cannot_be_read_is_waited_for(scene: Scene) -> None:
    """K5, L11: without the topic, or the database, nobody knows; but a database that was known stays known."""
    scene.away = Unreadable("no answer")
    assert await scene.look() == ("broker", "ledger:NOT_LOOKED_AT")
    assert await scene.look() == ("broker", "ledger:NOT_LOOKED_AT"), "named once, however often it is away"
    scene.away = None
    assert await scene.look(LedgerUnavailable("away")) == ("database", "ledger:NOT_LOOKED_AT")
    assert await scene.look(Verdict.KNOWN) == ()
    scene.away = Unreadable("no answer")
    assert await scene.look() == ()
    scene.database.is_trusted = False  # another server answers
    assert await scene.look() == ("broker", "ledger:NOT_LOOKED_AT")


async def test_l11_another_server_is_noticed_and_a_known_one_is_looked_at_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L11: a copy may have been adopted elsewhere while this worker's own database lives on."""
    monkeypatch.setattr("streams.ledger_guard.LOOK_EVERY_SECONDS", 0.001)
    monkeypatch.setattr("streams.ledger_guard.REFUSED_EVERY_SECONDS", 0.001)
    monkeypatch.setattr("streams.ledger_guard.LOOK_AGAIN_SECONDS", 0.01)
    scene.database.answers += [Verdict.KNOWN, Verdict.KNOWN, Verdict.BEHIND, Verdict.BEHIND, *[Verdict.KNOWN] * 5000]
    watching = asyncio.create_task(scene.guard.watch_forever())
    seen = []
    while len(scene.database.asked) < 6:
        seen.append(scene.gate.reasons)
        await asyncio.sleep(0)
    watching.cancel()
    assert ("ledger:BEHIND",) in seen
    assert scene.gate.reasons == ()


async def test_l11_what_was_published_before_another_server_came_says_nothing_of_it(scene: Scene) -> None:
    """L11: a worker frozen between reading the topic and the database wakes in front of a copy."""
    scene.database.started = [NEVER + timedelta(hours=1)]
    assert await scene.look() == ("ledger:NOT_LOOKED_AT",)
    assert not scene.database.is_trusted
    assert await scene.look(Verdict.KNOWN) == ()


async def test_l11_other_reasons_of_the_gate_are_left_alone(scene: Scene) -> None:
    """K5: who closed it opens it."""
    scene.gate.close("broker")
    await scene.look(Verdict.BEHIND)
    assert await scene.look(Verdict.KNOWN) == ("broker",)
