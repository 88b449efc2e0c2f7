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
from tests.support.grafana_schema import problems

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


def test_grafana_s_own_schema_has_nothing_against_the_dashboard() -> None:
    assert problems(dashboard()) == []


def row(found: Any) -> Any:
    return found["panels"][0]


def stat(found: Any) -> Any:
    return next(panel for panel in found["panels"] if panel["type"] == "stat")


def lines(found: Any) -> Any:
    return next(panel for panel in found["panels"] if panel["type"] == "timeseries")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (lambda found: found, "refesh", "1m"),
        (lambda found: found, "graphTooltip", 7),
        (lambda found: found["templating"]["list"][0], "hide", 9),
        (row, "collapsed", "no"),
        (stat, "gridpos", {}),
        (lambda found: stat(found)["gridPos"], "h", "4"),
        (lambda found: stat(found)["options"], "graphMode", "lines"),
        (lambda found: stat(found)["options"]["reduceOptions"], "calcs", "last"),
        (lines, "type", "timeserie"),
        (lambda found: lines(found)["options"]["legend"], "displayMode", "big"),
        (lambda found: lines(found)["fieldConfig"]["defaults"]["custom"], "drawStyle", "dots"),
        (lambda found: lines(found)["fieldConfig"]["defaults"]["custom"], "drawStil", "line"),
        (lambda found: lines(found)["targets"][0], "expr", 3),
        (lambda found: lines(found)["targets"][0], "exprr", "up"),
    ],
)
def test_the_schema_sees_a_mistake_in_any_part(part: Any, key: str, value: Any) -> None:
    found = dashboard()
    part(found)[key] = value
    assert problems(found)


def test_each_panel_has_a_place_a_description_and_the_chosen_source() -> None:
    """What Grafana's schema leaves open."""
    found = dashboard()
    assert (found["title"], found["uid"]) == ("aiodurable", "aiodurable")
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    cells = set[tuple[int, int]]()
    for panel in found["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
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
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"] in ("short", "s", "ops")
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in (panel, *panel["targets"]):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_page_of_metrics_is_what_the_code_has() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page()


def test_no_metric_has_a_label_of_unbounded_values() -> None:
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert labels == {"graph", "queue", "resumed", "status", "state", "quantile"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus's promtool")
def test_prometheus_accepts_the_rules_and_its_configuration() -> None:
    for arguments in (("rules", "alerts.yaml"), ("config", "prometheus.yml")):
        subprocess.run(["promtool", "check", *arguments], cwd=GRAFANA, check=True)
