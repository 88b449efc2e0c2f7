"""Computes the status of threads from LangGraph's tables, the ledger and the live locks.

`classify` in `postgres/sql/threads.sql` applies these rules in order, to one thread or to a page.

1. Somebody holds the thread's lock (`pg_locks`, mode Exclusive, this database): **running**, with
   its holder. The holder itself skips this rule (`ignore_lock`). A standby does not show the locks
   of the primary; `doubt` says so.
2. Otherwise the newest run decides where it knows more than the checkpoints. Rejected and
   superseded runs do not count.

   - The run's input is *fresh*: stored, and no checkpoint carries its run_id. If its process died
     before the first checkpoint, the thread is **crashed**, whatever the checkpoints say; *failed*,
     *paused* and *quarantined* are kept.
   - The run is *about the head*: the head carries its run_id, or the run adopted a thread of plain
     LangGraph and has written no checkpoint. *quarantined* is kept if the head is unfinished.
     *paused* and *failed* are kept if work is left and the tables show no error and no question:
     LangGraph writes nothing at a static breakpoint, at the recursion limit, or when a drain or a
     lost connection ends a run.

3. Otherwise the head decides, even if the ledger says complete: plain LangGraph may have gone on
    since.

   - The error of a task that was not cancelled, not handled, and not followed by a success of the
       same task: **failed**.
   - The question of an unfinished task without an answer: **interrupted**. Where all that is open
     is sleeps and waits for signals, nobody has to answer: *paused*, as the ledger says.
   - A channel that triggers a next step, or a write of `Command(goto=…)`: work is left:
       **crashed**.
   - A head with none of these: **complete**. No head: **new**. In both cases **queued** if a run
     waits for a worker; the thread's holder (`ignore_lock`) goes before the queue and does not see
     it.

One attempt of a node writes in one transaction, and `xmin` orders transactions. It tells an error
from the output or the question of a later attempt. It also tells whether an answer belongs to a
question or to an earlier one, because each attempt writes its question again. After a dump and
restore all rows have one `xmin`: then errors count as newest and answers as used, so a person has
to answer once more, and no question gets an answer that was not meant for it.

Sources: langgraph 1.2, `pregel/_algo.py` (`apply_writes`, `prepare_next_tasks`) for the channels,
`pregel/_task_status.py` for the writes of a task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Interrupt, Send

from aiodurable.jsonable import shown
from aiodurable.lock_keys import lock_key
from aiodurable.models import LockHolder, PauseReason, RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.errors import is_bad_value
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import careful, load
from aiodurable.threads.decode import TolerantDecoder
from aiodurable.threads.failure_path import Failures
from aiodurable.threads.filters import Filter
from aiodurable.threads.task_path import called_by, caller_of, node_of, pull_path, send_index
from aiodurable.waits import Wait, wait_of

__all__ = ["CLASSIFY", "Classifier", "Standing", "pause_reason"]

T = TypeVar("T")

_SQL = load("threads")
CLASSIFY = _SQL["classify"]
"""The statement; `Classifier.arguments` has its parameters, `Classifier.decode` reads its rows."""

_DOUBTS = {
    "old": "written by a LangGraph before 0.3: only its graph knows what follows a node",
    "raw": (
        "neither a StateGraph nor an @entrypoint wrote it: only its graph knows which channels"
        " start a node"
    ),
    "stopped": (
        "plain LangGraph leaves the same rows at a static breakpoint, at the recursion limit and"
        " after a drain; it takes no lease, so it may still be running"
    ),
    "unleased": "plain LangGraph takes no lease: it may still be running",
    "standby": "a standby does not show the primary's locks: its run may still be running",
    "damaged": (
        "the superstep, the time or the format of its newest checkpoint cannot be read: LangGraph"
        " did not write it, or it was changed since"
    ),
    "cancelled": "the error is stored encrypted and may come from a cancellation",
}

_MAYBE_AT_GATE = ("old", "stopped")
"""The doubts with which plain LangGraph may have stopped at a gate, on purpose."""


class Standing(NamedTuple):
    """A thread's status without details: reading it decodes no error, question or subgraph."""

    thread_id: str
    status: ThreadStatus
    graph: str | None


