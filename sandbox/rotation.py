"""Certificates and message keys are renewed while payouts run: nothing lost, nothing twice, nothing failed.

    python -m sandbox.rotation --payouts 5000

Real Kafka, PostgreSQL, TLS and message encryption; the stand-in takes some seconds over each push, until the last
exchange is over. All payouts are validated and screened first, so that calls leave as fast as they may: what is in
flight then is bounded by VISA_CALLS_MAX and not by the stages before. Meanwhile, in every worker:

    certificate by signal         another client certificate under the same names, SIGHUP
    certificate back by order     `payouts certs rollback`
    certificate by order          `payouts certs reload`
    certificate by file           a third one, and nobody says anything
    keys beside by signal         the runbook's steps: the next pair beside the one in use,
    keys new by file              then the other way round, while Visa answers to the new one,
    keys alone by signal          then the new one alone, and Visa takes the old one no longer

For each the least number of pushes in flight is told, as the stand-in counts them, from just before it was asked for
until the last worker had it. Then an audit; exit 0 only if all of that is as it must be, and every payout is PAID by
its first and only call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sandbox.auditor.audit import audit
from sandbox.auditor.evidence import EvidenceIncomplete, JournalUnreadable
from sandbox.auditor.leak import ScanFailed
from sandbox.auditor.verdict import Verdict
from sandbox.faults.aim import PATIENT_CONNECT_SECONDS, LedgerAway, LedgerWatch
from sandbox.faults.fleet import Fleet, FleetWorker
from sandbox.faults.load import CARDS_APPROVED, Load, LoadFailed, PlannedPayout, planted_cards
from sandbox.servers.kafka import KafkaCluster
from sandbox.servers.postgres import PostgresServer
from sandbox.servers.processes import ServerError, in_parallel
from sandbox.servers.stack import ending_signals_ignored
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.verdict_run import run_to_verdict, say
from sandbox.worker_process import CommandFailed, run_command, worker_environment

PAYOUTS: Final = 5_000
IN_FLIGHT_MIN: Final = 200
"""Pushes in flight that a swap must meet, all workers together."""
CALLS_MAX: Final = 256
"""VISA_CALLS_MAX of each worker: two of them keep well over IN_FLIGHT_MIN in flight."""
WORKERS: Final = 2
LATENCY_SECONDS: Final = 4.0
"""Of each push: a call a hundredth of a second is then enough for twice IN_FLIGHT_MIN. Visa takes up to 30."""
PRODUCTION_PATIENCE: Final = {"PAYOUTS_COMMIT_TIMEOUT_SECONDS": "20", "PAYOUTS_LEASE_SECONDS": "60"}
"""Everything is on one machine, at its limit: the test profile's 5 s would call a slow broker a dead one (K5)."""
PARTITIONS: Final = 12
SAMPLE_SECONDS: Final = 0.03
POLL_SECONDS: Final = 0.05
TAKEN_SECONDS: Final = 30.0
"""For a swap to reach every worker: a file is looked at every two seconds, twice; then two probes."""
CLEARED_SECONDS: Final = 300.0
PAID_SECONDS: Final = 300.0
STUCK_AFTER_SECONDS: Final = 60.0
CERTIFICATE, KEY = "client_certificate.pem", "client_key.pem"
SAID: Final = ("--reason", "a rotation under load", "--operator", "rotation")
LATENCY_SECONDS_MAX: Final = 25.0
"""Above 30 Visa answers 202."""
SEEDS: Final = 1_000_000
"""A seed is part of every payout_id, which must not look like a card number."""

Facts = Mapping[str, Any]
"""Of `visa` on a worker's health page."""

FAILURES: Final = (
    ServerError, CommandFailed, LoadFailed, LedgerAway, KafkaException, EvidenceIncomplete, ScanFailed,
    JournalUnreadable, OSError,
)  # fmt: skip

