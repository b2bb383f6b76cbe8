"""`payouts stuck`: what waits for a person, or for longer than anything should (P1)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from ledger.waiting import (
    ORIGINATOR_PATIENCE_SECONDS,
    PATIENCE_SECONDS,
    PATIENCE_TEST_SECONDS,
    WAITING,
    WAITS_FOR_A_PERSON,
    Why,
)
from ops.application import ending
from ops.asynchronous import run
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.ledger_queries import ROWS_MAX, reading
from ops.money_text import amount_text
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from ops.redaction import redacted
from processors.payout.frozen import FROZEN_FOR
from processors.payout.row import PayoutState
from streams.settings import Settings

OLDER_THAN_MAX_SECONDS: Final = 30 * 24 * 3600.0
LISTED: Final = 100


ADVICE: Final[Mapping[Why, str]] = {
    Why.FROZEN: "paid or perhaps paid after an unpaid end: hand nothing back, call L2 and Visa's support now",
    Why.PROPOSED: "somebody else reads the evidence and agrees: payouts resolve … --approve VERSION",
    Why.HELD: "read `payouts show`, then release, resolve or cancel it",
    Why.IN_REVIEW: "a reviewer decides: payouts review list",
    Why.MANUAL: "a person hands it back, and two say so: payouts resolve … --handed-back; or its originator confirms",
    Why.PAST_RESENDS: "23 h after the first attempt: never sent again; ask Visa's support, then payouts resolve",
    Why.UNKNOWN: "asked about by itself; is Visa away? before 23 h have passed, ask its support",
    Why.COMPENSATION: "made by us, by schedule: is Visa away, or no worker running?",
    Why.ORIGINATOR: "ask the originator whether he reads payout_failed_requires_compensation",
    Why.UNANNOUNCED: "decided, but the broker has not confirmed the event: is it away, or no worker running?",
    Why.NO_PROGRESS: "driven by itself: payouts doctor, payouts lag, payouts modes show",
}
ROWS: Final = f"""
SELECT * FROM ({WAITING}) AS found
WHERE why IS NOT NULL AND ($4::text IS NULL OR state = $4) ORDER BY since, payout_id LIMIT $5
"""  # noqa: S608 - constants of this module; values are bound
TOTALS: Final = f"""
SELECT why, currency, count(*) AS payouts, sum(amount_minor)::bigint AS amount_minor, max(age_seconds) AS oldest_seconds
FROM ({WAITING}) AS found
WHERE why IS NOT NULL AND ($4::text IS NULL OR state = $4) GROUP BY why, currency ORDER BY why, currency
"""  # noqa: S608 - constants of this module; values are bound

ROW_COLUMNS: Final = (
    Column("payout_id", "PAYOUT"),
    Column("amount", "AMOUNT", right=True),
    Column("target_country", "TO"),
    Column("why", "WHY"),
    Column("age_text", "FOR", right=True),
    Column("state", "STATE"),
    Column("reason", "REASON"),
    Column("compensation", "COMPENSATION"),
    Column("attempts", "ATTEMPTS", right=True),
)
TOTAL_COLUMNS: Final = (
    Column("why", "WHY"),
    Column("payouts", "PAYOUTS", right=True),
    Column("amount", "MONEY", right=True),
    Column("oldest_text", "OLDEST", right=True),
    Column("needs_a_person", "NEEDS A PERSON"),
    Column("advice", "WHAT TO DO"),
)

OlderThanOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=OLDER_THAN_MAX_SECONDS,
        help="What needs no person is listed when it is older than so many seconds (900, test profile 60).",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "stuck",
        epilog=ending(
            "payouts stuck",
            "payouts stuck --state UNKNOWN --older-than 300",
            "payouts stuck --limit 1000 --output json",
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(stuck)


def stuck(
    state: Annotated[PayoutState | None, typer.Option(help="Only payouts in this state.")] = None,
    older_than: OlderThanOption = None,
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX, help="List at most so many, oldest first.")] = LISTED,
    output: OutputOption = Output.TABLE,
) -> None:
    """List payouts that wait for a person, or have waited too long, with their money and what to do.

    The totals per reason and currency count all of them, also those beyond --limit. Exit code 1 when there are any.
    """
    settings = settings_for(DATABASE)
    patience = _patience(settings) if older_than is None else older_than
    rows, totals = run(found(settings, patience, None if state is None else state.value, limit))
    shown = {"older_than_seconds": patience, "totals": totals, "payouts": rows}
    if output is Output.JSON:
        emit_object(shown, output)
    elif totals:
        emit_rows(totals, TOTAL_COLUMNS, output)
        print()
        emit_rows(rows, ROW_COLUMNS, output)
    counted = sum(total["payouts"] for total in totals)
    if counted > len(rows):
        message(f"{counted} payouts in all; the list stopped at {limit}.")
    if totals:
        raise typer.Exit(ExitCode.FOUND)
    message("Nothing waits for a person, and nothing has waited for too long.")


def _patience(settings: Settings) -> float:
    return PATIENCE_SECONDS if settings.production else PATIENCE_TEST_SECONDS


async def found(
    settings: Settings, patience_seconds: float, state: str | None, limit: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows, oldest first, and the totals of all of them. Raises LedgerUnavailable."""
    bounds = (patience_seconds, ORIGINATOR_PATIENCE_SECONDS, settings.schedule.resend_limit_seconds, state)
    async with reading(settings.database_url.get_secret_value()) as connection, connection.transaction(
        isolation="repeatable_read", readonly=True
    ):  # fmt: skip
        totals = await connection.fetch(TOTALS, *bounds)
        rows = await connection.fetch(ROWS, *bounds, limit)
    return [_row(dict(record)) for record in rows], _by_urgency([_total(dict(record)) for record in totals])


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    why = Why(record["why"])
    frozen = record["compensation_reason_code"] in FROZEN_FOR
    held = record["held"] and not frozen
    reason = record["hold_reason"] if held else record["compensation_reason_code"] or record["reason_code"]
    return {
        **record,
        "originator_id": redacted(record["originator_id"]),
        "hold_reason": None if record["hold_reason"] is None else redacted(record["hold_reason"]),
        "amount": amount_text(record["amount_minor"], record["currency"]),
        "reason": None if reason is None else redacted(reason),
        "age_text": age_text(record["age_seconds"]),
        "needs_a_person": why in WAITS_FOR_A_PERSON,
        "advice": ADVICE[why],
    }


def _total(record: Mapping[str, Any]) -> dict[str, Any]:
    why = Why(record["why"])
    return {
        **record,
        "amount": amount_text(record["amount_minor"], record["currency"]),
        "oldest_text": age_text(record["oldest_seconds"]),
        "needs_a_person": why in WAITS_FOR_A_PERSON,
        "advice": ADVICE[why],
    }


def _by_urgency(totals: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    order = list(Why)
    return sorted(totals, key=lambda total: (order.index(Why(total["why"])), total["currency"]))


def age_text(seconds: int) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`: as exact as somebody on duty needs it."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 2:
        return f"{seconds} s"
    if hours < 2:
        return f"{minutes} min"
    if days < 2:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"
