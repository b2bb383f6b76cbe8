"""`payouts reconcile daily|aging|exceptions`: do the ledger, the topics and Visa say the same? (S4-23, S4-24, S4-30)

`daily` compares one day and keeps what disagrees as exceptions, each with a type, an owner and a first step. It changes
no payout: whatever is done about an exception is done with another command, and the next run finds it gone.
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer

from ledger.interface import InboundPosition
from ledger.reconciliations import Closed, Kept, Run, VisaSource, excepted, exceptions, record, reopen, resolve
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.certs import connected_visa
from ops.environment import DATABASE, KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, not_found, refused, unreachable, usage_error
from ops.ledger_queries import reading
from ops.money_text import amount_text
from ops.operator_actions import (
    DryRunOption,
    OperatorOption,
    ReasonOption,
    YesOption,
    confirmed,
    said,
    who,
    who_or_what,
)
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from ops.reconcile_day import OVERLAP, Outcome, Sides, closed_by, reconciled
from ops.reconcile_events import REQUESTS, Topics, unknown_requests, what_was_told
from ops.reconcile_queries import STATEMENT_SECONDS, aging, first_sent
from ops.report import DateOption, ZoneOption, day_of, zone_of
from ops.report_queries import Span
from ops.results import checked_words
from ops.stuck import age_text
from processors.payout.modes import Mode
from processors.reconciliation.compare import PATIENCE
from processors.reconciliation.exception_kinds import TREATMENT, ExceptionKind, Severity
from processors.reconciliation.sides import VisaReport
from processors.visa.fields import RequestInvalid
from processors.visa.transaction_report import REPORT_DAYS_BACK_MAX, ReportRow, ReportUnreadable, rows_of_csv
from schemas.topics import TOPICS
from streams.settings import Settings
from streams.visa_material import MaterialUnusable
from streams.visa_report import ReportUnavailable, fetched

TIMEOUT_SECONDS: Final = 1_800.0
STANDARD_INPUT: Final = "-"
SHOWN_MAX: Final = 1_000
DAYS_MAX: Final = 3_650
A_DAY: Final = timedelta(days=1)

MONEY_COLUMNS: Final = (
    Column("currency", "CURRENCY"),
    Column("requested", "REQUESTED", right=True),
    Column("paid", "PAID", right=True),
    Column("ledger", "COMPARED: HERE", right=True),
    Column("visa", "AT VISA", right=True),
    Column("difference", "DIFFERENCE", right=True),
)
EXCEPTION_COLUMNS: Final = (
    Column("id", "ID", right=True),
    Column("day", "DAY"),
    Column("type", "TYPE"),
    Column("subject", "SUBJECT"),
    Column("amount", "AMOUNT", right=True),
    Column("severity", "RISK"),
    Column("owner", "OWNER"),
    Column("status", "STATUS"),
    Column("age", "AGE", right=True),
    Column("detail", "DETAIL"),
    Column("first_step", "FIRST"),
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
of_exceptions = new_app("What disagreed: list it, explain it.")
app.add_typer(of_exceptions, name="exceptions")

TypeOption = Annotated[list[str] | None, typer.Option("--type", help=f"Only these: {', '.join(ExceptionKind)}.")]


@app.command(
    "daily",
    epilog=ending(
        "payouts reconcile daily --ask-visa",
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
    operator: OperatorOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and show; keep nothing of it.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare the payouts of a day: ledger, requests, results, compensations, and Visa's report if there is one.

    Changes no payout. What disagrees is kept as exceptions, until a later run of the day finds it gone or somebody
    explains it; without Visa's report half of what could disagree is not seen. Ends with 1 if an exception is open.
    Visa's report knows cards only: payouts to accounts and wallets are compared with the topics.
    """
    if ask_visa and visa_report is not None:
        raise usage_error("--ask-visa and --visa-report contradict each other", next_step="give one of them")
    settings, name = settings_for(KAFKA, DATABASE), who_or_what(operator)
    now = datetime.now(UTC)
    span = Span.of(wanted := day_of(day, zone), 1, zone_of(zone))
    known = run(excepted(settings.database_url.get_secret_value()))
    topics = _topics(settings, span, now, timeout)
    unknown = _requests(settings, span, now)
    report, source = _visa(settings, wanted, span, now, timeout, ask_visa=ask_visa, file=visa_report)
    sides = Sides(topics, report, unknown is not None)
    outcome = run(reconciled(settings, wanted, span, sides, known, datetime.now(UTC)))
    _add_requests(outcome, unknown or [])
    begun = Begun(wanted, zone, now, name, source)
    rows = _unkept(outcome, wanted) if dry_run else _kept(settings, begun, outcome, closed_by(sides, outcome))
    _show(wanted, span, source, topics, outcome, rows, output)
    if dry_run:
        message("Nothing was kept (--dry-run).")
    if any(row["status"] == "OPEN" for row in rows):
        raise typer.Exit(ExitCode.FOUND)


