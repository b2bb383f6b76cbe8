"""Liveness and readiness (S3-12, S4-01): what a supervisor may kill a worker for, and what it waits for."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ledger.interface import LedgerUnavailable
from streams.health import HealthServer
from streams.metrics import Metrics
from streams.readiness import LOOP_SILENT_SECONDS_MAX, POLL_SILENT_SECONDS_MAX, Parts, Pulse, liveness, readiness

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WELL = Parts(
    database={"status": "ok"},
    ledger_verified=True,
    joined=True,
    producer=True,
    certificates={"client": NOW + timedelta(days=90)},
    paused_for=(),
)


def changed(**parts: Any) -> Parts:
    """All well but for these."""
    return Parts(**({name: getattr(WELL, name) for name in Parts.__slots__} | parts))


def test_a_loop_that_ticks_and_polls_lives() -> None:
    """5.1: the event loop ticks and the last poll is young."""
    shown = liveness(Pulse(ticked_at=99.5, polled_at=99.9, reads=True), 100.0)
    assert (shown["status"], shown["why"]) == ("alive", [])


@pytest.mark.parametrize(
    ("pulse", "word"),
    [
        (Pulse(100.0 - LOOP_SILENT_SECONDS_MAX - 1, 99.9, True), "tick"),
        (Pulse(99.9, 100.0 - POLL_SILENT_SECONDS_MAX - 1, True), "asks for records"),
    ],
)
def test_a_standing_loop_or_a_silent_reader_hangs(pulse: Pulse, word: str) -> None:
    """5.1: either is enough."""
    shown = liveness(pulse, 100.0)
    assert shown["status"] == "hanging"
    assert word in shown["why"][0]


@pytest.mark.parametrize("polled_at", [None, -1000.0])
def test_without_partitions_nobody_has_to_ask(polled_at: float | None) -> None:
    """5.1: a rebalance that waits for a broker must not get every worker killed."""
    assert liveness(Pulse(99.9, polled_at, False), 100.0)["status"] == "alive"


def test_every_part_can_keep_it_from_being_ready() -> None:
    """5.1: assigned, producer connected, certificate valid, database known; and each says what is wrong."""
    assert set(readiness(WELL, NOW).values()) == {"ok"}
    for part, parts in {
        "database": changed(database={"status": "failing", "why": "LedgerUnavailable"}),
        "ledger": changed(ledger_verified=False),
        "group": changed(joined=False),
        "producer": changed(producer=False),
        "certificates": changed(certificates={"client": NOW, "ca": NOW + timedelta(days=1)}),
        "work": changed(paused_for=("visa:RATE_LIMITED",)),
    }.items():
        found = readiness(parts, NOW)
        assert [name for name, said in found.items() if said != "ok"] == [part]
    assert readiness(changed(certificates={"client": NOW}), NOW)["certificates"] == "ended: client"


class Served:
    """A health server of its own, and what it asks."""

    def __init__(self, tmp_path: Path) -> None:
        self.port_file = tmp_path / "port"
        self.looks = 0
        self.away = False
        self.hangs = False
        self.metrics = Metrics()
        self.server = HealthServer(
            host="127.0.0.1",
            port=0,
            port_file=self.port_file,
            database=self._look,
            parts=lambda database: changed(database=database, certificates={}),
            pulse=lambda: Pulse(asyncio.get_running_loop().time(), None, False),
            metrics=self.metrics,
            assignment=lambda: ["payout_requests-0"],
            refresh=lambda: None,
        )

    async def _look(self) -> dict[str, Any]:
        self.looks += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            raise LedgerUnavailable("away")
        return {"status": "ok", "mode": "normal", "poolStats": {"size": 2, "idle": 1, "in_use": 1, "max": 16}}

    async def __aenter__(self) -> httpx.AsyncClient:
        await self.server.start()
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port_file.read_text()}", timeout=30)
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.server.stop()


async def test_with_the_database_away_it_lives_and_is_not_ready(tmp_path: Path) -> None:
    """5.1, S4-16: liveness depends on nothing outside; readiness says which part, and the metric says the same."""
    served = Served(tmp_path)
    served.away = True
    async with served as page:
        assert (await page.get("/health")).status_code == 200
        critical = await page.get("/health/critical")
        assert critical.status_code == 503
        assert critical.json()["checks"]["database"] == "LedgerUnavailable"
        scraped = (await page.get("/metrics")).text
    assert served.metrics.registry.get_sample_value("payouts_ready") == 0
    assert "payouts_database_up 0.0" in scraped


async def test_the_detail_has_every_part_and_the_pool(tmp_path: Path) -> None:
    """E8: `.database.poolStats`."""
    served = Served(tmp_path)
    async with served as page:
        detail = (await page.get("/health/detailed")).json()
        assert (await page.get("/health/critical")).status_code == 200
        names = {family.name for family in text_string_to_metric_families((await page.get("/metrics")).text)}
    assert detail["database"]["poolStats"] == {"size": 2, "idle": 1, "in_use": 1, "max": 16}
    assert set(detail["checks"]) == {"database", "ledger", "group", "producer", "certificates", "work"}
    assert detail["assigned_partitions"] == ["payout_requests-0"]
    assert detail["liveness"]["status"] == "alive"
    assert "payouts_ready" in names
    assert json.dumps(detail)


async def test_a_database_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded: fifty probes at once are one look, and it ends."""
    monkeypatch.setattr("streams.health.CHECK_SECONDS", 0.2)
    served = Served(tmp_path)
    served.hangs = True
    async with served as page:
        answers = await asyncio.gather(*(page.get("/health/critical") for _ in range(50)))
        assert (await page.get("/health")).status_code == 200
    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json()["checks"]["database"] == "TimeoutError"
    assert served.looks <= 2, "one look for all who asked at the same time"
