"""`payouts reconcile daily|aging|exceptions`: do the ledger, the topics and Visa say the same? (S4-23, S4-24, S4-30)

`daily` compares one day and keeps what disagrees as exceptions, each with a type, an owner and a first step. It changes
no payout: whatever is done about an exception is done with another command, and the next run finds it gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from ledger.interface import InboundPosition
from ledger.reconciliations import (
    EXCEPTIONS_MAX,
    Closed,
    Run,
    VisaSource,
    days_to_compare,
    exceptions,
    may_record,
    record,
    standing,
)
from ops import reconcile_exceptions
from ops.application import ending, new_app
from ops.asynchronous import run
from ops.environment import DATABASE, KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import refused, usage_error
from ops.intake import MISSING_MAX
from ops.ledger_queries import reading
from ops.money_text import amount_text
from ops.operator_actions import (
    OperatorOption,
    who_or_what,
)
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message, to_json
from ops.reconcile_day import Asked, Outcome, Sides, closed_by, reconciled
from ops.reconcile_events import Topics
from ops.reconcile_exceptions import EXCEPTION_COLUMNS, line_of, unkept_line
from ops.reconcile_queries import STATEMENT_SECONDS, aging
from ops.reconcile_sides import VisaChoice, refuse_in_isolation, requests_of, topics_of, visa_of
from ops.report import DateOption, ZoneOption, day_of, zone_of
from ops.report_queries import Span
from ops.stuck import age_text
from processors.reconciliation.exception_kinds import MONEY_AT_RISK, ExceptionKind, Severity
from streams.settings import Settings

CATCH_UP_DAYS: Final = 10
"""A job that did not run for longer was missed by ReconciliationNotRun nine times."""
TIMEOUT_SECONDS: Final = 1_800.0
SHOWN_MAX: Final = 1_000
DAYS_MAX: Final = 3_650

MONEY_COLUMNS: Final = (
    Column("currency", "CURRENCY"),
    Column("requested", "REQUESTED", right=True),
    Column("paid", "PAID", right=True),
    Column("ledger", "COMPARED: HERE", right=True),
    Column("visa", "AT VISA", right=True),
    Column("difference", "DIFFERENCE", right=True),
)
AGING_COLUMNS: Final = (
    Column("what", "WHAT"),
    Column("currency", "CURRENCY"),
    Column("payouts", "PAYOUTS", right=True),
    Column("money", "MONEY", right=True),
    Column("under_1_hour", "0-1 H", right=True),
    Column("under_1_day", "1-24 H", right=True),
    Column("under_3_days", "1-3 D", right=True),
    Column("under_7_days", "3-7 D", right=True),
    Column("older", "> 7 D", right=True),
    Column("oldest", "OLDEST", right=True),
)

app = new_app("Reconciliation: do the ledger, the topics and Visa say the same?")
app.add_typer(reconcile_exceptions.app, name="exceptions")


@app.command(
    "daily",
    epilog=ending(
        "payouts reconcile daily --ask-visa --catch-up",
        "payouts reconcile daily --date 2026-11-27 --visa-report transactions.csv",
        "payouts reconcile daily --date 2026-11-27 --dry-run --output json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def daily(
    day: DateOption = None,
    zone: ZoneOption = "UTC",
    ask_visa: Annotated[bool, typer.Option("--ask-visa", help="Fetch Visa's report of these days.")] = False,
    visa_report: Annotated[
        str | None, typer.Option("--visa-report", metavar="FILE", help="Visa's report as a CSV file; - is stdin.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1.0, max=86_400.0, help="Stop reading one side after so many seconds.")
    ] = TIMEOUT_SECONDS,
    catch_up: Annotated[
        bool, typer.Option("--catch-up", help="And days before that nobody compared, or with open exceptions.")
    ] = False,
    patience: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=86_400.0, help="Miss nothing that is younger than so many seconds (900; Visa's 7,200)."
        ),
    ] = None,
    operator: OperatorOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and show; keep nothing of it.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare the payouts of a day: ledger, requests, results, compensations, and Visa's report if there is one.

    Changes no payout. What disagrees is kept as exceptions, until a later run finds it gone or somebody explains it;
    without Visa's report half of what could disagree is not seen. Ends with 1 if an exception is open. Visa's report
    knows cards only: payouts to accounts and wallets are compared with the topics. --catch-up goes back ten days.
    """
    if ask_visa and visa_report is not None:
        raise usage_error("--ask-visa and --visa-report contradict each other", next_step="give one of them")
    if catch_up and (day is not None or visa_report is not None):
        raise usage_error(
            "--catch-up is about many days, up to yesterday", next_step="leave out --date and --visa-report"
        )
    settings, name = settings_for(KAFKA, DATABASE), who_or_what(operator)
    how = How(zone, name, VisaChoice(ask_visa, visa_report, timeout), timeout, patience, dry_run)
    if not dry_run:
        _refuse_who_may_not_record(settings)
    if ask_visa:
        refuse_in_isolation(settings)
    documents = []
    for one in _days(settings, how, day_of(day, zone), catch_up=catch_up):
        document = _compare(settings, how, one)
        documents.append(document)
        if output is Output.TABLE:
            _show(document)
    if output is Output.JSON:
        emit_document(documents if catch_up else documents[0])
    if dry_run:
        message("Nothing was kept (--dry-run).")
    if any(row["status"] == "OPEN" for document in documents for row in document["exceptions"]):
        raise typer.Exit(ExitCode.FOUND)


