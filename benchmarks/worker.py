"""What a queue costs: runs that one process accepts and worker processes execute, from the first
`create` to the last one settled, against other queues on Postgres, on one server.

The contenders follow each other, round by round; a ratio is the median of the ratios of each
round. Each one's workers are started and warmed up before they are measured, and stopped after.
Throughput: all runs are accepted at once. Latency: an idle worker, one run after the other.
Postgres syncs each commit.

Throughput is per second, so a slow contender gets fewer runs: as many as it settles in `--seconds`
by the pace of its first hundred, at most `--runs`. The table says how many. The JSON is written
after each round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg

from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres

from .chart import Bar, Group, bar_chart
from .machine import describe, in_words
from .meter import Meter, ServerCpu
from .queues import DIRECT, OURS, QUEUES, Create, Queue
from .report import parser, rounded, save, table
from .rounds import Measured, in_turns, medians, ratio

PEERS = ("dbos", "procrastinate", "pgqueuer", "absurd-sdk")
HEADS = {
    "workers": "workers",
    "contender": "contender",
    "runs": "runs",
    "runs_per_s": "runs/s",
    "ratio": "ours ×",
    "created_per_s": "created/s",
    "client_cpu_ms": "client CPU ms",
    "server_cpu_ms": "server CPU ms",
    "latency_p50_ms": "p50 ms",
    "latency_p99_ms": "p99 ms",
}
_TARGETS = {"DBOS": 4.0, "Procrastinate, stock saver": 3.0, DIRECT: 0.8}
"""How many times a contender's throughput ours is to be."""
_SETTLED_WITHIN_S = 120.0
_PACED_BY = 100
"""Runs by which a contender's pace is found; no round has fewer, unless `--runs` says so."""


class Contest:
    """Measures one contender with so many worker processes."""

    def __init__(self, dsn: str, admin: asyncpg.Connection, server: ServerCpu) -> None:
        self._dsn, self._admin, self._server = dsn, admin, server
        self._runs: dict[tuple[str, int], int] = {}
        """Of a round, by contender and number of workers: the same in each of its rounds."""

    async def measure(self, name: str, workers: int, options: argparse.Namespace) -> dict[str, Any]:
        queue = QUEUES[name]
        async with (
            worker_processes(name, self._dsn, workers, options.concurrency) as processes,
            queue.creating(self._dsn) as create,
        ):
            await self._settle(queue, create, processes, 2 * options.concurrency * workers)
            if (runs := self._runs.get((name, workers))) is None:
                paced_by = min(_PACED_BY, options.runs)
                began = time.perf_counter()
                await self._settle(queue, create, processes, paced_by)
                pace = paced_by / (time.perf_counter() - began)
                runs = min(options.runs, max(paced_by, round(pace * options.seconds)))
                self._runs[name, workers] = runs
            before = sum(map(cpu_s, processes))
            with Meter(self._server) as meter:
                created_s = await self._settle(queue, create, processes, runs)
            client_s = sum(map(cpu_s, processes)) - before + meter.client_s
            took = []
            for _ in range(options.latencies):
                began = time.perf_counter()
                await self._settle(queue, create, processes, 1, look_s=0.002)
                took.append((time.perf_counter() - began) * 1000)
        took.sort()
        return {
            "runs": runs,
            "runs_per_s": runs / meter.seconds,
            "created_per_s": math.nan if name == DIRECT else runs / created_s,
            "client_cpu_ms": client_s * 1000 / runs,
            "server_cpu_ms": meter.server_s * 1000 / runs,
            "latency_p50_ms": statistics.median(took) if took else math.nan,
            "latency_p99_ms": took[int(len(took) * 0.99)] if took else math.nan,
        }

    async def _settle(
        self,
        queue: Queue,
        create: Create,
        processes: Sequence[asyncio.subprocess.Process],
        runs: int,
        look_s: float = 0.02,
    ) -> float:
        """Have so many runs accepted and executed; seconds until all were accepted."""
        wanted = await self._settled(queue) + runs
        thread_ids = [uuid.uuid4().hex for _ in range(runs)]
        began = time.perf_counter()
        await create(thread_ids)
        created_s = time.perf_counter() - began
        if queue is QUEUES[DIRECT]:
            for place, process in enumerate(processes):
                mine = thread_ids[place :: len(processes)]
                assert process.stdin is not None
                process.stdin.write(json.dumps(mine).encode() + b"\n")
                await process.stdin.drain()
        async with asyncio.timeout(_SETTLED_WITHIN_S):
            while await self._settled(queue) < wanted:  # noqa: ASYNC110 - others settle them
                await asyncio.sleep(look_s)
        return created_s

    async def _settled(self, queue: Queue) -> int:
        return await self._admin.fetchval(queue.settled) or 0


