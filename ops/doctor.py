"""`payouts doctor`: everything a worker needs, looked at one by one, with what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from ops.application import as_failure, ending
from ops.asynchronous import run
from ops.environment import policies_file, registry_of, secret_values
from ops.exit_codes import ExitCode
from ops.findings import Finding, Status
from ops.kafka import ADMIN_SECONDS, connect_admin
from ops.lag import group_lag
from ops.ledger import OLDEST_MAJOR_VERSION, ledger_status
from ops.options import OutputOption
from ops.output import Column, Output, emit_rows, message, progress
from ops.redaction import redacted
from ops.topics import ensure_topics
from processors.compliance.review_policy import SHIPPED_REVIEW_POLICY, load_review_policy
from processors.compliance.watch_list import WatchListInvalid, load_watch_list
from processors.payout.modes import Mode
from processors.validation.policy import PolicyInvalid, load_policy
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered, Failed
from processors.visa.probe import GREETING
from schemas.registry import check_schemas
from streams.keys import KeysUnusable, load_keys
from streams.settings import Settings, load_settings
from streams.visa_files import ExpiryLimits, Level, VisaFiles, examine

PROBE_SECONDS: Final = 10.0

STATUS_OF: Final = {
    Level.OK: Status.OK,
    Level.WARNING: Status.WARN,
    Level.CRITICAL: Status.FAIL,
    Level.UNUSABLE: Status.FAIL,
}

COLUMNS: Final = (
    Column("check", "CHECK"),
    Column("status", "STATUS"),
    Column("detail", "DETAIL"),
    Column("advice", "WHAT TO DO"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "doctor",
        epilog=ending(
            "payouts doctor",
            "payouts doctor --output json",
            "payouts doctor --no-visa",
            codes=(ExitCode.FOUND,),
        ),
    )(doctor)


def doctor(
    visa: Annotated[
        bool, typer.Option("--visa/--no-visa", help="Also say hello to Visa (no call that moves money).")
    ] = True,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check settings, keys, policies, certificates, Kafka, registry, PostgreSQL and Visa; changes nothing.

    One line a check: ok, warn or fail, and what to do. Exit code 1 when a check fails.
    """
    settings = load_settings()
    findings: list[Finding] = []
    with progress("checking", len(CHECKS)) as step:
        for name, check in CHECKS:
            if name != "visa" or visa:
                findings += run_check(name, check, settings)
            step()
    emit_rows([asdict(finding) for finding in findings], COLUMNS, output)
    failed = sum(1 for finding in findings if finding.status is Status.FAIL)
    if failed:
        message(f"{failed} check(s) failed.")
        raise typer.Exit(ExitCode.FOUND)


Check = Callable[[Settings], Iterator[Finding]]


def run_check(name: str, check: Check, settings: Settings) -> list[Finding]:
    """The check's findings; an error that it did not foresee is a failure of this check, not of the others."""
    secrets = list(secret_values(settings))
    findings: list[Finding] = []
    try:
        findings.extend(check(settings))
    except Exception as error:  # noqa: BLE001 - a doctor who faints at the first illness is of no use
        failure = as_failure(error)
        detail = f"{failure.what}: {failure.why}" if failure.why else failure.what
        findings.append(Finding(name, Status.FAIL, detail, failure.next_step.removesuffix(": `payouts doctor`")))
    return [
        Finding(found.check, found.status, redacted(found.detail, secrets), redacted(found.advice, secrets))
        for found in findings
    ]


def check_settings(settings: Settings) -> Iterator[Finding]:
    """What the settings themselves forbid."""
    problems = settings.problems(needs_visa=True)
    for problem in problems:
        yield Finding("settings", Status.FAIL, problem, "correct the environment or the settings file")
    if not problems:
        yield Finding("settings", Status.OK, f"profile {settings.payouts_profile.value}")


