"""Interrupts as LangGraph counts and checks them since 1.2.12."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, ValidationError

from aiodurable.durable import Durable
from aiodurable.models import ThreadStatus
from tests.support.feature_graphs import EMPTY, answer_to, two_questions
from tests.support.graphs import Story
from tests.support.ledger_view import Ledger


def shown(interrupts: Any) -> list[tuple[str, Any]]:
    return [(each.id, each.value) for each in interrupts]


async def test_two_questions_of_a_node_have_two_ids_and_the_status_shows_langgraphs(
    durable: Durable,
) -> None:
    graph = two_questions()
    ids: list[str] = []
    async with durable.run("t", graph) as run:
        result = await run.ainvoke(EMPTY)
        while questions := result.get("__interrupt__"):
            assert run.checkpoint.status is ThreadStatus.INTERRUPTED
            status = await durable.threads.status("t")
            state = await run.aget_state()
            assert shown(run.checkpoint.interrupts) == shown(questions) == shown(state.interrupts)
            assert shown(status.interrupts) == shown(questions)
            [question] = questions
            ids.append(question.id)
            result = await run.answer({question.id: answer_to(question.value)})
    assert result["words"] == ["first!", "second!", "close"]
    assert len(set(ids)) == 2


async def test_a_retried_node_gets_the_answers_that_it_had(
    durable: Durable, ledger: Ledger
) -> None:
    """Its retry is LangGraph's and no attempt of the run."""
    async with durable.run("t", two_questions()) as run:
        await run.ainvoke(EMPTY)
        result = await run.answer(answer_to("first"))
        assert [each.value for each in result["__interrupt__"]] == ["second"]
        result = await run.answer(answer_to("second"))
    assert result["words"] == ["first!", "second!", "close"]
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"]) == ("complete", 1)


class Decision(BaseModel):
    amount: int


def deciding(beside: Any = None) -> StateGraph[Any, Any, Any, Any]:
    """A node that wants a number, and another one in the same step."""

    async def decide(state: Story) -> dict[str, Any]:
        decision = interrupt("how much?", response_schema=Decision)
        return {"words": [f"{decision.amount}"]}

    async def other(state: Story) -> dict[str, Any]:
        if beside is not None:
            await beside()
        return {"words": ["other"]}

    builder = StateGraph(Story).add_node("decide", decide).add_node("other", other)
    for name in ("decide", "other"):
        builder.add_edge(START, name).add_edge(name, END)
    return builder


async def test_the_schema_of_an_answer_is_in_the_status(durable: Durable) -> None:
    async with durable.run("t", deciding()) as run:
        await run.ainvoke(EMPTY)
    [question] = (await durable.threads.status("t")).interrupts
    assert question.response_schema == Decision.model_json_schema()


async def test_an_answer_that_does_not_fit_leaves_the_question_open(
    durable: Durable, ledger: Ledger
) -> None:
    runs = 0

    async def beside() -> None:
        nonlocal runs
        runs += 1

    graph = deciding(beside)
    async with durable.run("t", graph) as run:
        await run.ainvoke(EMPTY)
        [before] = await ledger.rows("t")
        with pytest.raises(ValidationError):
            await run.answer({"amount": "much"})
        assert run.checkpoint.status is ThreadStatus.INTERRUPTED
    status = await durable.threads.status("t")
    assert (status.status, len(status.interrupts)) == (ThreadStatus.INTERRUPTED, 1)
    [row] = await ledger.rows("t")
    assert row["status"] == "interrupted"
    assert row["attempts"] == before["attempts"]
    async with durable.run("t", graph) as run:
        result = await run.answer({"amount": 12})
    assert result["words"] == ["12", "other"]
    assert runs == 1, "what had finished beside the question ran again"


async def test_a_question_waits_until_what_runs_beside_it_has_finished(durable: Durable) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def beside() -> None:
        asked.set()
        await go_on.wait()

    async def body() -> Any:
        async with durable.run("t", deciding(beside)) as run:
            return await run.ainvoke(EMPTY)

    task = asyncio.create_task(body())
    await asked.wait()
    assert (await durable.threads.status("t")).status is ThreadStatus.RUNNING
    go_on.set()
    assert len((await task)["__interrupt__"]) == 1
