"""A deploy changes a graph: no unfinished thread is lost, none ends without a word, and what was
renamed goes on.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.errors import GraphRecursionError
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt

from aiodurable.durable import Durable
from aiodurable.errors import GraphChangedError
from aiodurable.models import ThreadStatus
from aiodurable.settings import Settings
from tests.support.ledger_view import Ledger

Builder = StateGraph[Any, Any, Any, Any]


class State(TypedDict, total=False):
    xs: Annotated[list[str], operator.add]


class Switch:
    """What breaks, and whether it does."""

    def __init__(self) -> None:
        self.broken = True


def step(name: str, breaks: Switch | None = None) -> Any:
    async def run(state: State) -> State:
        if breaks is not None and breaks.broken:
            raise ConnectionError(f"{name} has no route")
        return {"xs": [name]}

    return run


def asking(name: str) -> Any:
    async def run(state: State) -> State:
        return {"xs": [f"{name}: {interrupt('sure?')}"]}

    return run


def chain(**nodes: Any) -> Builder:
    """The nodes one after the other."""
    builder = StateGraph(State)
    for name, node in nodes.items():
        builder.add_node(name, node)
    for one, other in zip([START, *nodes], [*nodes, END], strict=True):
        builder.add_edge(one, other)
    return builder


def paying(pay: str, breaks: Switch | None = None) -> Builder:
    return chain(order=step("order"), **{pay: step(pay, breaks)}, ship=step("ship"))


def deployed(dsn: str, graph: Any, **options: Any) -> Durable:
    return Durable(dsn, graphs={"shop": graph}, settings=Settings(), **options)


async def failed_before(dsn: str, graph: Any) -> None:
    """A thread whose node raised."""
    async with deployed(dsn, graph) as durable, durable.run("t", "shop") as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke({"xs": []})


async def interrupted_before(dsn: str, graph: Any) -> None:
    """A thread that waits for an answer."""
    async with deployed(dsn, graph) as durable, durable.run("t", "shop") as run:
        assert (await run.ainvoke({"xs": []}))["__interrupt__"]
    async with deployed(dsn, graph) as durable:
        assert (await durable.threads.status("t")).status is ThreadStatus.INTERRUPTED


async def test_a_thread_before_a_node_that_is_gone_is_refused_and_stays_as_it_was(
    dsn: str, ledger: Ledger
) -> None:
    await failed_before(dsn, paying("pay", Switch()))
    before = await ledger.rows("t")
    async with deployed(dsn, paying("charge")) as durable:
        with pytest.raises(GraphChangedError, match="missing node pay") as refused:
            await durable.threads.resume("t")
        assert refused.value.missing_nodes == ("pay",)
        assert (await durable.threads.status("t")).status is ThreadStatus.FAILED
        assert [found.thread_id async for found in durable.threads.resumable()] == ["t"]
    assert await ledger.rows("t") == before
    async with deployed(dsn, paying("pay")) as durable:
        assert (await durable.threads.resume("t"))["xs"] == ["order", "pay", "ship"]


@pytest.mark.parametrize("options", [{}, {"checkpointer": True}], ids=["", "with a memory"])
async def test_a_node_with_a_subgraph_may_have_a_number_for_its_name(
    dsn: str, options: Any
) -> None:
    """A number in a subgraph's namespace also tells the calls of one task apart."""

    def numbered(last: str, breaks: Switch | None = None) -> Builder:
        inmost = chain(**{last: step(last, breaks)}).compile(**options)
        return chain(**{"1": chain(**{"1": inmost}).compile(**options)})

    await failed_before(dsn, numbered("2", Switch()))
    async with deployed(dsn, numbered("3")) as durable:
        with pytest.raises(GraphChangedError, match="missing node 1/1/2"):
            await durable.threads.resume("t")
    async with deployed(dsn, numbered("2")) as durable:
        assert "2" in (await durable.threads.resume("t"))["xs"]


