"""What a worker keeps: `python -m tests.programs.worker_soak --runs 100000`.

One worker executes tiny runs, and every few thousand of them it says what its process holds: memory,
tasks, leases, connections. After the first quarter none of these may grow.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable, NewRun
from tests.support import loops
from tests.support.campaign_faults import ask
from tests.support.restartable import own_server
from tests.support.scenario_graphs import chain, ok

_OWN = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%@%'"
_OVER = "SELECT count(*) FROM aiodurable_runs WHERE status = 'complete'"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SLACK_KB_PER_1000 = 100
"""Growth of memory per thousand runs below which it counts as flat: allocators round."""


@dataclass(frozen=True)
class Held:
    """What the process holds when so many runs are over."""

    runs: int
    rss_kb: int
    objects: int
    tasks: int
    leases: int
    connections: int


async def soak(dsn: str, *, runs: int, every: int) -> list[Held]:
    """Execute `runs` runs, and look each time that `every` of them are over."""
    held = list[Held]()
    graphs = {"tiny": chain(a=ok("a"))}
    async with Durable(dsn, graphs=graphs) as durable, durable.work(concurrency=50):
        for first in range(0, runs, every):
            await durable.runs.create_many(
                NewRun(thread_id=f"t{n}", graph="tiny", input={"xs": ["in"]})
                for n in range(first, min(runs, first + every))
            )
            due = min(runs, first + every)
            over = 0
            while over < due:
                await asyncio.sleep(0.2)
                over = await ask(dsn, _OVER) or 0
            held.append(await _held(dsn, durable, due))
    return held


async def _held(dsn: str, durable: Durable, runs: int) -> Held:
    gc.collect()
    rss = int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * _PAGE // 1024
    leases = durable.locks.health().held
    tasks = len(asyncio.all_tasks())
    return Held(runs, rss, len(gc.get_objects()), tasks, leases, await ask(dsn, _OWN) or 0)


def growth(held: list[Held]) -> list[str]:
    """What has grown since the first quarter."""
    first, last = held[len(held) // 4], held[-1]
    thousands = max(1, last.runs - first.runs) / 1000
    found = [
        f"{name}: {before} -> {after}"
        for name, before, after in (
            ("tasks", first.tasks, last.tasks),
            ("leases", first.leases, last.leases),
            ("connections", first.connections, last.connections),
        )
        if after > before + 2
    ]
    if (last.rss_kb - first.rss_kb) / thousands > _SLACK_KB_PER_1000:
        found.append(f"memory: {first.rss_kb} -> {last.rss_kb} kB over {thousands:g} thousand runs")
    return found


async def main(runs: int, every: int) -> int:
    """Soak, and print."""
    began = time.monotonic()
    async with own_server() as server:
        held = await soak(await server.start(), runs=runs, every=every)
    print(*(field.name for field in fields(Held)), sep="\t")
    for each in held:
        print(*astuple(each), sep="\t")
    print(f"{runs} runs in {time.monotonic() - began:.0f} s")
    grown = growth(held)
    print("grown: " + ("; ".join(grown) or "nothing"))
    return 1 if grown else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=5_000)
    given = parser.parse_args()
    sys.exit(loops.run(main(given.runs, given.every)))
