"""Which Java runs the servers, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.servers import java
from sandbox.servers.processes import ServerError


def _fake_java(folder: Path, version: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n", encoding="utf-8")
    program.chmod(0o755)
    return program


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "25" 2025-09-16 LTS', 25),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ('Picked up JAVA_TOOL_OPTIONS: -Dx=1\nopenjdk version "11.0.2"', 11),
        ("Error: could not find libjava.so", None),
        ("", None),
    ],
)
def test_the_major_version_is_read_from_the_answer(text: str, major: int | None) -> None:
    assert java.parse_major(text) == major


@pytest.mark.usefixtures("no_package")
def test_java_home_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_home = _fake_java(tmp_path / "home", "21.0.1")
    on_path = _fake_java(tmp_path / "other", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=":")
    found = java.find_java()
    assert (found.program, found.major) == (at_home, 21)
    assert "JAVA_HOME" in found.describe()


@pytest.mark.usefixtures("no_package")
def test_one_that_is_too_old_is_passed_over_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_java(tmp_path / "home", "11.0.2")
    on_path = _fake_java(tmp_path / "other", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=":")
    found = java.find_java()
    assert found.program == on_path
    assert "is Java 11" in found.why


@pytest.mark.usefixtures("no_package")
def test_without_any_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match=r"no Java 17 or newer.*requirements/java\.txt.*KAFKA_BOOTSTRAP_SERVERS"):
        java.find_java()


def test_nothing_of_our_environment_changes_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-agentlib:jdwp=transport=dt_socket,server=y,address=*:5005")
    assert "JAVA_TOOL_OPTIONS" not in java.java_environment()
