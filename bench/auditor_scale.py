"""How long the auditor takes and how much memory, for runs of 100,000 and 1,000,000 payouts.

    python -m bench.auditor_scale [--payouts 100000 1000000] [--topic-records 200000]

Three measurements, one JSON object a line: judging synthetic evidence (each size in a process of its own), searching
text, base64 and binary bytes for card numbers on one core, and reading real topics of a broker (that of
KAFKA_BOOTSTRAP_SERVERS, else one of our own). Seconds of judging and searching are of the processor, those of the
topics of the clock. Asserts nothing but that a clean run is clean.
"""

import argparse
import base64
import json
import multiprocessing
import os
import resource
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it is exported

from sandbox.auditor.evidence import (
    Accepted,
    Evidence,
    LedgerRow,
    Position,
    ResultEvent,
    StandInEntry,
    collection_paused,
)
from sandbox.auditor.leak import CardNumberSearch
from sandbox.auditor.topics import read_topics
from sandbox.auditor.verdict import FaultCounts, judge
from sandbox.servers.kafka import ForeignKafka, KafkaCluster
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from schemas.codec import BlockingCodec
from schemas.sender_reference import sender_reference
from schemas.topics import TOPICS, topic_name

KEY = b"k" * 32
RECIPIENTS = 1_000
SEARCHED_BYTES = 32_000_000
PARTITIONS = 12
CREATED_SECONDS = 30.0
# A tenth of the payouts is declined by Visa, and nobody has anything to hand back.
DECLINED_EVERY = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="bench.auditor_scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--payouts", type=int, nargs="*", default=[100_000, 1_000_000], help="sizes to judge")
    parser.add_argument("--topic-records", type=int, default=200_000, help="records to read from a broker; 0: skip")
    options = parser.parse_args(arguments)
    for payouts in options.payouts:
        # A process of its own each, so that one's memory is not the other's.
        process = multiprocessing.get_context("spawn").Process(target=_measure_judge, args=(payouts,))
        process.start()
        process.join()
        if process.exitcode != 0:
            return 1
    _measure_search()
    if options.topic_records:
        _measure_topics(options.topic_records)
    return 0


