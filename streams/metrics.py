"""The worker's own metrics, in Prometheus form. No label is ever a payout, a card, a name or free text.

`docs/metrics.md` is made of what stands here (`python -m bench.metrics_table`). Labels whose values come from outside
are bounded by `streams/metric_labels.py`. What is read from the database is in `streams/ledger_figures.py`.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from processors.payout.row import PayoutRow
from processors.pii.hits import Kind
from processors.pii.redaction import NAME_NOT_ALLOWED
from streams.logs import WITHHELD
from streams.metric_labels import PayoutLabels

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third more series, which nobody asks

STAGES = ("validation", "compliance", "preflight", "submission", "query", "compensation")
STATUSES = ("success", "failed", "declined", "refused", "rejected", "denied", "cancelled")
"""How a payout ends. Only `failed` is a technical failure (F-02)."""
END_SECONDS_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)
"""From the broker's time to a payout's end: the service levels are 2, 5 and 30 s, the rest is waiting (F-03)."""
RETRY_SECONDS_BUCKETS = (1, 5, 30, 60, 300, 900, 3600, 21_600, 86_400)
REBALANCE_SECONDS_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
POOL_SECONDS_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
STAGE_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From one database round trip to the longest call."""
RETRY_AFTER_BUCKETS = (1, 2, 5, 10, 30, 60, 300, 3600)
WAIT_SECONDS_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


AWAY = ("broker", "compliance", "database", "keys", "ledger", "schema registry")
"""The words of `streams.away`."""

Labelled = TypeVar("Labelled", Counter, Gauge, Histogram)


def _with(instrument: Labelled, values: Iterable[str]) -> Labelled:
    """Show these from the beginning: a rate of what has not happened yet is 0, and not absent."""
    for value in values:
        instrument.labels(value)
    return instrument


class _Redactions(Collector):
    """What the logs of this process did not show. Logging is the process's own and begins before any registry."""

    def collect(self) -> Iterator[Metric]:
        """The counts so far, by kind of personal data; NAME for a field that is not on the allow-list."""
        counted = CounterMetricFamily("pii_redactions", "Log values masked or dropped.", labels=["kind"])
        for kind in sorted({NAME_NOT_ALLOWED, *Kind}):
            counted.add_metric([kind], WITHHELD[kind])
        yield counted


