"""`compose.yaml` is what `docker compose config` accepts, and each command, file, address and health
check in it is right: without an engine, by its schema and by running what it names.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema
import pytest
import yaml

from aiodurable import Durable
from tests.support.pgbouncer import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).parent / "vendor" / "compose-spec.json"
"""Of github.com/compose-spec/compose-go, by which Docker Compose checks a file."""
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def mounts() -> Iterator[tuple[str, Path, str]]:
    """Each file or folder of the repository that a service gets: service, source, target."""
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                yield name, ROOT / source, target


def mounted(service: str, path: str) -> Path:
    """The file of the repository that a service sees at a path."""
    for name, source, target in mounts():
        if name == service and (path == target or path.startswith(f"{target}/")):
            return source / path[len(target) :].lstrip("/") if path != target else source
    raise AssertionError(f"{service} has nothing at {path}")


def test_the_file_keeps_the_schema_of_compose() -> None:
    jsonschema.validate(COMPOSE, json.loads(SCHEMA.read_text()))


def test_the_schema_refuses_what_compose_would() -> None:
    wrong = yaml.safe_load((ROOT / "compose.yaml").read_text())
    wrong["services"]["worker"]["comand"] = ["true"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(wrong, json.loads(SCHEMA.read_text()))


def test_every_service_volume_and_file_that_is_named_exists() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), volume
    for name, service in SERVICES.items():
        if isinstance(waits := service.get("depends_on"), dict):
            assert all("healthcheck" in SERVICES[other] for other in waits), name


def test_what_listens_for_others_is_at_loopback_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_services_reach_the_database_that_postgres_makes() -> None:
    made = SERVICES["postgres"]["environment"]
    for name, host in (("worker", "postgres"), ("dashboard", "127.0.0.1")):
        dsn = urlsplit(SERVICES[name]["environment"]["AIODURABLE_DSN"])
        assert (dsn.username, dsn.password) == (made["POSTGRES_USER"], made["POSTGRES_PASSWORD"])
        assert (dsn.hostname, dsn.port, dsn.path) == (host, 5432, f"/{made['POSTGRES_DB']}")
    check = SERVICES["postgres"]["healthcheck"]["test"]
    assert check[check.index("-U") + 1] == made["POSTGRES_USER"]
    assert check[check.index("-d") + 1] == made["POSTGRES_DB"]


def test_the_image_has_a_python_and_extras_that_the_project_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = SERVICES["worker"]["build"]["dockerfile_inline"]
    (version,) = re.findall(r"FROM python:3\.(\d+)-slim", recipe)
    assert f"Programming Language :: Python :: 3.{version}" in project["classifiers"]
    (extras,) = re.findall(r'"\.\[([a-z,]+)\]"', recipe)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (folder,) = re.findall(r"WORKDIR (\S+)", recipe)
    inside = Path(SERVICES["worker"]["working_dir"]).relative_to(folder)
    module, _, _ = SERVICES["worker"]["command"][2].partition(":")
    assert (ROOT / inside / f"{module}.py").exists()


def test_prometheus_scrapes_the_port_at_which_the_worker_serves() -> None:
    config = yaml.safe_load(mounted("prometheus", "/etc/prometheus/prometheus.yml").read_text())
    command = SERVICES["worker"]["command"]
    port = command[command.index("--metrics-port") + 1]
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"worker:{port}"]}]
    for rules in config["rule_files"]:
        assert mounted("prometheus", f"/etc/prometheus/{rules}").exists()


def test_grafana_is_provisioned_with_the_dashboard_and_prometheus() -> None:
    """The fields are those of Grafana's page on provisioning."""
    folder = mounted("grafana", "/etc/grafana/provisioning")
    (sources,) = (folder / "datasources").iterdir()
    found = yaml.safe_load(sources.read_text())
    assert found.keys() == {"apiVersion", "datasources"}
    (source,) = found["datasources"]
    assert source.keys() <= {"name", "type", "uid", "url", "access", "isDefault", "jsonData"}
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    address = urlsplit(source["url"])
    assert SERVICES[address.hostname]["ports"] == [f"127.0.0.1:{address.port}:{address.port}"]
    (providers,) = (folder / "dashboards").iterdir()
    found = yaml.safe_load(providers.read_text())
    assert found.keys() == {"apiVersion", "providers"}
    (provider,) = found["providers"]
    assert provider.keys() <= {"name", "type", "folder", "options", "allowUiUpdates"}
    assert provider["type"] == "file"
    shown = mounted("grafana", f"{provider['options']['path']}/aiodurable.json")
    assert json.loads(shown.read_text())["uid"] == "aiodurable"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus's promtool")
def test_promtool_accepts_the_configuration_as_it_is_mounted(tmp_path: Path) -> None:
    for name, source, target in mounts():
        if name == "prometheus":
            shutil.copy(source, tmp_path / Path(target).name)
    check = ["promtool", "check", "config", "prometheus.yml"]
    subprocess.run(check, cwd=tmp_path, check=True)


@asynccontextmanager
async def started(service: str, dsn: str, its_port: str) -> AsyncIterator[httpx.AsyncClient]:
    """A service's command as a process, with our database and another port in the place of its own;
    yields a client of it, when its health check succeeds.
    """
    about, port = SERVICES[service], str(free_port())
    program, *arguments = (word.replace(its_port, port) for word in about["command"])
    assert program == "aiodurable"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiodurable", *arguments),
        cwd=ROOT / Path(about.get("working_dir", "/app")).relative_to("/app"),
        env={"AIODURABLE_DSN": dsn, "PATH": "", "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            if "healthcheck" in about:
                kind, python, option, check = about["healthcheck"]["test"]
                assert (kind, python, option) == ("CMD", "python", "-c")
                probes = (sys.executable, "-c", check.replace(its_port, port))

                async def healthy() -> bool:
                    probe = await asyncio.create_subprocess_exec(
                        *probes, stderr=asyncio.subprocess.DEVNULL
                    )
                    return await probe.wait() == 0

                await wait_until(healthy, 60)
            yield client
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 60)
    # uvicorn ends as the signal would have ended it, when it has closed everything.
    assert process.returncode in (0, -signal.SIGTERM)


async def test_the_worker_s_command_works_and_its_health_check_says_so(dsn: str) -> None:
    async with (
        started("worker", dsn, "9464") as client,
        Durable(dsn) as durable,
    ):
        run = await durable.runs.create("tides", "report", {"topic": "tides"})
        done = await durable.runs.wait_first([run.run_id], timeout=60)
        assert done.status == "complete"

        async def is_read() -> bool:  # on a busy machine one reading may come to nothing
            return "aiodurable_cluster_up 1.0" in (await client.get("/metrics")).text

        await wait_until(is_read, 60)


async def test_the_dashboard_s_command_works(dsn: str) -> None:
    async with Durable(dsn):
        pass
    async with started("dashboard", dsn, "8321") as client:

        async def answers() -> int:
            try:
                return (await client.get("/")).status_code
            except httpx.TransportError:
                return 0

        assert await wait_until(answers, 60) in (401, 403)  # its address has a token


def test_a_worker_may_drain_before_it_is_killed() -> None:
    grace = SERVICES["worker"]["stop_grace_period"]
    assert "--drain" not in SERVICES["worker"]["command"]
    assert int(grace.removesuffix("s")) > 30  # --drain's default
