"""Grafana's JSON of `monitoring.dashboards.board`, as plain dicts.

``python -m monitoring.dashboards.grafana deploy/grafana/dashboards`` writes them; a test compares.
"""

import json
import sys
from pathlib import Path
from typing import Any

from monitoring.dashboards.board import ANNOTATIONS, COLOURS, DASHBOARDS, Panel
from monitoring.measure import PREFIX
from monitoring.registry import FLOORS, measure_named

#: Grafana's grid is 24 wide; three panels a row.
COLUMNS, WIDTH, HEIGHT = 24, 8, 7
#: dashboard model of Grafana 10; newer ones migrate it when they load it
SCHEMA_VERSION = 39
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard as Grafana loads it."""
    return {
        "uid": f"factd-{name}",
        "title": f"factd: {name}",
        "tags": ["factd"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [
            {"type": "dashboards", "title": "factd", "tags": ["factd"], "asDropdown": False},
            {"type": "link", "title": "Runbook", "url": "${runbook}", "targetBlank": True},
        ],
        "templating": {"list": _variables()},
        "annotations": {"list": [_annotation(*each) for each in ANNOTATIONS]},
        "panels": [_panel(i, panel) for i, panel in enumerate(DASHBOARDS[name])],
    }


def _variables() -> list[dict[str, Any]]:
    everything = {"selected": True, "text": "All", "value": "$__all"}
    runbook = {"text": "docs/runbook.md", "value": "docs/runbook.md"}
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "instance",
            "label": "Instance",
            "type": "query",
            "datasource": DATASOURCE,
            "query": f"label_values({PREFIX}version, instance)",
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".+",
            "current": everything,
        },
        # Where the runbook is published.
        {
            "name": "runbook",
            "label": "Runbook",
            "type": "textbox",
            "query": runbook["value"],
            "current": runbook,
        },
    ]


def _annotation(name: str, query: str, title: str, colour: str) -> dict[str, Any]:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "expr": query,
        "step": "1m",
        "titleFormat": title,
        "textFormat": "{{instance}}",
        "iconColor": colour,
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, COLUMNS // WIDTH)
    link = {"title": f"Runbook: {panel.alert}", "targetBlank": True}
    return {
        "id": index + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row * HEIGHT},
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind == "table",
                "range": panel.kind != "table",
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for i, (query, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "links": [link | {"url": f"${{runbook}}#{panel.alert.lower()}"}] if panel.alert else [],
    }


def _field(panel: Panel) -> dict[str, Any]:
    field: dict[str, Any] = {"unit": panel.unit}
    if panel.bounds:
        field["thresholds"] = {"mode": "absolute", "steps": _steps(panel.bounds)}
        field["custom"] = {"thresholdsStyle": {"mode": "line"}}
    if panel.states:
        options = {str(i): {"text": t, "color": c, "index": i} for i, (t, c) in enumerate(panel.states)}
        field["mappings"] = [{"type": "value", "options": options}]
    return field


def _steps(measure: str) -> list[dict[str, Any]]:
    """Colours from low to high. A measure that falls and has the limit 0 warns only."""
    warn, limit = FLOORS[measure].warn, FLOORS[measure].limit
    if measure_named(measure).high_is_bad:
        steps: list[tuple[str, float | None]] = [("ok", None), ("warn", warn), ("limit", limit)]
    elif limit:
        steps = [("limit", None), ("warn", limit), ("ok", warn)]
    else:
        steps = [("warn", None), ("ok", warn)]
    return [{"color": COLOURS[state], "value": value} for state, value in steps]


def as_text(name: str) -> str:
    """The file of a dashboard."""
    return json.dumps(dashboard(name), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (Path(sys.argv[1]) / f"{each}.json").write_text(as_text(each), "utf-8")
