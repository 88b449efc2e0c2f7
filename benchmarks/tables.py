"""The figures that `benchmarks/results` holds, as tables for a page.

A page has blocks, each between `<!-- figures: NAME -->` and `<!-- end of figures -->`; what stands
there is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import aging, checkpoints, dashboard, lock_targets, locks, processes, status, targets, worker
from .chart import short
from .contenders import NODES
from .machine import busy, in_words
from .report import table

RESULTS = Path(__file__).parent / "results"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

Report = Mapping[str, Any]


def fill(page: str, results: Path) -> str:
    """The page with each of its blocks replaced by what is saved in the folder `results`."""
    return _BLOCK.sub(
        lambda block: f"{block[1]}\n{rendered(block[2], results)}\n\n{block[3]}", page
    )


def rendered(name: str, results: Path) -> str:
    """The tables of one benchmark, with what they were measured on."""
    source = "processes" if name == "capacity" else name
    path = results / f"{source}.json"
    if not path.exists():
        return f"Not measured yet: `python -m benchmarks all --only {source}`."
    report = json.loads(path.read_text("utf-8"))
    parts = [_measured(report), *TABLES[name](report)]
    if name == "capacity":
        return "\n\n".join(parts)
    if aims := TARGETS[name](report) if name in TARGETS else report.get("targets"):
        parts += ["What was aimed at:", table(aims, {head: head for head in aims[0]})]
    if lacking := report.get("not_measured"):
        parts.append(f"Not measured, for it was not installed: {', '.join(lacking)}.")
    return "\n\n".join(parts)


def _measured(report: Report) -> str:
    machine = report["machine"]
    known = {"cpu", "cores", "memory_gib", "system", "python", "postgres"}
    says = in_words(machine, *(name for name in machine if name not in known))
    load = report.get("load_before", 0)
    noted = ""
    if busy(machine, load):
        noted = f" **The machine was not quiet: load {load:.1f} before it began.**"
    return f"Measured on {report['measured'][:10]}: {machine['cpu']}, {says}.{noted}"


def _checkpoints(report: Report) -> Iterator[str]:
    """Runs a second, a row a contender and a column a place; then CPU of 50 at once, and costs."""
    rows = report["figures"]
    names = list(dict.fromkeys(row["contender"] for row in rows))
    for state_kb in sorted({row["state_kb"] for row in rows}):
        here = [row for row in rows if row["state_kb"] == state_kb]
        state = f"states of {state_kb} kB" if state_kb else "small states"
        yield f"Durable runs a second, {state}; in brackets times the stock saver:"
        yield _by_place(here, names, lambda row: short(row["runs_per_s"]) + _times(row))
        yield f"CPU of a run in ms, {state}: the client's + the server's:"
        yield _by_place(
            here, names, lambda row: f"{_figure(row, 'client')} + {_figure(row, 'server')}"
        )
    if costs := report.get("costs"):
        yield "What a run costs beside time, 50 at once:"
        yield table(costs, checkpoints.COST_HEADS)


def _by_place(rows: Sequence[Report], names: Sequence[str], cell: Callable[[Report], str]) -> str:
    """A row a contender; a column for each number of runs at once and each distance."""
    places = {
        (row["delay_ms"], row["concurrency"]): f"{row['concurrency']} at once"
        + (f", {row['delay_ms']:g} ms away" if row["delay_ms"] else "")
        for row in rows
    }
    cells = {(row["contender"], row["delay_ms"], row["concurrency"]): cell(row) for row in rows}
    return table(
        [
            {"": name, **{head: cells.get((name, *place)) for place, head in places.items()}}
            for name in names
        ],
        {"": "", **{head: head for head in places.values()}},
    )


def _times(row: Report) -> str:
    return f" ({row['ratio']:.2f}×)" if row.get("ratio") else ""


def _figure(row: Report, whose: str) -> str:
    value = row.get(f"{whose}_cpu_ms")
    return "–" if value is None else short(value)


def _locks(report: Report) -> Iterator[str]:
    yield "A pair is a lock and its unlock:"
    yield table(report["figures"], locks.HEADS)


def _status(report: Report) -> Iterator[str]:
    rows = report["figures"]
    counts = {str(row["threads"]): f"{row['threads']:,} threads" for row in rows}
    yield "Milliseconds, by the number of threads in the database:"
    yield table(
        [
            {"": question, **{str(row["threads"]): row[name] for row in rows}}
            for name, question in status.MS.items()
        ],
        {"": "", **counts},
    )


def _worker(report: Report) -> Iterator[str]:
    yield (
        "Queued runs, by the number of worker processes; a slow contender is measured with fewer"
        " runs:"
    )
    yield table(report["figures"], worker.HEADS)


def _processes(report: Report) -> Iterator[str]:
    yield f"Processes on one database, {report['at_once']} runs at once in each:"
    yield table(report["figures"], processes.HEADS)
    yield "What the backends that are at work are seen doing, on average at a time:"
    yield table(report["waits"], {"state_kb": "kB", **processes.WAITS})
    yield " ".join(report["says"])


def _dashboard(report: Report) -> Iterator[str]:
    yield (
        f"Pages beside {report['threads']:,} threads and {report['queued']:,} queued runs, each"
        f" {report['requests']} times, one after the other; `…` stands for another one each time:"
    )
    yield table(report["figures"], dashboard.HEADS)
    if opened := report["opened"]:
        yield "What a page that stays open costs Postgres:"
        yield table(opened, dashboard.OPEN_HEADS)


def _aging(report: Report) -> Iterator[str]:
    yield "A turn of a chat in a thread of so many checkpoints, with a state of so many kB:"
    yield table(report["figures"], aging.HEADS)


CORES, BUSY_PART, WAL_MB_S = 16, 0.7, 200
"""Of the server on paper: how much of its CPU runs may take, and what its disk syncs a second."""
CAPACITY_HEADS = {
    "state_kb": "state, kB",
    "server_cpu_ms": "server CPU a run, ms",
    "wal_kb": "WAL a run, kB",
    "by_cpu": f"runs/s by {CORES} cores at {BUSY_PART:.0%}",
    "by_wal": f"runs/s by {WAL_MB_S} MB/s of WAL",
    "runs_per_s": "so runs/s",
    "nodes_per_s": "nodes/s",
    "client_cores": "cores for the workers",
}


def _capacity(report: Report) -> Iterator[str]:
    """What a larger server would carry, by the costs of a run where most were done a second."""
    found: list[Report] = []
    for state_kb in sorted({row["state_kb"] for row in report["figures"]}):
        here = [row for row in report["figures"] if row["state_kb"] == state_kb]
        row = max(here, key=lambda row: row["runs_per_s"])
        by_cpu = CORES * BUSY_PART / (row["server_cpu_ms"] / 1000)
        by_wal = WAL_MB_S * 1000 / row["wal_kb"]
        runs_per_s = min(by_cpu, by_wal)
        found.append(
            {
                **row,
                "by_cpu": by_cpu,
                "by_wal": by_wal,
                "runs_per_s": runs_per_s,
                "nodes_per_s": len(NODES) * runs_per_s,
                "client_cores": runs_per_s * row["client_cpu_ms"] / 1000,
            }
        )
    yield table(found, CAPACITY_HEADS)


TABLES: Mapping[str, Callable[[Report], Iterator[str]]] = {
    "checkpoints": _checkpoints,
    "locks": _locks,
    "status": _status,
    "worker": _worker,
    "processes": _processes,
    "dashboard": _dashboard,
    "aging": _aging,
    "capacity": _capacity,
}

TARGETS: Mapping[str, Callable[[Report], Sequence[Report]]] = {
    "checkpoints": lambda report: targets.judge(report["figures"], report["costs"]),
    "locks": lambda report: lock_targets.judge(lock_targets.Measured(report["figures"], report)),
    "status": lambda report: status.judge(report["figures"]),
    "worker": lambda report: worker.judge(report["figures"]),
    "processes": lambda report: processes.judge(report["figures"]),
}
"""What is aimed at now, by what is saved; other files say it themselves."""
