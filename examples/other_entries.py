"""The same lease in other shapes: an executor, a decorator, a mixin.

Run it: python examples/other_entries.py
"""

import asyncio
from dataclasses import dataclass
from typing import TypedDict
from uuid import uuid4

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import (
    Durable,
    LockableWorkflowMixin,
    WorkflowAlreadyRunningError,
    WorkflowExecutor,
    with_workflow_lock,
)


class Count(TypedDict):
    n: int


async def increment(state: Count) -> dict[str, int]:
    return {"n": state["n"] + 1}


counting = StateGraph(Count).add_node(increment).add_edge(START, "increment")


@with_workflow_lock("account")
async def close_books(account: str) -> str:
    """Whatever it does, no run of the account's thread advances meanwhile."""
    try:
        await WorkflowExecutor(counting).execute(account, {"n": 0})
    except WorkflowAlreadyRunningError as busy:
        return f"closing the books; a run was refused: {type(busy).__name__}"
    return "two at a time"


@dataclass
class Account(LockableWorkflowMixin):
    """An object that is a workflow."""

    thread_id: str

    async def count(self, n: int) -> int:
        async with self.workflow_run(counting) as run:
            return (await run.ainvoke({"n": n}))["n"]


async def main() -> None:
    account = f"account-{uuid4()}"
    async with database() as dsn, Durable(dsn):
        executor = WorkflowExecutor(counting, on_busy="wait", timeout=5)
        print("executor:", await executor.execute(account, {"n": 1}))
        print("decorator:", await close_books(account))
        print("mixin:", await Account(account).count(41))
        print("status:", (await executor.status(account)).status)


if __name__ == "__main__":
    asyncio.run(main())
