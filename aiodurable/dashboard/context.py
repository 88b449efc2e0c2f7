"""What a view has in hand: the request, the `Durable`, what this person may do, and links."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from aiodurable.dashboard import authorization
from aiodurable.dashboard.authorization import Action, Reason, Refused
from aiodurable.dashboard.background import Background
from aiodurable.dashboard.forms import Session
from aiodurable.dashboard.options import Options
from aiodurable.dashboard.security import prefix_of
from aiodurable.dashboard.subgraph_progress import SubgraphProgress
from aiodurable.durable import Durable

__all__ = ["Context", "Page", "View"]


@dataclass(frozen=True, slots=True)
class Page:
    """What a view returns: a template and what it shows.

    Attributes:
        template: a file in `templates/`.
        values: what the template uses.
        status: the HTTP status.
    """

    template: str
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    status: int = 200


class Context:
    """A request, for a view.

    Attributes:
        request: the request.
        options: what the application gave the dashboard.
        prefix: the path below which a browser reaches the dashboard, without a slash at its end.
        session: which forms are ours.
    """

    def __init__(self, request: Request, options: Options) -> None:
        self.request = request
        self.options = options
        self.prefix = prefix_of(request.scope)
        self.session = Session(request)
        self._decided: dict[tuple[Action, str | None], Reason | None] = {}

    @property
    def durable(self) -> Durable:
        """Where the threads are."""
        return self.options.durable

    @property
    def background(self) -> Background:
        """The runs that people began here."""
        return cast("Background", self.request.app.state.background)

    @property
    def subgraphs(self) -> SubgraphProgress:
        """How far subgraphs are, read once for each of their checkpoints."""
        return cast("SubgraphProgress", self.request.app.state.subgraphs)

    def query(self, name: str) -> str | None:
        """A parameter of the URL, without the space around it; None if it is missing or empty."""
        value = self.request.query_params.get(name, "").strip().replace("\0", "")
        return value or None

    def exact(self, name: str) -> str | None:
        """An id in the URL with its spaces, but without NUL, which no id has and Postgres refuses;
        None if it is missing or empty.
        """
        return self.request.query_params.get(name, "").replace("\0", "") or None

    def url(self, path: str, /, **query: str | int | None) -> str:
        """A link to a page of the dashboard: `url("/thread", id=thread_id)`."""
        given = {name: value for name, value in query.items() if value is not None}
        encoded = f"?{urlencode(given, quote_via=quote)}" if given else ""
        return f"{self.prefix}{path}{encoded}"

    def here(self, **changed: str | int | None) -> str:
        """A link to this page with some parameters changed; None removes one."""
        given: dict[str, str | int | None] = {**self.request.query_params}
        given.pop("live", None)
        return self.url(self.path, **(given | changed))

    @property
    def path(self) -> str:
        """The path of this page inside the dashboard."""
        scope = self.request.scope
        return str(scope["path"]).removeprefix(str(scope.get("root_path", ""))) or "/"

    async def require(self, action: Action, thread: str | None = None) -> None:
        """Raise `Refused` unless this person may do this.

        It is decided once in a request: what a page shows and what it does have the same answer.
        """
        key = (action, thread)
        if key not in self._decided:
            options = self.options
            self._decided[key] = await authorization.refusal(
                options.authorize, self.request, action, thread, read_only=options.read_only
            )
        if (reason := self._decided[key]) is not None:
            raise Refused(action, reason)

    async def allowed(self, action: Action, thread: str | None = None) -> bool:
        """Whether this person may do this."""
        try:
            await self.require(action, thread)
        except Refused:
            return False
        return True

    def again(self) -> Context:
        """The same request and session, of which nothing is decided yet: a stream is a page after
        the other, and ends when a right was taken away.
        """
        context = Context(self.request, self.options)
        context.session = self.session
        return context


View = Callable[[Context], Awaitable[Page | Response]]
"""Reads what a page shows. It has called `require` before, or its route has."""
