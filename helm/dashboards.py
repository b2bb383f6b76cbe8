"""Writes the Grafana dashboards that the chart ships, from dashboards.yaml: `python -m helm.dashboards`.

    files/dashboards/*.json    classic JSON, which every Grafana imports

What all panels share (data source, variables, places) is decided once, here. A test compares the files with what this
would write, and every expression with the metrics that the code shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

HERE: Final = Path(__file__).resolve().parent
SOURCE: Final = HERE / "dashboards.yaml"
DIRECTORY: Final = HERE / "payout-streams" / "files" / "dashboards"
RUNBOOK_URL: Final = "https://runbooks.example/payout-streams/RUNBOOK.md"
SCHEMA_VERSION: Final = 39
GRID_WIDTH: Final = 24
SIZES: Final = {"stat": (4, 4), "timeseries": (8, 8)}
"""Width and height of a panel, in Grafana's grid."""
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
MATCHERS: Final = 'job=~"$job",instance=~"$instance"'


class Strict(BaseModel):
    """Of the source: a word that nobody reads is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Query(Strict):
    """One line of a figure."""

    expr: str
    legend: str


class Panel(Strict):
    """One figure."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    threshold: float | None = None
    kind: Literal["timeseries", "stat"] = "timeseries"
    stack: bool = False


class Row(Strict):
    """Figures under one heading, all of one kind."""

    title: str
    panels: tuple[Panel, ...]


class Dashboard(Strict):
    """One file."""

    name: str
    title: str
    description: str
    filled_by: str
    """The metric by whose labels the variables are filled."""
    variables: dict[str, str] = {}
    """Further ones, by the query that fills them."""
    rows: tuple[Row, ...]


def dashboards() -> tuple[Dashboard, ...]:
    """All of the source. Raises ValidationError."""
    return TypeAdapter(tuple[Dashboard, ...]).validate_python(yaml.safe_load(SOURCE.read_text(encoding="utf-8")))


def as_json(dashboard: Dashboard) -> str:
    """The file's text."""
    return json.dumps(_model(dashboard), indent=1, sort_keys=True) + "\n"


def _model(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": f"payouts-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["payouts"],
        "editable": False,
        "graphTooltip": 1,
        "links": [
            {"type": "dashboards", "tags": ["payouts"], "title": "Payouts", "asDropdown": True, "keepTime": True},
            {"type": "link", "title": "Runbook", "url": RUNBOOK_URL, "targetBlank": True},
        ],
        "panels": _placed(dashboard.rows),
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "templating": {"list": _variables(dashboard)},
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
    }


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    asked = {
        "job": f"label_values({dashboard.filled_by}, job)",
        "instance": f'label_values({dashboard.filled_by}{{job=~"$job"}}, instance)',
        **dashboard.variables,
    }
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return [source, *(_variable(name, query) for name, query in asked.items())]


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "sort": 1,
    }


def _placed(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """All panels, below each other; a row's own fill lines from the left."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        heading = {"type": "row", "title": row.title, "collapsed": False, "panels": []}
        placed.append({**heading, "id": len(placed) + 1, "gridPos": {"x": 0, "y": y, "w": GRID_WIDTH, "h": 1}})
        y += 1
        x = 0
        width, height = SIZES[row.panels[0].kind]
        for panel in row.panels:
            if x + width > GRID_WIDTH:
                x, y = 0, y + height
            place = {"x": x, "y": y, "w": width, "h": height}
            placed.append({**_panel(panel), "id": len(placed) + 1, "gridPos": place})
            x += width
        y += height
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.threshold is not None:
        steps.append({"color": "red", "value": panel.threshold})
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stack else 5,
            "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
            "thresholdsStyle": {"mode": "off" if panel.threshold is None else "dashed"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [_target(query, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    legend = {"displayMode": "list", "placement": "bottom"}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _target(query: Query, reference: str) -> dict[str, Any]:
    return {
        "refId": reference,
        "datasource": DATASOURCE,
        "expr": query.expr.replace("@", MATCHERS),
        "legendFormat": query.legend,
        "range": True,
    }


def main() -> None:
    """Write every file."""
    for dashboard in dashboards():
        (DIRECTORY / f"{dashboard.name}.json").write_text(as_json(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
