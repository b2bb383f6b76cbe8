"""`payouts certs status|probe|reload|rollback`: the certificates and keys for Visa, here and in every worker."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ledger.visa_orders import Action, WorkerReport
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.effects import totals_text
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.failures import not_found
from ops.ledger_queries import waiting_for_visa
from ops.operator_actions import DryRunOption, OperatorOption, ReasonOption, said, who
from ops.options import OutputOption
from ops.output import Column, Output, emit_object, emit_rows, message
from processors.visa.jwks import JwksInvalid, read_key_set
from processors.visa.transport import VisaDirectClient
from streams.settings import Settings, load_settings
from streams.visa_client import ReloadResult, VisaClient, probe_of
from streams.visa_files import Examined, ExpiryLimits, Level, VisaFiles, examine
from streams.visa_jwks import fetch_key_set
from streams.visa_keeper import SEEN_WITHIN_SECONDS
from streams.visa_material import Material, MaterialUnusable, load_material, probing

WAIT_SECONDS: Final = 60.0
"""For every worker to probe twice, each call at most ten seconds, with room to notice the order."""
WAIT_MAX_SECONDS: Final = 600.0
LOOK_EVERY_SECONDS: Final = 0.5
WELL: Final = frozenset({ReloadResult.SUCCESS.value, ReloadResult.UNCHANGED.value})

WaitOption = Annotated[
    float, typer.Option(min=0.0, max=WAIT_MAX_SECONDS, help="Wait so many seconds for the workers' answers.")
]

FILE_COLUMNS: Final = (
    Column("what", "WHAT"),
    Column("level", "LEVEL"),
    Column("valid_from", "VALID FROM"),
    Column("valid_until", "VALID UNTIL"),
    Column("days_left", "DAYS LEFT", right=True),
    Column("detail", "DETAIL"),
    Column("advice", "WHAT TO DO"),
)
PAUSES: Final = {
    Action.RELOAD: "Nothing pauses: calls under way end with what they began with, the next use what is new.",
    Action.ROLLBACK: "Nothing pauses: calls under way end with what they began with, the next use what was before.",
    Action.BREAKER_RESET: "Calls that wait for a key go on with the first fetch that succeeds, else they wait on.",
}
PLAN_COLUMNS: Final = (Column("worker", "WORKER"), Column("will", "WILL"), Column("seen_at", "SEEN AT"))
WORKER_COLUMNS: Final = (
    Column("worker", "WORKER"),
    Column("result", "RESULT"),
    Column("certificate", "CERTIFICATE"),
    Column("valid_until", "VALID UNTIL"),
    Column("mle_key_id", "KEY ID"),
    Column("decrypts_with", "OPENS WITH"),
    Column("since", "SINCE"),
    Column("why", "WHY"),
)

app = new_app("Certificates and keys for Visa: look at them, try new ones, take them into use in every worker.")


@app.command(
    "status",
    epilog=ending(
        "payouts certs status",
        "payouts certs status --output json",
        "payouts certs status --no-workers",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def status(
    workers: Annotated[
        bool, typer.Option("--workers/--no-workers", help="Also what each running worker has in use.")
    ] = True,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show days left of each certificate, whether keys fit and who can read them; and what the workers use.

    Exit code 1: something is unusable, or critical (VISA_CERTIFICATE_CRITICAL_DAYS).
    """
    settings = settings_for(DATABASE) if workers else load_settings()
    found = _examined(settings)
    reports = run(_workers(settings)) if workers else []
    _show(found, reports, output)
    if any(one.level in (Level.CRITICAL, Level.UNUSABLE) for one in found) or _critical(reports, settings):
        message("Something has to be renewed or repaired: see WHAT TO DO, or VALID UNTIL of the workers.")
        raise typer.Exit(ExitCode.FOUND)


