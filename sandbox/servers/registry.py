"""A schema registry with Confluent's interface: the one named by `SCHEMA_REGISTRY_URL`, or Apicurio of our own."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

import httpx

from sandbox.servers import jars
from sandbox.servers.java import find_java, java_environment, java_options
from sandbox.servers.processes import (
    BIND_TRIES,
    LOOPBACK,
    ManagedProcess,
    PortLease,
    ServerError,
    ServerExitedError,
    ServerUnreachableError,
    redact_url,
)

CONFLUENT_PATH = "/apis/ccompat/v7"
# Ready in about 4 s on an idle machine.
READY_SECONDS = 90.0
ANSWER_SECONDS = 2.0
FOREIGN_SECONDS = 10.0
# Nothing is kept, so nothing needs to be written at the end.
STOP_SECONDS = 3.0
HEAP_MEBIBYTES = 400


class ForeignRegistry:
    """A registry that somebody else runs: used, never started or stopped."""

    owned = False

    def __init__(self, url: str) -> None:
        """`url` is the address under which `/subjects` answers."""
        self.url = url

    def describe(self) -> str:
        """One sentence: which registry this is, and why."""
        return f"Schema registry: {redact_url(self.url)}, because SCHEMA_REGISTRY_URL names it; it will not be stopped."

    def start(self, *, cancel: threading.Event | None = None) -> None:  # noqa: ARG002 - one shape for all servers
        """Check that it answers. Raises ServerUnreachableError if it does not."""
        if not answers(self.url, FOREIGN_SECONDS):
            raise ServerUnreachableError(
                f"the schema registry at {redact_url(self.url)} (from SCHEMA_REGISTRY_URL) does not answer "
                "GET /subjects. Start it, correct SCHEMA_REGISTRY_URL, or unset it to get one of our own"
            )

    def stop(self) -> None:
        """Leave it alone."""


class ApicurioRegistry:
    """Apicurio Registry of our own, in memory: a restart forgets every schema. Dies with this process."""

    owned = True

    def __init__(self, directory: Path | None = None) -> None:
        """`directory` keeps its log across runs; None puts it in a temporary one that `stop` deletes."""
        self._is_temporary = directory is None
        self._directory = directory
        self._lease: PortLease | None = None
        self._process: ManagedProcess | None = None

    @property
    def port(self) -> int:
        """The loopback port. Raises ServerError before the first start."""
        if self._lease is None:
            raise ServerError("the schema registry was not started")
        return self._lease.port

    @property
    def url(self) -> str:
        """The address to give to clients that speak to Confluent's registry."""
        return f"http://{LOOPBACK}:{self.port}{CONFLUENT_PATH}"

    @property
    def process_id(self) -> int:
        """The server's process id. Raises ServerError before the first start."""
        if self._process is None:
            raise ServerError("the schema registry was not started")
        return self._process.pid

    def describe(self) -> str:
        """One sentence: which registry this is, and why."""
        return (
            f"Schema registry: our own Apicurio {jars.APICURIO.version} on {self.url}, because "
            "SCHEMA_REGISTRY_URL is not set; it keeps schemas in memory only."
        )

    def start(self, *, cancel: threading.Event | None = None) -> None:
        """Start it and wait until it answers. Raises ServerError with the end of its log."""
        java = find_java()
        program = jars.installed(jars.APICURIO, cancel=cancel)
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="payouts-registry-"))
        directory = self._directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = java_options(heap_mebibytes=HEAP_MEBIBYTES, work_directory=directory)
        for attempt in range(1, BIND_TRIES + 1):
            lease = self._lease = self._lease or PortLease()
            process = self._process = ManagedProcess(
                "the schema registry",
                [
                    java.program,
                    *options,
                    f"-Dquarkus.http.host={LOOPBACK}",
                    f"-Dquarkus.http.port={lease.port}",
                    "-jar",
                    program / f"apicurio-registry-app-{jars.APICURIO.version}-runner.jar",
                ],
                log_path=directory / "registry.log",
                environment=java_environment(),
                # Not the program's folder: a file left there would spoil its checksum.
                working_directory=directory,
            )
            lease.release()
            process.start()
            try:
                process.wait_ready(
                    lambda: answers(self.url, ANSWER_SECONDS), timeout_seconds=READY_SECONDS, cancel=cancel
                )
            except ServerExitedError as error:
                if attempt == BIND_TRIES or "already in use" not in str(error):
                    raise
                self._lease = None
            else:
                return

    def stop(self) -> None:
        """Stop it; a temporary directory is deleted."""
        if self._process is not None:
            self._process.stop(STOP_SECONDS)
        if self._lease is not None:
            self._lease.release()
        if self._is_temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """SIGKILL; the port stays ours until `start`, and all schemas are forgotten."""
        if self._process is not None:
            self._process.kill()
            if self._lease is not None:
                self._lease.hold()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """Wake it."""
        if self._process is not None:
            self._process.resume()


def registry_from_environment(directory: Path | None = None) -> ForeignRegistry | ApicurioRegistry:
    """The registry that `SCHEMA_REGISTRY_URL` names, or one of our own, not yet started."""
    named = os.environ.get("SCHEMA_REGISTRY_URL", "")
    return ForeignRegistry(named) if named else ApicurioRegistry(directory)


def answers(url: str, timeout_seconds: float) -> bool:
    """Whether the registry lists its subjects."""
    try:
        return httpx.get(f"{url.rstrip('/')}/subjects", timeout=timeout_seconds).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
