"""The group commit: a few connections write the queued checkpoints of all threads in batches, each
as one statement.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from aiodurable.checkpoints.encoding import Write, commit
from aiodurable.checkpoints.fences import Standing
from aiodurable.checkpoints.write_queue import WriteQueue
from aiodurable.checkpoints.write_session import Completed
from aiodurable.dsn import Dsn
from aiodurable.errors import (
    AiodurableError,
    ClosedError,
    ConfigurationError,
    OutOfResourcesError,
    PostgresUnavailableError,
)
from aiodurable.events import BatchCommitted, Observer, WriteRefused, emit
from aiodurable.postgres.direct import DirectConnection
from aiodurable.postgres.errors import (
    is_disconnect,
    is_rule,
    shown_cause,
    to_out_of_resources,
    to_refused,
)
from aiodurable.postgres.retry import GROUP_COMMIT
from aiodurable.postgres.sql import load
from aiodurable.postgres.text_columns import as_texts

__all__ = ["RETRY_FOR_S", "GroupCommitter"]

_log = logging.getLogger(__name__)
_SQL = load("checkpoints")

RETRY_FOR_S: Final = 30.0
"""Long enough for a restart or a failover of Postgres. A run that loses its lease meanwhile is
cancelled anyway.
"""

_BATCH_ROWS: Final = 4000
_BATCH_BYTES: Final = 8 << 20

_REST_S: Final = 0.02
"""Seconds to pause before retrying a write whose fence row another transaction has locked."""

_TRANSIENT: Final = ("40", "53", "55P03", "57014", "25006")
"""SQLSTATEs worth a retry: rolled back, out of a resource, lock not available, cancelled, read-only
during a failover.
"""

_UNIQUE_VIOLATION: Final = "23505"

_UNSTORABLE: Final = ("22", "54")
"""SQLSTATE classes that blame a value: data exception, program limit."""


class GroupCommitter:
    """Commits the writes of a queue, and fails a write with an error of its own.

    Args:
        dsn: the database.
        connections: batches in flight at once, at most.
        connect_timeout_s: seconds to reach Postgres, at each attempt.
        retry_for_s: seconds to retry a write while Postgres cannot be reached.
        leased: how many threads this process has leased; None: unknown.
        observers: are sent what is committed and what is refused.

    Attributes:
        backlog: the queue of writes.
        failures: how often a batch had to be retried, since the start.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        connections: int = 2,
        connect_timeout_s: float = 10.0,
        retry_for_s: float = RETRY_FOR_S,
        leased: Callable[[], int] | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._observers = observers
        self._dsn = dsn
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self.retry_for_s = retry_for_s
        self.backlog = WriteQueue(
            batch_rows=_BATCH_ROWS,
            batch_bytes=_BATCH_BYTES,
            rows=4 * _BATCH_ROWS,
            bytes_=4 * _BATCH_BYTES,
            leased=leased,
        )
        self.failures = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._writing = set[asyncio.Task[None]]()

    def open(self) -> None:
        """Start the writers. Each connects at its first batch."""
        self._tasks = [
            asyncio.create_task(self._serve(), name=f"aiodurable checkpoint writer {number}")
            for number in range(self._connections)
        ]
        self._writing = set(self._tasks)
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Fail what nobody commits any more: an event loop that ends cancels the writers, and waits
        for the graphs that wait for them.
        """
        self._writing.discard(task)
        if not self._writing:
            self.backlog.close()
            self._fail_queued()

    def _fail_queued(self) -> None:
        for write in self.backlog.drain():
            write.fail(_closed(write))

    async def aclose(self, timeout_s: float = 5.0) -> None:
        """Commit the queued writes, then stop. Writes that are not committed after `timeout_s`
        seconds fail with `ClosedError`. Idempotent.
        """
        self.backlog.close()
        tasks, self._tasks = self._tasks, []
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=timeout_s)
        finally:
            for task in tasks:
                task.cancel()
            self._fail_queued()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self) -> None:
        link = DirectConnection(self._dsn, role="writer", connect_timeout_s=self._connect_timeout_s)
        try:
            while True:
                try:
                    await self._serve_batches(link)
                    return
                except Exception:  # a writer that ends would leave its callers waiting for ever
                    _log.exception(
                        "a checkpoint writer failed and starts again: please report this"
                    )
                await asyncio.sleep(1.0)
        finally:
            link.drop()

    async def _serve_batches(self, link: DirectConnection) -> None:
        while batch := await self.backlog.take():
            locked: list[Write] = []
            try:
                locked = await self._commit(link, batch)
            except BaseException as error:  # no caller may wait for ever
                if not isinstance(error, asyncio.CancelledError):
                    _log.exception("a checkpoint writer failed")
                for write in batch:
                    write.fail(_closed(write))
                if not isinstance(error, Exception):
                    raise
            finally:
                self.backlog.settled(batch, back=locked, rest_s=_REST_S)

    async def _commit(self, link: DirectConnection, batch: Sequence[Write]) -> list[Write]:
        """Commit or fail every write of the batch. Returns the others: another transaction has
        locked their fences.
        """
        locked: dict[str, list[Write]] = {}
        groups: deque[Sequence[Write]] = deque((batch,))
        failures = 0
        again = False
        while groups:
            group: list[Write] = []
            for write in groups.popleft():
                if write.fence.thread_id in locked:  # an earlier write of the thread still waits
                    locked[write.fence.thread_id].append(write)
                elif write.wanted():
                    group.append(write)
            if not group:
                continue
            try:
                origin = await link.ready()
                sent = time.monotonic()
                statement, parameters = as_texts(*commit(group, origin, again=again))
                rows = await link.fetch(statement, *parameters)
                took_s = time.monotonic() - sent
                # False: its history is gone.
                written: dict[str, bool] = {row[0]: row[1] for row in rows}
                ends: dict[str, tuple[datetime, bool]] = {
                    row[0]: (row[2], bool(row[3]))
                    for row in rows
                    if len(row) > 2 and row[2] is not None
                }
                left_out = [write for write in group if not written.get(write.fence.thread_id)]
                found = await self._standings(link, left_out) if left_out else {}
            # The code below fails a write, halves the group or retries it.
            except Exception as failed:
                error = to_out_of_resources(failed, self._dsn) or failed
                if (
                    isinstance(error, PostgresUnavailableError)
                    or is_disconnect(error)
                    or _passes(error)
                ):
                    failures += 1
                    self.failures += 1
                    _expire(group, error, shown_cause(failed))
                    groups.appendleft(group)
                    await GROUP_COMMIT.pause(failures)
                elif not again and getattr(error, "sqlstate", None) == _UNIQUE_VIOLATION:
                    again = True  # a lost answer, or a step that was stored by halves before
                    groups.appendleft(group)
                elif len(group) == 1:
                    group[0].fail(_refused(group[0], error))
                else:  # Postgres does not say which write has the bad value
                    middle = len(group) // 2
                    groups.extendleft((group[middle:], group[:middle]))
                continue
            failures = 0
            if self._observers:
                self._announce(group, written, found, took_s)
            newest = {write.fence.thread_id: write for write in group}
            for thread_id, write in newest.items():
                if written.get(thread_id):
                    write.session.history.acknowledge(write.rows.mark(), origin, sent)
            for write in group:
                thread_id, fence = write.fence.thread_id, write.fence
                if written.get(thread_id):
                    if write.rows.ends is not None and (end := ends.get(thread_id)):
                        write.session.completed = Completed(write.rows.checkpoints[-1][2], *end)
                    write.succeed()
                elif (standing := found.get(thread_id)) != fence.standing:
                    write.fail(fence.overtaken(standing))
                elif thread_id in written:
                    write.fail(write.session.history_lost())
                else:
                    locked.setdefault(thread_id, []).append(write)
        still = [write for writes in locked.values() for write in writes]
        _expire(still, None)
        return still

    def _announce(
        self,
        group: Sequence[Write],
        written: Mapping[str, bool],
        found: Mapping[str, Standing],
        took_s: float,
    ) -> None:
        done = [write.fence.thread_id for write in group if written.get(write.fence.thread_id)]
        if done:
            threads = tuple(dict.fromkeys(done))
            emit(
                self._observers,
                BatchCommitted(thread_ids=threads, writes=len(done), duration_s=took_s),
            )
        for write in group:
            fence = write.fence
            if not written.get(fence.thread_id) and found.get(fence.thread_id) != fence.standing:
                emit(self._observers, WriteRefused(fence.thread_id, token=fence.token))

    async def _standings(
        self, link: DirectConnection, left_out: Sequence[Write]
    ) -> dict[str, Standing]:
        rows = await link.fetch(_SQL["tokens"], list({write.fence.thread_id for write in left_out}))
        return {row["thread_id"]: Standing(row["token"], row["lease_id"]) for row in rows}


def _passes(error: Exception) -> bool:
    sqlstate: str | None = getattr(error, "sqlstate", None)
    return sqlstate is not None and sqlstate.startswith(_TRANSIENT)


def _expire(
    group: Sequence[Write], error: Exception | None, cause: BaseException | None = None
) -> None:
    now = time.monotonic()
    for write in group:
        if now > write.deadline:
            write.fail(_given_up(write, error, cause))


def _closed(write: Write) -> ClosedError:
    return ClosedError(
        f"cannot commit a write of thread {write.fence.thread_id!r}: the checkpointer pool was"
        " closed before Postgres acknowledged it; keep the pool open while graphs run",
        thread_id=write.fence.thread_id,
    )


def _given_up(
    write: Write, error: Exception | None, cause: BaseException | None
) -> AiodurableError:
    match error:
        case None:
            why = "another transaction locked its fence"
        case OutOfResourcesError():
            why = str(error)
        case PostgresUnavailableError():
            why = f"Postgres could not be reached ({error})"
        case _:  # the driver's text may quote the state
            why = type(error).__name__
    message = (
        f"cannot commit a checkpoint of thread {write.fence.thread_id!r}: {why}, until the time"
        " for retries was over. It may have been written or not; run the thread again, it goes on"
        " from its last checkpoint"
    )
    thread_id = write.fence.thread_id
    given_up = (
        OutOfResourcesError(message, thread_id=thread_id, resource=error.resource)
        if isinstance(error, OutOfResourcesError)
        else PostgresUnavailableError(message, thread_id=thread_id)
    )
    given_up.__cause__ = cause
    return given_up


def _refused(write: Write, error: Exception) -> AiodurableError:
    """The error of a write that Postgres refused, without the driver's text, which may quote the
    state.
    """
    state = getattr(error, "sqlstate", None)
    if is_rule(error) or (state is not None and not state.startswith(_UNSTORABLE)):
        refused = to_refused(
            error, f"cannot commit a checkpoint of thread {write.fence.thread_id!r}"
        )
        refused.thread_id = write.fence.thread_id
        return refused
    return ConfigurationError(
        f"cannot store the state of thread {write.fence.thread_id!r}: Postgres refuses one of its"
        f" values ({type(error).__name__}{f', SQLSTATE {state}' if state else ''}). Nothing of this"
        " step was written; common causes are NUL characters, characters that a database not in"
        " UTF8 lacks, NaN, and values near 1 GB",
        thread_id=write.fence.thread_id,
    )
