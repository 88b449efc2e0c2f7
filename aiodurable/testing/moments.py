"""The moments of a run at which a process may be killed: its writes, and where nodes begin and end.

A moment is named so that another process finds it again: the n-th write, the n-th run of a node.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from langchain_core.callbacks import BaseCallbackHandler

from aiodurable.postgres.statement_watch import watch_statements
from aiodurable.threads.subgraph_namespace import nodes_in

__all__ = ["Journal", "Moment", "Moments", "different_moments", "node_path"]

_VERB: Final = r"(?<!FOR )(?<!KEY )\b"
"""Not that of `FOR UPDATE` and `FOR NO KEY UPDATE`."""
_WRITES: Final = re.compile(_VERB + r"(?:INSERT|UPDATE|DELETE|MERGE|COMMIT)\b")
_TABLE: Final = re.compile(
    _VERB + r'(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|MERGE\s+INTO)\s+(?:ONLY\s+)?([\w."]+)'
)


class Moment(NamedTuple):
    """A moment of a run.

    Attributes:
        kind: a write, or a boundary of a node.
        when: before or after it.
        nth: which write of the run; which run of the node. From 1.
        name: what is written; the node, with the nodes whose subgraphs it is in before it.
    """

    kind: Literal["write", "node"]
    when: Literal["before", "after"]
    nth: int
    name: str

    def __str__(self) -> str:
        if self.kind == "write":
            return f"{self.when} write {self.nth} ({self.name})"
        return f"{self.when} node {self.name}{f', run {self.nth}' if self.nth > 1 else ''}"

    def same_place(self, other: Moment) -> bool:
        """Whether both are the same moment of their runs: the n-th write may be another one."""
        named = self.kind == "write" or self.name == other.name
        return named and (self.kind, self.when, self.nth) == (other.kind, other.when, other.nth)


def different_moments(moments: Sequence[Moment]) -> list[Moment]:
    """Of moments between which nothing is written and no code of a node runs, the first: to be
    killed at the others leaves the same behind.
    """
    kept = list[Moment]()
    at_work = 0
    for moment in moments:
        if moment.when == "after" or not kept or (moment.kind == "write" and at_work):
            kept.append(moment)
        if moment.kind == "node":
            at_work += 1 if moment.when == "before" else -1
    return kept


def node_path(checkpoint_ns: str) -> str:
    """`outer/inner`, of LangGraph's `outer:id|inner:id`."""
    return "/".join(nodes_in(checkpoint_ns))


class Journal:
    """What happened in the processes of one thread, one JSON line each, also of those killed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, what: str, *values: Any) -> None:
        """Append a line; it is there although the process is killed right after."""
        line = json.dumps([what, *values]).encode() + b"\n"
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    def read(self, what: str) -> list[list[Any]]:
        """The values of the lines of that kind, in order."""
        if not self._path.exists():
            return []
        lines = (json.loads(line) for line in self._path.read_bytes().splitlines())
        return [values for kind, *values in lines if kind == what]

    def moments(self) -> list[Moment]:
        """The moments, in order."""
        return [Moment(*values) for values in self.read("moment")]

    def runs(self) -> Counter[str]:
        """How often each node began."""
        return Counter(node_path(task) for [task] in self.read("began"))

    def without_key(self) -> set[str]:
        """The nodes of which a run ended without an idempotency key."""
        with_key = {task for [task] in self.read("key")}
        return {node_path(task) for [task] in self.read("began") if task not in with_key}


class Moments(BaseCallbackHandler):
    """Counts the moments of this process, and kills it at one of them.

    Args:
        journal: gets what happens.
        death: where to kill; None: nowhere.
    """

    run_inline = True  # in the event loop, right where the node begins and ends

    def __init__(self, journal: Journal, death: Moment | None) -> None:
        self._journal = journal
        self._death = death
        self._writes = 0
        self._nodes = Counter[str]()
        self._at_work: dict[Any, tuple[str, int]] = {}
        self.counting = False

    def watch(self) -> None:
        """See the statements of this process, from now on."""

        def sending(text: str) -> Callable[[], None]:
            if not self.counting or not _WRITES.search(text):
                return _nothing
            self._writes += 1
            nth, name = self._writes, _written(text)
            self._reached(Moment("write", "before", nth, name))
            return lambda: self._reached(Moment("write", "after", nth, name))

        watch_statements(sending)

    def note_key(self, task: str) -> None:
        """A node uses the idempotency key of its task."""
        self._journal.note("key", task)

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: Any, tags: Any = None, **kwargs: Any
    ) -> None:
        """A node is about to begin."""
        del serialized, inputs
        if not any(tag.startswith("graph:step:") for tag in tags or ()):
            return
        task = kwargs["metadata"]["langgraph_checkpoint_ns"]
        path = node_path(task)
        if path.endswith("__start__"):  # LangGraph's own, where the first edge is conditional
            return
        self._nodes[path] += 1
        self._at_work[run_id] = path, self._nodes[path]
        self._reached(Moment("node", "before", self._nodes[path], path))
        self._journal.note("began", task)

    def on_chain_end(self, outputs: Any, *, run_id: Any, **kwargs: Any) -> None:
        """The code of a node has ended; nothing of it is written yet."""
        del outputs, kwargs
        if (node := self._at_work.pop(run_id, None)) is not None:
            self._reached(Moment("node", "after", node[1], node[0]))

    def on_chain_error(self, error: Any, *, run_id: Any, **kwargs: Any) -> None:
        """The code of a node ended with an exception, or with a question."""
        del error, kwargs
        self.on_chain_end(None, run_id=run_id)

    def _reached(self, moment: Moment) -> None:
        if self._death is not None and self._death.same_place(moment):
            os.kill(os.getpid(), signal.SIGKILL)
        self._journal.note("moment", *moment)


def _written(text: str) -> str:
    """What a statement writes, in one word."""
    tables = [table.strip('"') for table in _TABLE.findall(text)]
    if any(table.startswith("checkpoint") for table in tables):
        return "checkpoints"
    return tables[0] if tables else text.split(maxsplit=1)[0].strip(";").lower()


def _nothing() -> None:
    pass
