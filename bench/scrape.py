"""What a scrape of a worker costs, and what counting costs a payout, with few originators and with very many.

    python -m bench.scrape [--originators 1000] [--payouts 20000]

Prints one JSON object a line: for 1 and for `--originators` originators the number of series, the bytes of a scrape,
its seconds over HTTP (median of 30; the worker's own server, nothing else to do) and the microseconds of processor time
that all counters of one paid payout take. Then the same shares against one originator. Asserts nothing.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from ledger.figures import figures_of
from processors.payout.events import CallKind
from processors.payout.outcome import Outcome, OutcomeKind
from processors.payout.row import DestinationKind, FundingKind, PayoutRow, PayoutState, with_changes
from processors.payout.step import Step
from processors.visa.exchange import Answered
from streams.bootstrap import AGENT_TOPICS
from streams.health import HealthServer
from streams.ledger_figures import FiguresShown
from streams.metric_labels import PayoutLabels
from streams.metrics import Metrics
from streams.payout_counts import count_exchange, count_outcome, count_step
from streams.readiness import Parts, Pulse

COUNTRIES = ("GB", "DE", "FR", "ES", "IT", "PH", "IN", "MX", "BR", "JP")
"""As many corridors as a busy processor serves."""
KINDS = (DestinationKind.CARD, DestinationKind.CARD, DestinationKind.ACCOUNT)
SCRAPES = 30
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ENDS = (PayoutState.PAID,) * 17 + (PayoutState.DECLINED, PayoutState.REJECTED, PayoutState.FAILED)
"""Of twenty payouts."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the report."""

    originators: int
    series: int
    bytes: int
    scrape_seconds: float
    counting_microseconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="bench.scrape", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--originators", type=int, default=1000)
    parser.add_argument("--payouts", type=int, default=20_000)
    asked = parser.parse_args(arguments)
    few, many = (asyncio.run(measure(number, asked.payouts)) for number in (1, asked.originators))
    for measured in (few, many):
        print(json.dumps({name: getattr(measured, name) for name in Measured.__slots__}))
    shares = {name: round(getattr(many, name) / getattr(few, name), 2) for name in Measured.__slots__}
    print(json.dumps({"share_of_one_originator": shares}))
    return 0


async def measure(originators: int, payouts: int) -> Measured:
    """A worker's metrics after so many payouts of so many originators over every corridor."""
    metrics = Metrics()
    metrics.labels = PayoutLabels({f"US-{country}" for country in COUNTRIES})
    shown = FiguresShown()
    shown.took(figures_of([], 0, {"lines": 0, "seconds": None}), 0.01)
    metrics.registry.register(shown)
    choice = random.Random(originators).choice
    rows = [(_row(number, originators, choice), choice(ENDS)) for number in range(payouts)]
    begun = time.process_time()
    for row, end in rows:
        _count(metrics, row, end)
    counting = (time.process_time() - begun) / payouts
    seconds, scraped = await _scraped(metrics)
    series = sum(1 for line in scraped.splitlines() if line and not line.startswith(b"#"))
    return Measured(originators, series, len(scraped), round(seconds, 4), round(counting * 1e6, 1))


def _row(number: int, originators: int, choice: Callable[[Sequence[Any]], Any]) -> PayoutRow:
    return PayoutRow(
        payout_id=f"payout-{number}",
        originator_id=f"shop-{choice(range(originators))}",
        amount_minor=1234,
        currency="USD",
        source_country="US",
        target_country=choice(COUNTRIES),
        target_currency="USD",
        funding_kind=FundingKind.INTERNAL,
        funding_reference=None,
        funding_captured=False,
        funding_captured_at=None,
        funding_reversible=False,
        requested_at=NOW,
        expires_at=None,
        received_at=NOW,
        source_topic="payout_requests",
        source_partition=0,
        source_offset=number,
        correlation_id="c",
        sender_reference="s",
        content_key_version="k",
        bytes_hmac=b"",
        content_hmac=b"",
        sealed_request=b"",
        state_at=NOW,
        attempts=1,
        destination_kind=choice(KINDS),
        reason_code="HTTP_400",
    )


def _count(metrics: Metrics, row: PayoutRow, end: PayoutState) -> None:
    """What the worker counts of one payout from its request to its end."""
    for topics in AGENT_TOPICS.values():
        for topic in topics[:1]:
            metrics.received.labels(topic).inc()
            metrics.published.labels(topic).inc()
            metrics.produce_seconds.observe(0.003)
            with metrics.handled(topic, NOW):
                pass
    metrics.dedup.labels("unique").inc()
    metrics.dedup_seconds.labels("ledger").observe(0.004)
    metrics.initiated.inc()
    for transition, stage in (("validated", "validation"), ("cleared", "compliance"), ("intent", "submission")):
        with metrics.staged(stage):
            metrics.transitions.labels(transition).inc()
            count_step(metrics, row, row, Step(row, transition))
    count_exchange(metrics, CallKind.PUSH.value, Answered(200), 0.2)
    count_outcome(metrics, CallKind.PUSH, Outcome(OutcomeKind.PAID, "ACTION_CODE_00", action_code="00"))
    after = with_changes(row, state=end, state_at=NOW + timedelta(seconds=1))
    metrics.transitions.labels(end.value.lower()).inc()
    count_step(metrics, row, after, Step(after, end.value.lower()))


async def _scraped(metrics: Metrics) -> tuple[float, bytes]:
    async def database() -> dict[str, Any]:
        return {"status": "ok"}

    with tempfile.TemporaryDirectory() as directory:
        port_file = Path(directory) / "port"
        server = HealthServer(
            host="127.0.0.1",
            port=0,
            port_file=port_file,
            database=database,
            parts=lambda found: Parts(found, True, True, True, {}, ()),
            pulse=lambda: Pulse(0.0, None, False),
            metrics=metrics,
            assignment=list,
            refresh=lambda: None,
        )
        await server.start()
        took = []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_file.read_text()}") as client:
            for _ in range(SCRAPES):
                begun = time.perf_counter()
                answer = await client.get("/metrics")
                took.append(time.perf_counter() - begun)
        await server.stop()
    return statistics.median(took), answer.content


if __name__ == "__main__":
    raise SystemExit(main())
