"""A real Prometheus scrapes a real worker and a process that runs threads itself, takes every query
of the dashboard, and fires an alert where there is reason to.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from aiodurable import Durable
from tests.support.graphs import INPUT, four_nodes
from tests.support.pgbouncer import free_port
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus's server"),
    pytest.mark.timeout(300),
]

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "grafana"
PIPE = asyncio.subprocess.PIPE

Ask = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def program(*command: str, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def prometheus(folder: Path, targets: Sequence[str]) -> AsyncIterator[Ask]:
    """Prometheus with our alert rules, which wait for nothing here; yields what asks its API."""
    rules = (GRAFANA / "alerts.yaml").read_text()
    (folder / "alerts.yaml").write_text(re.sub(r"for: \w+", "for: 0s", rules))
    config = (GRAFANA / "prometheus.yml").read_text().replace("15s", "1s")
    (folder / "prometheus.yml").write_text(
        config.replace('["worker:9464"]', json.dumps(list(targets)))
    )
    address = f"127.0.0.1:{free_port()}"
    async with (
        program(
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            stderr=asyncio.subprocess.DEVNULL,
        ),
        httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client,
    ):

        async def ask(path: str, **parameters: str) -> Any:
            found = (await client.get(f"/api/v1/{path}", params=parameters)).json()
            assert found["status"] == "success", (path, parameters, found)
            return found["data"]

        async def ready() -> bool:
            try:
                return (await client.get("/-/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await wait_until(ready, 60)
        yield ask


async def serving_line(process: asyncio.subprocess.Process) -> str:
    """Where a worker serves its metrics."""
    assert process.stderr is not None
    while line := (await process.stderr.readline()).decode():
        if line.startswith("serving http://") and "/metrics" in line:
            return line.removeprefix("serving http://").removesuffix("/metrics\n")
    raise AssertionError("the worker ended and served no metrics")


async def test_prometheus_scrapes_a_worker_and_a_process_of_runs_and_an_alert_fires(
    dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "app_of_a_worker.py").write_text(
        "from tests.support.graphs import four_nodes\ngraphs = {'steps': four_nodes()}\n"
    )
    work = ("-m", "aiodurable", "worker", "app_of_a_worker:graphs", "--metrics-port", "0")
    path = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""}
    async with (
        program(sys.executable, *work, "--dsn", dsn, env=path, stderr=PIPE) as worker,
        program(
            *(sys.executable, "-m", "tests.programs.measured_process", dsn),
            stdin=PIPE,
            stdout=PIPE,
        ) as direct,
        Durable(dsn, graphs={"steps": four_nodes()}) as durable,
    ):
        assert direct.stdout is not None
        targets = (await serving_line(worker), f"127.0.0.1:{int(await direct.stdout.readline())}")
        run = await durable.runs.create("queued", "steps", INPUT)
        await durable.runs.wait(run.run_id, timeout=60)
        async with prometheus(tmp_path, targets) as ask:

            async def up() -> set[str]:
                found = (await ask("targets"))["activeTargets"]
                return {one["labels"]["instance"] for one in found if one["health"] == "up"}

            async def value(query: str) -> float | None:
                found = (await ask("query", query=query))["result"]
                return float(found[0]["value"][1]) if found else None

            async def firing() -> set[str]:
                return {one["labels"]["alertname"] for one in (await ask("alerts"))["alerts"]}

            async def rules() -> list[Any]:
                found = [
                    rule for group in (await ask("rules"))["groups"] for rule in group["rules"]
                ]
                return found if all(rule["health"] == "ok" for rule in found) else []

            await wait_until(lambda: _same(up, set(targets)), 60)
            for instance in targets:  # each has its own run, and both the whole database
                complete = f'aiodurable_attempts_total{{status="complete",instance="{instance}"}}'
                assert await wait_until(lambda query=complete: value(query), 60) == 1
                threads = f'aiodurable_threads{{instance="{instance}"}}'
                assert await value(threads) is not None
            claimed = "aiodurable_schedule_to_start_seconds_count"
            assert await value(f'{claimed}{{instance="{targets[0]}"}}') == 1
            assert await value(f'{claimed}{{instance="{targets[1]}"}}') is None

            names = re.findall(r"- alert: (\w+)", (GRAFANA / "alerts.yaml").read_text())
            assert [rule["name"] for rule in await wait_until(rules, 60)] == names
            panels = json.loads((GRAFANA / "dashboard.json").read_text())["panels"]
            queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
            for query in queries:
                await ask("query", query=query.replace("$__rate_interval", "1m"))
            assert "AiodurableNoWorkers" not in await firing()

            worker.kill()
            await worker.wait()
            await durable.runs.create("nobody-runs-it", "steps", INPUT)
            await wait_until(lambda: _has(firing, "AiodurableNoWorkers"), 120)
            await wait_until(lambda: _same(up, {targets[1]}), 60)


async def _same(found: Callable[[], Awaitable[Any]], wanted: Any) -> bool:
    return await found() == wanted


async def _has(found: Callable[[], Awaitable[set[str]]], wanted: str) -> bool:
    return wanted in await found()
