"""What masking personal data costs a log line, and how fast files are searched for it.

    python -m bench.pii_redaction [--lines 50000]

Prints one JSON object a line: microseconds of processor time a log line for masking alone and for the whole formatting,
for lines as a worker writes them, for one with a traceback, and for one that holds a card number; then megabytes a
second of `payouts pii-scan` over such lines. Seconds are of the processor, the best of five rounds; asserts nothing.
"""

import argparse
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from ops.pii_files import scan_stream
from processors.pii.hits import ALL_KINDS
from processors.pii.redaction import redact_fields, redact_text
from streams.logs import LOGGED_NAMES, JsonFormatter

ROUNDS = 5
IDS: Mapping[str, object] = {
    "payout_id": "order-2026-000017-f30e5e45-ae28-4edc-b544-dd2f0de59c7e",
    "correlation_id": "b2e25892-2e26-4811-9d8d-6606eb347828",
}
SAMPLES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "payout moved": (
        "payout moved",
        IDS | {"transition": "cleared", "state": "CLEARED", "compensation": "NONE", "version": 4},
    ),
    "visa call": (
        "visa call",
        IDS
        | {
            "call": "push",
            "attempt": 1,
            "outcome": "PAID",
            "reason_code": "00",
            "http_status": 200,
            "visa_correlation_id": "1763805600_123_1234567890_l73c017_VDP_ARM",
        },
    ),
    "a library's sentence": (
        "Heartbeat failed for group payouts because it is rebalancing; coordinator 10.0.3.17:9092, generation 1712, "
        "member payouts-worker-1-5b0e9a39, partitions payout_requests-3 and payout_cleared-11",
        {},
    ),
    "a card number": ("refused: 4957 0304 2021 0462 stands in the field", IDS),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="bench.pii_redaction", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=50_000, help="log lines of each kind and round")
    count = parser.parse_args(arguments).lines
    formatter = JsonFormatter("bench")
    for name, (text, extra) in SAMPLES.items():
        record = logging.getLogger("bench").makeRecord("bench", logging.INFO, __file__, 1, text, (), None, extra=extra)
        _tell(
            line=name,
            characters=len(formatter.format(record)),
            masking_microseconds=_microseconds(count, lambda text=text, extra=extra: _mask(text, extra)),
            formatting_microseconds=_microseconds(count, lambda record=record: formatter.format(record)),
        )
    _measure_scan(count, formatter)
    return 0


def _mask(text: str, extra: Mapping[str, object]) -> None:
    redact_text(text)
    redact_fields(extra, LOGGED_NAMES)


def _microseconds(count: int, work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(count):
            work()
        best = min(best, time.process_time() - begun)
    return round(best / count * 1e6, 1)


def _measure_scan(count: int, formatter: JsonFormatter) -> None:
    records = (
        logging.getLogger("bench").makeRecord("bench", logging.INFO, __file__, 1, text, (), None, extra=extra)
        for text, extra in SAMPLES.values()
    )
    data = "".join(f"{formatter.format(record)}\n" for record in records).encode() * (count // len(SAMPLES))
    begun = time.process_time()
    hits = sum(1 for _ in scan_stream(io.BytesIO(data), ALL_KINDS))
    seconds = time.process_time() - begun
    _tell(
        searched_megabytes=round(len(data) / 1e6, 1),
        megabytes_per_second=round(len(data) / 1e6 / seconds, 1),
        hits=hits,
    )


def _tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main())
