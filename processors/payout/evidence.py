"""What an answer leaves in the row and in its history: codes and numbers, never a card number or a name."""

from typing import Any

from processors.payout.events import Answered
from processors.payout.outcome import Outcome
from processors.payout.row import PayoutRow


def facts(row: PayoutRow, outcome: Outcome) -> dict[str, Any]:
    """What the answer told, kept over what was known; silence never erases an earlier fact."""
    return {
        "action_code": outcome.action_code or row.action_code,
        "transaction_identifier": outcome.transaction_identifier or row.transaction_identifier,
        "approval_code": outcome.approval_code or row.approval_code,
        "status_identifier": outcome.status_identifier or row.status_identifier,
        "visa_correlation_id": outcome.visa_correlation_id or row.visa_correlation_id,
    }


def evidence(event: Answered) -> dict[str, Any]:
    """The history's line about one answer."""
    outcome = event.outcome
    told: dict[str, Any] = {
        "call": event.call.value,
        "attempt": event.attempt,
        "outcome": outcome.kind.value,
        "reason_code": outcome.reason_code,
    }
    optional = {
        "refusal": outcome.refusal.value if outcome.refusal else None,
        "http_status": outcome.http_status,
        "action_code": outcome.action_code,
        "visa_correlation_id": outcome.visa_correlation_id,
        "retry_after_seconds": outcome.retry_after_seconds,
    }
    return told | {name: value for name, value in optional.items() if value is not None}
