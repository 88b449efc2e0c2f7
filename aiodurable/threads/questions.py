"""Finds the open questions of a thread's newest step, subgraphs included, and which of them an
answer by id reaches.

LangGraph stores the question of a subgraph with the task that asks and again with the task of each
enclosing graph, one row after the other. A process can die between two of these writes and leave
the previous question in an outer row. LangGraph would deliver an answer to *that* question to the
new one, because a task accepts the id of its first question for any later one. So an answer is
delivered only where the innermost row holds its question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Interrupt

from aiodurable.threads.decode import TolerantDecoder
from aiodurable.threads.subgraph_namespace import without_tasks
from aiodurable.threads.task_path import called_by, caller_of

__all__ = ["Questions"]

_TEXTS = ("namespaces", "task_ids", "paths", "types")


@dataclass(frozen=True, slots=True)
class _Row:
    """The questions of one unfinished task.

    Attributes:
        around: the namespace of its graph.
        task_id: the task.
        path: its `task_path`.
        node: its node, None for a Send.
        ids: the interrupt ids of its questions.
        digest: the MD5 of the stored row, as SQL's `md5` computes it.
        taken: whether the task has stored an answer since. LangGraph would deliver another one to
            the task's next question.
    """

    around: str
    task_id: str
    path: str
    node: str | None
    ids: frozenset[str]
    digest: str
    taken: bool

    def holds(self, other: _Row) -> bool:
        """Whether this task called the other one: as a `@task`, or inside a subgraph."""
        if other.around == self.around:
            return called_by(other.path, self.path)
        prefix = f"{self.around}|" if self.around else ""
        called = other.around.removeprefix(prefix).partition("|")[0]
        if ":" in called and other.around.startswith(prefix):
            return called.endswith(f":{self.task_id}")
        if self.node is None:
            return False
        memory = without_tasks(prefix + self.node)
        return other.around == memory or other.around.startswith(f"{memory}|")


@dataclass(frozen=True, slots=True)
class Questions:
    """The open questions of a thread, read under its lease.

    Attributes:
        answerable: the interrupt ids that an answer would reach.
        stray_answer: the answer without an id that plain LangGraph stored for the next question;
            empty if there is none.
        stray_is_used: whether a question has used that answer, or an open question is newer.
        command_writes: how many stored writes of a `Command` (its update, its goto) no step has
            applied yet.
    """

    answerable: frozenset[str]
    stray_answer: tuple[Any, ...]
    stray_is_used: bool
    command_writes: int
    _roots: tuple[_Row, ...]

    @classmethod
    def of(
        cls,
        row: Mapping[str, Any],
        *,
        question_serde: SerializerProtocol,
        answer_serde: SerializerProtocol,
    ) -> Questions:
        """From a row of the statement `questions`.

        Args:
            row: the row.
            question_serde: decodes the questions, of which only the ids are used.
            answer_serde: decodes a stray answer, which the run will use.
        """
        decoder = TolerantDecoder(question_serde)
        rows = list(_rows(row, decoder))
        innermost = [one for one in rows if not any(one.holds(other) for other in rows)]
        roots = tuple(one for one in rows if not one.around)
        return cls(
            answerable=_ids(roots) & _ids([one for one in innermost if not one.taken]),
            stray_answer=(
                ()
                if row["stray_type"] is None
                else (answer_serde.loads_typed((row["stray_type"], row["stray"])),)
            ),
            stray_is_used=row["spent"],
            command_writes=row["commanded"],
            _roots=roots,
        )

    def closed_by(self, ids: Collection[str]) -> list[str]:
        """The digests of the root graph's rows whose questions these ids answer completely."""
        return [row.digest for row in self._roots if row.ids <= frozenset(ids)]


def _rows(row: Mapping[str, Any], decoder: TolerantDecoder) -> Iterator[_Row]:
    columns = [row[name] or () for name in (*_TEXTS, "blobs", "taken")]
    for around, task_id, path, kind, blob, taken in zip(*columns, strict=True):
        stored = decoder.load(kind, blob)
        questions = stored if isinstance(stored, list | tuple) else (stored,)
        ids = frozenset(question.id for question in questions if isinstance(question, Interrupt))
        digest = hashlib.md5(bytes(blob), usedforsecurity=False).hexdigest()
        yield _Row(around, task_id, path, caller_of(path), ids, digest, taken)


def _ids(rows: Sequence[_Row]) -> frozenset[str]:
    return frozenset[str]().union(*(row.ids for row in rows))
