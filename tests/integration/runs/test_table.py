"""What a call does with a thread, on real graphs of every kind; the table cell by cell is in
test_calls.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.errors import (
    AlreadyAnsweredError,
    RunInProgressError,
    ThreadInterruptedError,
    ThreadNotFoundError,
)
from aiodurable.models import ThreadStatus
from tests.support.graphs import STEPS, asking, config, four_nodes, four_tasks, nested, noted
from tests.support.ledger_view import Ledger

INPUT: dict[str, Any] = {"words": ["once"], "told": ""}
TOLD = "once collect sort weigh tell"


class Broken(Exception):
    """What a node raises."""


class FailsOnce:
    """Called before each step; raises the first time it sees `at`."""

    def __init__(self, at: str) -> None:
        self.at: str | None = at

    async def __call__(self, step: str) -> None:
        if step == self.at:
            self.at = None
            raise Broken(step)


SHAPES = {
    "builder": four_nodes,
    "compiled": lambda before=None: four_nodes(before).compile(),
    "entrypoint": four_tasks,
    "subgraph": nested,
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Any:
    return SHAPES[request.param]


async def test_a_new_thread_starts_and_ends_complete(
    durable: Durable, ledger: Ledger, log: Path, shape: Any
) -> None:
    async with durable.run("t", shape(), config=config(log)) as run:
        assert run.status is ThreadStatus.NEW
        result = await run.ainvoke(INPUT)
        assert not run.resumed
    assert TOLD.removeprefix("once ") in result["told"]
    assert [line for line in noted(log) if line in STEPS] == list(STEPS)
    assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
    assert await ledger.statuses("t") == ["complete"]


async def test_a_new_thread_without_input_is_not_found_and_leaves_nothing(
    durable: Durable, ledger: Ledger, shape: Any
) -> None:
    async with durable.run("t", shape()) as run:
        with pytest.raises(ThreadNotFoundError, match="'t'.* or pass an input to start it$"):
            await run.ainvoke()
    assert await ledger.rows("t") == []
    assert (await durable.threads.status("t")).status is ThreadStatus.NEW


async def test_a_complete_thread_without_input_returns_what_is_stored_and_runs_nothing(
    durable: Durable, ledger: Ledger, log: Path, shape: Any
) -> None:
    graph = shape()
    async with durable.run("t", graph, config=config(log)) as run:
        result = await run.ainvoke(INPUT)
    ran = noted(log)
    async with durable.run("t", graph, config=config(log)) as run:
        assert run.status is ThreadStatus.COMPLETE
        assert await run.ainvoke() == result
    assert noted(log) == ran
    assert await ledger.statuses("t") == ["complete"]


async def test_a_complete_thread_with_input_takes_a_new_turn(
    durable: Durable, ledger: Ledger, log: Path, shape: Any
) -> None:
    graph = shape()
    for _ in range(2):
        async with durable.run("t", graph, config=config(log)) as run:
            await run.ainvoke(INPUT)
            assert not run.resumed
    assert [line for line in noted(log) if line in STEPS] == [*STEPS, *STEPS]
    assert await ledger.statuses("t") == ["complete", "complete"]


async def test_the_input_of_a_failed_run_again_resumes_it_at_the_failed_node(
    durable: Durable, ledger: Ledger, log: Path, shape: Any
) -> None:
    graph = shape(FailsOnce("weigh"))
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(Broken, match="weigh"):
            await run.ainvoke(INPUT)
        first = run.run_id
    assert await ledger.statuses("t") == ["failed"]
    assert (await durable.threads.status("t")).status is ThreadStatus.FAILED
    async with durable.run("t", graph, config=config(log)) as run:
        assert (run.status, run.run_id) == (ThreadStatus.FAILED, first)
        result = await run.ainvoke(dict(INPUT))
        assert run.resumed
    assert TOLD.removeprefix("once ") in result["told"]
    assert [line for line in noted(log) if line in STEPS] == [
        "collect",
        "sort",
        "weigh",
        "weigh",
        "tell",
    ]
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"], row["error"]) == ("complete", 2, None)


async def test_a_failed_thread_can_be_refused_or_restarted(
    durable: Durable, ledger: Ledger, log: Path, shape: Any
) -> None:
    graph = shape(FailsOnce("sort"))
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(Broken):
            await run.ainvoke(INPUT)
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(RunInProgressError) as refused:
            await run.ainvoke(INPUT, on_unfinished="raise")
        assert refused.value.status is ThreadStatus.FAILED
        result = await run.ainvoke({"words": ["twice"], "told": ""}, on_unfinished="restart")
        assert not run.resumed
    assert "twice" in result["words"]
    assert await ledger.statuses("t") == ["superseded", "complete"]


async def test_an_interrupted_thread_wants_an_answer_and_nothing_else(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    graph = asking()
    async with durable.run("t", graph, config=config(log)) as run:
        result = await run.ainvoke(INPUT)
        assert "__interrupt__" in result
    assert await ledger.statuses("t") == ["interrupted"]
    for given in (INPUT, None):
        async with durable.run("t", graph, config=config(log)) as run:
            assert run.status is ThreadStatus.INTERRUPTED
            with pytest.raises(ThreadInterruptedError) as asked:
                await run.ainvoke(given)
    [question] = asked.value.interrupts
    assert question.value == {"question": "which word?"}
    async with durable.run("t", graph, config=config(log)) as run:
        result = await run.answer("upon")
    assert result["told"] == "once collect upon"
    assert noted(log) == ["collect", "ask", "ask", "tell"]
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"]) == ("complete", 1)


async def test_an_answer_to_a_thread_that_asks_nothing_is_refused(
    durable: Durable, log: Path
) -> None:
    graph = asking()
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(ThreadNotFoundError):
            await run.answer("upon")
        await run.ainvoke(INPUT)
        await run.answer("upon")
        with pytest.raises(AlreadyAnsweredError):
            await run.answer("again")
    assert noted(log) == ["collect", "ask", "ask", "tell"]


async def test_streaming_does_the_same(durable: Durable, ledger: Ledger, log: Path) -> None:
    graph = four_nodes(FailsOnce("sort"))
    seen: list[Any] = []
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(Broken):
            async for chunk in run.astream(INPUT, stream_mode="updates"):
                seen.append(chunk)
    async with durable.run("t", graph, config=config(log)) as run:
        async for chunk in run.astream(stream_mode="updates"):
            seen.append(chunk)
        assert run.resumed
    assert [next(iter(chunk)) for chunk in seen] == ["collect", "sort", "weigh", "tell"]
    assert await ledger.statuses("t") == ["complete"]
    async with durable.run("t", graph, config=config(log)) as run:
        [stored] = [chunk async for chunk in run.astream(stream_mode="values")]
    assert stored["told"] == TOLD
