"""A process that answers a question and is killed before LangGraph has stored the answer."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from langgraph.types import interrupt

from aiodurable.durable import Durable
from aiodurable.settings import Settings
from tests.support.scenario_graphs import asks, chain, ok


def dying(*questions: str) -> Any:
    """A node that asks, in a process that is killed as soon as it comes to the node."""

    async def node(state: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {"xs": [str(interrupt(question)) for question in questions]}

    return node


def in_the_root(node: Any) -> Any:
    return chain(a=ok("a"), ask=node)


def in_a_subgraph(node: Any) -> Any:
    return chain(a=ok("a"), ask=chain(j=node).compile())


SHAPES = {"root": in_the_root, "subgraph": in_a_subgraph}
QUESTIONS = ("Pay 12?", "Delete the account?")


def answering(shape: str, node: Any = None) -> Any:
    return SHAPES[shape](node or asks(*QUESTIONS))


def answer_and_die(dsn: str, shape: str, value: Any) -> None:
    """What the child process does."""

    async def run() -> None:
        async with (
            Durable(dsn, settings=Settings()) as durable,
            durable.run("t", answering(shape, dying(*QUESTIONS))) as run,
        ):
            await run.answer(value)

    asyncio.run(run())
