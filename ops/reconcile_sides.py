"""The sides of a reconciliation besides the ledger, in the order in which they are read: topics, requests, Visa."""

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final, TextIO

from ledger.interface import InboundPosition
from ledger.reconciliations import VisaSource
from ops.asynchronous import connected_ledger, run
from ops.certs import connected_visa
from ops.failures import refused, unreachable, usage_error
from ops.ledger_queries import reading
from ops.output import message
from ops.reconcile_day import Asked
from ops.reconcile_events import REQUESTS, RESULTS, Topics, unknown_requests, what_was_told
from ops.reconcile_queries import STATEMENT_SECONDS, first_sent
from processors.payout.modes import Mode
from processors.reconciliation.sides import VisaReport
from processors.visa.fields import RequestInvalid
from processors.visa.transaction_report import REPORT_DAYS_BACK_MAX, ReportRow, ReportUnreadable, rows_of_csv
from schemas.topics import TOPICS
from streams.settings import Settings
from streams.visa_material import MaterialUnusable
from streams.visa_report import ReportUnavailable, fetched

STANDARD_INPUT: Final = "-"
A_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class VisaChoice:
    """Where Visa's side comes from, and how long may be waited for it."""

    ask: bool
    file: str | None
    timeout_seconds: float

    @property
    def source(self) -> VisaSource:
        """The word that is kept."""
        if self.file is not None:
            return VisaSource.FILE
        return VisaSource.API if self.ask else VisaSource.NONE


def topics_of(settings: Settings, asked: Asked, timeout_seconds: float) -> Topics | None:
    """What was told since; None where the topics keep it no longer. Raises CommandFailed, RegistryUnavailable."""
    keeps = timedelta(milliseconds=TOPICS[RESULTS].retention_ms)
    if asked.now - asked.begin > keeps:
        message(f"The topics keep {keeps.days} days: what was published of this day is gone and not compared.")
        return None
    return what_was_told(settings, asked.begin, asked.span.end, timeout_seconds)


def requests_of(settings: Settings, asked: Asked, timeout_seconds: float) -> list[InboundPosition] | None:
    """Committed requests of the day that the ledger does not know; None: nobody has looked.

    Raises CommandFailed, LedgerUnavailable, RegistryUnavailable.
    """
    begin, end = asked.begin, min(asked.span.end, asked.now - asked.patience)
    keeps = timedelta(milliseconds=TOPICS[REQUESTS].retention_ms)
    if begin >= end or asked.now - begin > keeps:
        message("No requests of this day can be looked up: they are too young, or the topic keeps them no longer.")
        return None

    async def look() -> tuple[int, list[InboundPosition]] | None:
        async with connected_ledger(settings) as ledger:
            return await unknown_requests(settings, ledger, begin, end, timeout_seconds)

    found = run(look())
    if found is None:
        message("No requests were looked up: the group has committed nothing, so nobody has passed any.")
        return None
    looked_up, unknown = found
    message(f"{looked_up} request(s) looked up, {len(unknown)} unknown.")
    return unknown


def visa_of(settings: Settings, asked: Asked, choice: VisaChoice) -> VisaReport | None:
    """Visa's report, if one is to be compared. Raises CommandFailed, LedgerUnavailable."""
    if choice.file is not None:
        return _of_file(settings, choice.file, asked.day)
    if choice.ask:
        return _of_visa(settings, asked, choice.timeout_seconds)
    message("Visa's side is not compared: give --ask-visa, or --visa-report FILE.")
    return None


def refuse_in_isolation(settings: Settings) -> None:
    """E5: in isolation nothing of ours calls Visa, a daily job least of all. Raises CommandFailed (refused)."""

    async def look() -> Mode:
        async with connected_ledger(settings) as ledger:
            return (await ledger.mode()).mode

    if run(look()) is Mode.ISOLATION:
        raise refused(
            "Visa is not asked in the mode isolation",
            why="it lets nothing of ours call out",
            next_step="give --visa-report FILE, or compare without Visa's side",
        )


