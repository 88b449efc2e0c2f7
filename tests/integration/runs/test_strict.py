"""Strict msgpack is the default for what aiodurable stores: inputs, contexts, configs and
answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError, GraphChangedError, InvalidArgumentError
from aiodurable.models import ThreadStatus
from aiodurable.settings import Settings
from tests.programs import PROGRAMS
from tests.support.hostile_rows import payloads, stored
from tests.support.internals import services_of

PROGRAM = PROGRAMS / "strict_ledger_process.py"
EXPECTED = """\
input, context, config: HumanMessage Order Item Size Line NoneType Terms Size
entrypoint: Order Item
answer: Item
refused: input
then: new
refused: context
then: new
refused: config
then: new
refused: answer
then: interrupted
and: str
allowed: HumanMessage Order Item Size Line Foreign NoneType Size
""".splitlines()


@pytest.mark.parametrize("langgraph", ["", "true"])
async def test_a_run_gets_the_classes_of_its_graph_back_and_no_other_is_stored(
    dsn: str, langgraph: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        dsn,
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": langgraph},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    lines = out.decode().splitlines()
    refusals = [line for line in lines if line.startswith("refused:")]
    assert [
        line if line not in refusals else " ".join(line.split()[:2]) for line in lines
    ] == EXPECTED
    for refusal in refusals:
        assert "strict_ledger_process.Foreign" in refusal
        assert "Settings(allowed_msgpack_modules=[('strict_ledger_process', 'Foreign')])" in refusal


@dataclasses.dataclass
class Item:
    """Named by the schema of `asking`."""

    name: str


@dataclasses.dataclass
class Foreign:
    """Named by no schema."""

    name: str


class State(TypedDict, total=False):
    item: Item
    answer: Any


def asking() -> StateGraph[Any, Any, Any, Any]:
    async def ask(state: Any) -> Any:
        return {"answer": type(interrupt("which one?")).__name__}

    return StateGraph(State).add_node("ask", ask).add_edge(START, "ask")


async def tampered(dsn: str, column: str, value: bytes) -> None:
    """A run whose process died before its first checkpoint, of which somebody has changed the
    row.
    """
    async with (
        Durable(dsn, graphs={"g": asking()}, settings=Settings()) as durable,
        durable.hold("t") as lease,
    ):
        await services_of(durable).ledger.start(
            "r",
            fence=lease.fence,
            graph="g",
            input={"answer": 1},
            context=None,
            base_checkpoint_id=None,
            closing=None,
        )
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(
            f"UPDATE aiodurable_runs SET {column} = %s, {column}_type = 'msgpack'", (value,)
        )


@pytest.mark.parametrize("column", ["input", "context", "config", "answers"])
async def test_a_run_that_goes_on_calls_nothing_that_its_row_names(
    dsn: str, tmp_path: Path, column: str
) -> None:
    for kind, payload in payloads(tmp_path).items():
        await tampered(dsn, column, stored({"x": payload}))
        async with Durable(dsn, graphs={"g": asking()}, settings=Settings()) as durable:
            with pytest.raises(GraphChangedError, match="allowed_msgpack_modules"):
                await durable.threads.resume("t")
            assert list(tmp_path.iterdir()) == [], kind
            await durable.threads.delete("t")


async def test_an_answer_that_plain_langgraph_left_is_built_only_if_the_graph_names_its_class(
    dsn: str,
) -> None:
    """LangGraph keeps a bare answer beside the checkpoint before it runs anything."""

    async def dies(state: Any) -> Any:
        answer = interrupt("which one?")
        raise ConnectionError(answer)

    dying = StateGraph(State).add_node("ask", dies).add_edge(START, "ask")
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
        graph = dying.compile(saver)
        for thread, answer in (("named", Item("tea")), ("foreign", Foreign("tea"))):
            place: Any = {"configurable": {"thread_id": thread}}
            await graph.ainvoke({"answer": 1}, place)
            with pytest.raises(ConnectionError):
                await graph.ainvoke(Command(resume=answer), place)
    async with Durable(dsn, graphs={"g": asking()}, settings=Settings()) as durable:
        assert (await durable.threads.resume("named", graph="g"))["answer"] == "Item"
        before = await durable.threads.status("foreign")
        with pytest.raises(ConfigurationError, match="Foreign.*allowed_msgpack_modules"):
            await durable.threads.resume("foreign", graph="g")
        after = await durable.threads.status("foreign")
        assert (after.checkpoint_id, after.resumable) == (before.checkpoint_id, before.resumable)
    settings = Settings(allowed_msgpack_modules=[Foreign])
    async with Durable(dsn, graphs={"g": asking()}, settings=settings) as durable:
        assert (await durable.threads.resume("foreign", graph="g"))["answer"] == "Foreign"


class Cipher:
    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "turned", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


@pytest.mark.parametrize(
    "serde",
    [EncryptedSerializer(Cipher()), JsonPlusSerializer(pickle_fallback=True), JsonPlusSerializer()],
)
async def test_a_serializer_of_the_callers_is_made_strict_too(
    dsn: str, serde: SerializerProtocol
) -> None:
    async with (
        Durable(dsn, graphs={"g": asking()}, settings=Settings(), serde=serde) as durable,
        durable.run("t", "g") as run,
    ):
        with pytest.raises(InvalidArgumentError, match="Foreign"):
            await run.ainvoke({"answer": Foreign("tea")})
        assert (await run.ainvoke({"item": Item("tea")}))["item"] == Item("tea")


async def test_a_list_of_allowed_classes_holds_for_the_state_too_and_those_of_the_schemas_need_not_be_in_it(
    dsn: str,
) -> None:
    serde = JsonPlusSerializer(allowed_msgpack_modules=[("shop", "Other")])
    settings = Settings(allowed_msgpack_modules=[Foreign])
    async with Durable(dsn, graphs={"g": asking()}, settings=settings, serde=serde) as durable:
        async with durable.run("t", "g") as run:
            await run.ainvoke({"item": Item("tea"), "answer": Foreign("tea")})
            assert (await run.answer("yes"))["item"] == Item("tea")
        async with durable.run("t", "g") as run:
            state = (await run.aget_state()).values
    assert state["item"] == Item("tea")


async def test_any_class_is_stored_where_the_setting_says_so(dsn: str) -> None:
    settings = Settings(strict_msgpack=False)
    async with (
        Durable(dsn, graphs={"g": asking()}, settings=settings) as durable,
        durable.run("t", "g") as run,
    ):
        await run.ainvoke({"item": Item("tea"), "answer": Foreign("tea")})
        assert (await run.answer(Foreign("tea")))["answer"] == "Foreign"


async def test_a_check_tells_of_rows_that_a_permissive_process_wrote(dsn: str) -> None:
    async def breaks(state: Any) -> Any:
        raise ConnectionError("no route")

    graph = StateGraph(State).add_node("ask", breaks).add_edge(START, "ask")
    permissive = Settings(strict_msgpack=False)
    async with Durable(dsn, graphs={"g": graph}, settings=permissive) as durable:
        async with durable.run("t", "g", config={"configurable": {"whose": Foreign("tea")}}) as run:
            with pytest.raises(ConnectionError):
                await run.ainvoke({"answer": 1})
        assert [thread.problems async for thread in durable.threads.check()] == [()]
    async with Durable(dsn, graphs={"g": graph}, settings=Settings()) as durable:
        [thread] = [thread async for thread in durable.threads.check()]
        assert [problem.name for problem in thread.problems] == [f"{__name__}.Foreign"]
        with pytest.raises(GraphChangedError, match="allowed_msgpack_modules"):
            await durable.threads.resume("t")
        assert (await durable.threads.status("t")).status is ThreadStatus.FAILED
