"""`payouts breaker status|reset`: the breaker before the address of Visa's keys, in every worker."""

from typing import Annotated, Any, Final

import typer

from ledger.visa_orders import Action
from ops.application import ending, new_app
from ops.asynchronous import connected_ledger, run
from ops.certs import WAIT_SECONDS, WELL, WaitOption, give_and_wait, show_order
from ops.environment import DATABASE, settings_for
from ops.exit_codes import ExitCode
from ops.failures import not_found, usage_error
from ops.operator_actions import DryRunOption, OperatorOption, ReasonOption, said, who
from ops.options import OutputOption
from ops.output import Column, Output, emit_rows, message
from processors.visa.breaker import BreakerState
from streams.settings import Settings
from streams.visa_jwks import BREAKER
from streams.visa_keeper import SEEN_WITHIN_SECONDS

FROM_FILES: Final = "none: keys from files"

STATUS_COLUMNS: Final = (
    Column("worker", "WORKER"),
    Column("name", "BREAKER"),
    Column("state", "STATE"),
    Column("seen_at", "SEEN AT"),
)
RESET_COLUMNS: Final = (Column("worker", "WORKER"), Column("result", "RESULT"), Column("why", "WHY"))

app = new_app("Breakers: what fails again and again is left alone for a while.")


@app.command(
    "status",
    epilog=ending(
        "payouts breaker status",
        "payouts breaker status --output json",
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.UNREACHABLE),
    ),
)
def status(output: OutputOption = Output.TABLE) -> None:
    """Show the breaker's state in every worker: CLOSED, OPEN or HALF_OPEN, not older than a quarter of a minute.

    Exit code 1: one of them is not closed.
    """
    rows = run(_states(settings_for(DATABASE)))
    emit_rows(rows, STATUS_COLUMNS, output)
    if any(row["state"] not in (BreakerState.CLOSED.value, FROM_FILES) for row in rows):
        raise typer.Exit(ExitCode.FOUND)


@app.command(
    "reset",
    epilog=ending(
        f'payouts breaker reset {BREAKER} --reason "INC-8: the address answers again" --dry-run',
        f'payouts breaker reset {BREAKER} --reason "INC-8: the address answers again"',
        codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
    ),
)
def reset(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"The breaker: {BREAKER}.")],
    reason: ReasonOption,
    operator: OperatorOption = None,
    wait: WaitOption = WAIT_SECONDS,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Close it by hand in every worker, which then asks for the keys at once. Stays in the ledger's history.

    Only for emergencies: it closes by itself with the first answer, at most JWKS_BREAKER_RESET_SECONDS after the
    address is back. Exit code 1: no worker could; 5: some could not. There is no undo: it opens again by itself when
    the address fails again (JWKS_BREAKER_MAX_FAILURES).
    """
    if name != BREAKER:
        raise usage_error(f"there is no such breaker; there is {BREAKER}", next_step="`payouts breaker status`")
    settings, by, why = settings_for(DATABASE), who(operator), said(reason, "--reason")
    show_order(settings, Action.BREAKER_RESET, by, why, output, dry_run=dry_run)
    rows = run(give_and_wait(settings, Action.BREAKER_RESET, by, why, wait))
    emit_rows(rows, RESET_COLUMNS, output)
    if not rows:
        raise not_found("no worker that calls Visa runs", next_step="start one: its breaker is closed")
    done = sum(row["result"] in WELL for row in rows)
    message(f"{done} of {len(rows)} worker(s): {name} reset, by {by}.")
    if done < len(rows):
        raise typer.Exit(ExitCode.PARTIAL if done else ExitCode.FOUND)


async def _states(settings: Settings) -> list[dict[str, Any]]:
    async with connected_ledger(settings) as ledger:
        reports = await ledger.visa_orders.workers(SEEN_WITHIN_SECONDS)
    return [
        {"worker": report.worker, "name": name, "state": state, "seen_at": report.seen_at}
        for report in reports
        for name, state in (report.facts.get("breakers") or {BREAKER: FROM_FILES}).items()
    ]
