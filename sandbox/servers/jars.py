"""Apache Kafka and the Apicurio registry by Maven coordinates, pinned by our own checksums, cached per user.

`kafka.sha256` and `apicurio.sha256` beside this file name every file by its coordinates and its SHA-256; so
nothing needs to be resolved at run time, and where a file came from does not matter. They are rewritten with
`python -m sandbox.servers.jars lock kafka|apicurio` and reviewed like code.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import platformdirs

from sandbox.servers.processes import ManagedProcess, ServerError, StartCancelledError, python_module

CACHE_VARIABLE = "PAYOUTS_CACHE_DIR"
# 110 MB over a slow line (2 Mbit/s) takes seven minutes.
DOWNLOAD_SECONDS = 900.0
HTTP_SECONDS = 30
# A public repository answers single requests slowly, not many requests: this is where it stops helping.
PARALLEL_DOWNLOADS = 6
DOWNLOAD_TRIES = 3
PROGRESS_SECONDS = 2.0
LOCK_POLL_SECONDS = 0.2
UNPACKED = "unpacked"


@dataclass(frozen=True)
class Coordinates:
    """Maven coordinates of one file: `group:artifact:version[:classifier:packaging]`."""

    group: str
    artifact: str
    version: str
    classifier: str = ""
    packaging: str = "jar"

    @classmethod
    def parse(cls, text: str) -> Coordinates:
        """Read the text form. Raises ValueError for another number of parts."""
        parts = text.split(":")
        if len(parts) not in (3, 5):
            raise ValueError(f"not Maven coordinates (group:artifact:version[:classifier:packaging]): {text!r}")
        return cls(*parts)

    def __str__(self) -> str:
        parts = [self.group, self.artifact, self.version]
        if self.classifier or self.packaging != "jar":
            parts += [self.classifier, self.packaging]
        return ":".join(parts)

    @property
    def file_name(self) -> str:
        """The name of the file in our cache; two groups never use the same artifact name here."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{classifier}.{self.packaging}"


@dataclass(frozen=True)
class Bundle:
    """A program made of files from a Maven repository.

    `roots` are what is asked for; the checksum file also lists what these need. `is_archive` means one archive
    that is unpacked, checked as a tree by the checksum's line `unpacked`.
    """

    name: str
    title: str
    version: str
    roots: tuple[Coordinates, ...]
    is_archive: bool = False

    @property
    def checksum_path(self) -> Path:
        """The committed checksum file."""
        return Path(__file__).with_name(f"{self.name}.sha256")


KAFKA = Bundle(
    name="kafka",
    title="Apache Kafka",
    version="4.3.1",
    roots=tuple(
        Coordinates.parse(text)
        for text in (
            "org.apache.kafka:kafka_2.13:4.3.1",
            # Named although the server needs it too: left implicit, an older one may be chosen.
            "org.apache.kafka:kafka-clients:4.3.1",
            "org.apache.kafka:kafka-tools:4.3.1",
            "org.slf4j:slf4j-simple:1.7.36",
        )
    ),
)
APICURIO = Bundle(
    name="apicurio",
    title="Apicurio Registry",
    version="3.0.9",
    roots=(Coordinates.parse("io.apicurio:apicurio-registry-app:3.0.9:all:tar.gz"),),
    is_archive=True,
)
BUNDLES = {bundle.name: bundle for bundle in (KAFKA, APICURIO)}


class ChecksumError(ServerError):
    """A file is not the one that the committed checksum names."""


