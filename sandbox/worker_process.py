"""One worker and our own commands as processes, for the demo, measurements and tests."""

import contextlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sandbox.servers.processes import ManagedProcess, ServerError, python_module
from streams.keys import create_keys

WORKER_READY_SECONDS_MAX = 30.0
WORKER_STOP_SECONDS_MAX = 15.0
COMMAND_SECONDS_MAX = 60.0
EXIT_FOUND = 1
"""How our commands end that have found something."""


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


def run_command(
    environment: Mapping[str, str],
    *words: str,
    seconds_max: float = COMMAND_SECONDS_MAX,
    may_find_something: bool = False,
) -> str:
    """`payouts WORDS…`; its stdout. Ends with us, whatever happens to us. Raises CommandFailed.

    With `may_find_something` exit code 1 is an answer, too: a check found something, and says what.
    """
    with tempfile.TemporaryDirectory(prefix="payouts-command-") as directory:
        output = Path(directory) / "stdout"
        name = f"`payouts {' '.join(words)}`"
        process = _process(name, environment, words, log_path=Path(directory) / "stderr", output_path=output)
        try:
            process.start()
            process.wait_success(timeout_seconds=seconds_max)
        except ServerError as error:
            found_something = process.exit_code == EXIT_FOUND and output.exists() and output.stat().st_size > 0
            if not (may_find_something and found_something):
                raise CommandFailed(str(error)) from error
        finally:
            process.stop(0)
        return output.read_text(encoding="utf-8")


@contextlib.contextmanager
def worker_process(environment: Mapping[str, str], directory: Path, name: str = "worker") -> Iterator[int]:
    """A running worker; yields its health port, stops it by SIGTERM. Its log is `directory`/`name`.log."""
    port_file = directory / f"{name}.port"
    port_file.unlink(missing_ok=True)
    process = _process(name, environment, ("worker",), log_path=directory / f"{name}.log")
    try:
        process.start()
        process.wait_ready(lambda: _has_text(port_file), timeout_seconds=WORKER_READY_SECONDS_MAX)
        yield int(port_file.read_text())
    except ServerError as error:
        raise CommandFailed(str(error)) from error
    finally:
        process.stop(WORKER_STOP_SECONDS_MAX)


def save_metrics(port: int, file: Path) -> None:
    """Keep the worker's metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        file.write_bytes(page.read())


def _process(
    name: str, environment: Mapping[str, str], words: Sequence[str], *, log_path: Path, output_path: Path | None = None
) -> ManagedProcess:
    """`payouts WORDS…` as a child that dies with us, also when we are interrupted while it is being started."""
    command, found = python_module("ops", *words)
    paths = {"PYTHONPATH": found["PYTHONPATH"]}
    return ManagedProcess(
        name, command, log_path=log_path, output_path=output_path, environment={**environment, **paths}
    )


def _has_text(file: Path) -> bool:
    return file.exists() and bool(file.read_text())
