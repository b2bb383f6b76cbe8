"""A small system that runs, with payouts in the situations that the documents speak of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
from typer.testing import CliRunner

from ops.main import app
from sandbox.demo import DemoRun, Names
from sandbox.samples.sample_file import Expectation, Play, SampleFile, load_samples
from sandbox.servers.java import java_environment
from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.postgres import PostgresServer, packaged_installation
from sandbox.servers.processes import PortLease
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.worker_process import worker_environment, worker_process
from tests.docs.documents import ROOT, Command

PARTITIONS = 3
COMMAND_SECONDS_MAX = 90.0
"""Kafka's own tools start a JVM each."""
WORKER_SECONDS_MAX = 30.0
KAFKA_TOOL_HEAP_MEBIBYTES = 128
KAFKA_TOOLS = {
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-get-offsets.sh": "org.apache.kafka.tools.GetOffsetShell",
}
NEEDED_PROGRAMS = ("bash", "curl", "openssl")

WAITING_FOR_REVIEW = Expectation(state="IN_REVIEW")
WAITING_FOR_ORIGINATOR = Expectation(state="REJECTED", compensation="REQUIRED")
NOBODY = Play()
# The demo's samples, left where a person is needed: name -> what nobody plays, and where it then stands.
SAMPLES: dict[str, dict[str, Any]] = {
    "usd-approved-1": {},
    "usd-approved-2": {},
    "partial-approval-held": {},
    "watch-list-approved": {"play": NOBODY, "expect": WAITING_FOR_REVIEW},
    "watch-list-rejected": {"play": NOBODY, "expect": WAITING_FOR_REVIEW},
    "declined-release-open": {},
    "declined-release-refused": {},
    "declined-aft-reversed": {
        # A reversal names no payout; this is the only one that is reversed.
        "visa": [{"operation": "reverse", "fault": "400", "sender_reference": None}],
        "expect": Expectation(state="DECLINED", compensation="MANUAL"),
    },
    "amount-negative": {"play": NOBODY, "expect": WAITING_FOR_ORIGINATOR},
    "exact-duplicate": {},
    "same-id-other-amount": {},
    "undecodable-record": {},
}
# Another payout as a sample is: name -> the sample that it is like.
COPIES = {"watch-list-withdrawn": "watch-list-approved"}
# What the documents write in capitals, and whose payout_id or review case it is.
PAYOUTS = {
    "PAYOUT_ID": "usd-approved-1",
    "HELD_PAYOUT_ID": "partial-approval-held",
    "ORIGINATOR_PAYOUT_ID": "declined-release-open",
    "REFUSED_PAYOUT_ID": "usd-approved-2",
    "MANUAL_PAYOUT_ID": "declined-aft-reversed",
    "REVIEWED_PAYOUT_ID": "watch-list-approved",
    "WITHDRAWN_PAYOUT_ID": "watch-list-withdrawn",
}
# The version of the proposal to resolve that the book has just made for the payout that the command names.
PROPOSAL_VERSION = "PROPOSAL_VERSION"
CASES = {"CASE_ID": "watch-list-approved", "OTHER_CASE_ID": "watch-list-rejected"}


@dataclass
class Answer:
    """What a command said and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


class MainWorker:
    """The worker that runs from the first command to the last, but for those that need an empty group."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._environment = dict(environment)
        self._directory = directory
        self._running = contextlib.ExitStack()
        self.port: int | None = None

    def start(self) -> int:
        """Its health port, the same each time."""
        if self.port is None:
            self.port = self._running.enter_context(worker_process(self._environment, self._directory))
            self._environment["PAYOUTS_HTTP_PORT"] = str(self.port)
        return self.port

    def stop(self) -> None:
        """By SIGTERM, as a supervisor does."""
        self.port = None
        self._running.close()


