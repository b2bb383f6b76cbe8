"""`payouts results`: how payouts ended."""

from collections.abc import Sequence
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
from ops.failures import usage_error
from ops.money_text import corridor_text, money_text
from ops.options import OutputOption
from ops.output import Column, Output
from processors.payout.row import TERMINAL_STATES

TOPICS: Final = ("payout_results",)
STATUSES: Final = tuple(sorted(state.value for state in TERMINAL_STATES))
COLUMNS: Final = (
    Column("at", "WHEN", 24),
    Column("payout_id", "PAYOUT", 30),
    Column("status", "STATUS", 9),
    Column("amount_text", "AMOUNT", 16, right=True),
    Column("corridor_text", "CORRIDOR", 18),
    Column("reason_code", "REASON", 28),
    Column("attempts", "ATTEMPTS", 8, right=True),
    Column("originator_id", "ORIGINATOR", 20),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "results",
        epilog=ending(
            "payouts results --since 1h",
            "payouts results --follow --output json --dedupe",
            "payouts results --from-beginning --status DECLINED --status FAILED",
            "payouts results --follow --payout-id order-2026-000017 --limit 1 --timeout 60",
            codes=(ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
        ),
    )(results)


def results(
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
    """Show result events, one for each payout's end; the last 24 hours when nothing else is said.

    Records that cannot be decoded are named on stderr and passed over. An event may be on the topic more than once
    (same ce_id): consumers keep one, and so does --dedupe.
    """
    wanted = checked_words(status, STATUSES, "--status")
    chosen = selection(
        follow=follow,
        from_beginning=from_beginning,
        since=since,
        limit=limit,
        dedupe=dedupe,
        timeout_seconds=timeout,
        accepts=lambda event: matches(event, payout_id, originator) and (not wanted or event["status"] in wanted),
    )
    show_events(settings_for(KAFKA), TOPICS, chosen, COLUMNS, output, flat)


def matches(event: Event, payout_id: str | None, originator: str | None) -> bool:
    """Whether an event is of this payout and this originator, where they are given."""
    if payout_id is not None and event["payout_id"] != payout_id:
        return False
    return originator is None or event["originator_id"] == originator


def checked_words(words: Sequence[str] | None, known: Sequence[str], option: str) -> frozenset[str]:
    """The words in upper case. Raises CommandFailed (usage) for one that is not known."""
    chosen = frozenset(word.upper() for word in words or ())
    if not chosen <= set(known):
        raise usage_error(f"{option} knows {', '.join(known)}")
    return chosen


def flat(event: Event) -> Event:
    """The event with the texts that the table shows."""
    return {
        **event,
        "at": event["meta"]["at"],
        "amount_text": money_text(event["amount"]),
        "corridor_text": corridor_text(event["corridor"]),
    }
