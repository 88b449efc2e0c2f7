"""Accept many runs: while one batch is written, the next one is prepared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from aiodurable.models import RunRecord
from aiodurable.queue.acceptance import Acceptance
from aiodurable.queue.new_run import NewRun, Row, row_of

__all__ = ["BATCH", "create_many"]

BATCH: Final = 500
"""Runs in one statement."""
_AT_A_TIME: Final = 25
"""Rows that are prepared before others have the event loop: some 2 ms."""


async def create_many(
    acceptance: Acceptance, runs: Iterable[NewRun] | AsyncIterable[NewRun], *, conn: Any = None
) -> tuple[RunRecord, ...]:
    """See `Runs.create_many`."""
    accepted = list[RunRecord]()
    writing: asyncio.Task[list[RunRecord]] | None = None
    try:
        async for some in _batches(runs):
            rows = await _rows(acceptance, some)
            if conn is not None:
                accepted += await acceptance.on(conn, some, rows)
                continue
            if writing is not None:
                accepted += await writing
            writing = asyncio.create_task(
                acceptance.many(some, rows), name="aiodurable create_many"
            )
        if writing is not None:
            accepted += await writing
    except Exception:  # what stands before a run that is refused is accepted
        if writing is not None:
            await writing
        raise
    finally:
        if writing is not None:
            writing.cancel()  # a cancellation waits for no answer; nothing where it is done
            # unlike asyncio.wait, a second cancellation ends this only once the task has ended
            await asyncio.gather(writing, return_exceptions=True)
    return tuple(accepted)


async def _rows(acceptance: Acceptance, some: Sequence[NewRun]) -> list[Row]:
    """Their rows; between them the loop serves others."""
    rows = list[Row]()
    for new in some:
        rows.append(await row_of(acceptance.services, acceptance.namespace, new))
        if len(rows) % _AT_A_TIME == 0:
            await asyncio.sleep(0)
    return rows


async def _batches(
    runs: Iterable[NewRun] | AsyncIterable[NewRun],
) -> AsyncGenerator[list[NewRun]]:
    """At most 500 at once."""
    if isinstance(runs, AsyncIterable):
        some: list[NewRun] = []
        async for new in runs:
            some.append(new)
            if len(some) == BATCH:
                yield some
                some = []
        if some:
            yield some
        return
    left = iter(runs)
    while some := [*islice(left, BATCH)]:
        yield some
