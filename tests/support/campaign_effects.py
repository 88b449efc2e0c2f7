"""A side effect of a caller's own: one row in a table whose primary key is the step's idempotency
key, written as often as the step runs, and there once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg

from aiodurable import idempotency_key
from aiodurable.dsn import parse_dsn

TABLE = """
CREATE TABLE campaign_effects (
    idempotency_key text PRIMARY KEY, run_id text NOT NULL, step text NOT NULL
)"""
_ONCE = "INSERT INTO campaign_effects VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, TimeoutError)
_DOWN = (asyncpg.OperatorInterventionError, asyncpg.CannotConnectNowError)


class NoEffects:
    """Steps without a side effect."""

    async def once(self, run_id: str, step: str) -> None:
        """Does nothing."""


class Effects(NoEffects):
    """Writes rows of `campaign_effects`; while Postgres is away it tries again."""

    def __init__(self, dsn: str) -> None:
        self._where = parse_dsn(dsn).asyncpg
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def once(self, run_id: str, step: str) -> None:
        key = idempotency_key()
        while True:
            with suppress(*_LOST, *_DOWN):
                await (await self._opened()).execute(_ONCE, key, run_id, step, timeout=10)
                return
            await asyncio.sleep(0.2)

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(**self._where, min_size=0, max_size=4)
            return self._pool