@dataclass
class RunningSystem:
    """Executes documented commands as an operator of this system would."""

    environment: Mapping[str, str]
    directory: Path
    placeholders: dict[str, str]
    main: MainWorker
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    exporters: list[subprocess.Popen[bytes]] = field(default_factory=list)
    lag_port: PortLease = field(default_factory=PortLease)

    def run(self, command: Command) -> Answer:
        """Fill in the placeholders and execute; ours in this process, everything else by a shell."""
        text = self.filled(command.text)
        self._stop_or_start_workers(text)
        match shlex.split(text)[:3]:
            case ["payouts", "worker", *_]:
                return self._start_worker(shlex.split(text))
            case ["payouts", "lag", "export"]:
                return self._start_exporter(shlex.split(text))
            case ["payouts", *_]:
                return self._ours(shlex.split(text)[1:], command.document)
            case ["kill", "-USR1", *_]:
                return self._where_it_is(text)
            case ["kill", *_]:
                return self._end_worker(text)
            case _:
                return self.shell(text, command.document)

    def _stop_or_start_workers(self, text: str) -> None:
        """Offsets are moved while nobody is in the group: the book says so before the first of these commands."""
        if text.startswith("payouts offsets ") or "--reset-offsets" in text:
            self.main.stop()
        else:
            self.main.start()

    def filled(self, text: str) -> str:
        """The command with this system's names in place of the capitals."""
        if PROPOSAL_VERSION in text:
            (named,) = (sample for word, sample in PAYOUTS.items() if re.search(rf"\b{word}\b", text))
            text = text.replace(PROPOSAL_VERSION, str(self.row(named)["version"]))
        return re.sub(r"\b[A-Z]+(?:_[A-Z]+)*_(?:PID|ID|VERSION)\b", self._placeholder, text)

    def shell(self, text: str, document: str) -> Answer:
        """By bash, with `payouts` and the tools of Kafka and PostgreSQL on the path."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", text],  # noqa: S607 - the programs that the documents name
            cwd=self._desk(document),
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def row(self, sample: str) -> dict[str, Any]:
        """The ledger's row of a sample."""
        payout_id = f"{sample}-{self.placeholders['RUN']}"
        return self.fetch("SELECT * FROM payouts WHERE payout_id = $1", payout_id)[0]

    def fetch(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Rows of the ledger."""

        async def work() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.environment["DATABASE_URL"])
            try:
                return [dict(row) for row in await connection.fetch(statement, *parameters)]
            finally:
                await connection.close()

        return asyncio.run(work())

    def close(self) -> None:
        """End what documented commands started."""
        for process in (*self.workers, *self.exporters):
            if process.poll() is None:
                process.kill()
                process.wait(10)
        for exporter in self.exporters:
            if exporter.stderr is not None:
                exporter.stderr.close()
        self.lag_port.release()

    def _placeholder(self, found: re.Match[str]) -> str:
        if found[0] == "EXCEPTION_ID":
            return str(self.fetch("SELECT min(id) AS id FROM reconciliation_exceptions")[0]["id"])
        # A variable of the shell ends like a placeholder and stands behind a dollar sign.
        return self.placeholders.get(found[0], found[0])

    def _desk(self, document: str) -> Path:
        """A working directory for each document: both may make the same files."""
        desk = self.directory / document.replace("/", "-")
        desk.mkdir(exist_ok=True)
        return desk

    def _ours(self, words: list[str], document: str) -> Answer:
        with contextlib.chdir(self._desk(document)):
            result: Any = CliRunner().invoke(app, words, env=dict(self.environment))
        return Answer(result.exit_code, result.stdout, result.stderr)

    def _start_worker(self, words: list[str]) -> Answer:
        port_file = self.directory / f"documented-{len(self.workers)}.port"
        environment = {**self.environment, "PAYOUTS_HTTP_PORT": "0", "PAYOUTS_HTTP_PORT_FILE": str(port_file)}
        environment["PAYOUTS_WORKER_NAME"] = f"documented-{len(self.workers)}"
        with port_file.with_suffix(".log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "ops", *words[1:]],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers.append(worker)
        self.placeholders["WORKER_PID"] = str(worker.pid)
        deadline = time.monotonic() + WORKER_SECONDS_MAX
        while not port_file.exists() and worker.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        log_text = port_file.with_suffix(".log").read_text(errors="replace")
        return Answer(0 if port_file.exists() else 1, "", "" if port_file.exists() else log_text[-2000:])

    def _start_exporter(self, words: list[str]) -> Answer:
        """`payouts lag export`, left running: it is ready when it says where it listens."""
        self.lag_port.release()
        exporter = subprocess.Popen(
            [sys.executable, "-m", "ops", *words[1:]],
            env=dict(self.environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.exporters.append(exporter)
        assert exporter.stderr is not None
        said = exporter.stderr.readline().decode()
        return Answer(0 if "/metrics" in said else 1, "", said)

    def _where_it_is(self, text: str) -> Answer:
        """`kill -USR1`: its own exit code, and what the worker's log says then."""
        answer = self.shell(text, "RUNBOOK.md")
        log = self.directory / f"documented-{len(self.workers) - 1}.log"
        deadline = time.monotonic() + WORKER_SECONDS_MAX
        while "where it is" not in (said := log.read_text(errors="replace")) and time.monotonic() < deadline:
            time.sleep(0.1)
        told = "where it is" in said and self.workers[-1].poll() is None
        return Answer(answer.exit_code or int(not told), answer.stdout + said, answer.stderr)

    def _end_worker(self, text: str) -> Answer:
        """`kill -TERM`: its own exit code, and that of the worker, which must end by itself."""
        answer = self.shell(text, "RUNBOOK.md")
        worker = self.workers[-1]
        worker.wait(WORKER_SECONDS_MAX)
        return Answer(answer.exit_code or int(worker.returncode), answer.stdout, answer.stderr)


def missing_programs() -> list[str]:
    """What the documents' commands need beyond Python and is not here."""
    return [name for name in NEEDED_PROGRAMS if shutil.which(name) is None]


@contextlib.contextmanager
def running_system(kafka: KafkaCluster, postgres: PostgresServer, directory: Path) -> Iterator[RunningSystem]:
    """Topics, tables, the stand-in and one worker; every sample where it must be. Removes what it made."""
    database = f"payouts_docs_{uuid.uuid4().hex}"
    url = postgres.create_database(database)
    names = Names(
        uuid.uuid4().hex[:8], f"docs-{uuid.uuid4().hex[:8]}-", url, foreign_kafka=False, foreign_database=False
    )
    visa = VisaStandIn()
    try:
        visa.start()
        environment = _environment(kafka, names, visa, directory)
        _made(environment, "topics", "ensure", "--replication-factor", "1", "--partitions", str(PARTITIONS))
        _made(environment, "ledger", "migrate")
        main = MainWorker(environment, directory)
        with contextlib.ExitStack() as stack:
            stack.callback(main.stop)
            port = main.start()
            run = _played(environment, names, visa, directory)
            environment |= {"PAYOUTS_HTTP_PORT": str(port), "PATH": f"{_tools(kafka, directory)}:{os.environ['PATH']}"}
            system = RunningSystem(environment, directory, _placeholders(run, names), main)
            environment["PAYOUTS_LAG_PORT"] = str(system.lag_port.port)
            system.placeholders["LETTER_ID"] = _letter(system)
            system.placeholders["NEW_KEY_ID"] = _new_files(visa, system._desk("RUNBOOK.md"))
            try:
                yield system
            finally:
                system.close()
    finally:
        visa.stop()
        postgres.drop_database(database)


def _environment(kafka: KafkaCluster, names: Names, visa: VisaStandIn, directory: Path) -> dict[str, str]:
    servers = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "DATABASE_URL": names.database_url,
        "SCHEMA_REGISTRY_URL": "",
        "PAYOUTS_TOPIC_PREFIX": names.prefix,
        "PAYOUTS_OPERATOR": "documents",
        "PYTHONPATH": str(ROOT),
    }
    return worker_environment({**visa.environment(), **servers}, directory)


