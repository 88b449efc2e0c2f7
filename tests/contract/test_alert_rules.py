"""Each alert fires on what it is for, after its time and not before, and is silent when all is well:
by `promtool test rules`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs Prometheus's promtool"
)

RULES = Path(__file__).parents[2] / "grafana" / "alerts.yaml"
NAMES = re.findall(r"- alert: Aiodurable(\w+)", RULES.read_text())
WELL = {
    "aiodurable_cluster_up{instance='a'}": "1x60",
    "aiodurable_workers_alive{instance='a'}": "2x60",
    "aiodurable_queue_runs{instance='a',queue='default',state='ready'}": "3x60",
    "aiodurable_queue_oldest_ready_seconds{instance='a',queue='default'}": "2x60",
    "aiodurable_quarantined_runs{instance='a'}": "4x60",
    "aiodurable_attempts_total{instance='a',graph='g',status='complete'}": "0+60x60",
    "aiodurable_attempts_total{instance='a',graph='g',status='failed'}": "0+1x60",
    "aiodurable_orphans_rescued_total{instance='a'}": "0x60",
    "aiodurable_leases_lost_total{instance='a'}": "0x60",
    "aiodurable_circuit_open{instance='a'}": "0x60",
    "aiodurable_batch_commit_seconds_bucket{instance='a',le='0.005'}": "0+600x60",
    "aiodurable_batch_commit_seconds_bucket{instance='a',le='5.0'}": "0+600x60",
    "aiodurable_batch_commit_seconds_bucket{instance='a',le='+Inf'}": "0+600x60",
    "aiodurable_loop_lag_seconds{instance='a'}": "0.01x60",
}
"""One value a minute, as promtool writes them: start, change a step, steps."""
BAD: dict[str, dict[str, str]] = {
    "RunsWaitTooLong": {"aiodurable_queue_oldest_ready_seconds": "2x10 301+60x50"},
    "NoWorkers": {"aiodurable_workers_alive": "2x10 0x50"},
    "NobodyReports": {"aiodurable_cluster_up": "1x10"},
    "RunsQuarantined": {"aiodurable_quarantined_runs": "4x10 9x50"},
    "AttemptsFail": {"status='failed'": "0+1x10 40+30x50"},
    "Orphans": {"aiodurable_orphans_rescued_total": "0x10 20x50"},
    "LeasesLost": {"aiodurable_leases_lost_total": "0x10 20x50"},
    "CircuitOpen": {"aiodurable_circuit_open": "0x10 1x50"},
    "CommitsSlow": {"le='0.005'": "0+600x10 6000x50"},
    "LoopBlocked": {"aiodurable_loop_lag_seconds": "0.01x10 2x50"},
    "NumbersStale": {"aiodurable_cluster_up": "1x10 0x50"},
}
"""What becomes bad after ten minutes, by a part of the series' name."""


def firing(folder: Path, series: dict[str, str], minute: int, expected: list[str]) -> str:
    """What promtool says against these alerts firing at that minute, and no other."""
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minute}m",
                        "exp_samples": [
                            {"labels": f'{{alertname="Aiodurable{name}"}}', "value": 1}
                            for name in expected
                        ],
                    }
                ],
            }
        ],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def bad(name: str) -> dict[str, str]:
    ((part, becomes),) = BAD[name].items()
    assert any(part in series for series in WELL)
    return {series: becomes if part in series else values for series, values in WELL.items()}


def test_each_alert_is_tested() -> None:
    assert list(BAD) == NAMES


def test_no_alert_fires_when_all_is_well(tmp_path: Path) -> None:
    assert firing(tmp_path, WELL, 60, []) == ""


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_fires_on_what_it_is_for_and_not_before(name: str, tmp_path: Path) -> None:
    rules: Any = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    (rule,) = (one for one in rules if one["alert"] == f"Aiodurable{name}")
    waits = int(rule["for"].removesuffix("m"))
    assert firing(tmp_path, bad(name), 10 + waits - 1, []) == ""
    at_last = min(24 + waits, 34)
    assert firing(tmp_path, bad(name), at_last, [name]) == ""
