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


def test_the_page_of_metrics_is_what_the_code_has() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page()


def test_no_metric_has_a_label_of_unbounded_values() -> None:
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert labels == {"graph", "queue", "resumed", "status", "state", "quantile"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus's promtool")
def test_prometheus_accepts_the_rules_and_its_configuration() -> None:
    for arguments in (("rules", "alerts.yaml"), ("config", "prometheus.yml")):
        subprocess.run(["promtool", "check", *arguments], cwd=GRAFANA, check=True)