def _made(environment: Mapping[str, str], *words: str) -> None:
    result = CliRunner().invoke(app, list(words), env=dict(environment))
    assert result.exit_code == 0, result.stderr


def _played(environment: Mapping[str, str], names: Names, visa: VisaStandIn, directory: Path) -> DemoRun:
    """Send the samples and wait until each stands where it must."""
    shipped = load_samples()
    chosen = [sample.model_copy(update=SAMPLES[sample.name]) for sample in shipped.payouts if sample.name in SAMPLES]
    assert len(chosen) == len(SAMPLES), "a sample was renamed"
    by_name = {sample.name: sample for sample in chosen}
    chosen += [by_name[original].model_copy(update={"name": name}) for name, original in COPIES.items()]
    samples = SampleFile(defaults=shipped.defaults, payouts=chosen)
    run = DemoRun(SimpleNamespace(visa=visa), samples, names, environment, directory)  # type: ignore[arg-type]
    run.prepare_visa()
    run.produce()
    run.play_until_ended()
    run._codec.close()  # the demo lives as long as its process; this one does not
    wrong = {outcome.sample.name: outcome.problems for outcome in asyncio.run(run.outcomes()) if outcome.problems}
    assert wrong == {}, f"{wrong}\n{(directory / 'worker.log').read_text(errors='replace')[-2000:]}"
    return run


