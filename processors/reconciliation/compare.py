"""Does everything agree about one payout? Pure: what disagrees, and whether it is too early to say.

    judgement = judge(payout, told, terms)      differences (empty: matched), awaited, what Visa moved

The sides are read one after the other, the ledger last: what it has decided meanwhile is too young to be missed on the
others, and what they know already it knows, too. So nothing that is merely under way is an exception.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from processors.payout.row import TERMINAL_STATES, UNPAID_ENDS, CompensationState, PayoutState
from processors.reconciliation.exception_kinds import ExceptionKind, Side
from processors.reconciliation.sides import LedgerPayout, Numbers, Told, VisaReport
from processors.visa.transaction_report import Movement, ReportRow

PATIENCE: Final = timedelta(minutes=15)
"""A step is published, and a lost answer asked for, within this, or `payouts stuck` shows it."""
REPORT_PATIENCE: Final = timedelta(hours=2)
"""Visa's query may lack a transaction's amount for so long; of its report nothing is said."""
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
    told_since: datetime | None
    """Events from then on were read; None: the topics were not."""
    visa: VisaReport | None


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
    paid_at_visa_minor: int


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

    def or_missing(self, at: datetime, patience: timedelta, now: datetime) -> bool:
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
        found += _of_topics(payout, told, terms.told_since, terms.now, doubt)
    here = there = 0
    if terms.visa is not None and payout.numbers is not None:
        rows = terms.visa.pushes.get(payout.numbers, ())
        found += _of_visa(payout, rows, terms, doubt)
        moved = moved_of(rows)
        there = sum(row.amount_minor or 0 for row in moved if row.currency == payout.currency)
        if payout.state is PayoutState.PAID and (moved or terms.visa.covers(payout)):
            here = payout.amount_minor
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
    """Money that Visa moved under numbers that no payout has: `unnamed`."""
    for numbers in sorted(unnamed, key=str):
        for row in moved_of(report.pushes.get(numbers, ())):
            yield numbers, row, Difference(ExceptionKind.NOT_IN_LEDGER, f"{_shown(row)}; no payout has these numbers")


def moved_of(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The pushes that stand: one for each transaction, without those that were taken back."""
    pushes: dict[str | int, ReportRow] = {}
    taken_back: set[str | int] = set()
    for index, row in enumerate(rows):
        name = row.transaction_id or index
        if row.movement is Movement.PUSH:
            pushes.setdefault(name, row)
        else:
            taken_back.add(name)
    standing = [row for name, row in pushes.items() if name not in taken_back]
    # A reversal under a name of its own takes back one of them, whichever: they have the same numbers.
    of_others = len(taken_back - pushes.keys())
    return standing[: max(0, len(standing) - of_others)]


def _of_ledger(payout: LedgerPayout) -> Iterator[Difference]:
    if payout.state is PayoutState.PAID and payout.compensation is not CompensationState.NONE:
        yield Difference(ExceptionKind.COMPENSATED_AND_PAID, f"PAID, and its compensation is {payout.compensation}")
    owed = payout.funding_captured and payout.receipt_owned and not payout.ambiguous
    if payout.state in UNPAID_ENDS and owed and payout.compensation is CompensationState.NONE:
        yield Difference(ExceptionKind.COMPENSATION_MISSING, f"{payout.state}, with funding of its own")


def _of_topics(payout: LedgerPayout, told: Told, since: datetime, now: datetime, doubt: _Doubt) -> Iterator[Difference]:
    expected = _expected_results(payout)
    yield from _missing_or_different(payout, told, expected, since, now, doubt)
    yield from _beyond(payout, told, {version for version, _, _ in expected})
    if payout.state not in TERMINAL_STATES or payout.compensation is CompensationState.NONE:
        return
    if (
        payout.state_version not in told.demands
        and doubt.was_read(payout.state_at, since)
        and doubt.or_missing(payout.state_at, PATIENCE, now)
    ):
        yield Difference(ExceptionKind.COMPENSATION_NOT_TOLD, "no event demands the compensation")
    at = payout.compensation_at
    if (
        payout.compensation in TOLD_BY_RESULT
        and at is not None
        and told.compensations.get(payout.compensation_version) != payout.compensation
        and doubt.was_read(at, since)
        and doubt.or_missing(at, PATIENCE, now)
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
    now: datetime,
    doubt: _Doubt,
) -> Iterator[Difference]:
    for version, status, at in expected:
        event = told.results.get(version)
        if event is None:
            if doubt.was_read(at, since) and doubt.or_missing(at, PATIENCE, now):
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


def _of_visa(payout: LedgerPayout, rows: Sequence[ReportRow], terms: Terms, doubt: _Doubt) -> Iterator[Difference]:
    moved = moved_of(rows)
    if len(moved) > 1:
        yield Difference(ExceptionKind.PAID_TWICE, "; ".join(_shown(row) for row in moved))
    if payout.state is PayoutState.PAID:
        yield from _paid_here(payout, rows, moved, terms, doubt)
    elif moved and payout.state in UNPAID_ENDS:
        handed_back = payout.compensation in HANDED_BACK
        kind = ExceptionKind.COMPENSATED_AND_PAID if handed_back else ExceptionKind.LEDGER_MISMATCH
        yield Difference(kind, f"{payout.state}, compensation {payout.compensation}; {_shown(moved[0])}")
    elif moved and doubt.or_missing(payout.last_intent_at or payout.state_at, PATIENCE, terms.now):
        yield Difference(ExceptionKind.MISSING_ACK, f"{payout.state}; {_shown(moved[0])}")


def _paid_here(
    payout: LedgerPayout, rows: Sequence[ReportRow], moved: Sequence[ReportRow], terms: Terms, doubt: _Doubt
) -> Iterator[Difference]:
    for row in moved:
        if row.currency is not None and row.currency != payout.currency:
            yield Difference(ExceptionKind.CURRENCY_MISMATCH, f"{payout.currency} here; {_shown(row)}")
        elif row.amount_minor is None:
            doubt.awaited = True
        elif row.amount_minor != payout.amount_minor:
            detail = f"{payout.amount_minor} minor units of {payout.currency} here; {_shown(row)}"
            yield Difference(ExceptionKind.AMOUNT_MISMATCH, detail)
    if moved:
        return
    if rows:
        if payout.returned_at is None:
            yield Difference(ExceptionKind.REVERSED_AT_VISA, "; ".join(_shown(row) for row in rows))
    elif terms.visa is None or not terms.visa.covers(payout):
        doubt.awaited = True
    elif doubt.or_missing(payout.state_at, REPORT_PATIENCE, terms.now):
        yield Difference(
            ExceptionKind.NOT_AT_VISA,
            f"PAID under RRN {payout.retrieval_reference_number}, STAN {payout.systems_trace_audit_number}; "
            f"not in the report of {terms.visa.first} to {terms.visa.last}",
        )


def _shown(row: ReportRow) -> str:
    money = "an untold amount" if row.amount_minor is None else f"{row.amount_minor} minor units of {row.currency}"
    return f"Visa's {row.state} of {row.transaction_date} says {money}"
