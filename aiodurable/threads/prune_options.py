"""What may be asked of a prune, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict

from aiodurable.errors import InvalidArgumentError
from aiodurable.models import PRUNE_BATCH_SIZE, PRUNE_DUTY_CYCLE, ThreadStatus
from aiodurable.threads.filters import Age, Filter, Statuses

__all__ = [
    "PruneOptions",
    "PruneReport",
    "PruneStrategy",
    "checked",
]

_NEVER = frozenset({ThreadStatus.RUNNING, ThreadStatus.QUEUED})

PruneStrategy = Literal["keep_latest", "delete"]


class PruneOptions(TypedDict, total=False):
    """The arguments of `Threads.prune`."""

    strategy: PruneStrategy
    older_than: Required[Age]
    status: Statuses
    graph: str | None
    batch_size: int
    duty_cycle: float
    dry_run: bool
    progress: Callable[[PruneReport], None] | None


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was removed, or would be.

    Attributes:
        scanned: threads scanned. A thread whose rows are spread over several page ranges is counted
            once per range.
        threads: threads of which something was removed.
        rows: rows removed from LangGraph's three tables.
        runs: ledger rows removed because of their age. Those removed with their thread do not
            count.
        bytes: size of the removed values as stored. New rows can use the space after a vacuum.
        skipped: threads left alone because they were in use, or had gone on since they were read.
        unprunable: threads whose newest checkpoint cannot stand alone: it has a DeltaChannel, a
            format before LangGraph 0.5, or a format or values that cannot be read.
        progress: the part of the database that was scanned, 0 to 1; 0 while it is unknown.
    """

    scanned: int = 0
    threads: int = 0
    rows: int = 0
    runs: int = 0
    bytes: int = 0
    skipped: int = 0
    unprunable: tuple[str, ...] = ()
    progress: float = 0.0

    def __add__(self, other: PruneReport) -> PruneReport:
        return PruneReport(
            scanned=self.scanned + other.scanned,
            threads=self.threads + other.threads,
            rows=self.rows + other.rows,
            runs=self.runs + other.runs,
            bytes=self.bytes + other.bytes,
            skipped=self.skipped + other.skipped,
            unprunable=self.unprunable + other.unprunable,
            progress=max(self.progress, other.progress),
        )


def checked(
    *,
    strategy: PruneStrategy = "keep_latest",
    older_than: Age,
    status: Statuses = (ThreadStatus.COMPLETE,),
    graph: str | None = None,
    batch_size: int = PRUNE_BATCH_SIZE,
    duty_cycle: float = PRUNE_DUTY_CYCLE,
    **_: Any,
) -> Filter:
    """Check the options of `prune` and return them as a filter.

    Raises:
        InvalidArgumentError: an invalid option.
    """
    if strategy not in ("keep_latest", "delete"):
        raise InvalidArgumentError(
            f'strategy must be "keep_latest" or "delete", got {strategy!r}', argument="strategy"
        )
    if not 1 <= batch_size <= 10_000:
        raise InvalidArgumentError(
            f"batch_size must be 1 to 10000 threads, got {batch_size}", argument="batch_size"
        )
    if not 0 < duty_cycle <= 1:
        raise InvalidArgumentError(
            f"duty_cycle must be above 0 and at most 1, got {duty_cycle}: 0.5 works half of the"
            " time",
            argument="duty_cycle",
        )
    wanted = Filter.of(status=status, older_than=older_than, graph=graph)
    if never := wanted.statuses & _NEVER:
        raise InvalidArgumentError(
            f"threads that are {', '.join(sorted(never))} cannot be pruned: they are about to write"
        )
    return wanted
