"""Shared by the tests of this room: golden records, and a registry that answers and fails as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from schemas.compatibility import problems

GOLDEN = Path(__file__).parents[2] / "contract" / "schemas" / "golden"


@pytest.fixture(scope="session")
def golden_bytes() -> dict[str, bytes]:
    """Golden value by file stem, for example PayoutResult.v1.paid."""
    files = sorted(GOLDEN.glob("*.json"))
    return {path.stem: bytes.fromhex(json.loads(path.read_text("utf-8"))["hex"]) for path in files}


@pytest.fixture(scope="session")
def golden_record() -> Callable[[str], dict[str, Any]]:
    """A fresh copy of a golden record by file stem."""

    def load(stem: str) -> dict[str, Any]:
        return _with_times(json.loads((GOLDEN / f"{stem}.json").read_text("utf-8"))["record"])

    return load


def _with_times(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _with_times(item, key) for key, item in value.items()}
    is_time = isinstance(value, str) and (name == "at" or name.endswith("_at"))
    return datetime.fromisoformat(value) if is_time else value


class FakeRegistry:
    """The calls of a schema registry that we make, with faults. Not thread safe; lives in the test's loop."""

    def __init__(self) -> None:
        self.url = ""
        self.subjects: dict[str, list[int]] = {}
        self.schemas: dict[int, str] = {}
        self.levels: dict[str, str] = {}
        self.calls: list[str] = []
        self.answer: web.Response | None = None
        """Sent instead of any answer when set."""
        self.gate: asyncio.Event | None = None
        """Answers wait for it when set."""
        self.reached = asyncio.Event()

    def add(self, subject: str, text: str) -> int:
        """Registers a schema as somebody else would."""
        number = next((known for known, other in self.schemas.items() if other == text), len(self.schemas) + 1)
        self.schemas[number] = text
        if number not in self.subjects.setdefault(subject, []):
            self.subjects[subject].append(number)
        return number

    @web.middleware
    async def fault(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}")
        self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.answer is not None:
            return web.Response(status=self.answer.status, body=self.answer.body, content_type=self.answer.content_type)
        return await handler(request)

    async def by_id(self, request: web.Request) -> web.Response:
        text = self.schemas.get(int(request.match_info["id"]))
        return web.json_response({"schema": text}) if text is not None else _error(404, 40403)

    async def versions(self, request: web.Request) -> web.Response:
        known = self.subjects.get(request.match_info["subject"])
        return web.json_response(list(range(1, len(known) + 1))) if known else _error(404, 40401)

    async def version(self, request: web.Request) -> web.Response:
        known = self.subjects.get(request.match_info["subject"], [])
        index = int(request.match_info["version"]) - 1
        if index >= len(known):
            return _error(404, 40402)
        return web.json_response({"id": known[index], "schema": self.schemas[known[index]]})

    async def lookup(self, request: web.Request) -> web.Response:
        subject, text = request.match_info["subject"], (await request.json())["schema"]
        for number in self.subjects.get(subject, []):
            if self.schemas[number] == text:
                return web.json_response({"id": number, "subject": subject, "schema": text})
        return _error(404, 40403 if subject in self.subjects else 40401)

    async def register(self, request: web.Request) -> web.Response:
        subject, text = request.match_info["subject"], (await request.json())["schema"]
        if not self._compatible(subject, text):
            return _error(409, 409)
        return web.json_response({"id": self.add(subject, text)})

    async def compatible(self, request: web.Request) -> web.Response:
        subject, text = request.match_info["subject"], (await request.json())["schema"]
        return web.json_response({"is_compatible": self._compatible(subject, text)})

    async def level(self, request: web.Request) -> web.Response:
        subject = request.match_info["subject"]
        if subject not in self.levels:
            return _error(404, 40408)
        return web.json_response({"compatibilityLevel": self.levels[subject]})

    async def set_level(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.levels[request.match_info["subject"]] = body["compatibility"]
        return web.json_response(body)

    def _compatible(self, subject: str, text: str) -> bool:
        others = [json.loads(self.schemas[number]) for number in self.subjects.get(subject, [])]
        new = json.loads(text)
        return not any(problems(new, other) or problems(other, new) for other in others)


def _error(status: int, code: int) -> web.Response:
    return web.json_response({"error_code": code, "message": "as told"}, status=status)


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    """A running registry on a free loopback port, empty."""
    fake = FakeRegistry()
    app = web.Application(middlewares=[fake.fault])
    app.router.add_get("/schemas/ids/{id}", fake.by_id)
    app.router.add_get("/subjects/{subject}/versions", fake.versions)
    app.router.add_get("/subjects/{subject}/versions/{version}", fake.version)
    app.router.add_post("/subjects/{subject}", fake.lookup)
    app.router.add_post("/subjects/{subject}/versions", fake.register)
    app.router.add_post("/compatibility/subjects/{subject}/versions", fake.compatible)
    app.router.add_get("/config/{subject}", fake.level)
    app.router.add_put("/config/{subject}", fake.set_level)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    if fake.gate is not None:
        fake.gate.set()
    await runner.cleanup()