@pytest.mark.parametrize("options", [{}, {"checkpointer": True}], ids=["", "with a memory"])
async def test_the_second_call_of_a_subgraph_is_checked_as_the_first(
    dsn: str, options: Any
) -> None:
    def calling(last: str, breaks: Switch | None = None) -> Builder:
        inner = chain(**{last: step(last, breaks)}).compile(**options)

        async def twice(state: State) -> State:
            first = await inner.ainvoke({"xs": []})
            if breaks is not None:
                breaks.broken = True
            return {"xs": [*first["xs"], *(await inner.ainvoke({"xs": []}))["xs"]]}

        return chain(twice=twice)

    breaks = Switch()
    breaks.broken = False
    await failed_before(dsn, calling("1", breaks))
    async with deployed(dsn, calling("3")) as durable:
        with pytest.raises(GraphChangedError, match="missing node twice/1"):
            await durable.threads.resume("t")
    async with deployed(dsn, calling("1")) as durable:
        assert (await durable.threads.resume("t"))["xs"] == ["1", "1"]


async def test_an_answer_for_a_node_that_is_gone_is_refused_and_may_be_given_later(
    dsn: str, ledger: Ledger
) -> None:
    await interrupted_before(dsn, chain(order=step("order"), ask=asking("ask")))
    before = await ledger.rows("t")
    async with deployed(dsn, chain(order=step("order"), approve=asking("approve"))) as durable:
        async with durable.run("t", "shop") as run:
            with pytest.raises(GraphChangedError, match="missing node ask"):
                await run.answer("yes")
        found = await durable.threads.status("t")
        assert (found.status, [question.value for question in found.interrupts]) == (
            ThreadStatus.INTERRUPTED,
            ["sure?"],
        )
    assert await ledger.rows("t") == before
    async with (
        deployed(dsn, chain(order=step("order"), ask=asking("ask"))) as durable,
        durable.run("t", "shop") as run,
    ):
        assert (await run.answer("yes"))["xs"] == ["order", "ask: yes"]


def joined(
    *waits_for: str, end: str = "close", breaks: Switch | None = None, middle: str = "right"
) -> Builder:
    """left → a third → close beside right → close, which waits for some of them."""
    builder = StateGraph(State)
    for name in ("left", middle, "third", end):
        builder.add_node(name, step(name, breaks if name in (end, "third") else None))
    for one, other in [(START, "left"), (START, middle), ("left", "third"), (end, END)]:
        builder.add_edge(one, other)
    builder.add_edge(list(waits_for), end) if waits_for else builder.add_edge("third", end)
    return builder


async def test_a_join_that_is_gone_is_refused_also_while_it_waits_for_the_rest(dsn: str) -> None:
    # right has arrived at the join, third failed: without the channel close would never be waited
    # for
    await failed_before(dsn, joined("right", "third", breaks=Switch()))
    async with deployed(dsn, joined("third", "left")) as durable:
        with pytest.raises(GraphChangedError, match="missing channel join:right"):
            await durable.threads.resume("t")
    async with deployed(dsn, joined("right", "third")) as durable:
        assert sorted((await durable.threads.resume("t"))["xs"]) == [
            "close",
            "left",
            "right",
            "third",
        ]


def fanned(part: str, breaks: Switch | None = None) -> Builder:
    builder = StateGraph(State)
    builder.add_node("split", step("split"))

    async def run(item: Any) -> State:
        if item["n"] == 1 and breaks is not None and breaks.broken:
            raise ConnectionError("no route")
        return {"xs": [f"{part} {item['n']}"]}

    builder.add_node(part, run)
    builder.add_node("join", step("join"))
    builder.add_edge(START, "split")
    builder.add_conditional_edges(
        "split", lambda _: [Send(part, {"n": n}) for n in range(3)], [part]
    )
    builder.add_edge(part, "join")
    return builder


async def test_a_send_to_a_node_that_is_gone_is_refused(dsn: str) -> None:
    await failed_before(dsn, fanned("part", Switch()))
    async with deployed(dsn, fanned("piece")) as durable:
        with pytest.raises(GraphChangedError, match="missing node part"):
            await durable.threads.resume("t")


def around(inner: Builder) -> Builder:
    return chain(open=step("open"), inner=inner.compile(), close=step("close"))


async def test_a_node_that_is_gone_from_a_subgraph_is_refused(dsn: str) -> None:
    await failed_before(dsn, around(paying("pay", Switch())))
    async with deployed(dsn, around(paying("charge"))) as durable:
        with pytest.raises(GraphChangedError, match="missing node inner/pay"):
            await durable.threads.resume("t")
    async with deployed(dsn, around(paying("pay"))) as durable:
        assert (await durable.threads.resume("t"))["xs"][-2:] == ["ship", "close"]


