"""A side effect that must not happen twice: a row in a table of the caller's own, whose primary key
refuses a second one. What `effect` begins is not tried again unless a look says that it is missing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg

from aiodurable import NOT_DONE, NotDone, effect, idempotency_key
from aiodurable.dsn import parse_dsn

TABLE = """
CREATE TABLE campaign_effects (
    idempotency_key text PRIMARY KEY, run_id text NOT NULL, step text NOT NULL
)"""
_INSERT = "INSERT INTO campaign_effects VALUES ($1, $2, $3)"
_LOOK = "SELECT count(*) FROM campaign_effects WHERE idempotency_key = $1"
_AWAY = (
    *(OSError, TimeoutError),
    *(asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError),
)


class NoEffects:
    """Steps without a side effect."""

    async def once(self, run_id: str, step: str) -> None:
        """Does nothing."""


class Effects(NoEffects):
    """Writes a row of `campaign_effects` for each step; while Postgres is away it tries again."""

    def __init__(self, dsn: str) -> None:
        self._where = parse_dsn(dsn).asyncpg
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def once(self, run_id: str, step: str) -> None:
        """Write the row of this step."""
        key = idempotency_key()

        async def write() -> str:
            """A second row would be refused, and its run fail."""
            try:
                await self._execute(_INSERT, key, run_id, step)
            except _AWAY:  # nobody knows whether it is there
                if await look() is NOT_DONE:
                    return await write()
            return key

        async def look() -> str | NotDone:
            while True:
                with suppress(*_AWAY):
                    return key if await self._execute(_LOOK, key) else NOT_DONE
                await asyncio.sleep(0.2)

        await effect("row", write, reconcile=look)

    async def _execute(self, query: str, *arguments: str) -> int | None:
        return await (await self._opened()).fetchval(query, *arguments, timeout=10)

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(**self._where, min_size=0, max_size=4)
            return self._pool
