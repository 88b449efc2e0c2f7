"""`dashboard(durable, …)`: the ASGI app."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from aiodurable.dashboard.authorization import Authorize
from aiodurable.dashboard.background import Background
from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.endpoint import endpoint
from aiodurable.dashboard.options import Actor, Options, Redact
from aiodurable.dashboard.render import STATIC
from aiodurable.dashboard.routes import routes
from aiodurable.dashboard.security import HEADERS, LOOPBACK, Security
from aiodurable.dashboard.subgraph_progress import SubgraphProgress
from aiodurable.durable import Durable

__all__ = ["dashboard"]


def dashboard(
    durable: Durable,
    *,
    authorize: Authorize | None = None,
    read_only: bool = True,
    redact: Redact | None = None,
    allowed_hosts: Sequence[str] | None = None,
    actor: Actor | None = None,
    title: str = "aiodurable",
) -> Starlette:
    """An ASGI app with the dashboard. Mount it below any path, or serve it alone.

    Args:
        durable: the database. It must be open while the app serves requests; a read-only one shows
            everything and can do nothing.
        authorize: `authorize(request, action, thread)` decides each action of each request, and may
            be async; only True allows. None: everything is refused, with a page that says so.
        read_only: whether every action but `view` and `view_state` is refused.
        redact: `redact(path, value)` returns what is shown in the place of a value of a state.
            None: as it is.
        allowed_hosts: the names, without ports, under which browsers reach the app; `*` allows any,
            `*.example.com` each below that. None: those of this machine for itself.
        actor: `actor(request)` returns the name of a person for the audit table. None: the address
            of the client.
        title: what the pages call themselves.

    Returns:
        The app. Its pages need no cookie of its own, no network but this app, and no inline script.
    """
    options = Options(
        durable=durable,
        authorize=authorize,
        read_only=read_only,
        redact=redact,
        allowed_hosts=LOOPBACK if allowed_hosts is None else tuple(allowed_hosts),
        actor=actor,
        title=title,
    )
    app = Starlette(
        routes=[*routes(), Mount("/static", _Static(directory=STATIC), name="static")],
        middleware=[Middleware(Security, hosts=options.allowed_hosts)],
        exception_handlers={404: _not_found, 405: _not_found, Exception: _failed},
    )
    app.state.options = options
    app.state.background = Background()
    app.state.subgraphs = SubgraphProgress()
    return app


class _Static(StaticFiles):
    """Files that a browser may keep: their links change with their contents."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == 200 and b"v=" in scope["query_string"]:
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


async def _not_found(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return await endpoint(_no_page)(request)


async def _no_page(context: Context) -> Page:  # noqa: ARG001
    return Page(
        "error.html", {"heading": "Not found", "message": "The dashboard has no such page."}, 404
    )


async def _failed(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the server logs it
    """Answer where a view raised. This is outside of every middleware, and names no error: its text
    may have parts of a state.
    """
    return PlainTextResponse(
        "The dashboard cannot show this page: an error of its own, which the server's log has.\n",
        500,
        headers=HEADERS | {"Cache-Control": "no-store"},
    )
