"""`durable.threads`: read threads, go on with them, fork them, and remove what is old."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NoReturn, Unpack

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints.write_session import session_in
from aiodurable.errors import GraphNotRegisteredError, InvalidArgumentError
from aiodurable.events import ThreadsPruned, emit
from aiodurable.models import (
    PRUNE_BATCH_SIZE,
    PRUNE_DUTY_CYCLE,
    ThreadStatus,
    WorkflowCheckpoint,
)
from aiodurable.postgres.caller import transaction_of
from aiodurable.runs.busy import OnBusy
from aiodurable.runs.call_types import InvokeOptions
from aiodurable.runs.cancel import cancel
from aiodurable.runs.decision import may_go_on, may_retry, not_found
from aiodurable.runs.fork import Change, Point, fork
from aiodurable.runs.graphs import BoundGraph, Graph
from aiodurable.runs.pruner import prune_every
from aiodurable.runs.run import run
from aiodurable.runs.signals import signal_name
from aiodurable.runs.thread_reads import ThreadReads
from aiodurable.runs.unchanged import delete_unchanged, require_unchanged
from aiodurable.thread_id import validate_signal_id, validate_thread_id
from aiodurable.threads import PruneOptions, PruneReport
from aiodurable.threads.filters import Statuses
from aiodurable.threads.prune_options import PruneStrategy

__all__ = ["Threads"]


class Threads(ThreadReads):
    """The threads of a database, by thread_id; also those that only plain LangGraph has written.

    Nothing here needs a lease of the caller's. Every method raises `ClosedError` while the
    `Durable` is not open, and `PostgresUnavailableError` where Postgres cannot be reached; an
    iterator at any step.

    Args:
        opened: gives the services of the `Durable`, or raises `ClosedError`.
    """

    async def resume(
        self,
        thread_id: str,
        graph: Graph | None = None,
        *,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
        past_gate: bool = False,
        expected: WorkflowCheckpoint | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
        **options: Unpack[InvokeOptions],
    ) -> Any:
        """Go on with an unfinished thread and return its result; of a complete one, return what is
        stored.

        A thread that was stopped on purpose is left alone, so that a loop over threads passes no
        gate: one at a gate (`interrupt_before`, `interrupt_after`), one where plain LangGraph may
        have stopped at one, and one that was cancelled.

        Args:
            thread_id: the thread.
            graph: its graph; None: the one the ledger knows it by, which must be registered here.
            on_busy, timeout: as for `Durable.run`; not "rollback", which would remove what is to go
                on.
            past_gate: a person has decided: go on also with a thread that was stopped on purpose.
            expected: how the thread stood when somebody decided to go on with it; it is compared
                under the lease.
            config, context: over what the run was accepted with, which is there again.
            options: LangGraph's own for `ainvoke`.

        Raises:
            ThreadNotFoundError: the thread has no checkpoint and no run.
            ThreadInterruptedError: it waits for an answer.
            ThreadPausedError: it was stopped on purpose; see `past_gate`.
            ThreadQuarantinedError: it is quarantined; see `retry`.
            GraphNotRegisteredError: no graph was given and the ledger names none that is
                registered.
            WorkflowExecutionError: it is not as `expected` any more.
            WorkflowAlreadyRunningError, LockTimeoutError, LeaseLostError: as for `Durable.run`.
        """
        bound = await self._graph_to_go_on(thread_id, graph, on_busy, verb="resume")
        async with run(
            self._opened(), thread_id, bound, on_busy=on_busy, timeout=timeout
        ) as resumed:
            require_unchanged(resumed.checkpoint, expected, verb="resume")
            if not past_gate:
                may_go_on(resumed.checkpoint)
            own: dict[str, Any] = {**options}
            return await resumed.ainvoke(config=config, context=context, **own)

    async def retry(
        self,
        thread_id: str,
        graph: Graph | None = None,
        *,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
        **options: Unpack[InvokeOptions],
    ) -> Any:
        """Try a thread again from where it stopped, also a quarantined one, and return its result.

        The node that failed runs again; those that finished beside it do not. It is one more
        attempt of the same run. Unlike `resume` it refuses a complete thread: there is nothing to
        try again.

        Args:
            thread_id, graph, on_busy, timeout, config, context, options: as for `resume`.

        Raises:
            ThreadNotFoundError: the thread has no checkpoint and no run.
            ThreadInterruptedError: it waits for an answer.
            ThreadCompleteError: it is complete.
            GraphNotRegisteredError: no graph was given and the ledger names none that is
                registered.
            WorkflowAlreadyRunningError, LockTimeoutError, LeaseLostError: as for `Durable.run`.
            Exception: a node's own, if it fails again.
        """
        bound = await self._graph_to_go_on(thread_id, graph, on_busy, verb="retry")
        async with run(
            self._opened(), thread_id, bound, on_busy=on_busy, timeout=timeout
        ) as retried:
            may_retry(retried.checkpoint)
            own: dict[str, Any] = {**options}
            return await retried.ainvoke(
                config=config, context=context, on_unfinished="retry", **own
            )

    async def cancel(
        self, thread_id: str, *, wait: bool = False, timeout: float | None = None
    ) -> bool:
        """End the run that is at work on a thread, in whichever process; the thread is then paused
        ("cancelled").

        Its node is cancelled, and its caller gets `RunCancelledError`. A node that swallows the
        cancellation is cancelled again each heartbeat, and its run ends at the next superstep.
        Where the process is gone, the run is closed here. Only a person goes on with it afterwards:
        `run.ainvoke()`, `retry`. So it is with a run that sleeps, waits for a signal, or is to be
        tried again; runs that have not begun stay in their queue.

        Args:
            thread_id: the thread.
            wait: return only when the run has ended and that is recorded.
            timeout: seconds to wait at most, with `wait`; None: as long as it takes.

        Returns:
            Whether there was such a run.

        Raises:
            ThreadNotFoundError: the thread has no checkpoint and no run.
            LockTimeoutError: the run did not end in time, and the request stays; or another
                transaction kept its row locked for 10 seconds, and nothing was requested.
            InvalidArgumentError: a thread_id that cannot be stored, or a timeout without `wait`.
        """
        return await cancel(self._opened(), thread_id, wait=wait, timeout=timeout)

    async def signal(
        self,
        thread_id: str,
        name: str,
        value: Any = None,
        *,
        signal_id: str | None = None,
        conn: Any = None,
    ) -> bool:
        """Send a signal to a thread: a node takes it with `wait_for(name)`, the oldest first.

        One that nobody waits for is kept until somebody does, also for a thread that does not exist
        yet. It is committed when this returns, or with the transaction of `conn`.

        Args:
            thread_id: the thread.
            name: 1 to 200 printable characters.
            value: what `wait_for` returns. Where the thread's graph is registered here it must be
                able to build it; elsewhere plain data is safe: `wait_for` raises where it cannot.
            signal_id: of a sender that may send it twice: the second one is none.
            conn: a connection of the caller's, as for `Runs.create`.

        Returns:
            Whether it was new; not where one with this `signal_id` came before.

        Raises:
            InvalidArgumentError: a thread_id, a name or a value that cannot be stored, or a value
                of a class that the thread's graph may not build; nothing was sent.
            LockTimeoutError: another transaction kept the run that waits for it locked for 10
                seconds; nothing was sent.
        """
        services = self._opened()
        validate_thread_id(thread_id)
        signal_name(name, thread_id)
        if signal_id is not None:
            validate_signal_id(signal_id)
        send = partial(
            services.ledger.signals.send,
            *(thread_id, name, value),
            signal_id=signal_id,
            graphs_serde=partial(self._reading, thread_id),
        )
        if conn is None:
            return await send(fetch=None)
        async with transaction_of(conn, services.checkpoints.database.dsn) as fetch:
            return await send(fetch=fetch)

    async def _reading(self, thread_id: str) -> SerializerProtocol | None:
        """The serializer with which the thread's graph reads; None: its graph is not known here."""
        newest = await self._opened().ledger.newest(thread_id)
        name = None if newest is None else newest.record.graph
        if name is None or all(graph.name != name for graph in self._opened().graphs.registered):
            return None
        return self._opened().graphs.bind(name).ledger_serde

    async def fork(
        self,
        thread_id: str,
        new_thread_id: str | None = None,
        *,
        checkpoint_id: str | None = None,
        before: str | None = None,
        from_step: int | None = None,
        values: Any = None,
        as_node: str | None = None,
        graph: Graph | None = None,
    ) -> WorkflowCheckpoint:
        """Make a new thread from a checkpoint of this one, which is read and stays as it is, also
        while it runs.

        At the thread's newest checkpoint, and with no place given, the new thread stands as this
        one does: what finished beside a failed node has finished, an open question is open. At an
        earlier one, and with `before`, the step after it runs again. Where work is left, the new
        thread is `paused` until somebody runs it.

        Args:
            thread_id: the thread to fork.
            new_thread_id: the new thread, of which nothing may be known; None: a UUID.
            checkpoint_id: begin at this checkpoint; `history` tells which there are.
            before: begin before the newest step in which this node of the root graph ran, or is to
                run.
            from_step: begin at the newest checkpoint of this superstep.
            values: begin with these values changed, as LangGraph's `aupdate_state` changes them.
            as_node: the node that the values come from; None: the one that ran last before.
            graph: its graph; needed for `values` alone, and only where the ledger names none that
                is registered.

        Returns:
            How the new thread stands; its `thread_id` names it.

        Raises:
            ThreadNotFoundError: the thread has no checkpoint and no run.
            CheckpointNotFoundError: it has no such checkpoint, or none any more.
            ThreadExistsError: the new thread already has checkpoints or runs.
            WorkflowAlreadyRunningError: somebody holds the lease of the new thread.
            LockTimeoutError: another transaction kept a row of the new thread locked; it does not
                exist then.
            GraphNotRegisteredError: there are values, no graph was given, and the ledger names none
                that is registered.
            InvalidArgumentError: more than one place, or a thread_id that cannot be stored.
            langgraph.errors.InvalidUpdateError: LangGraph refuses the values; the new thread does
            not exist then.
        """
        services = self._opened()
        point = Point(checkpoint_id, before, from_step)
        bound, change = None if graph is None else self._opened().graphs.bind(graph), None
        if values is not None or as_node is not None:
            bound = bound or await self._graph_of(thread_id, None, verb="fork")
            change = Change(bound, values, as_node)
        name = None if bound is None else bound.name
        return await fork(services, thread_id, new_thread_id, point, graph=name, change=change)

    async def delete(
        self,
        thread_id: str,
        *,
        config: RunnableConfig | None = None,
        expected: WorkflowCheckpoint | None = None,
    ) -> bool:
        """Delete all that is stored of a thread: checkpoints, writes, and its runs with their
        inputs, contexts and errors.

        In one transaction, which has committed when it returns. What is gone from the tables stays
        for a time in the server's log and in backups: see docs/howto/retention.md.

        Args:
            thread_id: the thread.
            config: inside of a run of the thread, that run's (`run.config`): the thread is deleted
                under its lease, which ends with it. None: nobody may hold the thread's lease, in
                this process or another.
            expected: how the thread stood when somebody decided to delete it, as `status` or a
                search returned it. It is compared under the thread's lease: an input that is
                accepted in the moment between that and the deletion is deleted, too.

        Returns:
            Whether anything was known of it.

        Raises:
            WorkflowExecutionError: it is not as `expected` any more; nothing was deleted.
            WorkflowAlreadyRunningError: somebody runs or holds it; nothing was deleted.
            LeaseLostError: the lease of `config` was lost; nothing was deleted.
            LockTimeoutError: another transaction kept a row of it locked for 10 seconds; nothing
                was deleted.
            ConfigurationError: a thread_id that cannot be stored.
        """
        validate_thread_id(thread_id)
        if expected is not None:
            if config is not None or expected.thread_id != thread_id:
                raise InvalidArgumentError(
                    f"cannot delete thread {thread_id!r} as expected: pass how this thread stood,"
                    " and no config, under whose lease nobody else can change it",
                    thread_id=thread_id,
                    argument="expected",
                )
            return await delete_unchanged(self._opened(), expected)
        maintenance = self._opened().checkpoints.maintenance
        return bool(await maintenance.remove([thread_id], own=session_in(config)))

    async def prune(
        self,
        *,
        strategy: PruneStrategy = "keep_latest",
        older_than: timedelta | datetime,
        status: Statuses = (ThreadStatus.COMPLETE,),
        graph: str | None = None,
        batch_size: int = PRUNE_BATCH_SIZE,
        duty_cycle: float = PRUNE_DUTY_CYCLE,
        dry_run: bool = False,
        progress: Callable[[PruneReport], None] | None = None,
    ) -> PruneReport:
        """Remove old checkpoints in small batches; a thread that is leased or goes on meanwhile is
        left alone.

        Args:
            strategy: "keep_latest" keeps what is needed to go on with a thread and removes its
                past; "delete" removes the thread and its runs. Its fencing token stays: a stale
                writer must not meet the same number again.
            older_than: an age, or a moment with a time zone: only threads to which nothing was
                written since. Choose it large for apps of plain LangGraph, which take no lease.
            status: only threads of this status, or of one of these. Failed, interrupted and other
                threads that wait for somebody are removed only when named here; running and queued
                ones never.
            graph: only threads of this graph.
            batch_size: threads removed in one transaction, at most: fewer where they hold more
                than 1400 rows or 704 kB, or take longer than 100 ms.
            duty_cycle: the part of the time spent working; the rest is left to live traffic.
            dry_run: tell what would be removed, remove nothing.
            progress: called after each batch with what was removed so far.

        Raises:
            InvalidArgumentError: an invalid argument; nothing was removed.
            PostgresUnavailableError: earlier batches stay removed.
        """
        services, began = self._opened(), time.monotonic()
        report = await services.threads.retention.prune(
            strategy=strategy,
            older_than=older_than,
            status=status,
            graph=graph,
            batch_size=batch_size,
            duty_cycle=duty_cycle,
            dry_run=dry_run,
            progress=progress,
        )
        if services.observers and not dry_run:
            emit(
                services.observers,
                ThreadsPruned(
                    threads=report.threads,
                    rows=report.rows,
                    runs=report.runs,
                    duration_s=time.monotonic() - began,
                ),
            )
        return report

    async def prune_every(self, interval: timedelta, **options: Unpack[PruneOptions]) -> NoReturn:
        """Prune now, and again every `interval`, until cancelled. Any number of processes may: one
        prunes, the others stand by.

        The one that prunes holds a lock for as long as it lives; when it dies or loses Postgres
        another one takes over. What goes wrong with Postgres (an outage, a deadlock, a full disk)
        is logged, and tried again. Each round is logged with what it removed.

        Args:
            interval: from the end of one round to the beginning of the next, give or take a tenth.
            options: those of `prune`. An age in `older_than` is measured again each round.

        Raises:
            InvalidArgumentError: invalid options; at once.
            ConfigurationError: later, a right that the role lacks.
            ClosedError: this `Durable` was closed meanwhile.
        """
        await prune_every(self._opened, self.prune, interval, **options)

    async def _graph_to_go_on(
        self, thread_id: str, given: Graph | None, on_busy: str, *, verb: str
    ) -> BoundGraph:
        if on_busy == "rollback":
            raise InvalidArgumentError(
                f'cannot {verb} thread {thread_id!r} with on_busy="rollback": that removes what is'
                ' to go on; use "wait" or "interrupt", or start another run with Durable.run',
                thread_id=thread_id,
                argument="on_busy",
            )
        return await self._graph_of(thread_id, given, verb=verb)

    async def _graph_of(self, thread_id: str, given: Graph | None, *, verb: str) -> BoundGraph:
        if given is not None:
            return self._opened().graphs.bind(given)
        status = await self.status(thread_id)
        if status.status is ThreadStatus.NEW:
            raise not_found(thread_id)
        if status.graph is None:
            raise GraphNotRegisteredError(
                f"cannot {verb} thread {thread_id!r}: its graph is not recorded (it has no name, or"
                f" plain LangGraph wrote the thread); pass it: {verb}(thread_id, graph=…)",
                thread_id=thread_id,
            )
        return self._opened().graphs.bind(status.graph)
