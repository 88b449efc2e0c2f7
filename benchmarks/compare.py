"""What a change costs: the same small scenarios with the library of another commit and with that of
this checkout, in turns, on one server.

    python -m benchmarks compare BASE [--only locks runs statuses worker] [--rounds N]

BASE is a commit, branch or tag; this side is the working tree as it is, with what is not committed.
Both run with this checkout's scenarios and packages, each side in a process and a database of its
own. A ratio is this ÷ base of two measurements that followed each other; shown are the median of
the ratios and where the true median lies with a probability of 95 % (with five rounds: between
the smallest ratio and the largest). Where 1 lies between them the difference is not resolved: measure
more rounds, or on a quiet machine. Round trips and Python calls are counted, not timed, so a busy
machine changes them little. Of a hundred figures that did not change a few are resolved by chance:
measure again before you believe a small one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import os
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
from psycopg.conninfo import make_conninfo

from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres

from .child import Child, child
from .machine import describe
from .report import parser, save, table
from .rounds import Figures, Measured, Spread, in_turns, spread
from .side import SCENARIOS

CHECKOUT = Path(__file__).parent.parent
SERVER = {"checkpoint_timeout": "1h", "max_wal_size": "16GB", "max_locks_per_transaction": "512"}
"""No checkpoint during a round: whole pages in the WAL would come to one side and not to the
other."""
COSTS = {
    "wall_us": "µs",
    "client_cpu_us": "client CPU µs",
    "server_cpu_us": "server CPU µs",
    "wal_bytes": "WAL bytes",
    "round_trips": "round trips",
    "python_calls": "Python calls",
}
FEWEST = 5
"""Pairs of measurements from which anything can be concluded; also how often counts are taken."""
HEADS = {
    "scenario": "scenario",
    "figure": "figure",
    "base": "base",
    "this": "this",
    "ratio": "ratio",
    "low": "from",
    "high": "to",
    "verdict": "",
}


class Side:
    """A commit's library: in a process and a database of its own."""

    def __init__(self, process: Child, dsn: str) -> None:
        self._process, self._dsn = process, dsn

    async def measure(self, scenario: str, units: int, *, counts: bool) -> Figures:
        return await self._process.ask(scenario=scenario, dsn=self._dsn, units=units, counts=counts)


@asynccontextmanager
async def side(folder: Path, dsn: str) -> AsyncGenerator[Side, None]:
    """The library in that folder, beside this checkout's scenarios.

    A process finds both first in its working directory.
    """
    (folder / "benchmarks").symlink_to(CHECKOUT / "benchmarks")
    async with child("benchmarks.side", f"the library in {folder}", cwd=folder) as process:
        found = (await process.ask())["library"]
        if found != str(folder / "aiodurable"):
            raise SystemExit(f"cannot compare: wanted the library in {folder}, found {found}")
        yield Side(process, dsn)


def unpack(base: str, folder: Path) -> str:
    """The library of a commit into that folder; returns the commit's abbreviated name.

    Raises:
        SystemExit: git knows no such commit.
    """
    try:
        name = _git("rev-parse", "--short", "--verify", f"{base}^{{commit}}").decode().strip()
        packed = _git("archive", "--format=tar", name, "aiodurable")
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode().strip()
        raise SystemExit(
            f"cannot compare with {base!r}: {reason}; name a commit, branch or tag"
        ) from error
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder)  # our own history; `filter` came with Python 3.11.4
    return name


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, check=True).stdout


def this_commit() -> str:
    """The commit of this checkout, and whether its library was changed since."""
    name = _git("rev-parse", "--short", "HEAD").decode().strip()
    return f"{name} and changes" if _git("status", "--porcelain", "aiodurable") else name


def rows(scenario: str, seen: Measured) -> list[dict[str, Any]]:
    """A row for each figure that is a number on both sides."""
    found: list[dict[str, Any]] = []
    for figure in seen["base"][0]:
        pairs = [
            this[figure] / base[figure]
            for this, base in zip(seen["this"], seen["base"], strict=True)
            if base[figure]  # a short one may write no WAL
        ]
        if pairs and all(map(math.isfinite, pairs)):  # the server's CPU may not be seen
            middle = {name: spread([one[figure] for one in seen[name]]).median for name in seen}
            within = spread(pairs)
            found.append(
                {
                    "scenario": scenario,
                    "figure": COSTS[figure],
                    **middle,
                    "ratio": f"{within.median:.3f}",
                    "low": f"{within.low:.3f}",
                    "high": f"{within.high:.3f}",
                    "verdict": verdict(within, len(pairs)),
                    "pairs": pairs,
                }
            )
    return found


def verdict(within: Spread, pairs: int) -> str:
    """All figures are costs: less is better."""
    if within.low == within.high == 1:
        return "same"
    if pairs < FEWEST:
        return f"fewer than {FEWEST} rounds"
    if within.low <= 1 <= within.high:
        return "not resolved"
    return "**more**" if within.low > 1 else "less"


async def run(options: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
        folders = {"base": folder / "base", "this": folder / "this"}
        for one in folders.values():
            one.mkdir()
        commits = {"base": unpack(options.base, folders["base"]), "this": this_commit()}
        (folders["this"] / "aiodurable").symlink_to(CHECKOUT / "aiodurable")
        dsn = await stack.enter_async_context(embedded_postgres(durable=True, settings=SERVER))
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        machine = describe(await admin.fetchval("SHOW server_version"))
        sides: dict[str, Side] = {}
        for name, place in folders.items():
            await admin.execute(f"CREATE DATABASE {name}")
            own = make_conninfo(parse_dsn(dsn).conninfo, dbname=name)
            sides[name] = await stack.enter_async_context(side(place, own))
        print(
            f"base {commits['base']}, this {commits['this']}, load of the machine {load:.1f}",
            flush=True,
        )
        found: list[dict[str, Any]] = []
        for scenario, about in SCENARIOS.items():
            if about.part not in options.only:
                continue
            units = max(1, round(about.units * options.scale))
            for counts in (True,) if options.counted else (False, True):
                rounds = min(FEWEST, options.rounds) if counts else options.rounds
                turns = {
                    name: partial(one.measure, scenario, units, counts=counts)
                    for name, one in sides.items()
                }
                found += rows(scenario, await in_turns(turns, rounds, warm_up=int(not counts)))
            print(
                table([row for row in found if row["scenario"] == scenario], HEADS),
                "\n",
                flush=True,
            )
            if options.json:
                how = {"rounds": options.rounds, "load_before": load}
                save(options.json, machine, found, **how, commits=commits)


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "compare", svg=False)
    parts = sorted({scenario.part for scenario in SCENARIOS.values()})
    options.add_argument("base", metavar="BASE", help="the commit to compare with")
    options.add_argument(
        "--only",
        nargs="+",
        default=parts,
        choices=parts,
        metavar="PART",
        help=f"some of {', '.join(parts)}",
    )
    options.add_argument("--rounds", type=int, default=10, help="of each scenario on each side")
    options.add_argument(
        "--scale", type=float, default=1, help="times the runs and pairs of a round"
    )
    options.add_argument(
        "--counted",
        action="store_true",
        help="only round trips and Python calls, for a busy machine",
    )
    given = options.parse_args(argv)
    if given.rounds < 1:
        options.error("--rounds is at least 1")
    if given.quick:
        given.rounds, given.scale = FEWEST, 0.2
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
