"""One worker and our own commands as processes, for the demo, measurements and tests."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from streams.keys import create_keys

WORKER_READY_SECONDS_MAX = 30.0
WORKER_STOP_SECONDS_MAX = 15.0
COMMAND_SECONDS_MAX = 60.0


class CommandFailed(Exception):
    """A command or the worker did not do what it should; the message quotes the end of what it said."""


def worker_environment(environment: Mapping[str, str], directory: Path, name: str = "worker") -> dict[str, str]:
    """The process environment of a worker with the test profile, keys made in `directory`/keys if there are none."""
    keys = directory / "keys"
    if not keys.exists():
        create_keys(keys)
    return {
        **os.environ,
        "PAYOUTS_LOG_LEVEL": "INFO",
        **environment,
        "PAYOUTS_PROFILE": "test",
        "PAYOUTS_KEYS_DIRECTORY": str(keys),
        "PAYOUTS_HTTP_PORT": "0",
        "PAYOUTS_HTTP_PORT_FILE": str(directory / f"{name}.port"),
        "PAYOUTS_WORKER_NAME": name,
    }


def run_command(environment: Mapping[str, str], *words: str) -> str:
    """`payouts WORDS…`; its stdout. Raises CommandFailed."""
    done = subprocess.run(
        [sys.executable, "-m", "ops", *words],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(f"`payouts {' '.join(words)}` failed ({done.returncode}): {done.stderr[-800:]}")
    return done.stdout


@contextlib.contextmanager
def worker_process(environment: Mapping[str, str], directory: Path, name: str = "worker") -> Iterator[int]:
    """A running worker; yields its health port, stops it by SIGTERM. Its log is `directory`/`name`.log."""
    port_file = directory / f"{name}.port"
    port_file.unlink(missing_ok=True)
    log_file = directory / f"{name}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops", "worker"],
            env=dict(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_up(process, port_file, log_file)
            yield int(port_file.read_text())
        finally:
            process.terminate()
            try:
                process.wait(WORKER_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def save_metrics(port: int, file: Path) -> None:
    """Keep the worker's metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        file.write_bytes(page.read())


def _wait_until_up(process: subprocess.Popen[bytes], port_file: Path, log_file: Path) -> None:
    deadline = time.monotonic() + WORKER_READY_SECONDS_MAX
    while not port_file.exists() or not port_file.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CommandFailed(f"the worker did not start:\n{log_file.read_text(errors='replace')[-1500:]}")
        time.sleep(0.1)
