"""Workers that are killed: `worker_process.py DEFAULTS`.

The program imports once and forks one worker for each line on stdin, which it answers with the
worker's process id. A line is a JSON object, and so is DEFAULTS; together they are an `Order`. Each
node writes a line to the order's log before it works: see `tests.support.workers.Line`.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from langgraph.graph import END, START, StateGraph

from aiodurable import Durable, Settings, current_run
from tests.support import loops
from tests.support.campaign_effects import Effects, NoEffects

STEPS = ("collect", "sort", "weigh", "tell")
SHORT = {"lease_ttl_s": 6.0, "lease_heartbeat_s": 1.0, "lease_safety_margin_s": 1.0}


@dataclass(frozen=True)
class Order:
    """What a worker does.

    Attributes:
        dsn, log, concurrency, queues, drain_timeout_s: of the worker.
        settings: of its `Durable`; all others are the defaults.
        effects: whether each step writes a row of `campaign_effects`.
    """

    dsn: str
    log: str
    concurrency: int = 10
    queues: list[str] = field(default_factory=lambda: ["default"])
    drain_timeout_s: float = 5
    settings: dict[str, float] = field(default_factory=lambda: dict(SHORT))
    effects: bool = False


class Work(TypedDict):
    words: Annotated[list[str], operator.add]
    marks: Annotated[list[str], operator.add]
    pause: float


def graphs(log: str, effects: Effects | None = None) -> dict[str, Any]:
    """Four steps that take `pause` seconds each; and what does its worker harm."""
    has_effect = effects or NoEffects()

    def begun(step: str) -> str:
        """Write a line; what the step leaves in the state's marks."""
        run = current_run()
        token = run.fencing_token
        line = f"{time.time()} {os.getpid()} {run.thread_id} {step} {run.run_id} {token}\n"
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(line)
        return f"{step} {token} {os.getpid()}"

    def step(name: str) -> Any:
        async def node(state: Work) -> dict[str, Any]:
            mark = begun(name)
            await asyncio.sleep(state["pause"])
            await has_effect.once(current_run().run_id, name)
            return {"words": [name], "marks": [mark]}

        return node

    async def poison(state: Work) -> dict[str, Any]:
        begun("poison")
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    async def stubborn(state: Work) -> dict[str, Any]:
        """Swallows every cancellation for `pause` seconds."""
        mark = begun("stubborn")
        until = time.monotonic() + state["pause"]
        while (left := until - time.monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        return {"words": ["stubborn"], "marks": [mark]}

    async def blocking(state: Work) -> dict[str, Any]:
        """Blocks the event loop for `pause` seconds."""
        mark = begun("blocking")
        time.sleep(state["pause"])  # noqa: ASYNC251 - that is what it is for
        return {"words": ["blocking"], "marks": [mark]}

    steps = StateGraph(Work)
    for name in STEPS:
        steps.add_node(name, step(name))
    for one, next_one in zip((START, *STEPS), (*STEPS, END), strict=True):
        steps.add_edge(one, next_one)
    return {
        "steps": steps,
        "one": StateGraph(Work).add_node("collect", step("collect")).add_edge(START, "collect"),
        "poison": StateGraph(Work).add_node(poison).add_edge(START, "poison"),
        "stubborn": StateGraph(Work).add_node(stubborn).add_edge(START, "stubborn"),
        "blocking": StateGraph(Work).add_node(blocking).add_edge(START, "blocking"),
    }


def graphs_of_environment() -> dict[str, Any]:
    """The graphs for `aiodurable worker`; `WORKER_LOG` names the log."""
    return graphs(os.environ["WORKER_LOG"])


async def work(order: Order) -> None:
    effects = Effects(order.dsn) if order.effects else None
    async with (
        Durable(
            order.dsn, graphs=graphs(order.log, effects), settings=Settings(**order.settings)
        ) as durable,
        durable.work(
            order.queues, concurrency=order.concurrency, drain_timeout_s=order.drain_timeout_s
        ) as worker,
    ):
        await worker.run_forever(signals=True)


def main(defaults: str) -> None:
    children = list[int]()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            loops.run(work(Order(**(json.loads(defaults) | json.loads(line)))))
            os._exit(0)
        children.append(child)
        print(child, flush=True)
    for child in children:  # none was waited for: their process ids are still theirs
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
