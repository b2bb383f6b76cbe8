"""Expected failures of commands: what happened, why, and what to do next; never a traceback."""

from ops.exit_codes import ExitCode


class CommandFailed(Exception):
    """Ends a command with a message for people and a code for scripts. No part may hold a secret."""

    def __init__(self, code: ExitCode, what: str, *, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.why = why
        self.next_step = next_step

    def lines(self) -> list[str]:
        """The message, one line a part."""
        lines = [f"error: {self.what}"]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return lines


def usage_error(what: str, *, why: str = "", next_step: str = "") -> CommandFailed:
    """The command line or its input cannot be understood."""
    return CommandFailed(ExitCode.USAGE, what, why=why, next_step=next_step)


def refused(what: str, *, why: str = "", next_step: str = "") -> CommandFailed:
    """A safety rule forbids it."""
    return CommandFailed(ExitCode.REFUSED, what, why=why, next_step=next_step)


def not_found(what: str, *, why: str = "", next_step: str = "") -> CommandFailed:
    """What was asked for does not exist, or a check found something."""
    return CommandFailed(ExitCode.FOUND, what, why=why, next_step=next_step)


def unreachable(what: str, *, why: str = "", next_step: str = "") -> CommandFailed:
    """A server is away or does not serve us."""
    return CommandFailed(ExitCode.UNREACHABLE, what, why=why, next_step=next_step)
