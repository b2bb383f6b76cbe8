"""S0-05, S0-06, S1-18: a running worker exchanges its client certificate under calls in flight; no payout notices."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ledger.postgres import PostgresLedger
from ledger.visa_orders import Action
from sandbox.rotation import PRODUCTION_PATIENCE
from sandbox.servers.processes import ManagedProcess
from sandbox.servers.visa_stand_in import VisaStandIn
from tests.integration.pipeline.conftest import MakePipeline
from tests.integration.pipeline.pipeline_harness import Pipeline, Worker, assert_paid_once, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

IN_FLIGHT_SECONDS = 1.0
PAYOUTS = 40
PATIENT = "sandbox.rotation_worker"
"""Its calls may take as long as in production: with the test profile's three seconds a machine that stands still makes
one late, and the payout notices."""


def issue(pipeline: Pipeline) -> str:
    """A further client certificate under the worker's file names; its fingerprint."""
    issued = Path(pipeline.visa.admin("POST", "/sandbox/keys/client")["directory"])
    for path, name in zip(files(pipeline).values(), ("client_certificate.pem", "client_key.pem"), strict=True):
        replace(path, (issued / name).read_bytes())
    certificate = x509.load_pem_x509_certificate((issued / "client_certificate.pem").read_bytes())
    return certificate.fingerprint(hashes.SHA256()).hex()


def replace(path: Path, content: bytes) -> None:
    """Complete before it has its name, and for its owner only."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.chmod(0o600)
    part.replace(path)


def files(pipeline: Pipeline) -> dict[str, Path]:
    return {
        "VISA_CERT_PATH": pipeline.directory / "client.pem",
        "VISA_KEY_PATH": pipeline.directory / "client.key",
    }


def in_use(worker: Worker) -> str | None:
    return (worker.health().get("visa") or {}).get("certificate_sha256")


def order(pipeline: Pipeline, action: Action) -> None:
    async def work() -> None:
        async with await PostgresLedger.connect(pipeline.database_url, pool_min=1, pool_max=2) as ledger:
            await ledger.visa_orders.give(action, "operator-1", "a test of rotation")

    pipeline.loop.run(work())


def test_a_signal_a_file_and_an_order_exchange_the_certificate_and_no_payout_notices(
    make_pipeline: MakePipeline,
) -> None:
    """S0-05, S0-06: each payout has one attempt and is paid once, whatever certificate its call began with."""
    pipeline = make_pipeline()
    first = issue(pipeline)
    own_files = {name: str(path) for name, path in files(pipeline).items()}
    worker = pipeline.worker("rotating", module=PATIENT, extra={**own_files, **PRODUCTION_PATIENCE})
    worker.wait_until_assigned()
    until("the first certificate", lambda: in_use(worker) == first)
    pipeline.visa_faults({"operation": "push", "fault": "slow", "seconds": IN_FLIGHT_SECONDS})
    sent: list[str] = []

    def keep_calls_in_flight() -> None:
        batch = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
        sent.extend(batch)
        until("calls in flight", lambda: submitting(pipeline, batch) >= 3)

    keep_calls_in_flight()
    second = issue(pipeline)
    os.kill(worker.process.pid, signal.SIGHUP)
    until("the second certificate, by signal", lambda: in_use(worker) == second)

    keep_calls_in_flight()
    third = issue(pipeline)
    until("the third certificate, by file", lambda: in_use(worker) == third)

    keep_calls_in_flight()
    order(pipeline, Action.ROLLBACK)
    until("the second certificate again, by order", lambda: in_use(worker) == second)

    pipeline.visa_faults()
    pipeline.wait_all(sent)
    assert_paid_once(pipeline, sent)
    rows = pipeline.fetch("SELECT attempts, ambiguous FROM payouts WHERE payout_id = ANY($1)", sent)
    assert {(row["attempts"], row["ambiguous"]) for row in rows} == {(1, False)}, "no call was lost or repeated"
    assert worker.terminate() == 0
    assert pipeline.fetch("SELECT worker FROM visa_workers") == []


def submitting(pipeline: Pipeline, payout_ids: list[str]) -> int:
    rows = pipeline.fetch(
        "SELECT count(*) AS n FROM payouts WHERE payout_id = ANY($1) AND state = 'SUBMITTING'", payout_ids
    )
    return int(rows[0]["n"])


def worker_with_settings_file(pipeline: Pipeline, name: str, settings: dict[str, str]) -> Worker:
    """A worker that finds everything of Visa in a file, as the runbook's rotation of message keys needs it."""
    file = pipeline.directory / "visa.env"
    write_settings(file, settings)
    environment = {key: value for key, value in pipeline.environment(name).items() if not key.startswith("VISA_")}
    log_path = pipeline.directory / f"{name}.log"
    process = ManagedProcess(
        f"worker {name}",
        [sys.executable, "-m", PATIENT],
        log_path=log_path,
        environment={**environment, **PRODUCTION_PATIENCE, "PAYOUTS_SETTINGS_FILE": str(file)},
        working_directory=pipeline.directory,
    )
    worker = Worker(process, log_path, pipeline.directory / f"{name}.port")
    pipeline.workers.append(worker)
    return worker.start()


