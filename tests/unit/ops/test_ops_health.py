"""S3-30: all workers' health at once, each asked at its own page over HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from ops import health
from ops.exit_codes import ExitCode
from ops.main import app

CARD = "4111111111111111"
WELL = {
    "worker": "worker-1", "version": "0.1.0", "status": "ok", "checks": {"database": "ok", "work": "ok"},
    "mode": {"obeyed": "normal"}, "assigned_partitions": ["payout_requests-0", "payout_requests-1"],
    "liveness": {"status": "alive", "why": []},
}  # fmt: skip
PAUSED = {
    **WELL, "worker": "worker-2", "status": "failing",
    "checks": {"database": "ok", "work": f"paused for visa:TIMEOUT {CARD}"},
}  # fmt: skip
HANGING = {**WELL, "worker": "worker-3", "liveness": {"status": "hanging", "why": ["nobody asks for records"]}}


class Workers:
    """Pages of workers on loopback, each on a port of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runners: list[web.AppRunner] = []

    def serve(self, page: Any, status: int = 200, *, seconds: float = 0.0) -> str:
        """The address of a worker that answers so."""
        return asyncio.run_coroutine_threadsafe(self._serve(page, status, seconds), self._loop).result(10)

    async def _serve(self, page: Any, status: int, seconds: float) -> str:
        async def answer(_: web.Request) -> web.Response:
            await asyncio.sleep(seconds)
            return web.Response(text=page if isinstance(page, str) else json.dumps(page), status=status)

        site = web.Application()
        site.add_routes([web.get("/health/detailed", answer)])
        runner = web.AppRunner(site)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._runners.append(runner)
        return f"127.0.0.1:{runner.addresses[0][1]}"

    def stop(self) -> None:
        """End all of them."""
        for runner in self._runners:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    running = Workers()
    yield running
    running.stop()


def asked(*words: str) -> tuple[int, Any, str]:
    answer = CliRunner().invoke(app, ["health", *words, "--output", "json"], env={"PAYOUTS_PROFILE": "test"})
    return answer.exit_code, json.loads(answer.stdout) if answer.stdout.strip() else None, answer.stderr


def test_s3_30_every_worker_is_asked_and_who_is_not_ready_says_why(workers: Workers) -> None:
    """S3-30: in the order asked for; one that hangs or pauses is not ready; nothing of others is shown in clear."""
    addresses = [workers.serve(WELL), workers.serve(PAUSED, 503), workers.serve(HANGING)]
    code, rows, said = asked(*addresses)
    assert code == ExitCode.FOUND
    assert [(row["worker"], row["ready"]) for row in rows] == [
        ("worker-1", True), ("worker-2", False), ("worker-3", False),
    ]  # fmt: skip
    assert (rows[0]["mode"], rows[0]["partitions"], rows[0]["why"]) == ("normal", 2, None)
    assert rows[1]["why"].startswith("work: paused for visa:TIMEOUT")
    assert CARD not in json.dumps(rows), "P6"
    assert rows[2]["why"] == "liveness: nobody asks for records"
    assert "2 of 3 are not ready" in said
    table = CliRunner().invoke(app, ["health", addresses[0]])
    assert (table.exit_code, "worker-1" in table.stdout) == (0, True)


def test_s3_30_one_that_does_not_answer_keeps_nobody_waiting(workers: Workers) -> None:
    """S3-30: the others are shown; a page that is no worker's is said to be none."""
    slow, strange = workers.serve(WELL, seconds=5.0), workers.serve("<html>hello</html>")
    endless = workers.serve("[" + "1," * 400_000 + "1]")
    code, rows, _ = asked(workers.serve(WELL), slow, strange, endless, "127.0.0.1:1", "--timeout", "2")
    assert code == ExitCode.FOUND
    assert [row["answered"] for row in rows] == [True, False, False, False, False]
    assert all(row["why"].startswith("no answer") for row in rows[1:])
    code, _, said = asked("127.0.0.1:1", "--timeout", "0.5")
    assert (code, "no worker answers" in said) == (ExitCode.UNREACHABLE, True)


def test_s3_30_a_name_stands_for_every_address_that_it_has(workers: Workers) -> None:
    """S3-30: a headless Service's name is all its pods; a name without address says so in its line."""
    port = int(workers.serve(WELL).rpartition(":")[2])
    found = asyncio.run(health._every(health.Page("localhost", port)))
    assert [page.host for page in found] == ["127.0.0.1"]
    gone = health.Page("no-such-host.invalid", 6066)
    assert asyncio.run(health._every(gone)) == [gone]


@pytest.mark.parametrize(
    "address", ["", "http://worker-1", "worker-1:port", "user:secret@worker-1", "worker-1/metrics"]
)
def test_an_address_that_cannot_be_one_is_refused(address: str) -> None:
    """A mistake in typing is no worker that is down; what was typed is not repeated, it may be a password."""
    code, rows, said = asked(address)
    assert (code, rows) == (ExitCode.USAGE, None)
    assert "secret" not in said
