"""`payouts forensics`: what somebody needs to find out later what happened, in one directory without secrets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import SecretStr

from ledger.operator_notes import FORENSICS_BEGUN
from ledger.waiting import PATIENCE_SECONDS
from ops.application import as_failure, ending
from ops.asynchronous import connected_ledger, run
from ops.backup_files import prepared_directory, sha256_of
from ops.doctor import CHECKS, run_check
from ops.environment import secret_values
from ops.exit_codes import ExitCode
from ops.lag import group_lag
from ops.ledger import ledger_status
from ops.ledger_queries import PEOPLES_TRANSITIONS, ROWS_MAX, reading
from ops.operator_actions import OperatorOption, checked_ids, recorded_if_reachable, said, who
from ops.options import OutputOption
from ops.output import Output, emit_object, iso_time, message, to_json
from ops.private_files import write_private
from ops.redaction import redacted
from ops.stuck import found as stuck_found
from ops.timeline import compensation_facts, payout_facts, timeline, visa_facts
from processors.pii.hits import Kind
from processors.pii.redaction import redact_text
from streams.settings import Settings, load_settings

MANIFEST: Final = "manifest.json"
OPERATORS: Final = f"""
SELECT at, actor, transition, payout_id, from_state, to_state FROM history
WHERE at > clock_timestamp() - make_interval(hours => $1) AND (payout_id IS NULL OR transition IN
    {PEOPLES_TRANSITIONS})
ORDER BY id DESC LIMIT 1000
"""  # noqa: S608 - constants
STATEMENT_SECONDS: Final = 60.0
NOTED_PAYOUTS_MAX: Final = 50
HISTORY_LINE: Final = "the history's line of this"
PERSONAL: Final = frozenset({Kind.CARD, Kind.CARD_MASKED, Kind.EMAIL, Kind.SSN, Kind.CVV, Kind.PIN})
"""What people type into reasons. Accounts, phones, expiries look like the numbers and times that are the evidence."""

Writer = Callable[[Settings], object]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "forensics",
        epilog=ending(
            'payouts forensics --out INC-124 --reason "INC-124"',
            'payouts forensics order-2026-000017 order-2026-000018 --out INC-125 --reason "INC-125" --hours 48',
            codes=(ExitCode.REFUSED, ExitCode.PARTIAL),
        ),
    )(forensics)


def forensics(
    out: Annotated[Path, typer.Option("--out", help="A new directory for it.")],
    reason: Annotated[str, typer.Option(help="Why, for example the incident's number; stands in the manifest.")],
    payout_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[PAYOUT_ID]…", help="Payouts whose history belongs to it.")
    ] = None,
    hours: Annotated[int, typer.Option(min=1, max=24 * 90, help="What people did, so many hours back.")] = 24,
    operator: OperatorOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Gather settings without secrets, doctor, database, lag, what waits, what people did, and payouts' histories.

    No personal data, card numbers or encrypted parts are in it; the manifest has the SHA-256 of every file. What could
    not be asked is said in its place, and the command ends with 5. Nothing is changed and there is nothing to undo, but
    the history has a line of it, because data leave; a ledger that is away stops nobody from looking into it.
    """
    why, name = said(reason, "--reason"), who(operator)
    ids = checked_ids(payout_ids or [])
    settings = load_settings()
    partial = prepared_directory(out)
    writers: dict[str, Writer] = {
        "settings.json": _settings,
        "doctor.json": _doctor,
        "ledger_status.json": _ledger_status,
        "lag.json": _lag,
        "waiting.json": _waiting,
        "operators.json": lambda given: run(_operators(given, hours)),
        **{f"payouts/{payout_id}.json": _payout_writer(payout_id) for payout_id in ids},
    }
    detail = {"reason": why, "payouts": ids[:NOTED_PAYOUTS_MAX], "payouts_in_all": len(ids), "hours": hours}
    is_recorded = recorded_if_reachable(settings, name, FORENSICS_BEGUN, detail)
    missing = _write_all(partial, writers, settings) + ([] if is_recorded else [HISTORY_LINE])
    _write_manifest(partial, name, why, missing)
    partial.rename(out)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    emit_object({"directory": str(out), "files": files, "not_asked": missing}, output)
    if missing:
        message(f"{len(missing)} part(s) could not be asked; the files say why.")
        raise typer.Exit(ExitCode.PARTIAL)


