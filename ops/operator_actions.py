"""How the commands for operators ask and tell: a plan with its money, one question, the result (P9, L12).

action = Action(name="hold", operator="maria", event=lambda row, history: Held("OPERATOR: INC-1"))
perform(action, ["order-2026-000017"], answers(yes=True, dry_run=False, wait=None, output=Output.TABLE))
"""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from ledger.interface import LedgerError
from ledger.operator_notes import note
from ops.action_plans import Action, Ended, Plan, Result, carry_out, look, wait_until_announced
from ops.asynchronous import connected_ledger, run
from ops.effects import money_facts, money_totals, totals_text
from ops.environment import DATABASE, operator_name, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, refused, usage_error
from ops.output import Column, Output, emit_object, emit_rows, message
from ops.people import checked_text
from processors.payout.modes import Activity, Mode, allows
from schemas.payout_id import payout_id_problem
from streams.clock import utc_now
from streams.settings import Settings

IDS_MAX: Final = 200
"""More than anybody reads on a screen before he says yes."""
WAIT_MAX_SECONDS: Final = 600.0
DETAILED_MAX: Final = 5
"""Payouts that are shown with every fact; more of them as a table of one line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """How the operator wants to be asked and told."""

    yes: bool
    dry_run: bool
    wait_seconds: float | None
    output: Output


# Options that these commands share, so that they mean the same everywhere.

PayoutsArgument = Annotated[list[str], typer.Argument(metavar="PAYOUT_ID", help="The payouts, by their ids.")]
ReasonOption = Annotated[str, typer.Option(help="Why; stays in the ledger's history. No names, no card numbers.")]
OptionalReasonOption = Annotated[
    str | None, typer.Option(help="Why, if there is more to say than that it was time; stays in the ledger's history.")
]
"""For what pipelines and schedules run: nobody is there to ask, and a made-up reason would be a lie in the audit."""
OperatorOption = Annotated[
    str | None, typer.Option(help="Who; the system's user when not given (PAYOUTS_OPERATOR, USER).")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan, change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can be asked.")]
WaitOption = Annotated[
    float | None,
    typer.Option(min=0.0, max=WAIT_MAX_SECONDS, help="Wait so many seconds until a worker has published the change."),
]


def answers(*, yes: bool, dry_run: bool, wait: float | None, output: Output) -> Answers:
    """What the options say together. Raises CommandFailed (usage)."""
    if yes and dry_run:
        raise usage_error("--yes and --dry-run contradict each other", next_step="give one of them")
    if not yes and not dry_run and (output is Output.JSON or not sys.stdin.isatty()):
        raise usage_error(
            "nobody can be asked whether the plan is right",
            why="the input is no terminal" if output is not Output.JSON else "--output json prints one document",
            next_step="read the plan with --dry-run, then run it again with --yes",
        )
    return Answers(yes=yes, dry_run=dry_run, wait_seconds=wait, output=output)


def who(operator: str | None) -> str:
    """The operator's name as it is written into the history. Raises CommandFailed."""
    name = checked_text(operator or operator_name() or "", "--operator")
    if not name:
        raise usage_error("who does it is not known", next_step="give --operator NAME")
    return name


def who_or_what(operator: str | None) -> str:
    """The same for what runs without a person: the system's user, else the process's user id and its machine."""
    name = checked_text(operator or operator_name() or "", "--operator")
    return name or checked_text(f"uid {os.getuid()} on {socket.gethostname()}", "the machine's name")


def why_if_given(reason: str | None) -> dict[str, str]:
    """A reason as the history keeps it; nothing where none was given. Raises CommandFailed for an empty one."""
    return {} if reason is None else {"reason": said(reason, "--reason")}


def recorded_if_reachable(settings: Settings, operator: str, transition: str, detail: Mapping[str, Any]) -> bool:
    """A line of the history about what was done elsewhere, in Kafka or the registry; whether it could be written.

    It must not stop the work: topics and schemas come before there is a ledger, and where they are made there may be
    no way to it. Then it is said, and the pipeline's own log is the record.
    """
    problems = [problem for problem in settings.problems() if problem.startswith(DATABASE)]
    try:
        if not problems:
            run(note(settings.database_url.get_secret_value(), operator, transition, detail))
            return True
        why = problems[0]
    except LedgerError as error:
        why = str(error)
    message(f"Not in the ledger's history (by {operator}): {why}")
    return False


