"""Answers `/act/…`: a GET with the page of confirmation, a POST by acting."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from aiodurable.dashboard.actions.act import Act, Form, Outcome
from aiodurable.dashboard.actions.audited import audited
from aiodurable.dashboard.context import Context, Page, View
from aiodurable.dashboard.forms import read_form

__all__ = ["view_of"]

_SEE_OTHER = 303
_FORBIDDEN = 403


def view_of(act: Act) -> View:
    """The view of an action."""

    async def view(context: Context) -> Page | Response:
        thread_id = context.request.query_params.get("id") if act.of_thread else None
        await context.require(act.right, thread_id)
        if context.request.method != "POST":
            return Page("confirm.html", {"asked": await act.confirm(context), "fields": {}})
        form = await read_form(context.request)
        if not context.session.check(form):
            return _stale()
        return await _done(context, act, form, thread_id)

    return view


def _stale() -> Page:
    message = (
        "Nothing was done: this form is not of this session of your browser, or is of an earlier"
        " one. Go back, reload the page, and send it again; the browser has to keep cookies of the"
        " dashboard."
    )
    return Page("error.html", {"heading": "Not accepted", "message": message}, _FORBIDDEN)


async def _done(context: Context, act: Act, form: Form, thread_id: str | None) -> Page | Response:
    async with audited(
        context,
        act.recorded,
        thread_id=thread_id,
        run_id=context.request.query_params.get("run") if act.of_thread else None,
        details=act.details(context, form),
    ):
        outcome = await act.perform(context, form)
    if outcome.listed:
        return Page("acted.html", {"outcome": outcome})
    return _next(context, outcome)


def _next(context: Context, outcome: Outcome) -> Response:
    response = RedirectResponse(outcome.path, _SEE_OTHER)
    context.session.leave(response, (outcome.kind, outcome.said), context.prefix or "/")
    return response
