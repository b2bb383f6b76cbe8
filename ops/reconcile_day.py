"""The course of one reconciliation: every side is read, the ledger last, and every payout of the day is judged.

    outcome = await reconciled(settings, day, span, topics, visa, now)

The topics and Visa's report are held in memory, some hundred bytes for each event; the ledger's payouts pass by.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from ledger.reconciliations import Closed, Found
from ops.ledger_queries import reading
from ops.output import progress
from ops.reconcile_events import Topics
from ops.reconcile_queries import (
    STATEMENT_SECONDS,
    adjustments_among,
    payouts_named,
    payouts_of,
    payouts_with_ids,
)
from ops.report_queries import Span
from processors.payout.row import PayoutState
from processors.reconciliation.compare import PATIENCE, REPORT_PATIENCE, Judgement, Terms, judge, strangers
from processors.reconciliation.exception_kinds import TREATMENT, ExceptionKind, Side
from processors.reconciliation.sides import NOTHING_TOLD, LedgerPayout, Numbers, VisaReport
from schemas.card_numbers import looks_like_card_number
from streams.settings import Settings

OVERLAP: Final = timedelta(hours=2)
"""What was too young to be missed in the run of the day before is judged once more."""
OF_OTHERS: Final = frozenset(
    {ExceptionKind.NOT_IN_LEDGER, ExceptionKind.REQUEST_NOT_IN_LEDGER, ExceptionKind.RESULT_NOT_IN_LEDGER}
)
"""About what no payout of ours is: known by their day alone."""
DETAIL_CHARACTERS_MAX: Final = 1_000
"""The table's own limit is 2,000 bytes."""
WITHHELD: Final = "[withheld]"


@dataclass(slots=True)
class Sums:
    """Of one currency, in minor units."""

    requested: int = 0
    """Of payouts that came in on the day."""
    paid: int = 0
    """Of payouts that became PAID on the day."""
    ledger: int = 0
    """PAID here, of what was compared with Visa."""
    visa: int = 0
    """What Visa moved for the same payouts, and for none."""

    @property
    def difference(self) -> int:
        """What Visa moved more than the ledger says."""
        return self.visa - self.ledger


@dataclass(slots=True)
class Outcome:
    """What a day came to. Counts are payouts."""

    matched: int = 0
    unmatched: int = 0
    """With at least one exception; also what another side has and the ledger does not."""
    awaited: int = 0
    states: Counter[str] = field(default_factory=Counter)
    money: dict[str, Sums] = field(default_factory=dict)
    found: dict[tuple[ExceptionKind, str], Found] = field(default_factory=dict)
    settled: dict[Side, set[str]] = field(default_factory=lambda: {side: set() for side in Side})
    """Of the subjects that have an exception: those about which a side has said everything."""

    def add(self, kind: ExceptionKind, subject: str, detail: str, amount: int | None, currency: str | None) -> None:
        """One exception; several of a kind about the same subject are one. A card number is no id of ours."""
        shown = WITHHELD if looks_like_card_number(subject) else subject
        known = self.found.get((kind, shown))
        whole = detail if known is None else f"{known.detail}; {detail}"
        self.found[kind, shown] = Found(kind.value, shown, amount, currency, whole[:DETAIL_CHARACTERS_MAX])

    def sums(self, currency: str) -> Sums:
        """Those of a currency."""
        return self.money.setdefault(currency, Sums())


@dataclass(frozen=True, slots=True)
class Sides:
    """What was read of a day besides the ledger."""

    topics: Topics | None
    visa: VisaReport | None
    requests_were_read: bool


def closed_by(sides: Sides, outcome: Outcome) -> list[Closed]:
    """What a run can find to be gone: only what it has looked at, and only where everything was said about it."""
    closed = []
    for side in Side:
        kinds = [kind.value for kind, known in TREATMENT.items() if known.side is side and kind not in OF_OTHERS]
        closed.append(Closed(kinds, outcome.settled[side]))
    of_others = {
        ExceptionKind.NOT_IN_LEDGER: sides.visa is not None,
        ExceptionKind.RESULT_NOT_IN_LEDGER: sides.topics is not None,
        ExceptionKind.REQUEST_NOT_IN_LEDGER: sides.requests_were_read,
    }
    return [*closed, *(Closed([kind.value], None) for kind, was_read in of_others.items() if was_read)]


@dataclass(frozen=True, slots=True)
class Asked:
    """Which day, and how patient the run is."""

    day: date
    span: Span
    now: datetime
    patience: timedelta = PATIENCE
    report_patience: timedelta = REPORT_PATIENCE

    @property
    def begin(self) -> datetime:
        """From when on payouts are judged: by the reader's day, and by Visa's, whose report has days of its own."""
        return min(self.span.begin, datetime.combine(self.day, time(), UTC)) - OVERLAP


