"""Which view answers which path."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from aiodurable.dashboard.endpoint import endpoint
from aiodurable.dashboard.views import overview, state, thread, threads

__all__ = ["routes"]


def routes() -> list[BaseRoute]:
    """The pages. Each checks the right to `view`; names come as parameters, because a browser
    changes a path such as `/thread/../x`.
    """
    return [
        Route("/", endpoint(overview.show)),
        Route("/threads", endpoint(threads.show)),
        Route("/thread", endpoint(thread.show, of_thread=True)),
        Route("/thread/state", endpoint(state.show, of_thread=True)),
        Route("/thread/diff", endpoint(state.diff, of_thread=True)),
        Route("/thread/value", endpoint(state.download, of_thread=True)),
    ]
