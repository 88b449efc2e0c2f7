"""Faults for minutes: `python -m tests.programs.worker_campaign --seed N --runs N --minutes M`.

Two processes accept runs for three workers; a worker is killed every two seconds, one is frozen and
wakes up, lock sessions end at random, Postgres restarts twice as if its power failed, and a
twentieth of the runs is cancelled. In the end every run is over, none is lost, doubled or stuck, no
two attempts' checkpoints interleave, and each step had its effect once.

Campaigns follow each other, each with the next seed, until the minutes are over.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable.durable import Durable
from tests.programs import PROGRAMS
from tests.programs.campaign_creator import SHARES, plan
from tests.programs.worker_process import SHORT, graphs
from tests.support import loops
from tests.support.campaign_checks import Tables
from tests.support.campaign_effects import TABLE
from tests.support.campaign_faults import OVER, Faults, ask
from tests.support.forked import Process, python
from tests.support.restartable import OwnServer, own_server
from tests.support.waiting import wait_until
from tests.support.workers import Line, Workers, is_alive, workers

WORKERS = 3
SETTINGS = {**SHORT, "recovery_grace_s": 3.0}
_GONE_WITHIN_S = 30.0


@dataclass
class Report:
    """What a campaign saw.

    Attributes:
        runs: how many were accepted.
        seconds: until all were over.
        faults: how many of each kind.
        statuses: how the runs ended.
        repeated: steps that were begun again, beyond once a run.
        wrong: what must not be.
    """

    runs: int
    seconds: float = 0
    faults: dict[str, int] = field(default_factory=dict[str, int])
    statuses: Counter[str] = field(default_factory=Counter[str])
    repeated: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {what}" for what, count in self.faults.items())
        a_kill = self.repeated / max(1, self.faults.get("kills", 0))
        return (
            f"{self.runs} runs over in {self.seconds:.0f} s; {faults}; {dict(self.statuses)};"
            f" {self.repeated} steps repeated, {a_kill:.1f} a kill; {len(self.wrong)} wrong"
        )


async def campaign(
    dsn: str,
    log: Path,
    *,
    seed: int,
    runs: int,
    server: OwnServer | None = None,
    pace: float = 1,
    settle_s: float | None = None,
) -> Report:
    """Accept `runs` runs under faults, and look at what became of them.

    Args:
        dsn: an empty database with the tables.
        log: where the workers' steps write lines.
        seed: of what is random here; what processes do at a time is not.
        runs: how many.
        server: the one of `dsn`, to be restarted; None: it stays up.
        pace: so many times as long are the pauses between faults: for a slow machine.
        settle_s: seconds within which all must be over; None: as many as they need.
    """
    planned = plan(seed, runs)
    report = Report(runs)
    await ask(dsn, TABLE)
    limit_s = (120 + runs / 5) * pace if settle_s is None else settle_s
    async with AsyncExitStack() as stack:
        started = await stack.enter_async_context(
            workers(dsn, log, effects=True, settings=SETTINGS)
        )
        for _ in range(WORKERS):
            await started.start()
        faults = Faults(dsn, started, random.Random(seed), server, runs, pace)
        began = time.monotonic()
        disturbing = asyncio.create_task(faults.forever())
        try:
            creators = [await _creator(dsn, log, seed, runs, share) for share in range(SHARES)]
            stack.callback(_end, creators)
            over = await _all_over(dsn, runs, limit_s, faults, disturbing, creators)
            report.seconds = time.monotonic() - began
            if not over:
                report.wrong.append(f"runs were not over within {limit_s:.0f} s")
            codes = [creator.returncode for creator in creators]
            if any(codes):
                report.wrong.append(f"the processes that accept runs ended with {codes}")
        finally:
            disturbing.cancel()
            with suppress(asyncio.CancelledError):
                await disturbing
        report.faults = {
            "kills": faults.kills,
            "frozen": faults.freezes,
            "restarts": faults.restarts,
            "lock sessions ended": faults.ended_sessions,
            "workers that ended by themselves": faults.ended_alone,
        }
        report.wrong += await _drained(started)
        tables = Tables(planned)
        async with Durable(dsn, graphs=graphs(str(log))) as durable:
            report.wrong += await tables.wrong(dsn, durable)
        report.statuses = tables.statuses
        report.repeated = _repeated(started.lines())
    return report


async def _creator(dsn: str, log: Path, seed: int, runs: int, share: int) -> Process:
    arguments = (dsn, log, str(seed), str(runs), str(share))
    return await python(PROGRAMS / "campaign_creator.py", *arguments)


def _end(creators: Sequence[Process]) -> None:
    for creator in creators:
        if creator.returncode is None:
            creator.kill()


async def _all_over(
    dsn: str,
    runs: int,
    within_s: float,
    faults: Faults,
    disturbing: asyncio.Task[None],
    creators: Sequence[Process],
) -> bool:
    """Wait until every run is over, and the last restart; False: they are not in time, or were not
    all accepted.
    """
    deadline = time.monotonic() + within_s
    while not faults.restarted or await ask(dsn, OVER) != runs:
        if disturbing.done():
            await disturbing  # it failed
        if time.monotonic() > deadline or any(creator.returncode for creator in creators):
            return False
        await asyncio.sleep(0.5)
    return True


async def _drained(started: Workers) -> list[str]:
    """End all workers as a deploy does; which did not end."""
    ended = list(started.pids)
    for pid in ended:
        started.end(pid, signal.SIGTERM)
    with suppress(TimeoutError):
        await wait_until(lambda: not any(map(is_alive, ended)), _GONE_WITHIN_S)
    left = [pid for pid in ended if is_alive(pid)]
    started.pids += left  # to be killed
    return [f"worker {pid} did not end within {_GONE_WITHIN_S:g} s of SIGTERM" for pid in left]


def _repeated(lines: Sequence[Line]) -> int:
    """Steps that were begun more than once."""
    begun = Counter((line.run_id, line.step) for line in lines)
    return sum(times - 1 for times in begun.values())


async def main(seed: int, runs: int, minutes: float, pace: float) -> int:
    """Run campaigns for so long."""
    deadline = time.monotonic() + minutes * 60
    while True:
        async with own_server() as server:
            server.settings["max_connections"] = "300"
            dsn = await server.start()
            with tempfile.TemporaryDirectory() as folder:
                report = await campaign(
                    dsn, Path(folder) / "log", seed=seed, runs=runs, server=server, pace=pace
                )
        print(f"seed {seed}: {report}", *report.wrong[:50], sep="\n  ", flush=True)
        if report.wrong:
            return 1
        if time.monotonic() > deadline:
            return 0
        seed += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--pace", type=float, default=1, help="slower faults, for a slow machine")
    given = parser.parse_args()
    sys.exit(loops.run(main(given.seed, given.runs, given.minutes, given.pace)))
