"""`keep_step_writes=False`: what a task returned is not stored beside the state that came of it, and
nothing that goes on depends on it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from langgraph.checkpoint.base.id import uuid6

from aiodurable import Durable, Settings
from aiodurable.dsn import parse_dsn
from aiodurable.models import ThreadStatus
from tests.support.checkpoint_rows import checkpoint, config
from tests.support.graphs import STEPS, noted
from tests.support.processes import started
from tests.support.scenario_graphs import BREAKS, GRAPHS, asks, chain, ok
from tests.support.waiting import wait_until

Writes = Callable[[str], Awaitable[set[str]]]


@pytest.fixture
async def lean(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, settings=Settings(keep_step_writes=False)) as opened:
        yield opened


@pytest.fixture
async def writes(dsn: str) -> AsyncIterator[Writes]:
    """Reads the channels that tasks of a thread have stored, without those of its input, which is
    in another batch than the step that takes it.
    """
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)

    async def writes(thread_id: str) -> set[str]:
        rows = await connection.fetch(
            "SELECT channel FROM checkpoint_writes"
            " JOIN checkpoints USING (thread_id, checkpoint_ns, checkpoint_id)"
            " WHERE thread_id = $1 AND metadata ->> 'source' = 'loop'",
            thread_id,
        )
        return {row["channel"] for row in rows if not row["channel"].startswith("branch:")}

    yield writes
    await connection.close()


async def test_a_step_that_ended_in_one_go_leaves_only_the_state(
    lean: Durable, durable: Durable, writes: Writes
) -> None:
    graph = chain(a=ok("a"), b=ok("b"), c=ok("c"))
    for opened, thread_id in ((lean, "lean"), (durable, "full")):
        async with opened.run(thread_id, graph) as run:
            assert (await run.ainvoke({"xs": []}))["xs"] == ["a", "b", "c"]
    assert "xs" in await writes("full")
    assert await writes("lean") == set()
    lean_steps, full_steps = [
        [(step.step, step.source) async for step in durable.threads.history(thread_id)]
        for thread_id in ("lean", "full")
    ]
    assert lean_steps == full_steps
    async with durable.run("lean", graph) as run:
        assert (await run.aget_state()).values["xs"] == ["a", "b", "c"]


async def test_a_fork_from_a_checkpoint_runs_the_step_after_it_again(lean: Durable) -> None:
    graph = chain(a=ok("a"), b=ok("b"), c=ok("c"))
    async with lean.run("t", graph) as run:
        await run.ainvoke({"xs": []})
    [after_a] = [step async for step in lean.threads.history("t") if step.step == 1]
    fork = await lean.threads.fork("t", checkpoint_id=after_a.checkpoint_id)
    async with lean.run(fork.thread_id, graph) as run:
        assert (await run.aget_state()).next == ("b",)
        assert (await run.ainvoke(None))["xs"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("metadata", "sign", "kept"),
    [
        ({}, None, False),
        ({"counters_since_delta_snapshot": {"xs": (1, 1)}}, None, True),
        ({"delta_writes_versioned": True}, None, True),
        ({"source": "update"}, None, True),
        ({}, "__error__", True),
    ],
    ids=["plain", "delta", "delta of a run that exited", "edit", "handled error"],
)
async def test_writes_beside_their_checkpoint_are_kept_where_somebody_reads_them(
    lean: Durable, writes: Writes, metadata: Any, sign: str | None, kept: bool
) -> None:
    """LangGraph may hand both over at once, also where it does not today."""
    saver = lean.checkpointer
    async with lean.hold("t"):
        (before, _), (after, versions) = checkpoint(), checkpoint(xs=["a"])
        after["id"] = str(uuid6())
        loop: Any = {"source": "loop", "step": 0}
        here = await saver.aput(config("t"), before, loop, {})
        if sign is not None:
            await saver.aput_writes(here, [(sign, "broken")], "other")
        await asyncio.gather(
            saver.aput_writes(here, [("xs", ["a"])], "task"),
            saver.aput(here, after, {**loop, **metadata}, versions),
        )
    assert await writes("t") == ({"xs"} if kept else set()) | ({sign} if sign else set())


async def test_what_depends_on_its_history_keeps_it(
    lean: Durable, dsn: str, writes: Writes
) -> None:
    async with lean.run("t", GRAPHS["delta"](lean.checkpointer)) as run:
        assert (await run.ainvoke({"xs": ["in"]}))["xs"] == ["in", "a", "b"]
    assert "xs" in await writes("t")
    async with Durable(dsn) as later, later.run("t", GRAPHS["delta"](later.checkpointer)) as run:
        assert (await run.aget_state()).values["xs"] == ["in", "a", "b"]


async def test_a_step_with_a_question_or_an_error_keeps_what_its_tasks_returned(
    lean: Durable, writes: Writes
) -> None:
    graph = chain(a=ok("a"), b=asks("which?"), c=ok("c"))
    async with lean.run("asked", graph) as run:
        await run.ainvoke({"xs": []})
        assert await writes("asked") == {"__interrupt__"}
        assert (await run.answer("this"))["xs"] == ["a", "this", "c"]
    assert await writes("asked") == {"__interrupt__", "__resume__", "xs"}
    BREAKS.add("b")
    graph = chain(a=ok("a"), b=ok("b"), c=ok("c"))
    for _ in range(2):
        async with lean.run("failed", graph) as run:
            if "b" in BREAKS:
                with pytest.raises(ValueError, match="b is broken"):
                    await run.ainvoke({"xs": []})
                BREAKS.clear()
            else:
                assert (await run.ainvoke(None))["xs"] == ["a", "b", "c"]
    assert await writes("failed") == {"__error__", "xs"}
    assert (await lean.threads.status("failed")).status is ThreadStatus.COMPLETE


async def test_a_task_beside_a_slow_one_is_stored_before_its_step_ends(
    lean: Durable, writes: Writes
) -> None:
    """A crash repeats the slow one alone."""
    go_on = asyncio.Event()

    async def slow(state: Any) -> dict[str, Any]:
        await go_on.wait()
        return {"xs": ["slow"]}

    graph = chain(a=ok("a"), z=ok("z"))
    graph.add_node("slow", slow)
    graph.add_edge("__start__", "slow")
    async with lean.run("t", graph) as run:
        running = asyncio.create_task(run.ainvoke({"xs": []}))

        async def stored() -> bool:
            return "xs" in await writes("t")

        await wait_until(stored)
        go_on.set()
        assert sorted((await running)["xs"]) == ["a", "slow", "z"]


async def test_a_result_that_comes_after_its_state_is_stored(lean: Durable, writes: Writes) -> None:
    """It took longer to encode. It is the newest commit, which the next write may have to prove."""
    saver = lean.checkpointer
    loop: Any = {"source": "loop", "step": 0}
    async with lean.hold("t") as lease:
        (before, _), (after, versions) = checkpoint(), checkpoint(xs=["a"])
        after["id"] = str(uuid6())
        here = await saver.aput(config("t"), before, loop, {})
        await asyncio.gather(
            saver.aput(here, after, loop, versions),
            saver.aput_writes(here, [("xs", ["a"])], "task"),
        )
        lease.session.history.doubt()
        (newest, _) = checkpoint()
        await saver.aput(config("t", after["id"]), newest, loop, {})
    assert await writes("t") == {"xs"}


async def test_a_run_that_is_killed_after_each_write_goes_on(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_KEEP_STEP_WRITES", "false")
    async with started() as processes:
        for write in range(1, 7):
            thread_id, log = f"t{write}", tmp_path / f"log{write}"
            code, _ = await processes.run(dsn, thread_id, "linear", log, ("after", write))
            assert code == -signal.SIGKILL
            code, result = await processes.run(dsn, thread_id, "linear", log)
            assert (code, result["told"]) == (0, "once collect sort weigh tell")
            assert set(noted(log)) == set(STEPS)
