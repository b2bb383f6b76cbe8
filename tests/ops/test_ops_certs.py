"""S0-03 … S0-07, S0-10: certificates are tried, taken by every worker, and taken back; stand-in and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typer.testing import CliRunner, Result

from ledger.postgres import PostgresLedger
from ops.exit_codes import ExitCode
from ops.main import app
from processors.payout.row import PayoutState
from processors.visa.transport import VisaDirectClient
from sandbox.servers.postgres import ForeignPostgres, PostgresServer
from sandbox.servers.visa_stand_in import CREDENTIAL_FILES, VisaStandIn
from streams import visa_keeper
from streams.metrics import Metrics
from streams.settings import Settings
from streams.visa_client import ClientSource
from streams.visa_keeper import VisaKeeper
from streams.visa_material import material_in_use
from streams.visa_pause import VisaPauses
from tests.ops.operator_rows import stored

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@dataclass
class Scene:
    """A database, the stand-in, and files of our own that the settings name."""

    environment: dict[str, str]
    directory: Path
    authority: tuple[x509.Certificate, Any]

    def run(self, *words: str, **environment: str | None) -> Result:
        return CliRunner().invoke(app, list(words), env={**self.environment, **environment})

    def data(self, *words: str, code: int = 0, **environment: str | None) -> Any:
        result = self.run(*words, "--output", "json", **environment)
        assert result.exit_code == code, result.stdout + result.stderr
        for secret in ("PRIVATE", self.environment["VISA_PASSWORD"]):
            assert secret not in result.stdout + result.stderr
        return json.loads(result.stdout)

    @property
    def settings(self) -> Settings:
        values = {name.lower(): value for name, value in self.environment.items()}
        return Settings(_env_file=None, **values)  # type: ignore[arg-type]

    def path(self, variable: str) -> Path:
        return Path(self.environment[variable])

    def issue(self, name: str, *, days: float = 365.0, by: tuple[x509.Certificate, Any] | None = None) -> list[bytes]:
        """A client certificate of the stand-in's authority, or of another one, and its key."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        issuer, issuer_key = by or self.authority
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return [certificate.public_bytes(serialization.Encoding.PEM), private]

    def write(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def replace_client(self, pair: list[bytes]) -> None:
        for variable, content in zip(("VISA_CERT_PATH", "VISA_KEY_PATH"), pair, strict=True):
            self.write(self.path(variable).name, content)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[VisaStandIn]:
    server = VisaStandIn()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def scene(stand_in: VisaStandIn, postgres: PostgresServer | ForeignPostgres, tmp_path: Path) -> Iterator[Scene]:
    database = f"payouts_certs_{uuid.uuid4().hex}"
    assert stand_in.directory is not None
    credentials = stand_in.directory / "credentials"
    authority = x509.load_pem_x509_certificate((credentials / "ca.pem").read_bytes())
    authority_key = serialization.load_pem_private_key((credentials / "ca_key.pem").read_bytes(), password=None)
    environment = {
        **stand_in.environment(),
        "PAYOUTS_PROFILE": "test",
        "PAYOUTS_OPERATOR": "tester",
        "DATABASE_URL": postgres.create_database(database),
    }
    for variable in CREDENTIAL_FILES:
        copied = tmp_path / Path(environment[variable]).name
        shutil.copy(environment[variable], copied)
        environment[variable] = str(copied)
    made = Scene(environment, tmp_path, (authority, authority_key))
    try:
        assert made.run("ledger", "migrate").exit_code == 0
        yield made
    finally:
        postgres.drop_database(database)


@contextlib.contextmanager
def workers(scene: Scene, *names: str) -> Iterator[dict[str, VisaKeeper]]:
    """What a worker runs of this, in a thread of its own, each with a connection to the stand-in."""
    keepers: dict[str, VisaKeeper] = {}
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def live() -> None:
        async with await PostgresLedger.connect(scene.environment["DATABASE_URL"], pool_min=1) as ledger:
            sources = []
            for name in names:
                metrics = Metrics()
                pauses = VisaPauses(after_failures=8, probe_max_seconds=30.0, clock=loop.time, metrics=metrics)
                material = material_in_use(scene.settings, datetime.now(UTC))
                sources.append(ClientSource(VisaDirectClient(material.connection)))
                keepers[name] = VisaKeeper(
                    sources[-1], material, worker=name, orders=ledger.visa_orders, settings_file=None,
                    load_settings=lambda: scene.settings, pauses=pauses, metrics=metrics,
                    clock=lambda: datetime.now(UTC),
                )  # fmt: skip
                await keepers[name].turn()
            tasks = [asyncio.create_task(keeper.keep_forever()) for keeper in keepers.values()]
            ready.set()
            await stop.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for keeper, source in zip(keepers.values(), sources, strict=True):
                await keeper.leave()
                await source.aclose()

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    try:
        assert ready.wait(30.0)
        yield keepers
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30.0)
        loop.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look ten times a second."""
    monkeypatch.setattr(visa_keeper, "ORDERS_EVERY_SECONDS", 0.1)


def with_ledger(scene: Scene, work: Callable[[PostgresLedger], Awaitable[Any]]) -> None:
    """Do something with the scene's ledger."""

    async def inner() -> None:
        async with await PostgresLedger.connect(scene.environment["DATABASE_URL"], pool_min=1) as ledger:
            await work(ledger)

    asyncio.run(inner())


