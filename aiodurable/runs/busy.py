"""What a call does with a busy thread: wait behind the runs that were accepted before it, or have
them make way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, NamedTuple, TypeAlias

from aiodurable.checkpoints.fences import Standing
from aiodurable.errors import LockTimeoutError, PostgresUnavailableError, StatementRefusedError
from aiodurable.postgres.fetch import Fetch
from aiodurable.postgres.locked_rows import patiently
from aiodurable.postgres.sql import load
from aiodurable.runs.cancellation import CHANNEL
from aiodurable.runs.services import Services

__all__ = [
    "INTERRUPTING",
    "Newcomer",
    "OnBusy",
    "interrupt",
    "interrupting",
    "locked_threads",
    "wait_in_line",
]

OnBusy: TypeAlias = Literal["reject", "wait", "enqueue", "interrupt", "rollback"]
"""What a call does where its thread is busy."""

INTERRUPTING: Final = ("interrupt", "rollback")
"""With these, what the thread has left makes way."""

_SQL: Final = load("busy")
_OWN_INTERRUPT: Final = load("busy", "own_transaction")["interrupt"]
_POLL_S: Final = (0.02, 0.5)
"""Seconds between two looks at the queue: at first, and at most."""
_AGAIN_S: Final = 0.5
"""Seconds after which the run at work is cancelled again: it may have begun since."""


class Newcomer(NamedTuple):
    """A run before which what its thread has left makes way. With on_busy "rollback" what the run
    at work wrote is removed, too."""

    thread_id: str
    run_id: str
    on_busy: str


async def interrupt(
    fetch: Fetch,
    newcomers: Iterable[Newcomer],
    *,
    spared: Sequence[str] = (),
    sql: str = _SQL["interrupt"],
) -> dict[str, Standing]:
    """Have what their threads have left make way for runs: what waits is given up, what is at work
    is cancelled. Of several of a thread the last one is for which the others make way, too; what
    one of them rolls back is rolled back.

    Args:
        fetch: runs a statement.
        newcomers: the runs, in their order.
        spared: run_ids of what was accepted after them, and stays.
        sql: the statement: in a transaction whose locked rows it waits for as that one does.

    Returns:
        The fences of the threads at that moment; not of one that never had a lease.
    """
    last = dict[str, tuple[str, bool]]()
    for thread_id, run_id, on_busy in newcomers:
        _, rolls_back = last.get(thread_id, (None, False))
        last[thread_id] = (run_id, rolls_back or on_busy == "rollback")
    run_ids, roll_backs = map(list, zip(*last.values(), strict=True))
    rows = await fetch(sql, [*last], run_ids, roll_backs, [*spared], CHANNEL)
    return {
        row["thread_id"]: Standing(row["token"], row["lease_id"])
        for row in rows
        if row["thread_id"] is not None
    }


async def locked_threads(fetch: Fetch, thread_ids: Collection[str]) -> frozenset[str]:
    """Those of these threads of which another transaction has locked a run: `interrupt` would wait
    for it. The runs of the others are locked until the end of the transaction of `fetch`.
    """
    if not thread_ids:
        return frozenset()
    rows = await fetch(_SQL["locked_threads"], sorted(thread_ids))
    return frozenset(row["thread_id"] for row in rows)


@asynccontextmanager
async def interrupting(
    services: Services, thread_id: str, run_id: str, on_busy: OnBusy
) -> AsyncGenerator[None]:
    """Have what the thread has left make way for `run_id`, and cancel what is at work for as long
    as the body waits for it.

    Args:
        services: the open services.
        thread_id: the thread.
        run_id: the run that takes its place.
        on_busy: "interrupt" or "rollback".

    Raises:
        LockTimeoutError: another transaction kept a run of the thread locked for 10 seconds.
    """
    fetch = services.checkpoints.database.fetch
    newcomer = Newcomer(thread_id, run_id, on_busy)
    standings = await patiently(
        lambda: interrupt(fetch, [newcomer], sql=_OWN_INTERRUPT),
        f"interrupt what thread {thread_id!r} has in front of run {run_id!r}",
        thread_id,
        row="a run of it",
    )

    standing = standings.get(thread_id)

    async def again() -> None:
        while standing is not None:
            await asyncio.sleep(_AGAIN_S)
            # refused: somebody has locked the run's row
            with suppress(PostgresUnavailableError, StatementRefusedError):
                await fetch(
                    *(_SQL["interrupt_again"], thread_id, run_id, *standing, CHANNEL),
                    on_busy == "rollback",
                )

    task = asyncio.create_task(again(), name=f"aiodurable interrupt {thread_id}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def wait_in_line(
    services: Services, thread_id: str, run_id: str, *, timeout: float | None
) -> None:
    """Wait until no run waits any more that was accepted for the thread before this call.

    Args:
        services: the open services.
        thread_id: the thread.
        run_id: the run of the call, which does not wait for itself.
        timeout: seconds to wait at most; None: without a limit.

    Raises:
        LockTimeoutError: a run still waited then.
    """
    direct = services.checkpoints.direct
    (place,) = await direct.fetch(_SQL["place"], thread_id, run_id)
    if place["position"] is None:
        return
    wait, most = _POLL_S
    try:
        async with asyncio.timeout(timeout):
            while await direct.fetch(_SQL["waits_before"], thread_id, place["position"], run_id):
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 1.5, most)
    except TimeoutError:
        raise LockTimeoutError(
            f"cannot begin on thread {thread_id!r} within {timeout:g} s: runs that were accepted"
            " before this call still wait; see that a worker serves their queue and that the"
            ' thread waits for nobody, or call with on_busy="wait", which does not wait for them',
            thread_id=thread_id,
        ) from None
