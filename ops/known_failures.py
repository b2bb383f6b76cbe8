"""What the exceptions of ledger, topics, registry, keys and settings mean to whoever typed a command."""

from confluent_kafka import KafkaException

from ledger.interface import CommitUnknown, LeasesStillLive, LedgerError, LedgerUnavailable
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed
from ops.kafka import reason_of
from schemas.codec import RegistryUnavailable
from schemas.errors import SchemaNotRegistered
from schemas.registry_client import RegistryRefused
from streams.keys import KeysUnusable
from streams.settings import SettingsInvalid


def failure_of(error: Exception) -> CommandFailed:
    """The expected failure that an exception stands for; a fault of ours if it is none."""
    match error:
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
        case KafkaException():
            return CommandFailed(
                ExitCode.UNREACHABLE,
                "Kafka cannot be used",
                why=reason_of(error),
                next_step="check KAFKA_BOOTSTRAP_SERVERS and the brokers: `payouts doctor`",
            )
        case _:
            return _fault(error)


def _fault(error: Exception) -> CommandFailed:
    return CommandFailed(
        ExitCode.INTERNAL,
        f"the command failed in a way that it does not know: {type(error).__name__}",
        next_step="run it again as `payouts --debug …` and report what it prints",
    )
