"""What tracing costs a worker: its CPU a payout with tracing on, in proportion to off, within one run.

    python -m bench.tracing [--payouts 600] [--rounds 2]

A worker after the other on the same servers, off and on in turns (off on on off …), so that a machine that gets slower
meanwhile slows both alike. Every payout is traced (ratio 1) and every span is taken by a collector that only answers.
CPU is user and system time of the worker's process, its exporting thread included, from its first partition to the last
result. Prints one JSON object a line, the proportion last; asserts nothing.
"""

import argparse
import contextlib
import gzip
import json
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
from confluent_kafka import Consumer, TopicPartition
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.pipeline import LIMIT_SECONDS, produce
from sandbox.servers.stack import Stack
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.worker_process import run_command, worker_environment, worker_process

WARM_UP_PAYOUTS = 50
"""Of each worker, not counted: imports, connections, caches."""


class Collector:
    """Takes spans, keeps their bytes for a count afterwards."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    @contextlib.contextmanager
    def listen(self) -> Iterator[str]:
        """Its address."""
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        finally:
            server.shutdown()
            server.server_close()

    def spans(self) -> int:
        """How many came."""
        requests = [ExportTraceServiceRequest.FromString(gzip.decompress(body)) for body in self.bodies]
        return sum(len(s.spans) for request in requests for r in request.resource_spans for s in r.scope_spans)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="bench.tracing", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--payouts", type=int, default=600, help="payouts of each worker")
    parser.add_argument("--rounds", type=int, default=2, help="workers without and with tracing, each")
    options = parser.parse_args(arguments)
    collector = Collector()
    cpu_ms: dict[bool, list[float]] = {False: [], True: []}
    with (
        tempfile.TemporaryDirectory(prefix="payouts-bench-") as name,
        Stack() as stack,
        collector.listen() as endpoint,
    ):
        directory = Path(name)
        stand_in = VisaStandIn(directory / "visa")
        stand_in.start()
        try:
            environment = worker_environment({**stack.environment(), **stand_in.environment()}, directory)
            environment["PAYOUTS_LOG_LEVEL"] = "WARNING"
            # A starved machine is measured, too: it must not end the worker.
            environment |= {"PAYOUTS_LEASE_SECONDS": "120", "PAYOUTS_COMMIT_TIMEOUT_SECONDS": "60"}
            run_command(environment, "topics", "ensure", "--replication-factor", "1")
            run_command(environment, "ledger", "migrate")
            for number in range(options.rounds):
                for traced in (False, True) if number % 2 == 0 else (True, False):
                    setting = {"PAYOUTS_TRACING": "otlp", "PAYOUTS_TRACING_ENDPOINT": endpoint} if traced else {}
                    figure = _measure({**environment, **setting}, directory, options.payouts)
                    cpu_ms[traced].append(figure)
                    _print({"tracing": traced, "payouts": options.payouts, "worker_cpu_ms_per_payout": figure})
        finally:
            stand_in.stop()
    off, on = (statistics.fmean(cpu_ms[traced]) for traced in (False, True))
    payouts = options.rounds * (options.payouts + WARM_UP_PAYOUTS)
    _print({"on_to_off": round(on / off, 3), "spans_per_payout": round(collector.spans() / payouts, 1)})
    return 0


def _print(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _measure(environment: Mapping[str, str], directory: Path, count: int) -> float:
    """CPU milliseconds a payout of a fresh worker."""
    name = f"worker-{secrets.token_hex(4)}"
    own = {**environment, "PAYOUTS_WORKER_NAME": name, "PAYOUTS_HTTP_PORT_FILE": str(directory / f"{name}.port")}
    with worker_process(own, directory, name):
        worker = next(child for child in psutil.Process().children() if "worker" in child.cmdline())
        _run(own, directory, WARM_UP_PAYOUTS, worker)
        before = sum(worker.cpu_times()[:2])
        _run(own, directory, count, worker)
        return round((sum(worker.cpu_times()[:2]) - before) * 1000 / count, 2)


def _run(environment: Mapping[str, str], directory: Path, count: int, worker: psutil.Process) -> None:
    """Produce, and wait for as many results behind those of before."""
    consumer = Consumer({"bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "bench"})
    with contextlib.closing(consumer):
        partitions = consumer.list_topics("payout_results", timeout=10).topics["payout_results"].partitions
        places = [TopicPartition("payout_results", number) for number in partitions]
        ends = [consumer.get_watermark_offsets(place, 10)[1] for place in places]
        consumer.assign([TopicPartition(p.topic, p.partition, end) for p, end in zip(places, ends, strict=True)])
        produce(environment, directory, count)
        seen: set[bytes] = set()
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(seen) < count:
            if time.monotonic() > deadline or worker.status() == psutil.STATUS_ZOMBIE:
                raise TimeoutError(f"{len(seen)} of {count} results; see the worker's log in {directory}")
            seen |= {bytes(m.key() or b"") for m in consumer.consume(500, 0.2) if m.error() is None}


if __name__ == "__main__":
    sys.exit(main())
