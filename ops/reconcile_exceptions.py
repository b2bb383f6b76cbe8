"""`payouts reconcile exceptions`: what disagreed, who finds the cause, and what somebody says to it (S4-30)."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Final

import typer

from ledger.reconciliations import ROWS_MAX, Kept, exceptions, reopen, resolve
from ops.application import ending, new_app
from ops.asynchronous import run
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.failures import not_found
from ops.money_text import amount_text
from ops.operator_actions import DryRunOption, OperatorOption, ReasonOption, YesOption, answers, confirmed, said, who
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from ops.report import day_of
from ops.results import checked_words
from ops.stuck import age_text
from processors.reconciliation.exception_kinds import TREATMENT, ExceptionKind

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

app = new_app("What disagreed: list it, explain it.")

TypeOption = Annotated[list[str] | None, typer.Option("--type", help=f"Only these: {', '.join(ExceptionKind)}.")]


@app.command(
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
    rows = [line_of(one) for one in run(exceptions(url, only_open=not every, day=of_day, kinds=wanted))]
    emit_rows(rows, EXCEPTION_COLUMNS, output)
    if len(rows) == ROWS_MAX:
        message(f"Only the youngest {ROWS_MAX} are shown: --date or --type shows fewer.")
    if any(row["status"] == "OPEN" for row in rows):
        raise typer.Exit(ExitCode.FOUND)


IdArgument = Annotated[int, typer.Argument(metavar="ID", min=1, help="The number that `exceptions list` shows.")]
CODES: Final = (ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE)


@app.command(
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


@app.command(
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
    answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    url = settings_for(DATABASE).database_url.get_secret_value()
    seen = _one(url, exception_id)
    if seen.status != status:
        raise not_found(
            f"exception {exception_id} is {seen.status}", why=seen.resolution or "", next_step="nothing is to do"
        )
    emit_object(line_of(seen), output)
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


# One line of it.


def line_of(kept: Kept) -> dict[str, Any]:
    """An exception as it is kept, and for how long it is known."""
    return {
        **unkept_line(kept, kept.day),
        "id": kept.id,
        "status": kept.status,
        "first_seen_at": kept.first_seen_at,
        "last_seen_at": kept.last_seen_at,
        "age": age_text(max(0, int((datetime.now(UTC) - kept.first_seen_at).total_seconds()))),
        "resolved_by": kept.resolved_by,
        "resolution": kept.resolution,
    }


def unkept_line(
    found: Any,  # noqa: ANN401 - Found, or Kept, which has its fields
    day: date,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """An exception as it was found; `kept` is what was said about it before."""
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
        "status": kept.status if kept is not None and kept.detail == found.detail else "OPEN",
        "detail": found.detail,
    }
