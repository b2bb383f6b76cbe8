"""What can happen to a payout: the inputs of the state machine. None of them carries a card number or a name."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from processors.payout.outcome import Outcome


class CallKind(StrEnum):
    """The calls that leave for Visa. PUSH, ACCOUNT_SEND, REVERSE and ADJUST move money; the others only ask."""

    PUSH = "PUSH"
    STATUS = "STATUS"
    QUERY = "QUERY"
    ACCOUNT_SEND = "ACCOUNT_SEND"
    ACCOUNT_QUERY = "ACCOUNT_QUERY"
    REVERSE = "REVERSE"
    REVERSAL_QUERY = "REVERSAL_QUERY"
    ADJUST = "ADJUST"
    ADJUSTMENT_QUERY = "ADJUSTMENT_QUERY"


SUBMISSIONS = frozenset({CallKind.PUSH, CallKind.ACCOUNT_SEND})
"""What pays the recipient; which of them, the row's destination says."""
ACCOUNT_CALLS = frozenset({CallKind.ACCOUNT_SEND, CallKind.ACCOUNT_QUERY})
MONEY_MOVING_CALLS = SUBMISSIONS | {CallKind.REVERSE, CallKind.ADJUST}
COMPENSATION_CALLS = frozenset({CallKind.REVERSE, CallKind.REVERSAL_QUERY, CallKind.ADJUST, CallKind.ADJUSTMENT_QUERY})
"""Calls whose attempt is the row's `compensation_attempts`."""


@dataclass(frozen=True, slots=True)
class Validated:
    """Every check of the request passed."""

    policy_version: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A check of the request failed: the payout ends (rule K7)."""

    reason_code: str
    reason: str
    policy_version: str | None


@dataclass(frozen=True, slots=True)
class Screened:
    """What screening found about the parties; the evidence stays in the row (promise P7)."""

    verdict: "ScreeningVerdict"
    reason_code: str
    reason: str
    policy_version: str
    list_version: str
    score_basis_points: int
    matched_entry_id: str | None
    matched_party: str | None


class ScreeningVerdict(StrEnum):
    """Pass, ask a person, or refuse."""

    CLEARED = "CLEARED"
    NEEDS_REVIEW = "NEEDS_REVIEW"
    DENIED = "DENIED"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A reviewer decided an open case (rule R1)."""

    case_id: str
    approved: bool
    reviewer: str
    reason_code: str
    approvals_needed: int = 1
    """How many people have to approve, as the policy in force says: 1 or 2. One is enough to reject."""
    not_by: frozenset[str] = frozenset()
    """Who held the payout or opened the case: another person decides."""


@dataclass(frozen=True, slots=True)
class ReviewWanted:
    """The mode lets nothing be sent that a reviewer has not approved, unless screening scored it low (L9, E5)."""


@dataclass(frozen=True, slots=True)
class Unbuildable:
    """The call cannot be made from what the request carries; nothing was sent."""

    reason_code: str
    reason: str
    call: CallKind = CallKind.PUSH


class InquiryVerdict(StrEnum):
    """What a question before the first intent has proven."""

    PASSED = "PASSED"
    REFUSED = "REFUSED"
    """For good: the payout ends unpaid."""
    LATER = "LATER"
    """Nothing: nothing happens, and it is asked again (fail closed)."""


@dataclass(frozen=True, slots=True)
class Inquired:
    """A question before the first intent ended (requirement B3). `outcome` is there for LATER, and only then."""

    question: str
    verdict: InquiryVerdict
    reason_code: str
    outcome: Outcome | None = None
    http_status: int | None = None
    action_code: str | None = None
    visa_correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class NewIdentity:
    """What a first intent fixes for ever (rule S1): taken from the sequence before the decision that uses it."""

    number: int
    systems_trace_audit_number: int
    retrieval_reference_number: str
    first_intent_at: datetime


@dataclass(frozen=True, slots=True)
class Answered:
    """A call ended, with an answer or without."""

    call: CallKind
    attempt: int
    """The row's `attempts` (or `compensation_attempts`) when the call was begun."""
    outcome: Outcome
    asked_at: datetime
    """When the call was begun: a query proves absence only as of then."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The originator says what became of the compensation that is his to perform (rule C2)."""

    compensation_id: str
    completed: bool
    reference: str


@dataclass(frozen=True, slots=True)
class Held:
    """An operator action or a failure that a person must see sets the hold flag (rule L12)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Released:
    """An operator releases the hold."""

    actor: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Requeued:
    """An operator wants a payout driven now and not when its schedule says (rules S3, S6)."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operator ends a payout that no attempt may have paid (rule S6)."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResolutionProposed:
    """The first pair of eyes says how an UNKNOWN payout ended; the row is held until a second agrees (rule S6)."""

    paid: bool
    evidence: str
    proposer: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """The second pair of eyes agrees with the proposal that made the row's version `proposed_version` (rule S6).

    Anything that happened to the row since then voids the proposal: it must be made again.
    """

    paid: bool
    evidence: str
    proposer: str
    approver: str
    proposed_version: int
    in_doubt: bool = False
    """It was held because a restored copy does not know what became of it (rule L11)."""


@dataclass(frozen=True, slots=True)
class ResolutionUndone:
    """An operator takes back a resolution of which nothing has followed yet: UNKNOWN again, and held (rule L12)."""

    actor: str
    reason: str
    resolved_version: int


@dataclass(frozen=True, slots=True)
class HandBackProposed:
    """The first pair of eyes says that a person has handed back what a MANUAL compensation waits for (rules C4, S6)."""

    evidence: str
    proposer: str


@dataclass(frozen=True, slots=True)
class HandBackAgreed:
    """The second pair of eyes agrees with the proposal that made the row's version `proposed_version` (rule S6)."""

    evidence: str
    proposer: str
    approver: str
    proposed_version: int


Event = (
    Validated
    | Rejected
    | Screened
    | ReviewWanted
    | Reviewed
    | Unbuildable
    | Inquired
    | Answered
    | Confirmed
    | Held
    | Released
    | Requeued
    | Cancelled
    | ResolutionProposed
    | Resolved
    | ResolutionUndone
    | HandBackProposed
    | HandBackAgreed
)
