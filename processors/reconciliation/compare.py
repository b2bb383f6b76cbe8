"""Does everything agree about one payout? Pure: what disagrees, and whether it is too early to say.

    judgement = judge(payout, told, terms)      differences (empty: matched), awaited, what Visa moved

The sides are read one after the other, the ledger last: what it has decided meanwhile is too young to be missed on the
others, and what they know already it knows, too. So nothing that is merely under way is an exception.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

from processors.payout.row import TERMINAL_STATES, UNPAID_ENDS, CompensationState, PayoutState
from processors.reconciliation.exception_kinds import ExceptionKind, Side
from processors.reconciliation.sides import TAKEN_BACK, LedgerPayout, Numbers, Told, VisaReport
from processors.visa.transaction_report import Movement, ReportRow

PATIENCE: Final = timedelta(minutes=15)
"""A step is published, and a lost answer asked for, within this, or `payouts stuck` shows it."""
REPORT_PATIENCE: Final = timedelta(hours=2)
"""Visa's query may lack a transaction's amount for so long; of its report nothing is said."""
ANOTHER_DAY: Final = timedelta(days=1)
"""Visa's day of a push may be the one after ours; one that is later still is another push."""
RETURNED: Final = "RETURNED"
HANDED_BACK: Final = frozenset({CompensationState.RUNNING, CompensationState.UNKNOWN, CompensationState.COMPENSATED})
TOLD_BY_RESULT: Final = frozenset({CompensationState.COMPENSATED, CompensationState.MANUAL})


class Difference(NamedTuple):
    """One thing that disagrees. The detail names no person, no card and no account."""

    kind: ExceptionKind
    detail: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What was read, and when."""

    now: datetime
    since: datetime
    """What happened from then on is of this run."""
    told_since: datetime | None
    """Events from then on were read; None: the topics were not."""
    visa: VisaReport | None
    patience: timedelta = PATIENCE
    report_patience: timedelta = REPORT_PATIENCE

    def is_over(self, day: date) -> bool:
        """Whether Visa's report of a day may be whole. Who has no patience says that it is."""
        return not self.report_patience or day < self.now.date()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one payout."""

    differences: tuple[Difference, ...]
    awaited: bool
    """Something is too young to be missed, or outside of what the other side covers: no word about that yet."""
    settled: frozenset[Side]
    """The sides that have said everything about it: what they do not say is not so."""
    paid_here_minor: int
    """Of what was compared with Visa."""
    paid_at_visa: tuple[tuple[str, int], ...]
    """Currency and minor units of each push that stands, where Visa told them."""


class _Doubt:
    """Collects what cannot be said: what is too young, and what was told before the events that were read."""

    __slots__ = ("awaited", "untold_before")

    def __init__(self) -> None:
        self.awaited = False
        self.untold_before = False

    def was_read(self, at: datetime, since: datetime) -> bool:
        """Whether an event of then is among those that were read."""
        self.untold_before = self.untold_before or at < since
        return at >= since

    def is_missed(self, at: datetime, patience: timedelta, now: datetime) -> bool:
        """Whether it is missed; else it is awaited."""
        if now - at < patience:
            self.awaited = True
            return False
        return True


def judge(payout: LedgerPayout, told: Told, terms: Terms) -> Judgement:
    """Compare what the sides say of a payout."""
    doubt = _Doubt()
    found = [*_of_ledger(payout)]
    if terms.told_since is not None:
        found += _of_topics(payout, told, terms.told_since, terms, doubt)
    here: int = 0
    there: tuple[tuple[str, int], ...] = ()
    if terms.visa is not None and payout.numbers is not None:
        rows = terms.visa.pushes.get(payout.numbers, ())
        moved = moved_of(rows)
        found += _of_visa(payout, rows, moved, terms, doubt)
        there = tuple((row.currency, row.amount_minor) for row in moved if row.currency and row.amount_minor)
        if payout.state is PayoutState.PAID and len(there) == len(moved) and (moved or terms.visa.covers(payout)):
            here = 0 if doubt.awaited else payout.amount_minor
    return Judgement(tuple(found), doubt.awaited, _settled(payout, terms, doubt), here, there)


def _settled(payout: LedgerPayout, terms: Terms, doubt: "_Doubt") -> frozenset[Side]:
    if doubt.awaited:
        return frozenset({Side.LEDGER})
    sides = {Side.LEDGER}
    if terms.told_since is not None and not doubt.untold_before:
        sides.add(Side.TOPICS)
    if terms.visa is not None and (payout.numbers is None or terms.visa.covers(payout)):
        sides.add(Side.VISA)
    return frozenset(sides)


def strangers(report: VisaReport, unnamed: Collection[Numbers]) -> Iterator[tuple[Numbers, ReportRow, Difference]]:
    """Money that Visa moved, or may have, under numbers that no payout has: `unnamed`."""
    for numbers in sorted(unnamed, key=str):
        rows = report.pushes.get(numbers, ())
        for row in (*moved_of(rows), *_unread(rows)):
            yield numbers, row, Difference(ExceptionKind.NOT_IN_LEDGER, f"{_shown(row)}; no payout has these numbers")


def moved_of(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The pushes that stand: one for each transaction, without those that were taken back.

    A transaction is told by its identifier, approval code and time: an identifier alone may be the same for two.
    """
    pushes = {(row.transaction_id, row.approval_code, row.transaction_time, row.transaction_date): row for row in rows
              if row.movement is Movement.PUSH}  # fmt: skip
    taken_back = [row for row in rows if row.movement in TAKEN_BACK]
    standing = list(pushes.values())
    for name in dict.fromkeys(row.transaction_id for row in taken_back):
        # One of that name; else, as a reversal may have a name of its own, whichever: they have the same numbers.
        match = next((row for row in standing if name is not None and row.transaction_id == name), None)
        if standing:
            standing.remove(match or standing[-1])
    return standing


