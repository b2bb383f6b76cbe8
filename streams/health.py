"""`/health`, `/health/critical`, `/health/detailed` and `/metrics`, on loopback by default.

Whatever they ask is asked once for all who ask at the same time, is remembered for a second, and has a time-out: nobody
can keep the worker busy with its own health.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ledger.interface import LedgerError
from streams.clock import utc_now
from streams.metrics import Metrics
from streams.readiness import Parts, Pulse, liveness, readiness

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 2.0
"""A health page must answer even when what it asks about does not."""
REMEMBERED_SECONDS: Final = 1.0
"""Probes and scrapers of one worker come seconds apart."""
REQUEST_BYTES_MAX: Final = 1024
"""Nobody has anything to send here."""
SHUTDOWN_SECONDS: Final = 2.0


class HealthServer:
    """Serves the worker's health and metrics."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        port_file: Path | None,
        database: Callable[[], Awaitable[dict[str, Any]]],
        parts: Callable[[dict[str, Any]], Parts],
        pulse: Callable[[], Pulse],
        metrics: Metrics,
        assignment: Callable[[], list[str]],
        refresh: Callable[[], None],
        visa: Callable[[], dict[str, Any] | None] = lambda: None,
        about: Callable[[], dict[str, Any]] = dict,
        mode: Callable[[], dict[str, Any]] = lambda: {"obeyed": None, "stands": [], "in_work": 0},
    ) -> None:
        """`database` looks at it, and may raise LedgerError; `parts` says how everything stands, given what it found.

        `visa` says what the connection to Visa uses, None in a worker that has none; `about` what else there is to say;
        `mode` what the worker obeys (L9).
        """
        self._mode = mode
        self._host, self._port, self._port_file = host, port, port_file
        self._look = _Remembered(database)
        self._parts = parts
        self._pulse = pulse
        self._metrics = metrics
        self._assignment = assignment
        self._refresh = refresh
        self._visa = visa
        self._about = about
        self._runner: web.AppRunner | None = None
        self._started_at = time.monotonic()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.add_routes(
            [
                web.get("/health", self._live),
                web.get("/health/critical", self._critical),
                web.get("/health/detailed", self._detailed),
                web.get("/metrics", self._show_metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
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
        now = time.monotonic()
        shown = liveness(self._pulse(), now) | {"uptime_seconds": round(now - self._started_at, 1)}
        return _json(shown | {"mode": self._mode()["obeyed"]}, 200 if shown["status"] == "alive" else 503)

    async def _critical(self, _: web.Request) -> web.Response:
        shown, _parts = await self._ready()
        return _json(shown, 200 if shown["status"] == "ok" else 503)

    async def _detailed(self, _: web.Request) -> web.Response:
        shown, parts = await self._ready()
        detail = (
            self._about()
            | shown
            | {
                "paused_for": list(parts.paused_for),
                "mode": self._mode(),
                "assigned_partitions": self._assignment(),
                "visa": self._visa(),
                "liveness": liveness(self._pulse(), time.monotonic()),
            }
        )
        return _json(detail, 200 if shown["status"] == "ok" else 503)

    async def _ready(self) -> tuple[dict[str, Any], Parts]:
        database = await self._look.found()
        self._metrics.database_up.set(database["status"] == "ok")
        parts = self._parts(database)
        checks = readiness(parts, utc_now())
        ready = all(found == "ok" for found in checks.values())
        self._metrics.ready.set(ready)
        return {"status": "ok" if ready else "failing", "checks": checks, "database": database}, parts

    async def _show_metrics(self, _: web.Request) -> web.Response:
        """Ready or not is asked first: what a scrape shows is what the page would say."""
        await self._ready()
        self._refresh()
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Remembered:
    """One look at a time, shared by all who ask meanwhile and for a moment after."""

    def __init__(self, look: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._look = look
        self._looking: asyncio.Task[dict[str, Any]] | None = None
        self._found_at = 0.0

    async def found(self) -> dict[str, Any]:
        """What the look found, with `status`; never raises for what it looks at."""
        looking = self._looking
        if looking is None or (looking.done() and time.monotonic() - self._found_at > REMEMBERED_SECONDS):
            looking = self._looking = asyncio.get_running_loop().create_task(self._once(), name="health look")
        return await asyncio.shield(looking)

    async def _once(self) -> dict[str, Any]:
        try:
            return await asyncio.wait_for(self._look(), CHECK_SECONDS)
        except (LedgerError, TimeoutError) as error:
            return {"status": "failing", "why": type(error).__name__}
        finally:
            self._found_at = time.monotonic()


def _json(content: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(content), status=status, content_type="application/json")
