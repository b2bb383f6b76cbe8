"""`payouts dev`: the real servers on a laptop, in the foreground or left behind, and what they are."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import asyncpg
import platformdirs
import psutil  # type: ignore[import-untyped, unused-ignore]  # whether or not the stubs are installed
import typer

from ops.application import ending, new_app
from ops.exit_codes import ExitCode
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows
from ops.output import message as _say
from sandbox.servers.kafka import BROKER_COUNTS, broker_count
from sandbox.servers.postgres import execute_sql
from sandbox.servers.processes import ServerError, ServerUnreachableError, is_listening, python_module, redact_url
from sandbox.servers.registry import answers
from sandbox.servers.stack import Stack, raise_on_ending_signals

STATE_VARIABLE = "PAYOUTS_STATE_DIR"
RECORD_NAME = "dev.json"
ENVIRONMENT_NAME = "dev.env"
LOG_NAME = "dev.log"
# The first start downloads some 170 MB; each download has its own, shorter limit.
DETACHED_START_SECONDS = 1800.0
# Four servers, each with its own grace period, stopped one after the other.
DOWN_SECONDS = 60.0
KILL_SECONDS = 15.0
POLL_SECONDS = 0.1
PROBE_SECONDS = 3.0
# psutil computes the start time from clock ticks and boot time; the same process differs by less than this.
SAME_START_SECONDS = 1.0
SECRET_VARIABLES = ("DATABASE_URL", "VISA_PASSWORD")

COLUMNS = (Column("server", "server"), Column("address", "address"), Column("answers", "answers"))

app = new_app("Kafka, PostgreSQL, a schema registry and the Visa Direct stand-in on this machine, for development.")


@dataclass(frozen=True)
class Record:
    """What a running `payouts dev up` leaves for `status` and `down`. Holds no password.

    `process_started_at` (seconds since the epoch) tells the process apart from a later one with the same id.
    """

    process_id: int
    process_started_at: float
    servers: list[str]
    addresses: dict[str, str]
    environment_path: str
    state_directory: str | None = None

    def process(self) -> psutil.Process | None:
        """The process that wrote this, or None if it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process_id)
            same = abs(process.create_time() - self.process_started_at) < SAME_START_SECONDS
            if same and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


@dataclass(frozen=True)
class Place:
    """Where the record, the environment file and the log of one `payouts dev` stack are."""

    folder: Path

    @property
    def record_path(self) -> Path:
        """Written when everything is ready, removed at the end."""
        return self.folder / RECORD_NAME

    @property
    def environment_path(self) -> Path:
        """Variables for other commands, readable by the owner only."""
        return self.folder / ENVIRONMENT_NAME

    @property
    def log_path(self) -> Path:
        """Messages of a detached stack."""
        return self.folder / LOG_NAME

    def running(self) -> tuple[Record, psutil.Process] | None:
        """The record and process of the running stack, or None."""
        try:
            record = Record(**json.loads(self.record_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        process = record.process()
        return None if process is None else (record, process)


@dataclass(frozen=True)
class Choice:
    """The options of `up`."""

    brokers: int
    registry: bool
    visa: bool
    state_directory: Path | None
    place: Place = field(repr=False)


def place_of(state_directory: Path | None) -> Place:
    """The named state directory, else `PAYOUTS_STATE_DIR`, else the user's state directory."""
    named = state_directory or os.environ.get(STATE_VARIABLE, "")
    return Place(Path(named).absolute() if named else platformdirs.user_state_path("payout-streams"))


StateDirectory = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        help="Keep all data here across runs. Without it, data is temporary. Name the same for down and status.",
        file_okay=False,
    ),
]


@app.command(
    epilog=ending(
        "payouts dev up",
        "payouts dev up --brokers 3 --registry",
        'eval "$(payouts dev up --detach)"',
        "payouts dev up --no-visa --state-dir /var/tmp/payouts",
        codes=(ExitCode.FOUND, ExitCode.UNREACHABLE, ExitCode.INTERRUPTED),
    )
)
def up(
    brokers: Annotated[int, typer.Option(help="Kafka nodes: 1 or 3.", min=1, max=3)] = 1,
    registry: Annotated[bool, typer.Option("--registry", help="Also start a schema registry.")] = False,
    visa: Annotated[bool, typer.Option("--visa/--no-visa", help="Also start the Visa Direct stand-in.")] = True,
    state_dir: StateDirectory = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running; end it with `down`.")] = False,
) -> None:
    """Start what the environment does not name, say what is used and why, and wait for Ctrl-C.

    KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL and SCHEMA_REGISTRY_URL name servers that run already; those are used
    and never stopped. stdout is one line for the shell that loads the variables of this stack.
    """
    if brokers not in BROKER_COUNTS:
        raise typer.BadParameter("a cluster has 1 or 3 nodes here", param_hint="--brokers")
    place = place_of(state_dir)
    choice = Choice(brokers, registry, visa, place.folder if state_dir else None, place)
    _prepare(place)
    if (found := place.running()) is not None:
        _say(f"already running as process {found[0].process_id}; end it first with `payouts dev down`")
        raise typer.Exit(ExitCode.FOUND)
    raise typer.Exit(_up_detached(choice) if detach else _up_in_foreground(choice))


