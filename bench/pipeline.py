"""Throughput of the whole pipeline and memory of its worker, everything on this machine.

    python -m bench.pipeline [--payouts 2000] [--memory-payouts 10000]

For each stand-in latency: produce N payouts as fast as they go, then count terminal results until all are there.
payouts_per_second is N over the time from the first produced record to the last result: the stages of the flow work
through the backlog one after the other, so a window in the middle would flatter. Prints one JSON object a line;
asserts nothing.
"""

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition

from sandbox.samples.sample_file import Expectation, RequestBuilder, Sample, load_samples
from sandbox.servers.stack import Stack
from sandbox.servers.visa_stand_in import VisaStandIn
from sandbox.worker_process import run_command, worker_environment, worker_process
from schemas.codec import BlockingCodec

LATENCIES_MS = (0, 50)
LIMIT_SECONDS = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="bench.pipeline", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--payouts", type=int, default=2000, help="payouts for each latency")
    parser.add_argument(
        "--memory-payouts", type=int, default=10_000, help="payouts before the second memory reading; 0: skip"
    )
    options = parser.parse_args(arguments)
    for latency_ms in LATENCIES_MS:
        count = options.payouts if latency_ms else max(options.payouts, options.memory_payouts)
        _measure(count, latency_ms)
    return 0


def _measure(count: int, latency_ms: int) -> None:
    with tempfile.TemporaryDirectory(prefix="payouts-bench-") as name, Stack() as stack:
        directory = Path(name)
        stand_in = VisaStandIn(directory / "visa", latency_ms=latency_ms)
        stand_in.start()
        try:
            environment = worker_environment({**stack.environment(), **stand_in.environment()}, directory)
            environment["PAYOUTS_LOG_LEVEL"] = "WARNING"
            run_command(environment, "topics", "ensure", "--replication-factor", "1")
            run_command(environment, "ledger", "migrate")
            with worker_process(environment, directory):
                worker = next(child for child in psutil.Process().children() if "worker" in child.cmdline())
                idle_mb = worker.memory_info().rss / 1e6
                figures = _run(environment, directory, count)
                figures |= {"rss_idle_mb": round(idle_mb), "rss_after_mb": round(worker.memory_info().rss / 1e6)}
                figures["worker_cpu_ms_per_payout"] = round(sum(worker.cpu_times()[:2]) * 1000 / count, 2)
        finally:
            stand_in.stop()
    line = {"payouts": count, "stand_in_latency_ms": latency_ms, **figures}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _run(environment: Mapping[str, str], directory: Path, count: int) -> dict[str, Any]:
    consumer = Consumer({"bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "bench"})
    partitions = consumer.list_topics("payout_results", timeout=10).topics["payout_results"].partitions
    consumer.assign([TopicPartition("payout_results", number, 0) for number in partitions])
    begun = time.monotonic()
    produce(environment, directory, count)
    last_result_at = begun
    seen: set[bytes] = set()
    while len(seen) < count and time.monotonic() - begun < LIMIT_SECONDS:
        for message in consumer.consume(500, 0.2):
            if message.error() is None and message.key() not in seen:
                seen.add(bytes(message.key() or b""))
                last_result_at = time.monotonic()
    consumer.close()
    seconds = last_result_at - begun
    return {"results": len(seen), "seconds": round(seconds, 1), "payouts_per_second": round(len(seen) / seconds, 1)}


def produce(environment: Mapping[str, str], directory: Path, count: int) -> None:
    """So many payout requests, as fast as they go; returns when the broker has them."""
    samples = load_samples()
    party_key = json.loads((directory / "keys" / "party_public.jwks.json").read_text())["keys"][0]
    builder = RequestBuilder(samples.defaults, party_key, secrets.token_hex(4), datetime.now(UTC))
    template = builder.record(
        Sample(name="bench", amount="1000 USD", to="token:tok_approve", expect=Expectation(state="PAID"))
    )
    producer = Producer(
        {"bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"], "enable.idempotence": True, "linger.ms": 5}
    )
    codec = BlockingCodec()
    run = secrets.token_hex(4)
    for number in range(count):
        payout_id = f"bench-{run}-{number:07d}"
        funding = {**template["funding"], "internal": {"debit_confirmed": True, "confirmation_ref": f"d-{payout_id}"}}
        record = {**template, "payout_id": payout_id, "funding": funding}
        producer.produce("payout_requests", codec.encode("PayoutRequest", record), payout_id)
        producer.poll(0)
    producer.flush(60)


if __name__ == "__main__":
    sys.exit(main())
