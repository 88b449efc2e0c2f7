"""The audit of an action: it is recorded before it is done, so that nothing is done that is not
recorded.

Records are only ever added. A refusal is known after that, and has a record of its own that names
the first one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiodurable.dashboard.actions.actor import actor_of
from aiodurable.dashboard.authorization import Refused
from aiodurable.dashboard.context import Context
from aiodurable.errors import AiodurableError

__all__ = ["audited"]


@asynccontextmanager
async def audited(
    context: Context,
    action: str,
    *,
    thread_id: str | None,
    run_id: str | None = None,
    details: Mapping[str, Any],
) -> AsyncIterator[None]:
    """Record an action, for the body that does it; where that is refused, record the refusal.

    Raises:
        PostgresUnavailableError: it cannot be recorded; the body did not begin.
    """
    record, actor = context.durable.insights.record, actor_of(context)
    first = await record(actor, action, thread_id=thread_id, run_id=run_id, details=details)
    try:
        yield
    except (AiodurableError, Refused) as error:
        refused = {**details, "refused": type(error).__name__, "of_record": first.id}
        await record(actor, action, thread_id=thread_id, run_id=run_id, details=refused)
        raise
