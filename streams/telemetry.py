"""What spans may say: the names of docs/telemetry.md, which a test holds to this list and to what the product does.

A new name is added here when it can hold no person and no secret. Values are masked by pattern all the same.
"""

from typing import Final

ATTRIBUTES: Final = frozenset(
    {
        "http.request.method",
        "http.response.status_code",
        "messaging.consumer.group.name",
        "messaging.destination.name",
        "messaging.destination.partition.id",
        "messaging.kafka.offset",
        "messaging.message.id",
        "messaging.operation.name",
        "messaging.operation.type",
        "messaging.system",
        "payout.attempt",
        "payout.compensation",
        "payout.correlation_id",
        "payout.hold_reason",
        "payout.id",
        "payout.policy_version",
        "payout.reason_code",
        "payout.state",
        "payout.transition",
        "payout.version",
        "visa.action_code",
        "visa.amount.currency",
        "visa.compliance.allowed",
        "visa.compliance.list_version",
        "visa.compliance.reason",
        "visa.correlation_id",
        "visa.destination.type",
        "visa.error_name",
        "visa.funding.type",
        "visa.fx.dst",
        "visa.fx.src",
        "visa.idempotency.key_present",
        "visa.operation",
        "visa.outcome",
        "visa.reason_code",
        "visa.request_id",
        "visa.retryable",
    }
)
ERROR_TYPE: Final = "error.type"
"""On every span that ends badly, and on no other: why, as a stable code or the name of an exception's class."""
EVENTS: Final = frozenset({"payout moved", "payout held for a person", "idempotency.hit"})
SCOPE: Final = "payout-streams"
"""The instrumentation scope of every span."""