def _placeholders(run: DemoRun, names: Names) -> dict[str, str]:
    rows = {outcome.sample.name: outcome.row for outcome in asyncio.run(run.outcomes())}
    values = {"RUN": names.run} | {word: f"{sample}-{names.run}" for word, sample in PAYOUTS.items()}
    for word, sample in CASES.items():
        row = rows[sample]
        assert row is not None
        values[word] = str(row["review_case_id"])
    return values


def _letter(system: RunningSystem) -> str:
    """The dead letter that the undecodable sample became."""
    (place,) = system.fetch(
        "SELECT topic, partition_number, record_offset FROM intake WHERE disposition = 'DEAD_LETTER'"
    )
    return "{topic}-{partition_number}-{record_offset}".format(**place)


def _tools(kafka: KafkaCluster, directory: Path) -> Path:
    """Kafka's own tools under their usual names, psql, and `payouts` as an installation has it."""
    tools = directory / "tools"
    tools.mkdir()
    java = java_environment()
    for name, main_class in KAFKA_TOOLS.items():
        command = kafka._java_command(KAFKA_TOOL_HEAP_MEBIBYTES, directory, main_class)
        kept = " ".join(f"{key}={shlex.quote(value)}" for key, value in java.items())
        _script(tools / name, f'env -i {kept} {shlex.join(command)} "$@"')
    _script(tools / "psql", f'{shlex.quote(str(packaged_installation() / "bin" / "psql"))} --no-psqlrc "$@"')
    _script(tools / "payouts", f'{shlex.quote(sys.executable)} -m ops "$@"')
    return tools


def _new_files(visa: VisaStandIn, desk: Path) -> str:
    """What an operator has before he renews: a client certificate, and a message key, whose id this gives."""
    client = Path(visa.admin("POST", "/sandbox/keys/client")["directory"])
    message = visa.admin("POST", "/sandbox/keys/mle")
    made = {
        "new_client_cert.pem": client / "client_certificate.pem",
        "new_private_key.pem": client / "client_key.pem",
        "new_mle_private_key.pem": Path(message["directory"]) / "mle_client_private_key.pem",
    }
    for name, source in made.items():
        shutil.copy(source, desk / name)
        (desk / name).chmod(0o600)
    return str(message["key_id"])


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\nexec {line}\n", encoding="utf-8")
    path.chmod(0o755)
