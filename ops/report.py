"""`payouts report daily|weekly`: what came in, how it ended, what waits, and what somebody should look at."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

import typer

from ops.application import ending, new_app
from ops.asynchronous import run
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.failures import usage_error
from ops.ledger_queries import reading
from ops.money_text import amount_text
from ops.options import OutputOption
from ops.output import Column, Output, cell, emit_object, emit_rows, iso_time
from ops.redaction import redacted
from ops.report_queries import STATEMENT_SECONDS, Span, gathered
from ops.stuck import age_text
from streams.settings import Settings
from streams.visa_files import ExpiryLimits, VisaFiles, examine

DAYS_BACK_MAX: Final = 3650
SECTIONS: Final[Mapping[str, tuple[str, tuple[tuple[str, str], ...]]]] = {
    "corridors": (
        "Success by corridor",
        (("corridor", "corridor"), ("currency", "currency"), ("payouts", "payouts"), ("paid", "paid"),
         ("success", "success"), ("money", "money paid"), ("declined", "declined"), ("failed", "failed"),
         ("refused", "refused"), ("open", "open"), ("median", "median"), ("slow", "99 %")),
    ),
    "states": (
        "Payouts and money",
        (("currency", "currency"), ("state", "state"), ("payouts", "payouts"), ("money", "money"), ("held", "held")),
    ),
    "reasons": (
        "Unpaid, by reason",
        (("state", "end"), ("reason_code", "reason"), ("currency", "currency"), ("payouts", "payouts"),
         ("money", "money")),
    ),
    "waiting": (
        "Waiting now",
        (("what", "what"), ("currency", "currency"), ("payouts", "payouts"), ("money", "money"), ("oldest", "oldest")),
    ),
    "compensations": (
        "Compensations",
        (("state", "state"), ("action", "action"), ("executor", "by"), ("payouts", "payouts"), ("money", "money"),
         ("oldest", "oldest")),
    ),
    "intake": (
        "Repeats, refusals, dead letters",
        (("disposition", "what"), ("reason_code", "reason"), ("records", "records")),
    ),
    "reviews": ("Compliance", (("what", "what"), ("steps", "times"), ("payouts", "payouts"))),
    "versions": (
        "Policies in use",
        (("policy", "corridors"), ("list", "watch list"), ("payouts", "payouts"), ("reviewed", "reviewed"),
         ("denied", "denied")),
    ),
    "attempts": (
        "Attempts",
        (("attempts", "attempts"), ("payouts", "payouts"), ("inquiries", "questions"), ("systemic", "systemic"),
         ("own_failures", "own failures")),
    ),
    "breakers": ("Breakers", (("worker", "worker"), ("state", "state"))),
    "certificates": ("Certificates", (("what", "what"), ("level", "level"), ("detail", "detail"))),
    "operators": (
        "What people did",
        (("actor", "who"), ("transition", "what"), ("times", "times"), ("last", "last")),
    ),
}  # fmt: skip
DAILY: Final = (
    "corridors",
    "states",
    "reasons",
    "waiting",
    "compensations",
    "intake",
    "reviews",
    "breakers",
    "certificates",
)
WEEKLY: Final = (*DAILY, "attempts", "versions", "operators")
OF_REVIEWS: Final = ("review_opened", "review_approved", "review_rejected", "denied")
RIGHT: Final = frozenset(
    {"payouts", "paid", "declined", "failed", "refused", "open", "held", "money", "records", "steps"}
)

app = new_app("Reports: a day or a week of payouts, from the ledger.")

DateOption = Annotated[
    str | None,
    typer.Option("--date", help="Its (last) day: YYYY-MM-DD, today, or yesterday, which it is when not given."),
]
ZoneOption = Annotated[str, typer.Option("--zone", help="By whose clocks a day begins, for example Europe/Vienna.")]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print it as Markdown, to be mailed or kept.")]
CODES: Final = (ExitCode.REFUSED, ExitCode.UNREACHABLE)


@app.command(
    "daily",
    epilog=ending(
        "payouts report daily",
        "payouts report daily --date 2026-11-27 --markdown",
        "payouts report daily --zone America/New_York --output json",
        codes=CODES,
    ),
)
def daily(
    day: DateOption = None,
    zone: ZoneOption = "UTC",
    markdown: MarkdownOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Success by corridor, payouts and money by state, why not, what waits, compliance, breakers, certificates.

    Counts payouts by the time at which they were received; what waits is what waits now. Declines by issuers are no
    failures of ours: the success rate leaves them out. Changes nothing.
    """
    _report("daily", 1, day, zone, DAILY, markdown=markdown, output=output)


