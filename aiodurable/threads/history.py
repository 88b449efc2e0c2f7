"""The history of a thread: its checkpoints, newest first, each with the nodes that led to it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.threads.decode import TolerantDecoder
from aiodurable.threads.task_path import node_of

__all__ = ["History", "ThreadStep"]

_SQL = load("threads")
_PAGE = 100
_STEP = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class ThreadStep:
    """One checkpoint of a thread and how it came about.

    Attributes:
        checkpoint_id: the checkpoint.
        parent_id: the checkpoint before it; None for the first one, and where that was pruned.
        step: the superstep, -1 for an input.
        source: what made it: `input`, `loop`, `update` or `fork`.
        nodes: the nodes whose output led to it, sorted, a node once for each Send. A `@task` is
            left out: its name is not in the tables.
        written_at: when it was written, by the writer's clock.
        duration: time since its parent was written, including any time that the thread waited.
        run_id: the run that wrote it; None where plain LangGraph did.
        graph: the name of its graph, where known.
        worker: the host and process that wrote it; None where plain LangGraph did.
    """

    checkpoint_id: str
    parent_id: str | None
    step: int | None
    source: str | None
    nodes: tuple[str, ...]
    written_at: datetime | None
    duration: timedelta | None
    run_id: str | None
    graph: str | None
    worker: str | None


class History:
    """Reads the history of threads.

    Args:
        database: where the threads are.
        serde: the saver's serializer; it decodes the targets of Sends.
    """

    def __init__(self, database: PsycopgPool, *, serde: SerializerProtocol) -> None:
        self._database = database
        self._serde = serde

    async def steps(
        self, thread_id: str, *, before: str | None, limit: int | None
    ) -> AsyncIterator[ThreadStep]:
        """At most `limit` steps of a thread, newest first, starting before checkpoint `before`."""
        remaining = limit
        while remaining is None or remaining > 0:
            size = _PAGE if remaining is None else min(remaining, _PAGE)
            rows = await self._database.fetch(_SQL["history"], thread_id, before, size)
            for row in rows:
                yield self._step(row)
            if len(rows) < size:
                return
            before = rows[-1]["checkpoint_id"]
            remaining = None if remaining is None else remaining - size

    async def begun(self, thread_id: str, checkpoint_id: str) -> frozenset[str]:
        """The nodes that wrote anything in the step after a checkpoint, finished or not."""
        row = await self._database.fetch_one(_SQL["started_nodes"], thread_id, checkpoint_id)
        if row is None:
            return frozenset()
        sends = TolerantDecoder(self._serde).sends(row["sends_type"], row["sends"])
        nodes = (node_of(path, sends) for path in row["paths"] or ())
        return frozenset(node for node in nodes if node is not None)

    def _step(self, row: dict[str, Any]) -> ThreadStep:
        sends = TolerantDecoder(self._serde).sends(row["sends_type"], row["sends"])
        nodes = (node_of(path, sends) for path in row["paths"] or ())
        written_at, began_at = _moment(row["written_at"]), _moment(row["began_at"])
        return ThreadStep(
            checkpoint_id=row["checkpoint_id"],
            parent_id=row["parent_id"],
            step=_number(row["step"]),
            source=row["source"],
            nodes=tuple(sorted(node for node in nodes if node is not None)),
            written_at=written_at,
            duration=None if written_at is None or began_at is None else written_at - began_at,
            run_id=row["run_id"],
            graph=row["graph"],
            worker=row["worker"],
        )


def _moment(text: str | None) -> datetime | None:
    """Parse a time as LangGraph stores it; None where it is not a time."""
    try:
        found = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def _number(text: str | None) -> int | None:
    """Parse a superstep; None where it is not a number."""
    return int(text) if text is not None and _STEP.fullmatch(text) else None
