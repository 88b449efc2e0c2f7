"""Where this process hands statements to its drivers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import psycopg
from asyncpg.prepared_stmt import PreparedStatement

from aiodurable.locks.statements import LockStatements
from tests.support.internals import query_of

SENDS: Final[dict[type[Any], Sequence[str]]] = {
    asyncpg.Connection: ("execute", "fetch", "fetchrow", "fetchval"),
    PreparedStatement: ("fetch", "fetchrow", "fetchval"),
    psycopg.AsyncCursor: ("execute",),
    LockStatements: ("acquire", "release"),  # of one key, past the methods of asyncpg
}
"""The methods, by their class. Each returns an awaitable."""


def text_of(sender: Any, method: str, args: Sequence[Any]) -> str:
    """The statement that this call of one of `SENDS` sends."""
    if isinstance(sender, LockStatements):
        return query_of(sender, method)
    if isinstance(sender, PreparedStatement):
        return sender.get_query()
    return args[0].decode() if isinstance(args[0], bytes) else str(args[0])
