"""Opens attempts: the ledger has the row of each one before its graph runs."""

from __future__ import annotations

import time

from aiodurable.events import RunNotAccepted, emit, traceparent
from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.accepted import Accepted, Loaded, record_of
from aiodurable.runs.attempt import Attempt
from aiodurable.runs.call import Call
from aiodurable.runs.graph_fit import fitted
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.head_read import reading_head
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.outcome import closing
from aiodurable.runs.repair import repair_thread
from aiodurable.runs.run_config import new_run_id, storable_part
from aiodurable.runs.services import Services

__all__ = ["AttemptOpener"]


class AttemptOpener:
    """Opens the attempts of one thread under one lease, and numbers them.

    Each method takes the thread as it was last read, and the call. Each raises `LeaseLostError`
    where the lease is gone; nothing was written then.

    Args:
        services: the open services.
        lease: the thread's lease.
        graph: the graph that runs it.
        claim: of the worker that has claimed the run.
    """

    def __init__(
        self, services: Services, lease: ThreadLease, graph: BoundGraph, claim: str | None
    ) -> None:
        self._services = services
        self._lease = lease
        self._graph = graph
        self._claim = claim
        self._opened = 0

    async def start(
        self,
        thread: WorkflowCheckpoint,
        call: Call,
        run_id: str,
        *,
        adopts_with: BoundGraph | None = None,
        has_stray_answer: bool = False,
    ) -> Attempt:
        """Accept a new run and start it. The thread's unfinished work is given up.

        Args:
            thread, call: see the class.
            run_id: the run's id.
            adopts_with: the graph that fits plain LangGraph's unfinished work, which the run adopts
                and then has no input; None: it adopts nothing.
            has_stray_answer: whether plain LangGraph left an answer beside the checkpoint.
        """
        services, lease, adopted = self._services, self._lease, adopts_with is not None
        graph, given = (self._graph, call.input) if adopts_with is None else (adopts_with, None)
        self._opened += 1
        sent = time.monotonic()
        try:
            async with reading_head(services, lease, thread):
                record, blank = await services.ledger.start(
                    run_id,
                    fence=lease.fence,
                    graph=graph.name,
                    seq=self._opened,
                    input=given,
                    context=call.context,
                    config=storable_part(call.config),
                    serde=graph.ledger_serde,
                    base_checkpoint_id=thread.checkpoint_id,
                    closing=closing(thread),
                    traceparent=(
                        traceparent(services.observers, graph.name, lease.thread_id, run_id)
                        if services.observers
                        else None
                    ),
                    synchronous=adopted or not graph.commits_first(given, call.durability),
                )
        except BaseException as error:
            if services.observers:
                not_accepted = RunNotAccepted(
                    lease.thread_id, graph=graph.name, error=type(error).__name__
                )
                emit(services.observers, not_accepted)
            raise
        lease.session.acknowledge(run_id, services.checkpoints.direct.origin, sent)
        return Attempt(
            services,
            lease,
            record,
            Loaded(given, call.context, call.config, {}),
            graph=graph,
            blank=blank,
            consumed=adopted,
            resumed=adopted,
            has_stray_answer=has_stray_answer,
            head=thread.checkpoint_id,
        )

    async def begin(self, thread: WorkflowCheckpoint, call: Call, queued: Accepted) -> Attempt:
        """Start a queued run. The thread's unfinished work is given up."""
        services, lease, graph = self._services, self._lease, self._graph
        self._opened += 1
        loaded = await services.ledger.loaded(queued, graph.ledger_serde)
        sent = time.monotonic()
        async with reading_head(services, lease, thread):
            row, blank = await services.ledger.queued.begin(
                queued.record.run_id,
                fence=lease.fence,
                seq=self._opened,
                base_checkpoint_id=thread.checkpoint_id,
                closing=closing(thread),
                claim=self._claim,
                synchronous=not graph.commits_first(loaded.input, call.durability),
            )
        record = record_of(row)
        lease.session.acknowledge(record.run_id, services.checkpoints.direct.origin, sent)
        return Attempt(
            services,
            lease,
            record,
            loaded,
            graph=graph,
            blank=blank,
            consumed=False,
            resumed=False,
            head=thread.checkpoint_id,
        )

    async def resume(
        self, thread: WorkflowCheckpoint, call: Call, unfinished: Accepted | None
    ) -> Attempt:
        """Resume an unfinished run.

        Args:
            thread, call: see the class.
            unfinished: the run; None: the work is plain LangGraph's, or comes from a change of the
                state, and a new run adopts it with the context and config of the call.

        Raises:
            GraphChangedError: the graph does not fit what is stored; no attempt was opened.
        """
        services, lease = self._services, self._lease
        graph = await fitted(services, lease, self._graph, thread, unfinished)
        has_stray_answer = await repair_thread(services, lease)
        if unfinished is None:
            return await self.start(
                thread, call, new_run_id(), adopts_with=graph, has_stray_answer=has_stray_answer
            )
        self._opened += 1
        loaded = await services.ledger.loaded(unfinished, graph.ledger_serde)
        record = await services.ledger.retry(
            unfinished.record.run_id,
            fence=lease.fence,
            seq=self._opened,
            head=thread.checkpoint_id,
            claim=self._claim,
        )
        lease.session.acknowledge(record.run_id, None, time.monotonic())
        return Attempt(
            services,
            lease,
            record,
            loaded,
            graph=graph,
            consumed=unfinished.consumed,
            resumed=True,
            has_stray_answer=has_stray_answer,
            head=thread.checkpoint_id,
        )