def history(scene: Scene) -> list[tuple[str, str, str]]:
    async def work() -> list[tuple[str, str, str]]:
        connection = await asyncpg.connect(scene.environment["DATABASE_URL"])
        try:
            rows = await connection.fetch(
                "SELECT actor, transition, detail ->> 'reason' AS reason FROM history "
                "WHERE payout_id IS NULL AND transition <> 'ledger_migrated' ORDER BY id"
            )
            return [(row["actor"], row["transition"], row["reason"]) for row in rows]
        finally:
            await connection.close()

    return asyncio.run(work())


def test_status_counts_the_days_and_fails_when_they_are_few(scene: Scene) -> None:
    """S0-07: every certificate with its days; exit code 1 within thirty days of its end, or when it is unusable."""
    shown = scene.data("certs", "status")
    ends = {row["what"]: row["days_left"] for row in shown["files"] if row["days_left"] is not None}
    assert set(ends) == {"client certificate", "authority of Visa's server", "encryption certificate of Visa"}
    assert min(ends.values()) > 60
    assert shown["workers"] == []
    scene.replace_client(scene.issue("soon", days=45.0))
    assert "warning" in {row["level"] for row in scene.data("certs", "status", "--no-workers")["files"]}
    scene.replace_client(scene.issue("sooner", days=10.0))
    (row,) = [row for row in scene.data("certs", "status", code=1)["files"] if row["level"] == "critical"]
    assert (row["what"], row["advice"]) == ("client certificate", "renew it at Visa now")
    scene.path("VISA_KEY_PATH").chmod(0o644)
    assert "others than its owner" in scene.run("certs", "status", "--no-workers").stdout


def test_a_new_pair_is_tried_under_its_own_name_and_nothing_is_changed(scene: Scene) -> None:
    """S0-03, S0-04, S1-09, F-13: handshake, greeting and an encrypted question; exit code 1 when it cannot be used."""
    cert, key = scene.issue("new client")
    new = (
        "--cert", str(scene.write("new_client_cert.pem", cert)), "--key", str(scene.write("new_private_key.pem", key)),
    )  # fmt: skip
    (row,) = [row for row in scene.data("certs", "probe", *new)["files"] if row["what"] == "connection"]
    assert row["level"] == "ok"
    _, other = scene.issue("other")
    mixed = scene.data("certs", "probe", *new[:2], "--key", str(scene.write("other.pem", other)), code=1)
    assert any("do not belong together" in row["detail"] for row in mixed["files"])
    scene.path("VISA_KEY_PATH").chmod(0o640)
    assert scene.run("certs", "probe").exit_code == ExitCode.FOUND
    assert scene.run("certs", "probe", *new).exit_code == 0, "the new one has its own rights"
    assert history(scene) == []


def test_a_pair_that_visa_does_not_know_fails_the_probe(scene: Scene) -> None:
    """S0-04: fits, is valid, and is refused in the handshake or the answer."""
    key = ec.generate_private_key(ec.SECP256R1())
    cert, private = scene.issue("stranger", by=(scene.authority[0], key))
    stranger = ("--cert", str(scene.write("s.pem", cert)), "--key", str(scene.write("s.key", private)))
    files = scene.data("certs", "probe", *stranger, code=1)["files"]
    assert [row["level"] for row in files if row["what"] == "connection"] == ["unusable"]
    unknown = scene.data("certs", "probe", "--mle-key-id", "unheard-of", code=1)["files"]
    assert [row["level"] for row in unknown if row["what"] == "connection"] == ["unusable"]


