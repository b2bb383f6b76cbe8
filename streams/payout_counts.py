"""What a committed step of a payout, and an exchange with Visa, mean for the metrics. Nothing acts on it.

Counted once a step, where the step was committed: by the worker whose compare-and-set won. What people end by a command
(cancel, resolve) is no worker's doing: `payouts_by_status` and the history have it.
"""

from datetime import datetime
from typing import Final

from processors.payout.events import MONEY_MOVING_CALLS, CallKind
from processors.payout.outcome import Outcome, OutcomeKind
from processors.payout.preflight import REASONS as PREFLIGHT_REASONS
from processors.payout.row import CompensationState, PayoutRow, PayoutState
from processors.payout.step import Step
from processors.visa.errors import error_named
from processors.visa.exchange import Answered, Exchange
from streams.metric_labels import OTHER, action_code, currency, rail
from streams.metrics import Metrics

COMPLIANCE_DENIED: Final = "COMPLIANCE_DENIED"
_STATUS: Final = {
    PayoutState.PAID: "success",
    PayoutState.DECLINED: "declined",
    PayoutState.REJECTED: "rejected",
    PayoutState.DENIED: "denied",
    PayoutState.CANCELLED: "cancelled",
    PayoutState.EXPIRED: "failed",
    PayoutState.FAILED: "failed",
}
_OUR_FAILURES: Final = {
    "EXPIRED": "expired",
    "RETRY_BUDGET_SPENT": "retry_budget",
    "REFUSED_TOO_LONG": "refused_too_long",
}


def count_step(metrics: Metrics, before: PayoutRow, after: PayoutRow, step: Step) -> None:
    """Count what the step made of the payout and of its compensation."""
    _count_decision(metrics, after, step.transition)
    if after.is_terminal and not before.is_terminal:
        _count_end(metrics, after)
    if after.returned_at is not None and before.returned_at is None:
        metrics.returned.inc()
    if after.compensation is not before.compensation:
        _count_compensation(metrics, before, after)


def _count_decision(metrics: Metrics, row: PayoutRow, transition: str) -> None:
    match transition:
        case "cleared":
            metrics.screened.inc()
            metrics.screened_allowed.inc()
            metrics.approved.inc()
        case "review_opened":
            metrics.screened.inc()
            metrics.screened_review.inc()
        case "denied":
            metrics.screened.inc()
            metrics.screened_denied.labels(row.reason_code or OTHER).inc()
            metrics.guard_failures.labels(COMPLIANCE_DENIED, metrics.labels.corridor(row)).inc()
        case "rejected":
            metrics.guard_failures.labels(row.reason_code or OTHER, metrics.labels.corridor(row)).inc()
        case "review_approved":
            metrics.reviews_resolved.labels("approved").inc()
            metrics.approved.inc()
        case "review_rejected":
            metrics.reviews_resolved.labels("rejected").inc()
        case "budget_spent":
            metrics.retry_budgets_spent.inc()


def status_of(row: PayoutRow) -> str:
    """How a payout that has ended did. A refusal by those whom we asked before the first attempt is no failure."""
    refused = row.state is PayoutState.FAILED and row.reason_code in PREFLIGHT_REASONS
    return "refused" if refused else _STATUS[row.state]


def error_type(row: PayoutRow) -> str:
    """Why it failed, coarse: a kind of the error table, or what ran out here."""
    code = row.reason_code or ""
    if code in _OUR_FAILURES:
        return _OUR_FAILURES[code]
    error = error_named(code, rail=row.destination_kind.value)
    return OTHER if error is None else error.error_type


def _count_end(metrics: Metrics, row: PayoutRow) -> None:
    status, corridor = status_of(row), metrics.labels.corridor(row)
    metrics.count_end(status, row)
    metrics.ended.labels(corridor).inc()
    match status:
        case "success":
            _count_paid(metrics, row, corridor)
        case "declined":
            metrics.declined.labels(corridor, rail(row)).inc()
            metrics.latency_seconds.labels(corridor, rail(row)).observe(_seconds(row.received_at, row.state_at))
        case "failed":
            metrics.failures.inc()
            metrics.failed.labels(corridor, rail(row), error_type(row)).inc()
        case "refused":
            metrics.guard_failures.labels(row.reason_code or OTHER, corridor).inc()


def _count_paid(metrics: Metrics, row: PayoutRow, corridor: str) -> None:
    metrics.succeeded.labels(corridor).inc()
    metrics.completed.inc()
    metrics.amount_minor.labels(currency(row.currency)).inc(row.amount_minor)
    metrics.latency_seconds.labels(corridor, rail(row)).observe(_seconds(row.received_at, row.state_at))
    if row.attempts > 1 and row.first_intent_at is not None:
        metrics.retry_successes.inc()
        metrics.retry_seconds.observe(_seconds(row.first_intent_at, row.state_at))


def _count_compensation(metrics: Metrics, before: PayoutRow, after: PayoutRow) -> None:
    if before.compensation is CompensationState.NONE:
        metrics.compensation_emitted.labels(after.funding_kind.value.lower(), after.state.value.lower()).inc()
    if after.compensation is CompensationState.COMPENSATED:
        action = after.compensation_action
        metrics.compensation_completed.labels(OTHER if action is None else action.value.lower()).inc()
    if after.compensation is CompensationState.MANUAL:
        metrics.compensation_failed.inc()


def count_exchange(metrics: Metrics, route: str, exchange: Exchange, seconds: float) -> None:
    """One call to Visa, whatever it was for: how long it took, and why there is no answer if there is none."""
    if isinstance(exchange, Answered):
        status = f"{exchange.status // 100}xx"
    else:
        status = "none"
        metrics.connection_errors.labels(exchange.cause.lower()).inc()
    metrics.call_seconds.labels(route.lower(), status).observe(seconds)


def count_outcome(metrics: Metrics, call: CallKind, outcome: Outcome) -> None:
    """What it has proven."""
    metrics.calls.labels(call.value, outcome.kind.value).inc()
    if outcome.kind is OutcomeKind.PENDING:
        metrics.pending.inc()
    if call not in MONEY_MOVING_CALLS:
        metrics.status_queries.labels(outcome.kind.value.lower()).inc()
    elif outcome.kind is OutcomeKind.PAID:
        metrics.acks.inc()
    elif outcome.action_code is not None:
        metrics.nacks.labels(action_code(outcome.action_code)).inc()


def _seconds(since: datetime, until: datetime) -> float:
    """Never below 0: the broker's clock and ours may differ by seconds."""
    return max(0.0, (until - since).total_seconds())
