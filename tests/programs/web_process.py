"""A web app whose requests run a graph: `web_process.py PORT WORKERS LOG GATE`.

The graph writes each step that it has done to LOG; its second step waits until the file GATE is
there. The server gives requests one second when it stops.
"""

from __future__ import annotations

import asyncio
import operator
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

sys.path.insert(0, str(Path(__file__).parents[2]))

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from langgraph.graph import START, StateGraph

from aiodurable import Durable, DurableRun, current_run
from aiodurable.integrations.fastapi import durable_lifespan, leased, server_sent_events

LeasedRun = Annotated[DurableRun[Any, Any, Any], Depends(leased("steps"))]
STEPS = ["collect", "sort", "tell"]


class Words(TypedDict):
    words: Annotated[list[str], operator.add]


def graphs(log: str, gate: str) -> dict[str, Any]:
    """Three steps; the second waits."""

    def step(name: str) -> Any:
        async def node(state: Words) -> dict[str, Any]:
            write(f"begun-{name}")
            while name == "sort" and not Path(gate).exists():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
            write(name)
            return {"words": [name]}

        return node

    def write(what: str) -> None:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{current_run().thread_id} {what}\n")

    steps = StateGraph(Words)
    steps.add_sequence([(name, step(name)) for name in STEPS])
    return {"steps": steps.add_edge(START, STEPS[0])}


def make() -> FastAPI:
    """The app; the environment names its files."""
    app = FastAPI(
        lifespan=durable_lifespan(
            lambda: Durable(graphs=graphs(os.environ["WEB_LOG"], os.environ["WEB_GATE"]))
        )
    )

    @app.post("/{thread_id}")
    async def plain(run: LeasedRun) -> Any:
        return await run.ainvoke({"words": []})

    @app.get("/{thread_id}/stream", response_class=EventSourceResponse)
    async def stream(request: Request, run: LeasedRun) -> AsyncIterator[ServerSentEvent]:
        async for event in server_sent_events(request, run, {"words": []}):
            yield event

    return app


if __name__ == "__main__":
    port, workers, os.environ["WEB_LOG"], os.environ["WEB_GATE"] = sys.argv[1:]
    uvicorn.run(
        "tests.programs.web_process:make",
        factory=True,
        port=int(port),
        workers=int(workers),
        timeout_graceful_shutdown=1,
        timeout_worker_healthcheck=120,  # else it kills a child that takes long to start
        log_level="warning",
    )