def check_keys(settings: Settings) -> Iterator[Finding]:
    """The keys directory can be used."""
    directory = settings.payouts_keys_directory
    try:
        load_keys(directory)
    except KeysUnusable as error:
        yield Finding("keys", Status.FAIL, str(error), f"`payouts keys create {directory}`, or restore it from backup")
        return
    yield Finding("keys", Status.OK, str(directory))
    if (directory / "dead_letter_private.jwk.json").exists() and settings.production:
        yield Finding(
            "keys",
            Status.WARN,
            "the private key of dead letters lies beside the worker's keys",
            "keep it where only those are who open dead letters",
        )


def check_policies(settings: Settings) -> Iterator[Finding]:
    """The corridor policy and the watch list can be read."""
    try:
        policy = load_policy(policies_file(settings, "corridors.yaml"))
        yield Finding("policies", Status.OK, f"corridors {policy.stamp}, {len(policy.corridors)} corridors")
    except PolicyInvalid as error:
        yield Finding("policies", Status.FAIL, str(error), "correct the file: nothing is paid without a policy")
    try:
        watch_list = load_watch_list(policies_file(settings, "watch_list.csv"))
        yield Finding("policies", Status.OK, f"watch list {watch_list.version}, {len(watch_list.entries)} entries")
    except WatchListInvalid as error:
        yield Finding("policies", Status.FAIL, str(error), "correct the file: nothing is paid without a list")
    try:
        review = load_review_policy(policies_file(settings, SHIPPED_REVIEW_POLICY))
        yield Finding("policies", Status.OK, f"review {review.version}, {review.sla_seconds} s for a case")
    except PolicyInvalid as error:
        yield Finding("policies", Status.FAIL, str(error), "correct the file: no worker starts without it")
    if settings.payouts_policies_directory is None and settings.production:
        yield Finding(
            "policies",
            Status.WARN,
            "the policies in use are the samples that ship with the program",
            "set PAYOUTS_POLICIES_DIRECTORY to your own",
        )


def check_certificates(settings: Settings) -> Iterator[Finding]:
    """Visa's certificate and key files can be used; those that are not set are among the settings' findings."""
    for found in examine(VisaFiles.of(settings), ExpiryLimits.of(settings), datetime.now(UTC)):
        yield Finding("certificates", STATUS_OF[found.level], f"{found.what}: {found.detail}", found.advice)


def check_kafka(settings: Settings) -> Iterator[Finding]:
    """The brokers answer, the topics are as the table says, the group is known."""
    admin = connect_admin(settings)
    brokers = len(admin.list_topics(timeout=ADMIN_SECONDS).brokers)
    few = settings.production and brokers < 3
    advice = "run at least three: two must have a record before it counts" if few else ""
    yield Finding("kafka", Status.WARN if few else Status.OK, f"{brokers} broker(s) answer", advice)
    topics = ensure_topics(admin, settings, dry_run=True)
    missing = [row["topic"] for row in topics if row["status"] == "missing"]
    if missing:
        yield Finding("topics", Status.FAIL, f"missing: {', '.join(missing)}", "run `payouts topics ensure`")
    for row in topics:
        if row["status"] == "differs":
            detail = f"{row['topic']}: {'; '.join(row['differences'])}"
            yield Finding("topics", Status.WARN, detail, "correct it with the cluster's own tools")
    if all(row["status"] == "ok" for row in topics):
        yield Finding("topics", Status.OK, f"{len(topics)} topics are as the table says")
    if not missing:
        yield from _group(settings)


def _group(settings: Settings) -> Iterator[Finding]:
    try:
        values = group_lag(settings)
    except Exception as error:  # noqa: BLE001 - that there is no group is the most usual finding
        failure = as_failure(error)
        status = Status.WARN if failure.code is ExitCode.FOUND else Status.FAIL
        yield Finding("group", status, failure.what, failure.next_step)
        return
    lag = "unknown" if values["lag_records"] is None else values["lag_records"]
    detail = f"{values['group']} is {values['state']}, {values['members']} member(s), lag {lag}"
    working = values["members"] > 0
    yield Finding("group", Status.OK if working else Status.WARN, detail, "" if working else "start `payouts worker`")


