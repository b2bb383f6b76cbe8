"""Memory of one worker in front of a small and a large backlog (issue: bounded memory), everything on this machine.

    python -m bench.backlog_memory [--small 10000] [--large 1000000] [--seconds 60]

For each backlog, on brokers and a database of its own: produce that many payout requests before any worker runs, start
one worker, and read its resident memory every half second while it works, for the same number of seconds. Prints one
JSON object a line, the last one with the difference of the two peaks; asserts nothing.
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
from sandbox.worker_process import run_command, worker_environment, worker_process
from schemas.codec import BlockingCodec

READ_EVERY_SECONDS = 0.5
SAY_EVERY = 100_000
QUEUE_MAX = 200_000
FLUSH_SECONDS = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both and print."""
    parser = argparse.ArgumentParser(
        prog="bench.backlog_memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", type=int, default=10_000, help="records in the small backlog")
    parser.add_argument("--large", type=int, default=1_000_000, help="records in the large backlog")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the worker works before each")
    options = parser.parse_args(arguments)
    small = _measure(options.small, options.seconds)
    large = _measure(options.large, options.seconds)
    _print({"rss_peak_difference_mb": round(large["rss_peak_mb"] - small["rss_peak_mb"], 1)})
    return 0


def _measure(count: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="payouts-bench-") as name, Stack(visa=True) as stack:
        directory = Path(name)
        environment = worker_environment(stack.environment(), directory) | {"PAYOUTS_LOG_LEVEL": "WARNING"}
        run_command(environment, "topics", "ensure", "--replication-factor", "1")
        run_command(environment, "ledger", "migrate")
        begun = time.monotonic()
        _produce(environment, directory, count)
        produced_seconds = time.monotonic() - begun
        with worker_process(environment, directory):
            worker = next(child for child in psutil.Process().children() if "worker" in child.cmdline())
            peak, last = _watch(worker, seconds)
        figures = {
            "backlog": count,
            "rss_peak_mb": peak,
            "rss_end_mb": last,
            "watched_seconds": seconds,
            "produced_in_seconds": round(produced_seconds, 1),
            "results_meanwhile": _results(environment),
        }
    _print(figures)
    return figures


def _watch(worker: psutil.Process, seconds: float) -> tuple[float, float]:
    peak = resident = 0.0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        resident = worker.memory_info().rss / 1e6
        peak = max(peak, resident)
        time.sleep(READ_EVERY_SECONDS)
    return round(peak, 1), round(resident, 1)


def _produce(environment: Mapping[str, str], directory: Path, count: int) -> None:
    samples = load_samples()
    party_key = json.loads((directory / "keys" / "party_public.jwks.json").read_text())["keys"][0]
    builder = RequestBuilder(samples.defaults, party_key, secrets.token_hex(4), datetime.now(UTC))
    template = builder.record(
        Sample(name="bench", amount="1000 USD", to="token:tok_approve", expect=Expectation(state="PAID"))
    )
    producer = Producer(
        {
            "bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"],
            "enable.idempotence": True,
            "linger.ms": 50,
            "queue.buffering.max.messages": QUEUE_MAX,
        }
    )
    codec = BlockingCodec()
    run = secrets.token_hex(4)
    for number in range(count):
        payout_id = f"bench-{run}-{number:07d}"
        funding = {**template["funding"], "internal": {"debit_confirmed": True, "confirmation_ref": f"d-{payout_id}"}}
        value = codec.encode("PayoutRequest", {**template, "payout_id": payout_id, "funding": funding})
        while True:
            try:
                producer.produce("payout_requests", value, payout_id)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        if (number + 1) % SAY_EVERY == 0:
            sys.stderr.write(f"produced {number + 1} of {count}\n")
    left = producer.flush(FLUSH_SECONDS)
    if left:
        raise RuntimeError(f"{left} records were not confirmed within {FLUSH_SECONDS:g} s")


def _results(environment: Mapping[str, str]) -> int:
    consumer = Consumer({"bootstrap.servers": environment["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "bench"})
    try:
        partitions = consumer.list_topics("payout_results", timeout=10).topics["payout_results"].partitions
        ends = (
            consumer.get_watermark_offsets(TopicPartition("payout_results", number), timeout=10)[1]
            for number in partitions
        )
        return sum(ends)
    finally:
        consumer.close()


def _print(figures: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