async def test_an_entrypoint_under_another_name_is_refused(dsn: str) -> None:
    await interrupted_before(dsn, story("story"))
    async with deployed(dsn, story("tale")) as durable, durable.run("t", "shop") as run:
        with pytest.raises(GraphChangedError, match="missing node story"):
            await run.answer("yes")


def story(name: str) -> Any:
    calls.clear()

    @task
    async def part(n: int) -> str:
        calls.append(n)
        return f"part {n}"

    async def run(start: Any) -> list[str]:
        return [await part(1), str(interrupt("sure?")), await part(2)]

    run.__name__ = name
    return entrypoint()(run)


calls: list[int] = []


async def test_a_thread_of_one_graph_is_not_gone_on_with_by_another(
    dsn: str, ledger: Ledger
) -> None:
    graph = paying("pay", Switch())
    await failed_before(dsn, graph)
    before = await ledger.rows("t")
    async with Durable(
        dsn, graphs={"shop": graph, "other": paying("pay")}, settings=Settings()
    ) as durable:
        async with durable.run("t", "other") as run:
            with pytest.raises(GraphChangedError, match="wrong graph other") as refused:
                await run.ainvoke({"xs": ["new"]})
        assert (refused.value.graph, refused.value.recorded) == ("other", "shop")
    assert await ledger.rows("t") == before


async def test_a_question_whose_node_other_channels_trigger_now_is_not_answered_into_nothing(
    dsn: str,
) -> None:
    def graph(*, waits: bool) -> Builder:
        builder = chain(order=step("order"), ask=asking("ask"))
        if waits:
            builder.add_node("beside", step("beside"))
            builder.add_edge(["order", "beside"], "ask")
        return builder

    await interrupted_before(dsn, graph(waits=False))
    async with deployed(dsn, graph(waits=True)) as durable, durable.run("t", "shop") as run:
        with pytest.raises(GraphChangedError, match="lost question ask"):
            await run.answer("yes")
    async with deployed(dsn, graph(waits=False)) as durable, durable.run("t", "shop") as run:
        assert (await run.answer("yes"))["xs"] == ["order", "ask: yes"]


async def test_new_nodes_edges_and_bodies_are_no_change_that_matters(dsn: str) -> None:
    await failed_before(dsn, paying("pay", Switch()))
    graph = chain(
        check=step("check"),
        order=step("order 2"),
        pay=step("pay"),
        pack=step("pack"),
        ship=step("ship"),
    )
    async with deployed(dsn, graph) as durable:
        assert (await durable.threads.resume("t"))["xs"] == ["order", "pay", "pack", "ship"]