class _OpenSeconds(Collector):
    """How long each breaker has been open in all, also while it is."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open_since: dict[str, float] = {}

    def add(self, name: str) -> None:
        """Show it from now on."""
        self._seconds.setdefault(name, 0.0)

    def opened(self, name: str) -> None:
        """It is open, or half open, from now on."""
        self._open_since.setdefault(name, time.monotonic())

    def closed(self, name: str) -> None:
        """It is closed again."""
        since = self._open_since.pop(name, None)
        if since is not None:
            self._seconds[name] += time.monotonic() - since

    def collect(self) -> Iterator[Metric]:
        """Seconds so far, by breaker."""
        now = time.monotonic()
        counted = CounterMetricFamily(
            "circuit_breaker_open_seconds", "Seconds for which the breaker was not closed.", labels=["name"]
        )
        for name, seconds in list(self._seconds.items()):
            counted.add_metric([name], seconds + now - self._open_since.get(name, now))
        yield counted


class Metrics:
    """One registry a worker; every instrument is created here so that their names stand together."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.labels = PayoutLabels()
        """Replaced once the policy is read."""
        ProcessCollector(registry=registry)
        self._add_payouts(registry)
        self._add_duplicates(registry)
        self._add_worker(registry)
        self._add_calls(registry)
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
        self.not_begun = Counter(
            "payouts_calls_not_begun", "Calls that the ledger did not let begin.", ["why"], registry=registry
        )
        self.compare_and_set_lost = Counter(
            "payouts_compare_and_set_lost", "Steps that another worker had overtaken.", registry=registry
        )
        self.published = Counter("payouts_produce", "Events confirmed by the broker.", ["topic"], registry=registry)
        self.calls = Counter(
            "payouts_upstream_requests", "Calls to Visa by what they proved.", ["call", "outcome"], registry=registry
        )
        self.call_seconds = Histogram(
            "visa_request_duration_seconds",
            "Seconds of a call to Visa, by what it was and the class of the HTTP status; none: no answer.",
            ["route", "status"],
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
        self.breaker_open = _OpenSeconds()
        registry.register(self.breaker_open)
        self.breaker_resets = Counter(
            "circuit_breaker_reset", "Breakers closed: by hand, or by a trial.", ["name", "kind"], registry=registry
        )
        self.jwks_fetches = Counter("jwks_fetch", "Fetches of Visa's key set.", registry=registry)
        self.jwks_fetch_failures = Counter(
            "jwks_fetch_fail", "Fetches of Visa's key set that brought no keys.", registry=registry
        )
        self.jwks_fetch_successes = Counter(
            "visa_direct_jwks_fetch_success", "Fetches of Visa's key set that brought keys.", registry=registry
        )
        self.jwks_fetch_seconds = Histogram(
            "visa_direct_jwks_fetch_duration_seconds",
            "Seconds of a fetch of Visa's key set.",
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

    def _add_payouts(self, registry: CollectorRegistry) -> None:
        self.ends = Counter(
            "visa_direct_payouts",
            "Payouts that came to their end in this worker, by how.",
            ["status", "corridor", "rail", "originator"],
            registry=registry,
        )
        self.ended = Counter(
            "payout", "Payouts that came to their end in this worker.", ["corridor"], registry=registry
        )
        self.succeeded = Counter("payout_success", "Payouts PAID.", ["corridor"], registry=registry)
        self.failed = Counter(
            "payout_failure",
            "Technical failures only: FAILED or EXPIRED, and nobody refused it.",
            ["corridor", "rail", "error_type"],
            registry=registry,
        )
        self.declined = Counter(
            "payout_decline", "Payouts that an issuer declined; no failure.", ["corridor", "rail"], registry=registry
        )
        self.amount_minor = Counter(
            "payout_amount_minor", "Minor units of payouts PAID.", ["currency"], registry=registry
        )
        self.initiated = Counter("payouts_initiated", "New payouts.", registry=registry)
        self.approved = Counter("payouts_approved", "Payouts cleared by screening or a reviewer.", registry=registry)
        self.completed = Counter("payouts_completed", "Payouts PAID.", registry=registry)
        self.failures = Counter("payouts_failed", "Technical failures.", registry=registry)
        self.returned = Counter("payouts_returned", "Payouts that came back after they were PAID.", registry=registry)
        self.latency_seconds = Histogram(
            "payout_latency_seconds",
            "Seconds from the broker's time of the request to PAID or DECLINED.",
            ["corridor", "rail"],
            buckets=END_SECONDS_BUCKETS,
            registry=registry,
        )
        self.stage_seconds = _with(
            Histogram(
                "payout_stage_duration_seconds",
                "Seconds of one step with its commits; of a call to Visa with it, without the wait for a permit.",
                ["stage"],
                buckets=STAGE_SECONDS_BUCKETS,
                registry=registry,
            ),
            STAGES,
        )
        self.guard_failures = Counter(
            "guard_failure",
            "Requests that a guard refused, by our reason code.",
            ["type", "corridor"],
            registry=registry,
        )
        self.screened = Counter("compliance", "Payouts screened.", registry=registry)
        self.screened_allowed = Counter("compliance_allowed", "Payouts that screening cleared.", registry=registry)
        self.screened_review = Counter("compliance_review", "Payouts that screening left to people.", registry=registry)
        self.screened_denied = Counter(
            "compliance_denied", "Payouts that screening refused.", ["reason"], registry=registry
        )
        self.screening_unavailable = Counter(
            "compliance_unavailable", "Screenings that could not be made: the payout waits.", registry=registry
        )
        self.reviews_resolved = _with(
            Counter("manual_review_resolved", "Review cases that came to a decision.", ["outcome"], registry=registry),
            ("approved", "rejected"),
        )
        self.compensation_emitted = Counter(
            "compensation_emitted",
            "Captured funding that has to be handed back, by its kind and the payout's end.",
            ["funding", "reason"],
            registry=registry,
        )
        self.compensation_completed = Counter(
            "compensation_completed", "Funding handed back, by how.", ["type"], registry=registry
        )
        self.compensation_failed = Counter(
            "compensation_failed", "Funding that only a person can hand back.", registry=registry
        )

    def _add_duplicates(self, registry: CollectorRegistry) -> None:
        self.dedup = _with(
            Counter(
                "dedup",
                "Requests by whether their payout_id was known: unique (new), redelivered (the same record again), "
                "duplicate (the same content), conflict (other content).",
                ["result"],
                registry=registry,
            ),
            ("unique", "redelivered", "duplicate", "conflict"),
        )
        self.dedup_errors = Counter(
            "dedup_check_errors", "Look-ups of a payout_id that failed: the record waits.", registry=registry
        )
        self.dedup_seconds = _with(
            Histogram(
                "dedup_duration_seconds",
                "Seconds of the insert that decides.",
                ["layer"],
                buckets=STAGE_SECONDS_BUCKETS,
                registry=registry,
            ),
            ("ledger",),
        )
        self.letter_failures = Counter(
            "dlq_send_failures", "Tries to set a record aside that failed; it is tried again.", registry=registry
        )

    def _add_worker(self, registry: CollectorRegistry) -> None:
        self.build = Gauge(
            "build_info", "1, labelled with what runs.", ["version", "python", "profile", "worker"], registry=registry
        )
        self.event_age_seconds = Histogram(
            "payouts_event_age_seconds",
            "Seconds from a record's own time to its end here.",
            ["topic"],
            buckets=END_SECONDS_BUCKETS,
            registry=registry,
        )
        self.produce_seconds = Histogram(
            "payouts_produce_seconds",
            "Seconds from a publish to the broker's confirmation.",
            buckets=STAGE_SECONDS_BUCKETS,
            registry=registry,
        )
        self.produce_errors = Counter(
            "payouts_produce_errors", "Publishes that the broker refused or did not confirm.", registry=registry
        )
        self.rebalances = Counter("payouts_rebalances", "Rebalances of this worker.", registry=registry)
        self.rebalance_seconds = Histogram(
            "payouts_rebalance_seconds",
            "Seconds from the loss of the partitions to reading again.",
            buckets=REBALANCE_SECONDS_BUCKETS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "payouts_commit_seconds",
            "Seconds of a commit of offsets.",
            buckets=STAGE_SECONDS_BUCKETS,
            registry=registry,
        )
        self.commit_errors = Counter("payouts_commit_errors", "Commits of offsets that failed.", registry=registry)
        self.assigned_partitions = Gauge(
            "worker_assigned_partitions", "Partitions of this worker.", ["topic"], registry=registry
        )
        self.loop_lag_seconds = Gauge(
            "payouts_event_loop_lag_seconds", "How late the event loop's last tick was.", registry=registry
        )
        self.paused_for = _with(
            Gauge("payouts_paused_for", "1 while new work waits for this.", ["what"], registry=registry),
            (*AWAY, "other"),
        )
        self.ready = Gauge("payouts_ready", "1 while /health/critical answers 200.", registry=registry)
        self.audit_failures = Counter(
            "audit_write_failures", "Passes that could not seal or publish the history.", registry=registry
        )
        self.database_up = Gauge(
            "payouts_database_up", "1 while the last look at the database was answered.", registry=registry
        )
        self.pool_connections = _with(
            Gauge("payouts_database_pool_connections", "Connections to the database.", ["state"], registry=registry),
            ("idle", "in_use"),
        )
        self.pool_connections_max = Gauge(
            "payouts_database_pool_connections_max", "The most there may be.", registry=registry
        )
        self.pool_wait_seconds = Histogram(
            "payouts_database_pool_wait_seconds",
            "Seconds of a wait for a connection.",
            buckets=POOL_SECONDS_BUCKETS,
            registry=registry,
        )
        self.pool_timeouts = Counter(
            "payouts_database_pool_timeouts", "Waits for a connection that ended without one.", registry=registry
        )

    def _add_calls(self, registry: CollectorRegistry) -> None:
        self.acks = Counter("visa_acks", "Calls that move money and were approved.", registry=registry)
        self.nacks = Counter(
            "visa_nacks", "Calls that move money and were answered with another action code.", ["action_code"],
            registry=registry,
        )  # fmt: skip
        self.pending = Counter("visa_pending", "Calls that Visa took and answers later.", registry=registry)
        self.status_queries = Counter(
            "visa_status_query", "Questions about earlier calls, by what they proved.", ["result"], registry=registry
        )
        self.connection_errors = Counter(
            "visa_connection_errors", "Calls to Visa without an answer, by the cause.", ["kind"], registry=registry
        )
        self.calls_in_flight = Gauge("visa_calls_in_flight", "Calls to Visa under way.", registry=registry)
        self.lane_pauses = Counter(
            "visa_pauses", "How often this kind of call to Visa began to wait.", ["lane"], registry=registry
        )
        self.retry_successes = Counter("retry_success", "Payouts PAID after more than one attempt.", registry=registry)
        self.retry_budgets_spent = Counter(
            "retry_budget_exhausted", "Payouts that ended because their retry budget was spent.", registry=registry
        )
        self.retry_seconds = Histogram(
            "retry_latency_seconds",
            "Seconds from the first attempt to PAID where there was more than one.",
            buckets=RETRY_SECONDS_BUCKETS,
            registry=registry,
        )

    def count_end(self, status: str, row: PayoutRow) -> None:
        """A payout came to this end."""
        self.ends.labels(*self.labels.end(status, row)).inc()

    def show_paused_for(self, reasons: Iterable[str]) -> None:
        """What new work waits for now; any word that `streams.away` does not know is `other`."""
        words = {reason.partition(":")[0] for reason in reasons}
        felt = {word if word in AWAY else "other" for word in words}
        for what in (*AWAY, "other"):
            self.paused_for.labels(what).set(what in felt)

    @contextmanager
    def staged(self, stage: str) -> Iterator[None]:
        """Time one step of a payout, whatever comes of it."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.stage_seconds.labels(stage).observe(time.monotonic() - begun)

    @contextmanager
    def handled(self, topic: str, timestamp: datetime) -> Iterator[None]:
        """Time one record of this time and note the progress."""
        begun = time.monotonic()
        yield
        self.handling_seconds.labels(topic).observe(time.monotonic() - begun)
        if timestamp.timestamp() > 0:  # a time that its producer made up says nothing
            self.event_age_seconds.labels(topic).observe(max(0.0, time.time() - timestamp.timestamp()))
        self.last_progress.set_to_current_time()
