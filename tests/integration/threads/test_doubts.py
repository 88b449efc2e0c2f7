"""What a status tells of a failure in subgraphs, and what it says where the tables cannot tell."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from aiodurable.postgres.pool import PsycopgPool
from aiodurable.runs.threads import Threads
from tests.support import scenario_graphs
from tests.support.reading_threads import reading
from tests.support.scenario_graphs import BREAKS, State, chain, ok
from tests.support.scenarios import Thread


def sending() -> StateGraph[Any, Any, Any, Any]:
    """split → two parts by Send."""
    builder = StateGraph(State)
    builder.add_node("split", ok("split"))
    builder.add_node("part", ok("part"))
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", lambda _: [Send("part", {}), Send("part", {})], ["part"])
    return builder


def within(**options: Any) -> StateGraph[Any, Any, Any, Any]:
    deep = chain(i=ok("i"), part=sending().compile(**options)).compile(**options)
    return chain(a=ok("a"), inner=deep)


@pytest.mark.parametrize(
    ("graph", "broken", "path"),
    [
        (lambda: chain(a=ok("a"), b=ok("b")), "b", ("b",)),
        (sending, "part", ("part",)),
        (within, "i", ("inner", "i")),
        (within, "part", ("inner", "part", "part")),
        (lambda: within(checkpointer=True), "i", ("inner", "i")),
        (lambda: within(checkpointer=True), "part", ("inner", "part", "part")),
        (
            lambda: chain(inner=chain(deep=chain(i=ok("i")).compile(checkpointer=True)).compile()),
            "i",
            ("inner", "deep", "i"),
        ),
    ],
    ids=[
        "root",
        "send",
        "subgraph",
        "send in a subgraph of a subgraph",
        "with a memory",
        "deep with a memory",
        "memory in a subgraph without one",
    ],
)
async def test_a_failure_is_followed_into_its_subgraphs(
    saver: AsyncPostgresSaver, threads: Threads, graph: Any, broken: str, path: tuple[str, ...]
) -> None:
    BREAKS.add(broken)
    bound = graph().compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t"}}
    with pytest.raises(ValueError, match="broken"):
        await bound.ainvoke({"xs": []}, config)
    told = await threads.status("t")
    assert (told.status, told.failed_node, told.failed_path) == ("failed", path[0], path)
    assert [found.failed_path async for found in threads.search()] == [path]
    BREAKS.clear()
    await bound.ainvoke(None, config)
    assert (await threads.status("t")).failed_path == ()


async def test_a_failure_of_an_earlier_turn_is_not_that_of_this_one(
    saver: AsyncPostgresSaver, threads: Threads
) -> None:
    """A subgraph with a memory keeps its namespace, and with it the error of its last failure."""
    bound = within(checkpointer=True).compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t"}}
    for broken in ("i", "a"):
        BREAKS.clear()
        BREAKS.add(broken)
        with pytest.raises(ValueError, match="broken"):
            await bound.ainvoke({"xs": []}, config)
    assert (await threads.status("t")).failed_path == ("a",)


class Mirror:
    """A cipher, as far as a serializer is concerned."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "mirror", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


@pytest.fixture
async def encrypting(dsn: str) -> Any:
    async with AsyncPostgresSaver.from_conn_string(
        dsn, serde=EncryptedSerializer(Mirror())
    ) as saver:
        yield saver


@pytest.fixture
def with_the_key(database: PsycopgPool) -> Threads:
    return reading(database, serde=EncryptedSerializer(Mirror()))


@pytest.mark.parametrize(
    ("graph", "broken", "status"),
    [("linear", "b", "failed"), ("ask", None, "interrupted"), ("sends", "part", "failed")],
)
async def test_what_cannot_be_read_is_said_and_hides_no_other_thread(
    dsn: str,
    encrypting: Any,
    threads: Threads,
    with_the_key: Threads,
    graph: str,
    broken: str | None,
    status: str,
) -> None:
    BREAKS.add(broken or "nothing")
    await Thread(dsn, encrypting, "locked", graph).start()
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await Thread(dsn, saver, "open", graph).start()
    readable = await with_the_key.status("locked")
    assert (readable.status, readable.doubt) == (status, None)
    told = {thread.thread_id: thread async for thread in threads.search()}
    assert told["locked"].status == told["open"].status == status
    assert told["open"].doubt is None
    assert "msgpack+mirror" in (told["locked"].doubt or "")
    assert "cannot be read here" in str(told["locked"].error or told["locked"].interrupts)


async def test_an_encrypted_cancellation_is_in_doubt(
    dsn: str, encrypting: Any, with_the_key: Threads
) -> None:
    scenario_graphs.STARTED = asyncio.Event()
    await Thread(dsn, encrypting, "t", "fan_out_both_slow").cancelled(
        {"xs": []}, scenario_graphs.STARTED
    )
    told = await with_the_key.status("t")
    assert told.status == "failed"
    assert "cancellation" in (told.doubt or "")


@pytest.mark.parametrize(("graph", "at"), [("linear", 4), ("fan_out", 5), ("linear", 3)])
async def test_a_crash_of_plain_langgraph_may_be_work_under_way(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, graph: str, at: int
) -> None:
    await Thread(dsn, saver, "t", graph).killed({"xs": []}, at, after=True)
    told = await threads.status("t")
    assert told.status == "crashed"
    assert "no lease" in (told.doubt or "")


def test_the_plain_serializer_reads_no_cipher() -> None:
    """Else the tests above state nothing."""
    with pytest.raises(NotImplementedError):
        JsonPlusSerializer().loads_typed(EncryptedSerializer(Mirror()).dumps_typed(["x"]))
