"""Where this process hands statements to its drivers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aiodurable.locks.statements import LockStatements
from aiodurable.postgres import statement_watch
from tests.support.internals import query_of

SENDS: Final[dict[type[Any], Sequence[str]]] = {
    **statement_watch.METHODS,
    LockStatements: ("acquire", "release"),  # of one key, past the methods of asyncpg
}
"""The methods, by their class. Each returns an awaitable."""


def text_of(sender: Any, method: str, args: Sequence[Any]) -> str:
    """The statement that this call of one of `SENDS` sends."""
    if isinstance(sender, LockStatements):
        return query_of(sender, method)
    return statement_watch.text_of(sender, args)