# The sides, in the order in which they must be read: see `processors.reconciliation.compare`.


def _topics(settings: Settings, span: Span, now: datetime, timeout: float) -> Topics | None:
    begin = span.begin - OVERLAP
    keeps = timedelta(milliseconds=TOPICS["payout_results"].retention_ms)
    if now - begin > keeps:
        message(f"The topics keep {keeps.days} days: what was published of this day is gone and not compared.")
        return None
    return what_was_told(settings, begin, span.end, timeout)


def _requests(settings: Settings, span: Span, now: datetime) -> list[InboundPosition] | None:
    """Committed requests of the day that the ledger does not know; None: they were not read to the day's end."""
    begin, end = span.begin - OVERLAP, min(span.end, now - PATIENCE)
    if begin >= end or now - begin > timedelta(milliseconds=TOPICS[REQUESTS].retention_ms):
        message("No requests of this day can be looked up: they are too young, or the topic keeps them no longer.")
        return None

    async def look() -> tuple[int, list[InboundPosition]]:
        async with connected_ledger(settings) as ledger:
            return await unknown_requests(settings, ledger, begin, end)

    looked_up, unknown = run(look())
    message(f"{looked_up} request(s) looked up, {len(unknown)} unknown.")
    return unknown


def _visa(
    settings: Settings, day: date, span: Span, now: datetime, timeout: float, *, ask_visa: bool, file: str | None
) -> tuple[VisaReport | None, VisaSource]:
    if file is not None:
        return _of_file(settings, file, day), VisaSource.FILE
    if ask_visa:
        _refuse_in_isolation(settings)
        return _of_visa(settings, day, span, now.date(), timeout), VisaSource.API
    message("Visa's side is not compared: give --ask-visa, or --visa-report FILE.")
    return None, VisaSource.NONE


def _refuse_in_isolation(settings: Settings) -> None:
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
    except (OSError, UnicodeDecodeError) as error:
        raise usage_error("the report cannot be opened", why=type(error).__name__) from None
    days = {row.transaction_date for row in rows}
    if day not in days:
        covered = f"its rows are of {min(days)} to {max(days)}" if days else "it has no rows"
        raise usage_error(
            f"the report is not about {day.isoformat()}",
            why=covered,
            next_step="download the report of these days, or give their --date",
        )
    return _reported(settings, rows, *days_around(day, days))


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


@contextmanager
def _opened(file: str) -> Iterator[TextIO]:
    if file == STANDARD_INPUT:
        yield sys.stdin
        return
    with Path(file).open(encoding="utf-8", newline="") as lines:
        yield lines


