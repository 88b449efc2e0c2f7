"""The lifespan of an app with a `Durable`, and perhaps a worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from aiodurable.durable import Durable
from aiodurable.worker import Worker

__all__ = ["durable_lifespan"]


def durable_lifespan(
    make: Callable[[], Durable],
    *,
    work: bool | Callable[[Durable], Worker] = False,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan for `FastAPI(lifespan=…)`: it opens the `Durable`, installs it for all requests,
    sets `app.state.durable`, and closes it when the app stops. Runs that are at work then end as
    drained; see `Durable.drain`.

    Args:
        make: makes the `Durable`; called at each start of the app, in its event loop. The settings
            come from the environment unless it passes others.
        work: whether a worker executes accepted runs in this process, or a function that makes it:
            `lambda durable: durable.work(concurrency=20)`. It is `app.state.worker`, and drains
            when the app stops. Runs that block the event loop block the requests too.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with make() as durable:
            app.state.durable = durable.install()
            async with AsyncExitStack() as stack:
                if work is not False:
                    worker = durable.work() if work is True else work(durable)
                    app.state.worker = await stack.enter_async_context(worker)
                # First of all: the server has just cancelled the requests that were left.
                stack.callback(durable.drain)
                yield

    return lifespan
