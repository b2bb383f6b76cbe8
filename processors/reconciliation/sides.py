"""What each side says of one payout: the ledger, the topics, Visa's report. Amounts are minor units, times UTC."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Final, Self

from processors.payout.frozen import APPROVED_AFTER_UNPAID_END
from processors.payout.row import CompensationState, PayoutState
from processors.visa.transaction_report import Movement, ReportRow

Numbers = tuple[int | None, str]
"""STAN and RRN: what names a transaction at Visa for ever (rule S1)."""

TAKEN_WITHIN: Final = timedelta(hours=1)
"""From an intent of ours to Visa's date of it: a call's time, and clocks; a push at midnight may be of the next day."""
TAKEN_BACK: Final = frozenset({Movement.PUSH_REVERSED, Movement.PUSH_CHARGED_BACK})
OF_PUSHES: Final = TAKEN_BACK | {Movement.PUSH, Movement.OTHER}
"""What Visa calls by a name that nobody published may be a push, and is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPayout:
    """The ledger's side: those columns of a row that the others are compared with."""

    payout_id: str
    amount_minor: int
    currency: str
    state: PayoutState
    state_version: int
    state_at: datetime
    received_at: datetime
    is_account_payout: bool
    systems_trace_audit_number: int | None
    retrieval_reference_number: str | None
    first_intent_at: datetime | None
    last_intent_at: datetime | None
    ambiguous: bool
    funding_captured: bool
    receipt_owned: bool
    compensation: CompensationState
    compensation_version: int
    compensation_at: datetime | None
    returned_at: datetime | None
    returned_version: int
    hold_reason: str | None = None
    compensation_reason_code: str | None = None

    @property
    def approved_after_its_end(self) -> bool:
        """Visa has told the ledger itself that it paid what had ended unpaid: the row is frozen (rule L2)."""
        return APPROVED_AFTER_UNPAID_END in (self.hold_reason, self.compensation_reason_code)

    @property
    def last_sent_at(self) -> datetime | None:
        """When Visa was last asked to pay it."""
        return self.last_intent_at or self.first_intent_at

    @property
    def numbers(self) -> Numbers | None:
        """What names it at Visa; None before its first intent, and for accounts, which are named by reference."""
        if self.is_account_payout or self.retrieval_reference_number is None:
            return None
        return self.systems_trace_audit_number, self.retrieval_reference_number


@dataclass(frozen=True, slots=True)
class ResultTold:
    """One event of `payout_results`."""

    status: str
    amount_minor: int
    currency: str


NOBODY: Final[frozenset[int]] = frozenset()
NOTHING: Final[Mapping[int, str]] = MappingProxyType({})


@dataclass(slots=True)
class Told:
    """The topics' side: what was published of one payout, by the row version that each event reports (rule K3).

    Of a day there are as many as payouts: what most of them do not have costs nothing.
    """

    results: Mapping[int, ResultTold] = field(default_factory=dict)
    demands: Set[int] = NOBODY
    """Events that demand a compensation."""
    compensations: Mapping[int, str] = field(default_factory=lambda: NOTHING)
    """How compensations ended."""
    contradicted: Set[int] = NOBODY
    """Versions of which two events tell different things: one of them is of another copy of the ledger."""

    def add_result(self, version: int, told: ResultTold) -> None:
        """One event; the first of a version stands."""
        if version not in self.results:
            self.results = {**self.results, version: told}
        elif self.results[version] != told:
            self.contradicted = {*self.contradicted, version}

    def add_demand(self, version: int) -> None:
        """One event that demands a compensation."""
        self.demands = {*self.demands, version}

    def add_compensation(self, version: int, status: str) -> None:
        """One event that tells how a compensation ended."""
        self.compensations = {**self.compensations, version: status}


NOTHING_TOLD: Final = Told()


@dataclass(frozen=True, slots=True)
class VisaReport:
    """Visa's side: the pushes of whole days, what takes them back, what cannot be read; and which days they are."""

    first: date
    last: date
    pushes: Mapping[Numbers, Sequence[ReportRow]]

    @classmethod
    def of(cls, rows: Iterable[ReportRow], first: date, last: date) -> Self:
        """Pushes by their numbers. A row listed twice, equal in everything, is one: Visa's own example has such."""
        pushes: dict[Numbers, list[ReportRow]] = {}
        for row in dict.fromkeys(rows):
            if row.movement in OF_PUSHES:
                key = row.systems_trace_audit_number, row.retrieval_reference_number
                pushes.setdefault(key, []).append(row)
        return cls(first, last, pushes)

    def of_days(self, *days: date) -> set[Numbers]:
        """What Visa transacted on these days, or wrote into its log then: a reversal keeps the day of its push."""
        wanted = set(days)
        return {
            numbers
            for numbers, rows in self.pushes.items()
            if any(wanted & {row.transaction_date, row.processing_date} for row in rows)
        }

    def begins_after(self, payout: LedgerPayout) -> bool:
        """It was first sent before the first day of the report."""
        return payout.first_intent_at is not None and payout.first_intent_at.date() < self.first

    def covers(self, payout: LedgerPayout) -> bool:
        """Whether every day on which Visa may have taken it is in the report."""
        if payout.first_intent_at is None or payout.numbers is None:
            return False
        taken_until = (payout.last_sent_at or payout.first_intent_at) + TAKEN_WITHIN
        return self.first <= payout.first_intent_at.date() and taken_until.date() <= self.last
