"""A thread's history says which node ran when, and who ran it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable.errors import InvalidArgumentError
from aiodurable.runs.threads import Threads
from aiodurable.threads import ThreadStep, history
from tests.support.scenario_graphs import BREAKS
from tests.support.scenarios import Thread, checkpoint_id


async def told(threads: Threads, **kwargs: object) -> list[ThreadStep]:
    return [step async for step in threads.history("thread", **kwargs)]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("graph", "nodes"),
    [
        ("linear", [("b",), ("a",), ("__start__",), ()]),
        ("fan_out", [("d",), ("b", "c"), ("a",), ("__start__",), ()]),
        ("sends", [("z",), ("part", "part", "part"), ("a",), ("__start__",), ()]),
        ("subgraph", [("z",), ("inner",), ("a",), ("__start__",), ()]),
        ("handled", [("a",), ("__start__",), ()]),
        ("command_goto", [("b",), ("a",), ("__start__",), ()]),
    ],
)
async def test_each_step_names_its_nodes(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, graph: str, nodes: list[tuple[str, ...]]
) -> None:
    await Thread(dsn, saver, "thread", graph).start()
    steps = await told(threads)
    assert [step.nodes for step in steps] == nodes
    assert [step.step for step in steps] == list(range(len(nodes) - 2, -2, -1))
    assert [step.source for step in steps] == ["loop"] * (len(nodes) - 1) + ["input"]


async def test_it_is_langgraphs_own_history_with_times(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    thread = Thread(dsn, saver, "thread", "linear")
    await thread.start()
    await thread.update({"xs": ["u"]}, as_node="a")
    steps, stock = await told(threads), await thread.history()
    assert [step.checkpoint_id for step in steps] == [checkpoint_id(state) for state in stock]
    assert [step.written_at.isoformat() if step.written_at else None for step in steps] == [
        s.created_at for s in stock
    ]
    assert steps[0].source == "update"
    for step, parent in pairwise(steps):
        assert step.parent_id == parent.checkpoint_id
        assert step.written_at is not None
        assert parent.written_at is not None
        assert step.duration == step.written_at - parent.written_at
    assert steps[-1].duration is None


async def test_each_checkpoint_names_who_wrote_it(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    thread = Thread(dsn, saver, "thread", "linear")
    own = {
        "aiodurable_run_id": "one",
        "aiodurable_graph_name": "report",
        "aiodurable_worker": "host:1",
    }
    thread.config = {"configurable": {"thread_id": "thread", **own}}
    await thread.start()
    steps = await told(threads)
    assert {(step.run_id, step.graph, step.worker) for step in steps} == {
        ("one", "report", "host:1")
    }


async def test_a_failed_node_led_nowhere(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    BREAKS.add("b")
    await Thread(dsn, saver, "thread", "linear").start()
    assert [step.nodes for step in await told(threads)] == [("a",), ("__start__",), ()]


async def test_pages_make_the_whole(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Thread(dsn, saver, "thread", "linear").start()
    whole = await told(threads)
    monkeypatch.setattr(history, "_PAGE", 2)
    assert await told(threads) == whole
    assert await told(threads, limit=3) == whole[:3]
    assert await told(threads, limit=2, before=whole[0].checkpoint_id) == whole[1:3]


async def test_a_thread_nobody_knows_has_none(threads: Threads) -> None:
    assert await told(threads) == []
    with pytest.raises(InvalidArgumentError):
        threads.history("thread", limit=0)
    with pytest.raises(InvalidArgumentError):
        threads.history("")
