"""Whether processes add up: 1, 2, 4 and 8 of them on one database, each with 50 durable runs at
once.

Each number of processes is measured once a round, in turns; a ratio is to the smallest number, the
median of the ratios of each round. A measurement lasts `--seconds` and the rest of the runs that
began in them, after `--warm-up` seconds of such runs: what it costs the server that a process starts
(backends that know no table yet, plans) has a column of its own. CPU, WAL, commits and syncs are
shared among all runs of all processes; commits and syncs with those of opening and warming up.
Postgres syncs each commit.

`python -m benchmarks.processes` is one of the processes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from aiodurable.embedded import embedded_postgres

from .activity import Activity
from .child import Child, child, serve
from .contenders import CONTENDERS, OURS, Run
from .machine import busy, describe
from .meter import Meter, ServerCpu
from .report import parser, rounded, save, table
from .rounds import Figures, Measured, in_turns, medians, ratio
from .runs import crowd_for

AT_ONCE = 50
SERVER = {
    "max_connections": "300",
    "max_locks_per_transaction": "512",
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
    "track_wal_io_timing": "on",
}
HEADS = {
    "processes": "processes",
    "state_kb": "kB",
    "runs_per_s": "runs/s",
    "ratio": "× the first",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "client_cpu_ms": "client CPU ms",
    "server_cpu_ms": "server CPU ms",
    "start_cpu_ms": "to start a process, server CPU ms",
    "busy_cores": "cores at work",
    "wal_kb": "WAL kB",
    "commits": "commits",
    "wal_syncs": "syncs",
    "wal_sync_ms": "ms a sync",
    "connections": "connections",
    "notifications": "NOTIFYs",
}
WAITS = {"processes": "processes", "what": "backends at work are", "backends": "of them"}


class Fleet:
    """Processes that run, all at once; those that are not needed now have no connection."""

    def __init__(
        self, members: Sequence[Child], dsn: str, activity: Activity, options: argparse.Namespace
    ) -> None:
        self._members, self._dsn, self._activity = members, dsn, activity
        self._options = options
        self.waits: dict[int, list[dict[str, float]]] = {}

    async def measure(self, number: int, state_kb: int) -> Figures:
        """With the first so many of the processes."""
        members, activity = self._members[:number], self._activity
        before = await activity.counts()
        server = await activity.server()
        with Meter(server) as start:
            opened = await _all(
                members,
                open=self._dsn,
                contender=self._options.contender,
                state_kb=state_kb,
                warm_up=self._options.warm_up,
            )
        warm_up = sum(member["runs"] for member in opened)
        wal = await activity.wal_bytes()
        async with activity:
            with Meter(server) as meter:
                found = await _all(members, seconds=self._options.seconds)
        wal = await activity.wal_bytes() - wal
        await _all(members, close=True)
        after = await activity.counts()
        took = sorted(one for member in found for one in member["took"])
        runs = len(took)
        every = runs + warm_up
        server_s = meter.server_s / runs
        client_s = sum(member["client_s"] for member in found)
        syncs = after["wal_syncs"] - before["wal_syncs"]
        self.waits.setdefault(number, []).append(activity.waits())
        return {
            "runs_per_s": runs / meter.seconds,
            "p50_ms": took[runs // 2],
            "p99_ms": took[min(runs - 1, int(runs * 0.99))],
            "client_cpu_ms": 1000 * client_s / runs,
            "server_cpu_ms": 1000 * server_s,
            "start_cpu_ms": 1000 * (start.server_s - warm_up * server_s) / number,
            "busy_cores": (client_s + meter.server_s) / meter.seconds,
            "wal_kb": wal / 1000 / runs,
            "commits": (after["commits"] - before["commits"]) / every,
            "wal_syncs": syncs / every,
            "wal_sync_ms": (after["wal_sync_ms"] - before["wal_sync_ms"]) / max(1, syncs),
            "connections": activity.connections,
            "notifications": activity.notifications / runs,
        }


async def _all(members: Sequence[Child], **request: Any) -> list[dict[str, Any]]:
    return await asyncio.gather(*(member.ask(**request) for member in members))


def rows_of(seen: Measured, state_kb: int) -> list[dict[str, Any]]:
    first = next(iter(seen.values()))
    return [
        {
            "processes": int(number),
            "state_kb": state_kb,
            "rounds": len(figures),
            **medians(figures),
            "connections": int(medians(figures)["connections"]),
            "ratio": ratio(figures, first, "runs_per_s"),
            "server_ratio": ratio(figures, first, "server_cpu_ms"),
        }
        for number, figures in seen.items()
    ]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Four processes: no loss against one, and the server's CPU of a run no higher."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row["processes"] == 4:
            runs, server = row["ratio"], row["server_ratio"]
            found += [
                _target("runs/s", row, "≥ 1×", runs, met=runs >= 1),
                _target("server CPU a run", row, "≤ 1.05×", server, met=server <= 1.05),
            ]
    return found


def _target(
    figure: str, row: Mapping[str, Any], wanted: str, measured: float, *, met: bool
) -> dict[str, Any]:
    what = f"{row['processes']} processes, {row['state_kb']} kB, {figure}"
    return {"target": what, "wanted": wanted, "measured": f"{measured:.2f}×", "met": met}


def where_it_stops(
    rows: Sequence[Mapping[str, Any]], waits: Sequence[Mapping[str, Any]], *, quiet: bool = True
) -> str:
    """From which number of processes on more of them add less than a tenth, and what is in the
    way there. Beside other work it cannot be said: runs a second are then what that left over.
    """
    if not quiet:
        return (
            f"{rows[0]['state_kb']} kB: the machine was busy with other work, so runs a second say"
            " nothing of where more processes stop to help; CPU, WAL, commits and syncs are of a"
            " run."
        )
    best = max(row["runs_per_s"] for row in rows)
    stop = next(row for row in rows if row["runs_per_s"] >= best / 1.1)
    number, cores = stop["processes"], os.cpu_count() or 1
    beyond = (
        f"up to {number} processes each step gains more than a tenth"
        if stop is rows[-1]
        else f"more processes than {number} gain less than a tenth"
    )
    words = (
        f"{stop['state_kb']} kB: {beyond}. There {stop['busy_cores']:.1f} of {cores} cores were at"
        " work for it"
    )
    if stop["busy_cores"] >= 0.85 * cores:
        return f"{words}: the CPU is the limit."
    what = next((row["what"] for row in waits if row["processes"] == number), "nothing seen")
    return f"{words}; a backend at work was most often seen so: {what}."


def waits_of(fleet: Fleet) -> list[dict[str, Any]]:
    """The three most frequent states for each number of processes, averages over the rounds."""
    found: list[dict[str, Any]] = []
    for number, rounds in sorted(fleet.waits.items()):
        mean = {
            what: sum(one.get(what, 0) for one in rounds) / len(rounds)
            for what in {what for one in rounds for what in one}
        }
        top = sorted(mean.items(), key=lambda item: -item[1])[:3]
        found += [{"processes": number, "what": what, "backends": mean} for what, mean in top]
    return found


async def run(options: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(
            embedded_postgres(durable=True, settings=SERVER)
        )
        activity = await Activity.of(dsn)
        stack.push_async_callback(activity.close)
        machine = describe(await activity.version())
        members = [
            await stack.enter_async_context(child("benchmarks.processes", "processes"))
            for _ in range(max(options.processes))
        ]
        rows: list[dict[str, Any]] = []
        every_wait: list[dict[str, Any]] = []
        says: list[str] = []

        def report(fleet: Fleet, state_kb: int, seen: Measured) -> None:
            """Save what there is, so that a run that is cut short leaves a result."""
            done = [*rows, *rows_of(seen, state_kb)]
            waits = [{"state_kb": state_kb, **row} for row in waits_of(fleet)]
            if options.json:
                save(
                    options.json,
                    machine,
                    done,
                    load_before=load,
                    contender=options.contender,
                    at_once=AT_ONCE,
                    seconds=options.seconds,
                    warm_up=options.warm_up,
                    server=SERVER,
                    waits=[*every_wait, *waits],
                    targets=judge(rounded(done)),
                    says=says,
                )

        for state_kb in options.state_kb:
            fleet = Fleet(members, dsn, activity, options)
            turns = {
                str(number): partial(fleet.measure, number, state_kb)
                for number in options.processes
            }
            seen = await in_turns(
                turns,
                options.rounds,
                warm_up=0,  # each warms up by itself
                after_round=partial(report, fleet, state_kb),
            )
            here, waits = rows_of(seen, state_kb), waits_of(fleet)
            says.append(where_it_stops(here, waits, quiet=not busy(machine, load)))
            report(fleet, state_kb, seen)
            rows += here
            every_wait += [{"state_kb": state_kb, **row} for row in waits]
            print(
                table(here, HEADS),
                table(waits, WAITS),
                says[-1],
                sep="\n\n",
                end="\n\n",
                flush=True,
            )
        if targets := judge(rows):
            print(table(targets, {name: name for name in targets[0]}))


class Member:
    """A process of the fleet."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._run: Run | None = None

    async def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        match request:
            case {"open": dsn, "contender": name, "state_kb": state_kb, "warm_up": seconds}:
                opened = CONTENDERS[name](dsn, state_kb)
                self._run = await self._stack.enter_async_context(opened)
                return {"runs": len(await crowd_for(self._run, seconds, AT_ONCE))}
            case {"seconds": seconds}:
                assert self._run is not None
                with Meter(ServerCpu(None)) as meter:
                    took = await crowd_for(self._run, seconds, AT_ONCE)
                return {"took": [round(one, 2) for one in took], "client_s": meter.client_s}
            case _:
                await self._stack.aclose()
                return {}


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "processes", svg=False)
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=5, help="of a measurement")
    options.add_argument("--warm-up", type=float, default=5, help="seconds of runs before it")
    options.add_argument("--state-kb", type=int, nargs="+", default=[0, 100])
    options.add_argument("--contender", default=OURS, choices=list(CONTENDERS))
    given = options.parse_args(argv)
    if given.quick:
        given.processes, given.rounds, given.state_kb = [1, 2], 1, [0]
        given.seconds = given.warm_up = 1.0
    asyncio.run(run(given))


if __name__ == "__main__":
    asyncio.run(serve(Member().answer))
