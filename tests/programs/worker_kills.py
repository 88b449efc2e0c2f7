"""A worker ends, and its run goes on elsewhere: `python -m tests.programs.worker_kills --kills 100`.

Measures from the end of a worker to the next step of its run in another one: with kill -9, with
SIGSTOP (`--how stop`), or a network that is cut (`--how partition`), beside a crowd of runs that are
all in their node. Settings are the defaults unless `--short`.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable, NewRun, Settings
from tests.programs.worker_process import SHORT, STEPS, graphs
from tests.support import loops
from tests.support.netsplit import Network, partitioned
from tests.support.restartable import OwnServer, own_server
from tests.support.waiting import wait_until
from tests.support.workers import Line, Workers, workers

How = Literal["kill", "stop", "partition"]
_DAY_S = 86_400


@dataclass
class Times:
    """Attributes: `seconds` from the end of the worker to the next step elsewhere, in order of the
    trials; `bound_s`, what the settings promise; `wrong`, what must not be."""

    seconds: list[float]
    bound_s: float
    wrong: list[str]

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        p50 = statistics.median(ordered)
        p99 = ordered[math.ceil(len(ordered) * 0.99) - 1]
        load = " ".join(f"{each:.1f}" for each in os.getloadavg())
        return (
            f"{len(ordered)} trials: p50 {p50:.3f} s, p99 {p99:.3f} s, worst {ordered[-1]:.3f} s,"
            f" bound {self.bound_s:g} s; load {load}, {os.cpu_count()} cores"
        )


def bound_s(how: How, settings: Settings) -> float:
    """Within how many seconds the server has freed the lease, and its holder's grace is over."""
    return 1.0 if how == "kill" else settings.lease_ttl_s + settings.recovery_grace_s + 1


async def measure(
    server: OwnServer,
    log: Path,
    *,
    trials: int,
    crowd: int,
    how: How = "kill",
    settings: dict[str, float] | None = None,
) -> Times:
    """Trials, one after the other.

    Args:
        server: not started yet.
        log: where steps write lines.
        trials: how many.
        crowd: how many other runs are in their node.
        how: how a worker ends.
        settings: of the workers; None: the defaults.
    """
    chosen = settings or {}
    server.settings |= {"max_connections": "300", "max_locks_per_transaction": "512"}
    times = Times([], bound_s(how, Settings(**chosen)), [])
    async with (
        _network(server, how) as (near, far, command, network),
        Durable(near, graphs=graphs(str(log))) as durable,
        workers(near, log, settings=chosen) as started,
        workers(far, log, settings=chosen, command=command) as ending,
    ):
        await fill(durable, started, crowd)
        one_by_one = Trials(durable, started, ending, network)
        for _ in range(trials):
            one = one_by_one.kill() if how == "kill" else one_by_one.freeze()
            times.seconds.append(await one)
            if len(times.seconds) % 20 == 0:
                print(times, file=sys.stderr)
        times.wrong += one_by_one.wrong
    return times


