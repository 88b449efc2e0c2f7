"""The open questions of a thread, as far as this person may see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph.types import Interrupt

from aiodurable.dashboard.context import Context
from aiodurable.dashboard.options import Redact
from aiodurable.dashboard.state_tree import Branch, Trees, redacted, whole
from aiodurable.jsonable import jsonable
from aiodurable.models import WorkflowCheckpoint

__all__ = ["Question", "questions_of"]


@dataclass(frozen=True, slots=True)
class Question:
    """An open question.

    Attributes:
        interrupt_id: what an answer names.
        seen: whether this person may see the question.
        tree: the question, redacted at the path `("question", …)`; None: hidden.
        schema: JSON Schema of its answer; None: it has none, or is hidden. One of which `redact`
            replaces anything is hidden as a whole: a choice that it replaced would be an answer.
    """

    interrupt_id: str
    seen: bool
    tree: Branch | None = None
    schema: Any = None


async def questions_of(
    context: Context, thread: WorkflowCheckpoint, *, branches: int = 1_500
) -> list[Question]:
    """The questions that a person can answer: not one whose row is damaged, which has no id.

    Args:
        context: the request.
        thread: whose questions.
        branches: how much of all of them is shown.
    """
    seen = await context.allowed("view_state", thread.thread_id)
    asked = [one for one in thread.interrupts if isinstance(one, Interrupt)]
    if not seen:
        return [Question(str(interrupt.id), seen=False) for interrupt in asked]
    redact, path = context.options.redact, ("question",)

    def shown() -> list[Question]:
        trees = Trees(redact, branches=branches)
        return [
            Question(
                str(interrupt.id),
                True,
                trees.of(path, redacted(path, interrupt.value, redact)),
                _schema(getattr(interrupt, "response_schema", None), redact),
            )
            for interrupt in asked
        ]

    return await context.durable.checkpointer.in_a_thread(shown)


def _schema(schema: Any, redact: Redact | None) -> Any:
    path = ("response_schema",)
    shown = whole(path, redacted(path, schema, redact), redact)
    return schema if shown == jsonable(schema) else None
