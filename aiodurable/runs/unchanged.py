"""Act on a thread only where it stands as somebody saw it: compared under its lease, under which
no run writes to it.
"""

from __future__ import annotations

from aiodurable.errors import WorkflowExecutionError
from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.acquire import acquire_lease
from aiodurable.runs.services import Services

__all__ = ["delete_unchanged", "require_unchanged"]


def require_unchanged(
    found: WorkflowCheckpoint, expected: WorkflowCheckpoint | None, *, verb: str
) -> None:
    """Refuse a thread that has gone on since it was seen; nothing where None was expected.

    Raises:
        WorkflowExecutionError: its newest checkpoint, its run, the attempts of that, or its status
            is another.
    """
    if expected is None or _standing(found) == _standing(expected):
        return
    raise WorkflowExecutionError(
        f"cannot {verb} thread {found.thread_id!r}: it has gone on since it was read, and is"
        f" {found.status} now; read it again, and decide again",
        thread_id=found.thread_id,
    )


async def delete_unchanged(services: Services, expected: WorkflowCheckpoint) -> bool:
    """Delete the thread under a lease of our own; see `Threads.delete`."""
    thread_id = expected.thread_id
    async with acquire_lease(services, thread_id) as lease:
        found = await services.threads.status(thread_id, ignore_lock=True)
        require_unchanged(found, expected, verb="delete")
        return bool(await services.checkpoints.maintenance.remove([thread_id], own=lease.session))


def _standing(thread: WorkflowCheckpoint) -> tuple[str | None, str | None, str, int]:
    return thread.checkpoint_id, thread.run_id, thread.status, thread.attempts
