"""A process that prunes a crowd on command, as a cron job or a worker does, not in the process of
live runs.

    python -m benchmarks.pruner < lines

The first line names the crowd, as JSON; each further one who prunes and for how many seconds. The
answer is two lines: an empty one when the first thread is pruned, and threads a second. A kept crowd
has been pruned from its beginning on: what ours passes over until then is not measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable import Durable
from aiodurable.threads import PruneReport

from .crowd import template, thread_name

__all__ = ["pruner"]


@asynccontextmanager
async def pruner(
    dsn: str, count: int, duty_cycle: float
) -> AsyncIterator[Callable[[str, float], Awaitable[Awaitable[float]]]]:
    """Such a process, ready: what is yielded has "ours" or "stock" prune, returns when the first
    thread is pruned, and what it returns tells, so many seconds later, threads a second.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __spec__.name, stdin=pipe, stdout=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin, process.stdout

    async def told(line: str) -> str:
        into.write(f"{line}\n".encode())
        return (await out.readline()).decode()

    async def pace() -> float:
        return float(await out.readline())

    async def prune(who: str, seconds: float) -> Awaitable[float]:
        await told(f"{who} {seconds}")
        return pace()

    try:
        await told(json.dumps({"dsn": dsn, "count": count, "duty_cycle": duty_cycle}))
        yield prune
    finally:
        into.close()
        await process.wait()


async def ours(durable: Durable, duty_cycle: float, seconds: float) -> float:
    """For so many seconds from the first thread that is pruned on."""
    seen: list[tuple[float, int]] = []
    end = asyncio.timeout(None)

    def told(pruned: PruneReport) -> None:
        if not pruned.threads:
            return
        if not seen:
            end.reschedule(asyncio.get_running_loop().time() + seconds)
            print(flush=True)
        seen.append((time.perf_counter(), pruned.threads))

    with contextlib.suppress(TimeoutError):
        async with end:
            await durable.threads.prune(
                older_than=timedelta(days=15), duty_cycle=duty_cycle, progress=told
            )
    if not seen:
        print(flush=True)
    if len(seen) < 2:
        return float("nan")  # nothing is left to prune
    (began, first), (ended, last) = seen[0], seen[-1]
    return (last - first) / (ended - began)


async def one_by_one(saver: AsyncPostgresSaver, old: list[str], seconds: float) -> float:
    """LangGraph's own, thread by thread."""
    print(flush=True)
    began, done = time.perf_counter(), 0
    while old and time.perf_counter() < began + seconds:
        await saver.aprune([old.pop()], strategy="keep_latest")
        done += 1
    return done / (time.perf_counter() - began) if done else float("nan")


async def serve(dsn: str, count: int, duty_cycle: float) -> None:
    """Answer line by line."""
    old = [
        thread_name(number) for number in range(count // 2, count) if template(number) == "complete"
    ]
    random.Random(time.time_ns()).shuffle(
        old
    )  # the younger half, which ours leaves alone: each has threads of its own
    async with AsyncExitStack() as stack:
        durable = await stack.enter_async_context(Durable(dsn))
        saver = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(dsn))
        print(flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            who, seconds = line.split()
            work = (
                ours(durable, duty_cycle, float(seconds))
                if who == "ours"
                else one_by_one(saver, old, float(seconds))
            )
            print(await work, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.stdin.readline())))
