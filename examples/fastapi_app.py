"""A web service whose work survives it: kill it in the middle of a request, start it again, ask
again. A second request for a report in the making gets 409, not a second run.

    python examples/fastapi_app.py [PORT] curl -X POST localhost:8000/reports/monday -H
    'content-type: application/json' -d '{"topic": "tides"}' curl localhost:8000/reports/monday
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, TypedDict

import uvicorn
from database import database
from fastapi import Body, FastAPI, Header
from fastapi.responses import JSONResponse
from langgraph.graph import START, StateGraph

from aiodurable import Durable, durable_run, get_checkpoint_status
from aiodurable.fastapi import add_exception_handlers


class Report(TypedDict):
    topic: str
    notes: list[str]
    text: str


async def research(state: Report) -> dict[str, Any]:
    return {"notes": [f"{state['topic']}: note {number}" for number in range(1, 4)]}


async def write(state: Report) -> dict[str, Any]:
    await asyncio.sleep(1)  # a language model takes its time
    return {"text": "\n".join(state["notes"])}


report = StateGraph(Report).add_sequence([research, write]).add_edge(START, "research")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    async with database() as dsn, Durable(dsn, graphs={"report": report}) as durable:
        app.state.durable = (
            durable.install()
        )  # what the functions below use: requests are tasks of their own
        yield


Topic = Annotated[str, Body(embed=True)]
Key = Annotated[str | None, Header()]
app = FastAPI(lifespan=lifespan)
add_exception_handlers(app)


@app.post("/reports/{thread_id}")
async def make(thread_id: str, topic: Topic, idempotency_key: Key = None) -> dict[str, Any]:
    """Make the report; one that was left unfinished is finished first. The same Idempotency-Key
    never makes it twice.
    """
    run_id = f"{thread_id}/{idempotency_key}" if idempotency_key else None
    async with durable_run(thread_id, "report", run_id=run_id) as run:
        return {"text": (await run.ainvoke({"topic": topic}))["text"], "resumed": run.resumed}


@app.get("/reports/{thread_id}")
async def status(thread_id: str) -> dict[str, Any]:
    """Where the report stands. Not the text of its error: that is for the log, not for a client."""
    found = await get_checkpoint_status(thread_id)
    return {"status": found.status, "pending": found.pending, "failed_node": found.failed_node}


@app.get("/health")
async def health() -> JSONResponse:
    found = (
        app.state.durable.health()
    )  # 503 tells a load balancer that new work will not do at the moment
    return JSONResponse(asdict(found), 200 if found.healthy else 503)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
