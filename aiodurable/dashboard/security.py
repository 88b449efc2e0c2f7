"""What holds for every request and response, before a page is looked for.

- The Host header names a host of ours: a page of somebody else's whose name resolves to this
    machine (DNS rebinding) gets nothing. What is no host at all is refused under `*`, too:
    Starlette raises where it makes an address of it.
- A request that may change something comes from a page of ours: its Origin is this host. A browser
    sends one with every POST; what sends none must at least be marked `same-origin` by the browser.
- The content security policy allows what this host serves and nothing inline, and no other site may
    put a page into a frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADERS", "LOOPBACK", "POLICY", "Security", "prefix_of"]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""The names of this machine for itself."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer, with which a browser sends `Origin: null` with a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_LAST_PORT = 65_535
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_PORT = re.compile(r":\d+\Z")
_HOST = re.compile(r"(?:[a-z0-9._~-]+|\[(?P<address>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{1,5}))?")


class Security:
    """The outermost middleware.

    Args:
        app: what serves the request if it may be served.
        hosts: the hosts that requests may name, without ports; `*` is any host, `*.example.com`
            each below it.
    """

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = tuple(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a WebSocket: nothing of ours speaks it

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if not _is_host(host) or not self._known(_PORT.sub("", host)):
            return PlainTextResponse(
                "The Host header of this request is none of the dashboard's. The application that"
                " serves it can allow it: dashboard(…, allowed_hosts=[…]).\n",
                400,
            )
        if scope["method"] in _SAFE:
            return None
        origin = headers.get("origin")
        same = (
            headers.get("sec-fetch-site") == "same-origin"
            if origin is None
            else origin.lower() in (f"http://{host}", f"https://{host}")
        )
        if same:
            return None
        return PlainTextResponse(
            "This request comes from a page that is none of the dashboard's, and may change"
            " nothing. If a proxy is in between, let it pass on the Host header.\n",
            403,
        )

    def _known(self, host: str) -> bool:
        return any(
            known in ("*", host) or (known.startswith("*.") and host.endswith(known[1:]))
            for known in self._hosts
        )


def _is_host(text: str) -> bool:
    """Whether a Host header is a name or an address, with or without a port."""
    found = _HOST.fullmatch(text)
    if found is None or int(found["port"] or 0) > _LAST_PORT:
        return False
    try:
        return found["address"] is None or IPv6Address(found["address"]).version == 6
    except ValueError:
        return False


def prefix_of(scope: Scope) -> str:
    """The path below which a browser reaches the dashboard: what a proxy removed
    (`X-Forwarded-Prefix`), and where the app is mounted.
    """
    forwarded = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
    mounted = str(scope.get("root_path", "")).rstrip("/")
    if not _PREFIX.fullmatch(forwarded) or f"{mounted}/".startswith(f"{forwarded}/"):
        return mounted
    return forwarded + mounted
