"""Faults for minutes: `python -m tests.programs.worker_campaign --seed N --minutes M`.

Two creators accept runs for two workers; one worker is killed again and again, a twentieth of the
runs is cancelled. In the end every run is settled, and every thread holds each step once.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable.durable import Durable
from aiodurable.errors import AiodurableError
from aiodurable.models import RunStatus
from tests.programs.worker_process import STEPS, graphs
from tests.support import loops
from tests.support.restartable import own_server
from tests.support.workers import Workers, workers

CANCELLED_SHARE = 0.05
KILL_EVERY_S = 2.0


@dataclass
class Report:
    """What a campaign saw.

    Attributes:
        runs: how many were accepted.
        kills: how many workers were killed.
        statuses: how the runs ended.
        repeated: steps that were begun again, beyond once a run.
        wrong: what must not be.
    """

    runs: int = 0
    kills: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    repeated: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.kills} kills: {dict(self.statuses)};"
            f" {self.repeated} steps repeated; {len(self.wrong)} wrong"
        )


async def campaign(dsn: str, log: Path, *, seed: int, runs: int, settle_s: float = 120) -> Report:
    """Accept `runs` runs under faults, and look at what became of them."""
    chance = random.Random(seed)
    report = Report(runs=runs)
    async with (
        Durable(dsn, graphs=graphs(str(log))) as one,
        Durable(dsn, graphs=graphs(str(log))) as other,
        workers(dsn, log) as started,
    ):
        for _ in range(2):
            await started.start()
        to_cancel = {n for n in range(runs) if chance.random() < CANCELLED_SHARE}
        killing = asyncio.create_task(_kill(started, chance, report))
        try:
            created = await asyncio.gather(
                _create(one, range(0, runs, 2), to_cancel, chance),
                _create(other, range(1, runs, 2), to_cancel, chance),
            )
            threads = created[0] | created[1]
            await _settled(one, list(threads), report, settle_s)
        finally:
            killing.cancel()
            await asyncio.wait({killing})
        await _check(one, threads, report)
        begun = Counter((a.thread_id, a.step) for a in started.lines())
        wanted = Counter(threads.values())
        report.repeated = sum(max(0, n - wanted[thread]) for (thread, _), n in begun.items())
    return report


async def _create(
    durable: Durable, numbers: range, to_cancel: set[int], chance: random.Random
) -> dict[str, str]:
    """Accept the runs of these numbers; their threads by run_id. Three runs share a thread."""
    threads = dict[str, str]()
    for n in numbers:
        thread = f"cancelled-{n}" if n in to_cancel else f"t{n // 6}-{n % 2}"
        words = {"words": [f"<{n}>"], "pause": 0.01}
        created = await durable.runs.create(thread, "steps", words)
        threads[created.run_id] = thread
        if n in to_cancel:
            await asyncio.sleep(chance.uniform(0, 0.1))
            await durable.runs.cancel(created.run_id)
    return threads


async def _kill(started: Workers, chance: random.Random, report: Report) -> None:
    while True:
        await asyncio.sleep(KILL_EVERY_S)
        started.end(chance.choice(started.pids))
        report.kills += 1
        await started.start()


async def _settled(durable: Durable, run_ids: list[str], report: Report, within_s: float) -> None:
    """Wait until every run is over."""
    try:
        async with asyncio.timeout(within_s):
            for run_id in run_ids:
                await durable.runs.wait_first([run_id])
    except TimeoutError:
        report.wrong.append(f"runs were not settled within {within_s:g} s")


async def _check(durable: Durable, threads: dict[str, str], report: Report) -> None:
    for run_id, thread in threads.items():
        record = await durable.runs.get(run_id)
        report.statuses[record.status] += 1
        over = {RunStatus.COMPLETE}
        if thread.startswith("cancelled-"):
            over |= {RunStatus.PAUSED, RunStatus.SUPERSEDED}
        if record.status not in over:
            report.wrong.append(
                f"run {run_id} of {thread} is {record.status}, {record.claim_state},"
                f" {record.reason}, {record.error}"
            )
    for thread in sorted(set(threads.values())):
        if thread.startswith("cancelled-"):
            continue
        try:
            async with durable.run(thread, "steps", on_busy="wait", timeout=30) as run:
                words = (await run.aget_state()).values.get("words", [])
        except AiodurableError as error:
            report.wrong.append(f"thread {thread}: {error}")
            continue
        count = sum(one == thread for one in threads.values())
        if [word for word in words if not word.startswith("<")] != list(STEPS) * count:
            report.wrong.append(f"thread {thread} holds {words}")
        numbers = [int(word[1:-1]) for word in words if word.startswith("<")]
        if numbers != sorted(numbers):
            report.wrong.append(f"thread {thread} has its runs in the order {numbers}")


async def main(seed: int, minutes: float) -> int:
    """Run campaigns of 300 runs for so long."""
    deadline = asyncio.get_running_loop().time() + minutes * 60
    async with own_server() as server:
        dsn = await server.start()
        while True:
            with tempfile.TemporaryDirectory() as folder:
                report = await campaign(dsn, Path(folder) / "log", seed=seed, runs=300)
            print(f"seed {seed}: {report}", *report.wrong, sep="\n  ", flush=True)
            if report.wrong:
                return 1
            if asyncio.get_running_loop().time() > deadline:
                return 0
            seed += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1)
    given = parser.parse_args()
    sys.exit(loops.run(main(given.seed, given.minutes)))
