"""Makes a Starlette endpoint of a view: its right, its errors, and its forms of answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from aiodurable.dashboard.advice import with_buttons
from aiodurable.dashboard.authorization import Refused
from aiodurable.dashboard.context import Context, Page, View
from aiodurable.dashboard.live import Away, EventStream
from aiodurable.dashboard.options import Options
from aiodurable.dashboard.render import rendered, rendered_block
from aiodurable.errors import (
    AiodurableError,
    CheckpointNotFoundError,
    ConfigurationError,
    InvalidArgumentError,
    PostgresUnavailableError,
    RunNotFoundError,
    ScheduleNotFoundError,
    ThreadNotFoundError,
)

__all__ = ["endpoint"]

_STATUS: tuple[tuple[type[AiodurableError], HTTPStatus], ...] = (
    (ThreadNotFoundError, HTTPStatus.NOT_FOUND),
    (RunNotFoundError, HTTPStatus.NOT_FOUND),
    (CheckpointNotFoundError, HTTPStatus.NOT_FOUND),
    (ScheduleNotFoundError, HTTPStatus.NOT_FOUND),
    (InvalidArgumentError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ConfigurationError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (PostgresUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_HEADINGS = {
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Not possible",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer",
    HTTPStatus.CONFLICT: "Not now",
}


def endpoint(view: View, *, of_thread: bool = False) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that checks the right to `view` and answers with the whole page; to htmx with its
    `live` block; to `?live=1` with a stream of it.

    Args:
        view: reads what the page shows.
        of_thread: the page is about the thread that the parameter `id` names, and the right is
            checked for that one.
    """

    async def answer(request: Request) -> Response:
        context = Context(request, cast("Options", request.app.state.options))
        if request.query_params.get("live") and request.method == "GET":
            return await _followed(context, view, of_thread=of_thread)
        found = await _answer(context, view, of_thread=of_thread)
        if isinstance(found, Response):
            return found
        part = request.headers.get("hx-request") == "true"
        html = rendered_block(context, found) if part else rendered(context, found)
        response = HTMLResponse(html, found.status, headers={"Vary": "HX-Request"})
        if not part and not context.options.read_only:
            context.session.keep(response, request, context.prefix or "/")
        return response

    return answer


async def _followed(context: Context, view: View, *, of_thread: bool) -> Response:
    async def render() -> str | None:
        now = context.again()
        found = await _answer(now, view, of_thread=of_thread)
        if isinstance(found, Response):
            return None
        if found.status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise Away
        if found.status >= 400:
            return None
        return rendered_block(now, found)

    try:
        # A refusal is an answer with a status; a stream has begun with 200.
        await context.require("view", context.request.query_params.get("id") if of_thread else None)
    except Refused as refused:
        page = refused_page(refused)
        return HTMLResponse(rendered(context, page), page.status)
    return EventStream(render)


async def _answer(context: Context, view: View, *, of_thread: bool) -> Page | Response:
    """What the view answers, or a page that says why not."""
    try:
        # Never trimmed: a space at the end makes another thread of it.
        thread = context.request.query_params.get("id") if of_thread else None
        await context.require("view", thread)
        return await view(context)
    except Refused as refused:
        return refused_page(refused)
    except AiodurableError as error:
        status = next(
            (status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.CONFLICT
        )
        message = with_buttons(str(error))
        return Page("error.html", {"heading": _HEADINGS[status], "message": message}, status)


def refused_page(refused: Refused) -> Page:
    """What a person sees who may not do this."""
    return Page("refused.html", {"refused": refused}, HTTPStatus.FORBIDDEN)
