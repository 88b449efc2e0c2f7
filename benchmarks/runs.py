"""So many runs, or runs for so long, so many at a time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import uuid
from collections.abc import Iterable

from .contenders import Run
from .meter import Meter, ServerCpu


async def crowd(run: Run, runs: int, concurrency: int) -> list[float]:
    """Milliseconds of each run, sorted."""
    return await _crowd(run, range(runs), concurrency)


async def crowd_for(run: Run, seconds: float, concurrency: int) -> list[float]:
    """The same for as many runs as begin within so many seconds."""
    end = time.perf_counter() + seconds
    return await _crowd(
        run,
        itertools.takewhile(lambda _: time.perf_counter() < end, itertools.count()),
        concurrency,
    )


async def _crowd(run: Run, numbers: Iterable[int], concurrency: int) -> list[float]:
    left = iter(numbers)
    took: list[float] = []

    async def caller() -> None:
        for _ in left:
            began = time.perf_counter()
            await run(uuid.uuid4().hex)
            took.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return sorted(took)


async def measure(run: Run, server: ServerCpu, runs: int, concurrency: int) -> dict[str, float]:
    """Runs a second, latencies, and the CPU of both sides a run.

    What the process has loaded and the others have left is kept out of the garbage collector: a
    full collection through it takes as long as a hundred runs.
    """
    gc.collect()
    gc.freeze()
    with Meter(server) as meter:
        took = await crowd(run, runs, concurrency)
    return {
        "runs_per_s": runs / meter.seconds,
        "p50_ms": took[len(took) // 2],
        "p99_ms": took[min(len(took) - 1, int(len(took) * 0.99))],
        "client_cpu_ms": meter.client_s * 1000 / runs,
        "server_cpu_ms": meter.server_s * 1000 / runs,
    }
