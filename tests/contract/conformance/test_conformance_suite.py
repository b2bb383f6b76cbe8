"""The whole suite against a stand-in process over real TLS, and against servers that are wrong (B13)."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sandbox.conformance import __main__ as command
from sandbox.conformance.client import Client, Target
from sandbox.conformance.suite import Outcome, cases, run_all
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.visa_direct.credentials import SandboxCredentials, make_credentials

# The stand-in has no XML.
ONLY_AT_VISA = {"F-137"}
EVERY_NEED = frozenset({"stand_in", "sandbox", "money", "header_forcing"})


@pytest.mark.timeout(300)
def test_the_stand_in_obeys_every_fact(tmp_path: Path) -> None:
    """B13: each documented fact on our operations passes against the stand-in, but for what only Visa can show."""
    stand_in = VisaStandIn(tmp_path / "visa")
    stand_in.start()
    try:
        target = command.target_of(stand_in.environment(), stand_in.admin_url)
        outcomes = asyncio.run(_run(target))
    finally:
        stand_in.stop()
    wrong = {outcome.fact.id: (outcome.result, outcome.why) for outcome in outcomes if outcome.result != "PASS"}
    assert wrong == dict.fromkeys(ONLY_AT_VISA, ("NOT APPLICABLE", "only Visa itself can show this"))
    assert [outcome.fact.id for outcome in outcomes] == [case.fact.id for case in cases()]


async def _run(target: Target) -> list[Outcome]:
    async with Client(target) as client:
        return await run_all(client, cases(), command.allowed_needs(target, yes_moves_money=False))


def test_the_documented_way_to_point_it_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README: a base URL and credentials in the environment; no push unless allowed, and then every case that can."""
    stand_in = VisaStandIn(tmp_path / "visa")
    stand_in.start()
    try:
        for name, value in stand_in.environment().items():
            monkeypatch.setenv(name, value)
        elsewhere = ["--base-url", stand_in.base_url, "--output", "json"]
        assert command.main(elsewhere) == 1
        careful = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        pushed = [entry for entry in stand_in.admin("GET", "/sandbox/ledger")["entries"] if entry["money_moved"]]
        assert command.main([*elsewhere, "--yes-moves-sandbox-money"]) == 1
        allowed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    finally:
        stand_in.stop()
    assert pushed == []
    for lines, needs in ((careful, frozenset({"sandbox"})), (allowed, EVERY_NEED - {"stand_in"})):
        results = {line["fact"]: line["result"] for line in lines}
        expected = {case.fact.id: "PASS" if case.needs <= needs else "NOT APPLICABLE" for case in cases()}
        assert results == expected | dict.fromkeys(ONLY_AT_VISA, "FAIL")


YES = {"actionCode": "00"}
NO = {"responseStatus": {"status": 400, "code": "3001", "severity": "ERROR", "message": "no", "info": ""}}
ADMIN = {"entries": [], "has_more": False, "in_flight": 1, "mle_key_ids": [], "key_id": "k"}
# A server that refuses everything shows all the same what a refusal looks like.
RIGHT_ABOUT: dict[int, set[str]] = {200: set(), 400: {"F-073"}}


@pytest.fixture
def credentials(tmp_path: Path) -> SandboxCredentials:
    return make_credentials(tmp_path / "credentials")


@asynccontextmanager
async def answering(credentials: SandboxCredentials, status: int, document: dict[str, Any]) -> AsyncIterator[Target]:
    """A server that gives one answer to everything, and a control port that agrees to everything."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(document, status=status, headers={"X-CORRELATION-ID": "the same"})

    async def agree(_: web.Request) -> web.Response:
        return web.json_response(ADMIN)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credentials.path("server_certificate.pem"), credentials.path("server_key.pem"))
    async with _serving(answer, context) as port, _serving(agree, None) as admin_port:
        client = credentials.client_directory
        yield Target(
            base_url=f"https://127.0.0.1:{port}",
            user_id="user",
            password="password",
            certificate=client / "client_certificate.pem",
            key=client / "client_key.pem",
            ca=client / "ca.pem",
            mle_key_id=credentials.mle_key_id,
            mle_server_certificate=client / "mle_server_certificate.pem",
            mle_private_key=client / "mle_client_private_key.pem",
            admin_url=f"http://127.0.0.1:{admin_port}",
        )


@asynccontextmanager
async def _serving(handler: Callable[[web.Request], Any], context: ssl.SSLContext | None) -> AsyncIterator[int]:
    application = web.Application()
    application.router.add_route("*", "/{anything:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        port: int = runner.addresses[0][1]
        yield port
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("status", "document"), [(200, YES), (400, NO)], ids=["yes", "no"])
async def test_no_case_passes_against_a_server_that_knows_one_answer(
    credentials: SandboxCredentials, monkeypatch: pytest.MonkeyPatch, status: int, document: dict[str, Any]
) -> None:
    """A case that cannot fail proves nothing: whoever approves, or refuses, everything is found out by each."""
    monkeypatch.setattr("sandbox.conformance.client.SETTLED_SECONDS", 0.05)
    async with answering(credentials, status, document) as target, Client(target) as client:
        outcomes = await run_all(client, cases(), EVERY_NEED)
    assert {outcome.fact.id for outcome in outcomes if outcome.result == "PASS"} == RIGHT_ABOUT[status]
