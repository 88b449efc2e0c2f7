"""FastAPI: open a `Durable` with the app, hold a thread's lease for a request, stream a run, accept
a run for a worker, and answer errors as problem+json. Needs `aiodurable[fastapi]`.
"""

from __future__ import annotations

try:
    import fastapi.sse as _needed  # the newest part of FastAPI that is used here
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"cannot import aiodurable.integrations.fastapi: it needs FastAPI 0.135 or later ({error});"
        " pip install 'aiodurable[fastapi]'",
        name=error.name,
    ) from error

from aiodurable.integrations.fastapi.accepted import accepting, run_router
from aiodurable.integrations.fastapi.events import server_sent_events
from aiodurable.integrations.fastapi.leased import leased
from aiodurable.integrations.fastapi.lifespan import durable_lifespan
from aiodurable.integrations.fastapi.problems import add_exception_handlers
from aiodurable.integrations.fastapi.routes import status_router

__all__ = [
    "accepting",
    "add_exception_handlers",
    "durable_lifespan",
    "leased",
    "run_router",
    "server_sent_events",
    "status_router",
]

del _needed
