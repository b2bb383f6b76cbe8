"""`payouts compensations`: captured funding that has to be handed back, and what became of it."""

from typing import Annotated, Final

import typer

from ops.application import ending
from ops.environment import KAFKA, settings_for
from ops.events import (
    DedupeOption,
    Event,
    FollowOption,
    FromBeginningOption,
    LimitOption,
    SinceOption,
    TimeoutOption,
    selection,
    show_events,
)
from ops.exit_codes import ExitCode
from ops.money_text import money_text
from ops.options import OutputOption
from ops.output import Column, Output
from ops.results import checked_words, matches

TOPICS: Final = ("payout_failed_requires_compensation", "payout_compensation_results")
STATUSES: Final = ("REQUIRED", "COMPENSATED", "MANUAL")
COLUMNS: Final = (
    Column("at", "WHEN", 24),
    Column("payout_id", "PAYOUT", 30),
    Column("status", "STATUS", 11),
    Column("action", "ACTION", 14),
    Column("executor", "EXECUTOR", 10),
    Column("amount_text", "AMOUNT", 16, right=True),
    Column("reason_code", "REASON", 28),
    Column("originator_id", "ORIGINATOR", 20),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "compensations",
        epilog=ending(
            "payouts compensations --since 24h",
            "payouts compensations --follow --status REQUIRED --output json",
            "payouts compensations --from-beginning --payout-id order-2026-000017",
            codes=(ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
        ),
    )(compensations)


def compensations(
    follow: FollowOption = False,
    from_beginning: FromBeginningOption = False,
    since: SinceOption = None,
    payout_id: Annotated[str | None, typer.Option(help="Only this payout.")] = None,
    status: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(STATUSES)}.")] = None,
    originator: Annotated[str | None, typer.Option(help="Only this originator's payouts.")] = None,
    limit: LimitOption = None,
    dedupe: DedupeOption = False,
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show compensation events: REQUIRED when funding has to go back, then COMPENSATED or MANUAL.

    EXECUTOR says whose turn it is: PROCESSOR reverses the card pull itself; ORIGINATOR releases or refunds and
    confirms with an event on payout_compensation_confirmations. MANUAL waits for a person.
    """
    wanted = checked_words(status, STATUSES, "--status")
    chosen = selection(
        follow=follow,
        from_beginning=from_beginning,
        since=since,
        limit=limit,
        dedupe=dedupe,
        timeout_seconds=timeout,
        accepts=lambda event: matches(event, payout_id, originator) and (not wanted or status_of(event) in wanted),
    )
    show_events(settings_for(KAFKA), TOPICS, chosen, COLUMNS, output, flat)


def status_of(event: Event) -> str:
    """REQUIRED, or what the result says."""
    return str(event.get("status", "REQUIRED"))


def flat(event: Event) -> Event:
    """The event with the texts that the table shows."""
    return {
        **event,
        "at": event["meta"]["at"],
        "status": status_of(event),
        "amount_text": money_text(event["amount"]),
    }