def write_settings(file: Path, settings: dict[str, str]) -> None:
    replace(file, "".join(f"{name}={value}\n" for name, value in settings.items()).encode())


def visa_of(worker: Worker) -> dict[str, Any]:
    return dict(worker.health().get("visa") or {})


def test_message_keys_are_renewed_with_an_overlap_and_visas_key_comes_from_its_address(
    make_pipeline: MakePipeline, own_visa: VisaStandIn
) -> None:
    """B5, S0-05, S0-13: the runbook's four steps under calls in flight, keys from a JWKS."""
    pipeline = make_pipeline(own_visa=own_visa)
    settings = own_visa.environment()
    settings["VISA_JWKS_URL"] = f"{own_visa.base_url}/.well-known/jwks"
    del settings["VISA_MLE_SERVER_CERTIFICATE_PATH"]
    file = pipeline.directory / "visa.env"
    worker = worker_with_settings_file(pipeline, "renewing", settings).wait_until_assigned()
    until("keys from the address", lambda: worker.health().get("paused_for") == [])
    old = settings["VISA_MLE_KEY_ID"]
    pipeline.visa_faults({"operation": "push", "fault": "slow", "seconds": IN_FLIGHT_SECONDS})
    sent: list[str] = []

    def keep_calls_in_flight() -> None:
        batch = pipeline.send_many(pipeline.request() for _ in range(PAYOUTS))
        sent.extend(batch)
        until("calls in flight", lambda: submitting(pipeline, batch) >= 3)

    keep_calls_in_flight()
    issued = own_visa.admin("POST", "/sandbox/keys/mle")
    new, new_key = issued["key_id"], str(Path(issued["directory"]) / "mle_client_private_key.pem")
    write_settings(file, {**settings, "VISA_MLE_NEXT_KEY_ID": new, "VISA_MLE_NEXT_PRIVATE_KEY_PATH": new_key})
    until("both keys are there", lambda: visa_of(worker).get("decrypts_with") == [old, new])

    keep_calls_in_flight()
    own_visa.admin("PUT", "/sandbox/keys", {"answers_with": new})
    write_settings(
        file,
        {
            **settings,
            "VISA_MLE_KEY_ID": new,
            "VISA_MLE_PRIVATE_KEY_PATH": new_key,
            "VISA_MLE_NEXT_KEY_ID": old,
            "VISA_MLE_NEXT_PRIVATE_KEY_PATH": settings["VISA_MLE_PRIVATE_KEY_PATH"],
        },
    )
    until("the new key is in use", lambda: visa_of(worker).get("mle_key_id") == new)

    keep_calls_in_flight()
    pipeline.wait_all(sent)
    own_visa.admin("DELETE", f"/sandbox/keys/mle/{old}")
    keep_calls_in_flight()
    pipeline.visa_faults()
    pipeline.wait_all(sent)
    assert_paid_once(pipeline, sent)
    rows = pipeline.fetch("SELECT attempts, ambiguous FROM payouts WHERE payout_id = ANY($1)", sent)
    assert {(row["attempts"], row["ambiguous"]) for row in rows} == {(1, False)}, "no call was lost or repeated"
    assert visa_of(worker)["breakers"] == {"jwks": "CLOSED"}
    assert worker.terminate() == 0