def said(text: str, option: str) -> str:
    """A reason or evidence, which must not be empty. Raises CommandFailed without quoting it."""
    checked = checked_text(text, option)
    if not checked:
        raise usage_error(f"{option} is empty", next_step="say why: whoever reads the history later depends on it")
    return checked


def confirmed(question: str, operator: str, *, yes: bool) -> None:
    """Asked for and agreed to. Raises CommandFailed where it is not."""
    if not yes and not typer.confirm(f"{question}, as {operator}?", err=True):
        raise CommandFailed(ExitCode.FOUND, "nothing was changed", why="the plan was not agreed to")


def checked_ids(payout_ids: Sequence[str]) -> list[str]:
    """The ids, each once, in their order. Raises CommandFailed (usage)."""
    ids = list(dict.fromkeys(payout_ids))
    for payout_id in ids:
        problem = payout_id_problem(payout_id)
        if problem is not None:
            raise usage_error(problem, next_step="copy the ids from `payouts stuck` or the sender's journal")
    if len(ids) > IDS_MAX:
        raise usage_error(f"more than {IDS_MAX} payouts at once", next_step="give fewer: the plan must be readable")
    return ids


# The command's course.


def perform(action: Action, payout_ids: Sequence[str], wanted: Answers) -> list[Result]:
    """Plan, show, ask, do, tell. Ends the command with its exit code where not everything was done."""
    ids = checked_ids(payout_ids)
    settings = settings_for(DATABASE)
    plans, mode = run(_planned(settings, action, ids))
    if not wanted.dry_run and not action.in_every_mode:
        refuse_where_nobody_decides(mode, action.name)
    to_do = [plan for plan in plans if plan.step is not None]
    if wanted.output is Output.TABLE:
        _show_plans(action, plans)
    _tell_money(action, to_do, mode)
    if wanted.dry_run or not to_do:
        results = [Result(plan, plan.ended, plan.why, plan.row) for plan in plans]
    else:
        confirmed(f"Do it: {action.name}", action.operator, yes=wanted.yes)
        results = run(_carried_out(settings, action, plans, wanted.wait_seconds))
    _tell(action, results, wanted)
    if (code := exit_code(results)) is not ExitCode.OK:
        raise typer.Exit(code)
    return results


def refuse_where_nobody_decides(mode: Mode, action: str) -> None:
    """E5: in a mode that is read-only for people, payouts are only looked at and held. Raises CommandFailed."""
    if not allows(mode, Activity.DECIDE):
        raise refused(
            f"{action} is not possible in the mode {mode.value}",
            why="it lets people look, hold payouts and set the mode; what else they decide waits",
            next_step="`payouts hold` stops a payout in every mode; decide again when the mode is normal",
        )


async def _planned(settings: Settings, action: Action, ids: Sequence[str]) -> tuple[list[Plan], Mode]:
    async with connected_ledger(settings) as ledger:
        plans = [await look(ledger, action, payout_id, utc_now, settings.schedule) for payout_id in ids]
        return plans, (await ledger.mode()).mode


async def _carried_out(
    settings: Settings, action: Action, plans: Sequence[Plan], wait_seconds: float | None
) -> list[Result]:
    async with connected_ledger(settings) as ledger:
        results = [await carry_out(ledger, action, plan, utc_now, settings.schedule) for plan in plans]
        if wait_seconds is None:
            return results
        until = time.monotonic() + wait_seconds
        return [await wait_until_announced(ledger, result, until) for result in results]


def exit_code(results: Sequence[Result]) -> ExitCode:
    """All well: 0. Nothing of it: why. A part of it: 5."""
    well = [r for r in results if r.ended in (Ended.PLANNED, Ended.DONE, Ended.UNCHANGED) and r.announced is not False]
    if len(well) == len(results):
        return ExitCode.OK
    done = [result for result in results if result.ended in (Ended.PLANNED, Ended.DONE)]
    if done or well:
        return ExitCode.PARTIAL
    ends = {result.ended for result in results}
    if Ended.NOT_KNOWN in ends:
        return ExitCode.UNREACHABLE
    return ExitCode.REFUSED if Ended.REFUSED in ends else ExitCode.FOUND


# What is shown.

