"""The names that operators of payout systems ask for (requirements E6), and what stands for each here.

Three vocabularies asked for the same facts (F-01): names of the form `visa_direct_…_total` come first, dotted ones are
written with underscores, `payments_…` became `payouts_…`. What nothing here could tell truthfully does not exist.
"""

from typing import Final, NamedTuple


class Canonical(NamedTuple):
    """One name that was asked for."""

    name: str
    here: str
    """Metrics of this project, separated by commas; empty: not built."""
    note: str


SAME: Final = "as asked"

CANONICAL: Final = (
    Canonical("visa_direct_payouts_total", "visa_direct_payouts_total", "status: see the table above"),
    Canonical("payouts_initiated_total", "payouts_initiated_total", SAME),
    Canonical("payouts_approved_total", "payouts_approved_total", SAME),
    Canonical("payouts_completed_total", "payouts_completed_total", SAME),
    Canonical("payouts_failed_total", "payouts_failed_total", "technical failures (F-02)"),
    Canonical("payout_success_total", "payout_success_total", SAME),
    Canonical(
        "payout_failure_total",
        "payout_failure_total",
        'technical failures (F-02); by originator: visa_direct_payouts_total{status="failed"}',
    ),
    Canonical("payout_total", "payout_total", "payouts that came to an end, so that no ratio exceeds 1"),
    Canonical("payout_latency_seconds", "payout_latency_seconds", "end to end; p95 above 30 s warns (F-03)"),
    Canonical("visa_direct_payout_duration_seconds", "payout_latency_seconds", "the same, not exported twice"),
    Canonical("payout_processing_duration_seconds", "payout_latency_seconds", "the same, not exported twice"),
    Canonical("payout_stage_duration_seconds", "payout_stage_duration_seconds", "p95 above 0.5 s warns (F-03)"),
    Canonical("payouts_stuck", "payouts_stuck, payouts_waiting_for_person", "machines' and people's work apart"),
    Canonical("payouts_by_status", "payouts_by_status", SAME),
    Canonical("payout_amount_minor_total", "payout_amount_minor_total", "of payouts PAID"),
    Canonical("guard_failure_total", "guard_failure_total", "type is our reason code: see below"),
    Canonical("visa_direct_guard_failures_total", "guard_failure_total", "the same, not exported twice"),
    Canonical("compliance_total", "compliance_total", SAME),
    Canonical("compliance_allowed_total", "compliance_allowed_total", "the rest: compliance_review_total"),
    Canonical("compliance_denied_total", "compliance_denied_total", SAME),
    Canonical("compliance_latency_seconds", "payout_stage_duration_seconds", 'stage="compliance"'),
    Canonical("compliance_unavailable_total", "compliance_unavailable_total", SAME),
    Canonical("manual_review_pending", "manual_review_pending, manual_review_oldest_seconds", SAME),
    Canonical("manual_review_resolved_total", "manual_review_resolved_total", SAME),
    Canonical("visa_request_duration_seconds", "visa_request_duration_seconds", "p95 above 5 s warns (F-03)"),
    Canonical("visa_connections_active", "visa_calls_in_flight", "a connection carries one call at a time"),
    Canonical("visa_connection_errors_total", "visa_connection_errors_total", SAME),
    Canonical("visa_acks_total", "visa_acks_total", SAME),
    Canonical("visa_nacks_total", "visa_nacks_total", SAME),
    Canonical("visa_pending_total", "visa_pending_total", SAME),
    Canonical("visa_status_query_total", "visa_status_query_total", SAME),
    Canonical("visa_direct_errors_total", "visa_direct_errors_total", SAME),
    Canonical("visa_transport_reload_total", "visa_transport_reload_total", SAME),
    Canonical("visa_certificate_expiry_timestamp_seconds", "visa_certificate_expiry_timestamp_seconds", SAME),
    Canonical("jwe_encrypt_fail_total", "jwe_encrypt_fail_total", SAME),
    Canonical("jwe_decrypt_fail_total", "jwe_decrypt_fail_total", SAME),
    Canonical(
        "visa_direct_mle_encrypt_duration_seconds",
        "",
        "some tenths of a millisecond inside every call: `make bench-visa` measures it, a histogram would not",
    ),
    Canonical("visa_direct_mle_decrypt_duration_seconds", "", "likewise"),
    Canonical("jwks_fetch_total", "jwks_fetch_total", SAME),
    Canonical("jwks_fetch_fail_total", "jwks_fetch_fail_total", "the one name of it (F-06)"),
    Canonical("visa_direct_jwks_fetch_success_total", "visa_direct_jwks_fetch_success_total", SAME),
    Canonical("visa_direct_jwks_fetch_duration_seconds", "visa_direct_jwks_fetch_duration_seconds", SAME),
    Canonical(
        "jwks_cache_requests_total",
        "",
        "the connection holds the key; no call asks a cache, so there is no hit rate to tell",
    ),
    Canonical("pii_scan_results", "pii_scan_results", "of `payouts pii-scan --textfile`"),
    Canonical("pii_scan_failures_total", "pii_scan_unsearched_files", "of the last scan: a scan is no running process"),
    Canonical("pii_redactions_total", "pii_redactions_total", SAME),
    Canonical("circuit_breaker_state", "circuit_breaker_state, visa_paused", "the key set; calls to Visa by lane"),
    Canonical("visa_direct_circuit_breaker_state", "circuit_breaker_state", "the same, not exported twice"),
    Canonical("circuit_breaker_open_seconds_total", "circuit_breaker_open_seconds_total", SAME),
    Canonical("circuit_breaker_reset_total", "circuit_breaker_reset_total", SAME),
    Canonical("retry_attempt_total", "retry_attempt_total", "label operation in place of stage"),
    Canonical("retry_success_total", "retry_success_total", SAME),
    Canonical("retry_budget_exhausted_total", "retry_budget_exhausted_total", SAME),
    Canonical("retry_latency_seconds", "retry_latency_seconds", SAME),
    Canonical("rate_limit_429_total", "rate_limit_429_total", SAME),
    Canonical("rate_limit_retry_after_seconds", "rate_limit_retry_after_seconds", SAME),
    Canonical("rate_limit_client_side_total", "rate_limit_client_side_total", SAME),
    Canonical("retry_backlog", "retry_backlog", SAME),
    Canonical("retry_oldest_seconds", "retry_oldest_seconds", SAME),
    Canonical("compensation_emitted_total", "compensation_emitted_total", "reason is the payout's end"),
    Canonical("compensation_completed_total", "compensation_completed_total", SAME),
    Canonical("compensation_failed_total", "compensation_failed_total", "left to a person"),
    Canonical("compensation_pending", "compensation_pending, compensation_manual", SAME),
    Canonical("compensation_oldest_seconds", "compensation_oldest_seconds, compensation_aft_oldest_seconds", SAME),
    Canonical("dedup_total", "dedup_total", "unique, redelivered, duplicate, conflict"),
    Canonical("dedup_duration_seconds", "dedup_duration_seconds", "one layer: the ledger's unique constraint"),
    Canonical("dedup_duplicate_rate", "dedup_total", "a rate is a rule's business"),
    Canonical("dedup_reservations_active", "payouts_leased", "leases are what is reserved"),
    Canonical("dedup_bloom_enabled", "", "there is no filter: a unique constraint decides, and is never wrong"),
    Canonical("dedup_bloom_fill_ratio", "", "likewise"),
    Canonical("dedup_bloom_false_positive_total", "", "likewise"),
    Canonical("dedup_check_errors_total", "dedup_check_errors_total", "the record waits; nothing is let through"),
    Canonical(
        "kafka_consumer_lag",
        "kafka_consumergroup_group_lag",
        "of `payouts lag export`: a dead worker's own gauge is silent",
    ),
    Canonical("kafka_consumer_lag_sum", "kafka_consumergroup_group_sum_lag", "likewise"),
    Canonical("dlq_messages_total", "payouts_dead_letters_total", "category is reason"),
    Canonical("dlq_parked", "dlq_parked", SAME),
    Canonical("dlq_send_failures_total", "dlq_send_failures_total", SAME),
    Canonical("payout_mode", "payout_mode", SAME),
    Canonical("worker_assigned_partitions", "worker_assigned_partitions", SAME),
    Canonical("build_info", "build_info", SAME),
    Canonical("process_cpu_user_seconds_total", "process_cpu_seconds_total", "Prometheus's own name"),
    Canonical("process_resident_memory_bytes", "process_resident_memory_bytes", SAME),
    Canonical(
        "http_request_duration_seconds",
        "visa_request_duration_seconds",
        "a worker serves nothing but its health; what it calls is measured",
    ),
    Canonical("reconciliation_matched_items", "reconciliation_matched_items", SAME),
    Canonical("reconciliation_unmatched_items", "reconciliation_unmatched_items", SAME),
    Canonical("reconciliation_exceptions", "reconciliation_exceptions", SAME),
    Canonical(
        "reconciliation_last_success_timestamp_seconds",
        "reconciliation_last_success_timestamp_seconds, reconciliation_last_visa_timestamp_seconds",
        SAME,
    ),
    Canonical("reconciliation_amount_difference_minor", "reconciliation_amount_difference_minor", SAME),
)

GUARDS: Final = (
    ("LedgerNotConfirmed", "LEDGER_NOT_CONFIRMED"),
    ("ReceiptReused", "RECEIPT_REUSED"),
    ("ComplianceDenied", "COMPLIANCE_DENIED"),
    ("AFTDeclined", "AFT_DECLINED"),
    ("PISFailed", "PIS_FAILED"),
    ("QuoteRequired", "QUOTE_REQUIRED"),
    ("QuoteExpired", "QUOTE_EXPIRED"),
    ("DestinationNotAllowed", "DESTINATION_NOT_ALLOWED"),
    ("PolicyNotFound", "CORRIDOR_UNKNOWN"),
    ("LimitExceeded", "LIMIT_EXCEEDED"),
    ("Duplicate", "DUPLICATE_WITH_OTHER_CONTENT"),
)
