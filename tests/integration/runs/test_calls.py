"""What a call does with a thread: the table of the README and of `aiodurable.runs.decision`, cell
by cell.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langgraph.errors import GraphRecursionError
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl
from langgraph.types import interrupt

from aiodurable.durable import Durable
from aiodurable.errors import (
    ConfigurationError,
    InvalidArgumentError,
    RunCancelledError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadPausedError,
    ThreadQuarantinedError,
)
from aiodurable.runs.attempt import Attempt
from tests.support.ledger_view import Ledger
from tests.support.scenario_graphs import chain, ok


class Order(TypedDict):
    word: str
    trail: Annotated[list[str], operator.add]


class Work:
    """A graph of two steps; the second does once, for the word `at`, what the thread's status is
    made of.
    """

    def __init__(self) -> None:
        self.at: str | None = None
        self.does: Any = None
        self.ran: list[str] = []

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        async def first(state: Order) -> dict[str, Any]:
            self.ran.append(f"first {state['word']}")
            return {"trail": [f"first {state['word']}"]}

        async def second(state: Order) -> dict[str, Any]:
            self.ran.append(f"second {state['word']}")
            if state["word"] == self.at:
                await self.does()
            return {"trail": [f"second {state['word']}"]}

        return StateGraph(Order).add_sequence([first, second]).add_edge(START, "first")


A: dict[str, Any] = {"word": "a", "trail": []}
B: dict[str, Any] = {"word": "b", "trail": []}


async def left(durable: Durable, work: Work, status: str, dsn: str, thread_id: str = "t") -> None:
    """Bring the thread into that status by a run of the input `A`, whose run_id is `A of` the
    thread.
    """
    if status == "new":
        return
    reached, never = asyncio.Event(), asyncio.Event()
    options: dict[str, Any] = {}

    async def fails() -> None:
        raise ValueError("broken")

    async def hangs() -> None:
        reached.set()
        await never.wait()

    async def asks() -> None:
        interrupt("sure?")

    async def drains() -> None:
        control.request_drain()

    control = RunControl()
    work.at = None if status in ("complete", "gate") else "a"
    work.does = {"failed": fails, "quarantined": fails, "interrupted": asks}.get(status, hangs)
    if status == "gate":
        options["interrupt_before"] = ["second"]
    if status == "recursion limit":
        options["config"] = {"recursion_limit": 1}
    graph = work.graph()
    if status == "drained":
        work.at, options["control"] = None, control
        control.request_drain()

    async def body() -> None:
        async with durable.run(thread_id, graph, run_id=f"A of {thread_id}") as run:
            if status == "stream closed":
                async with contextlib.aclosing(run.astream(A, stream_mode="updates")) as stream:
                    await anext(stream)
            else:
                await run.ainvoke(A, **options)

    task = asyncio.create_task(body())
    if status in ("crashed", "cancelled"):
        await reached.wait()
        task.cancel()
    await asyncio.wait({task})
    if status == "quarantined":
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "UPDATE aiodurable_runs SET status = 'quarantined', status_reason = '5 attempts'"
                " WHERE thread_id = %s",
                (thread_id,),
            )
    if not task.cancelled():
        task.exception()
    work.at = None
    work.ran.clear()
    expected = {
        "gate": "paused",
        "cancelled": "paused",
        "stream closed": "paused",
        "recursion limit": "paused",
    }
    expected["drained"] = "paused"
    assert (await durable.threads.status(thread_id)).status == expected.get(status, status)


CALLS: dict[str, tuple[str | None, Any]] = {
    "no input": (None, None),
    "no input, its run_id": ("A", None),
    "its input": (None, A),
    "its input, its run_id": ("A", A),
    "another input": (None, B),
    "another input, its run_id": ("A", B),
    "another input, another run_id": ("B", B),
    "its input, another run_id": ("B", A),
}

RESUMED = {
    "no input": ("a", 1),
    "no input, its run_id": ("a", 1),
    "its input": ("a", 1),
    "its input, its run_id": ("a", 1),
    "another input": ("b", 2),
    "another input, its run_id": InvalidArgumentError,
    "another input, another run_id": ("b", 2),
    "its input, another run_id": ("a", 2),
}
PAUSED = {
    **dict.fromkeys(CALLS, ThreadPausedError),
    "no input": ("a", 1),
    "no input, its run_id": ("a", 1),
    "another input, its run_id": InvalidArgumentError,
}
LEFT = {**PAUSED, "its input, its run_id": ("a", 1)}  # by its caller, who calls again
TABLE: dict[str, dict[str, Any]] = {
    "new": {
        **{call: (given["word"], 1) for call, (_, given) in CALLS.items() if given},
        "no input": ThreadNotFoundError,
        "no input, its run_id": ThreadNotFoundError,
    },
    "complete": {**RESUMED, "its input": ("a", 2)},
    "crashed": RESUMED,
    "failed": RESUMED,
    "drained": RESUMED,
    "gate": PAUSED,
    "cancelled": LEFT,
    "stream closed": LEFT,
    "recursion limit": PAUSED,
    "interrupted": {
        **dict.fromkeys(CALLS, ThreadInterruptedError),
        "no input, its run_id": ("questions", 1),
        "its input, its run_id": ("questions", 1),
        "another input, its run_id": InvalidArgumentError,
    },
    "quarantined": {
        **dict.fromkeys(CALLS, ThreadQuarantinedError),
        "another input, its run_id": InvalidArgumentError,
    },
}
"""For each status and call: the word of the result and how many runs there are afterwards, or what
is raised.
"""


async def called(run: Any, way: str, given: Any, **options: Any) -> Any:
    if way == "ainvoke":
        return await run.ainvoke(given, **options)
    result: dict[str, Any] = {}
    async for mode, chunk in run.astream(given, stream_mode=["values", "updates"], **options):
        if mode == "values":
            result.update(chunk)
        elif "__interrupt__" in chunk:
            result["__interrupt__"] = list(chunk["__interrupt__"])
    return result


@pytest.fixture
def work() -> Work:
    return Work()


@contextlib.contextmanager
def dying(dies: bool) -> Iterator[None]:
    """The process dies, if it does: how an attempt ends is not recorded."""

    async def gone(attempt: Attempt, error: BaseException | None) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        if dies:
            patch.setattr(Attempt, "close", gone)
        yield


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
@pytest.mark.parametrize("status", TABLE)
async def test_a_call_does_what_its_cell_says(
    durable: Durable, ledger: Ledger, dsn: str, work: Work, status: str, way: str
) -> None:
    for call, expected in TABLE[status].items():
        with dying(status == "crashed"):
            await left(durable, work, status, dsn, call)
        await assert_cell(durable, ledger, work, status, way, call, expected)


async def assert_cell(
    durable: Durable, ledger: Ledger, work: Work, status: str, way: str, call: str, expected: Any
) -> None:
    before = await ledger.rows(call)
    work.ran.clear()
    run_id, given = CALLS[call]
    async with durable.run(call, work.graph(), run_id=run_id and f"{run_id} of {call}") as run:
        if isinstance(expected, type):
            with pytest.raises(expected):
                await called(run, way, given)
            assert work.ran == [], call
            assert await ledger.rows(call) == before, call
            return
        result = await called(run, way, given)
    word, runs = expected
    rows = await ledger.rows(call)
    assert len(rows) == runs, call
    if word == "questions":
        assert [question.value for question in result["__interrupt__"]] == ["sure?"], call
        assert (result["word"], work.ran, rows) == ("a", [], before), call
        return
    assert result["word"] == word, call
    assert {row["status"] for row in rows} == {"complete"}, call
    assert run.resumed is (status not in ("new", "complete") and runs == 1), call
    finished_a = 0 if status == "new" and word == "b" else 2 if word == "a" and runs == 2 else 1
    assert result["trail"].count("second a") == finished_a, call


@pytest.mark.parametrize(
    "status", [status for status in TABLE if status not in ("new", "complete")]
)
async def test_restart_gives_the_unfinished_run_up_also_one_that_asks(
    durable: Durable, ledger: Ledger, dsn: str, work: Work, status: str
) -> None:
    with dying(status == "crashed"):
        await left(durable, work, status, dsn)
    async with durable.run("t", work.graph()) as run:
        result = await run.ainvoke(B, on_unfinished="restart")
    assert result["word"] == "b"
    assert work.ran == ["first b", "second b"]
    assert sorted(await ledger.statuses("t")) == ["complete", "superseded"]
    with pytest.raises(RunCancelledError, match=f"given up for run {run.run_id}"):
        await durable.runs.wait("A of t")
    async with durable.run("t", work.graph(), run_id="A of t") as run:
        with pytest.raises(InvalidArgumentError, match="given up"):
            await run.ainvoke(A)


@pytest.mark.parametrize(
    ("ends", "raised"), [("fails", ValueError), ("asks", ThreadInterruptedError)]
)
async def test_where_the_unfinished_run_does_not_finish_nothing_of_the_new_one_was_accepted(
    durable: Durable, ledger: Ledger, dsn: str, work: Work, ends: str, raised: type[Exception]
) -> None:
    await left(durable, work, "failed", dsn)

    async def again() -> None:
        if ends == "asks":
            interrupt("sure?")
        raise ValueError("broken again")

    work.at, work.does = "a", again
    async with durable.run("t", work.graph(), run_id="B") as run:
        with pytest.raises(raised):
            await run.ainvoke(B)
    assert [row["run_id"] for row in await ledger.rows("t")] == ["A of t"]
    assert work.ran == ["second a"]


async def test_an_unfinished_run_that_comes_to_a_gate_takes_no_other_input(
    durable: Durable, ledger: Ledger, dsn: str, work: Work
) -> None:
    await left(durable, work, "drained", dsn)
    gated = work.graph().compile(interrupt_before=["second"])
    async with durable.run("t", gated, run_id="B") as run:
        with pytest.raises(ThreadPausedError) as refused:
            await run.ainvoke(B)
    assert refused.value.pending == ("second",)
    assert [row["run_id"] for row in await ledger.rows("t")] == ["A of t"]


@pytest.mark.parametrize("paused", ["recursion limit", "fork"])
async def test_what_no_person_stopped_takes_no_input_and_goes_on_when_it_is_resumed(
    durable: Durable, paused: str
) -> None:
    graph, thread_id = chain(a=ok("a"), b=ok("b"), c=ok("c")), "t"
    async with durable.run("t", graph, config={"recursion_limit": 2}) as run:
        with pytest.raises(GraphRecursionError):
            await run.ainvoke({"xs": []})
    if paused == "fork":
        thread_id = (await durable.threads.fork("t", "f")).thread_id
    assert not (await durable.threads.status(thread_id)).resumable
    with pytest.raises(ThreadPausedError):
        async with durable.run(thread_id, graph) as run:
            await run.ainvoke({"xs": ["other"]})
    assert (await durable.threads.resume(thread_id, graph, config={"recursion_limit": 9}))[
        "xs"
    ] == ["a", "b", "c"]


async def test_the_questions_come_in_the_requested_shape(
    durable: Durable, dsn: str, work: Work
) -> None:
    await left(durable, work, "interrupted", dsn)
    async with durable.run("t", work.graph(), run_id="A of t") as run:
        output = await run.ainvoke(A, version="v2")
    assert [question.value for question in output.interrupts] == ["sure?"]
    assert output.value["word"] == "a"


async def test_a_message_that_langgraph_has_given_an_id_is_still_the_same_input(
    durable: Durable,
) -> None:
    from langchain_core.messages import HumanMessage
    from langgraph.graph import MessagesState

    broken = True
    ran = 0

    async def reply(state: MessagesState) -> dict[str, Any]:
        nonlocal ran
        ran += 1
        if broken:
            raise ValueError("broken")
        return {"messages": [("ai", "hello")]}

    graph = StateGraph(MessagesState).add_node(reply).add_edge(START, "reply")
    given = {"messages": [HumanMessage("hi")]}
    async with durable.run("t", graph) as run:
        with pytest.raises(ValueError, match="broken"):
            await run.ainvoke(given)
    assert given["messages"][0].id is not None
    broken = False
    async with durable.run("t", graph) as run:
        result = await run.ainvoke(given)
        assert run.resumed
    assert [message.content for message in result["messages"]] == ["hi", "hello"]


@pytest.mark.parametrize("graph", [{"report": 1}, ["report"], None, len], ids=repr)
async def test_what_is_no_graph_is_refused_by_its_type(durable: Durable, graph: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot run a {type(graph).__name__}"):
        durable.run("t", graph)


@pytest.mark.parametrize("graphs", [chain(a=ok("a")), [chain(a=ok("a"))]])
async def test_graphs_without_names_are_refused_with_what_to_write(graphs: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass a dict of them by name"):
        Durable("postgresql://localhost/app", graphs=graphs)
