"""Reads the rows of threads' newest checkpoints, as the stock saver's own query gives them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import orjson
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import WorkflowExecutionError
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.pool_connection import read_json
from aiodurable.postgres.sql import load

__all__ = ["RowReader", "refuse_damaged"]

_SQL = load("checkpoints")
_LATEST = _SQL["latest"].encode()
_SIZES = _SQL["sizes"]
_INNER = _SQL["inner_checkpoints"]
_PROGRESS = _SQL["inner_progress"]
_MOST_SUBGRAPHS: Final = 1_000
"""A page that follows a run asks each second."""


class RowReader:
    """Rows of many threads by one statement, undecoded.

    Attributes:
        latest: reads the newest row of a thread and namespace; one statement for many concurrent
            calls.
    """

    def __init__(self, pool: PsycopgPool) -> None:
        self._pool = pool
        self.latest: Batcher[tuple[str, str], DictRow] = Batcher(
            self._fetch_latest, name="aiodurable reads"
        )

    async def aclose(self) -> None:
        """Answer nothing more. Idempotent."""
        await self.latest.aclose()

    async def steps(self, session: WriteSession, *, inner: bool) -> list[DictRow]:
        """The newest row of a thread and, with `inner`, those of the running subgraphs of its step.

        The next `aget_tuple` of the session uses the first row instead of a query.
        """
        latest = self.latest((session.thread_id, ""))
        if inner:
            head, others = await asyncio.gather(latest, self._fetch_inner([session.thread_id]))
        else:
            head, others = await latest, dict[str, list[DictRow]]()
        if head is None:
            return []
        session.head = head
        return [head, *others.get(session.thread_id, ())]

    async def sizes(self, thread_ids: Sequence[str]) -> dict[str, int]:
        """Bytes of the values of the threads' newest checkpoints; leaves out empty threads."""
        rows = await self._pool.read(_SIZES, list(thread_ids))
        return {row["thread_id"]: int(row["bytes"] or 0) for row in rows}

    async def steps_of(self, thread_ids: Sequence[str], *, inner: bool) -> dict[str, list[DictRow]]:
        """`steps` for many threads at once. Rounds integers of more than 64 bits in metadata."""
        heads = await self._fetch_latest(
            [(thread_id, "") for thread_id in thread_ids], loads=_read_json_fast
        )
        others = await self._fetch_inner(thread_ids) if inner else {}
        return {
            thread_id: (
                [head, *others.get(thread_id, ())] if (head := heads.get((thread_id, ""))) else []
            )
            for thread_id in thread_ids
        }

    async def inner_progress(
        self, thread_id: str, known_ids: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Of the subgraphs that are under way in the newest step of a thread: `checkpoint_ns`,
        `checkpoint_id`, the nodes that their newest checkpoint has `seen`, and the channels that it
        `updated`. No value of a state is read, and nothing of the checkpoints in `known_ids`. Of a
        step with more than 1,000 subgraphs those after the first 1,000 are left out.
        """
        return await self._pool.read(_PROGRESS, thread_id, list(known_ids), _MOST_SUBGRAPHS)

    async def _fetch_inner(self, thread_ids: Sequence[str]) -> dict[str, list[DictRow]]:
        rows = await self._pool.read(_INNER, list(thread_ids))
        found: dict[str, list[DictRow]] = {}
        for row in rows:
            found.setdefault(row["thread_id"], []).append(row)
        return found

    async def _fetch_latest(
        self, keys: Sequence[tuple[str, str]], *, loads: Callable[[str | bytes], Any] = read_json
    ) -> dict[tuple[str, str], DictRow]:
        of = ([key[0] for key in keys], [key[1] for key in keys])

        async def latest(connection: AsyncConnection[DictRow]) -> list[DictRow]:
            cursor = AsyncRawCursor(connection, row_factory=dict_row)
            if loads is not read_json:
                set_json_loads(loads, cursor)
            await cursor.execute(_LATEST, of, binary=True)
            return await cursor.fetchall()

        rows = await self._pool.reading(latest)
        return {(row["thread_id"], row["checkpoint_ns"]): row for row in rows}


def _read_json_fast(data: str | bytes) -> Any:
    """`read_json`, but faster; rounds integers of more than 64 bits."""
    try:
        return orjson.loads(data)
    except ValueError:
        return None


def refuse_damaged(row: DictRow) -> None:
    """Raise if the row lacks a value that LangGraph reads without a check."""
    checkpoint, metadata = row["checkpoint"], row["metadata"]
    if not isinstance(checkpoint, dict) or not isinstance(metadata, dict):
        damaged = ["checkpoint or metadata"]
    else:
        kinds: dict[str, Any] = {
            "v": int,
            "channel_versions": dict,
            "versions_seen": dict,
            "channel_values": (dict, type(None)),
        }
        stored = cast("dict[str, Any]", checkpoint)
        damaged = [name for name, kind in kinds.items() if not isinstance(stored.get(name), kind)]
    if any(blob[1] is None for blob in row["channel_values"] or ()):
        damaged.append("a value's type")
    if any(write[2] is None for write in row["pending_writes"] or ()):
        damaged.append("a write's type")
    if damaged:
        raise WorkflowExecutionError(
            f"cannot read checkpoint {row['checkpoint_id']!r} of thread {row['thread_id']!r}:"
            f" {', '.join(damaged)} is not what LangGraph writes; restore the row, or delete the"
            " thread",
            thread_id=row["thread_id"],
        )
