"""`aiodurable worker`: executes accepted runs, and stops when it gets SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunStatus
from tests.support.graphs import INPUT

pytestmark = pytest.mark.usefixtures("no_database_by_accident")

APP = """
from tests.support.graphs import four_nodes
graphs = {"steps": four_nodes()}
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "app_of_a_worker.py").write_text(APP, encoding="utf-8")
    return "app_of_a_worker:graphs"


async def started(app: str, dsn: str, folder: Path, *options: str) -> asyncio.subprocess.Process:
    root = Path(__file__).parents[2]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiodurable", "worker", app, "--dsn", dsn, *options),
        cwd=folder,
        env={"PYTHONPATH": f"{root}", "PATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


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


async def test_check_says_which_graphs_and_queues_a_worker_would_serve(
    app: str, dsn: str, tmp_path: Path
) -> None:
    process = await started(app, dsn, tmp_path, "--queue", "mail", "--check")
    printed, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert printed.decode().splitlines() == ["graphs: steps", "queues: mail"]