def check_registry(settings: Settings) -> Iterator[Finding]:
    """The registry, if there is one, has our schemas."""
    registry = registry_of(settings)
    if registry is None:
        yield Finding("registry", Status.OK, "none configured: schema ids come from the pinned table")
        return
    report = check_schemas(registry, settings.payouts_topic_prefix)
    if report.complete:
        yield Finding("registry", Status.OK, f"has all {len(report.subjects)} schemas")
    elif report.ok:
        yield Finding("registry", Status.FAIL, "some schemas are not pushed", "run `payouts schemas push`")
    else:
        yield Finding("registry", Status.FAIL, "would refuse some of our schemas", "run `payouts schemas check`")


def check_postgresql(settings: Settings) -> Iterator[Finding]:
    """PostgreSQL answers, is new enough, migrated, durable; the mode."""
    values, problems = run(ledger_status(settings))
    version = str(values["postgresql"])
    old = int(version.split(".")[0].split()[0]) < OLDEST_MAJOR_VERSION
    advice = f"upgrade to {OLDEST_MAJOR_VERSION} or newer" if old else ""
    yield Finding("postgresql", Status.FAIL if old else Status.OK, f"PostgreSQL {version}", advice)
    for problem in problems:
        what, _, advice = problem.partition(": ")
        yield Finding("ledger", Status.FAIL, what, advice)
    if not problems:
        yield Finding("ledger", Status.OK, f"schema {values['revision']}, commits are durable")
    if "mode" in values:
        limited = values["mode"] != Mode.NORMAL.value
        detail = f"{values['mode']}, set by {values['mode_operator']}: {values['mode_reason']}"
        advice = "`payouts modes set normal --reason …` when everything may go on" if limited else ""
        yield Finding("mode", Status.WARN if limited else Status.OK, detail, advice)


def check_visa(settings: Settings) -> Iterator[Finding]:
    """Visa answers a greeting with our certificate and password. Moves no money."""
    if settings.problems(needs_visa=True):
        yield Finding("visa", Status.WARN, "not asked: the settings are not complete", "correct them first")
        return
    exchange = run(_greet(settings))
    if isinstance(exchange, Answered) and exchange.status == 200:
        yield Finding("visa", Status.OK, f"{settings.visa_base_url} answers in {exchange.elapsed_seconds:.2f} s")
    elif isinstance(exchange, Answered) and exchange.status in (401, 403):
        detail = f"{settings.visa_base_url} refuses us with HTTP {exchange.status}"
        yield Finding("visa", Status.FAIL, detail, "check VISA_USER_ID, VISA_PASSWORD and the client certificate")
    elif isinstance(exchange, Answered):
        detail = f"{settings.visa_base_url} answers with HTTP {exchange.status}"
        yield Finding("visa", Status.WARN, detail, "look at Visa's status page")
    else:
        detail = f"{settings.visa_base_url} does not answer: {exchange.cause}"
        yield Finding("visa", Status.FAIL, detail, "check VISA_BASE_URL, VISA_CA_PATH and the network")


async def _greet(settings: Settings) -> Answered | Failed:
    from processors.visa.transport import VisaDirectClient
    from streams.visa_material import visa_connection, visa_encryption

    async with VisaDirectClient(visa_connection(settings, visa_encryption(settings))) as client:
        return await client.send(GREETING, Deadline.after(PROBE_SECONDS))


CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("settings", check_settings),
    ("keys", check_keys),
    ("policies", check_policies),
    ("certificates", check_certificates),
    ("kafka", check_kafka),
    ("registry", check_registry),
    ("postgresql", check_postgresql),
    ("visa", check_visa),
)
