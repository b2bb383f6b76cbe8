"""What the commands' exit codes mean; scripts rely on them."""

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """The code with which a command ends."""

    OK = 0
    FOUND = 1
    """A check found something, or what was asked for is not there."""
    USAGE = 2
    REFUSED = 3
    """A safety rule forbids what was asked."""
    GROUP_ACTIVE = 4
    PARTIAL = 5
    UNREACHABLE = 6
    INTERNAL = 70
    """A fault of this program (sysexits.h: EX_SOFTWARE)."""
    INTERRUPTED = 130
    """Ended by SIGINT, as shells count it."""


MEANINGS: Final = {
    ExitCode.OK: "done",
    ExitCode.FOUND: "a check found something, or there is no such thing",
    ExitCode.USAGE: "usage or settings are wrong",
    ExitCode.REFUSED: "refused by a safety rule",
    ExitCode.GROUP_ACTIVE: "the consumer group is active",
    ExitCode.PARTIAL: "done in part",
    ExitCode.UNREACHABLE: "Kafka, PostgreSQL, the registry or a file cannot be reached",
    ExitCode.INTERNAL: "a fault of this program",
    ExitCode.INTERRUPTED: "interrupted",
}
