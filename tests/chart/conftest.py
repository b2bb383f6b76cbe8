"""The chart's tools, and the chart rendered once for each values file."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

import pytest
import yaml

from helm.generate import CHART
from tests.chart.chart_tools import ROOT, VALUES_FILES, ChartTools, Rendered


@pytest.fixture(scope="session")
def tools() -> ChartTools:
    """Installed by make when they are not there, from the hash-locked requirements."""
    made = subprocess.run(
        ["make", "--silent", ".venv/chart-environment"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, f"the chart's tools cannot be installed: {made.stdout}{made.stderr}"
    return ChartTools(ROOT / ".venv/chart/bin")


@pytest.fixture(scope="session")
def chart_of(tools: ChartTools) -> Mapping[str, Rendered]:
    """By the name of the values file in `ci/`, without `-values.yaml`."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    rendered = {}
    for file in VALUES_FILES:
        name = file.name.removesuffix("-values.yaml")
        answer = tools.template(file)
        assert answer.returncode == 0, f"{name}: {answer.stderr}"
        rendered[name] = Rendered(name, answer.stdout, defaults | yaml.safe_load(file.read_text(encoding="utf-8")))
    return rendered


@pytest.fixture(params=[file.name.removesuffix("-values.yaml") for file in VALUES_FILES])
def rendered(request: pytest.FixtureRequest, chart_of: Mapping[str, Rendered]) -> Rendered:
    """One values file after the other."""
    return chart_of[request.param]
