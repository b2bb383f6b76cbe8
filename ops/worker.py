"""`payouts worker`: runs agents until it is told to stop."""

from typing import Annotated

import typer

from ops.application import ending
from ops.environment import settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, usage_error
from streams.settings import AGENT_NAMES, Settings

VISA_AGENTS = frozenset({"submit", "retry", "compensate"})
"""Agents that call Visa, and so need its certificates."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "worker",
        epilog=ending(
            "payouts worker",
            "payouts worker --agents validate,comply",
            "PAYOUTS_SETTINGS_FILE=payouts.env payouts worker --agents submit,retry,compensate",
            codes=(ExitCode.REFUSED, ExitCode.UNREACHABLE),
        ),
    )(worker)


def worker(
    agents: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Which agents to run: {','.join(AGENT_NAMES)}.")
    ] = ",".join(AGENT_NAMES),
) -> None:
    """Run agents in the foreground until SIGTERM or SIGINT; then finish what is under way and leave the group.

    Any number of workers may run any agents: they share the partitions. Settings come from the environment
    or from PAYOUTS_SETTINGS_FILE; what forbids a start is listed, all of it.
    """
    chosen = parse_agents(agents)
    settings = settings_for()
    check_start(settings, chosen)
    from streams.bootstrap import run_worker

    run_worker(settings, chosen)


def parse_agents(text: str) -> tuple[str, ...]:
    """The agents named, each once, in the order of the flow. Raises CommandFailed (usage)."""
    named = {name.strip() for name in text.split(",") if name.strip()}
    unknown = named - set(AGENT_NAMES)
    if unknown or not named:
        raise usage_error(
            f"{len(unknown)} of the agents named are not known" if unknown else "no agent is named",
            next_step=f"choose among {','.join(AGENT_NAMES)}",
        )
    return tuple(name for name in AGENT_NAMES if name in named)


def check_start(settings: Settings, agents: tuple[str, ...]) -> None:
    """Refuse a start that the settings forbid. Raises CommandFailed (refused) with every problem."""
    problems = settings.problems(needs_visa=bool(VISA_AGENTS & set(agents)))
    if problems:
        listed = "\n".join(f"        - {problem}" for problem in problems)
        raise CommandFailed(
            ExitCode.REFUSED,
            "the settings forbid a start",
            why=f"\n{listed}",
            next_step="correct them, then look with `payouts doctor`",
        )