def _of_visa(settings: Settings, day: date, span: Span, today: date, timeout: float) -> VisaReport:
    first = max(_first_sent(settings, day, span), today - timedelta(days=REPORT_DAYS_BACK_MAX - 1))
    # Days that are over: while one goes on, its rows move from page to page.
    last = min(max(day, min(day + A_DAY, today - A_DAY)), today)

    async def fetch() -> list[ReportRow]:
        async with connected_visa(settings) as client:
            return await fetched(client, first, last, deadline_seconds=timeout)

    try:
        return _reported(settings, run(fetch()), first, last)
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


def _first_sent(settings: Settings, day: date, span: Span) -> date:
    """The day on which the first of those was sent that became PAID on this one; at least the day before.

    An UNKNOWN may end weeks after it was sent, by a person's word: Visa's word about it is of the day that it was sent.
    """

    async def look() -> datetime | None:
        url = settings.database_url.get_secret_value()
        async with reading(url, statement_seconds=STATEMENT_SECONDS) as connection:
            return await first_sent(connection, span.begin - OVERLAP, span.end)

    sent = run(look())
    return day - A_DAY if sent is None else min(day - A_DAY, sent.date())


def _reported(settings: Settings, rows: Sequence[ReportRow], first: date, last: date) -> VisaReport:
    """The pushes that are ours: others may send under the same enrolment, by another BIN or card acceptor."""
    ours = [row for row in rows if is_ours(row, settings)]
    report = VisaReport.of(ours, first, last)
    pushes = sum(len(found) for found in report.pushes.values())
    message(
        f"Visa's report of {first} to {last}: {len(rows)} row(s), {pushes} of them are our pushes; "
        f"{len(rows) - len(ours)} are of another BIN or card acceptor, {len(ours) - pushes} are pulls or repeated."
    )
    return report


def is_ours(row: ReportRow, settings: Settings) -> bool:
    """By the acquiring BIN and, where Visa names it, the card acceptor. Pure."""
    acceptor = row.card_acceptor_id
    of_our_bin = row.acquiring_bin.lstrip("0") == settings.visa_acquiring_bin.lstrip("0")
    return of_our_bin and (acceptor is None or acceptor.casefold() == settings.visa_card_acceptor_id.casefold())


def _add_requests(outcome: Outcome, unknown: Sequence[InboundPosition]) -> None:
    for position in unknown:
        place = f"{position.topic} {position.partition} {position.offset}"
        outcome.add(
            ExceptionKind.REQUEST_NOT_IN_LEDGER, position.payout_id or place, f"committed at {place}", None, None
        )
        outcome.unmatched += 1


