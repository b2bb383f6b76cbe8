"""The Visa Direct stand-in as a child process, and what a client needs to reach it."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.servers.processes import (
    LOOPBACK,
    ManagedProcess,
    PortLease,
    ServerError,
    python_module,
)

# It makes five key pairs at its first start.
READY_SECONDS = 60.0
STOP_SECONDS = 5.0
# On two cores with three brokers starting beside it.
ADMIN_SECONDS = 10.0
ADMIN_ERROR_BYTES_MAX = 500
# Variable of the worker's settings, and the file of `credentials/client` it names.
CREDENTIAL_FILES = {
    "VISA_CA_PATH": "ca.pem",
    "VISA_CERT_PATH": "client_certificate.pem",
    "VISA_KEY_PATH": "client_key.pem",
    "VISA_MLE_SERVER_CERTIFICATE_PATH": "mle_server_certificate.pem",
    "VISA_MLE_PRIVATE_KEY_PATH": "mle_client_private_key.pem",
}


class VisaStandIn:
    """`python -m sandbox.visa_direct` on a free loopback port. Its ledger survives `kill` and `restart`."""

    owned = True

    def __init__(self, directory: Path | None = None, *, latency_ms: int = 0) -> None:
        """`directory` keeps ledger and credentials across runs; None means a temporary one, deleted by `stop`.

        `latency_ms` is how long it takes over every call that moves money.
        """
        self._latency_ms = latency_ms
        self._is_temporary = directory is None
        self._directory = directory
        # The service and its controls, in this order; the same across restarts.
        self._leases: tuple[PortLease, PortLease] | None = None
        self._process: ManagedProcess | None = None
        self._endpoint: dict[str, object] = {}

    @property
    def directory(self) -> Path | None:
        """Where its ledger is; None before the first start and after the end of a temporary one."""
        return self._directory

    @property
    def base_url(self) -> str:
        """The HTTPS address that plays Visa's. Raises ServerError before the first start."""
        return str(self._endpoint_value("base_url"))

    @property
    def admin_url(self) -> str:
        """The HTTP address of `/sandbox/ledger` and `/sandbox/faults`. Raises ServerError before the first start."""
        return str(self._endpoint_value("admin_url"))

    @property
    def process_id(self) -> int:
        """The server's process id. Raises ServerError before the first start."""
        if self._process is None:
            raise ServerError("the Visa Direct stand-in was not started")
        return self._process.pid

    def describe(self) -> str:
        """One sentence: what plays Visa, and where."""
        return (
            f"Visa Direct: our own stand-in on {self.base_url}, its controls on {self.admin_url}; "
            f"its ledger is in {self._directory}. No request leaves this machine."
        )

    def environment(self) -> dict[str, str]:
        """The `VISA_…` variables of a worker that talks to it. Holds a password: never log it."""
        if self._directory is None:
            raise ServerError("the Visa Direct stand-in was not started")
        client = self._directory / "credentials" / "client"
        words = json.loads((client / "credentials.json").read_text(encoding="utf-8"))
        return {
            "VISA_BASE_URL": self.base_url,
            "VISA_USER_ID": words["user_id"],
            "VISA_PASSWORD": words["password"],
            "VISA_MLE_KEY_ID": words["mle_key_id"],
            **{variable: str(client / name) for variable, name in CREDENTIAL_FILES.items()},
        }

    def put_faults(self, plan: Mapping[str, Any]) -> None:
        """Replace the fault plan (see sandbox/visa_direct/README.md). Raises ServerError if it is refused."""
        self.admin("PUT", "/sandbox/faults", plan)

    def fault_report(self) -> dict[str, Any]:
        """The plan in force, and how often each fault has fired."""
        return self.admin("GET", "/sandbox/faults")

    def clear_faults(self) -> None:
        """Answer as Visa does on a good day."""
        self.admin("DELETE", "/sandbox/faults")

    def record_funding(self, funding: Mapping[str, Any]) -> None:
        """Record a card pull that an originator is supposed to have made; the same again changes nothing."""
        self.admin("POST", "/sandbox/funding", funding)

    def admin(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One request to the controls, directly; the decoded answer. Raises ServerError if it is refused."""
        request = urllib.request.Request(  # noqa: S310 - loopback
            self.admin_url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=ADMIN_SECONDS) as answer:  # noqa: S310 - loopback
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                why = error.read(ADMIN_ERROR_BYTES_MAX).decode("utf-8", "replace")
            raise ServerError(f"the Visa Direct stand-in refused {method} {path}: {why}") from error
        except OSError as error:
            raise ServerError(f"the Visa Direct stand-in's controls do not answer: {error}") from error

    def start(self, *, cancel: threading.Event | None = None) -> None:
        """Start it, on the same port as before if there was one, and wait until it says it is ready.

        Raises ServerError with the end of its log.
        """
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="payouts-visa-"))
        directory = self._directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        endpoint_path = directory / "endpoint.json"
        endpoint_path.unlink(missing_ok=True)
        leases = self._leases = self._leases or (PortLease(), PortLease())
        ports = ["--port", str(leases[0].port), "--admin-port", str(leases[1].port)]
        options = ("--state-dir", str(directory), "--latency-ms", str(self._latency_ms))
        command, environment = python_module("sandbox.visa_direct", *ports, *options)
        process = self._process = ManagedProcess(
            "the Visa Direct stand-in", command, log_path=directory / "visa.log", environment=environment
        )
        self._release_ports()
        process.start()
        process.wait_ready(
            lambda: self._read_endpoint(endpoint_path, process.pid),
            timeout_seconds=READY_SECONDS,
            cancel=cancel,
        )

    def stop(self) -> None:
        """Stop it; a temporary directory is deleted."""
        if self._process is not None:
            self._process.stop(STOP_SECONDS)
        self._release_ports()
        if self._is_temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """SIGKILL; the port stays ours until `restart`."""
        if self._process is not None:
            self._process.kill()
            for lease in self._leases or ():
                lease.hold()

    def restart(self) -> None:
        """Start again on the same ledger and port, after `kill` or instead of the running one."""
        if self._process is not None:
            self._process.stop(STOP_SECONDS)
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """Wake it."""
        if self._process is not None:
            self._process.resume()

    def _release_ports(self) -> None:
        for lease in self._leases or ():
            lease.release()

    def _endpoint_value(self, name: str) -> object:
        if name not in self._endpoint:
            raise ServerError("the Visa Direct stand-in was not started")
        return self._endpoint[name]

    def _read_endpoint(self, path: Path, process_id: int) -> bool:
        try:
            endpoint = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if not isinstance(endpoint, dict) or endpoint.get("pid") != process_id:
            return False
        if not str(endpoint.get("base_url", "")).startswith(f"https://{LOOPBACK}:"):
            raise ServerError(f"the Visa Direct stand-in does not listen on {LOOPBACK} only: {endpoint}")
        self._endpoint = endpoint
        return True