def _unread(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """What may be money and cannot be read."""
    return [row for row in rows if row.movement is Movement.OTHER]


def _of_ledger(payout: LedgerPayout) -> Iterator[Difference]:
    if payout.state is PayoutState.PAID and payout.compensation is not CompensationState.NONE:
        yield Difference(ExceptionKind.COMPENSATED_AND_PAID, f"PAID, and its compensation is {payout.compensation}")
    if payout.state in UNPAID_ENDS and payout.approved_after_its_end:
        yield _paid_after_all(payout, "Visa approved it afterwards")
    owed = payout.funding_captured and payout.receipt_owned and not payout.ambiguous
    if payout.state in UNPAID_ENDS and owed and payout.compensation is CompensationState.NONE:
        yield Difference(ExceptionKind.COMPENSATION_MISSING, f"{payout.state}, with funding of its own")


def _paid_after_all(payout: LedgerPayout, evidence: str) -> Difference:
    handed_back = payout.compensation in HANDED_BACK
    kind = ExceptionKind.COMPENSATED_AND_PAID if handed_back else ExceptionKind.LEDGER_MISMATCH
    return Difference(kind, f"{payout.state}, compensation {payout.compensation}; {evidence}")


def _of_topics(payout: LedgerPayout, told: Told, since: datetime, terms: Terms, doubt: _Doubt) -> Iterator[Difference]:
    expected, patience, now = _expected_results(payout), terms.patience, terms.now
    yield from _missing_or_different(payout, told, expected, since, terms, doubt)
    for version in sorted(told.contradicted):
        yield Difference(ExceptionKind.RESULT_DIFFERS, f"two events of version {version} tell different things")
    yield from _beyond(payout, told, {version for version, _, _ in expected})
    if payout.state not in TERMINAL_STATES or payout.compensation is CompensationState.NONE:
        return
    if (
        payout.state_version not in told.demands
        and doubt.was_read(payout.state_at, since)
        and doubt.is_missed(payout.state_at, patience, now)
    ):
        yield Difference(ExceptionKind.COMPENSATION_NOT_TOLD, "no event demands the compensation")
    at = payout.compensation_at
    if (
        payout.compensation in TOLD_BY_RESULT
        and at is not None
        and told.compensations.get(payout.compensation_version) != payout.compensation
        and doubt.was_read(at, since)
        and doubt.is_missed(at, patience, now)
    ):
        yield Difference(ExceptionKind.COMPENSATION_NOT_TOLD, f"no event tells that it is {payout.compensation}")


def _expected_results(payout: LedgerPayout) -> list[tuple[int, str, datetime]]:
    if payout.state not in TERMINAL_STATES:
        return []
    expected = [(payout.state_version, payout.state.value, payout.state_at)]
    if payout.returned_at is not None:
        expected.append((payout.returned_version, RETURNED, payout.returned_at))
    return expected


def _missing_or_different(
    payout: LedgerPayout,
    told: Told,
    expected: Sequence[tuple[int, str, datetime]],
    since: datetime,
    terms: Terms,
    doubt: _Doubt,
) -> Iterator[Difference]:
    for version, status, at in expected:
        event = told.results.get(version)
        if event is None:
            if doubt.was_read(at, since) and doubt.is_missed(at, terms.patience, terms.now):
                yield Difference(ExceptionKind.RESULT_MISSING, f"{status} in version {version}; no event tells it")
        elif (event.status, event.amount_minor, event.currency) != (status, payout.amount_minor, payout.currency):
            yield Difference(
                ExceptionKind.RESULT_DIFFERS,
                f"version {version} is {status}, {payout.amount_minor} minor units of {payout.currency}; "
                f"its event tells {event.status}, {event.amount_minor} of {event.currency}",
            )


def _beyond(payout: LedgerPayout, told: Told, expected: set[int]) -> Iterator[Difference]:
    """What consumers keep is the event of the highest version (K3): it must be one that the ledger knows."""
    if not told.results or (highest := max(told.results)) in expected:
        return
    status = told.results[highest].status
    if not expected:
        detail = f"told {status} in version {highest}; here it is {payout.state}: was a resolution undone?"
        yield Difference(ExceptionKind.RESULT_DIFFERS, detail)
    elif highest > max(expected):
        detail = f"told {status} in version {highest}; the ledger knows of none: is it a restored copy?"
        yield Difference(ExceptionKind.RESULT_DIFFERS, detail)


def _of_visa(
    payout: LedgerPayout, rows: Sequence[ReportRow], moved: Sequence[ReportRow], terms: Terms, doubt: _Doubt
) -> Iterator[Difference]:
    for row in _unread(rows):
        yield Difference(ExceptionKind.UNKNOWN_MOVEMENT, _shown(row))
    if len(moved) > 1:
        yield Difference(ExceptionKind.PAID_TWICE, "; ".join(sorted(_shown(row) for row in moved)))
    if payout.state is PayoutState.PAID:
        yield from _paid_here(payout, rows, moved, terms, doubt)
    elif moved and payout.state in UNPAID_ENDS:
        yield _paid_after_all(payout, _shown(moved[0]))
    elif moved:
        if doubt.is_missed(payout.last_sent_at or payout.state_at, terms.patience, terms.now):
            yield Difference(ExceptionKind.MISSING_ACK, f"{payout.state}; {_shown(moved[0])}")
    elif payout.state in UNPAID_ENDS:
        yield from _not_covered(payout, terms, doubt)


def _not_covered(payout: LedgerPayout, terms: Terms, doubt: _Doubt) -> Iterator[Difference]:
    """An end about which Visa's report says nothing: because it has not come to it yet, or begins after it."""
    if terms.visa is None or terms.visa.covers(payout) or payout.state_at < terms.since:
        return  # what ended before was compared by the run of its day
    if terms.visa.begins_after(payout):
        yield Difference(ExceptionKind.NOT_COMPARED, f"{payout.state}; sent before Visa's report begins")
    else:
        doubt.awaited = True


def _paid_here(
    payout: LedgerPayout, rows: Sequence[ReportRow], moved: Sequence[ReportRow], terms: Terms, doubt: _Doubt
) -> Iterator[Difference]:
    for row in moved:
        yield from _otherwise(payout, row, terms, doubt)
    if moved:
        return
    if any(row.movement in TAKEN_BACK for row in rows):
        if payout.returned_at is None:
            yield Difference(ExceptionKind.REVERSED_AT_VISA, "; ".join(sorted(_shown(row) for row in rows)))
    elif terms.visa is None or not terms.visa.covers(payout):
        yield from _not_covered(payout, terms, doubt)
    elif not terms.is_over((payout.last_sent_at or payout.state_at).date()):
        doubt.awaited = True
    elif doubt.is_missed(payout.state_at, terms.report_patience, terms.now):
        numbers = f"RRN {payout.retrieval_reference_number}, STAN {payout.systems_trace_audit_number}"
        yield Difference(ExceptionKind.NOT_AT_VISA, f"PAID under {numbers}; Visa's report does not have it")


def _otherwise(payout: LedgerPayout, row: ReportRow, terms: Terms, doubt: _Doubt) -> Iterator[Difference]:
    """What a push that stands says otherwise than we."""
    sent_at = payout.last_sent_at
    if sent_at is not None and row.transaction_date > sent_at.date() + ANOTHER_DAY:
        detail = f"{_shown(row)}; we sent it last on {sent_at.date()}"
        yield Difference(ExceptionKind.PAID_TWICE, detail)
    if row.currency is not None and row.currency != payout.currency:
        yield Difference(ExceptionKind.CURRENCY_MISMATCH, f"{payout.currency} here; {_shown(row)}")
    elif row.amount_minor is None and not terms.is_over(row.transaction_date):
        doubt.awaited = True
    elif row.amount_minor is None:
        yield Difference(ExceptionKind.NOT_COMPARED, _shown(row))
    elif row.amount_minor != payout.amount_minor:
        detail = f"{payout.amount_minor} minor units of {payout.currency} here; {_shown(row)}"
        yield Difference(ExceptionKind.AMOUNT_MISMATCH, detail)


def _shown(row: ReportRow) -> str:
    money = "an untold amount" if row.amount_minor is None else f"{row.amount_minor} minor units of {row.currency}"
    return f"Visa's {row.state} of {row.transaction_date} says {money}"