# What is kept and shown.


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known of a run before it has compared anything."""

    day: date
    zone: str
    at: datetime
    operator: str
    visa_source: VisaSource


def _unkept(outcome: Outcome, day: date) -> list[dict[str, Any]]:
    return [_unkept_line(one, day) for one in outcome.found.values()]


def _kept(settings: Settings, begun: Begun, outcome: Outcome, closed: Sequence[Closed]) -> list[dict[str, Any]]:
    """Write it down; the exceptions that it found, as they are kept. Raises CommandFailed, LedgerError."""
    url = settings.database_url.get_secret_value()
    whole = Run(
        begun.day, begun.zone, begun.at, begun.operator, begun.visa_source,
        matched=outcome.matched, unmatched=outcome.unmatched, awaited=outcome.awaited,
        money=_sums(outcome, with_visa=begun.visa_source is not VisaSource.NONE),
    )  # fmt: skip
    try:
        number = run(record(url, whole, list(outcome.found.values()), closed))
    except ValueError as error:
        raise CommandFailed(
            ExitCode.REFUSED,
            "the exceptions were not kept",
            why=str(error),
            next_step="are both sides of the same installation? --dry-run --output json shows all of them",
        ) from None
    return [_line(one) for one in run(exceptions(url, only_open=False, run_number=number))]


def _sums(outcome: Outcome, *, with_visa: bool) -> dict[str, dict[str, int]]:
    return {
        currency: {"ledger": sums.ledger, "visa": sums.visa} if with_visa else {"paid": sums.paid}
        for currency, sums in sorted(outcome.money.items())
    }


def _show(
    day: date,
    span: Span,
    source: VisaSource,
    topics: Topics | None,
    outcome: Outcome,
    rows: Sequence[Mapping[str, Any]],
    output: Output,
) -> None:
    head = {
        "day": day.isoformat(),
        "from": span.begin,
        "to": span.end,
        "visa_source": source.value,
        "events_read": None if topics is None else topics.events,
        "events_undecodable": None if topics is None else topics.undecodable,
        "states": dict(sorted(outcome.states.items())),
        "matched": outcome.matched,
        "unmatched": outcome.unmatched,
        "awaited": outcome.awaited,
    }
    if output is Output.JSON:
        money = {
            currency: asdict(sums) | {"difference": sums.difference} for currency, sums in sorted(outcome.money.items())
        }
        emit_object({**head, "money_minor": money, "exceptions": list(rows)}, output)
        return
    emit_object(head, output)
    print()
    emit_rows(_money_lines(outcome, with_visa=source is not VisaSource.NONE), MONEY_COLUMNS, output)
    if rows:
        print()
        emit_rows(rows[:SHOWN_MAX], EXCEPTION_COLUMNS, output)
    if len(rows) > SHOWN_MAX:
        message(f"{len(rows) - SHOWN_MAX} more: `payouts reconcile exceptions list`, or --output json.")
    _tell(outcome, rows)


def _money_lines(outcome: Outcome, *, with_visa: bool) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for currency, sums in sorted(outcome.money.items()):
        texts: dict[str, str | None] = {name: amount_text(value, currency) for name, value in asdict(sums).items()}
        if with_visa:
            texts["difference"] = amount_text(sums.difference, currency)
        else:
            texts |= {"ledger": None, "visa": None}
        lines.append({"currency": currency, **texts})
    return lines


def _tell(outcome: Outcome, rows: Sequence[Mapping[str, Any]]) -> None:
    unexplained = [row for row in rows if row["status"] == "OPEN"]
    at_risk = sum(row["severity"] == Severity.MONEY for row in unexplained)
    if unexplained:
        message(
            f"{len(unexplained)} exception(s) are open, {at_risk} of them about money. FIRST says what to do first."
        )
    else:
        message(f"Everything that could be compared agrees: {outcome.matched} matched, {outcome.awaited} awaited.")


def _line(kept: Kept) -> dict[str, Any]:
    return {
        **_unkept_line(kept, kept.day),
        "id": kept.id,
        "status": kept.status,
        "first_seen_at": kept.first_seen_at,
        "last_seen_at": kept.last_seen_at,
        "age": age_text(max(0, int((datetime.now(UTC) - kept.first_seen_at).total_seconds()))),
        "resolved_by": kept.resolved_by,
        "resolution": kept.resolution,
    }


def _unkept_line(found: Any, day: date) -> dict[str, Any]:  # noqa: ANN401 - Found, or Kept, which has its fields
    known = TREATMENT.get(ExceptionKind(found.kind)) if found.kind in set(ExceptionKind) else None
    money = found.amount_minor is not None and found.currency is not None
    return {
        "day": day.isoformat(),
        "type": found.kind,
        "subject": found.subject,
        "amount_minor": found.amount_minor,
        "currency": found.currency,
        "amount": amount_text(found.amount_minor, found.currency) if money else None,
        "severity": None if known is None else known.severity.value,
        "owner": None if known is None else known.owner,
        "first_step": None if known is None else known.first,
        "status": "OPEN",
        "detail": found.detail,
    }


# What is old, and what was found.


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


@of_exceptions.command(
    "list",
    epilog=ending(
        "payouts reconcile exceptions list",
        "payouts reconcile exceptions list --type PAID_TWICE --type NOT_IN_LEDGER",
        "payouts reconcile exceptions list --all --date 2026-11-27 --output json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def listed(
    every: Annotated[bool, typer.Option("--all", help="Also those that are gone or explained.")] = False,
    kinds: TypeOption = None,
    day: Annotated[str | None, typer.Option("--date", help="Only of this day, YYYY-MM-DD.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show exceptions, youngest first: what disagrees, who finds the cause, and with what to begin.

    Changes nothing. Ends with 1 if one of those shown is open.
    """
    wanted = checked_words(kinds, tuple(ExceptionKind), "--type") or None
    settings = settings_for(DATABASE)
    url = settings.database_url.get_secret_value()
    of_day = None if day is None else day_of(day, "UTC")
    rows = [_line(one) for one in run(exceptions(url, only_open=not every, day=of_day, kinds=wanted))]
    emit_rows(rows, EXCEPTION_COLUMNS, output)
    if any(row["status"] == "OPEN" for row in rows):
        raise typer.Exit(ExitCode.FOUND)


