"""Channels that are stored as what was added to them, rebuilt from the writes along the line of
checkpoints.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.types import Overwrite

from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError
from aiodurable.models import ThreadStatus
from tests.support.feature_graphs import EMPTY, deltas
from tests.support.graphs import four_nodes

STEPS = [f"step {n}" for n in range(5)]
AT_ONCE = timedelta(0)


async def ran(
    durable: Durable, graph: Any, thread_id: str, given: Any = None, **options: Any
) -> list[str]:
    async with durable.run(thread_id, graph) as run:
        return (await run.ainvoke(given, **options))["words"]


async def heads(dsn: str, thread_id: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute(
            "SELECT count(*) FROM checkpoints WHERE thread_id = %s", (thread_id,)
        )
        row = await found.fetchone()
        assert row is not None
        return row[0]


class Unstorable:
    def __reduce__(self) -> Any:
        raise TypeError("it cannot be stored")


async def test_no_checkpoint_lands_after_a_write_that_did_not(dsn: str, durable: Durable) -> None:
    """A state without what the step added would be rebuilt for ever: the save waits for the writes,
    and fails with them.
    """
    broken = True

    async def at(step: str) -> Any:
        return Unstorable() if step == "step 2" and broken else None

    graph = deltas(at)
    async with durable.run("t", graph) as run:
        with pytest.raises(ConfigurationError, match="cannot store the state"):
            await run.ainvoke(EMPTY)
    # Its input, the start, and the steps before it.
    assert await heads(dsn, "t") == 4
    status = await durable.threads.status("t")
    assert (status.status, status.pending) == (ThreadStatus.FAILED, ("step 2",))
    broken = False
    assert await ran(durable, graph, "t") == STEPS


@pytest.mark.parametrize("before", STEPS)
async def test_a_fork_has_the_state_of_its_place_and_goes_on(durable: Durable, before: str) -> None:
    """langgraph#8443"""
    graph = deltas()
    assert await ran(durable, graph, "t", EMPTY) == STEPS
    forked = await durable.threads.fork("t", "u", before=before, graph=graph)
    assert forked.pending == (before,)
    assert await ran(durable, graph, "u") == STEPS
    assert await ran(durable, graph, "t") == STEPS, "the source changed"


async def test_a_fork_copies_the_checkpoints_since_the_last_snapshot_and_no_older(
    dsn: str, durable: Durable
) -> None:
    graph = deltas()
    for turn in range(4):
        assert await ran(durable, graph, "t", EMPTY) == STEPS * (turn + 1)
    await durable.threads.fork("t", "u", before="step 4", graph=graph)
    assert await heads(dsn, "u") <= 4
    assert await ran(durable, graph, "u") == STEPS * 4


async def test_a_fork_with_other_values_leaves_its_source_alone(durable: Durable) -> None:
    graph = deltas()
    await ran(durable, graph, "t", EMPTY)
    await durable.threads.fork("t", "u", before="step 3", values={"words": ["added"]}, graph=graph)
    assert await ran(durable, graph, "u") == [*STEPS[:3], "added", *STEPS[3:]]
    await durable.threads.fork(
        "t", "v", before="step 3", values={"words": Overwrite(["alone"])}, graph=graph
    )
    assert await ran(durable, graph, "v") == ["alone", *STEPS[3:]]
    assert await ran(durable, graph, "t") == STEPS


async def test_a_fork_of_a_failed_step_keeps_what_had_finished(durable: Durable) -> None:
    async def at(step: str) -> Any:
        if step == "step 4" and broken:
            raise ZeroDivisionError

    broken = True
    graph = deltas(at)
    with pytest.raises(ZeroDivisionError):
        await ran(durable, graph, "t", EMPTY)
    broken = False
    await durable.threads.fork("t", "u", graph=graph)
    assert await ran(durable, graph, "u") == STEPS
    assert await ran(durable, graph, "t") == STEPS


async def test_pruning_keeps_the_state_of_a_thread_and_of_its_next_turn(durable: Durable) -> None:
    graph = deltas()
    for turn in range(3):
        assert await ran(durable, graph, "t", EMPTY) == STEPS * (turn + 1)
    await durable.threads.prune(strategy="keep_latest", older_than=AT_ONCE)
    assert await ran(durable, graph, "t") == STEPS * 3
    assert await ran(durable, graph, "t", EMPTY) == STEPS * 4


async def test_pruning_keeps_what_an_unfinished_thread_goes_on_with(durable: Durable) -> None:
    async def at(step: str) -> Any:
        if step == "step 4" and broken:
            raise ZeroDivisionError

    broken = True
    graph = deltas(at)
    with pytest.raises(ZeroDivisionError):
        await ran(durable, graph, "t", EMPTY)
    await durable.threads.prune(strategy="keep_latest", older_than=AT_ONCE, status=["failed"])
    broken = False
    assert await ran(durable, graph, "t") == STEPS


async def test_a_run_that_saves_at_its_end_alone_is_whole(durable: Durable) -> None:
    graph = deltas()
    assert await ran(durable, graph, "t", EMPTY, durability="exit") == STEPS
    assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
    assert await ran(durable, graph, "t") == STEPS
    assert await ran(durable, graph, "t", EMPTY, durability="exit") == STEPS * 2


async def test_a_run_that_saves_at_its_end_alone_goes_on_after_a_failure(
    durable: Durable, log: Path
) -> None:
    async def at(step: str) -> Any:
        if step == "step 3" and broken:
            raise ZeroDivisionError

    broken = True
    graph = deltas(at)
    with pytest.raises(ZeroDivisionError):
        await ran(durable, graph, "t", EMPTY, durability="exit")
    broken = False
    assert await ran(durable, graph, "t", durability="exit") == STEPS


async def test_a_thread_goes_from_whole_values_to_deltas(durable: Durable) -> None:
    graph, whole = deltas(), four_nodes()
    words = ["collect", "sort", "weigh", "tell"]
    assert (await ran(durable, whole, "t", EMPTY)) == words
    assert (await ran(durable, graph, "t", EMPTY)) == [*words, *STEPS]