class Trials:
    """Ends one worker after the other.

    Args:
        durable: accepts the runs.
        staying: workers that do not end.
        ending: workers that do.
        network: that of those that end, to be cut; None: it stays.

    Attributes:
        wrong: what must not be.
    """

    def __init__(
        self, durable: Durable, staying: Workers, ending: Workers, network: Network | None
    ) -> None:
        self._durable, self._staying, self._ending = durable, staying, ending
        self._network = network
        self._numbers = count()
        self.wrong = list[str]()

    async def kill(self) -> float:
        """Kill the one of two workers that has a run: seconds to the next step in the other."""
        while len(self._ending.pids) < 2:
            await self._ready(self._ending)
        thread_id, run_id, victim = await self._begun()
        self._ending.end(victim)
        ended_at = time.time()

        async def elsewhere() -> list[Line] | bool:
            lines = [line for line in self._ending.lines() if line.thread_id == thread_id]
            others = [line for line in lines if line.pid != victim]
            return others or (await self._durable.runs.get(run_id)).settled

        others = await wait_until(elsewhere, 120, what=f"{thread_id} elsewhere")
        await self._complete(thread_id, run_id)
        if isinstance(others, bool):  # it was complete before its worker was killed
            return await self.kill()
        return others[0].at - ended_at

    async def freeze(self) -> float:
        """Stop the only worker, or cut its network: seconds to the next step in one that comes.
        Then it goes on, and changes nothing of the run.
        """
        victim = await self._ready(self._ending)
        thread_id, run_id, _ = await self._begun()
        if self._network is None:
            self._ending.end(victim, signal.SIGSTOP)
        else:
            self._network.cut()
        ended_at = time.time()
        other = await self._staying.start()
        after = await self._staying.first_line(thread_id, not_of=victim)
        if self._network is not None:
            self._network.mend()
        self._ending.end(victim, signal.SIGCONT)
        await self._complete(thread_id, run_id)
        self._staying.end(other)
        later, later_run_id, by = await self._begun()
        if by != victim:
            self.wrong.append(f"{later}: worker {by} is none of those that are left")
        await self._complete(later, later_run_id)
        await self._complete(thread_id, run_id)  # it has worked again, and changed nothing
        self._ending.end(victim)
        return after.at - ended_at

    async def _ready(self, started: Workers) -> int:
        """A worker that has executed a run."""
        own = f"own-{next(self._numbers)}"
        pid = await started.start(queues=["default", own])
        await self._durable.runs.create(own, "one", {"words": [], "pause": 0}, queue=own)
        await started.first_line(own)
        return pid

    async def _begun(self) -> tuple[str, str, int]:
        """Thread, run and worker of a run at work."""
        thread_id = f"probe-{next(self._numbers)}"
        run = await self._durable.runs.create(thread_id, "steps", {"words": [], "pause": 0.8})
        return thread_id, run.run_id, (await self._ending.first_line(thread_id)).pid

    async def _complete(self, thread_id: str, run_id: str) -> None:
        record = await self._durable.runs.wait_first([run_id], timeout=120)
        async with self._durable.run(thread_id, "steps", on_busy="wait", timeout=60) as here:
            words = (await here.aget_state()).values["words"]
        if record.status != "complete" or words != list(STEPS):
            self.wrong.append(f"{thread_id}: {record.status}, {words}")


async def fill(durable: Durable, started: Workers, crowd: int) -> None:
    """Have so many runs in their node, in a worker of their own."""
    if not crowd:
        return
    await started.start(queues=["crowd"], concurrency=crowd)
    await durable.runs.create_many(
        NewRun(
            thread_id=f"crowd-{n}",
            graph="one",
            input={"words": [], "pause": _DAY_S},
            queue="crowd",
        )
        for n in range(crowd)
    )
    await wait_until(lambda: len(started.lines()) >= crowd, 120, what="the crowd in its node")


@asynccontextmanager
async def _network(
    server: OwnServer, how: How
) -> AsyncIterator[tuple[str, str, Sequence[str], Network | None]]:
    """The server's DSN here, the one for workers that end, what starts them, and what cuts."""
    if how != "partition":
        dsn = await server.start()
        yield dsn, dsn, (), None
        return
    async with partitioned(server) as split:
        yield split.near, split.far, split.command, split.network


async def main(given: Any) -> int:
    """Measure, and print."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(own_server())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        times = await measure(
            server,
            Path(folder) / "log",
            trials=given.kills,
            crowd=given.crowd,
            how=given.how,
            settings=SHORT if given.short else None,
        )
    print(f"{given.how}, {given.crowd} other runs: {times}", *times.wrong, sep="\n  ")
    return 1 if times.wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--crowd", type=int, default=1000)
    parser.add_argument("--how", choices=["kill", "stop", "partition"], default="kill")
    parser.add_argument("--short", action="store_true", help="short leases, as in the tests")
    sys.exit(loops.run(main(parser.parse_args())))
