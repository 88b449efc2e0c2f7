"""`fork`: a new thread from a checkpoint of another, which stays as it is."""

from __future__ import annotations

from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.errors import InvalidUpdateError
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from aiodurable.durable import Durable
from aiodurable.errors import (
    CheckpointNotFoundError,
    GraphNotRegisteredError,
    InvalidArgumentError,
    LeaseLostError,
    LockTimeoutError,
    ThreadNotFoundError,
    WorkflowAlreadyRunningError,
    WorkflowExecutionError,
)
from aiodurable.postgres import locked_rows, pool_connection
from aiodurable.runs import fork
from tests.support.ledger_view import Ledger
from tests.support.scenario_graphs import BREAKS, GRAPHS, State, chain, fan, ok
from tests.support.waiting import wait_until, within

INPUT: dict[str, Any] = {"xs": []}


def abc() -> StateGraph[Any, Any, Any, Any]:
    return chain(a=ok("a"), b=ok("b"), c=ok("c"))


async def ran(durable: Durable, graph: Any, thread_id: str = "t", given: Any = INPUT) -> Any:
    async with durable.run(thread_id, graph) as run:
        return await run.ainvoke(given)


async def broken(durable: Durable, graph: Any, *nodes: str) -> None:
    BREAKS.update(nodes)
    with pytest.raises(ValueError, match="broken"):
        await ran(durable, graph)
    BREAKS.clear()


async def goes_on(durable: Durable, graph: Any, thread_id: str) -> list[str]:
    async with durable.run(thread_id, graph) as run:
        return (await run.ainvoke())["xs"]


def rows(dsn: str, thread_id: str = "t") -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return [
            connection.execute(f"SELECT t::text, t.xmin::text FROM {table} t WHERE thread_id = %s ORDER BY 1", [thread_id])
            .fetchall()
            for table in ("checkpoints", "checkpoint_writes", "checkpoint_blobs", "aiodurable_runs", "aiodurable_fences")
        ]  # fmt: skip


async def test_a_fork_of_a_complete_thread_is_complete_and_takes_a_new_turn(
    durable: Durable, ledger: Ledger
) -> None:
    await ran(durable, abc())
    forked = await durable.threads.fork("t", "copy")
    assert (forked.thread_id, forked.status) == ("copy", "complete")
    assert await ledger.statuses("copy") == ["complete"]
    assert await ran(durable, abc(), "copy", {"xs": ["more"]}) == {
        "xs": ["a", "b", "c", "more", "a", "b", "c"]
    }
    assert (await ran(durable, abc(), "t", None))["xs"] == [
        "a",
        "b",
        "c",
    ], "the source took no turn"


@pytest.mark.parametrize(
    ("point", "pending", "result"),
    [
        ({"before": "a"}, "a", ["a", "b", "c"]),
        ({"before": "b"}, "b", ["a", "b", "c"]),
        ({"before": "c"}, "c", ["a", "b", "c"]),
        ({"from_step": 0}, "a", ["a", "b", "c"]),
        ({"from_step": 2}, "c", ["a", "b", "c"]),
        ({"before": "b", "values": {"xs": ["u"]}}, "b", ["a", "u", "b", "c"]),
        ({"before": "a", "values": {"xs": ["u"]}}, "a", ["u", "a", "b", "c"]),
        ({"before": "b", "values": {"xs": ["u"]}, "as_node": "b"}, "c", ["a", "u", "c"]),
        ({"from_step": 1, "values": {"xs": ["u"]}}, "b", ["a", "u", "b", "c"]),
    ],
    ids=str,
)
async def test_a_fork_from_an_earlier_step_is_paused_and_runs_on(
    durable: Durable,
    dsn: str,
    ledger: Ledger,
    point: dict[str, Any],
    pending: str,
    result: list[str],
) -> None:
    graph = abc()
    await ran(durable, graph)
    before = rows(dsn)
    forked = await durable.threads.fork("t", "copy", graph=graph, **point)
    assert (forked.status, forked.pending) == ("paused", (pending,))
    assert forked.reason is not None
    assert "forked from thread 't'" in forked.reason
    assert await durable.threads.status("copy") == forked
    assert await goes_on(durable, graph, "copy") == result
    [row] = await ledger.rows("copy")
    assert (row["status"], row["attempts"], row["run_id"]) == ("complete", 1, forked.run_id)
    assert rows(dsn) == before, "the source is as it was, to the row"


