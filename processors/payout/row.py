"""One payout as the ledger remembers it, and the words for where it stands.

RECEIVED → VALIDATED → (IN_REVIEW) → CLEARED → SUBMITTING → PENDING | UNKNOWN → PAID
ends without payment: REJECTED · DENIED · DECLINED · EXPIRED · FAILED · CANCELLED
compensation:         NONE → REQUIRED → RUNNING → (UNKNOWN) → COMPENSATED | MANUAL
held:                 nothing calls out for a held row (rule L12)
"""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Final


class PayoutState(StrEnum):
    """Where the payout itself stands."""

    RECEIVED = "RECEIVED"
    VALIDATED = "VALIDATED"
    IN_REVIEW = "IN_REVIEW"
    CLEARED = "CLEARED"
    SUBMITTING = "SUBMITTING"
    PENDING = "PENDING"
    UNKNOWN = "UNKNOWN"
    PAID = "PAID"
    REJECTED = "REJECTED"
    DENIED = "DENIED"
    DECLINED = "DECLINED"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class CompensationState(StrEnum):
    """Where the hand-back of captured funding stands; a second field of the same row."""

    NONE = "NONE"
    REQUIRED = "REQUIRED"
    RUNNING = "RUNNING"
    UNKNOWN = "UNKNOWN"
    COMPENSATED = "COMPENSATED"
    MANUAL = "MANUAL"


class FundingKind(StrEnum):
    """How the originator captured the money that the payout passes on."""

    UNSPECIFIED = "UNSPECIFIED"
    INTERNAL = "INTERNAL"
    AFT = "AFT"
    PIS = "PIS"


class DestinationKind(StrEnum):
    """Where the money goes, and so by which rail it is sent."""

    UNSPECIFIED = "UNSPECIFIED"
    CARD = "CARD"
    ACCOUNT = "ACCOUNT"
    WALLET = "WALLET"
    ALIAS = "ALIAS"


class CompensationAction(StrEnum):
    """What hands captured funding back (rule C2, C3)."""

    RELEASE_HOLD = "RELEASE_HOLD"
    REVERSE_FUNDS = "REVERSE_FUNDS"
    ADJUSTMENT = "ADJUSTMENT"
    REFUND_PIS = "REFUND_PIS"
    MANUAL = "MANUAL"


class Executor(StrEnum):
    """Who performs a compensation; never both (rule C2)."""

    PROCESSOR = "PROCESSOR"
    ORIGINATOR = "ORIGINATOR"


LEDGER_RESTORED: Final = "LEDGER_RESTORED"
"""Why a row is held: a restored copy of the database was adopted, and what was lost may have paid it (rule L11)."""

UNPAID_ENDS: Final = frozenset(
    {
        PayoutState.REJECTED,
        PayoutState.DENIED,
        PayoutState.DECLINED,
        PayoutState.EXPIRED,
        PayoutState.FAILED,
        PayoutState.CANCELLED,
    }
)
ACCOUNT_DESTINATIONS: Final = frozenset({DestinationKind.ACCOUNT, DestinationKind.WALLET})
"""What is paid by the account and wallet rail: it has no duplicate key, so nothing is sent again blindly (rule S3)."""
TERMINAL_STATES: Final = UNPAID_ENDS | {PayoutState.PAID}
COMPENSATION_ENDS: Final = frozenset({CompensationState.NONE, CompensationState.COMPENSATED, CompensationState.MANUAL})


