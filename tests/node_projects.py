"""The Node projects that tests run: installed from their lock files, once, beside them and outside version control."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples" / "node"
ASYNCAPI = REPOSITORY / "tests" / "contract" / "asyncapi"

NODE_OLDEST = 18
"""Debian 12's."""
INSTALL_SECONDS = 300.0
# No script of a package is run; versions and hashes are those of package-lock.json.
INSTALL = ("ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error")


def installed(project: Path) -> Path:
    """The project, with what its lock file names in node_modules. Skips where there is no Node; CI has to have one."""
    npm = _npm()
    folder = os.open(project, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # `make test` runs two sessions at once
        _install(npm, project)
    finally:
        os.close(folder)
    return project


def _npm() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    version = ""
    if node is not None:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if npm is not None and version and int(version.removeprefix("v").split(".")[0]) >= NODE_OLDEST:
        return npm
    needed = f"Node {NODE_OLDEST} or newer with npm is needed: install Debian's packages nodejs and npm, or your own"
    if os.environ.get("CI"):
        pytest.fail(needed)
    pytest.skip(needed)


def _install(npm: str, project: Path) -> None:
    stamp = project / "node_modules" / ".installed"
    wanted = hashlib.sha256((project / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return
    done = subprocess.run(
        [npm, *INSTALL], cwd=project, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, f"npm {' '.join(INSTALL)} in {project.name}: {done.stderr}"
    stamp.write_text(wanted, "utf-8")