@app.command(
    "weekly",
    epilog=ending(
        "payouts report weekly",
        "payouts report weekly --date 2026-11-29 --markdown",
        codes=CODES,
    ),
)
def weekly(
    day: DateOption = None,
    zone: ZoneOption = "UTC",
    markdown: MarkdownOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Seven days of what `daily` shows; besides: attempts and questions, policies in use, what people did.

    For personal data where none may be, run `payouts pii-scan` beside it. Changes nothing.
    """
    _report("weekly", 7, day, zone, WEEKLY, markdown=markdown, output=output)


def _report(
    name: str, days: int, day: str | None, zone: str, sections: Sequence[str], *, markdown: bool, output: Output
) -> None:
    if markdown and output is Output.JSON:
        raise usage_error("--markdown and --output json contradict each other", next_step="give one of them")
    span = Span.of(day_of(day, zone), days, zone_of(zone))
    settings = settings_for(DATABASE)
    document = run(report_of(settings, span))
    tables = {section: document[section] for section in sections}
    head = {"report": name, "from": span.begin, "to": span.end}
    if output is Output.JSON:
        emit_object({**head, **tables}, output)
        return
    if markdown:
        print(markdown_of(head, tables))
        return
    emit_object(head, output)
    for section, rows in tables.items():
        heading, columns = SECTIONS[section]
        print(f"\n{heading}")
        if rows:
            emit_rows(rows, [Column(key, text.upper(), right=key in RIGHT) for key, text in columns], output)
        else:
            print("none")


def zone_of(name: str) -> ZoneInfo:
    """The time zone. Raises CommandFailed (usage)."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise usage_error("--zone is no time zone", next_step="for example UTC or Europe/Vienna") from None


def day_of(text: str | None, zone: str) -> date:
    """The day, yesterday where none is given. Raises CommandFailed (usage)."""
    today = datetime.now(zone_of(zone)).date()
    if text in (None, "yesterday"):
        return today - timedelta(days=1)
    if text == "today":
        return today
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise usage_error("--date is no day", next_step="for example 2026-11-27, yesterday, today") from None
    if day > today:
        raise usage_error("--date lies in the future", next_step="give a day that has begun")
    if (today - day).days > DAYS_BACK_MAX:
        raise usage_error("--date lies more than ten years back", next_step="give a later day")
    return day


async def report_of(settings: Settings, span: Span) -> dict[str, list[dict[str, Any]]]:
    """Every section. Raises LedgerUnavailable."""
    url = settings.database_url.get_secret_value()
    async with reading(url, statement_seconds=STATEMENT_SECONDS) as connection:
        found = await gathered(connection, span)
    steps = {row["transition"]: row for row in found.pop("steps")}
    found["reviews"] = [
        {"what": name, "steps": steps[name]["steps"], "payouts": steps[name]["payouts"]}
        for name in OF_REVIEWS
        if name in steps
    ]
    found["breakers"] = [_breaker(row) for row in found["breakers"]]
    found["certificates"] = [
        {"what": one.what, "level": one.level.value, "detail": one.detail}
        for one in examine(VisaFiles.of(settings), ExpiryLimits.of(settings), datetime.now(UTC))
    ]
    return {name: [shown(row) for row in rows] for name, rows in found.items()}


def _breaker(row: Mapping[str, Any]) -> dict[str, Any]:
    states = json.loads(row["breakers"]) if row["breakers"] else {}
    text = ", ".join(f"{name} {state}" for name, state in sorted((states or {}).items()))
    return {"worker": row["worker"], "state": text or "none: keys from files"}


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """With money, rates and ages as people read them; what others wrote is masked. Pure."""
    said: dict[str, Any] = {key: redacted(value) if isinstance(value, str) else value for key, value in row.items()}
    if "amount_minor" in row:
        said["money"] = None if row["amount_minor"] is None else amount_text(row["amount_minor"], row["currency"])
    if "oldest_seconds" in row:
        said["oldest"] = None if row["oldest_seconds"] is None else age_text(max(0, row["oldest_seconds"]))
    if "paid" in row:
        said["success_share"] = success_share(row["paid"], row["failed"])
        said["success"] = "-" if said["success_share"] is None else f"{said['success_share']:.1%}"
        said["median"] = _seconds(row["median_seconds"])
        said["slow"] = _seconds(row["slow_seconds"])
    return said


def success_share(paid: int, failed: int) -> float | None:
    """Paid of those that we could have failed; None when there were none. Declines and refusals are not ours (F-02)."""
    return None if paid + failed == 0 else round(paid / (paid + failed), 4)


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f} s"


def markdown_of(head: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The report as Markdown. Pure."""
    lines = [f"# Payouts, {head['report']}: {iso_time(head['from'])} to {iso_time(head['to'])}"]
    for section, rows in tables.items():
        heading, columns = SECTIONS[section]
        lines += ["", f"## {heading}", ""]
        if not rows:
            lines.append("none")
            continue
        lines.append(f"| {' | '.join(text for _, text in columns)} |")
        lines.append(f"|{'|'.join('---:' if key in RIGHT else '---' for key, _ in columns)}|")
        lines += [f"| {' | '.join(_cell(row.get(key)) for key, _ in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return cell(value).replace("|", "\\|")
