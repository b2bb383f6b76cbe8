"""The worker's own metrics, in Prometheus form. No label is ever a payout, a card, a name or free text."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

STAGE_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From one database round trip to the longest call."""


class Metrics:
    """One registry a worker; every instrument is created here so that their names stand together."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.received = Counter("payouts_events_received", "Records taken from a topic.", ["topic"], registry=registry)
        self.handling_seconds = Histogram(
            "payouts_event_processing_seconds",
            "Seconds from taking a record to its end.",
            ["topic"],
            buckets=STAGE_SECONDS_BUCKETS,
            registry=registry,
        )
        self.transitions = Counter(
            "payouts_transitions", "Steps of payouts committed in the ledger.", ["transition"], registry=registry
        )
        self.compare_and_set_lost = Counter(
            "payouts_compare_and_set_lost", "Steps that another worker had overtaken.", registry=registry
        )
        self.published = Counter("payouts_produce", "Events confirmed by the broker.", ["topic"], registry=registry)
        self.calls = Counter(
            "payouts_upstream_requests", "Calls to Visa by what they proved.", ["call", "outcome"], registry=registry
        )
        self.call_seconds = Histogram(
            "payouts_upstream_request_seconds",
            "Seconds of a call to Visa.",
            ["call"],
            buckets=STAGE_SECONDS_BUCKETS,
            registry=registry,
        )
        self.dead_letters = Counter(
            "payouts_dead_letters", "Records set aside, encrypted.", ["topic", "reason"], registry=registry
        )
        self.refusals = Counter("payouts_refusals", "Requests refused as other content.", registry=registry)
        self.repeats = Counter("payouts_repeats", "Requests answered again.", registry=registry)
        self.offset_holes = Counter(
            "payouts_offset_holes", "Offsets that were never delivered.", ["topic"], registry=registry
        )
        self.records_lost = Counter(
            "payouts_records_lost", "Records found in a hole: the worker ends itself.", ["topic"], registry=registry
        )
        self.records_expired = Counter(
            "payouts_records_expired", "Offsets that retention removed unread.", ["topic"], registry=registry
        )
        self.intake_verified = Counter(
            "payouts_intake_verified", "Inbound records looked up in the ledger.", ["topic"], registry=registry
        )
        self.intake_missing = Counter(
            "payouts_intake_missing", "Inbound records that the ledger did not know.", ["topic"], registry=registry
        )
        self.intake_unverified = Gauge(
            "payouts_intake_unverified", "Committed offsets not looked up yet.", ["topic"], registry=registry
        )
        self.handler_bugs = Counter(
            "payouts_handler_failures", "Records whose handler failed unexpectedly.", ["agent"], registry=registry
        )
        self.swept = Counter("payouts_swept", "Rows that the sweeper drove or announced.", ["what"], registry=registry)
        self.payouts_in_state = Gauge("payouts_in_state", "Payouts by state.", ["state"], registry=registry)
        self.ledger_verified = Gauge(
            "payouts_ledger_verified", "1 while the database is known to be the one that published.", registry=registry
        )
        self.sealed = Counter(
            "payouts_history_sealed", "Lines of the history that this worker sealed.", registry=registry
        )
        self.seals_published = Counter(
            "payouts_history_published", "Sealed lines that the broker confirmed to this worker.", registry=registry
        )
        self.mode = Gauge("payout_mode", "1 for the mode in force.", ["mode"], registry=registry)
        self.paused = Gauge("payouts_paused", "1 while new work waits.", registry=registry)
        self.visa_paused = Gauge("visa_paused", "1 while this kind of call to Visa waits.", ["lane"], registry=registry)
        self.in_work = Gauge("payouts_events_in_progress", "Events in work.", ["agent"], registry=registry)
        self.last_progress = Gauge(
            "payouts_last_progress_timestamp_seconds", "When a record last reached its end.", registry=registry
        )

    @contextmanager
    def handled(self, topic: str) -> Iterator[None]:
        """Time one record and note the progress."""
        begun = time.monotonic()
        yield
        self.handling_seconds.labels(topic).observe(time.monotonic() - begun)
        self.last_progress.set_to_current_time()
