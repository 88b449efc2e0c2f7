"""Scenarios: each makes a thread with a real graph and gives its true status, written by hand.

`Thread` drives a graph with LangGraph's own saver, in this process or in one that is killed with
SIGKILL at a chosen write; nothing here knows aiodurable.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.pregel import Pregel
from langgraph.types import Command, StateSnapshot

from tests.support.scenario_graphs import GRAPHS

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["langgraph.checkpoint.postgres.aio", "langgraph.func", "langgraph.graph"]
)


class DyingSaver(AsyncPostgresSaver):
    """LangGraph's saver in a process that is killed just before its `at`-th write, or just after
    its commit.

    By then all earlier writes have committed, and no later one has started.
    """

    at: int
    after: bool
    seen: int = 0
    committed: int = 0

    async def aput(self, *args: Any, **kwargs: Any) -> Any:
        return await self._count(super().aput(*args, **kwargs))

    # LangGraph looks at the signature before it passes a task_path.
    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> Any:
        return await self._count(super().aput_writes(config, writes, task_id, task_path))

    async def _count(self, write: Awaitable[Any]) -> Any:
        mine, self.seen = self.seen, self.seen + 1
        if mine >= self.at + self.after:
            if self.committed >= mine:
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.Event().wait()
        result = await write
        self.committed += 1
        if self.committed >= self.at + self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def die(
    dsn: str, graph: str, config: RunnableConfig, given: Any, durability: Any, at: int, after: bool
) -> None:
    """Run a graph until the chosen write; what a child process does."""

    async def run() -> None:
        async with DyingSaver.from_conn_string(dsn) as saver:
            assert isinstance(saver, DyingSaver)
            saver.at, saver.after = at, after
            with contextlib.suppress(Exception):
                await GRAPHS[graph](saver).ainvoke(given, config, durability=durability)

    asyncio.run(run())


async def exit_code(target: Callable[..., object], *args: Any) -> int | None:
    """That of a process which calls `target`. It is killed where the wait is cancelled: the event
    loop would wait for good for the thread in which it is waited for.
    """
    process = FORK.Process(target=target, args=args)
    process.start()
    try:
        await asyncio.to_thread(process.join)
    finally:
        process.kill()
    return process.exitcode


class Thread:
    """One thread of one graph, by name in `GRAPHS`."""

    def __init__(self, dsn: str, saver: AsyncPostgresSaver, thread_id: str, graph: str) -> None:
        self._dsn = dsn
        self.name = graph
        self.graph: Pregel[Any, Any, Any, Any] = GRAPHS[graph](saver)
        self.config: RunnableConfig = {"configurable": {"thread_id": thread_id}}

    async def run(self, given: Any = None, *, durability: Any = "sync", **kwargs: Any) -> Any:
        """Invoke the graph; what it raises is part of the scenario."""
        config: Any = {**self.config, **kwargs.pop("config", {})}
        with contextlib.suppress(Exception):
            return await self.graph.ainvoke(given, config, durability=durability, **kwargs)

    async def start(self, **kwargs: Any) -> Any:
        return await self.run({"xs": []}, **kwargs)

    async def answer(self, value: Any) -> Any:
        return await self.run(Command(resume=value))

    async def answer_by_id(self, value: Any) -> Any:
        """Give one answer to every open question, each by its id."""
        return await self.run(
            Command(resume={i.id: value for i in (await self.state()).interrupts})
        )

    async def killed(
        self,
        given: Any,
        at: int,
        *,
        after: bool = False,
        durability: str = "sync",
        fine: bool = False,
    ) -> None:
        """Run it in a process that dies of SIGKILL at a write, counted from 0."""
        args = (self._dsn, self.name, self.config, given, durability, at, after)
        assert await exit_code(die, *args) == (0 if fine else -signal.SIGKILL), (
            "the run ended before that write"
        )

    async def killed_or_done(self, given: Any, at: int) -> bool:
        """Kill it after its `at`-th write; False: it has no such write, and ran to its end."""
        args = (self._dsn, self.name, self.config, given, "sync", at, True)
        return await exit_code(die, *args) == -signal.SIGKILL

    async def cancelled(
        self, given: Any, started: asyncio.Event, *, durability: Any = "sync"
    ) -> None:
        """Cancel the run when one of its nodes says that it has started. Raises what ended it if
        none does.
        """
        task = asyncio.create_task(self.graph.ainvoke(given, self.config, durability=durability))
        starting = asyncio.create_task(started.wait())
        await asyncio.wait({task, starting}, return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def update(
        self, values: Any, as_node: str | None = None, checkpoint_id: str | None = None
    ) -> Any:
        config: Any = self.config
        if checkpoint_id is not None:
            config = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint_id}}
        return await self.graph.aupdate_state(config, values, as_node=as_node)

    async def state(self) -> StateSnapshot:
        return await self.graph.aget_state(self.config)

    async def history(self) -> list[StateSnapshot]:
        return [snapshot async for snapshot in self.graph.aget_state_history(self.config)]


@dataclass(frozen=True)
class Truth:
    """How a thread stands, said by hand.

    `stock` is what `aget_state` makes one believe where that is something else, by version. `blind`
    is what the tables alone must make of it where they cannot know the truth.
    """

    status: str
    pending: Sequence[str] = ()
    failed_node: str | None = None
    questions: Sequence[Any] = ()
    stock: str | tuple[str, ...] | None = None
    blind: str | None = None


@dataclass(frozen=True)
class Scenario:
    name: str
    graph: str
    truth: Truth
    play: Callable[[Thread], Awaitable[Any]]


SCENARIOS: list[Scenario] = []


def scenario(
    graph: str, status: str, *pending: str, name: str = "", **truth: Any
) -> Callable[[Any], Any]:
    """Register a scenario; its name is its function's."""

    def register(play: Callable[[Thread], Awaitable[Any]]) -> Any:
        SCENARIOS.append(
            Scenario(name or play.__name__, graph, Truth(status, pending, **truth), play)
        )
        return play

    return register


def stock_status(state: StateSnapshot) -> str:
    """What a person reads out of `aget_state`."""
    if state.created_at is None:
        return "new"
    if any(task.error for task in state.tasks):
        return "failed"
    if state.interrupts:
        return "interrupted"
    return "crashed" if state.next else "complete"


def checkpoint_id(state: StateSnapshot) -> str:
    return state.config.get("configurable", {})["checkpoint_id"]
