"""Where a thread stands: LangGraph's tables first, then the ledger and the live lock where they
know more.

The rules, in order; `classify` in `postgres/sql/threads.sql` applies them, for one thread and for a
page alike.

1. Somebody holds the thread's lock (`pg_locks`, mode Exclusive, this database; or a row of an owner
   found there): **running**, with its holder. A caller that holds the lock itself ignores it
   (`ignore_lock`). On a standby no lock of the primary can be seen, and `doubt` says so.
2. Otherwise the newest run that was accepted (rejected and superseded ones do not count) may know
    more:

   - it is *queued*: **queued**;
   - its input is *fresh*: stored, and no checkpoint carries its run_id. A run whose process is gone
     before its first checkpoint is **crashed**, whatever the checkpoints say; *failed*, *paused*
     and *quarantined* stand as written;
   - it is *about the head*: the head carries its run_id, or it took over a thread of plain
     LangGraph and has written no checkpoint. Over an unfinished head *quarantined* stands; over a
     head with work left and no error or question in the tables *paused* and *failed* stand, for
     LangGraph writes nothing at a static breakpoint, at the recursion limit or when a drain or a
     lost connection ends a run.

3. In all other cases the head decides, also when the ledger says complete: plain LangGraph may have
    gone on since.

   - an error of a task that was not cancelled, not handled, and not outlived by a later success:
       **failed**;
   - a question of a task that has not finished and was not answered: **interrupted**;
   - a channel that makes the next step run, or a write of `Command(goto=…)`: work is left:
       **crashed**;
   - a head with none of these: **complete**; no head: **new**.

What one attempt of a node wrote is one transaction, and transactions are ordered: `xmin` tells an
error from the output or the question of a later attempt, and an answer that was given to a question
from one that an earlier question took: the question is written each time it is asked. A dump and
restore makes them all one; then errors count as newest, and answers as taken: a person is asked
once more, never answered for.

Which channels those are: langgraph 1.2, `pregel/_algo.py` (`apply_writes`, `prepare_next_tasks`);
what a task's writes say of it: `pregel/_task_status.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Interrupt, Send

from aiodurable.jsonable import shown
from aiodurable.lock_keys import lock_key
from aiodurable.models import LockHolder, RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.errors import is_bad_value
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import careful, load
from aiodurable.threads.decode import TolerantDecoder
from aiodurable.threads.failure_path import Failures
from aiodurable.threads.filters import Filter
from aiodurable.threads.task_path import called_by, caller_of, node_of, pull_path, send_index

__all__ = ["CLASSIFY", "Classifier", "Standing"]

T = TypeVar("T")

CLASSIFY = load("threads")["classify"]
"""The statement; `Classifier.arguments` has its parameters, `Classifier.decode` reads its rows."""

_HEADS = f"SELECT thread_id, checkpoint_id FROM ({CLASSIFY}) t"  # noqa: S608 - both halves are ours
_COUNT = f"SELECT status, pg_catalog.count(*) FROM ({CLASSIFY}) t GROUP BY status"  # noqa: S608 - both halves are ours
_STANDING = f"SELECT thread_id, status, graph FROM ({CLASSIFY}) t"  # noqa: S608 - both halves are ours

_DOUBTS = {
    "old": "written by a LangGraph before 0.3: what follows a node is known to its graph alone",
    "raw": (
        "no StateGraph and no @entrypoint wrote it: which channels start a node is known to its"
        " graph alone"
    ),
    "stopped": (
        "plain LangGraph leaves the same behind at a static breakpoint, at the recursion limit and"
        " after a drain; and it takes no lease, so that it may be at work"
    ),
    "unleased": "plain LangGraph takes no lease: its process may be at work",
    "standby": "a standby does not see who holds a lock on the primary: its run may be at work",
    "damaged": (
        "its newest checkpoint was written by something else than LangGraph, or changed since: its"
        " superstep, its time or its format cannot be read"
    ),
    "cancelled": "the error is stored encrypted, and may be that of a cancellation",
}

_MAYBE_AT_GATE = ("old", "stopped")
"""Of those, the ones that say of unfinished work: plain LangGraph may have stopped on purpose."""


class Standing(NamedTuple):
    """A thread's status and no more: no error is read for it, no question, and no subgraph that
    failed.
    """

    thread_id: str
    status: ThreadStatus
    graph: str | None


class Classifier:
    """Reads statuses. One statement for any number of threads.

    Args:
        database: where the threads are.
        namespace: that of the locks.
        serde: LangGraph's serializer of the saver; errors, questions and Sends are read with it.
    """

    def __init__(self, database: PsycopgPool, *, namespace: str, serde: SerializerProtocol) -> None:
        self._database = database
        self._namespace = namespace
        self._serde = serde
        self._failures = Failures(database, serde=serde)
        self._careful = False

    async def classify(
        self, thread_ids: Sequence[str], wanted: Filter | None = None, *, ignore_lock: bool = False
    ) -> list[WorkflowCheckpoint]:
        """The threads among `thread_ids` that pass, in the database's order; without a filter all
        of them.

        Threads nobody knows have the status `new`.
        """
        if not thread_ids:
            return []
        rows = await self.fetch(
            self._database.fetch,
            CLASSIFY,
            *self._arguments(thread_ids, wanted, ignore_lock=ignore_lock),
        )
        found = await self.decode(rows)
        return [thread for thread in found.values() if wanted is None or wanted.passes(thread)]

    def arguments(self, thread_ids: Sequence[str]) -> tuple[Any, ...]:
        """The parameters of `CLASSIFY` for all of these threads, whose locks are ignored."""
        return self._arguments(thread_ids, None, ignore_lock=True)

    async def count(self, thread_ids: Sequence[str], wanted: Filter) -> Counter[ThreadStatus]:
        """How many of `thread_ids` pass, by status."""
        if not wanted.in_sql:
            return Counter(thread.status for thread in await self.classify(thread_ids, wanted))
        rows = (
            await self.fetch(self._database.fetch, _COUNT, *self._arguments(thread_ids, wanted))
            if thread_ids
            else []
        )
        return Counter({ThreadStatus(row["status"]): row["count"] for row in rows})

    async def standing(self, thread_ids: Sequence[str], wanted: Filter) -> list[Standing]:
        """What `classify` finds, for a fraction of the work; as long as Postgres can tell what
        passes.
        """
        if not wanted.in_sql:
            return [
                Standing(t.thread_id, t.status, t.graph)
                for t in await self.classify(thread_ids, wanted)
            ]
        rows = (
            await self.fetch(self._database.fetch, _STANDING, *self._arguments(thread_ids, wanted))
            if thread_ids
            else []
        )
        return [
            Standing(row["thread_id"], ThreadStatus(row["status"]), row["graph"]) for row in rows
        ]

    async def fetch(self, fetch: Callable[..., Awaitable[T]], statement: str, *args: Any) -> T:
        """Run a statement that has `CLASSIFY` in it, so that a row which it cannot read fails it
        for no other thread.

        Once there was such a row, this process keeps to the careful form of the statement.
        """
        if not self._careful:
            try:
                return await fetch(statement, *args)
            except Exception as error:
                if not is_bad_value(error):
                    raise
                self._careful = True
        return await fetch(careful(statement), *args)

    def heads(self, thread_ids: Sequence[str], wanted: Filter) -> tuple[str, tuple[Any, ...]]:
        """A statement, and its parameters, for the newest checkpoints of those that pass as far as
        Postgres can tell.
        """
        return _HEADS, self._arguments(thread_ids, wanted)

    def _arguments(
        self, thread_ids: Sequence[str], wanted: Filter | None, *, ignore_lock: bool = False
    ) -> tuple[Any, ...]:
        """The parameters of `classify`."""
        keys = [lock_key(thread_id, self._namespace) for thread_id in thread_ids]
        asked = (list(thread_ids), keys, ignore_lock)
        if wanted is None:
            return *asked, None, None, None, None, None
        run_status = RunStatus.RUNNING.value if wanted.orphaned else None
        statuses = [status.value for status in wanted.statuses]
        return *asked, statuses, wanted.older_than, wanted.newer_than, wanted.graph, run_status

    async def decode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, WorkflowCheckpoint]:
        """What rows of `CLASSIFY` say, by thread_id in their order; of failed threads one more
        statement a level says where.
        """
        paths = await self._failures.paths(rows)
        return {
            row["thread_id"]: self._decode_row(row, paths.get(row["thread_id"], ())) for row in rows
        }

    def _decode_row(
        self, row: Mapping[str, Any], failed_path: tuple[str, ...]
    ) -> WorkflowCheckpoint:
        reading = TolerantDecoder(self._serde)
        status = ThreadStatus(row["status"])
        sends = reading.sends(row["sends_type"], row["sends"])
        error = (
            None
            if row["error_blob"] is None
            else shown(reading.load(row["error_type"], row["error_blob"]))
        )
        from_ledger = status == row["run_status"]
        if (
            error is None
            and from_ledger
            and status in (ThreadStatus.FAILED, ThreadStatus.QUARANTINED)
        ):
            error = row["run_error"]
        pending = tuple(sorted((*_pending(row, sends), *_commanded(row, reading))))
        interrupts = tuple(_interrupts(row, reading))
        return WorkflowCheckpoint(
            thread_id=row["thread_id"],
            status=status,
            checkpoint_id=row["checkpoint_id"],
            step=row["step"],
            pending=pending,
            failed_node=None if row["error_path"] is None else node_of(row["error_path"], sends),
            failed_path=failed_path,
            error=error,
            interrupts=interrupts,
            updated_at=row["updated_at"],
            holder=_holder(row),
            run_id=row["run_id"],
            graph=row["graph"],
            attempts=row["attempts"] or 0,
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            failed_at=row["failed_at"],
            reason=row["reason"] if from_ledger else None,
            doubt=_doubt(row, status, error, reading.unreadable),
            maybe_at_gate=status is ThreadStatus.CRASHED and row["doubt"] in _MAYBE_AT_GATE,
        )


def _doubt(
    row: Mapping[str, Any], status: ThreadStatus, error: str | None, unreadable: set[str]
) -> str | None:
    doubts = list[str]()
    if row["doubt"] is not None and status in (ThreadStatus.CRASHED, ThreadStatus.COMPLETE):
        doubts.append(_DOUBTS[row["doubt"]])
    if row["damaged"]:
        doubts.append(_DOUBTS["damaged"])
    # A standby shows no locks. The ledger has a run at work as running; nothing has plain
    # LangGraph's.
    if row["standby"] and (
        status is ThreadStatus.CRASHED or row["run_status"] == RunStatus.RUNNING.value
    ):
        doubts.append(_DOUBTS["standby"])
    # The statement leaves cancellations out where it can read what they are.
    if status is ThreadStatus.FAILED and error is not None and error.startswith("CancelledError("):
        doubts.append(_DOUBTS["cancelled"])
    if unreadable:
        doubts.append(
            f"what is stored as {', '.join(sorted(unreadable))} cannot be read with the serializer"
            " of this process"
        )
    return "; ".join(doubts) or None


def _interrupts(row: Mapping[str, Any], reading: TolerantDecoder) -> Iterator[Any]:
    """The open questions, each once: that of a `@task` is stored with the task, and then with the
    function that called it.
    """
    seen = set[str](row["answering"] or ())
    paths: Sequence[str] = row["questions_path"] or ()
    for path, kind, blob in zip(
        paths, row["questions_type"] or (), row["questions"] or (), strict=True
    ):
        if any(called_by(other, path) for other in paths):
            continue
        asked = reading.load(kind, blob)
        for question in asked if isinstance(asked, list | tuple) else (asked,):
            if isinstance(question, Interrupt):
                if question.id in seen:
                    continue
                seen.add(question.id)
            yield question


def _commanded(row: Mapping[str, Any], reading: TolerantDecoder) -> Iterator[str]:
    """The nodes a `Command` from outside was written for."""
    for channel in row["commanded"] or ():
        yield channel.rpartition(":")[2]
    for kind, blob in zip(
        row["commanded_sends_type"] or (), row["commanded_sends"] or (), strict=True
    ):
        send = reading.load(kind, blob)
        if isinstance(send, Send):
            yield send.node


def _holder(row: Mapping[str, Any]) -> LockHolder | None:
    found = row["holder"]
    if found is None:
        return None
    since = found["since"]
    return LockHolder(
        key=row["lock_key"],
        pid=found["pid"],
        application=found["application"] or "",
        client=found["client"],
        since=None if since is None else datetime.fromisoformat(since),
        role=found["role"],
        authorized=found["authorized"],
    )


def _pending(row: Mapping[str, Any], sends: list[str]) -> Iterator[str]:
    """The nodes the head's channels start, without those that have finished already."""
    done: set[str] = set(row["done"] or ())
    for channel in row["triggers"] or ():
        if channel == "__pregel_tasks":
            finished = {send_index(path) for path in done}
            yield from (node for index, node in enumerate(sends) if index not in finished)
            continue
        node = channel.rpartition(":")[2]
        if channel == "__start__":
            # An @entrypoint listens to the same channel as a StateGraph's START: its writes, and
            # its tasks', know its name.
            paths = done.union(row["begun"] or ())
            node = next(filter(None, map(caller_of, paths)), node)
        if pull_path(node) not in done:
            yield node
