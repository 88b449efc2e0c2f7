"""Fork: a new thread from a checkpoint of another. The source is only read, so it needs no
lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base.id import uuid6

from aiodurable.checkpoints.copy import create_thread
from aiodurable.errors import CheckpointNotFoundError, InvalidArgumentError, ThreadExistsError
from aiodurable.models import RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.locked_rows import patiently
from aiodurable.runs.acquire import acquire_lease
from aiodurable.runs.decision import not_found
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.run_config import new_run_id
from aiodurable.runs.services import Services

__all__ = ["Change", "Point", "fork"]

_ENDED = {
    ThreadStatus.COMPLETE: RunStatus.COMPLETE,
    ThreadStatus.FAILED: RunStatus.FAILED,
    ThreadStatus.INTERRUPTED: RunStatus.INTERRUPTED,
}


@dataclass(frozen=True, slots=True)
class Point:
    """Where a fork starts; without any attribute, at the thread's newest checkpoint.

    Attributes:
        checkpoint_id: this checkpoint.
        before: the newest checkpoint after which this node ran or is pending.
        from_step: the newest checkpoint of this superstep.
    """

    checkpoint_id: str | None = None
    before: str | None = None
    from_step: int | None = None

    def __post_init__(self) -> None:
        given = [
            name
            for name in ("checkpoint_id", "before", "from_step")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise InvalidArgumentError(
                f"a fork begins at one place, got {' and '.join(given)}: give one of them, or none"
            )


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the state that the fork starts with, as for LangGraph's `aupdate_state`."""

    graph: BoundGraph
    values: Any
    as_node: str | None


async def fork(
    services: Services,
    source: str,
    new_thread_id: str | None,
    point: Point,
    *,
    graph: str | None,
    change: Change | None,
) -> WorkflowCheckpoint:
    """Create the new thread under a lease of its own, and return its status. See `Threads.fork`."""
    checkpoint_id, in_the_step = await _find(services, source, point)
    async with acquire_lease(services, new_thread_id or str(uuid6())) as lease:
        thread = await services.threads.status(lease.thread_id, ignore_lock=True)
        if thread.status is not ThreadStatus.NEW:
            raise ThreadExistsError(
                f"cannot fork to thread {lease.thread_id!r}: it exists and is {thread.status};"
                " choose another thread_id",
                thread_id=lease.thread_id,
            )
        run_id = new_run_id()
        saver = services.checkpoints.get_checkpointer()

        async def create() -> None:
            async with create_thread(
                services.checkpoints.database, lease.fence, serde=saver.serde
            ) as new:
                await new.copy(source, checkpoint_id, in_the_step=in_the_step)
                head = checkpoint_id
                if change is not None:
                    place = {
                        "thread_id": lease.thread_id,
                        "aiodurable_run_id": run_id,
                        "aiodurable_graph_name": change.graph.name,
                    }
                    await new.rest()  # conditional edges of the graph run
                    updated = await change.graph.saving_to(new.saver).aupdate_state(
                        {"configurable": place}, change.values, change.as_node
                    )
                    head = updated["configurable"]["checkpoint_id"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
                await services.ledger.forked(
                    new.fetch_one,
                    run_id,
                    fence=lease.fence,
                    graph=graph,
                    base_checkpoint_id=head,
                    source=source,
                    checkpoint_id=checkpoint_id,
                    in_the_step=in_the_step,
                )

        what = f"fork thread {source!r} to thread {lease.thread_id!r}"
        await patiently(create, what, lease.thread_id, row="a row of the new thread")
        return await _status_of(services, lease, run_id)


async def _status_of(services: Services, lease: ThreadLease, run_id: str) -> WorkflowCheckpoint:
    """The new thread's status. Its run is recorded as paused, which is right while work is
    pending.
    """
    thread = await services.threads.status(lease.thread_id, ignore_lock=True)
    if ended := _ENDED.get(thread.status):
        await services.ledger.finish(
            run_id,
            fence=lease.fence,
            status=ended,
            error=thread.error,
            reason=None,
            checkpoint_id=thread.checkpoint_id,
        )
    return thread


async def _find(services: Services, source: str, point: Point) -> tuple[str, bool]:
    """The checkpoint, and whether the fork continues in the middle of the superstep after it."""
    thread = await services.threads.status(source, ignore_lock=True)
    if thread.status is ThreadStatus.NEW:
        raise not_found(source)
    newest = thread.checkpoint_id
    if point.before is not None:
        return await _before(services, thread, point.before), False
    if point.from_step is not None:
        found = await _of_step(services, source, point.from_step)
    elif (found := point.checkpoint_id or newest) is None:
        raise CheckpointNotFoundError(
            f"cannot fork thread {source!r}: its run has written no checkpoint yet; start a new"
            " thread with the same input",
            thread_id=source,
        )
    return found, found == newest


async def _before(services: Services, thread: WorkflowCheckpoint, node: str) -> str:
    if thread.checkpoint_id is not None and (
        node in thread.pending
        or node in await services.threads.history.begun(thread.thread_id, thread.checkpoint_id)
    ):
        return thread.checkpoint_id
    seen = set(thread.pending)
    async for step in services.threads.history.steps(thread.thread_id, before=None, limit=None):
        if node in step.nodes and step.parent_id is not None:
            return step.parent_id
        if node in step.nodes:
            raise CheckpointNotFoundError(
                f"cannot fork thread {thread.thread_id!r} before node {node!r}: that checkpoint was"
                " pruned; fork from a later one",
                thread_id=thread.thread_id,
            )
        seen.update(step.nodes)
    raise CheckpointNotFoundError(
        f"cannot fork thread {thread.thread_id!r} before node {node!r}: no step of it runs that"
        f" node, only {', '.join(sorted(seen)) or 'none'}; for a node in a subgraph, name the node"
        " that contains the subgraph",
        thread_id=thread.thread_id,
    )


async def _of_step(services: Services, thread_id: str, number: int) -> str:
    newest = oldest = None
    async for step in services.threads.history.steps(thread_id, before=None, limit=None):
        if step.step == number:
            return step.checkpoint_id
        newest, oldest = step.step if newest is None else newest, step.step
    raise CheckpointNotFoundError(
        f"cannot fork thread {thread_id!r} at superstep {number}: it has checkpoints of supersteps"
        f" {oldest} to {newest}; name one of these",
        thread_id=thread_id,
    )