@dataclass(frozen=True, slots=True)
class How:
    """What is the same for every day of a run."""

    zone: str
    operator: str
    visa: VisaChoice
    timeout_seconds: float
    patience_seconds: float | None
    dry_run: bool

    def asked(self, day: date) -> Asked:
        """One day, as it is asked about now."""
        span = Span.of(day, 1, zone_of(self.zone))
        if self.patience_seconds is None:
            return Asked(day, span, datetime.now(UTC))
        patience = timedelta(seconds=self.patience_seconds)
        return Asked(day, span, datetime.now(UTC), patience, patience)


def _refuse_who_may_not_record(settings: Settings) -> None:
    """Before hours of reading. Raises CommandFailed (refused), LedgerUnavailable."""
    if not run(may_record(settings.database_url.get_secret_value())):
        raise refused(
            "this login may not keep what is found",
            why="reconciliations are an operator's to write; a worker's login only reads them",
            next_step="give DATABASE_URL of an operator (`payouts ledger roles`), or --dry-run",
        )


def _days(settings: Settings, how: How, last: date, *, catch_up: bool) -> list[date]:
    if not catch_up:
        return [last]
    url = settings.database_url.get_secret_value()
    days = run(days_to_compare(url, last, CATCH_UP_DAYS, with_visa=how.visa.source is not VisaSource.NONE))
    if len(days) > 1:
        message(f"{len(days)} days: {', '.join(day.isoformat() for day in days)}.")
    return days


def _compare(settings: Settings, how: How, day: date) -> dict[str, Any]:
    """One day: every side read, the ledger last, judged and kept. Raises CommandFailed, LedgerError."""
    url = settings.database_url.get_secret_value()
    asked = how.asked(day)
    known = {(one.kind, one.subject): one for one in run(standing(url))}
    topics = topics_of(settings, asked, how.timeout_seconds)
    unknown = requests_of(settings, asked, how.timeout_seconds)
    all_were_read = unknown is not None and len(unknown) < MISSING_MAX
    sides = Sides(topics, visa_of(settings, asked, how.visa), all_were_read)
    asked_last = replace(asked, now=datetime.now(UTC))
    outcome = run(reconciled(settings, asked_last, sides, {subject for _, subject in known}))
    _add_requests(outcome, unknown or [])
    if how.dry_run:
        rows = [unkept_line(one, day, known.get((one.kind, one.subject))) for one in outcome.found.values()]
    else:
        rows = _kept(url, how, asked, outcome, closed_by(sides, outcome))
    return _document(asked, how, topics, outcome, rows)


def _add_requests(outcome: Outcome, unknown: Sequence[InboundPosition]) -> None:
    for position in unknown:
        place = f"{position.topic} {position.partition} {position.offset}"
        outcome.add(
            ExceptionKind.REQUEST_NOT_IN_LEDGER, position.payout_id or place, f"committed at {place}", None, None
        )
        outcome.unmatched += 1


# What is kept and shown.


