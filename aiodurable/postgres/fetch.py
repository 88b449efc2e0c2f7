"""Statements one after the other on one connection of psycopg's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import dict_row

__all__ = ["Fetch", "fetch_on"]

Fetch: TypeAlias = Callable[..., Awaitable[Sequence[Mapping[str, Any]]]]
"""Runs one statement with `$1` parameters and returns its rows."""


def fetch_on(connection: AsyncConnection[Any]) -> Callable[..., Awaitable[list[dict[str, Any]]]]:
    """A `Fetch` on this connection, in whatever transaction it is in."""

    async def fetch(query: str, *args: Any) -> list[dict[str, Any]]:
        async with AsyncRawCursor(connection, row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), args)
            return await cursor.fetchall()

    return fetch
