"""A thread written half by this saver and half by the stock one, in either order, sync or async, is the same thread."""

import asyncio
from typing import Any

import asyncpg
import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from aiodurable.checkpoints import DurableSaver
from checkpoint_rows import State, config, linear, rows
from waiting import wait_until

WRITERS = ["ours", "async", "sync"]


def asking() -> StateGraph:
    def first(state: State) -> State:
        return {"total": 1, "seen": ["first"]}

    def ask(state: State) -> State:
        return {"total": 1, "seen": [interrupt("which?"), interrupt("and?")]}

    def last(state: State) -> State:
        return {"total": 1, "seen": ["last"]}

    builder = StateGraph(State)
    builder.add_sequence([("first", first), ("ask", ask), ("last", last)])
    builder.add_edge(START, "first")
    return builder


async def call(writer: str, dsn: str, saver: DurableSaver, builder: StateGraph, value: Any, thread: str) -> Any:
    if writer == "ours":
        return await builder.compile(saver).ainvoke(value, config(thread), durability="sync")
    if writer == "async":
        async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
            return await builder.compile(stock).ainvoke(value, config(thread), durability="sync")

    def sync() -> Any:
        with PostgresSaver.from_conn_string(dsn) as stock:
            return builder.compile(stock).invoke(value, config(thread), durability="sync")

    return await asyncio.to_thread(sync)


def shape(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    """What is the same in two runs of one graph: which channels lie where, not ids and times."""
    return {
        "checkpoints": len(found["checkpoints"]),
        "blobs": sorted((row[1], row[2], row[3].split(".")[0], row[4], row[5]) for row in found["checkpoint_blobs"]),
        "writes": sorted((row[1], row[5], row[6], row[7]) for row in found["checkpoint_writes"]),
    }


@pytest.mark.parametrize("second", WRITERS)
@pytest.mark.parametrize("first", WRITERS)
async def test_an_interrupted_thread_goes_on_under_the_other_saver(
    first: str, second: str, dsn: str, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    for thread, writers in (("mixed", (first, second, first)), ("pure", ("async",) * 3)):
        if "ours" in writers:
            await lease(thread)
        asked = await call(writers[0], dsn, saver, asking(), {"topic": "tides"}, thread)
        assert asked["__interrupt__"][0].value == "which?"
        asked = await call(writers[1], dsn, saver, asking(), Command(resume="this"), thread)
        assert asked["__interrupt__"][0].value == "and?"
        done = await call(writers[2], dsn, saver, asking(), Command(resume="that"), thread)
        assert done["seen"] == ["first", "this", "that", "last"]
    assert shape(await rows(db, "mixed")) == shape(await rows(db, "pure"))


@pytest.mark.parametrize(("first", "second"), [("ours", "async"), ("async", "ours")])
async def test_a_failed_step_is_finished_by_the_other_saver_without_its_finished_sibling(
    first: str, second: str, dsn: str, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    ran: list[str] = []
    broken = True

    async def good(state: State) -> State:
        ran.append("good")
        return {"total": 1}

    async def bad(state: State) -> State:
        ran.append("bad")
        if broken:
            await wait_until(lambda: db.fetchval("SELECT true FROM checkpoint_writes WHERE channel = 'total' LIMIT 1"))
            raise ValueError("broken")
        return {"total": 10}

    builder = StateGraph(State)
    builder.add_node("good", good)
    builder.add_node("bad", bad)
    builder.add_edge(START, "good")
    builder.add_edge(START, "bad")
    await lease("t")
    with pytest.raises(ValueError, match="broken"):
        await call(first, dsn, saver, builder, {"topic": "tides"}, "t")
    broken = False
    assert (await call(second, dsn, saver, builder, None, "t"))["total"] == 11
    assert sorted(ran) == ["bad", "bad", "good"]


@pytest.mark.parametrize("first", WRITERS)
async def test_history_forks_and_updates_read_the_same_whoever_wrote(
    first: str, dsn: str, saver: DurableSaver, lease: Any
) -> None:
    if first == "ours":
        await lease("t")
    builder = asking()
    await call(first, dsn, saver, builder, {"topic": "tides"}, "t")
    async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
        theirs = [state async for state in builder.compile(stock).aget_state_history(config("t"))]
        ours = [state async for state in builder.compile(saver).aget_state_history(config("t"))]
        assert ours == theirs
        assert [row async for row in saver.alist(config("t"), limit=2)] == [
            row async for row in stock.alist(config("t"), limit=2)
        ]
    forked = await builder.compile(saver).aupdate_state(ours[-1].config, {"total": 40}, as_node="first")
    assert (await builder.compile(saver).aget_state(forked)).values["total"] == 40


async def test_new_turns_alternate_between_the_savers(dsn: str, saver: DurableSaver, lease: Any) -> None:
    await lease("t")
    for turn, writer in enumerate(["ours", "async", "ours", "async"], start=1):
        done = await call(writer, dsn, saver, linear(2), {"topic": str(turn)}, "t")
        assert done["total"] == 2 * turn
