"""An answer reaches the question it was given to, once, or none at all."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.types import Command, interrupt

from aiodurable.durable import Durable
from aiodurable.errors import (
    AlreadyAnsweredError,
    InvalidArgumentError,
    NothingToAnswerError,
    ThreadInterruptedError,
    ThreadNotFoundError,
)
from tests.programs.answering_process import QUESTIONS, SHAPES, answer_and_die, answering
from tests.support.ledger_view import Ledger
from tests.support.scenario_graphs import BREAKS, GRAPHS, asks, chain, fan, ok
from tests.support.scenarios import Thread, exit_code
from tests.support.waiting import until_free

INPUT: dict[str, Any] = {"xs": []}
UNKNOWN = "0" * 32

Shape = pytest.mark.parametrize("shape", SHAPES)


async def starts(durable: Durable, graph: Any, thread_id: str = "t") -> str:
    """Start it, and give the id of its question."""
    async with durable.run(thread_id, graph) as run:
        await run.ainvoke(INPUT)
        return run.checkpoint.interrupts[0].id


async def answers(durable: Durable, graph: Any, value: Any, thread_id: str = "t") -> Any:
    """Wait for the thread: who had it may just have been killed, and its session not be over
    yet.
    """
    async with durable.run(thread_id, graph, on_busy="wait", timeout=30.0) as run:
        return await run.answer(value)


async def asked(durable: Durable, thread_id: str = "t") -> list[Any]:
    return [question.value for question in (await durable.threads.status(thread_id)).interrupts]


@Shape
async def test_the_same_bare_answer_again_never_reaches_the_next_question(
    durable: Durable, shape: str
) -> None:
    graph = answering(shape)
    paid = await starts(durable, graph)
    await answers(durable, graph, "yes")
    with pytest.raises(AlreadyAnsweredError) as error:
        await answers(durable, graph, "yes")
    assert error.value.interrupt_ids == (paid,)
    assert error.value.answered_at is not None
    assert abs(datetime.now(UTC) - error.value.answered_at).total_seconds() < 600
    assert await asked(durable) == ["Delete the account?"]
    assert (await answers(durable, graph, "no"))["xs"][-2:] == ["yes", "no"]


@Shape
async def test_the_same_answer_by_id_again_returns_what_came_of_it(
    durable: Durable, shape: str
) -> None:
    graph = answering(shape)
    paid = await starts(durable, graph)
    first = await answers(durable, graph, {paid: "yes"})
    assert await answers(durable, graph, {paid: "yes"}) == first
    assert (
        [question.value for question in first["__interrupt__"]]
        == await asked(durable)
        == ["Delete the account?"]
    )
    with pytest.raises(AlreadyAnsweredError, match=paid):
        await answers(durable, graph, {paid: "no"})
    (deleted,) = (await durable.threads.status("t")).interrupts
    done = await answers(durable, graph, {deleted.id: "no"})
    assert done["xs"][-2:] == ["yes", "no"]
    for again in ({paid: "yes"}, {deleted.id: "no"}, {paid: "yes", deleted.id: "no"}, "no"):
        assert await answers(durable, graph, again) == done
    for other in ({paid: "no"}, {deleted.id: "yes"}, "maybe"):
        with pytest.raises(AlreadyAnsweredError):
            await answers(durable, graph, other)


async def test_a_late_delivery_never_reaches_a_question_of_the_next_run(durable: Durable) -> None:
    graph = chain(ask=asks("Pay 12?"))
    paid = await starts(durable, graph)
    first = await answers(durable, graph, {paid: "yes"})
    await starts(durable, graph)
    assert await answers(durable, graph, {paid: "yes"}) == first, (
        "the result of the run that it answered"
    )
    with pytest.raises(AlreadyAnsweredError):
        await answers(durable, graph, "yes")
    assert await asked(durable) == ["Pay 12?"]


async def test_one_body_may_give_the_same_answer_to_one_question_after_another(
    durable: Durable,
) -> None:
    async with durable.run("t", answering("root")) as run:
        await run.ainvoke(INPUT)
        await run.answer("yes")
        assert (await run.answer("yes"))["xs"] == ["a", "yes", "yes"]


async def test_an_answer_to_a_question_that_is_not_open_is_refused(durable: Durable) -> None:
    graph = answering("root")
    with pytest.raises(ThreadNotFoundError):
        await answers(durable, graph, "yes")
    await starts(durable, graph)
    with pytest.raises(NothingToAnswerError) as error:
        await answers(durable, graph, {UNKNOWN: "yes"})
    assert error.value.interrupt_ids == (UNKNOWN,)
    async with durable.run("over", chain(a=ok("a"))) as run:
        await run.ainvoke(INPUT)
        with pytest.raises(NothingToAnswerError):
            await run.answer("yes")
    assert await asked(durable) == ["Pay 12?"]


async def test_several_questions_want_a_dict_of_ids(durable: Durable) -> None:
    graph = fan(asks("b?"), asks("c?"))
    await starts(durable, graph)
    b, c = (await durable.threads.status("t")).interrupts
    with pytest.raises(ThreadInterruptedError, match=f"{b.id}|{c.id}") as error:
        await answers(durable, graph, "yes")
    assert {question.id for question in error.value.interrupts} == {b.id, c.id}
    await answers(durable, graph, {c.id: "sea"})
    assert await asked(durable) == ["b?"]
    assert sorted((await answers(durable, graph, "bee"))["xs"]) == ["a", "bee", "d", "sea"]
    await starts(durable, graph, "both")
    both = {
        question.id: question.value
        for question in (await durable.threads.status("both")).interrupts
    }
    assert sorted((await answers(durable, graph, both, "both"))["xs"]) == ["a", "b?", "c?", "d"]


@pytest.mark.parametrize(
    "answer", [{"approved": True}, {}, {UNKNOWN: 1, "and": 2}, None, False, 0, ""]
)
async def test_an_answer_that_names_no_interrupts_stays_as_it_is(
    durable: Durable, answer: Any
) -> None:
    async def ask(state: Any) -> dict[str, Any]:
        return {"xs": [repr(interrupt("q?"))]}

    graph = chain(ask=ask)
    await starts(durable, graph)
    assert (await answers(durable, graph, answer))["xs"] == [repr(answer)]


async def test_an_answer_that_cannot_be_stored_leaves_the_question_open(
    durable: Durable, ledger: Ledger
) -> None:
    graph = answering("root")
    await starts(durable, graph)
    async with durable.run("t", graph) as run:
        for bad in (object(), 2**70, {"deep": lambda: None}):
            with pytest.raises(InvalidArgumentError):
                await run.answer(bad)
            assert run.checkpoint.status == "interrupted"
        await run.answer("yes")
    assert await asked(durable) == ["Delete the account?"]
    assert await ledger.statuses("t") == ["interrupted"]


async def killed_while_answering(durable: Durable, dsn: str, shape: str, value: Any) -> None:
    """Returns once the server knows that the process is gone."""
    assert await exit_code(answer_and_die, dsn, shape, value) == -signal.SIGKILL
    await until_free(durable, "t")


@Shape
async def test_an_answer_survives_the_process_that_took_it(
    durable: Durable, dsn: str, shape: str
) -> None:
    """LangGraph stores an answer by id once its node has used it; this process died before."""
    graph = answering(shape)
    paid = await starts(durable, graph)
    await killed_while_answering(durable, dsn, shape, "yes")
    told = await durable.threads.status("t")
    assert (told.status, told.interrupts, told.pending) == ("crashed", (), ("ask",))
    for other in ("no", {paid: "no"}):
        with pytest.raises(AlreadyAnsweredError):
            await answers(durable, graph, other)
    async with durable.run("t", graph) as run:
        await run.ainvoke()
    assert await asked(durable) == ["Delete the account?"]
    assert (await answers(durable, graph, "no"))["xs"][-2:] == ["yes", "no"]


@Shape
@pytest.mark.parametrize("by_id", [True, False], ids=["by id", "bare"])
async def test_an_answer_whose_process_died_may_be_delivered_again(
    durable: Durable, dsn: str, shape: str, by_id: bool
) -> None:
    graph = answering(shape)
    paid = await starts(durable, graph)
    value = {paid: "yes"} if by_id else "yes"
    await killed_while_answering(durable, dsn, shape, value)
    await answers(durable, graph, value)
    assert await asked(durable) == ["Delete the account?"]
    assert (await answers(durable, graph, "no"))["xs"][-2:] == ["yes", "no"]


async def test_an_answer_that_a_failing_node_did_not_come_to_is_kept_for_its_retry(
    durable: Durable,
) -> None:
    graph = GRAPHS["ask_when_mended"](durable.checkpointer)
    await starts(durable, graph)
    BREAKS.add("ask")
    with pytest.raises(ValueError, match="broken"):
        await answers(durable, graph, "yes")
    told = await durable.threads.status("t")
    assert (told.status, told.error) == ("failed", "ValueError('broken')")
    BREAKS.clear()
    assert (await durable.threads.retry("t", graph))["xs"] == ["yes"]


@pytest.mark.parametrize("inside", [False, True])
async def test_an_answer_that_a_node_took_before_it_failed_never_reaches_its_next_question(
    durable: Durable, inside: bool
) -> None:
    """LangGraph has stored it; it would deliver it a second time, to whichever question is next."""
    broken = True

    async def node(state: Any) -> dict[str, Any]:
        first = interrupt("first?")
        if broken:
            raise ZeroDivisionError
        return {"xs": [first, interrupt("second?")]}

    graph = chain(node=node)
    if inside:
        graph = chain(outer=graph.compile())
    question = await starts(durable, graph)
    with pytest.raises(ZeroDivisionError):
        await answers(durable, graph, {question: "yes"})
    broken = False
    async with durable.run("t", graph) as run:
        await run.ainvoke()
    assert await asked(durable) == ["second?"]
    assert (await answers(durable, graph, "no"))["xs"] == ["yes", "no"]


async def test_a_cancelled_answer_is_kept(durable: Durable) -> None:
    reached = asyncio.Event()

    async def slow(state: Any) -> dict[str, Any]:
        if reached.is_set():
            return {"xs": [str(interrupt("q?"))]}
        if state["xs"]:
            reached.set()
            await asyncio.Event().wait()
        return {"xs": [str(interrupt("q?"))]}

    graph = chain(a=ok("a"), ask=slow)
    reached.set()
    await starts(durable, graph)
    reached.clear()
    call = asyncio.create_task(answers(durable, graph, "yes"))
    await reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    told = await durable.threads.status("t")
    assert (told.status, told.interrupts) == ("paused", ())
    async with durable.run("t", graph) as run:
        assert (await run.ainvoke())["xs"] == ["a", "yes"]


@dataclass
class Form:
    yes: bool


async def test_an_answer_that_its_schema_refuses_changes_nothing(
    durable: Durable, ledger: Ledger
) -> None:
    async def ask(state: Any) -> dict[str, Any]:
        return {"xs": [str(interrupt("q?", response_schema=Form).yes)]}

    for graph in (chain(ask=ask), chain(ask=chain(j=ask).compile())):
        thread_id = f"t{id(graph)}"
        paid = await starts(durable, graph, thread_id)
        before = await durable.threads.status(thread_id)
        for refused in ("no form", {paid: "no form"}, "no form"):
            with pytest.raises(ValueError, match="validation error"):
                await answers(durable, graph, refused, thread_id)
            told = await durable.threads.status(thread_id)
            assert (told.status, told.interrupts) == ("interrupted", before.interrupts)
            assert (told.attempts, told.error) == (before.attempts, None)
            assert await ledger.statuses(thread_id) == ["interrupted"]
        assert (await answers(durable, graph, {"yes": True}, thread_id))["xs"] == ["True"]


SHAPES_THAT_ASK_TWICE = {
    "ask_twice": ["q1?", "q2?"],
    "subgraph_asking_in_two_nodes": ["q1?", "q2?"],
    "subgraph_asking_twice": ["q1?", "q2?"],
    "called_subgraph_asking_twice": ["q1?", "q2?"],
    "subgraph_called_twice_asking": ["q?", "between?"],
    "sent_subgraph_asking_twice": ["q1?", "q2?"],
    "deep_subgraph_asking_twice": ["q1?", "q2?"],
    "subgraph_with_memory_asking_twice": ["q1?", "q2?"],
    "deep_memory_asking_twice": ["q1?", "q2?"],
    "tasks_that_ask": ["q1?", "q2?"],
}


@pytest.mark.parametrize("name", SHAPES_THAT_ASK_TWICE)
async def test_a_second_question_is_asked_in_every_shape(durable: Durable, name: str) -> None:
    graph = GRAPHS[name](durable.checkpointer)
    first, second = SHAPES_THAT_ASK_TWICE[name]
    async with durable.run("t", graph) as run:
        await run.ainvoke("one" if name == "tasks_that_ask" else INPUT)
        assert [question.value for question in run.checkpoint.interrupts] == [first]
    await answers(durable, graph, "yes")
    assert await asked(durable) == [second]
    with pytest.raises(ThreadInterruptedError):
        await durable.threads.resume("t", graph)
    done = await answers(durable, graph, "no")
    told = done if isinstance(done, list) else done["xs"]
    assert [word for word in told if word in ("yes", "no")] == ["yes", "no"]
    assert (await durable.threads.status("t")).status == "complete"


@pytest.mark.parametrize("name", SHAPES_THAT_ASK_TWICE)
@pytest.mark.parametrize("by_id", [True, False], ids=["by id", "bare"])
async def test_plain_langgraph_killed_at_each_write_of_an_answer_has_answered_one_question(
    durable: Durable, dsn: str, name: str, by_id: bool
) -> None:
    """Rows of the same question lie in several graphs, and are written one after the other."""
    graph = GRAPHS[name](durable.checkpointer)
    first, second = SHAPES_THAT_ASK_TWICE[name]
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        for at in range(4):
            thread = Thread(dsn, saver, f"t{at}", name)
            await thread.run("one" if name == "tasks_that_ask" else INPUT)
            (question,) = (await thread.state()).interrupts
            answer: Command[Any] = Command(resume={question.id: "yes"} if by_id else "yes")
            if not await thread.killed_or_done(answer, at):
                return
            if (await durable.threads.status(f"t{at}")).status != "interrupted":
                async with durable.run(f"t{at}", graph) as run:
                    await run.ainvoke()
            elif await asked(durable, f"t{at}") == [first]:
                await answers(durable, graph, {question.id: "yes"}, f"t{at}")
            assert await asked(durable, f"t{at}") == [second], f"killed after write {at}"
            done = await answers(durable, graph, "no", f"t{at}")
            told = done if isinstance(done, list) else done["xs"]
            assert [word for word in told if word in ("yes", "no")] == ["yes", "no"]


async def test_an_answer_of_plain_langgraph_is_never_given_to_a_third_question(
    durable: Durable, dsn: str
) -> None:
    """It stays stored beside the checkpoint, for whichever question of the step finds no other
    answer.
    """
    graph = chain(ask=asks("q1?", "q2?", "q3?"))
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        plain, config = graph.compile(checkpointer=saver), {"configurable": {"thread_id": "t"}}
        await plain.ainvoke(INPUT, config)  # pyright: ignore[reportArgumentType]
        await plain.ainvoke(Command(resume="one"), config)  # pyright: ignore[reportArgumentType]
    await answers(durable, graph, "two")
    assert await asked(durable) == ["q3?"]


OF_NO_TASK = "00000000-0000-0000-0000-000000000000"


class LateSaver(AsyncPostgresSaver):
    """Commits the answer of no task after what a task did with it, as the stock saver may: it
    serialises in threads.
    """

    written = asyncio.Event()

    async def aput_writes(
        self, config: Any, writes: Any, task_id: str, task_path: str = ""
    ) -> None:
        if task_id == OF_NO_TASK:
            await self.written.wait()
        await super().aput_writes(config, writes, task_id, task_path)
        self.written.set()


async def test_an_answer_of_plain_langgraph_that_is_stored_late_is_given_to_no_other_question(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = chain(ask=asks("q1?", "q2?", "q3?"))
    async with LateSaver.from_conn_string(dsn) as saver:
        plain, config = graph.compile(checkpointer=saver), {"configurable": {"thread_id": "t"}}
        await plain.ainvoke(INPUT, config)  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(LateSaver, "written", asyncio.Event())
        await plain.ainvoke(Command(resume="one"), config)  # pyright: ignore[reportArgumentType]
    assert await asked(durable) == ["q2?"]
    async with durable.run("t", graph) as run:
        with pytest.raises(ThreadInterruptedError):
            await run.ainvoke()
    await answers(durable, graph, "two")
    assert await asked(durable) == ["q3?"]


async def test_an_answer_of_plain_langgraph_that_one_node_took_is_not_given_to_another(
    durable: Durable, dsn: str
) -> None:
    """Its process died when one branch had used the answer and the other had not asked yet."""
    asking = asyncio.Event()

    async def late(state: Any) -> dict[str, Any]:
        if not asking.is_set():
            raise ValueError("not yet")
        return {"xs": [str(interrupt("c?"))]}

    graph = fan(asks("b?"), late)
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        plain, config = graph.compile(checkpointer=saver), {"configurable": {"thread_id": "t"}}
        for given in (INPUT, Command(resume="yes")):
            with pytest.raises(ValueError, match="not yet"):
                await plain.ainvoke(given, config)  # pyright: ignore[reportArgumentType]
    asking.set()
    async with durable.run("t", graph) as run:
        await run.ainvoke()
    assert await asked(durable) == ["c?"]


async def test_a_thread_of_plain_langgraph_remembers_its_answers_too(
    durable: Durable, dsn: str
) -> None:
    graph = answering("subgraph")
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await graph.compile(checkpointer=saver).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
    (paid,) = (await durable.threads.status("t")).interrupts
    first = await answers(durable, graph, {paid.id: "yes"})
    assert await answers(durable, graph, {paid.id: "yes"}) == first
    with pytest.raises(AlreadyAnsweredError):
        await answers(durable, graph, "yes")
    assert await asked(durable) == ["Delete the account?"]


@pytest.mark.parametrize("how", ["killed", "plain"])
@pytest.mark.parametrize("shape", ["root", "subgraph"])
async def test_a_fork_of_a_thread_that_died_before_it_took_an_answer_has_the_answer(
    durable: Durable, dsn: str, shape: str, how: str
) -> None:
    graph = answering(shape)
    if how == "killed":
        await starts(durable, graph)
        await killed_while_answering(durable, dsn, shape, "yes")
    else:
        async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
            thread = Thread(
                dsn, saver, "t", "ask_twice" if shape == "root" else "subgraph_asking_twice"
            )
            await thread.start()
            await thread.killed(Command(resume="yes"), 0, after=True)
        graph = GRAPHS[thread.name](durable.checkpointer)
    forked = await durable.threads.fork("t", "copy")
    assert (forked.status, forked.interrupts) == ("paused", ())
    async with durable.run("copy", graph) as run:
        await run.ainvoke()
        assert [question.value for question in run.checkpoint.interrupts] == (
            ["Delete the account?"] if how == "killed" else ["q2?"]
        )


@pytest.mark.parametrize("name", ["ask_twice", "subgraph_asking_twice"])
async def test_a_fork_asks_what_its_source_asks_now(durable: Durable, dsn: str, name: str) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        thread = Thread(dsn, saver, "t", name)
        await thread.start()
        await thread.answer("yes")
        forked = await durable.threads.fork("t", "copy")
        assert [question.value for question in forked.interrupts] == ["q2?"]
        copy = Thread(dsn, saver, "copy", name)
        await copy.run()  # plain LangGraph would give the answer that the first question took
        assert [question.value for question in (await copy.state()).interrupts] == ["q2?"]


PATHS_WITHOUT_AN_ANSWER = {
    "nothing": {},
    "an input": {"input": INPUT},
    "a goto": {"input": Command(goto="z")},
    "an update": {"input": Command(update={"xs": ["u"]})},
    "raise": {"input": INPUT, "on_unfinished": "raise"},
    "retry": {"on_unfinished": "retry"},
}


@pytest.mark.parametrize("path", PATHS_WITHOUT_AN_ANSWER)
async def test_an_interrupted_thread_goes_on_by_an_answer_alone(
    durable: Durable, dsn: str, path: str
) -> None:
    graph = answering("subgraph")
    await starts(durable, graph)
    await answers(durable, graph, "yes")
    before = await durable.threads.status("t")
    async with durable.run("t", graph) as run:
        with pytest.raises(ThreadInterruptedError):
            await run.ainvoke(**PATHS_WITHOUT_AN_ANSWER[path])
        with pytest.raises(ThreadInterruptedError):
            async for _ in run.astream(**PATHS_WITHOUT_AN_ANSWER[path]):
                pass
    with pytest.raises(ThreadInterruptedError):
        await durable.threads.retry("t", graph)
    with pytest.raises(ThreadInterruptedError):
        await durable.threads.resume("t", graph)
    after = await durable.threads.status("t")
    assert (after.interrupts, after.checkpoint_id) == (before.interrupts, before.checkpoint_id)


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (Command(goto="c"), ["a", "b", "c", "c"]),
        (Command(update={"xs": ["u"]}, goto="c"), ["a", "b", "c", "u", "c"]),
    ],
    ids=["goto", "update"],
)
async def test_a_command_on_unfinished_work_waits_for_it_and_is_not_dropped(
    durable: Durable, command: Any, result: list[str]
) -> None:
    graph = chain(a=ok("a"), b=ok("b"), c=ok("c"))
    BREAKS.add("b")
    async with durable.run("t", graph) as run:
        with pytest.raises(ValueError, match="broken"):
            await run.ainvoke(INPUT)
        BREAKS.clear()
        assert (await run.ainvoke(command))["xs"] == result


async def test_a_run_that_stopped_before_a_join_is_not_complete(durable: Durable) -> None:
    """Its last checkpoint starts nothing but the join, and no task has written on it."""
    graph = fan(ok("b"), ok("c"))
    async with durable.run("t", graph) as run:
        await run.ainvoke(INPUT, interrupt_before=["d"])
        assert run.checkpoint.status == "paused"
    assert (await durable.threads.status("t")).status == "paused"
    async with durable.run("t", graph) as run:
        assert sorted((await run.ainvoke())["xs"]) == ["a", "b", "c", "d"]


@Shape
async def test_every_question_of_the_run_is_in_the_answers_stream_too(
    durable: Durable, shape: str
) -> None:
    graph = answering(shape)
    paid = await starts(durable, graph)
    async with durable.run("t", graph) as run:
        chunks = [chunk async for chunk in run.astream(Command(resume={paid: "yes"}))]
    assert chunks
    assert await asked(durable) == ["Delete the account?"]
    assert QUESTIONS[1] in str(chunks[-1])
