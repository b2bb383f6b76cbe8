"""Become a server process that dies with its launcher.

Run as a script by `sandbox.servers.processes`; the process id stays the same because the last step is exec.
Doing this in a process of its own, instead of in a `preexec_fn`, keeps the fork of a many-threaded launcher
safe, and lets a root launcher drop to another user from an interpreter that this user could not even read.

Arguments: PARENT_PID UID GID COMMAND [ARGUMENT ...]; UID and GID of -1 keep the launcher's.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_PARENT_GONE = 125
EXIT_NOT_STARTED = 126


def main(arguments: list[str]) -> int:
    """Drop privileges, ask for death with the parent, restore signals, exec. Returns only on failure."""
    parent_pid, user_id, group_id = (int(value) for value in arguments[:3])
    command = arguments[3:]
    try:
        if user_id >= 0:
            os.setgroups([])
            os.setgid(group_id)
            os.setuid(user_id)
        _die_with_parent(parent_pid)
        for number in (signal.SIGINT, signal.SIGTERM):
            # A launcher in the background of a shell ignores SIGINT, and that would be inherited.
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execv(command[0], command)  # noqa: S606 - exec is this script's purpose
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error}\n")
    return EXIT_NOT_STARTED


def _die_with_parent(parent_pid: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    # After setuid, because a change of credentials clears the setting.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        # The launcher ended before the request took effect: nobody would ever stop us.
        sys.exit(EXIT_PARENT_GONE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
