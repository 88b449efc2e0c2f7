"""Answers that meet: given at once, in halves, in another's name, or after the thread has moved
on.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from langgraph.types import Command

from aiodurable.durable import Durable
from aiodurable.errors import (
    AlreadyAnsweredError,
    GraphChangedError,
    NothingToAnswerError,
    PostgresUnavailableError,
    ThreadNotFoundError,
)
from aiodurable.runs.answer_rows import AnswerRows
from tests.programs.answering_process import SHAPES, answering
from tests.support.ledger_view import Ledger
from tests.support.scenario_graphs import asks, chain, fan, ok

INPUT: dict[str, Any] = {"xs": []}
UNKNOWN = "0" * 32

Shape = pytest.mark.parametrize("shape", SHAPES)


async def open_questions(durable: Durable, thread_id: str = "t") -> dict[str, str]:
    """The ids of the open questions, by what they ask."""
    found = await durable.threads.status(thread_id)
    return {str(question.value): question.id for question in found.interrupts}


async def starts(durable: Durable, graph: Any, thread_id: str = "t") -> dict[str, str]:
    async with durable.run(thread_id, graph) as run:
        await run.ainvoke(INPUT)
    return await open_questions(durable, thread_id)


async def answers(
    durable: Durable, graph: Any, value: Any, thread_id: str = "t", **options: Any
) -> Any:
    async with durable.run(thread_id, graph, on_busy="wait", timeout=30.0, **options) as run:
        return await run.answer(value)


async def commands(durable: Durable, graph: Any, command: Command[Any]) -> Any:
    async with durable.run("t", graph) as run:
        return await run.ainvoke(command)


@Shape
async def test_of_two_answers_at_once_one_is_taken_and_the_other_hears_of_it(
    durable: Durable, dsn: str, shape: str
) -> None:
    graph = answering(shape)
    paid = (await starts(durable, graph))["Pay 12?"]
    async with Durable(dsn) as other:
        given = [
            answers(one, graph, {paid: value}) for one, value in ((durable, "yes"), (other, "no"))
        ]
        outcomes = await asyncio.gather(*given, return_exceptions=True)
    refused = [isinstance(outcome, AlreadyAnsweredError) for outcome in outcomes]
    assert sorted(refused) == [False, True]
    deleted = (await open_questions(durable))["Delete the account?"]
    taken = "yes" if refused[1] else "no"
    assert (await answers(durable, graph, {deleted: "never"}))["xs"][-2:] == [taken, "never"]


@Shape
async def test_the_same_answer_twice_at_once_is_taken_once(
    durable: Durable, dsn: str, shape: str
) -> None:
    graph = answering(shape)
    paid = (await starts(durable, graph))["Pay 12?"]
    async with Durable(dsn) as other:
        first, second = await asyncio.gather(
            *(answers(one, graph, {paid: "yes"}) for one in (durable, other))
        )
    assert first == second
    assert list(await open_questions(durable)) == ["Delete the account?"]


async def test_half_of_the_questions_may_be_answered_and_the_other_half_stays_open(
    durable: Durable,
) -> None:
    graph = fan(asks("b?"), asks("c?"))
    ids = await starts(durable, graph)
    await answers(durable, graph, {ids["b?"]: "B"})
    assert await open_questions(durable) == {"c?": ids["c?"]}
    with pytest.raises(AlreadyAnsweredError):
        await answers(durable, graph, {ids["b?"]: "other", ids["c?"]: "C"})
    assert await open_questions(durable) == {"c?": ids["c?"]}
    assert (await answers(durable, graph, {ids["b?"]: "B", ids["c?"]: "C"}))["xs"] == [
        "a",
        "B",
        "C",
        "d",
    ]


async def test_a_wrong_id_among_right_ones_refuses_them_all(
    durable: Durable, ledger: Ledger
) -> None:
    graph = fan(asks("b?"), asks("c?"))
    ids = await starts(durable, graph)
    for wrong in ({ids["b?"]: "B", UNKNOWN: "?"}, {UNKNOWN: "?", ids["b?"]: "B"}):
        with pytest.raises(NothingToAnswerError):
            await answers(durable, graph, wrong)
    assert await open_questions(durable) == ids
    assert [row["answered"] for row in await ledger.rows("t")] == [{}]


async def test_what_comes_with_each_of_two_answers_takes_effect_once(durable: Durable) -> None:
    """LangGraph keeps an update beside the checkpoint until the step ends; the second comes beside
    the first.
    """
    graph = fan(asks("b?"), asks("c?"))
    ids = await starts(durable, graph)
    await commands(durable, graph, Command(resume={ids["b?"]: "B"}, update={"xs": ["u1"]}))
    done = await commands(durable, graph, Command(resume={ids["c?"]: "C"}, update={"xs": ["u2"]}))
    assert sorted(done["xs"]) == ["B", "C", "a", "d", "u1", "u2"]


@pytest.mark.parametrize(
    "second", [Command(update={"xs": ["u2"]}), Command(update=[("xs", ["u2"])], goto="d"), None]
)
async def test_what_came_with_an_answer_that_was_not_delivered_is_not_replaced_by_the_next(
    durable: Durable, monkeypatch: pytest.MonkeyPatch, second: Command[Any] | None
) -> None:
    graph = fan(asks("b?"), asks("c?"))
    ids = await starts(durable, graph)
    original = AnswerRows.store

    async def cut(self: AnswerRows, run_id: str, **options: Any) -> None:
        await original(self, run_id, **options)
        raise PostgresUnavailableError("cut")

    with monkeypatch.context() as patched:
        patched.setattr(AnswerRows, "store", cut)
        with pytest.raises(PostgresUnavailableError):
            await commands(durable, graph, Command(resume={ids["b?"]: "B"}, update={"xs": ["u1"]}))
    assert await open_questions(durable) == {"c?": ids["c?"]}
    along: dict[str, Any] = {} if second is None else {"update": second.update, "goto": second.goto}
    done = await commands(durable, graph, Command(resume={ids["c?"]: "C"}, **along))
    xs = [
        "a",
        "u1",
        *([] if second is None else ["u2"]),
        "B",
        "C",
    ]  # LangGraph applies updates first
    assert [x for x in done["xs"] if x != "d"] == xs


async def test_an_answer_in_the_name_of_a_run_that_is_over_reaches_no_question_of_the_next(
    durable: Durable,
) -> None:
    graph = chain(ask=asks("q?"))
    results: list[Any] = []
    for run_id in ("R1", "R2"):
        async with durable.run("t", graph, run_id=run_id) as run:
            await run.ainvoke({"xs": [run_id]})
            if run_id == "R1":
                results.append(await run.answer("yes"))
    second = await open_questions(durable)
    with pytest.raises(AlreadyAnsweredError):
        await answers(durable, graph, "no", run_id="R1")
    with pytest.raises(NothingToAnswerError):
        await answers(durable, graph, {second["q?"]: "no"}, run_id="R1")
    assert await open_questions(durable) == second
    assert await answers(durable, graph, "yes", run_id="R1") == results[0]
    assert await open_questions(durable) == second
    assert (await answers(durable, graph, {second["q?"]: "yes"}, run_id="R2"))["xs"] == [
        "R1",
        "yes",
        "R2",
        "yes",
    ]
    assert await answers(durable, graph, "yes", run_id="R1") == results[0]


@Shape
async def test_a_fork_and_its_source_are_answered_apart(durable: Durable, shape: str) -> None:
    graph = answering(shape)
    await starts(durable, graph)
    await durable.threads.fork("t", "f")
    for thread_id, value in (("f", "no"), ("t", "yes")):
        asked = await open_questions(durable, thread_id)
        await answers(durable, graph, {asked["Pay 12?"]: value}, thread_id)
    for thread_id, value in (("t", "yes"), ("f", "no")):
        asked = await open_questions(durable, thread_id)
        done = await answers(durable, graph, {asked["Delete the account?"]: "never"}, thread_id)
        assert done["xs"][-2:] == [value, "never"]


async def test_an_answer_to_a_deleted_thread_is_refused_also_once_it_asks_again(
    durable: Durable,
) -> None:
    graph = answering("root")
    paid = (await starts(durable, graph))["Pay 12?"]
    await durable.threads.delete("t")
    with pytest.raises(ThreadNotFoundError):
        await answers(durable, graph, {paid: "yes"})
    again = await starts(durable, graph)
    with pytest.raises(NothingToAnswerError):
        await answers(durable, graph, {paid: "yes"})
    assert await open_questions(durable) == again


async def test_an_answer_to_a_run_that_was_given_up_is_refused(durable: Durable) -> None:
    graph = answering("root")
    paid = (await starts(durable, graph))["Pay 12?"]
    async with durable.run("t", graph) as run:
        await run.ainvoke(INPUT, on_unfinished="restart")
    again = await open_questions(durable)
    with pytest.raises(NothingToAnswerError):
        await answers(durable, graph, {paid: "yes"})
    assert await open_questions(durable) == again


async def test_an_answer_to_a_graph_that_lacks_the_node_is_not_taken(
    durable: Durable, ledger: Ledger
) -> None:
    graph = answering("root")
    paid = (await starts(durable, graph))["Pay 12?"]
    with pytest.raises(GraphChangedError):
        await answers(durable, chain(a=ok("a")), {paid: "yes"})
    assert (await open_questions(durable)) == {"Pay 12?": paid}
    assert [row["answered"] for row in await ledger.rows("t")] == [{}]
    await answers(durable, graph, {paid: "yes"})
    assert list(await open_questions(durable)) == ["Delete the account?"]


@pytest.mark.parametrize("durability", ["exit", "async"])
async def test_answers_under_every_durability_are_remembered(
    durable: Durable, durability: Any
) -> None:
    graph = answering("subgraph")
    async with durable.run("t", graph) as run:
        await run.ainvoke(INPUT, durability=durability)
        paid = run.checkpoint.interrupts[0].id
        first = await run.answer({paid: "yes"}, durability=durability)
    assert await answers(durable, graph, {paid: "yes"}) == first
    with pytest.raises(AlreadyAnsweredError):
        await answers(durable, graph, {paid: "no"})
    assert (await answers(durable, graph, "no"))["xs"][-2:] == ["yes", "no"]


async def test_an_answer_whose_stream_was_left_early_is_kept(durable: Durable) -> None:
    graph = chain(ask=asks("q?"), a=ok("a"), b=ok("b"))
    await starts(durable, graph)
    async with (
        durable.run("t", graph) as run,
        aclosing(run.astream(Command(resume="yes"))) as stream,
    ):
        await anext(stream)
    async with durable.run("t", graph) as run:
        assert (await run.ainvoke())["xs"] == ["yes", "a", "b"]
