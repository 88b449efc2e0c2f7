"""Each metric that Grafana's dashboard, the alert rules and the docs name exists, and each one that
exists is documented.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aiodurable.integrations.cluster_metrics import CLUSTER_METRICS
from aiodurable.integrations.process_metrics import PROCESS_METRICS
from tests.support import metrics_page

REPOSITORY = Path(__file__).parents[2]
GRAFANA = REPOSITORY / "grafana"
METRICS = {metric.name: metric for metric in (*PROCESS_METRICS, *CLUSTER_METRICS)}

TOP: dict[str, type] = {
    "annotations": dict,
    "description": str,
    "editable": bool,
    "graphTooltip": int,
    "links": list,
    "panels": list,
    "refresh": str,
    "schemaVersion": int,
    "tags": list,
    "templating": dict,
    "time": dict,
    "timepicker": dict,
    "timezone": str,
    "title": str,
    "uid": str,
    "version": int,
}
PANEL = {
    "collapsed",
    "datasource",
    "description",
    "fieldConfig",
    "gridPos",
    "id",
    "options",
    "panels",
    "targets",
    "title",
    "type",
}


def series() -> set[str]:
    found = set[str]()
    for metric in METRICS.values():
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        found |= {metric.name + suffix for suffix in suffixes}
    return found


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\baiodurable_\w+", text))


def dashboard() -> dict[str, Any]:
    return json.loads((GRAFANA / "dashboard.json").read_text())


def expressions() -> list[str]:
    return [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())
    ]


@pytest.mark.parametrize("source", ["dashboard.json", "alerts.yaml"])
def test_every_metric_that_is_shown_or_alerts_exists(source: str) -> None:
    text = "\n".join(expressions()) if source.endswith("json") else (GRAFANA / source).read_text()
    assert named_in(text)
    assert named_in(text) <= series()


def test_a_rule_fires_where_no_process_is_left_to_serve_a_number() -> None:
    rules = (GRAFANA / "alerts.yaml").read_text()
    found = re.findall(r"expr: absent\((aiodurable_\w+)\)$", rules, re.MULTILINE)
    assert found == ["aiodurable_cluster_up"]


def test_the_dashboard_shows_every_metric() -> None:
    shown = "\n".join(expressions())
    assert [name for name in METRICS if name not in shown] == []


def test_labels_that_are_grouped_or_matched_by_exist() -> None:
    known = {label for metric in METRICS.values() for label in metric.labels} | {"le", "instance"}
    text = "\n".join(expressions()) + (GRAFANA / "alerts.yaml").read_text()
    grouped = {
        label.strip() for found in re.findall(r"by \(([^)]*)\)", text) for label in found.split(",")
    }
    matched = set(re.findall(r"[{,](\w+)=~?\"", text))
    assert grouped | matched <= known


def test_the_dashboard_has_what_grafana_needs_of_each_panel() -> None:
    found = dashboard()
    assert (found["title"], found["uid"]) == ("aiodurable", "aiodurable")
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in found["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"]
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)
            assert panel["datasource"]["uid"] == "${datasource}"


def test_the_dashboard_keeps_the_rules_of_grafana_s_schema() -> None:
    """The parts of Grafana's `dashboard_kind.cue` that this dashboard uses, with their values."""
    found = dashboard()
    assert set(found) <= {*TOP, "id"}
    assert {key: type(found[key]) for key in TOP} == TOP
    assert found["schemaVersion"] >= 36
    assert found["graphTooltip"] in (0, 1, 2)
    assert re.fullmatch(r"\d+[smh]", found["refresh"])
    for variable in found["templating"]["list"]:
        assert variable["type"] == "datasource"
        assert (variable["hide"], variable["refresh"]) in {
            (h, r) for h in (0, 1, 2) for r in (1, 2)
        }
    cells = set[tuple[int, int]]()
    for panel in found["panels"]:
        assert set(panel) <= PANEL, panel["title"]
        assert panel["type"] in ("row", "stat", "timeseries")
        at = panel["gridPos"]
        assert all(type(at[key]) is int for key in ("h", "w", "x", "y"))
        mine = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert mine
        assert not mine & cells, f"{panel['title']} covers another panel"
        cells |= mine
        if panel["type"] == "row":
            continue
        assert panel["fieldConfig"]["overrides"] == []
        assert panel["fieldConfig"]["defaults"]["unit"] in ("short", "s", "ops")
        for target in panel["targets"]:
            assert set(target) <= {
                "datasource",
                "expr",
                "legendFormat",
                "refId",
                "format",
                "instant",
            }
            assert re.fullmatch("[A-Z]", target["refId"])
            assert target["datasource"] == panel["datasource"]
            assert target["datasource"]["type"] == "prometheus"


def test_the_page_of_metrics_is_what_the_code_has() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page()


def test_no_metric_has_a_label_of_unbounded_values() -> None:
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert labels == {"graph", "queue", "resumed", "status", "state", "quantile"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus's promtool")
def test_prometheus_accepts_the_rules_and_its_configuration() -> None:
    for arguments in (("rules", "alerts.yaml"), ("config", "prometheus.yml")):
        subprocess.run(["promtool", "check", *arguments], cwd=GRAFANA, check=True)