def _kept(url: str, how: How, asked: Asked, outcome: Outcome, closed: Sequence[Closed]) -> list[dict[str, Any]]:
    """Write it down; the exceptions that it found, as they are kept. Raises LedgerError."""
    whole = Run(
        asked.day, how.zone, asked.now, how.operator, how.visa.source,
        matched=outcome.matched, unmatched=outcome.unmatched, awaited=outcome.awaited,
        money=_sums(outcome, with_visa=how.visa.source is not VisaSource.NONE),
    )  # fmt: skip
    found = sorted(outcome.found.values(), key=lambda one: ExceptionKind(one.kind) not in MONEY_AT_RISK)
    if len(found) > EXCEPTIONS_MAX:
        message(
            f"Only {EXCEPTIONS_MAX} of {len(found)} exceptions are kept, those about money first: --dry-run shows all."
        )
    number = run(record(url, whole, found[:EXCEPTIONS_MAX], closed))
    return [line_of(one) for one in run(exceptions(url, only_open=False, run_number=number, limit=EXCEPTIONS_MAX))]


def _sums(outcome: Outcome, *, with_visa: bool) -> dict[str, dict[str, int]]:
    return {
        currency: {"ledger": sums.ledger, "visa": sums.visa} if with_visa else {"paid": sums.paid}
        for currency, sums in sorted(outcome.money.items())
    }


def _document(
    asked: Asked, how: How, topics: Topics | None, outcome: Outcome, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "day": asked.day.isoformat(),
        "from": asked.span.begin,
        "to": asked.span.end,
        "visa_source": how.visa.source.value,
        "events_read": None if topics is None else topics.events,
        "events_undecodable": None if topics is None else topics.undecodable,
        "states": dict(sorted(outcome.states.items())),
        "matched": outcome.matched,
        "unmatched": outcome.unmatched,
        "awaited": outcome.awaited,
        "money_minor": {
            currency: asdict(sums) | {"difference": sums.difference} for currency, sums in sorted(outcome.money.items())
        },
        "exceptions": list(rows),
    }


def emit_document(document: object) -> None:
    """One JSON document: a day, or an array of days."""
    print(to_json(document, indent=1))


def _show(document: Mapping[str, Any]) -> None:
    rows = document["exceptions"]
    head = {name: value for name, value in document.items() if name not in ("money_minor", "exceptions")}
    emit_object(head, Output.TABLE)
    print()
    with_visa = document["visa_source"] != VisaSource.NONE
    emit_rows(_money_lines(document["money_minor"], with_visa=with_visa), MONEY_COLUMNS, Output.TABLE)
    if rows:
        print()
        emit_rows(rows[:SHOWN_MAX], EXCEPTION_COLUMNS, Output.TABLE)
    if len(rows) > SHOWN_MAX:
        message(f"{len(rows) - SHOWN_MAX} more: `payouts reconcile exceptions list`, or --output json.")
    _tell(document)


def _money_lines(money: Mapping[str, Mapping[str, int]], *, with_visa: bool) -> list[dict[str, Any]]:
    shown = ("requested", "paid", *(("ledger", "visa", "difference") if with_visa else ()))
    return [
        {"currency": currency, **{name: amount_text(sums[name], currency) for name in shown}}
        for currency, sums in money.items()
    ]


def _tell(document: Mapping[str, Any]) -> None:
    unexplained = [row for row in document["exceptions"] if row["status"] == "OPEN"]
    at_risk = sum(row["severity"] == Severity.MONEY for row in unexplained)
    if unexplained:
        message(
            f"{len(unexplained)} exception(s) are open, {at_risk} of them about money. FIRST says what to do first."
        )
    else:
        counted = f"{document['matched']} matched, {document['awaited']} awaited"
        message(f"{document['day']}: everything that could be compared agrees: {counted}.")


# What is old.


@app.command(
    "aging",
    epilog=ending(
        "payouts reconcile aging",
        "payouts reconcile aging --days 1 --output json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def how_old(
    days: Annotated[int, typer.Option(min=0, max=DAYS_MAX, help="Only what is at least so many days old.")] = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what is open by age: payouts without an end, funding to be handed back, exceptions that nobody explained.

    Changes nothing. With --days it ends with 1 if anything is that old.
    """
    settings = settings_for(DATABASE)

    async def look() -> list[dict[str, Any]]:
        url = settings.database_url.get_secret_value()
        async with reading(url, statement_seconds=STATEMENT_SECONDS) as connection:
            return await aging(connection, days)

    rows = [_aged(row) for row in run(look())]
    emit_rows(rows, AGING_COLUMNS, output)
    if days and rows:
        raise typer.Exit(ExitCode.FOUND)


def _aged(row: Mapping[str, Any]) -> dict[str, Any]:
    known = row["amount_minor"] is not None and row["currency"] is not None
    money = amount_text(row["amount_minor"], row["currency"]) if known else None
    return {**row, "money": money, "oldest": age_text(max(0, row["oldest_seconds"]))}
