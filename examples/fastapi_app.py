"""A web service whose work survives it: kill it in the middle of a request, start it again, and
repeat the request. A second request for a report that is being written gets 409, not a second run.

    python examples/fastapi_app.py [PORT]
    curl -X POST localhost:8000/reports/monday -H 'content-type: application/json' \
        -d '{"topic": "tides"}'
    curl -N 'localhost:8000/reports/tuesday/events?topic=tides'
    curl localhost:8000/threads/monday
"""

import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

import uvicorn
from database import database
from fastapi import Body, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from reports import graphs

from aiodurable import Durable, DurableRun
from aiodurable.integrations.fastapi import (
    add_exception_handlers,
    durable_lifespan,
    leased,
    server_sent_events,
    status_router,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    async with database() as dsn, durable_lifespan(lambda: Durable(dsn, graphs=graphs))(app):
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(status_router())
add_exception_handlers(app)

Topic = Annotated[str, Body(embed=True)]
LeasedRun = Annotated[DurableRun[Any, Any, Any], Depends(leased("report"))]


@app.post("/reports/{thread_id}")
async def make(topic: Topic, run: LeasedRun) -> dict[str, Any]:
    """Make the report. The same Idempotency-Key never makes it twice."""
    result = await run.ainvoke({"topic": topic})
    return {"text": result["text"], "resumed": run.resumed}


@app.get("/reports/{thread_id}/events", response_class=EventSourceResponse)
async def stream(request: Request, topic: str, run: LeasedRun) -> AsyncIterator[ServerSentEvent]:
    """The report as it is written. A browser that reconnects goes on with the same run."""
    async for event in server_sent_events(request, run, {"topic": topic}):
        yield event


@app.get("/health")
async def health() -> JSONResponse:
    """503 makes a load balancer send new work elsewhere."""
    found = app.state.durable.health()
    return JSONResponse(asdict(found), 200 if found.healthy else 503)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
