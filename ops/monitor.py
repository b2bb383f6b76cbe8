"""`payouts monitor`: watches a deployment for some minutes and says at once when it goes wrong."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from ops.application import as_failure, ending
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.lag import group_lag
from ops.ledger_queries import reading
from ops.options import OutputOption
from ops.output import Output, emit_object, message
from processors.payout.modes import Mode
from streams.settings import Settings

SECONDS_MAX: Final = 24 * 3600.0
# A restart of a worker takes a session's time: so long there may be nobody in the group.
UNANSWERED_ROUNDS_MAX: Final = 3

LOOK: Final = """
SELECT count(*) FILTER (WHERE state = 'PAID' AND state_at >= $1) AS paid,
    count(*) FILTER (WHERE state IN ('FAILED', 'EXPIRED') AND state_at >= $1) AS failed,
    count(*) FILTER (WHERE state = 'DECLINED' AND state_at >= $1) AS declined,
    count(*) FILTER (WHERE held) AS held,
    count(*) FILTER (WHERE state = 'UNKNOWN') AS unknown,
    count(*) FILTER (WHERE compensation = 'MANUAL') AS manual,
    count(*) FILTER (WHERE announced_version < announce_version
        AND updated_at < clock_timestamp() - interval '60 seconds') AS unannounced,
    count(*) FILTER (WHERE state NOT IN ('PAID', 'REJECTED', 'DENIED', 'DECLINED', 'EXPIRED', 'FAILED', 'CANCELLED',
        'IN_REVIEW') AND NOT held
        AND NOT (state = 'PENDING' AND destination_kind IN ('ACCOUNT', 'WALLET')
            AND reason_code IS DISTINCT FROM 'AWAITING_INFORMATION')
        AND coalesce(first_intent_at, state_at) < clock_timestamp() - make_interval(secs => $2)) AS stuck
FROM payouts
"""
CLOCK: Final = "SELECT clock_timestamp()"


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. Counts of ends are those since the watch began; the others are what there is now."""

    lag: int | None
    members: int
    mode: str
    paid: int
    failed: int
    declined: int
    held: int
    unknown: int
    manual: int
    unannounced: int
    stuck: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends the watch; `more_` counts from the first look on."""

    lag_max: int
    error_share_max: float
    ended_min: int
    more_held_max: int
    more_unknown_max: int


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "monitor",
        epilog=ending(
            "payouts monitor --seconds 300",
            "payouts monitor --seconds 86400 --every 60 --lag-max 10000 --output json",
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(monitor)


def monitor(
    seconds: Annotated[float, typer.Option(min=0.0, max=SECONDS_MAX, help="How long to watch.")] = 300.0,
    every: Annotated[float, typer.Option(min=0.1, max=600.0, help="Seconds from one look to the next.")] = 5.0,
    lag_max: Annotated[int, typer.Option(min=0, help="More records than this wait: a breach.")] = 1000,
    error_share_max: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="More of the payouts that end fail (declines are no failures).")
    ] = 0.05,
    ended_min: Annotated[int, typer.Option(min=1, help="The share counts from so many ended payouts on.")] = 20,
    more_held_max: Annotated[int, typer.Option(min=0, help="More payouts are held than at the beginning.")] = 0,
    more_unknown_max: Annotated[int, typer.Option(min=0, help="More payouts are unknown than at the beginning.")] = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """Watch lag, members, mode, held, unknown, stuck and failing payouts; end with 1 at the first breach.

    Begin it right after a deployment (S3-27: five minutes). It changes nothing; a line on stderr tells each look.
    """
    settings = settings_for(KAFKA, DATABASE)
    limits = Limits(lag_max, error_share_max, ended_min, more_held_max, more_unknown_max)
    began_at = run(_clock(settings))
    first = _look(settings, began_at)
    until, rounds, silent, last = time.monotonic() + seconds, 1, 0, first
    breaches = breaches_of(first, first, limits)
    while not breaches and (left := until - time.monotonic()) > 0:
        time.sleep(min(every, left))
        try:
            last = _look(settings, began_at)
        except Exception as error:
            failure = as_failure(error)
            if failure.code is not ExitCode.UNREACHABLE:
                raise
            silent += 1
            message(f"no answer: {failure.what}")
            if silent >= UNANSWERED_ROUNDS_MAX:
                raise CommandFailed(failure.code, failure.what, why=failure.why, next_step=failure.next_step) from None
            continue
        silent, rounds = 0, rounds + 1
        breaches = breaches_of(first, last, limits)
        message(_line(last, until))
    emit_object(
        {"looks": rounds, "began_at": began_at, "breaches": breaches, "first": asdict(first), "last": asdict(last)},
        output,
    )
    if breaches:
        for breach in breaches:
            message(f"breach: {breach}")
        raise typer.Exit(ExitCode.FOUND)


def breaches_of(first: Seen, now: Seen, limits: Limits) -> list[str]:
    """What is beyond its bound. Pure."""
    found = []
    if now.members == 0:
        found.append("no worker is in the group")
    if now.mode != Mode.NORMAL.value:
        found.append(f"the mode is {now.mode}: not everything goes on")
    if now.lag is not None and now.lag > limits.lag_max:
        found.append(f"{now.lag} records wait, more than {limits.lag_max}")
    ended = now.paid + now.failed
    if ended >= limits.ended_min and now.failed / ended > limits.error_share_max:
        found.append(f"{now.failed} of {ended} payouts that ended have failed, more than {limits.error_share_max:.1%}")
    for what, before, after, most in (
        ("held", first.held, now.held, limits.more_held_max),
        ("unknown", first.unknown, now.unknown, limits.more_unknown_max),
        ("stuck", first.stuck, now.stuck, 0),
        ("to be handed back by hand", first.manual, now.manual, 0),
        ("not published for a minute", first.unannounced, now.unannounced, 0),
    ):
        if after - before > most:
            found.append(f"{after - before} more payouts are {what} than at the beginning ({after})")
    return found


def _line(seen: Seen, until: float) -> str:
    values: Mapping[str, Any] = asdict(seen)
    left = max(0.0, until - time.monotonic())
    said = " ".join(f"{name}={'unknown' if value is None else value}" for name, value in values.items())
    return f"{datetime.now(UTC):%H:%M:%S} {said} · {left:.0f} s left"


def _look(settings: Settings, began_at: datetime) -> Seen:
    values = run(_of_ledger(settings, began_at))
    try:
        group = group_lag(settings)
    except CommandFailed as error:
        if error.code is not ExitCode.FOUND:
            raise
        group = {"lag_records": None, "members": 0}
    return Seen(lag=group["lag_records"], members=group["members"], **values)


async def _of_ledger(settings: Settings, began_at: datetime) -> dict[str, Any]:
    patience = 900.0 if settings.production else 60.0
    async with connected_ledger(settings) as ledger:
        mode = (await ledger.mode()).mode.value
    async with reading(settings.database_url.get_secret_value()) as connection:
        return {"mode": mode, **dict(await connection.fetchrow(LOOK, began_at, patience))}


async def _clock(settings: Settings) -> datetime:
    async with reading(settings.database_url.get_secret_value()) as connection:
        at: datetime = await connection.fetchval(CLOCK)
        return at
