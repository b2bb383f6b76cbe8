"""Dashboards are code: what Grafana's own linter asks for, and every figure is one that the code shows.

The rules are those of grafana/dashboard-linter, which is a Go program: templated data source, job and instance; title,
description and unit; `$__rate_interval`; valid PromQL; not editable; variables read anew when the time changes.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest

from helm.dashboards import DIRECTORY, RUNBOOK_URL, as_json, dashboards
from tests.chart.exposed import exposed, names, unknown_parts
from tests.chart.test_alert_rules import RUNBOOK_URL as RULES_URL
from tests.chart.test_alert_rules import Alert, alerts, metrics_of

NAMES = ("overview", "visa", "kafka", "ledger", "compensation-and-review")
UNITS = {"short", "s", "percentunit", "bytes", "reqps", "dateTimeAsIso"}
CONFIG_MAP_BYTES_MAX = 1_000_000
NOT_DRAWN = {
    "pii_scan_results": "a finding of a daily scan is an alert, not a curve",
    "pii_scan_finished_timestamp_seconds": "likewise",
}
"""Metrics of alerts that no panel shows, and why."""


@cache
def models() -> dict[str, dict[str, Any]]:
    """What ships, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in DIRECTORY.glob("*.json")}


def panels(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Those with figures."""
    return [panel for panel in model["panels"] if panel["type"] != "row"]


def _plain(expression: str) -> str:
    """PromQL without Grafana's variables."""
    return re.sub(r"\$\w+", ".+", expression.replace("$__rate_interval", "5m"))


EVERY_PANEL = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, model in sorted(models().items())
    for panel in panels(model)
]


def test_the_files_are_what_the_source_says() -> None:
    """`python -m helm.dashboards` was run after the last change, and nothing was changed by hand."""
    assert {dashboard.name: as_json(dashboard) for dashboard in dashboards()} == {
        path.stem: path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.json")
    }


def test_money_visa_lag_ledger_and_people_have_theirs() -> None:
    """S3-37, S0-25."""
    assert set(models()) == set(NAMES)
    assert len({model["uid"] for model in models().values()}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_is_as_grafanas_linter_wants_it(name: str) -> None:
    model = models()[name]
    assert model["editable"] is False
    assert model["description"]
    assert "payouts" in model["tags"]
    assert any(link.get("url") == RUNBOOK_URL for link in model["links"])
    assert f"{RUNBOOK_URL}#" == RULES_URL
    variables = {variable["name"]: variable for variable in model["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {"job", "instance"} <= variables.keys()
    for variable in variables.values():
        if variable["type"] == "query":
            assert variable["datasource"]["uid"] == "${datasource}"
            assert variable["refresh"] == 2, "read anew when the time changes"
            assert variable["multi"]
            assert variable["allValue"] == ".+"
            metric, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            assert metric in exposed()
            assert label in {"job", "instance", *exposed()[metric].labels}
    assert len(json.dumps(model)) < CONFIG_MAP_BYTES_MAX


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_a_place_of_their_own(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in models()[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    identifiers = [panel["id"] for panel in models()[name]["panels"]]
    assert len(set(identifiers)) == len(identifiers)


@pytest.mark.parametrize("panel", EVERY_PANEL)
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """Title, description, unit, a legend; the chosen data source, job and instance; the scraper's own interval."""
    assert panel["title"]
    assert panel["description"].endswith((".", "?"))
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["legendFormat"]
        for metric, matchers in re.findall(r"\b([a-z]+_\w+|up)\{([^}]*)\}", target["expr"]):
            assert re.search(r'job=~"\$(job|workers)"', matchers), metric
            assert 'instance=~"$instance"' in matchers or "$workers" in matchers, metric
        assert len(re.findall(r"\b(?:[a-z]+_\w+|up)\{", target["expr"])) >= len(names(_plain(target["expr"])))
        assert set(re.findall(r"\[([^\]]+)\]", target["expr"])) <= {"$__rate_interval"}


@pytest.mark.parametrize("panel", EVERY_PANEL)
def test_a_panel_asks_for_what_the_code_shows(panel: dict[str, Any]) -> None:
    """S0-40, S1-20: valid PromQL over metrics, labels and values that exist; what a legend names is kept."""
    for target in panel["targets"]:
        expression = _plain(target["expr"])
        assert unknown_parts(expression) == []
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert re.search(rf"\b{label}\b", target["expr"]), f"{label} of {target['legendFormat']}"


def test_what_an_alert_speaks_of_can_be_seen() -> None:
    """Whoever is woken opens a dashboard and finds the figure that woke him."""
    drawn = {name for model in models().values() for panel in panels(model) for name in _asked_by(panel)}
    missing = {str(alert): sorted(_families(alert) - drawn - NOT_DRAWN.keys()) for alert in alerts()}
    assert {alert: families for alert, families in missing.items() if families} == {}
    assert all(any(name in _families(alert) for alert in alerts()) for name in NOT_DRAWN)


def _asked_by(panel: dict[str, Any]) -> set[str]:
    return {_family(name) for target in panel["targets"] for name in names(_plain(target["expr"]))}


def _families(alert: Alert) -> set[str]:
    return {_family(name) for name in metrics_of(alert)}


def _family(name: str) -> str:
    """A histogram is one thing, whichever of its series is asked for."""
    return re.sub(r"_(bucket|count|sum)$", "", name)
