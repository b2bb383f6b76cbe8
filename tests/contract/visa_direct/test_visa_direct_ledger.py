"""The stand-in's own ledger: durable before the reply, append-only, without card numbers (P2, P6)."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.visa_direct.credentials import CLIENT_FILES, CredentialsError, make_credentials
from sandbox.visa_direct.effects import fails_check_digit
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from sandbox.visa_direct.server import StartError, running
from sandbox.visa_direct.settings import Settings
from tests.contract.visa_direct.conftest import Clock
from tests.contract.visa_direct.visa_direct_client import (
    APPROVED_CARD,
    PUSH,
    VisaClient,
    eventually,
    funding,
    push_body,
    reverse_body,
)

START_SECONDS = 20.0
REPOSITORY = Path(__file__).parents[3]


class Process:
    """A stand-in in a process of its own, which may be killed and started again on the same ports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports: list[str] = []
        self.child: subprocess.Popen[bytes] | None = None
        self.clients: list[VisaClient] = []

    def start(self, *options: str) -> VisaClient:
        command = [sys.executable, "-m", "sandbox.visa_direct", "--state-dir", str(self.directory)]
        with (self.directory.parent / "stderr").open("ab") as stderr:
            self.child = subprocess.Popen([*command, *self.ports, *options], stderr=stderr, cwd=REPOSITORY)
        endpoint = self._endpoint(self.child)
        base_url, admin_url = endpoint["base_url"], endpoint["admin_url"]
        self.ports = ["--port", base_url.rsplit(":", 1)[1], "--admin-port", admin_url.rsplit(":", 1)[1]]
        self.clients.append(VisaClient(base_url, admin_url, self.directory / "credentials" / "client"))
        return self.clients[-1]

    def _endpoint(self, child: subprocess.Popen[bytes]) -> dict[str, Any]:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert child.poll() is None, self.stderr
            path = self.directory / "endpoint.json"
            if path.exists():
                endpoint: dict[str, Any] = json.loads(path.read_text())
                if endpoint["pid"] == child.pid:
                    return endpoint
            time.sleep(0.02)
        raise AssertionError(f"not ready after {START_SECONDS} s: {self.stderr}")

    def end(self, number: signal.Signals) -> int:
        assert self.child is not None
        self.child.send_signal(number)
        code = self.child.wait(timeout=START_SECONDS)
        self.child = None
        return code

    @property
    def stderr(self) -> str:
        return (self.directory.parent / "stderr").read_text()


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[VisaClient]:
    async with running(settings) as endpoint:
        client = VisaClient(endpoint.base_url, endpoint.admin_url, endpoint.credentials.client_directory)
        client.now = settings.clock
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    made = Process(tmp_path / "state")
    yield made
    for client in made.clients:
        await client.close()
    if made.child is not None:
        made.end(signal.SIGKILL)


async def test_an_effect_survives_a_kill_between_effect_and_reply(process: Process) -> None:
    """P2: kill -9 after the effect and before the reply; after a restart on the same port the resend is 94."""
    visa = process.start()
    await visa.faults({"operation": "push", "fault": "effect_then_silence", "times": 1})
    lost = asyncio.create_task(visa.push(push_body()))
    await eventually(visa.entries)
    assert not lost.done()
    process.end(signal.SIGKILL)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await lost

    visa = process.start()
    again = await visa.push(push_body())
    assert (again.body["actionCode"], again.body["originalActionCode"]) == ("94", "00")
    assert [entry["money_moved"] for entry in await visa.entries()] == [True, False]


async def test_what_was_answered_with_202_survives_a_kill(process: Process) -> None:
    """S4: the late effect comes after a restart, once, under the same statusIdentifier."""
    visa = process.start()
    await visa.faults({"operation": "push", "fault": "late_202", "seconds": 0.5})
    accepted = await visa.push(push_body())
    process.end(signal.SIGKILL)
    visa = process.start()
    answer = await visa.settled(f"{PUSH}/{accepted.body['statusIdentifier']}")
    assert answer.body["actionCode"] == "00"
    assert len(await visa.entries()) == 1
    assert (await visa.admin.get("/sandbox/health")).json()["pending"] == 0


async def test_a_restart_waits_out_what_is_left_of_a_late_202(tmp_path: Path, clock: Clock) -> None:
    """S4: after a restart it is still in flight (202, 303, PENDING) until its time has come."""
    settings = Settings(state_directory=tmp_path / "state", clock=clock)
    async with serving(settings) as visa:
        await visa.faults({"operation": "push", "fault": "late_202", "seconds": 600, "times": 1})
        accepted = await visa.push(push_body(), X_Client_Transaction_ID="c1")
    path = f"{PUSH}/{accepted.body['statusIdentifier']}"
    clock.ahead_seconds = 500
    async with serving(settings) as visa:
        assert (await visa.get(path)).status == 202
        twin = await visa.push(push_body(), X_Client_Transaction_ID="c1")
        assert (twin.status, twin.body, twin.headers["Location"]) == (303, accepted.body, path)
        assert [row["statusCode"] for row in (await visa.query(push_body())).body] == ["PENDING"]
        assert await visa.entries() == []
    clock.ahead_seconds = 601
    async with serving(settings) as visa:
        assert (await visa.settled(path)).body["actionCode"] == "00"
        assert len(await visa.entries()) == 1