@asynccontextmanager
async def worker_processes(
    name: str, dsn: str, number: int, concurrency: int
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """So many processes of a contender, ready to work."""
    command = ("-m", "benchmarks.queues", name, dsn, str(concurrency))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        for _ in range(number)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if await process.stdout.readline() != b"ready\n":
                raise SystemExit(f"a worker of {name} did not start")
        yield processes
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


def cpu_s(process: asyncio.subprocess.Process) -> float:
    """CPU seconds of a worker process so far (`utime`, `stime` of proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(options: argparse.Namespace) -> None:
    absent = {
        name: lacking
        for name in options.contenders
        if (lacking := [one for one in QUEUES[name].modules if find_spec(one) is None])
    }
    names = [name for name in options.contenders if name not in absent]
    for name, modules in absent.items():
        print(f"not measured: {name}, for {', '.join(modules)} is not installed")
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(
            embedded_postgres(durable=True)
        )
        for name in names:
            await QUEUES[name].prepare(dsn)
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        contest = Contest(dsn, admin, await ServerCpu.of(admin))
        report = Report(describe(await admin.fetchval("SHOW server_version"), PEERS), options)
        for workers in options.workers:
            measures = {name: partial(contest.measure, name, workers, options) for name in names}
            await in_turns(
                measures, options.rounds, warm_up=0, after_round=partial(report.add, workers)
            )
            report.show(workers)
        report.finish()


class Report:
    """The rows so far: those of the rounds that have ended."""

    def __init__(self, machine: dict[str, Any], options: argparse.Namespace) -> None:
        self._machine, self._options = machine, options
        self._rows: dict[int, list[dict[str, Any]]] = {}

    def add(self, workers: int, seen: Measured) -> None:
        """Replace the rows of this number of workers by those of its rounds so far."""
        self._rows[workers] = [
            {
                "workers": workers,
                "contender": name,
                "rounds": len(figures),
                **medians(figures),
                "runs": int(figures[0]["runs"]),
                "ratio": ratio(seen[OURS], figures, "runs_per_s"),
            }
            for name, figures in seen.items()
        ]
        if self._options.json:
            save(
                self._options.json,
                self._machine,
                self._all,
                targets=judge(rounded(self._all)),
                concurrency=self._options.concurrency,
            )

    def show(self, workers: int) -> None:
        print(table(self._rows[workers], HEADS), end="\n\n", flush=True)

    def finish(self) -> None:
        if targets := judge(self._all):
            print(table(targets, {name: name for name in targets[0]}))
        if self._options.svg:
            self._options.svg.write_text(chart(self._all, self._machine), "utf-8")

    @property
    def _all(self) -> list[dict[str, Any]]:
        return [row for rows in self._rows.values() for row in rows]


def judge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each target that was measured, at each number of workers."""
    return [
        {
            "workers": row["workers"],
            "against": row["contender"],
            "wanted": f"≥ {_TARGETS[row['contender']]:g}×",
            "measured": f"{row['ratio']:.2f}×",
            "met": row["ratio"] >= _TARGETS[row["contender"]],
        }
        for row in rows
        if row["contender"] in _TARGETS
    ]


def chart(rows: Sequence[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Runs a second by number of workers."""
    groups = [
        Group(
            f"{workers} worker{'s' if workers > 1 else ''}",
            [
                Bar(row["contender"], row["runs_per_s"], "", row["contender"] == OURS)
                for row in sorted(rows, key=lambda row: -row["runs_per_s"])
                if row["workers"] == workers
            ],
        )
        for workers in dict.fromkeys(row["workers"] for row in rows)
    ]
    says = "From the first create to the last run settled; four nodes, or four durable steps."
    made_of = in_words(machine, "langgraph", *PEERS)
    return bar_chart("Queued runs per second", [says, made_of], groups, columns=2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "worker")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument("--concurrency", type=int, default=50, help="runs at once in a worker")
    options.add_argument("--runs", type=int, default=1000, help="in each round, at most")
    options.add_argument(
        "--seconds", type=float, default=4, help="that a contender's runs of a round may take"
    )
    options.add_argument("--latencies", type=int, default=30, help="runs one by one, a round")
    options.add_argument("--contenders", nargs="+", default=list(QUEUES), choices=list(QUEUES))
    given = options.parse_args(argv)
    if OURS not in given.contenders:
        options.error(f"the ratios need {OURS} among the contenders")
    if given.quick:
        given.rounds, given.workers, given.runs, given.latencies = 1, [1], 200, 10
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