CLEARED: Final = (
    "SELECT count(*) AS rows FROM payouts WHERE state = 'CLEARED' AND announced_version >= announce_version"
)
ENDED: Final = "SELECT count(*) AS rows FROM payouts WHERE state = 'PAID' AND announced_version >= announce_version"
OTHERWISE: Final = """
SELECT count(*) FILTER (WHERE state <> 'PAID') AS unpaid,
       count(*) FILTER (WHERE attempts <> 1 OR ambiguous OR inquiries > 0) AS not_by_first_call
FROM payouts
"""


class RotationFailed(Exception):
    """The run could not be carried through; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much is done."""

    payouts: int = PAYOUTS
    workers: int = WORKERS
    latency_seconds: float = LATENCY_SECONDS
    in_flight_min: int = IN_FLIGHT_MIN
    swaps: tuple[str, ...] = ()
    """Names of `SWAPS`, in the order in which they come; empty: `ALL_SWAPS`."""
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What the run uses: the stand-in must be its own, because its keys are changed."""

    bootstrap_servers: str
    database_url: str
    visa: VisaStandIn
    topic_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Swap:
    """One exchange in every worker."""

    name: str
    in_flight_least: int
    in_flight_first: int
    seconds: float

    def line(self) -> str:
        """For stdout."""
        return (
            f"swap {self.name:<26} in_flight_least={self.in_flight_least} in_flight_first={self.in_flight_first} "
            f"seconds={self.seconds:.1f}"
        )


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    payouts: int
    swaps: list[Swap] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Every swap met enough calls, every payout was paid by its first call, and the audit found nothing."""
        return self.verdict is not None and self.verdict.clean and bool(self.swaps) and not self.problems

    def lines(self) -> Iterator[str]:
        """For stdout: each swap, then the verdict with what this run adds to it."""
        for swap in self.swaps:
            yield swap.line()
        yield self.line()

    def line(self) -> str:
        """The verdict line, with what this run adds to it."""
        least = min((swap.in_flight_least for swap in self.swaps), default=0)
        told = f"rotation swaps={len(self.swaps)} in_flight_least={least} problems={len(self.problems)}"
        verdict = "no verdict" if self.verdict is None else self.verdict.line()
        return f"{told} seconds={self.seconds:.0f} {verdict}"


def planned(seed: int, number: int) -> PlannedPayout:
    """A payout that is paid; half of them to a card number, half to a token."""
    card = CARDS_APPROVED[number // 2 % len(CARDS_APPROVED)]
    return PlannedPayout(
        number=number,
        payout_id=f"rotation{seed}-n{number:08d}",
        purpose="approved",
        funding="INTERNAL",
        corridor="US-US-USD",
        amount_minor=100 + number % 80_000,
        currency="USD",
        recipient=f"card:{card}" if number % 2 else f"token:tok_approve_{number:07d}",
        extra="none",
    )


class VisaFilesOfWorkers:
    """The files that the workers read, and what is exchanged in them; the stand-in issues what is new."""

    def __init__(self, directory: Path, visa: VisaStandIn, calls_max: int) -> None:
        self._visa = visa
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True)
        self.settings_file = directory / "visa.env"
        self._settings = visa.environment() | {"VISA_CALLS_MAX": str(calls_max)}
        for variable, name in (("VISA_CERT_PATH", CERTIFICATE), ("VISA_KEY_PATH", KEY)):
            self._put(directory / name, Path(self._settings[variable]).read_bytes())
            self._settings[variable] = str(directory / name)
        self._old: Mapping[str, str] = {}
        self._new: Mapping[str, str] = {}
        self._write_settings({})

    def another_certificate(self) -> str:
        """A further client certificate under the same names; its fingerprint."""
        issued = Path(self._visa.admin("POST", "/sandbox/keys/client")["directory"])
        # Certificate and key are two files: a worker that reads in between finds that they do not fit, and waits.
        for name in (CERTIFICATE, KEY):
            self._put(self._directory / name, (issued / name).read_bytes())
        return self.fingerprint()

    def fingerprint(self) -> str:
        """Of the certificate that lies there now."""
        certificate = x509.load_pem_x509_certificate((self._directory / CERTIFICATE).read_bytes())
        return certificate.fingerprint(hashes.SHA256()).hex()

    def next_keys_beside(self) -> list[str]:
        """Another pair, which answers may come to; the ids that open answers then."""
        issued = self._visa.admin("POST", "/sandbox/keys/mle")
        directory = Path(issued["directory"])
        self._new = {
            "VISA_MLE_KEY_ID": str(issued["key_id"]),
            "VISA_MLE_PRIVATE_KEY_PATH": str(directory / "mle_client_private_key.pem"),
            "VISA_MLE_SERVER_CERTIFICATE_PATH": str(directory / "mle_server_certificate.pem"),
        }
        self._old = {name: self._settings[name] for name in self._new}
        self._write_settings(_beside(self._new))
        return [self._old["VISA_MLE_KEY_ID"], self._new["VISA_MLE_KEY_ID"]]

    def new_keys_in_use(self) -> str:
        """The other way round; from now on Visa answers to the new one only. Its id."""
        self._settings |= self._new
        self._visa.admin("PUT", "/sandbox/keys", {"answers_with": self._new["VISA_MLE_KEY_ID"]})
        self._write_settings(_beside(self._old))
        return self._new["VISA_MLE_KEY_ID"]

    def new_keys_alone(self) -> str:
        """The new pair and no other; its id."""
        self._write_settings({})
        return self._new["VISA_MLE_KEY_ID"]

    def forget_old_key(self) -> None:
        """Visa takes it no longer, if there was a newer one."""
        if self._old:
            self._visa.admin("DELETE", f"/sandbox/keys/mle/{self._old['VISA_MLE_KEY_ID']}")

    def _write_settings(self, more: Mapping[str, str]) -> None:
        lines = "".join(f"{name}={value}\n" for name, value in {**self._settings, **more}.items())
        self._put(self.settings_file, lines.encode())

    @staticmethod
    def _put(path: Path, content: bytes) -> None:
        """Complete before it has its name, and for its owner only."""
        part = path.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_bytes(content)
        part.replace(path)


