"""How soon a cancelled run is over: `python -m tests.programs.worker_cancels --runs 100`.

Runs are in their node in a worker of another process: one that waits, or one that swallows its
cancellation. Measures from the call of `cancel` until the run is recorded as cancelled and its
thread is free, with default settings, beside a crowd of runs that are all in their node.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable
from tests.programs.worker_kills import fill
from tests.programs.worker_process import graphs
from tests.support import loops
from tests.support.restartable import own_server
from tests.support.waiting import wait_until
from tests.support.workers import Workers, workers


async def measure(
    durable: Durable, started: Workers, graph: str, *, runs: int
) -> tuple[list[float], list[str]]:
    """Seconds of each run, and what must not be."""
    begun = {line.run_id for line in started.lines()}
    ids = [
        (await durable.runs.create(f"{graph}-{n}", graph, {"words": [], "pause": 600})).run_id
        for n in range(runs)
    ]
    await wait_until(
        lambda: {line.run_id for line in started.lines()} - begun >= set(ids), 120, what="the runs"
    )
    seconds, wrong = list[float](), list[str]()
    for n, run_id in enumerate(ids):
        began = time.perf_counter()
        record = await durable.runs.cancel(run_id, wait=True, timeout=60)
        seconds.append(time.perf_counter() - began)
        if (record.status, record.reason) != ("paused", "cancelled"):
            wrong.append(f"{run_id}: {record.status}, {record.reason}, {record.error}")
        async with durable.hold(f"{graph}-{n}", on_busy="wait", timeout=10):
            pass
    return seconds, wrong


def percentiles(seconds: Sequence[float]) -> str:
    """p50, p99 and the worst, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[math.ceil(len(ordered) * 0.99) - 1]
    return (
        f"{len(ordered)} runs: p50 {statistics.median(ordered) * 1e3:.0f} ms,"
        f" p99 {p99 * 1e3:.0f} ms, worst {ordered[-1] * 1e3:.0f} ms"
    )


async def main(runs: int, crowd: int) -> int:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        async with own_server() as server:
            server.settings |= {"max_connections": "300", "max_locks_per_transaction": "512"}
            dsn = await server.start()
            async with (
                Durable(dsn, graphs=graphs(str(log))) as durable,
                workers(dsn, log, settings={}, concurrency=2 * runs) as started,
            ):
                await fill(durable, started, crowd)
                await started.start()
                wrong = list[str]()
                for graph in ("one", "stubborn"):
                    seconds, more = await measure(durable, started, graph, runs=runs)
                    wrong += more
                    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
                    print(f"{graph}, {crowd} other runs: {percentiles(seconds)}; load {load}")
                print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--crowd", type=int, default=1000)
    given = parser.parse_args()
    sys.exit(loops.run(main(given.runs, given.crowd)))
