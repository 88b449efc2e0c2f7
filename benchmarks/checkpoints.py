"""What durability costs: whole durable runs against LangGraph alone, DBOS and Absurd, on one
server.

Each run is a new thread through four nodes (four durable steps, with DBOS and Absurd) that do
nothing but carry a state. The contenders take turns, round by round; a ratio is the median of the
ratios of each round, so that it holds although the machine's speed drifts. Postgres syncs each
commit. The server is an embedded one, or AIODURABLE_DSN: quote an empty server's figures, for all
threads stay in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres

from .alone import cost
from .chart import Bar, Group, bar_chart
from .contenders import BASE, CONTENDERS, OURS, missing
from .machine import describe, in_words
from .meter import ServerCpu
from .profile import CPU_HEADS, TIMELINE_HEADS, profile
from .report import Row, load, parser, refuse_others, rounded, save, table
from .rounds import Figures, in_turns, medians, ratio
from .runs import measure
from .targets import judge
from .wire import delayed, round_trip_ms

PEERS = ("dbos", "absurd-sdk", "uvloop")
RUNS: Mapping[int, int] = {1: 10, 50: 50}
"""Of each contender in a round; else as many as are at once."""
SPEED_HEADS = {
    "delay_ms": "+ms",
    "state_kb": "kB",
    "concurrency": "at once",
    "contender": "contender",
    "runs_per_s": "runs/s",
    "ratio": "× stock",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "client_cpu_ms": "client CPU ms",
    "cpu_ratio": "× stock",
    "server_cpu_ms": "server CPU ms",
}
COST_HEADS = {
    "state_kb": "kB",
    "contender": "contender",
    "commits": "commits a run",
    "wal_kb": "WAL kB a run",
    "peak_mb": "peak MB, 50 runs",
}


async def compete(
    dsn: str, server: ServerCpu, place: dict[str, Any], options: argparse.Namespace
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """For each concurrency, one row a contender."""
    async with AsyncExitStack() as stack:
        runs = {
            name: await stack.enter_async_context(CONTENDERS[name](dsn, place["state_kb"]))
            for name in options.contenders
        }
        for concurrency in options.concurrency:
            count: int = RUNS.get(concurrency, concurrency)
            turns = {
                name: partial(measure, run, server, count, concurrency)
                for name, run in runs.items()
            }
            many = concurrency > 100  # takes minutes, and warms up by itself
            rounds = max(1, options.rounds // 3) if many else options.rounds
            seen = await in_turns(turns, rounds, warm_up=0 if many else 1)
            here = {**place, "concurrency": concurrency, "rounds": rounds}
            yield [
                {**here, "contender": name, **_middle(figures, seen.get(BASE))}
                for name, figures in seen.items()
            ]


def _middle(figures: Sequence[Figures], base: Sequence[Figures] | None) -> dict[str, float]:
    if not base:
        return medians(figures)
    ratios = {
        "ratio": ratio(figures, base, "runs_per_s"),
        "cpu_ratio": ratio(figures, base, "client_cpu_ms"),
    }
    return {**medians(figures), **ratios}


class Results:
    """What has been measured so far; saved after each part, for the whole takes minutes."""

    def __init__(
        self, machine: dict[str, Any], absent: dict[str, str], options: argparse.Namespace
    ) -> None:
        self._machine, self._absent, self._options = machine, absent, options
        kept: Path | None = options.json if options.keep else None
        if kept:
            refuse_others(kept, machine)
        self._speeds = load(kept) if kept else []
        self._costs = load(kept, "costs") if kept else []

    def add(self, speeds: Sequence[Row] = (), costs: Sequence[Row] = ()) -> None:
        print(
            table(speeds, SPEED_HEADS) if speeds else table(costs, COST_HEADS),
            end="\n\n",
            flush=True,
        )
        self._speeds = _in_order(
            self._speeds, speeds, ("delay_ms", "state_kb", "concurrency", "contender")
        )
        self._costs = _in_order(self._costs, costs, ("state_kb", "contender"))
        if path := self._options.json:
            parts = {
                "costs": self._costs,
                "targets": judge(rounded(self._speeds), rounded(self._costs)),
                "not_measured": self._absent,
            }
            save(path, self._machine, self._speeds, **parts)

    def finish(self) -> None:
        if targets := judge(self._speeds, self._costs):
            print(table(targets, {name: name for name in targets[0]}))
        if self._options.svg:
            self._options.svg.write_text(chart(self._speeds, self._machine), "utf-8")


async def run(options: argparse.Namespace) -> None:
    absent = {name: ", ".join(lacks) for name in options.contenders if (lacks := missing(name))}
    options.contenders = [name for name in options.contenders if name not in absent]
    for name, modules in absent.items():
        print(f"not measured: {name}, for {modules} is not installed: pip install -e '.[bench]'")
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(
            embedded_postgres(durable=True)
        )
        async with Durable(dsn):
            pass  # makes the tables
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        if options.profile:
            timeline, cpu = await profile(dsn)
            print(table(timeline, TIMELINE_HEADS), table(cpu, CPU_HEADS), sep="\n\n")
            return
        results = Results(
            describe(await admin.fetchval("SHOW server_version"), PEERS), absent, options
        )
        server = await ServerCpu.of(admin)
        direct_ms = await round_trip_ms(dsn)
        for delay_ms in options.delay_ms:
            async with delayed(dsn, delay_ms) as reached:
                added = await round_trip_ms(reached) - direct_ms if delay_ms else 0.0
                for state_kb in options.state_kb:
                    place = {"delay_ms": delay_ms, "measured_delay_ms": added, "state_kb": state_kb}
                    async for rows in compete(reached, server, place, options):
                        results.add(rows)
        for state_kb in options.state_kb if options.costs else ():
            for name in options.contenders:
                found = await cost(name, dsn, admin, state_kb, 100)
                results.add(costs=[{"state_kb": state_kb, "contender": name, **found}])
        results.finish()


def _in_order(old: Sequence[Row], new: Sequence[Row], key: tuple[str, ...]) -> list[Row]:
    """All rows, the new ones in the place of old ones, contenders in their order."""
    rows = {tuple(row[name] for name in key): row for row in (*old, *new)}
    order = {name: number for number, name in enumerate(CONTENDERS)}
    return [
        row
        for _, row in sorted(
            rows.items(), key=lambda item: (*item[0][:-1], order[str(item[0][-1])])
        )
    ]


def chart(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """Runs per second: what was measured of 50 at once, and one at a time, by delay and state."""
    groups: list[Group] = []
    places = list(
        dict.fromkeys((row["concurrency"], row["delay_ms"], row["state_kb"]) for row in rows)
    )
    for place in sorted(places, key=lambda place: (place[0] != 50, *place)):
        here = [
            row for row in rows if (row["concurrency"], row["delay_ms"], row["state_kb"]) == place
        ]
        bars = [
            Bar(
                row["contender"],
                row["runs_per_s"],
                f"{row['ratio']:.2f}×" if "ratio" in row else "",
                row["contender"] == OURS,
            )
            for row in sorted(here, key=lambda row: -row["runs_per_s"])
        ]
        concurrency, delay_ms, state_kb = place
        words = [f"{concurrency} at once" if concurrency > 1 else "one at a time"]
        words += [f"{delay_ms:g} ms away"] if delay_ms else []
        words += [f"{state_kb} kB of state"] if state_kb else []
        groups.append(Group(", ".join(words), bars))
    says = (
        'Four nodes, durability="sync" unless it says otherwise. × = times the stock saver in the'
        " same rounds, medians."
    )
    made_of = in_words(machine, "langgraph", "dbos", "absurd-sdk")
    return bar_chart("Durable runs per second", [says, made_of], groups, columns=2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "checkpoints")
    options.add_argument(
        "--rounds", type=int, default=3, help="rounds that count; one more warms up"
    )
    options.add_argument("--concurrency", type=int, nargs="+", default=[1, 50, 500])
    options.add_argument("--state-kb", type=int, nargs="+", default=[0, 10, 100])
    options.add_argument(
        "--delay-ms", type=float, nargs="+", default=[0, 2], help="added to each round trip"
    )
    options.add_argument(
        "--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS)
    )
    options.add_argument(
        "--no-costs", dest="costs", action="store_false", help="skip memory, commits and WAL"
    )
    options.add_argument(
        "--profile", action="store_true", help="instead: where a run's time goes, and its CPU"
    )
    options.add_argument(
        "--keep", action="store_true", help="leave in the JSON what this run does not measure"
    )
    given = options.parse_args(argv)
    if given.quick:
        given.rounds, given.concurrency, given.state_kb = 2, [1, 50], [0]
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
