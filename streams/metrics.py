"""The worker's own metrics, in Prometheus form. No label is ever a payout, a card, a name or free text."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from processors.pii.hits import Kind
from processors.pii.redaction import NAME_NOT_ALLOWED
from streams.logs import WITHHELD

STAGE_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From one database round trip to the longest call."""
RETRY_AFTER_BUCKETS = (1, 2, 5, 10, 30, 60, 300, 3600)
WAIT_SECONDS_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


class _Redactions(Collector):
    """What the logs of this process did not show. Logging is the process's own and begins before any registry."""

    def collect(self) -> Iterator[Metric]:
        """The counts so far, by kind of personal data; NAME for a field that is not on the allow-list."""
        counted = CounterMetricFamily("pii_redactions", "Log values masked or dropped.", labels=["kind"])
        for kind in sorted({NAME_NOT_ALLOWED, *Kind}):
            counted.add_metric([kind], WITHHELD[kind])
        yield counted


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
        # rate
        self.rate_limit_429 = Counter("rate_limit_429", "Calls that Visa refused as too many.", registry=registry)
        self.rate_limit_client_side = Counter(
            "rate_limit_client_side", "Calls that waited for a limit of our own.", ["limit"], registry=registry
        )
        self.rate_limit_retry_after_seconds = Histogram(
            "rate_limit_retry_after_seconds",
            "Seconds that a 429 asked us to wait.",
            buckets=RETRY_AFTER_BUCKETS,
            registry=registry,
        )
        self.visa_places = Gauge("visa_calls_allowed", "Calls to Visa that may be in flight now.", registry=registry)
        self.visa_waiting = Gauge("visa_calls_waiting", "Calls to Visa that wait for their turn.", registry=registry)
        self.visa_wait_seconds = Histogram(
            "visa_call_wait_seconds",
            "Seconds from asking for a call's permit to having it.",
            buckets=WAIT_SECONDS_BUCKETS,
            registry=registry,
        )
        # errors
        self.visa_errors = Counter(
            "visa_direct_errors",
            "Calls to Visa that went wrong, by the name in the error table.",
            ["error_type", "error_category", "error_name"],
            registry=registry,
        )
        self.retry_attempts = Counter(
            "retry_attempt", "Money-moving calls made again.", ["operation", "status_code"], registry=registry
        )
        # pii
        registry.register(_Redactions())
        # keys
        self.certificate_expiry = Gauge(
            "visa_certificate_expiry_timestamp_seconds",
            "Until when the certificate in use is valid: client, ca, mle.",
            ["cert"],
            registry=registry,
        )
        self.reloads = Counter(
            "visa_transport_reload", "Exchanges of the connection to Visa by their end.", ["result"], registry=registry
        )
        self.breaker_state = Gauge(
            "circuit_breaker_state", "1 for the state that the breaker is in.", ["name", "state"], registry=registry
        )
        self.breaker_resets = Counter(
            "circuit_breaker_reset", "Breakers closed: by hand, or by a trial.", ["name", "kind"], registry=registry
        )
        self.jwks_fetches = Counter("jwks_fetch", "Fetches of Visa's key set.", registry=registry)
        self.jwks_fetch_failures = Counter("jwks_fetch_fail", "Fetches of it that brought no keys.", registry=registry)
        self.jwks_fetch_seconds = Histogram(
            "visa_direct_jwks_fetch_duration_seconds",
            "Seconds of a fetch of it.",
            buckets=STAGE_SECONDS_BUCKETS,
            registry=registry,
        )
        self.jwe_encrypt_failures = Counter(
            "jwe_encrypt_fail", "Calls not sent because their body could not be encrypted.", registry=registry
        )
        self.jwe_decrypt_failures = Counter(
            "jwe_decrypt_fail", "Answers of Visa that none of our keys opens.", registry=registry
        )
        self.tracing_failures = Counter(
            "payouts_tracing_failures",
            "Spans that nobody will see: not taken by the collector (export), no room (dropped), not made (span).",
            ["what"],
            registry=registry,
        )
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
