"""A thread written half by this saver and half by the stock one, in either order, sync or async, is
the same thread.
"""

import asyncio
import operator
import re
from typing import Annotated, Any, TypedDict

import asyncpg
import psycopg
import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt

from aiodurable.checkpoints import DurableSaver
from tests.support.checkpoint_rows import State, config, linear, rows
from tests.support.waiting import wait_until_sync

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


async def call(
    writer: str, dsn: str, saver: DurableSaver, builder: StateGraph, value: Any, thread: str
) -> Any:
    if writer == "ours":
        return await builder.compile(saver).ainvoke(value, config(thread), durability="sync")
    if writer == "async":
        async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
            return await builder.compile(stock).ainvoke(value, config(thread), durability="sync")

    def sync() -> Any:
        with PostgresSaver.from_conn_string(dsn) as stock:
            return builder.compile(stock).invoke(value, config(thread), durability="sync")

    return await asyncio.to_thread(sync)


UNREPEATABLE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # ids of checkpoints and tasks
    r"|\d{4}-\d\d-\d\dT[\d:.+]+"  # times
    r"|(?<=\d{32})\.[\d.e-]+"  # the random tail of a version
)


def shape(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    """Every row in its order, without what differs between any two runs of one graph: ids, times,
    tails of versions.
    """

    def told(value: Any) -> Any:
        return UNREPEATABLE.sub("…", value) if isinstance(value, str) else value

    checkpoints = sorted(found["checkpoints"], key=lambda row: row[2])  # their ids are times
    writes = [
        row[:-1] if row[6] == "__interrupt__" else row for row in found["checkpoint_writes"]
    ]  # an id in its value
    clean = [
        [tuple(map(told, row[1:])) for row in table]
        for table in (checkpoints, found["checkpoint_blobs"], writes)
    ]
    return {
        "checkpoints": clean[0],
        "blobs": sorted(clean[1], key=repr),
        "writes": sorted(clean[2], key=repr),
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


PAIRS = [("ours", "async"), ("async", "ours"), ("ours", "sync"), ("sync", "ours")]


def nested() -> StateGraph:
    builder = StateGraph(State)
    builder.add_sequence(
        [("before", stepping("before")), ("inner", inner().compile()), ("after", stepping("after"))]
    )
    return builder.add_edge(START, "before")


def stepping(name: str) -> Any:
    def node(state: Any) -> Any:
        return {"total": 1, "seen": [name]}

    return node


def inner() -> StateGraph:
    return (
        StateGraph(State)
        .add_sequence([("i", stepping("i")), ("j", stepping("j"))])
        .add_edge(START, "i")
    )


def sending() -> StateGraph:
    builder = StateGraph(State)
    for name in ("split", "work", "join"):
        builder.add_node(name, stepping(name))
    builder.add_edge(START, "split")
    builder.add_conditional_edges(
        "split", lambda _: [Send("work", {"topic": str(n)}) for n in range(3)], ["work"]
    )
    return builder.add_edge("work", "join")


class Log(TypedDict, total=False):
    seen: Annotated[
        list[str], DeltaChannel(lambda old, new: [*old, *(line for lines in new for line in lines)])
    ]
    total: Annotated[int, operator.add]


def deltas() -> StateGraph:
    return (
        StateGraph(Log)
        .add_sequence([("i", stepping("i")), ("j", stepping("j"))])
        .add_edge(START, "i")
    )


@pytest.mark.parametrize("build", [nested, sending, deltas], ids=lambda build: build.__name__)
@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_turns_of_two_savers_leave_the_rows_of_one(
    first: str,
    second: str,
    build: Any,
    dsn: str,
    saver: DurableSaver,
    db: asyncpg.Connection,
    lease: Any,
) -> None:
    await lease("mixed")
    for thread, writers in (("mixed", (first, second, first)), ("pure", ("async",) * 3)):
        done: Any = {}
        for turn, writer in enumerate(writers):
            done = await call(writer, dsn, saver, build(), {"seen": [f"turn {turn}"]}, thread)
        assert {line for line in done["seen"] if line.startswith("turn")} == {
            "turn 0",
            "turn 1",
            "turn 2",
        }
    assert shape(await rows(db, "mixed")) == shape(await rows(db, "pure"))


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_a_failed_step_is_finished_by_the_other_saver_without_its_finished_sibling(
    first: str, second: str, dsn: str, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    ran: list[str] = []
    broken = True

    def stored() -> bool:
        with psycopg.connect(dsn) as connection:
            found = connection.execute(
                "SELECT true FROM checkpoint_writes WHERE channel = 'total' LIMIT 1"
            )
            return found.fetchone() is not None

    def good(state: State) -> State:  # sync nodes, which both kinds of saver can run
        ran.append("good")
        return {"total": 1}

    def bad(state: State) -> State:
        ran.append("bad")
        if broken:
            wait_until_sync(stored, what="the sibling's writes in the table")
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
async def test_history_forks_and_updates_read_the_same_from_either_saver(
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
    forked = await builder.compile(saver).aupdate_state(
        ours[-1].config, {"total": 40}, as_node="first"
    )
    assert (await builder.compile(saver).aget_state(forked)).values["total"] == 40


async def test_new_turns_alternate_between_the_savers(
    dsn: str, saver: DurableSaver, lease: Any
) -> None:
    await lease("t")
    for turn, writer in enumerate(["ours", "async", "ours", "async"], start=1):
        done = await call(writer, dsn, saver, linear(2), {"topic": str(turn)}, "t")
        assert done["total"] == 2 * turn
