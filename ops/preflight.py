"""`payouts preflight`: may this release be deployed now? Looks at everything a deployment rests on, changes nothing."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Final

import typer

from ledger.waiting import PATIENCE_SECONDS, PATIENCE_TEST_SECONDS
from ops.application import ending
from ops.asynchronous import connected_ledger, run
from ops.database_status import Bounds
from ops.doctor import CHECKS, COLUMNS, Check, run_check
from ops.environment import registry_of
from ops.exit_codes import ExitCode
from ops.findings import Finding, Status
from ops.ledger import database_status
from ops.options import OutputOption
from ops.output import Output, emit_rows, message, progress
from ops.stuck import found as stuck_found
from processors.visa.breaker import BreakerState
from schemas.registry import check_schemas
from streams.settings import Settings, load_settings
from streams.visa_keeper import SEEN_WITHIN_SECONDS


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "preflight",
        epilog=ending(
            "payouts preflight",
            "payouts preflight --strict --output json",
            codes=(ExitCode.FOUND,),
        ),
    )(preflight)


def preflight(
    strict: Annotated[bool, typer.Option("--strict", help="A warning is a failure, too.")] = False,
    visa: Annotated[bool, typer.Option("--visa/--no-visa", help="Also say hello to Visa.")] = True,
    output: OutputOption = Output.TABLE,
) -> None:
    """Before a deployment, with the new release: all that `doctor` checks, and whether the ground is fit for it.

    Migrations pending, schemas compatible, topics, group, mode, days left of certificates, breakers, the database's
    own state, thresholds in force, payouts that wait. Exit code 1: do not deploy.
    """
    settings = load_settings()
    findings: list[Finding] = []
    checks = [*((name, check) for name, check in CHECKS if name != "visa" or visa), *MORE_CHECKS]
    with progress("checking", len(checks)) as step:
        for name, check in checks:
            findings += run_check(name, check, settings)
            step()
    emit_rows([asdict(finding) for finding in findings], COLUMNS, output)
    bad = {Status.FAIL, Status.WARN} if strict else {Status.FAIL}
    failed = sum(1 for finding in findings if finding.status in bad)
    if failed:
        message(f"{failed} finding(s) forbid a deployment.")
        raise typer.Exit(ExitCode.FOUND)
    message("Nothing forbids a deployment. Next: migrate, deploy, `payouts smoke`, `payouts monitor --seconds 300`.")


def check_compatibility(settings: Settings) -> Iterator[Finding]:
    """What the new release writes can be read by what runs: its schemas keep to their rules."""
    registry = registry_of(settings)
    report = check_schemas(registry, settings.payouts_topic_prefix)
    where = "their own history" if registry is None else "their history and the registry"
    if report.ok:
        yield Finding("schemas", Status.OK, f"{len(report.subjects)} schemas are compatible with {where}")
    else:
        yield Finding("schemas", Status.FAIL, "a schema breaks its rules", "`payouts schemas check` says which")


def check_database(settings: Settings) -> Iterator[Finding]:
    """Sessions, locks, space, standbys: a migration needs short locks, and a failover a standby."""
    _, found = run(database_status(settings.database_url.get_secret_value(), Bounds()))
    yield from found
    if not found:
        yield Finding("database", Status.OK, "no long statement, no lock waited for, nothing out of bounds")


def check_breakers(settings: Settings) -> Iterator[Finding]:
    """Every worker's breakers are closed, and none has more than it can use of certificates."""
    states = run(_breakers(settings))
    open_ones = [text for text, state in states if state != BreakerState.CLOSED.value]
    if open_ones:
        yield Finding("breakers", Status.FAIL, ", ".join(open_ones), "runbook, `Visa's key set`")
    else:
        yield Finding("breakers", Status.OK, f"{len(states)} breaker(s) of running workers, all closed")


async def _breakers(settings: Settings) -> list[tuple[str, str]]:
    async with connected_ledger(settings) as ledger:
        reports = await ledger.visa_orders.workers(SEEN_WITHIN_SECONDS)
    return [
        (f"{report.worker}: {name} {state}", state)
        for report in reports
        for name, state in (report.facts.get("breakers") or {}).items()
    ]


def check_thresholds(settings: Settings) -> Iterator[Finding]:
    """What the release will decide by; to be read by whoever deploys (S1-26)."""
    review, deny = settings.payouts_review_threshold_basis_points, settings.payouts_deny_threshold_basis_points
    detail = f"review from {review}, deny from {deny} of 10000; retry budget {settings.schedule.retry_budget}"
    yield Finding("thresholds", Status.OK, f"{detail}; {settings.visa_calls_max} calls at once")


def check_waiting(settings: Settings) -> Iterator[Finding]:
    """What waits is not forbidden, but it is somebody's: a deployment makes it no shorter."""
    patience = PATIENCE_SECONDS if settings.production else PATIENCE_TEST_SECONDS
    _, totals = run(stuck_found(settings, patience, None, 1))
    if not totals:
        yield Finding("waiting", Status.OK, "nothing waits for a person, and nothing has waited for too long")
    for total in totals:
        detail = f"{total['payouts']} payouts, {total['amount']}: {total['why']}"
        yield Finding("waiting", Status.WARN, detail, total["advice"])


MORE_CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("schemas", check_compatibility),
    ("database", check_database),
    ("breakers", check_breakers),
    ("thresholds", check_thresholds),
    ("waiting", check_waiting),
)
