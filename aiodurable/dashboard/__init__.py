"""The dashboard: an ASGI app that shows threads, runs and workers, and lets people act on them.

    app = dashboard(durable, authorize=may)

It is closed by default: without `authorize` every request is refused. It is read-only by default,
and shows states only to people who may `view_state`. Needs `aiodurable[dashboard]`.

How a request goes: `security` checks its Host and Origin and sets the headers of every response;
`authorization` decides whether this person may do this; a function in `views` reads what it needs
and returns a `Page`; `render` makes HTML of it, with autoescape always on. A page that is opened
with `?live=1` is a stream of server-sent events: `live` renders it again and sends what changed.
"""

from __future__ import annotations

try:
    import jinja2 as _jinja2
    import starlette as _starlette
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"cannot import aiodurable.dashboard: it needs Starlette and Jinja2 ({error});"
        " pip install 'aiodurable[dashboard]'",
        name=error.name,
    ) from error

from aiodurable.dashboard.app import dashboard
from aiodurable.dashboard.authorization import Action, Authorize
from aiodurable.dashboard.options import Actor, Redact

__all__ = ["Action", "Actor", "Authorize", "Redact", "dashboard"]

del _jinja2, _starlette
