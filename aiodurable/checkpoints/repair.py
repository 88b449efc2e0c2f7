"""Removes stored output that would make LangGraph skip a failed task.

If a router (a conditional edge) raises, LangGraph stores the output of its node beside the error.
It then regards the task as finished, and a resumption skips the node, its router and everything
after them (langgraph#8834). `DurableSaver` does not store such output, but plain LangGraph does.
Once it is removed, the node runs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiodurable.checkpoints.fences import Fence, Standing
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.postgres.locked_rows import patiently
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["RepairedTask", "drop_stray_answer", "repair_tasks"]

_SQL = load("checkpoints")
_ANSWERS = load("answers")


@dataclass(frozen=True, slots=True)
class RepairedTask:
    """A task whose output was removed.

    Attributes:
        namespace: the checkpoint_ns of its graph; empty for the root.
        path: its `task_path`.
    """

    namespace: str
    path: str


async def repair_tasks(
    database: PsycopgPool, session: WriteSession
) -> tuple[list[RepairedTask], bool]:
    """Remove the output of the failed tasks of a thread's newest step, subgraphs included.

    Removes only output that was written in the same transaction as the error: output of a later
    attempt stays.

    Returns:
        The tasks, and whether a stray answer is stored; see `drop_stray_answer`.

    Raises:
        LeaseLostError: another lease has replaced this one; nothing was removed.
        LockTimeoutError: another transaction kept a row locked; nothing was removed.
        PostgresUnavailableError: Postgres cannot be reached.
    """
    fence = session.fence
    fence.check()
    row = await _under_fence(database, _SQL["repair"], fence, "repair")
    assert row is not None, "an aggregate has a row"
    _check(fence, row)
    if row["namespaces"]:
        session.forget_rows()
    repaired = zip(row["namespaces"], row["paths"], strict=True)
    return [RepairedTask(*task) for task in repaired], row["has_stray_answer"]


async def drop_stray_answer(database: PsycopgPool, session: WriteSession) -> None:
    """Remove the answer without an id that plain LangGraph stored for the newest step's next
    question.

    Raises:
        LeaseLostError: another lease has replaced this one; nothing was removed.
        LockTimeoutError: another transaction kept a row locked; nothing was removed.
        PostgresUnavailableError: Postgres cannot be reached.
    """
    fence = session.fence
    fence.check()
    drop = _ANSWERS["drop_stray_answer"]
    _check(fence, await _under_fence(database, drop, fence, "drop an old answer of"))
    session.forget_rows()
    session.history.forget()  # the removed row may have been the proof of the newest commit


async def _under_fence(
    database: PsycopgPool, statement: str, fence: Fence, verb: str
) -> dict[str, Any] | None:
    return await patiently(
        lambda: database.fetch_one(statement, fence.thread_id, *fence.standing),
        f"{verb} thread {fence.thread_id!r}",
        fence.thread_id,
        row="a row of the thread",
    )


def _check(fence: Fence, row: Mapping[str, Any] | None) -> None:
    standing = (
        None if row is None or row["token"] is None else Standing(row["token"], row["lease_id"])
    )
    if standing != fence.standing:
        raise fence.overtaken(standing)
