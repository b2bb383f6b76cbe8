"""How the suites that end in a verdict run from the command line: progress on stderr, the verdict last on stdout."""

import shutil
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from sandbox.servers.postgres import enterable_temporary_directory
from sandbox.servers.stack import raise_on_ending_signals

EXIT_INTERRUPTED: Final = 130


class Ended(Protocol):
    """What came of a run."""

    problems: list[str]

    @property
    def clean(self) -> bool:
        """Whether it is as it must be."""

    def lines(self) -> Iterable[str]:
        """For stdout; the last one is the verdict."""


def run_to_verdict(
    name: str, keep: Path | None, work: Callable[[Path], Ended], failures: tuple[type[Exception], ...]
) -> int:
    """Exit code 0 as it must be, 1 otherwise, 130 after Ctrl-C.

    `work` gets a directory that servers of another user can enter: `keep`, or one that is deleted after a clean run.
    """
    directory = keep or enterable_temporary_directory(f"payouts-{name}-")
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)
    restore_signals = raise_on_ending_signals()
    clean = False
    try:
        ended = work(directory)
        clean = ended.clean
        for problem in ended.problems:
            sys.stderr.write(f"problem: {problem}\n")
        for line in ended.lines():
            sys.stdout.write(f"{line}\n")
    except failures as error:
        sys.stderr.write(f"no verdict: {type(error).__name__}: {error}\n")
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; nothing is left running")
        return EXIT_INTERRUPTED
    finally:
        if clean and keep is None:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(f"artefacts are in {directory}")
        restore_signals()
    return 0 if clean else 1


def say(message: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {message}\n")
    sys.stderr.flush()
