"""What a thread_id, a run_id and other texts must be, so that Postgres and LangGraph can hold
them.
"""

from __future__ import annotations

import re

from aiodurable.errors import InvalidArgumentError

__all__ = [
    "MAX_THREAD_ID_BYTES",
    "has_nul",
    "is_storable",
    "validate_run_id",
    "validate_signal_id",
    "validate_text",
    "validate_thread_id",
]

MAX_THREAD_ID_BYTES = 512
"""A thread_id is part of three primary keys; Postgres refuses index rows over 2704 bytes, and only
when they are written.
"""


def validate_thread_id(thread_id: str) -> str:
    """Return `thread_id` if Postgres and LangGraph can hold it.

    Raises:
        InvalidArgumentError: it is no string, empty, longer than `MAX_THREAD_ID_BYTES` in UTF-8, or
            has a NUL character or a lone surrogate (neither can be stored in a Postgres text
            column).
    """
    return _check("thread_id", thread_id, "give every workflow a name of its own")


def validate_run_id(run_id: str) -> str:
    """Return `run_id` if it can name a run; raises as `validate_thread_id` does.

    It is copied into every checkpoint of the run.
    """
    return _check("run_id", run_id, "leave it out to have one made")


def validate_signal_id(signal_id: str) -> str:
    """Return `signal_id` if it can name a signal; raises as `validate_thread_id` does."""
    return _check("signal_id", signal_id, "leave it out where a signal is sent once")


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def has_nul(json_text: str) -> bool:
    """Whether a text in this JSON has a NUL character, which jsonb cannot hold. A backslash before
    `u0000` that is itself escaped begins no escape.
    """
    return _NUL.search(json_text) is not None


def is_storable(text: str) -> bool:
    """Whether a Postgres text column can hold it: no NUL character, no lone surrogate."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def validate_text(**texts: str | None) -> None:
    """Refuse a text with which Postgres cannot compare anything; None passes.

    Raises:
        InvalidArgumentError: it is no string, or not one that a text column can hold.
    """
    for name, text in texts.items():
        if text is not None and not (
            isinstance(text, str)  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all type-checked
            and is_storable(text)
        ):
            raise InvalidArgumentError(
                f"cannot use {name}={text!r:.80}: it must be a text without NUL characters and"
                " lone surrogates",
                argument=name,
            )


def _check(name: str, text: str, where_empty: str) -> str:
    wrong = None
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all type-checked
        wrong = f"must be a str, got {type(text).__name__}: pass str({name})"
    elif not text:
        wrong = f"must not be empty: {where_empty}"
    elif "\0" in text:
        wrong = "must not contain a NUL character: Postgres cannot store it in text"
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            wrong = "must be valid Unicode, got a lone surrogate: decode it properly"
        else:
            if size > MAX_THREAD_ID_BYTES:
                wrong = (
                    f"must have at most {MAX_THREAD_ID_BYTES} bytes in UTF-8, got {size}: use a"
                    " digest of it instead"
                )
    if wrong is not None:
        raise InvalidArgumentError(f"{name} {wrong}", argument=name)
    return text
