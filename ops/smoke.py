"""`payouts smoke`: one synthetic payout through the running system, against a stand-in or Visa's sandbox."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from ulid import ULID

from ledger.interface import HistoryEntry
from ledger.operator_notes import SMOKE_BEGUN, note
from ops.application import ending
from ops.asynchronous import connected_ledger, run
from ops.environment import DATABASE, KAFKA, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused, usage_error
from ops.money_text import amount_text
from ops.operator_actions import DryRunOption, OperatorOption, YesOption, answers, who
from ops.options import OutputOption
from ops.output import Output, emit_object, message
from ops.payout_lines import Document, Line
from ops.people import checked_text
from ops.redaction import redacted
from ops.send import Prepared, _send_all, prepare
from processors.payout.row import PayoutRow, PayoutState
from streams.settings import Profile, Settings

SANDBOX_HOST: Final = "sandbox.api.visa.com"
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
POLL_SECONDS: Final = 0.2
WAIT_MAX_SECONDS: Final = 600.0
AMOUNT_MINOR_MAX: Final = 1_000
"""A mistake may not cost more than ten dollars."""
TEST_CARD: Final = "4957030420210462"
"""Published by Visa for its sandbox; the stand-in knows it, too. It is sent encrypted, as any other."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "smoke",
        epilog=ending(
            "payouts smoke",
            "payouts smoke --wait 120 --output json",
            "payouts smoke --dry-run",
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(smoke)


def smoke(
    wait: Annotated[float, typer.Option(min=1.0, max=WAIT_MAX_SECONDS, help="How long to wait for its result.")] = 60.0,
    amount_minor: Annotated[
        int, typer.Option(min=1, max=AMOUNT_MINOR_MAX, help="Minor units of USD; at most ten dollars.")
    ] = 100,
    party_key: Annotated[
        Path | None, typer.Option(help="The processor's public key; by default that of the keys directory.")
    ] = None,
    allow_production: Annotated[
        bool,
        typer.Option("--allow-production", help="Although real money moves: to --token, and for a --reason."),
    ] = False,
    token: Annotated[
        str | None, typer.Option(help="Pay to this card token in place of Visa's published test card.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; needed with --allow-production.")] = "",
    operator: OperatorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send one small payout through every stage and wait until its result is published. Exit code 0: it was paid.

    Only against a stand-in on this machine or Visa's sandbox, and with VISA_BASE_URL set to it or the test profile:
    everywhere else it refuses, because the money would be real. --allow-production needs a yes, and the history
    has who and why. It cannot be taken back: a payout that was paid is paid. Its originator is payouts-smoke.
    """
    name, why = who(operator), checked_text(reason, "--reason")
    settings = settings_for(KAFKA, DATABASE)
    is_real = _is_real(settings, allow_production=allow_production, token=token, why=why)
    if is_real:
        answers(yes=yes, dry_run=dry_run, wait=None, output=output)
    payout_id = f"smoke-{str(ULID()).lower()}"
    (item,) = _prepared(settings, payout_id, amount_minor, token, party_key)
    plan = {
        "payout_id": payout_id,
        "amount": amount_text(amount_minor, "USD"),
        "visa": _host(settings),
        "operator": name,
    }
    if dry_run:
        emit_object({**plan, "sent": False}, output)
        message("Nothing was sent (--dry-run).")
        return
    message(f"{plan['amount']} through {plan['visa']}: {payout_id}")
    if is_real:
        if not yes and not typer.confirm(f"Real money moves. Send it, as {name}?", err=True):
            raise CommandFailed(ExitCode.FOUND, "nothing was sent", why="the plan was not agreed to")
        detail = {"reason": why, "payout_id": payout_id, "amount": plan["amount"], "visa": plan["visa"]}
        run(note(settings.database_url.get_secret_value(), name, SMOKE_BEGUN, detail))
    began = time.monotonic()
    _send_all(settings, [item], None)
    row, history = run(_ended(settings, payout_id, began + wait))
    seconds = time.monotonic() - began
    emit_object({**plan, "sent": True, "seconds": round(seconds, 2), **_shown(row, history)}, output)
    if row is None or row.state is not PayoutState.PAID or row.announced_version < row.announce_version:
        raise CommandFailed(
            ExitCode.FOUND,
            f"the payout was not paid and published within {wait:g} s",
            why="no worker has taken it" if row is None else f"it is {row.state.value}",
            next_step=f"`payouts show {payout_id}`, `payouts doctor`; if this is a deployment: roll back",
        )
    message("Paid, and its result is published.")


def _host(settings: Settings) -> str:
    return urlsplit(settings.visa_base_url).hostname or "?"


def _is_real(settings: Settings, *, allow_production: bool, token: str | None, why: str) -> bool:
    """Whether real money may move. Raises CommandFailed where it may not, and where that is not allowed as it must be.

    The workers call Visa, not this command: its own VISA_BASE_URL says where they do only if somebody has set it.
    """
    host = _host(settings)
    is_known = settings.payouts_profile is Profile.TEST or "visa_base_url" in settings.model_fields_set
    if is_known and (host in LOOPBACK or host == SANDBOX_HOST):
        return False
    if not allow_production:
        raise refused(
            f"{host} is neither a stand-in on this machine nor Visa's sandbox: real money would move"
            if is_known
            else "VISA_BASE_URL is not set here: the workers may call production, and real money would move",
            next_step="run it where VISA_BASE_URL names one of them, or agree on --allow-production with L2",
        )
    if token is None or not why:
        raise usage_error(
            "--allow-production needs --token and --reason",
            why="somebody gets real money: an account of your own",
            next_step="name both",
        )
    return True


def _prepared(
    settings: Settings, payout_id: str, amount_minor: int, token: str | None, party_key: Path | None
) -> Sequence[Prepared]:
    batch = prepare(iter([Line(1, document=_document(payout_id, amount_minor, token))]), settings, party_key)
    if batch.refused:
        raise usage_error("the payout could not be made", why=batch.refused[0].problem or "")
    return batch.prepared


def _document(payout_id: str, amount_minor: int, token: str | None) -> Document:
    address = {"line1": "1 Main Street", "city": "Foster City", "state": "CA", "postal_code": "94404", "country": "US"}
    card = {"token_reference": token} if token else {"card": {"primary_account_number": TEST_CARD, "expiry": "2040-10"}}
    return {
        "payout_id": payout_id,
        "originator_id": "payouts-smoke",
        "amount": {"amount_minor": amount_minor, "currency": "USD"},
        "corridor": {
            "source_country": "US", "target_country": "US", "source_currency": "USD", "target_currency": "USD",
        },
        "funding": {"kind": "INTERNAL", "internal": {"debit_confirmed": True, "confirmation_ref": payout_id}},
        "destination": {"kind": "CARD", "card": card},
        "personal_data": {
            "sender": {"name": "Smoke Test", "address": address},
            "recipient": {"name": "Rosalind Example", "address": address},
        },
        "correlation_id": payout_id,
    }  # fmt: skip


async def _ended(settings: Settings, payout_id: str, until: float) -> tuple[PayoutRow | None, Sequence[HistoryEntry]]:
    """The row when it has ended and the broker has its result, or as it is when the time is over."""
    import asyncio

    async with connected_ledger(settings) as ledger:
        while True:
            row = await ledger.read(payout_id)
            ended = row is not None and row.is_terminal and row.announced_version >= row.announce_version
            if ended or time.monotonic() >= until:
                return row, await ledger.history(payout_id)
            await asyncio.sleep(POLL_SECONDS)


def _shown(row: PayoutRow | None, history: Sequence[HistoryEntry]) -> dict[str, Any]:
    steps = [
        {"step": entry.transition, "seconds": round((entry.at - history[0].at).total_seconds(), 2)} for entry in history
    ]
    if row is None:
        return {"state": None, "published": False, "steps": steps}
    return {
        "state": row.state.value,
        "published": row.announced_version >= row.announce_version,
        "reason_code": None if row.reason_code is None else redacted(row.reason_code),
        "attempts": row.attempts,
        "held": row.held,
        "steps": steps,
    }
