"""How `stats` and `top` show the numbers of a database. Names are made printable: anybody may have
chosen them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aiodurable.cli.format import age, one_line, quoted, took
from aiodurable.models import ClaimState, RunStatus, ThreadStatus

if TYPE_CHECKING:
    from aiodurable.cli.stats import Numbers
    from aiodurable.insights import KeyPressure, Percentiles

__all__ = ["unreachable", "view"]

_MOST: Final = 10_000
_LEAST_CAP: Final = 500
_ROWS: Final = 20
_BAD: Final = {"failed", "crashed", "quarantined"}


def view(shown: Numbers) -> RenderableType:
    """All of it."""
    parts: list[RenderableType] = [_head(shown)]
    for title, table in (
        ("queues", _queues(shown)),
        ("workers", _workers(shown)),
        ("graphs", _graphs(shown)),
    ):
        if table is not None:
            parts += [Text(), Text(title, style="bold underline"), table]
    return Group(*parts)


def unreachable(error: Exception) -> RenderableType:
    """What stands there while Postgres cannot be reached."""
    return Text(one_line(str(error)), style="red")


def _head(shown: Numbers) -> RenderableType:
    overview, per_minute = shown.overview, shown.throughput.per_minute
    estimated = overview.threads.estimated
    leases = "" if overview.leases is None else f"{overview.leases:,} leases held"
    workers = f"{overview.workers} workers" + (
        ""
        if overview.workers_alive in (None, overview.workers)
        else f", {overview.workers_alive} of them alive"
    )
    oldest = overview.oldest_ready_age_s
    lines = (
        ("threads", _counts(ThreadStatus, overview.threads.by_status, estimated)),
        (
            "queued",
            _counts(ClaimState, overview.runs)
            + (Text() if oldest is None else Text(f"  oldest ready {_age(oldest)}")),
        ),
        (
            "ledger",
            _counts(
                RunStatus,
                {
                    RunStatus.RUNNING: overview.running,
                    RunStatus.FAILED: overview.failed,
                    RunStatus.QUARANTINED: overview.quarantined,
                },
            ),
        ),
        (
            "ended",
            Text(
                "  ".join(
                    f"{per_minute[status]:,.1f}/min {status}"
                    for status in RunStatus
                    if per_minute.get(status)
                )
                or f"nothing in {_age(shown.throughput.window_s)}"
            ),
        ),
        ("now", Text("  ".join(filter(None, (workers, f"{overview.slots} slots", leases))))),
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, text in lines:
        table.add_row(name, text)
    return table


def _counts(
    order: Iterable[StrEnum],
    counts: Mapping[ThreadStatus, int] | Mapping[ClaimState, int] | Mapping[RunStatus, int],
    estimated: frozenset[ThreadStatus] = frozenset(),
) -> Text:
    of = {str(name): count for name, count in counts.items()}
    capped = not isinstance(next(iter(counts), None), ThreadStatus)
    text = Text("  ").join(
        Text(
            f"{'~' if name in estimated else ''}{of[name]:,}"
            f"{'+' if capped and of[name] >= _MOST else ''} {name}",
            style="red" if name in _BAD else "",
        )
        for name in order
        if of.get(name)
    )
    return text if text.plain else Text("none")


def _queues(shown: Numbers) -> Table | None:
    columns = "queue ready running claimed scheduled blocked limited oldest limits keys"
    return _table(
        columns,
        [
            (
                quoted(queue.name) + (" (paused)" if queue.paused else ""),
                *(
                    f"{count:,}{'+' if queue.capped and count >= _LEAST_CAP else ''}"
                    for count in (
                        *(queue.ready, queue.running, queue.claimed, queue.scheduled),
                        *(queue.blocked, queue.limited),
                    )
                ),
                _age(queue.oldest_ready_age_s),
                " ".join(
                    f"{name}={value:g}"
                    for name, value in (
                        ("max", queue.max_running),
                        ("per-key", queue.max_running_per_key),
                        ("rate", queue.rate),
                    )
                    if value is not None
                ),
                ", ".join(map(_key, queue.keys[:3])),
            )
            for queue in shown.queues
        ],
        right="ready running claimed scheduled blocked limited oldest",
    )


def _workers(shown: Numbers) -> Table | None:
    return _table(
        "worker state running slots lag lag-max queues version since",
        [
            (
                quoted(worker.worker),
                "dead" if worker.alive is False else "draining" if worker.draining else "alive",
                f"{worker.running:,}",
                f"{worker.concurrency:,}",
                _took(worker.loop_lag_s),
                _took(worker.loop_lag_max_s),
                ", ".join(map(quoted, worker.queues)),
                quoted(worker.version),
                age(shown.overview.at - worker.started_at),
            )
            for worker in shown.workers
        ],
        right="running slots lag lag-max since",
    )


def _graphs(shown: Numbers) -> Table | None:
    return _table(
        "graph runs wait-p50 wait-p95 wait-p99 run-p50 run-p95 run-p99",
        [
            (quoted(one.graph or ""), f"{one.count:,}", *_times(one.wait), *_times(one.run))
            for one in shown.latencies
        ],
        right="runs wait-p50 wait-p95 wait-p99 run-p50 run-p95 run-p99",
    )


def _table(columns: str, rows: Sequence[Sequence[str]], *, right: str) -> Table | None:
    if not rows:
        return None
    table = Table(box=None, pad_edge=False, header_style="dim")
    # One that is empty takes the width that the others need not to be broken.
    used = [
        (name, cells) for name, *cells in zip(columns.split(), *rows, strict=True) if any(cells)
    ]
    for column, _ in used:
        table.add_column(
            column.replace("-", " "),
            justify="right" if column in right.split() else "left",
            overflow="fold",
            no_wrap=column in right.split(),
        )
    for row in zip(*(cells[:_ROWS] for _, cells in used), strict=True):
        table.add_row(*map(Text, row))
    if len(rows) > _ROWS:
        table.add_row(f"and {len(rows) - _ROWS} more")
    return table


def _key(key: KeyPressure) -> str:
    return f"{quoted(key.key)} {key.waiting:,}{f'+{key.running:,}' if key.running else ''}"


def _times(times: Percentiles | None) -> tuple[str, str, str]:
    if times is None:
        return "", "", ""
    return _took(times.p50_s), _took(times.p95_s), _took(times.p99_s)


def _age(seconds: float | None) -> str:
    return "" if seconds is None else age(timedelta(seconds=seconds))


def _took(seconds: float) -> str:
    return took(timedelta(seconds=seconds))