@dataclass(frozen=True, kw_only=True)  # no slots: `with_changes` copies the dictionary
class PayoutRow:
    """One row a payout (rule L1). Every datetime is timezone-aware UTC; every amount is in minor units.

    Holds no card number and no personal data in clear: `sealed_request`, `sealed_body` and
    `compensation_sealed_body` are encrypted to our own key.
    """

    # Fixed by the first record of this payout_id.
    payout_id: str
    originator_id: str
    amount_minor: int
    currency: str
    source_country: str
    target_country: str
    target_currency: str
    funding_kind: FundingKind
    funding_reference: str | None
    """The receipt: unique for ever per originator and kind (rule L7)."""
    funding_captured: bool
    funding_captured_at: datetime | None
    funding_trace: bytes | None = None
    """Of a captured card pull: a hash of what its reversal names, unique for ever among all originators (rule L7)."""
    funding_transaction: bytes | None = None
    """The same of what its adjustment names."""
    funding_reversible: bool
    """The request carries every fact that a reversal of the card pull needs."""
    requested_at: datetime
    expires_at: datetime | None
    received_at: datetime
    """The broker's LogAppendTime of the request."""
    source_topic: str
    source_partition: int
    source_offset: int
    correlation_id: str
    sender_reference: str
    content_key_version: str
    bytes_hmac: bytes
    content_hmac: bytes
    sealed_request: bytes
    destination_kind: DestinationKind = DestinationKind.CARD
    """Rows from before there was another rail say CARD."""
    traceparent: str | None = None
    """The W3C trace context that the request came with, if it had a usable one. Nothing is decided by it."""

    # Derived by the ledger from its claims, never written with the row.
    receipt_owned: bool = False
    """The receipt and, of a card pull, the pull itself are this payout's: it may be handed back for it (rule C1)."""

    # Where it stands.
    version: int = 1
    state: PayoutState = PayoutState.RECEIVED
    state_version: int = 1
    state_at: datetime
    compensation: CompensationState = CompensationState.NONE
    compensation_version: int = 0
    compensation_at: datetime | None = None
    held: bool = False
    hold_reason: str | None = None
    reason_code: str | None = None
    reason: str | None = None

    # Why (promise P7).
    policy_version: str | None = None
    list_version: str | None = None
    score_basis_points: int | None = None
    matched_entry_id: str | None = None
    matched_party: str | None = None
    review_case_id: str | None = None
    reviewer: str | None = None

    # Attempts at Visa (rules S1, S2, S6).
    attempts: int = 0
    inquiries: int = 0
    systemic_refusals: int = 0
    own_failures: int = 0
    """Attempts that failed for the payout's own reasons: what the retry budget counts (rule S7)."""
    ambiguous: bool = False
    """An attempt may have taken effect and no answer for the identity has settled it."""
    identity_number: int | None = None
    systems_trace_audit_number: int | None = None
    retrieval_reference_number: str | None = None
    first_intent_at: datetime | None = None
    last_intent_at: datetime | None = None
    sealed_body: bytes | None = None
    status_identifier: str | None = None
    action_code: str | None = None
    transaction_identifier: str | None = None
    approval_code: str | None = None
    visa_correlation_id: str | None = None

    # What came back after it was paid (rule S8): a second fact, the payout stays PAID. Recorded once, kept for ever.
    returned_at: datetime | None = None
    returned_version: int = 0
    returned_reason_code: str | None = None

    # Compensation (rules C).
    compensation_action: CompensationAction | None = None
    compensation_executor: Executor | None = None
    compensation_reason_code: str | None = None
    compensation_reference: str | None = None
    compensation_attempts: int = 0
    compensation_inquiries: int = 0
    compensation_ambiguous: bool = False
    compensation_first_intent_at: datetime | None = None
    compensation_last_intent_at: datetime | None = None
    compensation_sealed_body: bytes | None = None
    compensation_identity_number: int | None = None
    """From the one sequence (rule S1), for an adjustment; a reversal repeats the numbers of its pull (rule C4)."""
    compensation_systems_trace_audit_number: int | None = None
    compensation_retrieval_reference_number: str | None = None

    # Schedule and announcement (rules K2, K4).
    due_at: datetime | None = None
    """When the sweeper drives the row again; None when nothing of ours is to be done."""
    announce_version: int = 0
    """The version that last changed what is published."""
    announced_version: int = 0
    """Written by the ledger after the broker's confirmation; never by a decision."""

    # Lease (rule L3), by the database's clock; taken by `Ledger.begin`, given back by its owner's commit alone.
    lease_owner: str | None = None
    lease_until: datetime | None = None

    @property
    def is_terminal(self) -> bool:
        """The payout has its one end; compensation may still run."""
        return self.state in TERMINAL_STATES

    @property
    def is_account_payout(self) -> bool:
        """Paid to an account or a wallet: asked about by its reference, and never sent again blindly (rule S3)."""
        return self.destination_kind in ACCOUNT_DESTINATIONS


FIXED_COLUMNS: Final = (
    "payout_id", "originator_id", "amount_minor", "currency", "source_country", "target_country", "target_currency",
    "funding_kind", "funding_reference", "funding_captured", "funding_captured_at", "funding_trace",
    "funding_transaction", "funding_reversible", "requested_at", "expires_at", "received_at", "source_topic",
    "source_partition", "source_offset", "correlation_id", "sender_reference", "content_key_version", "bytes_hmac",
    "content_hmac", "sealed_request", "destination_kind", "traceparent",
)  # fmt: skip
"""Written once, at insert."""

MUTABLE_COLUMNS: Final = (
    "state", "state_version", "state_at", "compensation", "compensation_version", "compensation_at",
    "held", "hold_reason", "reason_code", "reason",
    "policy_version", "list_version", "score_basis_points", "matched_entry_id", "matched_party", "review_case_id",
    "reviewer", "attempts", "inquiries", "systemic_refusals", "own_failures", "ambiguous", "identity_number",
    "systems_trace_audit_number", "retrieval_reference_number", "first_intent_at", "last_intent_at", "sealed_body",
    "status_identifier", "action_code", "transaction_identifier", "approval_code", "visa_correlation_id",
    "returned_at", "returned_version", "returned_reason_code",
    "compensation_action", "compensation_executor", "compensation_reason_code", "compensation_reference",
    "compensation_attempts", "compensation_inquiries", "compensation_ambiguous", "compensation_first_intent_at",
    "compensation_last_intent_at", "compensation_sealed_body", "compensation_identity_number",
    "compensation_systems_trace_audit_number", "compensation_retrieval_reference_number", "due_at", "announce_version",
)  # fmt: skip
"""Written by every compare-and-set, with version = version + 1 (rule L2). `lease_owner` and `lease_until` are written
by begin (taken) and by commit (cleared); `announced_version` only by `mark_announced`."""

FIELDS: Final = frozenset(field.name for field in fields(PayoutRow))


def with_changes(row: PayoutRow, **changes: Any) -> PayoutRow:
    """As `dataclasses.replace`, in a twentieth of its time: a payout's eighty fields are copied twenty times.

    Raises TypeError for a name that is no field.
    """
    if not FIELDS.issuperset(changes):
        raise TypeError(f"a row has no {', '.join(sorted(set(changes) - FIELDS))}")
    changed = object.__new__(PayoutRow)
    changed.__dict__.update(row.__dict__, **changes)
    return changed
