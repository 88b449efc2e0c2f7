"""Let a worker begin a run again, or say why it cannot."""

from __future__ import annotations

from aiodurable.errors import (
    InvalidArgumentError,
    ThreadCompleteError,
    ThreadInterruptedError,
    WorkflowExecutionError,
)
from aiodurable.models import RunRecord, RunStatus
from aiodurable.postgres.locked_rows import patiently
from aiodurable.queue.records import SQL, queued_record
from aiodurable.runs.services import Services

__all__ = ["begin_again", "no_retry"]


async def begin_again(services: Services, run_id: str) -> RunRecord | None:
    """Put the run into its queue again, and wake a worker. None: nothing was changed, as no worker
    may begin it.
    """
    direct = services.checkpoints.direct
    rows = await patiently(
        lambda: direct.fetch(SQL["retry"], run_id), f"retry run {run_id!r}", None
    )
    if not rows:
        return None
    run = queued_record(rows[0])
    await direct.fetch(SQL["wake"], [run.queue])
    return run


def no_retry(run: RunRecord) -> WorkflowExecutionError | InvalidArgumentError:
    """Why no worker can begin the run again."""
    what = f"cannot retry run {run.run_id!r} of thread {run.thread_id!r}"
    match run.status:
        case RunStatus.COMPLETE:
            return ThreadCompleteError(
                f"{what}: it is complete; create another run", thread_id=run.thread_id
            )
        case RunStatus.INTERRUPTED:
            return ThreadInterruptedError(
                f"{what}: it waits for an answer; run.answer(value) gives it",
                thread_id=run.thread_id,
            )
        case _ if run.graph is None:
            why = (
                "its graph has no name by which a worker could find it;"
                " threads.retry(thread_id) runs it here"
            )
        case _ if run.dedup_key is not None:
            why = f"it is {run.status}, or another run has its dedup_key by now; create another run"
        case _:
            why = f"it is {run.status}, and its thread has gone on; create another run"
    return InvalidArgumentError(f"{what}: {why}", thread_id=run.thread_id, argument="run_id")
