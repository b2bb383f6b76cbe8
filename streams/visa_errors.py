"""Counts and names what went wrong at Visa, for people and dashboards; nothing acts on it (rule S9)."""

from processors.payout.events import MONEY_MOVING_CALLS, SUBMISSIONS, CallKind
from processors.payout.outcome import Outcome
from processors.payout.row import PayoutRow
from processors.visa.errors import describe
from streams.metrics import Metrics


def named(metrics: Metrics, row: PayoutRow, outcome: Outcome) -> dict[str, str]:
    """Count the error of a call, if it is one; what its log line says of it."""
    corridor = f"{row.source_country}-{row.target_country}"
    context = describe(outcome, rail=row.destination_kind.value, corridor=corridor)
    if context is None:
        return {}
    error = context.error
    metrics.visa_errors.labels(error.error_type, error.category.value, error.name).inc()
    return {
        "error_name": error.name,
        "error_category": error.category.value,
        "error_handling": context.handling.value,
        "corridor": context.corridor,
    }


def count_retry(metrics: Metrics, row: PayoutRow, call: CallKind, outcome: Outcome) -> None:
    """S0-20: a call that moves money, made again, by what it was answered."""
    attempts = row.attempts if call in SUBMISSIONS else row.compensation_attempts
    if call in MONEY_MOVING_CALLS and attempts > 1:
        status = "none" if outcome.http_status is None else str(outcome.http_status)
        metrics.retry_attempts.labels(call.value, status).inc()
