"""How every command is made and how it ends: help with examples and exit codes, failures without tracebacks."""

import os
import sys
import traceback
from typing import Any, Final

import typer
from typer.core import TyperGroup

from ledger.interface import CommitUnknown, LeasesStillLive, LedgerError, LedgerUnavailable
from ops.environment import secret_values
from ops.exit_codes import MEANINGS, ExitCode
from ops.failures import CommandFailed
from ops.redaction import printable, redacted
from schemas.codec import RegistryUnavailable
from schemas.errors import SchemaNotRegistered
from schemas.registry_client import RegistryRefused
from streams.keys import KeysUnusable
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
    match error:
        case CommandFailed():
            return error
        case SettingsInvalid():
            return CommandFailed(ExitCode.USAGE, str(error), next_step="correct the environment or the settings file")
        case KeysUnusable():
            return CommandFailed(ExitCode.USAGE, str(error))
        case LeasesStillLive():
            return CommandFailed(ExitCode.FOUND, str(error))
        case CommitUnknown():
            return CommandFailed(
                ExitCode.UNREACHABLE,
                "it is not known whether PostgreSQL took the change",
                why=str(error),
                next_step="look (`payouts ledger status`, `payouts modes show`) before doing it again",
            )
        case LedgerUnavailable():
            return CommandFailed(
                ExitCode.UNREACHABLE,
                "the ledger cannot be used",
                why=str(error),
                next_step="check DATABASE_URL and the server: `payouts doctor`",
            )
        case LedgerError():
            return CommandFailed(ExitCode.FOUND, str(error))
        case SchemaNotRegistered():
            return CommandFailed(ExitCode.FOUND, str(error), next_step="run `payouts schemas push`")
        case RegistryUnavailable():
            return CommandFailed(
                ExitCode.UNREACHABLE,
                "the schema registry cannot be used",
                why=str(error),
                next_step="check SCHEMA_REGISTRY_URL and the server: `payouts doctor`",
            )
        case RegistryRefused():
            return CommandFailed(ExitCode.FOUND, str(error), next_step="run `payouts schemas check`")
        case _:
            return _of_kafka(error) or _fault(error)


def _of_kafka(error: Exception) -> CommandFailed | None:
    from confluent_kafka import KafkaException

    if not isinstance(error, KafkaException):
        return None
    from ops.kafka import reason_of

    return CommandFailed(
        ExitCode.UNREACHABLE,
        "Kafka cannot be used",
        why=reason_of(error),
        next_step="check KAFKA_BOOTSTRAP_SERVERS and the brokers: `payouts doctor`",
    )


def _fault(error: Exception) -> CommandFailed:
    return CommandFailed(
        ExitCode.INTERNAL,
        f"the command failed in a way that it does not know: {type(error).__name__}",
        next_step="run it again as `payouts --debug …` and report what it prints",
    )


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