async def reconciled(settings: Settings, asked: Asked, sides: Sides, excepted: Collection[str]) -> Outcome:
    """Judge every payout of the day; then what the others know and the ledger does not.

    `excepted` are the subjects that have an exception already. Raises LedgerUnavailable.
    """
    topics, visa = sides.topics, sides.visa
    told_since = None if topics is None else asked.begin
    terms = Terms(asked.now, asked.begin, told_since, visa, asked.patience, asked.report_patience)
    outcome, untold = Outcome(), set() if topics is None else set(topics.of_the_day)
    # Of the day before, too: what Visa wrote down late.
    unnamed = set() if visa is None else visa.of_days(asked.day, asked.day - timedelta(days=1))
    url = settings.database_url.get_secret_value()

    def judged(payout: LedgerPayout) -> None:
        told = NOTHING_TOLD if topics is None else topics.told.get(payout.payout_id, NOTHING_TOLD)
        judgement = judge(payout, told, terms)
        count(outcome, payout, asked.span, judgement)
        if payout.payout_id in excepted:
            for side in judgement.settled:
                outcome.settled[side].add(payout.payout_id)
        untold.discard(payout.payout_id)
        if payout.numbers is not None:
            unnamed.discard(payout.numbers)

    async with (
        reading(url, statement_seconds=STATEMENT_SECONDS) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        with progress("payouts compared", None) as step:
            async for payout in payouts_of(connection, asked.begin, asked.span.end):
                step()
                judged(payout)
        # What Visa did, or what was told, about payouts to which nothing happened here on this day: a late effect, a
        # chargeback, an event of another copy of the ledger.
        async for payout in payouts_named(connection, list(unnamed)):
            judged(payout)
        async for payout in payouts_with_ids(connection, list(untold)):
            judged(payout)
        unnamed -= await adjustments_among(connection, unnamed)
    if topics is not None:
        unknown_here(outcome, topics, untold)
    if visa is not None:
        unknown_at_visa(outcome, visa, unnamed)
    return outcome


def count(outcome: Outcome, payout: LedgerPayout, span: Span, judgement: Judgement) -> None:
    """One payout's judgement into the whole. What is only of the overlap adds exceptions and is not counted."""
    for difference in judgement.differences:
        outcome.add(difference.kind, payout.payout_id, difference.detail, payout.amount_minor, payout.currency)
    if not is_of_the_day(payout, span):
        outcome.unmatched += bool(judgement.differences)
        return
    if judgement.differences:
        outcome.unmatched += 1
    elif judgement.awaited:
        outcome.awaited += 1
    else:
        outcome.matched += 1
    outcome.states[payout.state.value] += 1
    sums = outcome.sums(payout.currency)
    if span.begin <= payout.received_at < span.end:
        sums.requested += payout.amount_minor
    if payout.state is PayoutState.PAID and span.begin <= payout.state_at < span.end:
        sums.paid += payout.amount_minor
    sums.ledger += judgement.paid_here_minor
    for currency, minor in judgement.paid_at_visa:
        outcome.sums(currency).visa += minor


def is_of_the_day(payout: LedgerPayout, span: Span) -> bool:
    """Whether anything of it happened on the day itself."""
    times = (
        *(payout.received_at, payout.state_at, payout.first_intent_at, payout.last_intent_at),
        *(payout.compensation_at, payout.returned_at),
    )
    return any(at is not None and span.begin <= at < span.end for at in times)


def unknown_here(outcome: Outcome, topics: Topics, unknown: Collection[str]) -> None:
    """Payouts of which an end was told on the day, and that the ledger does not have."""
    for payout_id in sorted(unknown):
        # An event that was published while the ledger was read is of a row that the ledger has: it was written first.
        for version, event in sorted(topics.told[payout_id].results.items()):
            detail = f"told {event.status} in version {version}; the ledger does not have it: is it a restored copy?"
            outcome.add(ExceptionKind.RESULT_NOT_IN_LEDGER, payout_id, detail, event.amount_minor, event.currency)
        outcome.unmatched += 1


def unknown_at_visa(outcome: Outcome, visa: VisaReport, unnamed: Collection[Numbers]) -> None:
    """Money that Visa moved, or may have, under numbers that no payout has."""
    for (trace, reference), row, difference in strangers(visa, unnamed):
        subject = f"visa RRN {reference} STAN {trace}"
        outcome.add(difference.kind, subject, difference.detail, row.amount_minor, row.currency)
        outcome.unmatched += 1
        if row.amount_minor is not None and row.currency is not None:
            outcome.sums(row.currency).visa += row.amount_minor
