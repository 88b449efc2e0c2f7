"""Interrupts as LangGraph counts and checks them since 1.2.12."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, ValidationError

from aiodurable.durable import Durable
from aiodurable.models import ThreadStatus
from tests.support.feature_graphs import EMPTY, answer_to, two_questions
from tests.support.graphs import Story
from tests.support.ledger_view import Ledger
from tests.support.waiting import wait_until


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


STORED = "SELECT count(*) FROM checkpoint_writes WHERE channel = 'words' AND idx > 1"
ROLLED_BACK = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"
ALONE = "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"


async def test_answers_of_several_questions_fail_no_statement(dsn: str) -> None:
    """What a task was answered before is stored already: a plain insert would put an error into the
    server's log, and write all of its batch twice.
    """

    async def ask(state: Story) -> dict[str, Any]:
        return {"words": [interrupt("a"), interrupt("b")]}

    async def ask_later(state: Story) -> dict[str, Any]:
        words = [interrupt("c"), interrupt("d")]
        await wait_until(lambda: db.fetchval(STORED), what="what the other node returned")
        return {"words": words}

    builder = StateGraph(Story).add_node("ask", ask).add_node("ask_later", ask_later)
    for name in ("ask", "ask_later"):
        builder.add_edge(START, name).add_edge(name, END)

    async def answered(durable: Durable) -> None:
        async with durable.run("t", builder) as run:
            result = await run.ainvoke(EMPTY)
            while questions := result.get("__interrupt__"):
                result = await run.answer({each.id: each.value for each in questions})
        assert result["words"] == ["a", "b", "c", "d"]

    async def nothing(durable: Durable) -> None:
        pass

    async def rolled_back(body: Callable[[Durable], Awaitable[None]]) -> int:
        before = await db.fetchval(ROLLED_BACK)
        async with Durable(dsn) as durable:
            await body(durable)
        await wait_until(lambda: db.fetchval(ALONE), what="the backends to count what they did")
        return await db.fetchval(ROLLED_BACK) - before

    db = await asyncpg.connect(dsn)
    try:
        assert await rolled_back(answered) == await rolled_back(nothing)
    finally:
        await db.close()


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
