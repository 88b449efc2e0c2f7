"""Workers that are killed: `worker_process.py DSN LOG [CONCURRENCY]`.

The program imports once and forks one worker for each line on stdin, which it answers with the
worker's process id. Each node of their graphs writes a line to LOG before it works: the time, the
process, the thread, the run and the step.
"""

from __future__ import annotations

import asyncio
import operator
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from aiodurable import Durable, Settings
from tests.support import loops

STEPS = ("collect", "sort", "weigh", "tell")


class Work(TypedDict):
    words: Annotated[list[str], operator.add]
    pause: float


def graphs(log: str) -> dict[str, Any]:
    """Four steps that take `pause` seconds each; and one that ends its process."""

    def step(name: str) -> Any:
        async def node(state: Work, config: RunnableConfig) -> dict[str, Any]:
            own: Any = config.get("configurable", {})
            line = f"{time.time()} {os.getpid()} {own['thread_id']} {name}\n"
            with Path(log).open("a", encoding="utf-8") as file:  # noqa: ASYNC230 - one small write
                file.write(line)
            await asyncio.sleep(state["pause"])
            return {"words": [name]}

        return node

    async def poison(state: Work) -> dict[str, Any]:
        os.kill(os.getpid(), 9)
        return {}

    steps = StateGraph(Work)
    for name in STEPS:
        steps.add_node(name, step(name))
    for one, next_one in zip((START, *STEPS), (*STEPS, END), strict=True):
        steps.add_edge(one, next_one)
    return {
        "steps": steps,
        "poison": StateGraph(Work).add_node(poison).add_edge(START, "poison"),
    }


async def work(dsn: str, log: str, concurrency: int) -> None:
    settings = Settings(lease_ttl_s=6, lease_heartbeat_s=1, lease_safety_margin_s=1)
    async with (
        Durable(dsn, graphs=graphs(log), settings=settings) as durable,
        durable.work(concurrency=concurrency, drain_timeout_s=5) as worker,
    ):
        await worker.run_forever(signals=True)


def main(dsn: str, log: str, concurrency: str = "10") -> None:
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            loops.run(work(dsn, log, int(concurrency)))
            os._exit(0)
        print(child, flush=True)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
