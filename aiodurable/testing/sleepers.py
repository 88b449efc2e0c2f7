"""Let time pass for what nodes sleep and wait for: the times are in LangGraph's interrupts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from langgraph.types import Interrupt

from aiodurable.postgres.sql import load
from aiodurable.runs.services import Services
from aiodurable.waits import payload_of, wait_of

__all__ = ["let_sleepers_pass"]

_SQL: Final = load("testing")


async def let_sleepers_pass(services: Services, thread_id: str, by: timedelta) -> None:
    """Make what a thread sleeps or waits for earlier. Nobody may work on the thread meanwhile."""
    open_ids = {wait.id for wait in (await services.threads.status(thread_id)).waits}
    serde = services.checkpoints.get_checkpointer().serde
    fetch = services.checkpoints.direct.fetch
    for row in await fetch(_SQL["interrupts"], thread_id):
        stored = serde.loads_typed((row["type"], row["blob"]))
        if isinstance(stored, Interrupt):
            stored = [stored]
        if any(one.id in open_ids for one in stored):
            moved = [_earlier(one, by) for one in stored]
            place = (row["checkpoint_ns"], row["checkpoint_id"], row["task_id"], row["idx"])
            await fetch(_SQL["rewrite"], thread_id, *place, *serde.dumps_typed(moved))


def _earlier(asked: Any, by: timedelta) -> Any:
    wait = wait_of(asked.id, asked.value)
    if wait is None or wait.until is None:
        return asked
    return Interrupt(value=payload_of(wait.name, wait.until - by), id=asked.id)