async def test_the_fault_plan_and_its_counts_survive_a_restart(process: Process) -> None:
    """A fault meant for once happens once, whatever is killed in between."""
    visa = process.start()
    await visa.faults({"operation": "push", "fault": "503", "times": 1})
    assert (await visa.push(push_body(1))).status == 503
    await eventually(visa.requests)
    process.end(signal.SIGKILL)

    visa = process.start()
    assert [(await visa.push(push_body(n))).status for n in (1, 2, 2)] == [200, 503, 200]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_cleanly_even_with_work_in_flight(process: Process, number: signal.Signals) -> None:
    """Exit code 0, no endpoint file left, no traceback, the port free again."""
    visa = process.start()
    await visa.faults({"operation": "push", "fault": "effect_then_silence"})
    waiting = asyncio.create_task(visa.push(push_body()))
    await eventually(visa.entries)
    assert await asyncio.to_thread(process.end, number) == 0
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await waiting
    assert not (process.directory / "endpoint.json").exists()
    assert process.stderr.count("\n") == 1
    visa = process.start()
    assert len(await visa.entries()) == 1


async def test_no_card_number_is_in_any_file_or_log_line(process: Process) -> None:
    """P6: cards, sender accounts and funding cards pass through and stay nowhere; errors included."""
    sender = "4957030420210454"
    visa = process.start()
    await visa.push(push_body(1, APPROVED_CARD, senderAccountNumber=sender))
    await visa.push(push_body(2, APPROVED_CARD), X_Transaction_Timeout_MS="1")
    await visa.push(push_body(3, APPROVED_CARD, amount="x"))
    await visa.fund(funding(recipient=APPROVED_CARD))
    card_reversal = reverse_body(senderPrimaryAccountNumber=APPROVED_CARD)
    del card_reversal["senderPaymentCredentialReference"]
    assert (await visa.reverse(card_reversal)).body["actionCode"] == "00"
    process.end(signal.SIGKILL)
    files = [path for path in [process.directory.parent / "stderr", *process.directory.rglob("*")] if path.is_file()]
    assert any(path.name == "ledger.sqlite3-wal" for path in files)
    for path in files:
        content = path.read_bytes()
        assert APPROVED_CARD.encode() not in content, path.name
        assert sender.encode() not in content, path.name


STATEMENTS = [
    "UPDATE entries SET amount = '1.00'",
    "UPDATE entries SET money_moved = 0 WHERE id = 1",
    "DELETE FROM entries",
    "INSERT OR REPLACE INTO entries SELECT * FROM entries",
    "UPDATE requests SET http_status = 200",
    "DELETE FROM requests",
    "INSERT OR REPLACE INTO requests SELECT * FROM requests",
]


async def test_the_ledger_refuses_update_delete_and_replace(visa: VisaClient, tmp_path: Path) -> None:
    """Append-only: not by agreement but by trigger, for anyone who opens the file."""
    await visa.push(push_body())
    before = await visa.entries()
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite3")) as connection:
        for statement in STATEMENTS:
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    assert await visa.entries() == before