def _write_all(directory: Path, writers: Mapping[str, Writer], settings: Settings) -> list[str]:
    secrets = list(secret_values(settings))
    missing = []
    for name, writer in writers.items():
        path = directory / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            content = writer(settings)
        except Exception as error:  # noqa: BLE001 - what cannot be asked is a fact of the incident, too
            failure = as_failure(error)
            content = {"not_asked": failure.what, "why": failure.why}
            missing.append(name)
        write_private(path, to_json(clean(content, secrets), indent=1) + "\n")
    return missing


def clean(value: object, secrets: Sequence[str]) -> object:
    """The same with every text masked: secrets, encrypted parts, card numbers, and what looks like personal data."""
    match value:
        case str():
            return redact_text(redacted(value, secrets), PERSONAL, longest_characters=None)
        case Mapping():
            return {str(key): clean(item, secrets) for key, item in value.items()}
        case list() | tuple():
            return [clean(item, secrets) for item in value]
        case _:
            return value


def _settings(settings: Settings) -> dict[str, Any]:
    """Each setting, and whether it is the default; of secrets only whether they are set."""
    shown: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        is_default = value == field.default
        if isinstance(value, SecretStr):
            shown[name.upper()] = {"set": not is_default}
        else:
            shown[name.upper()] = {"value": None if value is None else str(value), "default": is_default}
    return {"problems": settings.problems(needs_visa=True), "settings": shown}


def _doctor(settings: Settings) -> list[dict[str, Any]]:
    return [asdict(found) for name, check in CHECKS for found in run_check(name, check, settings)]


def _ledger_status(settings: Settings) -> dict[str, Any]:
    values, problems = run(ledger_status(settings))
    return {**values, "problems": problems}


def _lag(settings: Settings) -> dict[str, Any]:
    return group_lag(settings)


def _waiting(settings: Settings) -> dict[str, Any]:
    rows, totals = run(stuck_found(settings, PATIENCE_SECONDS, None, ROWS_MAX))
    return {"totals": totals, "payouts": rows}


async def _operators(settings: Settings, hours: int) -> list[dict[str, Any]]:
    url = settings.database_url.get_secret_value()
    async with reading(url, statement_seconds=STATEMENT_SECONDS) as connection:
        return [dict(row) for row in await connection.fetch(OPERATORS, hours)]


def _payout_writer(payout_id: str) -> Writer:
    return lambda settings: run(_payout(settings, payout_id))


async def _payout(settings: Settings, payout_id: str) -> dict[str, Any]:
    """Its facts and its history, as `payouts show --no-topics` has them."""
    async with connected_ledger(settings) as ledger:
        row = await ledger.read(payout_id)
        history = await ledger.history(payout_id)
    if row is None:
        return {"payout_id": payout_id, "row": None}
    return {
        "payout_id": payout_id,
        "payout": payout_facts(row),
        "visa": visa_facts(row, settings.request_ids),
        "compensation": compensation_facts(row),
        "history": [moment.as_json() for moment in timeline(history, [], [])],
    }


def _write_manifest(directory: Path, name: str, why: str, missing: Sequence[str]) -> None:
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            digest, size = sha256_of(path)
            files[str(path.relative_to(directory))] = {"sha256": digest, "bytes": size}
    head = {"made_at": iso_time(datetime.now(UTC)), "operator": name, "reason": why, "not_asked": list(missing)}
    write_private(directory / MANIFEST, to_json({**head, "files": files}, indent=1) + "\n")