def _beside(pair: Mapping[str, str]) -> dict[str, str]:
    return {
        "VISA_MLE_NEXT_KEY_ID": pair["VISA_MLE_KEY_ID"],
        "VISA_MLE_NEXT_PRIVATE_KEY_PATH": pair["VISA_MLE_PRIVATE_KEY_PATH"],
    }


class InFlight(threading.Thread):
    """Asks the stand-in all the time how many pushes it is working on."""

    def __init__(self, visa: VisaStandIn) -> None:
        super().__init__(name="in-flight", daemon=True)
        self._visa = visa
        self._stopping = threading.Event()
        self.samples: list[tuple[float, int]] = []
        """Monotonic seconds before the question, and the answer."""

    @property
    def now(self) -> int:
        """The last answer."""
        return self.samples[-1][1] if self.samples else 0

    def least(self, since: float, until: float) -> int:
        """The smallest answer to a question that was asked in this time."""
        return min((number for at, number in self.samples if since <= at <= until), default=0)

    def stop(self) -> None:
        """End the thread, if it runs."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """Until stopped; a question that fails says nothing. If all fail, that counts as nothing in flight."""
        while not self._stopping.wait(SAMPLE_SECONDS):
            at = time.monotonic()
            with contextlib.suppress(ServerError):
                self.samples.append((at, int(self._visa.admin("GET", "/sandbox/health")["in_flight"])))


class Rotation:
    """One run, on servers that are there."""

    def __init__(self, options: Options, servers: Servers, directory: Path) -> None:
        self._options = options
        self._servers = servers
        self._directory = directory
        self._journal = directory / "accepted.jsonl"
        self._outcome = Outcome(options.payouts)
        self._files = VisaFilesOfWorkers(directory / "visa-files", servers.visa, CALLS_MAX)
        shared = {
            "KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
            "DATABASE_URL": servers.database_url,
            "SCHEMA_REGISTRY_URL": "",
            "PAYOUTS_TOPIC_PREFIX": servers.topic_prefix,
            "PAYOUTS_SETTINGS_FILE": str(self._files.settings_file),
            "PAYOUTS_IN_FLIGHT_MAX": str(CALLS_MAX),
            "PAYOUTS_LOG_LEVEL": "WARNING",
            **PRODUCTION_PATIENCE,
        }
        # Settings of the environment win over those of the file, and the file is what changes.
        inherited = worker_environment(shared, directory)
        self._environment = {name: value for name, value in inherited.items() if not name.startswith("VISA_")}
        self._in_flight = InFlight(servers.visa)
        self._stopped: list[FleetWorker] = []
        self._before = self._files.fingerprint()
        self._watch: LedgerWatch
        self._fleet = Fleet(self._environment, directory / "workers", "sandbox.rotation_worker")

    def carry_out(self) -> Outcome:
        """All of it. Raises RotationFailed and FAILURES; stops everything that it started."""
        begun = time.monotonic()
        try:
            self._prepare()
            watch = LedgerWatch(self._servers.database_url, connect_seconds=PATIENT_CONNECT_SECONDS)
            with contextlib.closing(watch) as self._watch:
                self._clear_everything()
                workers = self._start_paying()
                self._in_flight.start()
                for name in self._options.swaps or ALL_SWAPS:
                    self._swap(name, workers)
                self._files.forget_old_key()
                self._end_latency()
                self._wait("every payout PAID", PAID_SECONDS, partial(self._count, ENDED))
                self._stop(workers)
                self._look_at_rows()
        finally:
            self._in_flight.stop()
            self._fleet.kill_all()
        self._outcome.verdict = self._audit()
        self._outcome.seconds = time.monotonic() - begun
        return self._outcome

    def _prepare(self) -> None:
        self._servers.visa.admin("PUT", "/sandbox/knobs", {"latency_seconds": self._options.latency_seconds})
        topics = ("topics", "ensure", "--replication-factor", "1", "--partitions", str(PARTITIONS))
        in_parallel([partial(_run, self._environment, words) for words in (topics, ("ledger", "migrate"))])

    def _end_latency(self) -> None:
        """It was for the swaps: what is in flight is answered now, and what follows at once."""
        ahead = {"latency_seconds": 0, "clock_ahead_seconds": self._options.latency_seconds}
        self._servers.visa.admin("PUT", "/sandbox/knobs", ahead)

    def _clear_everything(self) -> None:
        """All requests sent, validated and screened, by a worker that calls nobody."""
        front = self._fleet.start_worker("validate", "comply")
        front.wait_ready()
        keys = self._directory / "keys" / "party_public.jwks.json"
        load = Load(
            seed=self._options.seed,
            bootstrap_servers=self._servers.bootstrap_servers,
            topic_prefix=self._servers.topic_prefix,
            party_key=json.loads(keys.read_text())["keys"][0],
            admin_url=self._servers.visa.admin_url,
            journal=self._journal,
            may_send=lambda: self._options.payouts,
            plan=planned,
        )

        def sent() -> int:
            load.check()
            return load.sent

        load.start()
        self._wait("every request sent", CLEARED_SECONDS, sent)
        load.finish()
        self._wait("every payout CLEARED", CLEARED_SECONDS, partial(self._count, CLEARED))
        self._stop([front])

    def _start_paying(self) -> list[FleetWorker]:
        workers = [self._fleet.start_worker() for _ in range(self._options.workers)]
        for worker in workers:
            worker.wait_ready()
        return workers

    def _swap(self, name: str, workers: Sequence[FleetWorker]) -> None:
        """One exchange in every worker, and how many calls it met."""
        needed = self._options.in_flight_min
        self._until(f"{needed} calls in flight for {name}", lambda: self._in_flight.now >= needed)
        asked_at, begun, first = datetime.now(UTC), time.monotonic(), self._in_flight.now
        wanted = SWAPS[name](self, workers)
        self._until(f"{name} in every worker", lambda: all(_uses(worker, wanted, asked_at) for worker in workers))
        until = time.monotonic()
        self._until("a last look at what is in flight", lambda: self._in_flight.samples[-1][0] >= until)
        swap = Swap(name, self._in_flight.least(begun, until), first, until - begun)
        self._outcome.swaps.append(swap)
        say(f"{swap.line()} paid={self._count(ENDED)}")
        if swap.in_flight_least < needed:
            self._outcome.problems.append(f"{name}: {swap.in_flight_least} calls in flight, {needed} are needed")

    # What is exchanged; each returns what a worker shows that has it.

    def certificate_by_signal(self, workers: Sequence[FleetWorker]) -> Facts:
        """Another certificate; SIGHUP."""
        self._before = self._files.fingerprint()
        wanted = self._files.another_certificate()
        _signal(workers)
        return {"certificate_sha256": wanted}

    def certificate_back_by_order(self, _: Sequence[FleetWorker]) -> Facts:
        """The one before, which is still in the workers' memory."""
        run_command(self._environment, "certs", "rollback", *SAID)
        return {"certificate_sha256": self._before}

    def certificate_by_order(self, _: Sequence[FleetWorker]) -> Facts:
        """The one that lies there."""
        run_command(self._environment, "certs", "reload", *SAID)
        return {"certificate_sha256": self._files.fingerprint()}

    def certificate_by_file(self, _: Sequence[FleetWorker]) -> Facts:
        """Another certificate; the workers see it."""
        return {"certificate_sha256": self._files.another_certificate()}

    def keys_beside_by_signal(self, workers: Sequence[FleetWorker]) -> Facts:
        """The next pair beside the one in use; SIGHUP."""
        wanted = self._files.next_keys_beside()
        _signal(workers)
        return {"decrypts_with": wanted}

    def keys_new_by_file(self, _: Sequence[FleetWorker]) -> Facts:
        """The new pair in use; the workers see it."""
        return {"mle_key_id": self._files.new_keys_in_use()}

    def keys_new_by_signal(self, workers: Sequence[FleetWorker]) -> Facts:
        """The same; SIGHUP."""
        wanted = self._files.new_keys_in_use()
        _signal(workers)
        return {"mle_key_id": wanted}

    def keys_alone_by_signal(self, workers: Sequence[FleetWorker]) -> Facts:
        """The new pair alone; SIGHUP. What is left of the old one opens late answers."""
        wanted = self._files.new_keys_alone()
        _signal(workers)
        return {"mle_key_id": wanted}

    # Looking on.

    def _count(self, statement: str) -> int:
        return int(self._watch.fetch(statement)[0]["rows"])

    def _wait(self, what: str, seconds: float, count: Callable[[], int]) -> None:
        """Until the count is that of the payouts; says how far it is."""
        said = 0.0
        deadline = time.monotonic() + seconds
        while (number := count()) < self._options.payouts:
            self._check()
            if time.monotonic() > deadline:
                raise RotationFailed(f"not in {seconds:.0f} s: {what}; it is {number} of {self._options.payouts}")
            if time.monotonic() - said >= 5.0:
                said = time.monotonic()
                say(f"{what}: {number} of {self._options.payouts}; in flight {self._in_flight.now}")
            time.sleep(POLL_SECONDS * 4)

    def _until(self, what: str, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TAKEN_SECONDS
        while not check():
            self._check()
            if time.monotonic() > deadline:
                raise RotationFailed(f"not in {TAKEN_SECONDS:.0f} s: {what}; in flight {self._in_flight.now}")
            time.sleep(POLL_SECONDS)

    def _check(self) -> None:
        """Nobody started a worker again, so one that has ended is a failure."""
        for worker in self._fleet.all_workers:
            if not worker.alive and worker not in self._stopped:
                raise RotationFailed(f"{worker} ended by itself with {worker.exit_code}.{worker.log_tail()}")

    def _stop(self, workers: Sequence[FleetWorker]) -> None:
        for worker in workers:
            self._stopped.append(worker)
            if (exit_code := worker.terminate()) != 0:
                self._outcome.problems.append(f"{worker} ended with {exit_code}")

    def _look_at_rows(self) -> None:
        row = self._watch.fetch(OTHERWISE)[0]
        if row["unpaid"]:
            self._outcome.problems.append(f"{row['unpaid']} payouts are not PAID")
        if row["not_by_first_call"]:
            self._outcome.problems.append(f"{row['not_by_first_call']} payouts needed more than one call")

    def _audit(self) -> Verdict:
        visa = self._servers.visa
        assert visa.directory is not None
        verdict = audit(
            self._journal,
            bootstrap_servers=self._servers.bootstrap_servers,
            database_url=self._servers.database_url,
            stand_in_admin_url=visa.admin_url,
            fingerprint_key=(visa.directory / "credentials" / "fingerprint.key").read_bytes(),
            topic_prefix=self._servers.topic_prefix,
            card_numbers=planted_cards(),
            scan=[self._directory / "workers", visa.directory],
            stuck_after_seconds=STUCK_AFTER_SECONDS,
        )
        self._outcome.problems += verdict.problems()
        if verdict.counts["paid"] != self._options.payouts:
            self._outcome.problems.append(f"{verdict.counts['paid']} of {self._options.payouts} payouts are paid")
        return verdict


SWAPS: Final[Mapping[str, Callable[[Rotation, Sequence[FleetWorker]], Facts]]] = {
    "certificate by signal": Rotation.certificate_by_signal,
    "certificate back by order": Rotation.certificate_back_by_order,
    "certificate by order": Rotation.certificate_by_order,
    "certificate by file": Rotation.certificate_by_file,
    "keys beside by signal": Rotation.keys_beside_by_signal,
    "keys new by file": Rotation.keys_new_by_file,
    "keys new by signal": Rotation.keys_new_by_signal,
    "keys alone by signal": Rotation.keys_alone_by_signal,
}
ALL_SWAPS: Final = tuple(name for name in SWAPS if name != "keys new by signal")
"""Keys come into use once: by file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 as it must be, 1 otherwise, 2 misuse (argparse)."""
    options, keep = _options(arguments)
    return run_to_verdict("rotation", keep, lambda path: _on_own_servers(options, path), (RotationFailed, *FAILURES))


def _on_own_servers(options: Options, directory: Path) -> Outcome:
    kafka = KafkaCluster(directory / "kafka", brokers=1)
    postgres = PostgresServer(directory / "postgres")
    visa = VisaStandIn(directory / "visa")
    started = (kafka, postgres, visa)
    try:
        in_parallel([server.start for server in started])
        servers = Servers(bootstrap_servers=kafka.bootstrap_servers, database_url=postgres.url, visa=visa)
        return Rotation(options, servers, directory / "run").carry_out()
    finally:
        with ending_signals_ignored():
            in_parallel([server.stop for server in started])


def _uses(worker: FleetWorker, wanted: Facts, asked_at: datetime) -> bool:
    """Whether a worker sends with what is wanted, and has done so since it was asked for."""
    facts = worker.health().get("visa") or {}
    shown = all(facts.get(name) == value for name, value in wanted.items())
    return shown and datetime.fromisoformat(facts["since"]) >= asked_at


def _signal(workers: Sequence[FleetWorker]) -> None:
    for worker in workers:
        os.kill(worker.pid, signal.SIGHUP)


def _run(environment: Mapping[str, str], words: tuple[str, ...]) -> None:
    run_command(environment, *words)


def _options(arguments: Sequence[str] | None) -> tuple[Options, Path | None]:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.rotation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--payouts", type=int, default=PAYOUTS, help="in all (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=WORKERS, help="that pay (default: %(default)s)")
    parser.add_argument("--latency", type=float, default=LATENCY_SECONDS, help="seconds of a push (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="part of every payout_id")
    parser.add_argument("--keep", type=Path, help="keep everything in this directory, which other users may enter")
    given = parser.parse_args(arguments)
    if given.payouts < 1 or given.workers < 1 or not 0 <= given.latency < LATENCY_SECONDS_MAX:
        parser.error(f"at least one payout and one worker, and a latency from 0 to {LATENCY_SECONDS_MAX} s")
    options = Options(
        payouts=given.payouts, workers=given.workers, latency_seconds=given.latency, seed=given.seed % SEEDS
    )
    return options, given.keep


if __name__ == "__main__":
    sys.exit(main())