async def test_a_run_that_ends_without_a_word_before_a_node_that_is_gone_failed(
    dsn: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unchecked(services: Any, lease: Any, graph: Any, *args: Any, **options: Any) -> Any:
        return graph

    monkeypatch.setattr("aiodurable.runs.attempt_opener.fitted", unchecked)
    async with deployed(dsn, paying("pay")) as durable:
        async with durable.run("t", "shop", config={"recursion_limit": 1}) as run:
            with pytest.raises(GraphRecursionError):
                await run.ainvoke({"xs": []})
    async with deployed(dsn, paying("charge")) as durable:
        with pytest.raises(GraphChangedError, match="no 'pay'"):
            await durable.threads.resume("t")
        assert (await durable.threads.status("t")).status is ThreadStatus.FAILED
    assert await ledger.statuses("t") == ["failed"]


RENAMED = {"pay": "charge"}


async def test_a_renamed_node_goes_on_with_the_thread_that_stands_before_it(
    dsn: str, ledger: Ledger
) -> None:
    await failed_before(dsn, paying("pay", Switch()))
    async with deployed(dsn, paying("charge"), renamed=RENAMED) as durable:
        assert (await durable.threads.resume("t"))["xs"] == ["order", "charge", "ship"]
        assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
        async with durable.run("t", "shop") as run:
            assert (await run.ainvoke({"xs": ["again"]}))["xs"][-4:] == [
                "again",
                "order",
                "charge",
                "ship",
            ]
    assert await ledger.statuses("t") == ["complete", "complete"]


async def test_a_renamed_node_that_fails_again_is_found_again_and_goes_on_by_the_old_code_too(
    dsn: str,
) -> None:
    await failed_before(dsn, paying("pay", Switch()))
    async with deployed(dsn, paying("charge", Switch()), renamed=RENAMED) as durable:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await durable.threads.resume("t")
            assert (await durable.threads.status("t")).failed_node == "pay"
    async with deployed(dsn, paying("pay")) as durable:  # the deploy is taken back
        assert (await durable.threads.resume("t"))["xs"] == ["order", "pay", "ship"]


async def test_a_renamed_node_gets_the_answer_to_its_question_under_the_old_name(dsn: str) -> None:
    await interrupted_before(dsn, chain(order=step("order"), ask=asking("ask"), ship=step("ship")))
    graph = chain(order=step("order"), approve=asking("approve"), ship=step("ship"))
    async with (
        deployed(dsn, graph, renamed={"shop": {"ask": "approve"}}) as durable,
        durable.run("t", "shop") as run,
    ):
        assert (await run.answer("yes"))["xs"] == ["order", "approve: yes", "ship"]


async def test_sends_to_a_renamed_node_go_on_and_those_that_finished_do_not_run_again(
    dsn: str,
) -> None:
    await failed_before(dsn, fanned("part", Switch()))
    async with deployed(dsn, fanned("piece"), renamed={"part": "piece"}) as durable:
        assert sorted((await durable.threads.resume("t"))["xs"]) == [
            "join",
            "part 0",
            "part 2",
            "piece 1",
            "split",
        ]


@pytest.mark.parametrize("fails", ["third", "close"])
async def test_a_join_of_renamed_nodes_knows_who_has_arrived(dsn: str, fails: str) -> None:
    breaks = Switch()

    def graph(middle: str, end: str, *, broken: bool = False) -> Builder:
        builder = StateGraph(State)
        for name in ("left", middle, "third", end):
            builder.add_node(name, step(name, breaks if broken and name == fails else None))
        for one, other in [(START, "left"), (START, middle), ("left", "third"), (end, END)]:
            builder.add_edge(one, other)
        return builder.add_edge([middle, "third"], end)

    await failed_before(dsn, graph("right", "close", broken=True))
    renamed = {"right": "rightmost", "close": "end"}
    async with deployed(dsn, graph("rightmost", "end"), renamed=renamed) as durable:
        assert sorted((await durable.threads.resume("t"))["xs"]) == [
            "end",
            "left",
            "right",
            "third",
        ]


async def test_a_renamed_node_in_a_subgraph_and_the_renamed_node_around_it_go_on(dsn: str) -> None:
    def graph(inner: str, ask: str) -> Builder:
        sub = chain(order=step("order"), **{ask: asking(ask)}, ship=step("ship"))
        return chain(open=step("open"), **{inner: sub.compile()}, close=step("close"))

    await interrupted_before(dsn, graph("inner", "ask"))
    renamed = {"inner": "nested", "ask": "approve"}
    async with (
        deployed(dsn, graph("nested", "approve"), renamed=renamed) as durable,
        durable.run("t", "shop") as run,
    ):
        assert (await run.answer("yes"))["xs"][-4:] == ["order", "approve: yes", "ship", "close"]


async def test_a_renamed_entrypoint_keeps_what_its_tasks_did(dsn: str) -> None:
    await interrupted_before(dsn, story("story"))
    async with deployed(dsn, tale := story("tale"), renamed={"story": "tale"}) as durable:
        async with durable.run("t", "shop") as run:
            assert await run.answer("yes") == ["part 1", "yes", "part 2"]
        assert calls == [2]
        async with durable.run("u", tale) as run:
            assert (await run.ainvoke({}))["__interrupt__"]
    assert calls == [2, 1]


async def test_a_name_that_is_mapped_to_nothing_is_refused(dsn: str) -> None:
    for renamed in ({"pay": "pay"}, {"pay": 7}, {"shop": {"pay": None}}):
        with pytest.raises(ValueError, match="renamed must map"):
            async with deployed(dsn, paying("charge"), renamed=renamed):
                pass
