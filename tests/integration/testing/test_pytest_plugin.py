"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import psycopg
import pytest

from tests.support.example_programs import REPOSITORY
from tests.support.postgres import Server

GRAPH = """
from typing import TypedDict
import pytest
from langgraph.graph import START, StateGraph
from aiodurable.testing import assert_created, drain_queue, refute_created

class Report(TypedDict, total=False):
    topic: str
    text: str

async def write(state: Report) -> Report:
    return {"text": state["topic"]}

report = StateGraph(Report).add_sequence([write]).add_edge(START, "write")
"""

TESTS = """
async def test_one(make_durable):
    async with make_durable(graphs={"report": report}) as durable:
        await refute_created(durable)
        await durable.runs.create("t", "report", {"topic": "tides"})
        assert len(await drain_queue(durable)) == 1
        await assert_created(durable, status="complete")

async def test_two_has_a_database_of_its_own(make_durable):
    async with make_durable(graphs={"report": report}) as durable:
        await refute_created(durable)

def test_three_has_no_tables(aiodurable_dsn):
    import psycopg
    with psycopg.connect(aiodurable_dsn) as connection:
        found = connection.execute("SELECT to_regclass('aiodurable_runs')").fetchone()
    assert found == (None,)
test_three_has_no_tables = pytest.mark.aiodurable(empty=True)(test_three_has_no_tables)
"""

ANYIO = """
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

pytestmark = pytest.mark.timeout(300)  # a pytest of its own, and often a server


_PLUGIN = (
    () if entry_points(group="pytest11", name="aiodurable") else ("-p", "aiodurable.pytest_plugin")
)
"""An installation that is older than the entry point does not load it by itself."""


def run_pytest(folder: Path, *arguments: str, ini: str = "") -> tuple[int, str]:
    """The exit code and output of a pytest that knows nothing of this project's own."""
    (folder / "pytest.ini").write_text(f"[pytest]\naddopts = --strict-markers\n{ini}")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "AIO"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *_PLUGIN, "-q", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("runner", ["asyncio", "anyio"])
def test_each_test_has_a_database_of_its_own_with_either_runner_of_async_tests(
    tmp_path: Path, runner: str, server: Server
) -> None:
    (tmp_path / "test_app.py").write_text(GRAPH + (ANYIO if runner == "anyio" else "") + TESTS)
    ini = "asyncio_mode = auto\n" if runner == "asyncio" else ""
    other = ("-p", "no:anyio") if runner == "asyncio" else ("-p", "no:asyncio")
    code, output = run_pytest(tmp_path, *other, "--aiodurable-dsn", server.url, ini=ini)
    assert code == 0, output
    assert "3 passed" in output
    assert _left(server) == []


def test_without_a_dsn_each_process_has_a_server_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(GRAPH + TESTS)
    code, output = run_pytest(tmp_path, "-n", "2", ini="asyncio_mode = auto\n")
    assert code == 0, output
    assert "3 passed" in output


def test_the_setting_names_the_server_and_a_crash_test_uses_the_tests_database(
    tmp_path: Path, server: Server
) -> None:
    (tmp_path / "test_app.py").write_text(
        GRAPH
        + """
from aiodurable.testing import acrash_everywhere

async def test_crash(aiodurable_dsn):
    given = {"topic": "tides"}
    done = await acrash_everywhere(report, given, dsn=aiodurable_dsn, points="nodes")
    assert len(done.points) == 1
    done.assert_same_result()
"""
    )
    ini = f"asyncio_mode = auto\naiodurable_dsn = {server.url}\n"
    code, output = run_pytest(tmp_path, ini=ini)
    assert code == 0, output
    assert _left(server) == []


def test_the_plugin_imports_nothing_heavy_before_a_test_wants_it(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\ndef test_light():\n    assert not {'langgraph', 'asyncpg'} & set(sys.modules)\n"
    )
    code, output = run_pytest(tmp_path, "-p", "no:langsmith")
    assert code == 0, output


def _left(server: Server) -> list[str]:
    with psycopg.connect(server.url) as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'aiodurable%'"
        ).fetchall()
    return [row[0] for row in rows]
