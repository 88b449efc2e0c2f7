"""Apps that were written for plain LangGraph: the same calls, durably, after three lines."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from fastapi import FastAPI
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph

from aiodurable.durable import Durable
from aiodurable.integrations.fastapi import add_exception_handlers
from aiodurable.models import ThreadStatus
from tests.contract.test_docs import blocks
from tests.support.example_programs import REPOSITORY
from tests.support.waiting import wait_until, within


class Chat(TypedDict):
    said: Annotated[list[str], operator.add]


class Slow:
    """An answer that takes until `go_on` is set."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()


slow: dict[str, Slow] = {}
breaks: set[str] = set()


async def answer(state: Chat) -> dict[str, Any]:
    last = state["said"][-1]
    if last in breaks:
        breaks.remove(last)
        raise RuntimeError("the model is away")
    if last in slow:
        slow[last].reached.set()
        await wait_until(slow[last].go_on.is_set, what="the test to let the answer go on")
    return {"said": [f"you said {last}"]}


def answer_in_a_thread(state: Chat) -> dict[str, Any]:
    last = state["said"][-1]
    if last in slow:
        slow[last].reached.set()
        assert slow[last].go_on.wait(30)
    return {"said": [f"you said {last}"]}


def chat(node: Any = answer) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(Chat).add_node("answer", node).add_edge(START, "answer")


# ---- FastAPI on AsyncPostgresSaver --------------------------------------------------------------

Graphs = Callable[[str], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def before(dsn: str) -> AsyncIterator[Any]:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        yield chat().compile(checkpointer=saver)


@asynccontextmanager
async def after(dsn: str) -> AsyncIterator[Any]:
    async with Durable(dsn) as durable:
        yield durable.wrap(chat())


@asynccontextmanager
async def served(dsn: str, graphs: Graphs) -> AsyncIterator[httpx.AsyncClient]:
    """The app; only where its graph comes from differs."""
    app = FastAPI()
    add_exception_handlers(app)

    @app.post("/chats/{thread_id}")
    async def say(thread_id: str, text: str) -> list[str]:
        result = await app.state.graph.ainvoke(
            {"said": [text]}, {"configurable": {"thread_id": thread_id}}
        )
        return result["said"]

    @app.post("/chats/{thread_id}/streamed")
    async def stream(thread_id: str, text: str) -> list[Any]:
        config = {"configurable": {"thread_id": thread_id}}
        return [
            chunk
            async for chunk in app.state.graph.astream(
                {"said": [text]}, config, stream_mode="updates"
            )
        ]

    @app.get("/chats/{thread_id}")
    async def read(thread_id: str) -> dict[str, Any]:
        state = await app.state.graph.aget_state({"configurable": {"thread_id": thread_id}})
        return {"said": state.values.get("said", []), "next": list(state.next)}

    async with (
        graphs(dsn) as graph,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client,
    ):
        app.state.graph = graph
        yield client


@pytest.mark.parametrize("graphs", [before, after])
async def test_the_app_answers_as_it_did(dsn: str, graphs: Graphs) -> None:
    async with served(dsn, graphs) as client:
        assert (await client.post("/chats/a?text=hello")).json() == ["hello", "you said hello"]
        assert (await client.post("/chats/a/streamed?text=again")).json() == [
            {"answer": {"said": ["you said again"]}}
        ]
        assert (await client.get("/chats/a")).json() == {
            "said": ["hello", "you said hello", "again", "you said again"],
            "next": [],
        }


async def test_threads_of_before_go_on_after(dsn: str) -> None:
    async with served(dsn, before) as client:
        await client.post("/chats/a?text=hello")
    async with served(dsn, after) as client:
        assert (await client.post("/chats/a?text=again")).json() == [
            "hello",
            "you said hello",
            "again",
            "you said again",
        ]


async def test_two_requests_at_once_do_not_both_run(dsn: str) -> None:
    answering = slow["slowly"] = Slow()
    async with served(dsn, after) as client:
        first = asyncio.create_task(client.post("/chats/a?text=slowly"))
        await wait_until(answering.reached.is_set, what="the first request to be at work")
        second = await client.post("/chats/a?text=too")
        assert (second.status_code, second.json()["error"]) == (409, "WorkflowAlreadyRunningError")
        answering.go_on.set()
        assert (await within(30, first, what="the first request")).json() == [
            "slowly",
            "you said slowly",
        ]


async def test_a_request_that_failed_is_finished_before_the_next(dsn: str) -> None:
    breaks.add("once")
    async with served(dsn, after) as client:
        with pytest.raises(RuntimeError, match="away"):
            await client.post("/chats/a?text=once")
        said = (await client.post("/chats/a?text=next")).json()
    assert said == ["once", "you said once", "next", "you said next"]


# --- Flask on PostgresSaver: the how-to's program
# --------------------------------------------------------------------


@pytest.fixture
def page(dsn: str) -> Any:
    """What the how-to's first block defines."""
    block = blocks(REPOSITORY / "docs" / "howto" / "sync-callers.md")[0]
    names: dict[str, Any] = {"DSN": dsn, "builder": chat(answer_in_a_thread), "__name__": "page"}
    exec(compile(block, "sync-callers.md", "exec"), names)
    yield names
    names["process"].close()


def test_a_flask_app_keeps_its_functions_and_its_threads(dsn: str, page: dict[str, Any]) -> None:
    with PostgresSaver.from_conn_string(dsn) as saver:
        old = chat(answer_in_a_thread).compile(checkpointer=saver)
        old.invoke({"said": ["hello"]}, {"configurable": {"thread_id": "a"}})
    client = page["app"].test_client()
    assert client.post("/chats/a/again").json == [
        "hello",
        "you said hello",
        "again",
        "you said again",
    ]
    status = page["portal"].call(page["durable"].threads.status, "a")
    assert status.status is ThreadStatus.COMPLETE
    assert status.run_id is not None


def test_requests_of_many_threads_run_at_once_and_those_of_one_do_not(page: dict[str, Any]) -> None:
    answering = slow["slowly"] = Slow()

    def post(path: str) -> Any:
        return page["app"].test_client().post(path)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, "/chats/a/slowly")
        assert answering.reached.wait(30)
        assert post("/chats/a/too").status_code == 409
        others = [pool.submit(post, f"/chats/{name}/hello") for name in "bcde"]
        assert all(other.result(30).json == ["hello", "you said hello"] for other in others)
        answering.go_on.set()
        assert first.result(30).json == ["slowly", "you said slowly"]


def test_the_rest_of_the_page_works_too(page: dict[str, Any]) -> None:
    exec(
        compile(
            blocks(REPOSITORY / "docs" / "howto" / "sync-callers.md")[1], "sync-callers.md", "exec"
        ),
        page,
    )
    assert page["status"].status is ThreadStatus.NEW
    assert page["result"]["said"] == ["hello", "you said hello"]
