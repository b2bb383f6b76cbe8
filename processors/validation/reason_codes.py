"""Every reason for which validation refuses a payout: the code, what it means, what a caller can do.

The codes are part of the public contract: they may be added to, never renamed or reused. Callers match on the code;
the sentence beside it in an event is for people.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ReasonCode(StrEnum):
    """Why a request ended REJECTED (rule K7)."""

    PAYOUT_ID_INVALID = "PAYOUT_ID_INVALID"
    CARD_NUMBER_IN_CLEAR = "CARD_NUMBER_IN_CLEAR"
    FIELD_INVALID = "FIELD_INVALID"
    PERSONAL_DATA_MISSING = "PERSONAL_DATA_MISSING"
    PERSONAL_DATA_UNREADABLE = "PERSONAL_DATA_UNREADABLE"
    FUNDING_INVALID = "FUNDING_INVALID"
    FUNDING_NOT_CAPTURED = "FUNDING_NOT_CAPTURED"
    LEDGER_NOT_CONFIRMED = "LEDGER_NOT_CONFIRMED"
    AFT_DECLINED = "AFT_DECLINED"
    PIS_FAILED = "PIS_FAILED"
    RECEIPT_REUSED = "RECEIPT_REUSED"
    CURRENCY_UNKNOWN = "CURRENCY_UNKNOWN"
    AMOUNT_NOT_POSITIVE = "AMOUNT_NOT_POSITIVE"
    AMOUNT_NOT_EXPRESSIBLE = "AMOUNT_NOT_EXPRESSIBLE"
    CLOCK_OFF = "CLOCK_OFF"
    EXPIRED_ON_ARRIVAL = "EXPIRED_ON_ARRIVAL"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    CORRIDOR_UNKNOWN = "CORRIDOR_UNKNOWN"
    DESTINATION_INVALID = "DESTINATION_INVALID"
    DESTINATION_NOT_AVAILABLE = "DESTINATION_NOT_AVAILABLE"
    DESTINATION_NOT_ALLOWED = "DESTINATION_NOT_ALLOWED"
    CARD_UNREADABLE = "CARD_UNREADABLE"
    ACCOUNT_UNREADABLE = "ACCOUNT_UNREADABLE"
    ALIAS_UNREADABLE = "ALIAS_UNREADABLE"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    QUOTE_REQUIRED = "QUOTE_REQUIRED"
    QUOTE_INVALID = "QUOTE_INVALID"
    QUOTE_EXPIRED = "QUOTE_EXPIRED"
    TRAVEL_RULE_INCOMPLETE = "TRAVEL_RULE_INCOMPLETE"


@dataclass(frozen=True, slots=True)
class Finding:
    """One failed check. `reason` is a sentence to act on and quotes no value that the originator chose."""

    reason_code: ReasonCode
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a code means and what a caller can do about it."""

    meaning: str
    advice: str