def _measure_judge(payouts: int) -> None:
    with collection_paused():
        began = time.process_time()
        evidence = _evidence(payouts)
        built_seconds, built_mebibytes = time.process_time() - began, _resident_mebibytes()
        began = time.process_time()
        verdict = judge(evidence, stuck_after_seconds=60.0, now=datetime.now(UTC), faults=FaultCounts())
        seconds = time.process_time() - began
    assert verdict.clean, verdict.problems()[:5]
    _tell(
        "judge",
        payouts=payouts,
        seconds=round(seconds, 1),
        evidence_seconds=round(built_seconds, 1),
        evidence_mebibytes=built_mebibytes,
        peak_mebibytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


def _evidence(payouts: int) -> Evidence:
    evidence = Evidence(KEY)
    received_at = datetime.now(UTC) - timedelta(minutes=10)
    recipients = [f"tok_approve_{number:06d}" for number in range(RECIPIENTS)]
    fingerprints = [recipient_fingerprint(KEY, recipient) for recipient in recipients]
    for number in range(payouts):
        payout_id, minor, who = f"payout-{uuid.UUID(int=number)}", 1_000 + number % 100_000, number % RECIPIENTS
        state = "DECLINED" if number % DECLINED_EVERY == 0 else "PAID"
        # As read from a topic, a table and a journal, equal values are objects of their own.
        acknowledged, source = (Position("payout_requests", number % 12, number // 12) for _ in range(2))
        evidence.accepted.append(Accepted(acknowledged, payout_id, f"{number:064x}", minor, "USD", recipients[who]))
        at = received_at - timedelta(milliseconds=number % 1_000)
        evidence.rows.append(LedgerRow(payout_id, source, minor, "USD", state, at, at))
        evidence.results.append(ResultEvent(payout_id, str(uuid.UUID(int=number)), state, minor, "USD", 6))
        decimal, reference = f"{minor // 100}.{minor % 100:02d}", sender_reference(payout_id)
        approved, identifier = state == "PAID", f"2{number:013d}7"
        entry = StandInEntry(number, "push", approved, decimal, "USD", fingerprints[who], reference, identifier)
        evidence.entries.append(entry)
    return evidence


def _measure_search() -> None:
    search = CardNumberSearch(f"4{number:014d}0" for number in range(RECIPIENTS))
    line = {"at": "2025-11-22T10:00:00.123456+00:00", "event": "advanced", "payout_id": "payout-3f9a", "amount": 2500}
    samples = {
        "log lines": (json.dumps(line) + "\n").encode() * (SEARCHED_BYTES // 100),
        "base64": base64.urlsafe_b64encode(os.urandom(SEARCHED_BYTES * 3 // 4)),
        "binary": os.urandom(SEARCHED_BYTES),
        "hexadecimal": os.urandom(SEARCHED_BYTES // 2).hex().encode(),
    }
    for name, data in samples.items():
        began = time.process_time()
        own, suspicious = len(list(search.own(data))), len(list(search.suspicious(data)))
        seconds = time.process_time() - began
        megabytes = round(len(data) / 1e6 / seconds, 1)
        _tell(
            "search", bytes_of=name, megabytes_per_second=megabytes, numbers=RECIPIENTS, own=own, suspicious=suspicious
        )


def _measure_topics(records: int) -> None:
    """Requests, two stage events and a result for each payout, as a run leaves them."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    kafka = ForeignKafka(named) if named else KafkaCluster()
    kafka.start()
    try:
        prefix = f"bench{uuid.uuid4().hex[:8]}-"
        topics = [
            NewTopic(topic_name(name, prefix), num_partitions=PARTITIONS, replication_factor=1) for name in TOPICS
        ]
        client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        for created in client.create_topics(topics).values():
            created.result(CREATED_SECONDS)
        written = _produce(kafka.bootstrap_servers, prefix, records)
        evidence = Evidence(KEY)
        began = time.monotonic()
        read_topics(evidence, CardNumberSearch([]), bootstrap_servers=kafka.bootstrap_servers, topic_prefix=prefix)
        seconds = time.monotonic() - began
        assert len(evidence.results) == records // 4, len(evidence.results)
        assert not evidence.broken, evidence.broken[:5]
        _tell(
            "topics",
            records=records // 4 * 4,
            megabytes=round(written / 1e6),
            seconds=round(seconds, 1),
            records_per_second=round(records / seconds),
            own_mebibytes=_resident_mebibytes(),
        )
    finally:
        kafka.stop()


def _produce(bootstrap_servers: str, prefix: str, records: int) -> int:
    """Bytes written."""
    values = _values()
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 50, "compression.type": "gzip"})
    for number in range(records // 4):
        for topic, value in values.items():
            headers: list[tuple[str, bytes]] = [
                ("ce_id", str(uuid.UUID(int=number)).encode()),
                ("ce_type", b"io.payoutstreams.payout.v1"),
                ("content-type", b"application/avro"),
            ]
            while True:
                try:
                    producer.produce(
                        topic_name(topic, prefix), value, f"payout-{number}".encode(), headers=list(headers)
                    )
                    break
                except BufferError:
                    producer.poll(1.0)
    assert producer.flush(CREATED_SECONDS * 4) == 0
    return sum(map(len, values.values())) * (records // 4)


def _values() -> dict[str, bytes]:
    """One record of each topic; a request has some two KiB of encrypted card and personal data."""
    now = datetime.now(UTC)
    sealed = base64.urlsafe_b64encode(os.urandom(600)).decode()
    common: dict[str, Any] = {
        "payout_id": "payout-3f9a",
        "originator_id": "bench",
        "amount": {"amount_minor": 2_500, "currency": "USD"},
        "corridor": {
            "source_country": "US",
            "source_currency": "USD",
            "target_country": "GB",
            "target_currency": "GBP",
        },
        "correlation_id": "correlation-3f9a",
    }
    stage = common | {"version": 2, "decided_at": now}
    request = common | {
        "funding": {"kind": "INTERNAL", "internal": {"debit_confirmed": True, "confirmation_ref": "hold-17"}},
        "destination": {"kind": "CARD", "card": {"encrypted_card": sealed}},
        "personal_data": sealed * 2,
        "requested_at": now,
    }
    result = stage | {
        "status": "PAID",
        "attempts": 1,
        "policy_version": "2025-11",
        "compensation_required": False,
        "sender_reference": "PABCDEFGHIJKLMNO",
        "requested_at": now,
    }
    with BlockingCodec() as codec:
        return {
            "payout_requests": codec.encode("PayoutRequest", request),
            "payout_validated": codec.encode("ValidatedPayout", stage),
            "payout_cleared": codec.encode("ClearedPayout", stage),
            "payout_results": codec.encode("PayoutResult", result),
        }


def _resident_mebibytes() -> int:
    pages = int(open("/proc/self/statm", encoding="ascii").read().split()[1])  # noqa: SIM115, PTH123
    return pages * resource.getpagesize() // (1 << 20)


def _tell(what: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"measured": what, **facts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