def _of_file(settings: Settings, file: str, day: date) -> VisaReport:
    try:
        with _opened(file) as lines:
            rows = list(rows_of_csv(lines))
    except ReportUnreadable as error:
        raise usage_error("the report cannot be read", why=str(error), next_step="take Visa's CSV as it is") from None
    except OSError as error:
        raise usage_error("the report cannot be opened", why=type(error).__name__) from None
    days = {row.transaction_date for row in rows}
    if day not in days:
        covered = f"its rows are of {min(days)} to {max(days)}" if days else "it has no rows"
        raise usage_error(
            f"the report is not about {day.isoformat()}",
            why=covered,
            next_step="download the report of these days, or give their --date",
        )
    return reported(settings, rows, *days_around(day, days))


@contextmanager
def _opened(file: str) -> Iterator[TextIO]:
    if file == STANDARD_INPUT:
        yield sys.stdin
        return
    with Path(file).open(encoding="utf-8", newline="") as lines:
        yield lines


def days_around(day: date, days: Collection[date]) -> tuple[date, date]:
    """The first and last of the days without a gap around this one. Pure.

    A chargeback keeps the day of its push: one row of last month does not make it a report of the whole month.
    """
    first = last = day
    while first - A_DAY in days:
        first -= A_DAY
    while last + A_DAY in days:
        last += A_DAY
    return first, last


def _of_visa(settings: Settings, asked: Asked, timeout_seconds: float) -> VisaReport:
    day, today = asked.day, asked.now.date()
    first = max(_first_sent(settings, asked), today - timedelta(days=REPORT_DAYS_BACK_MAX - 1))
    # Days that are over: while one goes on, its rows move from page to page.
    last = min(max(day, min(day + A_DAY, today - A_DAY)), today)

    async def fetch() -> list[ReportRow]:
        async with connected_visa(settings) as client:
            return await fetched(client, first, last, deadline_seconds=timeout_seconds)

    try:
        return reported(settings, run(fetch()), first, last)
    except RequestInvalid as error:
        raise usage_error("Visa cannot be asked about this day", why=str(error)) from None
    except (MaterialUnusable, OSError) as error:
        why = str(error) if isinstance(error, MaterialUnusable) else error.strerror or type(error).__name__
        next_step = "`payouts certs probe` tells more; or download the report and give --visa-report FILE"
        raise refused("Visa cannot be asked", why=why, next_step=next_step) from None
    except ReportUnavailable as error:
        raise unreachable(
            "Visa's report could not be fetched",
            why=error.why,
            next_step="try again, or download it and give --visa-report FILE",
        ) from None


def _first_sent(settings: Settings, asked: Asked) -> date:
    """The day on which the first of those was sent that ended on this one; at least the day before.

    An UNKNOWN may end weeks after it was sent, by a person's word: Visa's word about it is of the day that it was sent.
    """

    async def look() -> datetime | None:
        url = settings.database_url.get_secret_value()
        async with reading(url, statement_seconds=STATEMENT_SECONDS) as connection:
            return await first_sent(connection, asked.begin, asked.span.end)

    sent = run(look())
    return asked.day - A_DAY if sent is None else min(asked.day - A_DAY, sent.date())


def reported(settings: Settings, rows: Sequence[ReportRow], first: date, last: date) -> VisaReport:
    """The pushes that are ours: others may send under the same enrolment, by another BIN or card acceptor."""
    ours = [row for row in rows if is_ours(row, settings)]
    report = VisaReport.of(ours, first, last)
    pushes = sum(len(found) for found in report.pushes.values())
    message(
        f"Visa's report of {first} to {last}: {len(rows)} row(s), {pushes} of them are about our pushes; "
        f"{len(rows) - len(ours)} are of another BIN or card acceptor, {len(ours) - pushes} are pulls or repeated."
    )
    return report


def is_ours(row: ReportRow, settings: Settings) -> bool:
    """By the acquiring BIN and, where Visa names it, the card acceptor. Pure."""
    acceptor = row.card_acceptor_id
    of_our_bin = row.acquiring_bin.lstrip("0") == settings.visa_acquiring_bin.lstrip("0")
    return of_our_bin and (acceptor is None or acceptor.casefold() == settings.visa_card_acceptor_id.casefold())
