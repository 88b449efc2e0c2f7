"""Watch every statement that this process sends: for tests that end a process at one of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import asyncpg
import psycopg
from asyncpg.prepared_stmt import PreparedStatement

__all__ = ["METHODS", "text_of", "watch_statements"]

METHODS: Final[Mapping[type[Any], Sequence[str]]] = {
    asyncpg.Connection: ("execute", "executemany", "fetch", "fetchrow", "fetchval"),
    PreparedStatement: ("executemany", "fetch", "fetchrow", "fetchval"),
    psycopg.AsyncCursor: ("execute", "executemany"),
}
"""The asynchronous methods that send a statement, by their class."""


def watch_statements(sending: Callable[[str], Callable[[], None]]) -> None:
    """Call `sending` before each statement, and what it returns after the answer, until the process
    ends.

    It sees both drivers, also the connections of the application itself.
    """
    for kind, methods in METHODS.items():
        for method in methods:
            setattr(kind, method, _watched(getattr(kind, method), sending))
    for method in ("execute", "executemany"):
        setattr(psycopg.Cursor, method, _watched_sync(getattr(psycopg.Cursor, method), sending))


def _watched(original: Any, sending: Callable[[str], Callable[[], None]]) -> Any:
    @functools.wraps(original)
    async def statement(driver: Any, *args: Any, **kwargs: Any) -> Any:
        answered = sending(text_of(driver, args))
        result = await original(driver, *args, **kwargs)
        answered()
        return result

    return statement


def _watched_sync(original: Any, sending: Callable[[str], Callable[[], None]]) -> Any:
    @functools.wraps(original)
    def statement(driver: Any, *args: Any, **kwargs: Any) -> Any:
        answered = sending(text_of(driver, args))
        result = original(driver, *args, **kwargs)
        answered()
        return result

    return statement


def text_of(driver: Any, args: Sequence[Any]) -> str:
    """The statement that a call of one of `METHODS` sends."""
    if isinstance(driver, PreparedStatement):
        return driver.get_query()
    query = args[0] if args else ""
    return query.decode() if isinstance(query, bytes) else str(query)
