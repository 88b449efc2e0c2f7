"""`crash_everywhere`: what it finds, with real processes that are killed."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aiodurable.errors import ConfigurationError, InvalidArgumentError
from aiodurable.testing import NodeVerdict, acrash_everywhere, crash_everywhere
from tests.support import crash_graphs as graphs
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"steps": ["given"]}
pytestmark = pytest.mark.timeout(300)  # dozens of processes, on any machine


async def test_each_kill_ends_as_an_undisturbed_run_and_a_key_makes_a_node_safe(dsn: str) -> None:
    report = await acrash_everywhere(graphs.ordering, INPUT, dsn=dsn)
    assert all(point.reached for point in report.points)
    assert len(report.points) == report.of_points
    report.assert_same_result()
    assert {name: node.verdict for name, node in report.nodes.items()} == {
        "plan": NodeVerdict.REPEATS,
        "charge": NodeVerdict.SAFE,
        "send": NodeVerdict.REPEATS,
    }
    # A node runs again where its process died after its code and before its write, and there alone.
    assert {name: node.points for name, node in report.nodes.items()} == {
        name: (f"after node {name}",) for name in ("plan", "charge", "send")
    }
    report.assert_safe("charge")
    with pytest.raises(AssertionError, match="not safe in a crash: plan, send"):
        report.assert_safe()
    assert "charge  safe" in str(report)


async def test_a_node_whose_second_run_has_another_result_differs(dsn: str, tmp_path: Path) -> None:
    config = {"configurable": {"folder": str(tmp_path)}}
    report = await acrash_everywhere(graphs.counting, INPUT, config=config, dsn=dsn)
    assert report.nodes["count"].verdict is NodeVerdict.DIFFERS
    assert report.nodes["plan"].verdict is NodeVerdict.REPEATS
    assert [point.point for point in report.points if not point.same_result] == ["after node count"]
    with pytest.raises(AssertionError, match="after node count: differs in note"):
        report.assert_same_result()


@pytest.mark.parametrize(
    "option", [{"ignore": {"note"}}, {"compare": lambda one, other: one["steps"] == other["steps"]}]
)
async def test_what_may_differ_is_the_callers_to_say(dsn: str, option: Any) -> None:
    report = await acrash_everywhere(graphs.drawing, INPUT, dsn=dsn, points="nodes", **option)
    assert report.same_result


async def test_a_state_that_is_never_the_same_must_be_named(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="two undisturbed runs differ in note"):
        await acrash_everywhere(graphs.drawing, INPUT, dsn=dsn)


@pytest.mark.parametrize(
    ("answers", "points"),
    [(["you", "now"], "writes+nodes"), (graphs.answer_to, "nodes")],
    ids=["list", "function"],
)
async def test_questions_are_answered_once_each_whatever_is_killed(
    dsn: str, answers: Any, points: Any
) -> None:
    report = await acrash_everywhere(graphs.asking, INPUT, answers=answers, dsn=dsn, points=points)
    report.assert_same_result()
    assert all(point.reached for point in report.points)


async def test_a_question_without_an_answer_is_an_error(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="the undisturbed run does not come to its end"):
        await acrash_everywhere(graphs.asking, INPUT, answers=["you"], dsn=dsn)


@pytest.mark.parametrize(
    ("graph", "given", "nodes"),
    [
        (graphs.gated, INPUT, {"plan", "send"}),
        (graphs.nested, INPUT, {"outer", "outer/plan", "outer/charge", "last"}),
        (graphs.fan_out, INPUT, {"part"}),
        (graphs.functional, 4, {"functional"}),
    ],
    ids=["gate", "subgraph", "send", "functional"],
)
async def test_graphs_of_each_kind_survive_each_kill(
    dsn: str, graph: Any, given: Any, nodes: set[str]
) -> None:
    report = await acrash_everywhere(graph, given, dsn=dsn, points="nodes")
    report.assert_same_result()
    assert report.points
    assert set(report.nodes) == nodes


@pytest.mark.parametrize(
    "graph",
    [f"{graphs.__name__}:made_async", graphs.GRAPH],
    ids=["name", "object"],
)
async def test_a_graph_is_found_by_its_name_or_its_variable(dsn: str, graph: Any) -> None:
    report = await acrash_everywhere(graph, INPUT, dsn=dsn, points="nodes", max_points=1)
    assert (len(report.points), report.of_points) == (1, 3)


async def test_of_too_many_moments_a_sample_is_killed_and_the_report_says_so(dsn: str) -> None:
    report = await acrash_everywhere(graphs.ordering, INPUT, dsn=dsn, max_points=2, seed=7)
    assert len(report.points) == 2 < report.of_points
    assert f"2 of {report.of_points} kills (seed 7)" in str(report)


async def test_a_run_that_fails_undisturbed_is_an_error(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="does not come to its end: it raised ValueError"):
        await acrash_everywhere(graphs.failing, INPUT, dsn=dsn)


async def test_a_process_that_takes_too_long_is_ended(dsn: str, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    config = {"configurable": {"started": str(started)}}
    for limit in (3, 20, 100):  # on a loaded machine it is ended before it comes to its node
        with pytest.raises(ConfigurationError, match=f"it did not end within {limit} s"):
            await acrash_everywhere(graphs.hanging, INPUT, config=config, dsn=dsn, timeout_s=limit)
        if await _is_there(started):
            break
    await wait_until(lambda: _is_gone(started))


async def test_a_cancellation_ends_the_processes(dsn: str, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    config = {"configurable": {"started": str(started)}}
    test = asyncio.create_task(acrash_everywhere(graphs.hanging, INPUT, config=config, dsn=dsn))
    await wait_until(lambda: _is_there(started))
    test.cancel()
    with pytest.raises(asyncio.CancelledError):
        await test
    await wait_until(lambda: _is_gone(started))


async def test_its_threads_are_deleted_from_a_database_of_the_callers(dsn: str) -> None:
    await acrash_everywhere(graphs.ordering, INPUT, dsn=dsn, max_points=1)
    with psycopg.connect(dsn) as connection:
        left = connection.execute(
            "SELECT (SELECT count(*) FROM checkpoints), (SELECT count(*) FROM aiodurable_runs)"
        ).fetchone()
    assert left == (0, 0)


async def test_a_module_that_starts_threads_is_not_forked(dsn: str, tmp_path: Path) -> None:
    module = tmp_path / "with_threads.py"
    module.write_text(
        "import threading, time\n"
        "from tests.support.crash_graphs import ordering\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        before = threading.active_count()
        report = await acrash_everywhere("with_threads:ordering", INPUT, dsn=dsn, max_points=1)
    report.assert_same_result()
    assert all(point.reached for point in report.points)
    assert threading.active_count() <= before + 1


def _local() -> Any:
    def build() -> Any:
        return graphs.ordering()

    return build


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (_local(), "is inside of another function"),
        ("service", "name it as 'module:attribute'"),
        (1, "cannot run a int in another process"),
    ],
    ids=["local", "no-attribute", "no-graph"],
)
async def test_a_graph_that_another_process_cannot_have_is_refused(
    graph: Any, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        await acrash_everywhere(graph, INPUT)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("nowhere.at_all:graph", "importing 'nowhere.at_all' raised ModuleNotFoundError"),
        (f"{graphs.__name__}:NO_GRAPH", "it raised ConfigurationError"),
    ],
)
async def test_a_name_without_a_graph_is_an_error(dsn: str, graph: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await acrash_everywhere(graph, INPUT, dsn=dsn)


@pytest.mark.parametrize(
    "options",
    [{"points": "all"}, {"max_points": 0}, {"timeout_s": 0}, {"answers": lambda _: 1}],
    ids=lambda options: next(iter(options)),
)
async def test_an_option_that_cannot_be_used_is_refused(options: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        await acrash_everywhere(graphs.ordering, INPUT, **options)


async def test_the_sync_form_refuses_to_block_an_event_loop() -> None:
    with pytest.raises(ConfigurationError, match="await acrash_everywhere"):
        crash_everywhere(graphs.ordering, INPUT)


def test_the_sync_form_needs_no_event_loop(dsn: str) -> None:
    assert crash_everywhere(graphs.ordering, INPUT, dsn=dsn, max_points=1).same_result


async def _is_there(file: Path) -> bool:
    return file.exists() and bool(file.read_text())


async def _is_gone(file: Path) -> bool:
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return True
    return False
