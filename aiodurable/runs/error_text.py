"""Exceptions as text that Postgres can store: no NUL, no lone surrogate, of bounded length."""

from __future__ import annotations

import traceback

__all__ = ["error_text", "storable", "traceback_text"]

_ERROR_CHARS = 4_000
_TRACEBACK_CHARS = 8_000


def error_text(error: BaseException) -> str:
    """The exception's `repr`, at most 4,000 characters; if `repr` raises, its type."""
    try:
        text = repr(error)
    except Exception:  # a user-defined __repr__ may raise anything
        text = f"<{type(error).__name__}, whose repr raised>"
    return storable(text, _ERROR_CHARS)


def traceback_text(error: BaseException) -> str:
    """The traceback with its causes, its last 8,000 characters: the end says where it was
    raised.
    """
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # formatting calls the exception's own __str__, which may raise anything
        return error_text(error)
    text = storable(text)
    return text if len(text) <= _TRACEBACK_CHARS else "…" + text[-_TRACEBACK_CHARS:]


def storable(text: str, limit: int | None = None) -> str:
    """Escape what a Postgres text column refuses, and cut the text after `limit` characters."""
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text if limit is None or len(text) <= limit else text[:limit] + "…"
