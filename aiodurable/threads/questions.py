"""The questions of a thread's newest step, in subgraphs too, and which of them an answer by id
would reach.

A question of a subgraph is stored twice or more: with the task that asks, and with the task of each
graph around it. They are written one after the other, so that a process may die with an outer row
that still holds the question before. LangGraph gives an answer to *that* question to the next one
(its tasks accept their first question's id for any later one), so an answer is delivered only where
the innermost row has its question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Interrupt

from aiodurable.threads.decode import TolerantDecoder
from aiodurable.threads.task_path import called_by, caller_of

__all__ = ["Questions"]


@dataclass(frozen=True, slots=True)
class _Row:
    """The questions of one task that has not finished.

    Attributes:
        around: the namespace of its graph.
        task_id: the task.
        path: its `task_path`.
        node: its node, None for a Send.
        ids: the interrupt ids of its questions.
        digest: of the stored row, as `md5` in SQL gives it.
    """

    around: str
    task_id: str
    path: str
    node: str | None
    ids: frozenset[str]
    digest: str

    def holds(self, other: _Row) -> bool:
        """Whether the other task runs in a graph, or is a `@task`, that this one has called."""
        if other.around == self.around:
            return called_by(other.path, self.path)
        prefix = f"{self.around}|" if self.around else ""
        if not other.around.startswith(prefix):
            return False
        called = other.around.removeprefix(prefix).partition("|")[0]
        if ":" in called:
            return called.endswith(f":{self.task_id}")
        return called == self.node  # a subgraph with a memory has no task in its namespace


@dataclass(frozen=True, slots=True)
class Questions:
    """What a thread asks, read under its lease.

    Attributes:
        reached: the interrupt ids that an answer would reach.
        loose: the answer that plain LangGraph keeps for whichever question comes next, if there is
            one.
        spent: whether that answer was taken already, or is older than a question that is open.
        commanded: how many writes of a `Command` (its update, its goto) are stored that no step has
            taken.
    """

    reached: frozenset[str]
    loose: tuple[Any, ...]
    spent: bool
    commanded: int
    _roots: tuple[_Row, ...]

    @classmethod
    def of(
        cls, row: Mapping[str, Any], *, looking: SerializerProtocol, going_on: SerializerProtocol
    ) -> Questions:
        """From the row of the statement `questions`: the questions are looked at, an answer goes
        on.
        """
        reading = TolerantDecoder(looking)
        rows = list(_rows(row, reading))
        innermost = [one for one in rows if not any(one.holds(other) for other in rows)]
        roots = tuple(one for one in rows if not one.around)
        return cls(
            reached=_ids(roots) & _ids(innermost),
            loose=(
                ()
                if row["loose_type"] is None
                else (going_on.loads_typed((row["loose_type"], row["loose"])),)
            ),
            spent=row["spent"],
            commanded=row["commanded"],
            _roots=roots,
        )

    def closed_by(self, ids: Collection[str]) -> list[str]:
        """The digests of the root graph's rows that answers to these ids answer whole."""
        return [row.digest for row in self._roots if row.ids <= frozenset(ids)]


def _rows(row: Mapping[str, Any], reading: TolerantDecoder) -> Iterator[_Row]:
    columns = [row[name] or () for name in ("namespaces", "task_ids", "paths", "types", "blobs")]
    for around, task_id, path, kind, blob in zip(*columns, strict=True):
        asked = reading.load(kind, blob)
        questions = asked if isinstance(asked, list | tuple) else (asked,)
        ids = frozenset(question.id for question in questions if isinstance(question, Interrupt))
        digest = hashlib.md5(bytes(blob), usedforsecurity=False).hexdigest()
        yield _Row(around, task_id, path, caller_of(path), ids, digest)


def _ids(rows: Sequence[_Row]) -> frozenset[str]:
    return frozenset[str]().union(*(row.ids for row in rows))
