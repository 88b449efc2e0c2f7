"""`aiodurable worker`: executes accepted runs, and stops when it gets SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
from asyncio.subprocess import PIPE
from pathlib import Path

import httpx
import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunStatus
from tests.support.forked import Process, python
from tests.support.graphs import INPUT
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_database_by_accident")

APP = """
from tests.support.graphs import four_nodes
graphs = {"steps": four_nodes()}
"""

FROZEN_APP = """
import gc
from tests.support.graphs import four_nodes

async def frozen(step):
    assert gc.get_freeze_count() > 10_000, "the collector goes through all that was imported"

graphs = {"steps": four_nodes(frozen)}
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "app_of_a_worker.py").write_text(APP, encoding="utf-8")
    return "app_of_a_worker:graphs"


async def started(app: str, dsn: str, folder: Path, *options: str) -> Process:
    root = Path(__file__).parents[2]
    return await python(
        *("-m", "aiodurable", "worker", app, "--dsn", dsn, *options),
        cwd=folder,
        env={"PYTHONPATH": f"{root}", "PATH": ""},
        stdout=PIPE,
        stderr=PIPE,
    )


async def line_with(words: bytes, process: Process) -> None:
    """Return once the process has printed a line with these words."""
    assert process.stderr is not None
    line = b""
    while words not in line:
        line = await asyncio.wait_for(process.stderr.readline(), 60)
        assert line, f"it ended, and never printed {words!r}"


async def test_the_command_executes_accepted_runs_until_sigterm(
    app: str, dsn: str, tmp_path: Path
) -> None:
    process = await started(app, dsn, tmp_path, "--concurrency", "2", "--drain", "5")
    async with Durable(dsn) as durable:
        created = await durable.runs.create("t", "steps", INPUT)
        record = await durable.runs.wait_first([created.run_id], timeout=60)
        assert record.status is RunStatus.COMPLETE
    process.send_signal(signal.SIGTERM)
    _, printed = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, printed.decode()
    assert "draining" in printed.decode()


async def test_a_worker_that_says_it_is_at_work_drains_on_a_sigterm(
    app: str, dsn: str, tmp_path: Path
) -> None:
    process = await started(app, dsn, tmp_path)
    await line_with(b"at work on default", process)
    process.send_signal(signal.SIGTERM)
    _, printed = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, printed.decode()
    assert "draining" in printed.decode()


async def test_the_garbage_collector_passes_by_what_a_worker_has_imported(
    dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "frozen_app.py").write_text(FROZEN_APP, encoding="utf-8")
    process = await started("frozen_app:graphs", dsn, tmp_path)
    async with Durable(dsn) as durable:
        created = await durable.runs.create("t", "steps", INPUT, max_attempts=1)
        record = await durable.runs.wait_first([created.run_id], timeout=60)
        assert record.status is RunStatus.COMPLETE
    process.terminate()
    await asyncio.wait_for(process.communicate(), 30)


async def test_check_says_which_graphs_and_queues_a_worker_would_serve(
    app: str, dsn: str, tmp_path: Path
) -> None:
    process = await started(app, dsn, tmp_path, "--queue", "mail", "--check")
    printed, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert printed.decode().splitlines() == ["graphs: steps", "queues: mail"]


async def test_a_worker_serves_its_metrics_and_probes_where_it_says(
    app: str, dsn: str, tmp_path: Path
) -> None:
    process = await started(app, dsn, tmp_path, "--metrics-port", "0", "--health-port", "0")
    assert process.stderr is not None
    addresses = dict[str, str]()
    while len(addresses) < 3:
        line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        assert line
        if line.startswith("serving http://"):
            address = line.removeprefix("serving ").strip()
            addresses[address.rpartition("/")[2]] = address
    assert addresses.keys() == {"metrics", "livez", "readyz"}
    assert all(address.startswith("http://127.0.0.1:") for address in addresses.values())
    async with Durable(dsn) as durable, httpx.AsyncClient(timeout=30) as client:
        created = await durable.runs.create("t", "steps", INPUT)
        await durable.runs.wait_first([created.run_id], timeout=60)

        async def counted() -> bool:
            text = (await client.get(addresses["metrics"])).text
            return 'aiodurable_attempts_total{graph="steps",status="complete"} 1.0' in text

        await wait_until(counted)
        assert (await client.get(addresses["livez"])).json()["ok"] is True
        ready = await client.get(addresses["readyz"])
        assert (ready.status_code, ready.json()["worker"]) == (200, True)
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0


async def test_a_worker_whose_port_is_taken_ends_before_it_claims_anything(
    app: str, dsn: str, tmp_path: Path
) -> None:
    async with Durable(dsn) as durable:
        await durable.runs.create("t", "steps", INPUT)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await started(
            app, dsn, tmp_path, "--health-port", str(port), "--host", "localhost"
        )
        _, printed = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode not in (0, 1)
    assert f"cannot serve metrics or health on localhost:{port}" in printed.decode()
    assert "choose another port" in printed.decode()
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT claim_state, claimed_at FROM aiodurable_runs").fetchall()
    assert found == [("ready", None)]


async def test_a_worker_waits_for_a_postgres_that_is_not_ready(
    app: str, own: OwnServer, tmp_path: Path
) -> None:
    dsn = await own.start()
    await own.stop()
    process = await started(app, dsn, tmp_path)
    await line_with(b"retry_scheduled", process)
    assert await own.start() == dsn
    await line_with(b"at work on default", process)
    process.kill()
    await process.wait()


async def test_a_sigterm_ends_a_worker_that_waits_for_postgres(
    app: str, own: OwnServer, tmp_path: Path
) -> None:
    dsn = await own.start()
    await own.stop()
    process = await started(app, dsn, tmp_path)
    await line_with(b"retry_scheduled", process)
    process.send_signal(signal.SIGTERM)
    _, printed = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, printed.decode()
    assert "Traceback" not in printed.decode()


async def test_a_worker_gives_up_a_postgres_that_does_not_come(
    app: str, own: OwnServer, tmp_path: Path
) -> None:
    dsn = await own.start()
    await own.stop()
    process = await started(app, dsn, tmp_path, "--startup-timeout", "0.5")
    _, printed = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode not in (0, 1)
    assert "cannot open a Durable within 0.5 s" in printed.decode()