class Classifier:
    """Computes statuses, with one statement for any number of threads.

    Args:
        database: where the threads are.
        namespace: the namespace of the locks.
        serde: the saver's serializer; it decodes errors, questions and Sends.
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
        """The threads among `thread_ids` that pass the filter, in the database's order. A thread
        without any rows has the status `new`.
        """
        if not thread_ids:
            return []
        rows = await self.fetch(
            self._database.read,
            CLASSIFY,
            *self._arguments(thread_ids, wanted, ignore_lock=ignore_lock),
        )
        return [*(await self.decode(rows, wanted)).values()]

    def arguments(self, thread_ids: Sequence[str], *, ignore_lock: bool = True) -> tuple[Any, ...]:
        """The parameters of `CLASSIFY` for these threads, without a filter."""
        return self._arguments(thread_ids, None, ignore_lock=ignore_lock)

    async def count(self, thread_ids: Sequence[str], wanted: Filter) -> Counter[ThreadStatus]:
        """How many of `thread_ids` pass, by status."""
        if not wanted.in_sql:
            return Counter(thread.status for thread in await self.classify(thread_ids, wanted))
        rows = (
            await self.fetch(
                self._database.read,
                _SQL["classified_counts"],
                *self._arguments(thread_ids, wanted),
            )
            if thread_ids
            else []
        )
        return Counter({ThreadStatus(row["status"]): row["count"] for row in rows})

    async def standing(self, thread_ids: Sequence[str], wanted: Filter) -> list[Standing]:
        """The same threads as `classify`, without details; much cheaper if `wanted.in_sql`."""
        if not wanted.in_sql:
            return [
                Standing(t.thread_id, t.status, t.graph)
                for t in await self.classify(thread_ids, wanted)
            ]
        rows = (
            await self.fetch(
                self._database.read,
                _SQL["classified_statuses"],
                *self._arguments(thread_ids, wanted),
            )
            if thread_ids
            else []
        )
        return [
            Standing(row["thread_id"], ThreadStatus(row["status"]), row["graph"]) for row in rows
        ]

    async def fetch(
        self,
        fetch: Callable[..., Awaitable[T]],
        statement: str,
        *args: Any,
        in_transaction: bool = False,
    ) -> T:
        """Run a statement that contains `CLASSIFY`. If a damaged row makes it fail, run its careful
        form, which still classifies all other threads.

        After the first such row this object uses only the careful form. In a transaction, which
        such a row ends, it raises instead: try again in another one.
        """
        if not self._careful:
            try:
                return await fetch(statement, *args)
            except Exception as error:
                if not is_bad_value(error):
                    raise
                self._careful = True
                if in_transaction:
                    raise
        return await fetch(careful(statement), *args)

    def heads(self, thread_ids: Sequence[str], wanted: Filter) -> tuple[str, tuple[Any, ...]]:
        """A statement and its parameters for the newest checkpoints of the threads that pass the
        filters in SQL.
        """
        return _SQL["classified_heads"], self._arguments(thread_ids, wanted)

    def _arguments(
        self, thread_ids: Sequence[str], wanted: Filter | None, *, ignore_lock: bool = False
    ) -> tuple[Any, ...]:
        """The parameters of `classify`."""
        keys = [lock_key(thread_id, self._namespace) for thread_id in thread_ids]
        threads = (list(thread_ids), keys, ignore_lock)
        if wanted is None:
            return *threads, None, None, None, None, None
        run_status = RunStatus.RUNNING.value if wanted.orphaned else None
        statuses = [status.value for status in wanted.statuses]
        return *threads, statuses, wanted.older_than, wanted.newer_than, wanted.graph, run_status

    async def decode(
        self, rows: Sequence[Mapping[str, Any]], wanted: Filter | None = None
    ) -> dict[str, WorkflowCheckpoint]:
        """Decode rows of `CLASSIFY`, by thread_id in their order, and leave out those that do not
        pass. Of the others, failed threads cost one more statement per level of subgraphs.
        """
        decoded = [(row, self._decode_row(row)) for row in rows]
        passed = [
            (row, thread) for row, thread in decoded if wanted is None or wanted.passes(thread)
        ]
        paths = await self._failures.paths([row for row, _ in passed])
        return {
            thread.thread_id: replace(thread, failed_path=paths[thread.thread_id])
            if thread.thread_id in paths
            else thread
            for _, thread in passed
        }

    def _decode_row(self, row: Mapping[str, Any]) -> WorkflowCheckpoint:
        """Without `failed_path`."""
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
        waits, interrupts = _waits_and_questions(_interrupts(row, reading))
        reason = row["reason"] if from_ledger else None
        if status is ThreadStatus.INTERRUPTED and waits and not interrupts:
            # the run is at work, or its process died before the ledger said so
            paused = row["run_status"] == RunStatus.PAUSED
            status = ThreadStatus.PAUSED
            reason = row["reason"] if paused and row["reason"] else pause_reason(waits)
        return WorkflowCheckpoint(
            thread_id=row["thread_id"],
            status=status,
            checkpoint_id=row["checkpoint_id"],
            step=row["step"],
            pending=pending,
            failed_node=None if row["error_path"] is None else node_of(row["error_path"], sends),
            failed_path=(),
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
            reason=reason,
            doubt=_doubt(row, status, error, reading.unreadable),
            maybe_at_gate=status is ThreadStatus.CRASHED and row["doubt"] in _MAYBE_AT_GATE,
            waits=waits,
        )


def _doubt(
    row: Mapping[str, Any], status: ThreadStatus, error: str | None, unreadable: set[str]
) -> str | None:
    doubts = list[str]()
    if row["doubt"] is not None and status in (ThreadStatus.CRASHED, ThreadStatus.COMPLETE):
        doubts.append(_DOUBTS[row["doubt"]])
    if row["damaged"]:
        doubts.append(_DOUBTS["damaged"])
    # A standby shows no locks. The ledger shows a durable run as running; nothing shows a run of
    # plain LangGraph.
    if row["standby"] and (
        status is ThreadStatus.CRASHED or row["run_status"] == RunStatus.RUNNING.value
    ):
        doubts.append(_DOUBTS["standby"])
    # The statement leaves out cancellations, unless they are encrypted.
    if status is ThreadStatus.FAILED and error is not None and error.startswith("CancelledError("):
        doubts.append(_DOUBTS["cancelled"])
    if unreadable:
        doubts.append(
            f"values stored as {', '.join(sorted(unreadable))} cannot be decoded with the"
            " serializer of this process"
        )
    return "; ".join(doubts) or None


def _interrupts(row: Mapping[str, Any], reading: TolerantDecoder) -> Iterator[Any]:
    """The open questions, each once. The question of a `@task` is stored with the task and again
    with the function that called it.
    """
    seen = set[str](row["answering"] or ())
    paths: Sequence[str] = row["questions_path"] or ()
    for path, kind, blob in zip(
        paths, row["questions_type"] or (), row["questions"] or (), strict=True
    ):
        if any(called_by(other, path) for other in paths):
            continue
        stored = reading.load(kind, blob)
        for question in stored if isinstance(stored, list | tuple) else (stored,):
            if isinstance(question, Interrupt):
                if question.id in seen:
                    continue
                seen.add(question.id)
            yield question


def _waits_and_questions(asked: Iterable[Any]) -> tuple[tuple[Wait, ...], tuple[Any, ...]]:
    """What a node sleeps or waits for, and the questions that are a person's."""
    waits, questions = list[Wait](), list[Any]()
    for one in asked:
        wait = wait_of(one.id, one.value) if isinstance(one, Interrupt) else None
        if wait is None:
            questions.append(one)
        else:
            waits.append(wait)
    return tuple(waits), tuple(questions)


def pause_reason(waits: Sequence[Wait]) -> PauseReason:
    """Why a thread with these waits, and without a question, is paused."""
    named = any(wait.name is not None for wait in waits)
    return PauseReason.WAITING if named else PauseReason.SLEEPING


def _commanded(row: Mapping[str, Any], reading: TolerantDecoder) -> Iterator[str]:
    """The nodes that a stored `Command` from a caller goes to."""
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
    """The nodes that the head's channels trigger, without those that have already finished."""
    done: set[str] = set(row["done"] or ())
    for channel in row["triggers"] or ():
        if channel == "__pregel_tasks":
            finished = {send_index(path) for path in done}
            yield from (node for index, node in enumerate(sends) if index not in finished)
            continue
        node = channel.rpartition(":")[2]
        if channel == "__start__":
            # An @entrypoint has the same trigger channel as a StateGraph's START. Only the paths of
            # its own writes and of its tasks' writes contain its name.
            paths = done.union(row["unfinished"] or ())
            node = next(filter(None, map(caller_of, paths)), node)
        if pull_path(node) not in done:
            yield node
