"""Every thread has its true status: real graphs make the scenarios, people wrote the truth, and the
table also has the result of `aget_state`.

The threads are plain LangGraph's, without ledger and lock, and the reader has no graph. Where the
tables do not show the truth (`blind`), the table says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.runtime import RunControl
from langgraph.types import Command, Send

from aiodurable.runs.threads import Threads
from tests.support import scenario_graphs
from tests.support.kill_each_write import EACH_WRITE
from tests.support.langgraph_statuses import assert_agrees, read
from tests.support.matrix_page import PAGE, page
from tests.support.scenario_graphs import BREAKS
from tests.support.scenarios import (
    SCENARIOS,
    Scenario,
    Thread,
    checkpoint_id,
    scenario,
    stock_status,
)

START_AGAIN = {"xs": ["again"]}


# ---- one node after another ---------------------------------------------------------------------


@scenario("linear", "new")
async def nobody_began(t: Thread) -> None: ...


@scenario("linear", "complete")
async def ran_through(t: Thread) -> None:
    await t.start()


@scenario("silent", "complete")
async def ran_through_without_a_word(t: Thread) -> None:
    await t.start()


@scenario("linear", "complete")
async def ran_through_async(t: Thread) -> None:
    await t.start(durability="async")


@scenario("linear", "complete")
async def ran_through_on_exit(t: Thread) -> None:
    await t.start(durability="exit")


@scenario("linear", "complete")
async def ran_twice(t: Thread) -> None:
    await t.start()
    await t.run(START_AGAIN)


@scenario("linear", "new")
async def killed_before_the_first_write(t: Thread) -> None:
    await t.killed({"xs": []}, 0)


@scenario("linear", "crashed", "__start__")
async def killed_after_the_input(t: Thread) -> None:
    await t.killed({"xs": []}, 0, after=True)


@scenario("linear", "crashed", stock="complete")
async def killed_when_the_input_was_written(t: Thread) -> None:
    await t.killed({"xs": []}, 1, after=True)


@scenario("linear", "crashed", "a")
async def killed_before_the_first_node(t: Thread) -> None:
    await t.killed({"xs": []}, 2, after=True)


@scenario("linear", "crashed", stock="complete")
async def killed_between_a_node_and_its_checkpoint(t: Thread) -> None:
    await t.killed({"xs": []}, 3, after=True)


@scenario("silent", "crashed", stock="complete")
async def killed_between_a_silent_node_and_its_checkpoint(t: Thread) -> None:
    await t.killed({"xs": []}, 3, after=True)


@scenario("linear", "crashed", "b")
async def killed_before_the_last_node(t: Thread) -> None:
    await t.killed({"xs": []}, 4, after=True)


@scenario("linear", "crashed", stock="complete")
async def killed_before_the_last_checkpoint(t: Thread) -> None:
    await t.killed({"xs": []}, 5, after=True)


@scenario("linear", "complete")
async def killed_after_the_last_checkpoint(t: Thread) -> None:
    await t.killed({"xs": []}, 6, after=True)


@scenario("linear", "complete")
async def killed_before_the_second_turn_was_written(t: Thread) -> None:
    await t.start()
    await t.killed(START_AGAIN, 0)


@scenario("linear", "crashed", "__start__")
async def killed_after_the_second_turns_input(t: Thread) -> None:
    await t.start()
    await t.killed(START_AGAIN, 0, after=True)


@scenario("linear", "crashed", stock="complete")
async def killed_in_async(t: Thread) -> None:
    await t.killed({"xs": []}, 1, after=True, durability="async")


@scenario("linear", "new")
async def killed_on_exit(t: Thread) -> None:
    await t.killed({"xs": []}, 0, durability="exit")


@scenario("linear", "failed", "a", failed_node="a")
async def first_node_failed(t: Thread) -> None:
    BREAKS.add("a")
    await t.start()


@scenario("linear", "failed", "b", failed_node="b")
async def last_node_failed(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()


@scenario("linear", "failed", "b", failed_node="b")
async def node_failed_async(t: Thread) -> None:
    BREAKS.add("b")
    await t.start(durability="async")


@scenario("linear", "failed", "b", failed_node="b")
async def node_failed_on_exit(t: Thread) -> None:
    BREAKS.add("b")
    await t.start(durability="exit")


@scenario("linear", "failed", "b", failed_node="b")
async def node_failed_twice(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    await t.run()


@scenario("linear", "complete")
async def node_failed_and_was_mended(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    BREAKS.clear()
    await t.run()


@scenario("linear", "complete")
async def node_failed_and_the_thread_started_again(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    BREAKS.clear()
    await t.run(START_AGAIN)


@scenario("linear", "crashed", stock="failed")
async def node_failed_and_its_retry_was_killed_before_the_checkpoint(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    await t.killed(None, 0, after=True)


@scenario("with_retry", "complete")
async def node_failed_and_its_policy_retried(t: Thread) -> None:
    await t.start()


@scenario("linear_slow", "crashed", "b")
async def cancelled_in_a_node(t: Thread) -> None:
    await t.cancelled({"xs": []}, scenario_graphs.STARTED)


@scenario("linear_slow", "crashed", "b")
async def cancelled_in_a_node_async(t: Thread) -> None:
    await t.cancelled({"xs": []}, scenario_graphs.STARTED, durability="async")


@scenario("linear_slow", "crashed", "b")
async def cancelled_in_a_node_on_exit(t: Thread) -> None:
    await t.cancelled({"xs": []}, scenario_graphs.STARTED, durability="exit")


@scenario("linear", "paused", "__start__", stock="crashed", blind="crashed")
async def drained(t: Thread) -> None:
    control = RunControl()
    control.request_drain("shutdown")
    await t.start(control=control)


@scenario("linear", "paused", "a", stock="crashed", blind="crashed")
async def breakpoint_before_every_node(t: Thread) -> None:
    await t.start(interrupt_before="*")


@scenario("linear", "paused", "b", stock="crashed", blind="crashed")
async def breakpoint_before(t: Thread) -> None:
    await t.start(interrupt_before=["b"])


@scenario("linear", "paused", "b", stock="crashed", blind="crashed")
async def breakpoint_after(t: Thread) -> None:
    await t.start(interrupt_after=["a"])


@scenario("linear", "paused", "b", stock="crashed", blind="crashed")
async def recursion_limit(t: Thread) -> None:
    await t.start(config={"recursion_limit": 1})


# ---- side by side -------------------------------------------------------------------------------


@scenario("fan_out", "complete")
async def branches_joined(t: Thread) -> None:
    await t.start()


@scenario("fan_out", "failed", "b", failed_node="b")
async def one_branch_failed(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()


@scenario("fan_out", "failed", "b", "c", failed_node="b")
async def both_branches_failed(t: Thread) -> None:
    BREAKS.update("bc")
    await t.start()


@scenario("fan_out", "failed", "d", failed_node="d")
async def node_after_the_join_failed(t: Thread) -> None:
    BREAKS.add("d")
    await t.start()


@scenario("fan_out_slow", "failed", "b", "c", failed_node="b")
async def one_branch_failed_and_the_other_was_cancelled(t: Thread) -> None:
    await t.start()


@scenario("fan_out_both_slow", "crashed", "b", "c", stock="failed")
async def cancelled_in_two_branches(t: Thread) -> None:
    await t.cancelled({"xs": []}, scenario_graphs.STARTED)


@scenario("fan_out", "crashed", "b", "c")
async def killed_before_the_branches(t: Thread) -> None:
    await t.killed({"xs": []}, 4, after=True)


@scenario("fan_out", "crashed", "c")
async def killed_when_one_branch_had_written(t: Thread) -> None:
    await t.killed({"xs": []}, 5, after=True)


@scenario("fan_out", "crashed", stock="complete")
async def killed_when_both_branches_had_written(t: Thread) -> None:
    await t.killed({"xs": []}, 6, after=True)


@scenario("fan_out", "crashed", "d")
async def killed_at_the_join(t: Thread) -> None:
    await t.killed({"xs": []}, 7, after=True)


@scenario("fan_out_uneven", "crashed", "c2")
async def killed_when_one_of_two_had_reached_the_join(t: Thread) -> None:
    await t.killed({"xs": []}, 7, after=True)


@scenario("fan_out", "complete")
async def branch_failed_and_was_mended(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    BREAKS.clear()
    await t.run()


@scenario("fan_out", "failed", "d", failed_node="d")
async def branch_failed_and_was_mended_and_the_join_failed(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    BREAKS.symmetric_difference_update("bd")
    await t.run()


@scenario("fan_out_asks", "interrupted", "b", questions=["b?"])
async def one_branch_asks(t: Thread) -> None:
    await t.start()


@scenario("fan_out_both_ask", "interrupted", "b", "c", questions=["b?", "c?"])
async def both_branches_ask(t: Thread) -> None:
    await t.start()


@scenario("fan_out_both_ask", "interrupted", "c", questions=["c?"])
async def one_of_two_questions_was_answered(t: Thread) -> None:
    await t.start()
    state = await t.state()
    first = next(i for i in state.interrupts if i.value == "b?")
    await t.run(Command(resume={first.id: "yes"}))


@scenario("fan_out_both_ask", "complete")
async def both_questions_were_answered(t: Thread) -> None:
    await t.start()
    await t.run(Command(resume={i.id: "yes" for i in (await t.state()).interrupts}))


# ---- Send, routers, Command ---------------------------------------------------------------------


@scenario("sends", "complete")
async def sends_came_back(t: Thread) -> None:
    await t.start()


@scenario("sends", "failed", "part", failed_node="part")
async def one_send_failed(t: Thread) -> None:
    BREAKS.add("part")
    await t.start()


@scenario("sends", "crashed", "part", "part", "part")
async def killed_before_the_sends(t: Thread) -> None:
    await t.killed({"xs": []}, 4, after=True)


@scenario("sends", "crashed", "part", "part")
async def killed_when_one_send_had_written(t: Thread) -> None:
    await t.killed({"xs": []}, 5, after=True)


@scenario("sends", "crashed", stock="complete")
async def killed_when_all_sends_had_written(t: Thread) -> None:
    await t.killed({"xs": []}, 7, after=True)


@scenario("sends_asking", "interrupted", "part", questions=["part 1?"])
async def one_send_asks(t: Thread) -> None:
    await t.start()


@scenario("router_goes_on", "complete")
async def router_went_on(t: Thread) -> None:
    await t.start()


@scenario("router_ends", "complete")
async def router_ended(t: Thread) -> None:
    await t.start()


@scenario("router_goes_on", "crashed", "b")
async def killed_after_the_router(t: Thread) -> None:
    await t.killed({"xs": []}, 4, after=True)


@scenario("router_raises", "failed", "a", failed_node="a")
async def router_raised(t: Thread) -> None:
    await t.start()


@scenario("router_raises_at_start", "failed", "__start__", failed_node="__start__")
async def router_raised_at_the_start(t: Thread) -> None:
    await t.start()


@scenario("router_raises_beside_others", "failed", "b", failed_node="b")
async def router_raised_in_one_branch(t: Thread) -> None:
    await t.start()


@scenario("command_goto", "complete")
async def node_commanded(t: Thread) -> None:
    await t.start()


@scenario("command_goto", "crashed", "b")
async def killed_after_a_node_commanded(t: Thread) -> None:
    await t.killed({"xs": []}, 4, after=True)


@scenario("command_goto", "failed", "b", failed_node="b")
async def commanded_node_failed(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()


@scenario("command_goto_send", "failed", "b", "b", failed_node="b")
async def commanded_sends_failed(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()


@scenario("linear", "crashed", "b", stock="complete")
async def killed_after_a_command_from_outside(t: Thread) -> None:
    await t.start()
    await t.killed(Command(goto="b"), 0, after=True)


@scenario("linear", "crashed", "b", stock="complete")
async def killed_after_a_send_from_outside(t: Thread) -> None:
    await t.start()
    await t.killed(Command(goto=Send("b", {"xs": []})), 0, after=True)


@scenario("linear", "complete")
async def commanded_from_outside(t: Thread) -> None:
    await t.start()
    await t.run(Command(goto="b"))


# ---- deferred -----------------------------------------------------------------------------------


@scenario("deferred", "complete")
async def deferred_ran(t: Thread) -> None:
    await t.start()


@scenario("deferred", "crashed", "b2")
async def killed_before_the_deferred_was_due(t: Thread) -> None:
    await t.killed({"xs": []}, 6, after=True)


@scenario("deferred", "crashed", "d")
async def killed_when_the_deferred_was_due(t: Thread) -> None:
    await t.killed({"xs": []}, 8, after=True)


@scenario("deferred", "failed", "d", failed_node="d")
async def deferred_failed(t: Thread) -> None:
    BREAKS.add("d")
    await t.start()


@scenario("deferred_join", "failed", "d", failed_node="d")
async def deferred_join_failed(t: Thread) -> None:
    BREAKS.add("d")
    await t.start()


# ---- graphs in graphs ---------------------------------------------------------------------------


@scenario("subgraph", "complete")
async def subgraph_ran(t: Thread) -> None:
    await t.start()


@scenario("subgraph", "failed", "inner", failed_node="inner")
async def node_of_a_subgraph_failed(t: Thread) -> None:
    BREAKS.add("j")
    await t.start()


@scenario("subgraph_of_subgraph", "failed", "inner", failed_node="inner")
async def node_of_a_deep_subgraph_failed(t: Thread) -> None:
    BREAKS.add("j")
    await t.start()


@scenario("subgraph", "crashed", "inner")
async def killed_in_a_subgraph(t: Thread) -> None:
    await t.killed({"xs": []}, 8, after=True)


@scenario("subgraph_asking", "interrupted", "inner", questions=["j?"])
async def subgraph_asks(t: Thread) -> None:
    await t.start()


@scenario("subgraph_asking", "complete")
async def subgraph_was_answered(t: Thread) -> None:
    await t.start()
    await t.answer("yes")


def asks_twice(name: str, graph: str, node: str, *questions: str, given: object = None) -> None:
    """The second question of a subgraph, in every way there is to call one: asked, answered, and
    answered in the end.
    """
    begin = {"xs": []} if given is None else given

    @scenario(graph, "interrupted", node, name=f"{name}_asks", questions=questions[:1])
    async def asks(t: Thread) -> None:
        await t.run(begin)

    @scenario(graph, "interrupted", node, name=f"{name}_asks_again", questions=questions[1:])
    async def asks_again(t: Thread) -> None:
        await t.run(begin)
        await t.answer("yes")

    @scenario(
        graph,
        "interrupted",
        node,
        name=f"{name}_asks_again_answered_by_id",
        questions=questions[1:],
    )
    async def asks_again_by_id(t: Thread) -> None:
        await t.run(begin)
        await t.answer_by_id("yes")

    answered = f"{name}_was_answered_twice_and_killed"

    @scenario(graph, "crashed", node, name=answered, stock="interrupted")
    async def killed_when_answered(t: Thread) -> None:
        await t.run(begin)
        await t.answer("yes")
        await t.killed(Command(resume="no"), 0, after=True)

    @scenario(graph, "complete", name=f"{name}_was_answered_twice")
    async def was_answered(t: Thread) -> None:
        await t.run(begin)
        await t.answer("yes")
        await t.answer("no")


asks_twice("subgraph_in_two_nodes", "subgraph_asking_in_two_nodes", "inner", "q1?", "q2?")
asks_twice("subgraph_in_one_node", "subgraph_asking_twice", "inner", "q1?", "q2?")
asks_twice("called_subgraph", "called_subgraph_asking_twice", "inner", "q1?", "q2?")
asks_twice(
    "node_after_its_called_subgraph", "subgraph_called_twice_asking", "inner", "q?", "between?"
)
asks_twice("sent_subgraph", "sent_subgraph_asking_twice", "part", "q1?", "q2?")
asks_twice("deep_subgraph", "deep_subgraph_asking_twice", "inner", "q1?", "q2?")
asks_twice("subgraph_with_memory", "subgraph_with_memory_asking_twice", "inner", "q1?", "q2?")
asks_twice("task", "tasks_that_ask", "story", "q1?", "q2?", given="once")


@scenario("subgraph_asking_side_by_side", "interrupted", "inner", questions=["i1?", "j?"])
async def two_nodes_of_a_subgraph_ask(t: Thread) -> None:
    await t.start()


@scenario("subgraph_asking_side_by_side", "interrupted", "inner", questions=["i2?", "j?"])
async def one_of_two_nodes_of_a_subgraph_asks_again(t: Thread) -> None:
    await t.start()
    first = next(i for i in (await t.state()).interrupts if i.value == "i1?")
    await t.run(Command(resume={first.id: "yes"}))


@scenario("subgraph_with_memory", "complete")
async def subgraph_with_memory_ran_twice(t: Thread) -> None:
    await t.start()
    await t.run(START_AGAIN)


@scenario("subgraph_to_parent", "complete")
async def subgraph_commanded_its_parent(t: Thread) -> None:
    await t.start()


# ---- questions ----------------------------------------------------------------------------------


@scenario("ask", "interrupted", "ask", questions=["q?"])
async def node_asks(t: Thread) -> None:
    await t.start()


@scenario("ask", "interrupted", "ask", questions=["q?"])
async def node_asks_on_exit(t: Thread) -> None:
    await t.start(durability="exit")


@scenario("ask", "interrupted", "ask", questions=["q?"])
async def node_asks_async(t: Thread) -> None:
    await t.start(durability="async")


@scenario("ask", "interrupted", "ask", questions=["q?"])
async def node_asks_in_a_fork(t: Thread) -> None:
    await t.start()
    await t.run(config=(await t.state()).config)


@scenario("ask", "complete")
async def node_was_answered(t: Thread) -> None:
    await t.start()
    await t.answer("yes")


@scenario("ask", "crashed", "ask", stock="interrupted")
async def killed_when_the_answer_was_written(t: Thread) -> None:
    await t.start()
    await t.killed(Command(resume="yes"), 0, after=True)


@scenario("ask", "interrupted", "ask", questions=["q?"])
async def killed_before_the_answer_was_written(t: Thread) -> None:
    await t.start()
    await t.killed(Command(resume="yes"), 0)


@scenario("ask", "crashed", stock=("complete", "interrupted"))
async def killed_when_the_answered_node_had_written(t: Thread) -> None:
    await t.start()
    await t.killed(Command(resume="yes"), 1, after=True)


@scenario("ask_twice", "interrupted", "ask", questions=["q2?"])
async def node_asks_again(t: Thread) -> None:
    await t.start()
    await t.answer("yes")


@scenario("ask_twice", "crashed", "ask", stock="interrupted")
async def killed_when_the_second_answer_was_written(t: Thread) -> None:
    await t.start()
    await t.answer("yes")
    await t.killed(Command(resume="no"), 0, after=True)


@scenario("ask_twice", "interrupted", "ask", questions=["q2?"])
async def killed_when_the_same_answer_was_written_again(t: Thread) -> None:
    """If the stock saver commits the first answer late, its rows look the same; that answer must
    not reach q2.
    """
    await t.start()
    await t.answer("yes")
    await t.killed(Command(resume="yes"), 0, after=True)


@scenario("ask_twice", "complete")
async def both_were_answered(t: Thread) -> None:
    await t.start()
    await t.answer("yes")
    await t.answer("no")


@scenario("ask_then_break", "failed", "ask", failed_node="ask")
async def answered_node_failed(t: Thread) -> None:
    await t.start()
    await t.answer("yes")


@scenario("ask_when_mended", "interrupted", "ask", questions=["q?"], stock="failed")
async def failed_node_was_mended_and_asks(t: Thread) -> None:
    BREAKS.add("ask")
    await t.start()
    BREAKS.clear()
    await t.run()


@scenario("ask_when_mended", "failed", "ask", failed_node="ask")
async def node_failed_before_it_took_the_answer(t: Thread) -> None:
    await t.start()
    BREAKS.add("ask")
    await t.answer("yes")


@scenario("ask_when_mended", "complete")
async def node_failed_before_it_took_the_answer_and_was_mended(t: Thread) -> None:
    await t.start()
    BREAKS.add("ask")
    await t.answer("yes")
    BREAKS.clear()
    await t.run()


@scenario("ask_for_a_form", "failed", "ask", failed_node="ask")
async def answer_was_refused_by_its_schema(t: Thread) -> None:
    await t.start()
    await t.answer("no form")


@scenario("ask_for_a_form", "interrupted", "ask", questions=["q?"], stock="failed")
async def answer_by_id_was_refused_by_its_schema(t: Thread) -> None:
    await t.start()
    await t.answer_by_id("no form")


@scenario("ask", "complete")
async def question_was_left_for_new_input(t: Thread) -> None:
    await t.start()
    await t.run(START_AGAIN)
    await t.answer("yes")


# ---- error handlers -----------------------------------------------------------------------------


@scenario("handled", "complete")
async def failure_was_handled(t: Thread) -> None:
    await t.start()


@scenario("handler_raises", "failed", "a", failed_node="a")
async def handler_failed(t: Thread) -> None:
    await t.start()


@scenario("handled", "crashed", "a", stock="failed")
async def killed_before_the_handler_ran(t: Thread) -> None:
    await t.killed({"xs": []}, 3, after=True)


# ---- functional ---------------------------------------------------------------------------------


@scenario("tasks", "complete")
async def story_ended(t: Thread) -> None:
    await t.run("once")


@scenario("tasks", "failed", "story", failed_node="story")
async def task_failed(t: Thread) -> None:
    BREAKS.add("two")
    await t.run("once")


@scenario("tasks", "complete")
async def task_failed_and_was_mended(t: Thread) -> None:
    BREAKS.add("two")
    await t.run("once")
    BREAKS.clear()
    await t.run()


@scenario("tasks", "crashed", "story")
async def killed_after_a_task(t: Thread) -> None:
    await t.killed("once", 1, after=True)


@scenario("tasks_asking", "interrupted", "story", questions=["q?"])
async def story_asks(t: Thread) -> None:
    await t.run("once")


@scenario("tasks_asking", "complete")
async def story_was_answered(t: Thread) -> None:
    await t.run("once")
    await t.answer("yes")


@scenario("tasks_remembering", "complete")
async def story_ended_twice(t: Thread) -> None:
    await t.run("once")
    await t.run("once more")


# ---- agents -------------------------------------------------------------------------------------

ASK_AGENT = {"messages": [("user", "look there")]}


@scenario("agent", "complete")
async def agent_answered(t: Thread) -> None:
    await t.run(ASK_AGENT)


@scenario("agent", "failed", "tools", failed_node="tools")
async def tool_of_an_agent_failed(t: Thread) -> None:
    BREAKS.add("look")
    await t.run(ASK_AGENT)


@scenario("agent", "crashed", "tools")
async def killed_before_the_tools_of_an_agent(t: Thread) -> None:
    await t.killed(ASK_AGENT, 4, after=True)


@scenario("agent", "paused", "tools", stock="crashed", blind="crashed")
async def breakpoint_before_the_tools_of_an_agent(t: Thread) -> None:
    await t.run(ASK_AGENT, interrupt_before=["tools"])


@scenario("delta", "complete")
async def delta_channel_ran(t: Thread) -> None:
    await t.start()
    await t.run(START_AGAIN)


@scenario("delta", "failed", "b", failed_node="b")
async def node_of_a_delta_channel_failed(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()


@scenario("delta", "crashed", "b")
async def killed_with_a_delta_channel(t: Thread) -> None:
    await t.killed({"xs": []}, 4, after=True)


# ---- what the tables cannot tell ----------------------------------------------------------------


@scenario("raw_pregel", "complete", blind="complete")
async def raw_pregel_ran(t: Thread) -> None:
    await t.run({"xs": ["x"]})


@scenario("raw_pregel", "failed", failed_node="two")
async def raw_pregel_failed(t: Thread) -> None:
    BREAKS.add("two")
    await t.run({"xs": ["x"]})


@scenario("raw_pregel", "crashed", stock="crashed", blind="complete")
async def raw_pregel_was_killed(t: Thread) -> None:
    await t.killed({"xs": ["x"]}, 0, after=True)


# ---- changed by hand ----------------------------------------------------------------------------


@scenario("linear", "crashed", "b")
async def began_by_update(t: Thread) -> None:
    await t.update({"xs": ["u"]}, as_node="a")


@scenario("linear", "complete")
async def updated_as_the_last_node(t: Thread) -> None:
    await t.start()
    await t.update({"xs": ["u"]}, as_node="b")


@scenario("linear", "crashed", "b")
async def updated_as_the_first_node(t: Thread) -> None:
    await t.start()
    await t.update({"xs": ["u"]}, as_node="a")


@scenario("linear", "crashed", "b")
async def values_of_a_failed_thread_were_mended(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    await t.update({"xs": ["u"]})


@scenario("linear", "complete")
async def updated_in_place_of_the_failed_node(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    await t.update({"xs": ["u"]}, as_node="b")


@scenario("linear", "complete")
async def failed_thread_was_closed_by_hand(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    await t.update(None, as_node="__end__")


@scenario("ask", "complete")
async def question_was_closed_by_hand(t: Thread) -> None:
    await t.start()
    await t.update(None, as_node="__end__")


@scenario("ask", "crashed", "z")
async def question_was_answered_by_update(t: Thread) -> None:
    await t.start()
    await t.update({"xs": ["u"]}, as_node="ask")


@scenario("linear", "crashed", "__start__")
async def input_was_updated(t: Thread) -> None:
    await t.start()
    await t.update({"xs": ["u"]}, as_node="__input__")


@scenario("fan_out", "complete")  # an update is a step of its own: what else was due is dropped
async def updated_as_one_of_two_branches(t: Thread) -> None:
    await t.start(interrupt_before=["b", "c"])
    await t.update({"xs": ["u"]}, as_node="b")


@scenario("fan_out", "complete")
async def updated_and_went_on(t: Thread) -> None:
    BREAKS.add("b")
    await t.start()
    await t.update({"xs": ["u"]}, as_node="b")
    BREAKS.clear()
    await t.run()


@scenario("linear", "crashed", "a")
async def forked_by_update_before_the_first_node(t: Thread) -> None:
    await t.start()
    before_a = next(s for s in await t.history() if s.next == ("a",))
    await t.update({"xs": ["u"]}, checkpoint_id=checkpoint_id(before_a))


@scenario("linear", "complete")
async def forked_and_ran_through(t: Thread) -> None:
    await t.start()
    before_a = next(s for s in await t.history() if s.next == ("a",))
    await t.run(config=before_a.config)


@scenario("linear", "failed", "b", failed_node="b")
async def forked_and_failed(t: Thread) -> None:
    await t.start()
    before_a = next(s for s in await t.history() if s.next == ("a",))
    BREAKS.add("b")
    await t.run(config=before_a.config)


@scenario("sends", "crashed", "part", "part", "part")
async def sends_were_made_by_update(t: Thread) -> None:
    await t.update({"xs": ["u"]}, as_node="a")


@scenario("deferred", "crashed", "b")
async def deferred_was_made_by_update(t: Thread) -> None:
    await t.update({"xs": ["u"]}, as_node="a")


SCENARIOS.extend(EACH_WRITE)


# ---- the test -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def not_started() -> None:
    scenario_graphs.STARTED = asyncio.Event()


@pytest.fixture
async def stock(dsn: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        yield saver


@pytest.mark.parametrize("case", SCENARIOS, ids=lambda case: case.name)
async def test_a_thread_has_its_true_status(
    case: Scenario, dsn: str, stock: AsyncPostgresSaver, threads: Threads
) -> None:
    thread = Thread(dsn, stock, case.name, case.graph)
    await case.play(thread)
    told = await threads.status(case.name)
    assert told.status == (case.truth.blind or case.truth.status)
    assert told.pending == tuple(sorted(case.truth.pending))
    assert told.failed_node == case.truth.failed_node
    assert (told.error is None) == (told.status != "failed")
    assert case.truth.blind is None or told.doubt is not None
    # Two nodes of one subgraph are stored in the order in which they asked.
    assert sorted(i.value for i in told.interrupts) == list(case.truth.questions)
    assert_agrees(told, await read(stock, case.name))
    stock_says = case.truth.stock or case.truth.status
    assert stock_status(await thread.state()) in (
        (stock_says,) if isinstance(stock_says, str) else stock_says
    )
    found = [found async for found in threads.search()]
    assert found == ([] if told.status == "new" else [told])
    why = await threads.why(case.name)
    assert why.status == told
    assert str(why)
    # "exit" and "async" of plain LangGraph may leave writes whose checkpoint never came.
    kinds = {one.kind async for one in threads.verify(recheck_s=0)}
    assert kinds <= {"writes_of_no_checkpoint"}


def test_the_page_tells_this_matrix() -> None:
    assert PAGE.read_text() == page(), (
        "rebuild it: python3 dev.py run python -m tests.support.matrix_page"
    )


def test_the_matrix_is_complete() -> None:
    assert len(SCENARIOS) >= 75
    assert len({case.name for case in SCENARIOS}) == len(SCENARIOS)
