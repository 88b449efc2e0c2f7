"""An exception as text that Postgres stores: no NUL, no lone surrogate, and of a bounded length."""

from __future__ import annotations

import traceback

__all__ = ["error_text", "storable", "traceback_text"]

_ERROR_CHARS = 4_000
_TRACEBACK_CHARS = 8_000


def error_text(error: BaseException) -> str:
    """`repr` of the exception; where that raises, its type."""
    try:
        text = repr(error)
    except Exception:  # a user's own __repr__ may do anything
        text = f"<{type(error).__name__}, whose repr raised>"
    return storable(text, _ERROR_CHARS)


def traceback_text(error: BaseException) -> str:
    """Its traceback, with those of its causes; of a long one the end, which says where it was raised."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        return error_text(error)
    text = storable(text)
    return text if len(text) <= _TRACEBACK_CHARS else "…" + text[-_TRACEBACK_CHARS:]


def storable(text: str, limit: int | None = None) -> str:
    """The text with what a Postgres text column refuses written as escapes, cut after `limit` characters."""
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text if limit is None or len(text) <= limit else text[:limit] + "…"
