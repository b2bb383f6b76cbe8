"""The numbers that name one operation at Visa for ever (rule S1).

STAN (systemsTraceAuditNumber) and RRN (retrievalReferenceNumber) alone must be unique, because the transaction query
knows no more. Both come from one number n of the ledger's sequence:

    STAN       = 100000 + n mod 900000      six digits, and as a JSON number it must not begin with 0
    RRN 1-6    = ydddhh                     UTC hour of the first intent; Visa's OpenAPI requires a valid yddd
    RRN 7-12   = n div 900000               six digits

An identity is made once, before the first intent, and kept in the row: a resend repeats it, it is never made again.
"""

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

# All six-digit numbers without a leading zero.
STAN_FIRST: Final = 100_000
STAN_COUNT: Final = 900_000
# The RRN's last six digits.
RRN_SUFFIX_COUNT: Final = 1_000_000
LARGEST_NUMBER: Final = STAN_COUNT * RRN_SUFFIX_COUNT - 1

_RRN: Final = re.compile(r"[0-9](?:00[1-9]|0[1-9][0-9]|[12][0-9]{2}|3[0-5][0-9]|36[0-6])(?:[01][0-9]|2[0-3])[0-9]{6}")
# Fixed for ever: changing it would give a payout in flight a second X-Client-Transaction-ID.
_CLIENT_TRANSACTION_NAMESPACE: Final = uuid.UUID("5f0f3a1e-8a53-5d57-9f1b-0c9f4a6a2f11")


class IdentityError(ValueError):
    """The numbers are used up, or do not belong together. Nothing may be sent under them."""


class Operation(StrEnum):
    """What one HTTP call asks of Visa."""

    PUSH_FUNDS = "push_funds"
    PUSH_FUNDS_STATUS = "push_funds_status"
    TRANSACTION_QUERY = "transaction_query"
    REVERSE_FUNDS = "reverse_funds"
    REVERSE_FUNDS_STATUS = "reverse_funds_status"
    ADJUSTMENT = "adjustment"
    SEND_PAYOUT = "send_payout"
    PAYOUT_QUERY = "payout_query"
    CANCEL_PAYOUT = "cancel_payout"
    VALIDATE_PAYOUT = "validate_payout"
    CARD_ATTRIBUTES = "card_attributes"
    CARD_VALIDATION = "card_validation"
    ALIAS_RESOLUTION = "alias_resolution"
    RATE_QUOTE = "rate_quote"
    CONNECTION_PROBE = "connection_probe"
    TRANSACTION_REPORT = "transaction_report"


PREFLIGHT_QUESTIONS: Final = frozenset(
    {
        Operation.CARD_ATTRIBUTES,
        Operation.CARD_VALIDATION,
        Operation.ALIAS_RESOLUTION,
        Operation.RATE_QUOTE,
        Operation.VALIDATE_PAYOUT,
    }
)
"""What is asked before a payout: no transaction, so none that Visa could go on with after a time-out of ours."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One operation's numbers. `first_intent_at` is UTC. Raises IdentityError when they contradict `number`."""

    number: int
    systems_trace_audit_number: int
    retrieval_reference_number: str
    first_intent_at: datetime

    def __post_init__(self) -> None:
        if self.first_intent_at.utcoffset() is None:
            raise IdentityError("first_intent_at has no time zone; give it in UTC")
        if _RRN.fullmatch(self.retrieval_reference_number) is None:
            raise IdentityError("the retrieval reference number is not of the form ydddhhnnnnnn")
        if self.number != sequence_number(self.systems_trace_audit_number, self.retrieval_reference_number):
            raise IdentityError(
                "the trace audit and retrieval reference numbers were not made from this sequence number; "
                "the row is damaged, send nothing and compare it with its history"
            )


def identity_from_sequence(number: int, first_intent_at: datetime) -> Identity:
    """The identity of the n-th operation, n from 0 to 899,999,999,999.

    `first_intent_at` must carry a time zone and is converted to UTC. Raises IdentityError.
    """
    if not 0 <= number <= LARGEST_NUMBER:
        raise IdentityError(
            f"sequence number {number} is outside 0..{LARGEST_NUMBER}: a retrieval reference number has no room "
            "for it; submission must stop until a new number range is agreed"
        )
    if first_intent_at.utcoffset() is None:
        raise IdentityError("first_intent_at has no time zone; give it in UTC")
    intent = first_intent_at.astimezone(UTC)
    hour = f"{intent.year % 10}{intent.timetuple().tm_yday:03d}{intent.hour:02d}"
    return Identity(
        number=number,
        systems_trace_audit_number=STAN_FIRST + number % STAN_COUNT,
        retrieval_reference_number=f"{hour}{number // STAN_COUNT:06d}",
        first_intent_at=intent,
    )


def sequence_number(systems_trace_audit_number: int, retrieval_reference_number: str) -> int:
    """The inverse: which number of the sequence a STAN and an RRN were made from. Raises IdentityError."""
    if not STAN_FIRST <= systems_trace_audit_number < STAN_FIRST + STAN_COUNT:
        raise IdentityError("a systems trace audit number has six digits and does not begin with 0")
    suffix = retrieval_reference_number[-6:]
    if len(retrieval_reference_number) != 12 or not (suffix.isascii() and suffix.isdigit()):
        raise IdentityError("a retrieval reference number has twelve digits")
    return int(suffix) * STAN_COUNT + systems_trace_audit_number - STAN_FIRST


def client_transaction_id(payout_id: str, operation: Operation) -> str:
    """X-Client-Transaction-ID of a payout's operation: the same for every attempt, different for every other.

    Visa's header page: while the first request is still being processed, a second with the same value is answered
    with 303 instead of being processed again.
    """
    return str(uuid.uuid5(_CLIENT_TRANSACTION_NAMESPACE, f"{operation.value}:{payout_id}"))
