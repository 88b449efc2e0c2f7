"""What a run was accepted with is there again in the process that goes on with it; what cannot be
used is refused first.
"""

from __future__ import annotations

import operator
import threading
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError
from tests.support.ledger_view import Ledger


@dataclass
class Tenant:
    name: str


class Words(TypedDict):
    words: Annotated[list[str], operator.add]


INPUT: dict[str, Any] = {"words": []}
CONFIG: RunnableConfig = {
    "tags": ["urgent"],
    "metadata": {"ticket": 7},
    "recursion_limit": 9,
    "max_concurrency": 3,
    "configurable": {"user": {"id": "bob"}, "model": "small"},
}


class Seen:
    """A graph of one node that notes what it was run with, and breaks the first time."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []
        self.configs: list[RunnableConfig] = []
        self.broken = True

    def graph(self) -> StateGraph[Any, Any, Any, Any]:
        async def node(
            state: Words, config: RunnableConfig, runtime: Runtime[Tenant]
        ) -> dict[str, Any]:
            self.contexts.append(runtime.context)
            self.configs.append(config)
            if self.broken:
                raise ValueError("broken")
            return {"words": ["done"]}

        return (
            StateGraph(Words, context_schema=Tenant).add_node("node", node).add_edge(START, "node")
        )

    async def breaks(self, durable: Durable, thread_id: str = "t", **options: Any) -> None:
        async with durable.run(thread_id, self.graph()) as run:
            with pytest.raises(ValueError, match="broken"):
                await run.ainvoke(INPUT, **options)
        self.broken = False

    def assert_as_accepted(self) -> None:
        config = self.configs[-1]
        assert self.contexts[-1] == Tenant("blue")
        assert "urgent" in config.get("tags", [])
        assert config.get("metadata", {}).get("ticket") == 7
        assert (config.get("recursion_limit"), config.get("max_concurrency")) == (9, 3)
        configurable = config.get("configurable", {})
        assert (configurable["user"], configurable["model"]) == ({"id": "bob"}, "small")


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.mark.parametrize("verb", ["resume", "retry", "run"])
async def test_context_and_config_are_there_again_in_another_process(
    dsn: str, durable: Durable, seen: Seen, verb: str
) -> None:
    await seen.breaks(durable, config=CONFIG, context={"name": "blue"})
    seen.assert_as_accepted()
    async with Durable(dsn) as other:
        if verb == "run":
            async with other.run("t", seen.graph()) as run:
                await run.ainvoke(INPUT)
        else:
            await getattr(other.threads, verb)("t", seen.graph())
    seen.assert_as_accepted()


async def test_what_a_resumption_is_given_goes_over_what_is_stored_for_that_call(
    durable: Durable, seen: Seen
) -> None:
    await seen.breaks(durable, config=CONFIG, context=Tenant("blue"))
    config: Any = {"configurable": {"model": "large"}, "recursion_limit": 11}
    await durable.threads.resume("t", seen.graph(), config=config, context=Tenant("red"))
    given = seen.configs[-1].get("configurable", {})
    assert (given["user"], given["model"]) == ({"id": "bob"}, "large")
    assert seen.configs[-1].get("recursion_limit") == 11
    assert seen.contexts[-1] == Tenant("red")


async def test_an_unfinished_run_is_finished_with_its_own_config_and_not_the_new_callers(
    durable: Durable, seen: Seen
) -> None:
    await seen.breaks(durable, config=CONFIG, context=Tenant("blue"))
    theirs: Any = {"configurable": {"user": {"id": "eve"}}}
    async with durable.run(
        "t", seen.graph(), run_id="new", config=theirs, context=Tenant("red")
    ) as run:
        await run.ainvoke({"words": ["new"]})
    _, old, new = seen.configs
    assert old.get("configurable", {})["user"] == {"id": "bob"}
    assert new.get("configurable", {})["user"] == {"id": "eve"}
    assert [context.name for context in seen.contexts] == ["blue", "blue", "red"]


async def test_a_fork_has_the_config_of_its_source(durable: Durable, seen: Seen) -> None:
    await seen.breaks(durable, config=CONFIG, context=Tenant("blue"))
    await durable.threads.fork("t", "fork")
    await durable.threads.resume("fork", seen.graph())
    seen.assert_as_accepted()


UNUSABLE: dict[str, dict[str, Any]] = {
    "an option that LangGraph has not": {"no_such_option": 1},
    "a context that the schema does not take": {"context": {"colour": "blue"}},
    "a config that is none": {"config": "urgent"},
    "a configurable that is none": {"config": {"configurable": "user"}},
    "a recursion limit below 1": {"config": {"recursion_limit": 0}},
    "another thread": {"config": {"configurable": {"thread_id": "u"}}},
    "a checkpoint": {"config": {"configurable": {"checkpoint_id": "1"}}},
}


@pytest.mark.parametrize("unusable", UNUSABLE.values(), ids=list(UNUSABLE))
async def test_what_cannot_be_used_is_refused_before_an_attempt_is_opened(
    durable: Durable, ledger: Ledger, seen: Seen, unusable: dict[str, Any]
) -> None:
    async with durable.run("t", seen.graph()) as run:
        with pytest.raises(InvalidArgumentError):
            await run.ainvoke(INPUT, **unusable)
    assert await ledger.rows("t") == []
    await seen.breaks(durable)
    before = await ledger.rows("t")
    for verb in (durable.threads.resume, durable.threads.retry):
        with pytest.raises(InvalidArgumentError):
            await verb("t", seen.graph(), **unusable)
    assert await ledger.rows("t") == before


async def test_a_config_that_cannot_be_stored_is_refused_and_nothing_runs(
    durable: Durable, ledger: Ledger, seen: Seen
) -> None:
    async with durable.run("t", seen.graph()) as run:
        with pytest.raises(InvalidArgumentError, match="cannot store the config"):
            await run.ainvoke(INPUT, config={"configurable": {"client": lambda: None}})
    assert await ledger.rows("t") == []
    assert seen.contexts == []


@pytest.mark.parametrize("where", ["run", "ainvoke"])
async def test_a_run_id_in_the_metadata_names_the_run_as_in_langgraph(
    durable: Durable, ledger: Ledger, seen: Seen, where: str
) -> None:
    """LangGraph takes a second call with it for a resumption; a turn ran twice, and the next input
    was swallowed.
    """
    seen.broken = False
    named: Any = {"metadata": {"run_id": "turn-1"}}
    at_run, at_call = ({"config": named}, {}) if where == "run" else ({}, {"config": named})
    for _ in range(2):
        async with durable.run("t", seen.graph(), **at_run) as run:
            assert (await run.ainvoke({"words": ["pay 10"]}, **at_call))["words"] == [
                "pay 10",
                "done",
            ]
    async with durable.run("t", seen.graph()) as run:
        assert (await run.ainvoke({"words": ["hello"]}))["words"] == [
            "pay 10",
            "done",
            "hello",
            "done",
        ]
    rows = await ledger.rows("t")
    assert [(row["run_id"] == "turn-1", row["status"]) for row in rows] == [
        (True, "complete"),
        (False, "complete"),
    ]


async def test_two_different_run_ids_are_refused(durable: Durable, seen: Seen) -> None:
    with pytest.raises(InvalidArgumentError, match="one of them"):
        async with durable.run("t", seen.graph(), run_id="a", config={"metadata": {"run_id": "b"}}):
            pass


class Noting(JsonPlusSerializer):
    """Notes the threads that serialise an input."""

    def __init__(self) -> None:
        super().__init__()
        self.on_main: list[bool] = []

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if isinstance(obj, dict) and set(obj) == {"words"}:
            self.on_main.append(threading.current_thread() is threading.main_thread())
        return super().dumps_typed(obj)


@pytest.mark.parametrize(("size", "on_the_loop"), [(10, True), (1_000_000, False)])
async def test_only_a_large_input_is_serialised_off_the_loop(
    dsn: str, size: int, on_the_loop: bool
) -> None:
    seen, serde = Seen(), Noting()
    seen.broken = False
    async with Durable(dsn, serde=serde) as durable, durable.run("t", seen.graph()) as run:
        await run.ainvoke({"words": ["x" * size]})
    assert serde.on_main[0] is on_the_loop  # the ledger stores it before the checkpoints do
