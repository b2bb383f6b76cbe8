"""The image: its rules, and its steps done without Docker, from the files that the engine would get and no others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests.chart.chart_tools import ROOT, ChartTools, Rendered

DOCKERFILE = ROOT / "Dockerfile"
STEP_SECONDS_MAX = 90.0
DATA_SUFFIXES = (".avsc", ".json", ".yaml", ".sql", ".csv")


def _instructions() -> list[str]:
    """One line each, continuation lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    return [line for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines() if line.strip()]


def _final_stage() -> list[str]:
    instructions = _instructions()
    starts = [number for number, line in enumerate(instructions) if line.startswith("FROM ")]
    return instructions[starts[-1] :]


def _copied() -> Iterator[Path]:
    """What the first stage copies, as far as .dockerignore lets it through."""
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    denied = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    assert "*" in rules, "what is not named never reaches the engine"
    for line in _instructions():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert name in allowed, f".dockerignore keeps {name} out"
                source = ROOT / name
                for file in [source] if source.is_file() else source.rglob("*"):
                    if file.is_file() and not any(fnmatch(part, rule) for part in file.parts for rule in denied):
                        yield file.relative_to(ROOT)


def _run(directory: Path, *command: str | Path, codes: tuple[int, ...] = (0,), **variables: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith(("UV_", "PIP_", "SSL_"))}
    done = subprocess.run(
        command,
        cwd=directory,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS_MAX,
        check=False,
    )
    assert done.returncode in codes, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment made as the image's is: locked wheels only, then our own wheel, nothing built."""
    context = tmp_path_factory.mktemp("context")
    for file in _copied():
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, context / file)
    programs = tmp_path_factory.mktemp("image") / "payouts"
    uv = Path(sys.prefix) / "bin/uv"
    install = (uv, "pip", "install", "--quiet", "--python", programs / "bin/python")
    _run(context, uv, "venv", "--quiet", "--python", sys.executable, programs)
    _run(context, *install, "--require-hashes", "--only-binary", ":all:", "-r", "requirements/runtime.txt")
    _run(context, *install, "--require-hashes", "--only-binary", ":all:", "-r", "requirements/tracing.txt")
    # The first stage has setuptools by its lock; here it is the test environment's, at the same version.
    _run(context, uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", "wheels")
    (wheel,) = (context / "wheels").glob("payout_streams-*.whl")
    _run(context, *install, "--no-deps", "--offline", wheel)
    _run(context, uv, "pip", "check", "--quiet", "--python", programs / "bin/python")
    return programs / "bin"


def test_hadolint_finds_nothing(tools: ChartTools) -> None:
    answer = tools.run("hadolint", DOCKERFILE)
    assert answer.returncode == 0, answer.stdout


def test_the_last_stage_runs_as_nobody_and_builds_nothing() -> None:
    final = "\n".join(_final_stage())
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert not re.search(r"\b(pip|apt-get|gcc|curl|uv)\b", final), "nothing is installed or compiled in it"
    assert "/health'" in next(line for line in _final_stage() if line.startswith("HEALTHCHECK"))
    assert re.search(r'^ENTRYPOINT \["payouts"\]$', final, re.MULTILINE)
    assert "STOPSIGNAL SIGTERM" in final


def test_everything_is_locked_by_hash_and_nothing_is_compiled() -> None:
    """Also what builds our own wheel; and the base image can be given by its digest."""
    for line in _instructions():
        if re.search(r"pip .*install .*-r ", line):
            assert line.count("--require-hashes --only-binary :all: -r ") == line.count(" -r "), line
        if line.startswith("FROM "):
            assert "${PYTHON_IMAGE}" in line
    image = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert image
    assert re.fullmatch(r"python:3\.\d+(\.\d+)?-slim-\w+", image[1]), "glibc, slim, a version"


def test_the_user_of_the_image_is_the_charts(chart_of: dict[str, Rendered]) -> None:
    for _, pod in chart_of["default"].pods():
        assert f"--uid {pod['securityContext']['runAsUser']} " in DOCKERFILE.read_text(encoding="utf-8")


def test_the_installed_commands_need_no_checkout(installed: Path, tmp_path: Path) -> None:
    """`payouts` with the data files that it carries, in a directory where nothing else is."""
    listed = _run(tmp_path, installed / "payouts", "--help").partition("Commands:")[2].partition("Examples:")[0]
    commands = {line.split()[0] for line in listed.splitlines() if re.match("  [a-z]", line)}
    assert commands >= {"worker", "doctor", "ledger", "lag", "topics", "schemas"}
    assert "dev" not in commands, "the laptop's servers are not in the image"
    assert "--no-visa" in _run(tmp_path, installed / "payouts", "doctor", "--help")
    _run(tmp_path, installed / "python", "-c", "import streams.opentelemetry_spans")
    schemas = yaml.safe_load(_run(tmp_path, installed / "payouts", "schemas", "list", "--output", "json"))
    assert {row["record"] for row in schemas} >= {"PayoutRequest", "AuditRecord"}


def test_the_doctor_of_the_image_finds_its_policies(installed: Path, tmp_path: Path) -> None:
    """Nothing is there to connect to: he says so of each, and the shipped policies are well."""
    said = _run(
        tmp_path,
        *(installed / "payouts", "doctor", "--no-visa", "--output", "json"),
        codes=(1,),
        PAYOUTS_PROFILE="test",
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
        PAYOUTS_TRACING="otlp",
        PAYOUTS_TRACING_ENDPOINT="http://127.0.0.1:4318/v1/traces",
    )
    findings = yaml.safe_load(said)
    policies = [found["status"] for found in findings if found["check"] == "policies"]
    assert policies == ["ok"] * 3
    assert "OpenTelemetry" not in said, "traces can be turned on without another image"
    failed = {found["check"] for found in findings if found["status"] == "fail"}
    assert {"kafka", "postgresql"} <= failed


def test_the_image_holds_every_data_file(installed: Path) -> None:
    """Contracts, tables of answers, policies, migrations: what is read at run time is in the wheel."""
    (site,) = installed.parent.glob("lib/python3*/site-packages")
    for room in ("schemas", "processors", "policies", "ledger", "streams", "ops"):
        wanted = {file.relative_to(ROOT) for file in (ROOT / room).rglob("*") if file.suffix in (".py", *DATA_SUFFIXES)}
        missing = {str(file) for file in wanted if not (site / file).is_file()}
        assert missing == set(), room
    assert not (site / "tests").exists()
