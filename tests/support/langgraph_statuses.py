"""What LangGraph itself reads out of a step's writes (`read_task_statuses`), to compare a status
from SQL with.
"""

from __future__ import annotations

from dataclasses import dataclass

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.pregel._task_status import read_task_statuses

from aiodurable.models import WorkflowCheckpoint

NO_TASK = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Read:
    """The tasks of a thread's newest step, by LangGraph.

    Attributes:
        pending: the ids of the interrupts that wait for an answer, as LangGraph sees it.
        answered: whether an answer of no task is stored, taken or not. LangGraph counts a question
            as pending until its task asks another one or finishes; the SQL counts it as answered
            once an answer is stored.
        failed: a task ended with an error and nothing else, and no handler of it has begun.
        erred: a task has an error of whatever kind.
    """

    pending: frozenset[str]
    answered: bool
    failed: bool
    erred: bool


async def read(saver: AsyncPostgresSaver, thread_id: str) -> Read:
    found = await saver.aget_tuple({"configurable": {"thread_id": thread_id}})
    writes = [] if found is None else found.pending_writes or []
    statuses = read_task_statuses(writes)
    handled = {task_id for task_id, channel, _ in writes if channel == "__error_source_node__"}
    errors = {
        task_id: str(status.error)
        for task_id, status in statuses.items()
        if status.error is not None
    }
    return Read(
        pending=frozenset(
            asked.id for status in statuses.values() for asked in status.pending_interrupts
        ),
        answered=any(
            task_id == NO_TASK and channel == "__resume__" for task_id, channel, _ in writes
        ),
        failed=any(
            not statuses[task_id].finished
            and not statuses[task_id].interrupts
            and task_id not in handled
            and not error.startswith("CancelledError(")
            for task_id, error in errors.items()
        ),
        erred=bool(errors),
    )


def assert_agrees(told: WorkflowCheckpoint, langgraph: Read) -> None:
    """The status from SQL says of the newest step's tasks what LangGraph's own reading says of
    them.
    """
    asked = {question.id for question in told.interrupts}
    assert asked <= langgraph.pending, "the SQL sees a question that LangGraph does not"
    assert asked == langgraph.pending or langgraph.answered, (
        "LangGraph sees a question that the SQL does not"
    )
    assert (told.status == "interrupted") <= bool(langgraph.pending)
    assert (told.status == "failed") <= langgraph.erred, (
        "the SQL sees a failure that LangGraph does not"
    )
    assert langgraph.failed <= (told.status == "failed"), (
        "LangGraph sees a failure that the SQL does not"
    )
    assert not asked or told.status in ("interrupted", "failed")
    assert told.status != "complete" or not langgraph.pending, (
        "the SQL sees a thread complete that waits for an answer"
    )
