"""Forms: what a browser sent, that it came from a form of ours, and what the next page says of it.

The session is a random cookie that no script reads and that no other site's page sends. A form has
a digest of it, which only a page of ours can show. Nothing is kept on the server, so that several
processes can serve one dashboard.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from aiodurable.errors import InvalidArgumentError

__all__ = ["Flash", "Session", "read_form"]

_COOKIE = "aiodurable_form"
_FLASH = "aiodurable_flash"
_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")
_LARGEST = 2 * 1024 * 1024
_MOST_FIELDS = 200
_LONGEST_FLASH = 1_000

Flash = tuple[str, str]
"""What the next page says: `good` or `bad`, and a text."""


class Session:
    """The session of a browser, which exists to tell our forms from others.

    Args:
        request: its request; a session that it does not have begins here.

    Attributes:
        began: whether the browser has to be given the cookie.
    """

    def __init__(self, request: Request) -> None:
        given = request.cookies.get(_COOKIE, "")
        self.began = _SESSION.fullmatch(given) is None
        self._secret = secrets.token_urlsafe(32) if self.began else given
        self._flash = request.cookies.get(_FLASH)

    @property
    def token(self) -> str:
        """What each form of this session has."""
        return self._digest(b"form")

    def check(self, form: Mapping[str, str]) -> bool:
        """Whether a form is one of this session."""
        given = form.get("token", "").encode("utf-8", "replace")
        return not self.began and hmac.compare_digest(given, self.token.encode())

    def sealed(self, shown: Mapping[str, str]) -> tuple[str, str]:
        """Thread ids and how they stood, for a form, and a seal: what comes back was shown."""
        text = base64.urlsafe_b64encode(json.dumps(dict(shown)).encode()).decode()
        return text, self._digest(b"ids " + text.encode())

    def unsealed(self, text: str, seal: str) -> dict[str, str]:
        """The thread ids and how they stood.

        Raises:
            InvalidArgumentError: the list is not the one that was shown.
        """
        wanted = self._digest(b"ids " + text.encode("utf-8", "replace"))
        if not hmac.compare_digest(seal.encode("utf-8", "replace"), wanted.encode()):
            raise InvalidArgumentError(
                "cannot do this: the selection is not the one that was shown; make it again",
                argument="selection",
            )
        return cast("dict[str, str]", json.loads(base64.urlsafe_b64decode(text)))

    @property
    def flash(self) -> Flash | None:
        """What the page before left to say."""
        if self._flash is None or self.began:
            return None
        text, _, seal = self._flash.partition(".")
        if not hmac.compare_digest(seal.encode(), self._digest(b"flash " + text.encode()).encode()):
            return None  # another page of this host has set it
        kind, said = json.loads(base64.urlsafe_b64decode(text))
        return kind, said

    def leave(self, response: Response, flash: Flash, path: str) -> None:
        """Let the next page say something."""
        kind, said = flash
        short = said if len(said) <= _LONGEST_FLASH else f"{said[:_LONGEST_FLASH]}…"
        text = base64.urlsafe_b64encode(json.dumps([kind, short]).encode()).decode()
        value = f"{text}.{self._digest(b'flash ' + text.encode())}"
        response.set_cookie(_FLASH, value, max_age=60, httponly=True, samesite="strict", path=path)

    def keep(self, response: Response, request: Request, path: str) -> None:
        """Give the browser what it has to keep, and let it drop what was said."""
        if self.began:
            response.set_cookie(
                _COOKIE,
                self._secret,
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
                path=path,
            )
        if self._flash is not None:
            response.delete_cookie(_FLASH, path=path, httponly=True, samesite="strict")

    def _digest(self, about: bytes) -> str:
        return hmac.new(self._secret.encode(), about, hashlib.sha256).hexdigest()


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, each once.

    Raises:
        InvalidArgumentError: it is no form, or a larger one than any of ours.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise _unreadable(f"its content type is {kind or 'missing'}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise _unreadable(f"it has more than {_LARGEST} bytes")
    try:
        pairs: list[tuple[Any, Any]] = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise _unreadable(f"it is no UTF-8, or has more than {_MOST_FIELDS} fields") from None
    return dict(pairs)


def _unreadable(why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"cannot read the form: {why}; send it from its page", argument="form"
    )
