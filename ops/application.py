"""How every command is made and how it ends: help with examples and exit codes, failures without tracebacks."""

import os
import sys
import traceback
from typing import Any, Final

import typer
from typer.core import TyperGroup

from ops.environment import secret_values
from ops.exit_codes import MEANINGS, ExitCode
from ops.failures import CommandFailed
from ops.redaction import printable, redacted
from streams.settings import SettingsInvalid, load_settings

DEBUG_VARIABLE: Final = "PAYOUTS_DEBUG"

_COMMON: Final = (ExitCode.OK, ExitCode.USAGE)


def new_app(help_text: str) -> typer.Typer:
    """A Typer app for one noun. Plain help: the same in a pipe, a terminal and a document."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=exit_codes_text(*ExitCode),
    )


def ending(*examples: str, codes: tuple[ExitCode, ...] = ()) -> str:
    """What stands at the end of a command's --help: examples, then the exit codes it uses."""
    shown = "\n".join(f"  {example}" for example in examples)
    return f"\b\nExamples:\n{shown}\n\n{exit_codes_text(*_COMMON, *codes)}"


def exit_codes_text(*codes: ExitCode) -> str:
    """The exit codes as help shows them."""
    lines = "\n".join(f"  {code.value:<3} {MEANINGS[code]}" for code in sorted(set(codes)))
    return f"\b\nExit codes:\n{lines}"


class CommandGroup(TyperGroup):
    """The top of all commands: turns whatever a command raises into a message and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - as the library calls it
        """Their names; the library would load all of them to find these."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - the library keeps its context class to itself
        """Run the command; every way in which it can fail ends here."""
        try:
            return super().invoke(ctx)
        except (typer.TyperException, typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001 - the last place that can keep a traceback from a person
            failure = as_failure(error)
            _report(failure, error)
            raise typer.Exit(failure.code) from None


def as_failure(error: Exception) -> CommandFailed:
    """The expected failure that an exception stands for; a fault of ours if it is none."""
    if isinstance(error, CommandFailed):
        return error
    # Here: it loads what few commands need, and none that ends well.
    from ops.known_failures import failure_of

    return failure_of(error)


def _report(failure: CommandFailed, error: Exception) -> None:
    secrets = _known_secrets()
    for line in failure.lines():
        for part in redacted(line, secrets).splitlines():
            print(printable(part), file=sys.stderr)
    if os.environ.get(DEBUG_VARIABLE):
        text = "".join(traceback.format_exception(error))
        for line in redacted(text, secrets).splitlines():
            print(printable(line), file=sys.stderr)


def _known_secrets() -> list[str]:
    try:
        return list(secret_values(load_settings()))
    except SettingsInvalid:
        return []