async def test_a_fork_begins_at_the_checkpoint_it_is_given_and_gets_a_name_of_its_own(
    durable: Durable,
) -> None:
    graph = abc()
    await ran(durable, graph)
    steps = [step async for step in durable.threads.history("t")]
    one, other = [
        await durable.threads.fork("t", checkpoint_id=steps[1].checkpoint_id) for _ in range(2)
    ]
    assert one.thread_id != other.thread_id
    assert (one.checkpoint_id, one.step, one.pending) == (steps[1].checkpoint_id, 2, ("c",))
    assert [step.checkpoint_id async for step in durable.threads.history(one.thread_id)] == [
        steps[1].checkpoint_id
    ]


async def test_a_fork_of_a_failed_thread_keeps_what_finished_beside(durable: Durable) -> None:
    graph = fan(ok("b"), ok("c"))
    await broken(durable, graph, "b")
    forked = await durable.threads.fork("t", "copy")
    assert (forked.status, forked.failed_node, forked.pending) == ("failed", "b", ("b",))
    assert sorted(await goes_on(durable, graph, "copy")) == ["a", "b", "c", "d"]
    anew = await durable.threads.fork("t", "anew", before="b")
    assert (anew.status, anew.pending) == ("paused", ("b", "c"))
    assert (await durable.threads.fork("t", "beside", before="c")).pending == ("b", "c")
    assert sorted(await goes_on(durable, graph, "anew")) == ["a", "b", "c", "d"]


async def test_a_failure_that_was_mended_is_none_in_the_fork(durable: Durable, dsn: str) -> None:
    """The error's row is never cleared; only its transaction shows that a later attempt succeeded."""
    graph = fan(ok("b"), ok("c"))
    await broken(durable, graph, "b", "c")
    BREAKS.add("c")
    with pytest.raises(ValueError, match="c is broken"):
        await durable.threads.retry("t", graph)
    BREAKS.clear()
    forked = await durable.threads.fork("t", "copy")
    assert (forked.status, forked.failed_node, forked.pending) == ("failed", "c", ("c",))


async def test_a_fork_of_an_interrupted_thread_asks_and_is_answered_apart(durable: Durable) -> None:
    async def ask(state: Any) -> dict[str, Any]:
        return {"xs": [str(interrupt("q?"))]}

    graph = chain(a=ok("a"), ask=ask)
    await ran(durable, graph)
    forked = await durable.threads.fork("t", "copy")
    assert (forked.status, [asked.value for asked in forked.interrupts]) == ("interrupted", ["q?"])
    for thread_id, answer in (("copy", "no"), ("t", "yes")):
        async with durable.run(thread_id, graph) as run:
            assert (await run.answer(answer))["xs"] == ["a", answer]
    anew = await durable.threads.fork("t", before="ask")
    async with durable.run(anew.thread_id, graph) as run:
        await run.ainvoke()
        assert run.checkpoint.status == "interrupted", "the old answer is not given again"


def nested(**options: Any) -> StateGraph[Any, Any, Any, Any]:
    return chain(a=ok("a"), inner=chain(i=ok("i"), j=ok("j")).compile(**options), z=ok("z"))


@pytest.mark.parametrize("options", [{}, {"checkpointer": True}], ids=["", "with a memory"])
async def test_a_fork_goes_on_inside_the_subgraph_that_failed(
    durable: Durable, options: Any
) -> None:
    graph = nested(**options)
    await broken(durable, graph, "j")
    await durable.threads.fork("t", "copy")
    BREAKS.add("i")  # it has finished: it must not run again
    assert set(await goes_on(durable, graph, "copy")) == {"a", "i", "j", "z"}


