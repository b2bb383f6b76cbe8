"""Prometheus's own judge of what is scraped."""

import shutil
import subprocess
from typing import Final

import pytest

PROMTOOL: Final = shutil.which("promtool")
NEEDS_PROMTOOL: Final = pytest.mark.skipif(
    PROMTOOL is None,
    reason="needs promtool: apt-get install --no-install-recommends prometheus",
)


def what_promtool_says(exposition: bytes) -> str:
    """Of names, types and help texts; empty when it has nothing to say. It ends with 3 for what it only dislikes."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=exposition, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    return said if done.returncode == 0 else f"{said}ended with {done.returncode}"