def test_every_worker_takes_the_new_certificate_and_goes_back_when_it_is_told(scene: Scene) -> None:
    """S0-05, S0-06, S0-10, P9: a plan in payouts and money, one order, an answer of each worker, who ordered it."""
    for state in (PayoutState.CLEARED, PayoutState.UNKNOWN, PayoutState.PAID):
        with_ledger(scene, lambda ledger, state=state: stored(ledger, state))
    with workers(scene, "worker-1", "worker-2"):
        old = {row["certificate"] for row in scene.data("certs", "status")["workers"]}
        assert len(old) == 1
        plan = scene.data("certs", "reload", "--reason", "INC-7: renewed", "--dry-run")
        assert (plan["dry_run"], [row["worker"] for row in plan["workers"]]) == (True, ["worker-1", "worker-2"])
        assert plan["waiting"] == [{"currency": "USD", "payouts": 2, "amount_minor": 2468}]
        assert history(scene) == [], "a dry run orders nothing"
        scene.replace_client(scene.issue("new client"))
        rows = scene.data("certs", "reload", "--reason", "INC-7: renewed", "--wait", "60")
        assert [row["worker"] for row in rows] == ["worker-1", "worker-2"]
        assert {row["result"] for row in rows} <= {"success", "unchanged"}, "a replaced file may have been seen first"
        new = {row["certificate"] for row in rows}
        assert len(new) == 1
        assert new != old
        assert {row["can_roll_back"] for row in rows} == {True}
        plan = scene.data("certs", "rollback", "--reason", "INC-7: refused", "--dry-run")
        assert {row["will"] for row in plan["workers"]} == {"uses again what it used before its last reload"}
        rows = scene.data("certs", "rollback", "--reason", "INC-7: refused", "--operator", "jan", "--wait", "60")
        assert [row["result"] for row in rows] == ["rolled_back", "rolled_back"]
        assert {row["certificate"] for row in rows} == old
        plan = scene.data("certs", "rollback", "--reason", "INC-7: again", "--dry-run")
        assert all(row["will"].startswith("nothing") for row in plan["workers"])
        again = scene.data("certs", "rollback", "--reason", "INC-7: again", "--wait", "60", code=1)
        assert {row["result"] for row in again} == {"failure"}
    assert history(scene)[:2] == [
        ("tester", "visa_reload", "INC-7: renewed"),
        ("jan", "visa_rollback", "INC-7: refused"),
    ]
    assert scene.data("certs", "status")["workers"] == [], "workers that have stopped are not shown"


def test_files_that_fail_here_are_not_ordered_and_files_that_fail_there_change_nothing(scene: Scene) -> None:
    """S0-04: exit code 1 either way; every worker goes on with what it has, and says why."""
    with workers(scene, "worker-1") as keepers:
        before = keepers["worker-1"].detail["certificate_sha256"]
        key = ec.generate_private_key(ec.SECP256R1())
        scene.replace_client(scene.issue("stranger", by=(scene.authority[0], key)))
        refused = scene.run("certs", "reload", "--reason", "INC-7")
        assert refused.exit_code == ExitCode.FOUND
        assert "no worker was asked" in refused.stderr
        assert history(scene) == []
        (row,) = scene.data("certs", "reload", "--reason", "INC-7", "--no-probe", code=1)
        assert row["result"] == "failure"
        assert row["why"]
        assert keepers["worker-1"].detail["certificate_sha256"] == before


def test_without_a_worker_an_order_reaches_nobody_and_says_so(scene: Scene) -> None:
    """S0-05: and a worker that does not answer is named."""
    alone = scene.run("certs", "reload", "--reason", "INC-7")
    assert (alone.exit_code, "no worker" in alone.stderr) == (ExitCode.FOUND, True)

    async def report() -> None:
        async with await PostgresLedger.connect(scene.environment["DATABASE_URL"], pool_min=1) as ledger:
            await ledger.visa_orders.report("worker-9", 0, None, None, {})

    asyncio.run(report())
    (row,) = scene.data("certs", "reload", "--reason", "INC-7", "--wait", "0.2", code=1)
    assert (row["worker"], row["result"]) == ("worker-9", "no answer")


def test_breakers_are_shown_and_reset_with_a_name_and_a_reason(scene: Scene) -> None:
    """S0-09, S0-10: state of each worker; the reset is an order like another, and stays in the history."""
    with workers(scene, "worker-1"):
        (row,) = scene.data("breaker", "status")
        assert (row["worker"], row["state"]) == ("worker-1", "none: keys from files")
        plan = scene.data("breaker", "reset", "jwks", "--reason", "INC-8", "--dry-run")
        assert [row["will"] for row in plan["workers"]] == ["nothing: it has keys from files, and will say unchanged"]
        assert history(scene) == []
        (row,) = scene.data("breaker", "reset", "jwks", "--reason", "INC-8: answers again", "--wait", "60")
        assert row["result"] == "unchanged"
    assert history(scene) == [("tester", "visa_breaker_reset", "INC-8: answers again")]
    assert scene.run("breaker", "reset", "other", "--reason", "x").exit_code == ExitCode.USAGE

    async def report() -> None:
        async with await PostgresLedger.connect(scene.environment["DATABASE_URL"], pool_min=1) as ledger:
            await ledger.visa_orders.report("worker-9", 9, None, None, {"breakers": {"jwks": "OPEN"}})

    asyncio.run(report())
    (row,) = scene.data("breaker", "status", code=1)
    assert (row["name"], row["state"]) == ("jwks", "OPEN")
    (row,) = scene.data("breaker", "reset", "jwks", "--reason", "INC-8", "--dry-run")["workers"]
    assert row["will"] == "closes jwks (now OPEN) and asks for the keys at once"