async def test_a_fork_remembers_what_its_subgraphs_remembered_then(durable: Durable) -> None:
    async def count(state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state.get("n", 0) + 1}

    class Inner(TypedDict):
        n: int

    class Outer(TypedDict):
        seen: int

    inner = (
        StateGraph(Inner)
        .add_node("count", count)
        .add_edge(START, "count")
        .compile(checkpointer=True)
    )

    async def call(state: Any) -> dict[str, Any]:
        return {"seen": (await inner.ainvoke({}))["n"]}

    graph = StateGraph(Outer).add_node("call", call).add_edge(START, "call")
    for turn in (1, 2, 3):
        assert (await ran(durable, graph, given={"seen": 0}))["seen"] == turn
    turns = [step async for step in durable.threads.history("t") if "call" in step.nodes]
    after_one = await durable.threads.fork("t", checkpoint_id=turns[2].checkpoint_id)
    assert after_one.status == "complete"
    assert (await ran(durable, graph, after_one.thread_id, {"seen": 0}))["seen"] == 2
    assert (await ran(durable, graph, given={"seen": 0}))["seen"] == 4, (
        "the source's memory is its own"
    )


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"before": "b"},
        {"before": "a"},
        {"from_step": 4},
        {"before": "b", "values": {"xs": ["u"]}},
    ],
)
async def test_a_thread_whose_state_hangs_on_its_history_takes_it_along(
    durable: Durable, point: dict[str, Any]
) -> None:
    graph = GRAPHS["delta"](durable.checkpointer)
    await ran(durable, graph, given={"xs": ["one"]})
    assert (await ran(durable, graph, given={"xs": ["two"]}))["xs"] == [
        "one",
        "a",
        "b",
        "two",
        "a",
        "b",
    ]
    await durable.threads.fork("t", "copy", graph=graph, **point)
    expected = ["one", "a", "b", "two", "a", *point.get("values", {}).get("xs", []), "b"]
    assert await goes_on(durable, graph, "copy") == expected
    assert (await ran(durable, graph, "copy", {"xs": ["three"]}))["xs"] == [
        *expected,
        "three",
        "a",
        "b",
    ]


async def test_a_fork_has_nothing_of_a_branch_that_was_left(durable: Durable) -> None:
    """langgraph#8443: the writes of both branches lie beside the checkpoint at which they part."""
    graph = GRAPHS["delta"](durable.checkpointer)
    await ran(durable, graph, given={"xs": ["one"]})
    config: Any = {"configurable": {"thread_id": "t"}}
    (before_b,) = [
        state.config async for state in graph.aget_state_history(config) if state.next == ("b",)
    ]
    async with durable.hold("t"):
        await graph.aupdate_state(before_b, {"xs": ["u"]})
    assert await goes_on(durable, graph, "t") == ["one", "a", "u", "b"]
    await durable.threads.fork("t", "copy")
    for thread_id in ("t", "copy"):
        state = await graph.aget_state({"configurable": {"thread_id": thread_id}})
        assert state.values["xs"] == ["one", "a", "u", "b"]
        after = await ran(durable, graph, thread_id, {"xs": ["two"]})
        assert after["xs"] == ["one", "a", "u", "b", "two", "a", "b"]


async def test_a_fork_of_a_thread_that_hangs_on_its_history_is_answered_apart(
    durable: Durable,
) -> None:
    graph = GRAPHS["delta_asking"](durable.checkpointer)
    await ran(durable, graph, given={"xs": ["one"]})
    await durable.threads.fork("t", "copy")
    for thread_id, answer in (("copy", "no"), ("t", "yes")):
        async with durable.run(thread_id, graph) as run:
            await run.answer(answer)
            assert [question.value for question in run.checkpoint.interrupts] == ["q2?"]
        await durable.threads.fork(thread_id, f"{thread_id} again")
        for again in (thread_id, f"{thread_id} again"):
            async with durable.run(again, graph) as run:
                (question,) = run.checkpoint.interrupts
                assert (await run.answer({question.id: "end"}))["xs"] == ["one", "a", answer, "end"]
            state = await graph.aget_state({"configurable": {"thread_id": again}})
            assert state.values["xs"] == ["one", "a", answer, "end"]


async def test_a_fork_of_what_plain_langgraph_wrote(durable: Durable, dsn: str) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await abc().compile(checkpointer=saver).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
    forked = await durable.threads.fork("t", before="b")
    assert (forked.status, forked.graph) == ("paused", None)
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        config: Any = {"configurable": {"thread_id": forked.thread_id}}
        assert (await abc().compile(checkpointer=saver).ainvoke(None, config))["xs"] == [
            "a",
            "b",
            "c",
        ]


