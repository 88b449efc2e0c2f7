"""The lifespan of an app with a `Durable`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from aiodurable.durable import Durable

__all__ = ["durable_lifespan"]


def durable_lifespan(
    make: Callable[[], Durable],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan for `FastAPI(lifespan=…)`: it opens the `Durable`, installs it for all requests,
    sets `app.state.durable`, and closes it when the app stops.

    Args:
        make: makes the `Durable`; called at each start of the app, in its event loop. The settings
            come from the environment unless it passes others.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with make() as durable:
            app.state.durable = durable.install()
            yield

    return lifespan
