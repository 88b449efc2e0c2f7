"""`threads.verify`: compares what is stored with what must be, thread by thread. Only reads.

Each batch is one READ ONLY transaction in one snapshot, so that no commit is seen in half. What is
found is looked at a second time in a later snapshot, and reported if it is still there; where a
running process may be about to end it, after a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aiodurable.models import MOST_CLAIMED_S
from aiodurable.postgres.fetch import Fetch
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.threads.findings import PASSING, Finding, finding_of

__all__ = ["VerifyProgress", "verify"]

_SQL: Final = load("verify")
_BY_THREAD: Final = ("lines", "values", "rows", "ledger")
_LATE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far `verify` is.

    Attributes:
        threads: how many threads were verified.
        findings: how many findings there are.
        last_thread_id: the last thread that was verified: go on after it with `after`; None: none
            was.
        elapsed_s: seconds since it began.
    """

    threads: int
    findings: int
    last_thread_id: str | None
    elapsed_s: float

    @property
    def threads_per_second(self) -> float:
        """Threads verified a second."""
        return self.threads / self.elapsed_s if self.elapsed_s else 0.0


async def verify(
    database: PsycopgPool,
    *,
    after: str | None,
    limit: int | None,
    batch_size: int,
    threads_per_second: float | None,
    recheck_s: float,
    progress: Callable[[VerifyProgress], None] | None,
) -> AsyncIterator[Finding]:
    """See `Threads.verify`."""
    began, threads, findings, last = time.monotonic(), 0, 0, after
    left = limit
    while left is None or left > 0:
        most = batch_size if left is None else min(batch_size, left)
        async with database.snapshot() as fetch:
            ids = [row["thread_id"] for row in await fetch(_SQL["page"], last or "", most)]
            found = await _of_threads(fetch, ids)
        if found:
            found = await _again(database, found, recheck_s)
        threads, findings = threads + len(ids), findings + len(found)
        for one in sorted(found):
            yield one
        if ids:
            last = ids[-1]
        if progress is not None:
            progress(VerifyProgress(threads, findings, last, time.monotonic() - began))
        if len(ids) < most:
            break
        left = None if left is None else left - len(ids)
        if threads_per_second is not None:
            await asyncio.sleep(max(0.0, threads / threads_per_second - (time.monotonic() - began)))
    else:
        return
    async for one in _schedules(database, batch_size, recheck_s):
        yield one


async def _of_threads(fetch: Fetch, thread_ids: Sequence[str]) -> set[Finding]:
    if not thread_ids:
        return set()
    rows = [row for name in _BY_THREAD for row in await fetch(_SQL[name], thread_ids)]
    rows += await fetch(_SQL["stuck"], thread_ids, MOST_CLAIMED_S, _LATE_S)
    return {finding_of(row["kind"], row["thread_id"], row["place"]) for row in rows}


async def _again(database: PsycopgPool, found: set[Finding], recheck_s: float) -> set[Finding]:
    """Those that are still there a moment later."""
    if any(one.kind in PASSING for one in found):
        await asyncio.sleep(recheck_s)
    async with database.snapshot() as fetch:
        ids = sorted({one.thread_id for one in found if one.thread_id is not None})
        return found & await _of_threads(fetch, ids)


async def _schedules(
    database: PsycopgPool, batch_size: int, recheck_s: float
) -> AsyncIterator[Finding]:
    last = ""
    while True:
        rows = await database.fetch(_SQL["schedules"], last, batch_size, _LATE_S)
        found = {row["schedule_id"]: row["kind"] for row in rows if row["kind"] is not None}
        if found:
            await asyncio.sleep(recheck_s)
            again = await database.fetch(_SQL["schedules"], last, batch_size, _LATE_S)
            for row in again:
                if row["kind"] is not None and found.get(row["schedule_id"]) == row["kind"]:
                    yield finding_of(row["kind"], None, row["schedule_id"])
        if len(rows) < batch_size:
            return
        last = rows[-1]["schedule_id"]