async def test_a_fork_keeps_the_graphs_name_and_the_context(dsn: str) -> None:
    async def node(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        return {"xs": [f"for {runtime.context['who']}"]}

    graph = chain(a=ok("a"), b=node)
    async with Durable(dsn, graphs={"work": graph}) as durable:
        async with durable.run("t", "work", context={"who": "Ada"}) as run:
            await run.ainvoke(INPUT)
        forked = await durable.threads.fork("t", before="b", values={"xs": ["u"]})
        assert forked.graph == "work"
        assert (await durable.threads.resume(forked.thread_id))["xs"] == ["a", "u", "for Ada"]


async def test_a_fork_waits_for_a_conditional_edge_that_takes_long(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_connection, "_SILENCE_S", 0.5)
    slow = False

    async def route(state: Any) -> str:
        if slow:
            await wait_until(lambda: has_rested(dsn), what="the fork's transaction to rest")
        return "b"

    graph = StateGraph(State).add_node("a", ok("a")).add_node("b", ok("b")).add_edge(START, "a")
    graph.add_conditional_edges("a", route, ["b"])
    async with Durable(dsn, graphs={"work": graph}) as durable:
        await ran(durable, "work")
        slow = True
        forked = await durable.threads.fork("t", before="b", values={"xs": ["u"]}, as_node="a")
        assert forked.pending == ("b",)


async def has_rested(dsn: str) -> bool:
    """Whether it did for two seconds, or was ended before."""
    query = (
        "SELECT coalesce(max(now() - state_change), '1h') > '2s' FROM pg_stat_activity"
        " WHERE datname = current_database() AND state = 'idle in transaction'"
    )
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (await connection.execute(query)).fetchone()
    return row is not None and bool(row[0])


async def test_a_fork_may_be_made_while_the_source_runs(durable: Durable) -> None:
    graph = chain(a=ok("a"), b=ok("b"))
    async with durable.run("t", graph) as run:
        await run.ainvoke(INPUT, interrupt_before=["b"])
        forked = await durable.threads.fork("t")
        assert forked.pending == ("b",)
    assert await goes_on(durable, graph, forked.thread_id) == ["a", "b"]


async def test_what_cannot_be_forked_is_refused_and_leaves_nothing(
    durable: Durable, dsn: str, ledger: Ledger
) -> None:
    graph = abc()
    await ran(durable, graph)
    await ran(durable, graph, "taken")
    with pytest.raises(ThreadNotFoundError, match="nothing is known of it; check the id$"):
        await durable.threads.fork("nobody", "copy")
    for point in ({"checkpoint_id": "1ef"}, {"before": "nowhere"}, {"from_step": 99}):
        with pytest.raises(CheckpointNotFoundError):
            await durable.threads.fork("t", "copy", **point)
    with pytest.raises(InvalidArgumentError, match="one place"):
        await durable.threads.fork("t", "copy", before="b", from_step=1)
    for name in ("taken", "t"):
        with pytest.raises(WorkflowExecutionError, match="another thread_id"):
            await durable.threads.fork("t", name)
    async with durable.hold("copy"):
        with pytest.raises(WorkflowAlreadyRunningError):
            await durable.threads.fork("t", "copy")
    with pytest.raises(GraphNotRegisteredError):
        await durable.threads.fork("t", "copy", values={"xs": []})
    with pytest.raises(InvalidUpdateError):
        await durable.threads.fork("t", "copy", graph=graph, values={"xs": []}, as_node="nowhere")
    assert not any(rows(dsn, "copy")[:4])
    assert await ledger.rows("copy") == []


async def test_a_fork_whose_lease_was_taken_over_leaves_nothing(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ran(durable, abc())
    create_thread = fork.create_thread

    def too_late(database: Any, fence: Any, **options: Any) -> Any:
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "UPDATE aiodurable_fences SET token = token + 1 WHERE thread_id = 'copy'"
            )
        return create_thread(database, fence, **options)

    monkeypatch.setattr(fork, "create_thread", too_late)
    with pytest.raises(LeaseLostError):
        await durable.threads.fork("t", "copy")
    assert not any(rows(dsn, "copy")[:4])


async def test_a_fork_waits_for_a_locked_row_a_bounded_time_and_leaves_nothing(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ran(durable, abc())
    create_thread = fork.create_thread
    with psycopg.connect(dsn) as other:

        def locked(database: Any, fence: Any, **options: Any) -> Any:
            other.execute("SELECT FROM aiodurable_fences WHERE thread_id = 'copy' FOR UPDATE")
            return create_thread(database, fence, **options)

        with monkeypatch.context() as during:
            during.setattr(fork, "create_thread", locked)
            during.setattr(locked_rows, "PATIENCE_S", 0.3)
            with pytest.raises(LockTimeoutError, match="cannot fork thread 't' to thread 'copy'"):
                await within(10, durable.threads.fork("t", "copy"))
        assert not any(rows(dsn, "copy")[:4])
        other.rollback()
    assert (await durable.threads.fork("t", "copy")).status == "complete"
