"""Rows as somebody may write them who has the tables and means harm; and what shows that he had
it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, TypedDict

import ormsgpack
import psycopg
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt, Send, interrupt

from aiodurable.durable import Durable

OBEYED = re.compile(r"[^\x20-\x7e\n\r\xa0-\u02ff\u2500-\u257f\u3000-\u9fff…≤→]")
"""What a terminal obeys, or shows in another order than it is."""

TEXTS = {
    "ansi": "\x1b[2J\x1b[1;1Hcomplete\x9b31m",
    "osc52": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "bidi": "\u202egpj.exe\u2069",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "nul": "a\0b",
    "long": "x" * 5_000_000,
    "surrogate": "\ud800",
    "markup": "[red]not red[/] {0} %s",
}
VALUES: dict[str, Any] = {
    "nan": [float("nan"), float("inf"), -float("inf")],
    "deep": reduce(lambda inner, _: [inner], range(150), "deep"),
    "keys": {("a", 1): 1, b"\xff": 2, 3: 4},
    "bytes": b"\x1b[2J\xff",
    "big": 2**63,
}
_OPTION = ormsgpack.OPT_NON_STR_KEYS


def calls(module: str, name: str, arguments: Any, code: int = 0) -> ormsgpack.Ext:
    """What LangGraph's serializer reads as "call this": by default with one argument."""
    made_of = (module, name, arguments, "mkdir")
    return ormsgpack.Ext(code, ormsgpack.packb(made_of, default=_extension, option=_OPTION))


def _extension(value: Any) -> Any:
    return JsonPlusSerializer().dumps_typed(value)


def stored(value: Any) -> bytes:
    """As msgpack, with extensions in it."""
    return ormsgpack.packb(value, option=_OPTION)


def payloads(traces: Path) -> dict[str, ormsgpack.Ext]:
    """One for each way in which the serializer calls something; each leaves a folder in
    `traces`.
    """
    return {
        "one argument": calls("os", "mkdir", str(traces / "0"), 0),
        "arguments": calls("os", "mkdir", (str(traces / "1"),), 1),
        "keywords": calls("os", "mkdir", {"path": str(traces / "2")}, 2),
        "method": calls("os", "path", str(traces / "3"), 3),
        "pydantic 1": calls("os", "mkdir", {"path": str(traces / "4")}, 4),
        "pydantic 2": calls("os", "mkdir", {"path": str(traces / "5")}, 5),
        "inside another": calls("builtins", "dict", [calls("os", "mkdir", str(traces / "6"))], 0),
        "import": calls("this", "no_such_name", None, 0),
    }


class State(TypedDict):
    kind: str
    value: Any


async def begin(state: State) -> dict[str, Any]:
    return {"value": "begun"}


async def ask(state: State) -> dict[str, Any]:
    if state["kind"] == "fails":
        raise RuntimeError(state["value"])
    if state["kind"] in TEXTS or state["kind"] in VALUES:
        interrupt(TEXTS.get(state["kind"], VALUES.get(state["kind"])))
    interrupt("sure?")
    return {}


async def fail(state: State) -> dict[str, Any]:
    raise RuntimeError(TEXTS.get(state["kind"], "no"))


def spread(state: State) -> Sequence[Send]:
    return [Send("fail", state), Send("ask", state)]


asking = StateGraph(State).add_sequence([begin, ask]).add_edge(START, "begin")
failing = StateGraph(State).add_sequence([begin, fail]).add_edge(START, "begin")
sending = (
    StateGraph(State)
    .add_node(begin)
    .add_node(ask)
    .add_node(fail)
    .add_edge(START, "begin")
    .add_conditional_edges("begin", spread, ["fail", "ask"])
)
GRAPHS: dict[str, Any] = {"asking": asking, "failing": failing, "sending": sending}


async def fill(dsn: str, traces: Path) -> list[str]:
    """Threads whose questions, errors, states, Sends and runs are hostile; their ids."""
    made = list[str]()
    evil = payloads(traces)

    async def make(graph: str, thread_id: str, kind: str) -> None:
        async with durable.run(thread_id, graph) as run:
            with suppress(RuntimeError):
                await run.ainvoke({"kind": kind, "value": "before"})
        made.append(thread_id)

    async with Durable(dsn, graphs=GRAPHS) as durable:
        for name in (*TEXTS, *VALUES):
            await make("asking", f"asks {name}", name)
        for name in TEXTS:
            await make("failing", f"fails {name}", name)
        for name in evil:
            await make("asking", f"asks, {name}", "asks")
            await make("failing", f"failed, {name}", "no")
            await make("sending", f"sent, {name}", "no")
    await asyncio.to_thread(_tamper, dsn, evil)
    return sorted(made)


def _tamper(dsn: str, evil: dict[str, ormsgpack.Ext]) -> None:
    asks = Interrupt("sure?", id="0" * 32)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number, (name, call) in enumerate(evil.items()):
            question: Any = call
            if number % 2:  # as the value of a question, and in its place
                fields = ("langgraph.types", "Interrupt", {"value": call, "id": asks.id})
                question = [ormsgpack.Ext(2, stored(fields))]
            for thread, channel, value in (
                (f"asks, {name}", "__interrupt__", question),
                (f"failed, {name}", "__error__", call),
                (f"sent, {name}", "__error__", [call]),
            ):
                connection.execute(
                    "UPDATE checkpoint_writes SET type = 'msgpack', blob = %s WHERE thread_id = %s"
                    " AND channel = %s",
                    (stored(value), thread, channel),
                )
            connection.execute(
                "UPDATE checkpoint_blobs SET type = 'msgpack', blob = %s"
                " WHERE thread_id = ANY (%s) AND type <> 'empty'",
                (stored([call, call]), [f"asks, {name}", f"failed, {name}", f"sent, {name}"]),
            )
            connection.execute(
                "UPDATE aiodurable_runs SET input_type = 'msgpack', input = %(evil)s, context_type"
                " = 'msgpack', context = %(evil)s, config_type = 'msgpack', config = %(evil)s,"
                " answers_type = 'msgpack', answers = %(evil)s WHERE thread_id = ANY (%(threads)s)",
                {
                    "evil": stored(call),
                    "threads": [f"asks, {name}", f"failed, {name}", f"sent, {name}"],
                },
            )


def traces_in(folder: Path) -> list[str]:
    """What was called, as seen by what it left."""
    return sorted(one.name for one in folder.iterdir())
