"""The dashboard of one person on this machine: a random token in the printed address, a cookie
afterwards.

Other users and programs of the machine can reach the port, and so can pages in the browser; none of
them knows the token. Nothing of it is stored: another start has another token.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from aiodurable.dashboard.app import dashboard
from aiodurable.dashboard.authorization import Action
from aiodurable.dashboard.security import HEADERS, LOOPBACK
from aiodurable.durable import Durable

__all__ = ["LocalDashboard"]

_HEADERS = HEADERS | {"Cache-Control": "no-store"}
_WELCOME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>aiodurable</title>
<meta http-equiv="refresh" content="0;url=./"></head>
<body><p>Signed in: <a href="./">open the dashboard</a>.</p></body></html>
"""


class LocalDashboard:
    """The dashboard for the person who has the token.

    Args:
        durable: the database.
        writable: whether it has actions.
        states: whether it shows states and questions.
        host: the host in its address: `127.0.0.1`, `[::1]`, or another name of this machine.
        port: the port it is served at: cookies do not know one, so the cookie's name has it.
        actor: who is in the audit: the user of this machine, for everybody who has the token; the
            address of the client would be that of this machine.

    Attributes:
        app: the ASGI app.
        login: the path and query of the address that signs in.
    """

    def __init__(
        self,
        durable: Durable,
        *,
        writable: bool,
        states: bool,
        host: str,
        port: int,
        actor: str,
    ) -> None:
        self._token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._cookie = f"aiodurable_{port}"
        self._states = states
        inner = dashboard(
            durable,
            authorize=self._authorize,
            read_only=not writable,
            allowed_hosts=(*LOOPBACK, host),
            actor=lambda _: actor,
        )
        self.app = Starlette(
            routes=[
                Route("/login", self._sign_in),
                Mount("/", _SignedIn(inner, self._signed_in)),
            ]
        )
        self.login = f"/login?token={self._token}"

    async def _sign_in(self, request: Request) -> Response:
        given = request.query_params.get("token", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            return _stranger()
        # A page that goes on, not a redirect: a strict cookie is not sent along a redirect from
        # another site, such as a terminal in a browser.
        response = HTMLResponse(_WELCOME, headers=_HEADERS)
        response.set_cookie(self._cookie, self._session, httponly=True, samesite="strict", path="/")
        return response

    def _signed_in(self, request: Request) -> bool:
        given = request.cookies.get(self._cookie, "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._session.encode())

    def _authorize(self, request: Request, action: Action, thread: str | None) -> bool:  # noqa: ARG002
        return self._signed_in(request) and (action != "view_state" or self._states)


class _SignedIn:
    def __init__(self, app: ASGIApp, signed_in: Any) -> None:
        self._app = app
        self._signed_in = signed_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._signed_in(Request(scope)):
            await _stranger()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _stranger() -> Response:
    return PlainTextResponse(
        "Open the address that `aiodurable dashboard` printed: it has a token. Another start of the"
        " command has another one.\n",
        401,
        headers=_HEADERS,
    )
