"""Undoing what makes LangGraph take a failed task for a finished one.

A router (a conditional edge) that raises leaves its node's output stored beside the error.
LangGraph then reads the task as finished, and a resumption skips the node, its router and all that
would have followed (langgraph#8834). `DurableSaver` does not store such output; threads that plain
LangGraph wrote have it. Without it the node runs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiodurable.checkpoints.fences import Fence, Standing
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["RepairedTask", "drop_loose_answer", "heal"]

_SQL = load("checkpoints")
_ANSWERS = load("answers")


@dataclass(frozen=True, slots=True)
class RepairedTask:
    """A task whose output was removed.

    Attributes:
        namespace: the checkpoint_ns of its graph, empty for the root.
        path: the task's path, as LangGraph wrote it.
    """

    namespace: str
    path: str


async def heal(database: PsycopgPool, session: WriteSession) -> tuple[list[RepairedTask], bool]:
    """Remove the output of the tasks of a thread's newest step that failed, in subgraphs too.

    Only what one attempt wrote in one transaction is removed: output that a later attempt wrote
    stays.

    Returns:
        The tasks, and whether an answer of no task is stored; see `drop_loose_answer`.

    Raises:
        LeaseLostError: the fence is no longer the thread's; nothing was removed.
        PostgresUnavailableError: Postgres is away.
    """
    fence = session.fence
    fence.check()
    row = await database.fetch_one(_SQL["heal"], fence.thread_id, *fence.standing)
    assert row is not None, "an aggregate has a row"
    _check(fence, row)
    if row["namespaces"]:
        session.forget_rows()
    return [RepairedTask(*task) for task in zip(row["namespaces"], row["paths"], strict=True)], row[
        "loose"
    ]


async def drop_loose_answer(database: PsycopgPool, session: WriteSession) -> None:
    """Remove the answer that plain LangGraph keeps for whichever question of the newest step comes
    next.

    Raises:
        LeaseLostError: the fence is no longer the thread's; nothing was removed.
        PostgresUnavailableError: Postgres is away.
    """
    fence = session.fence
    fence.check()
    _check(
        fence, await database.fetch_one(_ANSWERS["drop_loose"], fence.thread_id, *fence.standing)
    )
    session.forget_rows()
    session.history.forget()  # it may be what shows the newest commit


def _check(fence: Fence, row: Mapping[str, Any] | None) -> None:
    standing = (
        None if row is None or row["token"] is None else Standing(row["token"], row["lease_id"])
    )
    if standing != fence.standing:
        raise fence.overtaken(standing)