async def test_the_ledger_file_is_synchronous_and_write_ahead(visa: VisaClient, tmp_path: Path) -> None:
    """Durable before the reply: WAL, and the writer's connection syncs every commit."""
    from sandbox.visa_direct.store import connect

    await visa.push(push_body())
    with contextlib.closing(connect(tmp_path / "state" / "ledger.sqlite3")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


async def test_an_entry_says_who_what_and_how_much(visa: VisaClient, tmp_path: Path) -> None:
    """What the auditor joins by: sender reference, amount as sent, currency, recipient fingerprint."""
    key = (tmp_path / "state" / "credentials" / "fingerprint.key").read_bytes()
    await visa.push(
        push_body(1, APPROVED_CARD, amount="10.5", transactionCurrencyCode="840"), X_Client_Transaction_ID="c1"
    )
    await visa.push(push_body(2, "tok_approve_9", amount=7))
    card, token = await visa.entries()
    assert card["operation"] == "push"
    assert (card["amount"], card["currency"], card["last4"]) == ("10.5", "USD", "0462")
    assert (card["sender_reference"], card["client_transaction_id"]) == (push_body(1)["senderReference"], "c1")
    assert card["recipient_fingerprint"] == recipient_fingerprint(key, APPROVED_CARD)
    assert card["response"]["transactionIdentifier"] == int(card["transaction_identifier"])
    assert (token["amount"], token["last4"]) == ("7", None)
    assert token["recipient_fingerprint"] == recipient_fingerprint(key, "tok_approve_9")


async def test_the_ledger_is_read_in_pages(visa: VisaClient) -> None:
    """after and limit walk through every entry once; a limit out of range is refused."""
    await asyncio.gather(*(visa.push(push_body(n)) for n in range(1, 8)))
    seen: list[int] = []
    after, more = 0, True
    while more:
        page = (await visa.admin.get("/sandbox/ledger", params={"after": after, "limit": 3})).json()
        seen += [entry["id"] for entry in page["entries"]]
        after, more = page["next_after"], page["has_more"]
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert [entry["stan"] for entry in await visa.entries(sender_reference="REF0000000000003")] == ["100003"]
    for parameters in ({"limit": "0"}, {"limit": "5001"}, {"after": "x"}):
        assert (await visa.admin.get("/sandbox/ledger", params=parameters)).status_code == 400


async def test_identifiers_never_look_like_card_numbers(visa: VisaClient) -> None:
    """P6: a scanner for card numbers must find none of its own making: every identifier fails the check digit."""
    await asyncio.gather(*(visa.push(push_body(n)) for n in range(1, 101)))
    identifiers = [entry["transaction_identifier"] for entry in await visa.entries()]
    assert len(set(identifiers)) == 100
    assert all(len(identifier) == 15 and fails_check_digit(identifier) for identifier in identifiers)
    assert not fails_check_digit("4111111111111111")


async def test_a_failing_write_fails_alone(tmp_path: Path) -> None:
    """One job that raises is undone by itself; the others of its group are committed."""
    from sandbox.visa_direct.store import Store, set_meta

    store = Store(tmp_path / "ledger.sqlite3")

    def half(connection: sqlite3.Connection) -> None:
        set_meta(connection, "half", "1")
        raise ValueError("no")

    def whole(connection: sqlite3.Connection) -> None:
        set_meta(connection, "whole", "1")

    outcomes = await asyncio.gather(store.write(half), store.write(whole), return_exceptions=True)
    assert isinstance(outcomes[0], ValueError)
    assert (store.meta("half"), store.meta("whole")) == (None, "1")
    store.close()


@pytest.mark.usefixtures("visa")
async def test_two_stand_ins_cannot_share_a_directory(tmp_path: Path) -> None:
    """Two writers on one ledger would each allow an effect."""
    with pytest.raises(StartError, match="in use"):
        async with running(Settings(state_directory=tmp_path / "state")):
            pass


async def test_a_port_that_is_taken_is_named(visa: VisaClient, tmp_path: Path) -> None:
    """The error says which port and what to do."""
    port = int(visa.base_url.rsplit(":", 1)[1])
    with pytest.raises(StartError, match=f"Port {port} "):
        async with running(Settings(state_directory=tmp_path / "other", port=port)):
            pass


def test_credentials_are_made_once_and_private(tmp_path: Path) -> None:
    """Made when absent, the same ever after, 0600; the client's directory has exactly what a client needs."""
    first = make_credentials(tmp_path / "credentials")
    assert make_credentials(tmp_path / "credentials") == first
    files = [path for path in first.directory.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.name for path in first.client_directory.iterdir()} == set(CLIENT_FILES)
    assert set(json.loads((first.client_directory / "credentials.json").read_text())) == {
        "user_id",
        "password",
        "mle_key_id",
    }
    assert first.password not in repr(first)
    assert os.listdir(tmp_path) == ["credentials"]  # noqa: PTH208


def test_damaged_credentials_are_named(tmp_path: Path) -> None:
    """The error says what to remove."""
    made = make_credentials(tmp_path / "credentials")
    made.path("fingerprint.key").unlink()
    with pytest.raises(CredentialsError, match="Remove that directory"):
        make_credentials(tmp_path / "credentials")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").write_text("x")
    with pytest.raises(CredentialsError, match=r"no credentials\.json"):
        make_credentials(tmp_path / "foreign")


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """--help shows commands that can be typed; misuse ends with 2."""
    from sandbox.visa_direct.__main__ import main

    run: Callable[[list[str]], int] = main
    with pytest.raises(SystemExit) as ended:
        run(["--help"])
    assert ended.value.code == 0
    assert "python -m sandbox.visa_direct --port 0 --state-dir" in capsys.readouterr().out
    with pytest.raises(SystemExit) as misused:
        run(["--port", "70000", "--state-dir", "x"])
    assert misused.value.code == 2