PLAN_COLUMNS: Final = (
    Column("payout_id", "PAYOUT"),
    Column("amount", "AMOUNT", right=True),
    Column("recipient_country", "TO"),
    Column("state", "STATE"),
    Column("plan", "PLAN"),
    Column("effects", "WHAT FOLLOWS"),
)
RESULT_COLUMNS: Final = (
    Column("payout_id", "PAYOUT"),
    Column("amount", "AMOUNT", right=True),
    Column("result", "RESULT"),
    Column("state", "STATE"),
    Column("version", "VERSION", right=True),
    Column("held", "HELD"),
    Column("why", "WHY"),
)


def _show_plans(action: Action, plans: Sequence[Plan]) -> None:
    if action.every_fact or len(plans) <= DETAILED_MAX:
        for plan in plans:
            emit_object(_detailed(action, plan), Output.TABLE)
            print()
        return
    emit_rows([_plan_line(action, plan) for plan in plans], PLAN_COLUMNS, Output.TABLE)
    print()


def _detailed(action: Action, plan: Plan) -> dict[str, Any]:
    facts = {"payout_id": plan.payout_id} if plan.row is None else money_facts(plan.row)
    shown = {name: value for name, value in facts.items() if value is not None}
    numbered = {f"effect {number}": text for number, text in enumerate(plan.effects, start=1)}
    careful = {f"careful {number}": text for number, text in enumerate(plan.warnings, start=1)}
    lately = (
        {f"history {number}": text for number, text in enumerate(plan.lately, start=1)} if action.every_fact else {}
    )
    written = {"recorded": dict(plan.step.detail)} if plan.step is not None else {}
    return {**shown, **lately, "plan": _plan_text(action, plan), **written, **careful, **numbered}


def _plan_line(action: Action, plan: Plan) -> dict[str, Any]:
    facts = {"payout_id": plan.payout_id} if plan.row is None else money_facts(plan.row)
    return {**facts, "plan": _plan_text(action, plan), "effects": "; ".join((*plan.warnings, *plan.effects))}


def _plan_text(action: Action, plan: Plan) -> str:
    if plan.step is not None:
        return action.name
    return f"{plan.ended.value}: {plan.why}"


def _tell_money(action: Action, to_do: Sequence[Plan], mode: Mode) -> None:
    rows = [plan.row for plan in to_do if plan.row is not None]
    if rows:
        counted = "1 payout" if len(rows) == 1 else f"{len(rows)} payouts"
        message(f"{action.name}: {counted}, {totals_text(money_totals(rows))}, by {action.operator}.")
        if mode is not Mode.NORMAL:
            message(f"The mode is {mode.value}: what it forbids waits until it is normal again (`payouts modes show`).")


def _tell(action: Action, results: Sequence[Result], wanted: Answers) -> None:
    if wanted.output is Output.JSON:
        document = {
            "action": action.name,
            "operator": action.operator,
            "dry_run": wanted.dry_run,
            "money": money_totals(r.plan.row for r in results if r.plan.row is not None and r.plan.step is not None),
            "payouts": [_result_document(result) for result in results],
        }
        emit_object(document, Output.JSON)
        return
    if wanted.dry_run:
        message("Nothing was changed (--dry-run).")
        return
    emit_rows([_result_line(result) for result in results], RESULT_COLUMNS, Output.TABLE)


def _result_document(result: Result) -> dict[str, Any]:
    plan, row = result.plan, result.row
    return {
        "payout_id": plan.payout_id,
        "result": result.ended.value,
        "why": result.why,
        "before": None if plan.row is None else money_facts(plan.row),
        "transition": None if plan.step is None else plan.step.transition,
        "recorded": None if plan.step is None else dict(plan.step.detail),
        "warnings": list(plan.warnings),
        "effects": list(plan.effects),
        "state": None if row is None else row.state.value,
        "version": None if row is None else row.version,
        "held": None if row is None else row.held,
        "compensation": None if row is None else row.compensation.value,
        "announced": result.announced,
    }


def _result_line(result: Result) -> dict[str, Any]:
    facts = {} if result.plan.row is None else money_facts(result.plan.row)
    return {
        "payout_id": result.plan.payout_id,
        "amount": facts.get("amount"),
        "result": result.ended.value,
        "state": None if result.row is None else result.row.state.value,
        "version": None if result.row is None else result.row.version,
        "held": None if result.row is None else result.row.held,
        "why": result.why,
    }
