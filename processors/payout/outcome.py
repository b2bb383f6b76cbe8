"""What one call to Visa Direct, or one query about it, has proven.

    Outcome
    ├── definite for the identity   PAID, DECLINED          (an answer with a readable action code or status)
    │                               RETURNED                (an account payout came back: S8)
    ├── definite for this attempt   REFUSED                 (nothing took effect now; an earlier one may have: S4, S6)
    ├── still open                  PENDING, UNKNOWN, NOT_FOUND
    └── a person decides            OPERATOR                (contradictions, partial approvals: rule S5)

Only `processors.visa.outcome` and `account_outcome` make these from HTTP exchanges;
only the state machine acts on them.
"""

from dataclasses import dataclass
from enum import StrEnum


class OutcomeKind(StrEnum):
    """The eight things an exchange with Visa can have proven."""

    PAID = "PAID"
    DECLINED = "DECLINED"
    REFUSED = "REFUSED"
    PENDING = "PENDING"
    UNKNOWN = "UNKNOWN"
    NOT_FOUND = "NOT_FOUND"
    OPERATOR = "OPERATOR"
    RETURNED = "RETURNED"
    """Sent and come back. Before an end it is not paid; after PAID it is a second fact (rule S8)."""


class Refusal(StrEnum):
    """Why an attempt was refused before any effect, and so what may follow (rule S7: systemic ones spend nothing)."""

    REQUEST_INVALID = "REQUEST_INVALID"
    """400: this request will never pass; FAILED when no attempt is ambiguous."""
    RATE_LIMITED = "RATE_LIMITED"
    """429: systemic, later, spends nothing."""
    NOT_CONNECTED = "NOT_CONNECTED"
    """No byte left: connect, name or handshake failure, or our own deadline; systemic, later, spends nothing."""
    CREDENTIALS = "CREDENTIALS"
    """401, 403: the stage stops until somebody repairs the credentials; spends nothing."""
    WRONG_ENDPOINT = "WRONG_ENDPOINT"
    """404, 405, 415: our bug or a wrong URL; the stage stops; spends nothing."""


STAGE_STOPPING_REFUSALS = frozenset({Refusal.CREDENTIALS, Refusal.WRONG_ENDPOINT})
SYSTEMIC_REFUSALS = STAGE_STOPPING_REFUSALS | {Refusal.RATE_LIMITED, Refusal.NOT_CONNECTED}
AWAY_STATUSES = frozenset({429, 502, 503, 504})
"""HTTP answers by which Visa, or what stands before it, says that it serves nobody now."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The proven result of one exchange. Holds no card number and no personal data."""

    kind: OutcomeKind
    reason_code: str
    """Stable, upper-case, for a caller to act on: `ACTION_CODE_05`, `READ_TIMEOUT`, `QUERY_NOT_FOUND`, ..."""
    refusal: Refusal | None = None
    http_status: int | None = None
    action_code: str | None = None
    transaction_identifier: str | None = None
    approval_code: str | None = None
    status_identifier: str | None = None
    """Where a later status GET asks (202 and 303), valid 24 h."""
    visa_correlation_id: str | None = None
    retry_after_seconds: float | None = None
    systemic: bool = False
    """True when the cause is not this payout's (breaker, credentials, rate, connection): spends no budget (rule S7)."""

    @property
    def is_own_failure(self) -> bool:
        """Whether the failed attempt counts against the payout's retry budget (rule S7).

        Only what Visa answered to this payout alone: an error of its own (500, an answer that cannot be read), or a
        refusal that is not everybody's. Silence, 502, 503 and 504 are what an outage looks like: an hour of it
        must not bring every payout to a person.
        """
        if self.systemic or self.refusal in SYSTEMIC_REFUSALS or self.http_status in AWAY_STATUSES:
            return False
        if self.kind is OutcomeKind.REFUSED:
            return True
        return self.kind is OutcomeKind.UNKNOWN and self.http_status is not None