EXPLANATIONS: Final[Mapping[ReasonCode, Explanation]] = {
    ReasonCode.PAYOUT_ID_INVALID: Explanation(
        "The payout_id is not 8 to 64 letters, digits, hyphens or underscores, or looks like a card number.",
        "Send the payout again under an identifier of that form, for example a ULID.",
    ),
    ReasonCode.CARD_NUMBER_IN_CLEAR: Explanation(
        "A field holds what looks like a card number outside an encrypted field.",
        "Treat it as an incident on your side, remove the number, and send a new payout with the card encrypted.",
    ),
    ReasonCode.FIELD_INVALID: Explanation(
        "A text field is too long, empty where it must not be, or holds control characters.",
        "Correct the field that the reason names and send a new payout.",
    ),
    ReasonCode.PERSONAL_DATA_MISSING: Explanation(
        "The request carries no personal data of sender and recipient.",
        "Encrypt both parties to the processor's published key and send a new payout.",
    ),
    ReasonCode.PERSONAL_DATA_UNREADABLE: Explanation(
        "The encrypted personal data does not open or does not follow the published schema.",
        "Fetch the current public key, compare with personal_data.schema.json, and send a new payout.",
    ),
    ReasonCode.FUNDING_INVALID: Explanation(
        "The funding record does not fit its kind, is incomplete, or does not cover the payout.",
        "Complete the funding record as the reason says and send a new payout.",
    ),
    ReasonCode.FUNDING_NOT_CAPTURED: Explanation(
        "The funding's status does not say that the money was captured.",
        "Request the payout only after the capture is confirmed.",
    ),
    ReasonCode.LEDGER_NOT_CONFIRMED: Explanation(
        "Internal funding without a confirmed debit or without its reference.",
        "Debit your ledger, then send a new payout with debit_confirmed and confirmation_ref.",
    ),
    ReasonCode.AFT_DECLINED: Explanation(
        "The card pull that was to fund the payout was declined.",
        "Fund the payout in another way; nothing was captured.",
    ),
    ReasonCode.PIS_FAILED: Explanation(
        "The open-banking pull that was to fund the payout failed.",
        "Fund the payout in another way; nothing was captured.",
    ),
    ReasonCode.RECEIPT_REUSED: Explanation(
        "The funding receipt belongs to an earlier payout and can fund no other.",
        "Look up which payout used the receipt; nothing is handed back for this one.",
    ),
    ReasonCode.CURRENCY_UNKNOWN: Explanation(
        "A currency is not an ISO 4217 code with a minor unit.",
        "Use the three-letter alphabetic code, in capitals.",
    ),
    ReasonCode.AMOUNT_NOT_POSITIVE: Explanation(
        "The amount is zero or negative.",
        "Send a positive number of minor units.",
    ),
    ReasonCode.AMOUNT_NOT_EXPRESSIBLE: Explanation(
        "Visa's decimal format cannot carry the amount in this currency.",
        "In three-decimal currencies send a multiple of 10 minor units; stay below 1,000,000,000.",
    ),
    ReasonCode.CLOCK_OFF: Explanation(
        "requested_at lies in the future, or so far in the past that one of the clocks must be wrong.",
        "Synchronise the producer's clock and send a new payout.",
    ),
    ReasonCode.EXPIRED_ON_ARRIVAL: Explanation(
        "The request reached the processor after its own expires_at.",
        "Send a new payout with a later expiry if it is still wanted.",
    ),
    ReasonCode.CURRENCY_MISMATCH: Explanation(
        "The amount is not in the source currency of its corridor.",
        "Send the amount in the corridor's source currency.",
    ),
    ReasonCode.CORRIDOR_UNKNOWN: Explanation(
        "No policy allows this pair of countries and currencies.",
        "Check the corridor's codes; ask the operator to add the corridor if it is meant to be served.",
    ),
    ReasonCode.DESTINATION_INVALID: Explanation(
        "The destination record does not fit its kind.",
        "Set exactly the record of the destination's kind, with one way of naming the card.",
    ),
    ReasonCode.DESTINATION_NOT_AVAILABLE: Explanation(
        "Payouts to aliases, accounts and wallets are offered only where the processor is enrolled for them.",
        "Pay to a card instead.",
    ),
    ReasonCode.DESTINATION_NOT_ALLOWED: Explanation(
        "The corridor's policy does not allow this kind of destination.",
        "Use a kind that the corridor allows.",
    ),
    ReasonCode.CARD_UNREADABLE: Explanation(
        "The encrypted card does not open or does not follow the published schema.",
        "Fetch the current public key, compare with card.schema.json, and send a new payout.",
    ),
    ReasonCode.ACCOUNT_UNREADABLE: Explanation(
        "The encrypted account or wallet does not open or does not follow the published schema.",
        "Fetch the current public key, compare with account.schema.json or wallet.schema.json, and send a new payout.",
    ),
    ReasonCode.ALIAS_UNREADABLE: Explanation(
        "The encrypted alias does not open or does not follow the published schema.",
        "Fetch the current public key, compare with alias.schema.json, and send a new payout.",
    ),
    ReasonCode.LIMIT_EXCEEDED: Explanation(
        "The amount exceeds the corridor's maximum for one payout.",
        "Send a smaller amount, or ask the operator about the limit.",
    ),
    ReasonCode.QUOTE_REQUIRED: Explanation(
        "The corridor requires a locked exchange rate and the request carries none.",
        "Obtain a quote and send a new payout with it.",
    ),
    ReasonCode.QUOTE_INVALID: Explanation(
        "The exchange-rate quote has no identifier or no positive decimal rate.",
        "Copy quote and rate as they were issued and send a new payout.",
    ),
    ReasonCode.QUOTE_EXPIRED: Explanation(
        "The exchange-rate quote has expired.",
        "Obtain a new quote and send a new payout with it.",
    ),
    ReasonCode.TRAVEL_RULE_INCOMPLETE: Explanation(
        "A cross-border payout must name the sender with an address, and the recipient.",
        "Add the fields that the reason names and send a new payout.",
    ),
}
