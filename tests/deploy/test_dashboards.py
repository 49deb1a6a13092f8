"""Grafana's files: reproduced from code, complete, and with links that lead somewhere."""

import json
import re
from pathlib import Path

import pytest
import yaml

from monitoring.dashboards.board import DASHBOARDS
from monitoring.dashboards.grafana import as_text, dashboard
from monitoring.metrics import METRICS, PREFIX

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
PANELS = [(name, panel) for name, panels in DASHBOARDS.items() for panel in panels]


def test_the_committed_dashboards_are_those_of_the_code():
    """To write them: python -m monitoring.dashboards.grafana deploy/grafana/dashboards."""
    assert {file.stem for file in (GRAFANA / "dashboards").iterdir()} == set(DASHBOARDS)
    for name in DASHBOARDS:
        assert (GRAFANA / "dashboards" / f"{name}.json").read_text("utf-8") == as_text(name)


def test_every_metric_is_on_some_dashboard():
    shown = {
        name for _, panel in PANELS for query, _ in panel.queries for name in re.findall(r"factd_\w+", query)
    }
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert {PREFIX + metric.name for metric in METRICS} <= shown


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_titles_descriptions_units_and_places_of_their_own(name):
    panels = dashboard(name)["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert all(panel["description"].endswith(".") for panel in panels)
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels)


def test_links_lead_to_entries_of_the_runbook():
    headings = set(
        re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text("utf-8"), re.MULTILINE)
    )
    assert {panel.alert for _, panel in PANELS if panel.alert} <= headings
    assert '"${runbook}#factdweightnormhigh"' in as_text("stability")


def test_lines_are_at_the_limits_of_the_guard():
    def steps(title):
        (panel,) = (p for p in dashboard("stability")["panels"] if p["title"] == title)
        return [(s["color"], s["value"]) for s in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]

    assert steps("Weight norm over the base's") == [("green", None), ("orange", 1.2), ("red", 1.5)]
    assert steps("Retention") == [("red", None), ("orange", 0.9), ("green", 0.95)]
    assert steps("Norm of hidden states over the base's") == [("orange", None), ("green", 0.9)]


def test_versions_and_rollbacks_are_marked_on_every_dashboard():
    for name in DASHBOARDS:
        marks = {mark["name"]: mark["expr"] for mark in dashboard(name)["annotations"]["list"]}
        assert "changes(factd_version" in marks["Versions"]
        assert "factd_rollbacks_total" in marks["Rollbacks"]


def test_provisioning_names_one_source_and_one_folder():
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/factd.yml").read_text())["providers"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    assert json.loads(as_text("fleet"))["uid"] == "factd-fleet"