@app.command(
    epilog=ending("payouts dev down", "payouts dev down --state-dir /var/tmp/payouts", codes=(ExitCode.FOUND,))
)
def down(state_dir: StateDirectory = None) -> None:
    """Stop what `payouts dev up` started, and only that.

    The process is ended only if its id and its start time are those that `up` wrote down. That nothing was
    running is no failure; that it could not be stopped is one (exit code 1).
    """
    place = place_of(state_dir)
    found = place.running()
    if found is None:
        _say("nothing is running")
        place.record_path.unlink(missing_ok=True)
        raise typer.Exit(0)
    record, process = found
    process.terminate()
    if not _gone(process, DOWN_SECONDS):
        _say(f"process {record.process_id} did not end in {DOWN_SECONDS:.0f} s; killing it and its servers")
        process.kill()
        if not _gone(process, KILL_SECONDS):
            _say(f"process {record.process_id} survived SIGKILL; it may hang in the kernel")
            raise typer.Exit(1)
    place.record_path.unlink(missing_ok=True)
    _say(f"stopped process {record.process_id} and the servers that it had started")


@app.command(
    epilog=ending(
        "payouts dev status",
        "payouts dev status --output json",
        codes=(ExitCode.FOUND, ExitCode.UNREACHABLE),
    )
)
def status(
    state_dir: StateDirectory = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what runs, where, and whether it answers now.

    Ends with 1 if nothing runs and with 6 if something does not answer.
    """
    found = place_of(state_dir).running()
    if found is None:
        if output is Output.JSON:
            emit_object({"running": False}, output)
        _say("not running; start it with `payouts dev up`")
        raise typer.Exit(ExitCode.FOUND)
    record = found[0]
    reachable = {name: probe() for name, probe in _probes(record).items()}
    _print_status(record, reachable, output)
    raise typer.Exit(0 if all(reachable.values()) else ExitCode.UNREACHABLE)


def _up_in_foreground(choice: Choice) -> int:
    restore_signals = raise_on_ending_signals()
    is_ready = False
    try:
        with _only_one(choice.place), _stack(choice) as stack:
            record = _write_record(choice, stack)
            try:
                is_ready = True
                _announce(record, stack)
                while True:
                    signal.pause()
            finally:
                choice.place.record_path.unlink(missing_ok=True)
                choice.place.environment_path.unlink(missing_ok=True)
                _say("stopping")
    except KeyboardInterrupt:
        return ExitCode.OK if is_ready else ExitCode.INTERRUPTED
    except SystemExit as request:
        # SIGTERM is how `down` ends us: everything is stopped, and that is what was asked for.
        is_asked = is_ready and request.code == 128 + signal.SIGTERM
        return 0 if is_asked else int(request.code or 0)
    except ServerUnreachableError as error:
        _say(str(error))
        return ExitCode.UNREACHABLE
    except ServerError as error:
        _say(str(error))
        return ExitCode.FOUND
    finally:
        restore_signals()


def _stack(choice: Choice) -> Stack:
    return Stack(
        state_directory=choice.state_directory,
        brokers=choice.brokers,
        registry=choice.registry,
        visa=choice.visa,
        say=_say,
    )


def _up_detached(choice: Choice) -> int:
    """Start the foreground command in a session of its own and wait until it has written its record."""
    arguments = ["up", "--brokers", str(choice.brokers), "--visa" if choice.visa else "--no-visa"]
    arguments += ["--registry"] if choice.registry else []
    command, environment = python_module("ops.dev", *arguments)
    if choice.state_directory is not None:
        command += ["--state-dir", str(choice.state_directory)]
    environment[STATE_VARIABLE] = str(choice.place.folder)
    with choice.place.log_path.open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    restore_signals = raise_on_ending_signals()
    try:
        return _wait_for_record(choice.place, child)
    except BaseException:
        # Interrupted before it was ready: leave nothing behind.
        _end(child)
        raise
    finally:
        restore_signals()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a supervisor that is not ready yet; it stops its servers, or they die with it."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(DOWN_SECONDS)
    child.kill()
    child.wait(KILL_SECONDS)


def _wait_for_record(place: Place, child: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + DETACHED_START_SECONDS
    with place.log_path.open(encoding="utf-8", errors="replace") as log:
        while time.monotonic() < deadline:
            code = child.poll()
            found = place.running()
            sys.stderr.write(log.read())
            sys.stderr.flush()
            if code is not None:
                return code or ExitCode.FOUND
            if found is not None and found[0].process_id == child.pid:
                print(_shell_line(Path(found[0].environment_path)))
                _say(f"left running as process {child.pid}; end it with `payouts dev down`")
                # It shall outlive this command, and is not ours to wait for.
                child.returncode = 0
                return 0
            time.sleep(POLL_SECONDS)
    _say(f"not ready after {DETACHED_START_SECONDS:.0f} s, so it was stopped; its messages: {place.log_path}")
    _end(child)
    return ExitCode.FOUND


def _prepare(place: Place) -> None:
    if not place.folder.exists():
        place.folder.mkdir(parents=True)
        # PostgreSQL may run as another user, who must be able to pass through to its data.
        place.folder.chmod(0o711)


@contextlib.contextmanager
def _only_one(place: Place) -> Iterator[None]:
    """Hold the state directory for this process; the system lets go if it dies."""
    with (place.folder / "dev.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerError(
                f"another `payouts dev up` uses {place.folder}; wait for it, end it, or name another --state-dir"
            ) from error
        yield


def _write_record(choice: Choice, stack: Stack) -> Record:
    variables = stack.environment()
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    _write_whole(choice.place.environment_path, "".join(lines))
    addresses = {"kafka": stack.kafka.bootstrap_servers, "postgres": redact_url(stack.postgres.url)}
    if stack.registry is not None:
        addresses["registry"] = redact_url(stack.registry.url)
    if stack.visa is not None:
        addresses["visa"] = stack.visa.base_url
    record = Record(
        process_id=os.getpid(),
        process_started_at=psutil.Process().create_time(),
        servers=stack.describe(),
        addresses=addresses,
        environment_path=str(choice.place.environment_path),
        state_directory=str(choice.state_directory) if choice.state_directory else None,
    )
    _write_whole(choice.place.record_path, json.dumps(asdict(record), indent=2) + "\n")
    return record


def _write_whole(path: Path, text: str) -> None:
    """Write a file that only the owner may read, so that a reader sees all of it or the old one."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def _announce(record: Record, stack: Stack) -> None:
    for name, value in stack.environment().items():
        shown = redact_url(value) + "  (password in the file below)" if name == "DATABASE_URL" else value
        _say(f"  {name}={'(in the file below)' if name == 'VISA_PASSWORD' else shown}")
    _say("to use these servers from another shell, paste the next line; end them with Ctrl-C")
    print(_shell_line(Path(record.environment_path)), flush=True)


def _shell_line(environment_path: Path) -> str:
    return f". {shlex.quote(str(environment_path))}"


def _gone(process: psutil.Process, timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(POLL_SECONDS)
    return False


def _probes(record: Record) -> dict[str, Callable[[], bool]]:
    """For each address of the record a question to the server itself."""
    probes: dict[str, Callable[[], bool]] = {}
    for name, address in record.addresses.items():
        if name == "kafka":
            probes[name] = partial(_kafka_answers, address)
        elif name == "postgres":
            probes[name] = partial(_postgres_answers, Path(record.environment_path))
        elif name == "registry":
            probes[name] = partial(answers, address, PROBE_SECONDS)
        else:
            probes[name] = partial(is_listening, int(address.rsplit(":", 1)[1]))
    return probes


def _kafka_answers(bootstrap_servers: str) -> bool:
    return broker_count(bootstrap_servers, PROBE_SECONDS) > 0


def _postgres_answers(environment_path: Path) -> bool:
    try:
        lines = environment_path.read_text(encoding="utf-8").splitlines()
        values = dict(shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in lines)
        execute_sql(values["DATABASE_URL"], "SELECT 1")
    except (OSError, TimeoutError, KeyError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


def _print_status(record: Record, reachable: dict[str, bool], output: Output) -> None:
    if output is Output.JSON:
        servers = {
            name: {"address": address, "reachable": reachable[name]} for name, address in record.addresses.items()
        }
        emit_object({"running": True, **asdict(record), "servers": servers, "why": record.servers}, output)
        return
    rows = [
        {"server": name, "address": address, "answers": reachable[name]} for name, address in record.addresses.items()
    ]
    emit_rows(rows, COLUMNS, output)
    for sentence in record.servers:
        _say(sentence)


if __name__ == "__main__":
    app()