def cache_directory() -> Path:
    """Where downloads are kept: `PAYOUTS_CACHE_DIR`, else the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE, "")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path("payout-streams")


def read_checksums(path: Path) -> dict[str, str]:
    """Read lines `<sha256>  <name>`; returns name to SHA-256 in lower-case hexadecimal.

    Raises ServerError for a line of another form, for a name twice, or for a file without any.
    """
    checksums: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef") or not name or name in checksums:
            raise ServerError(f"{path.name} line {number} is not a SHA-256, two spaces and a new name")
        checksums[name] = digest
    if not checksums:
        raise ServerError(f"{path.name} names no file")
    return checksums


def installed(bundle: Bundle, *, cancel: threading.Event | None = None) -> Path:
    """Folder with the bundle's files, downloaded if they are not cached, every one checked.

    Raises ServerError (ChecksumError for a file that is not the pinned one) or StartCancelledError.
    """
    checksums = read_checksums(bundle.checksum_path)
    folder = cache_directory() / f"{bundle.name}-{bundle.version}-{_fingerprint(checksums)}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(folder.parent / f"{bundle.name}.lock", bundle, cancel):
            if not folder.exists():
                _install(bundle, checksums, folder, cancel)
    verify(bundle, checksums, folder)
    return folder


def verify(bundle: Bundle, checksums: dict[str, str], folder: Path) -> None:
    """Check every file of the folder. Raises ChecksumError for a changed, missing or additional one."""
    if bundle.is_archive:
        expected = {UNPACKED: checksums[UNPACKED]}
        found = {UNPACKED: tree_sha256(folder)}
    else:
        expected = {Coordinates.parse(name).file_name: digest for name, digest in checksums.items()}
        found = {path.name: file_sha256(path) for path in folder.iterdir()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ChecksumError(
            f"{bundle.title} in {folder} is not what {bundle.checksum_path.name} names: {', '.join(wrong[:5])} "
            "changed, missing or additional. Nothing was started. Delete that folder to download it again; "
            "if it happens again, do not trust the repository you download from"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(folder: Path) -> str:
    """SHA-256 over the sorted relative paths and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        digest.update(f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def _fingerprint(checksums: dict[str, str]) -> str:
    text = "".join(f"{digest} {name}\n" for name, digest in sorted(checksums.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _only_one(lock_path: Path, bundle: Bundle, cancel: threading.Event | None) -> Iterator[None]:
    """Hold the lock file; the system releases it if this process dies."""
    said = False
    with lock_path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    _say(f"{bundle.title}: another process is downloading it; waiting")
                    said = True
                _wait(cancel, LOCK_POLL_SECONDS, bundle)
            else:
                break
        yield


def _install(bundle: Bundle, checksums: dict[str, str], folder: Path, cancel: threading.Event | None) -> None:
    # We hold the lock: whatever an interrupted download left is nobody's.
    for stale in folder.parent.glob(f"{bundle.name}.partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{bundle.name}.partial-", dir=folder.parent))
    try:
        _download_apart(bundle, partial, cancel)
        verify(bundle, checksums, partial / "files")
        (partial / "files").rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download_apart(bundle: Bundle, partial: Path, cancel: threading.Event | None) -> None:
    """Download in a process of its own, because a thread in a network call cannot be stopped."""
    command, environment = python_module("sandbox.servers.jars", "fetch", bundle.name, str(partial))
    child = ManagedProcess(f"the download of {bundle.title}", command, log_path=None, environment=environment)
    child.start()
    try:
        child.wait_success(timeout_seconds=DOWNLOAD_SECONDS, cancel=cancel)
    except StartCancelledError:
        raise
    except ServerError as error:
        raise ServerError(
            f"{error} The reason is above. {bundle.title} {bundle.version} is needed once and then kept in "
            f"{partial.parent}. Check the network; name a mirror under [repositories] in jgo's configuration "
            "file; or use servers that run already (KAFKA_BOOTSTRAP_SERVERS, SCHEMA_REGISTRY_URL)"
        ) from error


def _wait(cancel: threading.Event | None, seconds: float, bundle: Bundle) -> None:
    if cancel is None:
        time.sleep(seconds)
    elif cancel.wait(seconds):
        raise StartCancelledError(f"{bundle.title}: told to stop before it was downloaded")


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def fetch(bundle: Bundle, partial: Path) -> None:
    """Download the bundle's pinned files into `partial`/files, each checked as it arrives.

    Raises ChecksumError or RuntimeError, or what the network raises.
    """
    checksums = read_checksums(bundle.checksum_path)
    wanted = {Coordinates.parse(name): digest for name, digest in checksums.items() if name != UNPACKED}
    files = partial / "files"
    files.mkdir()
    downloaded_bytes, last_said = 0, time.monotonic()
    _say(f"downloading {bundle.title} {bundle.version}, {len(wanted)} file(s), once, into {partial.parent}")
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        jobs = {pool.submit(_download, item, partial / "repository"): item for item in wanted}
        for done, job in enumerate(as_completed(jobs), start=1):
            path, item = job.result(), jobs[job]
            if file_sha256(path) != wanted[item]:
                raise ChecksumError(f"{item} arrived with another SHA-256 than {bundle.checksum_path.name} names")
            downloaded_bytes += path.stat().st_size
            if bundle.is_archive:
                unpack(path, files)
            else:
                path.rename(files / item.file_name)
            if done == len(wanted) or time.monotonic() - last_said > PROGRESS_SECONDS:
                last_said = time.monotonic()
                _say(f"  {bundle.title}: {done} of {len(wanted)} file(s), {downloaded_bytes / 1e6:.0f} MB")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive. Raises ChecksumError for a member that would leave the folder or is a link."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = PurePosixPath(member.name)
            if parts.is_absolute() or ".." in parts.parts or not (member.isfile() or member.isdir()):
                raise ChecksumError(f"{archive.name} holds {member.name!r}, which does not belong in an archive")
        # Early releases of Python 3.11 do not know the parameter; the check above does not need it.
        options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, **options)  # noqa: S202 - members are checked above


def _download(item: Coordinates, repository: Path) -> Path:
    """Download one file with jgo, from Maven Central or the repositories of jgo's own configuration file."""
    import requests
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    mirrors = GlobalSettings.load().repositories or None
    for attempt in range(1, DOWNLOAD_TRIES + 1):
        # A folder for each file and try: a half-written file must not look like a cached one.
        context = MavenContext(
            repo_cache=repository / f"{item.file_name}.{attempt}", remote_repos=mirrors, timeout=HTTP_SECONDS
        )
        component = context.project(item.group, item.artifact).at_version(item.version)
        try:
            path: Path = component.artifact(classifier=item.classifier, packaging=item.packaging).resolve()
        except (requests.RequestException, OSError, RuntimeError):
            if attempt == DOWNLOAD_TRIES:
                raise
            time.sleep(attempt)
        else:
            return path
    raise AssertionError("unreachable")


def lock(bundle: Bundle) -> None:
    """Resolve what the bundle needs today and rewrite its checksum file. For maintainers."""
    with tempfile.TemporaryDirectory(prefix="payouts-lock-") as scratch:
        repository = Path(scratch) / "repository"
        checksums: dict[str, str] = {}
        for item in bundle.roots if bundle.is_archive else _resolve(bundle, repository):
            path = _download(item, repository)
            checksums[str(item)] = file_sha256(path)
            if bundle.is_archive:
                unpack(path, Path(scratch) / UNPACKED)
                checksums[UNPACKED] = tree_sha256(Path(scratch) / UNPACKED)
    lines = [f"{digest}  {name}\n" for name, digest in sorted(checksums.items())]
    bundle.checksum_path.write_text("".join(lines), encoding="ascii")
    _say(f"wrote {bundle.checksum_path.name}: {len(lines)} lines; review the change before committing it")


def _resolve(bundle: Bundle, repository: Path) -> list[Coordinates]:
    from jgo.maven import Dependency, MavenContext

    context = MavenContext(repo_cache=repository / "resolution", timeout=HTTP_SECONDS)
    inputs, needed = context.resolver.resolve(
        [
            Dependency(context.project(root.group, root.artifact).at_version(root.version).artifact())
            for root in bundle.roots
        ]
    )
    return [
        Coordinates(
            dependency.groupId,
            dependency.artifactId,
            dependency.version,
            dependency.classifier or "",
            dependency.type or "jar",
        )
        for dependency in [*inputs, *needed]
    ]


def main(arguments: list[str]) -> int:
    """`fetch NAME FOLDER` (used by `installed`) or `lock NAME`."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.servers.jars")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("fetch", "lock"):
        command = commands.add_parser(name)
        command.add_argument("bundle", choices=sorted(BUNDLES))
        if name == "fetch":
            command.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    bundle = BUNDLES[chosen.bundle]
    work: Callable[[], None] = (
        (lambda: lock(bundle)) if chosen.command == "lock" else (lambda: fetch(bundle, chosen.folder))
    )
    try:
        work()
    except Exception as error:  # noqa: BLE001 - a child process: its parent adds what to do
        _say(f"{bundle.title}: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    # Straight out: threads that still download must not delay the end.
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)
