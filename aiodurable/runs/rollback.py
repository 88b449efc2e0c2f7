"""Roll a thread back to where it stood before a run that was given up: as if it had never been."""

from __future__ import annotations

import logging

from aiodurable.models import ThreadStatus
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services

__all__ = ["roll_back"]

_log = logging.getLogger(__name__)


async def roll_back(services: Services, lease: ThreadLease) -> bool:
    """Remove what the thread's unfinished run wrote, if that was requested. Idempotent, and in one
    transaction under the lease: the run's checkpoints, their values and writes, those of its
    subgraphs too; its row in the ledger is superseded ("rolled back").

    A run that the tables show complete is complete, whatever its row has lost, and stays.

    Returns:
        Whether there was such a run.

    Raises:
        CheckpointNotFoundError: the checkpoint that the thread had when the run began is gone.
        WorkflowExecutionError: a later one does not come from it. In both cases nothing was
            removed, and whatever comes next goes on from what the run wrote.
        LeaseLostError: the lease is gone; nothing was removed.
    """
    left = await services.ledger.queued.left(lease.thread_id)
    if left.run_id is None or not (left.roll_back and left.unfinished):
        return False
    thread = await services.threads.status(lease.thread_id, ignore_lock=True)
    if thread.status is ThreadStatus.COMPLETE and thread.run_id == left.run_id:
        await services.ledger.complete_by_tables(
            left.run_id, fence=lease.fence, checkpoint_id=thread.checkpoint_id
        )
        return False
    await services.checkpoints.maintenance.roll_back(
        left.run_id, left.base_checkpoint_id, own=lease.session
    )
    _log.info("run %s of thread %r was rolled back", left.run_id, lease.thread_id)
    return True
