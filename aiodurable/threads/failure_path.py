"""Finds where a thread failed: the path of nodes from the root graph to the node that raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.models import ThreadStatus
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.threads.decode import TolerantDecoder
from aiodurable.threads.subgraph_namespace import without_tasks
from aiodurable.threads.task_path import node_of

__all__ = ["Failures"]

_SQL = load("threads")
_FAILED = (ThreadStatus.FAILED, ThreadStatus.QUARANTINED)


@dataclass(frozen=True, slots=True)
class _Task:
    """A failed task. `around` is the namespace of its graph with a bar at its end; empty for the
    root.
    """

    thread_id: str
    head_id: str
    around: str
    task_id: str
    node: str | None


class Failures:
    """Follows failures into subgraphs, one statement per level for any number of threads.

    Args:
        database: where the threads are.
        serde: the saver's serializer; it decodes the targets of Sends.
    """

    def __init__(self, database: PsycopgPool, *, serde: SerializerProtocol) -> None:
        self._database = database
        self._serde = serde

    async def paths(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
        """The path of each failed thread, by thread_id. Where two tasks of a step failed, it is the
        path of the first one.

        Args:
            rows: the rows of `classify`.
        """
        paths: dict[str, tuple[str, ...]] = {}
        tasks = [
            _Task(
                row["thread_id"],
                row["checkpoint_id"],
                "",
                row["error_task"],
                self._node(row, row["error_path"]),
            )
            for row in rows
            if row["error_path"] is not None and row["status"] in _FAILED
        ]
        while named := [task for task in tasks if task.node is not None]:
            for task in named:
                paths[task.thread_id] = (*paths.get(task.thread_id, ()), task.node or "")
            tasks = await self._inside([task for task in named if _is_storable(task.node or "")])
        return paths

    async def _inside(self, tasks: Sequence[_Task]) -> list[_Task]:
        """The failed tasks in the subgraphs that these tasks ran."""
        if not tasks:
            return []
        heads = {task.thread_id: task.head_id for task in tasks}
        rows = await self._database.fetch(
            _SQL["failed_inside"],
            list(heads),
            [f"{task.around}{task.node}:{task.task_id}" for task in tasks],
            [without_tasks(f"{task.around}{task.node}") for task in tasks],
            list(heads.values()),
        )
        return [
            _Task(
                row["thread_id"],
                heads[row["thread_id"]],
                f"{row['checkpoint_ns']}|",
                row["task_id"],
                self._node(row, row["path"]),
            )
            for row in rows
        ]

    def _node(self, row: Mapping[str, Any], path: str) -> str | None:
        return node_of(path, TolerantDecoder(self._serde).sends(row["sends_type"], row["sends"]))


def _is_storable(name: str) -> bool:
    """Whether a text column can hold this name. A stored `Send` can name a node that it cannot."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False
