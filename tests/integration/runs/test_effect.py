"""`effect`: done, not begun, or unknown; never silently twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, interrupt
from psycopg.rows import dict_row

from aiodurable import (
    NOT_DONE,
    ConfigurationError,
    Durable,
    InvalidArgumentError,
    LeaseLostError,
    ThreadStatus,
    effect,
    effect_sync,
)
from tests.support.feature_graphs import AT_ONCE, EMPTY
from tests.support.graphs import Story
from tests.support.internals import services_of


class Bank:
    """Counts what it does. `breaks`: it raises this after the charge; `before`: before it."""

    def __init__(self) -> None:
        self.charges = 0
        self.breaks: type[Exception] | None = None
        self.before: type[Exception] | None = None
        self.receipt: Any = None

    def charge(self) -> Any:
        if self.before is not None:
            raise self.before
        self.charges += 1
        if self.breaks is not None:
            raise self.breaks
        return f"receipt {self.charges}" if self.receipt is None else self.receipt

    async def acharge(self) -> Any:
        return self.charge()


class Declined(Exception):
    pass


def single(node: Callable[[Story], Any], **policies: Any) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(Story).add_node("node", node, **policies).add_edge(START, "node")


def paying(way: str, bank: Bank, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    """A node with one effect, in an async or in a sync node."""

    async def node(state: Story) -> dict[str, Any]:
        return {"words": [await effect("charge", bank.acharge, **options)]}

    def plain(state: Story) -> dict[str, Any]:
        return {"words": [effect_sync("charge", bank.charge, **options)]}

    return single(node if way == "async" else plain)


def looking(way: str, found: Any) -> Callable[[], Any]:
    async def look() -> Any:
        return found

    return look if way == "async" else lambda: found


@pytest.fixture
def bank() -> Bank:
    return Bank()


async def rows(dsn: str) -> list[dict[str, Any]]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.cursor(row_factory=dict_row).execute(
            "SELECT thread_id, name, state, answers, result_type, run_id FROM aiodurable_effects"
            " ORDER BY thread_id, name, task"
        )
        return await found.fetchall()


async def states(dsn: str) -> list[str]:
    return [row["state"] for row in await rows(dsn)]


WAYS = pytest.mark.parametrize("way", ["async", "sync"])


@WAYS
async def test_a_side_effect_runs_once_and_its_result_is_kept(
    durable: Durable, dsn: str, bank: Bank, way: str
) -> None:
    broken = True

    async def node(state: Story) -> dict[str, Any]:
        receipt = await effect("charge", bank.acharge)
        if broken:
            raise ZeroDivisionError
        return {"words": [receipt]}

    def plain(state: Story) -> dict[str, Any]:
        receipt = effect_sync("charge", bank.charge)
        if broken:
            raise ZeroDivisionError
        return {"words": [receipt]}

    async with durable.run("t", single(node if way == "async" else plain), run_id="r") as run:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await run.ainvoke(EMPTY)
        broken = False
        assert (await run.ainvoke())["words"] == ["receipt 1"]
    [row] = await rows(dsn)
    assert (row["thread_id"], row["name"], row["state"], row["run_id"]) == (
        "t",
        "charge",
        "done",
        "r",
    )
    assert bank.charges == 1


@WAYS
async def test_nothing_as_a_result_is_a_result(
    durable: Durable, dsn: str, bank: Bank, way: str
) -> None:
    bank.receipt = [None]
    seen: list[Any] = []

    async def nothing() -> None:
        bank.charges += 1

    async def node(state: Story) -> dict[str, Any]:
        seen.append(await effect("note", nothing))
        if len(seen) == 1:
            raise ZeroDivisionError
        return {}

    async with durable.run("t", single(node)) as run:
        with pytest.raises(ZeroDivisionError):
            await run.ainvoke(EMPTY)
        await run.ainvoke()
    assert (seen, bank.charges) == ([None, None], 1)


@WAYS
async def test_before_the_side_effect_runs_a_row_says_that_it_begins(
    durable: Durable, dsn: str, way: str
) -> None:
    seen: list[str] = []

    async def ado() -> str:
        seen.extend(await states(dsn))
        return "done"

    def do() -> str:
        seen.extend(asyncio.run(states(dsn)))
        return "done"

    async def node(state: Story) -> dict[str, Any]:
        return {"words": [await effect("x", ado)]}

    def plain(state: Story) -> dict[str, Any]:
        return {"words": [effect_sync("x", do)]}

    async with durable.run("t", single(node if way == "async" else plain)) as run:
        await run.ainvoke(EMPTY)
    assert seen == ["begun"]
    assert await states(dsn) == ["done"]


@WAYS
async def test_an_exception_leaves_it_unknown_and_a_person_says_that_it_is_done(
    durable: Durable, dsn: str, bank: Bank, way: str
) -> None:
    bank.breaks = ConnectionError
    async with durable.run("t", paying(way, bank)) as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke(EMPTY)
        assert await states(dsn) == ["begun"]
        await run.ainvoke()
        assert run.checkpoint.status is ThreadStatus.INTERRUPTED
        [asked] = run.checkpoint.interrupts
        assert asked.value["effect"] == "charge"
        assert "nobody knows whether it happened" in asked.value["question"]
        assert (await run.answer({"done": True, "result": "by hand"}))["words"] == ["by hand"]
    assert bank.charges == 1
    assert await states(dsn) == ["done"]


@WAYS
async def test_a_person_says_that_it_did_not_happen_and_it_runs_again(
    durable: Durable, dsn: str, bank: Bank, way: str
) -> None:
    bank.breaks = ConnectionError
    async with durable.run("t", paying(way, bank)) as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke(EMPTY)
        await run.ainvoke()
        bank.breaks = None
        assert (await run.answer({"done": False}))["words"] == ["receipt 2"]
    assert await states(dsn) == ["done"]


async def test_an_answer_counts_for_the_try_that_it_was_about(
    durable: Durable, dsn: str, bank: Bank
) -> None:
    """ "It did not happen" was true of the first try; the second one needs an answer of its own."""
    bank.breaks = ConnectionError
    async with durable.run("t", paying("async", bank)) as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke(EMPTY)
        await run.ainvoke()
        with pytest.raises(ConnectionError):
            await run.answer({"done": False})
    assert bank.charges == 2
    async with durable.run("t", paying("async", bank)) as run:
        await run.ainvoke()
        assert run.checkpoint.status is ThreadStatus.INTERRUPTED
        [asked] = run.checkpoint.interrupts
        answer = {asked.id: {"done": True, "result": "second"}}
        assert (await run.answer(answer))["words"] == ["second"]
    assert bank.charges == 2
    [row] = await rows(dsn)
    assert (row["state"], row["answers"]) == ("done", 2)


async def test_the_questions_of_the_node_keep_their_own_answers(
    durable: Durable, bank: Bank
) -> None:
    """LangGraph counts the questions of a task: that of the effect is the first of it, always."""
    bank.breaks = ConnectionError

    async def node(state: Story) -> dict[str, Any]:
        receipt = await effect("charge", bank.acharge)
        return {"words": [receipt, interrupt("ship it?"), interrupt("by whom?")]}

    async with durable.run("t", single(node)) as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke(EMPTY)
        await run.ainvoke()
        await run.answer({"done": True, "result": "paid"})
        [asked] = run.checkpoint.interrupts
        assert asked.value == "ship it?"
        await run.answer("yes")
        result = await run.answer("the post")
    assert result["words"] == ["paid", "yes", "the post"]


async def test_an_answer_of_another_form_is_refused_and_the_question_stays(
    durable: Durable, bank: Bank
) -> None:
    bank.breaks = ConnectionError
    async with durable.run("t", paying("async", bank)) as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke(EMPTY)
        await run.ainvoke()
        with pytest.raises(Exception, match="EffectAnswer"):
            await run.answer("yes")
        assert run.checkpoint.status is ThreadStatus.INTERRUPTED
        assert (await run.answer({"done": True, "result": 1}))["words"] == [1]


@WAYS
@pytest.mark.parametrize("happened", [True, False])
async def test_reconcile_says_whether_it_happened(
    durable: Durable, dsn: str, bank: Bank, way: str, happened: bool
) -> None:
    bank.breaks = ConnectionError
    look = looking(way, "found" if happened else NOT_DONE)
    async with durable.run("t", paying(way, bank, reconcile=look)) as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke(EMPTY)
        bank.breaks = None
        words = (await run.ainvoke())["words"]
    assert words == (["found"] if happened else ["receipt 2"])
    assert await states(dsn) == ["done"]


async def test_a_reconcile_that_fails_leaves_it_unknown(
    durable: Durable, dsn: str, bank: Bank
) -> None:
    async def look() -> Any:
        raise TimeoutError

    bank.breaks = ConnectionError
    async with durable.run("t", paying("async", bank, reconcile=look)) as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke(EMPTY)
        with pytest.raises(TimeoutError):
            await run.ainvoke()
    assert await states(dsn) == ["begun"]
    assert bank.charges == 1


@WAYS
async def test_an_exception_that_says_not_done_lets_it_run_again(
    durable: Durable, dsn: str, bank: Bank, way: str
) -> None:
    bank.before = Declined
    async with durable.run("t", paying(way, bank, not_done=Declined)) as run:
        with pytest.raises(Declined):
            await run.ainvoke(EMPTY)
        assert await states(dsn) == ["not_done"]
        bank.before = None
        assert (await run.ainvoke())["words"] == ["receipt 1"]
    assert await states(dsn) == ["done"]


async def test_a_retried_node_does_not_repeat_it(durable: Durable, bank: Bank) -> None:
    tries = 0

    async def node(state: Story) -> dict[str, Any]:
        nonlocal tries
        receipt = await effect("charge", bank.acharge)
        tries += 1
        if tries < 3:
            raise ConnectionError
        return {"words": [receipt]}

    policy: RetryPolicy = AT_ONCE
    async with durable.run("t", single(node, retry_policy=policy)) as run:
        assert (await run.ainvoke(EMPTY))["words"] == ["receipt 1"]
    assert (tries, bank.charges) == (3, 1)


@WAYS
async def test_a_result_that_cannot_be_stored_loses_nothing(
    durable: Durable, dsn: str, bank: Bank, way: str
) -> None:
    bank.receipt = object()
    async with durable.run("t", paying(way, bank)) as run:
        with pytest.raises(InvalidArgumentError, match="has been run and is recorded as done"):
            await run.ainvoke(EMPTY)
        [row] = await rows(dsn)
        assert (row["state"], row["result_type"]) == ("done", None)
        await run.ainvoke()
        [asked] = run.checkpoint.interrupts
        assert "What did it return?" in asked.value["question"]
    async with durable.run("t", paying(way, bank, reconcile=looking(way, "found"))) as run:
        await run.answer({"done": True, "result": "told"})
        assert run.checkpoint.status is ThreadStatus.COMPLETE
    assert bank.charges == 1


async def test_what_is_done_is_never_run_again_whatever_reconcile_says(
    durable: Durable, bank: Bank
) -> None:
    bank.receipt = object()
    async with durable.run("t", paying("async", bank)) as run:
        with pytest.raises(InvalidArgumentError):
            await run.ainvoke(EMPTY)
    async with durable.run("t", paying("async", bank, reconcile=looking("async", NOT_DONE))) as run:
        with pytest.raises(Exception, match="recorded as done"):
            await run.ainvoke()
    assert bank.charges == 1


async def test_parallel_tasks_have_effects_of_their_own(durable: Durable, bank: Bank) -> None:
    async def node(state: Story) -> dict[str, Any]:
        return {"words": [await effect("charge", bank.acharge)]}

    graph = StateGraph(Story)
    for name in "abc":
        graph.add_node(name, node).add_edge(START, name)
    async with durable.run("t", graph) as run:
        assert len((await run.ainvoke(EMPTY))["words"]) == 3
    assert bank.charges == 3


async def test_several_effects_of_one_node_run_at_once(durable: Durable, bank: Bank) -> None:
    waiting = asyncio.Barrier(3)

    async def do() -> str:
        await waiting.wait()
        return await bank.acharge()

    async def node(state: Story) -> dict[str, Any]:
        return {"words": await asyncio.gather(*(effect(f"charge-{n}", do) for n in range(3)))}

    async with durable.run("t", single(node)) as run:
        assert len((await run.ainvoke(EMPTY))["words"]) == 3


@WAYS
async def test_one_name_for_two_effects_of_a_task_is_refused(
    durable: Durable, bank: Bank, way: str
) -> None:
    async def node(state: Story) -> dict[str, Any]:
        return {"words": [await effect("mail", bank.acharge) for _ in range(2)]}

    def plain(state: Story) -> dict[str, Any]:
        return {"words": [effect_sync("mail", bank.charge) for _ in range(2)]}

    async with durable.run("t", single(node if way == "async" else plain)) as run:
        with pytest.raises(InvalidArgumentError, match="twice in one task"):
            await run.ainvoke(EMPTY)
    assert bank.charges == 1


async def test_it_may_be_tried_again_in_the_node_itself(durable: Durable, bank: Bank) -> None:
    bank.before = Declined

    async def node(state: Story) -> dict[str, Any]:
        try:
            await effect("charge", bank.acharge, not_done=Declined)
        except Declined:
            bank.before = None
        return {"words": [await effect("charge", bank.acharge, not_done=Declined)]}

    async with durable.run("t", single(node)) as run:
        assert (await run.ainvoke(EMPTY))["words"] == ["receipt 1"]


async def test_a_cancellation_leaves_it_unknown(durable: Durable, dsn: str) -> None:
    began = asyncio.Event()

    async def do() -> None:
        began.set()
        await asyncio.Event().wait()

    async def node(state: Story) -> dict[str, Any]:
        await effect("x", do)
        return {}

    async def work() -> None:
        async with durable.run("t", single(node)) as run:
            await run.ainvoke(EMPTY)

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await states(dsn) == ["begun"]


async def test_a_cancellation_while_its_row_is_written_means_that_it_did_not_happen(
    durable: Durable, dsn: str, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects = services_of(durable).ledger.effects
    begin, written, go_on = effects.begin, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any, **options: Any) -> Any:
        row = await begin(*arguments, **options)
        written.set()
        await go_on.wait()
        return row

    monkeypatch.setattr(effects, "begin", slow)

    async def node(state: Story) -> dict[str, Any]:
        first = asyncio.ensure_future(effect("charge", bank.acharge))
        await written.wait()
        first.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (bank.charges, await states(dsn)) == (0, ["not_done"])
        return {"words": [await effect("charge", bank.acharge)]}

    async with durable.run("t", single(node)) as run:
        assert (await run.ainvoke(EMPTY))["words"] == ["receipt 1"]


async def test_a_question_inside_an_effect_is_refused(durable: Durable, dsn: str) -> None:
    async def do() -> Any:
        return interrupt("sure?")

    async def node(state: Story) -> dict[str, Any]:
        await effect("x", do)
        return {}

    async with durable.run("t", single(node)) as run:
        with pytest.raises(InvalidArgumentError, match="cannot interrupt inside effect"):
            await run.ainvoke(EMPTY)


@pytest.mark.parametrize("moment", ["begin", "finish"])
async def test_a_process_that_lost_its_lease_neither_begins_nor_finishes_one(
    durable: Durable, dsn: str, bank: Bank, moment: str
) -> None:
    async def overtaken() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(
                "UPDATE aiodurable_fences SET token = token + 1, lease_id = lease_id + 1"
            )

    async def do() -> Any:
        if moment == "finish":
            await overtaken()
        return await bank.acharge()

    async def node(state: Story) -> dict[str, Any]:
        if moment == "begin":
            await overtaken()
        return {"words": [await effect("charge", do)]}

    with pytest.raises(LeaseLostError):
        async with durable.run("t", single(node)) as run:
            await run.ainvoke(EMPTY)
    assert bank.charges == (0 if moment == "begin" else 1)
    assert await states(dsn) == ([] if moment == "begin" else ["begun"])


async def test_the_row_goes_with_the_thread_and_with_its_old_checkpoints(
    durable: Durable, dsn: str, bank: Bank
) -> None:
    graph = paying("async", bank)
    for thread in ("kept", "pruned", "deleted"):
        async with durable.run(thread, graph) as run:
            await run.ainvoke(EMPTY)
    assert len(await rows(dsn)) == 3
    await durable.threads.delete("deleted")
    await durable.checkpointer.aprune(["pruned"])
    assert [row["thread_id"] for row in await rows(dsn)] == ["kept"]
    await durable.threads.prune(older_than=timedelta(0))
    assert await rows(dsn) == []


async def test_a_prune_keeps_what_a_task_may_need_again(
    durable: Durable, dsn: str, bank: Bank
) -> None:
    async def node(state: Story) -> dict[str, Any]:
        await effect("charge", bank.acharge)
        raise ZeroDivisionError

    async with durable.run("t", single(node)) as run:
        with pytest.raises(ZeroDivisionError):
            await run.ainvoke(EMPTY)
    await durable.checkpointer.aprune(["t"])
    await durable.threads.prune(older_than=timedelta(0), status=ThreadStatus.FAILED)
    assert await states(dsn) == ["done"]


async def test_the_effects_of_removed_runs_go_with_them(
    durable: Durable, dsn: str, bank: Bank
) -> None:
    for run_id in ("r", "q"):
        async with durable.run("t", paying("async", bank), run_id=run_id) as run:
            await run.ainvoke(EMPTY)
    await durable.checkpointer.adelete_for_runs(["q"])
    assert [row["run_id"] for row in await rows(dsn)] == ["r"]


async def test_a_fork_has_the_effect_again(durable: Durable, dsn: str, bank: Bank) -> None:
    broken = True

    async def node(state: Story) -> dict[str, Any]:
        receipt = await effect("charge", bank.acharge)
        if broken:
            raise ZeroDivisionError
        return {"words": [receipt]}

    async with durable.run("t", single(node)) as run:
        with pytest.raises(ZeroDivisionError):
            await run.ainvoke(EMPTY)
    await durable.threads.fork("t", "copy")
    broken = False
    for thread, receipt in (("t", "receipt 1"), ("copy", "receipt 2")):
        async with durable.run(thread, single(node)) as run:
            assert (await run.ainvoke())["words"] == [receipt]


async def test_it_belongs_into_a_node(durable: Durable, bank: Bank) -> None:
    with pytest.raises(ConfigurationError, match="inside a node or a task"):
        await effect("charge", bank.acharge)
    with pytest.raises(ConfigurationError, match="inside a node or a task"):
        effect_sync("charge", bank.charge)
    with pytest.raises(ConfigurationError, match="inside a node or a task"):
        await paying("async", bank).compile().ainvoke(EMPTY)


async def test_effect_sync_never_blocks_the_event_loop(durable: Durable, bank: Bank) -> None:
    async def node(state: Story) -> dict[str, Any]:
        return {"words": [effect_sync("charge", bank.charge)]}

    async with durable.run("t", single(node)) as run:
        with pytest.raises(ConfigurationError, match="would block the event loop"):
            await run.ainvoke(EMPTY)
    assert bank.charges == 0


async def test_a_coroutine_for_effect_sync_is_refused_and_did_not_happen(
    durable: Durable, dsn: str, bank: Bank
) -> None:
    def later() -> Any:
        return bank.acharge()

    def plain(state: Story) -> dict[str, Any]:
        return {"words": [effect_sync("charge", later)]}

    def plainer(state: Story) -> dict[str, Any]:
        return {"words": [effect_sync("charge", bank.acharge)]}

    for node, left in ((plainer, []), (plain, ["not_done"])):
        async with durable.run("t", single(node)) as run:
            with pytest.raises(InvalidArgumentError, match="plain functions"):
                await run.ainvoke(EMPTY, on_unfinished="restart")
        assert await states(dsn) == left
    assert bank.charges == 0


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", 7])
async def test_a_name_that_cannot_be_used_is_refused(
    durable: Durable, bank: Bank, name: Any
) -> None:
    async def node(state: Story) -> dict[str, Any]:
        return {"words": [await effect(name, bank.acharge)]}

    async with durable.run("t", single(node)) as run:
        with pytest.raises(InvalidArgumentError, match="its name must be"):
            await run.ainvoke(EMPTY)
    assert bank.charges == 0


async def test_not_done_takes_classes_of_exceptions(bank: Bank) -> None:
    wrong: Any = [BaseException, "Declined", Declined()]
    for each in wrong:
        with pytest.raises(InvalidArgumentError, match="classes of exceptions"):
            await effect("charge", bank.acharge, not_done=each)
