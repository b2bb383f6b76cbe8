"""What can be wrong between the ledger, the topics and Visa: the kinds of exceptions, how bad each is, who looks at it.

The words are those of the table `reconciliation_exceptions`, of the metric's label and of the runbook.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class Side(StrEnum):
    """Which comparison finds it: only what was compared can be found to be gone."""

    VISA = "VISA"
    TOPICS = "TOPICS"
    LEDGER = "LEDGER"


class ExceptionKind(StrEnum):
    """What disagrees."""

    PAID_TWICE = "PAID_TWICE"
    """Visa moved the money of one payout more than once."""
    NOT_IN_LEDGER = "NOT_IN_LEDGER"
    """Visa moved money for us that no payout asked for."""
    LEDGER_MISMATCH = "LEDGER_MISMATCH"
    """Visa paid what ended unpaid here."""
    COMPENSATED_AND_PAID = "COMPENSATED_AND_PAID"
    """Its funding is handed back, and Visa, or the ledger itself, says that it was paid."""
    NOT_AT_VISA = "NOT_AT_VISA"
    """Paid here, and Visa's report of those days does not have it."""
    AMOUNT_MISMATCH = "AMOUNT_MISMATCH"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    UNKNOWN_MOVEMENT = "UNKNOWN_MOVEMENT"
    """Visa lists something under its numbers by a name that we do not know: it may be money."""
    MISSING_ACK = "MISSING_ACK"
    """Visa paid, and the ledger does not know yet: the answer was lost, and nobody has asked since."""
    REVERSED_AT_VISA = "REVERSED_AT_VISA"
    """Paid here; Visa took it back, or the cardholder's bank charged it back."""
    NOT_COMPARED = "NOT_COMPARED"
    """It ended on this day and was sent before Visa's report begins: nobody has looked whether Visa agrees."""
    REQUEST_NOT_IN_LEDGER = "REQUEST_NOT_IN_LEDGER"
    """A committed record of `payout_requests` of which the ledger knows nothing."""
    RESULT_NOT_IN_LEDGER = "RESULT_NOT_IN_LEDGER"
    """An event tells the end of a payout that the ledger does not have."""
    RESULT_MISSING = "RESULT_MISSING"
    """It ended, and its originator was not told."""
    RESULT_DIFFERS = "RESULT_DIFFERS"
    """Its originator was told another end or another amount than the ledger's."""
    COMPENSATION_MISSING = "COMPENSATION_MISSING"
    """It ended unpaid with funding of its own, and nobody hands that back."""
    COMPENSATION_NOT_TOLD = "COMPENSATION_NOT_TOLD"
    """Nobody was told that its funding is to be handed back, or how that ended."""


class Severity(StrEnum):
    """How bad it is."""

    MONEY = "MONEY"
    """Money may be gone, or in the wrong place."""
    INFORMATION = "INFORMATION"
    """Somebody has not been told, or we do not know yet; the money is where it belongs."""


class Treatment(NamedTuple):
    """What an exception means for people."""

    side: Side
    severity: Severity
    owner: str
    """Who finds the cause."""
    first: str
    """What to do first."""


TREATMENT: Final[Mapping[ExceptionKind, Treatment]] = {
    ExceptionKind.PAID_TWICE: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "`payouts modes set halted`; then `payouts show ID`"
    ),
    ExceptionKind.NOT_IN_LEDGER: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "who else sends on this BIN? a restored ledger? `payouts doctor`"
    ),
    ExceptionKind.LEDGER_MISMATCH: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "`payouts hold ID`, before its funding is handed back"
    ),
    ExceptionKind.COMPENSATED_AND_PAID: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "`payouts hold ID`; recover one of the two with its originator"
    ),
    ExceptionKind.NOT_AT_VISA: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "ask Visa with the numbers of `payouts show ID`"
    ),
    ExceptionKind.AMOUNT_MISMATCH: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "`payouts show ID`; ask Visa which amount was settled"
    ),
    ExceptionKind.CURRENCY_MISMATCH: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "`payouts show ID`; ask Visa which currency was settled"
    ),
    ExceptionKind.UNKNOWN_MOVEMENT: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "ask Visa what it is; then tell the developers its name"
    ),
    ExceptionKind.NOT_COMPARED: Treatment(
        Side.VISA, Severity.INFORMATION, "treasury", "`payouts show ID`; ask Visa, or give a report that begins earlier"
    ),
    ExceptionKind.MISSING_ACK: Treatment(
        Side.VISA, Severity.INFORMATION, "operators", "`payouts requeue ID`: the worker asks Visa again"
    ),
    ExceptionKind.REVERSED_AT_VISA: Treatment(
        Side.VISA, Severity.MONEY, "treasury", "settle with the originator: the recipient does not have the money"
    ),
    ExceptionKind.REQUEST_NOT_IN_LEDGER: Treatment(
        Side.TOPICS, Severity.MONEY, "operators", "`payouts intake verify`, which can drive it in"
    ),
    ExceptionKind.RESULT_NOT_IN_LEDGER: Treatment(
        Side.TOPICS, Severity.MONEY, "operators", "a restored ledger? `payouts modes set halted`, `payouts doctor`"
    ),
    ExceptionKind.RESULT_MISSING: Treatment(
        Side.TOPICS, Severity.INFORMATION, "operators", "`payouts stuck`; do workers run? was the topic restored?"
    ),
    ExceptionKind.RESULT_DIFFERS: Treatment(
        Side.TOPICS, Severity.MONEY, "operators", "`payouts show ID`; tell its originator which is right"
    ),
    ExceptionKind.COMPENSATION_MISSING: Treatment(
        Side.LEDGER, Severity.MONEY, "operators", "`payouts compensations --payout-id ID`, `payouts show ID`"
    ),
    ExceptionKind.COMPENSATION_NOT_TOLD: Treatment(
        Side.TOPICS, Severity.INFORMATION, "operators", "`payouts stuck`; do workers run? was the topic restored?"
    ),
}
MONEY_AT_RISK: Final = frozenset(kind for kind, known in TREATMENT.items() if known.severity is Severity.MONEY)
