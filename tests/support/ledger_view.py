"""The ledger as a person would read it: on a connection of its own."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row


class Ledger:
    """Reads the ledger on a connection of its own."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def rows(self, thread_id: str) -> list[dict[str, Any]]:
        query = "SELECT * FROM aiodurable_runs WHERE thread_id = %s ORDER BY created_at, run_id"
        async with await psycopg.AsyncConnection[DictRow].connect(
            self._dsn, row_factory=dict_row
        ) as connection:
            return await (await connection.execute(query, (thread_id,))).fetchall()

    async def statuses(self, thread_id: str) -> list[str]:
        return [row["status"] for row in await self.rows(thread_id)]