IdArgument = Annotated[int, typer.Argument(metavar="ID", min=1, help="The number that `exceptions list` shows.")]
CODES: Final = (ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE)


@of_exceptions.command(
    "resolve",
    epilog=ending(
        'payouts reconcile exceptions resolve 17 --reason "INC-140: settled on the next day" --dry-run',
        'payouts reconcile exceptions resolve 17 --reason "INC-140: settled on the next day" --yes',
        codes=CODES,
    ),
)
def explain(
    exception_id: IdArgument,
    reason: ReasonOption,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Explain an exception: it is open no more, whatever later runs find, as long as they find the same.

    Moves no money and changes no payout. Undo it with `payouts reconcile exceptions reopen`.
    """
    _decide(exception_id, "OPEN", who(operator), said(reason, "--reason"), output, dry_run=dry_run, yes=yes)


@of_exceptions.command(
    "reopen",
    epilog=ending(
        'payouts reconcile exceptions reopen 17 --reason "INC-140: it was not settled" --dry-run',
        'payouts reconcile exceptions reopen 17 --reason "INC-140: it was not settled" --yes',
        codes=CODES,
    ),
)
def open_again(
    exception_id: IdArgument,
    reason: ReasonOption,
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Open an explained exception again; undo it with `payouts reconcile exceptions resolve`."""
    _decide(exception_id, "RESOLVED", who(operator), said(reason, "--reason"), output, dry_run=dry_run, yes=yes)


def _decide(
    exception_id: int, status: str, operator: str, reason: str, output: Output, *, dry_run: bool, yes: bool
) -> None:
    """From this status to the other one. Raises CommandFailed."""
    if output is Output.JSON and not (yes or dry_run):
        raise usage_error("--output json asks nobody", next_step="add --yes, or --dry-run")
    url = settings_for(DATABASE).database_url.get_secret_value()
    seen = _one(url, exception_id)
    if seen.status != status:
        raise not_found(
            f"exception {exception_id} is {seen.status}", why=seen.resolution or "", next_step="nothing is to do"
        )
    emit_object(_line(seen), output)
    if dry_run:
        message("Nothing was changed (--dry-run).")
        return
    opening = status == "RESOLVED"
    confirmed("Open it again" if opening else "It is explained", operator, yes=yes)
    change = reopen if opening else resolve
    if not run(change(url, seen, operator=operator, reason=reason)):
        raise not_found(
            "nothing was changed",
            why="it has changed since it was shown, or somebody else was faster",
            next_step=f"look again: `payouts reconcile exceptions list --all`; it is number {exception_id}",
        )
    message(f"Exception {exception_id} is {'open again' if opening else 'explained'}, by {operator}.")


def _one(url: str, exception_id: int) -> Kept:
    found = run(exceptions(url, only_open=False, exception_id=exception_id))
    if not found:
        raise not_found(f"there is no exception {exception_id}", next_step="`payouts reconcile exceptions list --all`")
    return found[0]
