"""What the span of a call to Visa is called, where it stands, and what it says: codes and statuses, nobody's data."""

from collections.abc import Mapping
from typing import Final

from processors.payout.events import COMPENSATION_CALLS, MONEY_MOVING_CALLS, CallKind
from processors.payout.outcome import Outcome, OutcomeKind
from processors.payout.row import PayoutRow
from processors.payout.trace import attempt_span_id, root_context
from processors.visa.requests import VisaRequest
from schemas.trace_context import TraceContext
from streams.tracing import NO_SPAN, Kind, Span, Value, current_span, open_span

FAILED_KINDS: Final = frozenset({OutcomeKind.UNKNOWN, OutcomeKind.REFUSED, OutcomeKind.OPERATOR})
"""What a call's span calls an error. That Visa declines a payout, or has no row of it, is an answer and none."""
ASKED_ABOUT: Final[Mapping[CallKind, CallKind]] = {
    CallKind.STATUS: CallKind.PUSH,
    CallKind.QUERY: CallKind.PUSH,
    CallKind.ACCOUNT_QUERY: CallKind.ACCOUNT_SEND,
    CallKind.REVERSAL_QUERY: CallKind.REVERSE,
    CallKind.ADJUSTMENT_QUERY: CallKind.ADJUST,
}
RETRYABLE: Final = "retryable"


def call_span(row: PayoutRow, call: CallKind, request: VisaRequest, request_id: str) -> Span:
    """The span of one call of a payout, to be entered, where the row already counts this attempt.

    Attempts that move money have ids that derive from their number: the next attempt, and each question, links to what
    it is about without anybody having kept it.
    """
    if current_span().context is None:
        return NO_SPAN
    attempt = row.compensation_attempts if call in COMPENSATION_CALLS else row.attempts
    said = {"payout.attempt": attempt, **_of_request(request, request_id)}
    if call in MONEY_MOVING_CALLS:
        links = [_attempt(row, call, attempt - 1)] if attempt > 1 else []
        span_id = attempt_span_id(row.payout_id, call.value, attempt)
        return open_span(f"visa {call.value}", Kind.CLIENT, said, span_id=span_id, links=links)
    links = [_attempt(row, ASKED_ABOUT[call], attempt)] if attempt else []
    return open_span(f"visa {call.value}", Kind.CLIENT, said, links=links)


def question_span(name: str, request: VisaRequest, request_id: str) -> Span:
    """The span of one question before the first intent, to be entered."""
    return open_span(f"visa {name.upper()}", Kind.CLIENT, _of_request(request, request_id))


def say_outcome(span: Span, outcome: Outcome, named: Mapping[str, str]) -> None:
    """What the call has proven; `named` is what the error table calls it."""
    say_answer(
        span,
        outcome.kind.value,
        outcome.reason_code,
        http_status=outcome.http_status,
        action_code=outcome.action_code,
        visa_correlation_id=outcome.visa_correlation_id,
    )
    say_error(span, outcome, named)


def say_error(span: Span, outcome: Outcome, named: Mapping[str, str]) -> None:
    """Its name, and whether the span ends badly."""
    if named:
        span.set(
            {"visa.error_name": named["error_name"], "visa.retryable": named["error_handling"] == RETRYABLE},
        )
    if outcome.kind in FAILED_KINDS:
        span.fail(outcome.reason_code)


def say_answer(
    span: Span,
    outcome: str,
    reason_code: str,
    *,
    http_status: int | None,
    action_code: str | None,
    visa_correlation_id: str | None,
) -> None:
    """What Visa answered."""
    span.set(
        {
            "visa.outcome": outcome,
            "visa.reason_code": reason_code,
            "visa.action_code": action_code,
            "visa.correlation_id": visa_correlation_id,
            "http.response.status_code": http_status,
        }
    )


def _of_request(request: VisaRequest, request_id: str) -> dict[str, Value | None]:
    """No path and no query: they hold numbers of the payout at Visa."""
    return {
        "visa.operation": request.operation.value,
        "visa.request_id": request_id,
        "visa.idempotency.key_present": request.client_transaction_id is not None,
        "http.request.method": request.method,
    }


def _attempt(row: PayoutRow, call: CallKind, attempt: int) -> TraceContext:
    return TraceContext(root_context(row).trace_id, attempt_span_id(row.payout_id, call.value, attempt), sampled=True)
