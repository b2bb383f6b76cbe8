"""`/health` and `/metrics` on loopback. Liveness depends on nothing outside the process."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ledger.interface import Ledger, LedgerError
from streams.metrics import Metrics

log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""A health page must answer even when what it asks about does not."""


class HealthServer:
    """Serves the worker's health and metrics."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        port_file: Path | None,
        ledger: Ledger,
        paused_for: Callable[[], tuple[str, ...]],
        metrics: Metrics,
        assignment: Callable[[], list[str]],
        refresh: Callable[[], None],
        visa: Callable[[], dict[str, Any] | None] = lambda: None,
        mode: Callable[[], dict[str, Any]] = lambda: {"obeyed": None, "stands": [], "in_work": 0},
    ) -> None:
        """`visa` says what the connection to Visa uses, None in a worker that has none; `mode` what it obeys (L9)."""
        self._mode = mode
        self._host, self._port, self._port_file = host, port, port_file
        self._ledger = ledger
        self._paused_for = paused_for
        self._metrics = metrics
        self._assignment = assignment
        self._refresh = refresh
        self._visa = visa
        self._runner: web.AppRunner | None = None
        self._started_at = time.time()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=1024)
        app.add_routes(
            [
                web.get("/health", self._live),
                web.get("/health/critical", self._critical),
                web.get("/health/detailed", self._detailed),
                web.get("/metrics", self._show_metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        port = self._runner.addresses[0][1]
        if self._port_file is not None:
            await asyncio.to_thread(self._port_file.write_text, str(port))
        log.info("health and metrics", extra={"url": f"http://{self._host}:{port}/health"})

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, _: web.Request) -> web.Response:
        uptime = round(time.time() - self._started_at, 1)
        return _json({"status": "alive", "uptime_seconds": uptime, "mode": self._mode()["obeyed"]})

    async def _critical(self, _: web.Request) -> web.Response:
        database = await _checked(self._database())
        ready = database["status"] == "ok" and not self._paused_for()
        return _json({"status": "ok" if ready else "failing", "database": database}, 200 if ready else 503)

    async def _detailed(self, _: web.Request) -> web.Response:
        database = await _checked(self._database())
        ready = database["status"] == "ok" and not self._paused_for()
        detail = {
            "status": "ok" if ready else "failing",
            "database": database,
            "paused_for": list(self._paused_for()),
            "mode": self._mode(),
            "assigned_partitions": self._assignment(),
            "visa": self._visa(),
        }
        return _json(detail, 200 if ready else 503)

    async def _database(self) -> dict[str, Any]:
        record = await self._ledger.mode()
        return {"status": "ok", "mode": record.mode.value, "mode_set_at": record.set_at.isoformat()}

    async def _show_metrics(self, _: web.Request) -> web.Response:
        self._refresh()
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _checked(check: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await asyncio.wait_for(check, CHECK_SECONDS)
    except (LedgerError, TimeoutError) as error:
        return {"status": "failing", "why": type(error).__name__}


def _json(content: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(content), status=status, content_type="application/json")
