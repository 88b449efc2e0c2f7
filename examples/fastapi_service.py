"""A web service that accepts work and answers at once: 202, and where to look. A worker in the same
process does the work. Kill the process in the middle of it, start it again, and it goes on.

    python examples/fastapi_service.py [PORT]
    curl -i -X POST localhost:8000/reports/monday -H 'content-type: application/json' \
        -H 'idempotency-key: 1' -d '{"topic": "tides"}'
    curl 'localhost:8000/runs/monday/1?wait=10'
"""

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from database import database
from fastapi import Body, Depends, FastAPI
from fastapi.responses import JSONResponse
from reports import graphs

from aiodurable import Durable
from aiodurable.integrations.fastapi import (
    accepting,
    add_exception_handlers,
    durable_lifespan,
    run_router,
    status_router,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    async with (
        database() as dsn,
        durable_lifespan(lambda: Durable(dsn, graphs=graphs), work=True)(app),
    ):
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(run_router(results=True))  # GET /runs/{run_id}
app.include_router(status_router())  # GET /threads/{thread_id}
add_exception_handlers(app)

Accept = Annotated[Callable[[Any], Awaitable[JSONResponse]], Depends(accepting("report"))]


@app.post("/reports/{thread_id}", status_code=202)
async def order(topic: Annotated[str, Body(embed=True)], accept: Accept) -> JSONResponse:
    """Accept the report. The same Idempotency-Key never makes it twice."""
    return await accept({"topic": topic})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