@app.command(
    "probe",
    epilog=ending(
        "payouts certs probe",
        "payouts certs probe --cert new_client_cert.pem --key new_private_key.pem --ca new_ca_cert.pem",
        "payouts certs probe --mle-key-id NEW_KEY_ID --mle-key new_mle_key.pem",
        codes=(ExitCode.FOUND,),
    ),
)
def probe(
    cert: Annotated[Path | None, typer.Option(help="A client certificate in place of VISA_CERT_PATH.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key in place of VISA_KEY_PATH.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Authorities in place of VISA_CA_PATH.")] = None,
    mle_key_id: Annotated[str | None, typer.Option(help="A key id in place of VISA_MLE_KEY_ID.")] = None,
    mle_key: Annotated[Path | None, typer.Option(help="Our key in place of VISA_MLE_PRIVATE_KEY_PATH.")] = None,
    mle_cert: Annotated[
        Path | None, typer.Option(help="Visa's certificate in place of VISA_MLE_SERVER_CERTIFICATE_PATH.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Try certificates and keys before they are used: the files, a handshake, a greeting, an encrypted question.

    Moves no money and changes nothing. Exit code 1: they cannot be used. The greeting proves the certificate and the
    password, the question our message key; what we encrypt is read by Visa only in a call that moves money.
    """
    given = {
        "visa_cert_path": cert,
        "visa_key_path": key,
        "visa_ca_path": ca,
        "visa_mle_key_id": mle_key_id,
        "visa_mle_private_key_path": mle_key,
        "visa_mle_server_certificate_path": mle_cert,
    }
    settings = load_settings()
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    found = _examined(settings)
    problem = run(_probe(settings))
    if problem is None:
        found.append(Examined("connection", Level.OK, f"{settings.visa_base_url} greets us and answers encrypted"))
    else:
        found.append(Examined("connection", Level.UNUSABLE, problem, "the workers go on with what they have"))
    _show(found, [], output, with_workers=False)
    if any(one.level is Level.UNUSABLE for one in found):
        raise typer.Exit(ExitCode.FOUND)


@app.command(
    "reload",
    epilog=ending(
        'payouts certs reload --reason "INC-7: client certificate of 2027" --dry-run',
        'payouts certs reload --reason "INC-7: client certificate of 2027"',
        'payouts certs reload --reason "INC-7" --wait 120 --output json',
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
    ),
)
def reload(
    reason: ReasonOption,
    operator: OperatorOption = None,
    probe_first: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Try the files here before the workers are asked.")
    ] = True,
    wait: WaitOption = WAIT_SECONDS,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let every worker read settings file, certificates and keys again, try them and use them. No call is lost.

    A worker whose files fail goes on with what it has. Exit code 1: no worker took them, or none runs; 5: some did not.
    Undo it with `payouts certs rollback`, while the workers run.
    """
    settings, name, why = settings_for(DATABASE), who(operator), said(reason, "--reason")
    problem = run(_probe(settings)) if probe_first else None
    if problem is not None:
        raise not_found(
            "the new certificates and keys cannot be used; no worker was asked",
            why=problem,
            next_step="`payouts certs probe` shows every check; --no-probe if this machine has other files",
        )
    show_order(settings, Action.RELOAD, name, why, output, dry_run=dry_run)
    _order(settings, Action.RELOAD, name, why, wait, output, WELL)


@app.command(
    "rollback",
    epilog=ending(
        'payouts certs rollback --reason "INC-7: Visa refuses the new certificate" --dry-run',
        'payouts certs rollback --reason "INC-7: Visa refuses the new certificate"',
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
    ),
)
def rollback(
    reason: ReasonOption,
    operator: OperatorOption = None,
    wait: WaitOption = WAIT_SECONDS,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let every worker use what it used before its last reload; it is still in its memory.

    The files stay as they are: put the old ones back, because a worker that starts reads them. Exit codes as of reload;
    a worker that has nothing to go back to says "failure". Undo it with `payouts certs reload`, which reads the files.
    """
    settings, name, why = settings_for(DATABASE), who(operator), said(reason, "--reason")
    show_order(settings, Action.ROLLBACK, name, why, output, dry_run=dry_run)
    _order(settings, Action.ROLLBACK, name, why, wait, output, frozenset({ReloadResult.ROLLED_BACK.value}))


def show_order(
    settings: Settings, action: Action, operator: str, reason: str, output: Output, *, dry_run: bool
) -> None:
    """What every worker will do, and which payouts wait for it. Ends the command after a dry run.

    Raises CommandFailed (nobody is there to do it), LedgerUnavailable.
    """
    reports, waiting = run(_standing(settings))
    if dry_run and not reports:
        raise not_found("no worker that calls Visa runs", next_step="start one: it reads the files as they are")
    plans = [order_plan(action, report) for report in reports]
    if dry_run and output is Output.JSON:
        head = {"action": action.value, "operator": operator, "reason": reason, "dry_run": True}
        emit_object({**head, "workers": plans, "waiting": waiting, "pauses": PAUSES[action]}, output)
    elif dry_run:
        emit_rows(plans, PLAN_COLUMNS, output)
    payouts = sum(row["payouts"] for row in waiting)
    money = totals_text({row["currency"]: row["amount_minor"] for row in waiting})
    message(f"{action.value}, by {operator}: {len(plans)} worker(s). {PAUSES[action]}")
    message(f"Waiting for Visa now: {payouts} payouts, {money}.")
    if dry_run:
        message("Nothing was changed (--dry-run).")
        raise typer.Exit(ExitCode.OK)


def order_plan(action: Action, report: WorkerReport) -> dict[str, Any]:
    """What a worker will do, by what it said last. Pure."""
    breakers: Mapping[str, str] = report.facts.get("breakers") or {}
    match action:
        case Action.RELOAD:
            will = "reads files and settings again, probes, uses them if they work; goes on with what it has if not"
        case Action.ROLLBACK if report.facts.get("can_roll_back"):
            will = "uses again what it used before its last reload"
        case Action.ROLLBACK:
            will = "nothing: it has nothing to go back to, and will say failure"
        case Action.BREAKER_RESET if breakers:
            states = ", ".join(f"{name} (now {state})" for name, state in sorted(breakers.items()))
            will = f"closes {states} and asks for the keys at once"
        case _:
            will = "nothing: it has keys from files, and will say unchanged"
    return {"worker": report.worker, "will": will, "seen_at": report.seen_at}


async def _standing(settings: Settings) -> tuple[Sequence[WorkerReport], list[dict[str, Any]]]:
    return await _workers(settings), await waiting_for_visa(settings.database_url.get_secret_value())


def _order(
    settings: Settings,
    action: Action,
    operator: str,
    reason: str,
    wait_seconds: float,
    output: Output,
    well: frozenset[str],
) -> None:
    rows = run(give_and_wait(settings, action, operator, reason, wait_seconds))
    emit_rows(rows, WORKER_COLUMNS, output)
    if not rows:
        raise not_found("no worker that calls Visa runs", next_step="start one: it reads the files as they are")
    done = sum(row["result"] in well for row in rows)
    message(f"{done} of {len(rows)} worker(s): {action.value} done, by {operator}.")
    if done < len(rows):
        raise typer.Exit(ExitCode.PARTIAL if done else ExitCode.FOUND)


async def give_and_wait(
    settings: Settings, action: Action, operator: str, reason: str, wait_seconds: float
) -> list[dict[str, Any]]:
    """Order it, and wait until every worker that lives has answered; one line a worker."""
    async with connected_ledger(settings) as ledger:
        expected = {report.worker for report in await ledger.visa_orders.workers(SEEN_WITHIN_SECONDS)}
        number = await ledger.visa_orders.give(action, operator, reason)
        until = time.monotonic() + wait_seconds
        while True:
            reports = await ledger.visa_orders.workers(SEEN_WITHIN_SECONDS + wait_seconds)
            answered = {report.worker for report in reports if report.order_number >= number}
            # One that has stopped cleanly meanwhile is not in the list any more, and is not missed.
            missing = (expected & {report.worker for report in reports}) - answered
            if not missing or time.monotonic() >= until:
                shown = [report for report in reports if report.worker in expected | answered]
                return [_worker(report, waiting=report.worker in missing) for report in shown]
            await asyncio.sleep(LOOK_EVERY_SECONDS)


async def _workers(settings: Settings) -> Sequence[WorkerReport]:
    async with connected_ledger(settings) as ledger:
        return await ledger.visa_orders.workers(SEEN_WITHIN_SECONDS)


def _examined(settings: Settings) -> list[Examined]:
    return list(examine(VisaFiles.of(settings), ExpiryLimits.of(settings), datetime.now(UTC)))


async def _probe(settings: Settings) -> str | None:
    """Why these files and settings cannot be used; None when they can."""
    try:
        async with connected_visa(settings) as client:
            asked: VisaClient = client
            return await probe_of(settings.visa_acquiring_bin)(asked)
    except MaterialUnusable as error:
        return str(error)
    except OSError as error:
        return f"the files cannot be used together: {error.strerror or type(error).__name__}"


@asynccontextmanager
async def connected_visa(settings: Settings) -> AsyncIterator[VisaDirectClient]:
    """A connection for questions that move no money. Raises MaterialUnusable, OSError."""
    material = load_material(settings, datetime.now(UTC))
    await _bring_key(settings, material)
    async with VisaDirectClient(probing(material.connection)) as client:
        yield client


async def _bring_key(settings: Settings, material: Material) -> None:
    """The key from its address, if that is where keys come from. Raises MaterialUnusable."""
    if settings.visa_jwks_url is None:
        return
    try:
        async with asyncio.timeout(settings.jwks_breaker_timeout_seconds):
            keys = read_key_set(await fetch_key_set(settings))
    except JwksInvalid as error:
        raise MaterialUnusable(f"VISA_JWKS_URL: {error}") from None
    except Exception as error:  # noqa: BLE001 - whatever the network does, the answer is that there is no key
        raise MaterialUnusable(f"VISA_JWKS_URL cannot be fetched: {type(error).__name__}") from None
    if material.encryption.key_id not in keys and set(keys) != {None}:
        raise MaterialUnusable(f"VISA_JWKS_URL has no key {material.encryption.key_id!r}")


def _show(found: list[Examined], reports: Sequence[WorkerReport], output: Output, *, with_workers: bool = True) -> None:
    files = [_file(one) for one in found]
    workers = [_worker(report) for report in reports]
    if output is Output.JSON:
        emit_object({"files": files, "workers": workers} if with_workers else {"files": files}, output)
        return
    emit_rows(files, FILE_COLUMNS, output)
    if workers:
        print()
        emit_rows(workers, WORKER_COLUMNS, output)


def _file(one: Examined) -> dict[str, Any]:
    left = None if one.valid_until is None else (one.valid_until - datetime.now(UTC)) / timedelta(days=1)
    return {
        "what": one.what,
        "level": one.level.value,
        "detail": one.detail,
        "advice": one.advice,
        "valid_from": one.valid_from,
        "valid_until": one.valid_until,
        "days_left": None if left is None else int(left),
        "sha256": one.sha256,
    }


def _worker(report: WorkerReport, *, waiting: bool = False) -> dict[str, Any]:
    facts = report.facts
    sha256 = facts.get("certificate_sha256") or ""
    return {
        "worker": report.worker,
        "result": "no answer" if waiting else report.result,
        "why": "it lives, and has not said what became of it" if waiting else report.why,
        "certificate": f"sha256:{sha256[:16]}" if sha256 else None,
        "valid_until": facts.get("valid_until", {}).get("client"),
        "valid_until_of": facts.get("valid_until", {}),
        "mle_key_id": facts.get("mle_key_id"),
        "decrypts_with": facts.get("decrypts_with"),
        "since": facts.get("since"),
        "can_roll_back": facts.get("can_roll_back"),
        "seen_at": report.seen_at,
    }


def _critical(reports: Sequence[WorkerReport], settings: Settings) -> bool:
    limit = datetime.now(UTC) + ExpiryLimits.of(settings).critical
    ends = [until for report in reports for until in report.facts.get("valid_until", {}).values()]
    return any(datetime.fromisoformat(until) <= limit for until in ends)
